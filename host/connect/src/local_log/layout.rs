//! What a frame looks like, byte by byte; all numbers little-endian.
//!
//! | bytes | header |
//! |---|---|
//! | 0..4 | magic |
//! | 4..8 | how long the body is |
//! | 8..16 | the first record's offset |
//! | 16..20 | how many records |
//! | 20..24 | 0: records; 1: a note, which has none |
//! | 24..32 | when it was appended, milliseconds since 1970 |
//! | 32..40 | XXH3 of all of the above and of the body |
//!
//! A record is three lengths of 4 bytes (key, id, value; `u32::MAX` for a key or an id that isn't there), then
//! key, id and value.

use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

/// How long a header is.
pub(super) const HEADER_BYTES: usize = 40;
/// What a frame begins with.
pub(super) const MAGIC: [u8; 4] = *b"wlg1";
/// No frame is longer than this: what says so is damaged.
pub(super) const FRAME_BYTES_MAX: u64 = 1 << 30;
/// How long the lengths before a record are.
const LENGTHS_BYTES: usize = 12;
const NONE: u32 = u32::MAX;

/// A record to be appended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its id, if it has one.
    pub id: Option<&'a [u8]>,
}

/// Records that are appended together: all or none.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The frame; its header is empty until it is sealed.
    bytes: Vec<u8>,
    count: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self { bytes: vec![0; HEADER_BYTES], count: 0 }
    }
}

impl Batch {
    /// Adds a record. Its parts must be shorter than 1 GiB together with all of the batch.
    pub fn push(&mut self, record: Record<'_>) {
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap_or(NONE);
        let key = record.key.map_or(NONE, length);
        let id = record.id.map_or(NONE, length);
        for length in [key, id, length(record.value)] {
            self.bytes.extend_from_slice(&length.to_le_bytes());
        }
        for part in [record.key.unwrap_or_default(), record.id.unwrap_or_default(), record.value] {
            self.bytes.extend_from_slice(part);
        }
        self.count += 1;
    }

    /// How many records it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How long it will be in the log.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// How long a record of these parts is in the log, about: above it, never below.
    #[must_use]
    pub fn record_bytes(parts: usize) -> u64 {
        (parts + LENGTHS_BYTES) as u64
    }

    /// The whole frame.
    pub(super) fn seal(&mut self, base: u64, time_ms: i64) -> &[u8] {
        seal(&mut self.bytes, base, self.count, Kind::Records, time_ms);
        &self.bytes
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Records,
    /// What the log's own keep for themselves.
    Note,
}

/// A note's frame.
pub(super) fn note(base: u64, time_ms: i64, text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(text);
    seal(&mut bytes, base, 0, Kind::Note, time_ms);
    bytes
}

fn seal(frame: &mut [u8], base: u64, count: u32, kind: Kind, time_ms: i64) {
    let length = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    frame[0..4].copy_from_slice(&MAGIC);
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8..16].copy_from_slice(&base.to_le_bytes());
    frame[16..20].copy_from_slice(&count.to_le_bytes());
    frame[20..24].copy_from_slice(&u32::from(kind == Kind::Note).to_le_bytes());
    frame[24..32].copy_from_slice(&time_ms.to_le_bytes());
    let checksum = checksum(&frame[..32], &frame[HEADER_BYTES..]);
    frame[32..40].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(head: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(body);
    hash.digest()
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub length: u32,
    pub base: u64,
    pub count: u32,
    pub kind: Kind,
    pub time_ms: i64,
}

impl Header {
    /// Reads a header; none where these bytes are none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let header = Self {
            length: u32_at(head, 4)?,
            base: u64_at(head, 8)?,
            count: u32_at(head, 16)?,
            kind: match u32_at(head, 20)? {
                0 => Kind::Records,
                1 => Kind::Note,
                _ => return None,
            },
            time_ms: i64::from_le_bytes(head[24..32].try_into().ok()?),
        };
        (head[0..4] == MAGIC && header.frame_bytes() <= FRAME_BYTES_MAX).then_some(header)
    }

    /// How long the frame is.
    pub fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.length)
    }
}

/// Whether a whole frame is as it was written.
pub(super) fn is_sound(frame: &[u8]) -> bool {
    frame.len() >= HEADER_BYTES && u64_at(frame, 32) == Some(checksum(&frame[..32], &frame[HEADER_BYTES..]))
}

/// Where a record's parts are in its frame's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub key: Option<Range<usize>>,
    pub id: Option<Range<usize>>,
    pub value: Range<usize>,
}

/// The records of a frame's body; none where it has another number of them.
pub(super) fn places(body: &[u8], count: u32) -> Option<Vec<Place>> {
    let mut places = Vec::with_capacity(body.len().div_ceil(LENGTHS_BYTES).min(count as usize));
    let mut at = 0;
    for _ in 0..count {
        let (key, id, value) = (u32_at(body, at)?, u32_at(body, at + 4)?, u32_at(body, at + 8)?);
        at += LENGTHS_BYTES;
        let mut part = |length: u32| {
            let start = at;
            at += length as usize;
            start..at
        };
        let key = (key != NONE).then(|| part(key));
        let id = (id != NONE).then(|| part(id));
        let value = part(value);
        places.push(Place { key, id, value });
        if at > body.len() {
            return None;
        }
    }
    (at == body.len()).then_some(places)
}

/// The number at a place.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The number at a place.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
