//! Stores of state.

mod disk;
mod head;
mod memory;
mod partitioned;
mod parts_view;
mod preflight;
mod redis;
mod replacement;
mod witness;

pub use disk::{DiskReplacement, DiskStore, FORMAT};
pub use memory::MemoryStore;
pub use partitioned::PartitionedStore;
pub use parts_view::{PartsView, name_of_parts};
pub use redis::{Merge, REDIS_FORMAT, RedisAddress, RedisStore, RedisView, check_url};
pub use replacement::Replacement;

use std::ops::Bound;

use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::state::{Checkpoint, Epoch, StateStore, StoreError};

/// A store that has the positions of partitions which several processes share out between them.
pub trait SharedPositions: StateStore {
    /// Takes partitions over, beside those claimed before: whoever had them commits nothing more of them. Answers
    /// the positions of those that have one.
    ///
    /// # Errors
    /// When the store is away, or refuses.
    fn claim(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Position)>, StoreError>;

    /// The shape of what is stored; none where nothing is, or where positions are all that is.
    ///
    /// # Errors
    /// When the store is away, or refuses.
    fn stored_shape(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }
}

impl SharedPositions for RedisStore {
    fn claim(&self, partitions: &[PartitionId]) -> Result<Vec<(PartitionId, Position)>, StoreError> {
        self.claim(partitions)
    }

    fn stored_shape(&self) -> Result<Option<String>, StoreError> {
        self.shape()
    }
}

/// Where the keys begin that are under a prefix and come behind `after`.
fn behind<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// Refuses a commit by one who has not seen a reset, or a later commit.
pub(crate) fn refuse_stale(
    name: &str,
    checkpoint: &Checkpoint,
    generation: u64,
    last: Epoch,
) -> Result<(), StoreError> {
    let refuse = |cause: String| {
        Err(StoreError::Io { what: format!("commit of epoch {} to {name}", checkpoint.epoch), cause })
    };
    if checkpoint.generation != generation {
        return refuse(format!(
            "it is of generation {}, the store of {generation}: it was reset meanwhile; start the pipeline again",
            checkpoint.generation
        ));
    }
    if checkpoint.epoch <= last {
        return refuse(format!("epoch {last} is committed already; start the pipeline again"));
    }
    Ok(())
}
