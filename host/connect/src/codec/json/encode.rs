//! Writes envelopes.

use std::io::Write;

use serde::de::IgnoredAny;
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::{Message, Meta, MetaKind};

use super::{HEADERS, NUMBER_ID, is_tombstone};
use crate::codec::rfc3339;

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
        let start = into.data.len();
        let written = envelope(message, &mut into.data);
        if let Err(reason) = written {
            into.data.truncate(start);
            return Err(reason);
        }
        let value = start..into.data.len();
        let key = message.key().map(|key| {
            into.data.extend_from_slice(key);
            value.end..into.data.len()
        });
        let timestamp = Some(message.timestamp()).filter(|t| *t != TIMESTAMP_NONE);
        into.records.push(EncodedRecord { value, key, timestamp, ..EncodedRecord::default() });
        Ok(())
    }
}

fn envelope(message: Message<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let meta = message.metadata();
    out.extend_from_slice(b"{\"id\":");
    id(message.id(), meta, out);
    out.extend_from_slice(b",\"type\":");
    text(message.kind(), out);
    out.extend_from_slice(b",\"payload\":");
    payload(message, out)?;
    if message.timestamp() != TIMESTAMP_NONE {
        out.extend_from_slice(b",\"timestamp\":");
        timestamp(message.timestamp(), meta.timestamp_text(), out);
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
    for entry in
        meta.entries().filter(|e| e.kind == MetaKind::Field && e.name != NUMBER_ID && e.name != HEADERS)
    {
        out.push(b',');
        text(utf8(entry.name, "a field name")?, out);
        out.push(b':');
        one_line(entry.value, out);
    }
    out.push(b'}');
    Ok(())
}

fn id(id: &str, meta: Meta<'_>, out: &mut Vec<u8>) {
    let came_as_number = |e: &wasmill_frame::meta::Entry<'_>| {
        e.kind == MetaKind::Field && e.name == NUMBER_ID && e.value == id.as_bytes()
    };
    if meta.entries().any(|e| came_as_number(&e)) {
        out.extend_from_slice(id.as_bytes());
    } else {
        text(id, out);
    }
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
