//! Reads a log.

use std::path::PathBuf;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::local_log::{self, LogReader, ReaderLock, Watch};
use crate::table::SourceConnector;
use crate::{ConnectorError, Partition, Reader, Source, SourceTraits, os};

/// A log in a directory, which the `log` sink of another pipeline writes, in the same process or in another one on
/// the same machine. One pipeline reads a log, and what it has read and committed is removed, by whole files: for
/// two readers write two logs. It doesn't end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSourceSpec {
    /// The directory. An empty log is made there where there is none: its writer may start later.
    pub path: PathBuf,
}

impl LogSourceSpec {
    /// A spec of a directory.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

/// What a source that reads a log is like.
pub(crate) const LIKE: SourceTraits = SourceTraits {
    seekable: true,
    bounded: false,
    shared: false,
    shared_with_positions: false,
    forgets: true,
    append_times: true,
};

impl SourceConnector for LogSourceSpec {
    fn called(&self) -> String {
        self.path.display().to_string()
    }

    fn traits(&self) -> SourceTraits {
        LIKE
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(LogSource::new(self.clone())))
    }
}

/// Reads a log. An offset is a record's number, from 0.
#[derive(Debug)]
pub struct LogSource {
    path: PathBuf,
    lock: Option<ReaderLock>,
    /// The log, and where it ended when that was looked for.
    seen: Option<(Watch, u64)>,
}

impl LogSource {
    /// A source of the log that a spec names.
    #[must_use]
    pub fn new(spec: LogSourceSpec) -> Self {
        Self { path: spec.path, lock: None, seen: None }
    }
}

#[async_trait]
impl Source for LogSource {
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let path = self.path.clone();
        let facts = os::blocking(move || local_log::facts(&path)).await?;
        self.seen = Some((Watch::of(&self.path), facts.committed));
        Ok(vec![Partition {
            number: 0,
            name: self.path.display().to_string(),
            incarnation: facts.incarnation,
            begin: facts.first,
            position: None,
            extent: Some(facts.committed),
        }])
    }

    async fn take_all(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let partitions = self.partitions().await?;
        if self.lock.is_none() {
            let path = self.path.clone();
            self.lock = Some(os::blocking(move || ReaderLock::take(&path)).await?);
        }
        Ok(partitions)
    }

    async fn check_append_times(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        Ok(Box::new(LogReader::open(&self.path, partition, offset).await?))
    }

    async fn commit(&mut self, offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        let Some((_, before)) = offsets.first().copied() else { return Ok(()) };
        let path = self.path.clone();
        os::blocking(move || local_log::trim(&path, before).map(drop)).await
    }

    fn extents(&self) -> Vec<(u32, u64)> {
        self.seen.iter().map(|(log, listed)| (0, log.committed().max(*listed))).collect()
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.lock = None;
        Ok(())
    }
}
