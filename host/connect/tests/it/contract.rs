//! The connector contract, run over the whole registration table. A new connector adds its fixture: one
//! line in `sources` or `sinks`.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use wasmill_connect::file::{FileSinkSpec, FileSourceSpec};
use wasmill_connect::generator::GeneratorSourceSpec;
use wasmill_connect::http::{BatchForm, HttpSinkSpec, HttpSource, HttpSourceSpec};
use wasmill_connect::log::{LogSinkSpec, LogSourceSpec};
use wasmill_connect::stdio::{StdinSource, StdinSourceSpec, StdoutSink, StdoutSinkSpec};
use wasmill_connect::table::{SinkConnector, SourceConnector, connectors};
use wasmill_connect::{ConnectorError, Polled, Reader, Sink, Source, SourceTraits};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};

use crate::support::nats::NatsServer;
use crate::support::receiver::Receiver;

type MakeSource = Box<dyn Fn() -> Box<dyn Source>>;

/// A source over the same messages each time it is made, with what it is like.
fn sources(directory: &Path) -> Vec<(&'static str, SourceTraits, MakeSource)> {
    let lines = input();
    std::fs::write(directory.join("plain-1.jsonl"), &lines).expect("a file");
    std::fs::write(directory.join("plain-2.jsonl"), b"{\"last\": \"line without newline\"}").expect("a file");
    let file = std::fs::File::create(directory.join("packed.jsonl.gz")).expect("a file");
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(&lines).and_then(|()| gzip.finish().map(drop)).expect("gzip");
    let at = |name: &str| directory.join(name).display().to_string();
    let file = |path: String| -> (&'static str, SourceTraits, MakeSource) {
        let spec = FileSourceSpec::new(path);
        ("file", spec.traits(), Box::new(move || spec.source().expect("a source")))
    };
    let generator = GeneratorSourceSpec {
        partitions: 3,
        count: Some(700),
        disorder: "5s".parse_spec(),
        ..GeneratorSourceSpec::default()
    };
    let log = LogSourceSpec::new(directory.join("log"));
    fill_log(&log.path);
    let http = HttpSourceSpec {
        max_body: "8MiB".parse_spec(),
        ..HttpSourceSpec::new("127.0.0.1:0", directory.join("http"))
    };
    fill_http(&http, lines.clone());
    vec![
        file(at("plain-*.jsonl")),
        file(at("packed.jsonl.gz")),
        ("generator", generator.traits(), Box::new(move || generator.source().expect("a source"))),
        ("http", http.traits(), Box::new(move || http.source().expect("a source"))),
        ("log", log.traits(), Box::new(move || log.source().expect("a source"))),
        (
            "stdin",
            StdinSourceSpec::default().traits(),
            Box::new(move || {
                Box::new(StdinSource::new(&StdinSourceSpec::default(), std::io::Cursor::new(lines.clone())))
            }),
        ),
    ]
}

/// A log that a pipeline has written in some epochs, the last of which is not committed.
fn fill_log(directory: &Path) {
    block_on(async {
        let mut sink = LogSinkSpec::new(directory).sink().expect("a sink");
        sink.recover(None).await.expect("recovered");
        for epoch in 0..20 {
            sink.write(&batch(epoch * 100, epoch * 100 + 100).0).await.expect("written");
            sink.flush().await.expect("flushed");
            if epoch < 19 {
                sink.publish().await.expect("published");
            }
        }
    });
}

/// Posts the lines, and the source ends.
fn fill_http(spec: &HttpSourceSpec, lines: Vec<u8>) {
    on_a_thread(async {
        let mut source = HttpSource::new(spec.clone()).expect("a source");
        source.take_all().await.expect("its partition");
        let url = format!("http://{}/", source.address().expect("it listens"));
        let request = reqwest::Client::new().post(url).header("content-type", "application/x-ndjson");
        let answered = request.body(lines).send().await.expect("an answer");
        assert_eq!(answered.status(), 202);
        source.close().await.expect("closed");
    });
}

/// What is committed of a log.
fn seen_log(directory: &Path) -> Vec<String> {
    on_a_thread(async {
        let mut source = LogSourceSpec::new(directory).source().expect("a source");
        let partitions = source.partitions().await.expect("a partition");
        let end = partitions[0].extent;
        let mut reader = source.open(0, 0).await.expect("a reader");
        let records = read(&mut *reader, (1000, 1 << 20, false), 0, end).await;
        records.into_iter().map(|(.., value)| String::from_utf8(value).expect("UTF-8")).collect()
    })
}

/// Runs what may be asked for while another runtime runs on this thread.
fn on_a_thread<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| block_on(work)).join().expect("no panic"))
}

/// A receiver that runs on while the test does.
fn start_receiver() -> Receiver {
    let (send, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        block_on(async {
            send.send(Receiver::start(vec![]).await).expect("the test waits");
            std::future::pending::<()>().await;
        });
    });
    started.recv().expect("it starts")
}

type Seen = Arc<dyn Fn() -> Vec<String>>;
type MakeSink = Box<dyn Fn() -> Box<dyn Sink>>;

/// A sink over the same target each time it is made, and what its readers see.
fn sinks(directory: &Path) -> Vec<(&'static str, MakeSink, Seen)> {
    let out = directory.join("out");
    let spec = FileSinkSpec { roll_bytes: "64KiB".parse_spec(), ..FileSinkSpec::new(&out) };
    let screen = Screen::default();
    let shown = screen.clone();
    let log = LogSinkSpec::new(directory.join("log-out"));
    let log_path = log.path.clone();
    let receiver = start_receiver();
    let http = HttpSinkSpec {
        batch: BatchForm::Ndjson,
        batch_messages: 500,
        ..HttpSinkSpec::new(receiver.url("/"))
    };
    let posted = Mutex::new(Vec::new());
    vec![
        ("file", Box::new(move || spec.sink().expect("a sink")), Arc::new(move || seen_files(&out))),
        ("log", Box::new(move || log.sink().expect("a sink")), Arc::new(move || seen_log(&log_path))),
        (
            "http",
            Box::new(move || http.sink().expect("a sink")),
            Arc::new(move || {
                let mut posted = posted.lock().expect("no panic");
                let more = receiver.take();
                posted.extend(more.iter().flat_map(|r| r.body.lines()).map(str::to_owned));
                posted.clone()
            }),
        ),
        (
            "stdout",
            Box::new(move || {
                Box::new(StdoutSink::new(StdoutSinkSpec::default(), screen.clone()).expect("a sink"))
            }),
            Arc::new(move || shown.lines()),
        ),
    ]
}

trait ParseSpec {
    fn parse_spec<T: serde::de::DeserializeOwned>(&self) -> T;
}

impl ParseSpec for str {
    fn parse_spec<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.into()).expect("a spec's value")
    }
}

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("UTF-8").lines().map(str::to_owned).collect()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn seen_files(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("part-")));
    paths.sort();
    let read = |p: &PathBuf| std::fs::read_to_string(p).expect("a file");
    paths.iter().flat_map(|p| read(p).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Lines of many lengths, one longer than a read, with empty ones and carriage returns between.
fn input() -> Vec<u8> {
    let mut text = Vec::new();
    for i in 0..2000 {
        let pad = if i == 700 { 600_000 } else { i % 300 };
        let end = ["\n", "\r\n", "\n\n"][i % 3];
        text.extend_from_slice(format!(r#"{{"id":"{i}","pad":"{}"}}{end}"#, "x".repeat(pad)).as_bytes());
    }
    text
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// Connectors whose contract is tested against a real server: in the test of their name, or below.
const ON_A_SERVER: [&str; 4] = ["kafka", "nats", "postgres", "redis"];

fn sources_on_servers(nats: &NatsServer) -> Vec<(&'static str, SourceTraits, MakeSource)> {
    let lines = input();
    let lines: Vec<Vec<u8>> = lines.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let spec = nats.source_fixture("SOURCE", &lines);
    vec![("nats", spec.traits(), Box::new(move || spec.source().expect("a source")))]
}

fn sinks_on_servers(nats: &Arc<NatsServer>) -> Vec<(&'static str, MakeSink, Seen)> {
    let (spec, nats) = (nats.sink_fixture("SINK"), Arc::clone(nats));
    let seen = move || nats.messages("SINK").into_iter().map(|(value, _)| value).collect();
    vec![("nats", Box::new(move || spec.sink().expect("a sink")), Arc::new(seen))]
}

#[test]
fn every_connector_has_a_fixture() {
    let directory = tempfile::tempdir().expect("a directory");
    let sources: BTreeSet<_> = sources(directory.path()).into_iter().map(|(name, ..)| name).collect();
    let sinks: BTreeSet<_> = sinks(directory.path()).into_iter().map(|(name, ..)| name).collect();
    for connector in connectors().into_iter().filter(|c| !ON_A_SERVER.contains(&c.name)) {
        assert_eq!(connector.source, sources.contains(connector.name), "source {}", connector.name);
        assert_eq!(connector.sink, sinks.contains(connector.name), "sink {}", connector.name);
    }
}

/// (offset, next, bytes)
type Record = (u64, u64, Vec<u8>);

/// Reads to the end; of what has none, to the offset `end`.
async fn read(
    reader: &mut dyn Reader,
    (messages_max, bytes_max, cancel): (usize, usize, bool),
    from: u64,
    end: Option<u64>,
) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        if end.is_some_and(|end| records.last().map_or(from, |r| r.1) >= end) {
            let more = reader.poll(messages_max, bytes_max);
            let more = tokio::time::timeout(std::time::Duration::from_millis(2), more).await;
            assert!(more.is_err(), "more than there is: {more:?}");
            return records;
        }
        let mut first = None;
        if cancel {
            // Dropped in the middle of its wait; the next call must go on where it was.
            let mut future = pin!(reader.poll(messages_max, bytes_max));
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                first = Some(done);
            }
        }
        let done = match first {
            Some(done) => done,
            None if end.is_some() && records.is_empty() => {
                let polled = reader.poll(messages_max, bytes_max);
                match tokio::time::timeout(std::time::Duration::from_secs(20), polled).await {
                    Ok(done) => done,
                    Err(_) => return records,
                }
            }
            None => reader.poll(messages_max, bytes_max).await,
        };
        match done.expect("records") {
            Polled::End => {
                assert!(matches!(reader.poll(messages_max, bytes_max).await, Ok(Polled::End)));
                return records;
            }
            Polled::Records(batch) => {
                assert!(!batch.records.is_empty(), "an empty batch");
                assert!(batch.records.len() <= messages_max, "more than messages_max");
                let all_but_last = &batch.records[..batch.records.len() - 1];
                let bytes: usize = all_but_last.iter().map(|r| r.value.len()).sum();
                assert!(bytes <= bytes_max, "far more than bytes_max");
                for r in &batch.records {
                    records.push((r.offset, r.next, batch.data[r.value.clone()].to_vec()));
                }
                let last = records.last().expect("records");
                assert!(batch.next >= last.1, "the batch's next is behind its last record's");
            }
        }
    }
}

#[test]
fn sources_keep_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    let nats = NatsServer::start();
    for (name, traits, make) in sources(directory.path()).into_iter().chain(sources_on_servers(&nats)) {
        block_on(async {
            let partitions = make().partitions().await.expect(name);
            for partition in &partitions {
                let number = partition.number;
                let end = partition.extent.filter(|_| !traits.bounded);
                let fresh = async |offset| {
                    let mut source = make();
                    let again = source.partitions().await.expect(name);
                    if traits.seekable {
                        assert_eq!(again, partitions, "{name}: partitions change from run to run");
                        let same = source.is_same_log(partition, &partition.incarnation).await;
                        assert!(same.expect(name), "{name}: not its own log");
                        assert!(!source.is_same_log(partition, "another").await.expect(name));
                    }
                    source.open(number, offset).await
                };
                let all = read(&mut *fresh(0).await.expect(name), (10_000, 1 << 30, false), 0, end).await;
                assert!(!all.is_empty(), "{name}: nothing to test with");
                assert!(all.is_sorted_by(|a, b| a.1 <= b.0), "{name}: offsets go back");
                for how in [(1, 1, false), (3, 100, true), (7, 1 << 20, true), (500, 1 << 16, false)] {
                    let got = read(&mut *fresh(0).await.expect(name), how, 0, end).await;
                    assert!(got == all, "{name}: other messages with {how:?}");
                }
                if !traits.seekable {
                    let refused = fresh(all[0].1).await.err();
                    assert!(matches!(refused, Some(ConnectorError::Fatal(_))), "{name}: {refused:?}");
                    continue;
                }
                for (i, (_, next, _)) in all.iter().enumerate().step_by(1 + all.len() / 40) {
                    let how = (1000, 1 << 20, false);
                    let rest = read(&mut *fresh(*next).await.expect(name), how, *next, end).await;
                    assert!(rest == all[i + 1..], "{name}: another rest from {next}");
                }
                let last = all[all.len() - 1].1;
                let how = (10, 1 << 20, false);
                assert_eq!(read(&mut *fresh(last).await.expect(name), how, last, end).await, []);
                for offset in [last + 10, u64::MAX / 2] {
                    let refused = fresh(offset).await.err().expect("refused").to_string();
                    assert!(refused.contains("reset"), "{name}: {refused}");
                }
            }
        });
    }
}

fn batch(from: usize, to: usize) -> (EncodedBatch, Vec<String>) {
    let mut batch = EncodedBatch::default();
    let lines: Vec<String> = (from..to).map(|i| format!(r#"{{"id":"{i}"}}"#)).collect();
    for line in &lines {
        let start = batch.data.len();
        batch.data.extend_from_slice(line.as_bytes());
        let value = start..batch.data.len();
        batch.records.push(EncodedRecord { value, ..EncodedRecord::default() });
    }
    (batch, lines)
}

#[test]
fn sinks_keep_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    let nats = Arc::new(NatsServer::start());
    for (name, make, seen) in sinks(directory.path()).into_iter().chain(sinks_on_servers(&nats)) {
        block_on(async {
            let transactional = make().traits().transactional;
            let mut kept: Vec<String> = Vec::new();
            let mut token: Option<String> = None;
            let mut next = 0;
            // Each round is a run that commits two epochs, of one message and of many, writes a third that
            // it doesn't commit, and dies: before or after the flush, before or after the publish.
            for round in 0..8 {
                let mut sink = make();
                sink.recover(token.as_deref()).await.expect(name);
                if transactional {
                    assert!(kept.starts_with(&seen()), "{name}, round {round}: uncommitted is seen");
                }
                for messages in [1, 3000 + round * 777] {
                    let (written, lines) = batch(next, next + messages);
                    next += messages;
                    sink.write(&written).await.expect(name);
                    let flushed = sink.flush().await.expect(name);
                    // The pipeline commits here.
                    kept.extend(lines);
                    assert_eq!(sink.flush().await.expect(name), flushed, "{name}: another token for nothing");
                    token = Some(flushed);
                    if round % 2 == 0 || messages == 1 {
                        sink.publish().await.expect(name);
                        sink.publish().await.expect("a repeat of publish");
                    }
                    if transactional {
                        assert!(kept.starts_with(&seen()), "{name}: seen what is not committed");
                    }
                }
                let lost = if round % 4 < 2 { 5 } else { 20_000 };
                let (written, _) = batch(10_000_000, 10_000_000 + lost);
                if transactional {
                    sink.write(&written).await.expect(name);
                    if round % 3 == 0 {
                        sink.flush().await.expect(name);
                    }
                }
            }
            let mut sink = make();
            sink.recover(token.as_deref()).await.expect(name);
            sink.close(true).await.expect(name);
            drop(sink);
            assert!(seen() == kept, "{name}: {} seen, {} committed", seen().len(), kept.len());
            // A run after the end goes on behind it.
            let mut sink = make();
            sink.recover(token.as_deref()).await.expect(name);
            let (written, lines) = batch(next, next + 5);
            sink.write(&written).await.expect(name);
            sink.flush().await.expect(name);
            sink.publish().await.expect(name);
            sink.close(true).await.expect(name);
            kept.extend(lines);
            assert!(seen() == kept, "{name}: a run after the end");
        });
    }
}
