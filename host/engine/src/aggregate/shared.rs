//! Totals that several processes put to.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Aggregator;
use crate::lane::KeyedSpec;
use crate::state::stage_of;

/// How the accumulators of a running aggregate that several processes share are merged, for a store that
/// must do it at a commit: the stored one first, what one epoch put to it second.
pub struct ShareMerger {
    by_stage: BTreeMap<u16, Mutex<Aggregator>>,
}

impl ShareMerger {
    /// The merger of a pipeline's shared stages.
    #[must_use]
    pub fn new(keyed: &[KeyedSpec]) -> Self {
        let shared = (0u16..).zip(keyed).filter_map(|(number, spec)| match spec {
            KeyedSpec::Running(spec) if spec.shared => {
                Some((number, Mutex::new(Aggregator::new(&spec.name, &spec.aggregate))))
            }
            _ => None,
        });
        Self { by_stage: shared.collect() }
    }

    /// Merges what one epoch put to a stored key into what is stored.
    ///
    /// # Errors
    /// When the key is of no shared stage, or the aggregate can't merge the two.
    pub fn merge(&self, key: &[u8], stored: &[u8], share: &[u8]) -> Result<Vec<u8>, String> {
        let stage = stage_of(key).and_then(|stage| self.by_stage.get(&stage));
        let stage = stage.ok_or("the stored key is of no running aggregate that is shared")?;
        let mut aggregator = stage.lock().unwrap_or_else(PoisonError::into_inner);
        let merged = aggregator.merge(&[(stored, share)]).pop();
        merged.unwrap_or_else(|| Err("merge answered nothing".to_owned()))
    }
}
