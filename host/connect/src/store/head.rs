//! The head: a small file beside the database that says how far it must be.
//!
//! A database whose log lost its end looks like one whose last batches never happened. The head is
//! written after each batch is durable, so the database may be ahead of it but never behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"WMHEAD1\0";
const BYTES: usize = 32;

/// How far a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    pub(super) generation: u64,
    /// The batches of that generation.
    pub(super) batches: u64,
}

/// What is in a head's file.
pub(super) enum Found {
    Missing,
    Damaged,
    Head(Head),
}

impl Head {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.batches.to_le_bytes());
        let sum = xxh3_64(&bytes[..24]).to_le_bytes();
        bytes[24..].copy_from_slice(&sum);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let head = Self { generation: word(8)?, batches: word(16)? };
        (head.to_bytes() == bytes).then_some(head)
    }
}

/// Reads a head.
pub(super) fn read(path: &Path) -> io::Result<Found> {
    match fs::read(path) {
        Ok(bytes) => Ok(Head::from_bytes(&bytes).map_or(Found::Damaged, Found::Head)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
        Err(e) => Err(e),
    }
}

/// Writes a head again and again.
#[derive(Debug)]
pub(super) struct HeadFile(File);

impl HeadFile {
    /// Makes the file, or takes the one that is there, with `head` in it.
    pub(super) fn create(path: &Path, head: Head) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.set_len(BYTES as u64)?;
        let mut head_file = Self(file);
        head_file.write(head)?;
        head_file.0.sync_all()?;
        Ok(head_file)
    }

    /// Not synced: a head that is behind after a loss of power only finds less.
    pub(super) fn write(&mut self, head: Head) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&head.to_bytes())
    }
}
