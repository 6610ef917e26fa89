//! Topics, what goes into them, what is found in them, and the service between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use wasmill_tests::http::{Answer, free_address, get};
use wasmill_tests::process::Wasmill;
use wasmill_tests::{Place, Running, Signal};

use crate::broker::Broker;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The partitions of each topic.
pub const PARTITIONS: u32 = 4;
/// The messages' time is long ago; a broker that kept to its seven days would remove them.
pub const FOR_EVER: (&str, &str) = ("retention.ms", "-1");
/// The types of the messages; the last one is dropped by the service.
pub const KINDS: [&str; 4] = ["click", "view", "buy", "ignore"];
/// The service's plugins.
pub const SERVICE: [&str; 3] = ["processed-at", "drop-ignored", "count-types"];
/// Those of them that keep nothing.
pub const STATELESS: [&str; 2] = ["processed-at", "drop-ignored"];

/// How many rounds: WASMILL_KILL_ROUNDS.
pub fn rounds() -> u32 {
    std::env::var("WASMILL_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

/// A broker that the tests which do it no harm share, as long as one of them runs.
pub fn shared_broker() -> Arc<Broker> {
    static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let broker = Arc::new(Broker::start());
        *shared = Arc::downgrade(&broker);
        broker
    })
}

/// One test's topics and group, and a folder with its plugins.
pub struct World {
    pub place: Place,
    pub address: String,
    pub name: String,
}

impl World {
    /// A world whose input and output topics exist.
    pub fn new(broker: &Broker, plugins: &[&str]) -> Self {
        let world = Self::without_topics(broker, plugins);
        broker.create_topic(&world.input(), PARTITIONS as i32, &[FOR_EVER]);
        broker.create_topic(&world.output(), PARTITIONS as i32, &[FOR_EVER]);
        world
    }

    /// A world without a topic.
    pub fn without_topics(broker: &Broker, plugins: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("world-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Self { place: Place::with_plugins(plugins), address: broker.address(), name }
    }

    pub fn input(&self) -> String {
        format!("{}-in", self.name)
    }

    pub fn output(&self) -> String {
        format!("{}-out", self.name)
    }

    pub fn dead_letters(&self) -> String {
        format!("{}-dead", self.name)
    }

    /// The service in environment mode, not started yet. A member that was killed is missed after 2 s, and
    /// what became of a topic is seen after 1 s.
    pub fn service(&self, http: SocketAddr) -> Wasmill {
        self.command(&["run"], http)
    }

    /// A command of wasmill with the service's variables, not started yet.
    pub fn command(&self, arguments: &[&str], http: SocketAddr) -> Wasmill {
        self.place
            .wasmill(arguments)
            .env("KAFKA_BROKERS", &self.address)
            .env("KAFKA_TOPIC", self.input())
            .env("KAFKA_OUTPUT_TOPIC", self.output())
            .env("KAFKA_GROUP_ID", &self.name)
            .env("WORKER_COUNT", 2)
            .env("WASMILL_HTTP", http)
            .env("KAFKA_PROP_SESSION_TIMEOUT_MS", 2000)
            .env("KAFKA_PROP_HEARTBEAT_INTERVAL_MS", 500)
            .env("KAFKA_PROP_TOPIC_METADATA_REFRESH_INTERVAL_MS", 1000)
    }

    /// The service on a port of its own, running.
    pub fn start(&self) -> Host {
        self.start_with(|service| service)
    }

    /// As [`World::start`], with more variables.
    pub fn start_with(&self, with: impl FnOnce(Wasmill) -> Wasmill) -> Host {
        let http = free_address();
        Host { running: with(self.service(http)).start(), http }
    }

    /// Waits until the output has all that `sent` asks for; answers what is in it.
    #[track_caller]
    pub fn until_whole(&self, sent: &Sent, host: &mut Host) -> Vec<Found> {
        let mut output = Reading::new(&self.address, &self.output());
        let since = Instant::now();
        let wanted: HashSet<String> = sent.passing().collect();
        let mut missing = wanted.clone();
        let mut all = Vec::new();
        while !missing.is_empty() {
            assert!(host.running.is_running(), "the service ended:\n{}", host.running.log().text());
            assert!(
                since.elapsed() < PATIENCE,
                "{} of {} messages are missing after {PATIENCE:?}, such as {:?}; ready: {:?}; it says:\n{}",
                missing.len(),
                wanted.len(),
                ranges(&missing),
                host.ready(),
                tail(&host.running.log().text())
            );
            for found in output.some() {
                missing.remove(found.id());
                all.push(found);
            }
        }
        // What is repeated comes behind what was missing.
        all.extend(output.rest());
        all
    }
}

/// Ids of ours as ranges of places, the first few: a hole and a stop look different.
fn ranges(ids: &HashSet<String>) -> Vec<String> {
    let places = ids.iter().filter_map(|id| {
        let (partition, sequence) = id.split_once('-')?;
        Some((partition.parse::<u32>().ok()?, sequence.parse::<u64>().ok()?))
    });
    let mut places: Vec<(u32, u64)> = places.collect();
    places.sort_unstable();
    // What the service drops lies between: a gap of some places is none.
    let near = |a: &(u32, u64), b: &(u32, u64)| a.0 == b.0 && b.1 - a.1 < 8;
    let runs = places.chunk_by(near);
    runs.take(20).map(|r| format!("{}: {}–{}", r[0].0, r[0].1, r[r.len() - 1].1)).collect()
}

/// The last lines of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A running service.
pub struct Host {
    pub running: Running,
    pub http: SocketAddr,
}

impl Host {
    /// What `/ready` answers; none before it listens.
    pub fn ready(&self) -> Option<Answer> {
        get(self.http, "/ready")
    }

    /// Waits until `/ready` has this status, and these words in it.
    #[track_caller]
    pub fn until_ready_is(&mut self, status: u16, words: &[&str]) {
        let http = self.http;
        let since = Instant::now();
        let mut last = None;
        while since.elapsed() < PATIENCE {
            last = get(http, "/ready");
            if last.as_ref().is_some_and(|a| a.status == status && words.iter().all(|w| a.body.contains(w))) {
                return;
            }
            let log = self.running.log();
            assert!(
                self.running.is_running(),
                "the service ended before /ready was {status}:\n{}",
                log.text()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("/ready is not {status} with {words:?}: {last:?}\n{}", tail(&self.running.log().text()));
    }

    /// Kills it, which must not have ended by itself.
    #[track_caller]
    pub fn kill(self) {
        let log = self.running.log();
        let (killed, _) = self.running.kill();
        assert!(killed, "it ended by itself:\n{}", tail(&log.text()));
    }

    /// Ends it in order; answers what it said.
    #[track_caller]
    pub fn end(mut self) -> String {
        let log = self.running.log();
        assert!(self.running.signal(Signal::TERM), "it goes on:\n{}", tail(&log.text()));
        self.running.wait().exits(0);
        log.text()
    }
}

/// What was put into an input: how many messages of each partition.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    per_partition: [u64; PARTITIONS as usize],
}

impl Sent {
    /// The kind of a message, which its place decides.
    pub fn kind(partition: u32, sequence: u64) -> &'static str {
        KINDS[((sequence * 7 + u64::from(partition) * 3) % 11 % KINDS.len() as u64) as usize]
    }

    /// Partition and sequence of each message.
    pub fn all(&self) -> impl Iterator<Item = (u32, u64)> {
        let per_partition = self.per_partition;
        (0..PARTITIONS).flat_map(move |p| (0..per_partition[p as usize]).map(move |s| (p, s)))
    }

    /// The ids of the messages that the service lets through.
    pub fn passing(&self) -> impl Iterator<Item = String> {
        self.all().filter(|(p, s)| Self::kind(*p, *s) != "ignore").map(|(p, s)| format!("{p}-{s}"))
    }

    /// How many messages of each kind pass.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        let mut totals = BTreeMap::new();
        for (partition, sequence) in self.all() {
            let kind = Self::kind(partition, sequence);
            if kind != "ignore" {
                *totals.entry(kind.to_owned()).or_default() += 1;
            }
        }
        totals
    }
}

/// Puts messages into an input.
pub struct Feeder {
    producer: BaseProducer,
    topic: String,
    pub sent: Sent,
}

impl Feeder {
    pub fn new(world: &World) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &world.address)
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .create()
            .expect("a producer");
        Self { producer, topic: world.input(), sent: Sent::default() }
    }

    /// So many messages more, by turns over the partitions.
    pub fn feed(&mut self, messages: u64) {
        self.put(messages);
        self.flush();
    }

    fn put(&mut self, messages: u64) {
        for nth in 0..messages {
            self.one((nth % u64::from(PARTITIONS)) as u32);
        }
        self.producer.poll(Duration::ZERO);
    }

    /// So many messages more, spread over about this time.
    pub fn feed_over(&mut self, messages: u64, time: Duration) {
        let slices = (time.as_millis() as u64 / 20).max(1);
        for slice in 0..slices {
            self.put(messages * (slice + 1) / slices - messages * slice / slices);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.flush();
    }

    fn one(&mut self, partition: u32) {
        let sequence = self.sent.per_partition[partition as usize];
        let (id, kind) = (format!("{partition}-{sequence}"), Sent::kind(partition, sequence));
        let value = format!(
            r#"{{"id":"{id}","type":"{kind}","payload":{{"n":{sequence}}},"timestamp":"2026-01-01T00:00:00Z","metadata":{{}}}}"#
        );
        loop {
            let record = BaseRecord::to(&self.topic).partition(partition as i32).key(&id).payload(&value);
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((e, _)) => panic!("can't feed: {e}"),
            }
        }
        self.sent.per_partition[partition as usize] += 1;
        if sequence.is_multiple_of(256) {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Waits until the broker has it all.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).expect("the broker takes what is fed");
    }
}

/// A record of an output.
#[derive(Debug, Clone)]
pub struct Found {
    pub key: Option<String>,
    pub value: Value,
    pub text: String,
    pub headers: Vec<(String, String)>,
}

impl Found {
    pub fn id(&self) -> &str {
        self.value["id"].as_str().unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        self.value["type"].as_str().unwrap_or_default()
    }

    /// The place that [`Feeder`] wrote into the id.
    pub fn place(&self) -> (u32, u64) {
        let place = self.id().split_once('-').and_then(|(p, s)| Some((p.parse().ok()?, s.parse().ok()?)));
        place.unwrap_or_else(|| panic!("an id of ours: {self:?}"))
    }

    /// Its `metadata.total_count`, which is a text.
    pub fn total(&self) -> u64 {
        let total = &self.value["metadata"]["total_count"];
        total.as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("a total as text: {self:?}"))
    }
}

/// A topic read from its beginning, without a group.
pub struct Reading {
    consumer: BaseConsumer,
    topic: String,
    next: BTreeMap<i32, i64>,
    /// The partitions of which nothing more was there.
    ended: BTreeSet<i32>,
}

impl Reading {
    pub fn new(address: &str, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", address)
            .set("group.id", "reading")
            .set("enable.auto.commit", "false")
            .set("fetch.queue.backoff.ms", "5")
            .set("enable.partition.eof", "true")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        let partitions = metadata.topics()[0].partitions().len() as i32;
        let next = (0..partitions).map(|p| (p, 0)).collect();
        let mut reading = Self { consumer, topic: topic.to_owned(), next, ended: BTreeSet::new() };
        reading.begin();
        reading
    }

    /// Reads on where it is; each partition's end is told anew.
    fn begin(&mut self) {
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.next {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next)).expect("an offset");
        }
        self.ended.clear();
        self.consumer.assign(&list).expect("an assignment");
    }

    /// What comes within a moment.
    pub fn some(&mut self) -> Vec<Found> {
        let mut all = Vec::new();
        while let Some(message) = self.consumer.poll(Duration::from_millis(100)) {
            let message = match message {
                Ok(message) => message,
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.ended.insert(partition);
                    continue;
                }
                Err(_) => continue,
            };
            self.next.insert(message.partition(), message.offset() + 1);
            let text = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
            let headers = message.headers().into_iter().flat_map(|headers| {
                use rdkafka::message::Headers as _;
                headers.iter().map(|h| {
                    let value = String::from_utf8_lossy(h.value.unwrap_or_default()).into_owned();
                    (h.key.to_owned(), value)
                })
            });
            all.push(Found {
                key: message.key().map(|k| String::from_utf8_lossy(k).into_owned()),
                value: serde_json::from_str(&text).unwrap_or(Value::Null),
                text,
                headers: headers.collect(),
            });
            if all.len() >= 50_000 {
                break;
            }
        }
        all
    }

    /// All up to what the topic has now. Where a partition ends its offsets don't tell: those of transactions'
    /// ends are among them.
    pub fn rest(&mut self) -> Vec<Found> {
        self.begin();
        let since = Instant::now();
        let mut all = Vec::new();
        while self.ended.len() < self.next.len() {
            assert!(since.elapsed() < PATIENCE, "{} isn't read to its end", self.topic);
            all.extend(self.some());
        }
        all
    }
}

/// Reads a whole topic.
pub fn read_all(address: &str, topic: &str) -> Vec<Found> {
    Reading::new(address, topic).rest()
}

/// How often messages were repeated, after what must hold of every output: keys, what passes, the order
/// of first appearances along each input partition.
#[track_caller]
pub fn judge(found: &[Found], sent: &Sent) -> usize {
    let wanted: HashSet<String> = sent.passing().collect();
    let mut first = HashMap::new();
    let mut repeats = 0;
    // Each id is a key of its own, and one key goes to one partition: its repeats must be the same message.
    for one in found {
        assert!(wanted.contains(one.id()), "not asked for: {one:?}");
        assert_eq!(one.key.as_deref(), Some(one.id()), "a record's key is the message's id");
        let (partition, sequence) = one.place();
        assert_eq!(one.kind(), Sent::kind(partition, sequence));
        let at = one.value["metadata"]["processed_at"].as_str().unwrap_or_default();
        let is_rfc_3339 = at.len() >= 20 && at.as_bytes()[10] == b'T' && at.ends_with('Z');
        assert!(is_rfc_3339, "metadata.processed_at is RFC 3339: {one:?}");
        if first.insert(one.id().to_owned(), one.value["payload"].to_string()).is_some() {
            repeats += 1;
        }
    }
    let missing = wanted.iter().filter(|id| !first.contains_key(*id)).count();
    assert_eq!(missing, 0, "messages are missing");
    repeats
}

/// Along each partition of an output the first appearances of an input partition's messages must rise,
/// for each type: the type is the key of the counts, and order is kept by key.
#[track_caller]
pub fn judge_order(address: &str, topic: &str) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "order")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    for partition in 0..PARTITIONS as i32 {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        consumer.assign(&list).expect("an assignment");
        let mut greatest: HashMap<(u32, &str), u64> = HashMap::new();
        let mut seen = HashSet::new();
        loop {
            let message = match consumer.poll(PATIENCE).expect("a record or the end") {
                Ok(message) => message,
                Err(KafkaError::PartitionEOF(_)) => break,
                Err(e) => panic!("{topic}: {e}"),
            };
            let id = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
            let (from, sequence) = id.split_once('-').expect("an id of ours");
            let (from, sequence): (u32, u64) =
                (from.parse().expect("a partition"), sequence.parse().expect("a sequence"));
            if seen.insert(id) {
                let before = greatest.insert((from, Sent::kind(from, sequence)), sequence);
                assert!(
                    before.is_none_or(|before| before < sequence),
                    "{topic}/{partition}: {from}-{sequence} first comes behind {from}-{before:?}"
                );
            }
        }
    }
}

/// The greatest `total_count` of each kind.
pub fn greatest_totals(found: &[Found]) -> BTreeMap<String, u64> {
    let mut greatest = BTreeMap::new();
    for one in found {
        let most: &mut u64 = greatest.entry(one.kind().to_owned()).or_default();
        *most = one.total().max(*most);
    }
    greatest
}
