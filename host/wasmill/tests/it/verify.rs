//! `wasmill plugin verify` finds each way of not being pure, and no other; the cases that a plugin carries are run
//! before it is taken in.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Imports, WALL_CLOCK, WASI, binary, transform_importing};
use crate::ran::Ran;

const AGAIN: &str = "the same again";
const REUSED: &str = "again, on an instance that has answered before";
const BATCHES: &str = "other batches, a fresh instance for each";
const BATCHES_ON_ONE: &str = "other batches, on one instance";
const VERDICT: &str = "under fuel, as a verdict is given";
const MERGE: &str = "merging parts gives what folding all gives";
const GROUPING: &str = "merging parts in another grouping";
const UNIT: &str = "`initial` merged to it changes nothing";
const ORDER: &str = "any order, as it calls itself commutative";

fn wasmill(folder: &Path, args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_wasmill"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .output()
        .expect("wasmill runs");
    Ran(output)
}

fn place(files: &[(&str, &[u8])]) -> TempDir {
    let place = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        let path = place.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, bytes).expect("written");
    }
    place
}

/// Messages with the ids m1, m2, ….
fn sample(messages: usize) -> String {
    (1..=messages).map(|i| format!("{{\"id\":\"m{i}\",\"type\":\"t\",\"payload\":{{}}}}\n")).collect()
}

/// A transform that drops the first message of a call where this holds.
fn drops_if(imports: &Imports, condition: &str) -> Vec<u8> {
    let body = format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (drop (call $keep (local.get $p)))
         (i32.store (i32.const 72) (i32.const 0))
         (if {condition} (then
           (i32.store (i32.const 72) (i32.const 1))
           (i32.store (i32.const 80) (i32.const 1)) (i32.store (i32.const 84) (i32.const 0))
           (i32.store (i32.const 88) (i32.const 0))
           (return (call $ok (i32.const 64) (i32.const 28)))))
         (call $ok (i32.const 64) (i32.const 16))"
    );
    transform_importing(imports, "(global $calls (mut i32) (i32.const 0))", &body)
}

/// A transform that waits until the wall clock has gone on, and makes that the first message's event time.
fn tells_the_time() -> Vec<u8> {
    let body = "(local $begun i64)
         (local.set $begun (call $now))
         (loop $on (br_if $on (i64.eq (call $now) (local.get $begun))))
         (drop (call $keep (local.get $p)))
         (i32.store (i32.const 72) (i32.const 1))
         (i32.store (i32.const 80) (i32.const 5)) (i32.store (i32.const 84) (i32.const 0))
         (i32.store (i32.const 88) (i32.const 8))
         (i64.store (i32.const 92) (call $now))
         (call $ok (i32.const 64) (i32.const 36))";
    transform_importing(&WALL_CLOCK, "", body)
}

/// An aggregate of the messages of one key, whose accumulator is a byte, at first 0. `fold` makes the next of `$acc`, the
/// call's `$n` messages, and the number `$last` in the last one's id; `merge` of `$l` and `$r`.
fn aggregate(fold: &str, merge: &str, commutative: bool) -> Vec<u8> {
    let commutative = i32::from(commutative);
    binary(&format!(
        r#"(component
  (core module $m
    (memory (export "memory") 16)
    (global $next (mut i32) (i32.const 4096))
    (global $calls (mut i32) (i32.const 0))
    (data (i32.const 64) "WML1\01\00\00\00\01\00\00\00\00\00\00\00")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at))
    (func $answer (param $value i32) (result i32)
      (i32.store (i32.const 80) (i32.const 0)) (i32.store (i32.const 84) (i32.const 0))
      (i32.store (i32.const 88) (i32.const 1)) (i32.store8 (i32.const 92) (local.get $value))
      (i32.store (i32.const 32) (i32.const 0)) (i32.store (i32.const 36) (i32.const 64))
      (i32.store (i32.const 40) (i32.const 29))
      (i32.const 32))
    (func (export "describe") (result i32)
      (i32.store8 (i32.const 32) (i32.const {commutative})) (i32.store (i32.const 36) (i32.const 1))
      (i32.store (i32.const 40) (i32.const 600)) (i32.store (i32.const 44) (i32.const 1))
      (i32.const 32))
    (func (export "fold") (param $f i32) (param i32) (param $g i32) (param i32) (result i32)
      (local $acc i32) (local $n i32) (local $last i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (local.set $n (i32.load offset=8 (local.get $f)))
      ;; Behind header, one group and its indices.
      (local.set $acc (i32.load8_u offset=32 (i32.add (local.get $g)
        (i32.mul (i32.load offset=12 (local.get $g)) (i32.const 4)))))
      ;; The id's place, in the last message's 56 bytes behind the header; its second character.
      (local.set $last (i32.load offset=32 (i32.add (local.get $f)
        (i32.mul (i32.sub (local.get $n) (i32.const 1)) (i32.const 56)))))
      (local.set $last (i32.sub (i32.load8_u offset=1 (i32.add (local.get $last)
        (i32.add (local.get $f) (i32.load offset=12 (local.get $f))))) (i32.const 48)))
      (call $answer {fold}))
    (func (export "merge") (param $b i32) (param i32) (result i32)
      (local $l i32) (local $r i32)
      (local.set $l (i32.load8_u offset=40 (i32.add (local.get $b) (i32.load offset=20 (local.get $b)))))
      (local.set $r (i32.load8_u offset=40 (i32.add (local.get $b) (i32.load offset=32 (local.get $b)))))
      (call $answer {merge}))
    (func (export "finish") (param $b i32) (param i32) (result i32)
      (call $answer (i32.add (i32.const 48)
        (i32.load8_u offset=28 (i32.add (local.get $b) (i32.load offset=20 (local.get $b))))))))
  (core instance $i (instantiate $m))
  (type $d' (record (field "commutative" bool) (field "state-version" u32) (field "initial" (list u8))))
  (import "wasmill:plugin/aggregate-types@0.1.0" (instance $types (export "description" (type (eq $d')))))
  (alias export $types "description" (type $description))
  (func $describe (result $description) (canon lift (core func $i "describe") (memory (core memory $i "memory"))))
  (func $fold (param "frame" (list u8)) (param "groups" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "fold") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func $merge (param "accumulators" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "merge") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func $finish (param "accumulators" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "finish") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $face (export "describe" (func $describe)) (export "fold" (func $fold))
    (export "merge" (func $merge)) (export "finish" (func $finish)))
  (export "wasmill:plugin/aggregate@0.1.0" (instance $face)))"#
    ))
}

/// Verifies a plugin over five messages. Answers the properties that failed.
fn failing(component: &[u8], arguments: &[&str]) -> (Vec<String>, Value) {
    let place = place(&[("p.wasm", component), ("in.jsonl", sample(5).as_bytes())]);
    let fixed = ["plugin", "verify", "p.wasm", "--sample", "in.jsonl", "--seed", "3", "--json"];
    let ran = wasmill(place.path(), &[&fixed[..], arguments].concat());
    let json = ran.json();
    let checks = json["checks"].as_array().expect("checks");
    let failed: Vec<String> = checks
        .iter()
        .filter(|c| c.get("difference").is_some())
        .map(|c| c["property"].as_str().expect("a name").to_owned())
        .collect();
    ran.exits(if failed.is_empty() { 0 } else { 5 });
    (failed, json)
}

#[test]
fn each_way_of_not_being_pure_is_found_and_no_other() {
    let none = Imports::default();
    let used = "(i32.gt_u (global.get $calls) (i32.const 1))";
    let several = "(i32.gt_u (i32.load offset=8 (local.get $p)) (i32.const 1))";
    let dice = "(i64.eqz (i64.and (call $dice) (i64.const 1)))";
    for (what, component, expected) in [
        ("a pure one", drops_if(&none, "(i32.const 0)"), &[][..]),
        ("a counter in the answer", drops_if(&none, used), &[REUSED, BATCHES_ON_ONE]),
        ("the batch's size in the answer", drops_if(&none, several), &[BATCHES, BATCHES_ON_ONE]),
        ("chance by the call, not by the message", drops_if(&WASI, dice), &[BATCHES, BATCHES_ON_ONE]),
        ("the wall clock", tells_the_time(), &[AGAIN, REUSED, BATCHES, BATCHES_ON_ONE, VERDICT]),
    ] {
        let (failed, json) = failing(&component, &["--grant", "wall-clock"]);
        assert_eq!(failed, expected, "{what}: {json:#}");
        let calls = json["checks"].as_array().expect("checks").iter().map(|c| &c["calls"]);
        assert!(calls.into_iter().all(|n| n.as_u64() > Some(0)), "{what}: {json:#}");
    }
}

#[test]
fn each_breach_of_the_law_is_found_and_no_other() {
    let (count, sum) =
        ("(i32.add (local.get $acc) (local.get $n))", "(i32.add (local.get $l) (local.get $r))");
    let last = "(local.get $last)";
    // What was last: the right one, unless it has seen nothing.
    let later = "(select (local.get $r) (local.get $l) (local.get $r))";
    let plus = |what: &str, if_: &str| format!("(i32.add {what} {if_})");
    let zero = "(i32.or (i32.eqz (local.get $l)) (i32.eqz (local.get $r)))";
    let right_is_more = "(i32.gt_u (local.get $r) (local.get $l))";
    for (what, component, expected) in [
        ("a count", aggregate(count, sum, true), &[][..]),
        ("the last one, where order matters", aggregate(last, later, false), &[]),
        ("the last one, which calls itself commutative", aggregate(last, later, true), &[ORDER]),
        (
            "counts calls",
            aggregate("(i32.add (local.get $acc) (i32.const 1))", sum, false),
            &[BATCHES, BATCHES_ON_ONE, MERGE, GROUPING],
        ),
        (
            "counts what its instance has seen",
            aggregate(&plus(count, "(i32.gt_u (global.get $calls) (i32.const 1))"), sum, false),
            &[REUSED, BATCHES_ON_ONE, MERGE, GROUPING],
        ),
        ("an initial that counts", aggregate(count, &plus(sum, zero), false), &[UNIT]),
        ("a merge that groups", aggregate(count, &plus(sum, right_is_more), false), &[GROUPING, UNIT]),
        ("a merge that forgets", aggregate(count, "(local.get $l)", false), &[MERGE, GROUPING, UNIT]),
    ] {
        let (failed, json) = failing(&component, &["--rounds", "0"]);
        assert_eq!(failed, expected, "{what}: {json:#}");
        let has_order = json["checks"].to_string().contains(ORDER);
        assert_eq!(
            has_order,
            what == "a count" || expected.contains(&ORDER),
            "{what}: asked for where it is claimed"
        );
    }
}

#[test]
fn the_first_difference_is_named_with_its_call_message_and_bytes() {
    let several =
        drops_if(&Imports::default(), "(i32.gt_u (i32.load offset=8 (local.get $p)) (i32.const 1))");
    let place = place(&[("p.wasm", &several), ("in.jsonl", sample(5).as_bytes())]);
    let ran = wasmill(place.path(), &["plugin", "verify", "p.wasm", "--sample", "in.jsonl", "--seed", "3"]);
    ran.exits(5).says(&[
        "plugin p, seed 3",
        "in.jsonl: 5 messages",
        "FAILED",
        "transform: other batches, a fresh instance for each",
        "call: 1 of 5, message 1\n",
        "message 1, id `m1`",
        "as one batch, on a fresh instance:\n    it is dropped\n",
        "here:\n    goes on: {\"id\":\"m1\",\"type\":\"t\",\"payload\":{}",
        "1 more properties failed",
        "3 of 5 properties hold",
    ]);
    let last = aggregate("(local.get $last)", "(local.get $l)", false);
    std::fs::write(place.path().join("p.wasm"), last).expect("written");
    let ran = wasmill(place.path(), &["plugin", "verify", "p.wasm", "--sample", "in.jsonl", "--seed", "3"]);
    ran.exits(5).says(&[
        "aggregate: merging parts gives what folding all gives",
        "call: parts of 1, folded each and merged from the left",
        "message 2, id `m2`",
        "messages 1 to 2 folded as one batch, on a fresh instance:\n    2\n",
        "here:\n    1\n",
    ]);
}

#[test]
fn without_messages_some_are_made_up_and_a_seed_repeats_them() {
    let keep = drops_if(&Imports::default(), "(i32.const 0)");
    let place = place(&[("p.wasm", &keep)]);
    let verify =
        |seed| wasmill(place.path(), &["plugin", "verify", "p.wasm", "--seed", seed, "--json"]).exits(0);
    let first = verify("7").out();
    assert_eq!(first, verify("7").out());
    assert!(first.contains("messages made up, of many shapes"), "{first}");
    wasmill(place.path(), &["plugin", "verify", "p.wasm"])
        .exits(0)
        .says(&["seed ", "5 of 5 properties hold"]);
    wasmill(place.path(), &["plugin", "verify", "p.wasm", "--messages", "0"]).exits(2);
}

const CASES: &str = "\
cases:
  - name: the first one goes
    input: [{ id: m1, type: t, payload: {} }, { id: m2, type: t, payload: {} }]
    expect: [{ id: m1 }, { id: m2 }]
";

/// `$get (at, length, answer)`: of a value of the config, where its first byte tells whether there is one.
const CONFIG: Imports = Imports {
    declared: r#"(import "wasmill:plugin/config@0.1.0" (instance $config
      (export "get" (func (param "key" string) (result (option string))))))"#,
    lowered: r#"(core func $get (canon lower (func $config "get")
      (memory (core memory $env "memory")) (realloc (core func $env "realloc"))))"#,
    given: r#"(export "get" (func $get))"#,
    core: r#"(import "host" "get" (func $get (param i32 i32 i32)))"#,
};

const PIPELINE: &str = "\
name: p
source: { file: { path: in.jsonl } }
stages:
  - transform: { plugin: own, config: CONFIG }
sink: { file: { path: out } }
";

#[test]
fn a_plugin_that_fails_its_own_case_is_refused_at_its_place_in_the_spec() {
    // It drops the first message of a call where the config has an `n`; the frame comes before what the config gives.
    let condition = "(block (result i32)
      (call $get (i32.const 288) (i32.const 1) (i32.const 800)) (i32.load8_u (i32.const 800)))";
    let component = drops_if(&CONFIG, condition);
    let place = place(&[
        ("bare.wasm", &component),
        ("cases.yaml", CASES.as_bytes()),
        ("in.jsonl", sample(2).as_bytes()),
        ("right.yaml", PIPELINE.replace("CONFIG", "{}").as_bytes()),
        ("wrong.yaml", PIPELINE.replace("CONFIG", "{ n: 1 }").as_bytes()),
    ]);
    std::fs::create_dir(place.path().join("plugins")).expect("a folder");
    let run = |args: &[&str]| wasmill(place.path(), args);
    run(&["plugin", "embed", "bare.wasm", "cases.yaml", "-o", "plugins/own.wasm"])
        .exits(0)
        .says(&["1 cases"]);
    run(&["plugin", "embed", "plugins/own.wasm", "cases.yaml", "-o", "x.wasm"]).exits(3).says(&["already"]);
    run(&["plugin", "inspect", "plugins/own.wasm"]).exits(0).says(&["cases", "run before it is taken in"]);
    run(&["plugin", "verify", "plugins/own.wasm"]).exits(0).says(&["its own case: the first one goes"]);

    for command in ["check", "run"] {
        run(&[command, "wrong.yaml"]).exits(3).says(&[
            "the plugin `own` fails its own test case `the first one goes`",
            "wrong.yaml:4:",
            "this plugin",
            "-      \"id\": \"m1\"",
        ]);
    }
    assert_eq!(notes(place.path()), 0, "nothing passed yet");
    run(&["check", "right.yaml"]).exits(0);
    assert_eq!(notes(place.path()), 1, "that it passed is remembered");
    run(&["run", "right.yaml"]).exits(0);
    run(&["check", "wrong.yaml"]).exits(3);
    assert_eq!(notes(place.path()), 1, "with this config alone");

    // A case's own config is stronger than the stage's.
    let own = CASES.replace("cases:", "config: {}\ncases:");
    std::fs::write(place.path().join("cases.yaml"), own).expect("written");
    run(&["plugin", "embed", "bare.wasm", "cases.yaml", "-o", "plugins/own.wasm"]).exits(0);
    run(&["check", "wrong.yaml"]).exits(0);
}

/// How many notes of cases that passed are in the compile cache.
fn notes(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder.join("cache/wasmill")).expect("the cache");
    files.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "note")).count()
}

#[test]
fn cases_that_cannot_be_read_are_refused_before_the_pipeline_starts() {
    let keep = drops_if(&Imports::default(), "(i32.const 0)");
    let line = r#"{"name":"one","input":[{"id":"1","type":"a","payload":{}}],"expect":[{"id":"1"}]}"#;
    let place = place(&[
        ("bare.wasm", &keep),
        ("cases.jsonl", format!("{line}\n{line}\n").as_bytes()),
        ("many.jsonl", format!("{line}\n").repeat(257).as_bytes()),
        ("wrong.yaml", b"cases: [{ name: x }]"),
        ("in.jsonl", sample(2).as_bytes()),
        ("p.yaml", PIPELINE.replace("CONFIG", "{}").as_bytes()),
    ]);
    std::fs::create_dir(place.path().join("plugins")).expect("a folder");
    let run = |args: &[&str]| wasmill(place.path(), args);
    let embed = |cases| run(&["plugin", "embed", "bare.wasm", cases, "-o", "plugins/own.wasm"]);
    embed("cases.jsonl").exits(0).says(&["2 cases"]);
    run(&["check", "p.yaml"]).exits(0);
    embed("many.jsonl").exits(2).says(&["there are 257", "may carry 256"]);
    embed("wrong.yaml").exits(2).says(&["input"]);
    // As a hand that knows nothing of `embed` writes it.
    let mut component = keep.clone();
    let (name, text) = (b"wasmill:cases", b"cases: [{ name: x }]");
    component.extend([0, (1 + name.len() + text.len()) as u8, name.len() as u8]);
    component.extend_from_slice(name);
    component.extend_from_slice(text);
    std::fs::write(place.path().join("plugins/own.wasm"), component).expect("written");
    run(&["check", "p.yaml"]).exits(3).says(&["carries test cases that can't be read", "input"]);
}
