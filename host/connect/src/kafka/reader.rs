//! One partition's queue, as a reader takes from it.
//!
//! librdkafka fetches ahead into a queue a partition, bounded in bytes. A reader that isn't polled leaves
//! its queue unread, and fetching stops: nothing is paused, for that would throw away what is fetched.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::sync::Notify;
use wasmill_engine::input::{Header, RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::client::{lock, why};
use super::group::{Context, Shared};
use crate::{ConnectorError, Polled, Reader};

/// How long a reader waits at most before it looks again: whether something went wrong, and into its queue,
/// for librdkafka's word that a queue is no longer empty was seen to be late by as long as it was waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A partition that was opened. Its queue is there while the partition is this process's.
pub(super) struct Slot {
    number: u32,
    pub(super) filled: Arc<Notify>,
    fetch: Mutex<Fetch>,
}

struct Fetch {
    queue: Option<PartitionQueue<Context>>,
    next: u64,
    /// An error that came behind whole records, for the next call.
    late: Option<KafkaError>,
}

impl Slot {
    /// A slot to be read from `next` on, once it is given a queue.
    pub(super) fn new(number: u32, next: u64) -> Self {
        let fetch = Fetch { queue: None, next, late: None };
        Self { number, filled: Arc::new(Notify::new()), fetch: Mutex::new(fetch) }
    }

    /// The offset to read next.
    pub(super) fn next(&self) -> u64 {
        lock(&self.fetch).next
    }

    /// Gives it a queue, which begins at `next`.
    pub(super) fn attach(&self, mut queue: PartitionQueue<Context>) {
        let filled = Arc::clone(&self.filled);
        queue.set_nonempty_callback(move || filled.notify_one());
        lock(&self.fetch).queue = Some(queue);
        self.filled.notify_one();
    }

    /// Takes its queue away: nothing is read any more.
    pub(super) fn detach(&self) {
        let mut fetch = lock(&self.fetch);
        // An error belongs to the queue that it came from.
        (fetch.queue, fetch.late) = (None, None);
    }

    /// What is there already, within the limits; doesn't wait.
    fn take(&self, messages_max: usize, bytes_max: usize) -> Result<Option<RawBatch>, KafkaError> {
        let mut fetch = lock(&self.fetch);
        let Fetch { queue: Some(queue), next, late } = &mut *fetch else { return Ok(None) };
        if let Some(error) = late.take() {
            return Err(error);
        }
        let mut batch = RawBatch {
            partition: PartitionId { source: 0, partition: self.number },
            data: Vec::new(),
            records: Vec::new(),
            next: *next,
        };
        while batch.records.len() < messages_max && (batch.records.is_empty() || batch.data.len() < bytes_max)
        {
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    if let Some(record) = copy(&message, &mut batch.data) {
                        *next = record.next;
                        batch.next = record.next;
                        batch.records.push(record);
                    }
                }
                Some(Err(error)) if batch.records.is_empty() => return Err(error),
                Some(Err(error)) => {
                    *late = Some(error);
                    break;
                }
            }
        }
        Ok((!batch.records.is_empty()).then_some(batch))
    }
}

/// Copies a message behind `data`, so that librdkafka's buffer is free again.
fn copy(message: &BorrowedMessage<'_>, data: &mut Vec<u8>) -> Option<RawRecord> {
    let mut append = |bytes: &[u8]| {
        let start = data.len();
        data.extend_from_slice(bytes);
        start..data.len()
    };
    let offset = u64::try_from(message.offset()).ok()?;
    let value = message.payload();
    let mut copied = || {
        let Some(headers) = message.headers() else { return Vec::new() };
        let one = |h: rdkafka::message::Header<'_, &[u8]>| Header {
            name: append(h.key.as_bytes()),
            value: h.value.map(&mut append),
        };
        headers.iter().map(one).collect()
    };
    // The client's Rust layer panics on a name that isn't UTF-8, and has no other way to it.
    let (headers, rejected) = match catch_unwind(AssertUnwindSafe(&mut copied)) {
        Ok(headers) => (headers, None),
        Err(_) => (Vec::new(), Some("the name of one of its headers is not UTF-8".to_owned())),
    };
    Some(RawRecord {
        offset,
        next: offset + 1,
        value: append(value.unwrap_or_default()),
        tombstone: value.is_none(),
        headers,
        key: message.key().map(&mut append),
        appended_ms: message.timestamp().to_millis(),
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
                Err(error) => return Err(self.told(&error)),
            }
            if tokio::time::timeout(LOOK_AGAIN, self.slot.filled.notified()).await.is_err() {
                self.shared.check()?;
            }
        }
    }
}

impl KafkaReader {
    fn told(&self, error: &KafkaError) -> ConnectorError {
        let name = self.shared.name_of(self.slot.number);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => outside(
                &name,
                self.slot.next(),
                "the topic's retention has removed it, or the topic was made anew",
            ),
            Some(
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed),
            ) => ConnectorError::Fatal(format!(
                "{name}: {code}: grant it, or set other credentials in `properties`"
            )),
            _ => ConnectorError::Disconnected { what: format!("cannot read {name}"), cause: why(error) },
        }
    }
}

/// That an offset is not in its log.
pub(super) fn outside(name: &str, offset: u64, cause: &str) -> ConnectorError {
    ConnectorError::Fatal(format!(
        "offset {offset} of {name} is outside the log: {cause}; run `wasmill reset` to start afresh"
    ))
}
