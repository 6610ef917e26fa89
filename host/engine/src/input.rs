//! What readers hand to the engine: bytes as they came, each with its place in the log.

use std::ops::Range;

use wasmill_frame::FrameBuf;

use crate::position::PartitionId;

/// One record of a source partition, not decoded yet.
#[derive(Debug, Clone, Default)]
pub struct RawRecord {
    /// Its offset in the log.
    pub offset: u64,
    /// The offset to read after it.
    pub next: u64,
    /// Where its bytes are in [`RawBatch::data`].
    pub value: Range<usize>,
    /// Where its key is, if the log gives one.
    pub key: Option<Range<usize>>,
    /// When the log took it in, in milliseconds, if the log says.
    pub appended_ms: Option<i64>,
    /// Its line, counted from 1, where the log is text that people look into.
    pub line: Option<u64>,
    /// Why the reader could not take it whole (a record above the limit); `value` is then its head.
    pub rejected: Option<String>,
}

/// Consecutive records of one partition.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// Whose they are.
    pub partition: PartitionId,
    /// All their bytes.
    pub data: Vec<u8>,
    /// The records in the log's order.
    pub records: Vec<RawRecord>,
    /// The offset to read next.
    pub next: u64,
}

impl RawBatch {
    /// What it takes up in memory, about.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.data.len() + self.records.len() * size_of::<RawRecord>()
    }
}

/// Turns a record's bytes into a message.
pub trait Decoder: Send + Sync {
    /// Adds the record's message to `frame`, or nothing and says why: what is wrong, where in the
    /// record, and what to do.
    ///
    /// # Errors
    /// The reason, for the dead-letter queue.
    fn decode(
        &self,
        value: &[u8],
        key: Option<&[u8]>,
        appended_ms: Option<i64>,
        frame: &mut FrameBuf,
    ) -> Result<(), String>;
}
