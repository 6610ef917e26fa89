//! What of a message stands beside its body: in a record's headers, key and time. For codecs whose bodies hold
//! nothing but the payload.
//!
//! | of the message | read from | written to |
//! |---|---|---|
//! | id | the header `id`; else the record's place: `SOURCE/PARTITION:OFFSET` | the header `id` |
//! | type | the header `type`; else the codec's setting `type`; else what its schema is called, or `message` | the header `type` |
//! | timestamp | the header `timestamp`, RFC 3339 or milliseconds; else the record's time | the header `timestamp`, in the form it came, and the record's time |
//! | metadata | each other header | a header each |
//! | key | the record's key | the record's key |
//!
//! A header that metadata can't hold, for it has no value or is not text, or its name stands again later, stays with
//! the message unseen. Metadata that is JSON becomes text.

use std::cell::RefCell;
use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{Header, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::{TIMESTAMP_MAX_MS, TIMESTAMP_NONE, timestamp_in_range};
use wasmill_frame::{FrameBuf, Message, MetaKind, MetaWriter, Parts};

use crate::unseen::{NAME_BYTES_MAX, Unseen, append, keep_headers, record, tombstone};
use crate::{Takes, rfc3339};

/// Buffers that a thread uses for one message after the other.
#[derive(Default)]
struct Scratch {
    metadata: MetaWriter,
    place: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The type of messages of which nothing tells one.
pub const TYPE: &str = "message";

/// The names of the headers that hold what the body doesn't.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderNames {
    /// The header that is the message's id. Default: `id`.
    pub id: String,
    /// The header that is the message's type. Default: `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The header that is the message's timestamp: RFC 3339 or milliseconds. Default: `timestamp`.
    pub timestamp: String,
}

impl Default for HeaderNames {
    fn default() -> Self {
        Self { id: "id".into(), kind: "type".into(), timestamp: "timestamp".into() }
    }
}

/// A body as a codec read it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Body<'a> {
    /// The payload.
    pub payload: &'a [u8],
    /// Whether it is one JSON value.
    pub is_json: bool,
    /// What travels with the message, unseen by plugins: names with JSON values, as fields of an envelope.
    pub unseen: &'a [(&'a str, &'a [u8])],
}

/// Reads and writes what stands beside a body.
#[derive(Debug, Clone, Default)]
pub struct Around {
    names: HeaderNames,
    kind: Option<String>,
}

impl Around {
    /// With the headers' names, and the type of messages that have none.
    #[must_use]
    pub fn new(names: HeaderNames, kind: Option<String>) -> Self {
        Self { names, kind }
    }

    /// Adds a message of a body to the frame. `kind` is its type where neither a header nor the setting tells it.
    ///
    /// # Errors
    /// What is wrong with a header.
    pub fn push(
        &self,
        record: &RawRecord,
        of: &RawBatch,
        kind: &str,
        body: Body<'_>,
        frame: &mut FrameBuf,
    ) -> Result<(), String> {
        if record.tombstone {
            return tombstone(record, of, frame);
        }
        SCRATCH.with_borrow_mut(|scratch| self.push_value(record, of, kind, body, frame, scratch))
    }

    fn push_value(
        &self,
        record: &RawRecord,
        of: &RawBatch,
        kind: &str,
        body: Body<'_>,
        frame: &mut FrameBuf,
        scratch: &mut Scratch,
    ) -> Result<(), String> {
        let Scratch { metadata: column, place } = scratch;
        column.clear();
        let (mut id, mut header_kind, mut timestamp) = (None, None, None);
        let mut kept: Vec<&Header> = Vec::new();
        let last = last_of_each(&record.headers, &of.data);
        for (at, header) in record.headers.iter().enumerate() {
            let name = &of.data[header.name.clone()];
            let value = header.value.clone().and_then(|v| std::str::from_utf8(&of.data[v]).ok());
            let comes_again = || match &last {
                Some(last) => last.get(name) != Some(&at),
                None => record.headers[at + 1..].iter().any(|h| &of.data[h.name.clone()] == name),
            };
            let (Some(value), false, Ok(name)) = (value, comes_again(), std::str::from_utf8(name)) else {
                kept.push(header);
                continue;
            };
            match name {
                _ if name == self.names.id => id = Some(value),
                _ if name == self.names.kind => header_kind = Some(value),
                _ if name == self.names.timestamp => timestamp = Some(value),
                _ if name.len() > NAME_BYTES_MAX => kept.push(header),
                _ => column.push(MetaKind::Text, name.as_bytes(), value.as_bytes()),
            }
        }
        let id = match id {
            Some(id) => id,
            None => {
                write_place(of.partition, record.offset, place);
                place.as_str()
            }
        };
        keep_headers(kept, &of.data, column)?;
        for (name, value) in body.unseen {
            column.push(MetaKind::Field, name.as_bytes(), value);
        }
        let timestamp = match timestamp {
            Some(text) => {
                let (ms, is_text) = read_timestamp(text)
                    .map_err(|why| format!("the header `{}`: {why}", self.names.timestamp))?;
                if is_text {
                    column.push(MetaKind::Timestamp, b"", text.as_bytes());
                }
                ms
            }
            None => record.time_ms.filter(|t| timestamp_in_range(*t)).unwrap_or(TIMESTAMP_NONE),
        };
        frame.push(&Parts {
            id,
            kind: header_kind.or(self.kind.as_deref()).unwrap_or(kind),
            key: record.key.clone().map(|k| &of.data[k]),
            payload: body.payload,
            timestamp,
            metadata: column.as_bytes(),
            payload_is_json: body.is_json,
        });
        Ok(())
    }

    /// The record of a message whose value `write` adds to the data it is given; what it adds before it fails is
    /// taken back.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn record(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
    ) -> Result<EncodedRecord, String> {
        let mut record = record(message, takes, &mut into.data, write)?;
        if !takes.headers {
            return Ok(record);
        }
        let unseen = Unseen::of(message.metadata());
        if !record.tombstone {
            let mut add = |name: &[u8], value: &[u8]| {
                let name = append(name, &mut into.data);
                let value = Some(append(value, &mut into.data));
                record.headers.push(Header { name, value });
            };
            add(self.names.id.as_bytes(), message.id().as_bytes());
            add(self.names.kind.as_bytes(), message.kind().as_bytes());
            if let Some(ms) = record.timestamp {
                let mut text = Vec::new();
                write_timestamp(ms, unseen.timestamp_text, &mut text);
                add(self.names.timestamp.as_bytes(), &text);
            }
            for entry in message.metadata().entries().filter(|e| e.kind.is_metadata()) {
                add(entry.name, entry.value);
            }
        }
        unseen.write_headers(into, &mut record);
        Ok(record)
    }
}

/// `SOURCE/PARTITION:OFFSET`. Each message without an id has one, and `write!` takes several times as long.
fn write_place(partition: PartitionId, offset: u64, place: &mut String) {
    let mut number = itoa::Buffer::new();
    place.clear();
    place.push_str(number.format(partition.source));
    place.push('/');
    place.push_str(number.format(partition.partition));
    place.push(':');
    place.push_str(number.format(offset));
}

/// Where each name stands last, of many headers. Few are compared pair by pair, which is faster than a table; many
/// would make that quadratic in a stranger's record.
fn last_of_each<'a>(headers: &[Header], data: &'a [u8]) -> Option<HashMap<&'a [u8], usize>> {
    const PAIRWISE_MAX: usize = 16;
    let names = headers.iter().enumerate().map(|(at, header)| (&data[header.name.clone()], at));
    (headers.len() > PAIRWISE_MAX).then(|| names.collect())
}

/// A timestamp as text or a number; and whether it was text.
fn read_timestamp(text: &str) -> Result<(i64, bool), String> {
    match text.parse::<i64>() {
        Ok(ms) if timestamp_in_range(ms) => Ok((ms, false)),
        Ok(ms) => {
            Err(format!("{ms} is out of range (0 to {TIMESTAMP_MAX_MS} milliseconds, years 1970 to 9999)"))
        }
        Err(_) => rfc3339::parse(text).map(|ms| (ms, true)),
    }
}

/// Writes a timestamp in the form it came: the text itself while it says this time, else its form.
pub(crate) fn write_timestamp(ms: i64, came_as: Option<&[u8]>, out: &mut Vec<u8>) {
    match came_as.map(std::str::from_utf8) {
        None => out.extend_from_slice(ms.to_string().as_bytes()),
        Some(Ok(text)) if rfc3339::parse(text) == Ok(ms) => out.extend_from_slice(text.as_bytes()),
        Some(_) => rfc3339::write(ms, out),
    }
}
