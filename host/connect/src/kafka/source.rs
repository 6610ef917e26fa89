//! Reads a topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::client::{ASK_MAX, DEFAULTS, ask_partitions, why};
use super::group::{Group, Handle, Hold, Raw, alone, name, number};
use super::properties::{Property, Side, config};
use super::reader::{KafkaReader, outside};
use crate::table::SourceConnector;
use crate::{Change, ConnectorError, Membership, Partition, Positions, Reader, Source, SourceTraits, os};

/// How much librdkafka may fetch ahead, over all partitions, in KiB.
const AHEAD_KBYTES: usize = 4 * 1024;
/// As much of it as one partition may have at least, and at most.
const AHEAD_PARTITION_KBYTES: std::ops::RangeInclusive<usize> = 64..=2048;
/// How long a member that died may still be listed, above its session timeout.
const SESSION_GRACE: Duration = Duration::from_secs(4);
/// How long all partitions may take to come.
const ASSIGN_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the group is asked who is in it.
const MEMBERS_EVERY: Duration = Duration::from_millis(500);

/// A topic of Apache Kafka. Its partitions are the topic's. In several processes with the same group,
/// the group shares them out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSourceSpec {
    /// Where to begin to look for the cluster: `host:port`, several with commas between.
    pub brokers: String,
    /// The topic. It must exist.
    pub topic: String,
    /// The consumer group: its members share the partitions out, and Kafka keeps its offsets.
    pub group: String,
    /// Where to begin in a partition for which nothing is committed. Default: earliest.
    #[serde(default)]
    pub auto_offset_reset: OffsetReset,
    /// More settings, by librdkafka's names, such as `security.protocol: sasl_ssl`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Property>,
}

/// Where to begin without a committed offset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OffsetReset {
    /// With the oldest record that is there.
    #[default]
    Earliest,
    /// With what comes from now on.
    Latest,
}

impl KafkaSourceSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            group: group.into(),
            auto_offset_reset: OffsetReset::default(),
            properties: BTreeMap::new(),
        }
    }
}

impl SourceConnector for KafkaSourceSpec {
    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(KafkaSource::new(self.clone())?))
    }
}

/// What the host decides itself, and why.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set `brokers` instead"),
    ("metadata.broker.list", "set `brokers` instead"),
    ("group.id", "set `group` instead"),
    ("auto.offset.reset", "set `auto_offset_reset` instead"),
    ("enable.auto.commit", "wasmill commits an offset once its results are safe; remove it"),
    ("auto.commit.enable", "wasmill commits an offset once its results are safe; remove it"),
    ("enable.auto.offset.store", "wasmill commits an offset once its results are safe; remove it"),
    (
        "group.protocol",
        "wasmill needs the classic protocol, where a member can finish before it lets go; remove it",
    ),
    (
        "partition.assignment.strategy",
        "wasmill needs cooperative-sticky, which moves only what must move; remove it",
    ),
    ("allow.auto.create.topics", "wasmill creates no topics; remove it"),
    ("statistics.interval.ms", "wasmill reads the lag from the statistics; remove it"),
    ("enable.partition.eof", "wasmill has no use for it; remove it"),
];

const CONSUMER: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // Where to begin is decided by the host; an offset outside the log is an error.
    ("auto.offset.reset", "error"),
    ("group.protocol", "classic"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "2000"),
    ("queued.min.messages", "1000000"),
    ("fetch.queue.backoff.ms", "2"),
    ("fetch.wait.max.ms", "100"),
    ("fetch.max.bytes", "8388608"),
    ("statistics.interval.ms", "1000"),
];

/// Reads a topic.
pub struct KafkaSource {
    spec: KafkaSourceSpec,
    config: ClientConfig,
    session: Duration,
    group: Option<Group>,
}

impl KafkaSource {
    /// A source of the topic that a spec names; connects to nothing.
    ///
    /// # Errors
    /// When a setting is missing, unknown or wrong.
    pub fn new(spec: KafkaSourceSpec) -> Result<Self, ConnectorError> {
        for (field, text) in [("brokers", &spec.brokers), ("topic", &spec.topic), ("group", &spec.group)] {
            if text.trim().is_empty() {
                return Err(ConnectorError::Fatal(format!("{field}: it is empty; set it")));
            }
        }
        let mut defaults = [DEFAULTS, CONSUMER].concat();
        defaults.extend([("bootstrap.servers", spec.brokers.as_str()), ("group.id", spec.group.as_str())]);
        let config = config(Side::Consumer, &defaults, &spec.properties, OWNED)?;
        let ms = config.get("session.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(10_000);
        Ok(Self { spec, config, session: Duration::from_millis(ms), group: None })
    }

    async fn numbers(&self) -> Result<Vec<u32>, ConnectorError> {
        let (config, brokers, topic) =
            (self.config.clone(), self.spec.brokers.clone(), self.spec.topic.clone());
        os::blocking(move || ask_partitions(&config, &brokers, &topic)).await
    }

    /// The consumer of a topic with so many partitions, which share what may be fetched ahead.
    fn start(&self, hold: Hold, partitions: usize) -> Result<Group, ConnectorError> {
        let mut config = self.config.clone();
        if !self.spec.properties.contains_key("queued.max.messages.kbytes") {
            let each = AHEAD_KBYTES / partitions.max(1);
            let each = each.clamp(*AHEAD_PARTITION_KBYTES.start(), *AHEAD_PARTITION_KBYTES.end());
            config.set("queued.max.messages.kbytes", each.to_string());
        }
        Group::start(&config, (&self.spec.brokers, &self.spec.topic, &self.spec.group), hold)
    }

    fn lister(&self, positions: Positions) -> Lister {
        Lister {
            brokers: self.spec.brokers.clone(),
            topic: self.spec.topic.clone(),
            reset: self.spec.auto_offset_reset,
            positions,
        }
    }

    fn started(&self) -> Result<&Group, ConnectorError> {
        self.group.as_ref().ok_or_else(|| {
            ConnectorError::Fatal(format!("topic {}: its group was not joined before", self.spec.topic))
        })
    }
}

/// Finds out where partitions begin and end.
#[derive(Clone)]
struct Lister {
    brokers: String,
    topic: String,
    reset: OffsetReset,
    positions: Positions,
}

impl Lister {
    fn away(&self, cause: String) -> ConnectorError {
        ConnectorError::Disconnected { what: format!("cannot ask {} for offsets", self.brokers), cause }
    }

    fn bounds(&self, handle: &Handle, partition: u32) -> Result<(u64, u64), ConnectorError> {
        let (low, high) = handle
            .consumer()?
            .fetch_watermarks(&self.topic, number(partition), ASK_MAX)
            .map_err(|e| self.away(why(&e)))?;
        Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)))
    }

    fn committed(&self, handle: &Handle, numbers: &[u32]) -> Result<BTreeMap<u32, u64>, ConnectorError> {
        let mut asked = TopicPartitionList::new();
        for n in numbers {
            asked.add_partition(&self.topic, number(*n));
        }
        let told =
            handle.consumer()?.committed_offsets(asked, ASK_MAX * 2).map_err(|e| self.away(why(&e)))?;
        let mut committed = BTreeMap::new();
        for element in told.elements() {
            element.error().map_err(|e| self.away(why(&e)))?;
            if let (Ok(n), Offset::Offset(offset)) = (u32::try_from(element.partition()), element.offset()) {
                committed.insert(n, u64::try_from(offset).unwrap_or(0));
            }
        }
        Ok(committed)
    }

    fn list(&self, handle: &Handle, numbers: &[u32]) -> Result<Vec<Partition>, ConnectorError> {
        let committed = match self.positions {
            Positions::Source if !numbers.is_empty() => self.committed(handle, numbers)?,
            Positions::Source | Positions::Store => BTreeMap::new(),
        };
        let one = |n: &u32| {
            let (low, high) = self.bounds(handle, *n)?;
            let reset = if self.reset == OffsetReset::Earliest { low } else { high };
            let begin = committed.get(n).copied().unwrap_or(reset);
            Ok(Partition { begin, extent: Some(high), ..bare(&self.topic, *n) })
        };
        numbers.iter().map(one).collect()
    }
}

fn bare(topic: &str, number: u32) -> Partition {
    Partition {
        number,
        name: name(topic, number),
        // librdkafka's Rust layer has no way to ask for the topic's id.
        incarnation: topic.to_owned(),
        begin: 0,
        extent: None,
    }
}

/// Waits until nobody else is in the group: a process that was killed is listed until its session ends.
fn wait_for_others(handle: &Handle, group: &str, session: Duration) -> Result<(), ConnectorError> {
    let until = Instant::now() + session + SESSION_GRACE;
    let mut told = false;
    loop {
        let others = handle.members()?;
        if others.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(ConnectorError::Fatal(alone(group, &others)));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(group, members = %others.join(", "), wait_s_max = (session + SESSION_GRACE).as_secs(), "the group has other members; a process that was killed a moment ago stays one until its session times out: waiting");
        }
        std::thread::sleep(MEMBERS_EVERY);
    }
}

/// Waits until all partitions are this process's.
fn wait_for_all(handle: &Handle, group: &str, topic: &str, numbers: &[u32]) -> Result<(), ConnectorError> {
    let began = Instant::now();
    let mut asked = began;
    while !handle.owns(numbers)? {
        if asked.elapsed() > MEMBERS_EVERY * 4 {
            asked = Instant::now();
            let members = handle.members()?;
            if members.len() > 1 {
                return Err(ConnectorError::Fatal(alone(group, &members)));
            }
        }
        if began.elapsed() > ASSIGN_MAX {
            return Err(ConnectorError::Disconnected {
                what: format!("group {group} did not give this process the partitions of {topic}"),
                cause: format!("nothing came within {} s", ASSIGN_MAX.as_secs()),
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[async_trait]
impl Source for KafkaSource {
    fn traits(&self) -> SourceTraits {
        SourceTraits { seekable: true, bounded: false, shared: true }
    }

    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let numbers = self.numbers().await?;
        Ok(numbers.into_iter().map(|n| bare(&self.spec.topic, n)).collect())
    }

    async fn take_all(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let numbers = self.numbers().await?;
        // A call that failed is made again with a new consumer, so that it isn't taken for another member.
        if let Some(old) = self.group.take() {
            os::blocking(move || {
                drop(old);
                Ok(())
            })
            .await?;
        }
        let group = self.start(Hold::Alone(self.session + SESSION_GRACE), numbers.len())?;
        let (handle, lister, session) = (group.handle(), self.lister(Positions::Store), self.session);
        let (id, topic) = (self.spec.group.clone(), self.spec.topic.clone());
        let listed = os::blocking(move || {
            wait_for_others(&handle, &id, session)?;
            handle.subscribe()?;
            wait_for_all(&handle, &id, &topic, &numbers)?;
            lister.list(&handle, &numbers)
        });
        self.group = Some(group);
        listed.await
    }

    async fn join(&mut self, positions: Positions) -> Result<Box<dyn Membership>, ConnectorError> {
        let numbers = self.numbers().await?;
        let (changes, changed) = unbounded_channel();
        let group = self.start(Hold::Shared(changes), numbers.len())?;
        group.handle().subscribe()?;
        let member = Member { changed, listing: None, group: group.handle(), lister: self.lister(positions) };
        self.group = Some(group);
        Ok(Box::new(member))
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let group = self.started()?;
        let (handle, lister) = (group.handle(), self.lister(Positions::Store));
        let shared = std::sync::Arc::clone(group.shared());
        let slot = os::blocking(move || {
            let (low, high) = lister.bounds(&handle, partition)?;
            if !(low..=high).contains(&offset) {
                let cause = format!("it has the offsets {low} to {high} now");
                return Err(outside(&name(&lister.topic, partition), offset, &cause));
            }
            handle.open(partition, offset)
        })
        .await?;
        Ok(Box::new(KafkaReader { slot, shared }))
    }

    async fn commit(&mut self, offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        self.started()?.commit(offsets);
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        match self.group.take() {
            // Its last commit is waited for.
            Some(group) => {
                os::blocking(move || {
                    drop(group);
                    Ok(())
                })
                .await
            }
            None => Ok(()),
        }
    }

    fn extents(&self) -> Vec<(u32, u64)> {
        self.group.as_ref().map(Group::extents).unwrap_or_default()
    }
}

/// What is asked about partitions that were assigned.
type Listing = JoinHandle<Result<Vec<Partition>, ConnectorError>>;

/// A place in the group.
struct Member {
    changed: UnboundedReceiver<Raw>,
    /// Partitions that were assigned, and where they begin: kept while it is found out, so that a call
    /// that is dropped doesn't begin it anew.
    listing: Option<(Vec<u32>, Listing)>,
    group: Handle,
    lister: Lister,
}

impl Member {
    fn list(&self, numbers: Vec<u32>) -> (Vec<u32>, Listing) {
        let (handle, lister, asked) = (self.group.clone(), self.lister.clone(), numbers.clone());
        (numbers, tokio::task::spawn_blocking(move || lister.list(&handle, &asked)))
    }
}

#[async_trait]
impl Membership for Member {
    async fn next(&mut self) -> Result<Change, ConnectorError> {
        let begun = match self.listing.take() {
            Some(begun) => begun,
            None => match self.changed.recv().await {
                Some(Raw::Assigned(numbers)) => self.list(numbers),
                Some(Raw::Revoked(partitions, release)) => {
                    return Ok(Change::Revoked { partitions, release });
                }
                Some(Raw::Lost(partitions)) => return Ok(Change::Lost(partitions)),
                Some(Raw::Failed(text)) => return Err(ConnectorError::Fatal(text)),
                None => {
                    let topic = &self.lister.topic;
                    return Err(ConnectorError::Fatal(format!("topic {topic}: its group is left already")));
                }
            },
        };
        // Polled in place: where this call is dropped, the next one goes on with it.
        let (_, listing) = self.listing.insert(begun);
        let died = |e| Err(ConnectorError::Fatal(format!("asking for offsets did not finish: {e}")));
        match listing.await.unwrap_or_else(died) {
            Ok(partitions) => {
                self.listing = None;
                Ok(Change::Assigned(partitions))
            }
            Err(error) => {
                self.listing = self.listing.take().map(|(numbers, _)| self.list(numbers));
                Err(error)
            }
        }
    }
}
