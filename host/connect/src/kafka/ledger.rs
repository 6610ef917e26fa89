//! What the processes of a pipeline agree on: a topic that wasmill makes, `NAME-plugins`. Its first partition has the
//! notes, its second one files in pieces.

use std::collections::BTreeMap;
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
use crate::{ConnectorError, Ledger, os, random_token};

/// The partition of the notes.
const NOTES: i32 = 0;
/// The partition of the files.
const FILES: i32 = 1;
/// How the topic is made: a note has a key of its own, so it stays; of a piece of a file the last record stays, and
/// none where that says that it is forgotten.
const SETTINGS: [(&str, &str); 2] = [("cleanup.policy", "compact"), ("segment.ms", "86400000")];
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
    /// The topic's id, where it was last seen to be there; brokers of old give none.
    seen: Option<Option<String>>,
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
            seen: self.seen.clone(),
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
        Ok(Self { settings, brokers: spec.brokers.clone(), topic, consumer: None, seen: None, next: 0 })
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

    /// The topic's id, if it is there: nothing is agreed on as long as it isn't.
    fn look(&self, consumer: &Reading) -> Result<Option<Option<String>>, ConnectorError> {
        match admin::topic_id(consumer.client(), &self.topic, ASK_MAX) {
            Ok(id) => Ok(Some(id)),
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Err(code) => Err(not_there(code, &self.brokers, &self.topic)),
        }
    }

    /// Reads a partition from an offset to its end; answers that.
    fn read_partition(
        &self,
        consumer: &Reading,
        partition: i32,
        from: i64,
        mut each: impl FnMut(&[u8], Option<&[u8]>),
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
                    each(record.key().unwrap_or_default(), record.payload());
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
        let (consumer, seen, done) = os::blocking(move || {
            let consumer = ledger.consumer.take().map_or_else(|| ledger.reader(), Ok)?;
            let work = |ledger: &mut Self| {
                let seen = ledger.look(&consumer)?;
                if seen != ledger.seen {
                    // It is another one by now, that has other notes.
                    ledger.next = 0;
                }
                let done = if seen.is_some() { work(ledger, &consumer)? } else { T::default() };
                Ok((seen, done))
            };
            match work(&mut ledger) {
                Ok((seen, done)) => Ok((consumer, seen, done)),
                // Whatever it was: the next one begins anew.
                Err(error) => {
                    end_aside(consumer);
                    Err(error)
                }
            }
        })
        .await?;
        (self.consumer, self.seen) = (Some(consumer), seen);
        Ok(done)
    }

    /// The pieces of files that are there: which file, which piece of how many.
    fn pieces(
        &self,
        consumer: &Reading,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<Piece, Vec<u8>>, ConnectorError> {
        let mut pieces = BTreeMap::new();
        self.read_partition(consumer, FILES, 0, |key, piece| {
            let Some(key) = Piece::parse(key).filter(|piece| is_wanted(&piece.file)) else { return };
            match piece {
                Some(piece) => drop(pieces.insert(key, piece.to_vec())),
                None => drop(pieces.remove(&key)),
            }
        })?;
        Ok(pieces)
    }

    /// Writes records and waits until the brokers have them.
    async fn write(
        &self,
        partition: i32,
        records: Vec<(String, Option<Vec<u8>>)>,
    ) -> Result<(), ConnectorError> {
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
                let record = BaseRecord::to(&ledger.topic).partition(partition).key(key);
                let record = BaseRecord { payload: value.as_ref(), ..record };
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

/// A piece of a file: the key of its record.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    file: String,
    number: usize,
    count: usize,
}

impl Piece {
    fn key(&self) -> String {
        format!("{} {} {}", self.file, self.number, self.count)
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(key).ok()?.split(' ');
        let file = words.next()?.to_owned();
        Some(Self { file, number: words.next()?.parse().ok()?, count: words.next()?.parse().ok()? })
    }
}

#[async_trait]
impl Ledger for KafkaLedger {
    async fn read(&mut self) -> Result<Vec<Vec<u8>>, ConnectorError> {
        let read = self.reading(|ledger, consumer| {
            let mut notes = Vec::new();
            let next = ledger.read_partition(consumer, NOTES, ledger.next, |_, note| {
                notes.extend(note.map(<[u8]>::to_vec));
            })?;
            Ok((notes, next))
        });
        let (notes, next) = read.await?;
        self.next = next;
        Ok(notes)
    }

    async fn add(&mut self, note: &[u8]) -> Result<(), ConnectorError> {
        self.make().await?;
        self.write(NOTES, vec![(random_token(), Some(note.to_vec()))]).await
    }

    async fn keep(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConnectorError> {
        self.make().await?;
        let pieces: Vec<&[u8]> = bytes.chunks(PIECE_BYTES).collect();
        let record = |(number, bytes): (usize, &&[u8])| {
            let piece = Piece { file: name.to_owned(), number, count: pieces.len() };
            (piece.key(), Some(bytes.to_vec()))
        };
        self.write(FILES, pieces.iter().enumerate().map(record).collect()).await
    }

    async fn fetch(&mut self, name: &str) -> Result<Option<Vec<u8>>, ConnectorError> {
        let name = name.to_owned();
        self.reading(move |ledger, consumer| {
            let pieces = ledger.pieces(consumer, |file| file == name)?;
            let count = pieces.keys().next().map_or(0, |piece| piece.count);
            let is_whole = count > 0 && pieces.len() == count;
            Ok(is_whole.then(|| pieces.into_values().collect::<Vec<_>>().concat()))
        })
        .await
    }

    async fn forget(&mut self, names: &[String]) -> Result<(), ConnectorError> {
        let names = names.to_vec();
        let found = self
            .reading(move |ledger, consumer| ledger.pieces(consumer, |file| names.iter().any(|n| n == file)));
        let records: Vec<_> = found.await?.keys().map(|piece| (piece.key(), None)).collect();
        if records.is_empty() {
            return Ok(());
        }
        self.write(FILES, records).await
    }

    async fn reset(&mut self) -> Result<(), ConnectorError> {
        if self.reading(|_, _| Ok(true)).await? {
            own_topic::delete((&self.settings, &self.brokers), std::slice::from_ref(&self.topic)).await?;
        }
        Ok(())
    }
}
