//! State on disk, in fjall.
//!
//! ```text
//! <directory>/FORMAT   the version of all this, as a decimal number
//! <directory>/HEAD     how far the database must be (head.rs)
//! <directory>/db/      the database: one keyspace, `g<generation>`, so that a reset is one step; db.1 and
//!                      HEAD.1 where another has taken its place (place.rs)
//!     c                the checkpoint, as JSON
//!     f                what was foretold: epoch u64, facts
//!     n                how many batches were written
//!     w<slot u16>      the proof that they are all there, in their order (witness.rs)
//!     s<key>           the state's entries
//! ```
//! Each value ends with a hash of its key and itself. fjall checks its blocks and its log's batches when
//! it reads them; the hash also finds what happens between, and a value under another's key.

mod failure;
mod place;
mod replace;
mod values;
mod view;

use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use fjall::compaction::Leveled;
use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use wasmill_engine::state::{
    Change, Checkpoint, Delta, Epoch, StateStore, StateView, StoreError, VisitEntry,
};

use super::head::{self, Found, Head, HeadFile};
use super::{Replacement, behind, preflight, refuse_stale, witness};
use crate::os;
use failure::{corrupt, guarded, store_error};
use place::Place;
pub use replace::DiskReplacement;
use values::{
    BATCHES, CHECKPOINT, FORETOLD, entry, hashed, put_foretold, read, read_batches, read_checkpoint,
    read_foretold, slot_key,
};
use view::{DiskView, visit_entries};

/// The version of what is on disk.
pub const FORMAT: u32 = 1;

/// The longest key: the database's own limit, 65,535 bytes, less the prefix. Above that it panics, which would be told as
/// damage: no longer key comes to it, neither to write nor to look for.
const KEY_BYTES_MAX: usize = 65_000;

/// State on disk.
pub struct DiskStore {
    directory: PathBuf,
    place: Place,
    db: Database,
    keyspace: RwLock<Keyspace>,
    writer: Mutex<Writer>,
}

/// What a commit must know; one commits at a time.
struct Writer {
    head: Head,
    head_file: HeadFile,
    epoch: Epoch,
    foretold: Option<Epoch>,
}

impl DiskStore {
    /// Where the state of a pipeline is, below the data directory.
    #[must_use]
    pub fn directory(data_directory: &Path, pipeline: &str) -> PathBuf {
        data_directory.join(pipeline).join("state")
    }

    /// Opens the store in a directory, and makes it where there is none.
    ///
    /// # Errors
    /// When another process has it open, it is of another format, damaged, or can't be read or written.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let io = |what: &str, path: &Path, e: &io::Error| StoreError::Io {
            what: format!("{what} {}", path.display()),
            cause: os::cause(e),
        };
        fs::create_dir_all(directory).map_err(|e| io("cannot create", directory, &e))?;
        loop {
            let current = || Place::current(directory).map_err(|e| io("cannot read", directory, &e));
            let place = current()?;
            let opened = check_format(directory, &place.database(directory))
                .and_then(|()| Self::open_at(directory, place));
            // Who replaces a database has it open till the end: once this one is open, none takes its place.
            if current()? != place {
                continue;
            }
            let store = opened?;
            place.remove_older(directory).map_err(|e| io("cannot clear", directory, &e))?;
            return Ok(store);
        }
    }

    /// Whether there is a store in a directory.
    #[must_use]
    pub fn is_in(directory: &Path) -> bool {
        directory.join("FORMAT").exists()
    }

    /// New contents for this store, of a reset generation. It is closed with them.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn replace(self, generation: u64) -> Result<Box<dyn Replacement>, StoreError> {
        Ok(Box::new(self.rebuild(generation)?))
    }

    /// As [`DiskStore::replace`], for contents whose entries come and go.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn rebuild(self, generation: u64) -> Result<DiskReplacement, StoreError> {
        DiskReplacement::begin(self, generation)
    }

    fn open_at(directory: &Path, place: Place) -> Result<Self, StoreError> {
        let io = |what: &str, path: &Path, e: &io::Error| StoreError::Io {
            what: format!("{what} {}", path.display()),
            cause: os::cause(e),
        };
        let db_path = place.database(directory);
        let damage = preflight::damage(&db_path).map_err(|e| io("cannot read", &db_path, &e))?;
        if let Some(damage) = damage {
            return Err(corrupt(directory, damage));
        }
        let head_path = place.head(directory);
        if !head_path.exists() {
            preflight::clear_half_made(&db_path).map_err(|e| io("cannot clear", &db_path, &e))?;
        }
        let db = guarded(directory, || {
            Database::builder(&db_path).cache_size(BLOCK_CACHE_BYTES).worker_threads(WORKERS).open()
        })?;
        let (generation, keyspace) = newest(directory, &db)?;
        let found = head::read(&head_path).map_err(|e| io("cannot read", &head_path, &e))?;
        let head = Head { generation, batches: read_batches(directory, &keyspace)? };
        match found {
            Found::Head(must) if must > head => {
                return Err(corrupt(
                    directory,
                    format!(
                        "batch {} of generation {} is missing, the last one there is {} of {}",
                        must.batches, must.generation, head.batches, head.generation
                    ),
                ));
            }
            Found::Damaged => {
                tracing::warn!(path = %head_path.display(), "a damaged HEAD was written anew: nothing is lost");
            }
            _ => {}
        }
        let head_file = HeadFile::create(&head_path, head).map_err(|e| io("cannot write", &head_path, &e))?;
        let epoch = read_checkpoint(directory, &keyspace)?.map_or(0, |c| c.epoch);
        let foretold = read_foretold(directory, &keyspace)?.map(|(epoch, _)| epoch);
        Ok(Self {
            directory: directory.to_owned(),
            place,
            db,
            keyspace: RwLock::new(keyspace),
            writer: Mutex::new(Writer { head, head_file, epoch, foretold }),
        })
    }

    /// Resets the store in a directory, even where it can't be opened for damage or its format: its files are
    /// removed and made anew, of a greater generation. Answers the generation.
    ///
    /// # Errors
    /// When another process has it open, or files can't be removed or made.
    pub fn reset_at(directory: &Path) -> Result<u64, StoreError> {
        let generation = match Self::open(directory) {
            Ok(store) => store.generation()? + 1,
            Err(StoreError::Corrupt { .. } | StoreError::Format { .. }) => {
                let place = Place::current(directory);
                match place.and_then(|place| head::read(&place.head(directory))) {
                    Ok(Found::Head(head)) => head.generation + 1,
                    // Unknown: one that no earlier run can have counted up to.
                    _ => (1 << 32) | u64::from(std::process::id()),
                }
            }
            Err(e) => return Err(e),
        };
        let io = |e: &io::Error| StoreError::Io {
            what: format!("cannot reset {}", directory.display()),
            cause: os::cause(e),
        };
        place::remove_all(directory).map_err(|e| io(&e))?;
        let store = Self::open(directory)?;
        store.move_to(generation)?;
        Ok(generation)
    }

    /// Moves what is in memory to tables on disk and merges them; happens by itself as the state grows.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn compact(&self) -> Result<(), StoreError> {
        let keyspace = self.keyspace();
        guarded(&self.directory, || {
            keyspace.rotate_memtable_and_wait()?;
            keyspace.major_compact()
        })
    }

    fn keyspace(&self) -> Keyspace {
        // The lock only ever guards a handle that is replaced as a whole.
        self.keyspace.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &fjall::Error) -> StoreError {
        store_error(&self.directory, error)
    }

    fn write_head(&self, writer: &mut Writer, head: Head) -> Result<(), StoreError> {
        writer.head = head;
        writer.head_file.write(head).map_err(|e| StoreError::Io {
            what: format!("cannot write {}", self.place.head(&self.directory).display()),
            cause: os::cause(&e),
        })
    }

    /// Commits a batch with its proof, durably, and moves the head.
    fn write(
        &self,
        writer: &mut Writer,
        keyspace: &Keyspace,
        fill: impl FnOnce(&mut OwnedWriteBatch, &mut Writer),
    ) -> Result<(), StoreError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        fill(&mut batch, writer);
        let batches = writer.head.batches + 1;
        let number = batches.to_le_bytes();
        batch.insert(keyspace, BATCHES, hashed(BATCHES, &number));
        for slot in witness::slots(batches) {
            let key = slot_key(slot);
            batch.insert(keyspace, &key[..], hashed(&key, &number));
        }
        batch.commit().map_err(|e| self.failed(&e))?;
        if batches.is_multiple_of(witness::BATCHES_IN_LOG_MAX) {
            keyspace.rotate_memtable().map_err(|e| self.failed(&e))?;
        }
        let head = Head { batches, ..writer.head };
        self.write_head(writer, head)
    }

    /// Begins an empty keyspace of another generation and leaves the old one.
    fn move_to(&self, generation: u64) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let mut keyspace = self.keyspace.write().unwrap_or_else(PoisonError::into_inner);
        let new = self.db.keyspace(&name(generation), options).map_err(|e| self.failed(&e))?;
        // From here on the new one counts, whatever happens: the greatest generation is the state.
        let old = std::mem::replace(&mut *keyspace, new);
        self.db.delete_keyspace(old).map_err(|e| self.failed(&e))?;
        self.db.persist(PersistMode::SyncAll).map_err(|e| self.failed(&e))?;
        (writer.epoch, writer.foretold) = (0, None);
        self.write_head(&mut writer, Head { generation, batches: 0 })
    }

    /// Commits; with `next`, the facts of the epoch behind are foretold by the same batch.
    fn commit_with(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        next: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer();
        refuse_stale(&self.name(), checkpoint, writer.head.generation, writer.epoch)?;
        if let Some(cause) = delta.changes.iter().find_map(|c| too_long(&c.key)) {
            let what = format!("commit of epoch {} to {}", checkpoint.epoch, self.name());
            return Err(StoreError::Io { what, cause });
        }
        let json = serde_json::to_vec(checkpoint).map_err(|e| corrupt(&self.directory, e.to_string()))?;
        let keyspace = self.keyspace();
        self.write(&mut writer, &keyspace, |batch, writer| {
            // By key, for what is near one another is found faster; stable, so that of two changes of one
            // key the later one still counts.
            let mut changes: Vec<&Change> = delta.changes.iter().collect();
            changes.sort_by(|a, b| a.key.cmp(&b.key));
            for Change { key, value, .. } in changes {
                let key = entry(key);
                match value {
                    Some(value) => {
                        let value = hashed(&key, value);
                        batch.insert(&keyspace, key, value);
                    }
                    None => batch.remove(&keyspace, key),
                }
            }
            batch.insert(&keyspace, CHECKPOINT, hashed(CHECKPOINT, &json));
            let over = writer.foretold.take_if(|epoch| *epoch <= checkpoint.epoch).is_some();
            match next {
                Some(facts) => put_foretold(batch, &keyspace, checkpoint.epoch + 1, facts),
                None if over => batch.remove(&keyspace, FORETOLD),
                None => {}
            }
        })?;
        writer.epoch = checkpoint.epoch;
        if next.is_some() {
            writer.foretold = Some(checkpoint.epoch + 1);
        }
        Ok(())
    }
}

impl StateStore for DiskStore {
    fn name(&self) -> String {
        format!("disk {}", self.directory.display())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        read_checkpoint(&self.directory, &self.keyspace())
    }

    fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.writer().head.generation)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if too_long(key).is_some() {
            return Ok(None);
        }
        read(&self.directory, &self.keyspace(), &entry(key))
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
        let found = self.keyspace().range::<&[u8], _>((from, Bound::Unbounded));
        visit_entries(&self.directory, &prefix, found, visit)
    }

    fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if too_long(prefix).is_some() {
            return Ok(None);
        }
        let keyspace = self.keyspace();
        let last = guarded(&self.directory, || {
            keyspace.prefix(entry(prefix)).next_back().map(fjall::Guard::key).transpose()
        })?;
        Ok(last.map(|key| key[1..].to_vec()))
    }

    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.commit_with(delta, checkpoint, None)
    }

    fn commit_and_foretell(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        facts: &[u8],
    ) -> Result<(), StoreError> {
        self.commit_with(delta, checkpoint, Some(facts))
    }

    fn foretells_in_commits(&self) -> bool {
        true
    }

    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let keyspace = self.keyspace();
        self.write(&mut writer, &keyspace, |batch, _| put_foretold(batch, &keyspace, epoch, facts))?;
        writer.foretold = Some(epoch);
        Ok(())
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        read_foretold(&self.directory, &self.keyspace())
    }

    fn view(&self) -> Result<Option<Box<dyn StateView>>, StoreError> {
        // No reset comes between the keyspace and the snapshot of it.
        let keyspace = self.keyspace.read().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.db.snapshot();
        let generation = generation_of(keyspace.name()).unwrap_or_default();
        let (directory, keyspace) = (self.directory.clone(), keyspace.clone());
        Ok(Some(Box::new(DiskView { directory, keyspace, snapshot, generation })))
    }

    fn reset(&self) -> Result<(), StoreError> {
        let generation = self.generation()? + 1;
        self.move_to(generation)
    }
}

fn check_format(directory: &Path, db_path: &Path) -> Result<(), StoreError> {
    let path = directory.join("FORMAT");
    let io = |e: &io::Error| StoreError::Io {
        what: format!("cannot write {}", path.display()),
        cause: os::cause(e),
    };
    let other = |found: String| {
        Err(StoreError::Format { path: directory.display().to_string(), found, expected: FORMAT })
    };
    match fs::read(&path) {
        Ok(bytes) if bytes == format!("{FORMAT}\n").as_bytes() => Ok(()),
        // A crash while it was made first: there is nothing behind it yet.
        Ok(bytes) if !db_path.exists() && bytes.len() < 2 => mark(directory, &path).map_err(|e| io(&e)),
        Ok(bytes) => other(format!("`{}`", String::from_utf8_lossy(&bytes).trim_end().escape_debug())),
        Err(e) if e.kind() == io::ErrorKind::NotFound && db_path.exists() => {
            other("unknown (no FORMAT file)".into())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => mark(directory, &path).map_err(|e| io(&e)),
        Err(e) => Err(io(&e)),
    }
}

fn mark(directory: &Path, path: &Path) -> io::Result<()> {
    fs::write(path, format!("{FORMAT}\n"))?;
    fs::File::open(path)?.sync_all()?;
    fs::File::open(directory)?.sync_all()
}

fn name(generation: u64) -> String {
    format!("g{generation}")
}

fn generation_of(name: &str) -> Option<u64> {
    name.strip_prefix('g')?.parse().ok()
}

/// Why a key can't be stored.
fn too_long(key: &[u8]) -> Option<String> {
    (key.len() > KEY_BYTES_MAX)
        .then(|| format!("a key of {} bytes is above the limit of {KEY_BYTES_MAX}", key.len()))
}

/// A place among the entries, which need not be one's: behind a longer key and its first bytes the same ones follow, for
/// none has as many.
fn place_of(key: &[u8]) -> Vec<u8> {
    entry(&key[..key.len().min(KEY_BYTES_MAX + 1)])
}

/// How much is written before it moves from the journal to a table. A start replays the journal: at
/// 16 MiB that takes about a tenth of a second, at the default of 64 MiB more than half a second.
const MEMTABLE_BYTES_MAX: u64 = 16 << 20;
/// How many tables wait before they are merged into the next level: with twice the default, a key that
/// changes often is merged half as often.
const TABLES_BEFORE_MERGE: u8 = 8;

/// How much of the tables' blocks is in memory, with the parts of their filters and indexes.
const BLOCK_CACHE_BYTES: u64 = 64 << 20;
/// Threads that write and merge tables. With a second one, fjall 3.1 has one of them spin while the other
/// merges (`worker_pool.rs`, `WorkerMessage::Compact`).
const WORKERS: usize = 1;

fn options() -> KeyspaceCreateOptions {
    // Whole filters and indexes of the tables below the first level are megabytes, and each read of a key
    // needs them: in parts, those that are used stay in the cache.
    let in_parts = PartitioningPolicy::new([false, true]);
    let strategy = Leveled::default().with_l0_threshold(TABLES_BEFORE_MERGE);
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES_MAX)
        .compaction_strategy(Arc::new(strategy))
        .index_block_partitioning_policy(in_parts.clone())
        .filter_block_partitioning_policy(in_parts)
}

/// The keyspace of the greatest generation; what a reset left behind is removed.
fn newest(directory: &Path, db: &Database) -> Result<(u64, Keyspace), StoreError> {
    let mut generations = Vec::new();
    for name in db.list_keyspace_names() {
        match generation_of(&name) {
            Some(generation) => generations.push(generation),
            None => return Err(corrupt(directory, format!("keyspace `{}` is unknown", name.escape_debug()))),
        }
    }
    generations.sort_unstable();
    let generation = generations.pop().unwrap_or(0);
    let open = |generation| guarded(directory, || db.keyspace(&name(generation), options));
    for old in generations {
        let old = open(old)?;
        guarded(directory, || db.delete_keyspace(old))?;
    }
    Ok((generation, open(generation)?))
}
