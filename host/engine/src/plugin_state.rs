//! The state that plugins keep by key: read through a cache, staged by call and by epoch.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::batch::Batch;
use crate::guest::KeyedState;
use crate::key::key_group;
use crate::state::{Change, Delta, Epoch, StateStore, plugin_state_key};
use crate::stored_key::{split_expiry, with_expiry};
use crate::time::END;

/// How many entries a lane keeps in memory beyond those that are not committed yet.
pub const CACHED_ENTRIES_MAX: usize = 100_000;

/// One stage's state in one lane.
pub struct PluginState {
    stage: u16,
    key_groups: u16,
    store: Arc<dyn StateStore>,
    cache: HashMap<Vec<u8>, Cached>,
    /// What the call under way has changed; kept only if it succeeds.
    staged: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// For each message of the call: its key and its stamp.
    messages: Vec<(Vec<u8>, i64)>,
    epoch: Epoch,
}

struct Cached {
    /// Expiry in event time as 8 bytes, then the value.
    value: Option<Vec<u8>>,
    dirty: bool,
    /// The epoch that changed it last; before that is committed it must not be forgotten.
    epoch: Epoch,
}

impl PluginState {
    /// The state of the pipeline's `stage`-th stage.
    #[must_use]
    pub fn new(stage: u16, key_groups: u16, store: Arc<dyn StateStore>) -> Self {
        Self {
            stage,
            key_groups,
            store,
            cache: HashMap::new(),
            staged: HashMap::new(),
            messages: Vec::new(),
            epoch: 0,
        }
    }

    pub(crate) fn end_call(&mut self, keep: bool) {
        if keep {
            let epoch = self.epoch;
            for (key, value) in self.staged.drain() {
                self.cache.insert(key, Cached { value, dirty: true, epoch });
            }
        }
        self.staged.clear();
    }

    /// What the epoch has changed.
    pub(crate) fn take_delta(&mut self, epoch: Epoch, delta: &mut Delta) {
        for (key, cached) in self.cache.iter_mut().filter(|(_, c)| c.dirty) {
            cached.dirty = false;
            cached.epoch = epoch;
            delta.changes.push(Change { key: key.clone(), value: cached.value.clone(), share: None });
        }
        self.epoch = epoch + 1;
    }

    /// An epoch is in the store: what it changed may be forgotten where room is needed.
    pub(crate) fn committed(&mut self, epoch: Epoch) {
        if self.cache.len() > CACHED_ENTRIES_MAX {
            self.cache.retain(|_, c| c.dirty || c.epoch > epoch);
        }
    }

    fn entry_key(&self, index: u32, name: &str) -> Result<(Vec<u8>, i64), String> {
        let (key, stamp) = self.messages.get(index as usize).ok_or_else(|| {
            format!("message {index} is not in the frame, which has {}", self.messages.len())
        })?;
        let group = key_group(key, self.key_groups);
        Ok((plugin_state_key(self.stage, group, key, name), *stamp))
    }

    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
        let (key, stamp) = self.entry_key(index, name)?;
        let stored = if let Some(staged) = self.staged.get(&key) {
            staged.clone()
        } else if let Some(cached) = self.cache.get(&key) {
            cached.value.clone()
        } else {
            let value = self.store.get(&key).map_err(|e| e.to_string())?;
            self.cache.insert(key, Cached { value: value.clone(), dirty: false, epoch: 0 });
            value
        };
        Ok(stored.and_then(|mut bytes| {
            let (expiry, value) = split_expiry(&bytes);
            let value_at = bytes.len() - value.len();
            (expiry == END || expiry > stamp).then(|| bytes.split_off(value_at))
        }))
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

/// A stage's state as one call sees it.
pub(crate) struct StateHandle(Arc<Mutex<PluginState>>);

impl StateHandle {
    /// Opens the state for a call about these messages.
    pub(crate) fn begin(state: &Arc<Mutex<PluginState>>, batch: &Batch, range: Range<usize>) -> Self {
        let mut open = state.lock().unwrap_or_else(PoisonError::into_inner);
        open.staged.clear();
        open.messages.clear();
        open.messages.extend(
            range.map(|i| (batch.frame.get(i).key().unwrap_or_default().to_vec(), batch.rows[i].stamp)),
        );
        drop(open);
        Self(Arc::clone(state))
    }
}

impl KeyedState for StateHandle {
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
