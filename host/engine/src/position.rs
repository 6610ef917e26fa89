//! Where in its logs a pipeline is.

use serde::{Deserialize, Serialize};

/// One partition of one of the pipeline's sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// The source's place in the pipeline's list of sources.
    pub source: u16,
    /// The partition's number in that source.
    pub partition: u32,
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.source, self.partition)
    }
}

/// How far a partition has been taken in: everything before `offset` wholly, and of the message at
/// `offset` the first `index` results of the stateless stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which log the offset counts in: a topic's id, a stream's creation time, a hash of a file's head.
    pub incarnation: String,
    /// The next offset to read.
    pub offset: u64,
    /// How many results of the message at `offset` are already taken in.
    pub index: u32,
    /// The partition's stream time before that message, in milliseconds; [`crate::time::START`] before
    /// the first one.
    pub stream_time: i64,
    /// Whether the partition was idle, or had ended: a committed fact.
    pub progress: Progress,
}

/// What a partition has to do with the progress of stream time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It holds stream time until its next message.
    #[default]
    Live,
    /// It was quiet for so long that stream time goes on without it.
    Idle,
    /// It was bounded, and its end was reached: it is at +∞.
    Ended,
    /// Of a source of dead letters that are put through again: those before this offset come next, before
    /// everything else, all at the position's stream time.
    Due(u64),
}
