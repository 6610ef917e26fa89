//! Dead letters: a message that could not be processed, with everything needed to see why and to put it through
//! again.
//!
//! What stands in one is written to the letter: a number keeps its text. Bytes that are no UTF-8 are
//! `{"base64": …}`.

use std::fmt::Write as _;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wasmill_frame::{FrameBuf, Message, Meta, MetaKind, Parts, TIMESTAMP_NONE};

use crate::guest::GuestInfo;
use crate::input::{RawBatch, RawRecord};
use crate::output::{OutputId, Routes};
use crate::position::PartitionId;
use crate::replay::{Members, Replayed};

/// How long a header of a file may be that goes with each dead letter of a record of it.
const PREAMBLE_BYTES_MAX: usize = 16 << 10;

/// The type of a dead letter's own message.
pub const TYPE: &str = "wasmill.dead_letter";

/// The name under which a message's column keeps an id that came as a number, so that it leaves as one. No
/// unknown field can have this name.
pub const NUMBER_ID: &[u8] = b"id";

/// The name under which a message's column keeps its record's headers, as a column of their own: one without a
/// value has the kind `Json`. As above.
pub const HEADERS: &[u8] = b"type";

/// Names that a dead letter's message has beside the envelope's: unknown fields of these names stand in
/// `fields`.
pub(crate) const OWN_NAMES: [&[u8]; 5] = [b"key", b"headers", b"payload_is", b"timestamp_is", b"fields"];

/// Why a message could not be processed.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The reason, for people.
    pub reason: &'a str,
    /// Its kind, as metrics label it: decode, key, time, late, value, trap, fuel, memory, answer, error,
    /// route, encode, refused, replay.
    pub kind: &'static str,
    /// The stage that it failed at: its name, or `source`, `time` (the bound on event times), `key_by`, `sink`.
    pub stage: &'a str,
    /// The stage's plugin, if it has one.
    pub plugin: Option<&'a GuestInfo>,
    /// How often it was tried.
    pub attempts: u32,
}

/// What could not be processed.
#[derive(Debug, Clone, Copy)]
pub enum Buried<'a> {
    /// A message.
    Message(Message<'a>),
    /// A record that is no message.
    Record,
    /// A window.
    Window,
    /// A message that the sink of this number could not be given.
    AtSink(Message<'a>, usize),
    /// What a sink's other end would not take, as it was written.
    Output(&'a [u8]),
    /// A dead letter that can't be put through again.
    Letter(Message<'a>),
}

/// The records that messages came in, where they are still at hand.
#[derive(Debug, Clone, Copy)]
pub enum Records<'a> {
    /// As their source gave them.
    Raw(&'a RawBatch),
    /// As dead letters tell them, by the letters' offsets.
    Replayed(&'a [Replayed]),
}

/// The record that a message came in.
#[derive(Debug, Clone, Copy)]
pub enum Original<'a> {
    /// As its source gave it.
    Raw(&'a RawBatch, &'a RawRecord),
    /// As a dead letter tells it.
    Replayed(&'a Replayed),
}

impl<'a> Records<'a> {
    /// The record at an offset.
    #[must_use]
    pub fn at(self, offset: u64) -> Option<Original<'a>> {
        match self {
            Self::Raw(raw) => Some(Original::Raw(raw, raw.at(offset)?)),
            Self::Replayed(letters) => {
                let found = letters.binary_search_by_key(&offset, |letter| letter.offset).ok()?;
                letters.get(found).map(Original::Replayed)
            }
        }
    }
}

impl DeadLetter<'_> {
    /// The dead letter as a message, alone in a frame.
    #[must_use]
    pub fn message(
        &self,
        routes: &Routes,
        what: Buried<'_>,
        at: &OutputId<'_>,
        original: Option<Original<'_>>,
    ) -> FrameBuf {
        if let Buried::Letter(letter) = what {
            return self.again(routes, letter, at);
        }
        let mut body = Object::new();
        body.text("reason", self.reason);
        body.text("kind", self.kind);
        body.text("stage", self.stage);
        if let Some(p) = self.plugin {
            let plugin = json!({"name": p.name, "version": p.version, "digest": p.digest});
            body.raw("plugin", &plugin.to_string());
        }
        body.number("attempts", self.attempts.into());
        let mut place = String::new();
        match at {
            OutputId::Message { partition, offset, index, .. } => {
                place = format!("{}:{offset}", routes.partition_name(*partition));
                if let Some(Original::Replayed(letter)) = original {
                    letter.place.iter().for_each(|(name, json)| body.raw(name, json));
                    body.raw("replay", &place_as_json(routes, *partition, *offset));
                } else {
                    body.number("source", partition.source.into());
                    body.text("partition", &routes.partition_name(*partition));
                    body.raw("offset", &offset.to_string());
                    if *index > 0 {
                        body.number("index", (*index).into());
                    }
                }
            }
            OutputId::Refused { sink, digest, origin } => {
                place = format!("{sink}:{digest:016x}");
                if let Some((partition, offset)) = origin {
                    body.number("source", partition.source.into());
                    body.text("partition", &routes.partition_name(*partition));
                    body.raw("offset", &offset.to_string());
                }
                body.text("sink", sink);
            }
            OutputId::Window { key, start, end, .. } => {
                body.bytes("key", key);
                body.number("start", *start);
                body.number("end", *end);
            }
        }
        let message = match what {
            Buried::Message(message) | Buried::AtSink(message, _) => Some(message),
            Buried::Record | Buried::Window | Buried::Output(_) | Buried::Letter(_) => None,
        };
        let timestamp = message.map_or(TIMESTAMP_NONE, |m| m.timestamp());
        let logged = match original {
            Some(Original::Raw(_, record)) => record.appended_ms.or(record.time_ms).map(|t| t.to_string()),
            Some(Original::Replayed(letter)) => letter.time.clone(),
            None => None,
        };
        let event_time = || (timestamp != TIMESTAMP_NONE).then(|| timestamp.to_string());
        if let Some(time) = logged.or_else(event_time) {
            body.raw("time", &time);
        }
        if let Buried::AtSink(_, sink) = what {
            body.raw("sink", &sink.to_string());
        }
        if let Some(id) = trace_id(message, original) {
            body.text("trace_id", &id);
        }
        match original {
            Some(Original::Raw(raw, record)) => body.raw("original", &record_as_json(raw, record)),
            Some(Original::Replayed(Replayed { original: Some(json), .. })) => body.raw("original", json),
            Some(Original::Replayed(_)) | None => {}
        }
        match what {
            Buried::Message(message) | Buried::AtSink(message, _) => {
                body.raw("message", &message_as_json(message));
            }
            Buried::Output(written) => body.bytes("output", written),
            Buried::Record | Buried::Window | Buried::Letter(_) => {}
        }
        framed(message.map_or(place.as_str(), |m| m.id()), timestamp, &body.done())
    }

    /// A letter that can't enter: as it was, so that it can be put through once that is mended.
    fn again(&self, routes: &Routes, letter: Message<'_>, at: &OutputId<'_>) -> FrameBuf {
        let mut body = Object::new();
        body.text("reason", self.reason);
        body.text("kind", self.kind);
        let members = Members::of(letter.payload()).unwrap_or_default();
        for (name, value) in
            members.0.iter().filter(|(n, _)| !["reason", "kind", "replay"].contains(&n.as_ref()))
        {
            body.raw(name, value.get());
        }
        if let OutputId::Message { partition, offset, .. } = at {
            body.raw("replay", &place_as_json(routes, *partition, *offset));
        }
        framed(letter.id(), letter.timestamp(), &body.done())
    }
}

/// Where a dead letter was that was put through again.
fn place_as_json(routes: &Routes, partition: PartitionId, offset: u64) -> String {
    json!({"partition": routes.partition_name(partition), "offset": offset}).to_string()
}

/// A JSON object in the making.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        push_text(&mut self.0, name);
        self.0.push(':');
    }

    fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.0.push_str(json);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        push_text(&mut self.0, text);
    }

    fn number(&mut self, name: &str, number: i64) {
        self.name(name);
        // Writing to memory can't fail.
        let _ = write!(self.0, "{number}");
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        push_bytes(&mut self.0, bytes);
    }

    fn done(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn push_text(json: &mut String, text: &str) {
    json.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// Text as text; other bytes as `{"base64": …}`.
fn push_bytes(json: &mut String, bytes: &[u8]) {
    use base64::Engine as _;
    match std::str::from_utf8(bytes) {
        Ok(text) => push_text(json, text),
        Err(_) => {
            json.push_str("{\"base64\":\"");
            base64::engine::general_purpose::STANDARD.encode_string(bytes, json);
            json.push_str("\"}");
        }
    }
}

fn as_json(bytes: &[u8]) -> Option<&str> {
    serde_json::from_slice::<&RawValue>(bytes).ok().map(RawValue::get)
}

/// A record as its source gave it.
fn record_as_json(raw: &RawBatch, record: &RawRecord) -> String {
    let mut original = Object::new();
    original.bytes("value", &raw.data[record.value.clone()]);
    if let Some(key) = &record.key {
        original.bytes("key", &raw.data[key.clone()]);
    }
    if !record.headers.is_empty() {
        let headers = record.headers.iter().map(|header| {
            (&raw.data[header.name.clone()], header.value.clone().map(|value| &raw.data[value]))
        });
        original.raw("headers", &headers_as_json(headers));
    }
    if record.tombstone {
        original.raw("tombstone", "true");
    }
    if let Some(time) = record.time_ms {
        original.number("time", time);
    }
    if let Some(time) = record.appended_ms {
        original.number("appended", time);
    }
    if record.rejected.is_some() {
        original.raw("cut", "true");
    }
    if let Some(preamble) = raw.preamble.as_ref().filter(|p| p.len() <= PREAMBLE_BYTES_MAX) {
        original.bytes("preamble", preamble);
    }
    original.done()
}

fn headers_as_json<'a>(headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> String {
    let mut json = "[".to_owned();
    for (name, value) in headers {
        json.push_str(if json.len() > 1 { ",[" } else { "[" });
        push_bytes(&mut json, name);
        json.push(',');
        match value {
            Some(value) => push_bytes(&mut json, value),
            None => json.push_str("null"),
        }
        json.push(']');
    }
    json.push(']');
    json
}

/// The headers that a message's column keeps, unseen by plugins.
fn kept_headers(message: Message<'_>) -> Option<Meta<'_>> {
    let kept = |e: &wasmill_frame::meta::Entry<'_>| e.kind == MetaKind::Field && e.name == HEADERS;
    message.metadata().entries().find(kept).map(|e| Meta::new(e.value))
}

/// A message as it stands, to the letter.
fn message_as_json(message: Message<'_>) -> String {
    let mut envelope = Object::new();
    let mut number_id = None;
    let mut timestamp_text = None;
    let mut metadata = Object::new();
    let (mut fields, mut hidden) = (Vec::new(), Object::new());
    for e in message.metadata().entries() {
        let name = String::from_utf8_lossy(e.name);
        match e.kind {
            MetaKind::Text => metadata.bytes(&name, e.value),
            MetaKind::Json => match as_json(e.value) {
                Some(json) => metadata.raw(&name, json),
                None => metadata.bytes(&name, e.value),
            },
            MetaKind::Timestamp => timestamp_text = Some(e.value),
            MetaKind::Field if e.name == NUMBER_ID => number_id = Some(e.value),
            MetaKind::Field if e.name == HEADERS => {}
            MetaKind::Field => match as_json(e.value) {
                Some(json) if OWN_NAMES.contains(&e.name) => hidden.raw(&name, json),
                Some(json) => fields.push((name, json)),
                None => {}
            },
        }
    }
    match number_id.filter(|number| *number == message.id().as_bytes()) {
        Some(_) => envelope.raw("id", message.id()),
        None => envelope.text("id", message.id()),
    }
    envelope.text("type", message.kind());
    if let Some(key) = message.key() {
        envelope.bytes("key", key);
    }
    match as_json(message.payload()) {
        Some(json) => envelope.raw("payload", json),
        None => {
            envelope.bytes("payload", message.payload());
            // Else the payload's own text or object of that form would be the same.
            envelope.text("payload_is", "bytes");
        }
    }
    if message.timestamp() != TIMESTAMP_NONE {
        match timestamp_text {
            Some(text) if !text.is_empty() => envelope.bytes("timestamp", text),
            changed => {
                envelope.number("timestamp", message.timestamp());
                // A plugin changed it: it leaves as text, and only the encoders know the calendar.
                if changed.is_some() {
                    envelope.text("timestamp_is", "text");
                }
            }
        }
    }
    envelope.raw("metadata", &metadata.done());
    for (name, json) in fields {
        envelope.raw(&name, json);
    }
    if hidden.0.len() > 1 {
        envelope.raw("fields", &hidden.done());
    }
    if let Some(headers) = kept_headers(message) {
        let headers = headers.entries().map(|e| (e.name, (e.kind == MetaKind::Text).then_some(e.value)));
        envelope.raw("headers", &headers_as_json(headers));
    }
    envelope.done()
}

/// The trace that a message belongs to, by the `traceparent` of W3C in its record's headers, else in its metadata: that
/// order, for metadata is what plugins have made of it.
fn trace_id(message: Option<Message<'_>>, original: Option<Original<'_>>) -> Option<String> {
    const NAME: &[u8] = b"traceparent";
    let of_message = |message: Message<'_>| {
        let metadata = || message.metadata().get("traceparent").and_then(|e| trace_id_of(e.value));
        let kept = kept_headers(message).and_then(|headers| headers.entries().find(|e| e.name == NAME));
        kept.and_then(|e| trace_id_of(e.value)).or_else(metadata)
    };
    let of_record = |original: Original<'_>| match original {
        Original::Raw(raw, record) => {
            let header = record.headers.iter().find(|header| &raw.data[header.name.clone()] == NAME)?;
            trace_id_of(&raw.data[header.value.clone()?])
        }
        Original::Replayed(letter) => letter.trace_id.clone(),
    };
    original.and_then(of_record).or_else(|| message.and_then(of_message))
}

/// The trace's id in a `traceparent`: `00-` and 32 hexadecimal digits, not all zero, before the parent's.
fn trace_id_of(traceparent: &[u8]) -> Option<String> {
    let mut parts = std::str::from_utf8(traceparent).ok()?.trim().split('-');
    let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let valid = hex(version, 2) && hex(id, 32) && hex(parent, 16) && id.bytes().any(|b| b != b'0');
    valid.then(|| id.to_owned())
}

fn framed(id: &str, timestamp: i64, payload: &str) -> FrameBuf {
    let mut frame = FrameBuf::with_capacity(1, payload.len() + id.len() + TYPE.len());
    frame.push(&Parts {
        id,
        kind: TYPE,
        key: None,
        payload: payload.as_bytes(),
        timestamp,
        metadata: b"",
        payload_is_json: true,
    });
    frame
}

/// How much of the message stands in a dead letter that was refused whole.
pub const SHORT_ORIGINAL_BYTES_MAX: usize = 4 << 10;
/// How long its other texts may be.
const SHORT_TEXT_BYTES_MAX: usize = 512;

/// A dead letter again, as a message alone in a frame, with the first bytes of what could not be processed
/// and why the whole letter was `refused`. It has no event time, for that may be the cause.
#[must_use]
pub fn shorter(letter: &[u8], refused: &str) -> FrameBuf {
    let envelope: Value = serde_json::from_slice(letter).unwrap_or_default();
    let id = envelope["id"].as_str().map(|id| head(id, SHORT_TEXT_BYTES_MAX)).unwrap_or_default();
    let mut body = envelope["payload"].as_object().cloned().unwrap_or_default();
    let record = body.remove("original").and_then(|mut original| Some(original.get_mut("value")?.take()));
    let (message, output) = (body.remove("message"), body.remove("output"));
    let original = match record.or(message).or(output) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::from_utf8_lossy(letter).into_owned(),
    };
    body.values_mut().for_each(shorten);
    body.insert("refused".into(), head(refused, SHORT_TEXT_BYTES_MAX).into());
    body.insert("cut".into(), true.into());
    body.insert("original_bytes".into(), original.len().into());
    body.insert("original".into(), json!({"value": head(&original, SHORT_ORIGINAL_BYTES_MAX)}));
    framed(id, TIMESTAMP_NONE, &Value::Object(body).to_string())
}

/// Shortens the texts of a value.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => text.truncate(head(text, SHORT_TEXT_BYTES_MAX).len()),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

/// As many whole characters as fit.
fn head(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wasmill_frame::MetaWriter;

    use super::*;
    use crate::input::Header;

    /// The letter of what failed at `stage`, as text.
    fn letter(what: Buried<'_>, original: Option<Original<'_>>) -> String {
        let why = DeadLetter { reason: "why", kind: "error", stage: "enrich", plugin: None, attempts: 1 };
        let routes = Routes::new(Vec::new(), BTreeMap::new());
        let partition = PartitionId { source: 1, partition: 2 };
        let id = OutputId::Message { partition, offset: 7, index: 0, emit: 0, left_at: "enrich" };
        let frame = why.message(&routes, what, &id, original);
        std::str::from_utf8(frame.get(0).payload()).expect("text").to_owned()
    }

    #[test]
    fn a_letter_has_message_and_record_to_the_letter() {
        let mut headers = MetaWriter::new();
        headers.push(
            MetaKind::Text,
            b"traceparent",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
        headers.push(MetaKind::Json, b"bare", b"");
        let mut metadata = MetaWriter::new();
        metadata.push(MetaKind::Text, b"a", b"1.0");
        metadata.push(MetaKind::Json, b"b", b"[1.10]");
        metadata.push(MetaKind::Field, NUMBER_ID, b"1e2");
        metadata.push(MetaKind::Field, HEADERS, headers.as_bytes());
        metadata.push(MetaKind::Field, b"extra", b"0.10");
        metadata.push(MetaKind::Field, b"key", b"1E5");
        metadata.push(MetaKind::Timestamp, b"", b"1970-01-01T00:00:00.005+00:00");
        let mut frame = FrameBuf::with_capacity(1, 0);
        frame.push(&Parts {
            id: "1e2",
            kind: "t",
            key: Some(b"\xff"),
            payload: br#"{"n":1.10,"big":1e400}"#,
            timestamp: 5,
            metadata: metadata.as_bytes(),
            payload_is_json: true,
        });
        let data = b"{}kv\xfeh".to_vec();
        let record = RawRecord {
            offset: 7,
            value: 0..2,
            key: Some(2..3),
            headers: vec![Header { name: 5..6, value: Some(4..5) }, Header { name: 5..6, value: None }],
            time_ms: Some(8),
            ..RawRecord::default()
        };
        let partition = PartitionId { source: 1, partition: 2 };
        let raw = RawBatch { partition, data, records: vec![record], next: 8, preamble: None };
        let original = Records::Raw(&raw).at(7);
        assert!(original.is_some() && raw.at(8).is_none());
        assert_eq!(
            letter(Buried::Message(frame.get(0)), original),
            concat!(
                r#"{"reason":"why","kind":"error","stage":"enrich","attempts":1,"source":1,"partition":"1/2","#,
                r#""offset":7,"time":8,"trace_id":"0af7651916cd43dd8448eb211c80319c","#,
                r#""original":{"value":"{}","key":"k","headers":[["h",{"base64":"/g=="}],["h",null]],"time":8},"#,
                r#""message":{"id":1e2,"type":"t","key":{"base64":"/w=="},"payload":{"n":1.10,"big":1e400},"#,
                r#""timestamp":"1970-01-01T00:00:00.005+00:00","metadata":{"a":"1.0","b":[1.10]},"extra":0.10,"#,
                r#""fields":{"key":1E5},"headers":[["traceparent","#,
                r#""00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],["bare",null]]}}"#,
            )
        );
    }

    #[test]
    fn a_payload_that_is_no_json_is_told_from_one_that_is() {
        let mut frame = FrameBuf::with_capacity(2, 0);
        for payload in [&b"not json"[..], b"\xff", br#""text""#] {
            frame.push(&Parts {
                id: "1",
                kind: "t",
                key: None,
                payload,
                timestamp: TIMESTAMP_NONE,
                metadata: b"",
                payload_is_json: false,
            });
        }
        for (index, expected) in [
            r#""payload":"not json","payload_is":"bytes","metadata""#,
            r#""payload":{"base64":"/w=="},"payload_is":"bytes","metadata""#,
            r#""payload":"text","metadata""#,
        ]
        .iter()
        .enumerate()
        {
            let letter = letter(Buried::Message(frame.get(index)), None);
            assert!(letter.contains(expected), "{letter}");
        }
    }

    #[test]
    fn only_a_valid_trace_is_told() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for (traceparent, found) in [
            (format!("00-{id}-b7ad6b7169203331-01"), true),
            (format!("01-{id}-b7ad6b7169203331-01-more"), true),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false),
            (format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()), false),
            (format!("00-{id}"), false),
            ("nonsense".to_owned(), false),
        ] {
            assert_eq!(trace_id_of(traceparent.as_bytes()).is_some(), found, "{traceparent}");
        }
    }

    #[test]
    fn a_plugin_gives_no_message_another_trace() {
        let (real, forged) = ("0af7651916cd43dd8448eb211c80319c", "ffffffffffffffffffffffffffffffff");
        let traceparent = |id: &str| format!("00-{id}-b7ad6b7169203331-01");
        let mut headers = MetaWriter::new();
        headers.push(MetaKind::Text, b"traceparent", traceparent(real).as_bytes());
        let mut metadata = MetaWriter::new();
        metadata.push(MetaKind::Field, HEADERS, headers.as_bytes());
        let mut frame = FrameBuf::with_capacity(1, 0);
        frame.push(&Parts {
            id: "m",
            kind: "t",
            key: None,
            payload: b"{}",
            timestamp: 5,
            metadata: metadata.as_bytes(),
            payload_is_json: true,
        });
        // What a plugin may do to any message.
        frame.set_metadata(0, MetaKind::Text, "traceparent", traceparent(forged).as_bytes());
        let letter = letter(Buried::Message(frame.get(0)), None);
        assert!(letter.contains(&format!("\"trace_id\":\"{real}\"")), "{letter}");
    }

    #[test]
    fn a_shorter_letter_says_the_same_with_less_of_the_message() {
        let long = "€".repeat(10_000);
        let letter = json!({
            "id": "orders[0]:7",
            "type": TYPE,
            "timestamp": 5,
            "payload": { "reason": long, "kind": "error", "offset": 7, "message": { "id": "x", "payload": long } },
        });
        let frame = shorter(letter.to_string().as_bytes(), "too large");
        let message = frame.get(0);
        assert_eq!(
            (message.id(), message.kind(), message.timestamp()),
            ("orders[0]:7", TYPE, TIMESTAMP_NONE)
        );
        let body: Value = serde_json::from_slice(message.payload()).expect("JSON");
        assert_eq!(
            (&body["kind"], &body["offset"], &body["cut"]),
            (&json!("error"), &json!(7), &json!(true))
        );
        assert_eq!(body["refused"], "too large");
        assert_eq!(body["original_bytes"], letter["payload"]["message"].to_string().len());
        let original = body["original"]["value"].as_str().expect("text");
        assert!(original.starts_with(r#"{"id":"x","payload":"€"#), "{original}");
        assert!(original.len() <= SHORT_ORIGINAL_BYTES_MAX && original.len() > SHORT_ORIGINAL_BYTES_MAX - 4);
        assert!(message.payload().len() < 6_000, "{}", message.payload().len());
        // What is no dead letter of ours is kept all the same.
        let odd = shorter(b"\xff odd", "why");
        assert!(String::from_utf8_lossy(odd.get(0).payload()).contains("odd"));
    }
}
