//! Taking over the positions of partitions that a shared store keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_connect::store::SharedPositions;
use wasmill_engine::position::{PartitionId, Position};

use super::coordinate::Halt;
use super::retry::{Ends, insist, off_the_network};

/// The store that has the positions of a shared source's partitions.
#[derive(Clone)]
pub(super) struct Claims(pub Arc<dyn SharedPositions>);

impl Claims {
    /// Takes partitions over: from now on no other process can commit anything of them. Answers how far
    /// each is; one that was never committed is not among them. Waits for a store that is away.
    pub async fn claim(
        &self,
        partitions: &[PartitionId],
        ends: &Ends,
    ) -> Result<BTreeMap<PartitionId, Position>, Halt> {
        let claim = || {
            let (store, ids) = (Arc::clone(&self.0), partitions.to_vec());
            off_the_network(move || store.claim(&ids))
        };
        insist!(ends, "the store", claim()).map(|positions| positions.into_iter().collect())
    }
}
