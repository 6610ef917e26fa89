//! More keys than may be in memory, and kill -9 in the midst of them: every result is there once, and right.
//!
//! `WASMILL_KEYS` (100,000) is how many keys there are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};

use serde_json::Value;
use wasmill_tests::Place;
use wasmill_tests::output::finished_lines;
use wasmill_tests::random::Random;

use crate::killing::{Killing, kill_and_resume};

/// A prime: multiplied by it, the numbers below a count all come, in no order that a cache likes.
const SCATTER: u64 = 7_368_787;

/// A kind of state, and what makes it: totals of all keys, one result a message; windows that are all open to
/// the end, and then close at one moment.
const STAGES: [(&str, &str); 2] = [
    ("running", "  - aggregate: { count: {}, sum: payload.n }\n    name: totals\n    order: log\n"),
    (
        "windows",
        "  - window: { tumbling: 24h }\n    aggregate: { count: {}, sum: payload.n }\n    name: totals\n",
    ),
];

fn spec(stages: &str) -> String {
    format!(
        "\
name: many-keys
source: {{ file: {{ path: input.jsonl }} }}
data_dir: data
limits: {{ state_cache: 1MiB }}
stages:
  - key_by: payload.user
{stages}sink: {{ file: {{ path: out }} }}
delivery: exactly_once
"
    )
}

fn keys() -> u64 {
    std::env::var("WASMILL_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

/// The user of each message: all of them once, then a tenth of them again.
fn users(keys: u64, random: &mut Random) -> Vec<u64> {
    let mut users: Vec<u64> = (0..keys).map(|n| n.wrapping_mul(SCATTER) % keys).collect();
    users.extend((0..keys / 10).map(|_| random.draw() % keys));
    users
}

fn write(users: &[u64], place: &Place) {
    let mut file = BufWriter::new(File::create(place.path("input.jsonl")).expect("a file"));
    for (n, user) in users.iter().enumerate() {
        let time = n / 100;
        writeln!(
            file,
            r#"{{"id":"{n}","type":"t","timestamp":{time},"payload":{{"user":"u{user}","n":{n}}}}}"#
        )
        .expect("written");
    }
    file.flush().expect("written");
}

/// The results by their id's text: of the totals the messages' numbers, of the windows the users.
fn expected(users: &[u64], running: bool) -> HashMap<String, (u64, u64)> {
    let mut totals: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut all = HashMap::new();
    for (n, user) in (0..).zip(users) {
        let (count, sum) = totals.entry(*user).or_default();
        (*count, *sum) = (*count + 1, *sum + n);
        if running {
            all.insert(format!("u{user} {count}"), (*count, *sum));
        }
    }
    if !running {
        all.extend(totals.into_iter().map(|(user, total)| (format!("u{user}"), total)));
    }
    all
}

#[test]
fn totals_of_more_keys_than_fit_in_memory_survive_kill_9() {
    let mut random = Random::shown("many keys");
    let keys = keys();
    let users = users(keys, &mut random);
    for (name, stages) in STAGES {
        let place = Place::new();
        write(&users, &place);
        place.file("pipeline.yaml", spec(stages));
        let killing = Killing {
            kills: 6,
            age_ms: (200, 1_200 * (keys / 100_000).clamp(1, 10)),
            rate: (keys / 4).max(10_000),
            workers: &[1, 2, 3],
            batch_sizes: &[64, 256],
        };
        let (killed, last) = kill_and_resume(&killing, &mut random, || place.pipeline());
        last.exits(0);
        println!("many keys, {name}: {killed} of {} runs killed", killing.kills);
        assert!(killed > 0, "no run was killed before it had ended");
        let mut expected = expected(&users, name == "running");
        for line in finished_lines(&place.path("out")) {
            let result: Value = serde_json::from_str(&line).expect("JSON");
            let (key, value) = (&result["payload"]["key"], &result["payload"]["value"]);
            let (key, count) = (key.as_str().expect("a key"), value["count"].as_u64().expect("a count"));
            let id = if name == "running" { format!("{key} {count}") } else { key.to_owned() };
            let right =
                expected.remove(&id).unwrap_or_else(|| panic!("{name}: came twice, or never was: {line}"));
            assert_eq!((count, value["sum"].as_u64()), (right.0, Some(right.1)), "{name}: {line}");
        }
        assert!(
            expected.is_empty(),
            "{name}: {} results are missing: {:?}",
            expected.len(),
            expected.iter().next()
        );
    }
}
