//! Which of a stage's stored entries are looked at for having expired, and when.
//!
//! A round goes once through what the lane's key groups have in the store, a bounded piece of it at each
//! barrier. It remembers the first expiry that is still to come: before that, and where a plugin sets none,
//! there is no other round.

use std::ops::{ControlFlow, Range};

use crate::state::{StateKind, StateStore, StoreError, group_prefix};
use crate::stored_key::{STAGE_PREFIX_BYTES, split_expiry};
use crate::time::{END, START};

/// How many entries of a stage a lane looks at in one epoch.
pub const SWEPT_ENTRIES_MAX: usize = 1_000;
/// How many bytes of values it looks at before it stops earlier.
pub const SWEPT_BYTES_MAX: usize = 1 << 20;

/// How far the sweep of one stage in one lane is.
pub(super) struct Sweep {
    stage: u16,
    /// The key groups of the lane, which lie side by side in the store.
    groups: Range<u16>,
    /// The last key that the round under way has looked at; none where none is under way.
    place: Option<Vec<u8>>,
    /// No stored entry expires before this. What another run stored is not known: at first there may be any.
    first: i64,
}

impl Sweep {
    pub fn new(stage: u16, groups: Range<u16>) -> Self {
        Self { stage, groups, place: None, first: START }
    }

    /// An entry expires then.
    pub fn note(&mut self, expiry: i64) {
        self.first = self.first.min(expiry);
    }

    /// Looks at the next piece; answers the stored entries there that have expired by `time`. `pending` are the
    /// expiries of entries that a round beginning now may not find in the store yet.
    pub fn expired(
        &mut self,
        store: &dyn StateStore,
        time: i64,
        pending: impl Iterator<Item = i64>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut expired = Vec::new();
        if time == START || self.groups.is_empty() || !store.is_ordered() {
            return Ok(expired);
        }
        let after = match self.place.take() {
            Some(place) => place,
            None if time < self.first => return Ok(expired),
            None => {
                self.first = pending.min().unwrap_or(END);
                group_prefix(StateKind::Plugin, self.stage, self.groups.start)
            }
        };
        let last = group_prefix(StateKind::Plugin, self.stage, self.groups.end - 1);
        let (mut entries, mut bytes) = (0, 0);
        store.entries(&last[..STAGE_PREFIX_BYTES], Some(&after), &mut |key, value| {
            if key.get(..last.len()).is_none_or(|group| group > last.as_slice()) {
                return ControlFlow::Break(());
            }
            match split_expiry(value).0 {
                END => {}
                expiry if expiry <= time => expired.push(key.to_vec()),
                expiry => self.first = self.first.min(expiry),
            }
            (entries, bytes) = (entries + 1, bytes + value.len());
            if entries < SWEPT_ENTRIES_MAX && bytes < SWEPT_BYTES_MAX {
                return ControlFlow::Continue(());
            }
            self.place = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(expired)
    }
}
