//! State in a topic: what each epoch changes of it, in the epoch's own transaction.
//!
//! The topic `NAME-changelog` is compacted, so that the last value of each key stays. It has one partition, or
//! behind an exchange as many as that, each with the state of the same one:
//!
//! | key | value |
//! |---|---|
//! | `s` and the stored key | the value; none where the key was deleted |
//! | `c` | the checkpoint, as JSON with its format; the last record of each epoch |
//!
//! What counts is what is in the topic. A store on this machine follows it, and notes with each commit up to
//! where it has: so a start reads the rest alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use wasmill_engine::state::{Change, Checkpoint};

use super::client::{ASK_MAX, Facts, end_aside, is_same_topic, why};
use super::group::number;
use super::own_topic;
use super::transaction::Transactions;
use crate::ConnectorError;

/// The version of what is in the topic.
const FORMAT: u32 = 1;
/// The key of the checkpoint.
const CHECKPOINT: &[u8] = b"c";
/// What the keys of the state's entries begin with.
const ENTRY: u8 = b's';
/// How the topic is made. What is deleted is remembered for a day: a store that is older is built anew.
const SETTINGS: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("delete.retention.ms", "86400000"), ("max.message.bytes", "67108864")];
/// How much of that time counts: clocks differ.
const RETENTION_SHARE: f64 = 0.9;
/// How long nothing may come while there is more.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long one look for a record waits.
const POLL: Duration = Duration::from_millis(100);

/// A checkpoint as the topic has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    checkpoint: Checkpoint,
}

/// Up to where a store has followed a changelog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Which topic it was.
    pub incarnation: String,
    /// The offset to read next.
    pub next: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl std::fmt::Display for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}@{}", self.incarnation, self.next, self.at_ms)
    }
}

impl std::str::FromStr for Followed {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('@');
        let incarnation = parts.next().filter(|i| !i.is_empty()).ok_or(())?.to_owned();
        let mut number = || parts.next().and_then(|n| n.parse().ok()).ok_or(());
        let (next, at_ms) = (number()?, number()?);
        Ok(Self { incarnation, next, at_ms })
    }
}

/// What a record of the topic says.
#[derive(Debug)]
pub enum Replayed<'a> {
    /// A key has this value from here on, or none.
    Entry(&'a [u8], Option<&'a [u8]>),
    /// Everything so far is committed with this.
    Checkpoint(Checkpoint),
}

/// How far a replay is.
#[derive(Debug, Clone, Copy)]
pub struct Replay {
    /// Records read.
    pub records: u64,
    /// The offset to read next.
    pub next: u64,
    /// The offset behind the last record.
    pub end: u64,
}

/// A pipeline's changelog.
#[derive(Clone)]
pub struct Changelog {
    transactions: Transactions,
    topic: String,
    incarnation: String,
    partitions: u32,
    retention: Duration,
}

impl Changelog {
    /// The name of a pipeline's changelog.
    #[must_use]
    pub fn topic_of(pipeline: &str) -> String {
        format!("{pipeline}-changelog")
    }

    /// Opens a pipeline's changelog, and makes the topic where there is none.
    ///
    /// # Errors
    /// Fatal where the topic is there and would lose what is in it, or may not be made.
    pub async fn open(
        transactions: &Transactions,
        pipeline: &str,
        partitions: u32,
    ) -> Result<Self, ConnectorError> {
        let topic = Self::topic_of(pipeline);
        let (brokers, name) = (transactions.brokers().to_owned(), topic.clone());
        let look = move |facts: &Facts<'_>| look(facts, &brokers, &name, partitions);
        let asked = (&transactions.asking(), transactions.brokers());
        let (incarnation, retention) =
            own_topic::find_or_make(asked, &topic, partitions, &SETTINGS, look).await?;
        Ok(Self { transactions: transactions.clone(), topic, incarnation, partitions, retention })
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Adds what an epoch changes of a partition's state to the transaction that is open, and the checkpoint
    /// behind it.
    ///
    /// # Errors
    /// As [`crate::Sink::write`].
    pub async fn write(
        &self,
        partition: u32,
        changes: &[&Change],
        checkpoint: &Checkpoint,
    ) -> Result<(), ConnectorError> {
        let to = (self.topic.as_str(), number(partition));
        let mut key = Vec::new();
        for change in changes {
            key.clear();
            key.push(ENTRY);
            key.extend_from_slice(&change.key);
            self.transactions.put(to, &key, change.value.as_deref()).await?;
        }
        let stored = Stored { format: FORMAT, checkpoint: checkpoint.clone() };
        let json = serde_json::to_vec(&stored)
            .map_err(|e| ConnectorError::Fatal(format!("a checkpoint can't be written: {e}")))?;
        self.transactions.put(to, CHECKPOINT, Some(&json)).await
    }

    /// Up to where a partition's store has followed that has the last epoch that was written; behind its commit.
    #[must_use]
    pub fn followed(&self, partition: u32) -> Option<Followed> {
        let last = *self.transactions.put_up_to().get(&number(partition))?;
        Some(self.followed_to(last + 1))
    }

    /// The note of a store that has followed up to an offset just now.
    #[must_use]
    pub fn followed_to(&self, next: u64) -> Followed {
        Followed { incarnation: self.incarnation.clone(), next, at_ms: now_ms() }
    }

    /// Whether a store that has followed this far needs no more than the rest; else what it has can't be told
    /// apart from what was deleted since, or is of another topic.
    #[must_use]
    pub fn has_the_rest(&self, followed: &Followed) -> bool {
        let age = Duration::from_millis(now_ms().saturating_sub(followed.at_ms));
        is_same_topic(&followed.incarnation, &self.incarnation)
            && age < self.retention.mul_f64(RETENTION_SHARE)
    }

    /// Replays what is committed of a partition from an offset on, to the end; answers how far that was. Blocks.
    ///
    /// # Errors
    /// Disconnected where nothing comes; fatal where a record can't be understood, or `each` fails.
    pub fn replay(
        &self,
        partition: u32,
        from: u64,
        mut each: impl FnMut(Replayed<'_>, &Replay) -> Result<(), ConnectorError>,
    ) -> Result<Replay, ConnectorError> {
        let brokers = self.transactions.brokers();
        let away = |cause: String| ConnectorError::Disconnected {
            what: format!("cannot read topic {} at {brokers}", self.topic),
            cause,
        };
        let mut settings = self.transactions.asking();
        // A group must be named; nobody joins it.
        settings
            .set("group.id", format!("{}-reading", self.topic))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "2")
            // The end is told by an answer without records.
            .set("fetch.wait.max.ms", "10");
        let consumer: BaseConsumer = settings.create(DefaultConsumerContext)?;
        let (_, end) =
            consumer.fetch_watermarks(&self.topic, number(partition), ASK_MAX).map_err(|e| away(why(&e)))?;
        let end = u64::try_from(end).unwrap_or(0);
        let mut replay = Replay { records: 0, next: from, end };
        if from >= end {
            return Ok(replay);
        }
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        list.add_partition_offset(&self.topic, number(partition), offset).map_err(|e| away(why(&e)))?;
        consumer.assign(&list).map_err(|e| away(why(&e)))?;
        let mut heard = std::time::Instant::now();
        let read = loop {
            match consumer.poll(POLL) {
                None if heard.elapsed() > SILENCE_MAX => return Err(away("nothing comes".to_owned())),
                None => {}
                Some(Ok(message)) => {
                    heard = std::time::Instant::now();
                    replay.next = u64::try_from(message.offset()).unwrap_or(0) + 1;
                    replay.records += 1;
                    let Some(said) = self.said(message.key().unwrap_or_default(), message.payload())? else {
                        continue;
                    };
                    each(said, &replay)?;
                }
                // The end as of now: what was there at the beginning is read.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    replay.next = replay.next.max(end);
                    break replay;
                }
                Some(Err(error)) => {
                    tracing::debug!(cause = %why(&error), "librdkafka tells an error");
                }
            }
        };
        end_aside(consumer);
        Ok(read)
    }

    fn said<'a>(
        &self,
        key: &'a [u8],
        value: Option<&'a [u8]>,
    ) -> Result<Option<Replayed<'a>>, ConnectorError> {
        let wrong = |cause: String| {
            ConnectorError::Fatal(format!(
                "topic {} has a record that is not wasmill's ({cause}): is it another's? Rename the pipeline, or run `wasmill reset`",
                self.topic
            ))
        };
        match key.split_first() {
            Some((&ENTRY, key)) => Ok(Some(Replayed::Entry(key, value))),
            _ if key == CHECKPOINT => {
                let Some(json) = value else { return Ok(None) };
                let stored: Stored = serde_json::from_slice(json).map_err(|e| wrong(e.to_string()))?;
                if stored.format != FORMAT {
                    return Err(ConnectorError::Fatal(format!(
                        "topic {} holds state of format {}; this wasmill reads format {FORMAT}: use the wasmill that wrote it, or `wasmill reset`",
                        self.topic, stored.format
                    )));
                }
                Ok(Some(Replayed::Checkpoint(stored.checkpoint)))
            }
            _ => Err(wrong(format!("its key is {}", String::from_utf8_lossy(key).escape_debug()))),
        }
    }
}

/// Which topic it is, and how long what is deleted is remembered in it.
fn look(
    facts: &Facts<'_>,
    brokers: &str,
    name: &str,
    partitions: u32,
) -> Result<(String, Duration), ConnectorError> {
    let found = facts.topic(brokers, name)?;
    if found.numbers.len() != partitions as usize {
        return Err(ConnectorError::Fatal(format!(
            "topic {name} at {brokers} has {} partitions, and this pipeline's changelog has {partitions}: is it another's? Rename the pipeline, or delete the topic",
            found.numbers.len()
        )));
    }
    let policy = facts.setting(brokers, name, "cleanup.policy")?;
    if policy.as_deref().is_some_and(|policy| policy != "compact") {
        return Err(ConnectorError::Fatal(format!(
            "topic {name} at {brokers} has cleanup.policy={}, which deletes state: set it to compact",
            policy.unwrap_or_default()
        )));
    }
    let ms = facts.setting(brokers, name, "delete.retention.ms")?;
    let ms = ms.and_then(|ms| ms.parse().ok()).unwrap_or(86_400_000);
    Ok((found.incarnation, Duration::from_millis(ms)))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_store_has_followed_is_read_as_it_was_written() {
        let followed =
            Followed { incarnation: "a-changelog#xY".to_owned(), next: 17, at_ms: 1_700_000_000_000 };
        assert_eq!(followed.to_string().parse(), Ok(followed));
        for other in ["", "a", "a@1", "a@1@b", "@1@2"] {
            assert_eq!(other.parse::<Followed>(), Err(()), "{other}");
        }
    }
}
