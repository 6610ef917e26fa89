//! The state that plugins keep by key: read through a cache, staged by call and by epoch, swept of what has
//! expired.

mod cache;
mod sweep;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::cache::Cache;
use self::sweep::Sweep;
pub use self::sweep::{SWEPT_BYTES_MAX, SWEPT_ENTRIES_MAX};

use crate::batch::Batch;
use crate::guest::KeyedState;
use crate::key::key_group;
use crate::residents::CHANGE_BYTES;
use crate::state::{Change, Delta, Epoch, StateStore, StoreError, plugin_state_key, plugin_state_key_bytes};
use crate::stored_key::{STORED_KEY_BYTES_MAX, split_expiry, with_expiry};
use crate::time::END;

/// How many bytes of committed entries a stage keeps in a lane's memory, where nothing else is asked for.
pub const CACHE_BYTES_MAX: usize = 16 << 20;

/// One stage's state in one lane.
pub struct PluginState {
    stage: u16,
    key_groups: u16,
    store: Arc<dyn StateStore>,
    /// What is in the store.
    cache: Cache,
    /// What has changed and isn't in the store yet; this comes before the cache.
    pending: HashMap<Vec<u8>, Pending>,
    /// What the call under way has changed; kept only if it succeeds.
    staged: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Why the store couldn't be read in the call under way.
    fault: Option<StoreError>,
    /// For each message of the call: its key and its stamp.
    messages: Vec<(Vec<u8>, i64)>,
    epoch: Epoch,
    /// About what the epoch under way has changed, in bytes; an entry counts each time.
    changed_bytes: usize,
    sweep: Sweep,
}

struct Pending {
    /// Expiry in event time as 8 bytes, then the value.
    value: Option<Vec<u8>>,
    /// Whether the delta of the epoch under way lacks it.
    dirty: bool,
    /// The epoch that changed it last; before that is committed it must not be forgotten.
    epoch: Epoch,
}

impl PluginState {
    /// The state of the pipeline's `stage`-th stage, for the key groups `owned` out of `key_groups`, with so
    /// many bytes of committed entries in memory.
    #[must_use]
    pub fn new(
        stage: u16,
        (owned, key_groups): (Range<u16>, u16),
        store: Arc<dyn StateStore>,
        cache_bytes_max: usize,
    ) -> Self {
        Self {
            stage,
            key_groups,
            store,
            cache: Cache::new(cache_bytes_max),
            pending: HashMap::new(),
            staged: HashMap::new(),
            fault: None,
            messages: Vec::new(),
            epoch: 0,
            changed_bytes: 0,
            sweep: Sweep::new(stage, owned),
        }
    }

    /// Ends a call.
    ///
    /// # Errors
    /// When the store couldn't be read in it: whatever the call answered says nothing about its messages.
    pub(crate) fn end_call(&mut self, keep: bool) -> Result<(), StoreError> {
        if let Some(fault) = self.fault.take() {
            self.staged.clear();
            return Err(fault);
        }
        if keep {
            let epoch = self.epoch;
            for (key, value) in self.staged.drain() {
                if let Some(value) = &value {
                    self.sweep.note(split_expiry(value).0);
                }
                self.changed_bytes += key.len() + value.as_ref().map_or(0, Vec::len) + CHANGE_BYTES;
                self.pending.insert(key, Pending { value, dirty: true, epoch });
            }
        }
        self.staged.clear();
        Ok(())
    }

    /// What the epoch has changed.
    pub(crate) fn take_delta(&mut self, epoch: Epoch, delta: &mut Delta) {
        for (key, pending) in self.pending.iter_mut().filter(|(_, p)| p.dirty) {
            pending.dirty = false;
            pending.epoch = epoch;
            delta.changes.push(Change { key: key.clone(), value: pending.value.clone(), share: None });
        }
        self.epoch = epoch + 1;
        self.changed_bytes = 0;
    }

    /// About what a delta of now would hold, in bytes.
    pub(crate) fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// Deletes with the epoch, behind its delta, some of what has expired for good: no message that is still
    /// to come has a smaller stamp than `time`. So nobody can see whether it is done, or when.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) fn sweep(&mut self, epoch: Epoch, time: i64, delta: &mut Delta) -> Result<(), StoreError> {
        let pending = self.pending.values().filter_map(|p| p.value.as_deref());
        let pending = pending.map(|stored| split_expiry(stored).0);
        for key in self.sweep.expired(self.store.as_ref(), time, pending)? {
            // Where there is something newer, the store doesn't have the last word: a later round looks at that.
            if let Entry::Vacant(free) = self.pending.entry(key) {
                delta.changes.push(Change { key: free.key().clone(), value: None, share: None });
                free.insert(Pending { value: None, dirty: false, epoch });
            }
        }
        Ok(())
    }

    /// An epoch is in the store: what it changed may be forgotten where room is needed.
    pub(crate) fn committed(&mut self, epoch: Epoch) {
        for (key, stored) in self.pending.extract_if(|_, p| !p.dirty && p.epoch <= epoch) {
            self.cache.put(key, stored.value);
        }
    }

    fn entry_key(&self, index: u32, name: &str) -> Result<(Vec<u8>, i64), String> {
        let (key, stamp) = self.messages.get(index as usize).ok_or_else(|| {
            format!("message {index} is not in the frame, which has {}", self.messages.len())
        })?;
        // One that a store doesn't take would end the process at its commit, and at each start again.
        let bytes = plugin_state_key_bytes(key, name);
        if bytes > STORED_KEY_BYTES_MAX {
            return Err(format!(
                "its name of {} bytes and its message's key of {} make a stored key of {bytes} bytes; up to {STORED_KEY_BYTES_MAX} fit: shorten the name, or the key",
                name.len(),
                key.len()
            ));
        }
        let group = key_group(key, self.key_groups);
        Ok((plugin_state_key(self.stage, group, key, name), *stamp))
    }

    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
        let (key, stamp) = self.entry_key(index, name)?;
        let changed = self.staged.get(&key).or_else(|| self.pending.get(&key).map(|p| &p.value));
        if let Some(value) = changed {
            return Ok(value.as_deref().and_then(|stored| live(stored, stamp)));
        }
        if let Some(value) = self.cache.get(&key) {
            return Ok(value.and_then(|stored| live(stored, stamp)));
        }
        match self.store.get(&key) {
            Ok(stored) => {
                let value = stored.as_deref().and_then(|stored| live(stored, stamp));
                self.cache.put(key, stored);
                Ok(value)
            }
            Err(error) => {
                let text = error.to_string();
                self.fault = Some(error);
                Err(text)
            }
        }
    }

    fn set(
        &mut self,
        index: u32,
        name: &str,
        value: Option<&[u8]>,
        ttl_ms: Option<u64>,
    ) -> Result<(), String> {
        let (key, stamp) = self.entry_key(index, name)?;
        let expiry = ttl_ms.map_or(END, |ttl| stamp.saturating_add(i64::try_from(ttl).unwrap_or(END)));
        let value = value.map(|v| with_expiry(expiry, v));
        self.staged.insert(key, value);
        Ok(())
    }
}

/// A stored entry's value for a message with this stamp; none where it has expired by then.
fn live(stored: &[u8], stamp: i64) -> Option<Vec<u8>> {
    let (expiry, value) = split_expiry(stored);
    (expiry == END || expiry > stamp).then(|| value.to_vec())
}

/// A stage's state as one call sees it.
pub(crate) struct StateHandle(Arc<Mutex<PluginState>>);

impl StateHandle {
    /// Opens the state for a call about these messages.
    pub(crate) fn begin(state: &Arc<Mutex<PluginState>>, batch: &Batch, range: Range<usize>) -> Self {
        let mut open = state.lock().unwrap_or_else(PoisonError::into_inner);
        open.staged.clear();
        open.fault = None;
        open.messages.clear();
        open.messages.extend(
            range.map(|i| (batch.frame.get(i).key().unwrap_or_default().to_vec(), batch.rows[i].stamp)),
        );
        drop(open);
        Self(Arc::clone(state))
    }
}

impl KeyedState for StateHandle {
    fn stored_bytes(&self, index: u32, name: &str) -> usize {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is told of a message that isn't there takes no key.
        let key = open.messages.get(index as usize).map_or(&[][..], |(key, _)| key);
        plugin_state_key_bytes(key, name)
    }

    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(index, name)
    }

    fn set(
        &mut self,
        index: u32,
        name: &str,
        value: Option<&[u8]>,
        ttl_ms: Option<u64>,
    ) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set(index, name, value, ttl_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::PartitionId;
    use crate::test_store::Entries;
    use wasmill_frame::{Parts, TIMESTAMP_NONE};

    #[test]
    fn a_stored_key_is_as_long_as_every_store_takes_it_or_refused() {
        let store = Arc::new(Entries::default());
        let state = PluginState::new(1, (0..8, 8), Arc::clone(&store) as Arc<dyn StateStore>, 1 << 20);
        let state = Arc::new(Mutex::new(state));
        let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, 1, 64);
        let parts = Parts {
            id: "m",
            kind: "t",
            key: Some(b"0123456789"),
            payload: b"",
            timestamp: TIMESTAMP_NONE,
            metadata: b"",
            payload_is_json: false,
        };
        batch.push(&parts, 0);
        let mut handle = StateHandle::begin(&state, &batch, 0..1);
        // Behind the kind, stage, group and length of the key.
        let most = "n".repeat(STORED_KEY_BYTES_MAX - 9 - 10);
        assert_eq!(handle.stored_bytes(0, &most), STORED_KEY_BYTES_MAX);
        assert_eq!(handle.get(0, &most), Ok(None));
        assert_eq!(handle.set(0, &most, Some(b"v"), None), Ok(()));
        let asked = || store.asked.lock().expect("lock").iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(asked(), [STORED_KEY_BYTES_MAX]);

        let long = format!("{most}n");
        let told = "its name of 2582 bytes and its message's key of 10 make a stored key of 2601 bytes; \
                    up to 2600 fit: shorten the name, or the key";
        assert_eq!(handle.get(0, &long), Err(told.to_owned()));
        assert_eq!(handle.set(0, &long, None, None), Err(told.to_owned()));
        assert_eq!(asked().len(), 1, "no store is asked");
        assert_eq!(state.lock().expect("lock").staged.len(), 1);
    }
}
