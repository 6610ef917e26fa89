//! Law 1 with built-in aggregates: whatever the batch sizes, lanes, interleavings, epochs and crash points,
//! results are what plain sums and lists of the virtual log's messages tell.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use wasmill_connect::codec::json::JsonDecoder;
use wasmill_engine::builtin::{BuiltIn, BuiltIns, Kind};
use wasmill_engine::key::KeySpec;
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::output::Takes;
use wasmill_engine::topology::{Order, Topology, Via};
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_engine::{RunningSpec, ShareMerger, WindowSpec};
use wasmill_harness::parts::{Output, sink};
use wasmill_harness::simulator::{Chaos, Outcome, Scenario, Seeded, run};

fn seeds() -> u64 {
    std::env::var("WASMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000)
}

/// A message; one with no number has nothing there, an odd one a text.
#[derive(Clone, Debug)]
struct Sent {
    time: i64,
    key: usize,
    number: Option<i64>,
    is_odd: bool,
    id: usize,
}

fn random_logs(random: &mut Seeded) -> Vec<Vec<Sent>> {
    let disorder = [0, 3, 40][random.below(3)];
    let mut id = 0;
    (0..1 + random.below(4))
        .map(|_| {
            let mut now = random.below(50);
            (0..random.below(50))
                .map(|_| {
                    now += random.below(9);
                    id += 1;
                    Sent {
                        time: now.saturating_sub(random.below(disorder + 1)) as i64,
                        key: random.below(4),
                        number: (!random.chance(150)).then(|| random.below(12) as i64 - 4),
                        is_odd: random.chance(60),
                        id,
                    }
                })
                .collect()
        })
        .collect()
}

fn line(sent: &Sent) -> String {
    let number = match (sent.is_odd, sent.number) {
        (true, _) => json!("odd"),
        (false, None) => Value::Null,
        // A whole number of quarters: sums of doubles, yet exact in the reference.
        (false, Some(n)) => json!(n as f64 / 4.0),
    };
    json!({
        "id": format!("m{}", sent.id),
        "type": "a",
        "timestamp": sent.time,
        "payload": {"k": format!("k{}", sent.key), "n": number, "id": sent.id},
        "metadata": {},
    })
    .to_string()
}

fn built_ins() -> BuiltIns {
    let of = |kind, place: &str| BuiltIn::new(kind, Some(place.parse().unwrap()));
    let results = [
        ("count", BuiltIn::new(Kind::Count, None)),
        ("sum", of(Kind::Sum, "payload.n")),
        ("min", of(Kind::Min, "payload.n")),
        ("first", of(Kind::First, "payload.id")),
        ("last", of(Kind::Last, "payload.id")),
        ("top", of(Kind::TopK { k: 2 }, "payload.n")),
        ("distinct", of(Kind::Distinct { values_max: 100 }, "payload.n")),
        ("quantiles", of(Kind::Quantiles { at: vec![0.0, 1.0] }, "payload.n")),
    ];
    BuiltIns::named(results.map(|(name, built_in)| (name.to_owned(), built_in)).into()).unwrap()
}

/// A message with its place: (time, partition, position).
type Placed = ((i64, usize, usize), Sent);

/// What a list of messages comes to.
fn reference(messages: &[Placed]) -> Value {
    let mut by_place = messages.to_vec();
    by_place.sort_by_key(|(place, _)| *place);
    let numbers: Vec<f64> = messages.iter().filter_map(|(_, m)| m.number).map(|n| n as f64 / 4.0).collect();
    let mut sorted = numbers.clone();
    sorted.sort_by(f64::total_cmp);
    let top: Vec<f64> = sorted.iter().rev().take(2).copied().collect();
    let distinct: BTreeSet<i64> = messages.iter().filter_map(|(_, m)| m.number).collect();
    json!({
        "count": messages.len(),
        "sum": (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>()),
        "min": sorted.first(),
        "first": by_place.first().map(|(_, m)| m.id),
        "last": by_place.last().map(|(_, m)| m.id),
        "top": top,
        "distinct": distinct.len(),
        "quantiles": {"0": sorted.first(), "1": sorted.last()},
    })
}

fn scenario(keyed: KeyedSpec, logs: &[Vec<Sent>]) -> Scenario {
    let topology = Topology {
        decoders: vec![Arc::new(JsonDecoder)],
        time: None,
        max_ahead: None,
        prefix: Vec::new(),
        key: Some(KeySpec { paths: vec!["payload.k".parse().unwrap()], on_null: Default::default() }),
        keyed: vec![keyed],
        order: Order::Log,
        idle_marks: false,
        shared: false,
        key_groups: 16,
        via: Via::Memory,
    };
    Scenario {
        topology,
        sinks: vec![sink(Takes::Main), sink(Takes::DeadLetters)],
        logs: logs.iter().map(|log| log.iter().map(line).collect()).collect(),
    }
}

/// Messages by (stamp, partition, position), and so with their places.
fn virtual_log(logs: &[Vec<Sent>]) -> Vec<(i64, (i64, usize, usize), Sent)> {
    let mut all = Vec::new();
    for (partition, log) in logs.iter().enumerate() {
        let mut stamp = i64::MIN;
        for (offset, sent) in log.iter().enumerate() {
            stamp = stamp.max(sent.time);
            all.push((stamp, (sent.time, partition, offset), sent.clone()));
        }
    }
    all.sort_by_key(|(stamp, (_, partition, offset), _)| (*stamp, *partition, *offset));
    all
}

fn payloads(outputs: &[Output]) -> Vec<Value> {
    outputs.iter().map(|o| serde_json::from_str::<Value>(&o.line).unwrap()["payload"].take()).collect()
}

#[track_caller]
fn check_odd_ones(outcome: &Outcome, odd: usize, seed: u64) {
    let dead = payloads(&outcome.committed[1]);
    assert_eq!(dead.len(), odd, "seed {seed}: dead letters");
    for letter in dead {
        assert_eq!(letter["reason"], "`payload.n` is the text \"odd\"; `sum` needs a number");
        assert_eq!((&letter["kind"], letter.get("plugin")), (&json!("value"), None));
    }
    assert_eq!(outcome.check(), Ok(()), "seed {seed}");
}

#[test]
fn windows_of_built_ins_are_a_pure_function_of_the_logs() {
    let mut crashes = 0;
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xB17);
        let logs = random_logs(&mut random);
        let size = [1, 20, 100][random.below(3)];
        let lateness = [0, 15, 1_000][random.below(3)];
        let spec = WindowSpec {
            name: "w".into(),
            aggregate: built_ins().into(),
            window: Windows::tumbling(size).unwrap(),
            allowed_lateness_ms: lateness,
            late: Late::Drop,
            emit: Emit::Close,
            compound_key: false,
        };
        let outcome = run(&scenario(KeyedSpec::Window(spec), &logs), Chaos::WILD, seed);
        crashes += outcome.crashes;
        let mut windows: BTreeMap<(i64, usize), Vec<Placed>> = BTreeMap::new();
        let mut odd = 0;
        for (stamp, place, sent) in virtual_log(&logs) {
            let start = sent.time / size * size;
            if start + size + lateness <= stamp {
                continue;
            }
            if sent.is_odd {
                odd += 1;
            } else {
                windows.entry((start, sent.key)).or_default().push((place, sent));
            }
        }
        let mut found = payloads(&outcome.committed[0]);
        found.sort_by_key(|v| (v["start"].as_i64(), v["key"].as_str().map(str::to_owned)));
        assert_eq!(found.len(), windows.len(), "seed {seed}");
        for (found, ((start, key), messages)) in found.iter().zip(&windows) {
            assert_eq!((&found["start"], &found["key"]), (&json!(start), &json!(format!("k{key}"))));
            assert_eq!(found["value"], reference(messages), "seed {seed}");
        }
        check_odd_ones(&outcome, odd, seed);
    }
    assert!(crashes as u64 > seeds() / 4, "the simulator hardly crashed: {crashes}");
}

#[test]
fn running_built_ins_answer_each_message_as_the_log_tells() {
    for seed in 0..seeds() / 2 {
        let mut random = Seeded::new(seed ^ 0xB18);
        let logs = random_logs(&mut random);
        let spec = |shared| RunningSpec {
            name: "r".into(),
            aggregate: built_ins().into(),
            compound_key: false,
            shared,
        };
        let outcome = run(&scenario(KeyedSpec::Running(spec(false)), &logs), Chaos::WILD, seed);
        let mut so_far: BTreeMap<usize, Vec<Placed>> = BTreeMap::new();
        let mut expected: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (_, place, sent) in virtual_log(&logs).into_iter().filter(|(_, _, s)| !s.is_odd) {
            let key = sent.key;
            let messages = so_far.entry(key).or_default();
            messages.push((place, sent));
            expected.entry(format!("k{key}")).or_default().push(reference(messages));
        }
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for mut payload in payloads(&outcome.committed[0]) {
            found
                .entry(payload["key"].as_str().unwrap().to_owned())
                .or_default()
                .push(payload["value"].take());
        }
        assert_eq!(found, expected, "seed {seed}");
        check_odd_ones(&outcome, logs.iter().flatten().filter(|s| s.is_odd).count(), seed);
    }
}

/// As the store of several processes does at a commit.
#[test]
fn shares_of_several_processes_merge_to_the_totals() {
    let built_ins = built_ins();
    let spec = RunningSpec {
        name: "r".into(),
        aggregate: built_ins.clone().into(),
        compound_key: false,
        shared: true,
    };
    let merger = ShareMerger::new(&[KeyedSpec::Running(spec)]);
    let key = wasmill_engine::state::running_key(0, 3, b"k");
    let empty = built_ins.initial();
    assert_eq!(merger.merge(&key, empty, empty).as_deref(), Ok(empty));
    let reason = merger.merge(&key, empty, b"damaged").unwrap_err();
    assert_eq!(reason, "an accumulator of version 100, not 1");
}
