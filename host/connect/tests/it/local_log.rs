//! The local log: what is durable comes back, what a crash cut short goes, what is damaged is told.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use wasmill_connect::local_log::{
    Answer, Append, Appender, AppenderSettings, Batch, Keep, LogError, LogReader, LogWriter, Record,
    RequestKey, Taken, facts, trim,
};
use wasmill_connect::log::{LogSinkSpec, LogSourceSpec};
use wasmill_connect::table::{SinkConnector as _, SourceConnector as _};
use wasmill_connect::{ConnectorError, Polled, Reader, Sink};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn open(directory: &Path, keep: Keep, segment_bytes: u64) -> Result<LogWriter, ConnectorError> {
    Taken::take(directory)?.open(keep, segment_bytes)
}

fn batch(values: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::default();
    for value in values {
        let key = (value.len() % 2 == 1).then_some(&b"key"[..]);
        batch.push(Record { value, key, id: None });
    }
    batch
}

fn texts(from: usize, to: usize) -> Vec<Vec<u8>> {
    (from..to).map(|i| format!("value {i}").into_bytes()).collect()
}

/// Appends, and makes it durable and seen.
fn put(log: &mut LogWriter, values: &[Vec<u8>]) {
    log.append(&mut batch(values), 1000).expect("appended");
    log.sync().expect("synced");
    log.commit(log.end(), true).expect("committed");
}

/// All committed values from an offset on.
fn read(directory: &Path, from: u64) -> Result<Vec<Vec<u8>>, ConnectorError> {
    let end = facts(directory)?.committed;
    block_on(async {
        let mut reader = LogReader::open(directory, 0, from).await?;
        let mut values = Vec::new();
        while from + (values.len() as u64) < end {
            let Polled::Records(batch) = reader.poll(7, 1000).await? else { panic!("a log has no end") };
            for record in batch.records {
                assert_eq!(record.offset, from + values.len() as u64);
                assert_eq!(record.key.is_some(), record.value.len() % 2 == 1);
                values.push(batch.data[record.value].to_vec());
            }
        }
        Ok(values)
    })
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(directory).expect("a directory").map(|e| e.expect("an entry").path());
    let mut all: Vec<PathBuf> = all.filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Commit,
    /// As a process that dies and comes again: keeps what is committed, or all.
    Reopen {
        all: bool,
    },
    Trim(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop::collection::vec(any::<u8>(), 0..60);
    let step = prop_oneof![
        5 => prop::collection::vec(value, 1..6).prop_map(Step::Append),
        3 => Just(Step::Commit),
        2 => any::<bool>().prop_map(|all| Step::Reopen { all }),
        1 => (0_usize..100).prop_map(Step::Trim),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn it_is_as_a_list(steps in steps(), segment_bytes in 1_u64..600) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let mut log = Some(open(path, Keep::Whole, segment_bytes).expect("open"));
        let (mut model, mut committed): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
        for step in steps {
            let writer = log.as_mut().expect("open");
            match step {
                Step::Append(values) => {
                    let at = writer.append(&mut batch(&values), 5).expect("appended");
                    prop_assert_eq!(at.start, model.len() as u64);
                    model.extend(values);
                }
                Step::Commit => {
                    writer.sync().expect("synced");
                    writer.commit(writer.end(), true).expect("committed");
                    committed = model.len();
                }
                Step::Reopen { all } => {
                    drop(log.take());
                    let keep = if all { Keep::Whole } else { Keep::Before(committed as u64) };
                    let opened = open(path, keep, segment_bytes).expect("open");
                    if !all {
                        model.truncate(committed);
                    }
                    prop_assert_eq!(opened.end(), model.len() as u64);
                    prop_assert_eq!(opened.committed(), committed as u64);
                    log = Some(opened);
                }
                Step::Trim(percent) => {
                    let before = (committed * percent / 100) as u64;
                    let first = facts(path).expect("facts").first;
                    trim(path, before).expect("trimmed");
                    prop_assert!(facts(path).expect("facts").first <= before.max(first));
                }
            }
            let first = usize::try_from(facts(path).expect("facts").first).expect("small");
            prop_assert_eq!(&read(path, first as u64).expect("read")[..], &model[first..committed]);
        }
        let first = facts(path).expect("facts").first;
        for from in first..=committed as u64 {
            let at = usize::try_from(from).expect("small");
            prop_assert_eq!(&read(path, from).expect("read")[..], &model[at..committed]);
        }
    }
}

#[test]
fn a_write_that_was_cut_short_anywhere_goes_and_what_is_before_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let (whole, torn) = (directory.path().join("whole"), directory.path().join("torn"));
    let mut log = open(&whole, Keep::Whole, 1 << 20).expect("open");
    put(&mut log, &texts(0, 3));
    let before = fs::metadata(&segments(&whole)[0]).expect("a file").len();
    log.append(&mut batch(&texts(3, 5)), 1000).expect("appended");
    log.sync().expect("synced");
    drop(log);
    let after = fs::metadata(&segments(&whole)[0]).expect("a file").len();
    assert!(after > before + 40);
    let bytes = fs::read(&segments(&whole)[0]).expect("a file");
    let sees = |what: &str, bytes: &[u8]| {
        copy(&whole, &torn);
        fs::write(&segments(&torn)[0], bytes).expect("written");
        let mut log = open(&torn, Keep::Whole, 1 << 20).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(log.end(), 3, "{what}");
        put(&mut log, &texts(3, 4));
        drop(log);
        assert_eq!(read(&torn, 0).expect(what), texts(0, 4), "{what}");
    };
    let cut = usize::try_from(before).expect("small");
    for length in cut..bytes.len() {
        sees(&format!("cut at {length}"), &bytes[..length]);
        // As a file system that made the file longer before it had the bytes.
        let mut zeros = bytes.clone();
        zeros[length..].fill(0);
        sees(&format!("zeros from {length}"), &zeros);
    }
    for at in cut..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        sees(&format!("flipped at {at}"), &flipped);
    }
    // Whole, it is kept.
    copy(&whole, &torn);
    assert_eq!(open(&torn, Keep::Whole, 1 << 20).expect("open").end(), 5);
}

#[test]
fn damage_before_the_end_is_refused_with_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let (whole, bad) = (directory.path().join("whole"), directory.path().join("bad"));
    let mut log = open(&whole, Keep::Whole, 1 << 20).expect("open");
    for i in 0..4 {
        log.append(&mut batch(&texts(i, i + 1)), 1000).expect("appended");
        log.sync().expect("synced");
    }
    drop(log);
    let bytes = fs::read(&segments(&whole)[0]).expect("a file");
    let frame = bytes.len() / 4;
    // Nothing is marked as committed: the frames behind it tell that it was whole.
    for at in frame..2 * frame {
        copy(&whole, &bad);
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(&segments(&bad)[0], &flipped).expect("written");
        let error = open(&bad, Keep::Whole, 1 << 20).expect_err("damaged").to_string();
        let place = format!("00000000000000000000.log is damaged at byte {frame}, offset 1:");
        assert!(error.contains(&place) && error.contains("wasmill reset"), "{at}: {error}");
        assert_eq!(fs::read(&segments(&bad)[0]).expect("a file"), flipped, "it is left as it is");
    }
    // The last frame is damaged or missing, and it is committed.
    let mut log = open(&whole, Keep::Whole, 1 << 20).expect("open");
    log.commit(4, true).expect("committed");
    drop(log);
    for keep in [Keep::Whole, Keep::Before(4)] {
        copy(&whole, &bad);
        fs::write(&segments(&bad)[0], &bytes[..bytes.len() - 1]).expect("written");
        let error = open(&bad, keep, 1 << 20).expect_err("damaged").to_string();
        assert!(error.contains("offset 3"), "{error}");
        let error = read(&bad, 0).expect_err("damaged").to_string();
        assert!(error.contains("offset 3"), "{error}");
        fs::write(&segments(&bad)[0], &bytes[..3 * frame]).expect("written");
        let error = open(&bad, keep, 1 << 20).expect_err("too short").to_string();
        assert!(error.contains("ends at offset 3, but 4 is committed"), "{error}");
        read(&bad, 0).expect_err("too short");
        fs::remove_file(&segments(&bad)[0]).expect("removed");
        open(&bad, keep, 1 << 20).expect_err("gone");
        read(&bad, 0).expect_err("gone");
    }
}

#[test]
fn damage_in_an_earlier_segment_is_told_to_who_reads_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let mut log = open(path, Keep::Whole, 100).expect("open");
    for i in 0..9 {
        put(&mut log, &texts(i, i + 1));
    }
    drop(log);
    assert!(segments(path).len() > 3);
    let middle = segments(path)[1].clone();
    let mut bytes = fs::read(&middle).expect("a file");
    bytes[45] ^= 1;
    fs::write(&middle, bytes).expect("written");
    let error = read(path, 0).expect_err("damaged").to_string();
    assert!(error.contains(&middle.display().to_string()) && error.contains("checksum"), "{error}");
    fs::remove_file(&middle).expect("removed");
    let error = read(path, 0).expect_err("missing").to_string();
    assert!(error.contains("the file is missing"), "{error}");
}

#[test]
fn what_is_cut_off_and_written_anew_is_read_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let mut log = open(path, Keep::Whole, 1 << 20).expect("open");
    put(&mut log, &texts(0, 3));
    log.append(&mut batch(&texts(100, 105)), 1000).expect("appended");
    log.sync().expect("synced");
    block_on(async {
        let mut reader = LogReader::open(path, 0, 0).await.expect("a reader");
        // It has read ahead what is not committed.
        let Ok(Polled::Records(first)) = reader.poll(100, 1 << 20).await else { panic!("records") };
        assert_eq!(first.records.len(), 3);
        drop(log);
        let mut log = open(path, Keep::Before(3), 1 << 20).expect("open");
        put(&mut log, &texts(3, 8));
        let Ok(Polled::Records(more)) = reader.poll(100, 1 << 20).await else { panic!("records") };
        let values: Vec<_> = more.records.iter().map(|r| more.data[r.value.clone()].to_vec()).collect();
        assert_eq!(values, texts(3, 8));
    });
    let error = open(path, Keep::Before(4), 1 << 20).expect_err("in a frame").to_string();
    assert!(error.contains("can't be cut at offset 4"), "{error}");
}

#[test]
fn one_writes_and_offsets_outside_are_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let mut log = open(path, Keep::Whole, 100).expect("open");
    let error = open(path, Keep::Whole, 100).expect_err("held").to_string();
    assert!(error.contains("is written by another"), "{error}");
    for i in 0..9 {
        put(&mut log, &texts(i, i + 1));
    }
    assert!(trim(path, 5).expect("trimmed") > 0);
    let first = facts(path).expect("facts").first;
    assert!(first > 0 && first <= 5);
    for offset in [0, 10, u64::MAX] {
        let error = read(path, offset).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(offset == 10 || error.contains("wasmill reset"), "{offset}: {error}");
    }
    block_on(async { LogReader::open(path, 0, 10).await.err().expect("behind the end") });
    // The last segment stays, whatever was read.
    trim(path, u64::MAX).expect("trimmed");
    assert_eq!(segments(path).len(), 1);
    put(&mut log, &texts(9, 10));
}

fn request(text: &str, key: Option<u128>) -> Append {
    let body = Bytes::copy_from_slice(text.as_bytes());
    let key = key.map(|key| RequestKey { key, body: text.len() as u64 });
    Append { values: std::iter::once(0..body.len()).collect(), body, key }
}

const SMALL: AppenderSettings = AppenderSettings { log_bytes_max: 64 * 1024 };

#[test]
fn a_request_that_is_repeated_is_taken_once_also_behind_a_restart_and_a_trim() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    block_on(async {
        let log = Appender::open(path, SMALL).await.expect("open");
        assert_eq!(log.append(request("first", Some(1))).await, Answer::Taken);
        assert_eq!(log.append(request("first", Some(1))).await, Answer::Repeated(1));
        assert_eq!(log.append(request("another", Some(1))).await, Answer::KeyUsed);
        // At once: one is taken.
        let all =
            futures_util::future::join_all((0..20).map(|_| log.append(request("twice", Some(2))))).await;
        assert_eq!(all.iter().filter(|a| **a == Answer::Taken).count(), 1, "{all:?}");
        log.close().await.expect("closed");
        for round in 0..6 {
            let log = Appender::open(path, SMALL).await.expect("open");
            assert_eq!(log.append(request("first", Some(1))).await, Answer::Repeated(1), "round {round}");
            // More than a segment, all of which is read and removed.
            for _ in 0..10 {
                assert_eq!(log.append(request(&"x".repeat(1000), None)).await, Answer::Taken);
            }
            let end = facts(path).expect("facts").committed;
            trim(path, end).expect("trimmed");
            assert_eq!(log.append(request("another", Some(1))).await, Answer::KeyUsed, "round {round}");
            log.close().await.expect("closed");
        }
        assert!(facts(path).expect("facts").first > 2);
    });
}

#[test]
fn many_at_once_share_syncs_and_a_full_log_refuses_until_it_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    block_on(async {
        let log = Appender::open(path, SMALL).await.expect("open");
        let one = "y".repeat(500);
        let answers = futures_util::future::join_all((0..400).map(|_| log.append(request(&one, None)))).await;
        let taken = answers.iter().filter(|a| **a == Answer::Taken).count();
        assert!((100..130).contains(&taken), "{taken}");
        assert!(answers.iter().all(|a| matches!(a, Answer::Taken | Answer::Full)));
        assert!(log.bytes() <= SMALL.log_bytes_max);
        assert_eq!(facts(path).expect("facts").committed, taken as u64);
        trim(path, taken as u64).expect("trimmed");
        assert_eq!(log.append(request(&one, None)).await, Answer::Taken);
        log.close().await.expect("closed");
    });
}

/// What a child does, if this process is one: it runs a test of this file by its name.
fn child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let test = format!("local_log::{test}");
    command.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env("WASMILL_TEST_LOG", directory);
    command
}

fn is_child() -> Option<PathBuf> {
    std::env::var_os("WASMILL_TEST_LOG").map(PathBuf::from)
}

#[test]
fn child_that_appends() {
    let Some(path) = is_child() else { return };
    block_on(async {
        let log = Appender::open(&path, AppenderSettings { log_bytes_max: 1 << 30 }).await.expect("open");
        for i in facts(&path).expect("facts").committed.. {
            assert_eq!(log.append(request(&format!("value {i}"), None)).await, Answer::Taken);
            println!("appended {i}");
        }
    });
}

#[test]
fn what_was_acknowledged_outlives_kill_9_and_is_read_by_another_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    facts(path).expect("an empty log");
    block_on(async {
        let mut reader = LogReader::open(path, 0, 0).await.expect("a reader");
        let mut read = 0_u64;
        for round in 1..=5 {
            let mut writer =
                child("child_that_appends", path).stdout(Stdio::piped()).spawn().expect("a child");
            let lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
            let mut acknowledged = 0;
            for line in lines.map_while(Result::ok) {
                // The test's own name stands before the first.
                let Some((_, number)) = line.split_once("appended ") else { continue };
                acknowledged = number.parse::<u64>().expect("a number") + 1;
                if acknowledged >= round * 100 {
                    writer.kill().expect("killed");
                }
            }
            writer.wait().expect("its end");
            assert!(acknowledged >= round * 100, "the child ended early");
            let whole = open(path, Keep::Whole, 1 << 20).expect("open").end();
            assert!(whole >= acknowledged, "{whole} of {acknowledged}");
            while read < acknowledged {
                let polled = tokio::time::timeout(Duration::from_secs(5), reader.poll(100, 1 << 20)).await;
                let Ok(Ok(Polled::Records(batch))) = polled else { panic!("records") };
                for record in &batch.records {
                    assert_eq!(batch.data[record.value.clone()], *format!("value {read}").as_bytes());
                    read += 1;
                }
            }
        }
    });
}

#[test]
fn child_on_a_small_disk() {
    let Some(path) = is_child() else { return };
    let mut log = open(&path, Keep::Whole, 1 << 20).expect("open");
    let large = vec![vec![7_u8; 20_001]];
    let mut taken = 0;
    let full = loop {
        match log.append(&mut batch(&large), 0) {
            Ok(_) => taken += 1,
            Err(e) => break e,
        }
        log.sync().expect("synced");
        log.commit(log.end(), false).expect("committed");
    };
    assert!(matches!(&full, LogError::Full(text) if text.contains("no space left")), "{full}");
    // Whole or not at all; what fits goes on.
    assert_eq!(log.end(), taken);
    log.append(&mut batch(&texts(0, 1)), 0).expect("a small one fits");
    log.sync().expect("synced");
    log.commit(log.end(), false).expect("committed");
    drop(log);
    let values = read(&path, 0).expect("read");
    assert_eq!((values.len() as u64, values.last()), (taken + 1, texts(0, 1).last()));
    println!("the disk was full behind {taken}");
}

#[test]
fn a_full_disk_takes_all_of_a_batch_or_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let command = child("child_on_a_small_disk", path);
    let mounted = "mount -t tmpfs -o size=256k tmpfs \"$WASMILL_TEST_LOG\" || exit 77; exec \"$0\" \"$@\"";
    let out = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mounted])
        .arg(command.get_program())
        .args(command.get_args())
        .env("WASMILL_TEST_LOG", path)
        .output();
    let out = match out {
        Ok(out) if out.status.code() != Some(77) => out,
        other => {
            println!("NOT RUN: no file system can be mounted here: {other:?}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("the disk was full behind"), "{out:?}");
}

async fn write(sink: &mut dyn Sink, values: &[Vec<u8>]) {
    let mut batch = EncodedBatch::default();
    for value in values {
        let start = batch.data.len();
        batch.data.extend_from_slice(value);
        let value = start..batch.data.len();
        let key = (value.len() % 2 == 1).then_some(0..1);
        batch.records.push(EncodedRecord { value, key, ..EncodedRecord::default() });
    }
    sink.write(&batch).await.expect("written");
}

async fn recovered(path: &Path, token: Option<&str>) -> Result<Box<dyn Sink>, ConnectorError> {
    let mut sink = LogSinkSpec::new(path).sink().expect("a sink");
    sink.recover(token).await.map(|()| sink)
}

#[test]
fn a_sink_returns_to_what_is_committed_and_refuses_what_does_not_go_together() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    block_on(async {
        let mut sink = recovered(path, None).await.expect("a sink");
        write(&mut *sink, &texts(0, 3)).await;
        let first = sink.flush().await.expect("flushed");
        drop(sink);
        // The commit was lost, or it wasn't: nobody has seen anything yet.
        assert_eq!(facts(path).expect("facts").committed, 0);
        let mut sink = recovered(path, None).await.expect("a sink");
        write(&mut *sink, &texts(10, 13)).await;
        assert_eq!(sink.flush().await.expect("flushed"), first);
        drop(sink);
        let mut sink = recovered(path, Some(&first)).await.expect("a sink");
        write(&mut *sink, &texts(13, 14)).await;
        let second = sink.flush().await.expect("flushed");
        write(&mut *sink, &texts(50, 60)).await;
        sink.flush().await.expect("flushed");
        drop(sink);
        let mut sink = recovered(path, Some(&second)).await.expect("a sink");
        let of_a_thread = path.to_owned();
        let seen = std::thread::spawn(move || read(&of_a_thread, 0)).join().expect("no panic");
        assert_eq!(seen.expect("read"), texts(10, 14));
        sink.close(true).await.expect("closed");
        for (token, part) in [
            (first.as_str(), "readers of the log"),
            ("{}", "is not of this wasmill"),
            (&second.replace(":4}", ":5}"), "ends at offset 4, but 5 is committed"),
        ] {
            let error = recovered(path, Some(token)).await.err().expect(part).to_string();
            assert!(error.contains(part) && error.contains("wasmill reset"), "{error}");
        }
        // A reset makes another log of it, and its reader is told.
        let mut source = LogSourceSpec::new(path).source().expect("a source");
        let old = source.take_all().await.expect("a partition").remove(0);
        let mut reader = source.open(0, 4).await.expect("a reader");
        LogSinkSpec::new(path).reset().expect("reset");
        let error = recovered(path, Some(&second)).await.err().expect("another").to_string();
        assert!(error.contains("is another than the one"), "{error}");
        let gone = tokio::time::timeout(Duration::from_secs(5), reader.poll(1, 1)).await.expect("told");
        assert!(matches!(gone, Err(ConnectorError::Outdated(_))), "{gone:?}");
        let new = source.partitions().await.expect("a partition").remove(0);
        assert!(!source.is_same_log(&new, &old.incarnation).await.expect("asked"));
    });
}

#[test]
fn one_pipeline_reads_a_log_and_removes_what_it_has_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let mut log = open(path, Keep::Whole, 100).expect("open");
    for i in 0..9 {
        put(&mut log, &texts(i, i + 1));
    }
    block_on(async {
        let spec = LogSourceSpec::new(path);
        let mut source = spec.source().expect("a source");
        assert_eq!(source.take_all().await.expect("a partition")[0].extent, Some(9));
        let error = spec.source().expect("a source").take_all().await.expect_err("taken").to_string();
        assert!(error.contains("is read by another"), "{error}");
        source.commit(&[(0, 7)]).await.expect("committed");
        let begin = source.partitions().await.expect("a partition")[0].begin;
        assert!(begin > 3 && begin <= 7, "{begin}");
        source.close().await.expect("closed");
        assert_eq!(spec.source().expect("a source").take_all().await.expect("a partition")[0].begin, begin);
    });
}
