//! Taking over the positions of partitions that a shared store keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_connect::store::RedisStore;
use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::state::StoreError;

use super::readers::Reading;
use super::retry::Backoff;

/// The store that has the positions of a shared source's partitions.
#[derive(Clone)]
pub(super) struct Claims(pub Arc<RedisStore>);

impl Claims {
    /// Takes partitions over: from now on no other process can commit anything of them. Answers how far
    /// each is; one that was never committed is not among them. Waits for a store that is away.
    pub async fn claim(
        &self,
        partitions: &[PartitionId],
        name: &str,
        reading: &Reading,
    ) -> Result<BTreeMap<PartitionId, Position>, String> {
        let mut backoff = Backoff::new();
        loop {
            let (store, ids) = (Arc::clone(&self.0), partitions.to_vec());
            let claimed = tokio::task::spawn_blocking(move || store.claim_more(&ids))
                .await
                .map_err(|e| format!("the store's thread panicked: {e}"))?;
            match claimed {
                Ok(positions) => {
                    reading.health.well(name);
                    return Ok(positions.into_iter().collect());
                }
                Err(StoreError::Away { what, cause }) => {
                    reading.health.ill(name, &format!("{what}: {cause}"));
                    reading.observed.away();
                    tracing::warn!(source = %name, %what, %cause, "the store is away");
                }
                Err(e) => return Err(e.to_string()),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
