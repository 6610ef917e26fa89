//! Writes to a topic, with an idempotent producer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder};

use super::client::{DEFAULTS, LastError, ask, ask_topic, lock, log, missing, record_bytes_max, why};
use super::encoder::{KafkaEncoder, KeyFrom};
use super::properties::{Property, Side, config};
use super::security::KafkaSecurity;
use super::settings::Settings;
use crate::table::SinkConnector;
use crate::{ConnectorError, Refused, Sink, SinkTraits, codec, os};

/// How long nothing may be acknowledged before the brokers count as away.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long to wait before a full queue is tried again: the brokers take a part of it in that time.
pub(super) const FULL_WAIT: Duration = Duration::from_millis(1);
/// After how many records other tasks get their turn.
pub(super) const YIELD_EVERY: usize = 1000;
/// librdkafka's own `batch.size`.
pub(super) const BATCH_BYTES: u64 = 1_000_000;

/// A topic of Apache Kafka: a record a message, whose value is the JSON envelope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkSpec {
    /// Where to begin to look for the cluster: `host:port`, several with commas between.
    pub brokers: String,
    /// The topic. It must exist.
    pub topic: String,
    /// What a record's key is, which decides its partition as Java's clients do. Default: message.
    #[serde(default)]
    pub key: KeyFrom,
    /// TLS, and who this client is to the brokers. Default: a plain connection of nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<KafkaSecurity>,
    /// More settings, by librdkafka's names, such as `compression.type: zstd`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Property>,
}

impl KafkaSinkSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            key: KeyFrom::default(),
            security: None,
            properties: BTreeMap::new(),
        }
    }

    /// Whether one transaction can hold what both write: the same cluster, with the same settings.
    #[must_use]
    pub fn shares_transactions_with(&self, other: &Self) -> bool {
        is_same_cluster(&self.brokers, &other.brokers)
            && self.security == other.security
            && self.properties == other.properties
    }
}

/// Whether two lists of brokers name the same cluster, as far as the lists can tell.
pub(super) fn is_same_cluster(one: &str, other: &str) -> bool {
    let brokers = |list: &str| {
        list.split(',').map(|b| b.trim().to_owned()).collect::<std::collections::BTreeSet<String>>()
    };
    brokers(one) == brokers(other)
}

/// What this sink is like.
const LIKE: SinkTraits = SinkTraits { transactional: false, refuses_repeats: false, by_token: false };

impl SinkConnector for KafkaSinkSpec {
    fn called(&self) -> String {
        self.topic.clone()
    }

    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(KafkaSink::new(self.clone())?))
    }

    fn in_transactions(&self) -> Option<&KafkaSinkSpec> {
        Some(self)
    }
}

const LOSES: &str = "without it records could be lost, doubled or swapped; remove it";

/// What the host decides itself, and why.
pub(super) const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set `brokers` instead"),
    ("metadata.broker.list", "set `brokers` instead"),
    ("enable.idempotence", LOSES),
    ("enable.gapless.guarantee", "a record that is refused becomes a dead letter; remove it"),
    ("acks", LOSES),
    ("request.required.acks", LOSES),
    ("message.timeout.ms", "wasmill waits for the brokers as long as it takes; remove it"),
    ("delivery.timeout.ms", "wasmill waits for the brokers as long as it takes; remove it"),
    ("retries", LOSES),
    ("message.send.max.retries", LOSES),
    (
        "transactional.id",
        "`delivery: exactly_once` sets it, from the pipeline's name and its `slot`; remove it",
    ),
    ("delivery.report.only.error", "wasmill counts what is acknowledged; remove it"),
    ("allow.auto.create.topics", "wasmill creates no topics; remove it"),
    ("statistics.interval.ms", "nobody reads the statistics of a sink; remove it"),
];

pub(super) const PRODUCER: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // Java's choice for keys; records without one go anywhere.
    ("partitioner", "murmur2_random"),
    // For ever: a record is given up by nobody but the brokers.
    ("message.timeout.ms", "0"),
    ("linger.ms", "3"),
    ("queue.buffering.max.kbytes", "8192"),
    ("queue.buffering.max.messages", "20000"),
    // The brokers' limit decides.
    ("message.max.bytes", "1000000000"),
];

/// What became of the records that were handed to librdkafka.
struct Deliveries {
    /// How many are acknowledged or given up.
    done: AtomicU64,
    /// How many a flush waits for.
    target: AtomicU64,
    reached: Notify,
    refused: Mutex<Vec<Refused>>,
    /// What the brokers didn't take though nothing is wrong with it, with its number: to be written again.
    again: Mutex<Vec<(OwnedMessage, usize)>>,
    failed: Mutex<Option<String>>,
    last_error: LastError,
    what: String,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(cause = %error, reason, "librdkafka tells an error");
        self.last_error.note(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    /// Which message it is of those that were written since the flush before.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, nth: usize) {
        if let Err((error, message)) = result {
            match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::InvalidDifferentRecord,
                ) => lock(&self.again).push((message.detach(), nth)),
                Some(code) if is_refusal(code) => {
                    let (value, key) = (message.payload().unwrap_or_default(), message.key());
                    self.refuse(code, nth, value, key);
                }
                // The producer is being dropped.
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {}
                _ => self.fail(&why(error)),
            }
        }
        let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        if done >= self.target.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }
}

impl Deliveries {
    fn refuse(&self, code: RDKafkaErrorCode, nth: usize, value: &[u8], key: Option<&[u8]>) {
        lock(&self.refused).push(refusal(&self.what, code, nth, value, key));
    }

    fn fail(&self, cause: &str) {
        let text = format!(
            "{} does not take records: {cause} ({}); mend that and run again: what is not committed is written again",
            self.what,
            self.last_error.or("no more is known")
        );
        lock(&self.failed).get_or_insert(text);
    }
}

/// What it means that a topic refuses a record for good.
pub(super) fn refusal(
    what: &str,
    code: RDKafkaErrorCode,
    nth: usize,
    value: &[u8],
    key: Option<&[u8]>,
) -> Refused {
    let size = value.len() + key.map_or(0, <[u8]>::len);
    let reason = match code {
        RDKafkaErrorCode::MessageSizeTooLarge => format!(
            "{what} takes no record of {size} bytes: raise the topic's max.message.bytes, or make the message smaller"
        ),
        RDKafkaErrorCode::InvalidTimestamp => format!(
            "{what} refuses the record's timestamp: it is too far from now for the topic's message.timestamp.before.max.ms and after.max.ms"
        ),
        _ => format!("{what} refuses the record: {code}"),
    };
    Refused { nth, value: value.to_vec(), key: key.map(<[u8]>::to_vec), reason, attempts: 1 }
}

/// Whether a record is refused for good, for what it is.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::PolicyViolation
    )
}

/// What librdkafka answered to a record.
enum Sent {
    Taken,
    Full,
}

/// An encoded record, as librdkafka takes it.
pub(super) struct Parts<'a> {
    pub value: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    pub headers: Option<OwnedHeaders>,
}

/// The parts of a record.
pub(super) fn parts<'a>(batch: &'a EncodedBatch, record: &EncodedRecord) -> Parts<'a> {
    let text = |r: &std::ops::Range<usize>| batch.data.get(r.clone()).unwrap_or_default();
    let headers = (!record.headers.is_empty()).then(|| {
        record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), |all, h| {
            let name = String::from_utf8_lossy(text(&h.name));
            all.insert(Header { key: &name, value: h.value.as_ref().map(text) })
        })
    });
    Parts {
        value: (!record.tombstone).then(|| text(&record.value)),
        key: record.key.as_ref().map(text),
        headers,
    }
}

struct Records {
    producer: ThreadedProducer<Deliveries>,
    brokers: String,
    topic: String,
    /// How many librdkafka has taken.
    produced: AtomicU64,
}

impl Records {
    fn deliveries(&self) -> &Deliveries {
        self.producer.client().context()
    }

    fn send(
        &self,
        nth: usize,
        value: Option<&[u8]>,
        key: Option<&[u8]>,
        timestamp: Option<i64>,
        headers: Option<OwnedHeaders>,
    ) -> Result<Sent, ConnectorError> {
        let record: BaseRecord<'_, [u8], [u8], usize> = BaseRecord {
            topic: &self.topic,
            partition: None,
            payload: value,
            key,
            // 0 means now to librdkafka, and Kafka has no times before 1970.
            timestamp: timestamp.filter(|t| *t > 0),
            headers,
            delivery_opaque: nth,
        };
        let Err((error, _)) = self.producer.send(record) else {
            self.produced.fetch_add(1, Ordering::SeqCst);
            return Ok(Sent::Taken);
        };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Ok(Sent::Full),
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                Err(missing(&self.brokers, &self.topic))
            }
            Some(code) if is_refusal(code) => {
                self.deliveries().refuse(code, nth, value.unwrap_or_default(), key);
                Ok(Sent::Taken)
            }
            _ => {
                let cause =
                    self.producer.client().fatal_error().map_or_else(|| why(&error), |(_, text)| text);
                self.deliveries().fail(&cause);
                self.check().and(Ok(Sent::Full))
            }
        }
    }

    fn send_encoded(
        &self,
        nth: usize,
        batch: &EncodedBatch,
        record: &EncodedRecord,
    ) -> Result<Sent, ConnectorError> {
        let Parts { value, key, headers } = parts(batch, record);
        self.send(nth, value, key, record.timestamp, headers)
    }

    fn check(&self) -> Result<(), ConnectorError> {
        match lock(&self.deliveries().failed).clone() {
            Some(text) => Err(ConnectorError::Fatal(text)),
            None => Ok(()),
        }
    }

    fn away(&self) -> ConnectorError {
        ConnectorError::Disconnected {
            what: format!("{} acknowledges nothing", self.deliveries().what),
            cause: self.deliveries().last_error.or("no answer"),
        }
    }

    /// Waits until something more is done, or until the brokers count as away.
    async fn progress(&self, done_before: u64) -> Result<(), ConnectorError> {
        let look = async {
            while self.deliveries().done.load(Ordering::SeqCst) == done_before {
                tokio::time::sleep(FULL_WAIT).await;
            }
        };
        tokio::time::timeout(SILENCE_MAX, look).await.map_err(|_| self.away())
    }

    /// Waits until everything that was handed over is done.
    async fn drain(&self) -> Result<(), ConnectorError> {
        let produced = self.produced.load(Ordering::SeqCst);
        self.deliveries().target.store(produced, Ordering::SeqCst);
        let mut before = self.deliveries().done.load(Ordering::SeqCst);
        loop {
            self.check()?;
            let now = self.deliveries().done.load(Ordering::SeqCst);
            if now >= produced {
                break;
            }
            let reached = self.deliveries().reached.notified();
            if tokio::time::timeout(SILENCE_MAX, reached).await.is_err() {
                let now = self.deliveries().done.load(Ordering::SeqCst);
                if now == std::mem::replace(&mut before, now) {
                    return Err(self.away());
                }
            }
        }
        self.deliveries().target.store(u64::MAX, Ordering::SeqCst);
        Ok(())
    }
}

/// Writes to a topic.
pub struct KafkaSink {
    spec: KafkaSinkSpec,
    settings: Settings,
    records: Option<Arc<Records>>,
    /// How many records of the batch that is being written were handed over, should the call be repeated.
    written: usize,
    /// How many records were handed over since the last flush, before this batch.
    unflushed: usize,
}

impl KafkaSink {
    /// A sink that writes to the topic that a spec names; connects to nothing.
    ///
    /// # Errors
    /// When a setting is missing, unknown or wrong.
    pub fn new(spec: KafkaSinkSpec) -> Result<Self, ConnectorError> {
        for (field, text) in [("brokers", &spec.brokers), ("topic", &spec.topic)] {
            if text.trim().is_empty() {
                return Err(ConnectorError::Fatal(format!("{field}: it is empty; set it")));
            }
        }
        let mut defaults = [DEFAULTS, PRODUCER].concat();
        defaults.push(("bootstrap.servers", spec.brokers.as_str()));
        let settings = config(Side::Producer, &defaults, &spec.properties, spec.security.as_ref(), OWNED)?;
        Ok(Self { spec, settings, records: None, written: 0, unflushed: 0 })
    }

    fn records(&self) -> Result<Arc<Records>, ConnectorError> {
        self.records.clone().ok_or_else(|| {
            ConnectorError::Fatal(format!("topic {}: written to before it was recovered", self.spec.topic))
        })
    }

    async fn start(&mut self) -> Result<(), ConnectorError> {
        let (brokers, topic) = (self.spec.brokers.clone(), self.spec.topic.clone());
        let mut settings = self.settings.clone();
        if !self.spec.properties.contains_key("batch.size") {
            // A batch above the topic's limit is refused whole, so none may be. A single record may.
            let (asked, brokers, topic) = (settings.asking(), brokers.clone(), topic.clone());
            let limit =
                os::blocking(move || ask(&asked, |facts| Ok(record_bytes_max(facts, &brokers, &topic))));
            let limit = limit.await?.unwrap_or(BATCH_BYTES);
            settings.set("batch.size", limit.clamp(1, BATCH_BYTES).to_string());
        }
        self.records = Some(Arc::new(
            os::blocking(move || {
                let deliveries = Deliveries {
                    done: AtomicU64::new(0),
                    target: AtomicU64::new(u64::MAX),
                    reached: Notify::new(),
                    refused: Mutex::default(),
                    again: Mutex::default(),
                    failed: Mutex::default(),
                    last_error: LastError::default(),
                    what: format!("topic {topic} at {brokers}"),
                };
                let producer: ThreadedProducer<Deliveries> = settings.create(deliveries)?;
                Ok(Records { producer, brokers, topic, produced: AtomicU64::new(0) })
            })
            .await?,
        ));
        Ok(())
    }

    /// Makes sure that the topic is there.
    async fn topic_exists(&self) -> Result<(), ConnectorError> {
        let asking = self.settings.asking();
        let (brokers, topic) = (self.spec.brokers.clone(), self.spec.topic.clone());
        os::blocking(move || ask_topic(&asking, &brokers, &topic).map(drop)).await
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(KafkaEncoder { codec: Arc::clone(&codec.writer), key: self.spec.key })
    }

    async fn recover(&mut self, _token: Option<&str>) -> Result<(), ConnectorError> {
        self.topic_exists().await?;
        if self.records.is_none() { self.start().await } else { Ok(()) }
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        let records = self.records()?;
        while let Some(record) = batch.records.get(self.written) {
            let done = records.deliveries().done.load(Ordering::SeqCst);
            match records.send_encoded(self.unflushed + self.written, batch, record)? {
                Sent::Taken => self.written += 1,
                Sent::Full => {
                    records.check()?;
                    records.progress(done).await?;
                }
            }
            if self.written.is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
        }
        self.unflushed += std::mem::take(&mut self.written);
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        let records = self.records()?;
        loop {
            records.drain().await?;
            if lock(&records.deliveries().again).is_empty() {
                self.unflushed = 0;
                return Ok(String::new());
            }
            self.topic_exists().await?;
            let mut again = std::mem::take(&mut *lock(&records.deliveries().again)).into_iter();
            while let Some((m, nth)) = again.next() {
                let time = m.timestamp().to_millis();
                let sent = records.send(nth, m.payload(), m.key(), time, m.headers().cloned());
                if !matches!(sent, Ok(Sent::Taken)) {
                    // The queue is full, or the topic is gone again: the rest waits for the next round.
                    let mut rest: Vec<_> = std::iter::once((m, nth)).chain(again).collect();
                    let mut waiting = lock(&records.deliveries().again);
                    rest.append(&mut waiting);
                    *waiting = rest;
                    sent?;
                    break;
                }
            }
        }
    }

    fn refused(&mut self) -> Vec<Refused> {
        self.records.as_ref().map(|r| std::mem::take(&mut *lock(&r.deliveries().refused))).unwrap_or_default()
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _in_order: bool) -> Result<(), ConnectorError> {
        let records = self.records.take();
        os::blocking(move || {
            drop(records);
            Ok(())
        })
        .await
    }
}
