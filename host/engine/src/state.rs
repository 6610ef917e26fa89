//! State that outlives the process, and what is committed with it.

use serde::{Deserialize, Serialize};

use crate::position::{PartitionId, Position};

/// The number of a commit, from 1; it never returns to an older one.
pub type Epoch = u64;

/// What one epoch changes: the last value of every key it touched; `None` deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// The changes. A key stands once.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Everything but state that a commit makes durable, all at once with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Which commit this is.
    pub epoch: Epoch,
    /// The reset generation: part of every output id, so that a run after `reset` repeats no id.
    pub generation: u64,
    /// The pipeline's shape: what state depends on. Another shape is refused, not reinterpreted.
    pub shape: String,
    /// The closing stream time of the virtual log: no window before it opens again.
    pub stream_time: i64,
    /// How far each partition is.
    pub positions: Vec<(PartitionId, Position)>,
    /// Each sink's own token, as its flush gave it: what of its output is committed.
    pub sinks: Vec<(String, String)>,
    /// Counts since the pipeline's first run, by name: messages in, dropped, late, dead letters and so on.
    pub counts: std::collections::BTreeMap<String, u64>,
}

/// Why a store can't do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The operating system or the server refused.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// Why it failed.
        cause: String,
    },
    /// What is stored is damaged.
    #[error(
        "{what} is damaged ({cause}); run `wasmill reset` for this pipeline to rebuild it from its source"
    )]
    Corrupt {
        /// Which part, with the path.
        what: String,
        /// What does not fit.
        cause: String,
    },
    /// What is stored was written in another format.
    #[error(
        "{path} holds state of format {found}; this wasmill reads format {expected}. Use the wasmill that wrote it, or another data directory, or `wasmill reset`"
    )]
    Format {
        /// Where.
        path: String,
        /// The format found.
        found: String,
        /// The format that this build reads.
        expected: u32,
    },
    /// Another process has it open.
    #[error(
        "{path} is in use by another wasmill; give this pipeline another data directory or stop the other one"
    )]
    Locked {
        /// Where.
        path: String,
    },
}

/// A store of state: reads, and one atomic commit of state with positions.
pub trait StateStore: Send + Sync {
    /// What it calls itself in logs and `explain`.
    fn name(&self) -> String;
    /// Whether what it commits outlives the process.
    fn is_durable(&self) -> bool;
    /// The last committed checkpoint; none before the first.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;
    /// The committed value of a key.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits every committed key under a prefix, in the keys' order.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError>;
    /// Makes a delta and its checkpoint durable at once, and forgets what was foretold for this epoch.
    ///
    /// # Errors
    /// When it failed; whether it took effect is then unknown, and the pipeline restarts from what is stored.
    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError>;
    /// Makes facts durable that an epoch's outputs depend on, before any of them leaves.
    ///
    /// # Errors
    /// When it failed.
    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError>;
    /// Facts that were foretold for an epoch that never committed.
    ///
    /// # Errors
    /// When they can't be read.
    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError>;
    /// Forgets everything but the generation, which it raises by one.
    ///
    /// # Errors
    /// When it failed.
    fn reset(&self) -> Result<(), StoreError>;
}
