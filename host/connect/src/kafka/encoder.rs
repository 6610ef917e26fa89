//! Messages as records: the JSON envelope as the value, and beside it key, headers and time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::Header;
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::Message;

use crate::codec::json::{JsonEncoder, headers, is_tombstone};

/// What a record's key is. Records with the same key go to the same partition, in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyFrom {
    /// The message's key: that of its `key_by`, else the key that it came with.
    #[default]
    Message,
    /// The message's id.
    Id,
    /// The message's type.
    Type,
    /// Records have no key: any partition takes them.
    None,
}

/// Writes messages as records.
pub(super) struct KafkaEncoder(pub(super) KeyFrom);

impl Encoder for KafkaEncoder {
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        if is_tombstone(message) {
            let timestamp = Some(message.timestamp()).filter(|t| *t != TIMESTAMP_NONE);
            into.records.push(EncodedRecord { tombstone: true, timestamp, ..EncodedRecord::default() });
        } else {
            JsonEncoder.encode(message, id, into)?;
        }
        let Some(record) = into.records.last_mut() else { return Ok(()) };
        if let Some(key) = record.key.take() {
            into.data.truncate(key.start);
        }
        let mut append = |bytes: &[u8]| {
            let start = into.data.len();
            into.data.extend_from_slice(bytes);
            start..into.data.len()
        };
        record.key = match self.0 {
            KeyFrom::Message => message.key().map(&mut append),
            KeyFrom::Id => Some(append(message.id().as_bytes())),
            KeyFrom::Type => Some(append(message.kind().as_bytes())),
            KeyFrom::None => None,
        };
        record.headers = headers(message)
            .map(|(name, value)| Header { name: append(name), value: value.map(&mut append) })
            .collect();
        Ok(())
    }
}
