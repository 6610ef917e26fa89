//! Messages in tests: what goes in, and what comes out.

use serde_json::Value;
use wasmill_frame::{FrameBuf, MetaKind, MetaWriter, Parts, TIMESTAMP_NONE};

/// A message, before or after a plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct TestMessage {
    /// The id.
    pub id: String,
    /// The type.
    pub kind: String,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload.
    pub payload: Vec<u8>,
    /// Event time in milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// The metadata.
    pub metadata: Vec<(String, Value)>,
    /// The named output that it leaves by.
    pub output: Option<String>,
}

/// A message of this type, with the id `test` and the payload `{}`, to be added to.
#[must_use]
pub fn message(kind: &str) -> TestMessage {
    TestMessage {
        id: "test".to_owned(),
        kind: kind.to_owned(),
        key: None,
        payload: b"{}".to_vec(),
        timestamp: None,
        metadata: Vec::new(),
        output: None,
    }
}

impl TestMessage {
    /// With this id.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = id.to_owned();
        self
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = payload.as_ref().to_vec();
        self
    }

    /// With this JSON as payload: `json!({"dep_delay": 20})`.
    #[must_use]
    pub fn json(self, payload: Value) -> Self {
        self.payload(payload.to_string())
    }

    /// With this event time in milliseconds since 1970.
    #[must_use]
    pub fn timestamp(mut self, timestamp_ms: i64) -> Self {
        self.timestamp = Some(timestamp_ms);
        self
    }

    /// With this metadata: text, or other JSON.
    #[must_use]
    pub fn metadata(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set_metadata(name, value.into());
        self
    }

    /// The payload as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn payload_json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|e| {
            panic!("the payload is no JSON ({e}): {}", String::from_utf8_lossy(&self.payload))
        })
    }

    /// The text of this metadata.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(n, _)| n == name)?.1.as_str()
    }

    pub(super) fn set_metadata(&mut self, name: &str, value: Value) {
        match self.metadata.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((name.to_owned(), value)),
        }
    }

    pub(super) fn push_to(&self, frame: &mut FrameBuf) {
        let mut metadata = MetaWriter::new();
        for (name, value) in &self.metadata {
            match value {
                Value::String(text) => metadata.push(MetaKind::Text, name.as_bytes(), text.as_bytes()),
                other => metadata.push(MetaKind::Json, name.as_bytes(), other.to_string().as_bytes()),
            }
        }
        frame.push(&Parts {
            id: &self.id,
            kind: &self.kind,
            key: self.key.as_deref(),
            payload: &self.payload,
            timestamp: self.timestamp.unwrap_or(TIMESTAMP_NONE),
            metadata: metadata.as_bytes(),
            payload_is_json: false,
        });
    }
}
