//! Reads a topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use wasmill_engine::position::Position;

use super::admin;
use super::client::{
    ASK_MAX, DEFAULTS, Topic, ask, ask_topic, incarnation_of, is_of, is_same_topic, made_anew, why,
};
use super::group::{Group, Handle, Hold, Raw, alone, members, name, number};
use super::ledger::KafkaLedger;
use super::offsets::{GroupOffsets, incarnation_in, position_of};
use super::properties::{Property, Side, config};
use super::reader::{KafkaReader, outside};
use super::security::KafkaSecurity;
use super::settings::Settings;
use super::sink::{KafkaSinkSpec, is_same_cluster};
use crate::table::SourceConnector;
use crate::{
    Change, ConnectorError, Ledger, Membership, Partition, Positions, Reader, Source, SourceTraits, os,
};

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
/// How often a member that waits for a change looks whether one can come.
const CHECK_EVERY: Duration = Duration::from_secs(1);
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
    /// TLS, and who this client is to the brokers. Default: a plain connection of nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<KafkaSecurity>,
    /// More settings, by librdkafka's names, such as `session.timeout.ms: 6000`.
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
            security: None,
            properties: BTreeMap::new(),
        }
    }
}

impl SourceConnector for KafkaSourceSpec {
    fn called(&self) -> String {
        self.topic.clone()
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits {
            seekable: true,
            bounded: false,
            shared: true,
            shared_with_positions: true,
            forgets: false,
            append_times: true,
        }
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(KafkaSource::new(self.clone())?))
    }

    fn reset(&self) -> Result<(), ConnectorError> {
        KafkaSource::new(self.clone())?.forget_offsets()
    }

    fn ledger(&self, pipeline: &str) -> Result<Option<Box<dyn Ledger>>, ConnectorError> {
        Ok(Some(Box::new(KafkaLedger::new(self, pipeline)?)))
    }

    fn is_in_transactions_of(&self, sink: &KafkaSinkSpec) -> bool {
        is_same_cluster(&self.brokers, &sink.brokers)
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
    settings: Settings,
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
        let settings = config(Side::Consumer, &defaults, &spec.properties, spec.security.as_ref(), OWNED)?;
        let ms = settings.get("session.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(10_000);
        Ok(Self { spec, settings, session: Duration::from_millis(ms), group: None })
    }

    async fn topic(&self) -> Result<Topic, ConnectorError> {
        let (settings, brokers, topic) =
            (self.settings.clone(), self.spec.brokers.clone(), self.spec.topic.clone());
        os::blocking(move || ask_topic(&settings, &brokers, &topic)).await
    }

    /// Makes the group forget where it is in the topic. Its members would go on where they are, and commit
    /// that again: there may be none.
    fn forget_offsets(&self) -> Result<(), ConnectorError> {
        let KafkaSourceSpec { brokers, topic, group, .. } = &self.spec;
        let numbers = ask_topic(&self.settings, brokers, topic)?.numbers;
        let mut asked = TopicPartitionList::new();
        for n in numbers {
            asked.add_partition(topic, number(n));
        }
        let client: BaseConsumer = self.settings.create(DefaultConsumerContext)?;
        let in_use = |members: &[String]| {
            ConnectorError::Fatal(format!(
                "group {group} has members: {}; stop them, then reset: they would go on where they are. A process that was killed stays a member until its session times out",
                members.join(", ")
            ))
        };
        let found = members(&client, brokers, group)?;
        if !found.is_empty() {
            return Err(in_use(&found));
        }
        match admin::forget_offsets(client.client(), group, &asked, ASK_MAX) {
            // A group that never was has nothing to forget.
            Ok(()) | Err(RDKafkaErrorCode::GroupIdNotFound) => Ok(()),
            Err(RDKafkaErrorCode::GroupSubscribedToTopic | RDKafkaErrorCode::NonEmptyGroup) => {
                Err(in_use(&members(&client, brokers, group)?))
            }
            Err(code) => Err(ConnectorError::Fatal(format!(
                "the offsets of group {group} in topic {topic} at {brokers} could not be deleted: {code}"
            ))),
        }
    }

    /// The consumer of a topic with so many partitions, which share what may be fetched ahead.
    fn start(&self, hold: Hold, partitions: usize) -> Result<Group, ConnectorError> {
        let mut settings = self.settings.clone();
        if !self.spec.properties.contains_key("queued.max.messages.kbytes") {
            let each = AHEAD_KBYTES / partitions.max(1);
            let each = each.clamp(*AHEAD_PARTITION_KBYTES.start(), *AHEAD_PARTITION_KBYTES.end());
            settings.set("queued.max.messages.kbytes", each.to_string());
        }
        Group::start(&settings, (&self.spec.brokers, &self.spec.topic, &self.spec.group), hold, self.session)
    }

    /// What lists partitions of a topic that had so many when it was first looked at.
    fn lister(&self, positions: Positions, first: usize) -> Lister {
        Lister {
            brokers: self.spec.brokers.clone(),
            topic: self.spec.topic.clone(),
            reset: self.spec.auto_offset_reset,
            positions,
            first: u32::try_from(first).unwrap_or(u32::MAX),
        }
    }

    /// Joins the group, whose changes go to `changes`.
    pub(super) async fn join_with(&mut self, changes: UnboundedSender<Raw>) -> Result<usize, ConnectorError> {
        let numbers = self.topic().await?.numbers;
        let group = self.start(Hold::Shared(changes), numbers.len())?;
        let handle = group.handle();
        os::blocking(move || {
            handle.connect(0);
            handle.subscribe()
        })
        .await?;
        self.group = Some(group);
        Ok(numbers.len())
    }

    /// What works with the consumer.
    pub(super) fn handle(&self) -> Result<Handle, ConnectorError> {
        self.started().map(Group::handle)
    }

    /// Whether the brokers are there.
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        self.started()?.handle().check()
    }

    /// Nothing of partitions that went is on its way any more.
    pub(super) fn begin_whole(&self) -> Result<(), ConnectorError> {
        self.started()?.shared().begin_whole();
        Ok(())
    }

    /// Where partitions begin; waits for the end of transactions that have offsets of theirs.
    pub(super) async fn list(
        &self,
        positions: Positions,
        numbers: Vec<u32>,
    ) -> Result<Vec<Partition>, ConnectorError> {
        let (handle, lister) = (self.handle()?, self.lister(positions, 0));
        os::blocking(move || lister.list(&handle, &numbers)).await
    }

    /// Which log the topic is.
    pub(super) async fn incarnation(&self) -> Result<String, ConnectorError> {
        Ok(self.topic().await?.incarnation)
    }

    /// The settings of a client that only asks.
    pub(super) fn asking(&self) -> Settings {
        self.settings.asking()
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
    /// How many partitions there were at first: later ones are read from their start, for all that is in
    /// them came since.
    first: u32,
}

/// What a group has committed of a partition.
struct Committed {
    offset: u64,
    /// Which log it counts in, where wasmill has noted that.
    incarnation: Option<String>,
    /// The whole position, where wasmill has noted that.
    position: Option<Position>,
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

    fn committed(
        &self,
        handle: &Handle,
        numbers: &[u32],
    ) -> Result<BTreeMap<u32, Committed>, ConnectorError> {
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
                let offset = u64::try_from(offset).unwrap_or(0);
                // Others' notes are theirs.
                let note = Some(element.metadata()).filter(|n| is_of(incarnation_in(n), &self.topic));
                let incarnation = note.map(|note| incarnation_in(note).to_owned());
                let position = note.and_then(|note| position_of(note, offset));
                committed.insert(n, Committed { offset, incarnation, position });
            }
        }
        Ok(committed)
    }

    fn list(&self, handle: &Handle, numbers: &[u32]) -> Result<Vec<Partition>, ConnectorError> {
        // Before anything else of it: what is made anew while it is asked about has another id later.
        let incarnation = incarnation_of(handle.consumer()?.client(), &self.brokers, &self.topic, ASK_MAX)?;
        let committed = match self.positions {
            Positions::Source if !numbers.is_empty() => self.committed(handle, numbers)?,
            Positions::Source | Positions::Store => BTreeMap::new(),
        };
        let other = committed.values().filter_map(|c| c.incarnation.as_ref());
        if let Some(before) = other.into_iter().find(|before| !is_same_topic(before, &incarnation)) {
            return Err(ConnectorError::Fatal(made_anew(&self.topic, before, &incarnation)));
        }
        let one = |n: &u32| {
            let (low, high) = self.bounds(handle, *n)?;
            let earliest = self.reset == OffsetReset::Earliest || *n >= self.first;
            let reset = if earliest { low } else { high };
            let begin = committed.get(n).map_or(reset, |c| c.offset);
            let position = committed.get(n).and_then(|c| c.position.clone());
            Ok(Partition { begin, position, extent: Some(high), ..bare(&self.topic, *n, &incarnation) })
        };
        let listed = numbers.iter().map(one).collect::<Result<Vec<_>, ConnectorError>>()?;
        handle.note(numbers, &incarnation);
        Ok(listed)
    }
}

fn bare(topic: &str, number: u32, incarnation: &str) -> Partition {
    Partition {
        number,
        name: name(topic, number),
        incarnation: incarnation.to_owned(),
        begin: 0,
        position: None,
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
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let Topic { numbers, incarnation } = self.topic().await?;
        Ok(numbers.into_iter().map(|n| bare(&self.spec.topic, n, &incarnation)).collect())
    }

    async fn check_append_times(&mut self) -> Result<(), ConnectorError> {
        const SETTING: &str = "message.timestamp.type";
        let (settings, brokers, topic) =
            (self.settings.clone(), self.spec.brokers.clone(), self.spec.topic.clone());
        let found =
            os::blocking(move || ask(&settings, |facts| facts.setting(&brokers, &topic, SETTING))).await?;
        let topic = &self.spec.topic;
        match found.as_deref() {
            Some("LogAppendTime") => {}
            Some(kind) => {
                return Err(ConnectorError::Fatal(format!(
                    "topic {topic} has its producers' times ({SETTING}={kind}), and nothing tells which of them are in the future: set the topic's {SETTING} to LogAppendTime, or leave `time.max_ahead` out"
                )));
            }
            None => tracing::warn!(
                topic,
                "this user may not read the topic's {SETTING}: if it is not LogAppendTime, `time.max_ahead` bounds nothing"
            ),
        }
        Ok(())
    }

    async fn take_all(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let numbers = self.topic().await?.numbers;
        // A call that failed is made again with a new consumer, so that it isn't taken for another member.
        if let Some(old) = self.group.take() {
            os::blocking(move || {
                drop(old);
                Ok(())
            })
            .await?;
        }
        let group = self.start(Hold::Alone, numbers.len())?;
        let (handle, lister, session) =
            (group.handle(), self.lister(Positions::Store, numbers.len()), self.session);
        let (id, topic) = (self.spec.group.clone(), self.spec.topic.clone());
        let listed = os::blocking(move || {
            handle.connect(0);
            wait_for_others(&handle, &id, session)?;
            handle.subscribe()?;
            wait_for_all(&handle, &id, &topic, &numbers)?;
            lister.list(&handle, &numbers)
        });
        self.group = Some(group);
        listed.await
    }

    async fn join(&mut self, positions: Positions) -> Result<Box<dyn Membership>, ConnectorError> {
        let (changes, changed) = unbounded_channel();
        let partitions = self.join_with(changes).await?;
        let lister = self.lister(positions, partitions);
        Ok(Box::new(Member { changed, listing: None, group: self.handle()?, lister }))
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let group = self.started()?;
        let (handle, lister) = (group.handle(), self.lister(Positions::Store, 0));
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

    fn offsets(&mut self, positions: &[(u32, Position)]) -> Result<Option<GroupOffsets>, ConnectorError> {
        self.started()?.offsets(positions).map(Some)
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

    fn unstable(&self) -> Vec<(u32, u64)> {
        self.group.as_ref().map(Group::unstable).unwrap_or_default()
    }

    fn extents(&self) -> Vec<(u32, u64)> {
        self.group.as_ref().map(Group::extents).unwrap_or_default()
    }

    async fn is_same_log(&mut self, partition: &Partition, committed: &str) -> Result<bool, ConnectorError> {
        Ok(is_same_topic(&partition.incarnation, committed))
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
    /// What the group's thread tells; that the brokers or the topic are away, while it tells nothing.
    async fn change(&mut self) -> Result<Option<Raw>, ConnectorError> {
        loop {
            match tokio::time::timeout(CHECK_EVERY, self.changed.recv()).await {
                Ok(told) => return Ok(told),
                Err(_) => self.group.check()?,
            }
        }
    }

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
            None => match self.change().await? {
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
