//! What leaves the engine: encoded messages, each with an id that makes a repeat refusable.

use std::ops::Range;

use wasmill_frame::Message;

use crate::position::PartitionId;

/// What an output is the result of. Never an epoch or a batch: a replay must give the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputId<'a> {
    /// The `index`-th result of the message at `offset`.
    Message {
        /// Whose partition's.
        partition: PartitionId,
        /// The message's offset.
        offset: u64,
        /// Which of its results.
        index: u32,
    },
    /// The `revision`-th firing of a window.
    Window {
        /// The stage's name.
        stage: &'a str,
        /// The key.
        key: &'a [u8],
        /// The window's start, in milliseconds.
        start: i64,
        /// The window's end, in milliseconds.
        end: i64,
        /// Which firing, from 0.
        revision: u32,
    },
}

/// One message as a sink will write it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedRecord {
    /// Where the value is in [`EncodedBatch::data`].
    pub value: Range<usize>,
    /// Where the key is, if it has one.
    pub key: Option<Range<usize>>,
    /// Where the output id is, if the sink wants one.
    pub id: Option<Range<usize>>,
    /// Event time in milliseconds, if it has one.
    pub timestamp: Option<i64>,
}

/// Messages as a sink will write them, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedBatch {
    /// All their bytes.
    pub data: Vec<u8>,
    /// The messages.
    pub records: Vec<EncodedRecord>,
}

impl EncodedBatch {
    /// Puts another batch behind this one.
    pub fn append(&mut self, mut other: EncodedBatch) {
        if self.records.is_empty() {
            *self = other;
            return;
        }
        let by = self.data.len();
        self.data.append(&mut other.data);
        let shift = |r: Range<usize>| r.start + by..r.end + by;
        self.records.extend(other.records.into_iter().map(|r| EncodedRecord {
            value: shift(r.value),
            key: r.key.map(shift),
            id: r.id.map(shift),
            timestamp: r.timestamp,
        }));
    }
}

/// Turns messages into what one sink writes. It runs on the workers, so that a sink's own thread
/// only moves bytes.
pub trait Encoder: Send + Sync {
    /// Adds a message to the batch, or nothing and says why.
    ///
    /// # Errors
    /// The reason, for the dead-letter queue.
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String>;
}
