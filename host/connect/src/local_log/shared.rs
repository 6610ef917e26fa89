//! What the writer and the readers of a log in one process tell each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

/// One log, as this process knows it.
#[derive(Debug)]
pub(super) struct Shared {
    committed: watch::Sender<u64>,
    bytes: AtomicU64,
    failed: Mutex<Option<String>>,
}

static LOGS: Mutex<BTreeMap<PathBuf, Weak<Shared>>> = Mutex::new(BTreeMap::new());

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is changed in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The one of the log in a directory, which is there.
    pub fn of(directory: &Path) -> Arc<Self> {
        let path = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let mut logs = lock(&LOGS);
        logs.retain(|_, log| log.strong_count() > 0);
        if let Some(shared) = logs.get(&path).and_then(Weak::upgrade) {
            return shared;
        }
        let shared = Arc::new(Self {
            committed: watch::Sender::new(0),
            bytes: AtomicU64::new(0),
            failed: Mutex::default(),
        });
        logs.insert(path, Arc::downgrade(&shared));
        shared
    }

    /// The committed offset, as far as this process has seen it.
    pub fn committed(&self) -> u64 {
        *self.committed.borrow()
    }

    /// Tells when the committed offset moves.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// The writer has committed.
    pub fn commit(&self, offset: u64) {
        self.committed.send_replace(offset);
    }

    /// A reader has seen that a writer, perhaps of another process, has committed.
    pub fn see(&self, offset: u64) {
        self.committed.send_if_modified(|known| {
            let newer = offset > *known;
            *known = offset.max(*known);
            newer
        });
    }

    /// How long the segments are together, where the writer is of this process.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::SeqCst);
    }

    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    pub fn take_bytes(&self, bytes: u64) {
        let take = |now: u64| Some(now.saturating_sub(bytes));
        // The closure always answers something.
        let _ = self.bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
    }

    /// Why the writer can't go on, if it can't.
    pub fn failed(&self) -> Option<String> {
        lock(&self.failed).clone()
    }

    pub fn set_failed(&self, why: Option<String>) {
        *lock(&self.failed) = why;
    }
}
