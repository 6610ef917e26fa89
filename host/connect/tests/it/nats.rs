//! The NATS connector on a real server.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, pull, push};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy};
use wasmill_connect::nats::{NatsSinkSpec, NatsSourceSpec, Secret, Subjects};
use wasmill_connect::table::{SinkConnector, SourceConnector};
use wasmill_connect::{Change, ConnectorError, Partition, Polled, Positions, Reader, Sink, Source, Writer};
use wasmill_engine::input::RawBatch;
use wasmill_engine::output::{EncodedBatch, EncodedRecord};

use crate::support::nats::NatsServer;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn messages(subject: &str, numbers: std::ops::Range<usize>) -> Vec<(String, String)> {
    numbers.map(|i| (subject.to_owned(), format!("{{\"id\":\"{i}\"}}"))).collect()
}

fn values(batch: &RawBatch) -> Vec<String> {
    let text = |r: &wasmill_engine::input::RawRecord| batch.data[r.value.clone()].to_vec();
    batch.records.iter().map(|r| String::from_utf8(text(r)).expect("UTF-8")).collect()
}

/// Polls, and waits where it is told to, for 20 s at most.
async fn poll(reader: &mut dyn Reader) -> RawBatch {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match tokio::time::timeout_at(until.into(), reader.poll(1000, 1 << 20)).await.expect("in time") {
            Ok(Polled::Records(batch)) => return batch,
            Err(ConnectorError::Disconnected { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
    }
}

async fn read(reader: &mut dyn Reader, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(values(&poll(reader).await));
    }
    all
}

/// Asks until it isn't told to wait, for 20 s at most.
async fn insist<T>(mut ask: impl AsyncFnMut() -> Result<T, ConnectorError>) -> Result<T, ConnectorError> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match ask().await {
            Err(ConnectorError::Disconnected { .. }) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

/// That nothing comes for a while.
async fn assert_quiet(reader: &mut dyn Reader, ms: u64) {
    let polled = tokio::time::timeout(Duration::from_millis(ms), reader.poll(10, 1 << 20)).await;
    assert!(polled.is_err(), "{polled:?}");
}

fn fatal<T>(result: Result<T, ConnectorError>) -> String {
    match result {
        Err(ConnectorError::Fatal(text)) => text,
        Err(other) => panic!("not fatal: {other:?}"),
        Ok(_) => panic!("it worked"),
    }
}

async fn join(spec: &NatsSourceSpec) -> (Box<dyn Source>, Box<dyn Reader>, Partition) {
    let mut source = spec.source().expect("a source");
    let mut member = source.join(Positions::Source).await.expect("joined");
    let Ok(Change::Assigned(mut partitions)) = member.next().await else { panic!("nothing assigned") };
    let partition = partitions.pop().expect("a partition");
    let reader = source.open(partition.number, partition.begin).await.expect("a reader");
    (source, reader, partition)
}

#[test]
fn a_log_is_read_from_every_kind_of_position() {
    let server = NatsServer::start();
    server.create("LOG", &["log.>"]);
    let sent = messages("log.a", 0..3000);
    server.publish(sent.clone());
    let spec = NatsSourceSpec::new(server.url(), "LOG", "p");
    block_on(async {
        let mut source = spec.source().expect("a source");
        let partitions = source.take_all().await.expect("partitions");
        let partition = &partitions[0];
        assert_eq!((partitions.len(), partition.begin, partition.extent), (1, 1, Some(3001)));
        let mut reader = source.open(0, partition.begin).await.expect("a reader");
        let all = read(&mut *reader, 3000).await;
        assert!(all.iter().eq(sent.iter().map(|(_, value)| value)), "other messages");
        // The lag is nothing, and what comes later is read.
        assert_eq!(source.extents(), [(0, 3001)]);
        server.publish(messages("log.b", 3000..3001));
        let batch = poll(&mut *reader).await;
        assert_eq!((values(&batch), batch.next), (vec!["{\"id\":\"3000\"}".to_owned()], 3002));
        let record = &batch.records[0];
        assert_eq!((record.offset, record.next, record.time_ms), (3001, 3002, record.appended_ms));
        assert!(record.time_ms.expect("a time") > 1_700_000_000_000);
        for offset in [2, 1500, 3001, 3002] {
            let mut reader = source.open(0, offset).await.expect("a reader");
            let left = usize::try_from(3002 - offset).expect("a count");
            if left == 0 {
                assert_quiet(&mut *reader, 100).await;
                continue;
            }
            // Dropped polls lose nothing.
            for _ in 0..20 {
                let _ = tokio::time::timeout(Duration::from_micros(10), std::future::pending::<()>()).await;
            }
            let rest = read(&mut *reader, left).await;
            assert_eq!(rest.first(), Some(&format!("{{\"id\":\"{}\"}}", offset - 1)), "{offset}");
            assert_eq!(rest.len(), left);
        }
        assert!(fatal(source.open(0, 3003).await).contains("wasmill reset"));
        let latest = NatsSourceSpec { start: wasmill_connect::nats::Start::Latest, ..spec.clone() };
        assert_eq!(latest.source().expect("a source").partitions().await.expect("one")[0].begin, 3002);
        // What was removed before it could be read is told.
        server.with(|js| async move {
            let stream = js.get_stream("LOG").await.expect("it");
            stream.purge().sequence(1001).await.expect("a purge");
        });
        assert!(fatal(source.open(0, 1000).await).contains("wasmill reset"));
        assert!(source.open(0, 1001).await.is_ok());
        assert!(source.is_same_log(partition, &partition.incarnation).await.expect("an answer"));
        let before = partition.incarnation.clone();
        server.with(|js| async move { js.delete_stream("LOG").await.expect("gone") });
        server.create("LOG", &["log.>"]);
        let now = source.partitions().await.expect("one").remove(0);
        assert!(!source.is_same_log(&now, &before).await.expect("an answer"), "another stream");
    });
}

#[test]
fn dropped_polls_and_limits_lose_nothing() {
    let server = NatsServer::start_with("max_payload: 8388608", "");
    server.create("LOG", &["log.>"]);
    let big = "x".repeat(600_000);
    let mut sent: Vec<_> = (0..60).map(|i| ("log.big".to_owned(), format!("{i}{big}"))).collect();
    // One is above what a request may bring.
    sent[30].1 = "y".repeat(5 << 20);
    server.publish(sent.clone());
    block_on(async {
        let mut source = NatsSourceSpec::new(server.url(), "LOG", "p").source().expect("a source");
        source.partitions().await.expect("one");
        let mut reader = source.open(0, 1).await.expect("a reader");
        let mut all = Vec::new();
        let mut dropped = 0;
        while all.len() < sent.len() {
            // More than is read ahead, and above what a request may bring: 36 MB.
            match tokio::time::timeout(Duration::from_micros(200), reader.poll(3, 700_000)).await {
                Ok(Ok(Polled::Records(batch))) => {
                    assert!(batch.records.len() <= 2, "more than was asked for");
                    all.extend(values(&batch));
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => dropped += 1,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(all.iter().eq(sent.iter().map(|(_, value)| value)), "other messages");
        assert!(dropped > 0, "no poll was dropped");
    });
}

#[test]
fn subjects_choose_messages_and_headers_come_along() {
    let server = NatsServer::start();
    server.create("LOG", &["log.>"]);
    for i in 0..50 {
        server.publish(
            [("log.a.x", i), ("log.b.x", i), ("log.a.y.z", i)].map(|(s, i)| (s.into(), format!("{s}{i}"))),
        );
    }
    server.with(|js| async move {
        let mut headers = async_nats::HeaderMap::new();
        headers.append("Trace", "1");
        headers.append("Trace", "2");
        headers.insert("Alpha", "a");
        js.publish_with_headers("log.a.h", headers, "".into()).await.expect("sent").await.expect("an ack");
    });
    let mut spec = NatsSourceSpec::new(server.url(), "LOG", "p");
    spec.subjects = Some(Subjects::One("log.a.*".into()));
    let several = NatsSourceSpec {
        subjects: Some(Subjects::Several(vec!["log.b.>".into(), "log.a.y.>".into()])),
        ..spec.clone()
    };
    block_on(async {
        let mut source = spec.source().expect("a source");
        source.take_all().await.expect("taken");
        let mut reader = source.open(0, 1).await.expect("a reader");
        let mut all = Vec::new();
        let last = loop {
            let batch = poll(&mut *reader).await;
            all.extend(values(&batch));
            if all.len() == 51 {
                break batch;
            }
        };
        assert!(all[..50].iter().enumerate().all(|(i, v)| *v == format!("log.a.x{i}")), "{all:?}");
        let text = |r: &std::ops::Range<usize>| String::from_utf8_lossy(&last.data[r.clone()]).into_owned();
        let headers = &last.records.last().expect("one").headers;
        let headers: Vec<_> =
            headers.iter().map(|h| (text(&h.name), text(h.value.as_ref().expect("a value")))).collect();
        let expected = [("Alpha", "a"), ("Trace", "1"), ("Trace", "2")];
        assert_eq!(headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(source.lost(), 0, "what a filter leaves out isn't lost");
        let mut source = several.source().expect("a source");
        source.partitions().await.expect("one");
        let mut reader = source.open(0, 1).await.expect("a reader");
        assert_eq!(read(&mut *reader, 100).await.len(), 100);
        assert_quiet(&mut *reader, 100).await;
    });
}

#[test]
fn one_process_has_a_log() {
    let server = NatsServer::start();
    server.create("LOG", &["log.>"]);
    server.publish(messages("log.a", 0..10));
    let spec = NatsSourceSpec::new(server.url(), "LOG", "p");
    block_on(async {
        let mut first = spec.source().expect("a source");
        first.take_all().await.expect("taken");
        first.commit(&[(0, 5)]).await.expect("it is its own");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        first.commit(&[(0, 6)]).await.expect("it is its own still");
        let other = NatsSourceSpec { consumer: "q".into(), ..spec.clone() };
        other.source().expect("a source").take_all().await.expect("another pipeline's");
        first.commit(&[(0, 6)]).await.expect("another pipeline took nothing of it");
        let mut second = spec.source().expect("a source");
        second.take_all().await.expect("taken");
        match first.commit(&[(0, 7)]).await {
            Err(ConnectorError::Fenced(text)) => assert!(text.contains("another process"), "{text}"),
            other => panic!("not fenced: {other:?}"),
        }
        // At once and later.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(matches!(first.commit(&[(0, 7)]).await, Err(ConnectorError::Fenced(_))));
        second.commit(&[(0, 7)]).await.expect("the second one has it");
        // Who reads is not reset.
        let mut reader = second.open(0, 1).await.expect("a reader");
        read(&mut *reader, 10).await;
        assert!(fatal(spec.reset()).contains("stop what reads it"));
        drop(reader);
        second.close().await.expect("closed");
        tokio::time::sleep(Duration::from_millis(100)).await;
        spec.reset().expect("a reset");
        // Others at the durable consumer are seen.
        let (_source, mut reader, _) = join(&spec).await;
        read(&mut *reader, 10).await;
        let mut third = spec.source().expect("a source");
        assert!(fatal(third.take_all().await).contains("in use"));
        assert!(fatal(third.join(Positions::Store).await.map(drop)).contains("keeps state"));
    });
}

#[test]
fn readers_share_a_queue_and_what_is_acknowledged_stays_so() {
    let server = NatsServer::start();
    server.create("Q", &["q.>"]);
    let mut spec = NatsSourceSpec::new(server.url(), "Q", "work");
    spec.ack_wait = wasmill_connect::units::HumanDuration(Duration::from_millis(1200));
    spec.max_ack_pending = 3000;
    block_on(async {
        let (mut one, mut first, partition) = join(&spec).await;
        let (mut two, mut second, same) = join(&spec).await;
        assert_eq!(partition, same);
        assert_ne!(partition.number, 0);
        server.publish(messages("q.a", 0..2000));
        let mut seen = Vec::new();
        let mut counts = [0, 0];
        while seen.len() < 2000 {
            let polled = tokio::select! {
                batch = poll(&mut *first) => (0, batch),
                batch = poll(&mut *second) => (1, batch),
            };
            counts[polled.0] += polled.1.records.len();
            seen.extend(values(&polled.1));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 2000, "something came twice");
        assert!(counts.iter().all(|n| *n > 0), "shared unevenly: {counts:?}");
        // Held for longer than ack_wait: in-progress acks keep it.
        assert_quiet(&mut *first, 2500).await;
        assert_quiet(&mut *second, 100).await;
        let redelivered = server.with(|js| async move {
            let stream = js.get_stream("Q").await.expect("it");
            let consumer = stream.get_consumer::<pull::Config>("work").await.expect("it");
            consumer.cached_info().num_ack_pending + consumer.cached_info().num_redelivered
        });
        assert_eq!(redelivered, 2000, "what is held is delivered again");
        let n = partition.number;
        one.commit(&[(n, counts[0] as u64)]).await.expect("acknowledged");
        // Of the second one's, half. The rest is delivered again, to the first one, when it is gone.
        let half = counts[1] as u64 / 2;
        let sequences = two.sequences().expect("sequences");
        let numbers: Vec<u64> = (0..counts[1] as u64).map(|offset| sequences.of(n, offset)).collect();
        assert!(numbers.is_sorted() && numbers[0] >= 1 && *numbers.last().expect("one") <= 2000);
        two.commit(&[(n, half)]).await.expect("acknowledged");
        assert_eq!(sequences.of(n, half), numbers[usize::try_from(half).expect("small")]);
        drop(second);
        two.close().await.expect("closed");
        let rest = counts[1] - usize::try_from(half).expect("small");
        let again = read(&mut *first, rest).await;
        assert_eq!(again.len(), rest);
        let all = one.sequences().expect("sequences");
        let mut came: Vec<u64> = (0..rest).map(|i| all.of(n, (counts[0] + i) as u64)).collect();
        came.sort_unstable();
        assert_eq!(came, numbers[usize::try_from(half).expect("small")..]);
        one.commit(&[(n, (counts[0] + rest) as u64)]).await.expect("acknowledged");
        assert_eq!(one.extents(), [(n, (counts[0] + rest) as u64)]);
        drop(first);
        one.close().await.expect("closed");
        let info = server.with(|js| async move {
            let stream = js.get_stream("Q").await.expect("it");
            let mut consumer = stream.get_consumer::<pull::Config>("work").await.expect("it");
            consumer.info().await.expect("info").clone()
        });
        assert_eq!((info.num_ack_pending, info.num_pending), (0, 0), "all is acknowledged");
        // A process that dies without a word: its messages come to another one after ack_wait.
        server.publish(messages("q.a", 0..5));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let dying = spec.clone();
        let held = runtime.spawn(async move {
            let (source, mut reader, _) = join(&dying).await;
            let got = read(&mut *reader, 5).await;
            std::mem::forget((source, reader));
            got
        });
        assert_eq!(held.await.expect("read").len(), 5);
        runtime.shutdown_background();
        let (mut three, mut reader, _) = join(&spec).await;
        assert_eq!(read(&mut *reader, 5).await.len(), 5);
        three.commit(&[(n, 5)]).await.expect("acknowledged");
    });
    assert!(
        fatal(
            spec.reset().and(spec.reset()).and_then(|()| Err::<(), _>(ConnectorError::Fatal("twice".into())))
        ) == "twice"
    );
}

#[test]
fn a_consumer_that_is_otherwise_is_told() {
    let server = NatsServer::start();
    server.create("Q", &["q.>"]);
    server.with(|js| async move {
        let stream = js.get_stream("Q").await.expect("it");
        let config = pull::Config {
            durable_name: Some("mine".into()),
            filter_subject: "q.other".into(),
            ack_policy: AckPolicy::All,
            ack_wait: Duration::from_secs(7),
            max_deliver: 3,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.expect("a consumer");
        let config = push::Config {
            durable_name: Some("pushed".into()),
            deliver_subject: "to.here".into(),
            ..push::Config::default()
        };
        stream.create_consumer(config).await.expect("a consumer");
    });
    block_on(async {
        let mut spec = NatsSourceSpec::new(server.url(), "Q", "mine");
        let text = fatal(spec.source().expect("a source").join(Positions::Source).await.map(drop));
        for part in [
            "filter is q.other",
            "ack policy is all",
            "ack wait is 7s",
            "after 3 deliveries",
            "max_ack_pending",
            "nats consumer edit Q mine",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        spec.consumer = "pushed".into();
        let text = fatal(spec.source().expect("a source").join(Positions::Source).await.map(drop));
        assert!(text.contains("it pushes to to.here"), "{text}");
        // One that is deleted while it is read isn't made anew in silence.
        spec.consumer = "fresh".into();
        let (_source, mut reader, _) = join(&spec).await;
        server.with(|js| async move {
            js.get_stream("Q").await.expect("it").delete_consumer("fresh").await.expect("gone");
        });
        let text = fatal(insist(async || reader.poll(1, 1).await).await);
        assert!(text.contains("was deleted"), "{text}");
        spec.stream = "NONE".into();
        let text = fatal(spec.source().expect("a source").partitions().await);
        assert!(text.contains("nats stream add NONE"), "{text}");
    });
}

/// Messages with their ids, as the encoder gives them.
fn batch(numbers: std::ops::Range<usize>) -> EncodedBatch {
    let mut batch = EncodedBatch::default();
    for i in numbers {
        let mut append = |text: String| {
            let start = batch.data.len();
            batch.data.extend_from_slice(text.as_bytes());
            start..batch.data.len()
        };
        let (value, id) = (append(format!("{{\"id\":\"{i}\"}}")), append(format!("pipe/0/out/0.{i}.0.0.")));
        batch.records.push(EncodedRecord { value, id: Some(id), ..EncodedRecord::default() });
    }
    batch
}

fn writer(exact: bool) -> Writer {
    Writer { pipeline: "pipe".into(), generation: 0, sink: "out".into(), exact, alone: true }
}

async fn recovered(spec: &NatsSinkSpec, token: Option<&str>) -> Box<dyn Sink> {
    let mut sink = spec.sink().expect("a sink");
    sink.identify(writer(true));
    insist(async || sink.recover(token).await).await.expect("recovered");
    sink
}

async fn put(sink: &mut dyn Sink, numbers: std::ops::Range<usize>) -> String {
    // No closure, so that it can be spawned.
    let (batch, until) = (batch(numbers), Instant::now() + Duration::from_secs(20));
    let mut is_written = false;
    loop {
        let done = match is_written {
            false => sink.write(&batch).await.map(|()| None),
            true => sink.flush().await.map(Some),
        };
        match done {
            Ok(None) => is_written = true,
            Ok(Some(token)) => return token,
            Err(ConnectorError::Disconnected { .. }) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// That the stream has these, each once, in order.
#[track_caller]
fn assert_has(server: &NatsServer, stream: &str, count: usize) {
    let seen = server.messages(stream);
    let wrong = seen.iter().enumerate().find(|(i, (value, _))| *value != format!("{{\"id\":\"{i}\"}}"));
    assert!(
        wrong.is_none() && seen.len() == count,
        "{} in place of {count}; first wrong: {wrong:?}",
        seen.len()
    );
}

/// A stream whose window is too short to help.
fn short_window(server: &NatsServer, name: &str) {
    server.create_stream(stream::Config {
        name: name.to_owned(),
        subjects: vec![format!("{name}.>")],
        duplicate_window: Duration::from_secs(1),
        ..stream::Config::default()
    });
}

#[test]
fn what_was_written_but_not_committed_is_not_written_again() {
    let server = NatsServer::start();
    short_window(&server, "OUT");
    let spec = NatsSinkSpec::new(server.url(), "OUT.x");
    block_on(async {
        let mut sink = recovered(&spec, None).await;
        let none = sink.flush().await.expect("a token");
        let committed = put(&mut *sink, 0..1000).await;
        assert_eq!(sink.flush().await.expect("a token"), committed, "another token for nothing");
        put(&mut *sink, 1000..2500).await;
        drop(sink);
        // Others write there as well, and have other ids.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        let mut sink = recovered(&spec, Some(&committed)).await;
        // Epochs are cut elsewhere, and it dies again between.
        let early = put(&mut *sink, 1000..1100).await;
        drop(sink);
        let mut sink = recovered(&spec, Some(&early)).await;
        let late = put(&mut *sink, 1100..3000).await;
        sink.close(true).await.expect("closed");
        assert_has(&server, "OUT", 3000);
        let mut sink = recovered(&spec, Some(&late)).await;
        put(&mut *sink, 3000..3001).await;
        // From the first token on everything is known.
        let mut sink = recovered(&spec, Some(&none)).await;
        put(&mut *sink, 0..3002).await;
        assert_has(&server, "OUT", 3002);
        // Another stream of the name is another one.
        server.with(|js| async move { js.delete_stream("OUT").await.expect("gone") });
        let mut sink = spec.sink().expect("a sink");
        assert!(fatal(sink.recover(Some(&late)).await).contains("nats stream add OUT"));
        short_window(&server, "OUT");
        assert!(fatal(sink.recover(Some(&late)).await).contains("wasmill reset"));
    });
}

#[test]
fn a_server_that_dies_while_it_is_published_to_doubles_and_loses_nothing() {
    let mut server = NatsServer::start();
    short_window(&server, "OUT");
    let spec = NatsSinkSpec::new(server.url(), "OUT.x");
    block_on(async {
        let mut sink = recovered(&spec, None).await;
        put(&mut *sink, 0..10).await;
        let task = tokio::spawn(async move {
            // So long that the server dies in it.
            for from in (10..60_010).step_by(2000) {
                put(&mut *sink, from..from + 2000).await;
            }
            sink
        });
        // Killed in the middle of a batch; once for longer than the window.
        for wait in [50, 1500] {
            tokio::time::sleep(Duration::from_millis(120)).await;
            server.kill();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            server.run();
        }
        let sink = task.await.expect("all is written");
        assert_has(&server, "OUT", 60_010);
        drop(sink);
        // Stopped, so that what was sent is taken later.
        let mut sink = recovered(&spec, None).await;
        server.freeze();
        let waiting = tokio::spawn(async move {
            put(&mut *sink, 60_010..61_000).await;
        });
        tokio::time::sleep(Duration::from_millis(6500)).await;
        server.thaw();
        waiting.await.expect("all is written");
        assert_has(&server, "OUT", 61_000);
    });
}

#[test]
fn a_server_that_dies_while_it_is_read_loses_nothing() {
    let mut server = NatsServer::start();
    server.create("LOG", &["log.>"]);
    server.create("Q", &["q.>"]);
    server.publish(messages("log.a", 0..20_000));
    server.publish(messages("q.a", 0..20_000));
    let spec = NatsSourceSpec::new(server.url(), "LOG", "p");
    let mut shared = NatsSourceSpec::new(server.url(), "Q", "p");
    shared.ack_wait = wasmill_connect::units::HumanDuration(Duration::from_secs(2));
    block_on(async {
        let mut log = spec.source().expect("a source");
        log.take_all().await.expect("taken");
        let mut reader = log.open(0, 1).await.expect("a reader");
        let (mut queue, mut held, partition) = join(&shared).await;
        let mut all = read(&mut *reader, 5000).await;
        let mut worked = read(&mut *held, 5000).await;
        queue.commit(&[(partition.number, 3000)]).await.expect("acknowledged");
        server.kill();
        // It shows within 10 s.
        let since = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_secs(10), reader.poll(1000, 1 << 20))
                .await
                .expect("told")
            {
                Ok(Polled::Records(batch)) => all.extend(values(&batch)),
                Err(ConnectorError::Disconnected { what, .. }) => {
                    assert!(what.contains("LOG"), "{what}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(since.elapsed() < Duration::from_secs(10));
        assert!(matches!(log.commit(&[(0, 1)]).await, Err(ConnectorError::Disconnected { .. })));
        let count = worked.len() as u64;
        assert!(matches!(
            queue.commit(&[(partition.number, count)]).await,
            Err(ConnectorError::Disconnected { .. })
        ));
        server.run();
        insist(async || log.commit(&[(0, 1)]).await).await.expect("its own still");
        insist(async || queue.commit(&[(partition.number, count)]).await).await.expect("acknowledged");
        server.publish(messages("log.a", 20_000..20_100));
        let left = 20_100 - all.len();
        all.extend(read(&mut *reader, left).await);
        let expected = messages("log.a", 0..20_100);
        assert!(all.iter().eq(expected.iter().map(|(_, value)| value)), "other messages");
        let left = 20_000 - worked.len();
        worked.extend(read(&mut *held, left).await);
        worked.sort();
        worked.dedup();
        assert_eq!(worked.len(), 20_000, "something is lost, or came twice");
        assert_eq!(log.lost(), 0);
    });
}

#[test]
fn what_limits_remove_before_it_is_read_is_counted() {
    let server = NatsServer::start();
    server.create_stream(stream::Config {
        name: "LOG".into(),
        subjects: vec!["log.>".into()],
        max_messages: 1000,
        ..stream::Config::default()
    });
    let pad = "x".repeat(20_000);
    let sent = |numbers: std::ops::Range<usize>| {
        numbers.map(|i| ("log.a".to_owned(), format!("{i}{pad}"))).collect::<Vec<_>>()
    };
    server.publish(sent(0..1000));
    block_on(async {
        let mut source = NatsSourceSpec::new(server.url(), "LOG", "p").source().expect("a source");
        source.take_all().await.expect("taken");
        let mut reader = source.open(0, 1).await.expect("a reader");
        // What is read ahead is bounded: the rest is removed meanwhile.
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.publish(sent(1000..2500));
        let mut offsets = Vec::new();
        while offsets.last() != Some(&2500) {
            offsets.extend(poll(&mut *reader).await.records.iter().map(|r| r.offset));
        }
        tokio::time::sleep(Duration::from_millis(1100)).await;
        server.publish(sent(2500..2501));
        poll(&mut *reader).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(source.lost() > 0, "nothing was lost");
        assert_eq!(source.lost(), 2500 - offsets.len() as u64);
    });
}

#[test]
fn what_a_stream_will_not_take_is_refused_and_a_full_one_waited_for() {
    let server = NatsServer::start();
    server.create_stream(stream::Config {
        name: "OUT".into(),
        subjects: vec!["OUT.>".into()],
        max_message_size: 1000,
        max_messages: 20,
        discard: DiscardPolicy::New,
        ..stream::Config::default()
    });
    server.create("BIG", &["BIG.>"]);
    block_on(async {
        let long = |bytes: usize| {
            let mut long = batch(0..3);
            let start = long.data.len();
            long.data.extend(std::iter::repeat_n(b'x', bytes));
            long.records[1].value = start..long.data.len();
            long
        };
        for (subject, bytes, part) in [("OUT.x", 2000, "max_msg_size"), ("BIG.x", 2 << 20, "max_payload")] {
            let mut sink = recovered(&NatsSinkSpec::new(server.url(), subject), None).await;
            sink.write(&long(bytes)).await.expect("written");
            sink.flush().await.expect("flushed");
            let refused = sink.refused();
            assert_eq!((refused.len(), refused[0].nth, refused[0].value.len()), (1, 1, bytes));
            assert!(refused[0].reason.contains(part), "{}", refused[0].reason);
            assert!(sink.refused().is_empty());
        }
        assert_eq!(server.messages("OUT").len(), 2);
        let mut sink = recovered(&NatsSinkSpec::new(server.url(), "OUT.x"), None).await;
        let more = batch(100..130);
        sink.write(&more).await.ok();
        match sink.flush().await {
            Err(ConnectorError::Disconnected { cause, .. }) => assert!(cause.contains("maximum"), "{cause}"),
            other => panic!("{other:?}"),
        }
        server.with(|js| async move {
            js.get_stream("OUT").await.expect("it").purge().await.expect("a purge");
        });
        insist(async || sink.flush().await).await.expect("flushed");
        assert_eq!(server.messages("OUT").len(), 12);
    });
}

#[test]
fn what_cannot_work_is_told_with_what_to_do() {
    let server = NatsServer::start_with("authorization { user: me, password: s3cret }", "me:s3cret@");
    server.create("OUT", &["out.>"]);
    let queue = |name: &str, retention| stream::Config {
        name: name.into(),
        subjects: vec![format!("{name}.>")],
        retention,
        ..stream::Config::default()
    };
    server.create_stream(queue("WORK", RetentionPolicy::WorkQueue));
    server.create_stream(queue("SEEN", RetentionPolicy::Interest));
    let at = |url: String, subject: &str| NatsSinkSpec::new(url, subject);
    block_on(async {
        let ask = async |spec: &NatsSinkSpec, exact| {
            let mut sink = spec.sink().expect("a sink");
            sink.identify(writer(exact));
            sink.recover(None).await
        };
        assert!(
            fatal(ask(&at(server.url(), "none.x"), false).await)
                .contains("nats stream add NONE --subjects none.x")
        );
        for name in ["WORK", "SEEN"] {
            let spec = at(server.url(), &format!("{name}.x"));
            assert!(fatal(ask(&spec, true).await).contains("retention `limits`"));
            ask(&spec, false).await.expect("at least once it can be");
            let mut log = NatsSourceSpec::new(server.url(), name, "p").source().expect("a source");
            assert!(fatal(log.take_all().await).contains("retention"));
        }
        let wrong = at(format!("nats://me:wr0ng@{}", server.address()), "out.x");
        let text = fatal(ask(&wrong, false).await);
        assert!(text.contains("authorization") && text.contains("password_file"), "{text}");
        assert!(!text.contains("wr0ng") && !format!("{wrong:?}").contains("wr0ng"), "{text}");
        let mut source = NatsSourceSpec::new(server.address(), "OUT", "p").source().expect("a source");
        assert!(fatal(source.partitions().await).contains("authorization"));
        // By settings, and by a file.
        let mut spec = at(server.address(), "out.x");
        spec.user = Some("me".into());
        spec.password = Some(Secret::new("s3cret"));
        ask(&spec, true).await.expect("the right one");
        assert!(!format!("{spec:?}").contains("s3cret"));
        let file = server.directory().join("secret");
        std::fs::write(&file, "s3cret\n").expect("a file");
        (spec.password, spec.password_file) = (None, Some(file));
        ask(&spec, true).await.expect("the right one");
        // A server that is away is waited for.
        let away = at("nats://127.0.0.1:1".into(), "out.x");
        assert!(matches!(ask(&away, false).await, Err(ConnectorError::Disconnected { .. })));
    });
    for subject in ["out.*", "out.>", "", "a b", "a..b", "$JS.x"] {
        assert!(fatal(at(server.url(), subject).sink()).contains("subject"));
    }
    let mut two = at(server.url(), "out.x");
    two.token_file = Some("x".into());
    assert!(fatal(two.sink()).contains("choose one way"));
    assert!(fatal(at("http://x".into(), "out.x").sink()).contains("nats://"));
}

#[test]
fn tls_is_trusted_by_the_ca_file() {
    let make = tempfile::tempdir().expect("a directory");
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let out = command.args(arguments.split(' ')).current_dir(make.path()).output().expect("openssl");
        assert!(out.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&out.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca");
    openssl(
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server -addext subjectAltName=IP:127.0.0.1",
    );
    openssl(
        "x509 -req -in server.csr -out server.pem -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2",
    );
    let at = make.path().display().to_string();
    let server = NatsServer::start_with(
        &format!("tls {{ cert_file: \"{at}/server.pem\", key_file: \"{at}/server.key\" }}"),
        "",
    );
    block_on(async {
        let mut spec = NatsSourceSpec::new(format!("tls://{}", server.address()), "NONE", "p");
        let text = fatal(spec.source().expect("a source").partitions().await);
        assert!(text.contains("ca_file"), "{text}");
        spec.ca_file = Some(make.path().join("ca.pem"));
        let text = fatal(spec.source().expect("a source").partitions().await);
        assert!(text.contains("there is no stream"), "{text}");
        spec.ca_file = Some(make.path().join("missing.pem"));
        let text = fatal(spec.source().expect("a source").partitions().await);
        assert!(text.contains("missing.pem"), "{text}");
    });
}
