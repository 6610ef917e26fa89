//! Exactly once from Kafka to Kafka: numbered messages in, and every result known beforehand.
//!
//! `WASMILL_EXACT_ROUNDS` (5) is how often each campaign does its harm. Each prints what it found: lost,
//! duplicated, reordered, wrong, rounds, seconds.

mod exchange;
mod faults;
mod guard;
mod kills;
mod state;
mod swaps;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use wasmill_tests::http::free_address;
use wasmill_tests::process::Wasmill;

use crate::broker::{Broker, kcat};
use crate::world::{FOR_EVER, Found, Host, PATIENCE, Reading, World, read_all, tail};

/// How many keys the messages have.
const KEYS: u64 = 20;
/// The first event time, in milliseconds.
const BASE: i64 = 1_700_000_000_000;
/// The length of a window, in milliseconds.
const WINDOW: i64 = 1_000;
/// How far event times are out of order; allowed lateness covers it.
const JITTER: i64 = 300;
/// The key of the messages that close all windows.
const CLOSING: &str = "closing";

/// How many rounds: WASMILL_EXACT_ROUNDS.
pub fn rounds() -> u32 {
    std::env::var("WASMILL_EXACT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
}

/// What a pipeline does with the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Lets them through: no state.
    Copies,
    /// Counts them by key, an answer for each.
    Counts,
    /// Counts them by key in windows.
    Windows,
    /// The same in windows that overlap, with so little lateness that some messages are late for some of theirs.
    Sliding,
    /// The same in sessions, which come to one another as messages come out of order.
    Sessions,
}

impl Job {
    /// Its stages; with a topic of so many partitions between them.
    fn stages(self, exchange: Option<u32>) -> String {
        let exchange = exchange.map_or_else(String::new, |partitions| {
            format!(", exchange: {{ topic: {{ partitions: {partitions} }} }}")
        });
        let behind = match self {
            Self::Copies => {
                return "[{ transform: { plugin: processed-at, grants: [wall-clock] } }]".to_owned();
            }
            Self::Counts => "aggregate: count",
            Self::Windows => {
                "window: { tumbling: 1s, allowed_lateness: 1s, late: dead_letter }, aggregate: count"
            }
            Self::Sliding => {
                "window: { sliding: { size: 2s, every: 500ms }, allowed_lateness: 100ms }, aggregate: count"
            }
            Self::Sessions => "window: { session: { gap: 5ms }, allowed_lateness: 100ms }, aggregate: count",
        };
        format!("[{{ key_by: payload.k{exchange} }}, {{ {behind} }}]")
    }
}

/// A world with a job, and what was put into it.
pub struct Exact {
    pub world: World,
    pub job: Job,
    pub partitions: u32,
    /// How many partitions the exchange has; none: it is in memory.
    pub exchange: Option<u32>,
    producer: BaseProducer,
    sent: Vec<AtomicU64>,
}

fn key_of(partition: u32, n: u64) -> String {
    format!("k{}", (n * 7 + u64::from(partition) * 3) % KEYS)
}

fn time_of(n: u64) -> i64 {
    BASE + i64::try_from(n).expect("a small number") * 5 + (n * 31 % 100) as i64 * JITTER / 100
}

impl Exact {
    pub fn new(broker: &Broker, job: Job, partitions: u32) -> Self {
        Self::at(broker, &broker.address(), job, partitions)
    }

    /// As `new`, where wasmill comes to the broker at another address.
    pub fn at(broker: &Broker, address: &str, job: Job, partitions: u32) -> Self {
        let mut world = World::without_topics(broker, &["processed-at"]);
        world.name = format!("exact-{}", world.name);
        for topic in [world.input(), world.output(), world.dead_letters()] {
            broker.create_topic(&topic, partitions as i32, &[FOR_EVER]);
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", broker.address())
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("topic.metadata.refresh.interval.ms", "1000")
            .create()
            .expect("a producer");
        let exact = Self {
            world,
            job,
            partitions,
            exchange: None,
            producer,
            sent: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        };
        exact.write_spec(address, "data_dir: data\n");
        exact
    }

    /// The same with an exchange through a topic.
    pub fn behind_exchange(broker: &Broker, job: Job, partitions: u32) -> Self {
        let mut exact = Self::new(broker, job, partitions);
        exact.exchange = Some(partitions);
        exact.write_spec(&broker.address(), "data_dir: data\n");
        exact
    }

    /// Writes the pipeline's file, with more keys at its end.
    pub fn write_spec(&self, address: &str, more: &str) {
        self.write_spec_to(address, "", more);
    }

    /// As `write_spec`, with more settings of what it writes to.
    pub fn write_spec_to(&self, address: &str, sink: &str, more: &str) {
        let World { name, .. } = &self.world;
        let (input, output, dead) = (self.world.input(), self.world.output(), self.world.dead_letters());
        let stages = self.job.stages(self.exchange);
        let sink = if sink.is_empty() { String::new() } else { format!(", {sink}") };
        let spec = format!(
            "\
name: {name}
source:
  kafka:
    brokers: {address}
    topic: {input}
    group: {name}
    properties: {{ session.timeout.ms: 2000, heartbeat.interval.ms: 500 }}
stages: {stages}
sink: {{ kafka: {{ brokers: {address}, topic: {output}{sink} }} }}
dead_letter: {{ kafka: {{ brokers: {address}, topic: {dead}{sink} }} }}
delivery: exactly_once
time: {{ idle_timeout: off }}
limits: {{ state_cache: 1MiB }}
workers: 2
{more}"
        );
        self.world.place.file("pipeline.yaml", spec);
    }

    /// Gives the input more partitions, which are fed from now on.
    pub fn grow(&mut self, broker: &Broker, partitions: u32) {
        broker.grow_topic(&self.world.input(), partitions as i32);
        self.sent.resize_with(partitions as usize, AtomicU64::default);
        self.partitions = partitions;
    }

    pub fn start(&self) -> Host {
        self.start_with(|w| w)
    }

    pub fn start_with(&self, with: impl FnOnce(Wasmill) -> Wasmill) -> Host {
        let http = free_address();
        Host { running: with(self.world.place.pipeline().env("WASMILL_HTTP", http)).start(), http }
    }

    fn put(&self, partition: u32, text: &str, key: &str) {
        let topic = self.world.input();
        loop {
            let record = BaseRecord::to(&topic).partition(partition as i32).key(key).payload(text);
            match self.producer.send(record) {
                Ok(()) => break,
                // The queue is full, or a partition is new.
                Err((
                    KafkaError::MessageProduction(
                        RDKafkaErrorCode::QueueFull | RDKafkaErrorCode::UnknownPartition,
                    ),
                    _,
                )) => {
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((e, _)) => panic!("can't feed: {e}"),
            }
        }
    }

    /// So many messages more, by turns over the partitions.
    pub fn feed(&self, messages: u64) {
        self.feed_to(messages, |nth| (nth % u64::from(self.partitions)) as u32);
    }

    /// So many messages more, each to a partition.
    pub fn feed_to(&self, messages: u64, partition: impl Fn(u64) -> u32) {
        for nth in 0..messages {
            let partition = partition(nth);
            let n = self.sent[partition as usize].fetch_add(1, Ordering::Relaxed);
            let (k, time) = (key_of(partition, n), time_of(n));
            let id = format!("{partition}-{n}");
            let text =
                format!(r#"{{"id":"{id}","type":"t","timestamp":{time},"payload":{{"k":"{k}","n":{n}}}}}"#);
            self.put(partition, &text, &id);
            if nth.is_multiple_of(256) {
                self.producer.poll(Duration::ZERO);
            }
        }
        self.producer.poll(Duration::ZERO);
    }

    /// A stretch of `messages` spread over a time.
    pub fn feed_over(&self, messages: u64, time: Duration) {
        let began = Instant::now();
        let slices = (time.as_millis() as u64 / 20).max(1);
        for slice in 0..slices {
            let due = |slice: u64| {
                messages * slice / slices / u64::from(self.partitions) * u64::from(self.partitions)
            };
            self.feed(due(slice + 1) - due(slice));
            let at = time.mul_f64((slice + 1) as f64 / slices as f64);
            std::thread::sleep(at.saturating_sub(began.elapsed()));
        }
    }

    /// Feeds so many messages a second as long as `harm` goes on; answers what that does.
    pub fn while_fed<T>(&self, rate: u64, harm: impl FnOnce() -> T) -> T {
        /// Ends the feeding also where `harm` fails: nobody would see that else.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let _over = Over(&over);
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    self.feed_over(rate / 5, Duration::from_millis(200));
                }
            });
            harm()
        })
    }

    /// Waits until the broker has it all.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).expect("the broker takes what is fed");
    }

    /// The end of the messages: what closes the windows, on every partition.
    pub fn close(&self) {
        let time = BASE + 1_000_000_000;
        for partition in 0..self.partitions {
            let text = format!(
                r#"{{"id":"closing-{partition}","type":"t","timestamp":{time},"payload":{{"k":"{CLOSING}","n":0}}}}"#
            );
            self.put(partition, &text, CLOSING);
        }
        self.flush();
    }

    /// Every message that was fed: partition, number.
    fn all(&self) -> impl Iterator<Item = (u32, u64)> {
        let sent = self.sent.iter().map(|sent| sent.load(Ordering::Relaxed));
        (0u32..).zip(sent).flat_map(|(p, sent)| (0..sent).map(move |n| (p, n)))
    }

    /// How many results there must be.
    fn results(&self) -> usize {
        match self.job {
            Job::Copies | Job::Counts => self.all().count(),
            Job::Windows | Job::Sliding | Job::Sessions => self.windows().len(),
        }
    }

    /// What each window has: key, start, count.
    fn windows(&self) -> BTreeMap<(String, i64), u64> {
        let mut windows = BTreeMap::new();
        for (partition, n) in self.all() {
            let start = time_of(n) / WINDOW * WINDOW;
            *windows.entry((key_of(partition, n), start)).or_default() += 1;
        }
        windows
    }

    /// Waits until the output has as many results as there must be, read as its readers do meanwhile.
    #[track_caller]
    pub fn until_whole(&self, host: &mut Host) -> Vec<Found> {
        self.until_whole_of(std::slice::from_mut(host))
    }

    /// As [`Exact::until_whole`], with several processes.
    #[track_caller]
    pub fn until_whole_of(&self, hosts: &mut [Host]) -> Vec<Found> {
        let mut output = Reading::new(&self.world.address, &self.world.output());
        let (since, wanted) = (Instant::now(), self.results());
        let mut found = Vec::new();
        while found.len() < wanted {
            for host in &mut *hosts {
                assert!(host.running.is_running(), "it ended:\n{}", tail(&host.running.log().text()));
            }
            assert!(
                since.elapsed() < PATIENCE,
                "{} of {wanted} results are there after {PATIENCE:?}; it says:\n{}",
                found.len(),
                tail(&hosts[0].running.log().text())
            );
            found.extend(output.some().into_iter().filter(|f| !is_closing(f)));
        }
        // What is there twice comes behind.
        std::thread::sleep(Duration::from_millis(500));
        found.extend(output.rest().into_iter().filter(|f| !is_closing(f)));
        found
    }

    /// Feeds the first partition a message of 20,000 bytes among others: it becomes a dead letter, and all others are
    /// exact. Answers who has done it.
    pub fn buries_one_that_is_large(&self, what: &str) -> Host {
        let since = Instant::now();
        self.feed(500);
        self.flush();
        let payload = format!(r#"{{"k":"k1","x":"{}"}}"#, "x".repeat(20_000));
        let large = format!(r#"{{"id":"large","type":"t","timestamp":{BASE},"payload":{payload}}}"#);
        kcat(&self.world.address, &["-P", "-t", &self.world.input(), "-p", "0"], &(large + "\n"));
        self.feed(500);
        self.flush();
        let mut host = self.start();
        let found = self.until_whole(&mut host);
        self.is_exact(what, &found, 1, since);
        let dead = read_all(&self.world.address, &self.world.dead_letters());
        let kinds: Vec<_> = dead.iter().map(|d| d.value["payload"]["kind"].clone()).collect();
        assert_eq!(kinds, ["refused"], "{dead:?}");
        host
    }

    /// What is wrong with these results.
    pub fn judge(&self, found: &[Found]) -> Findings {
        match self.job {
            Job::Copies => self.judge_messages(found),
            Job::Counts => {
                let mut findings = self.judge_messages(found);
                let mut counts: HashMap<String, Vec<u64>> = HashMap::new();
                for one in found {
                    let payload = &one.value["payload"];
                    let key = payload["key"].as_str().unwrap_or_default().to_owned();
                    counts.entry(key).or_default().push(payload["value"].as_u64().unwrap_or_default());
                }
                for counts in counts.values() {
                    // Each answer is one more than the one before: none is lost, twice, or elsewhere.
                    findings.wrong += (1u64..).zip(counts).filter(|(due, is)| due != *is).count();
                }
                findings
            }
            Job::Windows | Job::Sliding | Job::Sessions => {
                let mut wanted = self.windows();
                let mut findings = Findings::default();
                let mut seen: BTreeMap<(String, i64), u32> = BTreeMap::new();
                let mut last: HashMap<String, i64> = HashMap::new();
                for one in found {
                    let payload = &one.value["payload"];
                    let key = payload["key"].as_str().unwrap_or_default().to_owned();
                    let start = payload["start"].as_i64().unwrap_or_default();
                    let times = seen.entry((key.clone(), start)).or_default();
                    *times += 1;
                    findings.duplicated += usize::from(*times > 1);
                    let value = payload["value"].as_u64();
                    if *times == 1
                        && let Some(due) =
                            wanted.remove(&(key.clone(), start)).filter(|due| Some(*due) != value)
                    {
                        findings.wrong += 1;
                        println!("window of {key} at {start}: {value:?}, and {due} is due");
                    }
                    let before = last.insert(key, start);
                    findings.reordered += usize::from(before.is_some_and(|before| before > start));
                }
                findings.lost = wanted.len();
                findings
            }
        }
    }

    /// Each message once; in order along its partition for each key.
    fn judge_messages(&self, found: &[Found]) -> Findings {
        let mut findings = Findings::default();
        let mut seen: HashMap<&str, u32> = HashMap::new();
        let mut last: HashMap<(u32, String), u64> = HashMap::new();
        for one in found {
            let times = seen.entry(one.id()).or_default();
            *times += 1;
            findings.duplicated += usize::from(*times > 1);
            let (partition, n) = one.place();
            // Without a key of its own a copy goes where its id says: no order between them.
            if self.job == Job::Counts {
                let before = last.insert((partition, key_of(partition, n)), n);
                findings.reordered += usize::from(before.is_some_and(|before| before >= n));
            }
        }
        findings.lost = self.all().filter(|(p, n)| !seen.contains_key(format!("{p}-{n}").as_str())).count();
        findings
    }

    /// Judges what readers have seen meanwhile, and what is there now; prints it, and wants it to be right.
    #[track_caller]
    pub fn is_exact(&self, what: &str, seen: &[Found], rounds: u32, since: Instant) {
        let now: Vec<Found> = read_all(&self.world.address, &self.world.output())
            .into_iter()
            .filter(|f| !is_closing(f))
            .collect();
        let findings = self.judge(seen);
        println!("{what}: {findings}, {rounds} rounds, {:.1} s", since.elapsed().as_secs_f64());
        assert_eq!(findings, Findings::default(), "{what}, read meanwhile");
        assert_eq!(self.judge(&now), Findings::default(), "{what}, read afterwards");
    }
}

/// Whether it is of the messages that only close windows.
fn is_closing(found: &Found) -> bool {
    found.id().starts_with(CLOSING) || found.value["payload"]["key"] == CLOSING
}

/// What is wrong with results.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub lost: usize,
    pub duplicated: usize,
    pub reordered: usize,
    pub wrong: usize,
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lost, duplicated, reordered, wrong } = self;
        write!(f, "{lost} lost, {duplicated} duplicated, {reordered} reordered, {wrong} wrong aggregates")
    }
}
