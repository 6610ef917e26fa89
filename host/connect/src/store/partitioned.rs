//! Several stores as one: each has the key groups of one partition of an exchange.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use wasmill_engine::key::lane_of;
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::{
    Change, Checkpoint, Delta, Epoch, StateStore, StateView, StoreError, VisitEntry, group_of,
};

use super::parts_view::{PartsView, name_of_parts, whole};

/// Stores by partition.
pub struct PartitionedStore {
    stores: BTreeMap<u32, Arc<dyn StateStore>>,
    partitions: u32,
    key_groups: u16,
    /// Which partition a position is of.
    of: Box<dyn Fn(PartitionId) -> u32 + Send + Sync>,
    /// Held while the parts of an epoch are committed, so that nobody looks at them in between.
    committing: Mutex<()>,
}

impl PartitionedStore {
    /// The stores of some of so many partitions, into which so many key groups are shared out. `of` tells which
    /// partition a position is of.
    #[must_use]
    pub fn new(
        stores: BTreeMap<u32, Arc<dyn StateStore>>,
        (partitions, key_groups): (u32, u16),
        of: Box<dyn Fn(PartitionId) -> u32 + Send + Sync>,
    ) -> Self {
        Self { stores, partitions, key_groups, of, committing: Mutex::default() }
    }

    /// The partition that has a key; none where the key is none of state.
    fn partition_of(&self, key: &[u8]) -> Option<u32> {
        let group = group_of(key)?;
        u32::try_from(lane_of(group, self.key_groups, self.partitions as usize)).ok()
    }

    fn store_of(&self, key: &[u8]) -> Option<&Arc<dyn StateStore>> {
        self.stores.get(&self.partition_of(key)?)
    }

    /// What of an epoch is each partition's; each has a checkpoint, and its positions in it.
    #[must_use]
    pub fn parts<'a>(
        &self,
        delta: &'a Delta,
        checkpoint: &Checkpoint,
    ) -> BTreeMap<u32, (Vec<&'a Change>, Checkpoint)> {
        let mut parts: BTreeMap<u32, (Vec<&Change>, Checkpoint)> = BTreeMap::new();
        for partition in self.stores.keys() {
            let positions =
                checkpoint.positions.iter().filter(|(id, _)| (self.of)(*id) == *partition).cloned().collect();
            // What was counted is the process's, not a partition's.
            let counts = BTreeMap::new();
            let checkpoint = Checkpoint { positions, counts, ..checkpoint.clone() };
            parts.insert(*partition, (Vec::new(), checkpoint));
        }
        for change in &delta.changes {
            let part = self.partition_of(&change.key).and_then(|partition| parts.get_mut(&partition));
            debug_assert!(part.is_some(), "a key of a partition that is not here");
            if let Some((changes, _)) = part {
                changes.push(change);
            }
        }
        parts
    }

    /// Commits each partition's part for itself, with what `note` makes of its checkpoint.
    ///
    /// # Errors
    /// As [`StateStore::commit`].
    pub fn commit_parts(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        note: impl Fn(u32, Checkpoint) -> Checkpoint,
    ) -> Result<(), StoreError> {
        let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, (changes, part)) in self.parts(delta, checkpoint) {
            let Some(store) = self.stores.get(&partition) else { continue };
            let part = Checkpoint { generation: store.generation()?, ..part };
            let changes = changes.into_iter().cloned().collect();
            store.commit(&Delta { changes }, &note(partition, part))?;
        }
        Ok(())
    }
}

impl StateStore for PartitionedStore {
    fn name(&self) -> String {
        name_of_parts(self.stores.values().map(|store| store.name()))
    }

    fn is_durable(&self) -> bool {
        self.stores.values().all(|s| s.is_durable())
    }

    fn is_ordered(&self) -> bool {
        self.stores.values().all(|s| s.is_ordered())
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        whole(self.stores.values().map(|store| store.checkpoint()))
    }

    fn generation(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store_of(key).map_or(Ok(None), |store| store.get(key))
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        // A lane asks for keys of its own partition alone.
        let first = keys.first().and_then(|key| self.partition_of(key));
        match first.and_then(|first| self.stores.get(&first)) {
            Some(store) if keys.iter().all(|key| self.partition_of(key) == first) => store.get_many(keys),
            _ => keys.iter().map(|key| self.get(key)).collect(),
        }
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        match self.store_of(prefix) {
            Some(store) => store.entries(prefix, after, visit),
            // No group in it: all of them, which `scan`s of tools ask for and lanes never do.
            None if group_of(prefix).is_none() => {
                self.stores.values().try_for_each(|store| store.entries(prefix, after, visit))
            }
            None => Ok(()),
        }
    }

    fn last_key(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store_of(prefix).map_or(Ok(None), |store| store.last_key(prefix))
    }

    /// Each partition's part is a commit of its own: what counts is elsewhere, and each follows it for itself.
    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.commit_parts(delta, checkpoint, |_, part| part)
    }

    fn foretell(&self, _: Epoch, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        Ok(None)
    }

    fn view(&self) -> Result<Option<Box<dyn StateView>>, StoreError> {
        let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let views = self.stores.values().map(|store| store.view());
        let views: Option<Vec<_>> = views.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
        Ok(views.map(|views| Box::new(PartsView::new(views)) as Box<dyn StateView>))
    }

    fn reset(&self) -> Result<(), StoreError> {
        self.stores.values().try_for_each(|store| store.reset())
    }
}
