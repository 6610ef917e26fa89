//! What runs in the group's thread: it polls the consumer, commits, and looks whether the topic and the group are
//! still what they were.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;

use super::super::client::{lock, partitions_of, why};
use super::{GroupConsumer, Hold, Shared, alone, members};
use crate::ConnectorError;

/// How long a poll waits.
const POLL: Duration = Duration::from_millis(20);
/// How often the offsets that the pipeline committed are told the brokers.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// How often brokers that are away are tried, and a group that should be ours alone is looked at.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether a topic is still the one that it was. Not more often, nor with less
/// patience than [`ASK_MAX`](super::super::client::ASK_MAX): rebalances wait for the answer, and librdkafka drops a connection whose answer
/// is late, which a slow broker doesn't deserve.
const IDENTITY_EVERY: Duration = Duration::from_secs(10);
/// For how long other members must be seen where there may be none, above the session: a broker that was
/// stopped may know this process twice, until the session of the member that it gave up ends.
const OTHERS_GRACE: Duration = Duration::from_secs(4);

/// What runs in the thread.
pub(super) struct Poller {
    pub shared: Arc<Shared>,
    pub consumer: Arc<GroupConsumer>,
    pub session: Duration,
    pub asked: Instant,
    pub identified: Instant,
    pub committed: Instant,
    /// Since when others are seen where there may be none.
    pub others_since: Option<Instant>,
}

impl Poller {
    pub fn new(shared: Arc<Shared>, consumer: Arc<GroupConsumer>, session: Duration) -> Self {
        let now = Instant::now();
        Self { shared, consumer, session, asked: now, identified: now, committed: now, others_since: None }
    }

    pub fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Err(error)) => self.error(&error),
                Some(Ok(message)) => {
                    // It came before its queue was split off: fetch again from where the reader is.
                    if let Ok(partition) = u32::try_from(rdkafka::Message::partition(&message)) {
                        lock(&self.shared.state).resume.insert(partition);
                    }
                }
            }
            self.resume();
            if self.committed.elapsed() >= COMMIT_EVERY {
                self.committed = Instant::now();
                self.commit();
            }
            if self.asked.elapsed() >= ASK_EVERY {
                self.look();
                self.asked = Instant::now();
            }
        }
        self.leave();
    }

    pub fn error(&self, error: &KafkaError) {
        let shared = &self.shared;
        let what = || format!("cannot reach Kafka at {}", shared.brokers);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) => {
                shared.set_away(what(), shared.last_error.or("all brokers are down"));
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                if let ConnectorError::Disconnected { what, cause } =
                    super::super::client::missing(&shared.brokers, &shared.topic)
                {
                    shared.set_away(what, cause);
                }
            }
            Some(code @ (RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed)) => {
                shared.fail(format!(
                    "topic {}, group {}: {code}: grant it, or set another user in `security`",
                    shared.topic, shared.group
                ));
            }
            Some(code @ RDKafkaErrorCode::InconsistentGroupProtocol) => shared.fail(format!(
                "group {} has members that share partitions out in another way ({code}): wasmill's is cooperative-sticky; set another `group`",
                shared.group
            )),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                shared.fail(format!("topic {}: {}; run it again", shared.topic, shared.last_error.or(&why(error))));
            }
            _ => tracing::debug!(topic = %shared.topic, cause = %why(error), "librdkafka tells an error"),
        }
    }

    /// Fetches again what came back, from where its reader is.
    pub fn resume(&self) {
        if lock(&self.shared.state).resume.is_empty() {
            return;
        }
        // It may have come back as another log: then its offsets mean something else.
        if !self.shared.is_same_log(&self.consumer).unwrap_or(false) {
            return;
        }
        let mut state = lock(&self.shared.state);
        while let Some(partition) = state.resume.pop_first() {
            let Some(next) = state.slots.get(&partition).map(|slot| slot.next()) else { continue };
            if state.owned.contains(&partition)
                && let Err(error) = self.shared.fetch(&self.consumer, &mut state, partition, next)
            {
                tracing::warn!(partition = %self.shared.name_of(partition), cause = %why(&error), "reading it again failed; it is tried again");
                state.resume.insert(partition);
                return;
            }
        }
    }

    pub fn commit(&self) {
        let list = {
            let state = lock(&self.shared.state);
            let owned: Vec<u32> = state.owned.iter().copied().collect();
            self.shared.uncommitted(&state, &owned, &state.sent)
        };
        if list.count() == 0 {
            return;
        }
        match self.consumer.commit(&list, CommitMode::Async) {
            Ok(()) => {
                let mut state = lock(&self.shared.state);
                for element in list.elements() {
                    if let (Ok(p), Offset::Offset(o)) = (u32::try_from(element.partition()), element.offset())
                    {
                        state.sent.insert(p, o.cast_unsigned());
                    }
                }
            }
            Err(error) => {
                tracing::warn!(topic = %self.shared.topic, group = %self.shared.group, cause = %why(&error), "offsets could not be committed; they are sent again");
            }
        }
    }

    /// Whether brokers that were away are back, and whether a group that should be ours alone still is.
    pub fn look(&mut self) {
        let away = lock(&self.shared.away).is_some();
        if away && partitions_of(self.consumer.client(), &self.shared.brokers, &self.shared.topic).is_ok() {
            *lock(&self.shared.away) = None;
        }
        if !away && self.identified.elapsed() >= IDENTITY_EVERY {
            if let Err(error) = self.shared.is_same_log(&self.consumer) {
                tracing::debug!(topic = %self.shared.topic, %error, "the topic's id could not be asked for");
            }
            self.identified = Instant::now();
        }
        if away {
            // Without brokers nobody's session ends.
            self.others_since = None;
        } else if matches!(self.shared.hold, Hold::Alone) {
            self.look_for_others();
        }
    }

    pub fn look_for_others(&mut self) {
        let complete = {
            let state = lock(&self.shared.state);
            state.slots.keys().all(|p| state.owned.contains(p))
        };
        // A member that only asks gets no partition: it takes none, and is told to wait.
        if complete {
            self.others_since = None;
            return;
        }
        let Ok(members) = members(&self.consumer, &self.shared.brokers, &self.shared.group) else { return };
        if members.len() < 2 {
            self.others_since = None;
        } else if self.others_since.get_or_insert_with(Instant::now).elapsed() > self.session + OTHERS_GRACE {
            self.shared.fail(alone(&self.shared.group, &members));
        }
    }

    /// The last commit; then the queues go, which hold the consumer, and the consumer leaves its group.
    pub fn leave(self) {
        let owned: Vec<u32> = lock(&self.shared.state).owned.iter().copied().collect();
        if lock(&self.shared.away).is_none() {
            self.shared.commit_now(&self.consumer, &owned);
        }
        let mut state = lock(&self.shared.state);
        state.told.clear();
        for slot in state.slots.values() {
            slot.detach();
        }
    }
}
