//! `wasmill state`: looked at while the pipeline runs, moved, brought into other key groups, and gone on
//! from; and state of an older day, as it was stored then.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wasmill_tests::Place;
use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::{assert_same, finished_lines, sorted};
use wasmill_tests::process::Wasmill;

const MESSAGES: usize = 200_000;

const SPEC: &str = "\
name: moved
source: { file: { path: input.jsonl } }
data_dir: data
workers: 1
epoch: { interval: 1ms, bytes: 4KiB }
stages:
  - key_by: payload.user
  - transform: { plugin: stateful, grants: [state] }
  - aggregate: count-types
    name: counts
    window: { tumbling: 10s, allowed_lateness: 10s }
sink: { file: { path: out } }
";

/// Messages that are the same for ever: the fixtures' positions are in them.
fn input(messages: usize) -> String {
    let line = |n: usize| {
        let (user, kind) = (n * 7 % 50, n % 3);
        format!(
            "{{\"id\":\"{n}\",\"type\":\"t{kind}\",\"payload\":{{\"user\":\"u{user}\"}},\"timestamp\":{}}}\n",
            1_357_000_000_000 + n as i64 * 10
        )
    };
    (0..messages).map(line).collect()
}

fn place() -> Place {
    let place = Place::with_plugins(&["stateful", "count-types"]);
    place.file("pipeline.yaml", SPEC).file("input.jsonl", input(MESSAGES));
    place
}

fn state(place: &Place, args: &[&str]) -> Wasmill {
    let (command, rest) = args.split_first().expect("a command");
    place.wasmill(["state", command, "pipeline.yaml"].into_iter().chain(rest.iter().copied()))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What comes out of the pipeline when nothing happens to it.
fn expected() -> Vec<String> {
    let place = place();
    place.pipeline().run().exits(0);
    sorted(finished_lines(&place.path("out")))
}

/// Kills a run half-way; answers the number of messages that are in its state.
fn half_way(place: &Place) -> u64 {
    let address = free_address();
    let mut running = place.pipeline().env("WASMILL_HTTP", address).start();
    let mut read = 0;
    running.until("some is committed", || {
        let page = get(address, "/state/moved/stats").filter(|page| page.status == 200);
        // Before the first message there is a commit that counts nothing.
        read = page.map_or(0, |page| json(&page.body)["counts"]["read"].as_u64().unwrap_or(0));
        read > 5_000
    });
    let (killed, _) = running.kill();
    assert!(killed, "it ended before it was killed: give it more messages");
    read
}

#[test]
fn a_running_pipeline_shows_its_state_and_lets_nobody_change_it() {
    let place = Place::with_plugins(&["stateful", "count-types"]);
    // Stdin stays open, so the run goes on behind the file's end, with its windows open.
    let spec = SPEC
        .replace(
            "source: { file: { path: input.jsonl } }",
            "sources: [ { file: { path: input.jsonl } }, stdin ]",
        )
        .replace("tumbling: 10s", "tumbling: 1h")
        .replace("data_dir: data\n", "data_dir: data\ntime: { idle_timeout: 50ms }\n");
    place.file("pipeline.yaml", spec).file("input.jsonl", input(1_000));
    let address = free_address();
    let mut running = place.pipeline().env("WASMILL_HTTP", address).stdin_open().start();
    let page = |path: &str| get(address, &format!("/state/moved/{path}")).filter(|page| page.status == 200);
    running.until("all of it is committed", || {
        page("stats").is_some_and(|page| json(&page.body)["counts"]["read"] == 1_000)
    });
    let state = |args: &[&str]| state(&place, args).env("WASMILL_HTTP", address).run();
    state(&["stats"]).exits(0).says(&["from the running pipeline at", "stateful", "100 entries"]);
    let one = json(&state(&["get", "stateful", "u7", "--name", "count", "--json"]).exits(0).stdout);
    assert_eq!(one["text"], "20", "{one}");
    state(&["list", "--stage", "stateful", "--limit", "3"])
        .exits(0)
        .says(&["u22  count  2 bytes", "go on with --after"]);
    let told = "is in use by a running wasmill: stop the pipeline, then run `wasmill state";
    state(&["rehash"]).exits(4).says(&[told]);
    place.wasmill(["state", "import", "pipeline.yaml", "input.jsonl"]).run().exits(4).says(&[told]);
    place
        .wasmill(["state", "list", "pipeline.yaml"])
        .run()
        .exits(4)
        .says(&["has no HTTP pages that could be asked"]);
    for (path, status) in [
        ("/state/moved/nothing", 404),
        ("/state/another/stats", 404),
        ("/state/moved/entries?limit=x", 400),
        ("/state/moved/entries?stages=x", 400),
        ("/state/moved/entries?stage=nobody", 404),
        ("/state/moved/entry?stage=stateful", 400),
    ] {
        assert_eq!(get(address, path).expect("an answer").status, status, "{path}");
    }
    // An export is of one commit, and the same as that of the store by itself.
    let exported = state(&["export"]).exits(0).stdout;
    running.kill();
    assert_eq!(place.wasmill(["state", "export", "pipeline.yaml"]).run().exits(0).stdout, exported);
}

#[test]
fn state_is_moved_rehashed_and_gone_on_from() {
    let place = place();
    state(&place, &["list"]).run().exits(4).says(&["there is no state in ./data/moved/state"]);
    let read = half_way(&place);

    let stats = json(&state(&place, &["stats", "--json"]).run().exits(0).stdout)["stats"].take();
    assert!(stats["counts"]["read"].as_u64().expect("a count") >= read);
    assert_eq!(stats["key_groups"], 128);
    let offset = stats["positions"]["0/0"]["offset"].as_u64().expect("an offset");
    assert!(offset > 0, "{stats}");
    let list =
        state(&place, &["list", "--stage", "stateful", "--key-prefix", "u7", "--limit", "9", "--json"]);
    let names: Vec<Value> = list.run().exits(0).stdout.lines().map(|l| json(l)["name"].take()).collect();
    assert_eq!(names, ["count", "last_batch"]);
    state(&place, &["get", "stateful", "u7"]).run().exits(4).says(&["--name count, --name last_batch"]);
    state(&place, &["get", "nobody", "u7"]).run().exits(4).says(&["`stateful`, `counts`"]);
    let window = state(&place, &["list", "--stage", "counts", "--limit", "1", "--json"]).run().exits(0);
    let window = json(&window.stdout);
    let (key, start) = (window["key"].as_str().expect("a key"), window["start"].to_string());
    let found = state(&place, &["get", "counts", key, "--window", &start, "--json"]).run().exits(0);
    assert!(json(&found.stdout)["finished"].is_u64(), "{}", found.stdout);

    // A page behind the other has every entry once.
    let all: Vec<String> = state(&place, &["list", "--limit", "100000", "--json"])
        .run()
        .exits(0)
        .stdout
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(all.len() as u64, stats["entries"].as_u64().expect("a sum"));

    state(&place, &["export", "--output", "a.jsonl"]).run().exits(0);
    state(&place, &["export", "--output", "a.jsonl"]).run().exits(4).says(&["can't write a.jsonl"]);
    let exported = place.text("a.jsonl");
    assert_eq!(exported.lines().count(), all.len() + 2);
    // Into other groups, and back: to the byte what it was.
    let rehash = |groups: &str| state(&place, &["rehash"]).env("WASMILL_KEY_GROUPS", groups).run();
    rehash("128").exits(0).says(&["is in 128 key groups already"]);
    place
        .pipeline()
        .env("WASMILL_KEY_GROUPS", 7)
        .run()
        .exits(4)
        .says(&["`key_groups` is 7, and was 128", "Run `wasmill state rehash`"]);
    rehash("7").exits(0).says(&["entries are in 7 key groups now"]);
    let seven = state(&place, &["export"]).run().exits(0).stdout;
    assert_ne!(seven, exported);
    rehash("128").exits(0);
    assert_eq!(state(&place, &["export"]).run().exits(0).stdout, exported);
    rehash("7").exits(0);

    // Into another data directory, with two workers, and to the end.
    place.file("seven.jsonl", &seven);
    let import = |file: &str, data: &str, groups: &str| {
        let import = place.wasmill(["state", "import", "pipeline.yaml", file]);
        import.env("WASMILL_KEY_GROUPS", groups).env("DATA_DIR", place.path(data).display()).run()
    };
    import("seven.jsonl", "data", "7").exits(4).says(&["has state already", "`wasmill state reset`"]);
    import("seven.jsonl", "other", "128").exits(4).says(&["`key_groups` is 128, and was 7"]);
    let lines: Vec<&str> = seven.split_inclusive('\n').collect();
    let spoiled = [
        ("cut off behind line", lines[..lines.len() - 1].concat()),
        ("cut off behind line", seven[..seven.len() / 2].to_owned()),
        ("cut off behind line 0", String::new()),
        ("it is damaged", [&lines[..2], &lines[3..]].concat().concat()),
        ("it is of format 2", seven.replacen("\"wasmill_state\":1", "\"wasmill_state\":2", 1)),
        ("is not the header of a state export", lines[1..].concat()),
        ("stands behind the last line", format!("{seven}{}", lines[1])),
    ];
    for (what, text) in spoiled {
        place.file("spoiled.jsonl", text);
        import("spoiled.jsonl", "other", "7").exits(4).says(&[what, "The state of `moved` is as it was"]);
    }
    import("seven.jsonl", "other", "7").exits(0).says(&["the next run goes on from there"]);
    let run = place.pipeline().env("WASMILL_KEY_GROUPS", 7).env("DATA_DIR", place.path("other").display());
    let summary = run.env("WORKER_COUNT", 2).arg("--json").run().exits(0).summary();
    let expected_read = MESSAGES as u64 - stats["counts"]["read"].as_u64().expect("a count");
    assert_eq!(summary["read"], expected_read, "{summary}");
    assert_same("moved and rehashed", &sorted(finished_lines(&place.path("out"))), &expected());

    state(&place, &["reset", "--yes"]).env("WASMILL_KEY_GROUPS", 7).run().exits(0);
    state(&place, &["stats"]).run().exits(4).says(&["nothing is committed yet"]);
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("state_fixtures")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// The state of every format version that this wasmill reads, as it was stored by the wasmill of its day.
#[test]
fn stored_state_of_each_format_is_read_and_gone_on_from() {
    let expected = expected();
    let entries = std::fs::read_dir(fixtures()).expect("fixtures");
    let versions: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    assert!(!versions.is_empty());
    for version in versions {
        let place = place();
        place.copy_of(&version);
        copy(&version.join("state"), &place.path("data/moved/state"));
        copy(&version.join("out"), &place.path("out"));
        let exported = state(&place, &["export"]).run().exits(0).stdout;
        let frozen = place.text("export.jsonl");
        assert_eq!(exported, frozen, "{}", version.display());
        let summary = place.pipeline().arg("--json").run().exits(0).summary();
        let read = summary["read"].as_u64().expect("a count");
        assert!(read > 0 && read < MESSAGES as u64, "it goes on, and doesn't begin anew: {summary}");
        assert_same("gone on from a fixture", &sorted(finished_lines(&place.path("out"))), &expected);
    }
}

#[test]
fn state_of_a_newer_format_is_refused_with_what_to_do() {
    let place = place();
    copy(&fixtures().join("1/state"), &place.path("data/moved/state"));
    place.file("data/moved/state/FORMAT", "2\n");
    let told = ["holds state of format `2`; this wasmill reads format 1", "`wasmill reset`"];
    place.pipeline().run().exits(4).says(&told);
    state(&place, &["export"]).run().exits(4).says(&told);
}
