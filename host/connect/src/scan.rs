//! What is in a log now, read to its end while others write and read it: nothing is taken, nobody's group is
//! joined, and nothing changes. And what is put behind it by hand, each piece once.
//!
//! `wasmill dlq` looks through dead letters by it, and copies those that are to be replayed.

use std::ops::Range;

use async_trait::async_trait;
use wasmill_engine::input::RawBatch;

use crate::ConnectorError;
use crate::table::{SinkSpec, SourceSpec};

/// How many records one step of a scan brings at most.
pub const SCAN_RECORDS_MAX: usize = 1024;
/// About how many bytes one step of a scan brings at most.
pub const SCAN_BYTES_MAX: usize = 1 << 20;

/// One partition of what is scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number, as the source has it that reads the same log.
    pub number: u32,
    /// What people call it.
    pub name: String,
    /// Which log it is, where that can be told: a position of another incarnation doesn't count in it.
    pub incarnation: Option<String>,
    /// The first offset that is still there: what was before it is gone.
    pub begin: u64,
    /// Up to where it is read; none where that shows only at its end.
    pub end: Option<u64>,
}

/// A copy that a log says it has, or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// Of what it is a copy: the text that [`Copies::push`] was told, as a hash.
    pub digest: u128,
    /// Where it is.
    pub offset: u64,
}

/// What one step of a scan found.
#[derive(Debug)]
pub enum Scanned {
    /// Records. The batch's partition has the number of one of [`Scan::parts`].
    Records(RawBatch),
    /// Copies that need not be looked at, or that are gone from the log already.
    Noted(Vec<Noted>),
}

/// Reads what is in a log.
#[async_trait]
pub trait Scan: Send {
    /// Its partitions; none where there is no log yet.
    fn parts(&self) -> &[Part];
    /// The next of it; nothing at the end.
    async fn next(&mut self) -> Result<Option<Scanned>, ConnectorError>;
    /// Whether copies may be gone from it of which it says nothing.
    fn forgets(&self) -> bool {
        false
    }
    /// What is there and can't be read yet, in words.
    fn unread(&self) -> Option<String> {
        None
    }
}

/// Letters to be put into a log together.
#[derive(Debug, Default)]
pub struct Copies {
    /// Their bytes.
    pub data: Vec<u8>,
    /// Each of them.
    pub records: Vec<Record>,
}

/// One letter in [`Copies`].
#[derive(Debug, Clone)]
pub struct Record {
    /// Where its value is.
    pub value: Range<usize>,
    /// Where its key is, if it has one.
    pub key: Option<Range<usize>>,
    /// Of what it is a copy.
    pub digest: u128,
}

impl Copies {
    /// Adds a letter, which is known by a digest.
    pub fn push(&mut self, value: &[u8], key: Option<&[u8]>, digest: u128) {
        let mut put = |bytes: &[u8]| {
            let start = self.data.len();
            self.data.extend_from_slice(bytes);
            start..self.data.len()
        };
        let (value, key) = (put(value), key.map(&mut put));
        self.records.push(Record { value, key, digest });
    }
}

/// Puts letters into the log that a source reads. While it is there nobody else does, or what they do counts for
/// nothing.
#[async_trait]
pub trait Copier: Send {
    /// What is in the log, what others have put there before included.
    async fn scan(&mut self) -> Result<Box<dyn Scan>, ConnectorError>;
    /// Puts letters behind what is there: all of them, durably, or none.
    async fn append(&mut self, copies: Copies) -> Result<(), ConnectorError>;
    /// Lets go of the log.
    async fn close(&mut self) -> Result<(), ConnectorError>;
}

/// A hash by which a text is known; nobody can make two texts that have the same.
#[must_use]
pub fn digest(text: &[u8]) -> u128 {
    let hash = openssl::sha::sha256(text);
    let mut head = [0; 16];
    head.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(head)
}

/// Reads what a sink has written.
///
/// # Errors
/// Why it can't be read back, with what to do; or what is away.
pub async fn of_sink(spec: &SinkSpec) -> Result<Box<dyn Scan>, ConnectorError> {
    let cannot = |why: &str| Err(ConnectorError::Fatal(why.to_owned()));
    match spec {
        SinkSpec::File(spec) => Ok(Box::new(crate::file::FileScan::open(&spec.path).await?)),
        SinkSpec::Log(spec) => Ok(Box::new(crate::local_log::LogScan::open(&spec.path, false).await?)),
        SinkSpec::Kafka(spec) => Ok(Box::new(crate::kafka::KafkaScan::of_sink(spec).await?)),
        SinkSpec::Nats(spec) => Ok(Box::new(crate::nats::NatsScan::of_sink(spec).await?)),
        SinkSpec::Redis(spec) => Ok(Box::new(crate::redis_streams::RedisScan::of_sink(spec).await?)),
        SinkSpec::Postgres(_) => cannot(
            "dead letters in a table of PostgreSQL can't be read back: its columns hold what the spec chose of each letter, not the letter; look at them by SQL, or name a `kafka`, `nats`, `redis`, `log` or `file` sink by `dead_letter`",
        ),
        SinkSpec::Http(_) => cannot(
            "dead letters that were posted by `http` are with who took them: look there, or name a `kafka`, `nats`, `redis`, `log` or `file` sink by `dead_letter`",
        ),
        SinkSpec::Stdout(_) => cannot(
            "dead letters that were printed can't be read back: name a `kafka`, `nats`, `redis`, `log` or `file` sink by `dead_letter`",
        ),
    }
}

/// Reads what is in the log of a source, for what it has of copies.
///
/// # Errors
/// Why letters can't be copied there, with what to do; or what is away.
pub async fn of_source(spec: &SourceSpec) -> Result<Box<dyn Scan>, ConnectorError> {
    match spec {
        SourceSpec::Log(spec) => Ok(Box::new(crate::local_log::LogScan::open(&spec.path, true).await?)),
        SourceSpec::Kafka(spec) => Ok(Box::new(crate::kafka::KafkaScan::of_source(spec).await?)),
        other => Err(no_copies(other)),
    }
}

/// Takes the place of who puts letters into a source's log; `name` is known to all that want the same.
///
/// # Errors
/// As [`of_source`]; or who has that place.
pub async fn copier(spec: &SourceSpec, name: &str) -> Result<Box<dyn Copier>, ConnectorError> {
    match spec {
        SourceSpec::Log(spec) => Ok(Box::new(crate::local_log::LogCopier::open(&spec.path).await?)),
        SourceSpec::Kafka(spec) => Ok(Box::new(crate::kafka::KafkaCopier::open(spec, name).await?)),
        other => Err(no_copies(other)),
    }
}

fn no_copies(spec: &SourceSpec) -> ConnectorError {
    ConnectorError::Fatal(format!(
        "letters can't be copied into what a `{}` source reads: give the pipeline `replay: {{ log: {{ path: … }} }}` or `replay: {{ kafka: {{ … }} }}`",
        spec.name()
    ))
}
