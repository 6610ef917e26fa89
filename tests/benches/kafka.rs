//! The service between two Kafka topics, beside a bare copy: CPU time, rate, memory, latency.

use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use wasmill_tests::{Place, Running};

use crate::broker::Broker;
use crate::clock::Times;
use crate::report::{Report, Row, Target};

const MESSAGES: u64 = 2_000_000;
const MESSAGE_BYTES: usize = 192;
const PARTITIONS: i32 = 4;
const LATENCY_RATE: u64 = 5_000;
const LATENCY_SECONDS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(120);
/// A clock tick of /proc, in seconds.
const TICK_S: f64 = 0.01;
const WHAT: &str = "Kafka → seed's job → Kafka";

/// A process under measure; gone when dropped.
enum Contender {
    Copy(Child),
    Wasmill { running: Running, _place: Place },
}

impl Contender {
    fn start(is_copy: bool, broker: &Broker, input: &str, output: &str) -> Self {
        if is_copy {
            let this = std::env::current_exe().unwrap_or_else(|e| panic!("this program: {e}"));
            let child = Command::new(this).args(["copy", &broker.address(), input, output]).spawn();
            return Self::Copy(child.unwrap_or_else(|e| panic!("the copy: {e}")));
        }
        let place = Place::with_plugins(&["processed-at", "drop-ignored", "count-types"]);
        let service = place
            .wasmill(["run"])
            .env("KAFKA_BROKERS", broker.address())
            .env("KAFKA_TOPIC", input)
            .env("KAFKA_OUTPUT_TOPIC", output)
            .env("KAFKA_GROUP_ID", format!("service-{input}"))
            .env("DATA_DIR", "data")
            .env("WASMILL_HTTP", "off");
        let service = match std::env::var("BENCH_WORKERS") {
            Ok(workers) => service.env("WORKER_COUNT", workers),
            Err(_) => service,
        };
        Self::Wasmill { running: service.start(), _place: place }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Copy(child) => child.id(),
            Self::Wasmill { running, .. } => running.pid(),
        }
    }

    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Behind the name: the 14th and 15th field of all.
        let behind = stat.rsplit(')').next().unwrap_or_default();
        let ticks = behind.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
        ticks.sum::<f64>() * TICK_S
    }

    fn peak_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
        kib * 1024.0 / 1e6
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Self::Copy(child) = self {
            // It has no end of its own.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Measures; without Java it says so and measures nothing.
pub fn measure(report: &mut Report) {
    if Command::new("java").arg("-version").output().is_err() {
        eprintln!("not run: the Kafka figures, for there is no java");
        return;
    }
    let broker = Broker::start();
    broker.create_topic("in", PARTITIONS, &[("retention.ms", "-1")]);
    fill(&broker, "in");
    let names = ["bare librdkafka copy", "wasmill, counts on disk"];
    let mut rates = Vec::new();
    for (name, is_copy) in names.into_iter().zip([true, false]) {
        let (rate, cpu, peak) = throughput(&broker, is_copy);
        let target = |most: f64| (!is_copy).then_some(Target::AtMost(most));
        report.push(Row::figure(
            WHAT,
            &format!("{name}: CPU-seconds a million"),
            &one(cpu),
            "s",
            target(3.0),
        ));
        report.push(Row::figure(WHAT, &format!("{name}: peak memory"), &one(peak), "MB", target(120.0)));
        let aim = rates.first().map(|copy: &f64| Target::Aim((copy / 4.0).round()));
        report.push(Row::figure(WHAT, name, &one(rate), "messages/s", aim));
        rates.push(rate);
    }
    let mut copys = None;
    for (name, is_copy) in names.into_iter().zip([true, false]) {
        let p99 = latency(&broker, is_copy);
        let how = format!("{name}: p99 end to end at {LATENCY_RATE} messages/s");
        let target = copys.map(|copy: f64| Target::AtMost(((copy + 10.0) * 100.0).round() / 100.0));
        report.push(Row::figure(WHAT, &how, &one(p99), "ms", target));
        copys = Some(p99);
    }
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
    let mut text = format!(
        r#"{{"id":"m{nth}","type":"{kind}","timestamp":"2026-01-01T00:00:00Z","payload":{{"sent":{sent_us},"text":""#
    );
    let end = r#""},"metadata":{}}"#;
    while text.len() + end.len() < MESSAGE_BYTES {
        text.push('x');
    }
    text.push_str(end);
    text
}

fn fill(broker: &Broker, topic: &str) {
    let producer = producer(broker);
    for nth in 0..MESSAGES {
        put(&producer, topic, nth, &message(nth, 0));
    }
    producer.flush(PATIENCE).unwrap_or_else(|e| panic!("the input: {e}"));
}

/// Messages a second, CPU-seconds a million, peak memory in MB.
fn throughput(broker: &Broker, is_copy: bool) -> (f64, f64, f64) {
    let output = if is_copy { "copied" } else { "served" };
    broker.create_topic(output, PARTITIONS, &[("retention.ms", "-1")]);
    let watch: BaseConsumer = client(broker).create().unwrap_or_else(|e| panic!("a consumer: {e}"));
    let written = || -> u64 {
        let ends = (0..PARTITIONS).filter_map(|p| watch.fetch_watermarks(output, p, PATIENCE).ok());
        ends.map(|(_, end)| u64::try_from(end).unwrap_or(0)).sum()
    };
    let contender = Contender::start(is_copy, broker, "in", output);
    let begun = Instant::now();
    // Without the time that it takes to join its group.
    let mut first = None;
    loop {
        let so_far = written();
        if so_far > 0 && first.is_none() {
            first = Some((Instant::now(), so_far));
        }
        if so_far >= MESSAGES {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{output}: {so_far} of {MESSAGES} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (since, before) = first.unwrap_or((begun, 0));
    let rate = (MESSAGES - before) as f64 / since.elapsed().as_secs_f64();
    (rate, contender.cpu_s() * 1e6 / MESSAGES as f64, contender.peak_mb())
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The 99th percentile from putting to reading, in milliseconds.
fn latency(broker: &Broker, is_copy: bool) -> f64 {
    let (input, output) = if is_copy { ("paced-1", "seen-1") } else { ("paced-2", "seen-2") };
    for topic in [input, output] {
        broker.create_topic(topic, PARTITIONS, &[("retention.ms", "-1")]);
    }
    let _contender = Contender::start(is_copy, broker, input, output);
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
            for nth in 0..all {
                let due = Duration::from_micros(nth * 1_000_000 / LATENCY_RATE);
                while begun.elapsed() < due {
                    producer.poll(Duration::from_micros(200));
                    std::thread::sleep(Duration::from_micros(200));
                }
                put(&producer, input, nth, &message(nth, now_us()));
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
