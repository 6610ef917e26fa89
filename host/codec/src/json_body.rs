//! JSON without an envelope: a record's value is the payload, to the letter.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::{FrameBuf, Message};

use crate::around::{Body, TYPE};
use crate::framing::Lines;
use crate::json::{decode, encode, scan};
use crate::table::CodecSettings;
use crate::{Around, CodecError, HeaderNames, Reading, RecordWriter, Takes, Writing};

/// JSON without an envelope: the value of a record is the payload, one JSON value of any kind. Id, type,
/// timestamp and metadata are in headers, where there are such.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonBodySettings {
    /// The type of messages whose headers don't tell one. Default: `message`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The names of the headers that hold id, type and timestamp.
    #[serde(default)]
    pub headers: HeaderNames,
}

#[async_trait]
impl CodecSettings for JsonBodySettings {
    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        let decoder = Arc::new(JsonBody { around: Around::new(self.headers.clone(), self.kind.clone()) });
        Ok(Reading { decoder, framing: Arc::new(Lines), ahead: None })
    }

    async fn writing(&self, _: &str) -> Result<Writing, CodecError> {
        let writer = Arc::new(JsonBody { around: Around::new(self.headers.clone(), self.kind.clone()) });
        Ok(Writing { writer, framing: Arc::new(Lines) })
    }
}

struct JsonBody {
    around: Around,
}

impl Decoder for JsonBody {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        // A tombstone has no value: there is nothing to look at.
        let payload = if record.tombstone { "" } else { json(&of.data[record.value.clone()])? };
        let body = Body { payload: payload.as_bytes(), is_json: true, unseen: &[] };
        self.around.push(record, of, TYPE, body, frame)
    }
}

impl RecordWriter for JsonBody {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.around.record(message, takes, into, |out| encode::payload(message, "a JSON value", out))
    }
}

/// The one JSON value that bytes are, without the blanks around it.
pub(crate) fn json(value: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(value)
        .map_err(|e| format!("not UTF-8: invalid byte at {}; a payload is JSON text", e.valid_up_to()))?;
    if scan::is_value(text) {
        return Ok(text.trim_matches([' ', '\n', '\t', '\r']));
    }
    if scan::blanks(value, 0) == value.len() {
        return Err("empty: expected one JSON value".to_owned());
    }
    // It knows place and cause.
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(e) => Err(decode::broken(&e)
            .replace("the message's closing brace; one message a line", "the value; one value a message")),
        Ok(IgnoredAny) => Err("broken JSON".to_owned()),
    }
}
