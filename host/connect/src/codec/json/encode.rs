//! Writes envelopes.

use std::io::Write;
use std::ops::Range;

use serde::de::IgnoredAny;
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::meta::Entry;
use wasmill_frame::{Message, Meta, MetaKind};

use super::{HEADERS, NUMBER_ID, is_tombstone};
use crate::codec::rfc3339;

/// How many bytes an envelope has above its message's, about: names, quotes, a timestamp as text.
const ENVELOPE_BYTES: usize = 96;

/// Writes one envelope a message, on one line, without the newline.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonEncoder;

impl Encoder for JsonEncoder {
    fn encode(
        &self,
        message: Message<'_>,
        _id: &OutputId<'_>,
        into: &mut EncodedBatch,
    ) -> Result<(), String> {
        let record = record(message, &Unseen::of(message.metadata()), into)?;
        let key = message.key().map(|key| append(key, &mut into.data));
        into.records.push(EncodedRecord { key, ..record });
        Ok(())
    }
}

/// What the metadata column holds that no plugin sees, found in one pass.
#[derive(Default)]
pub(crate) struct Unseen<'a> {
    timestamp_text: Option<&'a [u8]>,
    number_id: Option<&'a [u8]>,
    headers: Option<&'a [u8]>,
    has_fields: bool,
}

impl<'a> Unseen<'a> {
    pub(crate) fn of(meta: Meta<'a>) -> Self {
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
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let all = Meta::new(self.headers.unwrap_or_default());
        all.entries().map(|e| (e.name, (e.kind == MetaKind::Text).then_some(e.value)))
    }
}

/// Puts bytes behind the others; answers where they are.
pub(crate) fn append(bytes: &[u8], data: &mut Vec<u8>) -> Range<usize> {
    let start = data.len();
    data.extend_from_slice(bytes);
    start..data.len()
}

/// Writes a message's envelope as a record's value; the record has no key and no headers yet.
pub(crate) fn record(
    message: Message<'_>,
    unseen: &Unseen<'_>,
    into: &mut EncodedBatch,
) -> Result<EncodedRecord, String> {
    let start = into.data.len();
    if let Err(reason) = envelope(message, unseen, &mut into.data) {
        into.data.truncate(start);
        return Err(reason);
    }
    let value = start..into.data.len();
    let timestamp = Some(message.timestamp()).filter(|t| *t != TIMESTAMP_NONE);
    Ok(EncodedRecord { value, timestamp, ..EncodedRecord::default() })
}

fn envelope(message: Message<'_>, unseen: &Unseen<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let meta = message.metadata();
    out.reserve(ENVELOPE_BYTES + message.arena_bytes());
    out.extend_from_slice(b"{\"id\":");
    match unseen.number_id {
        Some(number) if number == message.id().as_bytes() => out.extend_from_slice(number),
        _ => text(message.id(), out),
    }
    out.extend_from_slice(b",\"type\":");
    text(message.kind(), out);
    out.extend_from_slice(b",\"payload\":");
    payload(message, out)?;
    if message.timestamp() != TIMESTAMP_NONE {
        out.extend_from_slice(b",\"timestamp\":");
        timestamp(message.timestamp(), unseen.timestamp_text, out);
    }
    out.extend_from_slice(b",\"metadata\":{");
    let mut first = true;
    for entry in meta.entries().filter(|e| e.kind.is_metadata()) {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        let name = utf8(entry.name, "a metadata name")?;
        text(name, out);
        out.push(b':');
        if entry.kind == MetaKind::Text {
            text(utf8(entry.value, name)?, out);
        } else if is_json(entry.value) {
            one_line(entry.value, out);
        } else {
            return Err(format!("metadata `{name}` is marked as JSON but is not; set it as text"));
        }
    }
    out.push(b'}');
    let is_field = |e: &Entry<'_>| e.kind == MetaKind::Field && e.name != NUMBER_ID && e.name != HEADERS;
    for entry in meta.entries().filter(|e| unseen.has_fields && is_field(e)) {
        out.push(b',');
        text(utf8(entry.name, "a field name")?, out);
        out.push(b':');
        one_line(entry.value, out);
    }
    out.push(b'}');
    Ok(())
}

/// The text that it came as goes out to the letter as long as it says this time; the form alone is
/// kept of one that was changed.
fn timestamp(ms: i64, came_as: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(came_as) = came_as else {
        // Writing to a Vec can't fail.
        let _ = write!(out, "{ms}");
        return;
    };
    match std::str::from_utf8(came_as) {
        Ok(came_as) if rfc3339::parse(came_as) == Ok(ms) => text(came_as, out),
        _ => {
            out.push(b'"');
            rfc3339::write(ms, out);
            out.push(b'"');
        }
    }
}

fn payload(message: Message<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let payload = message.payload();
    if is_tombstone(message) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    if message.payload_is_json() || is_json(payload) {
        one_line(payload, out);
        return Ok(());
    }
    match std::str::from_utf8(payload) {
        Ok(payload) => {
            text(payload, out);
            Ok(())
        }
        Err(e) => Err(format!(
            "payload is neither JSON nor UTF-8 text (invalid byte at {}), so a JSON envelope can't hold it",
            e.valid_up_to()
        )),
    }
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("metadata: {what} is not UTF-8"))
}

fn text(value: &str, out: &mut Vec<u8>) {
    // Without a branch a byte, so that the compiler looks at many at once.
    let escapes = value.bytes().fold(false, |any, b| any | (b < b' ') | (b == b'"') | (b == b'\\'));
    if !escapes {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
        return;
    }
    // Writing text to a Vec can't fail.
    let _ = serde_json::to_writer(out, value);
}

/// JSON to the letter, but for newlines: valid JSON has them between tokens only, where a blank means
/// the same.
fn one_line(json: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(json);
    let mut at = start;
    while let Some(found) = memchr::memchr2(b'\n', b'\r', &out[at..]) {
        out[at + found] = b' ';
        at += found + 1;
    }
}
