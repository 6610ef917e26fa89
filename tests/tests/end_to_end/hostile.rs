//! A plugin that does its worst on some messages, in whole pipelines: exactly these become dead letters, with their kinds,
//! and a pipeline in the same process goes on meanwhile. The programs that are hostile always are in `tests/hostile/`, run
//! by the tests of `host/plugin`; docs/sandbox.md tells of all of them.

#[path = "../../../host/plugin/tests/common/pieces.rs"]
mod pieces;
#[path = "../../../host/plugin/tests/hostile/program.rs"]
mod program;

use std::collections::BTreeMap;

use wasmill_tests::Place;
use wasmill_tests::output::{assert_same, field, finished_lines};

const MESSAGES: usize = 1_000;
/// One message in so many is harmful.
const HARM_EVERY: usize = 23;

/// What the letter of `tests/hostile/by-letter.wat` does, the kind of its dead letter, and what that says. A flood of the
/// log harms nobody.
const HARMS: [(char, Option<(&str, &str)>); 12] = [
    ('l', Some(("fuel", "used up its fuel of 50000000"))),
    ('t', Some(("trap", "unreachable"))),
    ('p', Some(("trap", "panic: no such airport at src/lib.rs:7"))),
    ('m', Some(("memory", "8388608 bytes of memory"))),
    ('d', Some(("trap", "stack"))),
    ('a', Some(("answer", "discriminant"))),
    ('u', Some(("answer", "utf-8"))),
    ('o', Some(("answer", "more than 1000"))),
    ('x', Some(("answer", "timestamp out of range"))),
    ('h', Some(("trap", "called the host more than 1000000 times"))),
    ('e', Some(("error", "panic: no such airport"))),
    ('g', None),
];

/// The harm that a message does.
fn harm(message: usize) -> Option<char> {
    message.is_multiple_of(HARM_EVERY).then(|| HARMS[message / HARM_EVERY % HARMS.len()].0)
}

fn outcome(message: usize) -> Option<(&'static str, &'static str)> {
    let letter = harm(message)?;
    HARMS.iter().find(|(l, _)| *l == letter).and_then(|(_, outcome)| *outcome)
}

fn line(message: usize, harm: Option<char>) -> String {
    format!(
        "{{\"id\":\"m{message}\",\"type\":\"t\",\"payload\":{{\"harm\":\"{}\"}},\"timestamp\":{message}}}\n",
        harm.unwrap_or('-')
    )
}

fn ids(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| field(line, "/id").as_str().expect("an id").to_owned()).collect()
}

#[test]
fn of_a_thousand_messages_exactly_the_harmful_ones_become_dead_letters() {
    let place = Place::with_plugins(&["seed-job"]);
    place.file("plugins/by-letter.wasm", program::named("by-letter").component);
    for (name, plugin) in [("hostile", "by-letter"), ("beside", "seed-job")] {
        place.file(
            &format!("{name}.yaml"),
            format!(
                "\
name: {name}
source: {{ file: {{ path: {name}.jsonl }} }}
stages:
  - transform: {plugin}
sink: {{ file: {{ path: {name}-out }} }}
dead_letter: {{ file: {{ path: {name}-dead }} }}
workers: 2
limits: {{ deadline: 50ms, fuel: 50000000, memory: 8MiB }}
"
            ),
        );
    }
    place.file("hostile.jsonl", (0..MESSAGES).map(|m| line(m, harm(m))).collect::<String>());
    place.file("beside.jsonl", (0..MESSAGES).map(|m| line(m, None)).collect::<String>());
    let ended = place.wasmill(["run", "hostile.yaml", "beside.yaml"]).run().exits(0);
    assert!(!ended.stderr.contains('\x1b'), "what plugins log moves no terminal");
    assert!(ended.stderr.contains("\\x1b[31mred"), "the flooded log has its first lines");

    let survivors: Vec<String> =
        (0..MESSAGES).filter(|m| outcome(*m).is_none()).map(|m| format!("m{m}")).collect();
    assert_same("the others, in order", &ids(&finished_lines(&place.path("hostile-out"))), &survivors);
    let letters = finished_lines(&place.path("hostile-dead"));
    let harmful: BTreeMap<String, (&str, &str)> =
        (0..MESSAGES).filter_map(|m| Some((format!("m{m}"), outcome(m)?))).collect();
    let mut dead = ids(&letters);
    dead.sort();
    assert_same("the dead letters", &dead, &harmful.keys().cloned().collect::<Vec<_>>());
    for letter in &letters {
        let (kind, says) = harmful[field(letter, "/id").as_str().expect("an id")];
        assert_eq!(field(letter, "/payload/kind"), kind, "{letter}");
        let reason = field(letter, "/payload/reason");
        assert!(reason.as_str().is_some_and(|reason| reason.contains(says)), "{says}: {letter}");
    }
    assert_eq!(finished_lines(&place.path("beside-out")).len(), MESSAGES, "the pipeline beside");
    assert!(finished_lines(&place.path("beside-dead")).is_empty(), "the pipeline beside");
}

#[test]
fn a_timestamp_at_the_end_of_time_closes_no_window() {
    let place = Place::with_plugins(&["count-types"]);
    place.file("plugins/by-letter.wasm", program::named("by-letter").component);
    place.file(
        "pipeline.yaml",
        "\
name: end-of-time
source: { file: { path: input.jsonl } }
stages:
  - transform: by-letter
  - key_by: type
  - window: { tumbling: 1s, late: dead_letter }
    aggregate: count-types
sink: { file: { path: out } }
dead_letter: { file: { path: dead } }
",
    );
    // Behind the one that would end time there are more messages for the window that is open.
    place.file("input.jsonl", (0..10).map(|m| line(m, (m == 4).then_some('x'))).collect::<String>());
    place.pipeline().run().exits(0);
    let dead = finished_lines(&place.path("dead"));
    assert_eq!(ids(&dead), ["m4"], "nothing is late: {dead:?}");
    let fired = finished_lines(&place.path("out"));
    assert_eq!(fired.len(), 1, "one window, closed at the input's end: {fired:?}");
    assert!(fired[0].contains("9"), "of the nine others: {fired:?}");
}

/// 30: what is stored by an aggregate of one state version is not read by another.
#[test]
fn state_of_another_version_is_refused_before_anything_runs() {
    let place = Place::new();
    let spec = |plugin: &str| {
        format!(
            "\
name: versions
source: {{ file: {{ path: input.jsonl }} }}
data_dir: data
stages:
  - key_by: type
  - window: {{ tumbling: 1h }}
    aggregate: {{ plugin: {plugin}, name: sums }}
sink: {{ file: {{ path: out }} }}
"
        )
    };
    place.file("input.jsonl", (0..10).map(|m| line(m, None)).collect::<String>());
    place.file("plugins/sums.wasm", pieces::aggregate(""));
    place.file("pipeline.yaml", spec("sums"));
    place.pipeline().run().exits(0);
    // The same, but for the version that it gives its accumulators: 4 in place of 3.
    let newer = pieces::aggregate(
        "(i32.store8 (i32.const 32) (i32.const 1))
      (i32.store (i32.const 36) (i32.const 4))
      (i32.store (i32.const 40) (i32.const 600))
      (i32.store (i32.const 44) (i32.const 1))
      (return (i32.const 32))",
    );
    place.file("plugins/sums-4.wasm", newer);
    place.file("pipeline.yaml", spec("sums-4"));
    let refused = place.pipeline().run();
    assert_ne!(refused.code, Some(0), "{}", refused.stderr);
    let says = "of the stage `sums` the state version is 4, and was 3";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
}
