//! What travels with a message that no plugin sees: kept in its metadata column, under names that no field of an
//! envelope can have.

use std::ops::Range;

pub(crate) use wasmill_engine::dead_letter::{HEADERS, NUMBER_ID};
use wasmill_engine::input::{Header, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_engine::time::{TIMESTAMP_NONE, timestamp_in_range};
use wasmill_frame::{FrameBuf, Message, Meta, MetaKind, MetaWriter, Parts};

use crate::Takes;

/// The type of a message that came as a record without a value.
pub const TOMBSTONE: &str = "tombstone";

/// Whether a message leaves as a record without a value, where a sink has such.
#[must_use]
pub fn is_tombstone(message: Message<'_>) -> bool {
    message.payload().is_empty() && message.kind() == TOMBSTONE
}

/// Reads a record without a value: its key is all that it says.
///
/// # Errors
/// That it has no key either, or a header that can't be kept.
pub fn tombstone(record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
    let Some(key) = record.key.clone().map(|k| &of.data[k]) else {
        return Err("neither a value nor a key: expected a message as the value".to_owned());
    };
    let mut column = MetaWriter::new();
    keep_headers(&record.headers, &of.data, &mut column)?;
    frame.push(&Parts {
        id: &String::from_utf8_lossy(key),
        kind: TOMBSTONE,
        key: Some(key),
        payload: b"",
        timestamp: record.time_ms.filter(|t| timestamp_in_range(*t)).unwrap_or(TIMESTAMP_NONE),
        metadata: column.as_bytes(),
        payload_is_json: false,
    });
    Ok(())
}

/// What a metadata or field name may have at most: the column's own limit.
pub(crate) const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// Keeps headers of a record with its message, unseen by plugins.
///
/// # Errors
/// That the name of one is too long.
pub(crate) fn keep_headers<'a>(
    headers: impl IntoIterator<Item = &'a Header>,
    data: &[u8],
    column: &mut MetaWriter,
) -> Result<(), String> {
    let mut headers = headers.into_iter().peekable();
    if headers.peek().is_none() {
        return Ok(());
    }
    let mut all = MetaWriter::new();
    for header in headers {
        if header.name.len() > NAME_BYTES_MAX {
            return Err(format!(
                "a header whose name has {} bytes, above the limit of {NAME_BYTES_MAX}",
                header.name.len()
            ));
        }
        let (kind, value) = match header.value.clone() {
            Some(value) => (MetaKind::Text, &data[value]),
            None => (MetaKind::Json, &b""[..]),
        };
        all.push(kind, &data[header.name.clone()], value);
    }
    column.push(MetaKind::Field, HEADERS, all.as_bytes());
    Ok(())
}

/// A message's record with its time: without a value where it is a tombstone and the sink takes such, else with the value
/// that `write` adds to the data it is given. What it adds before it fails is taken back. There are no headers yet.
///
/// # Errors
/// Those of `write`.
pub fn record(
    message: Message<'_>,
    takes: Takes,
    data: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
) -> Result<EncodedRecord, String> {
    let timestamp = Some(message.timestamp()).filter(|t| *t != TIMESTAMP_NONE);
    let mut record = EncodedRecord { timestamp, ..EncodedRecord::default() };
    if takes.tombstones && is_tombstone(message) {
        record.tombstone = true;
        return Ok(record);
    }
    let start = data.len();
    if let Err(reason) = write(data) {
        data.truncate(start);
        return Err(reason);
    }
    record.value = start..data.len();
    Ok(record)
}

/// Puts bytes behind the others; answers where they are.
pub fn append(bytes: &[u8], data: &mut Vec<u8>) -> Range<usize> {
    let start = data.len();
    data.extend_from_slice(bytes);
    start..data.len()
}

/// What the metadata column holds that no plugin sees, found in one pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unseen<'a> {
    /// The timestamp as it came, where that was text; empty once a plugin has changed it.
    pub timestamp_text: Option<&'a [u8]>,
    /// The id as it came, where that was a number.
    pub number_id: Option<&'a [u8]>,
    headers: Option<&'a [u8]>,
    /// Whether there are fields of the envelope that wasmill doesn't know.
    pub has_fields: bool,
}

impl<'a> Unseen<'a> {
    /// What a message's metadata column has of it.
    #[must_use]
    pub fn of(meta: Meta<'a>) -> Self {
        let mut unseen = Self::default();
        for entry in meta.entries() {
            match (entry.kind, entry.name) {
                (MetaKind::Text | MetaKind::Json, _) => {}
                (MetaKind::Timestamp, _) => unseen.timestamp_text = Some(entry.value),
                (MetaKind::Field, NUMBER_ID) => unseen.number_id = Some(entry.value),
                (MetaKind::Field, HEADERS) => unseen.headers = Some(entry.value),
                (MetaKind::Field, _) => unseen.has_fields = true,
            }
        }
        unseen
    }

    /// The headers that the message came with: names and values, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let all = Meta::new(self.headers.unwrap_or_default());
        all.entries().map(|e| (e.name, (e.kind == MetaKind::Text).then_some(e.value)))
    }

    /// Adds these headers to a record.
    pub fn write_headers(&self, into: &mut EncodedBatch, record: &mut EncodedRecord) {
        for (name, value) in self.headers() {
            let name = append(name, &mut into.data);
            record.headers.push(Header { name, value: value.map(|v| append(v, &mut into.data)) });
        }
    }
}
