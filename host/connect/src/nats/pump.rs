//! The task that reads ahead of the host, and the reader of what it read.
//!
//! The host may drop a poll at any time, and may not poll for long: that a consumer is alive, is begun anew, and
//! that what it delivered is kept, must not hang on that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Message;
use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use wasmill_engine::input::{Header, RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::lock;
use super::pull::{Ended, Pull};
use crate::{ConnectorError, Polled, Reader};

/// Above so many bytes nothing more is asked for.
const AHEAD_BYTES: usize = 4 << 20;
/// How many messages are handed over at once.
const CHUNK: usize = 1_000;
/// The first and the longest wait before a consumer is begun anew.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A message that was read ahead.
pub(super) struct Item {
    /// Its offset, as the host knows it.
    pub offset: u64,
    /// When the stream took it in, in milliseconds.
    pub time_ms: i64,
    pub message: Message,
}

/// What became of a message that was delivered.
pub(super) enum Taken {
    /// It is the next one.
    Item(Item),
    /// It is there already.
    Known,
    /// Something is missing before it: begin anew.
    Gap(String),
}

/// Where messages come from: a way to read a stream.
#[async_trait]
pub(super) trait Feed: Send + 'static {
    /// Begins, or begins anew behind what was taken.
    async fn begin(&mut self) -> Result<Pull, ConnectorError>;
    /// Takes a message.
    fn take(&mut self, message: Message) -> Taken;
    /// A chunk of messages was taken: what may wait for an answer.
    async fn taken(&mut self) {}
    /// What is read, for people.
    fn name(&self) -> String;
}

#[derive(Clone)]
enum Trouble {
    Away { what: String, cause: String },
    Fatal(String),
}

#[derive(Default)]
struct Ahead {
    items: VecDeque<Item>,
    bytes: usize,
    trouble: Option<Trouble>,
}

#[derive(Default)]
struct Shared {
    ahead: Mutex<Ahead>,
    filled: Notify,
    emptied: Notify,
}

impl Shared {
    fn is_full(&self) -> bool {
        lock(&self.ahead).bytes >= AHEAD_BYTES
    }

    fn set_trouble(&self, trouble: Option<Trouble>) {
        lock(&self.ahead).trouble = trouble;
        self.filled.notify_one();
    }

    fn push(&self, items: &mut Vec<Item>) {
        let mut ahead = lock(&self.ahead);
        ahead.bytes += items.iter().map(|i| held_bytes(&i.message)).sum::<usize>();
        ahead.items.extend(items.drain(..));
        drop(ahead);
        self.filled.notify_one();
    }
}

fn held_bytes(message: &Message) -> usize {
    message.length + size_of::<Item>()
}

/// Reads one partition, of what is read ahead.
pub(super) struct AheadReader {
    partition: u32,
    next: u64,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    /// How many records and bytes the last batch had: the next one will have about as many.
    last: (usize, usize),
}

impl AheadReader {
    /// Begins to read ahead.
    pub fn start(partition: u32, next: u64, feed: impl Feed) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(pump(feed, Arc::clone(&shared)));
        Self { partition, next, shared, task, last: (0, 0) }
    }

    fn take(&mut self, messages_max: usize, bytes_max: usize) -> Option<RawBatch> {
        let mut ahead = lock(&self.shared.ahead);
        if ahead.items.is_empty() {
            return None;
        }
        let was_full = ahead.bytes >= AHEAD_BYTES;
        let mut batch = RawBatch {
            partition: PartitionId { source: 0, partition: self.partition },
            data: Vec::with_capacity(self.last.1),
            records: Vec::with_capacity(self.last.0.min(messages_max)),
            next: self.next,
            preamble: None,
        };
        while batch.records.len() < messages_max.max(1)
            && (batch.records.is_empty() || batch.data.len() < bytes_max)
            && let Some(item) = ahead.items.pop_front()
        {
            ahead.bytes = ahead.bytes.saturating_sub(held_bytes(&item.message));
            batch.next = item.offset + 1;
            copy(&item, &mut batch);
        }
        let is_full = ahead.bytes >= AHEAD_BYTES;
        drop(ahead);
        if was_full && !is_full {
            self.shared.emptied.notify_one();
        }
        self.last = (batch.records.len(), batch.data.len());
        self.next = batch.next;
        Some(batch)
    }
}

impl Drop for AheadReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl Reader for AheadReader {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        loop {
            if let Some(batch) = self.take(messages_max, bytes_max) {
                return Ok(Polled::Records(batch));
            }
            let trouble = lock(&self.shared.ahead).trouble.clone();
            match trouble {
                Some(Trouble::Away { what, cause }) => {
                    return Err(ConnectorError::Disconnected { what, cause });
                }
                Some(Trouble::Fatal(text)) => return Err(ConnectorError::Fatal(text)),
                None => self.shared.filled.notified().await,
            }
        }
    }
}

/// Copies a message into a batch, so that what the connection read is free again.
fn copy(item: &Item, batch: &mut RawBatch) {
    let data = &mut batch.data;
    let mut append = |bytes: &[u8]| {
        let start = data.len();
        data.extend_from_slice(bytes);
        start..data.len()
    };
    let value = append(&item.message.payload);
    let mut headers = Vec::new();
    if let Some(map) = &item.message.headers {
        let mut all: Vec<_> = map.iter().collect();
        // The map has an order of its own in each process: a replay must give the same.
        all.sort_unstable_by(|a, b| AsRef::<str>::as_ref(a.0).cmp(b.0.as_ref()));
        for (name, values) in all {
            for each in values {
                let name = append(AsRef::<str>::as_ref(name).as_bytes());
                headers.push(Header { name, value: Some(append(each.as_str().as_bytes())) });
            }
        }
    }
    batch.records.push(RawRecord {
        offset: item.offset,
        next: item.offset + 1,
        value,
        headers,
        time_ms: Some(item.time_ms),
        appended_ms: Some(item.time_ms),
        ..RawRecord::default()
    });
}

async fn pump(mut feed: impl Feed, shared: Arc<Shared>) {
    let mut wait = RETRY.0;
    loop {
        let why = match feed.begin().await {
            Ok(pull) => {
                shared.set_trouble(None);
                wait = RETRY.0;
                run(&mut feed, pull, &shared).await
            }
            Err(ConnectorError::Disconnected { what, cause }) => Trouble::Away { what, cause },
            Err(error) => Trouble::Fatal(error.to_string()),
        };
        let is_last = matches!(why, Trouble::Fatal(_));
        // It begins anew at once when it has a connection: that is nothing to tell.
        if !matches!(&why, Trouble::Away { cause, .. } if cause.is_empty()) {
            shared.set_trouble(Some(why));
        }
        if is_last {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Reads until it can't, and answers why: without a cause where it may go on at once.
async fn run(feed: &mut impl Feed, mut pull: Pull, shared: &Shared) -> Trouble {
    let away = |feed: &mut _, cause: String| Trouble::Away {
        what: format!("cannot read {}", Feed::name(feed)),
        cause,
    };
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        let full = shared.is_full();
        if !full {
            pull.refill().await;
        }
        let first = if full {
            tokio::select! {
                next = pull.next_unasked() => next,
                () = shared.emptied.notified() => continue,
            }
        } else {
            pull.next().await
        };
        let mut next = match first {
            Ok(message) => Some(message),
            Err(Ended::Reconnected) => return away(feed, String::new()),
            Err(Ended::Lost(cause)) => return away(feed, cause),
            Err(Ended::Refused(cause)) => {
                return Trouble::Fatal(format!("cannot read {}: {cause}", feed.name()));
            }
        };
        let mut gap = None;
        while let Some(message) = next {
            match feed.take(message) {
                Taken::Item(item) => chunk.push(item),
                Taken::Known => {}
                Taken::Gap(why) => {
                    gap = Some(why);
                    break;
                }
            }
            next = if chunk.len() < CHUNK { pull.ready() } else { None };
        }
        shared.push(&mut chunk);
        feed.taken().await;
        if let Some(why) = gap {
            tracing::debug!(reading = %feed.name(), why, "a consumer is begun anew");
            return away(feed, String::new());
        }
    }
}
