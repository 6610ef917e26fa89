//! What a log holds, read to its end without a trace; letters put into one, each once.

use std::collections::BTreeMap;
use std::path::Path;

use wasmill_connect::file::FileSinkSpec;
use wasmill_connect::http::HttpSinkSpec;
use wasmill_connect::kafka::{KafkaScan, KafkaSinkSpec, KafkaSourceSpec, committed};
use wasmill_connect::local_log::{Batch, Keep, LogCopier, LogScan, Record, SEGMENT_BYTES, Taken, trim};
use wasmill_connect::log::LogSinkSpec;
use wasmill_connect::nats::NatsSinkSpec;
use wasmill_connect::scan::{self, Copier as _, Copies, Noted, Scan, Scanned, digest};
use wasmill_connect::table::{SinkSpec, SourceSpec};

use crate::servers::RedisServer;
use crate::support::broker::{Broker, kcat};
use crate::support::nats::NatsServer;
use crate::support::redis::Streams as _;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// What a scan finds: partition, offset and value of each record; digest and offset of each copy.
type Found = (Vec<(u32, u64, String)>, BTreeMap<u128, u64>);

async fn all(mut scan: Box<dyn Scan>) -> Found {
    let (mut records, mut copies) = (Vec::new(), BTreeMap::new());
    while let Some(found) = scan.next().await.expect("a step") {
        match found {
            Scanned::Records(batch) => {
                let part = batch.partition.partition;
                assert!(scan.parts().iter().any(|p| p.number == part), "partition {part} is listed");
                records.extend(batch.records.iter().map(|r| {
                    let value = String::from_utf8(batch.data[r.value.clone()].to_vec()).expect("UTF-8");
                    (part, r.offset, value)
                }));
            }
            Scanned::Noted(noted) => {
                copies.extend(noted.into_iter().map(|Noted { digest, offset }| (digest, offset)))
            }
        }
    }
    assert!(scan.next().await.expect("a step").is_none(), "an end is an end");
    (records, copies)
}

fn letter(n: u64) -> String {
    format!("letter {n}")
}

fn copies(letters: std::ops::Range<u64>) -> Copies {
    let mut copies = Copies::default();
    for n in letters {
        copies.push(letter(n).as_bytes(), Some(b"key"), digest(letter(n).as_bytes()));
    }
    copies
}

/// Letters that stand in a log in their order, from offset 0.
fn expected(count: u64) -> BTreeMap<u128, u64> {
    (0..count).map(|n| (digest(letter(n).as_bytes()), n)).collect()
}

async fn of_log(directory: &Path) -> Found {
    all(Box::new(LogScan::open(directory, true).await.expect("a scan"))).await
}

#[test]
fn a_log_knows_its_copies_though_its_reader_has_removed_them() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("replay");
    block_on(async {
        for round in 0..10 {
            // Small segments: there are many, and each begins with a note.
            let mut copier = LogCopier::with_segments_of(&path, 300).await.expect("a copier");
            copier.append(copies(round * 10..round * 10 + 7)).await.expect("appended");
            copier.append(copies(round * 10 + 7..round * 10 + 10)).await.expect("appended");
            copier.close().await.expect("closed");
            trim(&path, round * 10 + 5).expect("trimmed");
            assert_eq!(of_log(&path).await, (Vec::new(), expected(round * 10 + 10)), "round {round}");
        }
        let mut copier = LogCopier::with_segments_of(&path, 300).await.expect("a copier");
        let (_, known) = all(copier.scan().await.expect("a scan")).await;
        assert_eq!(known, expected(100));
        let first = LogScan::open(&path, true).await.expect("a scan").parts()[0].begin;
        assert!(first > 50, "most of it is gone: it begins with {first}");
    });
}

#[test]
fn what_a_killed_copier_has_appended_whole_counts() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("replay");
    {
        let mut log = Taken::take(&path).expect("taken").open(Keep::Whole, SEGMENT_BYTES).expect("open");
        let mut batch = Batch::default();
        for n in 0..3 {
            let id = digest(letter(n).as_bytes()).to_le_bytes();
            batch.push(Record { value: letter(n).as_bytes(), key: None, id: Some(&id) });
        }
        log.append(&mut batch, 1).expect("appended");
        // It dies here: nobody was told.
    }
    block_on(async {
        assert_eq!(of_log(&path).await, (Vec::new(), BTreeMap::new()), "nobody sees it yet");
        let mut copier = LogCopier::open(&path).await.expect("a copier");
        assert_eq!(all(copier.scan().await.expect("a scan")).await.1, expected(3));
        let other = LogCopier::open(&path).await.err().expect("one writes").to_string();
        assert!(other.contains("is written by another"), "{other}");
        copier.append(copies(3..5)).await.expect("appended");
    });
    block_on(async {
        let (records, _) = all(Box::new(LogScan::open(&path, false).await.expect("a scan"))).await;
        let values: Vec<String> = records.into_iter().map(|(_, _, value)| value).collect();
        assert_eq!(values, (0..5).map(letter).collect::<Vec<_>>(), "its readers get each once");
    });
}

#[test]
fn a_log_is_read_up_to_what_is_committed_and_none_is_made() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("dead");
    let spec = SinkSpec::Log(LogSinkSpec::new(&path));
    block_on(async {
        assert!(all(scan::of_sink(&spec).await.expect("a scan")).await.0.is_empty());
        assert!(!path.exists(), "looking makes nothing");
        let mut log = Taken::take(&path).expect("taken").open(Keep::Whole, 200).expect("open");
        for n in 0..30 {
            let mut batch = Batch::default();
            batch.push(Record { value: letter(n).as_bytes(), key: None, id: None });
            log.append(&mut batch, 1).expect("appended");
        }
        log.sync().expect("synced");
        log.commit(21, true).expect("committed");
        let (records, _) = all(scan::of_sink(&spec).await.expect("a scan")).await;
        assert_eq!(records, (0..21).map(|n| (0, n, letter(n))).collect::<Vec<_>>());
    });
}

#[test]
fn finished_files_are_read_and_compressed_ones_too() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path();
    std::fs::write(path.join("part-000002.jsonl"), "c\nd\n").expect("written");
    std::fs::write(path.join(".part-000003.jsonl.tmp"), "e\n").expect("written");
    std::fs::write(path.join("other.jsonl"), "x\n").expect("written");
    let file = std::fs::File::create(path.join("part-000001.jsonl.gz")).expect("made");
    let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, b"a\nb\n").expect("written");
    gz.finish().expect("finished");
    block_on(async {
        let scan = scan::of_sink(&SinkSpec::File(FileSinkSpec::new(path))).await.expect("a scan");
        let unread = scan.unread().expect("a file isn't finished");
        assert!(unread.contains("2 bytes") && unread.contains("isn't finished"), "{unread}");
        let found: Vec<(u32, String)> = all(scan).await.0.into_iter().map(|(p, _, v)| (p, v)).collect();
        let text = |p, v: &str| (p, v.to_owned());
        assert_eq!(found, [text(1, "a"), text(1, "b"), text(2, "c"), text(2, "d")]);
    });
}

#[test]
fn what_cant_be_read_back_says_what_to_do() {
    let spec = SinkSpec::Http(HttpSinkSpec::new("http://127.0.0.1:1/"));
    let why = block_on(scan::of_sink(&spec)).err().expect("refused").to_string();
    assert!(why.contains("`dead_letter`"), "{why}");
    let source = SourceSpec::File(wasmill_connect::file::FileSourceSpec::new("in.jsonl"));
    let why = block_on(scan::copier(&source, "x")).err().expect("refused").to_string();
    assert!(why.contains("`replay: { log:"), "{why}");
}

#[test]
fn a_topic_is_read_to_its_end_and_a_second_copier_fences_the_first() {
    let broker = Broker::start();
    broker.create_topic("dead", 3, &[]);
    broker.create_topic("replay", 2, &[]);
    let lines: String = (0..5000).map(|n| format!("k{n}:{}\n", letter(n))).collect();
    kcat(&broker.address(), &["-P", "-t", "dead", "-K", ":"], &lines);
    block_on(async {
        let spec = SinkSpec::Kafka(KafkaSinkSpec::new(broker.address(), "dead"));
        let mut found: Vec<String> =
            all(scan::of_sink(&spec).await.expect("a scan")).await.0.into_iter().map(|(_, _, v)| v).collect();
        let mut wanted: Vec<String> = (0..5000).map(letter).collect();
        found.sort();
        wanted.sort();
        assert!(found == wanted, "{} came", found.len());

        let kafka = KafkaSourceSpec::new(broker.address(), "replay", "g");
        let replay = SourceSpec::Kafka(kafka.clone());
        let mut first = scan::copier(&replay, "p-replay").await.expect("a copier");
        first.append(copies(0..10)).await.expect("appended");
        let mut second = scan::copier(&replay, "p-replay").await.expect("a copier");
        let why = first.append(copies(10..20)).await.expect_err("fenced out").to_string();
        assert!(why.contains("another `wasmill dlq replay`"), "{why}");
        // What it sent and couldn't commit is there, and nobody sees it.
        assert_eq!(all(second.scan().await.expect("a scan")).await.0.len(), 10);
        second.append(copies(20..25)).await.expect("appended");
        let (records, _) = all(scan::of_source(&replay).await.expect("a scan")).await;
        let mut values: Vec<String> = records.into_iter().map(|(_, _, v)| v).collect();
        values.sort();
        let mut wanted: Vec<String> = (0..10).chain(20..25).map(letter).collect();
        wanted.sort();
        assert_eq!(values, wanted);
        first.close().await.expect("closed");
        second.close().await.expect("closed");

        let untouched = committed(&kafka).await.expect("told");
        assert_eq!(untouched, [(0, None), (1, None)], "nobody has committed anything");
        let empty = KafkaScan::of_sink(&KafkaSinkSpec::new(broker.address(), "none")).await;
        let why = empty.err().expect("it is missing").to_string();
        assert!(why.contains("topic none does not exist"), "{why}");
    });
}

#[test]
fn a_subject_is_read_to_its_end_and_no_consumer_is_left() {
    let server = NatsServer::start();
    server.create("DEAD", &["dead.>"]);
    let messages: Vec<(String, String)> = (0..3000)
        .map(|n| (if n % 3 == 0 { "dead.other" } else { "dead.mine" }.to_owned(), letter(n)))
        .collect();
    server.publish(messages);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let spec = SinkSpec::Nats(NatsSinkSpec::new(server.url(), "dead.mine"));
        for _ in 0..2 {
            let found: Vec<String> = all(scan::of_sink(&spec).await.expect("a scan"))
                .await
                .0
                .into_iter()
                .map(|(_, _, v)| v)
                .collect();
            assert_eq!(found, (0..3000).filter(|n| n % 3 != 0).map(letter).collect::<Vec<_>>());
        }
        let empty = SinkSpec::Nats(NatsSinkSpec::new(server.url(), "dead.nothing"));
        assert!(all(scan::of_sink(&empty).await.expect("a scan")).await.0.is_empty());
    });
    let left = server.with(|js| async move {
        let mut stream = js.get_stream("DEAD").await.expect("the stream");
        stream.info().await.expect("told").state.consumer_count
    });
    assert_eq!(left, 0);
}

#[test]
fn a_redis_stream_is_read_to_its_end() {
    let Some(redis) = RedisServer::start("scans") else { return };
    let spec = SinkSpec::Redis(redis.sink("dead"));
    block_on(async {
        assert!(all(scan::of_sink(&spec).await.expect("a scan")).await.0.is_empty());
        redis.add("dead", 0..2500);
        let found = all(scan::of_sink(&spec).await.expect("a scan")).await.0;
        let ids: Vec<String> = found
            .iter()
            .map(|(_, _, value)| {
                let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
                value["id"].as_str().expect("an id").to_owned()
            })
            .collect();
        assert_eq!(ids, (0..2500).map(|n| n.to_string()).collect::<Vec<_>>());
    });
}
