//! Redis Streams on a real server: what is read, what is lost and told, what is written once.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmill_connect::redis_streams::{RedisAcksStore, RedisSinkSpec, RedisSourceSpec, Start};
use wasmill_connect::table::{SinkConnector, SourceConnector};
use wasmill_connect::units::HumanDuration;
use wasmill_connect::{Change, ConnectorError, Partition, Polled, Positions, Reader, Sink, Source, Writer};
use wasmill_engine::input::RawRecord;
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::state::{Change as StateChange, Checkpoint, Delta, StateStore, StoreError};

use crate::servers::RedisServer;
use crate::support::redis::Streams;

/// How long anything may take to come.
const SOON: Duration = Duration::from_secs(20);

/// A process: what it runs stands still while it isn't asked.
struct Process(tokio::runtime::Runtime);

impl Process {
    fn new() -> Self {
        Self(tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"))
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.block_on(async { tokio::time::timeout(SOON, work).await.expect("it takes too long") })
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let process = Process::new();
    let done = process.block_on(work);
    process.0.shutdown_background();
    done
}

type Record = (u64, u64, String);

fn id_of(value: &[u8]) -> String {
    let message: serde_json::Value = serde_json::from_slice(value).expect("JSON");
    message["id"].as_str().expect("an id").to_owned()
}

async fn poll(reader: &mut dyn Reader, max: usize) -> Result<Vec<(RawRecord, Vec<u8>)>, ConnectorError> {
    let Polled::Records(batch) = reader.poll(max, 1 << 20).await? else { panic!("a stream ends never") };
    assert!(!batch.records.is_empty() && batch.records.len() <= max);
    assert_eq!(batch.next, batch.records.last().expect("one").next);
    Ok(batch.records.iter().map(|r| (r.clone(), batch.data[r.value.clone()].to_vec())).collect())
}

/// So many messages: offset, next, id.
async fn read(reader: &mut dyn Reader, messages: usize) -> Vec<Record> {
    let mut found = Vec::new();
    while found.len() < messages {
        for (r, value) in poll(reader, messages - found.len()).await.expect("messages") {
            found.push((r.offset, r.next, id_of(&value)));
        }
    }
    found
}

fn ids(records: &[Record]) -> Vec<usize> {
    records.iter().map(|(_, _, id)| id.parse().expect("a number")).collect()
}

/// Whether nothing comes for a while.
async fn is_quiet(reader: &mut dyn Reader, within: Duration) -> bool {
    tokio::time::timeout(within, reader.poll(10, 1 << 20)).await.is_err()
}

async fn alone(spec: &RedisSourceSpec) -> (Box<dyn Source>, Partition) {
    let mut source = spec.source().expect("a source");
    let partition = source.take_all().await.expect("the stream").remove(0);
    (source, partition)
}

async fn joined(spec: &RedisSourceSpec) -> (Box<dyn Source>, Box<dyn Reader>, u32) {
    let source = spec.source().expect("a source");
    join(source).await
}

async fn join(mut source: Box<dyn Source>) -> (Box<dyn Source>, Box<dyn Reader>, u32) {
    let mut member = source.join(Positions::Source).await.expect("a member");
    let Change::Assigned(partitions) = member.next().await.expect("a change") else { panic!("not assigned") };
    let reader = source.open(partitions[0].number, partitions[0].begin).await.expect("a reader");
    assert!(tokio::time::timeout(Duration::from_millis(1), member.next()).await.is_err());
    (source, reader, partitions[0].number)
}

fn member(spec: &RedisSourceSpec, consumer: &str, claim_idle_ms: u64) -> RedisSourceSpec {
    let claim_idle = HumanDuration(Duration::from_millis(claim_idle_ms));
    RedisSourceSpec { consumer: Some(consumer.to_owned()), claim_idle, ..spec.clone() }
}

#[test]
fn a_log_is_read_from_any_position() {
    let Some(server) = RedisServer::start("a log") else { return };
    let spec = server.source("s", 500);
    server.say(&["XADD", "s", "*", "id", "500", "type", "t"]);
    block_on(async {
        let (mut source, partition) = alone(&spec).await;
        assert!(source.sequences().is_none());
        source.check_append_times().await.expect("Redis's own ids");
        let mut reader = source.open(0, partition.begin).await.expect("a reader");
        let all = read(&mut *reader, 501).await;
        assert_eq!(ids(&all), (0..501).collect::<Vec<_>>());
        assert!(
            all.is_sorted_by(|a, b| a.1 <= b.0) && all.iter().all(|(offset, next, _)| offset + 1 == *next)
        );

        // A wait that was dropped loses nothing.
        for n in 501..520 {
            let wait = Duration::from_millis(if n % 2 == 0 { 30 } else { 1 });
            assert!(is_quiet(&mut *reader, wait).await);
            server.add("s", n..n + 1);
            assert_eq!(ids(&read(&mut *reader, 1).await), [n]);
        }
        source.commit(&[(0, all[99].1)]).await.expect("a commit");
        for from in [1, 100, 300, 500] {
            let (mut source, again) = alone(&spec).await;
            assert_eq!(again, partition);
            let mut reader = source.open(0, all[from - 1].1).await.expect("a reader");
            let got = read(&mut *reader, 501 - from).await;
            assert_eq!(got, all[from..]);
            assert_eq!(source.lost(), 0);
        }

        // What comes from now on; with times that the entries have.
        let late = RedisSourceSpec { start: Start::Latest, ..spec.clone() };
        let (mut source, partition) = alone(&late).await;
        let mut reader = source.open(0, partition.begin).await.expect("a reader");
        server.add("s", 900..901);
        let (record, value) = poll(&mut *reader, 10).await.expect("one").remove(0);
        assert_eq!(id_of(&value), "900");
        assert_eq!(record.time_ms, Some((record.offset >> 20) as i64));
        assert_eq!(record.appended_ms, record.time_ms);

        for offset in [record.next + 10, u64::MAX / 2] {
            let error = source.open(0, offset).await.err().expect("outside").to_string();
            assert!(error.contains("wasmill reset"), "{error}");
        }
        assert!(source.is_same_log(&partition, &partition.incarnation).await.expect("asked"));
        assert!(!source.is_same_log(&partition, "another").await.expect("asked"));
        // A stream under the same name in another Redis, or behind a FLUSHALL, is another.
        server.say(&["DEL", "wasmill:{s}:incarnation"]);
        assert_ne!(alone(&spec).await.1.incarnation, partition.incarnation);

        for (name, id) in [("odd", "5-1048576"), ("far", "17592186044416-0")] {
            server.say(&["XADD", name, id, "message", "{}"]);
            let spec = RedisSourceSpec::new(server.url(), name, "g");
            let mut source = spec.source().expect("a source");
            assert!(source.check_append_times().await.is_err());
            let told = match source.open(0, 0).await {
                Ok(mut reader) => poll(&mut *reader, 1).await.expect_err("out of bounds"),
                Err(e) => e,
            };
            assert!(
                matches!(&told, ConnectorError::Fatal(t) if t.contains(id) && t.contains("XADD with *")),
                "{told}"
            );
        }
    });
}

#[test]
fn what_is_trimmed_from_a_log_is_counted() {
    let Some(server) = RedisServer::start("a trimmed log") else { return };
    let spec = server.source("s", 100);
    block_on(async {
        let (mut source, partition) = alone(&spec).await;
        let mut reader = source.open(0, partition.begin).await.expect("a reader");
        let first = read(&mut *reader, 40).await;
        source.commit(&[(0, first[39].1)]).await.expect("a commit");
        drop((source, reader));
        // 40…69 are gone while nobody reads.
        server.say(&["XTRIM", "s", "MAXLEN", "30"]);
        let (mut source, _) = alone(&spec).await;
        let mut reader = source.open(0, first[39].1).await.expect("a reader");
        let rest = read(&mut *reader, 30).await;
        assert_eq!(ids(&rest), (70..100).collect::<Vec<_>>());
        assert_eq!(source.lost(), 30);
        // What was read may be trimmed.
        server.say(&["XTRIM", "s", "MAXLEN", "0"]);
        server.add("s", 100..110);
        assert_eq!(ids(&read(&mut *reader, 10).await), (100..110).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(is_quiet(&mut *reader, Duration::from_millis(600)).await);
        assert_eq!(source.lost(), 30);
        // While it runs: added and deleted at once.
        let mut pipe = redis::pipe();
        pipe.atomic();
        for _ in 0..5 {
            pipe.cmd("XADD").arg("s").arg("*").arg("message").arg("{}").ignore();
        }
        pipe.cmd("XTRIM").arg("s").arg("MAXLEN").arg(2).ignore();
        pipe.exec(&mut server.connection()).expect("done");
        let mut got = 0;
        while got < 2 {
            got += poll(&mut *reader, 10).await.expect("messages").len();
        }
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(is_quiet(&mut *reader, Duration::from_millis(600)).await);
        assert_eq!((got, source.lost()), (2, 33));
        drop((source, reader));

        // A position that nobody noted a number for: at least one.
        server.say(&["XTRIM", "s", "MAXLEN", "0"]);
        let (mut source, _) = alone(&spec).await;
        let mut reader = source.open(0, first[20].1).await.expect("a reader");
        assert!(is_quiet(&mut *reader, Duration::from_millis(600)).await);
        assert_eq!(source.lost(), 1);
        // A new pipeline begins with what is there, and misses nothing.
        let fresh = RedisSourceSpec { group: "new".into(), ..spec.clone() };
        server.add("s", 200..203);
        let (mut source, partition) = alone(&fresh).await;
        let mut reader = source.open(0, partition.begin).await.expect("a reader");
        assert_eq!(ids(&read(&mut *reader, 3).await), [200, 201, 202]);
        assert_eq!(source.lost(), 0);
    });
}

#[test]
fn a_log_has_one_reader() {
    let Some(mut server) = RedisServer::start("a log's owner") else { return };
    let spec = server.source("s", 10);
    block_on(async {
        let (mut old, _) = alone(&spec).await;
        let mut reader = old.open(0, 0).await.expect("a reader");
        let all = read(&mut *reader, 10).await;
        old.commit(&[(0, all[3].1)]).await.expect("a commit");
        let (mut new, _) = alone(&spec).await;
        let fenced = old.commit(&[(0, all[4].1)]).await.expect_err("fenced");
        assert!(matches!(&fenced, ConnectorError::Fenced(text) if text.contains("group g")), "{fenced}");
        new.commit(&[(0, all[4].1)]).await.expect("a commit");

        // A server that is killed is waited for.
        assert!(is_quiet(&mut *reader, Duration::from_millis(50)).await);
        server.kill();
        for _ in 0..2 {
            let away = poll(&mut *reader, 10).await.expect_err("away");
            assert!(matches!(away, ConnectorError::Disconnected { .. }), "{away}");
        }
        assert!(matches!(new.commit(&[(0, all[5].1)]).await, Err(ConnectorError::Disconnected { .. })));
        server.restart();
        server.add("s", 10..12);
        assert_eq!(ids(&read(&mut *reader, 2).await), [10, 11]);
        new.commit(&[(0, all[5].1)]).await.expect("a commit");

        let (shared, mut reader, _) = joined(&spec).await;
        read(&mut *reader, 1).await;
        let error =
            member(&spec, "two", 30_000).source().expect("a source").take_all().await.expect_err("in use");
        assert!(error.to_string().contains("has members: one ("), "{error}");
        let error = spec.reset().expect_err("in use");
        assert!(error.to_string().contains("is in use by one ("), "{error}");
        drop((shared, reader));
        tokio::time::sleep(Duration::from_millis(500)).await;
        member(&spec, "two", 200).reset().expect("a reset");
        member(&spec, "two", 200).reset().expect("a reset of nothing");
        let (_shared, mut reader, _) = joined(&spec).await;
        assert_eq!(ids(&read(&mut *reader, 12).await), (0..12).collect::<Vec<_>>());
    });
}

#[test]
fn a_group_shares_a_stream_out() {
    let Some(server) = RedisServer::start("a group") else { return };
    let spec = server.source("s", 100);
    let (one, two) = (Process::new(), Process::new());
    let (mut source_1, mut reader_1, number) = one.block_on(joined(&spec));
    let (mut source_2, mut reader_2, number_2) = two.block_on(joined(&member(&spec, "two", 30_000)));
    assert_eq!(number, number_2);
    let (mut of_1, mut of_2) = (Vec::new(), Vec::new());
    while of_1.len() < 50 {
        of_1.extend(one.block_on(read(&mut *reader_1, 10)));
        of_2.extend(two.block_on(read(&mut *reader_2, 10)));
    }
    let mut all = [ids(&of_1), ids(&of_2)].concat();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    // Offsets are counted; what the results are known by is the entry's id.
    assert!(
        of_1.iter().enumerate().all(|(n, (offset, next, _))| (*offset, *next) == (n as u64, n as u64 + 1))
    );
    let sequences = source_1.sequences().expect("numbers that last");
    let lasting: Vec<u64> = (0..50).map(|n| sequences.of(number, n)).collect();
    assert!(lasting.is_sorted() && lasting[0] >> 20 > 1_700_000_000_000);

    one.block_on(source_1.commit(&[(number, 20)])).expect("a commit");
    two.block_on(source_2.commit(&[(number, 50)])).expect("a commit");
    two.block_on(source_2.close()).expect("it leaves");
    // The first one ends without another word, and begins again: what it had comes again, in order.
    one.block_on(async { drop((source_1, reader_1)) });
    let (mut source, mut reader, _) = one.block_on(joined(&spec));
    let again = one.block_on(read(&mut *reader, 30));
    assert_eq!(ids(&again), ids(&of_1)[20..]);
    assert_eq!(source.sequences().expect("numbers").of(number, 0), lasting[20]);
    server.add("s", 100..107);
    assert_eq!(ids(&one.block_on(read(&mut *reader, 7))), (100..107).collect::<Vec<_>>());
    one.block_on(source.commit(&[(number, 37)])).expect("a commit");
    assert!(one.block_on(is_quiet(&mut *reader, Duration::from_millis(1500))));
    assert_eq!(source.extents(), [(number, 37)]);
    assert_eq!(source.lost(), 0);
    one.block_on(source.close()).expect("it leaves");
    let consumers: Vec<redis::Value> = redis::cmd("XINFO")
        .arg("CONSUMERS")
        .arg("s")
        .arg("g")
        .query(&mut server.connection())
        .expect("a list");
    assert_eq!(consumers.len(), 0, "those that left are listed: {consumers:?}");
    let error = one.block_on(spec.source().expect("a source").join(Positions::Store)).err().expect("refused");
    assert!(error.to_string().contains("data_dir"), "{error}");
}

#[test]
fn a_server_that_restarts_gives_all_of_a_group_again() {
    let Some(mut server) = RedisServer::start("a group on a killed server") else { return };
    let spec = server.source("s", 50);
    block_on(async {
        let (mut source, mut reader, number) = joined(&spec).await;
        let first = read(&mut *reader, 20).await;
        source.commit(&[(number, 10)]).await.expect("a commit");
        server.kill();
        while let Ok(more) = poll(&mut *reader, 10).await {
            // What it had in memory.
            assert!(more.iter().all(|(r, _)| r.offset >= 20));
        }
        assert!(matches!(source.commit(&[(number, 20)]).await, Err(ConnectorError::Disconnected { .. })));
        server.restart();
        source.commit(&[(number, 20)]).await.expect("a commit");
        let mut seen: Vec<usize> = ids(&first);
        let mut next = 20;
        while seen.len() < 50 {
            for (record, value) in poll(&mut *reader, 50).await.expect("messages") {
                next = next.max(record.next);
                seen.push(id_of(&value).parse().expect("a number"));
            }
        }
        // None twice, though those in hand were pending when it asked again.
        assert!(is_quiet(&mut *reader, Duration::from_millis(600)).await);
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        source.commit(&[(number, next)]).await.expect("a commit");

        // One that is frozen is away, and back when it thaws.
        server.freeze();
        let away = poll(&mut *reader, 10).await.expect_err("frozen");
        assert!(matches!(away, ConnectorError::Disconnected { .. }), "{away}");
        server.thaw();
        server.add("s", 50..53);
        assert_eq!(ids(&read(&mut *reader, 3).await), [50, 51, 52]);
    });
}

fn output(batch: &mut EncodedBatch, origin: Option<(u32, u64)>, id: &str) {
    let mut put = |text: &str| {
        let start = batch.data.len();
        batch.data.extend_from_slice(text.as_bytes());
        start..batch.data.len()
    };
    let (id, value) = (put(id), put(&format!("value of {id}")));
    let origin = origin.map(|(partition, offset)| (PartitionId { source: 0, partition }, offset));
    batch.records.push(EncodedRecord { id: Some(id), value, origin, ..EncodedRecord::default() });
}

fn checkpoint(number: u32, offset: u64) -> Checkpoint {
    let position =
        Position { incarnation: "i".into(), offset, index: 0, stream_time: 0, progress: Progress::Live };
    Checkpoint {
        epoch: 1,
        generation: 0,
        shape: String::new(),
        stream_time: 0,
        positions: vec![(PartitionId { source: 0, partition: number }, position)],
        sinks: Vec::new(),
        counts: BTreeMap::new(),
        ..Checkpoint::default()
    }
}

/// A stateless pipeline in one process: each message with an even number has an output in `out`, each one that
/// can be divided by three one in `other`.
struct Pipeline {
    process: Process,
    source: Box<dyn Source>,
    reader: Box<dyn Reader>,
    number: u32,
    store: Arc<RedisAcksStore>,
    sinks: [Box<dyn Sink>; 2],
    read: u64,
}

impl Pipeline {
    fn start(server: &RedisServer, spec: &RedisSourceSpec) -> Self {
        let process = Process::new();
        let mut source = spec.source().expect("a source");
        let acks = source.redis_acks().expect("acknowledgements");
        let store = Arc::new(RedisAcksStore::new(spec, acks, "p").expect("a store"));
        let writer = |sink: &str| Writer {
            pipeline: "p".into(),
            generation: 0,
            sink: sink.into(),
            exact: true,
            alone: true,
        };
        let sinks = ["out", "other"].map(|name| {
            let mut sink = store.sink(&server.sink(name)).expect("a sink");
            sink.identify(writer(name));
            process.block_on(sink.recover(None)).expect("recovered");
            sink
        });
        let (source, reader, number) = process.block_on(join(source));
        Self { process, source, reader, number, store, sinks, read: 0 }
    }

    /// Takes messages in, and hands their outputs to the sinks.
    fn take(&mut self, max: usize) -> Result<Vec<usize>, ConnectorError> {
        let mut batches = [EncodedBatch::default(), EncodedBatch::default()];
        let found = self.process.block_on(poll(&mut *self.reader, max))?;
        let mut taken = Vec::new();
        for (record, value) in found {
            let id = id_of(&value);
            let n: usize = id.parse().expect("a number");
            for (batch, divisor) in batches.iter_mut().zip([2, 3]) {
                if n.is_multiple_of(divisor) {
                    output(batch, Some((self.number, record.offset)), &id);
                }
            }
            self.read = record.next;
            taken.push(n);
        }
        for (sink, batch) in self.sinks.iter_mut().zip(&batches) {
            self.process.block_on(sink.write(batch)).expect("kept");
            self.process.block_on(sink.flush()).expect("flushed");
        }
        Ok(taken)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.store.commit(&Delta::default(), &checkpoint(self.number, self.read))?;
        self.process.block_on(self.source.commit(&[(self.number, self.read)])).expect("nothing to do");
        Ok(())
    }
}

/// Whether each of the first messages has its outputs, each once.
#[track_caller]
fn assert_once(server: &RedisServer, messages: usize) {
    for (stream, divisor) in [("out", 2), ("other", 3)] {
        let mut found: Vec<usize> =
            server.written(stream).iter().map(|(id, _)| id.parse().expect("a number")).collect();
        found.sort_unstable();
        let missing: Vec<usize> =
            (0..messages).filter(|n| n.is_multiple_of(divisor) && found.binary_search(n).is_err()).collect();
        let twice: Vec<usize> = found.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
        assert_eq!((missing, twice), (Vec::new(), Vec::new()), "{stream}: missing, and twice");
    }
    let pending: (u64, redis::Value, redis::Value, redis::Value) =
        redis::cmd("XPENDING").arg("s").arg("g").query(&mut server.connection()).expect("pending");
    assert_eq!(pending.0, 0, "acknowledged");
}

#[test]
fn a_stalled_process_writes_nothing_that_another_wrote() {
    let Some(server) = RedisServer::start("a stalled process") else { return };
    let spec = server.source("s", 60);
    let mut zombie = Pipeline::start(&server, &member(&spec, "zombie", 400));
    zombie.take(10).expect("messages");
    zombie.commit().expect("a commit");
    let had = zombie.take(50).expect("messages");
    assert!(!had.is_empty());
    // It stands still; another one takes over what it had, once that is old enough.
    let mut other = Pipeline::start(&server, &member(&spec, "other", 400));
    let mut taken = Vec::new();
    while taken.len() < 50 {
        taken.extend(other.take(50).expect("messages"));
    }
    taken.sort_unstable();
    assert_eq!(taken, (10..60).collect::<Vec<_>>());
    // The other commits a part; the zombie wakes up and commits all that it had; then the other the rest.
    other.read = 25;
    other.commit().expect("a commit");
    zombie.commit().expect("it counts for what is left of it");
    other.read = 50;
    other.commit().expect("a commit");
    assert_once(&server, 60);
    assert!(zombie.store.acknowledged_before() > 0 || other.store.acknowledged_before() > 0);
    let error = other.store.commit(
        &Delta { changes: vec![StateChange { key: b"k".into(), value: None, share: None }] },
        &checkpoint(other.number, 50),
    );
    assert!(matches!(error, Err(StoreError::Io { .. })), "{error:?}");
}

#[test]
fn what_a_living_process_has_in_hand_is_not_taken_over() {
    let Some(server) = RedisServer::start("a slow process") else { return };
    let spec = server.source("s", 20);
    block_on(async {
        let (_slow, mut slow_reader, _) = joined(&member(&spec, "slow", 400)).await;
        read(&mut *slow_reader, 10).await;
        let (_other, mut reader, _) = joined(&member(&spec, "other", 400)).await;
        let mut rest = ids(&read(&mut *reader, 1).await);
        while let Ok(more) = tokio::time::timeout(Duration::from_millis(1500), poll(&mut *reader, 10)).await {
            rest.extend(
                more.expect("messages").iter().map(|(_, v)| id_of(v).parse::<usize>().expect("a number")),
            );
        }
        assert!(rest.iter().all(|n| *n >= 10), "{rest:?}");
    });
}

#[test]
fn what_is_trimmed_while_pending_is_counted() {
    let Some(server) = RedisServer::start("a trimmed group") else { return };
    let spec = server.source("s", 30);
    let dead = Process::new();
    let had = dead.block_on(async {
        let (_source, mut reader, _) = joined(&member(&spec, "dead", 300)).await;
        let (_source, mut two, _) = joined(&member(&spec, "one", 300)).await;
        read(&mut *reader, 8).await.len() + read(&mut *two, 5).await.len()
    });
    drop(dead);
    assert_eq!(had, 13);
    let pending = |consumer: &str| -> Vec<(String, String, u64, u64)> {
        let mut command = redis::cmd("XPENDING");
        command.arg("s").arg("g").arg("-").arg("+").arg(100).arg(consumer);
        command.query(&mut server.connection()).expect("pending")
    };
    let in_all = pending("dead").len() + pending("one").len();
    assert!(in_all >= 13);
    server.say(&["XTRIM", "s", "MAXLEN", "0"]);
    let unread = 30 - in_all;
    server.add("s", 30..35);
    block_on(async {
        let (mut source, mut reader, number) = joined(&member(&spec, "one", 300)).await;
        let rest = read(&mut *reader, 5).await;
        assert_eq!(ids(&rest), (30..35).collect::<Vec<_>>());
        source.commit(&[(number, 5)]).await.expect("a commit");
        let until = Instant::now() + SOON;
        while source.lost() < 30 && Instant::now() < until {
            assert!(is_quiet(&mut *reader, Duration::from_millis(200)).await);
        }
        assert_eq!(source.lost(), 30, "{in_all} were pending, {unread} nobody had read");
        assert!(is_quiet(&mut *reader, Duration::from_millis(1200)).await);
        assert_eq!(source.lost(), 30);
    });
    assert_eq!((pending("dead").len(), pending("one").len()), (0, 0));
}

#[test]
fn each_message_has_its_outputs_once_when_the_server_is_killed() {
    const MESSAGES: usize = 10_000;
    let Some(mut server) = RedisServer::start("exactly once under kill -9") else { return };
    let spec = member(&server.source("s", MESSAGES), "one", 500);
    let mut chance = 7u64;
    let mut random = |below: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % below
    };
    let mut pipeline = Pipeline::start(&server, &spec);
    for round in 0..8 {
        for _ in 0..random(3) + 1 {
            pipeline.take(100).expect("messages");
            pipeline.commit().expect("a commit");
        }
        pipeline.take(200).expect("messages");
        let until = Instant::now() + Duration::from_micros(random(1_500));
        if round % 4 == 0 {
            // Between two commits.
            server.kill();
            assert!(pipeline.commit().is_err());
        } else {
            // In one, or about it.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                    server.kill();
                });
                loop {
                    match pipeline.commit() {
                        Err(e) => {
                            assert!(matches!(e, StoreError::Away { .. }), "{e}");
                            break;
                        }
                        Ok(()) if pipeline.take(100).is_err() => break,
                        Ok(()) => {}
                    }
                }
            });
        }
        server.restart();
        // Its connections broke.
        while pipeline.take(10).is_err() {}
        match round % 3 {
            // The process lives on, and asks again.
            0 => {
                while let Err(e) = pipeline.commit() {
                    assert!(matches!(e, StoreError::Away { .. }), "{e}");
                }
            }
            // It died too, before it could.
            _ => pipeline = Pipeline::start(&server, &spec),
        }
    }
    let since = Instant::now();
    while server.written("out").len() < MESSAGES.div_ceil(2) && since.elapsed() < SOON {
        pipeline.take(500).expect("messages");
        pipeline.commit().expect("a commit");
    }
    assert_once(&server, MESSAGES);
    assert_eq!(pipeline.source.lost(), 0);
    server.kill();
    server.restart();
    assert_once(&server, MESSAGES);
}

#[test]
fn what_is_trimmed_while_in_hand_is_written_all_the_same() {
    let Some(server) = RedisServer::start("trimmed in hand") else { return };
    let spec = member(&server.source("s", 12), "one", 600);
    let mut pipeline = Pipeline::start(&server, &spec);
    while pipeline.read < 12 {
        pipeline.take(12).expect("messages");
    }
    server.say(&["XTRIM", "s", "MAXLEN", "0"]);
    // Its renewal must not end their being pending; nobody asks for entries meanwhile.
    pipeline.process.block_on(async { tokio::time::sleep(Duration::from_millis(900)).await });
    pipeline.commit().expect("a commit");
    assert_once(&server, 12);
    assert_eq!((pipeline.source.lost(), pipeline.store.acknowledged_before()), (0, 0));
}

#[test]
fn a_commit_that_a_kill_tore_does_not_come_up_later() {
    let Some(mut server) = RedisServer::start("a torn commit") else { return };
    let spec = server.source("s", 12);
    let mut pipeline = Pipeline::start(&server, &spec);
    while pipeline.read < 12 {
        pipeline.take(12).expect("messages");
    }
    pipeline.commit().expect("a commit");
    server.kill();
    // The transaction's end, and a part of its last command.
    server.tear(40);
    server.restart();
    assert_eq!(server.written("out").len(), 0, "it is not whole");
    let mut pipeline = Pipeline::start(&server, &spec);
    while pipeline.read < 12 {
        pipeline.take(12).expect("messages");
    }
    pipeline.commit().expect("a commit");
    assert_once(&server, 12);
    for _ in 0..2 {
        server.kill();
        server.restart();
        assert_once(&server, 12);
    }
}

#[test]
fn a_commit_is_whole_where_redis_refuses_a_part() {
    let Some(server) = RedisServer::start("refused commits") else { return };
    let spec = server.source("s", 10);
    let mut pipeline = Pipeline::start(&server, &spec);
    while pipeline.read < 10 {
        pipeline.take(10).expect("messages");
    }
    let commit_fails = |pipeline: &mut Pipeline, part: &str| {
        let error = pipeline.commit().expect_err(part);
        assert!(matches!(error, StoreError::Io { .. }) && error.to_string().contains(part), "{error}");
        // Neither acknowledged nor written.
        let pending: (u64, redis::Value, redis::Value, redis::Value) =
            redis::cmd("XPENDING").arg("s").arg("g").query(&mut server.connection()).expect("pending");
        assert_eq!(pending.0, 10, "{part}");
        let length: u64 = redis::cmd("XLEN").arg("out").query(&mut server.connection()).expect("a length");
        assert_eq!(length, 0, "{part}");
    };
    server.say(&["SET", "other", "a text"]);
    commit_fails(&mut pipeline, "is no stream");
    server.say(&["DEL", "other"]);
    server.say(&["ACL", "SETUSER", "default", "-@all", "+@all", "resetkeys", "~s", "~out"]);
    commit_fails(&mut pipeline, "must be allowed");
    server.say(&["ACL", "SETUSER", "default", "allkeys"]);
    // Memory that is full stops no entry half-way: it is acknowledged and written, or neither.
    server.say(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = pipeline.commit();
    server.say(&["CONFIG", "SET", "maxmemory", "0"]);
    if let Err(e) = full {
        assert!(e.to_string().contains("maxmemory"), "{e}");
        pipeline.commit().expect("a commit");
    }
    assert_once(&server, 10);
}

fn writes(ids: std::ops::Range<usize>) -> EncodedBatch {
    let mut batch = EncodedBatch::default();
    for id in ids {
        output(&mut batch, None, &format!("p/0/out/{id}"));
    }
    batch
}

fn writer(exact: bool) -> Writer {
    Writer { pipeline: "p".into(), generation: 0, sink: "out".into(), exact, alone: true }
}

async fn sink(spec: &RedisSinkSpec, token: Option<&str>) -> Result<Box<dyn Sink>, ConnectorError> {
    let mut sink = spec.sink().expect("a sink");
    sink.identify(writer(true));
    sink.recover(token).await?;
    Ok(sink)
}

#[track_caller]
fn assert_written(server: &RedisServer, outputs: usize) {
    let found: Vec<String> = server.written("out").into_iter().map(|(id, _)| id).collect();
    let expected: Vec<String> = (0..outputs).map(|n| format!("p/0/out/{n}")).collect();
    let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
    let differs = differs.map(|at| (at, &found[at - 1], &found[at], &expected[at]));
    assert!(found == expected, "{} in place of {} outputs: {differs:?}", found.len(), expected.len());
}

#[test]
fn a_sink_writes_what_it_makes_again_once() {
    let Some(mut server) = RedisServer::start("a sink") else { return };
    let spec = server.sink("out");
    block_on(async {
        let mut first = sink(&spec, None).await.expect("a sink");
        let begin = first.flush().await.expect("a token");
        first.write(&writes(0..5_000)).await.expect("written");
        let committed = first.flush().await.expect("a token");
        assert_ne!(begin, committed);
        assert_eq!(first.flush().await.expect("a token"), committed);
        // Not committed; and others write to the stream, too.
        first.write(&writes(5_000..8_000)).await.expect("written");
        first.flush().await.expect("a token");
        first.write(&writes(8_000..8_010)).await.expect("written");
        server.say(&["XADD", "out", "*", "id", "q/0/out/1", "message", "another's"]);

        let mut second = sink(&spec, Some(&committed)).await.expect("a sink");
        // The one before writes nothing any more.
        let fenced = first.write(&writes(8_010..9_000)).await.expect_err("fenced");
        assert!(matches!(fenced, ConnectorError::Fenced(_)), "{fenced}");
        assert_eq!(second.flush().await.expect("a token"), committed);
        // It makes a part again, commits, and dies: the rest is in doubt still.
        second.write(&writes(5_000..6_000)).await.expect("written");
        second.flush().await.expect("a token");
        second.write(&writes(6_000..6_500)).await.expect("written");
        let committed = second.flush().await.expect("a token");
        let mut third = sink(&spec, Some(&committed)).await.expect("a sink");
        third.write(&writes(6_500..8_005)).await.expect("written");
        let committed = third.flush().await.expect("a token");
        let mut fourth = sink(&spec, Some(&committed)).await.expect("a sink");
        fourth.write(&writes(8_005..8_020)).await.expect("written");
        let committed = fourth.flush().await.expect("a token");
        server.say(&["XDEL", "out", &another(&server)]);
        assert_written(&server, 8_020);

        // The server is killed in the middle of a write.
        let mut end = 8_020;
        for round in 0..4 {
            let batch = writes(end..end + 20_000);
            end += 20_000;
            let mut killed = false;
            loop {
                let write = fourth.write(&batch);
                if killed {
                    write.await.expect("written");
                    break;
                }
                let killer = &mut server;
                let (done, ()) = tokio::join!(write, async move {
                    tokio::time::sleep(Duration::from_millis(5 + 15 * round)).await;
                    killer.kill();
                });
                server.restart();
                killed = true;
                match done {
                    Ok(()) => break,
                    Err(e) => assert!(matches!(e, ConnectorError::Disconnected { .. }), "{e}"),
                }
            }
        }
        // What a kill tore apart must not come up with a later start.
        server.kill();
        server.restart();
        assert_written(&server, end);
        let token = loop {
            match fourth.flush().await {
                Err(e) => assert!(matches!(e, ConnectorError::Disconnected { .. }), "{e}"),
                Ok(token) => break token,
            }
        };
        assert_ne!(token, committed);
        fourth.close(true).await.expect("closed");
    });
}

/// The id of the entry that another one wrote.
fn another(server: &RedisServer) -> String {
    let mut command = redis::cmd("XRANGE");
    command.arg("out").arg("-").arg("+");
    let entries: Vec<(String, Vec<String>)> = command.query(&mut server.connection()).expect("entries");
    entries.into_iter().find(|(_, fields)| fields[3] == "another's").expect("it").0
}

#[test]
fn a_sink_tells_what_it_cannot_promise() {
    let Some(server) = RedisServer::start("promises of a sink") else { return };
    let spec = RedisSinkSpec { max_len: Some(10), ..server.sink("out") };
    block_on(async {
        let mut first = sink(&spec, None).await.expect("a sink");
        first.write(&writes(0..10)).await.expect("written");
        let committed = first.flush().await.expect("a token");
        first.write(&writes(10..500)).await.expect("written");
        // What is in doubt is trimmed: nobody can tell whether it was there.
        let error = sink(&spec, Some(&committed)).await.err().expect("trimmed").to_string();
        assert!(error.contains("490 entries") && error.contains("max_len"), "{error}");
        let mut lax = spec.sink().expect("a sink");
        lax.identify(writer(false));
        lax.recover(Some(&committed)).await.expect("warned");
        lax.write(&writes(10..500)).await.expect("written");
        let error = sink(&spec, Some("what?")).await.err().expect("no token").to_string();
        assert!(error.contains("not of this wasmill"), "{error}");

        server.say(&["CONFIG", "SET", "appendfsync", "everysec"]);
        let error = sink(&spec, None).await.err().expect("refused").to_string();
        assert!(error.contains("CONFIG SET appendfsync always") && error.contains("everysec"), "{error}");
        let mut source = server.source("s", 1).source().expect("a source");
        let acks = source.redis_acks().expect("acknowledgements");
        let store = Arc::new(RedisAcksStore::new(&server.source("s", 0), acks, "p").expect("a store"));
        assert!(store.must_be_exact().is_err());
        let mut acknowledged = store.sink(&spec).expect("a sink");
        acknowledged.identify(writer(true));
        assert!(acknowledged.recover(None).await.is_err());
        acknowledged.identify(writer(false));
        acknowledged.recover(None).await.expect("at least once");
        // A server that doesn't tell is warned of.
        server.say(&["ACL", "SETUSER", "quiet", "on", ">geheim", "allkeys", "+@all", "-config"]);
        let url = format!("redis://quiet:geheim@127.0.0.1:{}", server.port);
        sink(&RedisSinkSpec { url, ..spec.clone() }, None).await.expect("a sink");
    });
}

#[test]
fn what_is_wrong_is_told_without_the_password() {
    let Some(server) = RedisServer::start("refusals of streams") else { return };
    server.say(&["SET", "text", "a text"]);
    let directory = tempfile::tempdir().expect("a directory");
    let password_file = directory.path().join("password");
    std::fs::write(&password_file, "geheim\n").expect("a file");
    block_on(async {
        let text = RedisSourceSpec::new(server.url(), "text", "g");
        let error = text.source().expect("a source").take_all().await.expect_err("no stream");
        assert!(matches!(&error, ConnectorError::Fatal(t) if t.contains("is no stream")), "{error}");
        let error = sink(&server.sink("text"), None).await.err().expect("no stream");
        assert!(matches!(&error, ConnectorError::Fatal(t) if t.contains("is no stream")), "{error}");

        let nobody = RedisSourceSpec::new("redis://:geheim@127.0.0.1:1", "s", "g");
        let away = nobody.source().expect("a source").partitions().await.expect_err("nobody is there");
        assert!(matches!(&away, ConnectorError::Disconnected { .. }), "{away}");
        let specs = format!("{nobody:?} {:?}", RedisSinkSpec::new("redis://:geheim@h", "s"));
        assert!(!specs.contains("geheim") && specs.contains("redis://127.0.0.1:1"), "{specs}");
        for (url, error) in [("http://:geheim@h", "expected redis://"), ("", "expected redis://")] {
            let told = RedisSourceSpec::new(url, "s", "g").source().err().expect("no address").to_string();
            assert!(told.contains(error) && !told.contains("geheim"), "{told}");
        }
        let told = RedisSourceSpec::new(server.url(), " ", "g").source().err().expect("empty").to_string();
        assert!(told.contains("stream: it is empty"), "{told}");
        let told = RedisSinkSpec { field: "id".into(), ..server.sink("s") }.sink().err().expect("taken");
        assert!(told.to_string().contains("choose another"), "{told}");

        // Which Redis is the same.
        let source = RedisSourceSpec::new("redis://a:b@Host", "s", "g");
        assert!(RedisSinkSpec::new("redis://host:6379/0", "s").is_same_redis(&source));
        for other in ["redis://host:6379/1", "redis://host:6380", "rediss://host"] {
            assert!(!RedisSinkSpec::new(other, "s").is_same_redis(&source), "{other}");
        }

        server.say(&["CONFIG", "SET", "requirepass", "geheim"]);
        let wrong = format!("redis://:falsch@127.0.0.1:{}", server.port);
        for url in [server.url(), wrong] {
            let spec = RedisSourceSpec::new(url.as_str(), "s", "g");
            let error = spec.source().expect("a source").take_all().await.expect_err("refused");
            let told = error.to_string();
            assert!(matches!(error, ConnectorError::Fatal(_)), "{told}");
            assert!(told.contains("right user and password") && !told.contains("falsch"), "{told}");
        }
        let spec = RedisSourceSpec {
            password_file: Some(password_file),
            ..RedisSourceSpec::new(server.url(), "s", "g")
        };
        spec.source().expect("a source").take_all().await.expect("the file's password");
        let missing = RedisSourceSpec { password_file: Some("/nowhere/password".into()), ..spec };
        let error = missing.source().expect("a source").take_all().await.expect_err("no file").to_string();
        assert!(error.contains("password_file") && error.contains("/nowhere/password"), "{error}");
    });
}

#[test]
fn streams_go_over_tls() {
    let Some(server) = RedisServer::start_with_tls("streams over TLS") else { return };
    let spec = RedisSourceSpec { ca_file: Some(server.ca_file()), ..server.source("s", 100) };
    let out = RedisSinkSpec { ca_file: Some(server.ca_file()), ..server.sink("out") };
    block_on(async {
        let (_source, mut reader, _) = joined(&spec).await;
        assert_eq!(ids(&read(&mut *reader, 100).await), (0..100).collect::<Vec<_>>());
        let mut sink = sink(&out, None).await.expect("a sink");
        sink.write(&writes(0..100)).await.expect("written");
    });
    assert_written(&server, 100);
}
