//! Where messages come from and where they go: one folder a system, one table that registers them all.
//!
//! The host owns the loops, the retries and the commits; a connector answers one question at a time.
//! The comments on [`Source`], [`Reader`] and [`Sink`] are the contract; `tests/contract.rs` runs it
//! over the whole table.
#![forbid(unsafe_code)]

pub mod codec;
pub mod file;
pub mod generator;
mod lines;
mod os;
mod pace;
pub mod stdio;
pub mod store;
pub mod table;
pub mod units;

use std::sync::Arc;

use async_trait::async_trait;
use wasmill_engine::input::RawBatch;
use wasmill_engine::output::{EncodedBatch, Encoder};

/// Why a connector can't do what was asked; it tells the host what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The other end is away: wait, then ask the same again.
    #[error("{what}: {cause}")]
    Disconnected {
        /// What was tried, with the address or path.
        what: String,
        /// Why it failed.
        cause: String,
    },
    /// Asking again won't help: stop the pipeline and show this, which names what to do.
    #[error("{0}")]
    Fatal(String),
}

impl ConnectorError {
    /// Whether nobody reads stdout any more, as behind `| head`: the end of the run, but no failure.
    #[must_use]
    pub fn is_pipe_closed(&self) -> bool {
        matches!(self, Self::Fatal(text) if text == stdio::PIPE_CLOSED)
    }
}

/// What a source is like, for `explain` and for the guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTraits {
    /// Whether it can be read again from any committed position.
    pub seekable: bool,
    /// Whether it ends.
    pub bounded: bool,
}

/// One partition of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the source; stable from run to run.
    pub number: u32,
    /// What people call it: a file's path, a topic with its partition.
    pub name: String,
    /// Which log this is: a position of another incarnation is refused.
    pub incarnation: String,
    /// How many records or bytes there are to read from its start, where that is known: for the lag.
    pub extent: Option<u64>,
}

/// Where messages come from.
#[async_trait]
pub trait Source: Send {
    /// What it is like.
    fn traits(&self) -> SourceTraits;
    /// Connects and lists its partitions. Called once, first.
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError>;
    /// A reader of one partition from `offset` on: the next offset to read, 0 where nothing is committed.
    /// An offset outside the log is fatal and says so.
    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError>;
    /// Everything before these offsets is committed by the pipeline: acknowledge it.
    async fn commit(&mut self, offsets: &[(u32, u64)]) -> Result<(), ConnectorError>;
    /// Whether the partition is still the log in which a position of the incarnation `committed` counts.
    /// A file that has grown is, though its incarnation is now another text. The host asks this of
    /// every committed position before it opens a reader there.
    async fn is_same_log(&mut self, partition: &Partition, committed: &str) -> Result<bool, ConnectorError> {
        Ok(partition.incarnation == committed)
    }
}

/// What a reader found.
#[derive(Debug)]
pub enum Polled {
    /// At least one record, in the log's order, each at most once. The batch's `partition.source` is 0:
    /// the host, which numbers the sources, sets it.
    Records(RawBatch),
    /// The partition has ended; polling again answers the same.
    End,
}

/// Reads one partition.
#[async_trait]
pub trait Reader: Send {
    /// Waits for records and answers at most `messages_max` of them, and about `bytes_max` bytes (one
    /// record may exceed it). Dropping the future loses nothing. After `Disconnected` the same call
    /// may be made again and goes on where it was.
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError>;
}

/// What a sink is like, for `explain` and for the guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkTraits {
    /// Whether nothing that is flushed but not committed is ever seen by its readers: a crash between
    /// flush and commit then leaves no trace.
    pub transactional: bool,
    /// Whether it refuses an output id that it has taken before.
    pub refuses_repeats: bool,
}

/// Where messages go. The order of calls is: `recover` once; then, for each epoch, any number of
/// `write`s, one `flush`, the pipeline's commit with the flush's token, one `publish`; at the end `close`.
#[async_trait]
pub trait Sink: Send {
    /// What it is like.
    fn traits(&self) -> SinkTraits;
    /// Turns messages into what `write` takes; runs on the workers.
    fn encoder(&self) -> Arc<dyn Encoder>;
    /// Connects and returns to what `token` says is committed: takes back what was written after it,
    /// finishes publishing what was. No token: nothing is committed yet.
    async fn recover(&mut self, token: Option<&str>) -> Result<(), ConnectorError>;
    /// Takes messages; may keep them in bounded memory until `flush`.
    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError>;
    /// Makes everything written so far durable, though perhaps not yet visible, and answers what
    /// `recover` needs to come back to exactly this.
    async fn flush(&mut self) -> Result<String, ConnectorError>;
    /// What was flushed is committed: make visible what is due.
    async fn publish(&mut self) -> Result<(), ConnectorError>;
    /// The pipeline won't write again. `in_order`: everything written is flushed, committed and published,
    /// so that what is still open may be finished.
    async fn close(&mut self, in_order: bool) -> Result<(), ConnectorError>;
}
