//! Built-in aggregates on real flights: every window equals what SQL computes, whatever the workers and the
//! batch size.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use wasmill_tests::output::{assert_same, finished_lines, sorted};
use wasmill_tests::{Place, home};

const FLIGHTS: &str = "examples/flights/flights-2013-01.jsonl.gz";
const PIPELINE: &str = "\
name: flights
source: { file: { path: flights.jsonl.gz } }
data_dir: data
stages:
  - key_by: payload.carrier
  - window: { tumbling: 1h, allowed_lateness: 30h, late: dead_letter }
    aggregate:
      flights: count
      departed: { count: payload.dep_delay }
      sum: payload.dep_delay
      mean: { avg: payload.dep_delay }
      least: { min: payload.dep_delay }
      longest: { max: payload.dep_delay }
      distinct: payload.dep_delay
      delay: { quantiles: { of: payload.dep_delay, at: [0.5, 0.9] } }
sink: { file: { path: out } }
dead_letter: { file: { path: dead } }
delivery: exactly_once
";
/// What both compute exactly; quantiles are near.
const EXACT: [&str; 7] = ["flights", "departed", "sum", "mean", "least", "longest", "distinct"];
/// The sketch's error, as a share of the value.
const QUANTILE_ERROR: f64 = 1.0 / 256.0;

/// Windows by start and key.
type Windows = BTreeMap<(i64, String), Value>;

fn by_window(lines: impl Iterator<Item = Value>, value: impl Fn(&Value) -> Value) -> Windows {
    let key = |row: &Value| {
        let start = row["start"].as_i64().expect("a start");
        (start, row["key"].as_str().expect("a key").to_owned())
    };
    lines.map(|row| (key(&row), value(&row))).collect()
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

fn oracle() -> Windows {
    let run = Command::new("python3")
        .arg(home::root().join("tests/oracle/built_ins.py"))
        .arg(home::root().join(FLIGHTS))
        .output()
        .expect("python3 is needed to compute the flights independently");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    by_window(String::from_utf8_lossy(&run.stdout).lines().map(parsed), Value::clone)
}

#[test]
fn built_ins_equal_what_sql_computes_at_any_worker_count_and_batch_size() {
    let expected = oracle();
    let place = Place::new();
    std::fs::copy(home::root().join(FLIGHTS), place.path("flights.jsonl.gz")).expect("the flights are there");
    place.file("pipeline.yaml", PIPELINE);
    let mut first: Option<Vec<String>> = None;
    for (workers, batch_size) in [(1, 4096), (2, 100), (5, 1)] {
        place.forget(&["data", "out", "dead"]);
        place.pipeline().env("WORKER_COUNT", workers).env("BATCH_SIZE", batch_size).run().exits(0);
        let lines = sorted(finished_lines(&place.path("out")));
        let what = format!("{workers} workers, batches of {batch_size}");
        assert_same(&format!("{what}, dead letters"), &finished_lines(&place.path("dead")), &[]);
        assert_same(&what, &lines, first.get_or_insert_with(|| lines.clone()));
    }
    let lines = first.unwrap_or_default();
    let found = by_window(lines.iter().map(|l| parsed(l)["payload"].take()), |p| p["value"].clone());
    assert!(found.keys().eq(expected.keys()), "{} windows, not {}", found.len(), expected.len());
    for (window, expected) in &expected {
        let found = &found[window];
        for name in EXACT {
            assert_eq!(found[name], expected[name], "`{name}` of {window:?}");
        }
        for (q, name) in [("0.5", "median"), ("0.9", "p90")] {
            match (found["delay"][q].as_f64(), expected[name].as_f64()) {
                (Some(found), Some(expected)) => {
                    let error = (found - expected).abs();
                    assert!(
                        error <= expected.abs() * QUANTILE_ERROR,
                        "`{name}` of {window:?}: {found}, {expected}"
                    );
                }
                (found, expected) => assert_eq!(found, expected, "`{name}` of {window:?}"),
            }
        }
    }
}
