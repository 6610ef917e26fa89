//! The state's entries, which one hash holds in no order.

use std::collections::{BTreeMap, HashSet};

use redis::Connection;
use wasmill_engine::state::StoreError;
use wasmill_engine::stored_key::{PREFIX_BYTES, STAGE_PREFIX_BYTES};

use super::{RedisStore, lock};

/// How many fields are asked for at once.
pub(super) const SCAN_FIELDS: usize = 1_000;

/// What one pass over the state found for each key group that a lane has not asked for yet: one pass for
/// each of them would read everything again each time.
#[derive(Default)]
pub(super) struct Restored {
    stage: Vec<u8>,
    groups: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>,
    asked: HashSet<Vec<u8>>,
}

impl RedisStore {
    /// Reads every entry under a prefix.
    pub(super) fn all_entries(&self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut entries = BTreeMap::new();
        self.each_entry(prefix, |key, value| {
            entries.insert(key, value);
        })?;
        Ok(entries)
    }

    /// Visits every entry under a prefix, in no order; some may come twice.
    pub(super) fn each_entry(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(Vec<u8>, Vec<u8>),
    ) -> Result<(), StoreError> {
        let mut pattern = Vec::with_capacity(prefix.len() + 1);
        for byte in prefix {
            if b"*?[]\\".contains(byte) {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        pattern.push(b'*');
        let mut cursor = "0".to_owned();
        loop {
            let step = |c: &mut Connection| {
                let mut step = redis::cmd("HSCAN");
                step.arg(&self.keys.state).arg(&cursor).arg("MATCH").arg(&pattern);
                step.arg("COUNT").arg(SCAN_FIELDS).query::<(String, Vec<Vec<u8>>)>(c)
            };
            let (next, found) = self.read("cannot read the state", step)?;
            let mut found = found.into_iter();
            while let (Some(key), Some(value)) = (found.next(), found.next()) {
                visit(key, value);
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// The entries of one key group, out of one pass over its stage's.
    pub(super) fn group_entries(&self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut restored = lock(&self.restored);
        let stage = &prefix[..STAGE_PREFIX_BYTES];
        if restored.stage != stage || restored.asked.contains(prefix) {
            *restored = Restored { stage: stage.to_owned(), ..Restored::default() };
            for (key, value) in self.all_entries(stage)? {
                let group = key.get(..PREFIX_BYTES).unwrap_or(&key).to_owned();
                restored.groups.entry(group).or_default().insert(key, value);
            }
        }
        restored.asked.insert(prefix.to_owned());
        Ok(restored.groups.remove(prefix).unwrap_or_default())
    }
}
