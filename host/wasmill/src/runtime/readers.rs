//! One task a partition: reads as far as its credit goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use tokio::sync::{Notify, watch};
use wasmill_connect::{ConnectorError, Polled, Reader};

use super::alarm::Alarm;
use super::coordinate::Event;
use super::health::Health;
use super::retry::Backoff;
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

    async fn wait(&self) {
        loop {
            let freed = self.freed.notified();
            if self.used_bytes.load(Ordering::Acquire) < self.bytes_max {
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

/// What one reader task needs.
pub(super) struct ReaderTask {
    pub id: PartitionId,
    pub name: String,
    pub reader: Box<dyn Reader>,
    pub credit: Arc<Credit>,
    pub batch_messages_max: usize,
    pub batch_bytes_max: usize,
    pub events: Sender<Event>,
    pub stop: watch::Receiver<bool>,
    pub health: Arc<Health>,
}

impl ReaderTask {
    /// Reads until the end, a fatal error, or the order to stop.
    pub async fn run(mut self) {
        let _alarm = Alarm::new("a reader", &self.events);
        let mut stop = self.stop.clone();
        let last = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Event::ReaderStopped,
            last = self.read() => last,
        };
        // The coordinator may be gone already: then nobody needs to know.
        let _ = self.events.send(last);
    }

    async fn read(&mut self) -> Event {
        let mut backoff = Backoff::new();
        loop {
            self.credit.wait().await;
            match self.reader.poll(self.batch_messages_max, self.batch_bytes_max).await {
                Ok(Polled::Records(mut raw)) => {
                    if backoff.end() {
                        self.health.well(&self.name);
                    }
                    raw.partition = self.id;
                    self.credit.take(raw.held_bytes());
                    if self.events.send(Event::Raw(raw)).is_err() {
                        return Event::ReaderStopped;
                    }
                }
                Ok(Polled::End) => return Event::End(self.id),
                Err(ConnectorError::Fatal(text)) => return Event::Failed(text),
                Err(ConnectorError::Disconnected { what, cause }) => {
                    self.health.ill(&self.name, &format!("{what}: {cause}"));
                    if self.events.send(Event::Away(self.id)).is_err() {
                        return Event::ReaderStopped;
                    }
                    let wait: Duration = backoff.next();
                    tracing::warn!(source = %self.name, %what, %cause, again_in_ms = wait.as_millis() as u64, "the source is away");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}
