//! Reads a stream: as a log, or as a queue that several processes share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;
use wasmill_engine::output::Sequences;

use super::access::with_access;
use super::api::{ConsumerInfo, StreamInfo};
use super::ledger::NatsLedger;
use super::link::Link;
use super::log::{Known, LogFeed, check_inside, prefix};
use super::owner::{Owner, forget};
use super::pump::AheadReader;
use super::queue::{Queue, QueueFeed};
use crate::queue::{Member, Start};
use crate::table::SourceConnector;
use crate::units::HumanDuration;
use crate::{ConnectorError, Ledger, Membership, Partition, Positions, Reader, Source, SourceTraits};

/// The only partition of a log.
const LOG: u32 = 0;

/// One subject, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Subjects {
    /// One.
    One(String),
    /// Several; they may not overlap.
    Several(Vec<String>),
}

impl Subjects {
    fn list(&self) -> Vec<String> {
        match self {
            Self::One(subject) => vec![subject.clone()],
            Self::Several(subjects) => subjects.clone(),
        }
    }
}

with_access! {
    /// A stream of NATS JetStream. A pipeline without state reads it by a durable consumer that any number of
    /// processes share; one with state reads it as a log, in one process.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct NatsSourceSpec {
        /// The stream. It must exist.
        pub stream: String,
        /// The durable consumer: processes with the same one share its messages out, and it keeps what they
        /// acknowledged. It is made where it is missing. Where a pipeline reads the stream as a log, it is only
        /// the name by which one process knows of another.
        pub consumer: String,
        /// The messages of these subjects alone: one, or a list of such that don't overlap; `*` stands for one part
        /// of a subject, `>` for all that follow. Default: all of the stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub subjects: Option<Subjects>,
        /// Where to begin when nothing is committed. Default: earliest.
        #[serde(default)]
        pub start: Start,
        /// After how long without a word from the process that has it a message is delivered to another one.
        /// Default: 30s.
        #[serde(default = "ack_wait")]
        pub ack_wait: HumanDuration,
        /// How many messages may be on their way through all processes. More are delivered when those are
        /// acknowledged. Default: 50000.
        #[serde(default = "max_ack_pending")]
        pub max_ack_pending: u32,
    }
}

fn ack_wait() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

fn max_ack_pending() -> u32 {
    50_000
}

impl NatsSourceSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, stream: impl Into<String>, consumer: impl Into<String>) -> Self {
        Self {
            url: super::NatsUrl::from(url),
            stream: stream.into(),
            consumer: consumer.into(),
            subjects: None,
            start: Start::default(),
            ack_wait: ack_wait(),
            max_ack_pending: max_ack_pending(),
            credentials_file: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            nkey_seed_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }

    fn filter(&self) -> Vec<String> {
        self.subjects.as_ref().map(Subjects::list).unwrap_or_default()
    }
}

/// What this source is like.
const LIKE: SourceTraits = SourceTraits {
    seekable: true,
    bounded: false,
    shared: true,
    shared_with_positions: false,
    forgets: false,
    append_times: true,
};

impl SourceConnector for NatsSourceSpec {
    fn called(&self) -> String {
        self.stream.clone()
    }

    fn traits(&self) -> SourceTraits {
        LIKE
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(NatsSource::new(self.clone())?))
    }

    fn ledger(&self, pipeline: &str) -> Result<Option<Box<dyn Ledger>>, ConnectorError> {
        Ok(Some(Box::new(NatsLedger::new(self.clone(), pipeline))))
    }

    fn reset(&self) -> Result<(), ConnectorError> {
        let mut source = NatsSource::new(self.clone())?;
        // The caller's thread may belong to a runtime, in which another one can't run.
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| crate::os::fatal("cannot reset", &e))?;
            runtime.block_on(source.forget())
        };
        std::thread::spawn(work)
            .join()
            .unwrap_or_else(|_| Err(ConnectorError::Fatal("the reset of a NATS source panicked".to_owned())))
    }
}

/// What is read, and how.
enum Mode {
    /// Nothing yet.
    None,
    /// A log; who reads it is noted where it was taken.
    Log { created: String, owner: Option<Owner> },
    /// A queue.
    Queue {
        queue: Arc<Queue>,
        created: (String, String),
        /// Dropped when it isn't read any more: what is held is given back.
        _open: oneshot::Sender<()>,
    },
}

/// Reads a stream.
pub struct NatsSource {
    spec: NatsSourceSpec,
    link: Option<Arc<Link>>,
    mode: Mode,
    known: Arc<Known>,
}

/// Whether a text can be the name of a stream or a consumer.
fn check_name(setting: &str, name: &str) -> Result<(), ConnectorError> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    if name.is_empty() || name.contains(forbidden) {
        return Err(ConnectorError::Fatal(format!(
            "{setting}: {name:?} is no name in JetStream: expected one without spaces and . * > / \\"
        )));
    }
    Ok(())
}

impl NatsSource {
    /// A source of the stream that a spec names; connects to nothing.
    ///
    /// # Errors
    /// When a setting is missing or wrong.
    pub fn new(spec: NatsSourceSpec) -> Result<Self, ConnectorError> {
        spec.access().check()?;
        check_name("stream", &spec.stream)?;
        check_name("consumer", &spec.consumer)?;
        for subject in spec.filter() {
            if subject.is_empty()
                || subject.contains(char::is_whitespace)
                || subject.split('.').any(str::is_empty)
            {
                return Err(ConnectorError::Fatal(format!(
                    "subjects: {subject:?} is no subject: expected such as orders.created, orders.* or orders.>"
                )));
            }
        }
        if spec.ack_wait.0 < Duration::from_millis(100) {
            return Err(ConnectorError::Fatal(format!(
                "ack_wait: {} is too short: expected 100ms or more",
                spec.ack_wait
            )));
        }
        if spec.max_ack_pending == 0 {
            return Err(ConnectorError::Fatal(
                "max_ack_pending: 0 lets nothing through: expected 1 or more".into(),
            ));
        }
        Ok(Self { spec, link: None, mode: Mode::None, known: Arc::default() })
    }

    async fn link(&mut self) -> Result<Arc<Link>, ConnectorError> {
        Link::kept(&mut self.link, &self.spec.access()).await
    }

    /// The log, as a partition.
    async fn log(&mut self) -> Result<(StreamInfo, Partition), ConnectorError> {
        let stream = self.spec.stream.clone();
        let info = self.link().await?.stream(&stream).await?;
        let begin = match self.spec.start {
            Start::Earliest => info.first(),
            Start::Latest => info.end(),
        };
        let partition = Partition {
            number: LOG,
            incarnation: incarnation(&stream, &info.created),
            name: stream,
            begin,
            position: None,
            extent: Some(info.end()),
        };
        self.known.extent.store(info.end(), Ordering::Relaxed);
        Ok((info, partition))
    }

    /// The configuration of the durable consumer.
    fn consumer_config(&self) -> serde_json::Value {
        json!({
            "durable_name": self.spec.consumer,
            "name": self.spec.consumer,
            "description": "A wasmill pipeline",
            "ack_policy": "explicit",
            "ack_wait": u64::try_from(self.spec.ack_wait.0.as_nanos()).unwrap_or(u64::MAX),
            "max_ack_pending": self.spec.max_ack_pending,
            "max_deliver": -1,
            "deliver_policy": match self.spec.start { Start::Earliest => "all", Start::Latest => "new" },
            "filter_subjects": self.spec.filter(),
            "replay_policy": "instant",
        })
    }

    /// The durable consumer, which is made where it is missing.
    async fn consumer(&mut self) -> Result<ConsumerInfo, ConnectorError> {
        let link = self.link().await?;
        let (stream, consumer) = (&self.spec.stream, &self.spec.consumer);
        if let Some(found) = link.consumer(stream, consumer).await? {
            return self.check(found);
        }
        match link.create_consumer(stream, consumer, &self.consumer_config()).await? {
            Ok(made) => Ok(made),
            // Another process may have made it just now.
            Err(e) => match link.consumer(stream, consumer).await? {
                Some(found) => self.check(found),
                None => Err(link.refused(&format!("cannot make consumer {consumer} of stream {stream}"), &e)),
            },
        }
    }

    /// Makes sure that a consumer that is there is as it is to be.
    fn check(&self, found: ConsumerInfo) -> Result<ConsumerInfo, ConnectorError> {
        let config = &found.config;
        let mut other = Vec::new();
        if let Some(subject) = &config.deliver_subject {
            other.push(format!("it pushes to {subject}, and should be pulled"));
        }
        let mut filter: BTreeSet<&str> = config.filter_subjects.iter().map(String::as_str).collect();
        filter.extend(Some(config.filter_subject.as_str()).filter(|s| !s.is_empty()));
        filter.remove(">");
        let wanted = self.spec.filter();
        let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).filter(|s| *s != ">").collect();
        if filter != wanted {
            let all = |s: &BTreeSet<&str>| match s.is_empty() {
                true => "all subjects".to_owned(),
                false => s.iter().copied().collect::<Vec<_>>().join(", "),
            };
            other.push(format!("its filter is {}, and `subjects` says {}", all(&filter), all(&wanted)));
        }
        if config.ack_policy != "explicit" {
            other.push(format!("its ack policy is {}, and should be explicit", config.ack_policy));
        }
        let found_wait = HumanDuration(Duration::from_nanos(config.ack_wait));
        if found_wait != self.spec.ack_wait || !config.backoff.is_empty() {
            let backoff = if config.backoff.is_empty() { "" } else { ", with a backoff" };
            other.push(format!(
                "its ack wait is {found_wait}{backoff}, and `ack_wait` says {}",
                self.spec.ack_wait
            ));
        }
        if config.max_ack_pending != i64::from(self.spec.max_ack_pending) {
            other.push(format!(
                "its max ack pending is {}, and `max_ack_pending` says {}",
                config.max_ack_pending, self.spec.max_ack_pending
            ));
        }
        if config.max_deliver > 0 {
            other.push(format!(
                "it gives a message up after {} deliveries, and should never",
                config.max_deliver
            ));
        }
        if config.headers_only {
            other.push("it delivers headers only".to_owned());
        }
        if config.inactive_threshold > 0 {
            other.push("it is deleted when nobody reads it for a while, and should stay".to_owned());
        }
        if config.max_batch > 0 || config.max_bytes > 0 || config.max_expires > 0 {
            other.push("it bounds what may be asked for at once".to_owned());
        }
        if !config.priority_groups.is_empty() {
            other.push("it has priority groups".to_owned());
        }
        if other.is_empty() {
            return Ok(found);
        }
        let (stream, consumer) = (&self.spec.stream, &found.name);
        Err(ConnectorError::Fatal(format!(
            "consumer {consumer} of stream {stream} is not as this pipeline needs it: {}; change the settings here, or the consumer with `nats consumer edit {stream} {consumer}`, or choose another `consumer`",
            other.join("; ")
        )))
    }

    /// Who reads by the pipeline's consumers, if anybody does.
    async fn in_use(&mut self) -> Result<Option<String>, ConnectorError> {
        let link = self.link().await?;
        let prefix = prefix(&self.spec.consumer);
        let consumers = link.consumers(&self.spec.stream).await?;
        let mut used = consumers.iter().filter(|c| {
            (c.name == self.spec.consumer || c.name.starts_with(&prefix))
                && (c.num_waiting > 0 || c.config.deliver_subject.is_some())
        });
        Ok(used.next().map(|c| match &c.config.deliver_subject {
            Some(subject) => format!("consumer {} pushes to {subject}", c.name),
            None => format!("consumer {} has {} requests of readers that wait", c.name, c.num_waiting),
        }))
    }

    /// Forgets what the consumer has acknowledged, and who read the log.
    async fn forget(&mut self) -> Result<(), ConnectorError> {
        let (stream, consumer) = (self.spec.stream.clone(), self.spec.consumer.clone());
        if let Some(used) = self.in_use().await? {
            return Err(ConnectorError::Fatal(format!(
                "stream {stream} is read for consumer {consumer}: {used}; stop what reads it, then reset: it would go on where it is"
            )));
        }
        let link = self.link().await?;
        link.delete_consumer(&stream, &consumer).await?;
        forget(&link, &stream, &consumer).await
    }
}

fn incarnation(stream: &str, created: &str) -> String {
    format!("{stream}@{created}")
}

/// A number for what a queue is, so that another one of its name has another number.
fn number_of(created: &(String, String)) -> u32 {
    let text = format!("{}\n{}", created.0, created.1);
    // 31 bits, and not the log's.
    let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes()) >> 33;
    u32::try_from(hash).unwrap_or(u32::MAX).max(1)
}

#[async_trait]
impl Source for NatsSource {
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let (info, partition) = self.log().await?;
        if matches!(self.mode, Mode::None) {
            self.mode = Mode::Log { created: info.created, owner: None };
        }
        Ok(vec![partition])
    }

    async fn take_all(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let (info, _) = self.log().await?;
        if info.config.retention != "limits" {
            return Err(ConnectorError::Fatal(format!(
                "stream {} has the retention {}: it removes what was read, so that a pipeline that keeps its positions can't read it again; give it the retention `limits`, or copy it to a stream that has that (`nats stream add --source {0}`)",
                self.spec.stream, info.config.retention
            )));
        }
        let link = self.link().await?;
        let (stream, consumer) = (self.spec.stream.clone(), self.spec.consumer.clone());
        if let Some(found) = link.consumer(&stream, &consumer).await?
            && found.num_waiting > 0
        {
            return Err(ConnectorError::Fatal(format!(
                "consumer {consumer} of stream {stream} is in use: {} requests of readers wait at it, and they would take messages that this pipeline, which keeps state, needs in order; stop them, or choose another `consumer`",
                found.num_waiting
            )));
        }
        let replicas = info.config.num_replicas;
        let owner = Owner::take(&link, &stream, &consumer, replicas).await?;
        self.mode = Mode::Log { created: info.created, owner: Some(owner) };
        // What came since belongs to it as well.
        Ok(vec![self.log().await?.1])
    }

    async fn join(&mut self, positions: Positions) -> Result<Box<dyn Membership>, ConnectorError> {
        let (stream, consumer) = (self.spec.stream.clone(), self.spec.consumer.clone());
        if positions == Positions::Store {
            return Err(ConnectorError::Fatal(format!(
                "stream {stream}: several processes can't share a NATS stream in a pipeline that keeps state, for a stream has no partitions; run one process, or read Kafka, where each has partitions of its own"
            )));
        }
        let link = self.link().await?;
        let info = link.stream(&stream).await?;
        let found = self.consumer().await?;
        let created = (info.created, found.created);
        let number = number_of(&created);
        let remembered = usize::try_from(self.spec.max_ack_pending).unwrap_or(usize::MAX);
        let queue = Arc::new(Queue::new(number, remembered));
        let (open, closed) = oneshot::channel();
        tokio::spawn(Arc::clone(&queue).keep(Arc::clone(&link), self.spec.ack_wait.0, closed));
        let partition = Partition {
            number,
            name: format!("{stream}/{consumer}"),
            incarnation: format!("{}/{consumer}@{}", incarnation(&stream, &created.0), created.1),
            begin: 0,
            position: None,
            extent: None,
        };
        self.mode = Mode::Queue { queue, created, _open: open };
        Ok(Box::new(Member::new(partition)))
    }

    async fn check_append_times(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let link = self.link().await?;
        let (stream, consumer) = (&self.spec.stream, &self.spec.consumer);
        match &self.mode {
            Mode::Log { created, .. } if partition == LOG => {
                let info = link.stream(stream).await?;
                check_inside(&info, stream, offset)?;
                let log = (stream.as_str(), created.as_str());
                let feed = LogFeed::new(&link, log, &self.spec.filter(), consumer, offset, &self.known);
                Ok(Box::new(AheadReader::start(LOG, offset, feed)))
            }
            Mode::Queue { queue, created, .. } if partition == queue.number => {
                queue.begin(&link, offset).await;
                let feed = QueueFeed {
                    link: Arc::clone(&link),
                    stream: stream.clone(),
                    consumer: consumer.clone(),
                    created: created.clone(),
                    queue: Arc::clone(queue),
                };
                Ok(Box::new(AheadReader::start(partition, offset, feed)))
            }
            _ => Err(ConnectorError::Fatal(format!(
                "stream {stream} has no partition {partition} for this process; it was opened before it was taken"
            ))),
        }
    }

    async fn commit(&mut self, offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        let link = self.link().await?;
        match &mut self.mode {
            Mode::Log { owner: Some(owner), .. } => owner.confirm().await,
            Mode::Queue { queue, .. } => {
                for (_, offset) in offsets.iter().filter(|(number, _)| *number == queue.number) {
                    queue.commit(&link, *offset).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn extents(&self) -> Vec<(u32, u64)> {
        match &self.mode {
            Mode::None => Vec::new(),
            Mode::Log { .. } => vec![(LOG, self.known.extent.load(Ordering::Relaxed))],
            Mode::Queue { queue, .. } => vec![(queue.number, queue.extent())],
        }
    }

    fn sequences(&self) -> Option<Arc<dyn Sequences>> {
        match &self.mode {
            Mode::Queue { queue, .. } => {
                let sequences: Arc<dyn Sequences> = queue.clone();
                Some(sequences)
            }
            _ => None,
        }
    }

    fn lost(&self) -> u64 {
        self.known.lost.load(Ordering::Relaxed)
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        if let (Mode::Queue { queue, .. }, Some(link)) = (&self.mode, &self.link) {
            queue.give_back(link).await;
        }
        self.mode = Mode::None;
        self.link = None;
        Ok(())
    }
}
