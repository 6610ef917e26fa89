//! What the processes that share a pipeline agree on, beside its messages: which plugins do them.
//!
//! It lies where the messages come from, so that it needs no other server, and nobody who reads the one is cut off
//! from the other. There is no leader and no lock: a ledger is a log, all see its notes in one order, and of two that
//! contradict each other the first counts. What the notes mean is the host's.

use async_trait::async_trait;

use crate::ConnectorError;

/// A log of notes for the processes of one pipeline, and files that go with them.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The notes that were added since the last call, oldest first: all processes see the same in the same order. None
    /// where nothing was ever added.
    async fn read(&mut self) -> Result<Notes, ConnectorError>;
    /// Adds a note, and makes what it needs where that is missing. Behind an error it may be there all the same.
    async fn add(&mut self, note: &[u8]) -> Result<(), ConnectorError>;
    /// Keeps a file under a name that tells what is in it, such as its digest.
    async fn keep(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConnectorError>;
    /// A file that was kept, if it is there: the caller checks that it is whole.
    async fn fetch(&mut self, name: &str) -> Result<Option<Vec<u8>>, ConnectorError>;
    /// Forgets files; those that are not there are no error.
    async fn forget(&mut self, names: &[String]) -> Result<(), ConnectorError>;
    /// Forgets all notes and files: the next note is the first one.
    async fn reset(&mut self) -> Result<(), ConnectorError>;
}

/// Notes of a ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Whether the log was made anew, or has lost what was last read of it, as after a failover or a restored backup:
    /// then these are all of its notes, from its start.
    pub is_anew: bool,
    /// The notes, oldest first.
    pub notes: Vec<Vec<u8>>,
}

/// How long the pieces are in which a file goes where records are bounded.
pub(crate) const PIECE_BYTES: usize = 512 << 10;
