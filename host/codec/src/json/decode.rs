//! Reads envelopes.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::time::{TIMESTAMP_MAX_MS, TIMESTAMP_NONE, timestamp_in_range};
use wasmill_frame::{FrameBuf, Meta, MetaKind, MetaWriter, Parts};

use super::scan::{self, Members, Next};
use crate::rfc3339;
use crate::unseen::{NAME_BYTES_MAX, NUMBER_ID, keep_headers, tombstone};

/// Reads one envelope a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonDecoder;

/// Buffers that a thread uses for one message after the other.
#[derive(Default)]
struct Scratch {
    metadata: MetaWriter,
    fields: MetaWriter,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Decoder for JsonDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        if record.tombstone {
            return tombstone(record, of, frame);
        }
        SCRATCH.with_borrow_mut(|scratch| decode(record, &of.data, frame, scratch))
    }
}

fn decode(
    record: &RawRecord,
    data: &[u8],
    frame: &mut FrameBuf,
    scratch: &mut Scratch,
) -> Result<(), String> {
    let value = &data[record.value.clone()];
    let key = record.key.clone().map(|k| &data[k]);
    let text = std::str::from_utf8(value)
        .map_err(|e| format!("not UTF-8: invalid byte at {}; a message is JSON text", e.valid_up_to()))?;
    let start = expect_object(text)?;
    scratch.fields.clear();
    let envelope = match Envelope::scan(text, start, &mut scratch.fields) {
        Some(envelope) => envelope,
        None => {
            scratch.fields.clear();
            Envelope::read(text, &mut scratch.fields)?
        }
    };

    let id = envelope.id.ok_or("no `id`: a message needs one, text or a number")?;
    let (id, id_number) = match string_body(id) {
        Some(_) => (unescaped("id", id)?, None),
        None if id.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => (Cow::Borrowed(id), Some(id)),
        None => return Err(format!("`id` is {}: expected text or a number", kind_of(id))),
    };
    let kind = envelope.kind.ok_or("no `type`: a message needs one, as text")?;
    if string_body(kind).is_none() {
        return Err(format!("`type` is {}: expected text", kind_of(kind)));
    }
    let kind = unescaped("type", kind)?;
    let (timestamp, timestamp_text) = match envelope.timestamp {
        Some(raw) if raw != "null" => timestamp(raw)?,
        _ => (record.time_ms.filter(|t| timestamp_in_range(*t)).unwrap_or(TIMESTAMP_NONE), None),
    };

    let column = &mut scratch.metadata;
    column.clear();
    if let Some(raw) = envelope.metadata.filter(|raw| *raw != "null") {
        if !raw.starts_with('{') {
            return Err(format!("`metadata` is {}: expected an object", kind_of(raw)));
        }
        read_metadata(raw, column)?;
    }
    if let Some(number) = id_number {
        column.push(MetaKind::Field, NUMBER_ID, number.as_bytes());
    }
    keep_headers(&record.headers, data, column)?;
    for field in Meta::new(scratch.fields.as_bytes()).entries() {
        column.push(field.kind, field.name, field.value);
    }
    if let Some(text) = &timestamp_text {
        column.push(MetaKind::Timestamp, b"", text.as_bytes());
    }
    frame.push(&Parts {
        id: &id,
        kind: &kind,
        key,
        payload: envelope.payload.unwrap_or("null").as_bytes(),
        timestamp,
        metadata: column.as_bytes(),
        payload_is_json: true,
    });
    Ok(())
}

/// Where the object's brace is.
fn expect_object(text: &str) -> Result<usize, String> {
    let start = scan::blanks(text.as_bytes(), 0);
    match text.as_bytes().get(start) {
        Some(b'{') => Ok(start),
        None => Err("empty: expected a JSON object, one message a line".into()),
        Some(_) => {
            let what = kind_of(text.trim_start());
            Err(format!(
                "{what}: expected a JSON object such as {{\"id\":\"1\",\"type\":\"order\",\"payload\":{{}}}}"
            ))
        }
    }
}

fn timestamp(raw: &str) -> Result<(i64, Option<Cow<'_, str>>), String> {
    if string_body(raw).is_some() {
        let text = unescaped("timestamp", raw)?;
        return Ok((rfc3339::parse(&text)?, Some(text)));
    }
    let text = raw;
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        let what = kind_of(text);
        return Err(format!("`timestamp` is {what}: expected RFC 3339 text or integer milliseconds"));
    }
    if text.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        return Err(format!("timestamp {text} is not an integer: expected whole milliseconds since 1970"));
    }
    match text.parse::<i64>() {
        Ok(ms) if timestamp_in_range(ms) => Ok((ms, None)),
        _ => Err(format!(
            "timestamp {text} is out of range (0 to {TIMESTAMP_MAX_MS} milliseconds, years 1970 to 9999)"
        )),
    }
}

/// The inside of a JSON string, escapes as they stand; none for another value.
pub(crate) fn string_body(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}

/// A JSON string's text; without escapes it is borrowed.
pub(crate) fn unescaped<'a>(field: &str, raw: &'a str) -> Result<Cow<'a, str>, String> {
    let body = string_body(raw).unwrap_or_default();
    if memchr::memchr(b'\\', body.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(body));
    }
    serde_json::from_str::<String>(raw)
        .map(Cow::Owned)
        .map_err(|e| format!("`{field}` is not well-formed text: {}", cause(&e)))
}

/// What a JSON text starts as, for people.
pub(crate) fn kind_of(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => "not JSON",
    }
}

pub(crate) fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

pub(crate) fn broken(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let place = if line > 1 { format!("line {line}, column {column}") } else { format!("column {column}") };
    let cause = cause(error);
    match error.classify() {
        serde_json::error::Category::Eof => format!("broken JSON: cut off at {place} ({cause})"),
        serde_json::error::Category::Data => format!("{cause}, at {place}"),
        _ if cause == "trailing characters" => {
            format!(
                "broken JSON at {place}: something follows the message's closing brace; one message a line"
            )
        }
        _ => format!("broken JSON at {place}: {cause}"),
    }
}

#[derive(Default)]
struct Envelope<'de> {
    id: Option<&'de str>,
    kind: Option<&'de str>,
    timestamp: Option<&'de str>,
    payload: Option<&'de str>,
    metadata: Option<&'de str>,
}

impl<'de> Envelope<'de> {
    /// Reads a text whose brace stands at `start`; none where something is wrong with it.
    fn scan(text: &'de str, start: usize, fields: &mut MetaWriter) -> Option<Self> {
        let mut envelope = Self::default();
        let mut members = Members::new(text, start);
        let end = loop {
            match members.next() {
                Next::Member(name, value) => {
                    let name = unescaped_name(name)?;
                    if !envelope.set(&name, value) {
                        if name.len() > NAME_BYTES_MAX {
                            return None;
                        }
                        fields.push(MetaKind::Field, name.as_bytes(), value.as_bytes());
                    }
                }
                Next::End(end) => break end,
                Next::Broken => return None,
            }
        };
        (scan::blanks(text.as_bytes(), end) == text.len()).then_some(envelope)
    }

    /// The same, told by serde_json: it knows place and cause of what is wrong.
    fn read(text: &'de str, fields: &mut MetaWriter) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_map(EnvelopeVisitor { fields })
            .and_then(|envelope| json.end().map(|()| envelope))
            .map_err(|e| broken(&e))
    }

    /// Takes a field that it knows.
    fn set(&mut self, name: &str, value: &'de str) -> bool {
        let field = match name {
            "id" => &mut self.id,
            "type" => &mut self.kind,
            "timestamp" => &mut self.timestamp,
            "payload" => &mut self.payload,
            "metadata" => &mut self.metadata,
            _ => return false,
        };
        *field = Some(value);
        true
    }
}

/// A name's text, of what stands between its quotes.
pub(crate) fn unescaped_name(body: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'\\', body.as_bytes()).is_none() {
        return Some(Cow::Borrowed(body));
    }
    serde_json::from_str::<String>(&format!("\"{body}\"")).ok().map(Cow::Owned)
}

struct EnvelopeVisitor<'w> {
    fields: &'w mut MetaWriter,
}

impl<'de> Visitor<'de> for EnvelopeVisitor<'_> {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(name) = map.next_key_seed(Name)? {
            let value = map.next_value::<&'de RawValue>()?;
            if !envelope.set(&name, value.get()) {
                check_name::<A::Error>(&name)?;
                self.fields.push(MetaKind::Field, name.as_bytes(), value.get().as_bytes());
            }
        }
        Ok(envelope)
    }
}

fn check_name<E: serde::de::Error>(name: &str) -> Result<(), E> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(E::custom(format_args!("a name of {} bytes is above the limit of {NAME_BYTES_MAX}", name.len())))
}

/// A member's name, borrowed where it has no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(v.to_owned()))
    }
}

/// Reads an object that is known to be JSON.
fn read_metadata(raw: &str, column: &mut MetaWriter) -> Result<(), String> {
    let count = match scan_metadata(raw, column) {
        Some(count) => count,
        None => {
            column.clear();
            let mut count = 0;
            let mut json = serde_json::Deserializer::from_str(raw);
            json.deserialize_map(MetadataVisitor { column, count: &mut count })
                .map_err(|e| format!("`metadata`: {}", cause(&e)))?;
            count
        }
    };
    if has_repeats(column, count) {
        keep_last(column);
    }
    Ok(())
}

/// Adds the entries and answers how many; none where something is wrong with one.
fn scan_metadata(raw: &str, column: &mut MetaWriter) -> Option<usize> {
    let mut members = Members::new(raw, 0);
    let mut count = 0;
    loop {
        match members.next() {
            Next::Member(name, value) => {
                let name = unescaped_name(name).filter(|name| name.len() <= NAME_BYTES_MAX)?;
                if string_body(value).is_some() {
                    let text = unescaped(&name, value).ok()?;
                    column.push(MetaKind::Text, name.as_bytes(), text.as_bytes());
                } else {
                    column.push(MetaKind::Json, name.as_bytes(), value.as_bytes());
                }
                count += 1;
            }
            Next::End(_) => return Some(count),
            Next::Broken => return None,
        }
    }
}

struct MetadataVisitor<'w> {
    column: &'w mut MetaWriter,
    count: &'w mut usize,
}

impl<'de> Visitor<'de> for MetadataVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            check_name::<A::Error>(&name)?;
            let value = map.next_value::<&'de RawValue>()?;
            if string_body(value.get()).is_some() {
                let text = unescaped(&name, value.get()).map_err(A::Error::custom)?;
                self.column.push(MetaKind::Text, name.as_bytes(), text.as_bytes());
            } else {
                self.column.push(MetaKind::Json, name.as_bytes(), value.get().as_bytes());
            }
            *self.count += 1;
        }
        Ok(())
    }
}

/// Whether a name stands twice. Few names are compared pair by pair, which is faster than a table;
/// many would make that quadratic in a stranger's message.
fn has_repeats(column: &MetaWriter, count: usize) -> bool {
    const PAIRWISE_MAX: usize = 16;
    let meta = Meta::new(column.as_bytes());
    if count <= PAIRWISE_MAX {
        return meta.entries().enumerate().any(|(i, e)| meta.entries().skip(i + 1).any(|l| l.name == e.name));
    }
    let mut seen = std::collections::HashSet::with_capacity(count);
    meta.entries().any(|e| !seen.insert(e.name))
}

fn keep_last(column: &mut MetaWriter) {
    let all = column.clone();
    let meta = Meta::new(all.as_bytes());
    let last: HashMap<_, _> = meta.entries().enumerate().map(|(i, e)| (e.name, i)).collect();
    column.clear();
    for (_, e) in meta.entries().enumerate().filter(|(i, e)| last[e.name] == *i) {
        column.push(e.kind, e.name, e.value);
    }
}
