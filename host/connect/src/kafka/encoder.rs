//! Messages as records: the JSON envelope as the value, and beside it key, headers and time.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId};
use wasmill_frame::Message;

use crate::codec::unseen::append;
use crate::codec::{RecordWriter, Takes};

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
pub(super) struct KafkaEncoder {
    pub codec: Arc<dyn RecordWriter>,
    pub key: KeyFrom,
}

impl Encoder for KafkaEncoder {
    fn encode(&self, message: Message<'_>, _: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let takes = Takes { headers: true, tombstones: true };
        let mut encoded = self.codec.write(message, takes, into)?;
        let mut append = |bytes: &[u8]| append(bytes, &mut into.data);
        encoded.key = match self.key {
            KeyFrom::Message => message.key().map(&mut append),
            KeyFrom::Id => Some(append(message.id().as_bytes())),
            KeyFrom::Type => Some(append(message.kind().as_bytes())),
            KeyFrom::None => None,
        };
        into.records.push(encoded);
        Ok(())
    }
}
