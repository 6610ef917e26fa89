//! A stream as a source: alone as a log, or with others as a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Connection, RedisResult, Script};
use wasmill_engine::output::Sequences;
use xxhash_rust::xxh3::xxh3_64;

use super::acks::RedisAcks;
use super::entry::EntryId;
use super::feed::Feed;
use super::info::{self, StreamInfo};
use super::log::{Counts, LogFetch};
use super::queue::QueueFetch;
use super::renew::Renewal;
use super::spec::RedisSourceSpec;
use super::{beside, group};
use crate::queue::{Member, Start};
use crate::redis_link::{SharedLink, told};
use crate::{ConnectorError, Membership, Partition, Positions, Reader, Source, random_token};

/// The one partition of log mode.
const LOG: u32 = 0;
/// An id of a time before this was not given by Redis's clock: 2001-09-09, in milliseconds.
const CLOCK_MS_MIN: u64 = 1_000_000_000_000;
/// How far an id may be ahead of the server's clock.
const CLOCK_AHEAD_MS_MAX: u64 = 3_600_000;

/// Reads a stream.
pub struct RedisSource {
    spec: RedisSourceSpec,
    /// For questions and commits; the reader has a connection of its own, for it waits.
    link: SharedLink,
    consumer: String,
    acks: RedisAcks,
    mode: Mode,
    lost: Arc<AtomicU64>,
    /// Where a new pipeline begins, with how many entries were added before.
    begin: Option<(u64, Option<u64>)>,
}

enum Mode {
    /// Neither was asked for.
    Unknown,
    Log {
        owner: String,
        counts: Counts,
        committed: u64,
    },
    Queue {
        _renewal: Renewal,
    },
}

fn host_name() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = from_kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "wasmill".to_owned(),
        name => name.to_owned(),
    }
}

impl RedisSource {
    /// A source of the stream that a spec names; connects to nothing.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn new(spec: RedisSourceSpec) -> Result<Self, ConnectorError> {
        spec.check()?;
        let consumer =
            spec.consumer.clone().unwrap_or_else(|| format!("{}-{}", host_name(), std::process::id()));
        Ok(Self {
            link: spec.link()?,
            acks: RedisAcks::new(&spec.stream, &spec.group),
            spec,
            consumer,
            mode: Mode::Unknown,
            lost: Arc::default(),
            begin: None,
        })
    }

    /// Makes the group be forgotten, and the note of how far the log was read.
    pub(super) fn forget(&self) -> Result<(), ConnectorError> {
        let RedisSourceSpec { stream, group, claim_idle, .. } = &self.spec;
        let what = format!("cannot forget group {group} of stream {stream}");
        let active = |c: &mut Connection| group::active(c, (stream, group), None, claim_idle.0);
        let active = self.link.call(&what, active).map_err(told)?;
        if !active.is_empty() {
            return Err(ConnectorError::Fatal(format!(
                "group {group} of stream {stream} is in use by {}: stop them, then reset: they would go on where they are. A process that was killed counts for {claim_idle}",
                active.join(", ")
            )));
        }
        self.link.call(&what, |c| group::forget(c, stream, group)).map_err(told)
    }

    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&mut Connection, &str, &str) -> RedisResult<T> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let (stream, group) = (self.spec.stream.clone(), self.spec.group.clone());
        self.link.ask(what, move |c| call(c, &stream, &group)).await
    }

    async fn partition(&mut self) -> Result<Partition, ConnectorError> {
        let (incarnation, info) = self
            .ask("cannot look at the stream", |c, stream, _| {
                Ok((group::incarnation(c, stream)?, info::stream(c, stream)?))
            })
            .await?;
        let StreamInfo { length, first, last, added } = info.unwrap_or_default();
        let bounds = |why| ConnectorError::Fatal(format!("stream {}: {why}", self.spec.stream));
        let (begin, before) = match self.spec.start {
            Start::Latest => (last.offset().map_err(bounds)? + 1, added),
            Start::Earliest => match first {
                Some(first) => (first.offset().map_err(bounds)?, added.map(|n| n.saturating_sub(length))),
                // All that was there is gone, and was before this pipeline.
                None if last != EntryId::default() => (last.offset().map_err(bounds)? + 1, added),
                None => (0, Some(0)),
            },
        };
        self.begin = Some((begin, before));
        Ok(Partition {
            number: LOG,
            name: self.spec.stream.clone(),
            incarnation: format!("{}#{incarnation}", self.spec.stream),
            begin,
            position: None,
            extent: None,
        })
    }

    /// Where a reader of the log begins, with how many entries were added before that, where that is known.
    async fn check_position(&self, offset: u64) -> Result<(u64, Option<u64>), ConnectorError> {
        let (noted, info) = self
            .ask("cannot look at the stream", |c, stream, group| {
                let key = beside(stream, &format!("read:{group}"));
                let mut command = redis::cmd("HMGET");
                command.arg(key).arg("offset").arg("entries");
                let noted: (Option<u64>, Option<String>) = command.query(c)?;
                Ok((noted, info::stream(c, stream)?.unwrap_or_default()))
            })
            .await?;
        if EntryId::of_offset(offset).before() > info.last {
            return Err(ConnectorError::Fatal(format!(
                "the position {} is behind the end of stream {} at {}, whose last id is {}: the stream was removed or put back from an older copy; run `wasmill reset` to read it from its start",
                EntryId::of_offset(offset),
                self.spec.stream,
                self.spec.address(),
                info.last
            )));
        }
        let noted = match noted {
            (Some(at), Some(added)) if at == offset => added.parse().ok(),
            _ => None,
        };
        let at_begin = self.begin.filter(|(begin, _)| *begin == offset).and_then(|(_, added)| added);
        // Before the first offset nothing was ever added.
        Ok((offset, noted.or(at_begin).or((offset == 0).then_some(0))))
    }
}

#[async_trait]
impl Source for RedisSource {
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        Ok(vec![self.partition().await?])
    }

    async fn take_all(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let (consumer, within) = (self.consumer.clone(), self.spec.claim_idle.0);
        let active = self
            .ask("cannot look at the group", move |c, stream, group| {
                group::active(c, (stream, group), Some(&consumer), within)
            })
            .await?;
        if !active.is_empty() {
            return Err(ConnectorError::Fatal(format!(
                "group {} of stream {} has members: {}; a pipeline that reads the stream alone needs a group of its own, or they must stop. A process that was killed counts for {}",
                self.spec.group,
                self.spec.stream,
                active.join(", "),
                self.spec.claim_idle
            )));
        }
        let partition = self.partition().await?;
        let owner = random_token();
        let token = owner.clone();
        self.ask("cannot take the stream", move |c, stream, group| {
            redis::cmd("SET").arg(beside(stream, &format!("owner:{group}"))).arg(token).exec(c)
        })
        .await?;
        self.mode = Mode::Log { owner, counts: Counts::default(), committed: 0 };
        Ok(vec![partition])
    }

    async fn join(&mut self, positions: Positions) -> Result<Box<dyn Membership>, ConnectorError> {
        if positions == Positions::Store {
            return Err(ConnectorError::Fatal(format!(
                "stream {}: its group gives messages out one by one, and has no positions that a store could keep: let one process read it, with a data_dir",
                self.spec.stream
            )));
        }
        let start = self.spec.start;
        let mut partition = self.partition().await?;
        self.ask("cannot join the group", move |c, stream, group| group::make(c, stream, group, start))
            .await?;
        // Another run of the same stream has the same number, and another stream another one: results are known by it.
        partition.number = (xxh3_64(partition.incarnation.as_bytes()) & 0x7FFF_FFFF) as u32;
        partition.begin = 0;
        self.acks.set_partition(partition.number);
        let renewal = Renewal::start(
            self.spec.link()?,
            self.acks.clone(),
            self.consumer.clone(),
            self.spec.claim_idle.0,
        );
        self.mode = Mode::Queue { _renewal: renewal };
        Ok(Box::new(Member::new(partition)))
    }

    async fn check_append_times(&mut self) -> Result<(), ConnectorError> {
        let (info, (now_s, _)) = self
            .ask("cannot look at the stream", |c, stream, _| {
                let now: (u64, u64) = redis::cmd("TIME").query(c)?;
                Ok((info::stream(c, stream)?.unwrap_or_default(), now))
            })
            .await?;
        let bounds = CLOCK_MS_MIN..now_s * 1000 + CLOCK_AHEAD_MS_MAX;
        let mut ids = info.first.into_iter().chain((info.last != EntryId::default()).then_some(info.last));
        match ids.find(|id| !bounds.contains(&id.ms)) {
            None => Ok(()),
            Some(id) => Err(ConnectorError::Fatal(format!(
                "stream {} has the id {id}, which was not given by Redis's clock: its entries don't tell when they were taken in; let Redis give the ids (XADD with *), or go by the messages' own time",
                self.spec.stream
            ))),
        }
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        if let Mode::Queue { .. } = self.mode {
            if Some(partition) != self.acks.partition() || offset != 0 {
                return Err(ConnectorError::Fatal(format!(
                    "stream {}: its group gives out what is next, and can't go to offset {offset} of partition {partition}; run `wasmill reset` to read it from its start",
                    self.spec.stream
                )));
            }
            let (acks, field) = (self.acks.clone(), self.spec.field.clone());
            let idle: Duration = self.spec.claim_idle.0;
            let fetch = QueueFetch::new(self.spec.link()?, acks, self.consumer.clone(), field, idle);
            return Ok(Box::new(Feed::new(partition, fetch)));
        }
        if partition != LOG {
            return Err(ConnectorError::Fatal(format!(
                "stream {} has no partition {partition}: that was committed by processes that shared it; run `wasmill reset`",
                self.spec.stream
            )));
        }
        let at = self.check_position(offset).await?;
        let counts = match &self.mode {
            Mode::Log { counts, .. } => counts.clone(),
            _ => Counts::default(),
        };
        let names = (self.spec.stream.as_str(), self.spec.field.as_str());
        let fetch = LogFetch::new(self.spec.link()?, names, at, counts, Arc::clone(&self.lost));
        Ok(Box::new(Feed::new(LOG, fetch)))
    }

    async fn commit(&mut self, offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        let Some((_, offset)) = offsets.iter().max().copied() else { return Ok(()) };
        match &mut self.mode {
            Mode::Queue { .. } if self.acks.by_store() => Ok(()),
            Mode::Queue { .. } => self.acks.acknowledge(&self.link, offset).await,
            Mode::Log { committed, .. } if *committed == offset => Ok(()),
            Mode::Log { owner, counts, committed } => {
                let entries = counts.take(offset).map(|n| n.to_string()).unwrap_or_default();
                let (stream, group, owner) = (&self.spec.stream, &self.spec.group, owner.clone());
                let keys = ["owner", "read"].map(|what| beside(stream, &format!("{what}:{group}")));
                let call = move |c: &mut Connection| {
                    let script = Script::new(include_str!("commit_log.lua"));
                    script.key(&keys[..]).arg(owner).arg(offset).arg(entries).invoke::<bool>(c)
                };
                if !self.link.ask("cannot note the position", call).await? {
                    return Err(ConnectorError::Fenced(format!(
                        "another process reads stream {stream} for group {group} now; give each pipeline a group of its own"
                    )));
                }
                *committed = offset;
                Ok(())
            }
            Mode::Unknown => Ok(()),
        }
    }

    fn extents(&self) -> Vec<(u32, u64)> {
        match (&self.mode, self.acks.partition()) {
            // The log's offsets are times: their distance is no number of messages.
            (Mode::Queue { .. }, Some(partition)) => vec![(partition, self.acks.extent())],
            _ => Vec::new(),
        }
    }

    fn sequences(&self) -> Option<Arc<dyn Sequences>> {
        match self.mode {
            Mode::Queue { .. } => Some(Arc::new(self.acks.clone())),
            _ => None,
        }
    }

    fn redis_acks(&mut self) -> Option<RedisAcks> {
        self.acks.give_to_store();
        Some(self.acks.clone())
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed) + self.acks.lost()
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        if let Mode::Queue { .. } = std::mem::replace(&mut self.mode, Mode::Unknown) {
            let consumer = self.consumer.clone();
            let left = self
                .ask("cannot leave the group", move |c, stream, group| {
                    group::leave(c, stream, group, &consumer)
                })
                .await;
            if let Err(error) = left {
                // A name on a list that nobody answers to harms nobody.
                tracing::debug!(%error, "the group still lists this process");
            }
        }
        Ok(())
    }
}
