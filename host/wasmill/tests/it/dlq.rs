//! `wasmill dlq`, as people call it: what it shows of dead letters, what it copies, what it refuses.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ran::Ran;

const SPEC: &str = "\
name: orders
source: { file: { path: in.jsonl } }
data_dir: data
stages:
  - transform: enrich
sink: { file: { path: out } }
";
const DEAD: &str = "dead_letter: { file: { path: dead } }\n";
const REPLAY: &str = "replay: { log: { path: replay } }\n";

/// A folder with a pipeline, whose dead letters are made here.
struct Bench(TempDir);

impl Bench {
    fn new(spec: &str) -> Self {
        let bench = Self(tempfile::tempdir().expect("a folder"));
        bench.file("orders.yaml", spec);
        bench.file("in.jsonl", "");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// Finishes a file of dead letters.
    fn dead(&self, nth: u32, letters: &[Value]) {
        let text: String = letters.iter().map(|l| format!("{l}\n")).collect();
        self.file(&format!("dead/part-{nth:06}.jsonl"), text);
    }

    fn dlq(&self, args: &[&str]) -> Ran {
        let (command, rest) = args.split_first().expect("a command");
        let output = Command::new(env!("CARGO_BIN_EXE_wasmill"))
            .args(["dlq", command, "orders.yaml"])
            .args(rest)
            .current_dir(self.0.path())
            .env_clear()
            .env("XDG_CACHE_HOME", self.path("cache"))
            .output()
            .expect("wasmill runs");
        Ran(output)
    }

    /// How many letters a replay copies.
    fn copied(&self, args: &[&str]) -> u64 {
        let all: Vec<&str> = ["replay", "--json"].iter().chain(args).copied().collect();
        self.dlq(&all).exits(0).json()["copied"].as_u64().expect("a number")
    }

    fn lines(&self, args: &[&str]) -> Vec<Value> {
        let all: Vec<&str> = ["list", "--json"].iter().chain(args).copied().collect();
        let out = self.dlq(&all).exits(0).out();
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// The dead letter of message `n`, with other fields in its payload.
fn letter(n: u64, with: Value) -> Value {
    let mut payload = json!({
        "reason": format!("the plugin panicked: order {n} has no price"),
        "kind": "trap",
        "stage": "enrich",
        "plugin": { "name": "enrich", "version": "1.0.0", "digest": "ab" },
        "attempts": 2,
        "source": 0,
        "partition": "in.jsonl",
        "offset": n * 100,
        "time": 1_700_000_000_000_u64 + n,
        "original": { "value": format!("{{\"id\":\"{n}\"}}") },
        "message": { "id": n.to_string(), "type": "order", "payload": { "n": n }, "metadata": {} },
    });
    for (name, value) in with.as_object().expect("fields") {
        match value {
            Value::Null => payload.as_object_mut().expect("an object").remove(name),
            value => payload.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
        };
    }
    json!({ "id": n.to_string(), "type": "wasmill.dead_letter", "payload": payload, "metadata": {} })
}

fn letters(numbers: std::ops::Range<u64>) -> Vec<Value> {
    numbers.map(|n| letter(n, json!({}))).collect()
}

#[test]
fn letters_are_listed_shown_and_counted() {
    let bench = Bench::new(&format!("{SPEC}{DEAD}{REPLAY}"));
    bench.dlq(&["list"]).exits(0).says(&["orders: no dead letters"]);
    bench.dlq(&["stats"]).exits(0).says(&["orders: no dead letters"]);
    bench.dead(1, &letters(0..3));
    bench.dead(
        2,
        &[letter(
            3,
            json!({ "kind": "error", "stage": "key_by", "plugin": null, "reason": "it has\n2 lines" }),
        )],
    );
    bench.dlq(&["list"]).exits(0).says(&[
        "id ",
        "waiting",
        "enrich@1.0.0",
        "2023-11-14T22:13:20.001Z",
        "the plugin panicked: order 1 has no price",
        "it has…",
    ]);
    let all = bench.lines(&[]);
    assert_eq!(all.len(), 4);
    assert_eq!((&all[0]["state"], &all[0]["kind"]), (&json!("waiting"), &json!("trap")));
    assert!(all[3]["place"].as_str().expect("a place").contains("part-000002.jsonl"), "{}", all[3]);

    let id = all[1]["id"].as_str().expect("an id").to_owned();
    bench.dlq(&["show", &id[..6]]).exits(0).says(&[
        &id,
        "state      waiting",
        "in.jsonl, offset 100",
        "enrich@1.0.0, digest ab",
        "\"type\": \"order\"",
        "original",
    ]);
    let shown = bench.dlq(&["show", "--json", &id]).exits(0).json();
    assert_eq!(shown["letter"], letters(1..2)[0]);
    bench.dlq(&["show", "no-id"]).exits(2).says(&["`no-id` is no id"]);
    bench
        .dlq(&["show", "00000000000000000000000000000000"])
        .exits(2)
        .says(&["no dead letter whose id begins"]);

    bench.dlq(&["stats"]).exits(0).says(&[
        "orders: 4 dead letters",
        "4 waiting",
        "3  enrich@1.0.0",
        "3  the plugin panicked: order # has no price",
        "1  key_by",
        "oldest 2023-11-14T22:13:20.000Z",
    ]);
    let stats = bench.dlq(&["stats", "--json"]).exits(0).json();
    assert_eq!(stats["stats"]["kinds"], json!({ "error": 1, "trap": 3 }));
    bench.dlq(&["list", "--limit", "2"]).exits(0).says(&["there are more than 2"]);
}

#[test]
fn conditions_choose_and_wrong_ones_are_shown_with_their_place() {
    let bench = Bench::new(&format!("{SPEC}{DEAD}{REPLAY}"));
    bench.dead(1, &[letters(0..5), vec![letter(9, json!({ "kind": "error" }))]].concat());
    assert_eq!(bench.lines(&["--where", "payload.kind == 'trap' && payload.offset >= 300"]).len(), 2);
    assert_eq!(bench.lines(&["--where", "payload.message.payload.n == 9"]).len(), 1);
    bench.dlq(&["list", "--where", "payload.kind == 'fuel'"]).exits(0).says(&["for which that holds"]);
    bench.dlq(&["stats", "--where", "payload.kind = 'trap'"]).exits(2).says(&[
        "this `--where` is no condition",
        "--where:1:14",
        "did you mean `==`?",
        "such as `payload.kind == 'trap'",
    ]);
}

#[test]
fn what_is_missing_in_the_spec_is_told_with_the_lines_to_add() {
    let bench = Bench::new(SPEC);
    for command in ["list", "stats", "replay"] {
        bench
            .dlq(&[command])
            .exits(2)
            .says(&["has no `dead_letter`", "dead_letter: { file: { path: dead-letters } }"]);
    }
    let bench = Bench::new(&format!("{SPEC}{DEAD}"));
    bench.dead(1, &letters(0..1));
    assert_eq!(bench.lines(&[])[0]["state"], "waiting");
    bench.dlq(&["replay"]).exits(2).says(&[
        "has no `replay`",
        "replay: { log: { path: replay } }",
        "orders.yaml",
    ]);
    let bench = Bench::new(&format!("{SPEC}dead_letter: stdout\n{REPLAY}"));
    bench.dlq(&["stats"]).exits(4).says(&["can't be read back", "`dead_letter`"]);
}

#[test]
fn each_letter_is_copied_once_whoever_asks_and_however_often() {
    let bench = Bench::new(&format!("{SPEC}{DEAD}{REPLAY}"));
    // A sink that is at least once has written the first file's end again, for another reason.
    let again = letter(4, json!({ "reason": "again", "attempts": 3 }));
    bench.dead(1, &letters(0..5));
    bench.dead(2, &[vec![again], letters(5..8)].concat());
    assert_eq!(bench.copied(&["--dry-run"]), 8);
    assert!(!bench.path("replay").exists(), "a dry run makes nothing");
    assert_eq!(bench.copied(&["--where", "payload.offset == 200"]), 1);
    assert_eq!(bench.copied(&["--limit", "2"]), 2);
    let states = |of: &str| bench.lines(&[]).iter().filter(|l| l["state"] == of).count();
    assert_eq!((states("replayed"), states("waiting")), (3, 6));
    bench.dlq(&["replay"]).exits(0).says(&[
        "orders: 5 dead letters copied to be replayed",
        "4 more were there already: nothing is copied twice",
    ]);
    assert_eq!(bench.copied(&[]), 0);
    // A letter that failed again when it was replayed is another one.
    bench.dead(3, &[letter(2, json!({ "replay": { "source": 1, "partition": "replay", "offset": 0 } }))]);
    assert_eq!(bench.copied(&[]), 1);
    assert_eq!(states("waiting"), 0);
}

#[test]
fn what_cant_be_replayed_is_told_and_left() {
    let bench = Bench::new(&format!("{SPEC}{DEAD}{REPLAY}"));
    bench.dead(
        1,
        &[
            letter(0, json!({})),
            letter(1, json!({ "start": 0, "end": 10, "message": null, "original": null })),
            letter(2, json!({ "cut": true, "message": null })),
            letter(3, json!({ "kind": "refused", "stage": "sink", "sink": "out", "message": null, "output": "x" })),
            letter(4, json!({ "stage": "mask" })),
            letter(5, json!({ "stage": "source", "kind": "decode", "message": null })),
            letter(6, json!({ "stage": "source", "kind": "decode", "message": null, "original": { "value": "x", "cut": true } })),
            json!({ "id": "x", "type": "order", "payload": {} }),
        ],
    );
    bench.dlq(&["replay"]).exits(0).says(&[
        "2 dead letters copied",
        "5 more can't be replayed",
        "2  it was cut short",
        "1  it is a window's result",
        "1  a sink's other end refused",
        "1  the pipeline has no stage `mask`",
        "one record is no dead letter and is passed over",
        "it is of type `order`",
    ]);
    let id = bench.lines(&["--where", "payload.cut"])[0]["id"].as_str().expect("an id").to_owned();
    bench.dlq(&["show", &id]).exits(0).says(&["not possible: it was cut short"]);
}

/// A guest program, or a plugin, that was built before the tests.
fn built(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_wasmill")).ancestors().nth(2).expect("the target folder");
    let places = ["plugins", "programs"].map(|folder| target.join(folder).join(format!("{name}.wasm")));
    let found = places.iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built: run scripts/build-plugins.sh")).clone()
}

#[test]
fn a_plugin_is_tried_first_and_must_be_in_its_place() {
    let bench = Bench::new(&format!("{SPEC}{DEAD}{REPLAY}"));
    let boom = |n: u64| {
        let message =
            json!({ "id": n.to_string(), "type": "order", "payload": { "boom": true }, "metadata": {} });
        letter(n, json!({ "message": message }))
    };
    let mut all: Vec<Value> = (0..3).map(boom).collect();
    all.push(letter(3, json!({})));
    all.push(letter(4, json!({ "stage": "key_by", "kind": "key" })));
    bench.dead(1, &all);
    std::fs::create_dir(bench.path("plugins")).expect("a folder");
    let put = |from: &str, to: &str| {
        std::fs::create_dir_all(bench.path(to).parent().expect("a parent")).expect("a folder");
        std::fs::copy(built(from), bench.path(to)).expect("copied");
    };
    // The broken one panics at `boom`, and so it does here.
    put("panics-on", "plugins/enrich.wasm");
    bench.dlq(&["replay", "--plugin", "plugins/enrich.wasm", "--dry-run"]).exits(0).says(&[
        "1 dead letter would be copied",
        "1 more failed elsewhere",
        "3 more the plugin doesn't take either",
        "boom in message",
    ]);
    put("seed-job", "fixed/enrich.wasm");
    bench.dlq(&["replay", "--plugin", "fixed/enrich.wasm"]).exits(2).says(&[
        "fixed/enrich.wasm is not what `orders` runs as its stage `enrich`",
        "Put it there, start the pipeline again",
    ]);
    bench
        .dlq(&["replay", "--plugin", "fixed/enrich.wasm", "--dry-run"])
        .exits(0)
        .says(&["4 dead letters would be"]);
    assert!(!bench.path("replay").exists(), "nothing was copied");
    put("seed-job", "plugins/enrich.wasm");
    assert_eq!(bench.copied(&["--plugin", "fixed/enrich.wasm"]), 4);
    // A filter is no transform.
    put("drop-ignored", "other/enrich.wasm");
    bench.dlq(&["replay", "--dry-run", "--plugin", "other/enrich.wasm"]).exits(3).says(&["is no transform"]);
}
