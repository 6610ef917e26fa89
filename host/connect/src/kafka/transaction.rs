//! Transactions: what a pipeline writes to topics and the offsets of what it read count all at once, or not
//! at all.
//!
//! One producer, with a `transactional.id` that outlives its process: who makes one of the same id fences
//! the other out, and ends what that left open.
//!
//! **The guard.** librdkafka sends a request again by itself whose answer didn't come, as where a connection
//! broke, and then says that all went well. The first request may still be on its way. An EndTxn that comes
//! late would end the *next* transaction in its midst, and a late TxnOffsetCommit would put older offsets into
//! it, for the version of the protocol that librdkafka speaks doesn't tell transactions of one producer apart
//! (librdkafka#5423). So a producer whose log tells of a request without answer is used to the end of its
//! transaction and then replaced: the new one's epoch is higher, and what comes late is refused.

mod meaning;
mod outcomes;
mod session;
mod sink;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

use super::client::{DEFAULTS, ask, lock, missing, record_bytes_max, why};
use super::logs::LogQueue;
use super::offsets::GroupOffsets;
use super::properties::{Side, config};
use super::settings::Settings;
use super::sink::{BATCH_BYTES, FULL_WAIT, KafkaSinkSpec, OWNED, PRODUCER, SILENCE_MAX, is_refusal};
use crate::{ConnectorError, Refused, Sink, os};
use meaning::{Meaning, meaning};
use outcomes::{NTH, OWN, Outcomes, SINK_SHIFT};
use session::{Session, TOLD, settle};
use sink::TransactionalSink;

/// How long a transaction may be open, where the spec says nothing: for so long do readers wait for what a
/// process left open that doesn't come back.
const TRANSACTION_MAX_MS: &str = "15000";
/// How long a call waits before it counts as unanswered; it is made again then.
const CALL_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether a record has failed while all are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the first call of a producer waits.
const INIT_MAX: Duration = Duration::from_secs(10);

/// Transactions of one `transactional.id`.
#[derive(Clone)]
pub struct Transactions(Arc<Shared>);

struct Shared {
    settings: Settings,
    brokers: String,
    id: String,
    timeout: Duration,
    /// The topics of its sinks, in their order.
    topics: Mutex<Vec<String>>,
    session: Mutex<Option<Arc<Session>>>,
    /// Since when a transaction is open.
    opened: Mutex<Option<Instant>>,
    /// How many were begun.
    begun: AtomicU64,
    /// Off to show what happens without.
    guarded: bool,
    replaced: AtomicU64,
}

impl Transactions {
    /// Transactions of the cluster that a sink writes to; connects to nothing.
    ///
    /// # Errors
    /// When a setting is missing, unknown or wrong.
    pub fn new(spec: &KafkaSinkSpec, id: &str) -> Result<Self, ConnectorError> {
        let mut defaults = [DEFAULTS, PRODUCER].concat();
        defaults.push(("bootstrap.servers", spec.brokers.as_str()));
        defaults.push(("transaction.timeout.ms", TRANSACTION_MAX_MS));
        // A transaction that begins while the brokers still mark the one before is told to ask again: its offsets
        // after this time, which is 100 ms by default.
        defaults.push(("retry.backoff.ms", "4"));
        let mut settings =
            config(Side::Producer, &defaults, &spec.properties, spec.security.as_ref(), OWNED)?;
        let timeout = settings.get("transaction.timeout.ms").unwrap_or(TRANSACTION_MAX_MS).to_owned();
        // What isn't taken as long as a transaction lasts goes with it.
        settings.set("message.timeout.ms", &timeout).set("transactional.id", id);
        if !spec.properties.contains_key("socket.timeout.ms") {
            // librdkafka wants a request to end before its transaction does.
            settings.set("socket.timeout.ms", &timeout);
        }
        let timeout = Duration::from_millis(timeout.parse().unwrap_or(15_000));
        Ok(Self(Arc::new(Shared {
            settings,
            brokers: spec.brokers.clone(),
            id: id.to_owned(),
            timeout,
            topics: Mutex::default(),
            session: Mutex::default(),
            opened: Mutex::default(),
            begun: AtomicU64::new(0),
            guarded: true,
            replaced: AtomicU64::new(0),
        })))
    }

    /// Goes on with a producer though a request of it had no answer: to show what the guard is for.
    #[must_use]
    pub fn unguarded(self) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(shared) => Self(Arc::new(Shared { guarded: false, ..shared })),
            Err(shared) => Self(shared),
        }
    }

    /// A sink whose records are a part of the transaction that is open; before [`Transactions::init`].
    ///
    /// # Errors
    /// When its topic is missing in the spec.
    pub fn sink(&self, spec: &KafkaSinkSpec) -> Result<Box<dyn Sink>, ConnectorError> {
        if spec.topic.trim().is_empty() {
            return Err(ConnectorError::Fatal("topic: it is empty; set it".to_owned()));
        }
        let number = self.next_sink(&spec.topic);
        Ok(Box::new(TransactionalSink {
            spec: spec.clone(),
            shared: Arc::clone(&self.0),
            number,
            transaction: 0,
            written: 0,
            before: 0,
        }))
    }

    /// The number of one more sink that writes to a topic.
    pub(super) fn next_sink(&self, topic: &str) -> usize {
        let mut topics = lock(&self.0.topics);
        topics.push(topic.to_owned());
        topics.len() - 1
    }

    /// What of a sink's records the brokers refused for good.
    pub(super) fn take_refused(&self, sink: usize) -> Vec<Refused> {
        let Ok(session) = self.0.session() else { return Vec::new() };
        let mut refused = lock(&session.outcomes().refused);
        let (ours, others) = std::mem::take(&mut *refused).into_iter().partition(|(of, _)| *of == sink);
        *refused = others;
        let mut ours: Vec<Refused> = ours.into_iter().map(|(_, refused)| refused).collect();
        ours.sort_by_key(|r| r.nth);
        ours
    }

    /// How many were begun.
    pub(super) fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// How often a producer was replaced because a request had no answer.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.0.replaced.load(Ordering::Relaxed)
    }

    /// The settings of a client that only asks.
    pub(super) fn asking(&self) -> Settings {
        self.0.settings.asking()
    }

    pub(super) fn brokers(&self) -> &str {
        &self.0.brokers
    }

    /// Makes the producer: whoever had the id before is fenced out, and what it left open is ended.
    ///
    /// # Errors
    /// Disconnected where the brokers don't answer; fatal where this user may not.
    pub async fn init(&self) -> Result<(), ConnectorError> {
        if lock(&self.0.session).is_some() {
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        let mut settings = shared.settings.clone();
        let topics = lock(&shared.topics).clone();
        let (asked, brokers) = (settings.asking(), shared.brokers.clone());
        let all = topics.clone();
        let least = os::blocking(move || {
            ask(&asked, |facts| {
                let mut least = BATCH_BYTES;
                for topic in &all {
                    facts.topic(&brokers, topic)?;
                    least = least.min(record_bytes_max(facts, &brokers, topic).unwrap_or(BATCH_BYTES));
                }
                Ok(least)
            })
        })
        .await?;
        if settings.get("batch.size").is_none() {
            // A batch above the topic's limit is refused whole, so none may be. A single record may.
            settings.set("batch.size", least.max(1).to_string());
        }
        let told = settings.get("debug").map_or_else(|| TOLD.to_owned(), |also| format!("{TOLD},{also}"));
        settings.set("debug", told).set_log_level(RDKafkaLogLevel::Debug);
        os::blocking(move || {
            let outcomes =
                Outcomes { topics: topics.clone(), brokers: shared.brokers.clone(), ..Outcomes::default() };
            let producer: ThreadedProducer<Outcomes> = settings.create(outcomes)?;
            let log = LogQueue::take_over(producer.client()).ok_or_else(|| {
                ConnectorError::Fatal(
                    "librdkafka's log can't be read, which tells when a transaction is in doubt".to_owned(),
                )
            })?;
            let session =
                Session { log, producer, tainted: AtomicBool::new(false), produced: AtomicU64::new(0) };
            session.outcomes().target.store(u64::MAX, Ordering::SeqCst);
            // It asks for its coordinator now, if a broker has answered, or half a second later.
            if let Some(topic) = topics.first() {
                let known = session.producer.client().fetch_watermarks(topic, 0, CALL_MAX);
                known.map_err(|error| ConnectorError::Disconnected {
                    what: format!("cannot reach Kafka at {}", shared.brokers),
                    cause: session.outcomes().last_error.or(&why(&error)),
                })?;
            }
            shared.meant(&session, "begin", session.producer.init_transactions(INIT_MAX))?;
            session.look();
            // What failed before the id was this producer's has left nothing behind.
            session.tainted.store(false, Ordering::SeqCst);
            *lock(&shared.session) = Some(Arc::new(session));
            Ok(())
        })
        .await
    }

    /// Begins a transaction, with a new producer where the last one's is in doubt.
    ///
    /// # Errors
    /// As of [`Transactions::init`].
    pub async fn begin(&self) -> Result<(), ConnectorError> {
        let before = lock(&self.0.session).clone();
        if let Some(session) = before {
            session.look();
            if session.tainted.load(Ordering::SeqCst) && self.0.guarded {
                tracing::info!(id = %self.0.id, "a request of the last transaction had no answer and may come late: a new producer takes over");
                self.0.replaced.fetch_add(1, Ordering::Relaxed);
                self.close().await?;
            }
        }
        self.init().await?;
        let session = self.0.session()?;
        lock(&session.outcomes().own).clear();
        self.0.meant(&session, "begin a transaction", session.producer.begin_transaction())?;
        *lock(&self.0.opened) = Some(Instant::now());
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Adds a record of the transactions' own to a topic's partition.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub(super) async fn put(
        &self,
        to: (&str, i32),
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ConnectorError> {
        self.put_as(OWN << SINK_SHIFT, to, key, value).await
    }

    /// Adds a sink's record to a topic's partition; `nth` is which it is of the sink's.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub(super) async fn put_for(
        &self,
        sink: usize,
        nth: usize,
        to: (&str, i32),
        key: &[u8],
        value: &[u8],
    ) -> Result<(), ConnectorError> {
        self.put_as(sink << SINK_SHIFT | nth & NTH, to, key, Some(value)).await
    }

    async fn put_as(
        &self,
        number: usize,
        (topic, partition): (&str, i32),
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ConnectorError> {
        let session = self.0.session()?;
        loop {
            let record: BaseRecord<'_, [u8], [u8], usize> = BaseRecord {
                topic,
                partition: Some(partition),
                payload: value,
                key: Some(key),
                timestamp: None,
                headers: None,
                delivery_opaque: number,
            };
            match self.0.send(&session, topic, record)? {
                Sent::Taken => return Ok(()),
                Sent::Full => self.0.wait_for_room(&session).await?,
            }
        }
    }

    /// The greatest offset, in each partition, of the records that [`Transactions::put`] added; known once they
    /// are flushed.
    pub(super) fn put_up_to(&self) -> BTreeMap<i32, u64> {
        let session = lock(&self.0.session).clone();
        session.map(|session| lock(&session.outcomes().own).clone()).unwrap_or_default()
    }

    /// Makes offsets a part of the transaction.
    ///
    /// # Errors
    /// `Aborted`: abort and begin again; `Outdated`: the group has gone on without this process.
    pub async fn send_offsets(&self, offsets: &Arc<GroupOffsets>) -> Result<(), ConnectorError> {
        let offsets = Arc::clone(offsets);
        self.call("commit offsets", move |producer| {
            producer.send_offsets_to_transaction(&offsets.offsets, &offsets.group, CALL_MAX)
        })
        .await
    }

    /// Waits until the brokers have taken all records, or refused them for good: [`Sink::refused`] has those,
    /// and the transaction must be aborted.
    ///
    /// # Errors
    /// `Aborted` where a record was not taken.
    pub async fn flush(&self) -> Result<(), ConnectorError> {
        let session = self.0.session()?;
        let outcomes = session.outcomes();
        // Not by the client's own flush, which waits for up to 100 ms beside the thread that takes the answers.
        let produced = session.produced.load(Ordering::SeqCst);
        outcomes.target.store(produced, Ordering::SeqCst);
        let (mut before, mut since) = (outcomes.done.load(Ordering::SeqCst), Instant::now());
        // Once one has failed the others may not be sent any more.
        while outcomes.done.load(Ordering::SeqCst) < produced && !outcomes.has_failed() {
            if tokio::time::timeout(LOOK_EVERY, outcomes.reached.notified()).await.is_ok() {
                continue;
            }
            let now = outcomes.done.load(Ordering::SeqCst);
            if now != std::mem::replace(&mut before, now) {
                since = Instant::now();
            } else if since.elapsed() > SILENCE_MAX {
                return Err(self.0.silent(&session));
            }
        }
        outcomes.target.store(u64::MAX, Ordering::SeqCst);
        if let Some(text) = lock(&outcomes.failed).take() {
            return Err(ConnectorError::Aborted(text));
        }
        if let Some((_, Refused { reason, .. })) = lock(&outcomes.refused).first() {
            return Err(ConnectorError::Aborted(reason.clone()));
        }
        Ok(())
    }

    /// Commits what was flushed.
    ///
    /// # Errors
    /// `Outdated` where nobody knows whether it is committed: what is, tell the brokers.
    pub async fn commit(&self) -> Result<(), ConnectorError> {
        let done = self.call("commit a transaction", |producer| {
            settle(producer);
            producer.commit_transaction(CALL_MAX)
        });
        let done = done.await;
        match done {
            Ok(()) => {
                *lock(&self.0.opened) = None;
                Ok(())
            }
            // Its end may have been taken all the same.
            Err(ConnectorError::Aborted(text)) => Err(ConnectorError::Outdated(text)),
            Err(error) => Err(error),
        }
    }

    /// Gives up what is open.
    ///
    /// # Errors
    /// `Disconnected` where the brokers don't answer.
    pub async fn abort(&self) -> Result<(), ConnectorError> {
        self.call("abort a transaction", |producer| producer.abort_transaction(CALL_MAX)).await?;
        let session = self.0.session()?;
        lock(&session.outcomes().refused).clear();
        *lock(&session.outcomes().failed) = None;
        *lock(&self.0.opened) = None;
        Ok(())
    }

    /// Drops the producer; what is open is left to the next one of its id.
    ///
    /// # Errors
    /// None but that a thread is missing.
    pub async fn close(&self) -> Result<(), ConnectorError> {
        let session = lock(&self.0.session).take();
        os::blocking(move || {
            drop(session);
            Ok(())
        })
        .await
    }

    async fn call(
        &self,
        what: &'static str,
        call: impl FnOnce(&ThreadedProducer<Outcomes>) -> KafkaResult<()> + Send + 'static,
    ) -> Result<(), ConnectorError> {
        let (shared, session) = (Arc::clone(&self.0), self.0.session()?);
        os::blocking(move || shared.meant(&session, what, call(&session.producer))).await
    }
}

/// Whether librdkafka had room for a record.
enum Sent {
    Taken,
    Full,
}

impl Shared {
    fn session(&self) -> Result<Arc<Session>, ConnectorError> {
        lock(&self.session)
            .clone()
            .ok_or_else(|| ConnectorError::Fatal(format!("no transaction of {} was begun", self.id)))
    }

    fn send(
        &self,
        session: &Session,
        topic: &str,
        record: BaseRecord<'_, [u8], [u8], usize>,
    ) -> Result<Sent, ConnectorError> {
        let number = record.delivery_opaque;
        let Err((error, record)) = session.producer.send(record) else {
            session.produced.fetch_add(1, Ordering::SeqCst);
            return Ok(Sent::Taken);
        };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Ok(Sent::Full),
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                Err(missing(&self.brokers, topic))
            }
            Some(code) if is_refusal(code) => {
                let (sink, nth) = (number >> SINK_SHIFT, number & NTH);
                let value = record.payload.unwrap_or_default();
                session.outcomes().refuse(code, sink, nth, value, record.key);
                Ok(Sent::Taken)
            }
            // As once the transaction has failed: what it was is told by its end.
            _ => Err(ConnectorError::Aborted(format!(
                "topic {topic} at {} does not take a record: {} ({})",
                self.brokers,
                why(&error),
                session.outcomes().last_error.or("no more is known")
            ))),
        }
    }

    /// Waits until something more is done, or until the brokers count as away.
    async fn wait_for_room(&self, session: &Session) -> Result<(), ConnectorError> {
        let outcomes = session.outcomes();
        let before = outcomes.done.load(Ordering::SeqCst);
        let look = async {
            while outcomes.done.load(Ordering::SeqCst) == before {
                tokio::time::sleep(FULL_WAIT).await;
            }
        };
        tokio::time::timeout(SILENCE_MAX, look).await.map_err(|_| self.silent(session))
    }

    fn silent(&self, session: &Session) -> ConnectorError {
        ConnectorError::Disconnected {
            what: format!("Kafka at {} acknowledges nothing", self.brokers),
            cause: session.outcomes().last_error.or("no answer"),
        }
    }

    /// What an answer of librdkafka's means.
    fn meant(&self, session: &Session, what: &str, answer: KafkaResult<()>) -> Result<(), ConnectorError> {
        session.look();
        let Err(error) = answer else { return Ok(()) };
        let cause = session.outcomes().last_error.or("no more is known");
        let (brokers, id) = (&self.brokers, &self.id);
        let (meaning, text) = match &error {
            KafkaError::Transaction(e) => (meaning(e), e.string()),
            other => (Meaning::Again, why(other)),
        };
        Err(match meaning {
            Meaning::Again => {
                ConnectorError::Disconnected { what: format!("cannot {what} at {brokers}: {text}"), cause }
            }
            Meaning::Abort => ConnectorError::Aborted(format!("cannot {what} at {brokers}: {text}")),
            Meaning::LeftBehind => {
                ConnectorError::Outdated(format!("the group has gone on without this process: {text}"))
            }
            Meaning::Fenced => {
                // The brokers give a transaction up that is open for too long, and say the same then.
                let open = lock(&self.opened).map(|since| since.elapsed());
                match open.filter(|open| *open >= self.timeout) {
                    Some(open) => ConnectorError::Outdated(format!(
                        "a transaction was open for {} s, and the brokers have given it up: {text}",
                        open.as_secs()
                    )),
                    None => ConnectorError::Fenced(format!(
                        "another process writes as {id}, and has taken this one's place. If both are meant to run, give each its own `slot` (WASMILL_SLOT)"
                    )),
                }
            }
            Meaning::Forbidden => ConnectorError::Fatal(format!(
                "cannot {what} at {brokers}: {text}: exactly-once needs the right to write as transactional id {id} and to read the group; grant it, or set another user in `security`"
            )),
            Meaning::Unknown => ConnectorError::Outdated(format!("cannot {what} at {brokers}: {text}")),
        })
    }
}
