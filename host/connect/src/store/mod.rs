//! Stores of state.

mod disk;
mod head;
mod memory;
mod preflight;
mod redis;
mod replacement;
mod witness;

pub use disk::{DiskStore, FORMAT};
pub use memory::MemoryStore;
pub use redis::{Merge, REDIS_FORMAT, RedisAddress, RedisStore, RedisView, check_url};
pub use replacement::Replacement;

use wasmill_engine::state::{Checkpoint, Epoch, StoreError};

/// Refuses a commit by one who has not seen a reset, or a later commit.
fn refuse_stale(name: &str, checkpoint: &Checkpoint, generation: u64, last: Epoch) -> Result<(), StoreError> {
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
