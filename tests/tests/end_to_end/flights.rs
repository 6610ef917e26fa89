//! The main job on real flights: every window equals what SQL computes, whatever the workers, the batch
//! size and the moments at which the run is killed.

use std::process::Command;
use std::sync::OnceLock;

use wasmill_tests::output::{assert_same, finished_lines, sorted, unfinished_bytes};
use wasmill_tests::random::Random;
use wasmill_tests::{Place, home};

use crate::killing::{Killing, kill_and_resume};

const FLIGHTS: &str = "examples/flights/flights-2013-01.jsonl.gz";
/// The example's stages, with ends of the test's own, and the strictest promise.
const PIPELINE: &str = "\
name: flights
source: { file: { path: flights.jsonl.gz } }
data_dir: data
stages:
  - transform: enrich
  - filter: drop-ignored
  - key_by: payload.carrier
  - window: { tumbling: 1h, allowed_lateness: 30h, late: dead_letter }
    aggregate: delay-stats
sink: { file: { path: out } }
dead_letter: { file: { path: dead } }
delivery: exactly_once
";

/// The windows of the pipeline, which the others take the place of.
const HOURS: &str = "tumbling: 1h";
/// Windows, beside their names in the oracle.
const OTHERS: [(&str, &str); 3] = [
    ("sliding", "sliding: { size: 3h, every: 1h }"),
    ("at-messages", "sliding: { size: 10m }"),
    ("session", "session: { gap: 10m }"),
];

fn place() -> Place {
    let place = Place::with_plugins(&["enrich", "drop-ignored", "delay-stats"]);
    std::fs::copy(home::root().join(FLIGHTS), place.path("flights.jsonl.gz")).expect("the flights are there");
    place.file("pipeline.yaml", PIPELINE);
    place
}

/// What SQL makes of the flights: a window's payload a line, sorted.
fn oracle() -> &'static [String] {
    static ORACLE: OnceLock<Vec<String>> = OnceLock::new();
    ORACLE.get_or_init(|| oracle_of("tumbling"))
}

fn oracle_of(windows: &str) -> Vec<String> {
    let run = Command::new("python3")
        .arg(home::root().join("tests/oracle/flights.py"))
        .arg(home::root().join(FLIGHTS))
        .arg(windows)
        .output()
        .expect("python3 is needed to compute the flights independently");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    sorted(String::from_utf8_lossy(&run.stdout).lines().map(str::to_owned).collect())
}

/// The payloads' texts as they were written.
fn payloads(lines: &[String]) -> Vec<String> {
    let payload = |line: &String| {
        let from = line.find("\"payload\":").expect("a payload") + "\"payload\":".len();
        let to = line.find(",\"timestamp\":").expect("a timestamp behind the payload");
        line[from..to].to_owned()
    };
    sorted(lines.iter().map(payload).collect())
}

/// What an undisturbed run writes, sorted.
fn undisturbed() -> &'static [String] {
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    LINES.get_or_init(|| {
        let place = place();
        place.pipeline().run().exits(0);
        sorted(finished_lines(&place.path("out")))
    })
}

#[test]
fn every_window_equals_what_sql_computes_at_any_worker_count_and_batch_size() {
    let place = place();
    for workers in [1, 2, 5] {
        for batch_size in [1, 100, 4096] {
            place.forget(&["data", "out", "dead"]);
            let run = place.pipeline().env("WORKER_COUNT", workers).env("BATCH_SIZE", batch_size);
            run.run().exits(0);
            let what = format!("{workers} workers, batches of {batch_size}");
            let lines = finished_lines(&place.path("out"));
            assert_same(&format!("{what}, against SQL"), &payloads(&lines), oracle());
            assert_same(&format!("{what}, byte for byte"), &sorted(lines), undisturbed());
            assert_same(&format!("{what}, dead letters"), &finished_lines(&place.path("dead")), &[]);
        }
    }
}

#[test]
fn windows_of_the_other_kinds_equal_what_sql_computes() {
    for (name, windows) in OTHERS {
        let place = place();
        place.file("pipeline.yaml", PIPELINE.replace(HOURS, windows));
        let expected = oracle_of(name);
        assert!(expected.len() > 1_000, "{name}: SQL has {} windows", expected.len());
        for (workers, batch_size) in [(1, 4096), (5, 100)] {
            place.forget(&["data", "out", "dead"]);
            let run = place.pipeline().env("WORKER_COUNT", workers).env("BATCH_SIZE", batch_size);
            run.run().exits(0);
            let what = format!("{name}, {workers} workers, batches of {batch_size}");
            let lines = finished_lines(&place.path("out"));
            assert_same(&format!("{what}, against SQL"), &payloads(&lines), &expected);
            assert_same(&format!("{what}, dead letters"), &finished_lines(&place.path("dead")), &[]);
        }
    }
}

#[test]
fn kill_9_at_random_moments_loses_and_doubles_nothing() {
    let kills_wanted: usize =
        std::env::var("WASMILL_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut random = Random::shown("flights");
    let mut kills = 0;
    let mut resumed = 0;
    let mut kills_in_a_pipeline = 4;
    while kills < kills_wanted {
        let place = place();
        let killing = Killing {
            kills: kills_in_a_pipeline.min(kills_wanted - kills),
            age_ms: (30, 500),
            rate: 15_000,
            workers: &[1, 2, 5],
            batch_sizes: &[1, 100, 4096],
        };
        let (killed, last) = kill_and_resume(&killing, &mut random, || place.pipeline());
        last.exits(0);
        kills += killed;
        resumed += 1;
        let lines = finished_lines(&place.path("out"));
        let what = format!("after {killed} kills");
        assert_same(&format!("{what}, byte for byte"), &sorted(lines), undisturbed());
        assert_same(&format!("{what}, dead letters"), &finished_lines(&place.path("dead")), &[]);
        // Different pipelines meet few and many kills.
        kills_in_a_pipeline = if kills_in_a_pipeline == 4 { 8 } else { 4 };
    }
    println!("{kills} kills in {resumed} pipelines");
}

/// A kill between two commits, with results on their way: found by looking, not by luck.
#[test]
fn a_run_killed_among_its_results_takes_back_what_was_not_committed() {
    let place = place();
    // Without lateness windows close all along, so that results are always on their way.
    let eager = PIPELINE.replace("allowed_lateness: 30h, late: dead_letter", "late: drop");
    place.file("pipeline.yaml", eager);
    place.pipeline().run().exits(0);
    let expected = sorted(finished_lines(&place.path("out")));
    place.forget(&["data", "out", "dead"]);
    for bytes in [1, 20_000, 60_000] {
        let slowly = place.pipeline().env("WASMILL_SOURCE__FILE__RATE", 15_000);
        let mut running = slowly.env("WASMILL_EPOCH__INTERVAL", "20ms").start();
        let out = place.path("out");
        running.until("results on their way", || unfinished_bytes(&out) >= bytes);
        let (killed, _) = running.kill();
        assert!(killed, "it was still reading");
        assert!(unfinished_bytes(&out) >= bytes, "a kill leaves the unfinished file");
    }
    place.pipeline().run().exits(0);
    assert_same("after kills among results", &sorted(finished_lines(&place.path("out"))), &expected);
}
