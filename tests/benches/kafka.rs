//! The service between two Kafka topics, beside a bare copy: CPU time, rate, memory, latency.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use wasmill_tests::{Place, Signal};

use crate::broker::Broker;
use crate::clock::Times;
use crate::contender::{Contender, Job};
use crate::report::{Report, Row, Target};

const MESSAGES: u64 = 2_000_000;
const MESSAGE_BYTES: usize = 192;
const PARTITIONS: i32 = 4;
const LATENCY_RATE: u64 = 5_000;
const LATENCY_SECONDS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(120);
const WHAT: &str = "Kafka → seed's job → Kafka";
const WINDOWS: &str = "Kafka → windows of 10 s for each user → Kafka";
const EXCHANGE: &str = "Kafka → a count for each user, exactly once → Kafka";
const RESTART: &str = "a start with 1,000,000 keys of state in a changelog, and on disk here";
const KEYS: u64 = 1_000_000;
const USERS: u64 = 1_000;
/// How far the event time of one message is behind that of the next, in microseconds: 20 windows a user.
const STEP_US: u64 = 100;
const WINDOW_US: u64 = 10_000_000;

/// A broker, unless there is no Java: then it says so, and nothing is measured.
fn broker() -> Option<Broker> {
    if Command::new("java").arg("-version").output().is_err() {
        eprintln!("not run: the Kafka figures, for there is no java");
        return None;
    }
    Some(Broker::start())
}

/// Measures between two topics.
pub fn measure(report: &mut Report) {
    let Some(broker) = broker() else { return };
    broker.create_topic("in", PARTITIONS, &[("retention.ms", "-1")]);
    fill(&broker, "in", |nth| message(nth, 0));
    let contenders = [
        ("bare librdkafka copy", Job::Copy),
        ("wasmill, counts on disk", Job::Service),
        ("wasmill, exactly once", Job::Exact),
    ];
    let mut service_cpu_s = None;
    let mut rates = Vec::new();
    for (name, job) in contenders {
        let measured = throughput(&broker, job, ("in", MESSAGES));
        let target = |most: f64| (job != Job::Copy).then_some(Target::AtMost(most));
        report.push(Row::figure(
            WHAT,
            &format!("{name}: CPU-seconds a million"),
            &one(measured.cpu_s * 1e6 / MESSAGES as f64),
            "s",
            target(if job == Job::Exact { 4.0 } else { 3.0 }),
        ));
        match (job, service_cpu_s) {
            (Job::Service, _) => service_cpu_s = Some(measured.cpu_s),
            (Job::Exact, Some(service)) => report.push(Row::figure(
                WHAT,
                "exactly once: CPU, as times at least once",
                &one(measured.cpu_s / service),
                "",
                Some(Target::AtMost(1.3)),
            )),
            _ => {}
        }
        let peak = one(measured.peak_mb);
        report.push(Row::figure(WHAT, &format!("{name}: peak memory"), &peak, "MB", target(120.0)));
        let aim = rates.first().map(|copy: &f64| Target::Aim((copy / 4.0).round()));
        report.push(Row::figure(WHAT, name, &one(measured.rate), "messages/s", aim));
        rates.push(measured.rate);
    }
    let mut copys = None;
    for (name, job) in contenders {
        let p99 = latency(&broker, job);
        let how = format!("{name}: p99 end to end at {LATENCY_RATE} messages/s");
        let target = match job {
            // Kafka Streams with the same interval: 118 to 133.
            Job::Exact => Some(Target::AtMost(150.0)),
            _ => copys.map(|copy: f64| Target::AtMost(((copy + 10.0) * 100.0).round() / 100.0)),
        };
        report.push(Row::figure(WHAT, &how, &one(p99), "ms", target));
        copys = copys.or(Some(p99));
    }
    windows(&broker, report);
}

/// Measures what it costs that messages go through a topic to who has their key.
pub fn exchange(report: &mut Report) {
    let Some(broker) = &broker() else { return };
    fill_users(broker);
    let mut here = None;
    for (name, job) in [("in memory", Job::Keyed), ("through a topic", Job::Exchanged)] {
        let measured = throughput(broker, job, ("users", MESSAGES));
        let cpu = measured.cpu_s * 1e6 / MESSAGES as f64;
        report.push(Row::figure(EXCHANGE, &format!("{name}: CPU-seconds a million"), &one(cpu), "s", None));
        let ratio = here.map(|here: f64| one(measured.cpu_s / here));
        if let Some(ratio) = ratio {
            let how = "through a topic: CPU, as times in memory";
            report.push(Row::figure(EXCHANGE, how, &ratio, "", Some(Target::AtMost(1.6))));
        }
        here = Some(measured.cpu_s);
    }
}

/// Measures how long a process takes to go on with many keys of state, which its own store has.
pub fn restart(report: &mut Report) {
    let Some(broker) = &broker() else { return };
    for topic in ["keyed", "counted"] {
        broker.create_topic(topic, PARTITIONS, &[("retention.ms", "-1")]);
    }
    let producer = producer(broker);
    for nth in 0..KEYS {
        put(&producer, "keyed", nth, &message(nth, 0));
    }
    producer.flush(PATIENCE).unwrap_or_else(|e| panic!("keyed: {e}"));
    let place = Place::new();
    place.file("pipeline.yaml", exact_counts(&broker.address()));
    let start = || place.pipeline().env("WASMILL_HTTP", "off").start();
    let watch: BaseConsumer = client(broker).create().unwrap_or_else(|e| panic!("a consumer: {e}"));
    let mut running = start();
    until("all keys to be counted", || ends(&watch, "counted") >= KEYS);
    // The last of them may be committed a moment later.
    std::thread::sleep(Duration::from_secs(2));
    let before = ends(&watch, "counted");
    assert!(running.signal(Signal::TERM), "it runs");
    running.wait().exits(0);
    put(&producer, "keyed", 0, &message(0, 0));
    producer.flush(PATIENCE).unwrap_or_else(|e| panic!("keyed: {e}"));
    let mut again = start();
    let log = again.log();
    until("its partitions", || log.says("partitions assigned"));
    let assigned = Instant::now();
    until("its first message", || ends(&watch, "counted") > before);
    let took = assigned.elapsed().as_secs_f64() * 1e3;
    assert!(again.signal(Signal::TERM), "it runs");
    let how = "from its partitions to its first message";
    report.push(Row::figure(RESTART, how, &one(took), "ms", Some(Target::AtMost(1_000.0))));
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "no end of waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many records a topic has, the ends of transactions included.
fn ends(watch: &BaseConsumer, topic: &str) -> u64 {
    let ends = (0..PARTITIONS).filter_map(|p| watch.fetch_watermarks(topic, p, PATIENCE).ok());
    ends.map(|(_, end)| u64::try_from(end).unwrap_or(0)).sum()
}

fn exact_counts(address: &str) -> String {
    format!(
        r#"name: counts-by-id
source: {{ kafka: {{ brokers: "{address}", topic: keyed, group: counts }} }}
data_dir: data
stages: [{{ key_by: id }}, {{ aggregate: count }}]
sink: {{ kafka: {{ brokers: "{address}", topic: counted }} }}
delivery: exactly_once
"#
    )
}

fn fill_users(broker: &Broker) {
    broker.create_topic("users", PARTITIONS, &[("retention.ms", "-1")]);
    fill(broker, "users", of_user);
}

fn windows(broker: &Broker, report: &mut Report) {
    fill_users(broker);
    // One far behind on each partition closes all windows before it.
    let behind = MESSAGES + 10 * WINDOW_US / STEP_US;
    let producer = producer(broker);
    for nth in behind..behind + PARTITIONS as u64 {
        put(&producer, "users", nth, &of_user(nth));
    }
    producer.flush(PATIENCE).unwrap_or_else(|e| panic!("the input: {e}"));
    let results = MESSAGES * STEP_US / WINDOW_US * USERS;
    let measured = throughput(broker, Job::Windows, ("users", results));
    let cpu = one(measured.cpu_s * 2e6 / MESSAGES as f64);
    report.push(Row::figure(WINDOWS, "CPU-seconds for 2,000,000", &cpu, "s", Some(Target::AtMost(4.0))));
    report.push(Row::figure(WINDOWS, "peak memory", &one(measured.peak_mb), "MB", None));
}

/// A message of one of the users, at its event time.
fn of_user(nth: u64) -> String {
    let (user, ms) = (nth % USERS, nth * STEP_US / 1_000);
    padded(format!(
        r#"{{"id":"m{nth}","type":"click","timestamp":{ms},"payload":{{"user":"u{user}","n":{nth},"text":""#
    ))
}

fn one(figure: f64) -> Times {
    let mut times = Times::default();
    times.push(figure);
    times
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    config
}

fn producer(broker: &Broker) -> BaseProducer {
    let made = client(broker).set("enable.idempotence", "true").set("linger.ms", "1").create();
    made.unwrap_or_else(|e| panic!("a producer: {e}"))
}

fn put(producer: &BaseProducer, topic: &str, nth: u64, value: &str) {
    let partition = i32::try_from(nth % PARTITIONS as u64).unwrap_or_default();
    let key = nth.to_string();
    let mut record = BaseRecord::to(topic).partition(partition).key(&key).payload(value);
    while let Err((_, refused)) = producer.send(record) {
        producer.poll(Duration::from_millis(1));
        record = refused;
    }
    if nth.is_multiple_of(256) {
        producer.poll(Duration::ZERO);
    }
}

/// An envelope of `MESSAGE_BYTES`.
fn message(nth: u64, sent_us: u64) -> String {
    let kind = ["click", "view", "buy"][(nth % 3) as usize];
    padded(format!(
        r#"{{"id":"m{nth}","type":"{kind}","timestamp":"2026-01-01T00:00:00Z","payload":{{"sent":{sent_us},"text":""#
    ))
}

fn padded(mut text: String) -> String {
    let end = r#""},"metadata":{}}"#;
    while text.len() + end.len() < MESSAGE_BYTES {
        text.push('x');
    }
    text.push_str(end);
    text
}

fn fill(broker: &Broker, topic: &str, message: impl Fn(u64) -> String) {
    let producer = producer(broker);
    for nth in 0..MESSAGES {
        put(&producer, topic, nth, &message(nth));
    }
    producer.flush(PATIENCE).unwrap_or_else(|e| panic!("the input: {e}"));
}

/// What a run through a topic has cost.
struct Measured {
    /// Results a second.
    rate: f64,
    cpu_s: f64,
    peak_mb: f64,
}

/// Runs a job over a topic until so many results are there.
fn throughput(broker: &Broker, job: Job, (input, results): (&str, u64)) -> Measured {
    let output = match job {
        Job::Copy => "copied",
        Job::Service => "served",
        Job::Exact => "exact",
        Job::Windows => "windows",
        Job::Keyed => "keyed-here",
        Job::Exchanged => "keyed-through",
    };
    broker.create_topic(output, PARTITIONS, &[("retention.ms", "-1")]);
    let watch: BaseConsumer = client(broker).create().unwrap_or_else(|e| panic!("a consumer: {e}"));
    let written = || ends(&watch, output);
    let contender = Contender::start(job, broker, input, output);
    let begun = Instant::now();
    // Without the time that it takes to join its group.
    let mut first = None;
    loop {
        let so_far = written();
        if so_far > 0 && first.is_none() {
            first = Some((Instant::now(), so_far));
        }
        if so_far >= results {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{output}: {so_far} of {results} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (since, before) = first.unwrap_or((begun, 0));
    let rate = (results - before) as f64 / since.elapsed().as_secs_f64();
    Measured { rate, cpu_s: contender.cpu_s(), peak_mb: contender.peak_mb() }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The 99th percentile from putting to reading, in milliseconds.
fn latency(broker: &Broker, job: Job) -> f64 {
    let (input, output) = (format!("paced-{job:?}"), format!("seen-{job:?}"));
    let (input, output) = (input.as_str(), output.as_str());
    for topic in [input, output] {
        broker.create_topic(topic, PARTITIONS, &[("retention.ms", "-1")]);
    }
    let _contender = Contender::start(job, broker, input, output);
    let reader: BaseConsumer =
        client(broker).set("group.id", "reader").create().unwrap_or_else(|e| panic!("a consumer: {e}"));
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        // It fails for offsets below zero alone.
        let _ = list.add_partition_offset(output, partition, Offset::Beginning);
    }
    reader.assign(&list).unwrap_or_else(|e| panic!("{output}: {e}"));
    let all = LATENCY_RATE * LATENCY_SECONDS;
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let producer = producer(broker);
            // One that warms up; the pace begins when it has had time to come through.
            put(&producer, input, 0, &message(0, 0));
            std::thread::sleep(Duration::from_secs(5));
            let begun = Instant::now();
            // The first second is not counted: what is made with the first transactions is made once.
            for nth in 0..all + LATENCY_RATE {
                let due = Duration::from_micros(nth * 1_000_000 / LATENCY_RATE);
                while begun.elapsed() < due {
                    producer.poll(Duration::from_micros(200));
                    std::thread::sleep(Duration::from_micros(200));
                }
                let sent = if nth < LATENCY_RATE { 0 } else { now_us() };
                put(&producer, input, nth, &message(nth, sent));
            }
            producer.flush(PATIENCE).unwrap_or_else(|e| panic!("{input}: {e}"));
        });
        let begun = Instant::now();
        let mut times = Vec::new();
        while (times.len() as u64) < all {
            assert!(begun.elapsed() < PATIENCE, "{output}: {} of {all}", times.len());
            let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) else { continue };
            let text = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
            let sent = text.split_once(r#""sent":"#).map_or("", |(_, behind)| behind);
            let digits = sent.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            match digits.parse::<u64>() {
                Ok(sent) if sent > 0 => times.push(now_us().saturating_sub(sent)),
                _ => {}
            }
        }
        times.sort_unstable();
        times[times.len() * 99 / 100] as f64 / 1_000.0
    })
}
