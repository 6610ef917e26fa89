//! One partition's queue, as a reader takes from it.
//!
//! librdkafka fetches ahead into a queue a partition, bounded in bytes. A reader that isn't polled leaves
//! its queue unread, and fetching stops: nothing is paused, for that would throw away what is fetched.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;
use wasmill_engine::input::{Header, RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::client::lock;
use super::group::Shared;
use super::queue::{Fetched, Queue};
use crate::{ConnectorError, Polled, Reader};

/// How long a reader waits at most before it looks whether something went wrong, and into its queue.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A partition that was opened. Its queue is there while the partition is this process's.
pub(super) struct Slot {
    number: u32,
    pub(super) filled: Arc<Notify>,
    fetch: Mutex<Fetch>,
}

struct Fetch {
    queue: Option<Queue>,
    next: u64,
    /// How many records and bytes the last batch had: the next one will have about as many.
    last: (usize, usize),
}

impl Slot {
    /// A slot to be read from `next` on, once it is given a queue.
    pub(super) fn new(number: u32, next: u64) -> Self {
        let fetch = Fetch { queue: None, next, last: (0, 0) };
        Self { number, filled: Arc::new(Notify::new()), fetch: Mutex::new(fetch) }
    }

    /// The offset to read next.
    pub(super) fn next(&self) -> u64 {
        lock(&self.fetch).next
    }

    /// Gives it a queue, which begins at `next`.
    pub(super) fn attach(&self, queue: Queue) {
        lock(&self.fetch).queue = Some(queue);
        self.filled.notify_one();
    }

    /// Takes its queue away: nothing is read any more.
    pub(super) fn detach(&self) {
        lock(&self.fetch).queue = None;
    }

    /// What is there already, within the limits; doesn't wait. An error that stands behind whole records is
    /// for the next call.
    fn take(&self, messages_max: usize, bytes_max: usize) -> Result<Option<RawBatch>, RDKafkaErrorCode> {
        let mut fetch = lock(&self.fetch);
        let Fetch { queue: Some(queue), next, last } = &mut *fetch else { return Ok(None) };
        let Some(mut message) = queue.next() else { return Ok(None) };
        let mut batch = RawBatch {
            partition: PartitionId { source: 0, partition: self.number },
            data: Vec::with_capacity(last.1),
            records: Vec::with_capacity(last.0.min(messages_max)),
            next: *next,
            preamble: None,
        };
        loop {
            match message.error() {
                Some(error) if batch.records.is_empty() => return Err(error),
                Some(_) => {
                    queue.put_back(message);
                    break;
                }
                None => {
                    if let Some(record) = copy(&message, &mut batch.data) {
                        *next = record.next;
                        batch.next = record.next;
                        batch.records.push(record);
                    }
                }
            }
            if batch.records.len() >= messages_max || batch.data.len() >= bytes_max {
                break;
            }
            let Some(another) = queue.next() else { break };
            message = another;
        }
        *last = (batch.records.len(), batch.data.len());
        Ok((!batch.records.is_empty()).then_some(batch))
    }
}

/// Copies a message behind `data`, so that librdkafka's buffer is free again.
fn copy(message: &Fetched, data: &mut Vec<u8>) -> Option<RawRecord> {
    let mut append = |bytes: &[u8]| {
        let start = data.len();
        data.extend_from_slice(bytes);
        start..data.len()
    };
    let offset = message.offset()?;
    let value = message.value();
    let (time_ms, is_append_time) = message.time();
    let (mut headers, mut rejected) = (Vec::new(), None);
    message.headers(|name, value| {
        if std::str::from_utf8(name).is_err() {
            rejected = Some("the name of one of its headers is not UTF-8".to_owned());
        }
        headers.push(Header { name: append(name), value: value.map(&mut append) });
    });
    Some(RawRecord {
        offset,
        next: offset + 1,
        value: append(value.unwrap_or_default()),
        tombstone: value.is_none(),
        headers,
        key: message.key().map(&mut append),
        time_ms,
        appended_ms: time_ms.filter(|_| is_append_time),
        line: None,
        rejected,
    })
}

/// Reads one partition.
pub(super) struct KafkaReader {
    pub(super) slot: Arc<Slot>,
    pub(super) shared: Arc<Shared>,
}

#[async_trait]
impl Reader for KafkaReader {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        loop {
            match self.slot.take(messages_max.max(1), bytes_max) {
                Ok(Some(batch)) => return Ok(Polled::Records(batch)),
                Ok(None) => {}
                Err(error) => return Err(self.told(error)),
            }
            if tokio::time::timeout(LOOK_AGAIN, self.slot.filled.notified()).await.is_err() {
                self.shared.check()?;
            }
        }
    }
}

impl KafkaReader {
    fn told(&self, error: RDKafkaErrorCode) -> ConnectorError {
        let name = self.shared.name_of(self.slot.number);
        match error {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => outside(
                &name,
                self.slot.next(),
                "the topic's retention has removed it, or the topic was made anew",
            ),
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed => {
                ConnectorError::Fatal(format!("{name}: {error}: grant it, or set another user in `security`"))
            }
            error => {
                ConnectorError::Disconnected { what: format!("cannot read {name}"), cause: error.to_string() }
            }
        }
    }
}

/// That an offset is not in its log.
pub(super) fn outside(name: &str, offset: u64, cause: &str) -> ConnectorError {
    ConnectorError::Fatal(format!(
        "offset {offset} of {name} is outside the log: {cause}; run `wasmill reset` to start afresh"
    ))
}
