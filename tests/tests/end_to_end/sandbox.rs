//! Hostile plugins in a pipeline: exactly the offending messages go to the dead letters, their neighbours
//! are unharmed, and so is a pipeline in the same process. And a plugin by another toolchain.

use serde_json::{Value, json};
use wasmill_tests::Place;
use wasmill_tests::output::{assert_same, field, finished_lines, sorted};

const MESSAGES: usize = 120;
const OFFENDING: [usize; 3] = [7, 8, 90];
const LIMITS: &str = "limits: { deadline: 50ms, fuel: 50000000, memory: 8MiB }\n";

fn messages(boom: impl Fn(usize) -> bool) -> String {
    let line = |i| {
        format!("{{\"id\":\"m{i}\",\"type\":\"t\",\"payload\":{{\"boom\":{}}},\"timestamp\":{i}}}\n", boom(i))
    };
    (0..MESSAGES).map(line).collect()
}

fn ids(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| field(line, "/id").as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_hostile_plugin_costs_the_offending_messages_and_nothing_else() {
    for (guest, kind, reason) in [
        ("spins-on", "fuel", "used up its fuel of 50000000"),
        ("grows-on", "memory", "asked for more than its 8388608 bytes of memory"),
        ("panics-on", "trap", "tests/programs/panics-on/src/lib.rs:"),
    ] {
        let place = Place::with_plugins(&[guest, "seed-job"]);
        let spec = |name: &str, plugin: &str| {
            format!(
                "\
name: {name}
source: {{ file: {{ path: {name}.jsonl }} }}
stages:
  - transform: {plugin}
sink: {{ file: {{ path: {name}-out }} }}
dead_letter: {{ file: {{ path: {name}-dead }} }}
workers: 2
{LIMITS}"
            )
        };
        place.file("hostile.yaml", spec("hostile", guest)).file("beside.yaml", spec("beside", "seed-job"));
        place.file("hostile.jsonl", messages(|i| OFFENDING.contains(&i)));
        place.file("beside.jsonl", messages(|_| false));
        place.wasmill(["run", "hostile.yaml", "beside.yaml"]).run().exits(0);

        let out = finished_lines(&place.path("hostile-out"));
        let survivors: Vec<String> =
            (0..MESSAGES).filter(|i| !OFFENDING.contains(i)).map(|i| format!("m{i}")).collect();
        assert_eq!(ids(&out), survivors, "{guest}: the others, in order");
        assert!(out.iter().all(|line| field(line, "/metadata/survived") == "true"), "{guest}");
        let dead = finished_lines(&place.path("hostile-dead"));
        let offending: Vec<String> = OFFENDING.iter().map(|i| format!("m{i}")).collect();
        assert_eq!(ids(&dead), offending, "{guest}: the offending ones alone");
        for letter in &dead {
            assert_eq!(field(letter, "/payload/kind"), kind, "{letter}");
            let told = field(letter, "/payload/reason");
            assert!(told.as_str().is_some_and(|told| told.contains(reason)), "{letter}");
            assert_eq!(field(letter, "/payload/plugin/name"), guest);
            assert_eq!(field(letter, "/payload/message/payload"), json!({ "boom": true }));
        }
        assert_eq!(finished_lines(&place.path("beside-out")).len(), MESSAGES, "{guest}: the pipeline beside");
        assert!(finished_lines(&place.path("beside-dead")).is_empty(), "{guest}: the pipeline beside");
    }
}

/// The parts of the rules that tests/typed-js and tests/programs/router have in common.
const KINDS: [&str; 9] = ["keep", "drop", "fail", "alert", "payload", "key", "no_key", "id", "copy"];

#[test]
fn a_typed_component_by_another_toolchain_gives_what_its_rust_twin_gives() {
    let place = Place::with_plugins(&["typed-js", "router"]);
    let mut input = String::new();
    for i in 0..90 {
        let kind = KINDS[i % KINDS.len()];
        // Rust's twin turns ASCII letters alone into capitals.
        let text = if kind == "payload" { "umlaut" } else { "ümläut" };
        input.push_str(&format!(
            "{{\"id\":\"{kind}-{i}\",\"type\":\"{kind}\",\"payload\":{{\"text\":\"{text} {i}\"}},\"timestamp\":\"2013-01-31T23:59:{:02}Z\",\"metadata\":{{\"was\":\"here\",\"n\":{i}.0}},\"trace\":{i}}}\n",
            i % 60
        ));
    }
    place.file("input.jsonl", input);
    // componentize-js keeps every import of its world: the contract's worlds have none that needs a grant.
    let run = |plugin: &str| {
        let spec = format!(
            "\
name: twin-{plugin}
source: {{ file: {{ path: input.jsonl }} }}
stages:
  - key_by: id
  - transform: {{ plugin: {plugin}, name: twin }}
sinks:
  - file: {{ path: {plugin}-out }}
  - file: {{ path: {plugin}-alerts }}
    output: alerts
dead_letter: {{ file: {{ path: {plugin}-dead }} }}
"
        );
        place.file("pipeline.yaml", spec);
        place.pipeline().run().exits(0);
        let lines = |folder: &str| sorted(finished_lines(&place.path(format!("{plugin}-{folder}"))));
        let reasons: Vec<String> = lines("dead")
            .iter()
            .map(|line| {
                let letter: Value = field(line, "/payload");
                format!("{} {} {}", letter["kind"], letter["reason"], letter["message"])
            })
            .collect();
        [lines("out"), lines("alerts"), reasons]
    };
    let (rust, js) = (run("router"), run("typed-js"));
    assert_eq!(rust.each_ref().map(Vec::len), [70, 10, 10], "what the rules say");
    for ((what, rust), js) in ["main output", "alerts", "dead letters"].iter().zip(&rust).zip(&js) {
        assert_same(what, js, rust);
    }
}
