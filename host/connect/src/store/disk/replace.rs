//! A database that takes the place of another.

use std::collections::BTreeMap;
use std::io;

use wasmill_engine::state::{Checkpoint, Epoch, StoreError};

use super::place::Place;
use super::values::{CHECKPOINT, FORETOLD, entry, hashed};
use super::{DiskStore, too_long};
use crate::os;
use crate::store::Replacement;

/// How much is written in one batch.
const BATCH_BYTES: usize = 4 << 20;

/// New contents for the store in a directory. The old store stays open until the end, so nobody else can
/// open it.
pub struct DiskReplacement {
    old: DiskStore,
    new: DiskStore,
    place: Place,
    generation: u64,
    /// By key, for a key stands once in a batch.
    waiting: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    waiting_bytes: usize,
}

impl DiskReplacement {
    pub(super) fn begin(old: DiskStore, generation: u64) -> Result<Self, StoreError> {
        let place = old.place.next();
        place.clear(&old.directory).map_err(|e| failed(&old, &e))?;
        let new = DiskStore::open_at(&old.directory, place)?;
        // One that is made is of generation 0.
        if generation > 0 {
            new.move_to(generation)?;
        }
        Ok(Self { old, new, place, generation, waiting: BTreeMap::new(), waiting_bytes: 0 })
    }

    /// Takes an entry out again that was added.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        if too_long(key).is_some() {
            return Ok(());
        }
        self.add(entry(key), None)
    }

    fn add(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.waiting_bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.waiting.insert(key, value);
        if self.waiting_bytes >= BATCH_BYTES { self.write(&[]) } else { Ok(()) }
    }

    fn write(&mut self, more: &[(&[u8], Vec<u8>)]) -> Result<(), StoreError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let keyspace = self.new.keyspace();
        let mut writer = self.new.writer();
        self.new.write(&mut writer, &keyspace, |batch, _| {
            for (key, value) in waiting {
                match value {
                    Some(value) => batch.insert(&keyspace, key, value),
                    None => batch.remove(&keyspace, key),
                }
            }
            for (key, value) in more {
                batch.insert(&keyspace, *key, hashed(key, value));
            }
        })
    }
}

fn failed(store: &DiskStore, error: &io::Error) -> StoreError {
    StoreError::Io {
        what: format!("cannot replace the state in {}", store.directory.display()),
        cause: os::cause(error),
    }
}

impl Replacement for DiskReplacement {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if let Some(cause) = too_long(key) {
            let what = format!("cannot replace the state in {}", self.old.directory.display());
            return Err(StoreError::Io { what, cause });
        }
        let key = entry(key);
        let value = hashed(&key, value);
        self.add(key, Some(value))
    }

    fn finish(
        mut self: Box<Self>,
        checkpoint: &Checkpoint,
        foretold: Option<&(Epoch, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let json =
            serde_json::to_vec(checkpoint).map_err(|e| super::corrupt(&self.old.directory, e.to_string()))?;
        let mut rest = vec![(CHECKPOINT, json)];
        if let Some((epoch, facts)) = foretold {
            rest.push((FORETOLD, [&epoch.to_le_bytes(), facts.as_slice()].concat()));
        }
        self.write(&rest)?;
        let Self { old, new, place, .. } = *self;
        drop(new);
        place.promote(&old.directory).map_err(|e| failed(&old, &e))?;
        // From here on the new one counts. What is left of the old one goes at the next start at the latest.
        let directory = old.directory.clone();
        drop(old);
        if let Err(error) = place.remove_older(&directory) {
            tracing::warn!(path = %directory.display(), %error, "the old state could not be removed; it counts no more");
        }
        Ok(())
    }
}
