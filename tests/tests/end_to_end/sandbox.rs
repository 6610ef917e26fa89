//! Hostile plugins in a pipeline: exactly the offending messages go to the dead letters, their neighbours
//! are unharmed, and so is a pipeline in the same process. And a plugin by another toolchain.

use std::collections::BTreeMap;

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

/// The parts of the rules that tests/typed-js, tests/typed-py and tests/programs/router have in common.
const KINDS: [&str; 9] = ["keep", "drop", "fail", "alert", "payload", "key", "no_key", "id", "copy"];

#[test]
fn typed_components_by_other_toolchains_give_what_their_rust_twin_gives() {
    let place = Place::with_plugins(&["typed-js", "typed-py", "router"]);
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
    // Both keep every import of its world: the contract's worlds have none that needs a grant.
    let run = |plugin: &str| {
        let spec = format!(
            "\
name: twin-{plugin}
source: {{ file: {{ path: input.jsonl }} }}
stages:
  - key_by: id
  - transform: {{ plugin: {plugin}, name: twin }}
limits: {{ deadline: 20s }}
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
    let rust = run("router");
    assert_eq!(rust.each_ref().map(Vec::len), [70, 10, 10], "what the rules say");
    for plugin in ["typed-js", "typed-py"] {
        for ((what, rust), other) in
            ["main output", "alerts", "dead letters"].iter().zip(&rust).zip(&run(plugin))
        {
            assert_same(&format!("{plugin}: {what}"), other, rust);
        }
    }
}

#[test]
fn a_foreign_component_filters_transforms_and_aggregates_in_one_pipeline() {
    let place = Place::with_plugins(&["typed-js", "typed-py"]);
    let kinds = ["keep", "ignore", "other", "refuse", "fail", "payload"];
    let message = |i: usize| {
        let n = if i % 7 == 3 { json!("none") } else { json!(i) };
        let payload = json!({ "k": format!("K{}", i % 5), "n": n });
        json!({ "id": format!("m{i}"), "type": kinds[i % 6], "payload": payload, "timestamp": i * 100 })
    };
    let input: String = (0..MESSAGES).map(|i| format!("{}\n", message(i))).collect();
    place.file("input.jsonl", input);

    // The same by the rules: of windows of 3 s, by key.
    let mut sums = BTreeMap::<(usize, String), (u64, u64)>::new();
    let mut expected_dead = Vec::new();
    for i in 0..MESSAGES {
        let (kind, numbered) = (kinds[i % 6], i % 7 != 3);
        match kind {
            "ignore" => {}
            "refuse" => expected_dead.push(format!("m{i} refused: m{i}")),
            "fail" => expected_dead.push(format!("m{i} asked to: {}", message(i)["payload"])),
            // In capitals it has no `k` any more, but a `K`.
            "payload" => expected_dead.push(format!("m{i} no key: nothing at `payload.k`")),
            _ if !numbered => expected_dead.push(format!("m{i} m{i} has no whole number `n`")),
            _ => {
                let sum = sums.entry((i * 100 / 3_000 * 3_000, format!("K{}", i % 5))).or_default();
                (sum.0, sum.1) = (sum.0 + 1, sum.1 + i as u64);
            }
        }
    }
    expected_dead.sort();
    let expected: Vec<String> = sums
        .into_iter()
        .map(|((start, key), (count, sum))| {
            format!("{start} {key} {}", json!({ "count": count, "sum": sum }))
        })
        .collect();
    assert!(expected.len() > 9 && expected_dead.len() > 40, "the rules give enough of each");

    for plugin in ["typed-js", "typed-py"] {
        let run = |name: &str, workers: usize| {
            let spec = format!(
                "\
name: {name}
source: {{ file: {{ path: input.jsonl }} }}
stages:
  - filter: {{ plugin: {plugin}, name: some }}
  - transform: {{ plugin: {plugin}, name: changed }}
  - key_by: payload.k
  - window: {{ tumbling: 3s }}
    aggregate: {{ plugin: {plugin}, name: sums }}
sink: {{ file: {{ path: {name}-out }} }}
dead_letter: {{ file: {{ path: {name}-dead }} }}
limits: {{ deadline: 20s }}
workers: {workers}
"
            );
            place.file("pipeline.yaml", spec);
            place.pipeline().run().exits(0);
            ["out", "dead"].map(|folder| sorted(finished_lines(&place.path(format!("{name}-{folder}")))))
        };
        let [out, dead] = run(&format!("{plugin}-once"), 1);
        let mut values: Vec<(u64, String)> = out
            .iter()
            .map(|line| {
                let payload = field(line, "/payload");
                let start = payload["start"].as_u64().expect("milliseconds");
                (start, format!("{start} {} {}", payload["key"].as_str().expect("text"), payload["value"]))
            })
            .collect();
        values.sort();
        let values: Vec<String> = values.into_iter().map(|(_, line)| line).collect();
        assert_same(&format!("{plugin}: sums"), &values, &expected);
        let mut reasons: Vec<String> = dead
            .iter()
            .map(|line| {
                let letter = field(line, "/payload");
                let text = |v: &Value| v.as_str().expect("text").to_owned();
                format!("{} {}", text(&letter["message"]["id"]), text(&letter["reason"]))
            })
            .collect();
        reasons.sort();
        assert_same(&format!("{plugin}: dead letters"), &reasons, &expected_dead);
        let [again, _] = run(&format!("{plugin}-again"), 4);
        assert_same(&format!("{plugin}: on four workers"), &again, &out);
        place
            .wasmill([
                "plugin",
                "verify",
                &format!("plugins/{plugin}.wasm"),
                "--sample",
                "input.jsonl",
                "--key-by",
                "payload.k",
                "--rounds",
                "1",
            ])
            .run()
            .exits(0);
    }
}

#[test]
fn a_plugin_s_own_cases_are_embedded_by_the_sdk_and_run_at_start() {
    let place = Place::with_plugins(&["enrich"]);
    let seen = place.wasmill(["plugin", "inspect", "plugins/enrich.wasm", "--json"]).run().exits(0).stdout;
    let seen: Value = serde_json::from_str(&seen).expect("JSON");
    assert!(seen["cases_bytes"].as_u64() > Some(500), "{seen:#}");
    place.wasmill(["plugin", "verify", "plugins/enrich.wasm"]).run().exits(0);
}
