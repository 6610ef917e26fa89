//! Bad input, each with its expected text: what is wrong, where, and what to do.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

use wasmill_tests::output::{field, finished_lines, lines};
use wasmill_tests::{Place, home};

const PIPELINE: &str = "\
name: job
source: { file: { path: input.jsonl } }
data_dir: data
stages:
  - filter: drop-ignored
  - key_by: type
  - window: { tumbling: 10s }
    aggregate: count-types
sink: { file: { path: out } }
dead_letter: { file: { path: dead } }
";

fn good(id: usize) -> String {
    format!("{{\"id\":\"{id}\",\"type\":\"t\",\"payload\":{{}},\"timestamp\":{}}}\n", 1_000 + id)
}

fn place() -> Place {
    let place = Place::with_plugins(&["drop-ignored", "count-types"]);
    place.file("pipeline.yaml", PIPELINE).file("input.jsonl", (0..100).map(good).collect::<String>());
    place
}

/// Messages that are none: the stream goes on, and each is a dead letter with its line and its reason.
#[test]
fn bad_messages_become_dead_letters_with_their_line_and_their_neighbours_pass() {
    let long = 100_000_000;
    let bad: Vec<(&str, Vec<u8>, &str)> = vec![
        ("broken JSON", b"{\"id\":\"x\",\"type\":".to_vec(), "broken JSON: cut off at column 17"),
        (
            "JSON with a comma too many",
            b"{\"id\":\"x\",}".to_vec(),
            "broken JSON at column 11: trailing comma",
        ),
        ("no id", b"{\"type\":\"t\"}".to_vec(), "no `id`: a message needs one"),
        ("no type", b"{\"id\":\"x\"}".to_vec(), "no `type`: a message needs one"),
        ("an id that is none", b"{\"id\":[],\"type\":\"t\"}".to_vec(), "`id` is an array: expected text"),
        (
            "invalid UTF-8",
            b"{\"id\":\"\xff\",\"type\":\"t\"}".to_vec(),
            "not UTF-8: invalid byte at 7; a message is JSON text",
        ),
        (
            "milliseconds beyond the range",
            b"{\"id\":\"x\",\"type\":\"t\",\"timestamp\":253402300800000}".to_vec(),
            "timestamp 253402300800000 is out of range (0 to 253402300799999 milliseconds",
        ),
        (
            "milliseconds beyond 64 bits",
            b"{\"id\":\"x\",\"type\":\"t\",\"timestamp\":99999999999999999999}".to_vec(),
            "timestamp 99999999999999999999 is out of range",
        ),
        (
            "a day that was none",
            b"{\"id\":\"x\",\"type\":\"t\",\"timestamp\":\"2013-02-30T00:00:00Z\"}".to_vec(),
            "timestamp `2013-02-30T00:00:00Z` names no day",
        ),
        (
            "a year before 1970",
            b"{\"id\":\"x\",\"type\":\"t\",\"timestamp\":\"1969-12-31T23:59:59Z\"}".to_vec(),
            "is out of range (1970-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z)",
        ),
        (
            "a line of 100 MB",
            [b"{\"id\":\"long\",\"type\":\"t\",\"payload\":\"".as_slice(), &vec![b'x'; long], b"\"}"]
                .concat(),
            "bytes is above message_bytes_max of 1048576",
        ),
    ];
    let place = place();
    let mut input = Vec::new();
    for (i, (_, line, _)) in bad.iter().enumerate() {
        input.extend_from_slice(good(i).as_bytes());
        input.extend_from_slice(line);
        input.push(b'\n');
    }
    place.file("input.jsonl", input);
    let ended = place.pipeline().run().exits(0);
    let peak_mib = ended.peak_bytes >> 20;
    assert!(peak_mib > 0 && peak_mib < 90, "a long line is not held: {peak_mib} MiB at the peak");

    let dead = finished_lines(&place.path("dead"));
    assert_eq!(dead.len(), bad.len(), "{dead:#?}");
    for (i, ((what, _, expected), letter)) in bad.iter().zip(&dead).enumerate() {
        let reason = field(letter, "/payload/reason");
        let reason = reason.as_str().expect("a reason");
        let line = format!("line {}: ", 2 * i + 2);
        assert!(reason.starts_with(&line), "{what}: {reason:?} doesn't begin with {line:?}");
        assert!(reason.contains(expected), "{what}: {expected:?} is not in {reason:?}");
        assert_eq!(field(letter, "/payload/kind"), "decode", "{what}");
        assert!(letter.len() < 10_000, "{what}: a dead letter is bounded");
    }
    let out = finished_lines(&place.path("out"));
    assert_eq!(field(&out[0], "/payload/value"), bad.len(), "the neighbours were counted");
}

/// A run that is refused, or can't go on.
struct Refused {
    what: &'static str,
    /// Makes it wrong; what runs before that is a part of it.
    spoil: fn(&Place),
    exit: i32,
    says: &'static [&'static str],
}

fn spec(place: &Place, from: &str, to: &str) {
    assert!(PIPELINE.contains(from), "{from}");
    place.file("pipeline.yaml", PIPELINE.replace(from, to));
}

/// A component whose one export is this interface.
fn component(interface: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
  (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32) (result i32) unreachable)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
  (core instance $i (instantiate $m))
  (func $f (param "frame" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $face (export "process" (func $f)))
  (export "{interface}" (instance $face)))"#
    );
    wat::parse_str(text).expect("a component")
}

const FILTER: &str = "plugins/drop-ignored.wasm";

const REFUSED: &[Refused] = &[
    Refused {
        what: "an unknown key",
        spoil: |place| spec(place, "tumbling: 10s", "tumbling: 10s, alowed_lateness: 1s"),
        exit: 2,
        says: &[
            "error: `stages[2].window`: unknown key `alowed_lateness`",
            "--> pipeline.yaml:7:30",
            "7 |   - window: { tumbling: 10s, alowed_lateness: 1s }",
            "|                              ^^^^^^^^^^^^^^^ did you mean `allowed_lateness`?",
        ],
    },
    Refused {
        what: "no spec",
        spoil: |place| std::fs::remove_file(place.path("pipeline.yaml")).expect("removed"),
        exit: 2,
        says: &["pipeline.yaml"],
    },
    Refused {
        what: "a plugin that is missing",
        spoil: |place| spec(place, "drop-ignored", "drop-ignore"),
        exit: 3,
        says: &[
            "can't read the plugin",
            "--> pipeline.yaml:5:13",
            "did you mean `drop-ignored`?",
            "plugins holds count-types, drop-ignored",
        ],
    },
    Refused {
        what: "a plugin that is no component",
        spoil: |place| {
            place.file(FILTER, wat::parse_str("(module)").expect("a module"));
        },
        exit: 3,
        says: &["plugin drop-ignored is no WebAssembly component", "this is a core module; pack it"],
    },
    Refused {
        what: "a plugin that is something else",
        spoil: |place| {
            place.file(FILTER, "#!/bin/sh\necho hello\n");
        },
        exit: 3,
        says: &["plugin drop-ignored is no WebAssembly component", "is it the right file?"],
    },
    Refused {
        what: "a plugin that was cut off",
        spoil: |place| {
            let whole = std::fs::read(home::plugin("drop-ignored")).expect("a plugin");
            place.file(FILTER, &whole[..whole.len() / 2]);
        },
        exit: 3,
        says: &["plugin drop-ignored", "cut short or damaged"],
    },
    Refused {
        what: "a plugin of another contract version",
        spoil: |place| {
            place.file(FILTER, component("wasmill:plugin/filter@0.2.0"));
        },
        exit: 3,
        says: &[
            "speaks version 0.2.0 of the plugin contract, this wasmill version 0.1.0",
            "`wasmill:plugin/filter@0.2.0`",
            "build it with the matching SDK",
        ],
    },
    Refused {
        what: "a plugin that imports what it isn't granted",
        spoil: |place| {
            place.plugin("processed-at");
            spec(place, "  - filter: drop-ignored\n", "  - transform: processed-at\n");
        },
        exit: 3,
        says: &[
            "plugin processed-at imports `wall-clock`, which its stage isn't granted: add `grants: [wall-clock]`",
            "--> pipeline.yaml:5:16",
        ],
    },
    Refused {
        what: "a plugin of another kind",
        spoil: |place| spec(place, "filter: drop-ignored", "transform: drop-ignored"),
        exit: 3,
        says: &["the plugin `drop-ignored` is no transform", "it exports filter", "--> pipeline.yaml:5:16"],
    },
    Refused {
        what: "a source that is missing",
        spoil: |place| spec(place, "input.jsonl", "inptu.jsonl"),
        exit: 4,
        says: &["cannot read", "inptu.jsonl", "no such file"],
    },
    Refused {
        what: "a data directory below a file",
        spoil: |place| {
            place.file("in-the-way", "");
            spec(place, "data_dir: data", "data_dir: in-the-way/data");
        },
        exit: 4,
        says: &["cannot create", "in-the-way/data/job/state", "a part of the path is not a directory"],
    },
    Refused {
        // Tests may run as root, whom permissions don't stop; /proc takes no new folder from anybody.
        what: "a read-only data directory",
        spoil: |place| spec(place, "data_dir: data", "data_dir: /proc/self/data"),
        exit: 4,
        says: &["cannot create /proc/self/data/job/state"],
    },
    Refused {
        what: "a read-only output directory",
        spoil: |place| spec(place, "path: out", "path: /proc/self/out"),
        exit: 4,
        says: &["cannot create /proc/self/out"],
    },
    Refused {
        what: "a data directory of another format",
        spoil: |place| {
            place.pipeline().run().exits(0);
            place.file("data/job/state/FORMAT", "99\n");
        },
        exit: 4,
        says: &[
            "data/job/state holds state of format `99`; this wasmill reads format 1",
            "Use the wasmill that wrote it, or another data directory, or `wasmill reset`",
        ],
    },
    Refused {
        what: "a data directory that is damaged",
        spoil: |place| {
            place.pipeline().run().exits(0);
            let db = place.path("data/job/state/db");
            for file in files(&db) {
                flip_last_bytes(&file);
            }
        },
        exit: 4,
        says: &["data/job/state", "is damaged", "`wasmill reset`"],
    },
    Refused {
        what: "an output directory with earlier results",
        spoil: |place| {
            place.pipeline().run().exits(0);
            place.forget(&["data"]);
        },
        exit: 4,
        says: &[
            "out holds the output of an earlier run",
            "`wasmill run --reset`",
            "give the sink another path",
        ],
    },
    Refused {
        what: "an output that was changed since",
        spoil: |place| {
            place.pipeline().run().exits(0);
            std::fs::remove_file(place.path("out/part-000001.jsonl")).expect("removed");
        },
        exit: 4,
        says: &["part-000001.jsonl"],
    },
    Refused {
        what: "a file replaced since",
        spoil: |place| {
            place.pipeline().run().exits(0);
            place.file("input.jsonl", (500..600).map(good).collect::<String>());
        },
        exit: 4,
        says: &["input.jsonl is not the log that was read before", "run `wasmill reset`"],
    },
    Refused {
        what: "a file that is gone since",
        spoil: |place| {
            place.file("inputs/a.jsonl", good(1)).file("inputs/b.jsonl", good(2));
            spec(place, "input.jsonl", "inputs/*.jsonl");
            place.pipeline().run().exits(0);
            std::fs::remove_file(place.path("inputs/b.jsonl")).expect("removed");
        },
        exit: 4,
        says: &["was read before and is gone", "`wasmill reset`"],
    },
    Refused {
        what: "a file that was cut off since",
        spoil: |place| {
            place.pipeline().run().exits(0);
            // Behind the head by which a file is known.
            let file = OpenOptions::new().write(true).open(place.path("input.jsonl")).expect("a file");
            file.set_len(4_200).expect("cut off");
        },
        exit: 4,
        says: &["input.jsonl", "was cut off or replaced since that was committed", "`wasmill reset`"],
    },
    Refused {
        what: "a pipeline of another shape",
        spoil: |place| {
            place.pipeline().run().exits(0);
            spec(place, "tumbling: 10s", "tumbling: 20s");
        },
        exit: 4,
        says: &[
            "belongs to another shape of this pipeline:",
            "the window is tumbling, 20000 ms, and was tumbling, 10000 ms",
            "run `wasmill state reset`",
        ],
    },
    Refused {
        what: "another number of key groups",
        spoil: |place| {
            place.pipeline().run().exits(0);
            spec(place, "data_dir: data\n", "data_dir: data\nkey_groups: 64\n");
        },
        exit: 4,
        says: &["`key_groups` is 64, and was 128", "Run `wasmill state rehash`"],
    },
    Refused {
        what: "a promise that can't be kept",
        spoil: |place| spec(place, "data_dir: data\n", "delivery: exactly_once\n"),
        exit: 2,
        says: &["exactly-once is not possible from file to file", "--> pipeline.yaml:3", "`data_dir`"],
    },
];

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Damages a file where its last data is: zeros at the end are room, not data.
fn flip_last_bytes(path: &std::path::Path) {
    let bytes = std::fs::read(path).expect("a file");
    let Some(last) = bytes.iter().rposition(|b| *b != 0) else { return };
    let mut file = OpenOptions::new().write(true).open(path).expect("a file");
    file.seek(SeekFrom::Start(last as u64 / 2)).expect("a place");
    file.write_all(&[!bytes[last / 2]]).expect("written");
}

#[test]
fn what_can_t_run_is_refused_with_what_where_and_what_to_do() {
    let mut wrong = Vec::new();
    for Refused { what, spoil, exit, says } in REFUSED {
        let place = place();
        spoil(&place);
        let before = outputs(&place);
        let ended = place.pipeline().run();
        let missing: Vec<_> = says.iter().filter(|text| !ended.stderr.contains(**text)).collect();
        if ended.code != Some(*exit) || !missing.is_empty() {
            let code = ended.code;
            wrong
                .push(format!("{what}: exits {code:?}, not {exit}; lacks {missing:?} in:\n{}", ended.stderr));
        }
        assert_eq!(outputs(&place), before, "{what}: what is refused changes no output");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn outputs(place: &Place) -> Vec<String> {
    let out = place.path("out");
    match out.join("manifest.json").exists() && out.join("part-000001.jsonl").exists() {
        true => lines(&out),
        false => Vec::new(),
    }
}

#[test]
fn two_runs_of_one_pipeline_at_once_are_refused() {
    let place = place();
    let mut first = place.pipeline().env("WASMILL_SOURCE__FILE__RATE", 20).start();
    let begun = place.path("out/manifest.json");
    first.until("its sinks are open", || begun.exists());
    place.pipeline().run().exits(4).says(&["is in use by another wasmill", "stop the other one"]);
    let other = place.pipeline().env("DATA_DIR", "elsewhere").run().exits(4);
    other.says(&["another run writes to", "give this sink another path"]);
    let (killed, _) = first.kill();
    assert!(killed, "it was still running");
    place.pipeline().run().exits(0);
}

#[test]
fn reset_starts_anew_after_each_of_them() {
    for spoil in ["state of another format", "another shape", "another file"] {
        let place = place();
        place.pipeline().run().exits(0);
        match spoil {
            "another shape" => spec(&place, "tumbling: 10s", "tumbling: 20s"),
            "another file" => {
                place.file("input.jsonl", good(7));
            }
            _ => {
                place.file("data/job/state/FORMAT", "99\n");
            }
        }
        place.pipeline().run().exits(4);
        place.pipeline().arg("--reset").run().exits(0);
        let counted = field(&finished_lines(&place.path("out"))[0], "/payload/value");
        assert_eq!(counted, if spoil == "another file" { 1 } else { 100 }, "{spoil}");
    }
}
