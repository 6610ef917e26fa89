//! The store on disk as one commit left it.

use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fjall::{Iter, Keyspace, Readable as _, Snapshot};
use wasmill_engine::state::{Checkpoint, Epoch, StateView, StoreError, VisitEntry};

use super::values::{CHECKPOINT, FORETOLD, checked, decode_checkpoint, decode_foretold, entry};
use super::{behind, guarded, place_of, too_long};

/// A block of a file, as the system counts them.
const BLOCK_BYTES: u64 = 512;

/// A snapshot: it keeps what it sees from being thrown away, and nobody from committing.
pub(super) struct DiskView {
    pub directory: PathBuf,
    pub keyspace: Keyspace,
    pub snapshot: Snapshot,
    pub generation: u64,
}

impl DiskView {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match guarded(&self.directory, || self.snapshot.get(&self.keyspace, key))? {
            Some(stored) => checked(&self.directory, key, &stored).map(|value| Some(value.to_vec())),
            None => Ok(None),
        }
    }
}

impl StateView for DiskView {
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        decode_checkpoint(&self.directory, self.read(CHECKPOINT)?)
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        decode_foretold(&self.directory, self.read(FORETOLD)?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if too_long(key).is_some() {
            return Ok(None);
        }
        self.read(&entry(key))
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        if too_long(prefix).is_some() {
            return Ok(());
        }
        let (prefix, after) = (entry(prefix), after.map(place_of));
        let from = behind(&prefix, after.as_deref());
        let found = self.snapshot.range::<&[u8], _>(&self.keyspace, (from, Bound::Unbounded));
        visit_entries(&self.directory, &prefix, found, visit)
    }

    fn disk_bytes(&self) -> Option<u64> {
        bytes_below(&self.directory).ok()
    }
}

/// Visits the entries that a range of the database holds, up to the prefix's end or until `visit` breaks.
pub(super) fn visit_entries(
    directory: &Path,
    prefix: &[u8],
    range: Iter,
    visit: &mut VisitEntry<'_>,
) -> Result<(), StoreError> {
    for item in range {
        let (key, value) = guarded(directory, || item.into_inner())?;
        if !key.starts_with(prefix) {
            break;
        }
        let value = checked(directory, &key, &value)?;
        if visit(&key[1..], value).is_break() {
            break;
        }
    }
    Ok(())
}

/// What the files take; logs are made longer than they are full.
fn bytes_below(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Files come and go while a pipeline runs.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        bytes +=
            if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.blocks() * BLOCK_BYTES };
    }
    Ok(bytes)
}
