//! Bytes as they are: a record's value is the payload, which nobody looks into.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::{FrameBuf, Message};

use crate::around::{Body, TYPE};
use crate::framing::Length;
use crate::table::CodecSettings;
use crate::{Around, CodecError, HeaderNames, Reading, RecordWriter, Takes, Writing};

/// Bytes as they are: the value of a record is the payload, whatever it is. Id, type, timestamp and metadata are in
/// headers, where there are such. In files, stdin and stdout each record has its length before it: four bytes,
/// the greatest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// The type of messages whose headers don't tell one. Default: `message`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The names of the headers that hold id, type and timestamp.
    #[serde(default)]
    pub headers: HeaderNames,
}

#[async_trait]
impl CodecSettings for RawSettings {
    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        let decoder = Arc::new(Raw { around: Around::new(self.headers.clone(), self.kind.clone()) });
        Ok(Reading { decoder, framing: Arc::new(Length), ahead: None })
    }

    async fn writing(&self, _: &str) -> Result<Writing, CodecError> {
        let writer = Arc::new(Raw { around: Around::new(self.headers.clone(), self.kind.clone()) });
        Ok(Writing { writer, framing: Arc::new(Length) })
    }
}

struct Raw {
    around: Around,
}

impl Decoder for Raw {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        let body = Body { payload: &of.data[record.value.clone()], is_json: false, unseen: &[] };
        self.around.push(record, of, TYPE, body, frame)
    }
}

impl RecordWriter for Raw {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.around.record(message, takes, into, |out| {
            out.extend_from_slice(message.payload());
            Ok(())
        })
    }
}
