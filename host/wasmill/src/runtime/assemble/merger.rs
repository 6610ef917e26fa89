//! What merges into totals that several processes share: the aggregates' own plugins, whichever they are by now.

use std::sync::{PoisonError, RwLock};

use wasmill_engine::ShareMerger;
use wasmill_engine::topology::Topology;

/// The merger of a pipeline that runs.
pub(in super::super) struct Merger(RwLock<ShareMerger>);

impl Merger {
    /// The merger of a pipeline with these plugins.
    pub fn of(topology: &Topology) -> Self {
        Self(RwLock::new(ShareMerger::new(&topology.keyed)))
    }

    /// Other plugins have taken over: what is stored is theirs too.
    pub fn replace(&self, topology: &Topology) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = ShareMerger::new(&topology.keyed);
    }

    /// As [`ShareMerger::merge`].
    ///
    /// # Errors
    /// As there.
    pub fn merge(&self, key: &[u8], stored: &[u8], share: &[u8]) -> Result<Vec<u8>, String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).merge(key, stored, share)
    }
}
