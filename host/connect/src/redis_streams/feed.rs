//! A reader over questions that block a thread for a moment: what a dropped poll had asked, the next one takes.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::entry::Raw;
use crate::{ConnectorError, Polled, Reader};

/// How long a question waits for entries: as long a process that ends may have to wait for it.
pub(super) const BLOCK: Duration = Duration::from_millis(250);
/// The most entries that one question asks for.
const ENTRIES_MAX: usize = 2_000;
/// How long a message is taken to be before one was seen.
const FIRST_GUESS_BYTES: usize = 16 << 10;

/// Asks for entries.
pub(super) trait Fetch: Send + 'static {
    /// Answers at most `entries_max`, or none after a moment.
    fn fetch(&mut self, entries_max: usize) -> Result<Vec<Raw>, ConnectorError>;
}

type Asked<F> = JoinHandle<(F, Result<Vec<Raw>, ConnectorError>)>;

enum Asking<F> {
    Idle(F),
    Asked(Asked<F>),
    /// A thread panicked.
    Broken,
}

/// A partition's reader.
pub(super) struct Feed<F> {
    partition: u32,
    asking: Asking<F>,
    ready: VecDeque<Raw>,
    /// How long a message is, about.
    message_bytes: usize,
}

impl<F: Fetch> Feed<F> {
    pub fn new(partition: u32, fetch: F) -> Self {
        Self {
            partition,
            asking: Asking::Idle(fetch),
            ready: VecDeque::new(),
            message_bytes: FIRST_GUESS_BYTES,
        }
    }

    async fn fill(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), ConnectorError> {
        let entries_max = (bytes_max / self.message_bytes.max(1)).min(messages_max).clamp(1, ENTRIES_MAX);
        if let Asking::Idle(_) = &self.asking
            && let Asking::Idle(mut fetch) = std::mem::replace(&mut self.asking, Asking::Broken)
        {
            self.asking = Asking::Asked(tokio::task::spawn_blocking(move || {
                let answer = fetch.fetch(entries_max);
                (fetch, answer)
            }));
        }
        let Asking::Asked(asked) = &mut self.asking else {
            return Err(ConnectorError::Fatal("the thread that reads from Redis panicked".into()));
        };
        match asked.await {
            Ok((fetch, answer)) => {
                self.asking = Asking::Idle(fetch);
                let answer = answer?;
                if !answer.is_empty() {
                    let bytes: usize = answer.iter().map(|raw| raw.value.len() + size_of::<Raw>()).sum();
                    // A great one shows at once, small ones bit by bit.
                    let now = bytes / answer.len();
                    self.message_bytes = now.max((self.message_bytes + now) / 2);
                }
                self.ready.extend(answer);
                Ok(())
            }
            Err(e) => {
                self.asking = Asking::Broken;
                Err(ConnectorError::Fatal(format!("the thread that reads from Redis did not finish: {e}")))
            }
        }
    }
}

#[async_trait]
impl<F: Fetch> Reader for Feed<F> {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        while self.ready.is_empty() {
            self.fill(messages_max, bytes_max).await?;
        }
        let partition = PartitionId { source: 0, partition: self.partition };
        let mut batch = RawBatch::new(partition);
        while batch.records.len() < messages_max.max(1)
            && let Some(raw) = self.ready.front()
            && (batch.records.is_empty() || batch.data.len() + raw.value.len() <= bytes_max)
            && let Some(raw) = self.ready.pop_front()
        {
            let start = batch.data.len();
            batch.data.extend_from_slice(&raw.value);
            batch.next = raw.next;
            batch.records.push(RawRecord {
                offset: raw.offset,
                next: raw.next,
                value: start..batch.data.len(),
                time_ms: Some(raw.time_ms),
                appended_ms: Some(raw.time_ms),
                rejected: raw.rejected,
                ..RawRecord::default()
            });
        }
        Ok(Polled::Records(batch))
    }
}
