//! Writes envelopes.

use std::io::Write;

use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::meta::Entry;
use wasmill_frame::{Message, MetaKind};

use super::scan;
use crate::unseen::{HEADERS, NUMBER_ID, Unseen, append, is_tombstone, record};
use crate::{RecordWriter, Takes, rfc3339};

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
        let record = self.write(message, Takes::default(), into)?;
        let key = message.key().map(|key| append(key, &mut into.data));
        into.records.push(EncodedRecord { key, ..record });
        Ok(())
    }
}

impl RecordWriter for JsonEncoder {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        let unseen = Unseen::of(message.metadata());
        let mut record = record(message, takes, &mut into.data, |out| envelope(message, &unseen, out))?;
        if takes.headers {
            unseen.write_headers(into, &mut record);
        }
        Ok(record)
    }
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
    payload(message, "a JSON envelope", out)?;
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

/// Writes the payload as JSON on one line; `holder` is what is to hold it, for the error.
pub(crate) fn payload(message: Message<'_>, holder: &str, out: &mut Vec<u8>) -> Result<(), String> {
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
            "payload is neither JSON nor UTF-8 text (invalid byte at {}), so {holder} can't hold it",
            e.valid_up_to()
        )),
    }
}

pub(crate) fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(scan::is_value)
}

fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("metadata: {what} is not UTF-8"))
}

pub(crate) fn text(value: &str, out: &mut Vec<u8>) {
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
pub(crate) fn one_line(json: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(json);
    let mut at = start;
    while let Some(found) = memchr::memchr2(b'\n', b'\r', &out[at..]) {
        out[at + found] = b' ';
        at += found + 1;
    }
}
