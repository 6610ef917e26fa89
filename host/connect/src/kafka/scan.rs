//! A topic looked through to its end, outside of any group; letters put into one, in transactions.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_engine::position::PartitionId;

use super::client::{ASK_MAX, DEFAULTS, ask_topic, end_aside, why};
use super::group::number;
use super::properties::{Property, Side, config, is_common};
use super::security::KafkaSecurity;
use super::settings::Settings;
use super::sink::KafkaSinkSpec;
use super::source::KafkaSourceSpec;
use super::transaction::Transactions;
use crate::scan::{Copier, Copies, Part, SCAN_BYTES_MAX, SCAN_RECORDS_MAX, Scan, Scanned};
use crate::{ConnectorError, Sink, os};

/// The group that a scan names, for librdkafka wants one; nothing is committed for it, and nobody joins it.
const NO_GROUP: &str = "wasmill-dlq";
/// Without a record for so long, the brokers count as away.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long one look for more waits.
const LOOK: Duration = Duration::from_millis(200);
/// How long a scan waits for more before it hands on what it has.
const GATHER: Duration = Duration::from_millis(5);

/// What a reader is set to that reads to the end and leaves no trace.
const READER: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "earliest"),
    ("isolation.level", "read_committed"),
    ("enable.partition.eof", "true"),
    ("queued.max.messages.kbytes", "8192"),
    ("fetch.wait.max.ms", "50"),
];

fn reader_config(
    brokers: &str,
    group: &str,
    properties: &BTreeMap<String, Property>,
    security: Option<&KafkaSecurity>,
) -> Result<Settings, ConnectorError> {
    // Of a sink's settings, those that a reader has as well.
    let properties = properties.iter().filter(|(name, _)| is_common(name));
    let properties = properties.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut defaults = [DEFAULTS, READER].concat();
    defaults.extend([("bootstrap.servers", brokers), ("group.id", group)]);
    config(Side::Consumer, &defaults, &properties, security, &[])
}

fn away(brokers: &str, topic: &str, cause: String) -> ConnectorError {
    ConnectorError::Disconnected { what: format!("cannot read topic {topic} at {brokers}"), cause }
}

/// Reads what is committed in a topic, up to where it ended when it was opened.
pub struct KafkaScan {
    brokers: String,
    topic: String,
    parts: Vec<Part>,
    reading: Option<Reading>,
    found: VecDeque<RawBatch>,
}

struct Reading {
    consumer: BaseConsumer,
    /// The partitions that are not at their end yet, with that.
    left: BTreeMap<i32, i64>,
    heard: Instant,
}

impl KafkaScan {
    /// Looks at the topic that a sink writes.
    ///
    /// # Errors
    /// Disconnected where the brokers are away or the topic is missing; fatal where it may not be read.
    pub async fn of_sink(spec: &KafkaSinkSpec) -> Result<Self, ConnectorError> {
        let config = reader_config(&spec.brokers, NO_GROUP, &spec.properties, spec.security.as_ref())?;
        Self::open(config, spec.brokers.clone(), spec.topic.clone()).await
    }

    /// Looks at the topic that a source reads.
    ///
    /// # Errors
    /// As of [`KafkaScan::of_sink`].
    pub async fn of_source(spec: &KafkaSourceSpec) -> Result<Self, ConnectorError> {
        let config = reader_config(&spec.brokers, NO_GROUP, &spec.properties, spec.security.as_ref())?;
        Self::open(config, spec.brokers.clone(), spec.topic.clone()).await
    }

    async fn open(config: Settings, brokers: String, topic: String) -> Result<Self, ConnectorError> {
        os::blocking(move || {
            let facts = ask_topic(&config, &brokers, &topic)?;
            let consumer: BaseConsumer = config.create(DefaultConsumerContext)?;
            let (mut parts, mut left) = (Vec::new(), BTreeMap::new());
            let mut from = TopicPartitionList::new();
            for n in facts.numbers {
                let (begin, end) = consumer
                    .fetch_watermarks(&topic, number(n), ASK_MAX)
                    .map_err(|e| away(&brokers, &topic, why(&e)))?;
                parts.push(Part {
                    number: n,
                    name: format!("{topic}[{n}]"),
                    incarnation: Some(facts.incarnation.clone()),
                    begin: u64::try_from(begin).unwrap_or(0),
                    end: u64::try_from(end).ok(),
                });
                if begin < end {
                    left.insert(number(n), end);
                    // It fails for offsets below zero alone, which no partition has.
                    let _ = from.add_partition_offset(&topic, number(n), Offset::Offset(begin));
                }
            }
            consumer.assign(&from).map_err(|e| away(&brokers, &topic, why(&e)))?;
            let reading = Some(Reading { consumer, left, heard: Instant::now() });
            Ok(Self { brokers, topic, parts, reading, found: VecDeque::new() })
        })
        .await
    }
}

impl Reading {
    /// Some more records, by partition; none at the end.
    fn step(&mut self, brokers: &str, topic: &str) -> Result<BTreeMap<i32, RawBatch>, ConnectorError> {
        let mut found: BTreeMap<i32, RawBatch> = BTreeMap::new();
        let (mut records, mut bytes) = (0, 0);
        while !self.left.is_empty() && records < SCAN_RECORDS_MAX && bytes < SCAN_BYTES_MAX {
            match self.consumer.poll(if records > 0 { GATHER } else { LOOK }) {
                None if records > 0 => break,
                None if self.heard.elapsed() > SILENCE_MAX => {
                    let cause = format!("nothing came for {} s", SILENCE_MAX.as_secs());
                    return Err(away(brokers, topic, cause));
                }
                None => {}
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.heard = Instant::now();
                    self.left.remove(&partition);
                }
                Some(Err(e)) if self.heard.elapsed() > SILENCE_MAX || is_final(&e) => {
                    return Err(away(brokers, topic, why(&e)));
                }
                // The client tries again by itself.
                Some(Err(_)) => {}
                Some(Ok(message)) => {
                    self.heard = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    // What came since the scan began is not of it.
                    let Some(end) = self.left.get(&partition).copied() else { continue };
                    if offset + 1 >= end {
                        self.left.remove(&partition);
                    }
                    if offset < end {
                        records += 1;
                        bytes += put(&mut found, &message);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Whether asking again won't help.
fn is_final(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::UnknownTopicOrPartition)
    )
}

/// Puts a record to its partition's; answers how long it is.
fn put(found: &mut BTreeMap<i32, RawBatch>, message: &impl Message) -> usize {
    let partition = message.partition();
    let batch = found.entry(partition).or_insert_with(|| {
        RawBatch::new(PartitionId { source: 0, partition: u32::try_from(partition).unwrap_or(0) })
    });
    let before = batch.data.len();
    let mut copy = |bytes: &[u8]| {
        let start = batch.data.len();
        batch.data.extend_from_slice(bytes);
        start..batch.data.len()
    };
    let offset = u64::try_from(message.offset()).unwrap_or(0);
    let (time_ms, appended_ms) = match message.timestamp() {
        Timestamp::LogAppendTime(ms) => (Some(ms), Some(ms)),
        Timestamp::CreateTime(ms) => (Some(ms), None),
        Timestamp::NotAvailable => (None, None),
    };
    let record = RawRecord {
        offset,
        next: offset + 1,
        value: copy(message.payload().unwrap_or_default()),
        tombstone: message.payload().is_none(),
        key: message.key().map(copy),
        time_ms,
        appended_ms,
        ..RawRecord::default()
    };
    batch.next = record.next;
    batch.records.push(record);
    batch.data.len() - before
}

#[async_trait]
impl Scan for KafkaScan {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    async fn next(&mut self) -> Result<Option<Scanned>, ConnectorError> {
        if self.found.is_empty()
            && let Some(mut reading) = self.reading.take()
        {
            let (brokers, topic) = (self.brokers.clone(), self.topic.clone());
            let (reading, found) = os::blocking(move || {
                let found = reading.step(&brokers, &topic);
                Ok((reading, found))
            })
            .await?;
            self.found.extend(found?.into_values());
            match self.found.is_empty() {
                true => end_aside(reading),
                false => self.reading = Some(reading),
            }
        }
        Ok(self.found.pop_front().map(Scanned::Records))
    }

    fn forgets(&self) -> bool {
        self.parts.iter().any(|part| part.begin > 0)
    }
}

impl Drop for KafkaScan {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.take() {
            end_aside(reading);
        }
    }
}

/// How far a source's group is, in each partition; none where it has committed nothing.
///
/// # Errors
/// Disconnected where the brokers are away or the topic is missing; fatal where this user may not know.
pub async fn committed(spec: &KafkaSourceSpec) -> Result<Vec<(u32, Option<u64>)>, ConnectorError> {
    let config = reader_config(&spec.brokers, &spec.group, &spec.properties, spec.security.as_ref())?;
    let KafkaSourceSpec { brokers, topic, group, .. } = spec.clone();
    os::blocking(move || {
        let mut asked = TopicPartitionList::new();
        for n in ask_topic(&config, &brokers, &topic)?.numbers {
            asked.add_partition(&topic, number(n));
        }
        let away = |cause: String| ConnectorError::Disconnected {
            what: format!("cannot ask how far group {group} is in topic {topic} at {brokers}"),
            cause,
        };
        let consumer: BaseConsumer = config.create(DefaultConsumerContext)?;
        let told = consumer.committed_offsets(asked, ASK_MAX * 2).map_err(|e| away(why(&e)))?;
        end_aside(consumer);
        let mut committed = Vec::new();
        for element in told.elements() {
            element.error().map_err(|e| away(why(&e)))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            };
            committed.push((u32::try_from(element.partition()).unwrap_or(0), offset));
        }
        Ok(committed)
    })
    .await
}

/// Puts letters into the topic that a source reads, each batch in a transaction: who does so later under the same
/// name fences the one before out.
pub struct KafkaCopier {
    source: KafkaSourceSpec,
    transactions: Transactions,
    sink: Box<dyn Sink>,
}

impl KafkaCopier {
    /// Begins to write; `name` is the transactional id.
    ///
    /// # Errors
    /// Disconnected where the brokers are away or the topic is missing; fatal where this user may not.
    pub async fn open(spec: &KafkaSourceSpec, name: &str) -> Result<Self, ConnectorError> {
        let mut to = KafkaSinkSpec::new(&spec.brokers, &spec.topic);
        let common = spec.properties.iter().filter(|(name, _)| is_common(name));
        to.properties = common.map(|(name, value)| (name.clone(), value.clone())).collect();
        let transactions = Transactions::new(&to, name)?;
        let sink = transactions.sink(&to)?;
        transactions.init().await.map_err(fenced)?;
        Ok(Self { source: spec.clone(), transactions, sink })
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        self.transactions.begin().await?;
        self.sink.write(batch).await?;
        self.transactions.flush().await?;
        if let Some(refused) = self.sink.refused().into_iter().next() {
            return Err(ConnectorError::Fatal(refused.reason));
        }
        self.transactions.commit().await
    }
}

/// Words for what happens to who was fenced out, as it is meant here.
fn fenced(error: ConnectorError) -> ConnectorError {
    match error {
        ConnectorError::Fenced(_) => ConnectorError::Fatal(
            "another `wasmill dlq replay` of this pipeline has begun since: what this one has copied counts, and that one goes on".to_owned(),
        ),
        ConnectorError::Aborted(cause) | ConnectorError::Outdated(cause) => ConnectorError::Fatal(format!(
            "{cause}; run the same command again: what is copied is not copied twice"
        )),
        other => other,
    }
}

#[async_trait]
impl Copier for KafkaCopier {
    async fn scan(&mut self) -> Result<Box<dyn Scan>, ConnectorError> {
        Ok(Box::new(KafkaScan::of_source(&self.source).await?))
    }

    async fn append(&mut self, copies: Copies) -> Result<(), ConnectorError> {
        let Copies { data, records } = copies;
        let records = records
            .into_iter()
            .map(|record| EncodedRecord {
                value: record.value,
                tombstone: false,
                headers: Vec::new(),
                key: record.key,
                id: None,
                timestamp: None,
                origin: None,
            })
            .collect();
        let done = self.write(&EncodedBatch { data, records }).await;
        if done.is_err() {
            // Where this fails too, the next one of its name ends it.
            let _ = self.transactions.abort().await;
        }
        done.map_err(fenced)
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.transactions.close().await
    }
}
