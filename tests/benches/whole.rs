//! The whole process: flights from file to file through three plugins, and the time to the first message.

use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flate2::read::GzDecoder;
use wasmill_tests::output::finished_lines;
use wasmill_tests::{Place, home};

use crate::clock::Times;
use crate::report::{Report, Row, Target};

const FLIGHTS: &str = "examples/flights/flights-2013-01.jsonl.gz";
/// How often the month is repeated: 27,004 × 75 are more than two million flights.
const MONTHS: i64 = 75;
const MONTH_MS: i64 = 31 * 86_400_000;
const RUNS: usize = 3;
const STARTS: usize = 15;
/// A clock tick of /proc, in seconds.
const TICK_S: f64 = 0.01;
const STAGES: &str = "\
stages:
  - transform: enrich
  - filter: drop-ignored
  - key_by: payload.carrier
  - window: { tumbling: 1h, allowed_lateness: 30h, late: dead_letter }
    aggregate: delay-stats
";

/// Measures the process as a user sees it.
pub fn measure(report: &mut Report) {
    let place = Place::with_plugins(&["enrich", "drop-ignored", "delay-stats", "count-types"]);
    throughput(report, &place);
    start(report, &place);
}

fn throughput(report: &mut Report, place: &Place) {
    let flights = flights();
    place.file(
        "pipeline.yaml",
        format!(
            "name: flights\nsource: {{ file: {{ path: {} }} }}\ndata_dir: data\n{STAGES}sink: {{ file: {{ path: out }} }}\ndelivery: exactly_once\n",
            flights.display()
        ),
    );
    let (mut rates, mut wall, mut cpu) = (Times::default(), Times::default(), Times::default());
    let mut messages = 0;
    for _ in 0..RUNS {
        place.forget(&["data", "out"]);
        let cpu_before = children_cpu_s();
        let ended = place.pipeline().arg("--json").run().exits(0);
        let seconds = ended.lasted.as_secs_f64();
        messages = ended.summary()["read"].as_u64().unwrap_or(0);
        assert!(!finished_lines(&place.path("out")).is_empty(), "windows were written");
        rates.push(messages as f64 / seconds);
        wall.push(seconds);
        cpu.push(children_cpu_s() - cpu_before);
    }
    let what = format!("file → three plugins → file, {messages} flights");
    report.push(Row::figure(&what, "whole process", &rates, "messages/s", Some(Target::Aim(500_000.0))));
    report.push(Row::figure(&what, "wall time", &wall, "s", None));
    report.push(Row::figure(&what, "CPU time", &cpu, "s", None));
}

/// The flights of many months, plain: made once.
fn flights() -> PathBuf {
    let path = home::target().join(format!("bench/flights-{MONTHS}.jsonl"));
    if !path.exists() {
        write_flights(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    path
}

fn write_flights(path: &Path) -> std::io::Result<()> {
    let mut month = String::new();
    GzDecoder::new(fs::File::open(home::root().join(FLIGHTS))?).read_to_string(&mut month)?;
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let unfinished = path.with_extension("tmp");
    let mut out = BufWriter::new(fs::File::create(&unfinished)?);
    for nth in 0..MONTHS {
        for line in month.lines() {
            let (before, rest) = line.split_once("\"timestamp\":").unwrap_or((line, ""));
            let (time, behind) = rest.split_once(',').unwrap_or(("0", rest));
            let time = time.parse::<i64>().map_err(std::io::Error::other)? + nth * MONTH_MS;
            writeln!(out, "{before}\"timestamp\":{time},{behind}")?;
        }
    }
    out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
    fs::rename(unfinished, path)
}

/// The CPU time of the processes that this one has waited for.
fn children_cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may have spaces; then the 14th and 15th field.
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    fields.get(13..15).map_or(0.0, |ticks| ticks.iter().sum::<f64>() * TICK_S)
}

fn start(report: &mut Report, place: &Place) {
    let mut line = String::new();
    let month = fs::File::open(home::root().join(FLIGHTS)).unwrap_or_else(|e| panic!("{FLIGHTS}: {e}"));
    let first = BufReader::new(GzDecoder::new(month)).read_line(&mut line);
    assert!(first.is_ok_and(|bytes| bytes > 0), "a flight");
    place.file("first.jsonl", line).file(
        "pipeline.yaml",
        "\
name: first
source: { file: { path: first.jsonl } }
stages:
  - transform: enrich
  - filter: drop-ignored
  - key_by: payload.carrier
  - aggregate: count-types
sink: stdout
",
    );
    let mut times = Times::default();
    for nth in 0..=STARTS {
        let begun = Instant::now();
        let mut running = place.pipeline().stdout_unread().start();
        let stdout = running.unread_stdout().unwrap_or_else(|| panic!("a pipe"));
        let mut result = String::new();
        let read = BufReader::new(stdout).read_line(&mut result);
        let took = begun.elapsed();
        running.wait().exits(0);
        assert!(read.is_ok() && result.contains("total_count"), "{result}");
        // The first start fills the compile cache.
        if nth > 0 {
            times.push(took.as_secs_f64() * 1_000.0);
        }
    }
    let how = "process start to its first result on stdout";
    report.push(Row::figure("start, three cached plugins", how, &times, "ms", Some(Target::AtMost(300.0))));
}
