//! The built binary, as people call it: exit codes and what is shown.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::ran::Ran;

/// A folder with files, and wasmill run in it with a clean environment.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
        self
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }

    fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_wasmill"))
            .args(args)
            .current_dir(self.0.path())
            .env_clear()
            .env("XDG_CACHE_HOME", self.0.path().join("cache"))
            .envs(environment.iter().copied())
            .output()
            .expect("wasmill runs");
        Ran(output)
    }
}

/// A filter that answers `edits` edits: none, or one that drops the first message of every call.
fn filter(drops_first: bool) -> Vec<u8> {
    plugin("filter", i32::from(drops_first))
}

fn plugin(interface: &str, edits: i32) -> Vec<u8> {
    let text = format!(
        r#"(component
          (core module $m
            (memory (export "memory") 4)
            (global $next (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
              (local $at i32)
              (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
              (global.set $next (i32.add (local.get $at) (local.get 3)))
              (local.get $at))
            (func (export "process") (param $frame i32) (param $len i32) (result i32)
              (i32.store (i32.const 64) (i32.const 0x31454D57))          ;; WME1
              (i32.store (i32.const 68) (i32.const 1))                   ;; version
              (i32.store (i32.const 72) (i32.const {edits}))
              (i32.store (i32.const 76) (i32.load offset=8 (local.get $frame)))
              (i32.store (i32.const 80) (i32.const 1))                   ;; drop, of message 0
              (i32.store (i32.const 84) (i32.const 0))
              (i32.store (i32.const 88) (i32.const 0))
              (i32.store (i32.const 16) (i32.const 0))                   ;; ok
              (i32.store (i32.const 20) (i32.const 64))
              (i32.store (i32.const 24) (i32.const {length}))
              (i32.const 16)))
          (core instance $i (instantiate $m))
          (type $process (func (param "frame" (list u8)) (result (result (list u8) (error string)))))
          (func $process (type $process)
            (canon lift (core func $i "process") (memory (core memory $i "memory"))
              (realloc (core func $i "cabi_realloc"))))
          (instance $exports (export "process" (func $process)))
          (export "wasmill:plugin/{interface}@0.1.0" (instance $exports)))"#,
        length = 16 + 12 * edits,
    );
    wat::parse_str(text).expect("a component")
}

const PIPELINE: &str = "\
name: p
source: { file: { path: in.jsonl } }
data_dir: data
stages:
  - filter: pass
sink: { file: { path: out } }
";

const MESSAGE: &str = "{\"id\":\"1\",\"type\":\"t\",\"payload\":{}}\n";

fn bench() -> Bench {
    Bench::new().file("p.yaml", PIPELINE).file("in.jsonl", MESSAGE).file("plugins/pass.wasm", filter(false))
}

#[test]
fn help_tells_commands_variables_and_exit_codes() {
    Bench::new().run(&["--help"]).exits(0).says(&[
        "run",
        "explain",
        "Examples:",
        "WASMILL_EPOCH__INTERVAL=1s",
        "Exit codes:",
        "5  test cases failed",
    ]);
    Bench::new().run(&[]).exits(2);
    Bench::new().run(&["runn", "p.yaml"]).exits(2).says(&["'run'"]);
}

#[test]
fn a_right_pipeline_passes_its_check() {
    bench().run(&["check", "p.yaml"]).exits(0).says(&["p.yaml: ok"]);
    let ran = bench().run(&["check", "p.yaml", "--json"]).exits(0);
    assert_eq!(ran.json()[0]["ok"], true);
}

#[test]
fn each_kind_of_mistake_has_its_exit_code_and_its_place() {
    let wrong = |from: &str, to: &str| {
        assert!(PIPELINE.contains(from), "{from}");
        bench().file("p.yaml", PIPELINE.replace(from, to)).run(&["check", "p.yaml"])
    };
    wrong("data_dir", "data_dri").exits(2).says(&["p.yaml:3:1", "did you mean `data_dir`?"]);
    wrong("filter: pass", "filter: paas").exits(3).says(&["p.yaml:5:13", "did you mean `pass`?"]);
    wrong("filter: pass", "transform: pass").exits(3).says(&[
        "p.yaml:5:16",
        "is no transform",
        "exports filter",
    ]);
    wrong("in.jsonl", "nowhere.jsonl").exits(4).says(&["p.yaml:2:9", "can't be reached", "nowhere.jsonl"]);
    bench().file("plugins/pass.wasm", b"\0asm nonsense").run(&["check", "p.yaml"]).exits(3).says(&["pass"]);
    bench().run(&["check", "missing.yaml"]).exits(2).says(&["missing.yaml"]);
}

#[test]
fn options_beat_the_environment_and_the_environment_the_file() {
    let workers = |args: &[&str], environment: &[(&str, &str)]| {
        let args: Vec<&str> = ["explain", "p.yaml", "--json"].iter().chain(args).copied().collect();
        bench().run_with(&args, environment).exits(0).json()["workers"].as_u64()
    };
    assert_eq!(workers(&[], &[("WORKER_COUNT", "3")]), Some(3));
    assert_eq!(workers(&["--workers", "5"], &[("WORKER_COUNT", "3"), ("WASMILL_WORKERS", "4")]), Some(5));
    let shown = bench().run_with(&["explain", "p.yaml"], &[("WASMILL_WORKRES", "3")]).exits(2);
    shown.says(&["WASMILL_WORKRES=3", "did you mean `workers`?"]);
}

#[test]
fn a_promise_that_a_route_cannot_keep_is_refused_with_the_reason() {
    let strict = format!("{PIPELINE}delivery: exactly_once\n");
    let asks = |text: &str| bench().file("p.yaml", text).run(&["check", "p.yaml"]);
    asks(&strict).exits(0);
    asks(&strict.replace("data_dir: data\n", "")).exits(2).says(&[
        "exactly-once is not possible from file to file",
        "this route is at-least-once",
        "`data_dir`",
    ]);
    asks(&strict.replace("file: { path: out }", "stdout: {}"))
        .exits(2)
        .says(&["from file to stdout", "a crash before their commit writes them again"]);
    asks(&strict.replace("source: { file: { path: in.jsonl } }", "source: { stdin: {} }"))
        .exits(2)
        .says(&["at-most-once", "is gone"]);
}

#[test]
fn explain_tells_stages_guarantees_and_what_keeps_a_replay_from_being_the_same() {
    let text = "\
name: p
source: { file: { path: in.jsonl } }
stages:
  - transform: { plugin: enrich, grants: [wall-clock] }
  - key_by: payload.carrier
  - window: { tumbling: 1h, allowed_lateness: 30h, late: dead_letter }
    aggregate: delay-stats
sink: { stdout: {} }
";
    let ran = bench().file("p.yaml", text).run(&["explain", "p.yaml"]).exits(0);
    ran.says(&[
        "transform enrich",
        "granted wall-clock",
        "128 key groups",
        "tumbling windows of 1h, allowed lateness 1d6h, late messages are dead letters",
        "file → stdout: at-least-once",
        "results may differ in a replay: the stage `enrich` is granted the wall clock",
        "no dead_letter",
    ]);
    let json = bench().file("p.yaml", text).run(&["explain", "p.yaml", "--json"]).exits(0).json();
    assert_eq!(json["replayable"], false);
    assert_eq!(json["routes"][0]["guarantee"], "at_least_once");
}

#[test]
fn inspect_shows_what_a_plugin_exports() {
    bench().run(&["plugin", "inspect", "plugins/pass.wasm"]).exits(0).says(&[
        "plugin pass",
        "kinds",
        "filter",
    ]);
    let json = bench().run(&["plugin", "inspect", "plugins/pass.wasm", "--json"]).exits(0).json();
    assert_eq!((&json["kinds"]["filter"], &json["kinds"]["transform"]), (&true.into(), &false.into()));
    bench().run(&["plugin", "inspect", "p.yaml"]).exits(3);
}

const CASES: &str = "\
cases:
  - name: all pass
    input:
      - { id: \"1\", type: a, payload: {} }
      - { id: \"2\", type: b, payload: { x: 1 } }
    expect:
      - { id: \"1\" }
      - { id: \"2\", payload: { x: 1 } }
";

#[test]
fn cases_pass_and_fail_with_a_difference() {
    let test = |wasm: Vec<u8>, cases: &str| {
        Bench::new().file("f.wasm", wasm).file("cases.yaml", cases).run(&["test", "f.wasm", "cases.yaml"])
    };
    test(filter(false), CASES).exits(0).says(&["ok     all pass", "1 of 1 cases passed"]);
    let other = CASES.replace("{ id: \"2\", payload: { x: 1 } }", "{ id: \"2\", payload: { x: 2 } }");
    test(filter(false), &other).exits(5).says(&["FAILED all pass", "--- expected", "+++ came", "\"x\": 2"]);
    // It drops the first of each call: right for one batch is wrong message by message.
    let first = CASES.replace("      - { id: \"1\" }\n", "");
    test(filter(true), &first).exits(5).says(&["message by message, it answers something else"]);
    test(filter(false), &CASES.replace("expect:", "expcet:")).exits(2).says(&["did you mean `expect`?"]);
    test(filter(false), &CASES.replace("all pass", "x\n    kind: transform"))
        .exits(5)
        .says(&["exports filter"]);
}

#[test]
fn cases_may_stand_one_a_line() {
    let line = r#"{"name":"one","input":[{"id":"1","type":"a","payload":{}}],"expect":[{"id":"1"}]}"#;
    let bench = Bench::new().file("f.wasm", filter(false)).file("c.jsonl", format!("{line}\n\n{line}\n"));
    let json = bench.run(&["test", "f.wasm", "c.jsonl", "--json"]).exits(0).json();
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    bench.run(&["test", "--format"]).exits(0).says(&["key_by", "values:"]);
}

#[test]
fn connectors_and_schema_come_from_the_table() {
    let shown = Bench::new().run(&["connectors"]).exits(0);
    shown.says(&["source file", "source stdin", "sink stdout", "path"]);
    let json = Bench::new().run(&["connectors", "--json"]).exits(0).json();
    assert!(json.as_array().is_some_and(|c| c.iter().all(|c| c["about"] != "")), "{json}");
    let schema = Bench::new().run(&["schema"]).exits(0).json();
    assert_eq!(schema["title"], "wasmill pipeline");
}

#[test]
fn reset_asks_and_where_nobody_can_be_asked_does_nothing() {
    bench().run(&["reset", "p.yaml"]).exits(2).says(&["--yes"]);
}

#[test]
fn a_wrong_log_filter_is_named() {
    bench().run(&["--log", "loud=very", "check", "p.yaml"]).exits(2).says(&["--log", "loud=very"]);
}

#[test]
fn two_pipelines_of_one_name_are_refused() {
    let again = bench().file("q.yaml", PIPELINE);
    assert!(Path::new(&again.path("q.yaml")).exists());
    again.run(&["run", "p.yaml", "q.yaml"]).exits(2).says(&["are both named `p`"]);
}
