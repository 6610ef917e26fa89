//! State in memory: it ends with the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use wasmill_engine::state::{Change, Checkpoint, Delta, Epoch, StateStore, StoreError, VisitEntry};

use super::{behind, refuse_stale};

/// State in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    checkpoint: Option<Checkpoint>,
    foretold: Option<(Epoch, Vec<u8>)>,
    generation: u64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    // No call below can panic between two changes, so a poisoned lock guards whole state.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryStore {
    fn name(&self) -> String {
        "memory".into()
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.read().checkpoint.clone())
    }

    fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.read().generation)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().entries.get(key).cloned())
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        let inner = self.read();
        let found = inner.entries.range::<[u8], _>((behind(prefix, after), Bound::Unbounded));
        for (key, value) in found.take_while(|(key, _)| key.starts_with(prefix)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let inner = self.read();
        // Behind every key under the prefix is the one whose last byte is one more.
        let behind = prefix.iter().rposition(|byte| *byte != u8::MAX).map(|last| {
            let mut behind = prefix[..=last].to_vec();
            behind[last] += 1;
            behind
        });
        let to = behind.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = inner.entries.range::<[u8], _>((Bound::Included(prefix), to));
        Ok(found.next_back().map(|(key, _)| key.clone()))
    }

    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut inner = self.write();
        let last = inner.checkpoint.as_ref().map_or(0, |c| c.epoch);
        refuse_stale("memory", checkpoint, inner.generation, last)?;
        for Change { key, value, .. } in &delta.changes {
            match value {
                Some(value) => inner.entries.insert(key.clone(), value.clone()),
                None => inner.entries.remove(key),
            };
        }
        inner.foretold.take_if(|(epoch, _)| *epoch <= checkpoint.epoch);
        inner.checkpoint = Some(checkpoint.clone());
        Ok(())
    }

    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError> {
        self.write().foretold = Some((epoch, facts.to_vec()));
        Ok(())
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        Ok(self.read().foretold.clone())
    }

    fn reset(&self) -> Result<(), StoreError> {
        let mut inner = self.write();
        *inner = Inner { generation: inner.generation + 1, ..Inner::default() };
        Ok(())
    }
}
