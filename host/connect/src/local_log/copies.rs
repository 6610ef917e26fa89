//! A log looked through to its end, and letters put into it by hand, each once.
//!
//! A copy is known by the digest that stands as its record's id. A segment begins with a note of all copies before
//! it: so they are known though the log's reader has removed what it has read.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::clock::now_ms;
use super::directory::{incarnation, list};
use super::frames::{Found, Frames};
use super::layout::{Batch, Kind, Record, places, u64_at};
use super::marker::Marker;
use super::write::{Keep, LogWriter, SEGMENT_BYTES, Taken, damaged};
use crate::scan::{Copier, Copies, Noted, Part, Scan, Scanned};
use crate::{ConnectorError, os};

/// What a note of copies begins with.
const MAGIC: [u8; 4] = *b"wdl1";
const DIGEST_BYTES: usize = 16;
const ENTRY_BYTES: usize = DIGEST_BYTES + 8;

fn digest_of(id: &[u8]) -> Option<u128> {
    Some(u128::from_le_bytes(id.try_into().ok()?))
}

fn read_note(note: &[u8]) -> Option<Vec<Noted>> {
    let entries = note.strip_prefix(&MAGIC)?.chunks_exact(ENTRY_BYTES);
    entries
        .map(|e| Some(Noted { digest: digest_of(&e[..DIGEST_BYTES])?, offset: u64_at(e, DIGEST_BYTES)? }))
        .collect()
}

fn note(copies: &[Noted]) -> Vec<u8> {
    let mut note = Vec::with_capacity(MAGIC.len() + copies.len() * ENTRY_BYTES);
    note.extend_from_slice(&MAGIC);
    for Noted { digest, offset } in copies {
        note.extend_from_slice(&digest.to_le_bytes());
        note.extend_from_slice(&offset.to_le_bytes());
    }
    note
}

/// Walks over the committed frames of a log, from the first that is there. It blocks.
struct Walk {
    directory: PathBuf,
    /// The segments that were there and are not read yet.
    bases: VecDeque<u64>,
    committed: u64,
    frames: Option<Frames>,
    /// Whether records that are known copies are told as such alone.
    by_digest: bool,
    /// What the last frame had and was not handed on yet.
    found: VecDeque<Scanned>,
}

impl Walk {
    fn step(&mut self) -> Result<Option<Scanned>, ConnectorError> {
        let shown = self.directory.display().to_string();
        let failed = |e: &io::Error| os::fatal(format!("cannot read the log {shown}"), e);
        loop {
            if let Some(found) = self.found.pop_front() {
                return Ok(Some(found));
            }
            let mut frames = match self.frames.take() {
                Some(frames) => frames,
                None => {
                    let Some(base) = self.bases.pop_front() else { return Ok(None) };
                    match Frames::open(&self.directory, base) {
                        Ok(frames) => frames,
                        // Its reader has read it meanwhile, and a later one notes what it had.
                        Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                        Err(e) => return Err(failed(&e)),
                    }
                }
            };
            let (byte, offset) = (frames.at(), frames.next_offset());
            let by_digest = self.by_digest;
            let (scanned, why) = match frames.next().map_err(|e| failed(&e))? {
                // What is behind may be cut off, or written at this moment.
                Found::Frame(header, _) if header.base >= self.committed && header.kind == Kind::Records => {
                    return Ok(None);
                }
                Found::Frame(header, body) if header.kind == Kind::Records => {
                    match places(body, header.count) {
                        Some(places) => {
                            let places = places.into_iter().map(|p| (p.key, p.id, p.value));
                            (taken(header.base, header.time_ms, body, places, by_digest), None)
                        }
                        None => (Vec::new(), Some("a frame has another number of records")),
                    }
                }
                Found::Frame(_, body) if by_digest => {
                    (read_note(body).map(Scanned::Noted).into_iter().collect(), None)
                }
                Found::Frame(..) => (Vec::new(), None),
                Found::End => continue,
                Found::Bad(_) if offset >= self.committed => return Ok(None),
                Found::Bad(why) => (Vec::new(), Some(why)),
            };
            if let Some(why) = why {
                return Err(damaged(frames.path(), byte, offset, why));
            }
            self.frames = Some(frames);
            self.found.extend(scanned);
        }
    }
}

type Places = (Option<std::ops::Range<usize>>, Option<std::ops::Range<usize>>, std::ops::Range<usize>);

/// What a frame has: copies, and records that are not known for such.
fn taken(
    base: u64,
    time_ms: i64,
    body: &[u8],
    places: impl Iterator<Item = Places>,
    by_digest: bool,
) -> Vec<Scanned> {
    let mut noted = Vec::new();
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    batch.next = base;
    for (offset, (key, id, value)) in (base..).zip(places) {
        batch.next = offset + 1;
        if by_digest && let Some(digest) = id.and_then(|id| digest_of(&body[id])) {
            noted.push(Noted { digest, offset });
            continue;
        }
        let mut copy = |range: std::ops::Range<usize>| {
            let start = batch.data.len();
            batch.data.extend_from_slice(&body[range]);
            start..batch.data.len()
        };
        let (key, value) = (key.map(&mut copy), copy(value));
        batch.records.push(RawRecord {
            offset,
            next: offset + 1,
            value,
            key,
            time_ms: Some(time_ms),
            appended_ms: Some(time_ms),
            ..RawRecord::default()
        });
    }
    let mut all = Vec::new();
    if !noted.is_empty() {
        all.push(Scanned::Noted(noted));
    }
    if !batch.records.is_empty() {
        all.push(Scanned::Records(batch));
    }
    all
}

/// Reads what is committed in a log.
pub struct LogScan {
    parts: Vec<Part>,
    walk: Option<Walk>,
}

impl LogScan {
    /// Looks at a log; makes none. `by_digest`: for what it has of copies.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn open(directory: &Path, by_digest: bool) -> Result<Self, ConnectorError> {
        let directory = directory.to_owned();
        os::blocking(move || Self::look(&directory, by_digest)).await
    }

    fn look(directory: &Path, by_digest: bool) -> Result<Self, ConnectorError> {
        let Some(incarnation) = incarnation(directory)? else {
            return Ok(Self { parts: Vec::new(), walk: None });
        };
        let failed = |e: &io::Error| os::fatal(format!("cannot read the log {}", directory.display()), e);
        let committed = Marker::open(directory, false).and_then(|m| m.read()).map_err(|e| failed(&e))?;
        let bases: VecDeque<u64> = list(directory).map_err(|e| failed(&e))?.into_iter().collect();
        let part = Part {
            number: 0,
            name: directory.display().to_string(),
            incarnation: Some(incarnation),
            begin: bases.front().copied().unwrap_or(0),
            end: Some(committed),
        };
        let walk = Walk {
            directory: directory.to_owned(),
            bases,
            committed,
            frames: None,
            by_digest,
            found: VecDeque::new(),
        };
        Ok(Self { parts: vec![part], walk: Some(walk) })
    }
}

#[async_trait]
impl Scan for LogScan {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    async fn next(&mut self) -> Result<Option<Scanned>, ConnectorError> {
        let Some(mut walk) = self.walk.take() else { return Ok(None) };
        let (walk, found) = os::blocking(move || {
            let found = walk.step();
            Ok((walk, found))
        })
        .await?;
        let found = found?;
        self.walk = found.is_some().then_some(walk);
        Ok(found)
    }
}

/// Puts letters into a log that a source reads.
pub struct LogCopier {
    directory: PathBuf,
    writing: Arc<Mutex<Writing>>,
}

#[derive(Default)]
struct Writing {
    writer: Option<LogWriter>,
    /// What the log has, or had, of copies: for the notes.
    noted: Vec<Noted>,
}

impl LogCopier {
    /// Takes the place of the log's one writer; makes the log where there is none.
    ///
    /// # Errors
    /// Who writes it, what of it is damaged, or what can't be made.
    pub async fn open(directory: &Path) -> Result<Self, ConnectorError> {
        Self::with_segments_of(directory, SEGMENT_BYTES).await
    }

    /// As `open`, with segments of another length.
    ///
    /// # Errors
    /// As of `open`.
    pub async fn with_segments_of(directory: &Path, segment_bytes: u64) -> Result<Self, ConnectorError> {
        let path = directory.to_owned();
        let writing = os::blocking(move || {
            let mut writer = Taken::take(&path)?.open(Keep::Whole, segment_bytes)?;
            // What a killed command has appended whole is there, and counts: it is not appended again.
            writer.sync_again()?;
            writer.commit(writer.end(), true)?;
            let mut noted = Vec::new();
            let mut scan = LogScan::look(&path, true)?;
            while let Some(found) = scan.walk.as_mut().map_or(Ok(None), Walk::step)? {
                if let Scanned::Noted(more) = found {
                    noted.extend(more);
                }
            }
            // Each note has all that were before it.
            noted.sort_unstable_by_key(|n: &Noted| (n.offset, n.digest));
            noted.dedup();
            Ok(Writing { writer: Some(writer), noted })
        })
        .await?;
        Ok(Self { directory: directory.to_owned(), writing: Arc::new(Mutex::new(writing)) })
    }
}

impl Writing {
    fn append(&mut self, copies: &Copies) -> Result<(), ConnectorError> {
        let Self { writer: Some(writer), noted } = self else {
            return Err(ConnectorError::Fatal("letters are copied into a log that was let go of".into()));
        };
        let mut batch = Batch::default();
        for record in &copies.records {
            let id = record.digest.to_le_bytes();
            let key = record.key.as_ref().map(|key| &copies.data[key.clone()]);
            batch.push(Record { value: &copies.data[record.value.clone()], key, id: Some(&id) });
        }
        writer.roll_with_note(|| note(noted))?;
        let offsets = writer.append(&mut batch, now_ms())?;
        noted.extend(offsets.zip(&copies.records).map(|(offset, r)| Noted { digest: r.digest, offset }));
        writer.sync()?;
        writer.commit(writer.end(), true)?;
        Ok(())
    }
}

#[async_trait]
impl Copier for LogCopier {
    async fn scan(&mut self) -> Result<Box<dyn Scan>, ConnectorError> {
        Ok(Box::new(LogScan::open(&self.directory, true).await?))
    }

    async fn append(&mut self, copies: Copies) -> Result<(), ConnectorError> {
        let writing = Arc::clone(&self.writing);
        os::blocking(move || writing.lock().unwrap_or_else(PoisonError::into_inner).append(&copies)).await
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        let writing = Arc::clone(&self.writing);
        os::blocking(move || {
            writing.lock().unwrap_or_else(PoisonError::into_inner).writer = None;
            Ok(())
        })
        .await
    }
}
