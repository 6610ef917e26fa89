//! The file that says up to which offset readers may see.
//!
//! Two places, written in turn, each with its checksum: one that a crash tore leaves the other. The greater counts,
//! for the offset never goes back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::layout::u64_at;

/// The file's name.
pub(super) const MARKER: &str = "committed";
/// How far the places are from each other: a disk writes a sector at once.
const PLACE_BYTES: u64 = 4096;

/// The marker, open.
#[derive(Debug)]
pub(super) struct Marker {
    file: File,
    path: PathBuf,
    /// The place to be written next: not the one that counts.
    place: u64,
}

impl Marker {
    /// Opens a log's marker, to be read, and made and written where `writes`.
    pub fn open(directory: &Path, writes: bool) -> io::Result<Self> {
        let path = directory.join(MARKER);
        let file = OpenOptions::new().read(true).write(writes).create(writes).truncate(false).open(&path)?;
        let mut marker = Self { file, path, place: 0 };
        let (first, second) = (marker.read_place(0)?, marker.read_place(1)?);
        marker.place = u64::from(first > second);
        Ok(marker)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The committed offset; 0 where nothing was ever committed.
    pub fn read(&self) -> io::Result<u64> {
        // A place that is being written at this moment is read as torn, and the other as whole.
        Ok(self.read_place(0)?.max(self.read_place(1)?).unwrap_or(0))
    }

    fn read_place(&self, place: u64) -> io::Result<Option<u64>> {
        let mut bytes = [0; 16];
        match self.file.read_exact_at(&mut bytes, place * PLACE_BYTES) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let is_sound = u64_at(&bytes, 8) == Some(xxh3_64(&bytes[..8]));
        Ok(u64_at(&bytes, 0).filter(|_| is_sound))
    }

    /// Moves it.
    pub fn write(&mut self, offset: u64, durably: bool) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        let sum = xxh3_64(&bytes[..8]);
        bytes[8..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&bytes, self.place * PLACE_BYTES)?;
        self.place = 1 - self.place;
        if durably { self.file.sync_data() } else { Ok(()) }
    }
}
