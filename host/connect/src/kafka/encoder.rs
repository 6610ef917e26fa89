//! Messages as records: the JSON envelope as the value, and beside it key, headers and time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::Header;
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::time::TIMESTAMP_NONE;
use wasmill_frame::Message;

use crate::codec::json::{Unseen, append, is_tombstone, record};

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
    fn encode(&self, message: Message<'_>, _: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let unseen = Unseen::of(message.metadata());
        let mut encoded = if is_tombstone(message) {
            let timestamp = Some(message.timestamp()).filter(|t| *t != TIMESTAMP_NONE);
            EncodedRecord { tombstone: true, timestamp, ..EncodedRecord::default() }
        } else {
            record(message, &unseen, into)?
        };
        let mut append = |bytes: &[u8]| append(bytes, &mut into.data);
        encoded.key = match self.0 {
            KeyFrom::Message => message.key().map(&mut append),
            KeyFrom::Id => Some(append(message.id().as_bytes())),
            KeyFrom::Type => Some(append(message.kind().as_bytes())),
            KeyFrom::None => None,
        };
        encoded.headers = unseen
            .headers()
            .map(|(name, value)| Header { name: append(name), value: value.map(&mut append) })
            .collect();
        into.records.push(encoded);
        Ok(())
    }
}
