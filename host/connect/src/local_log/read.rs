//! Reads a log while it is written, by this process or by another.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::directory::{incarnation, list};
use super::frames::{Found, Frames};
use super::layout::{Kind, Place, places};
use super::marker::Marker;
use super::shared::Shared;
use super::write::damaged;
use crate::{ConnectorError, Polled, Reader, os};

/// How much is read ahead, unless a frame is longer.
const AHEAD_BYTES: usize = 256 * 1024;
/// How often it is looked whether another process has written.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often, of these, it is looked whether the log is still the same.
const CHECK_EVERY: u32 = 10;

/// Records that were read ahead.
#[derive(Default)]
struct Ahead {
    /// Their frames' bodies, each once, in order.
    bodies: Vec<Vec<u8>>,
    /// Each with its offset, its time, and the body that it is in.
    records: VecDeque<(u64, i64, usize, Place)>,
}

/// A place in a log.
struct Cursor {
    directory: PathBuf,
    incarnation: String,
    marker: Marker,
    shared: Arc<Shared>,
    /// The offset to read next.
    next: u64,
    frames: Option<Frames>,
    /// What was committed when `frames` last read: what it has from behind that may be written anew.
    sound_before: u64,
}

impl Cursor {
    fn open(directory: &Path, offset: u64) -> Result<Self, ConnectorError> {
        let shown = directory.display();
        let failed = |e: &io::Error| os::fatal(format!("cannot read the log {shown}"), e);
        let incarnation = super::directory::make(directory)?;
        let marker = Marker::open(directory, false).map_err(|e| failed(&e))?;
        let committed = marker.read().map_err(|e| failed(&e))?;
        let bases = list(directory).map_err(|e| failed(&e))?;
        let first = bases.first().copied().unwrap_or(0);
        if offset < first || offset > committed {
            return Err(ConnectorError::Fatal(format!(
                "offset {offset} is outside the log {shown}, which has {first} to {committed}: it was removed or put back to an older state since that was committed; run `wasmill reset` to start afresh"
            )));
        }
        let frames = match bases.range(..=offset).next_back() {
            Some(base) => Some(Frames::open(directory, *base).map_err(|e| failed(&e))?),
            None => None,
        };
        let shared = Shared::of(directory);
        shared.see(committed);
        Ok(Self {
            directory: directory.to_owned(),
            incarnation,
            marker,
            shared,
            next: offset,
            frames,
            sound_before: committed,
        })
    }

    /// Reads on; nothing where all that is committed was read.
    fn ahead(&mut self) -> Result<Ahead, ConnectorError> {
        let committed = self.marker.read().map_err(|e| self.unread(&e))?;
        self.shared.see(committed);
        let mut ahead = Ahead::default();
        let mut bytes = 0;
        while self.next < committed && bytes < AHEAD_BYTES {
            let mut frames = match self.frames.take() {
                Some(frames) => frames,
                None => Frames::open(&self.directory, self.next).map_err(|e| self.missing(&e))?,
            };
            if frames.next_offset() >= self.sound_before {
                frames.forget();
                self.sound_before = committed;
            }
            let (byte, offset, base) = (frames.at(), frames.next_offset(), frames.base());
            let why = match frames.next().map_err(|e| self.unread(&e))? {
                Found::Frame(header, body) if header.kind == Kind::Records => {
                    match places(body, header.count) {
                        Some(places) => {
                            bytes += self.take(&mut ahead, header.base, header.time_ms, body, places);
                            self.frames = Some(frames);
                            continue;
                        }
                        None => "a frame has another number of records",
                    }
                }
                Found::Frame(..) => {
                    self.frames = Some(frames);
                    continue;
                }
                // The next segment begins where this one ends.
                Found::End if offset == self.next && offset > base => continue,
                Found::End => "it ends before what is committed",
                Found::Bad(why) => why,
            };
            let path = frames.path().to_owned();
            return Err(damaged(&path, byte, offset, why));
        }
        Ok(ahead)
    }

    fn take(&mut self, ahead: &mut Ahead, base: u64, time_ms: i64, body: &[u8], places: Vec<Place>) -> usize {
        let end = base + places.len() as u64;
        if end <= self.next {
            return 0;
        }
        let nth = ahead.bodies.len();
        ahead.bodies.push(body.to_vec());
        let records = (base..).zip(places).filter(|(offset, _)| *offset >= self.next);
        ahead.records.extend(records.map(|(offset, place)| (offset, time_ms, nth, place)));
        self.next = end;
        body.len()
    }

    /// Whether the log is still the one that was opened.
    fn check(&self) -> Result<(), ConnectorError> {
        if incarnation(&self.directory)?.as_deref() == Some(&self.incarnation) {
            return Ok(());
        }
        Err(ConnectorError::Outdated(format!(
            "the log {} was removed or made anew while it was read",
            self.directory.display()
        )))
    }

    fn unread(&self, e: &io::Error) -> ConnectorError {
        os::fatal(format!("cannot read the log {}", self.directory.display()), e)
    }

    fn missing(&self, e: &io::Error) -> ConnectorError {
        if e.kind() != io::ErrorKind::NotFound {
            return self.unread(e);
        }
        let path = super::directory::segment_path(&self.directory, self.next);
        damaged(&path, 0, self.next, "the file is missing")
    }
}

type Reading = JoinHandle<(Cursor, Result<Ahead, ConnectorError>)>;

/// Reads the committed records of a log from an offset on; waits for more at its end.
pub struct LogReader {
    cursor: Option<Cursor>,
    /// A read that goes on though its poll was dropped.
    reading: Option<Reading>,
    ahead: Ahead,
    shared: Arc<Shared>,
    moved: watch::Receiver<u64>,
    quiet: u32,
    partition: u32,
}

impl LogReader {
    /// A reader from `offset` on: the next offset to read.
    ///
    /// # Errors
    /// That the offset is outside the log, or what can't be read.
    pub async fn open(directory: &Path, partition: u32, offset: u64) -> Result<Self, ConnectorError> {
        let directory = directory.to_owned();
        let cursor = os::blocking(move || Cursor::open(&directory, offset)).await?;
        let shared = Arc::clone(&cursor.shared);
        let moved = shared.subscribe();
        let ahead = Ahead::default();
        Ok(Self { cursor: Some(cursor), reading: None, ahead, shared, moved, quiet: 0, partition })
    }

    /// Reads ahead. Dropping the future loses nothing.
    async fn read(&mut self) -> Result<(), ConnectorError> {
        if self.reading.is_none() {
            // Before the read, so that what is committed meanwhile is told.
            self.moved.borrow_and_update();
            let Some(mut cursor) = self.cursor.take() else {
                return Err(ConnectorError::Fatal("a reader of a log has failed before".into()));
            };
            let checks = self.quiet > 0 && self.quiet.is_multiple_of(CHECK_EVERY);
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let checked = if checks { cursor.check() } else { Ok(()) };
                let ahead = checked.and_then(|()| cursor.ahead());
                (cursor, ahead)
            }));
        }
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let done = reading.await;
        self.reading = None;
        let (cursor, ahead) =
            done.map_err(|e| ConnectorError::Fatal(format!("a read of a log did not finish: {e}")))?;
        self.cursor = Some(cursor);
        self.ahead = ahead?;
        Ok(())
    }

    fn serve(&mut self, messages_max: usize, bytes_max: usize) -> RawBatch {
        let partition = PartitionId { source: 0, partition: self.partition };
        let mut batch = RawBatch::new(partition);
        while let Some((offset, time_ms, nth, place)) = self.ahead.records.pop_front() {
            let body = &self.ahead.bodies[nth];
            let mut copy = |range: std::ops::Range<usize>| {
                let start = batch.data.len();
                batch.data.extend_from_slice(&body[range]);
                start..batch.data.len()
            };
            let (key, value) = (place.key.map(&mut copy), copy(place.value));
            batch.next = offset + 1;
            batch.records.push(RawRecord {
                offset,
                next: offset + 1,
                value,
                key,
                time_ms: Some(time_ms),
                appended_ms: Some(time_ms),
                ..RawRecord::default()
            });
            if batch.records.len() >= messages_max || batch.data.len() >= bytes_max {
                break;
            }
        }
        if self.ahead.records.is_empty() {
            self.ahead = Ahead::default();
        }
        batch
    }
}

#[async_trait]
impl Reader for LogReader {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        loop {
            if !self.ahead.records.is_empty() {
                return Ok(Polled::Records(self.serve(messages_max.max(1), bytes_max)));
            }
            self.read().await?;
            if !self.ahead.records.is_empty() {
                self.quiet = 0;
                continue;
            }
            if let Some(why) = self.shared.failed() {
                return Err(ConnectorError::Fatal(why));
            }
            self.quiet = self.quiet.wrapping_add(1);
            // The sender is in `shared`: it can't be gone.
            let _ = tokio::time::timeout(LOOK_AGAIN, self.moved.changed()).await;
        }
    }
}
