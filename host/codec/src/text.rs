//! Plain text: a record's value is the payload, in streams of bytes one a line.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::{FrameBuf, Message};

use crate::around::{Body, TYPE};
use crate::framing::{Cutter, Framing, Joiner, Lines, Place};
use crate::table::CodecSettings;
use crate::{Around, CodecError, HeaderNames, Reading, RecordWriter, Takes, Writing};

/// Plain text in UTF-8, as log lines are: the value of a record is the payload. Id, type, timestamp and metadata are
/// in headers, where there are such. In files, stdin and stdout a line is a message; empty lines are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextSettings {
    /// The type of messages whose headers don't tell one. Default: `message`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The names of the headers that hold id, type and timestamp.
    #[serde(default)]
    pub headers: HeaderNames,
}

#[async_trait]
impl CodecSettings for TextSettings {
    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        let decoder = Arc::new(Text { around: Around::new(self.headers.clone(), self.kind.clone()) });
        Ok(Reading { decoder, framing: Arc::new(TextLines), ahead: None })
    }

    async fn writing(&self, _: &str) -> Result<Writing, CodecError> {
        let writer = Arc::new(Text { around: Around::new(self.headers.clone(), self.kind.clone()) });
        Ok(Writing { writer, framing: Arc::new(TextLines) })
    }
}

struct Text {
    around: Around,
}

/// That bytes are not text, and which one.
fn utf8(bytes: &[u8], what: &str) -> Result<(), String> {
    std::str::from_utf8(bytes).map(drop).map_err(|e| {
        let at = e.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        format!(
            "{what} is not UTF-8 text: byte {at} is 0x{byte:02x}; use the codec `raw` for bytes of any kind"
        )
    })
}

impl Decoder for Text {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        let value = &of.data[record.value.clone()];
        utf8(value, "the value")?;
        self.around.push(record, of, TYPE, Body { payload: value, is_json: false, unseen: &[] }, frame)
    }
}

impl RecordWriter for Text {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.around.record(message, takes, into, |out| {
            utf8(message.payload(), "the payload")?;
            out.extend_from_slice(message.payload());
            Ok(())
        })
    }
}

/// Lines of any text, where those of JSON are never empty.
#[derive(Debug, Clone, Copy, Default)]
struct TextLines;

impl Framing for TextLines {
    fn resumes(&self) -> bool {
        Lines.resumes()
    }

    fn has_lines(&self) -> bool {
        Lines.has_lines()
    }

    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Lines.cutter(from, message_bytes_max)
    }

    fn extension(&self) -> &'static str {
        "txt"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        Lines.joiner()
    }

    fn check(&self, value: &[u8]) -> Result<(), String> {
        match value.last() {
            None => Err("the message's text is empty, and empty lines are passed over: use a codec that keeps it, such as `json`".to_owned()),
            Some(b'\r') => Err("the message's text ends with a carriage return, which would be part of the line's end: use a codec that keeps it, such as `json`".to_owned()),
            Some(_) => Lines.check(value),
        }
    }
}
