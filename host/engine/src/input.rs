//! What readers hand to the engine: bytes as they came, each with its place in the log.

use std::ops::Range;
use std::sync::Arc;

use wasmill_frame::FrameBuf;

use crate::position::PartitionId;
use crate::replay::ReplayDecoder;

/// A header of a record, as logs with headers give them: places in the batch's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name, UTF-8.
    pub name: Range<usize>,
    /// Its value; none where the log has none.
    pub value: Option<Range<usize>>,
}

/// One record of a source partition, not decoded yet.
#[derive(Debug, Clone, Default)]
pub struct RawRecord {
    /// Its offset in the log.
    pub offset: u64,
    /// The offset to read after it.
    pub next: u64,
    /// Where its bytes are in [`RawBatch::data`].
    pub value: Range<usize>,
    /// Whether it has no value at all: a tombstone, which says that its key is gone.
    pub tombstone: bool,
    /// Its headers, in order; a name may stand twice.
    pub headers: Vec<Header>,
    /// Where its key is, if the log gives one.
    pub key: Option<Range<usize>>,
    /// The time that the log has for it, in milliseconds: its producer's, or when it was taken in.
    pub time_ms: Option<i64>,
    /// When the log took it in, in milliseconds, if the log says that.
    pub appended_ms: Option<i64>,
    /// Its line, counted from 1, where the log is text that people look into.
    pub line: Option<u64>,
    /// Why the reader could not take it whole (a record above the limit); `value` is then its head.
    pub rejected: Option<String>,
}

impl RawRecord {
    /// A record that is nothing but its value, the whole of its batch's data.
    #[must_use]
    pub fn of_value(data: &[u8]) -> Self {
        Self { value: 0..data.len(), ..Self::default() }
    }
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
    /// What stands once before the records and says how to read them, as the header of a file.
    pub preamble: Option<Arc<[u8]>>,
}

impl RawBatch {
    /// An empty one.
    #[must_use]
    pub fn new(partition: PartitionId) -> Self {
        Self { partition, data: Vec::new(), records: Vec::new(), next: 0, preamble: None }
    }

    /// One record that is nothing but its value.
    #[must_use]
    pub fn of_value(value: &[u8]) -> Self {
        let record = RawRecord { next: 1, ..RawRecord::of_value(value) };
        let batch = Self::new(PartitionId { source: 0, partition: 0 });
        Self { data: value.to_vec(), records: vec![record], next: 1, ..batch }
    }

    /// What it takes up in memory, about.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.data.len() + self.records.len() * size_of::<RawRecord>()
    }

    /// Its records before an offset, and those from it on: each with all the bytes.
    #[must_use]
    pub fn split_at(mut self, offset: u64) -> (Self, Self) {
        let behind = self.records.partition_point(|record| record.offset < offset);
        let back = Self {
            records: self.records.split_off(behind),
            data: self.data.clone(),
            preamble: self.preamble.clone(),
            ..self
        };
        self.next = self.next.min(offset);
        (self, back)
    }

    /// The record at an offset.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<&RawRecord> {
        let found = self.records.binary_search_by_key(&offset, |record| record.offset).ok()?;
        self.records.get(found)
    }
}

/// Turns a record's bytes into a message.
pub trait Decoder: Send + Sync {
    /// Adds the record's message to `frame`, or nothing and says why: what is wrong, where in the
    /// record, and what to do. `of` is the record's batch.
    ///
    /// # Errors
    /// The reason, for the dead-letter queue.
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String>;
    /// What a record carries of the stream time of the partition that it comes from.
    fn carried(&self, _: &RawRecord, _: &[u8]) -> Carried {
        Carried::Nothing
    }
    /// Of a source of dead letters that are put through again: what reads them.
    fn replay(&self) -> Option<&ReplayDecoder> {
        None
    }
}

/// What a record carries of stream time, behind an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Nothing: the record's event time tells it.
    Nothing,
    /// The stamp of its message.
    Stamp(i64),
    /// How far its partition is. It has no message.
    Mark(i64),
}
