//! The pages for operators: /live, /ready, and metrics that are valid and true.

use std::collections::BTreeMap;

use wasmill_tests::Place;
use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::finished_lines;

const GOOD: usize = 40;
const DROPPED: usize = 7;
const BROKEN: usize = 3;

/// One sample's value by its name and labels.
type Samples = BTreeMap<String, f64>;

/// Reads Prometheus text, strictly: every sample belongs to a metric that has HELP and TYPE.
fn parse(text: &str) -> (BTreeMap<String, String>, Samples) {
    let mut types = BTreeMap::new();
    let mut helped = Vec::new();
    let mut samples = Samples::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            assert!(help.ends_with('.'), "the help of {name} is a sentence: {help:?}");
            helped.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} stands twice");
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            let value: f64 = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(samples.insert(name.to_owned(), value).is_none(), "{name} stands twice");
            let bare = name.split('{').next().unwrap_or(name);
            let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|s| bare.strip_suffix(s));
            let known = std::iter::once(bare).chain(of_histogram).any(|n| types.contains_key(n));
            assert!(known, "{bare} has no TYPE");
        }
    }
    for name in types.keys() {
        assert!(helped.contains(name), "{name} has no HELP");
    }
    (types, samples)
}

/// A sample's name, and its labels in order.
fn sorted_labels(sample: &str) -> (&str, Vec<&str>) {
    let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
    let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').filter(|l| !l.is_empty()).collect();
    labels.sort_unstable();
    (name, labels)
}

#[test]
fn the_pages_are_valid_and_the_counters_equal_what_was_processed() {
    let place = Place::with_plugins(&["drop-ignored"]);
    let mut lines = String::new();
    for i in 0..GOOD + DROPPED {
        let kind = if i % 7 == 3 { "ignore" } else { "kept" };
        lines.push_str(&format!(
            "{{\"id\":\"{i}\",\"type\":\"{kind}\",\"payload\":{{}},\"timestamp\":{}}}\n",
            7_000 + i
        ));
    }
    lines.push_str(&"{\"id\":\n".repeat(BROKEN));
    let address = free_address();
    // Stdin stays open, so that the run goes on after the file has ended.
    let spec = format!(
        "\
name: pages
sources:
  - file: {{ path: input.jsonl }}
  - stdin
http: {address}
stages:
  - filter: drop-ignored
sink: {{ file: {{ path: out }} }}
"
    );
    place.file("pipeline.yaml", spec).file("input.jsonl", &lines);
    let mut running = place.pipeline().stdin_open().start();
    running.until("it is ready", || get(address, "/ready").is_some_and(|answer| answer.status == 200));
    let live = get(address, "/live").expect("an answer");
    assert_eq!((live.status, live.body.trim()), (200, "live"));

    let committed = "wasmill_messages_committed_total{pipeline=\"pages\"}";
    let all = (GOOD + DROPPED + BROKEN) as f64;
    running.until("everything is committed", || {
        let metrics = get(address, "/metrics").expect("an answer").body;
        parse(&metrics).1.get(committed) == Some(&all)
    });
    let answer = get(address, "/metrics").expect("an answer");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let (types, samples) = parse(&answer.body);
    for (name, kind) in &types {
        assert!(name.starts_with("wasmill_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        if kind == "histogram" {
            assert!(name.ends_with("_seconds") || name.ends_with("_bytes"), "{name}: a unit ends the name");
        }
        for unit in ["_ms", "_millis", "_milliseconds", "_kb", "_mb"] {
            assert!(!name.contains(unit), "{name}: base units only");
        }
    }
    for (name, expected) in [
        ("wasmill_messages_read_total", all),
        ("wasmill_messages_committed_total", all),
        ("wasmill_messages_dropped_total", DROPPED as f64),
        ("wasmill_dead_letters_total", BROKEN as f64),
        ("wasmill_messages_written_total", GOOD as f64),
        ("wasmill_messages_late_total", 0.0),
    ] {
        let value = samples.get(&format!("{name}{{pipeline=\"pages\"}}"));
        assert_eq!(value, Some(&expected), "{name} in\n{}", answer.body);
    }
    let of = |name: &str| {
        let sample = name.replacen('{', "{pipeline=\"pages\",plugin=\"drop-ignored\",", 1);
        let mut found = samples.iter().filter(|(n, _)| sorted_labels(n) == sorted_labels(&sample));
        *found.next().unwrap_or_else(|| panic!("no {sample} in\n{}", answer.body)).1
    };
    assert!(of("wasmill_plugin_memory_bytes{}") > 0.0 && of("wasmill_plugin_instances{}") > 0.0);
    assert_eq!(of("wasmill_plugin_instances_made_total{}"), of("wasmill_plugin_instances{}"));
    for none in [
        "wasmill_plugin_recycled_total{}",
        "wasmill_plugin_log_lines_dropped_total{}",
        "wasmill_plugin_traps_total{kind=\"trap\"}",
        "wasmill_plugin_limit_hits_total{limit=\"deadline\"}",
        "wasmill_plugin_limit_hits_total{limit=\"host_wait\"}",
    ] {
        assert_eq!(of(none), 0.0, "{none}");
    }
    running.end_stdin();
    running.wait().exits(0);
    assert_eq!(finished_lines(&place.path("out")).len(), GOOD);
}

#[test]
fn a_page_that_is_not_there_and_an_address_that_is_taken_are_told() {
    let address = free_address();
    let place = Place::new();
    let spec = format!("name: taken\nsource: stdin\nhttp: {address}\nsink: stdout\n");
    place.file("pipeline.yaml", spec);
    let mut first = place.pipeline().stdin_open().start();
    first.until("it is ready", || get(address, "/ready").is_some_and(|answer| answer.status == 200));
    assert_eq!(get(address, "/nothing").map(|answer| answer.status), Some(404));
    let second = place.pipeline().run().exits(4);
    second.says(&[format!("can't listen on {address}"), "set `http` to another address".to_owned()]);
    first.end_stdin();
    first.wait().exits(0);
}
