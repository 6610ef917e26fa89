//! Pipelines as folders: `tests/pipelines/<case>/` is one test, run three ways, always with the same
//! outputs: straight; killed and resumed; stopped and resumed with another worker count.
//!
//! | file | what it is |
//! |---|---|
//! | `pipeline.yaml` | the pipeline; it writes to `out`, dead letters to `dead-letters`, outputs to their names |
//! | `input*.jsonl` | what it reads |
//! | `expected.jsonl` | what `out` must hold; in this very order if there is a file `ordered` |
//! | `expected-NAME.jsonl` | what `NAME` must hold, `expected-dead-letters.jsonl` for one |
//! | `error.txt` | where it must fail: `exit CODE`, then texts that must be shown, one a line |
//!
//! A line that an expectation does not name must not be there: a folder without its `expected` file
//! must be empty. Digests in dead letters are left out, for they change with the compiler.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wasmill_tests::output::{assert_same, finished_lines, sorted};
use wasmill_tests::random::Random;
use wasmill_tests::{Ended, Place, Signal, home};

use crate::killing::{Killing, kill_and_resume};

/// How long a slowed run takes to read its input.
const SLOW_READ_MS: u64 = 300;

struct Case {
    name: String,
    folder: PathBuf,
}

impl Case {
    fn all() -> Vec<Self> {
        let folder = home::root().join("tests/pipelines");
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut cases: Vec<Self> = entries
            .flatten()
            .filter(|e| e.path().is_dir())
            .map(|e| Self { name: e.file_name().to_string_lossy().into_owned(), folder: e.path() })
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    /// Some of the cases: tests run side by side.
    fn share(number: usize, of: usize) -> Vec<Self> {
        Self::all().into_iter().enumerate().filter(|(i, _)| i % of == number).map(|(_, case)| case).collect()
    }

    fn has(&self, file: &str) -> bool {
        self.folder.join(file).exists()
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    fn place(&self) -> Place {
        let place = Place::new();
        place.copy_of(&self.folder);
        let spec = self.text("pipeline.yaml").unwrap_or_else(|| panic!("{} has no pipeline.yaml", self.name));
        for name in plugins_of(&spec) {
            place.plugin(&name);
        }
        place
    }

    fn messages(&self) -> u64 {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let inputs = entries.filter(|e| e.file_name().to_string_lossy().starts_with("input"));
        inputs.map(|e| fs::read(e.path()).map_or(0, |b| b.split(|c| *c == b'\n').count() as u64)).sum()
    }

    fn slow_rate(&self) -> u64 {
        (self.messages() * 1000 / SLOW_READ_MS).max(1)
    }

    /// The folders that sinks write to, each with what it must hold.
    fn expectations(&self, place: &Place) -> Vec<(String, Vec<String>)> {
        let entries = fs::read_dir(place.path("")).into_iter().flatten().flatten();
        let mut folders: Vec<String> = entries
            .filter(|e| e.path().join("manifest.json").exists())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        folders.sort();
        let expected = |folder: &str| match folder {
            "out" => "expected.jsonl".to_owned(),
            other => format!("expected-{other}.jsonl"),
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_met = folders.iter().any(|f| expected(f) == name);
            assert!(
                !name.starts_with("expected") || is_met,
                "{}: nothing wrote what {name} expects",
                self.name
            );
        }
        folders
            .into_iter()
            .map(|folder| {
                let text = self.text(&expected(&folder)).unwrap_or_default();
                (folder, text.lines().map(str::to_owned).collect())
            })
            .collect()
    }

    /// Compares everything that was written.
    #[track_caller]
    fn check(&self, place: &Place, way: &str) {
        for (folder, expected) in self.expectations(place) {
            let mut came = finished_lines(&place.path(&folder));
            if folder == "dead-letters" {
                came = came.iter().map(|line| without_digest(line)).collect();
            }
            let what = format!("{}, {way}, {folder}", self.name);
            if folder == "out" && self.has("ordered") {
                assert_same(&what, &came, &expected);
            } else {
                assert_same(&what, &sorted(came), &sorted(expected));
            }
        }
    }

    #[track_caller]
    fn fails(&self, ended: Ended) {
        let error = self.text("error.txt").unwrap_or_default();
        let (exit, parts) = error.split_once('\n').unwrap_or((&error, ""));
        let code = exit.strip_prefix("exit ").and_then(|code| code.trim().parse().ok());
        let code = code.unwrap_or_else(|| panic!("{}: error.txt begins with `exit CODE`", self.name));
        ended.exits(code).says(&parts.lines().filter(|l| !l.is_empty()).collect::<Vec<_>>());
    }

    fn run_straight(&self) {
        let place = self.place();
        let ended = place.pipeline().run();
        if self.has("error.txt") {
            return self.fails(ended);
        }
        ended.exits(0);
        self.check(&place, "straight");
    }

    fn run_killed(&self, random: &mut Random) {
        let place = self.place();
        let killing = Killing {
            kills: 3,
            age_ms: (20, 80 + SLOW_READ_MS),
            rate: self.slow_rate(),
            workers: &[1, 2, 5],
            batch_sizes: &[1, 3, 256],
        };
        let (_, last) = kill_and_resume(&killing, random, || place.pipeline());
        last.exits(0);
        self.check(&place, "killed and resumed");
    }

    fn run_with_other_workers(&self) {
        let place = self.place();
        let slow = place.pipeline().env("WORKER_COUNT", 2).env("WASMILL_EPOCH__INTERVAL", "10ms");
        let mut running = slow.env("WASMILL_SOURCE__FILE__RATE", self.slow_rate()).start();
        let begun = place.path("out/manifest.json");
        running.until("its sinks are open", || begun.exists());
        std::thread::sleep(std::time::Duration::from_millis(SLOW_READ_MS / 2));
        running.signal(Signal::TERM);
        running.wait().exits(0);
        place.pipeline().env("WORKER_COUNT", 5).run().exits(0);
        self.check(&place, "stopped with 2 workers and resumed with 5");
    }
}

/// The plugins that a spec names, one after `transform`, `filter`, `aggregate` or `plugin`.
fn plugins_of(spec: &str) -> Vec<String> {
    let named = |line: &str| {
        ["transform: ", "filter: ", "aggregate: ", "plugin: "].iter().find_map(|key| {
            let rest = &line[line.find(key)? + key.len()..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '-').collect();
            (!name.is_empty()).then_some(name)
        })
    };
    // `count` is a built-in, and what is to be missing is named so.
    let is_built = |name: &String| !name.starts_with("no-such") && name != "count";
    spec.lines().filter_map(named).filter(is_built).collect()
}

fn without_digest(line: &str) -> String {
    let mut letter: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    if let Some(plugin) = letter.pointer_mut("/payload/plugin").and_then(Value::as_object_mut) {
        plugin.remove("digest").expect("a dead letter of a plugin has its digest");
    }
    letter.to_string()
}

fn run(cases: &[Case]) {
    let mut random = Random::shown("pipelines");
    for case in cases {
        println!("{}", case.name);
        case.run_straight();
        if !case.has("error.txt") {
            case.run_killed(&mut random);
            case.run_with_other_workers();
        }
    }
}

#[test]
fn each_case_gives_the_same_straight_killed_and_resumed_first_half() {
    run(&Case::share(0, 2));
}

#[test]
fn each_case_gives_the_same_straight_killed_and_resumed_second_half() {
    run(&Case::share(1, 2));
}

#[test]
fn every_case_says_what_it_expects() {
    let cases = Case::all();
    assert!(cases.len() >= 12, "{} cases", cases.len());
    for case in &cases {
        let says = case.has("expected.jsonl") || case.has("error.txt");
        assert!(says, "{} has neither expected.jsonl nor error.txt", case.name);
        assert!(Path::new(&case.folder).join("pipeline.yaml").exists(), "{}", case.name);
    }
}
