//! What files can do to a source, and what crashes can do to a sink's directory.

use std::future::Future;
use std::io::Write;
use std::path::Path;

use wasmill_connect::file::{FileSink, FileSinkSpec, FileSourceSpec};
use wasmill_connect::table::{SinkConnector, SourceConnector};
use wasmill_connect::units::{HumanDuration, HumanSize};
use wasmill_connect::{Polled, Reader, Sink, Source};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).and_then(|()| encoder.finish()).expect("gzip")
}

async fn source(path: impl AsRef<Path>) -> Result<Box<dyn Source>, String> {
    let mut source = FileSourceSpec::new(path.as_ref().display().to_string()).source().expect("a source");
    source.partitions().await.map_err(|e| e.to_string())?;
    Ok(source)
}

/// The lines until the end or an error, which comes last and again at the next poll.
async fn lines(reader: &mut dyn Reader) -> (Vec<String>, Option<String>) {
    let mut lines = Vec::new();
    loop {
        match reader.poll(100, 1 << 20).await {
            Ok(Polled::End) => return (lines, None),
            Ok(Polled::Records(batch)) => lines.extend(batch.records.iter().map(|r| {
                let value = String::from_utf8_lossy(&batch.data[r.value.clone()]).into_owned();
                format!("{}: {}", r.line.expect("a line"), r.rejected.clone().unwrap_or(value))
            })),
            Err(e) => {
                let again = reader.poll(100, 1 << 20).await.expect_err("the same error again");
                assert_eq!(again.to_string(), e.to_string());
                return (lines, Some(e.to_string()));
            }
        }
    }
}

#[test]
fn a_source_says_what_is_wrong_with_its_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("folder")).expect("a folder");
    std::fs::write(at("text.gz"), "no gzip\n").expect("a file");
    for (path, part) in [
        ("none.jsonl", "none.jsonl: no such file or directory"),
        ("folder", "folder is a directory: name a file in it, or many by a pattern such as"),
        ("text.gz", "text.gz is not gzip although its name ends in .gz"),
        ("*.csv", "*.csv: no file has such a name"),
    ] {
        let error = block_on(source(at(path))).err().expect(path);
        assert!(error.contains(part), "{error}");
    }
    let error = block_on(source("/dev/null")).err().expect("a device");
    assert!(error.contains("is not a regular file"), "{error}");
    let rate = FileSourceSpec { rate: Some(0.0), ..FileSourceSpec::new("x") };
    let error = rate.source().err().expect("no rate").to_string();
    assert!(error.contains("rate of 0 messages a second: expected a number above 0"), "{error}");
}

#[test]
fn lines_have_numbers_also_behind_a_position() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = b"one\n\nthree\r\nfour\nfive";
    std::fs::write(directory.path().join("a.jsonl"), text).expect("a file");
    std::fs::write(directory.path().join("a.jsonl.gz"), gzip(text)).expect("a file");
    for name in ["a.jsonl", "a.jsonl.gz"] {
        block_on(async {
            let mut source = source(directory.path().join(name)).await.expect("a source");
            let got = lines(&mut *source.open(0, 0).await.expect("a reader")).await;
            assert_eq!(got.0, ["1: one", "3: three", "4: four", "5: five"]);
            let got = lines(&mut *source.open(0, 12).await.expect("a reader")).await;
            assert_eq!(got.0, ["4: four", "5: five"]);
            let error = source.open(0, 2).await.err().expect("refused").to_string();
            assert!(error.contains("byte 2 of") && error.contains("is in the middle of a line"), "{error}");
            let error = source.open(0, 999).await.err().expect("refused").to_string();
            assert!(error.contains("byte 999 of") && error.contains("is behind its end at 21"), "{error}");
        });
    }
}

#[test]
fn a_file_that_grew_is_the_same_and_one_that_was_replaced_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.jsonl");
    let check = |text: &[u8], committed: &str| {
        std::fs::write(&path, text).expect("a file");
        block_on(async {
            let mut source = FileSourceSpec::new(path.display().to_string()).source().expect("a source");
            let now = source.partitions().await.expect("partitions").remove(0);
            (source.is_same_log(&now, committed).await.expect("an answer"), now.incarnation)
        })
    };
    let long = b"line\n".repeat(2000);
    let (_, short) = check(&long[..100], "");
    let (same, grown) = check(&long, &short);
    assert!(same && grown != short);
    assert!(check(&[&long[..], b"more\n"].concat(), &grown).0, "grown behind what is hashed");
    assert!(!check(b"other\n", &short).0, "replaced by a shorter one");
    assert!(!check(&[b"x", &long[..]].concat(), &short).0, "replaced by a longer one");
    assert!(!check(&long[..50], &short).0, "cut off");
    assert!(!check(&long, "no incarnation").0);
    assert!(!check(&long, "99999999999:0").0);
}

#[test]
fn gzip_of_many_members_and_gzip_that_is_cut_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.jsonl.gz");
    let members = [gzip(b"one\ntw"), gzip(b"o\nthree\n")].concat();
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("a file");
        block_on(async {
            lines(&mut *source(&path).await.expect("a source").open(0, 0).await.expect("a reader")).await
        })
    };
    assert_eq!(read(&members), (vec!["1: one".into(), "2: two".into(), "3: three".into()], None));
    assert_eq!(read(b""), (vec![], None));

    let many: Vec<u8> = (0..50_000).flat_map(|i| format!("line number {i}\n").into_bytes()).collect();
    let packed = gzip(&many);
    let cut = packed.len() / 2;
    let (whole, error) = read(&packed[..cut]);
    assert!(whole.len() > 10_000, "only {} lines", whole.len());
    let error = error.expect("an error");
    assert!(error.contains(&format!("is cut off: its gzip data ends at byte {cut}")), "{error}");
    let mut broken = packed.clone();
    broken[cut..cut + 100].fill(0xff);
    let (_, error) = read(&broken);
    assert!(error.expect("an error").contains("is damaged near byte"));
}

#[test]
fn a_line_above_the_limit_is_named_and_the_next_one_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.jsonl");
    let text = [&b"ok\n"[..], &vec![b'x'; 5_000_000], b"\nafter\n"].concat();
    std::fs::write(&path, text).expect("a file");
    let got = block_on(async {
        lines(&mut *source(&path).await.expect("a source").open(0, 0).await.expect("a reader")).await
    });
    let long = "2: line of 5000000 bytes is above message_bytes_max of 1048576";
    assert_eq!(got, (vec!["1: ok".into(), long.into(), "3: after".into()], None));
}

#[test]
fn a_rate_holds_messages_back_by_the_clock() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.jsonl");
    std::fs::write(&path, "{}\n".repeat(100)).expect("a file");
    block_on(async {
        tokio::time::pause();
        let spec = FileSourceSpec { rate: Some(10.0), ..FileSourceSpec::new(path.display().to_string()) };
        let mut source = spec.source().expect("a source");
        source.partitions().await.expect("partitions");
        let started = tokio::time::Instant::now();
        let got = lines(&mut *source.open(0, 0).await.expect("a reader")).await;
        assert_eq!(got.0.len(), 100);
        // The clock of the runtime turns by itself: ten messages a second.
        assert!(started.elapsed().as_secs() >= 9, "after {:?}", started.elapsed());
    });
}

fn batch(lines: &[&str]) -> EncodedBatch {
    let mut batch = EncodedBatch::default();
    for line in lines {
        let start = batch.data.len();
        batch.data.extend_from_slice(line.as_bytes());
        batch.records.push(EncodedRecord { value: start..batch.data.len(), ..EncodedRecord::default() });
    }
    batch
}

async fn epoch(sink: &mut dyn Sink, lines: &[&str]) -> String {
    sink.write(&batch(lines)).await.expect("a write");
    sink.flush().await.expect("a flush")
}

fn spec(path: &Path, roll_bytes: u64) -> FileSinkSpec {
    FileSinkSpec { roll_bytes: HumanSize(roll_bytes), ..FileSinkSpec::new(path) }
}

async fn recovered(spec: &FileSinkSpec, token: Option<&str>) -> Box<dyn Sink> {
    let mut sink = spec.sink().expect("a sink");
    sink.recover(token).await.expect("recovered");
    sink
}

/// The directory as `name: text`, in the names' order; unfinished files, manifest and lock left out.
fn seen(path: &Path) -> Vec<String> {
    let mut seen: Vec<String> = std::fs::read_dir(path)
        .expect("a directory")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .map(|p| {
            let name = p.file_name().expect("a name").to_string_lossy().into_owned();
            format!("{name}: {}", std::fs::read_to_string(&p).expect("a file").replace('\n', " ").trim_end())
        })
        .collect();
    seen.sort();
    seen
}

#[test]
fn files_end_where_the_messages_say_whatever_the_epochs() {
    let expected =
        ["part-000001.jsonl: aaaa bbbb", "part-000002.jsonl: cccc dddd", "part-000003.jsonl: eeee"];
    for epochs in [vec![5], vec![1, 1, 1, 1, 1], vec![3, 2], vec![2, 3]] {
        let directory = tempfile::tempdir().expect("a directory");
        let spec = spec(directory.path(), 10);
        block_on(async {
            let mut sink = recovered(&spec, None).await;
            let mut lines = ["aaaa", "bbbb", "cccc", "dddd", "eeee"].into_iter();
            for n in epochs {
                epoch(&mut *sink, &lines.by_ref().take(n).collect::<Vec<_>>()).await;
                sink.publish().await.expect("published");
            }
            sink.close(true).await.expect("closed");
        });
        assert_eq!(seen(directory.path()), expected);
        let manifest = std::fs::read_to_string(directory.path().join("manifest.json")).expect("a manifest");
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
        assert_eq!(manifest["finished"].as_array().map(Vec::len), Some(3));
        assert_eq!(manifest["finished"][2], serde_json::json!({"name": "part-000003.jsonl", "bytes": 5}));
    }
}

#[test]
fn a_crash_between_commit_and_publish_is_finished_by_recover() {
    // Which of the two files had its new name already, and whether the manifest was written.
    for renamed in 0..3 {
        let directory = tempfile::tempdir().expect("a directory");
        let spec = spec(directory.path(), 10);
        block_on(async {
            let mut sink = recovered(&spec, None).await;
            let token = epoch(&mut *sink, &["aaaa", "bbbb", "cccc", "dddd", "eeee"]).await;
            assert_eq!(seen(directory.path()), Vec::<String>::new(), "seen before it is committed");
            drop(sink);
            for n in 1..=renamed {
                let from = directory.path().join(format!(".part-{n:06}.jsonl.tmp"));
                std::fs::rename(from, directory.path().join(format!("part-{n:06}.jsonl"))).expect("a rename");
            }
            let mut sink = recovered(&spec, Some(&token)).await;
            assert_eq!(
                seen(directory.path()),
                ["part-000001.jsonl: aaaa bbbb", "part-000002.jsonl: cccc dddd"]
            );
            epoch(&mut *sink, &["ffff"]).await;
            sink.publish().await.expect("published");
            sink.close(true).await.expect("closed");
            assert_eq!(seen(directory.path())[2], "part-000003.jsonl: eeee ffff");
        });
        FileSink::reset(directory.path()).expect("a reset");
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }
}

#[test]
fn an_earlier_runs_output_is_not_written_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results");
    let spec = spec(&path, 10);
    block_on(async {
        let mut sink = recovered(&spec, None).await;
        epoch(&mut *sink, &["aaaa"]).await;
        // A second run at the same time is refused.
        let error = spec.sink().expect("a sink").recover(None).await.expect_err("locked").to_string();
        assert!(error.contains("another run writes to"), "{error}");
        drop(sink);
        // What was never finished is nobody's.
        let mut sink = recovered(&spec, None).await;
        let token = epoch(&mut *sink, &["bbbb"]).await;
        sink.publish().await.expect("published");
        sink.close(true).await.expect("closed");
        drop(sink);
        assert_eq!(seen(&path), ["part-000001.jsonl: bbbb"]);
        let error = spec.sink().expect("a sink").recover(None).await.expect_err("refused").to_string();
        assert!(error.contains("results holds the output of an earlier run"), "{error}");
        assert!(error.contains("`wasmill run --reset`, or give the sink another path"), "{error}");
        std::fs::write(path.join("notes.txt"), "mine").expect("a file");
        spec.reset().expect("a reset");
        let left: Vec<_> = std::fs::read_dir(&path)
            .expect("a directory")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        assert_eq!(left, ["notes.txt"]);
        // The state knows of output that is gone.
        let error =
            spec.sink().expect("a sink").recover(Some(&token)).await.expect_err("refused").to_string();
        assert!(error.contains("has 0 of the 5 bytes that are committed"), "{error}");
        let error = spec.sink().expect("a sink").recover(Some("{}")).await.expect_err("refused").to_string();
        assert!(error.contains("is not of this wasmill"), "{error}");
    });
}

#[test]
fn a_state_older_than_the_output_is_refused_and_nothing_is_touched() {
    let directory = tempfile::tempdir().expect("a directory");
    let spec = spec(directory.path(), 10);
    block_on(async {
        let mut sink = recovered(&spec, None).await;
        let old = epoch(&mut *sink, &["aaaa"]).await;
        sink.publish().await.expect("published");
        epoch(&mut *sink, &["bbbb", "cccc", "dddd", "eeee"]).await;
        sink.publish().await.expect("published");
        drop(sink);
        let before = seen(directory.path());
        let error = spec.sink().expect("a sink").recover(Some(&old)).await.expect_err("refused").to_string();
        assert!(
            error.contains("part-000001.jsonl is finished, but the state of this pipeline is from before"),
            "{error}"
        );
        assert_eq!(seen(directory.path()), before);
    });
}

#[test]
fn an_old_file_is_finished_without_new_messages() {
    let directory = tempfile::tempdir().expect("a directory");
    let interval = HumanDuration(std::time::Duration::from_secs(60));
    let spec = FileSinkSpec { roll_interval: Some(interval), ..FileSinkSpec::new(directory.path()) };
    block_on(async {
        tokio::time::pause();
        let mut sink = recovered(&spec, None).await;
        epoch(&mut *sink, &["aaaa"]).await;
        sink.publish().await.expect("published");
        tokio::time::advance(std::time::Duration::from_secs(59)).await;
        sink.flush().await.expect("a flush");
        sink.publish().await.expect("published");
        assert_eq!(seen(directory.path()), Vec::<String>::new());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let token = sink.flush().await.expect("a flush");
        sink.publish().await.expect("published");
        assert_eq!(seen(directory.path()), ["part-000001.jsonl: aaaa"]);
        assert_eq!(sink.flush().await.expect("a flush"), token, "another token for nothing");
        drop(sink);
        recovered(&spec, Some(&token)).await;
        assert_eq!(seen(directory.path()), ["part-000001.jsonl: aaaa"]);
    });
}
