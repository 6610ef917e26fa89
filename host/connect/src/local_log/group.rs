//! Appends for many at once: all that waits goes into one frame, and one sync makes it durable.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::clock::now_ms;
pub use super::keys::RequestKey;
use super::keys::{ENTRY_BYTES, Keys, Known, id};
use super::layout::{Batch, Record};
use super::shared::Shared;
use super::write::{Keep, LogError, LogWriter, SEGMENT_BYTES, Taken};
use crate::{ConnectorError, os};

/// How much goes into one frame, at most, unless one request has more.
const GROUP_BYTES: u64 = 8 << 20;
/// How many keys are kept, at most.
const KEYS_MAX: u64 = 100_000;
/// How many requests may wait.
const WAITING_MAX: usize = 1024;

/// A request's records, to be appended all or none.
#[derive(Debug)]
pub struct Append {
    /// Their bytes.
    pub body: Bytes,
    /// Where each record's value is in `body`.
    pub values: Vec<std::ops::Range<usize>>,
    /// By which a repeat is known.
    pub key: Option<RequestKey>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its records are durable.
    Taken,
    /// So many records of it were taken before, and are durable.
    Repeated(u32),
    /// Another request was taken by its key; nothing of this one.
    KeyUsed,
    /// The log holds as much as it may; nothing was taken.
    Full,
    /// Why nothing was taken, or why it isn't known.
    Failed(LogError),
}

type Waiting = (Append, oneshot::Sender<Answer>);

/// How an appender is set up.
#[derive(Debug, Clone, Copy)]
pub struct AppenderSettings {
    /// How long the segments may be together.
    pub log_bytes_max: u64,
}

impl AppenderSettings {
    /// A segment is a small part of what the log may hold, for what is read goes by whole segments.
    fn segment_bytes(self) -> u64 {
        (self.log_bytes_max / 8).clamp(4096, SEGMENT_BYTES)
    }

    fn keys_max(self) -> usize {
        let fit = self.segment_bytes() / 4 / ENTRY_BYTES as u64;
        usize::try_from(fit.clamp(16, KEYS_MAX)).unwrap_or(usize::MAX)
    }
}

/// Appends to a log from many tasks. The log is let go of when it is closed, or dropped and idle.
#[derive(Debug)]
pub struct Appender {
    requests: mpsc::Sender<Waiting>,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Appender {
    /// Opens a log to be appended to; all that is whole in it is committed.
    ///
    /// # Errors
    /// Who writes it, what of it is damaged, or what can't be made.
    pub async fn open(directory: &Path, settings: AppenderSettings) -> Result<Self, ConnectorError> {
        let directory = directory.to_owned();
        os::blocking(move || {
            let mut writer = Taken::take(&directory)?.open(Keep::Whole, settings.segment_bytes())?;
            // What a killed process wrote is in the system's memory, and may not be on the disk yet.
            writer.sync_again()?;
            writer.commit(writer.end(), true)?;
            let keys = Keys::load(&directory, settings.keys_max())?;
            let shared = Arc::clone(&writer.shared);
            let (requests, waiting) = mpsc::channel(WAITING_MAX);
            let mut group = Group {
                writer,
                keys,
                log_bytes_max: settings.log_bytes_max,
                // The last segment stays though all of it is read: it must not be most of the log.
                group_bytes: GROUP_BYTES.min(settings.segment_bytes()),
            };
            let thread = std::thread::Builder::new()
                .name("log".into())
                .spawn(move || group.run(waiting))
                .map_err(|e| os::fatal("cannot start the thread that writes a log", &e))?;
            Ok(Self { requests, shared, thread: Some(thread) })
        })
        .await
    }

    /// Appends a request's records and waits until they are durable. If the future is dropped, they may be
    /// appended or not.
    pub async fn append(&self, request: Append) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = || Answer::Failed(LogError::Failed("the log is being closed".into()));
        if self.requests.send((request, answer)).await.is_err() {
            return gone();
        }
        answered.await.unwrap_or_else(|_| gone())
    }

    /// How long the segments are together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes()
    }

    /// Ends it: what waits is still appended, then the log is let go of.
    ///
    /// # Errors
    /// When the thread can't be waited for.
    pub async fn close(self) -> Result<(), ConnectorError> {
        let Self { requests, thread, .. } = self;
        drop(requests);
        os::blocking(move || {
            // One that panicked has let go of the log as well.
            let _ = thread.map(std::thread::JoinHandle::join);
            Ok(())
        })
        .await
    }
}

struct Group {
    writer: LogWriter,
    keys: Keys,
    log_bytes_max: u64,
    group_bytes: u64,
}

impl Group {
    fn run(&mut self, mut waiting: mpsc::Receiver<Waiting>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut bytes = first.0.body.len() as u64;
            let mut group = vec![first];
            while bytes < self.group_bytes
                && let Ok(next) = waiting.try_recv()
            {
                bytes += next.0.body.len() as u64;
                group.push(next);
            }
            self.append(group);
        }
    }

    fn append(&mut self, group: Vec<Waiting>) {
        let now_ms = now_ms();
        let mut batch = Batch::default();
        let mut answers = Vec::with_capacity(group.len());
        let mut keys = Vec::new();
        for (request, answer) in group {
            let key = request.key;
            let found = match key.map_or(Known::New, |key| self.keys.known(key, now_ms)) {
                Known::Taken(count) => Answer::Repeated(count),
                Known::Other => Answer::KeyUsed,
                Known::New if !self.has_room(&batch, &request) => Answer::Full,
                Known::New => {
                    let count = push(&request, &mut batch);
                    if let Some(key) = key {
                        self.keys.add(key, count, now_ms);
                        keys.push(key);
                    }
                    Answer::Taken
                }
            };
            answers.push((answer, found));
        }
        let done = self.write(&mut batch, &keys, now_ms);
        if done.is_err() {
            for key in keys.iter().rev() {
                self.keys.take_back(*key);
            }
        }
        for (answer, found) in answers {
            // A repeat may be one of a request of this very group.
            let found = match (&done, found) {
                (Err(e), Answer::Taken | Answer::Repeated(_)) => Answer::Failed(e.clone()),
                (_, found) => found,
            };
            // Who asked may be gone.
            let _ = answer.send(found);
        }
    }

    fn has_room(&self, batch: &Batch, request: &Append) -> bool {
        let more: u64 = request.values.iter().map(|v| Batch::record_bytes(v.len())).sum();
        self.writer.bytes() + batch.bytes() + more <= self.log_bytes_max
    }

    fn write(&mut self, batch: &mut Batch, new: &[RequestKey], now_ms: i64) -> Result<(), LogError> {
        if batch.count() == 0 {
            return Ok(());
        }
        self.writer.roll_if_due()?;
        if self.writer.is_at_segment_start() {
            self.writer.append_note(&self.keys.note_without(new))?;
        }
        let end = self.writer.append(batch, now_ms)?.end;
        self.writer.sync()?;
        // Without a sync of its own: all that is whole counts when the log is opened again.
        self.writer.commit(end, false)
    }
}

/// Puts a request's records into a batch; the first has its key. Answers how many they are.
fn push(request: &Append, batch: &mut Batch) -> u32 {
    let count = u32::try_from(request.values.len()).unwrap_or(u32::MAX);
    let id = request.key.map(|key| id(key, count));
    for (nth, value) in request.values.iter().enumerate() {
        let id = id.as_ref().filter(|_| nth == 0).map(<[u8; 28]>::as_slice);
        batch.push(Record { value: &request.body[value.clone()], key: None, id });
    }
    count
}
