//! MessagePack: a body is one object, which becomes the JSON of the payload; or the whole envelope is.
//!
//! | MessagePack | JSON | and back |
//! |---|---|---|
//! | integers | numbers, to the last digit | the smallest form |
//! | float 32, float 64 | numbers with a point; `"NaN"`, `"Infinity"`, `"-Infinity"` | float 64; text stays text |
//! | str | text | str |
//! | bin | text in base64 | stays text |
//! | map with keys that are text | an object | a map |
//! | timestamp (-1) | text in RFC 3339, UTC, with nanoseconds | stays text |
//! | other extensions, other keys, a key twice | refused | |

use std::cell::RefCell;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::{FrameBuf, Message};

use crate::around::{Around, Body, HeaderNames, TYPE};
use crate::framing::Objects;
use crate::json::{JsonDecoder, JsonEncoder};
use crate::number::Numbers;
use crate::table::CodecSettings;
use crate::unseen::Unseen;
use crate::{CodecError, Reading, RecordWriter, Takes, Writing};

mod decode;
mod encode;
pub(crate) mod header;

/// MessagePack: the payload is the body's one object, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessagePackSettings {
    /// Whether a body is the whole message, a map of `id`, `type`, `payload`, `timestamp`, `metadata`, as the
    /// JSON envelope is. Default: false, it is the payload alone.
    #[serde(default)]
    pub envelope: bool,
    /// How numbers that a double can't hold to the last digit are written: `exact` refuses, `round` rounds.
    /// Default: exact.
    #[serde(default)]
    pub numbers: Numbers,
    /// The type of messages without a header that tells it. Default: `message`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The names of the headers that hold id, type and timestamp.
    #[serde(default)]
    pub headers: HeaderNames,
}

impl MessagePackSettings {
    fn ends(&self) -> Result<Around, CodecError> {
        if self.envelope && (self.kind.is_some() || self.headers != HeaderNames::default()) {
            return Err(CodecError::Wrong(
                "messagepack: with `envelope: true` the body holds id, type and timestamp: leave out `type` and `headers`"
                    .into(),
            ));
        }
        Ok(Around::new(self.headers.clone(), self.kind.clone()))
    }
}

#[async_trait]
impl CodecSettings for MessagePackSettings {
    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        let decoder = Arc::new(MessagePackDecoder { around: self.ends()?, envelope: self.envelope });
        Ok(Reading { decoder, framing: Arc::new(Objects), ahead: None })
    }

    async fn writing(&self, _: &str) -> Result<Writing, CodecError> {
        let writer = Arc::new(MessagePackWriter {
            around: self.ends()?,
            envelope: self.envelope,
            numbers: self.numbers,
        });
        Ok(Writing { writer, framing: Arc::new(Objects) })
    }
}

thread_local! {
    /// The JSON of a message: used for one after the other.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::default();
}

struct MessagePackDecoder {
    around: Around,
    envelope: bool,
}

impl Decoder for MessagePackDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        if record.tombstone {
            return self.around.push(record, of, TYPE, Body::default(), frame);
        }
        let value = &of.data[record.value.clone()];
        if self.envelope {
            return envelope(value, record, of, frame);
        }
        SCRATCH.with_borrow_mut(|json| {
            json.clear();
            decode::read(value, json).map_err(|wrong| wrong.told())?;
            let body = Body { payload: json, is_json: true, unseen: &[] };
            self.around.push(record, of, TYPE, body, frame)
        })
    }
}

/// Reads an envelope by way of the JSON envelope, so that both mean the same.
fn envelope(value: &[u8], record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
    let mut data = Vec::new();
    decode::read(value, &mut data).map_err(|wrong| wrong.told_of("envelope"))?;
    let mut as_json = RawRecord { value: 0..data.len(), ..record.clone() };
    let mut moved = |range: &mut std::ops::Range<usize>| {
        *range = crate::unseen::append(&of.data[range.clone()], &mut data);
    };
    as_json.key.iter_mut().for_each(&mut moved);
    for header in &mut as_json.headers {
        moved(&mut header.name);
        header.value.iter_mut().for_each(&mut moved);
    }
    let of = RawBatch { data, ..RawBatch::new(of.partition) };
    JsonDecoder.decode(&as_json, &of, frame)
}

struct MessagePackWriter {
    around: Around,
    envelope: bool,
    numbers: Numbers,
}

impl RecordWriter for MessagePackWriter {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        if self.envelope {
            return self.write_envelope(message, takes, into);
        }
        self.around.record(message, takes, into, |out| {
            encode::write(message.payload(), self.numbers, out).map_err(|wrong| wrong.told())
        })
    }
}

impl MessagePackWriter {
    fn write_envelope(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        let mut as_json = EncodedBatch::default();
        let mut record = JsonEncoder.write(message, Takes { headers: false, ..takes }, &mut as_json)?;
        if !record.tombstone {
            let start = into.data.len();
            let packed = encode::write(&as_json.data[record.value.clone()], self.numbers, &mut into.data);
            if let Err(wrong) = packed {
                into.data.truncate(start);
                return Err(wrong.told_of("envelope"));
            }
            record.value = start..into.data.len();
        }
        if takes.headers {
            Unseen::of(message.metadata()).write_headers(into, &mut record);
        }
        Ok(record)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The object of a JSON text.
    pub(crate) fn of_json(json: &str, settings: &MessagePackSettings) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        encode::write(json.as_bytes(), settings.numbers, &mut out).map_err(|wrong| wrong.told())?;
        Ok(out)
    }
}
