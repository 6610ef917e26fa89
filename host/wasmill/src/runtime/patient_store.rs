//! The store as lanes read it: one that is away is waited for.

use std::sync::Arc;

use wasmill_engine::state::{
    Checkpoint, Delta, Epoch, Merged, StateStore, StateView, StoreError, VisitEntry,
};

use super::retry::{Backoff, Ends};

/// A store whose [`get`](StateStore::get) and [`get_many`](StateStore::get_many) answer once the store is there. A
/// lane is in the midst of a batch then, and has nothing else to do; what it could not read must not be held
/// against a message. All other calls are the store's own: whoever makes them waits in a way of its own.
pub(super) struct PatientStore {
    store: Arc<dyn StateStore>,
    ends: Ends,
}

impl PatientStore {
    pub fn new(store: &Arc<dyn StateStore>, ends: &Ends) -> Self {
        Self { store: Arc::clone(store), ends: ends.clone() }
    }

    fn patiently<T>(&self, read: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut backoff = Backoff::new();
        loop {
            match read() {
                Err(StoreError::Away { what, cause }) => {
                    std::thread::sleep(self.ends.away("the store", &mut backoff, &what, &cause));
                }
                answer => {
                    if backoff.is_waiting() {
                        self.ends.well("the store", &mut backoff);
                    }
                    return answer;
                }
            }
        }
    }
}

impl StateStore for PatientStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.patiently(|| self.store.get(key))
    }
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.patiently(|| self.store.get_many(keys))
    }

    fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.last_key(prefix)
    }
    fn name(&self) -> String {
        self.store.name()
    }
    fn is_durable(&self) -> bool {
        self.store.is_durable()
    }
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.store.checkpoint()
    }
    fn generation(&self) -> Result<u64, StoreError> {
        self.store.generation()
    }
    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        self.store.entries(prefix, after, visit)
    }
    fn is_ordered(&self) -> bool {
        self.store.is_ordered()
    }
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.store.scan(prefix, visit)
    }
    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.store.commit(delta, checkpoint)
    }
    fn commit_and_foretell(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        facts: &[u8],
    ) -> Result<(), StoreError> {
        self.store.commit_and_foretell(delta, checkpoint, facts)
    }
    fn foretells_in_commits(&self) -> bool {
        self.store.foretells_in_commits()
    }
    fn merged(&self) -> Merged {
        self.store.merged()
    }
    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError> {
        self.store.foretell(epoch, facts)
    }
    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        self.store.foretold()
    }
    fn view(&self) -> Result<Option<Box<dyn StateView>>, StoreError> {
        self.store.view()
    }
    fn reset(&self) -> Result<(), StoreError> {
        self.store.reset()
    }
}
