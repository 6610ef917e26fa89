//! One task a partition: reads as far as its credit goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::{Notify, watch};
use wasmill_connect::codec::Ahead;
use wasmill_connect::{ConnectorError, Polled, Reader};

use super::alarm::Alarm;
use super::coordinate::Event;
use super::retry::{Backoff, Ends, insist};
use wasmill_engine::position::PartitionId;

/// How many raw bytes of a partition may be on their way at once. One batch may go beyond it.
pub(super) struct Credit {
    used_bytes: AtomicUsize,
    bytes_max: usize,
    freed: Notify,
}

impl Credit {
    pub fn new(bytes_max: usize) -> Self {
        Self { used_bytes: AtomicUsize::new(0), bytes_max, freed: Notify::new() }
    }

    fn is_left(&self) -> bool {
        self.used_bytes.load(Ordering::Acquire) < self.bytes_max
    }

    async fn wait(&self) {
        loop {
            let freed = self.freed.notified();
            if self.is_left() {
                return;
            }
            freed.await;
        }
    }

    /// So many bytes more are on their way.
    pub fn take(&self, bytes: usize) {
        self.used_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub fn give_back(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

/// How long a reader that was away must wait without an error to be called back.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// What all reader tasks of a pipeline need.
#[derive(Clone)]
pub(super) struct Reading {
    pub batch_messages_max: usize,
    pub batch_bytes_max: usize,
    pub events: Sender<Event>,
    pub ends: Ends,
    /// By source: what must be had before its batches can be decoded.
    pub aheads: Arc<[Option<Arc<dyn Ahead>>]>,
}

/// What one reader task needs.
pub(super) struct ReaderTask {
    pub id: PartitionId,
    pub name: String,
    pub reader: Box<dyn Reader>,
    pub credit: Arc<Credit>,
    pub stop: watch::Receiver<bool>,
    pub reading: Reading,
}

impl ReaderTask {
    /// Reads until the end, a fatal error, or the order to stop.
    pub async fn run(mut self) {
        let _alarm = Alarm::new("a reader", &self.reading.events);
        let mut stop = self.stop.clone();
        let last = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Event::ReaderStopped,
            last = self.read() => last,
        };
        // The coordinator may be gone already: then nobody needs to know.
        let _ = self.reading.events.send(last);
        self.reading.ends.health.well(&self.name);
    }

    async fn read(&mut self) -> Event {
        let mut backoff = Backoff::new();
        loop {
            if !self.credit.is_left() {
                let since = Instant::now();
                self.credit.wait().await;
                self.reading.ends.observed.held_back(since.elapsed());
            }
            let Reading { batch_messages_max, batch_bytes_max, events, ends, aheads } = &self.reading;
            let polled = self.reader.poll(*batch_messages_max, *batch_bytes_max);
            let polled = match backoff.is_waiting() {
                false => polled.await,
                // One that was away and waits quietly now is back.
                true => match tokio::time::timeout(QUIET, polled).await {
                    Ok(polled) => polled,
                    Err(_) => {
                        ends.well(&self.name, &mut backoff);
                        continue;
                    }
                },
            };
            match polled {
                Ok(Polled::Records(mut raw)) => {
                    if backoff.is_waiting() {
                        ends.well(&self.name, &mut backoff);
                    }
                    raw.partition = self.id;
                    if let Some(ahead) = aheads.get(usize::from(self.id.source)).and_then(Option::as_ref) {
                        let bring = async || ahead.bring(&raw).await.map_err(ConnectorError::from);
                        if let Err(halt) = insist!(ends, &self.name, bring()) {
                            return halt.into();
                        }
                    }
                    self.credit.take(raw.held_bytes());
                    if events.send(Event::Raw(raw)).is_err() {
                        return Event::ReaderStopped;
                    }
                }
                Ok(Polled::End) => return Event::End(self.id),
                Err(error) => {
                    if matches!(error, ConnectorError::Disconnected { .. })
                        && events.send(Event::Away(self.id)).is_err()
                    {
                        return Event::ReaderStopped;
                    }
                    if let Err(halt) = ends.wait(&self.name, &mut backoff, error).await {
                        return halt.into();
                    }
                }
            }
        }
    }
}
