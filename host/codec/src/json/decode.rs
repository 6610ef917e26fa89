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

use crate::rfc3339;
use crate::unseen::{NUMBER_ID, keep_headers, tombstone};

/// What a metadata or field name may have at most: the column's own limit.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

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
    expect_object(text)?;
    scratch.fields.clear();
    let mut json = serde_json::Deserializer::from_str(text);
    let envelope = json
        .deserialize_map(EnvelopeVisitor { fields: &mut scratch.fields })
        .and_then(|envelope| json.end().map(|()| envelope))
        .map_err(|e| broken(&e))?;

    let id = envelope.id.ok_or("no `id`: a message needs one, text or a number")?;
    let (id, id_number) = match string_body(id) {
        Some(_) => (unescaped("id", id)?, None),
        None if id.get().starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
            (Cow::Borrowed(id.get()), Some(id.get()))
        }
        None => return Err(format!("`id` is {}: expected text or a number", kind_of(id.get()))),
    };
    let kind = envelope.kind.ok_or("no `type`: a message needs one, as text")?;
    if string_body(kind).is_none() {
        return Err(format!("`type` is {}: expected text", kind_of(kind.get())));
    }
    let kind = unescaped("type", kind)?;
    let (timestamp, timestamp_text) = match envelope.timestamp {
        Some(raw) if raw.get() != "null" => timestamp(raw)?,
        _ => (record.time_ms.filter(|t| timestamp_in_range(*t)).unwrap_or(TIMESTAMP_NONE), None),
    };

    let column = &mut scratch.metadata;
    column.clear();
    if let Some(raw) = envelope.metadata.filter(|raw| raw.get() != "null") {
        if !raw.get().starts_with('{') {
            return Err(format!("`metadata` is {}: expected an object", kind_of(raw.get())));
        }
        read_metadata(raw, column)?;
    }
    if let Some(number) = id_number {
        column.push(MetaKind::Field, NUMBER_ID, number.as_bytes());
    }
    keep_headers(&record.headers, data, column);
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
        payload: envelope.payload.map_or("null", RawValue::get).as_bytes(),
        timestamp,
        metadata: column.as_bytes(),
        payload_is_json: true,
    });
    Ok(())
}

fn expect_object(text: &str) -> Result<(), String> {
    match text.bytes().find(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
        Some(b'{') => Ok(()),
        None => Err("empty: expected a JSON object, one message a line".into()),
        Some(_) => {
            let what = kind_of(text.trim_start());
            Err(format!(
                "{what}: expected a JSON object such as {{\"id\":\"1\",\"type\":\"order\",\"payload\":{{}}}}"
            ))
        }
    }
}

fn timestamp(raw: &RawValue) -> Result<(i64, Option<Cow<'_, str>>), String> {
    if string_body(raw).is_some() {
        let text = unescaped("timestamp", raw)?;
        return Ok((rfc3339::parse(&text)?, Some(text)));
    }
    let text = raw.get();
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
fn string_body(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

/// A JSON string's text; without escapes it is borrowed.
fn unescaped<'a>(field: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, String> {
    let body = string_body(raw).unwrap_or_default();
    if memchr::memchr(b'\\', body.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(body));
    }
    serde_json::from_str::<String>(raw.get())
        .map(Cow::Owned)
        .map_err(|e| format!("`{field}` is not well-formed text: {}", cause(&e)))
}

/// What a JSON text starts as, for people.
fn kind_of(text: &str) -> &'static str {
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

fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

fn broken(error: &serde_json::Error) -> String {
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
    id: Option<&'de RawValue>,
    kind: Option<&'de RawValue>,
    timestamp: Option<&'de RawValue>,
    payload: Option<&'de RawValue>,
    metadata: Option<&'de RawValue>,
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
            let field = match &*name {
                "id" => &mut envelope.id,
                "type" => &mut envelope.kind,
                "timestamp" => &mut envelope.timestamp,
                "payload" => &mut envelope.payload,
                "metadata" => &mut envelope.metadata,
                other => {
                    check_name::<A::Error>(other)?;
                    self.fields.push(MetaKind::Field, other.as_bytes(), value.get().as_bytes());
                    continue;
                }
            };
            *field = Some(value);
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

fn read_metadata(raw: &RawValue, column: &mut MetaWriter) -> Result<(), String> {
    let mut count = 0;
    let mut json = serde_json::Deserializer::from_str(raw.get());
    json.deserialize_map(MetadataVisitor { column, count: &mut count })
        .map_err(|e| format!("`metadata`: {}", cause(&e)))?;
    if has_repeats(column, count) {
        keep_last(column);
    }
    Ok(())
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
            if string_body(value).is_some() {
                let text = unescaped(&name, value).map_err(A::Error::custom)?;
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
