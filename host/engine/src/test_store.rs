//! A store for tests: what it has is given, and it says what it is asked for.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::state::{Checkpoint, Delta, Epoch, StateStore, StoreError, VisitEntry};

/// As much of a store as is read.
#[derive(Default)]
pub(crate) struct Entries {
    pub all: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The keys that were asked for one by one.
    pub asked: Mutex<Vec<Vec<u8>>>,
}

impl StateStore for Entries {
    fn name(&self) -> String {
        "entries".to_owned()
    }
    fn is_durable(&self) -> bool {
        true
    }
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(None)
    }
    fn generation(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.asked.lock().expect("lock").push(key.to_vec());
        Ok(self.all.get(key).cloned())
    }
    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        for (key, value) in &self.all {
            if key.starts_with(prefix)
                && after.is_none_or(|after| key.as_slice() > after)
                && visit(key, value).is_break()
            {
                break;
            }
        }
        Ok(())
    }
    fn commit(&self, _: &Delta, _: &Checkpoint) -> Result<(), StoreError> {
        Ok(())
    }
    fn foretell(&self, _: Epoch, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        Ok(None)
    }
    fn reset(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
