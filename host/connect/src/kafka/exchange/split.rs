//! A partition of the topic as many: one for each partition of the sources.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::START;

use super::{MARK, Said, marked, said};
use crate::kafka::client::lock;
use crate::kafka::group::Handle;
use crate::{ConnectorError, Polled, Reader, os};

/// A partition of the topic, split by the partitions of the sources.
pub(super) struct Split {
    partition: u32,
    parts: BTreeMap<PartitionId, Part>,
    /// What all parts are read by; whose turn it is reads for all.
    reader: Mutex<Option<Box<dyn Reader>>>,
    /// Up to where it is read.
    seen: AtomicU64,
    opened: Notify,
}

/// What a partition of the topic has of one of the sources.
#[derive(Default)]
struct Part {
    filled: Notify,
    inner: std::sync::Mutex<PartInner>,
}

struct PartInner {
    /// From where it is read.
    from: Option<u64>,
    queue: VecDeque<RawBatch>,
    /// How far the source's partition was when something was handed on last.
    time: i64,
    /// The offset behind that.
    handed_on: u64,
}

impl Default for PartInner {
    fn default() -> Self {
        Self { from: None, queue: VecDeque::new(), time: START, handed_on: 0 }
    }
}

impl Split {
    pub fn new(partition: u32, of: impl Iterator<Item = PartitionId>) -> Self {
        let parts = of.map(|id| (id, Part::default())).collect();
        let seen = AtomicU64::new(0);
        Self { partition, parts, reader: Mutex::default(), seen, opened: Notify::new() }
    }

    /// A part is read from an offset on; the partition is opened once all parts are.
    pub async fn from(&self, of: PartitionId, offset: u64, handle: &Handle) -> Result<(), ConnectorError> {
        let mut reader = self.reader.lock().await;
        if let Some(part) = self.parts.get(&of) {
            let mut inner = lock(&part.inner);
            (inner.from, inner.handed_on) = (Some(offset), offset);
        }
        let from: Option<Vec<u64>> = self.parts.values().map(|part| lock(&part.inner).from).collect();
        if let Some(least) = from.and_then(|from| from.into_iter().min()) {
            let (handle, partition) = (handle.clone(), self.partition);
            // What was deleted was taken in by all parts, or never theirs.
            *reader = Some(os::blocking(move || handle.reader(partition, least)).await?);
            self.opened.notify_waiters();
        }
        Ok(())
    }

    /// Up to where a part is taken in that is taken in up to an offset of its own records: others' may follow.
    pub fn taken_in(&self, of: PartitionId, offset: u64) -> u64 {
        let Some(part) = self.parts.get(&of) else { return offset };
        let handed_on = lock(&part.inner).handed_on;
        if offset < handed_on { offset } else { offset.max(self.seen.load(Ordering::Acquire)) }
    }

    /// The next records of a part.
    async fn poll(
        &self,
        of: PartitionId,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Polled, ConnectorError> {
        let Some(part) = self.parts.get(&of) else { return Ok(Polled::End) };
        loop {
            let filled = part.filled.notified();
            if let Some(batch) = lock(&part.inner).queue.pop_front() {
                return Ok(Polled::Records(batch));
            }
            let opened = self.opened.notified();
            tokio::select! {
                () = filled => {}
                mut reader = self.reader.lock() => match reader.as_mut() {
                    // Who had its turn before may have read for this one.
                    _ if !lock(&part.inner).queue.is_empty() => {}
                    None => {
                        drop(reader);
                        opened.await;
                    }
                    Some(reader) => match reader.poll(messages_max, bytes_max).await? {
                        Polled::Records(raw) => self.split(&raw)?,
                        Polled::End => return Ok(Polled::End),
                    },
                }
            }
        }
    }

    /// Puts records to the parts that they are of.
    fn split(&self, raw: &RawBatch) -> Result<(), ConnectorError> {
        let mut batches: BTreeMap<PartitionId, RawBatch> = BTreeMap::new();
        // `time`: how far the source's partition is, where the record is a mark.
        let mut add = |of: PartitionId, record: &RawRecord, value: &[u8], time: Option<i64>| {
            let part = self
                .parts
                .get(&of)
                .ok_or_else(|| ConnectorError::Outdated(format!("a source has a new partition: {of}")))?;
            let mut inner = lock(&part.inner);
            // Taken in before; or a mark of one that is quiet, which must not look as if it were not.
            let is_old = inner.from.is_some_and(|from| record.offset < from);
            if is_old || time.is_some_and(|time| time <= inner.time) {
                return Ok(());
            }
            inner.time = inner.time.max(time.unwrap_or(START));
            inner.handed_on = record.next;
            drop(inner);
            let batch = batches.entry(of).or_insert_with(|| RawBatch {
                partition: PartitionId { source: 0, partition: 0 },
                data: Vec::new(),
                records: Vec::new(),
                next: 0,
            });
            let start = batch.data.len();
            batch.data.extend_from_slice(value);
            let value = start..batch.data.len();
            batch.records.push(RawRecord { value, key: None, headers: Vec::new(), ..record.clone() });
            batch.next = record.next;
            Ok(())
        };
        for record in &raw.records {
            let value = raw.data.get(record.value.clone()).unwrap_or_default();
            match said(value) {
                Some(Said::Message { from, .. }) => add(from, record, value, None)?,
                Some(Said::Mark) => {
                    for (from, time) in marked(value).into_iter().flatten() {
                        let mut mark = vec![MARK, 1, 0, 0, 0];
                        mark.extend_from_slice(&from.source.to_le_bytes());
                        mark.extend_from_slice(&from.partition.to_le_bytes());
                        mark.extend_from_slice(&time.to_le_bytes());
                        add(from, record, &mark, Some(time))?;
                    }
                }
                // Whose it is nobody knows: the first one tells it as a dead letter.
                None => {
                    if let Some(first) = self.parts.keys().next() {
                        add(*first, record, value, None)?;
                    }
                }
            }
        }
        // Before anything is handed on: whoever asks how far a part is knows of that already.
        self.seen.store(raw.next, Ordering::Release);
        for (of, batch) in batches {
            if let Some(part) = self.parts.get(&of) {
                lock(&part.inner).queue.push_back(batch);
                part.filled.notify_one();
            }
        }
        Ok(())
    }
}

/// Reads what one partition of the sources has in one of the topic.
pub(super) struct PartReader {
    pub split: Arc<Split>,
    pub of: PartitionId,
}

#[async_trait]
impl Reader for PartReader {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        self.split.poll(self.of, messages_max, bytes_max).await
    }
}
