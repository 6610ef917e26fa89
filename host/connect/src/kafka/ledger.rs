//! What the processes of a pipeline agree on: a topic that wasmill makes, `NAME-plugins`. Its first partition has the
//! notes, its second one files in pieces.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ASK_MAX, Facts, end_aside, lock, not_there, why};
use super::settings::Settings;
use super::{admin, own_topic, source};
use crate::ledger::PIECE_BYTES;
use crate::{ConnectorError, Ledger, os};

/// The partition of the notes.
const NOTES: i32 = 0;
/// The partition of the files.
const FILES: i32 = 1;
/// How the topic is made: nothing is ever removed from it.
const SETTINGS: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
/// How long nothing may come while there is more.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long one look for a record waits.
const POLL: Duration = Duration::from_millis(100);
/// How long the brokers may take to take records.
const TAKEN_MAX: Duration = Duration::from_secs(15);

type Reading = BaseConsumer<DefaultConsumerContext>;

/// A ledger in a topic.
pub(super) struct KafkaLedger {
    settings: Settings,
    brokers: String,
    topic: String,
    /// What reads it.
    consumer: Option<Reading>,
    /// Whether the topic is known to be there.
    is_there: bool,
    /// The offset of the next note.
    next: i64,
}

impl Clone for KafkaLedger {
    /// What reads is not shared.
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            brokers: self.brokers.clone(),
            topic: self.topic.clone(),
            consumer: None,
            is_there: self.is_there,
            next: self.next,
        }
    }
}

impl Drop for KafkaLedger {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            end_aside(consumer);
        }
    }
}

impl KafkaLedger {
    pub fn new(spec: &source::KafkaSourceSpec, pipeline: &str) -> Result<Self, ConnectorError> {
        let settings = source::KafkaSource::new(spec.clone())?.asking();
        let topic = format!("{pipeline}-plugins");
        Ok(Self { settings, brokers: spec.brokers.clone(), topic, consumer: None, is_there: false, next: 0 })
    }

    fn away(&self, what: &str, cause: String) -> ConnectorError {
        ConnectorError::Disconnected {
            what: format!("cannot {what} topic {} at {}", self.topic, self.brokers),
            cause,
        }
    }

    async fn make(&self) -> Result<(), ConnectorError> {
        let (brokers, topic) = (self.brokers.clone(), self.topic.clone());
        let look = move |facts: &Facts<'_>| facts.topic(&brokers, &topic);
        let asked = (&self.settings, self.brokers.as_str());
        let found = own_topic::find_or_make(asked, &self.topic, 2, &SETTINGS, look).await?;
        if found.numbers.len() < 2 {
            return Err(ConnectorError::Fatal(format!(
                "topic {} at {} has one partition, and what a pipeline's processes agree on needs 2: is it another's? Rename the pipeline, or delete the topic",
                self.topic, self.brokers
            )));
        }
        Ok(())
    }

    fn reader(&self) -> Result<Reading, ConnectorError> {
        let mut settings = self.settings.clone();
        settings
            // A group must be named; nobody joins it.
            .set("group.id", format!("{}-reading", self.topic))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "10");
        settings.create(DefaultConsumerContext)
    }

    /// Whether the topic is there: nothing is agreed on as long as it isn't.
    fn is_there(&self, consumer: &Reading) -> Result<bool, ConnectorError> {
        match admin::topic_id(consumer.client(), &self.topic, ASK_MAX) {
            Ok(_) => Ok(true),
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(false),
            Err(code) => Err(not_there(code, &self.brokers, &self.topic)),
        }
    }

    /// Reads a partition from an offset to its end; answers that.
    fn read_partition(
        &self,
        consumer: &Reading,
        partition: i32,
        from: i64,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<i64, ConnectorError> {
        let away = |cause| self.away("read", cause);
        let ends = consumer.fetch_watermarks(&self.topic, partition, ASK_MAX);
        let (_, end) = ends.map_err(|e| away(why(&e)))?;
        // One that was made anew is read from its start.
        let mut next = if from > end { 0 } else { from };
        if next == end {
            return Ok(end);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(next)).map_err(|e| away(why(&e)))?;
        consumer.assign(&list).map_err(|e| away(why(&e)))?;
        let mut heard = Instant::now();
        while next < end {
            match consumer.poll(POLL) {
                None if heard.elapsed() > SILENCE_MAX => return Err(away("nothing comes".to_owned())),
                None => {}
                Some(Ok(record)) => {
                    heard = Instant::now();
                    next = record.offset() + 1;
                    each(record.key().unwrap_or_default(), record.payload().unwrap_or_default());
                }
                Some(Err(error)) => tracing::debug!(cause = %why(&error), "librdkafka tells an error"),
            }
        }
        // Nothing is fetched until it is asked for again.
        consumer.unassign().map_err(|e| away(why(&e)))?;
        Ok(next)
    }

    /// Works with what reads the topic, if there is one, off the threads that must not block.
    async fn reading<T: Send + Default + 'static>(
        &mut self,
        work: impl FnOnce(&Self, &Reading) -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let mut ledger = self.clone();
        ledger.consumer = self.consumer.take();
        let (consumer, is_there, done) = os::blocking(move || {
            let consumer = ledger.consumer.take().map_or_else(|| ledger.reader(), Ok)?;
            let done = match ledger.is_there || ledger.is_there(&consumer)? {
                false => Ok(None),
                true => work(&ledger, &consumer).map(Some),
            };
            match done {
                Ok(done) => Ok((consumer, done.is_some(), done.unwrap_or_default())),
                // Whatever it was: the next one begins anew.
                Err(error) => {
                    end_aside(consumer);
                    Err(error)
                }
            }
        })
        .await
        .inspect_err(|_| self.is_there = false)?;
        (self.consumer, self.is_there) = (Some(consumer), is_there);
        Ok(done)
    }

    /// Writes records and waits until the brokers have them.
    async fn write(&self, partition: i32, records: Vec<(String, Vec<u8>)>) -> Result<(), ConnectorError> {
        let mut settings = self.settings.clone();
        settings
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", TAKEN_MAX.as_millis().to_string());
        let ledger = self.clone();
        os::blocking(move || {
            let failed = Arc::new(Mutex::new(None));
            let producer: ThreadedProducer<Taken> = settings.create(Taken(Arc::clone(&failed)))?;
            let told = |cause| ledger.away("write to", cause);
            for (key, value) in &records {
                let record = BaseRecord::to(&ledger.topic).partition(partition).key(key).payload(value);
                producer.send(record).map_err(|(e, _)| told(why(&e)))?;
            }
            let flushed = producer.flush(TAKEN_MAX + ASK_MAX).map_err(|e| told(why(&e)));
            let failed = lock(&failed).take();
            end_aside(producer);
            flushed?;
            failed.map_or(Ok(()), |cause| Err(told(cause)))
        })
        .await
    }
}

/// Notes why a record was not taken.
struct Taken(Arc<Mutex<Option<String>>>);

impl ClientContext for Taken {}

impl ProducerContext for Taken {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            *lock(&self.0) = Some(why(error));
        }
    }
}

#[async_trait]
impl Ledger for KafkaLedger {
    async fn read(&mut self) -> Result<Vec<Vec<u8>>, ConnectorError> {
        let read = self.reading(|ledger, consumer| {
            let mut notes = Vec::new();
            let next =
                ledger.read_partition(consumer, NOTES, ledger.next, |_, note| notes.push(note.to_vec()))?;
            Ok(Some((notes, next)))
        });
        let Some((notes, next)) = read.await? else { return Ok(Vec::new()) };
        self.next = next;
        Ok(notes)
    }

    async fn add(&mut self, note: &[u8]) -> Result<(), ConnectorError> {
        self.make().await?;
        self.write(NOTES, vec![(String::new(), note.to_vec())]).await
    }

    async fn keep(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConnectorError> {
        self.make().await?;
        let pieces: Vec<&[u8]> = bytes.chunks(PIECE_BYTES).collect();
        let records = pieces.iter().enumerate();
        let records = records.map(|(n, piece)| (format!("{name} {n} {}", pieces.len()), piece.to_vec()));
        self.write(FILES, records.collect()).await
    }

    async fn fetch(&mut self, name: &str) -> Result<Option<Vec<u8>>, ConnectorError> {
        let name = name.to_owned();
        self.reading(move |ledger, consumer| {
            let mut file = None;
            let mut pieces: Vec<Vec<u8>> = Vec::new();
            ledger.read_partition(consumer, FILES, 0, |key, piece| {
                let key = String::from_utf8_lossy(key);
                let mut words = key.split(' ');
                if words.next() != Some(&name) {
                    return;
                }
                let mut number = || words.next().and_then(|n| n.parse::<usize>().ok());
                let (Some(n), Some(count)) = (number(), number()) else { return };
                if n == 0 {
                    pieces.clear();
                }
                // Where two processes keep the same, their pieces may stand between each other: both are whole.
                if n == pieces.len() {
                    pieces.push(piece.to_vec());
                }
                if pieces.len() == count {
                    file = Some(std::mem::take(&mut pieces).concat());
                }
            })?;
            Ok(file)
        })
        .await
    }
}
