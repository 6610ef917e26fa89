//! Law 1: results are a pure function of the logs, whatever the batch sizes, workers, interleavings,
//! epochs and crash points. Each seed makes a pipeline and its logs, runs them under chaos and compares
//! with a reference that shares no code with the engine: collect, order, window.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::topology::{Order, Topology};
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_engine::{RunningSpec, WindowSpec};
use wasmill_harness::logs::{
    every_firing_thrice, ids, list_of_ids, odd_transform, payloads, random_logs, scenario, topology,
    virtual_log,
};
use wasmill_harness::parts::Output;
use wasmill_harness::simulator::{Chaos, Seeded, run};

/// How many seeds each test runs; `make test-long` asks for more.
fn seeds() -> u64 {
    std::env::var("WASMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000)
}

#[test]
fn windows_are_a_pure_function_of_the_logs() {
    let mut crashes = 0;
    let mut late_in_all = 0;
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xA11);
        let logs = random_logs(&mut random, 150);
        let size = [1, 7, 20, 100][random.below(4)];
        let lateness = [0, 1, 15, 1_000][random.below(4)];
        let late = [Late::Drop, Late::DeadLetter, Late::Output("side".into())][random.below(3)].clone();
        let window = KeyedSpec::Window(WindowSpec {
            name: "w".into(),
            aggregate: list_of_ids(false, None).into(),
            window: Windows::tumbling(size).unwrap(),
            allowed_lateness_ms: lateness,
            late: late.clone(),
            emit: Emit::Close,
            compound_key: false,
        });
        let outcome = run(&scenario(topology(vec![window], Order::Log), &logs), Chaos::WILD, seed);
        crashes += outcome.crashes;

        let mut windows: BTreeMap<(i64, String), String> = BTreeMap::new();
        let mut late_ids = Vec::new();
        for p in virtual_log(&logs) {
            let start = p.time / size * size;
            if start + size + lateness <= p.order.0 {
                late_ids.push(p.id);
            } else {
                *windows.entry((start, p.key)).or_default() += &format!("{}@{},", p.id, p.time);
            }
        }
        let expected: Vec<serde_json::Value> = windows
            .into_iter()
            .map(|((start, key), list)| {
                serde_json::json!({"key": key, "start": start, "end": start + size, "final": true, "value": list})
            })
            .collect();
        let mut found = payloads(&outcome.committed[0]);
        found.sort_by_key(|v| (v["start"].as_i64(), v["key"].as_str().map(str::to_owned)));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "seed {seed}");
        }
        assert_eq!(found.len(), expected.len(), "seed {seed}");

        let of = |kind: &str| logs.iter().flatten().filter(|s| s.kind == kind).count() as u64;
        let late_n = late_ids.len() as u64;
        late_in_all += late_n;
        let dead_late = if late == Late::DeadLetter { late_n } else { 0 };
        let c = outcome.counts;
        assert_eq!(c.read, logs.iter().flatten().count() as u64, "seed {seed}: read");
        assert_eq!(c.dropped, of("drop") + of("twice"), "seed {seed}: dropped");
        assert_eq!(c.late, late_n, "seed {seed}: late");
        assert_eq!(c.dead, of("bad") + of("trap") + dead_late, "seed {seed}: dead letters");
        assert_eq!(c.written, found.len() as u64, "seed {seed}: written");
        assert_eq!(outcome.committed[1].len() as u64, c.dead, "seed {seed}: dead letters written");
        let mut aside: Vec<String> =
            logs.iter().flatten().filter(|s| s.kind == "aside").map(|s| format!("m{}", s.number)).collect();
        if matches!(late, Late::Output(_)) {
            aside.extend(late_ids);
        }
        aside.sort();
        assert_eq!(ids(&outcome.committed[2]), aside, "seed {seed}: named output");
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");
    }
    assert!(crashes as u64 > seeds() / 2, "the simulator hardly crashed: {crashes}");
    assert!(late_in_all > 0, "no message was ever late");
}

#[test]
fn running_aggregates_in_log_order_are_a_pure_function_of_the_logs() {
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xB22);
        let logs = random_logs(&mut random, 150);
        let spec = RunningSpec {
            name: "r".into(),
            aggregate: list_of_ids(true, None).into(),
            compound_key: false,
            shared: false,
        };
        let scenario = scenario(topology(vec![KeyedSpec::Running(spec)], Order::Log), &logs);
        let outcome = run(&scenario, Chaos::WILD, seed);

        let mut lists: BTreeMap<String, String> = BTreeMap::new();
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for p in virtual_log(&logs) {
            let list = lists.entry(p.key.clone()).or_default();
            *list += &format!("{}@{},", p.id, p.time);
            expected.entry(p.key).or_default().push(list.clone());
        }
        // Order per key is kept in the sink itself.
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for output in &outcome.committed[0] {
            let message: serde_json::Value = serde_json::from_str(&output.line).unwrap();
            let key = message["payload"]["k"].as_str().unwrap().to_owned();
            found.entry(key).or_default().push(message["metadata"]["scan"].as_str().unwrap().to_owned());
        }
        assert_eq!(found, expected, "seed {seed}");
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");
    }
}

#[test]
fn without_a_stateful_stage_each_partition_keeps_its_order_and_nothing_is_lost() {
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xF66);
        let logs = random_logs(&mut random, 150);
        let scenario = scenario(topology(Vec::new(), Order::Log), &logs);
        let outcome = run(&scenario, Chaos::WILD, seed);
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");

        // Partitions may mix; within one, the order of the log is kept.
        let id_of = |o: &Output| {
            serde_json::from_str::<serde_json::Value>(&o.line).unwrap()["id"].as_str().unwrap().to_owned()
        };
        let mut expected: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut all = virtual_log(&logs);
        all.sort_by_key(|p| (p.order.1, p.order.2, p.order.3));
        for p in &all {
            expected.entry(p.order.1).or_default().push(p.id.clone());
        }
        let mut found: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for output in &outcome.committed[0] {
            let number = output.id.split("partition: ").nth(2).unwrap().split(' ').next().unwrap();
            found.entry(number.parse().unwrap()).or_default().push(id_of(output));
        }
        assert_eq!(found, expected, "seed {seed}");
        assert_eq!(outcome.counts.read, logs.iter().flatten().count() as u64, "seed {seed}: read");
        assert_eq!(outcome.counts.written, all.len() as u64, "seed {seed}: written");
    }
}

#[test]
fn stages_behind_the_key_by_give_each_result_an_id_of_its_own() {
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0x177);
        let logs = random_logs(&mut random, 250);
        let with_windows = random.chance(500);
        let mut keyed = vec![KeyedSpec::Stage(odd_transform()), KeyedSpec::Stage(odd_transform())];
        if with_windows {
            keyed.push(KeyedSpec::Window(WindowSpec {
                name: "w".into(),
                aggregate: list_of_ids(false, None).into(),
                window: Windows::tumbling(7).unwrap(),
                allowed_lateness_ms: 3,
                late: Late::Output("side".into()),
                emit: Emit::Close,
                compound_key: false,
            }));
            keyed.push(KeyedSpec::Stage(every_firing_thrice()));
        }
        let scenario = scenario(topology(keyed, Order::Log), &logs);
        let outcome = run(&scenario, Chaos::WILD, seed);
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");
        let calm = run(&scenario, Chaos::CALM, seed);
        let sorted = |outputs: &[Output]| {
            let mut outputs = outputs.to_vec();
            outputs.sort();
            outputs
        };
        for (wild, calm) in outcome.committed.iter().zip(&calm.committed) {
            assert_eq!(sorted(wild), sorted(calm), "seed {seed}: chaos changed an output or its id");
        }
        assert_eq!(outcome.counts, calm.counts, "seed {seed}");
    }
}

#[test]
fn arrival_order_never_contradicts_an_output_that_is_out() {
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xC33);
        let logs = random_logs(&mut random, 100);
        let spec = RunningSpec {
            name: "r".into(),
            aggregate: list_of_ids(true, None).into(),
            compound_key: false,
            shared: false,
        };
        let scenario = scenario(topology(vec![KeyedSpec::Running(spec)], Order::Arrival), &logs);
        let outcome = run(&scenario, Chaos::WILD, seed);
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");

        // The same messages as in log order, each once, each partition's in its order, in some interleaving.
        let all = virtual_log(&logs);
        assert_eq!(outcome.committed[0].len(), all.len(), "seed {seed}");
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for output in &outcome.committed[0] {
            let message: serde_json::Value = serde_json::from_str(&output.line).unwrap();
            let key = message["payload"]["k"].as_str().unwrap().to_owned();
            let list = message["metadata"]["scan"].as_str().unwrap().to_owned();
            let before = last.insert(key, list.clone()).unwrap_or_default();
            assert!(
                list.starts_with(&before) && list.len() > before.len(),
                "seed {seed}: {before} then {list}"
            );
        }
    }
}

#[test]
fn idle_marks_are_committed_facts() {
    // What is called idle depends on the clock, so results may differ from run to run; but within a run no
    // replay contradicts what is out, and no message vanishes.
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xD44);
        let logs = random_logs(&mut random, 0);
        let window = KeyedSpec::Window(WindowSpec {
            name: "w".into(),
            aggregate: list_of_ids(false, None).into(),
            window: Windows::tumbling(20).unwrap(),
            allowed_lateness_ms: 5,
            late: Late::Output("side".into()),
            emit: Emit::Close,
            compound_key: false,
        });
        let chaos = Chaos { idle_per_mille: 400, ..Chaos::WILD };
        let topology = Topology { idle_marks: true, ..topology(vec![window], Order::Log) };
        let outcome = run(&scenario(topology, &logs), chaos, seed);
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");
        let in_windows: usize = payloads(&outcome.committed[0])
            .iter()
            .map(|p| p["value"].as_str().unwrap().matches(',').count())
            .sum();
        let sent = logs.iter().flatten().count();
        assert_eq!(in_windows + outcome.committed[2].len(), sent, "seed {seed}: lost or doubled");
        let mut windows: Vec<(i64, String)> = payloads(&outcome.committed[0])
            .iter()
            .map(|p| (p["start"].as_i64().unwrap(), p["key"].to_string()))
            .collect();
        windows.sort();
        windows.dedup();
        assert_eq!(windows.len(), outcome.committed[0].len(), "seed {seed}: a window fired twice");
    }
}

#[test]
fn a_poison_message_is_found_in_an_aggregate_and_its_neighbours_live() {
    for seed in 0..200 {
        let mut random = Seeded::new(seed ^ 0xE55);
        let mut logs = random_logs(&mut random, 0);
        for sent in logs.iter_mut().flatten() {
            if random.chance(60) {
                sent.key = "boom".into();
            }
        }
        let poison = logs.iter().flatten().filter(|s| s.key == "boom").count();
        let spec = RunningSpec {
            name: "r".into(),
            aggregate: list_of_ids(true, Some("boom")).into(),
            compound_key: false,
            shared: false,
        };
        let scenario = scenario(topology(vec![KeyedSpec::Running(spec)], Order::Log), &logs);
        let outcome = run(&scenario, Chaos::WILD, seed);
        assert_eq!(outcome.committed[1].len(), poison, "seed {seed}");
        assert_eq!(outcome.committed[0].len(), virtual_log(&logs).len() - poison, "seed {seed}");
    }
}

#[test]
fn the_same_seed_does_the_same_again() {
    let mut random = Seeded::new(7);
    let logs = random_logs(&mut random, 200);
    let spec = RunningSpec {
        name: "r".into(),
        aggregate: list_of_ids(true, None).into(),
        compound_key: false,
        shared: false,
    };
    let scenario = scenario(topology(vec![KeyedSpec::Running(spec)], Order::Arrival), &logs);
    let (one, two) = (run(&scenario, Chaos::WILD, 7), run(&scenario, Chaos::WILD, 7));
    assert_eq!(one.committed, two.committed);
    assert_eq!(one.crashes, two.crashes);
}
