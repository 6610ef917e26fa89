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
            OutputId::Refused { sink, digest } => {
                place = format!("{sink}:{digest:016x}");
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
