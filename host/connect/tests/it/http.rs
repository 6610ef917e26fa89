//! The http connector: curl posts to its source, and its sink posts to a server that answers as it is told.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmill_connect::http::{
    BatchForm, HttpSink, HttpSinkSpec, HttpSource, HttpSourceSpec, PostingOrder, Secret,
};
use wasmill_connect::units::{HumanDuration, HumanSize};
use wasmill_connect::{ConnectorError, Polled, Sink, Source, Writer};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};

use crate::support::receiver::{Receiver, Reply};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// What curl was answered.
#[derive(Debug)]
struct Answered {
    status: u16,
    headers: String,
    body: Value,
}

/// Posts with curl, which is not ours.
fn curl(arguments: &[&str], url: &str, body: &[u8]) -> Answered {
    let mut child = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "20", "--data-binary", "@-", "-H", "Expect:"])
        .args(arguments)
        .arg(url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    // It may be answered before it has read all.
    let _ = child.stdin.take().expect("stdin").write_all(body);
    let out = child.wait_with_output().expect("its end");
    let text = String::from_utf8_lossy(&out.stdout).replace('\r', "");
    let (head, body) = text.rsplit_once("\n\n").unwrap_or((&text, ""));
    let status = head.lines().rfind(|l| l.starts_with("HTTP/")).and_then(|l| l.split(' ').nth(1));
    Answered {
        status: status.and_then(|s| s.parse().ok()).unwrap_or(0),
        headers: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

fn spec(log: &Path) -> HttpSourceSpec {
    HttpSourceSpec::new("127.0.0.1:0", log)
}

async fn start(spec: HttpSourceSpec) -> (HttpSource, String) {
    let path = spec.path.clone();
    let mut source = HttpSource::new(spec).expect("a source");
    source.take_all().await.expect("its partition");
    let url = format!("http://{}{path}", source.address().expect("it listens"));
    (source, url)
}

fn end(source: &HttpSource) -> u64 {
    source.extents()[0].1
}

async fn read_all(source: &mut HttpSource, from: u64) -> Vec<String> {
    let end = source.partitions().await.expect("partitions")[0].extent.expect("known");
    let mut reader = source.open(0, from).await.expect("a reader");
    let mut values = Vec::new();
    while from + (values.len() as u64) < end {
        let Polled::Records(batch) = reader.poll(1000, 1 << 20).await.expect("records") else {
            panic!("an end")
        };
        for record in batch.records {
            assert!(record.appended_ms.is_some_and(|ms| ms > 1_700_000_000_000));
            values.push(String::from_utf8(batch.data[record.value].to_vec()).expect("UTF-8"));
        }
    }
    values
}

#[test]
fn messages_are_taken_as_one_as_an_array_and_as_lines() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (mut source, url) = runtime.block_on(start(spec(&directory.path().join("log"))));
    let lines = "Content-Type: application/x-ndjson";
    for (arguments, body, accepted) in [
        (&["-H", "Content-Type: application/json"][..], "{\"id\": 1,\n \"x\": [ ]}", 1),
        (&[], "[{\"id\":2}, {\"id\":  3}]", 2),
        (&["-H", lines], "{\"id\":4}\n\n {\"id\":5}\r\n{\"id\":6}", 3),
        (&[], "{\"id\":7}\n{\"id\":8}\n", 2),
        (&["-H", lines], "{\"id\":9}", 1),
        (&["-H", "Transfer-Encoding: chunked"], "{\"id\":10}", 1),
        (&["-H", "Expect: 100-continue"], "{\"id\":11}", 1),
    ] {
        let answered = curl(arguments, &url, body.as_bytes());
        assert_eq!((answered.status, answered.body), (202, json!({ "accepted": accepted })), "{body}");
    }
    let read = runtime.block_on(read_all(&mut source, 0));
    let mut expected =
        vec!["{\"id\": 1,\n \"x\": [ ]}".to_owned(), "{\"id\":2}".to_owned(), "{\"id\":  3}".to_owned()];
    expected.extend((4..12).map(|i| format!("{{\"id\":{i}}}")));
    assert_eq!(read, expected);
    runtime.block_on(source.close()).expect("closed");
}

#[test]
fn what_is_refused_is_told_and_nothing_of_it_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (source, url) = runtime.block_on(start(HttpSourceSpec {
        path: "/in".into(),
        max_body: HumanSize(20_000),
        max_message: Some(HumanSize(1000)),
        token: Some(Secret::new("s3cret-token")),
        ..spec(&directory.path().join("log"))
    }));
    let mut broken: Vec<String> = (1..=40).map(|i| format!("{{\"id\":{i}}}")).collect();
    broken[16] = "{\"id\":17,,}".to_owned();
    let broken = broken.join("\n");
    let long = format!("{{\"id\":\"{}\"}}", "x".repeat(30_000));
    let long_message = format!("{{\"id\":1}}\n{{\"id\":\"{}\"}}", "x".repeat(1000));
    let lines = "Content-Type: application/x-ndjson";
    let get: &[&str] = &["-X", "GET"];
    for (arguments, body, status, part, line) in [
        (&[][..], "", 400, "empty", None),
        (&[], "5", 400, "JSON object", Some(1)),
        (&[], "\"{}\"", 400, "JSON object", Some(1)),
        (&[], "[]", 400, "array is empty", None),
        (&[], "[{},\n5]", 400, "element 2", Some(2)),
        (&[], "{\"id\":1", 400, "EOF", Some(1)),
        (&["-H", lines], &broken, 400, "key must be a string", Some(17)),
        (&[], &broken, 400, "key must be a string", Some(17)),
        (&[], &long, 413, "20000", None),
        (&["-H", "Transfer-Encoding: chunked"], &long, 413, "20000", None),
        (&["-H", lines], &long_message, 413, "message 2", None),
        (&["-H", "Content-Encoding: gzip"], "{}", 415, "Content-Encoding", None),
        (&["-H", &format!("Idempotency-Key: {}", "k".repeat(300))], "{}", 400, "Idempotency-Key", None),
        (get, "", 405, "POST", None),
    ] {
        let arguments = [arguments, &["-H", "Authorization: Bearer s3cret-token"]].concat();
        let answered = curl(&arguments, &url, body.as_bytes());
        assert_eq!(answered.status, status, "{body:.80}: {answered:?}");
        assert_eq!(answered.body["accepted"], 0, "{answered:?}");
        assert!(answered.body["error"].as_str().is_some_and(|e| e.contains(part)), "{answered:?}");
        assert_eq!(answered.body["line"].as_u64(), line, "{answered:?}");
        assert_eq!(status == 405, answered.headers.contains("allow: post"), "{answered:?}");
    }
    let token = "Authorization: bearer s3cret-token";
    for (arguments, to, status) in [
        (&[][..], "", 401),
        (&["-H", "Authorization: Bearer wrong"], "", 401),
        (&["-H", "Authorization: Basic s3cret-token"], "", 401),
        (&["-H", "Authorization: Bearer s3cret-token-and-more"], "", 401),
        (&["-H", token], "/elsewhere", 404),
    ] {
        let answered = curl(arguments, &format!("{url}{to}"), b"{}");
        assert_eq!(answered.status, status, "{arguments:?}");
        assert_eq!(status == 401, answered.headers.contains("www-authenticate: bearer"), "{answered:?}");
        assert!(!answered.body.to_string().contains("s3cret"), "{answered:?}");
    }
    assert_eq!(end(&source), 0);
    assert_eq!(curl(&["-H", token], &url, b"{}").status, 202);
    assert_eq!(end(&source), 1);
}

#[test]
fn a_wrong_spec_is_told() {
    for (change, part) in [
        (json!({"listen": "8088"}), "ADDRESS:PORT"),
        (json!({"path": "in"}), "expected a path"),
        (json!({"max_body": 0}), "max_body"),
        (json!({"max_log": "1MiB"}), "at least 8 times `max_body`, which is 1MiB"),
        (json!({"token": "a b"}), "spaces"),
        (json!({"token": "a", "token_file": "b"}), "set one of them"),
        (json!({"rate": 0}), "rate"),
    ] {
        let mut spec = json!({"listen": "127.0.0.1:0", "log": "x"});
        spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let spec: HttpSourceSpec = serde_json::from_value(spec).expect("a spec");
        let error = HttpSource::new(spec).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    for (change, part) in [
        (json!({"url": "nowhere"}), "expected one such as"),
        (json!({"headers": {"a b": "c"}}), "no header's name"),
        (json!({"headers": {"Host": "c"}}), "sets it itself"),
        (json!({"headers": {"Authorization": "c"}, "token": "d"}), "beside a token"),
        (json!({"batch_messages": 0}), "batch_messages"),
        (json!({"concurrency": 0}), "concurrency"),
        (json!({"concurrency": 2}), "Write `order: any` beside it"),
        (json!({"timeout": "0s"}), "timeout"),
        (json!({"retry_statuses": [200]}), "retry_statuses"),
    ] {
        let mut spec = json!({"url": "http://127.0.0.1:1/"});
        spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let spec: HttpSinkSpec = serde_json::from_value(spec).expect("a spec");
        let error = HttpSink::new(spec).err().expect(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_rate_and_a_full_log_hold_clients_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let limited = HttpSourceSpec { rate: Some(2.0), ..spec(&directory.path().join("limited")) };
    let (source, url) = runtime.block_on(start(limited));
    assert_eq!(curl(&[], &url, b"[{},{}]").status, 202);
    let answered = curl(&[], &url, b"[{},{}]");
    assert_eq!(answered.status, 429, "{answered:?}");
    assert!(answered.headers.contains("retry-after: 1"), "{answered:?}");
    assert_eq!(end(&source), 2);
    std::thread::sleep(Duration::from_millis(1050));
    // More than a second's worth goes when nothing is owed, and is owed then.
    assert_eq!(curl(&[], &url, b"[{},{},{},{}]").status, 202);
    let answered = curl(&[], &url, b"{}");
    assert!(answered.status == 429 && answered.headers.contains("retry-after: 2"), "{answered:?}");

    let small = HttpSourceSpec {
        max_body: HumanSize(4096),
        max_log: HumanSize(64 * 1024),
        ..spec(&directory.path().join("small"))
    };
    let (mut source, url) = runtime.block_on(start(small));
    let body = format!("{{\"id\":\"{}\"}}", "x".repeat(4000));
    let mut taken = 0;
    let full = loop {
        let answered = curl(&[], &url, body.as_bytes());
        if answered.status != 202 {
            break answered;
        }
        taken += 1;
    };
    assert_eq!(full.status, 503, "{full:?}");
    assert!(full.headers.contains("retry-after: 5") && (13..=16).contains(&taken), "{taken}: {full:?}");
    assert_eq!(end(&source), taken);
    runtime.block_on(source.commit(&[(0, taken)])).expect("committed");
    assert_eq!(curl(&[], &url, body.as_bytes()).status, 202);
    assert_eq!(runtime.block_on(read_all(&mut source, taken)), [body]);
}

#[test]
fn a_repeated_request_is_taken_once_also_behind_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let mut listen = "127.0.0.1:0".to_owned();
    for round in 0..4 {
        let again = HttpSourceSpec { listen: listen.clone(), ..spec(directory.path()) };
        let (mut source, url) = runtime.block_on(start(again));
        listen = source.address().expect("it listens").to_string();
        let answered = curl(&["-H", "Idempotency-Key: one"], &url, b"[{\"id\":1},{\"id\":2}]");
        assert_eq!((answered.status, &answered.body), (202, &json!({ "accepted": 2 })), "{answered:?}");
        assert_eq!(answered.headers.contains("idempotency-replayed: true"), round > 0, "{answered:?}");
        let answered = curl(&["-H", "Idempotency-Key: one"], &url, b"{\"id\":3}");
        assert_eq!((answered.status, &answered.body["accepted"]), (422, &json!(0)), "{answered:?}");
        assert_eq!(end(&source), 2);
        // In order, cut off, or with a request that doesn't end: the same address can be had again at once.
        match round {
            0 => runtime.block_on(source.close()).expect("closed"),
            1 => drop(source),
            _ => {
                let mut stream = std::net::TcpStream::connect(&listen).expect("connected");
                stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{").expect("sent");
                drop(source);
            }
        }
    }
}

#[test]
fn an_address_or_a_log_that_is_another_s_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (source, _) = runtime.block_on(start(spec(&directory.path().join("a"))));
    let taken = source.address().expect("it listens").to_string();
    let taken = HttpSourceSpec::new(&taken, directory.path().join("b"));
    let same_log = spec(&directory.path().join("a"));
    for (spec, part) in [(taken, "set `listen` to another address"), (same_log, "is written by another")] {
        let error = runtime.block_on(async { HttpSource::new(spec).expect("a source").take_all().await });
        let error = error.expect_err(part);
        assert!(matches!(&error, ConnectorError::Fatal(text) if text.contains(part)), "{error}");
    }
}

#[test]
fn child_that_listens() {
    let Some(path) = std::env::var_os("WASMILL_TEST_HTTP").map(PathBuf::from) else { return };
    let runtime = runtime();
    let (source, url) = runtime.block_on(start(spec(&path)));
    println!("listening at {url}");
    std::thread::sleep(Duration::from_secs(60));
    drop(source);
}

fn listening(log: &Path, before: &[&str]) -> (std::process::Child, String) {
    let program = std::env::current_exe().expect("this program");
    let mut command = match before {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    let mut child = command
        .args(["--exact", "http::child_that_listens", "--nocapture", "--test-threads=1"])
        .env("WASMILL_TEST_HTTP", log)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let url =
        lines.find_map(|l| Some(l.ok()?.split_once("listening at ")?.1.to_owned())).expect("it listens");
    (child, url)
}

#[test]
fn what_was_answered_outlives_kill_9() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut sent = 0;
    for _ in 0..4 {
        let (mut child, url) = listening(directory.path(), &[]);
        for _ in 0..5 {
            let answered = curl(&[], &url, format!("{{\"id\":{sent}}}").as_bytes());
            assert_eq!(answered.status, 202, "{answered:?}");
            sent += 1;
        }
        child.kill().expect("killed");
        child.wait().expect("its end");
    }
    let runtime = runtime();
    let (mut source, _) = runtime.block_on(start(spec(directory.path())));
    let expected: Vec<String> = (0..sent).map(|i| format!("{{\"id\":{i}}}")).collect();
    assert_eq!(runtime.block_on(read_all(&mut source, 0)), expected);
}

#[test]
fn no_answer_goes_out_before_the_disk_has_the_messages() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("trace");
    let log = directory.path().join("log");
    let has_strace = Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success());
    if !has_strace {
        println!("NOT RUN: strace is not installed");
        return;
    }
    let shown = trace.display().to_string();
    let calls = "trace=fdatasync,fsync,pwrite64,write,writev,sendto,sendmsg";
    let (mut child, url) = listening(&log, &["strace", "-f", "-qq", "-s", "200", "-e", calls, "-o", &shown]);
    let probe = curl(&[], &url, b"{\"id\":\"marked\"}");
    let text = std::fs::read_to_string(&trace).expect("a trace");
    // The tracer ends with the process that it traces; it passes on no SIGKILL.
    let traced = text.split(' ').next().and_then(|pid| pid.parse::<u32>().ok()).expect("a process id");
    Command::new("kill").args(["-9", &traced.to_string()]).status().expect("kill");
    child.wait().expect("its end");
    assert_eq!(probe.status, 202, "strace can't trace here, or {probe:?}");
    let lines: Vec<&str> = text.lines().collect();
    let find = |from: usize, parts: &[&str]| {
        let found = |line: &&str| parts.iter().all(|part| line.contains(part));
        lines[from..].iter().position(found).map(|at| from + at)
    };
    let written = find(0, &["pwrite64", "marked"]).expect("it was written");
    let synced = find(written, &["fdatasync", "= 0"]).expect("it was synced");
    let answered = find(0, &["HTTP/1.1 202"]).expect("it was answered");
    assert!(written < synced && synced < answered, "{text}");
}

fn batch(from: usize, to: usize) -> EncodedBatch {
    let mut batch = EncodedBatch::default();
    for i in from..to {
        let mut put = |text: String| {
            let start = batch.data.len();
            batch.data.extend_from_slice(text.as_bytes());
            start..batch.data.len()
        };
        let (value, id) = (put(format!("{{\"id\":{i}}}")), Some(put(format!("p/0/out/0.0.{i}.0.0."))));
        batch.records.push(EncodedRecord { value, id, ..EncodedRecord::default() });
    }
    batch
}

async fn sink(spec: HttpSinkSpec) -> HttpSink {
    let mut sink = HttpSink::new(spec).expect("a sink");
    sink.identify(Writer { pipeline: "p".into(), sink: "out".into(), ..Writer::default() });
    sink.recover(None).await.expect("recovered");
    sink
}

/// Writes and flushes, asking again while the receiver is away; answers how often it was.
async fn insist(sink: &mut HttpSink, batch: &EncodedBatch) -> usize {
    let mut away = 0;
    loop {
        match sink.write(batch).await {
            Ok(()) => break,
            Err(ConnectorError::Disconnected { .. }) => away += 1,
            Err(e) => panic!("{e}"),
        }
    }
    loop {
        match sink.flush().await {
            Ok(_) => return away,
            Err(ConnectorError::Disconnected { .. }) => away += 1,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn messages_are_posted_in_order_with_their_ids() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, "t0ken\n").expect("written");
    runtime().block_on(async {
        let receiver = Receiver::start(vec![]).await;
        let mut spec = HttpSinkSpec::new(receiver.url("/in?x=1"));
        spec.token_file = Some(file);
        spec.headers.insert("X-Tenant".into(), Secret::new("acme"));
        let mut one = sink(spec.clone()).await;
        insist(&mut one, &batch(0, 5)).await;
        let got = receiver.take();
        for (i, request) in got.iter().enumerate() {
            assert_eq!(request.body, format!("{{\"id\":{i}}}"));
            assert_eq!(request.header("idempotency-key"), format!("p/0/out/0.0.{i}.0.0."));
            assert_eq!(request.header("content-type"), "application/json");
            assert_eq!(request.header("authorization"), "Bearer t0ken");
            assert_eq!(request.header("x-tenant"), "acme");
            assert_eq!(request.uri, "/in?x=1");
        }
        assert_eq!(got.len(), 5);
        for (form, body) in
            [(BatchForm::Array, "[{\"id\":0},{\"id\":1}]"), (BatchForm::Ndjson, "{\"id\":0}\n{\"id\":1}\n")]
        {
            let spec = HttpSinkSpec { batch: form, batch_messages: 2, ..spec.clone() };
            let mut keys = Vec::new();
            for _ in 0..2 {
                insist(&mut sink(spec.clone()).await, &batch(0, 5)).await;
                let got = receiver.take();
                assert_eq!((got.len(), got[0].body.as_str()), (3, body));
                keys.push(got.iter().map(|r| r.header("idempotency-key").to_owned()).collect::<Vec<_>>());
            }
            assert_eq!(keys[0], keys[1]);
            assert!(keys[0][0] != keys[0][1], "{keys:?}");
        }
        assert_eq!(receiver.connections(), 5, "a connection a sink, used again");
    });
}

#[test]
fn what_is_not_taken_yet_is_posted_again_and_what_is_taken_is_not() {
    runtime().block_on(async {
        for status in [408, 425, 429, 500, 502, 503, 504, 409] {
            let receiver =
                Receiver::start(vec![Reply::Ok, Reply::Status(status), Reply::Status(status)]).await;
            let mut spec = HttpSinkSpec::new(receiver.url("/"));
            spec.retry_statuses.insert(409);
            assert_eq!(insist(&mut sink(spec).await, &batch(0, 4)).await, 2, "{status}");
            let bodies: Vec<String> = receiver.take().into_iter().map(|r| r.body).collect();
            let expected = [0, 1, 1, 1, 2, 3].map(|i| format!("{{\"id\":{i}}}"));
            assert_eq!(bodies, expected, "{status}");
        }
        // An answer that doesn't come, and a connection that is cut.
        let receiver = Receiver::start(vec![Reply::Ok, Reply::Hang, Reply::Cut, Reply::Ok]).await;
        let timeout = HumanDuration(Duration::from_millis(200));
        let spec = HttpSinkSpec { timeout, ..HttpSinkSpec::new(receiver.url("/")) };
        assert_eq!(insist(&mut sink(spec).await, &batch(0, 3)).await, 2);
        // Not before it is asked to.
        let receiver = Receiver::start(vec![Reply::Later(429, "1")]).await;
        let since = Instant::now();
        let mut sink_again = sink(HttpSinkSpec::new(receiver.url("/"))).await;
        let error = async {
            sink_again.write(&batch(0, 1)).await?;
            sink_again.flush().await
        };
        let error = error.await.expect_err("too many").to_string();
        assert!(error.contains("429") && since.elapsed() < Duration::from_millis(800), "{error}");
        sink_again.flush().await.expect("taken");
        assert!(since.elapsed() >= Duration::from_secs(1));
        assert_eq!(receiver.take().len(), 2);
    });
}

#[test]
fn many_at_once_lose_and_double_nothing() {
    runtime().block_on(async {
        let replies = (0..300).map(|i| if i % 7 == 3 { Reply::Status(503) } else { Reply::Slow }).collect();
        let receiver = Receiver::start(replies).await;
        let spec =
            HttpSinkSpec { concurrency: 8, order: PostingOrder::Any, ..HttpSinkSpec::new(receiver.url("/")) };
        let mut sink = sink(spec).await;
        assert!(insist(&mut sink, &batch(0, 200)).await > 3);
        let mut taken: Vec<String> =
            receiver.take().into_iter().filter(|r| r.status == 200).map(|r| r.body).collect();
        taken.sort();
        let mut expected: Vec<String> = (0..200).map(|i| format!("{{\"id\":{i}}}")).collect();
        expected.sort();
        assert_eq!(taken, expected);
        assert!((2..=8).contains(&receiver.at_once_max()), "{}", receiver.at_once_max());
    });
}

/// Behind a failure one request goes alone, until one is taken: what is away is not asked many times at once.
#[test]
fn behind_a_failure_requests_go_one_at_a_time() {
    runtime().block_on(async {
        let receiver = Receiver::start(vec![Reply::Status(503); 40]).await;
        let spec =
            HttpSinkSpec { concurrency: 8, order: PostingOrder::Any, ..HttpSinkSpec::new(receiver.url("/")) };
        let mut sink = sink(spec).await;
        let away = insist(&mut sink, &batch(0, 20)).await;
        let failed = receiver.take().into_iter().filter(|r| r.status == 503).count();
        assert_eq!(failed, 40);
        // The eight that were under way together, and then each one alone.
        assert_eq!(away, 1 + (failed - 8));
        assert_eq!(sink.taken().expect("it counts").load(std::sync::atomic::Ordering::SeqCst), 20);
    });
}

/// A message that the receiver will not take yet, however often it is posted.
#[test]
fn a_message_is_given_up_after_so_many_answers_alone_and_out_of_a_batch() {
    runtime().block_on(async {
        for (form, order, attempts, posts) in [
            (BatchForm::One, PostingOrder::Keep, 3, 3),
            (BatchForm::One, PostingOrder::Any, 3, 3),
            // Of 8, 4, 2 and 1: at each size it is known at the first answer that they were posted often enough.
            (BatchForm::Array, PostingOrder::Keep, 3, 6),
            (BatchForm::Ndjson, PostingOrder::Any, 1, 4),
        ] {
            let what = format!("{form:?} {order:?}");
            let receiver = Receiver::start(vec![]).await;
            receiver.refuse("\"id\":13}", 503);
            let spec = HttpSinkSpec {
                batch: form,
                order,
                batch_messages: 8,
                ..HttpSinkSpec::new(receiver.url("/"))
            };
            let mut sink = HttpSink::new(spec).expect("a sink");
            sink.give_up_after(attempts);
            sink.identify(Writer { pipeline: "p".into(), sink: "out".into(), ..Writer::default() });
            sink.recover(None).await.expect("recovered");
            let away = insist(&mut sink, &batch(0, 24)).await;
            let refused = sink.refused();
            assert_eq!(refused.len(), 1, "{what}: {refused:?}");
            assert_eq!((refused[0].nth, &refused[0].value[..]), (13, &b"{\"id\":13}"[..]), "{what}");
            assert_eq!(refused[0].attempts, posts, "{what}");
            assert!(refused[0].reason.contains("it answered 503"), "{what}: {}", refused[0].reason);
            assert_eq!(away, posts as usize, "{what}: each answer is told, the last one too");
            let got = receiver.take();
            let mut taken: Vec<u64> = got.iter().filter(|r| r.status == 200).flat_map(|r| r.ids()).collect();
            if order == PostingOrder::Any {
                taken.sort_unstable();
            }
            let expected: Vec<u64> = (0..24).filter(|id| *id != 13).collect();
            assert_eq!(taken, expected, "{what}");
        }
    });
}

/// A message that is to be posted again holds up those behind it, or goes behind them.
#[test]
fn what_is_posted_again_keeps_its_place_or_goes_behind() {
    runtime().block_on(async {
        for (order, expected) in
            [(PostingOrder::Keep, [0, 1, 2, 3, 4, 5]), (PostingOrder::Any, [0, 2, 3, 4, 5, 1])]
        {
            let receiver = Receiver::start(vec![Reply::Ok, Reply::Status(503)]).await;
            let spec = HttpSinkSpec { order, ..HttpSinkSpec::new(receiver.url("/")) };
            insist(&mut sink(spec).await, &batch(0, 6)).await;
            let got = receiver.take();
            let taken: Vec<u64> = got.iter().filter(|r| r.status == 200).flat_map(|r| r.ids()).collect();
            assert_eq!(taken, expected, "{order:?}");
        }
    });
}

/// No answer at all says nothing about a message: it is not given up for it.
#[test]
fn a_receiver_that_is_not_there_convicts_no_message() {
    runtime().block_on(async {
        let receiver = Receiver::start(vec![Reply::Cut; 6]).await;
        let mut sink = HttpSink::new(HttpSinkSpec::new(receiver.url("/"))).expect("a sink");
        sink.give_up_after(2);
        sink.recover(None).await.expect("recovered");
        assert!(insist(&mut sink, &batch(0, 3)).await >= 6);
        assert!(sink.refused().is_empty());
        let taken: Vec<u64> = receiver.take().iter().flat_map(|r| r.ids()).collect();
        assert_eq!(taken, [0, 1, 2]);
    });
}

#[test]
fn a_refused_message_is_found_in_its_batch() {
    runtime().block_on(async {
        for (status, form) in [
            (400, BatchForm::One),
            (409, BatchForm::Array),
            (413, BatchForm::Ndjson),
            (422, BatchForm::Array),
        ] {
            let receiver = Receiver::start(vec![]).await;
            receiver.refuse("\"id\":13}", status);
            let spec =
                HttpSinkSpec { batch: form, batch_messages: 8, ..HttpSinkSpec::new(receiver.url("/")) };
            let mut sink = sink(spec).await;
            sink.write(&batch(0, 10)).await.expect("written");
            insist(&mut sink, &batch(10, 20)).await;
            let refused = sink.refused();
            assert_eq!(refused.len(), 1, "{status}: {refused:?}");
            assert_eq!((refused[0].nth, refused[0].value.as_slice()), (13, &b"{\"id\":13}"[..]));
            let reason = &refused[0].reason;
            assert!(reason.contains(&status.to_string()) && reason.contains("no such thing"), "{reason}");
            assert!(reason.len() < 400, "{reason}");
            let taken = receiver.take().into_iter().filter(|r| r.status == 200);
            let taken: Vec<u64> = taken.flat_map(|r| r.ids()).collect();
            assert_eq!(taken, (0..20).filter(|i| *i != 13).collect::<Vec<_>>(), "{status}");
            // Counted anew behind the flush.
            insist(&mut sink, &batch(13, 14)).await;
            assert_eq!(sink.refused()[0].nth, 0);
        }
    });
}

#[test]
fn what_would_never_pass_ends_the_pipeline_with_what_to_do() {
    runtime().block_on(async {
        for (status, part) in [
            (401, "`token`"),
            (403, "must be allowed"),
            (404, "set `url`"),
            (405, "takes no POST"),
            (301, "to http://elsewhere/there: set `url`"),
            (302, "redirects are not followed"),
            (307, "redirects are not followed"),
            (304, "redirects are not followed"),
        ] {
            let receiver = Receiver::start(vec![Reply::Status(status), Reply::Status(status)]).await;
            let mut spec = HttpSinkSpec::new(receiver.url("/?key=hush"));
            spec.token = Some(Secret::new("hush"));
            let mut sink = sink(spec).await;
            let error = async {
                sink.write(&batch(0, 1)).await?;
                sink.flush().await
            };
            let error = error.await.expect_err("fatal");
            assert!(
                matches!(&error, ConnectorError::Fatal(text) if text.contains(part)),
                "{status}: {error}"
            );
            assert!(!error.to_string().contains("hush"), "{error}");
            assert_eq!(receiver.take().len(), 1);
        }
    });
}

#[test]
fn a_receiver_that_is_down_is_waited_for() {
    runtime().block_on(async {
        let receiver = Receiver::start(vec![]).await;
        let url = receiver.url("/");
        let address = receiver.address;
        drop(receiver);
        let mut sink = sink(HttpSinkSpec::new(&url)).await;
        // That it is down may be told already, for a request is under way.
        let messages = batch(0, 2);
        while sink.write(&messages).await.is_err() {}
        for _ in 0..3 {
            let error = sink.flush().await.expect_err("down");
            assert!(
                matches!(&error, ConnectorError::Disconnected { what, .. } if what.contains(&url)),
                "{error}"
            );
        }
        let receiver = Receiver::start_at(address, vec![]).await;
        sink.flush().await.expect("taken");
        assert_eq!(receiver.take().into_iter().flat_map(|r| r.ids()).collect::<Vec<_>>(), [0, 1]);
        // A call that is dropped loses nothing.
        let hanging = Receiver::start(vec![Reply::Slow; 10]).await;
        let mut sink = self::sink(HttpSinkSpec::new(hanging.url("/"))).await;
        sink.write(&batch(0, 5)).await.expect("kept");
        while tokio::time::timeout(Duration::from_millis(1), sink.flush()).await.is_err() {}
        assert_eq!(hanging.take().into_iter().flat_map(|r| r.ids()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn one_pipeline_posts_to_another_and_repeats_are_dropped() {
    let directory = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let (mut source, url) = start(spec(directory.path())).await;
        // As a pipeline that dies behind its flush, and does it all again.
        for _ in 0..3 {
            insist(&mut sink(HttpSinkSpec::new(&url)).await, &batch(0, 20)).await;
        }
        let expected: Vec<String> = (0..20).map(|i| format!("{{\"id\":{i}}}")).collect();
        assert_eq!(read_all(&mut source, 0).await, expected);
    });
}

#[test]
fn a_server_that_can_t_prove_who_it_is_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", &at("key"), "-out", &at("cert")])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let server = "import http.server, ssl, sys\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20 def do_POST(self):\n\
        \x20  self.rfile.read(int(self.headers['Content-Length'])); self.send_response(204); self.end_headers()\n\
        \x20 def log_message(self, *a): pass\n\
        s = http.server.HTTPServer(('127.0.0.1', 0), H)\n\
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1], sys.argv[2])\n\
        s.socket = c.wrap_socket(s.socket, server_side=True)\n\
        print(s.server_port, flush=True); s.serve_forever()";
    let mut child = Command::new("python3")
        .args(["-c", server, &at("cert"), &at("key")])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is installed");
    let mut port = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
    let url = format!("https://localhost:{}/", port.trim());
    let (distrusted, trusted) = runtime().block_on(async {
        let mut one = sink(HttpSinkSpec::new(&url)).await;
        one.write(&batch(0, 1)).await.expect("kept");
        let distrusted = one.flush().await;
        let spec = HttpSinkSpec { ca_file: Some(at("cert").into()), ..HttpSinkSpec::new(&url) };
        let mut one = sink(spec).await;
        one.write(&batch(0, 1)).await.expect("kept");
        (distrusted, one.flush().await)
    });
    child.kill().and_then(|()| child.wait()).expect("its end");
    let error = distrusted.expect_err("not trusted");
    assert!(matches!(&error, ConnectorError::Fatal(text) if text.contains("`ca_file`")), "{error}");
    trusted.expect("trusted");
}
