//! Where messages come from and where they go: one folder a system, one table that registers them all.
//!
//! The host owns the loops, the retries and the commits; a connector answers one question at a time.
//! The comments on [`Source`], [`Reader`] and [`Sink`] are the contract; `tests/it/contract.rs` runs it
//! over the whole table.

mod chance;
pub mod file;
pub mod generator;
pub mod http;
pub mod kafka;
mod ledger;
pub mod local_log;
pub mod log;
pub mod nats;
mod os;
mod pace;
pub mod postgres;
mod queue;
mod redis_durable;
mod redis_link;
pub mod redis_streams;
pub mod scan;
pub mod stdio;
pub mod store;
mod stream;
pub mod table;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
pub use chance::random_token;
pub use kafka::GroupOffsets;
pub use ledger::{Ledger, Notes};
use wasmill_codec::framing::Framing;
pub use wasmill_codec::{self as codec, units};
use wasmill_codec::{Writing, secret};
use wasmill_engine::input::RawBatch;
use wasmill_engine::output::{EncodedBatch, Encoder, Sequences};
use wasmill_engine::position::{PartitionId, Position};

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
    /// What was opened is no longer what it was, as a topic that has more partitions now: begin again, with
    /// what it is now, from what is committed.
    #[error("{0}")]
    Outdated(String),
    /// The transaction that this was a part of can't be committed: abort it, and do all of it again in
    /// another one.
    #[error("{0}")]
    Aborted(String),
    /// Another process has this one's place, and all that it does from now on counts for nothing: end.
    #[error("{0}")]
    Fenced(String),
}

impl From<wasmill_codec::CodecError> for ConnectorError {
    fn from(error: wasmill_codec::CodecError) -> Self {
        match error {
            wasmill_codec::CodecError::Away { what, cause } => Self::Disconnected { what, cause },
            wasmill_codec::CodecError::Wrong(text) => Self::Fatal(text),
        }
    }
}

/// What a source is like, for `explain` and for the guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTraits {
    /// Whether it can be read again from any committed position.
    pub seekable: bool,
    /// Whether it ends.
    pub bounded: bool,
    /// Whether several processes can share its partitions out between them: [`Source::join`].
    pub shared: bool,
    /// Whether they can do so where the pipeline's store keeps the positions: [`Positions::Store`].
    pub shared_with_positions: bool,
    /// Whether what was acknowledged is gone from it.
    pub forgets: bool,
    /// Whether its records can tell when it took them in: [`Source::check_append_times`].
    pub append_times: bool,
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
    /// The offset to read first where nothing is committed.
    pub begin: u64,
    /// The pipeline's position as the source itself keeps it, where it keeps the whole of it.
    pub position: Option<Position>,
    /// The offset behind its last record, where that is known: for the lag.
    pub extent: Option<u64>,
}

/// Where the positions of a shared source's partitions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// With the source: [`Partition::begin`] is where its group is.
    Source,
    /// With the pipeline's store: [`Partition::begin`] is for partitions that the store doesn't know.
    Store,
}

/// How the partitions that are this process's have changed.
#[derive(Debug)]
pub enum Change {
    /// These are its own from now on.
    Assigned(Vec<Partition>),
    /// These are about to be another's: finish and commit what was read of them, then drop `release`. The
    /// source waits for that within a bound of its own.
    Revoked {
        /// Their numbers.
        partitions: Vec<u32>,
        /// Dropped when they are let go.
        release: tokio::sync::oneshot::Sender<()>,
    },
    /// These are another's already: what is not committed of them must not be.
    Lost(Vec<u32>),
}

/// A place in the group of processes that share a source's partitions out.
#[async_trait]
pub trait Membership: Send + Sync {
    /// Waits for the next change. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Change, ConnectorError>;
}

/// Where messages come from. What it is like its spec tells: [`table::SourceConnector::traits`].
#[async_trait]
pub trait Source: Send {
    /// Says how records stand one behind the other in its bytes, before all other calls: for who reads streams of
    /// bytes.
    fn frame_by(&mut self, _: Arc<dyn Framing>) {}
    /// Connects and lists its partitions without taking any. Doesn't wait for a source that is away.
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError>;
    /// Takes all partitions for this process alone, until it is dropped, and lists them: once, before
    /// `open`. Where others have a part of a shared source, that is fatal and says who.
    async fn take_all(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        self.partitions().await
    }
    /// Joins the processes that share a shared source: once, in place of `take_all`. `open` is then for
    /// what is assigned; one that was taken away meanwhile is outdated.
    async fn join(&mut self, _: Positions) -> Result<Box<dyn Membership>, ConnectorError> {
        Err(ConnectorError::Fatal("this source can't be shared between processes".to_owned()))
    }
    /// Makes sure that its records tell when it took them in
    /// ([`RawRecord::appended_ms`](wasmill_engine::input::RawRecord::appended_ms)), as far as it can be known
    /// beforehand; asked where a pipeline goes by it. Fatal where they don't, with what to do.
    async fn check_append_times(&mut self) -> Result<(), ConnectorError> {
        Err(ConnectorError::Fatal("this source doesn't tell when it took its messages in".to_owned()))
    }
    /// A reader of one partition from `offset` on: the next offset to read, or [`Partition::begin`] where
    /// nothing is committed. An offset outside the log is fatal and says so.
    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError>;
    /// What makes these positions a part of a transaction of the brokers that it reads from; none where its
    /// positions are kept elsewhere. Outdated where a partition of it may be another process's by now.
    fn offsets(&mut self, _: &[(u32, Position)]) -> Result<Option<GroupOffsets>, ConnectorError> {
        Ok(None)
    }
    /// Everything before these offsets is committed by the pipeline: acknowledge it.
    async fn commit(&mut self, offsets: &[(u32, u64)]) -> Result<(), ConnectorError>;
    /// The offset behind the last record of each partition that is read, as far as it is known without
    /// asking: for the lag.
    fn extents(&self) -> Vec<(u32, u64)> {
        Vec::new()
    }
    /// How many offsets of each partition that is read are held back because a transaction that wrote to it is
    /// open, as far as it is known without asking.
    fn unstable(&self) -> Vec<(u32, u64)> {
        Vec::new()
    }
    /// What its system knows the messages of its partitions by, where that isn't their offsets: so that the ids of
    /// results last when messages are delivered again. Asked once, behind `join` or `take_all`.
    fn sequences(&self) -> Option<Arc<dyn Sequences>> {
        None
    }
    /// What acknowledges its messages together with what is written of them, where the sinks are on the same Redis:
    /// from then on `commit` acknowledges nothing. May be asked before `join`, and used behind it.
    fn redis_acks(&mut self) -> Option<redis_streams::RedisAcks> {
        None
    }
    /// How many messages were gone before they could be read, since the process began, as far as that is known:
    /// trimmed by their log. The host counts and tells them.
    fn lost(&self) -> u64 {
        0
    }
    /// The pipeline won't read again: acknowledges what was committed, and leaves its partitions to others.
    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
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
    /// Whether either rests on being told at a start, by `recover`'s token, how far the last commit was.
    pub by_token: bool,
}

/// A message that the other end will never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which it is of the messages that were written since the flush before.
    pub nth: usize,
    /// Its bytes as they were to be written.
    pub value: Vec<u8>,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Why, and what to do.
    pub reason: String,
    /// How often it was sent.
    pub attempts: u32,
}

/// Who writes to a sink: with it the output ids of a pipeline are nobody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    /// The pipeline.
    pub pipeline: String,
    /// Its reset generation: a run behind a reset repeats no id.
    pub generation: u64,
    /// The sink's name in the pipeline.
    pub sink: String,
    /// Whether the pipeline must be exactly once: a sink that can't be, for how its system is set up, refuses.
    pub exact: bool,
    /// Whether no other process runs the pipeline: who wrote before may be shut out.
    pub alone: bool,
}

impl Writer {
    /// An output's id among all that may write to the sink's system, as text.
    pub fn write_id(&self, id: &wasmill_engine::output::OutputId<'_>, out: &mut Vec<u8>) {
        use std::io::Write as _;
        // Writing to memory can't fail.
        let _ = write!(out, "{}/{}/{}/", self.pipeline, self.generation, self.sink);
        id.write_to(out);
    }
}

/// Where messages go. The order of calls is: `identify` and `recover` once; then, for each epoch, any number of
/// `write`s, one `flush`, the pipeline's commit with the flush's token, one `publish`; at the end `close`.
#[async_trait]
pub trait Sink: Send {
    /// What it is like.
    fn traits(&self) -> SinkTraits;
    /// Says who writes, before all other calls: for who refuses repeats by their ids.
    fn identify(&mut self, _: Writer) {}
    /// Says how records stand one behind the other in its bytes, before `recover`: for who writes streams of bytes.
    fn frame_by(&mut self, _: Arc<dyn Framing>) {}
    /// Turns messages into what `write` takes, by a codec; runs on the workers. Asked behind `recover`.
    fn encoder(&self, codec: &Writing) -> Arc<dyn Encoder>;
    /// From here on a message that the other end has asked so often to send again is given up: it is among
    /// `refused`. Each of its answers is a `Disconnected` all the same. Asked where
    /// [`table::SinkConnector::gives_up`] says so alone, before `recover`.
    fn give_up_after(&mut self, _attempts: u32) {}
    /// Counts up as the other end takes messages, where that is known before a call answers: a failure behind one
    /// that got through is the first in a row.
    fn taken(&self) -> Option<Arc<AtomicU64>> {
        None
    }
    /// Connects and returns to what `token` says is committed: takes back what was written after it,
    /// finishes publishing what was. No token: nothing is committed yet.
    async fn recover(&mut self, token: Option<&str>) -> Result<(), ConnectorError>;
    /// Takes messages; may keep them in bounded memory until `flush`.
    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError>;
    /// How far the sources' partitions are with what was written since the last flush: for who carries that on.
    /// Called once before each `flush`.
    async fn progress(&mut self, _: &[(PartitionId, Position)]) -> Result<(), ConnectorError> {
        Ok(())
    }
    /// Makes everything written so far durable, though perhaps not yet visible, and answers what
    /// `recover` needs to come back to exactly this.
    async fn flush(&mut self) -> Result<String, ConnectorError>;
    /// What the other end refused for good of what was flushed, as a message above its limit: the host
    /// makes dead letters of it. Asked after each `flush`, which counts it as done.
    fn refused(&mut self) -> Vec<Refused> {
        Vec::new()
    }
    /// What was flushed is committed: make visible what is due.
    async fn publish(&mut self) -> Result<(), ConnectorError>;
    /// The pipeline won't write again. `in_order`: everything written is flushed, committed and published,
    /// so that what is still open may be finished.
    async fn close(&mut self, in_order: bool) -> Result<(), ConnectorError>;
}
