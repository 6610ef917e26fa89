//! What the processes of a pipeline agree on: a topic that wasmill makes, `NAME-plugins`. Its first partition has the
//! notes, its second one files in pieces.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ASK_MAX, Facts, end_aside, lock, not_there, why};
use super::settings::Settings;
use super::{admin, own_topic, source};
use crate::ledger::PIECE_BYTES;
use crate::{ConnectorError, Ledger, Notes, os, random_token};

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
    /// The last note that was read: its offset and its key.
    last: Option<(i64, Vec<u8>)>,
    /// Whether what was read of the notes isn't there any more, and nobody was told yet.
    has_lost: bool,
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
            last: self.last.clone(),
            has_lost: self.has_lost,
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
        Ok(Self {
            settings,
            brokers: spec.brokers.clone(),
            topic,
            consumer: None,
            seen: None,
            last: None,
            has_lost: false,
        })
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
            .set("enable.partition.eof", "true")
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

    /// The offset behind a partition's last record.
    fn end(&self, consumer: &Reading, partition: i32) -> Result<i64, ConnectorError> {
        let ends = consumer.fetch_watermarks(&self.topic, partition, ASK_MAX);
        ends.map(|(_, end)| end).map_err(|e| self.away("read", why(&e)))
    }

    /// Reads a partition from an offset to its end.
    fn read_partition(
        &self,
        consumer: &Reading,
        partition: i32,
        from: i64,
        mut each: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), ConnectorError> {
        let away = |cause| self.away("read", cause);
        if from >= self.end(consumer, partition)? {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(from)).map_err(|e| away(why(&e)))?;
        consumer.assign(&list).map_err(|e| away(why(&e)))?;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(POLL) {
                None if heard.elapsed() > SILENCE_MAX => return Err(away("nothing comes".to_owned())),
                None => {}
                Some(Ok(record)) => {
                    heard = Instant::now();
                    each(&record);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => tracing::debug!(cause = %why(&error), "librdkafka tells an error"),
            }
        }
        // Nothing is fetched until it is asked for again.
        consumer.unassign().map_err(|e| away(why(&e)))
    }

    /// The notes behind the last one that was read; that one must be there still.
    fn new_notes(&mut self, consumer: &Reading) -> Result<Vec<Vec<u8>>, ConnectorError> {
        let end = self.end(consumer, NOTES)?;
        if self.last.as_ref().is_some_and(|(offset, _)| offset + 1 == end) {
            return Ok(Vec::new());
        }
        let before = self.last.clone();
        let from = before.as_ref().map_or(0, |(offset, _)| *offset);
        let mut records: Vec<(i64, Vec<u8>, Vec<u8>)> = Vec::new();
        self.read_partition(consumer, NOTES, from, |record| {
            let [key, note] = [record.key(), record.payload()].map(|b| b.unwrap_or_default().to_vec());
            records.push((record.offset(), key, note));
        })?;
        if let Some((offset, key)) = before {
            let is_there = records.first().is_some_and(|first| first.0 == offset && first.1 == key);
            if !is_there {
                (self.last, self.has_lost) = (None, true);
                return self.new_notes(consumer);
            }
            records.remove(0);
        }
        if let Some((offset, key, _)) = records.last() {
            self.last = Some((*offset, key.clone()));
        }
        Ok(records.into_iter().map(|(_, _, note)| note).collect())
    }

    /// Works with what reads the topic, if there is one, off the threads that must not block.
    async fn reading<T: Send + Default + 'static>(
        &mut self,
        work: impl FnOnce(&mut Self, &Reading) -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let mut ledger = self.clone();
        ledger.consumer = self.consumer.take();
        let (ledger, done) = os::blocking(move || {
            let consumer = ledger.consumer.take().map_or_else(|| ledger.reader(), Ok)?;
            let look_and_work = || {
                let seen = ledger.look(&consumer)?;
                if seen != ledger.seen {
                    // It is another topic by now, that has other notes.
                    ledger.has_lost |= ledger.last.take().is_some();
                    ledger.seen = seen;
                }
                if ledger.seen.is_some() { work(&mut ledger, &consumer) } else { Ok(T::default()) }
            };
            match look_and_work() {
                Ok(done) => {
                    ledger.consumer = Some(consumer);
                    Ok((ledger, done))
                }
                // Whatever it was: the next one begins anew.
                Err(error) => {
                    end_aside(consumer);
                    Err(error)
                }
            }
        })
        .await?;
        *self = ledger;
        Ok(done)
    }

    /// The pieces of files that are there: which file, which piece of how many.
    fn pieces(
        &self,
        consumer: &Reading,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<Piece, Vec<u8>>, ConnectorError> {
        let mut pieces = BTreeMap::new();
        self.read_partition(consumer, FILES, 0, |record| {
            let piece = record.key().and_then(Piece::parse).filter(|piece| is_wanted(&piece.file));
            let Some(key) = piece else { return };
            match record.payload() {
                Some(piece) => drop(pieces.insert(key, piece.to_vec())),
                None => drop(pieces.remove(&key)),
            }
        })?;
        Ok(pieces)
    }

    /// That records are not taken: for good, where the brokers would say the same again.
    fn not_taken(&self, error: &KafkaError) -> ConnectorError {
        use RDKafkaErrorCode as Code;
        let help = match error.rdkafka_error_code() {
            Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
                "allow this user to write to it"
            }
            Some(Code::MessageSizeTooLarge | Code::InvalidRecord) => {
                "let the topic's `max.message.bytes` be above 600,000"
            }
            Some(Code::PolicyViolation) => "the brokers' policy is against it",
            _ => return self.away("write to", why(error)),
        };
        ConnectorError::Fatal(format!(
            "cannot write to topic {} at {}: {}; {help}",
            self.topic,
            self.brokers,
            why(error)
        ))
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
                producer.send(record).map_err(|(e, _)| ledger.not_taken(&e))?;
            }
            let flushed = producer.flush(TAKEN_MAX + ASK_MAX).map_err(|e| told(why(&e)));
            let failed = lock(&failed).take();
            end_aside(producer);
            flushed?;
            failed.map_or(Ok(()), |error| Err(ledger.not_taken(&error)))
        })
        .await
    }
}

/// Notes why a record was not taken.
struct Taken(Arc<Mutex<Option<KafkaError>>>);

impl ClientContext for Taken {}

impl ProducerContext for Taken {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            *lock(&self.0) = Some(error.clone());
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
    async fn read(&mut self) -> Result<Notes, ConnectorError> {
        let notes = self.reading(Self::new_notes).await?;
        Ok(Notes { is_anew: std::mem::take(&mut self.has_lost), notes })
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
