//! A plugin that makes very much of each message: all goes on, in order, in the memory of a few of them.

use serde_json::json;
use wasmill_tests::Place;
use wasmill_tests::output::{field, finished_lines};

/// What each message is made to: together far more than the process may have.
const SWOLLEN_BYTES: usize = 24 << 20;
const MESSAGES: usize = 64;
/// What the process may have: two instances that hold one message thrice, what a step holds, and its own.
const PEAK_BYTES_MAX: u64 = 900 << 20;

fn message(number: usize, payload: &serde_json::Value) -> String {
    format!(r#"{{"id":"m{number:03}","type":"t","payload":{payload},"timestamp":{number}}}"#) + "\n"
}

/// Runs the stages over messages with these payloads; gives the results, the dead letters and what was said.
fn run(
    stages: &str,
    payloads: impl Iterator<Item = serde_json::Value>,
) -> (Vec<String>, Vec<String>, String) {
    let place = Place::with_plugins(&["swells"]);
    let input: String = payloads.enumerate().map(|(number, payload)| message(number, &payload)).collect();
    place.file("input.jsonl", input);
    place.file(
        "pipeline.yaml",
        format!(
            "\
name: swelling
source: {{ file: {{ path: input.jsonl }} }}
stages:
{stages}
sink: {{ file: {{ path: out }} }}
dead_letter: {{ file: {{ path: dead }} }}
workers: 2
"
        ),
    );
    let ended = place.wasmill(["run", "pipeline.yaml"]).run().exits(0);
    assert!(ended.peak_bytes < PEAK_BYTES_MAX, "it had {} MiB", ended.peak_bytes >> 20);
    (finished_lines(&place.path("out")), finished_lines(&place.path("dead")), ended.stderr)
}

/// All results are there, in order, each with the length that it had.
fn all_came_through((results, dead, _): &(Vec<String>, Vec<String>, String)) {
    assert_eq!(dead, &Vec::<String>::new());
    let came: Vec<_> = results.iter().map(|line| (field(line, "/id"), field(line, "/payload"))).collect();
    let expected: Vec<_> = (0..MESSAGES).map(|n| (json!(format!("m{n:03}")), json!(SWOLLEN_BYTES))).collect();
    assert_eq!(came, expected);
}

#[test]
fn before_the_key_by_a_batch_goes_on_in_parts() {
    let swelling = (0..MESSAGES).map(|_| json!({ "to": SWOLLEN_BYTES }));
    all_came_through(&run(
        "  - transform: swells\n    name: up\n  - transform: swells\n    name: down",
        swelling,
    ));
}

#[test]
fn behind_it_the_pipeline_begins_again_in_small_steps() {
    let swelling = (0..MESSAGES).map(|_| json!({ "to": SWOLLEN_BYTES }));
    let stages =
        "  - key_by: type\n  - transform: swells\n    name: up\n  - transform: swells\n    name: down";
    let ran = run(stages, swelling);
    all_came_through(&ran);
    let said = &ran.2;
    assert!(said.contains("the stage `up`: more than") && said.contains("in small steps"), "{said}");
}

#[test]
fn what_one_message_becomes_is_bounded_too() {
    // The second stage makes 10 times 20 MB of the first message, of which four have room.
    let payloads = [json!({ "to": 20_000_000, "of": 10 }), json!({ "to": 200, "of": 2 })].into_iter();
    let stages = "  - transform: swells\n    name: split\n  - transform: swells\n    name: up\n  - transform: swells\n    name: down";
    let (results, dead, _) = run(stages, payloads);
    let lengths: Vec<_> = results.iter().map(|line| field(line, "/payload")).collect();
    assert_eq!(lengths, [20_000_000, 20_000_000, 20_000_000, 20_000_000, 200, 200].map(|n| json!(n)));
    assert_eq!(dead.len(), 6);
    for letter in dead {
        assert_eq!(field(&letter, "/payload/kind"), "answer");
        let reason = field(&letter, "/payload/reason");
        let expected = "more than 83886080 bytes about all results of one message together: `limits.answer`";
        assert!(reason.as_str().is_some_and(|reason| reason.contains(expected)), "{reason}");
    }
}
