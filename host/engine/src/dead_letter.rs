//! Dead letters: a message that could not be processed, with everything needed to see why.

use serde_json::{Map, Value, json};
use wasmill_frame::{FrameBuf, Message, MetaKind, Parts, TIMESTAMP_NONE};

use crate::guest::GuestInfo;
use crate::output::{OutputId, Routes};

/// The type of a dead letter's own message.
pub const TYPE: &str = "wasmill.dead_letter";

/// Why a message could not be processed.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The reason, for people.
    pub reason: &'a str,
    /// Its kind, as metrics label it: decode, key, time, late, value, trap, fuel, memory, answer, error,
    /// encode.
    pub kind: &'static str,
    /// The stage that it failed at: its name, or `source`, `key_by`, `sink`.
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
    /// Bytes that are no message.
    Bytes(&'a [u8]),
}

impl DeadLetter<'_> {
    /// The dead letter as a message, alone in a frame.
    #[must_use]
    pub fn message(&self, routes: &Routes, what: Buried<'_>, at: &OutputId<'_>) -> FrameBuf {
        let mut body = Map::new();
        body.insert("reason".into(), self.reason.into());
        body.insert("kind".into(), self.kind.into());
        body.insert("stage".into(), self.stage.into());
        if let Some(p) = self.plugin {
            body.insert("plugin".into(), json!({"name": p.name, "version": p.version, "digest": p.digest}));
        }
        body.insert("attempts".into(), self.attempts.into());
        let mut place = String::new();
        match at {
            OutputId::Message { partition, offset, index, .. } => {
                place = format!("{}:{offset}", routes.partition_name(*partition));
                body.insert("partition".into(), routes.partition_name(*partition).into());
                body.insert("offset".into(), (*offset).into());
                if *index > 0 {
                    body.insert("index".into(), (*index).into());
                }
            }
            OutputId::Refused { sink, digest, origin } => {
                place = format!("{sink}:{digest:016x}");
                if let Some((partition, offset)) = origin {
                    body.insert("partition".into(), routes.partition_name(*partition).into());
                    body.insert("offset".into(), (*offset).into());
                }
                body.insert("sink".into(), (*sink).into());
            }
            OutputId::Window { key, start, end, .. } => {
                body.insert("key".into(), text_or_base64(key));
                body.insert("start".into(), (*start).into());
                body.insert("end".into(), (*end).into());
            }
        }
        let (id, timestamp) = match what {
            Buried::Message(message) => {
                body.insert("message".into(), envelope(message));
                (message.id(), message.timestamp())
            }
            Buried::Bytes(bytes) => {
                body.insert("original".into(), text_or_base64(bytes));
                (place.as_str(), TIMESTAMP_NONE)
            }
        };
        framed(id, timestamp, body)
    }
}

fn framed(id: &str, timestamp: i64, body: Map<String, Value>) -> FrameBuf {
    let payload = Value::Object(body).to_string();
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
    let original = match body.remove("message").or_else(|| body.remove("original")) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::from_utf8_lossy(letter).into_owned(),
    };
    for value in body.values_mut() {
        if let Value::String(text) = value {
            text.truncate(head(text, SHORT_TEXT_BYTES_MAX).len());
        }
    }
    body.insert("refused".into(), head(refused, SHORT_TEXT_BYTES_MAX).into());
    body.insert("cut".into(), true.into());
    body.insert("original_bytes".into(), original.len().into());
    body.insert("original".into(), head(&original, SHORT_ORIGINAL_BYTES_MAX).into());
    framed(id, TIMESTAMP_NONE, body)
}

/// As many whole characters as fit.
fn head(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Text as text; other bytes as `{"base64": …}`.
fn text_or_base64(bytes: &[u8]) -> Value {
    use base64::Engine as _;
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"base64": base64::engine::general_purpose::STANDARD.encode(bytes)}),
    }
}

fn json_or_text(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| text_or_base64(bytes))
}

fn envelope(message: Message<'_>) -> Value {
    let mut envelope = Map::new();
    let mut metadata = Map::new();
    let mut fields = Map::new();
    let mut timestamp = json!(message.timestamp());
    for e in message.metadata().entries() {
        let name = String::from_utf8_lossy(e.name).into_owned();
        match e.kind {
            MetaKind::Text => metadata.insert(name, text_or_base64(e.value)),
            MetaKind::Json => metadata.insert(name, json_or_text(e.value)),
            MetaKind::Field => fields.insert(name, json_or_text(e.value)),
            // Empty where a plugin changed the time: only the encoders know the calendar.
            MetaKind::Timestamp => {
                if !e.value.is_empty() {
                    timestamp = text_or_base64(e.value);
                }
                None
            }
        };
    }
    envelope.insert("id".into(), message.id().into());
    envelope.insert("type".into(), message.kind().into());
    envelope.insert("payload".into(), json_or_text(message.payload()));
    if message.timestamp() != TIMESTAMP_NONE {
        envelope.insert("timestamp".into(), timestamp);
    }
    envelope.insert("metadata".into(), Value::Object(metadata));
    envelope.append(&mut fields);
    Value::Object(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let original = body["original"].as_str().expect("text");
        assert!(original.starts_with(r#"{"id":"x","payload":"€"#), "{original}");
        assert!(original.len() <= SHORT_ORIGINAL_BYTES_MAX && original.len() > SHORT_ORIGINAL_BYTES_MAX - 4);
        assert!(message.payload().len() < 6_000, "{}", message.payload().len());
        // What is no dead letter of ours is kept all the same.
        let odd = shorter(b"\xff odd", "why");
        assert!(String::from_utf8_lossy(odd.get(0).payload()).contains("odd"));
    }
}
