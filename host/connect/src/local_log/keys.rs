//! The keys of requests that were taken, so that a repeat is known as one.
//!
//! A key is kept as the id of its request's first record. A segment begins with a note of all keys from before it:
//! so they outlive a crash, and the removal of segments that were read.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

use super::directory::list;
use super::frames::{Found, Frames};
use super::layout::{Kind, places, u32_at, u64_at};
use crate::{ConnectorError, os};

/// For how long a key is kept, at most.
const AGE_MAX_MS: i64 = 24 * 3_600_000;
/// How long an id is, and how long a key's part of a note.
const ID_BYTES: usize = 28;
pub(super) const ENTRY_BYTES: usize = ID_BYTES + 8;

/// What a client calls its request by, and what the request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    /// The client's key, as a hash.
    pub key: u128,
    /// The request's bytes, as a hash.
    pub body: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    body: u64,
    count: u32,
    time_ms: i64,
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    New,
    /// The same request was taken: so many messages.
    Taken(u32),
    /// Another request was taken by this key.
    Other,
}

/// The keys, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Keys {
    entries: HashMap<u128, Entry>,
    order: VecDeque<u128>,
    keys_max: usize,
}

/// A request's key as a record's id.
pub(super) fn id(key: RequestKey, count: u32) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    id[..16].copy_from_slice(&key.key.to_le_bytes());
    id[16..24].copy_from_slice(&key.body.to_le_bytes());
    id[24..].copy_from_slice(&count.to_le_bytes());
    id
}

fn read_id(id: &[u8]) -> Option<(RequestKey, u32)> {
    let key = u128::from_le_bytes(id.get(..16)?.try_into().ok()?);
    Some((RequestKey { key, body: u64_at(id, 16)? }, u32_at(id, 24)?))
}

impl Keys {
    /// The keys of a log.
    pub fn load(directory: &Path, keys_max: usize) -> Result<Self, ConnectorError> {
        let mut keys = Self { keys_max, ..Self::default() };
        keys.read(directory)
            .map_err(|e| os::fatal(format!("cannot read the log {}", directory.display()), &e))?;
        Ok(keys)
    }

    fn read(&mut self, directory: &Path) -> io::Result<()> {
        let bases = list(directory)?;
        // From the last segment on that begins with a note.
        let mut from = bases.first().copied().unwrap_or(0);
        for base in bases.iter().rev() {
            let mut frames = Frames::open(directory, *base)?;
            if matches!(frames.next()?, Found::Frame(header, _) if header.kind == Kind::Note) {
                from = *base;
                break;
            }
        }
        for base in bases.range(from..) {
            let mut frames = Frames::open(directory, *base)?;
            // Where it ends, or is damaged, who reads its records will tell.
            while let Found::Frame(header, body) = frames.next()? {
                if header.kind == Kind::Note {
                    self.read_note(body);
                    continue;
                }
                for place in places(body, header.count).into_iter().flatten() {
                    let id = place.id.and_then(|id| read_id(&body[id]));
                    if let Some((key, count)) = id {
                        self.add(key, count, header.time_ms);
                    }
                }
            }
        }
        Ok(())
    }

    /// All keys but the newest, which are not taken yet, as a note.
    pub fn note_without(&self, newest: &[RequestKey]) -> Vec<u8> {
        let taken = self.order.len().saturating_sub(newest.len());
        let mut note = Vec::with_capacity(taken * ENTRY_BYTES);
        for key in self.order.iter().take(taken) {
            if let Some(Entry { body, count, time_ms }) = self.entries.get(key).copied() {
                note.extend_from_slice(&id(RequestKey { key: *key, body }, count));
                note.extend_from_slice(&time_ms.to_le_bytes());
            }
        }
        note
    }

    fn read_note(&mut self, note: &[u8]) {
        for entry in note.chunks_exact(ENTRY_BYTES) {
            if let (Some((key, count)), Some(time)) = (read_id(entry), u64_at(entry, ID_BYTES)) {
                self.add(key, count, time.cast_signed());
            }
        }
    }

    /// What is known of a request's key.
    pub fn known(&mut self, key: RequestKey, now_ms: i64) -> Known {
        while let Some(oldest) = self.order.front() {
            let is_old = |e: &Entry| now_ms.saturating_sub(e.time_ms) > AGE_MAX_MS;
            if self.order.len() <= self.keys_max && !self.entries.get(oldest).is_none_or(is_old) {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
        match self.entries.get(&key.key) {
            None => Known::New,
            Some(entry) if entry.body == key.body => Known::Taken(entry.count),
            Some(_) => Known::Other,
        }
    }

    /// Notes a request.
    pub fn add(&mut self, key: RequestKey, count: u32, time_ms: i64) {
        let entry = Entry { body: key.body, count, time_ms };
        if self.entries.insert(key.key, entry).is_none() {
            self.order.push_back(key.key);
        }
        while self.order.len() > self.keys_max {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Forgets the newest, which was not taken after all.
    pub fn take_back(&mut self, key: RequestKey) {
        if self.order.back() == Some(&key.key) {
            self.order.pop_back();
            self.entries.remove(&key.key);
        }
    }
}
