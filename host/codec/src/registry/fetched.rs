//! Schemas by number, fetched before they are needed.

use std::any::Any;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use wasmill_engine::input::RawBatch;

use super::client::{Registry, Trouble};
use super::{Registered, wire};
use crate::{Ahead, CodecError};

/// How many schemas are asked for at once.
const ASKED_MAX: usize = 8;
/// How many schemas are kept, those that the registry doesn't have among them.
const KEPT_MAX: usize = 10_000;
/// How many bytes the texts of those kept may have; parsed they take up some times as much.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// After how long the registry is asked once more for a schema that it didn't have.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(10);

/// How many there have been, so that each has a number of its own.
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What this thread asked for last: most records have the schema of the one before.
    static LAST: Cell<Option<Last>> = const { Cell::new(None) };
}

struct Last {
    of: u64,
    id: u32,
    found: Arc<dyn Any + Send + Sync>,
}

/// A schema as it was parsed, or why there is none: for the dead-letter queue.
type Found<T> = Result<Arc<T>, String>;

/// The schemas that the records of a source name in the wire format, parsed. As [`Ahead`] it fetches them before
/// a batch is decoded. What the registry has is kept, for a number's meaning never changes; for what it doesn't have it
/// is asked again, but at most every ten seconds.
pub struct Fetched<T> {
    number: u64,
    registry: Registry,
    parse: Box<Parse<T>>,
    kept: RwLock<Kept<T>>,
    /// One batch fetches at a time, so that none is asked for twice.
    fetching: tokio::sync::Mutex<()>,
    /// Counts batches, to know which schemas were not used for long.
    batches: AtomicU64,
}

type Parse<T> = dyn Fn(&Registered) -> Result<T, String> + Send + Sync;

struct Kept<T> {
    schemas: HashMap<u32, Entry<T>>,
    bytes: usize,
}

struct Entry<T> {
    found: Arc<Found<T>>,
    bytes: usize,
    /// When the registry may be asked again; never for what it has.
    again: Option<Instant>,
    /// The batch that used it last.
    used: AtomicU64,
}

impl<T: Send + Sync + 'static> Fetched<T> {
    /// Of a registry; `parse` makes of a schema what the decoder needs, or says why it can't.
    #[must_use]
    pub fn new(
        registry: Registry,
        parse: impl Fn(&Registered) -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            number: COUNT.fetch_add(1, Ordering::Relaxed),
            registry,
            parse: Box::new(parse),
            kept: RwLock::new(Kept { schemas: HashMap::new(), bytes: 0 }),
            fetching: tokio::sync::Mutex::default(),
            batches: AtomicU64::new(0),
        }
    }

    /// The schema of a number; an error says why there is none. None where no batch with it was brought lately.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Found<T>> {
        self.with(id, Clone::clone)
    }

    /// As `get`, without a clone: the cheapest way.
    pub fn with<R>(&self, id: u32, work: impl FnOnce(&Found<T>) -> R) -> Option<R> {
        let last = LAST.take().filter(|last| last.of == self.number && last.id == id);
        let last = match last {
            Some(last) => last,
            None => {
                let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
                let entry = kept.schemas.get(&id)?;
                let found = Arc::clone(&entry.found);
                let is_final = entry.again.is_none();
                drop(kept);
                if !is_final {
                    // Not for the thread to keep: the registry may have it by the next batch.
                    return Some(work(&found));
                }
                Last { of: self.number, id, found }
            }
        };
        let result = last.found.downcast_ref::<Found<T>>().map(work);
        LAST.set(Some(last));
        result
    }

    /// Of these, those for which the registry must be asked; the others count as used.
    fn missing(&self, ids: &[u32], batch: u64, now: Instant) -> Vec<u32> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let is_missing = |id: &u32| match kept.schemas.get(id) {
            Some(entry) => {
                entry.used.fetch_max(batch, Ordering::Relaxed);
                entry.again.is_some_and(|again| again <= now)
            }
            None => true,
        };
        ids.iter().copied().filter(is_missing).collect()
    }

    async fn fetch(&self, id: u32) -> Result<(u32, Found<T>, usize, bool), CodecError> {
        let (found, bytes, is_final) = match self.registry.whole_by_id(id).await {
            Ok(Some(schema)) => {
                let found = (self.parse)(&schema).map(Arc::new).map_err(|why| format!("schema {id}: {why}"));
                (found, schema.text_bytes(), true)
            }
            Ok(None) => {
                let why = format!(
                    "the schema registry {} has no schema with the id {id}: register it there, then replay the message",
                    self.registry
                );
                (Err(why), 0, false)
            }
            Err(Trouble::Broken(why)) => {
                (Err(format!("the schema registry {}: {why}", self.registry)), 0, false)
            }
            Err(Trouble::Asking(e)) => return Err(e),
        };
        Ok((id, found, bytes, is_final))
    }

    fn keep(&self, (id, found, bytes, is_final): (u32, Found<T>, usize, bool), batch: u64, now: Instant) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes + found.as_ref().err().map_or(0, String::len);
        let entry = Entry {
            found: Arc::new(found),
            bytes,
            again: (!is_final).then(|| now + UNKNOWN_AGAIN),
            used: AtomicU64::new(batch),
        };
        kept.bytes += bytes;
        if let Some(before) = kept.schemas.insert(id, entry) {
            kept.bytes -= before.bytes;
        }
        if kept.schemas.len() > KEPT_MAX || kept.bytes > KEPT_BYTES_MAX {
            kept.shrink(batch);
        }
    }
}

impl<T> Kept<T> {
    /// Drops what was not used for longest, down to nine tenths of the bounds; never what the batch at hand needs.
    fn shrink(&mut self, batch: u64) {
        let mut by_use: Vec<(u64, u32)> =
            self.schemas.iter().map(|(id, entry)| (entry.used.load(Ordering::Relaxed), *id)).collect();
        by_use.sort_unstable();
        for (used, id) in by_use {
            let fits = self.schemas.len() <= KEPT_MAX / 10 * 9 && self.bytes <= KEPT_BYTES_MAX / 10 * 9;
            if fits || used >= batch {
                break;
            }
            if let Some(entry) = self.schemas.remove(&id) {
                self.bytes -= entry.bytes;
            }
        }
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> Ahead for Fetched<T> {
    async fn bring(&self, batch: &RawBatch) -> Result<(), CodecError> {
        let mut ids = Vec::new();
        let mut seen = HashSet::new();
        let mut last = None;
        for record in batch.records.iter().filter(|r| !r.tombstone && r.rejected.is_none()) {
            // What is not in the wire format is the decoder's to tell.
            let Ok((id, _)) = wire(&batch.data[record.value.clone()]) else { continue };
            if last.replace(id) != Some(id) && seen.insert(id) {
                ids.push(id);
            }
        }
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        if self.missing(&ids, number, Instant::now()).is_empty() {
            return Ok(());
        }
        let _one = self.fetching.lock().await;
        let mut missing = self.missing(&ids, number, Instant::now()).into_iter();
        let mut asked: FuturesUnordered<_> =
            missing.by_ref().take(ASKED_MAX).map(|id| self.fetch(id)).collect();
        while let Some(answer) = asked.next().await {
            // Kept at once, so that what was asked for before a failure isn't asked for again.
            self.keep(answer?, number, Instant::now());
            asked.extend(missing.next().map(|id| self.fetch(id)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistrySettings;

    fn fetched() -> Fetched<u32> {
        let registry = Registry::new(&RegistrySettings::new("http://127.0.0.1:1")).expect("settings");
        Fetched::new(registry, |_| Ok(0))
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_was_used_lately_stays() {
        let (fetched, now) = (fetched(), Instant::now());
        for id in 0..30_000 {
            let batch = u64::from(id) + 1;
            fetched.keep((id, Ok(Arc::new(id)), 10, true), batch, now);
            assert_eq!(fetched.missing(&[0], batch, now), [0; 0], "each batch has it");
            let kept = fetched.kept.read().expect("no panic");
            assert!(kept.schemas.len() <= KEPT_MAX);
            assert_eq!(kept.bytes, kept.schemas.len() * 10);
        }
        assert_eq!(fetched.get(29_999), Some(Ok(Arc::new(29_999))));
        assert_eq!(fetched.get(0), Some(Ok(Arc::new(0))));
        assert_eq!(fetched.get(1), None);
    }

    #[test]
    fn great_schemas_are_bounded_by_their_bytes() {
        let (fetched, now) = (fetched(), Instant::now());
        for id in 0..100 {
            fetched.keep((id, Ok(Arc::new(id)), 1 << 20, true), u64::from(id) + 1, now);
            assert!(fetched.kept.read().expect("no panic").bytes <= KEPT_BYTES_MAX);
        }
        // What one batch needs is never dropped for it.
        for id in 200..300 {
            fetched.keep((id, Ok(Arc::new(id)), 1 << 20, true), 500, now);
        }
        assert!((200..300).all(|id| fetched.get(id).is_some()));
        assert_eq!(fetched.get(99), None);
    }
}
