//! The place in a consumer group: one thread polls the consumer, and in it rebalances happen.
//!
//! Being assigned a partition and fetching it are two things here: the rebalance alone fetches nothing;
//! [`Handle::open`] begins, at the offset that the host says.

mod context;
mod poller;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::client::{ASK_MAX, LastError, incarnation_of, is_same_topic, lock, made_anew, why};
use super::queue::Queue;
use super::reader::{KafkaReader, Slot};
use super::settings::Settings;
use crate::{ConnectorError, Reader};
use context::Context;
use poller::Poller;

/// How long a revoke waits for the pipeline: far below `max.poll.interval.ms`.
const RELEASE_MAX: Duration = Duration::from_secs(20);
/// How long dropping the group waits for its last commit.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// The consumer with its callbacks.
pub(super) type GroupConsumer = BaseConsumer<Context>;

/// A change of the assignment, before anything is asked about the partitions.
#[derive(Debug)]
pub(super) enum Raw {
    /// As [`crate::Change::Assigned`].
    Assigned(Vec<u32>),
    /// As [`crate::Change::Revoked`].
    Revoked(Vec<u32>, oneshot::Sender<()>),
    /// As [`crate::Change::Lost`].
    Lost(Vec<u32>),
    /// Nothing comes any more, for this reason.
    Failed(String),
}

/// How the partitions of the topic are held.
pub(super) enum Hold {
    /// All of them, by this process alone.
    Alone,
    /// Those that the group assigns; changes are sent there.
    Shared(UnboundedSender<Raw>),
}

/// What the thread, the readers and the source share.
pub(super) struct Shared {
    topic: String,
    brokers: String,
    group: String,
    hold: Hold,
    stop: AtomicBool,
    away: Mutex<Option<(String, String)>>,
    failed: Mutex<Option<String>>,
    /// Why what was taken in is no longer all that there is.
    outdated: Mutex<Option<String>>,
    /// Why partitions may be another process's though what was read of them is on its way here.
    lost: Mutex<Option<String>>,
    state: Mutex<State>,
    last_error: LastError,
    consumer: OnceLock<Weak<GroupConsumer>>,
}

#[derive(Default)]
struct State {
    /// What the group gave to this process.
    owned: BTreeSet<u32>,
    /// What was opened, whether it is owned now or not.
    slots: BTreeMap<u32, Arc<Slot>>,
    /// Opened, but to be fetched again from where its reader is.
    resume: BTreeSet<u32>,
    /// What is being fetched.
    fetching: BTreeSet<u32>,
    told: BTreeMap<u32, u64>,
    sent: BTreeMap<u32, u64>,
    acknowledged: BTreeMap<u32, u64>,
    /// Which log each partition was when it was listed.
    incarnations: BTreeMap<u32, String>,
    /// Which log the topic was when it was listed last.
    listed: Option<String>,
    /// The offset behind the last record, as far as statistics tell.
    extents: BTreeMap<u32, u64>,
    /// How many offsets behind the last record that every reader may see there are: of open transactions.
    unstable: BTreeMap<u32, u64>,
}

impl Shared {
    /// What people call a partition.
    pub(super) fn name_of(&self, partition: u32) -> String {
        name(&self.topic, partition)
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// Nothing of what went is on its way any more.
    pub(super) fn begin_whole(&self) {
        *lock(&self.lost) = None;
    }

    /// Refuses to go on once partitions went before what was read of them was committed.
    pub(super) fn is_whole(&self) -> Result<(), ConnectorError> {
        match lock(&self.lost).clone() {
            Some(text) => Err(ConnectorError::Outdated(text)),
            None => Ok(()),
        }
    }

    /// Whether reading goes on, and why not.
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        if let Some(text) = lock(&self.failed).clone() {
            return Err(ConnectorError::Fatal(text));
        }
        if let Some(text) = lock(&self.outdated).clone() {
            return Err(ConnectorError::Outdated(text));
        }
        match lock(&self.away).clone() {
            Some((what, cause)) => Err(ConnectorError::Disconnected { what, cause }),
            None => Ok(()),
        }
    }

    fn fail(&self, text: String) {
        if let Hold::Shared(changes) = &self.hold {
            // Nobody listens once the membership is dropped: the readers tell it then.
            let _ = changes.send(Raw::Failed(text.clone()));
        }
        lock(&self.failed).get_or_insert(text);
    }

    fn set_away(&self, what: String, cause: String) {
        let mut away = lock(&self.away);
        if away.is_none() {
            *away = Some((what, cause));
        }
    }

    fn list(&self, offsets: impl IntoIterator<Item = (u32, Offset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            // It fails for offsets below zero alone, which no partition has.
            let _ = list.add_partition_offset(&self.topic, number(partition), offset);
        }
        list
    }

    /// The offsets of `partitions` that the pipeline committed and the brokers may not know.
    fn uncommitted(
        &self,
        state: &State,
        partitions: &[u32],
        known: &BTreeMap<u32, u64>,
    ) -> TopicPartitionList {
        let due = partitions.iter().filter_map(|p| Some((*p, *state.told.get(p)?)));
        let list = self
            .list(due.filter(|(p, o)| known.get(p) != Some(o)).map(|(p, o)| (p, Offset::Offset(signed(o)))));
        // Beside each offset stands which log it counts in.
        for (partition, incarnation) in &state.incarnations {
            if let Some(mut element) = list.find_partition(&self.topic, number(*partition)) {
                element.set_metadata(incarnation);
            }
        }
        list
    }

    /// Refuses what is read if it has become another log; answers whether it has not.
    fn is_same_log(&self, consumer: &GroupConsumer) -> Result<bool, ConnectorError> {
        let known = lock(&self.state).incarnations.values().next().cloned();
        let Some(before) = known else { return Ok(true) };
        let now = incarnation_of(consumer.client(), &self.brokers, &self.topic, ASK_MAX)?;
        let state = lock(&self.state);
        // Partitions may have come and gone meanwhile.
        let mut all = state.incarnations.values();
        let same = all.all(|listed| is_same_topic(listed, &now));
        drop(state);
        if !same {
            self.fail(made_anew(&self.topic, &before, &now));
        }
        Ok(same)
    }

    /// Commits what was told for these partitions and waits for it.
    fn commit_now(&self, consumer: &GroupConsumer, partitions: &[u32]) {
        let list = {
            let state = lock(&self.state);
            self.uncommitted(&state, partitions, &state.acknowledged)
        };
        if list.count() == 0 {
            return;
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Sync) {
            tracing::warn!(topic = %self.topic, group = %self.group, cause = %why(&error), "the last offsets of partitions that go were not committed; who gets them reads a part again");
        }
    }

    /// Stops fetching these; answers what librdkafka must be told.
    fn stop_fetching(&self, partitions: &[u32]) -> TopicPartitionList {
        let mut state = lock(&self.state);
        for p in partitions {
            if let Some(slot) = state.slots.get(p) {
                slot.detach();
            }
        }
        let fetched: Vec<u32> = partitions.iter().copied().filter(|p| state.fetching.remove(p)).collect();
        self.list(fetched.into_iter().map(|p| (p, Offset::Invalid)))
    }

    fn forget(&self, partitions: &[u32]) {
        let alone = matches!(self.hold, Hold::Alone);
        let mut state = lock(&self.state);
        for p in partitions {
            state.owned.remove(p);
            state.resume.remove(p);
            state.told.remove(p);
            state.sent.remove(p);
            state.acknowledged.remove(p);
            if !alone {
                state.slots.remove(p);
                state.incarnations.remove(p);
            }
        }
    }

    fn assigned(&self, consumer: &GroupConsumer, partitions: Vec<u32>) {
        tracing::info!(topic = %self.topic, group = %self.group, ?partitions, "partitions assigned");
        {
            let mut state = lock(&self.state);
            state.owned.extend(&partitions);
            if matches!(self.hold, Hold::Alone) {
                let (known, new): (Vec<u32>, Vec<u32>) =
                    partitions.iter().partition(|p| state.slots.contains_key(p));
                state.resume.extend(known);
                if !state.slots.is_empty() && !new.is_empty() {
                    let text = format!("topic {} has new partitions: {new:?}", self.topic);
                    lock(&self.outdated).get_or_insert(text);
                }
            }
        }
        // Nothing is fetched before it is opened; the call itself is the answer that the group waits for.
        if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
            self.fail(format!("topic {}: taking partitions failed: {error}; run it again", self.topic));
        }
        if let Hold::Shared(changes) = &self.hold {
            let _ = changes.send(Raw::Assigned(partitions));
        }
    }

    fn revoked(&self, consumer: &GroupConsumer, partitions: Vec<u32>) {
        let lost = consumer.assignment_lost();
        let stopping = self.stop.load(Ordering::Acquire);
        if lost {
            let text = format!(
                "{} partitions of topic {} were lost to other processes",
                partitions.len(),
                self.topic
            );
            // Before the group can give them, or others, to this process again.
            lock(&self.lost).get_or_insert(text);
            tracing::warn!(topic = %self.topic, group = %self.group, ?partitions, "partitions lost: this process was away for longer than session.timeout.ms, or didn't reach the group");
        } else {
            tracing::info!(topic = %self.topic, group = %self.group, ?partitions, stopping, "partitions revoked");
        }
        if let (Hold::Shared(changes), false) = (&self.hold, stopping) {
            if lost {
                let _ = changes.send(Raw::Lost(partitions.clone()));
            } else {
                let (release, mut released) = oneshot::channel();
                if changes.send(Raw::Revoked(partitions.clone(), release)).is_ok() {
                    let until = Instant::now() + RELEASE_MAX;
                    while matches!(released.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                        if Instant::now() > until || self.stop.load(Ordering::Acquire) {
                            let text = format!(
                                "{} partitions of topic {} were not let go of in time",
                                partitions.len(),
                                self.topic
                            );
                            lock(&self.lost).get_or_insert(text);
                            tracing::warn!(topic = %self.topic, ?partitions, "the pipeline did not let go of revoked partitions in time; who gets them reads a part again");
                            break;
                        }
                        thread::sleep(Duration::from_millis(2));
                    }
                }
            }
        }
        let fetched = self.stop_fetching(&partitions);
        if !lost && !consumer.assignment_lost() {
            self.commit_now(consumer, &partitions);
        }
        self.forget(&partitions);
        if let Err(error) = consumer.incremental_unassign(&fetched) {
            tracing::warn!(topic = %self.topic, cause = %error, "letting partitions go failed");
        }
    }

    /// Begins to fetch a partition at an offset.
    fn fetch(
        &self,
        consumer: &Arc<GroupConsumer>,
        state: &mut State,
        p: u32,
        offset: u64,
    ) -> KafkaResult<()> {
        if state.fetching.remove(&p) {
            if let Some(slot) = state.slots.get(&p) {
                slot.detach();
            }
            consumer.incremental_unassign(&self.list([(p, Offset::Invalid)]))?;
        }
        // Split off first: what is fetched then never goes to the main queue.
        let slot = state.slots.get(&p);
        let queue = slot.and_then(|slot| Queue::split(consumer, &self.topic, p, &slot.filled));
        consumer.incremental_assign(&self.list([(p, Offset::Offset(signed(offset)))]))?;
        state.fetching.insert(p);
        if let (Some(slot), Some(queue)) = (state.slots.get(&p), queue) {
            slot.attach(queue);
        }
        Ok(())
    }
}

/// What people call a partition of a topic.
pub(super) fn name(topic: &str, partition: u32) -> String {
    format!("{topic}[{partition}]")
}

/// A partition's number as librdkafka has it.
pub(super) fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// A consumer in a group, with its thread.
pub(super) struct Group {
    shared: Arc<Shared>,
    /// Told when the thread ends. The lock makes it `Sync`, which futures ask for.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Group {
    /// Makes the consumer and begins to poll it. It isn't a member before [`Handle::subscribe`].
    pub(super) fn start(
        settings: &Settings,
        (brokers, topic, group): (&str, &str, &str),
        hold: Hold,
        session: Duration,
    ) -> Result<Self, ConnectorError> {
        let shared = Arc::new(Shared {
            topic: topic.to_owned(),
            brokers: brokers.to_owned(),
            group: group.to_owned(),
            hold,
            stop: AtomicBool::new(false),
            away: Mutex::new(None),
            failed: Mutex::new(None),
            outdated: Mutex::new(None),
            lost: Mutex::new(None),
            state: Mutex::new(State::default()),
            last_error: LastError::default(),
            consumer: OnceLock::new(),
        });
        let consumer: GroupConsumer = settings.create(Context(Arc::clone(&shared)))?;
        let consumer = Arc::new(consumer);
        // It is set once, here.
        let _ = shared.consumer.set(Arc::downgrade(&consumer));
        let (end, ended) = mpsc::channel();
        let polled = Arc::clone(&shared);
        let poll = move || {
            Poller::new(polled, consumer, session).run();
            // The source may not wait any more.
            let _ = end.send(());
        };
        thread::Builder::new()
            .name(format!("kafka {topic}"))
            .spawn(poll)
            .map_err(|e| ConnectorError::Fatal(format!("cannot start a thread for topic {topic}: {e}")))?;
        Ok(Self { shared, ended: Mutex::new(ended) })
    }

    /// What the readers share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What works with the consumer, to be called where blocking is allowed.
    pub(super) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Takes note of what the pipeline committed; the thread tells the brokers.
    pub(super) fn commit(&self, offsets: &[(u32, u64)]) {
        let mut state = lock(&self.shared.state);
        for (partition, offset) in offsets {
            if state.owned.contains(partition) {
                state.told.insert(*partition, *offset);
            }
        }
    }

    /// How much of its partitions is of transactions that are open, as far as it is known.
    pub(super) fn unstable(&self) -> Vec<(u32, u64)> {
        let state = lock(&self.shared.state);
        state.unstable.iter().filter(|(p, _)| state.owned.contains(p)).map(|(p, n)| (*p, *n)).collect()
    }

    /// The offsets behind the last records, as far as they are known.
    pub(super) fn extents(&self) -> Vec<(u32, u64)> {
        let state = lock(&self.shared.state);
        state.extents.iter().filter(|(p, _)| state.owned.contains(p)).map(|(p, e)| (*p, *e)).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Without brokers the last commit may hang: the thread is left to itself then.
        if lock(&self.ended).recv_timeout(LEAVE_MAX).is_err() {
            tracing::warn!(topic = %self.shared.topic, group = %self.shared.group, "leaving the group takes too long; its last offsets may not be committed");
        }
    }
}

/// A consumer's calls that block.
#[derive(Clone)]
pub(super) struct Handle(Arc<Shared>);

impl Handle {
    /// The consumer, unless the group is being left.
    pub(super) fn consumer(&self) -> Result<Arc<GroupConsumer>, ConnectorError> {
        let gone = || ConnectorError::Fatal(format!("topic {}: its group is left already", self.0.topic));
        self.0.consumer.get().and_then(Weak::upgrade).ok_or_else(gone)
    }

    /// Connects to a broker: what is asked before that waits for librdkafka's timers, up to a second. One that
    /// is away shows later.
    pub(super) fn connect(&self, partition: u32) {
        if let Ok(consumer) = self.consumer() {
            let _ = consumer.fetch_watermarks(&self.0.topic, number(partition), ASK_MAX);
        }
    }

    /// Becomes a member; members get partitions.
    pub(super) fn subscribe(&self) -> Result<(), ConnectorError> {
        let failed = |e| ConnectorError::Fatal(format!("cannot join group {}: {e}", self.0.group));
        self.consumer()?.subscribe(&[&self.0.topic]).map_err(failed)
    }

    /// Whether exactly these partitions are this process's now; an error if that can't become true.
    pub(super) fn owns(&self, partitions: &[u32]) -> Result<bool, ConnectorError> {
        self.0.check()?;
        Ok(lock(&self.0.state).owned.iter().eq(partitions))
    }

    /// Begins to fetch a partition at an offset, which must be in the log.
    pub(super) fn open(&self, partition: u32, offset: u64) -> Result<Arc<Slot>, ConnectorError> {
        let consumer = self.consumer()?;
        let mut state = lock(&self.0.state);
        if !state.owned.contains(&partition) {
            return Err(ConnectorError::Outdated(format!(
                "the group has given {} to another member",
                self.0.name_of(partition)
            )));
        }
        let slot = Arc::new(Slot::new(partition, offset));
        if let Some(old) = state.slots.insert(partition, Arc::clone(&slot)) {
            old.detach();
        }
        state.resume.remove(&partition);
        self.0.fetch(&consumer, &mut state, partition, offset).map_err(|e| ConnectorError::Disconnected {
            what: format!("cannot read {}", self.0.name_of(partition)),
            cause: why(&e),
        })?;
        Ok(slot)
    }

    /// Takes note of which log partitions are.
    pub(super) fn note(&self, partitions: &[u32], incarnation: &str) {
        let mut state = lock(&self.0.state);
        state.incarnations.extend(partitions.iter().map(|p| (*p, incarnation.to_owned())));
        let before = state.listed.replace(incarnation.to_owned());
        if let Some(before) = before.filter(|before| !is_same_topic(before, incarnation)) {
            tracing::warn!(topic = %self.0.topic, group = %self.0.group, %before, now = %incarnation, "the topic was deleted and made anew; where the group has no offsets in it, it is read from its start");
        }
    }

    /// Whether reading goes on, and why not.
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        self.0.check()
    }

    /// What the threads share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// A reader of a partition from an offset on, or from the log's start where that is behind it.
    pub(super) fn reader(&self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let (low, _) =
            self.consumer()?.fetch_watermarks(&self.0.topic, number(partition), ASK_MAX).map_err(|e| {
                ConnectorError::Disconnected {
                    what: format!("cannot read {}", self.0.name_of(partition)),
                    cause: why(&e),
                }
            })?;
        let slot = self.open(partition, offset.max(u64::try_from(low).unwrap_or(0)))?;
        Ok(Box::new(KafkaReader { slot, shared: Arc::clone(&self.0) }))
    }

    /// The members of the group, by client and host.
    pub(super) fn members(&self) -> Result<Vec<String>, ConnectorError> {
        members(&*self.consumer()?, &self.0.brokers, &self.0.group)
    }
}

/// How long a group's broker may take to have loaded it.
const LOADED_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The members of a group, by client and host.
pub(super) fn members<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    brokers: &str,
    group: &str,
) -> Result<Vec<String>, ConnectorError> {
    let since = Instant::now();
    let listed = loop {
        match consumer.fetch_group_list(Some(group), ASK_MAX) {
            Ok(listed) => break listed,
            // The broker that knows the group has just begun to.
            Err(KafkaError::GroupListFetch(
                RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::NotCoordinator,
            )) if since.elapsed() < LOADED_MAX => thread::sleep(LOOK_AGAIN),
            Err(e) => {
                return Err(ConnectorError::Disconnected {
                    what: format!("cannot ask {brokers} who is in group {group}"),
                    cause: why(&e),
                });
            }
        }
    };
    let one = |m: &rdkafka::groups::GroupMemberInfo| {
        format!("{} ({}) at {}", m.client_id(), m.id(), m.client_host().trim_start_matches('/'))
    };
    Ok(listed.groups().iter().filter(|g| g.name() == group).flat_map(|g| g.members()).map(one).collect())
}

/// That a pipeline that must be alone in its group isn't.
pub(super) fn alone(group: &str, others: &[String]) -> String {
    format!(
        "group {group} has other members: {}; this pipeline keeps its state in this process, which must read all partitions: run it once, give it a `group` of its own, or keep its counts in Redis",
        others.join(", ")
    )
}
