//! The entries of a hash, which has no order, in the keys' order.

use std::collections::BTreeMap;

use wasmill_engine::state::{StoreError, VisitEntry};

use super::RedisStore;

/// How many entries the first pass over an unsorted state keeps, and how much more each following one.
const PASS_ENTRIES: usize = 1_000;
const PASS_GROWTH: usize = 16;

impl RedisStore {
    /// Visits the entries under a prefix that come behind `after`, in the keys' order, until `visit` breaks.
    pub(super) fn sorted_entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        let mut after = after.map(<[u8]>::to_vec);
        let mut entries_max = PASS_ENTRIES;
        // Whoever wants a few has them by one pass in little memory; whoever wants all, by a few passes.
        loop {
            let some = self.smallest(prefix, after.as_deref(), entries_max)?;
            for (key, value) in &some {
                if visit(key, value).is_break() {
                    return Ok(());
                }
            }
            if some.len() < entries_max {
                return Ok(());
            }
            after = some.into_iter().next_back().map(|(key, _)| key);
            entries_max *= PASS_GROWTH;
        }
    }

    /// The smallest keys behind a place, at most so many: what a pass over all of them keeps.
    fn smallest(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        entries_max: usize,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut kept = BTreeMap::new();
        self.each_entry(prefix, |key, value| {
            if after.is_some_and(|after| key.as_slice() <= after) {
                return;
            }
            kept.insert(key, value);
            if kept.len() > entries_max {
                kept.pop_last();
            }
        })?;
        Ok(kept)
    }
}
