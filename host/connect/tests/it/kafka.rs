//! The Kafka connector on a real broker, with kcat as the other end. One broker serves the whole file.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::{Duration, Instant};

use wasmill_connect::codec::json::{self, JsonDecoder};
use wasmill_connect::kafka::{KafkaSinkSpec, KafkaSourceSpec, KeyFrom, OffsetReset};
use wasmill_connect::table::{SinkConnector, SourceConnector};
use wasmill_connect::{
    Change, ConnectorError, Membership, Partition, Polled, Positions, Reader, Sink, Source,
};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::output::{EncodedBatch, EncodedRecord, OutputId};
use wasmill_engine::position::PartitionId;
use wasmill_frame::FrameBuf;

use crate::support::broker::{self, Broker};

/// How long anything may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn kcat(broker: &Broker, arguments: &[&str], input: &str) -> String {
    broker::kcat(&broker.address(), arguments, input)
}

fn produce(broker: &Broker, topic: &str, partition: u32, lines: impl IntoIterator<Item = String>) {
    let text: String = lines.into_iter().map(|l| l + "\n").collect();
    kcat(broker, &["-P", "-t", topic, "-p", &partition.to_string()], &text);
}

/// What kcat reads of a topic, one line a record.
fn consume(broker: &Broker, topic: &str, format: &str) -> Vec<String> {
    let out =
        kcat(broker, &["-C", "-e", "-q", "-t", topic, "-o", "beginning", "-f", &format!("{format}\\n")], "");
    out.lines().map(str::to_owned).collect()
}

async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

async fn records(reader: &mut dyn Reader, count: usize) -> Vec<RawBatch> {
    let mut batches: Vec<RawBatch> = Vec::new();
    while batches.iter().map(|b| b.records.len()).sum::<usize>() < count {
        match patiently("records", reader.poll(1000, 1 << 20)).await.expect("records") {
            Polled::Records(batch) => batches.push(batch),
            Polled::End => panic!("a topic has no end"),
        }
    }
    batches
}

fn values(batches: &[RawBatch]) -> Vec<String> {
    let value = |b: &RawBatch, r: &wasmill_engine::input::RawRecord| {
        String::from_utf8(b.data[r.value.clone()].to_vec()).expect("UTF-8")
    };
    batches.iter().flat_map(|b| b.records.iter().map(|r| value(b, r)).collect::<Vec<_>>()).collect()
}

fn source(broker: &Broker, topic: &str, group: &str) -> Box<dyn Source> {
    KafkaSourceSpec::new(broker.address(), topic, group).source().expect("a source")
}

/// Takes all partitions as the host does: again and again while the other end is away.
async fn take_all(source: &mut dyn Source) -> Vec<Partition> {
    let until = Instant::now() + PATIENCE;
    loop {
        match source.take_all().await {
            Ok(partitions) => return partitions,
            // A broker that has just started loads its groups for a while.
            Err(ConnectorError::Disconnected { what, cause }) => {
                assert!(Instant::now() < until, "{what}: {cause}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn sink(broker: &Broker, topic: &str) -> Box<dyn Sink> {
    let mut sink = KafkaSinkSpec::new(broker.address(), topic).sink().expect("a sink");
    patiently("recover", sink.recover(None)).await.expect("the topic is there");
    sink
}

fn batch<'a>(records: impl IntoIterator<Item = (Option<&'a str>, String)>) -> EncodedBatch {
    let mut batch = EncodedBatch::default();
    for (key, text) in records {
        let mut append = |text: &str| {
            let start = batch.data.len();
            batch.data.extend_from_slice(text.as_bytes());
            start..batch.data.len()
        };
        let (value, key) = (append(&text), key.map(&mut append));
        batch.records.push(EncodedRecord { value, key, ..EncodedRecord::default() });
    }
    batch
}

type Case = fn(&Broker);

#[test]
fn the_connector_on_a_real_broker() {
    let broker = Broker::start();
    let cases: [(&str, Case); 11] = [
        ("round_trip", round_trip),
        ("partitioner", partitioner),
        ("missing_topic", missing_topic),
        ("oversize", oversize),
        ("shared", shared),
        ("alone", alone),
        ("commit_and_resume", commit_and_resume),
        ("outside_the_log", outside_the_log),
        ("held_back", held_back),
        ("made_anew", made_anew),
        ("forgotten", forgotten),
    ];
    std::thread::scope(|scope| {
        for (name, case) in cases {
            let broker = &broker;
            let timed = move || {
                let since = Instant::now();
                case(broker);
                println!("{name}: {:?}", since.elapsed());
            };
            std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, timed).expect("a thread");
        }
    });
    // These stop the broker: nothing else may run then.
    frozen(&broker);
    drop(broker);
}

/// kcat writes, the source reads, the codec turns messages over, the sink writes, kcat reads.
fn round_trip(broker: &Broker) {
    broker.create_topic("round-in", 1, &[("retention.ms", "-1")]);
    broker.create_topic("round-out", 1, &[("retention.ms", "-1")]);
    let line = r#"{"id":"1","type":"order","payload":{"a":1.50},"timestamp":1700000000123,"metadata":{}}"#;
    let arguments = ["-P", "-t", "round-in", "-K", "|", "-Z", "-H", "trace=abc", "-H", "trace=d"];
    kcat(broker, &arguments, &format!("k1|{line}\ngone|\n"));
    block_on(async {
        let mut source = source(broker, "round-in", "round");
        let listed = source.partitions().await.expect("partitions");
        assert_eq!(listed.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["round-in[0]"]);
        let partitions = take_all(&mut *source).await;
        assert_eq!((partitions[0].begin, partitions[0].extent), (0, Some(2)));
        let mut reader = source.open(0, 0).await.expect("a reader");
        let batches = records(&mut *reader, 2).await;

        let mut sink = sink(broker, "round-out").await;
        let mut encoded = EncodedBatch::default();
        for raw in &batches {
            for record in &raw.records {
                assert_eq!(record.next, record.offset + 1);
                let time = record.time_ms.expect("a time");
                assert!(time > 1_600_000_000_000, "{time}");
                assert_eq!(record.appended_ms, None, "it is the producer's");
                assert_eq!(record.headers.len(), 2);
                assert_eq!(record.tombstone, record.offset == 1);
                let mut frame = FrameBuf::default();
                JsonDecoder.decode(record, raw, &mut frame).expect("a message");
                let id = OutputId::Message {
                    partition: PartitionId { source: 0, partition: 0 },
                    offset: record.offset,
                    index: 0,
                    emit: 0,
                    left_at: "",
                };
                sink.encoder(&json::writing()).encode(frame.get(0), &id, &mut encoded).expect("a record");
            }
        }
        sink.write(&encoded).await.expect("written");
        patiently("flush", sink.flush()).await.expect("flushed");
        assert_eq!(sink.refused(), []);
        sink.close(true).await.expect("closed");
    });
    let out = consume(broker, "round-out", "%k|%S|%h|%s");
    assert_eq!(out[0], format!("k1|{}|trace=abc,trace=d|{line}", line.len()));
    assert_eq!(out[1], "gone|-1|trace=abc,trace=d|");
    let times = consume(broker, "round-out", "%T");
    assert_eq!(times[0], "1700000000123");
}

/// Kafka's own test vectors of murmur2 (org.apache.kafka.common.utils.UtilsTest).
const MURMUR2: [(&str, i32); 6] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ("abc", 479_470_107),
];

fn partitioner(broker: &Broker) {
    broker.create_topic("spread", 7, &[]);
    block_on(async {
        let mut sink = sink(broker, "spread").await;
        let written = batch(MURMUR2.iter().map(|(key, _)| (Some(*key), "v".to_owned())));
        sink.write(&written).await.expect("written");
        patiently("flush", sink.flush()).await.expect("flushed");
        sink.close(true).await.expect("closed");
    });
    let found: BTreeSet<String> = consume(broker, "spread", "%k %p").into_iter().collect();
    let expected = MURMUR2.iter().map(|(key, hash)| format!("{key} {}", (hash & 0x7fff_ffff) % 7)).collect();
    assert_eq!(found, expected);
}

fn missing_topic(broker: &Broker) {
    block_on(async {
        let told = |error: ConnectorError| match error {
            ConnectorError::Disconnected { what, cause } => format!("{what}: {cause}"),
            error => panic!("not to be tried again: {error}"),
        };
        let mut source = source(broker, "later", "missing");
        let mut sink = KafkaSinkSpec::new(broker.address(), "later").sink().expect("a sink");
        for text in [
            told(source.partitions().await.expect_err("no topic")),
            told(source.take_all().await.expect_err("no topic")),
            told(source.join(Positions::Source).await.err().expect("no topic")),
            told(sink.recover(None).await.expect_err("no topic")),
        ] {
            let expected = format!("topic later does not exist at {}: create it", broker.address());
            assert!(text.starts_with(&expected), "{text}");
        }
        broker_thread(broker, |b| b.create_topic("later", 1, &[]));
        assert_eq!(take_all(&mut *source).await.len(), 1);
        sink.recover(None).await.expect("created by now");
        drop(source);

        // Nobody listens there.
        let mut away = KafkaSourceSpec::new("127.0.0.1:1", "later", "missing").source().expect("a source");
        let text = told(away.partitions().await.expect_err("no broker"));
        assert!(text.contains("127.0.0.1:1") && text.contains("refused"), "{text}");
    });
}

/// Topics are created by a runtime of their own, which can't start inside another.
fn broker_thread(broker: &Broker, work: impl FnOnce(&Broker) + Send) {
    std::thread::scope(|scope| scope.spawn(|| work(broker)).join().expect("no panic"));
}

fn oversize(broker: &Broker) {
    broker.create_topic("small", 1, &[("max.message.bytes", "20000")]);
    block_on(async {
        let mut sink = sink(broker, "small").await;
        let text = |i: usize| format!("{i}:{}", "x".repeat(if i % 50 == 7 { 30_000 } else { 1000 }));
        let written = batch((0..100).map(|i| (Some("k"), text(i))));
        sink.write(&written).await.expect("written");
        patiently("flush", sink.flush()).await.expect("flushed");
        let refused = sink.refused();
        let numbers: Vec<&str> = refused
            .iter()
            .map(|r| std::str::from_utf8(&r.value).expect("UTF-8").split(':').next().expect("a number"))
            .collect();
        assert_eq!(numbers, ["7", "57"], "{:?}", refused.iter().map(|r| &r.reason).collect::<Vec<_>>());
        assert_eq!(refused[0].key.as_deref(), Some(&b"k"[..]));
        assert!(refused[0].reason.contains("max.message.bytes"), "{}", refused[0].reason);
        assert_eq!(sink.refused(), [], "told twice");
        // It goes on after that.
        sink.write(&batch([(Some("k"), "last".to_owned())])).await.expect("written");
        patiently("flush", sink.flush()).await.expect("flushed");
        sink.close(true).await.expect("closed");
    });
    let got = consume(broker, "small", "%S");
    assert_eq!(got.len(), 99);
    assert!(got.iter().all(|size| size.parse::<usize>().expect("a size") < 20_000));
}

/// A process of a group: reads what is its own until it has been quiet for a while, commits what it read.
struct Process {
    source: Box<dyn Source>,
    member: Box<dyn Membership>,
    readers: BTreeMap<u32, Box<dyn Reader>>,
    next: BTreeMap<u32, u64>,
    seen: Vec<String>,
}

impl Process {
    async fn join(broker: &Broker, topic: &str, group: &str) -> Self {
        let mut source = source(broker, topic, group);
        let member = source.join(Positions::Source).await.expect("a member");
        Self { source, member, readers: BTreeMap::new(), next: BTreeMap::new(), seen: Vec::new() }
    }

    async fn change(&mut self, change: Change) {
        match change {
            Change::Assigned(partitions) => {
                for Partition { number, begin, .. } in partitions {
                    let reader = self.source.open(number, begin).await.expect("a reader");
                    self.readers.insert(number, reader);
                    self.next.insert(number, begin);
                }
            }
            Change::Revoked { partitions, release } => {
                let offsets: Vec<(u32, u64)> =
                    self.next.iter().filter(|(p, _)| partitions.contains(p)).map(|(p, o)| (*p, *o)).collect();
                self.source.commit(&offsets).await.expect("committed");
                self.readers.retain(|p, _| !partitions.contains(p));
                self.next.retain(|p, _| !partitions.contains(p));
                drop(release);
            }
            Change::Lost(partitions) => panic!("lost {partitions:?}"),
        }
    }

    /// Waits for its partition; answers where that begins.
    async fn until_assigned(&mut self) -> u64 {
        let change = patiently("a change", self.member.next()).await.expect("one");
        let Change::Assigned(partitions) = &change else { panic!("{change:?}") };
        let begin = partitions[0].begin;
        self.change(change).await;
        begin
    }

    /// Reads for a while.
    async fn work(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let short = Duration::from_millis(10);
            if let Ok(change) = tokio::time::timeout(short, self.member.next()).await {
                self.change(change.expect("a change")).await;
            }
            for (number, reader) in &mut self.readers {
                if let Ok(polled) = tokio::time::timeout(short, reader.poll(50, 1 << 20)).await {
                    let Polled::Records(batch) = polled.expect("records") else { panic!("an end") };
                    self.next.insert(*number, batch.next);
                    self.seen.extend(values(&[batch]));
                }
            }
        }
    }
}

fn shared(broker: &Broker) {
    broker.create_topic("many", 4, &[]);
    let lines = |partition, from| (from..from + 300).map(move |i| format!("{partition}-{i}"));
    let feed = |from: usize| (0..4).for_each(|p| produce(broker, "many", p, lines(p, from)));
    feed(0);
    block_on(async {
        let second = Duration::from_secs(1);
        let mut first = Process::join(broker, "many", "shared").await;
        let until = Instant::now() + PATIENCE;
        while first.readers.len() < 4 {
            assert!(Instant::now() < until, "alone it has all");
            first.work(second / 10).await;
        }
        feed(300);
        let mut other = Process::join(broker, "many", "shared").await;
        while (first.readers.len(), other.readers.len()) != (2, 2) {
            assert!(Instant::now() < until, "shared out");
            tokio::join!(first.work(second / 10), other.work(second / 10));
        }
        while first.source.extents().iter().map(|(_, end)| *end).ne([600, 600]) {
            assert!(Instant::now() < until, "the ends of its two: {:?}", first.source.extents());
            first.work(second / 10).await;
        }
        feed(600);
        first.work(second / 5).await;
        // The first leaves in order: it commits what it read. Dropping it waits for the commit.
        let offsets: Vec<(u32, u64)> = first.next.iter().map(|(p, o)| (*p, *o)).collect();
        first.source.commit(&offsets).await.expect("committed");
        let mut seen = std::mem::take(&mut first.seen);
        tokio::task::spawn_blocking(move || drop(first)).await.expect("dropped");
        while other.readers.len() < 4 || other.next.values().any(|o| *o < 900) {
            assert!(Instant::now() < until, "what the first left is taken over");
            other.work(second / 10).await;
        }
        seen.append(&mut other.seen);
        assert_eq!(seen.len(), 3600, "repeats");
        let expected = (0..4).flat_map(|p| [0, 300, 600].into_iter().flat_map(move |from| lines(p, from)));
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected.collect());
    });
}

fn alone(broker: &Broker) {
    broker.create_topic("single", 2, &[]);
    produce(broker, "single", 1, (0..10).map(|i| i.to_string()));
    let spec = || {
        let mut spec = KafkaSourceSpec::new(broker.address(), "single", "alone");
        spec.properties.insert("session.timeout.ms".into(), wasmill_connect::kafka::Property("3000".into()));
        spec.properties
            .insert("heartbeat.interval.ms".into(), wasmill_connect::kafka::Property("300".into()));
        spec
    };
    block_on(async {
        let mut first = spec().source().expect("a source");
        assert_eq!(take_all(&mut *first).await.len(), 2);
        let mut reader = first.open(1, 3).await.expect("a reader");
        assert_eq!(values(&records(&mut *reader, 7).await), ["3", "4", "5", "6", "7", "8", "9"]);

        let mut second = spec().source().expect("a source");
        let refused = second.take_all().await.expect_err("another has them").to_string();
        assert!(refused.contains("group alone has other members: wasmill"), "{refused}");
        assert!(refused.contains("Redis") && refused.contains("127.0.0.1"), "{refused}");

        // The first goes on; a reader that was closed begins where it is told to.
        let mut again = first.open(1, 9).await.expect("a reader");
        assert_eq!(values(&records(&mut *again, 1).await), ["9"]);
        // Another member that takes a part is told to the readers.
        let mut intruder = spec().source().expect("a source");
        let _member = intruder.join(Positions::Source).await.expect("a member");
        let mut other = first.open(0, 0).await.expect("a reader");
        let told = patiently("an error", async {
            tokio::select! { e = again.poll(1, 1) => e, e = other.poll(1, 1) => e }
        });
        let told = told.await.expect_err("taken").to_string();
        assert!(told.contains("group alone has other members"), "{told}");
    });
}

fn commit_and_resume(broker: &Broker) {
    broker.create_topic("resumed", 1, &[]);
    produce(broker, "resumed", 0, (0..20).map(|i| i.to_string()));
    block_on(async {
        for (begin, next) in [(0, 5), (5, 17), (17, 20)] {
            let mut process = Process::join(broker, "resumed", "resume").await;
            let Change::Assigned(partitions) =
                patiently("a change", process.member.next()).await.expect("one")
            else {
                panic!("not assigned")
            };
            assert_eq!((partitions[0].begin, partitions[0].extent), (begin, Some(20)));
            process.change(Change::Assigned(partitions)).await;
            process.source.commit(&[(0, next)]).await.expect("committed");
            drop(process);
        }
        // Positions of the store: the group's are no matter.
        let mut spec = KafkaSourceSpec::new(broker.address(), "resumed", "resume");
        for (reset, begin) in [(OffsetReset::Earliest, 0), (OffsetReset::Latest, 20)] {
            spec.auto_offset_reset = reset;
            let mut source = spec.source().expect("a source");
            assert_eq!(take_all(&mut *source).await[0].begin, begin);
        }
    });
}

fn outside_the_log(broker: &Broker) {
    broker.create_topic("short", 1, &[]);
    produce(broker, "short", 0, (0..20).map(|i| i.to_string()));
    broker.delete_before("short", 0, 10);
    block_on(async {
        let mut source = source(broker, "short", "outside");
        assert_eq!(take_all(&mut *source).await[0].begin, 10);
        for offset in [0, 9, 21, u64::MAX / 2] {
            let refused = source.open(0, offset).await.err().expect("outside").to_string();
            assert!(refused.contains("short[0]") && refused.contains("wasmill reset"), "{refused}");
        }
        let mut reader = source.open(0, 20).await.expect("the end is inside");
        assert!(tokio::time::timeout(Duration::from_millis(300), reader.poll(1, 1)).await.is_err());
        produce(broker, "short", 0, ["20".to_owned()]);
        assert_eq!(values(&records(&mut *reader, 1).await), ["20"]);
        // While it is read: what comes next is removed before it is fetched.
        let mut reader = source.open(0, 10).await.expect("a reader");
        assert_eq!(values(&records(&mut *reader, 11).await).len(), 11);
    });
}

/// A partition that nobody reads is fetched no further than the bound; the others go on.
fn held_back(broker: &Broker) {
    broker.create_topic("held", 2, &[]);
    let lines = |n: usize| (0..n).map(|i| format!("{i:0>1000}"));
    produce(broker, "held", 0, lines(20_000));
    produce(broker, "held", 1, lines(20_000));
    block_on(async {
        let mut source = source(broker, "held", "held");
        take_all(&mut *source).await;
        let mut held = source.open(0, 0).await.expect("a reader");
        let mut read = source.open(1, 0).await.expect("a reader");
        let _ = records(&mut *held, 1).await;
        let got = values(&records(&mut *read, 20_000).await);
        assert!(got.into_iter().eq(lines(20_000)));
        let first = 20_000 - records(&mut *held, 15_000).await.iter().map(|b| b.records.len()).sum::<usize>();
        assert!(first > 0);
    });
}

/// A topic of the same name is another one, and an offset that was committed in the old one is refused.
fn made_anew(broker: &Broker) {
    broker.create_topic("anew", 1, &[]);
    produce(broker, "anew", 0, (0..10).map(|i| i.to_string()));
    block_on(async {
        let mut first = source(broker, "anew", "anew");
        let before = first.partitions().await.expect("partitions").remove(0);
        assert_eq!(take_all(&mut *first).await[0].incarnation, before.incarnation);
        assert!(before.incarnation.starts_with("anew#"), "{}", before.incarnation);
        first.close().await.expect("closed");
        let mut process = Process::join(broker, "anew", "anew").await;
        process.work(Duration::from_secs(1)).await;
        broker_thread(broker, |b| {
            b.delete_topic("anew");
            b.create_topic("anew", 1, &[]);
            produce(b, "anew", 0, (0..20).map(|i| i.to_string()));
        });
        // As one that did not notice: its offset is committed in the new topic, with the old one's id.
        process.source.commit(&[(0, 7)]).await.expect("taken note of");
        let until = Instant::now() + PATIENCE;
        let told = loop {
            assert!(Instant::now() < until, "it is noticed while it is read");
            let change = tokio::time::timeout(Duration::from_secs(1), process.member.next()).await;
            match change {
                Ok(Err(ConnectorError::Fatal(text))) => break text,
                // The group may notice first that the topic was away.
                Ok(Ok(Change::Revoked { release, .. })) => drop(release),
                Ok(Ok(Change::Assigned(partitions))) => {
                    assert_eq!(partitions[0].begin, 0, "Kafka has dropped its offset");
                    return;
                }
                _ => {}
            }
        };
        assert!(told.contains("made anew") && told.contains("wasmill reset"), "{told}");
        drop(process);

        let mut again = source(broker, "anew", "anew");
        let now = again.partitions().await.expect("partitions").remove(0);
        assert_ne!(now.incarnation, before.incarnation);
        for (stored, same) in [
            (now.incarnation.as_str(), true),
            (before.incarnation.as_str(), false),
            // What wasmill wrote before it knew of ids.
            ("anew", true),
            ("another", false),
        ] {
            assert_eq!(again.is_same_log(&now, stored).await.expect("an answer"), same, "{stored}");
        }
        let mut member = again.join(Positions::Source).await.expect("a member");
        let told = patiently("a change", member.next()).await.err().map(|e| e.to_string());
        let told = told.expect("an offset of the old topic");
        assert!(told.contains(&before.incarnation) && told.contains("wasmill reset"), "{told}");
    });
}

/// A group forgets where it is in a topic, and only there, and only when nobody is in it.
fn forgotten(broker: &Broker) {
    for topic in ["forgotten", "kept"] {
        broker.create_topic(topic, 1, &[]);
        produce(broker, topic, 0, (0..10).map(|i| i.to_string()));
    }
    let spec = KafkaSourceSpec::new(broker.address(), "forgotten", "forget");
    spec.reset().expect("a group that never was");
    block_on(async {
        for topic in ["forgotten", "kept"] {
            let mut process = Process::join(broker, topic, "forget").await;
            process.until_assigned().await;
            process.source.commit(&[(0, 5)]).await.expect("committed");
            let refused = tokio::task::spawn_blocking({
                let spec = spec.clone();
                move || spec.reset().expect_err("a member").to_string()
            });
            let refused = refused.await.expect("no panic");
            assert!(refused.contains("group forget has members: wasmill"), "{refused}");
            assert!(refused.contains("stop them"), "{refused}");
            process.source.close().await.expect("closed");
        }
        let reset = spec.clone();
        tokio::task::spawn_blocking(move || reset.reset()).await.expect("no panic").expect("forgotten");
        for (topic, begin) in [("forgotten", 0), ("kept", 5)] {
            let mut process = Process::join(broker, topic, "forget").await;
            assert_eq!(process.until_assigned().await, begin, "{topic}");
            process.source.close().await.expect("closed");
        }
    });
}

/// The broker hangs while a flush waits: nothing is lost, and nothing is written twice.
fn frozen(broker: &Broker) {
    broker.create_topic("frozen", 1, &[]);
    block_on(async {
        let mut sink = sink(broker, "frozen").await;
        let line = |i: usize| format!("{i}");
        sink.write(&batch((0..100).map(|i| (None, line(i))))).await.expect("written");
        patiently("flush", sink.flush()).await.expect("flushed");
        broker.freeze();
        sink.write(&batch((100..5000).map(|i| (None, line(i))))).await.expect("written");
        let since = Instant::now();
        for _ in 0..2 {
            let away = patiently("flush", sink.flush()).await.expect_err("nobody answers");
            let ConnectorError::Disconnected { what, .. } = &away else { panic!("{away}") };
            assert!(what.contains("frozen"), "{away}");
        }
        assert!(since.elapsed() < Duration::from_secs(15));
        broker.thaw();
        let until = Instant::now() + PATIENCE;
        while let Err(error) = sink.flush().await {
            assert!(Instant::now() < until, "{error}");
        }
        assert_eq!(sink.refused(), []);
        sink.close(true).await.expect("closed");
        let expected: Vec<String> = (0..5000).map(line).collect();
        assert!(consume(broker, "frozen", "%s") == expected, "lost, doubled or swapped");
    });
}

#[test]
fn keys_are_chosen_by_the_spec() {
    let mut frame = FrameBuf::default();
    let line = br#"{"id":"7","type":"order","payload":1,"metadata":{}}"#;
    let mut data = line.to_vec();
    data.extend_from_slice(b"came-with");
    let record = wasmill_engine::input::RawRecord {
        value: 0..line.len(),
        key: Some(line.len()..data.len()),
        ..Default::default()
    };
    let batch = RawBatch { data, ..RawBatch::of_value(b"") };
    JsonDecoder.decode(&record, &batch, &mut frame).expect("a message");
    let id = OutputId::Message {
        partition: PartitionId { source: 0, partition: 0 },
        offset: 0,
        index: 0,
        emit: 0,
        left_at: "",
    };
    for (key, expected) in [
        (KeyFrom::Message, Some("came-with")),
        (KeyFrom::Id, Some("7")),
        (KeyFrom::Type, Some("order")),
        (KeyFrom::None, None),
    ] {
        let spec = KafkaSinkSpec { key, ..KafkaSinkSpec::new("127.0.0.1:1", "t") };
        let mut out = EncodedBatch::default();
        spec.sink()
            .expect("a sink")
            .encoder(&json::writing())
            .encode(frame.get(0), &id, &mut out)
            .expect("a record");
        let record = &out.records[0];
        assert_eq!(record.key.clone().map(|k| &out.data[k]), expected.map(str::as_bytes));
        assert_eq!(&out.data[record.value.clone()], line);
    }
}

#[test]
fn what_is_wrong_in_a_spec_is_told_before_anything_connects() {
    let told = |text: &str| {
        let spec: wasmill_connect::table::SinkSpec = serde_json::from_str(text).expect("a spec");
        spec.sink().err().map(|e| e.to_string()).unwrap_or_default()
    };
    let typo = told(r#"{"kafka":{"brokers":"b:1","topic":"t","properties":{"compresion.type":"zstd"}}}"#);
    assert!(typo.contains("compresion.type") && typo.contains("did you mean `compression.type`"), "{typo}");
    let owned = told(r#"{"kafka":{"brokers":"b:1","topic":"t","properties":{"acks":1}}}"#);
    assert!(owned.contains("`acks`") && owned.contains("lost"), "{owned}");
    assert_eq!(told(r#"{"kafka":{"brokers":"b:1","topic":"t","properties":{"linger.ms":5}}}"#), "");
    let empty = told(r#"{"kafka":{"brokers":" ","topic":"t"}}"#);
    assert!(empty.contains("brokers"), "{empty}");
}
