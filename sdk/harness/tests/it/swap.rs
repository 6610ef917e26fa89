//! Other plugins take over: open windows go on, each message is one version's, whatever crashes; what doesn't fit stays
//! out, and accumulators of an older state version are migrated.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use wasmill_connect::store::MemoryStore;
use wasmill_engine::guest::{AggregateInfo, PluginRef};
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::topology::{Order, Topology};
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_engine::{Aggregate, RunningSpec, WindowSpec};
use wasmill_frame::Edit;
use wasmill_harness::driver::{Driver, Steps};
use wasmill_harness::logs::{list_of_ids, payloads, random_logs, scenario, topology};
use wasmill_harness::native::{self, AggregateFns};
use wasmill_harness::simulator::{Chaos, Outcome, Seeded, run, run_swapping};

const HOUR: i64 = 3_600_000;

/// A transform that stamps its version.
fn stamps(version: &'static str) -> PluginRef {
    let plugin = native::transform("stamps", move |index, _, edits, _| {
        edits.push(index, Edit::SetMetadata { name: "by", value: version.as_bytes(), json: false });
        Ok(())
    });
    native::version_of(&plugin, version)
}

/// Counts by version: the accumulator is `stamp=count` of each, in their order.
fn counts(version: &'static str, state_version: u32, commutative: bool) -> PluginRef {
    let fns = AggregateFns {
        info: AggregateInfo { commutative, state_version, initial: Vec::new() },
        fold: |accumulator, message| {
            let by = message
                .metadata()
                .entries()
                .find(|e| e.name == b"by")
                .map(|e| e.value.to_vec())
                .unwrap_or_default();
            accumulator.extend_from_slice(&by);
            accumulator.push(b' ');
            Ok(())
        },
        merge: |left, right| left.extend_from_slice(right),
        finish: |accumulator| Value::from(String::from_utf8_lossy(accumulator).trim_end()).to_string(),
        scan: None,
    };
    native::version_of(&native::aggregate("counts", fns, None), version)
}

fn steps(transform: &PluginRef, aggregate: &PluginRef) -> Steps {
    Steps::new().transform("stamps", transform).key_by(&["type"]).tumbling("hourly", aggregate, HOUR, 0)
}

fn push(driver: &mut Driver, partition: usize, id: u32, minute: i64) {
    let time = minute * 60_000;
    driver.push(partition, &format!(r#"{{"id":"{id}","type":"a","timestamp":{time},"payload":{{}}}}"#));
}

fn values(driver: &mut Driver) -> Vec<String> {
    driver.read().iter().map(|m| m["payload"]["value"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_open_window_goes_on_with_the_new_version() {
    for crashes in [false, true] {
        let count = counts("1", 1, true);
        let mut driver = Driver::new(steps(&stamps("1"), &count), 1, 2);
        push(&mut driver, 0, 1, 1);
        driver.tick();
        driver.swap(steps(&stamps("2"), &count)).unwrap();
        push(&mut driver, 0, 2, 2);
        if crashes {
            driver.tick();
            driver.crash_and_restore(3);
        }
        driver.advance(HOUR);
        driver.checkpoint();
        assert_eq!(values(&mut driver), ["1 2"], "crash: {crashes}");
    }
}

/// What was read and waits for another partition is the old version's, also when it is read again behind a crash.
#[test]
fn what_was_read_before_the_swap_stays_the_old_versions() {
    for crashes in [0, 1, 2] {
        let count = counts("1", 1, true);
        let mut driver = Driver::new(steps(&stamps("1"), &count), 2, 2);
        // Partition 1 holds stream time: nothing of partition 0 is released.
        push(&mut driver, 0, 1, 1);
        push(&mut driver, 0, 2, 2);
        driver.tick();
        driver.swap(steps(&stamps("2"), &count)).unwrap();
        push(&mut driver, 0, 3, 3);
        driver.tick();
        if crashes > 0 {
            driver.crash_and_restore(1);
            driver.tick();
        }
        driver.swap(steps(&stamps("3"), &count)).unwrap();
        push(&mut driver, 0, 4, 4);
        if crashes > 1 {
            driver.crash_and_restore(2);
        }
        push(&mut driver, 1, 5, 5);
        driver.advance(HOUR);
        driver.checkpoint();
        assert_eq!(values(&mut driver), ["1 1 2 3 3"], "{crashes} crashes");
    }
}

#[test]
fn a_swap_that_is_not_committed_is_none() {
    let count = counts("1", 1, true);
    let mut driver = Driver::new(steps(&stamps("1"), &count), 1, 1);
    driver.swap(steps(&stamps("2"), &count)).unwrap();
    driver.swap(steps(&stamps("1"), &count)).unwrap();
    driver.crash_and_restore(1);
    push(&mut driver, 0, 1, 1);
    driver.advance(HOUR);
    driver.checkpoint();
    assert_eq!(values(&mut driver), ["1"]);
}

#[test]
fn what_does_not_fit_stays_out() {
    let (stamp, count) = (stamps("1"), counts("1", 1, true));
    let mut driver = Driver::new(steps(&stamp, &count), 1, 1);
    let mut refused = |aggregate: &PluginRef| driver.swap(steps(&stamp, aggregate)).unwrap_err();
    assert_eq!(
        refused(&counts("2", 2, true)),
        [
            "the accumulators of the stage `hourly` are of state version 1, and those of the new plugin of 2; it exports no `migrate` that could bring them over"
        ]
    );
    assert_eq!(
        refused(&counts("2", 1, false)),
        ["the aggregate of the stage `hourly` says that it is not commutative, and was commutative"]
    );
    push(&mut driver, 0, 1, 1);
    driver.advance(HOUR);
    driver.checkpoint();
    assert_eq!(values(&mut driver), ["1"]);
}

#[test]
fn accumulators_are_migrated() {
    for crashes in [false, true] {
        let stamp = stamps("1");
        let mut driver = Driver::new(steps(&stamp, &counts("1", 1, true)), 1, 2);
        push(&mut driver, 0, 1, 1);
        driver.tick();
        let migrate: native::Migrate =
            |from, old| Ok([b"from-", from.to_string().as_bytes(), b" ", old].concat());
        driver.swap(steps(&stamp, &native::migrating(&counts("2", 2, true), migrate))).unwrap();
        push(&mut driver, 0, 2, 2);
        if crashes {
            driver.tick();
            driver.crash_and_restore(1);
        }
        driver.advance(HOUR);
        driver.checkpoint();
        assert_eq!(values(&mut driver), ["from-1 1 1"], "crash: {crashes}");
    }
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let stamp = stamps("1");
    let mut driver = Driver::new(steps(&stamp, &counts("1", 1, true)), 1, 2);
    push(&mut driver, 0, 1, 1);
    driver.tick();
    let migrate: native::Migrate = |_, _| Err("too old".to_owned());
    let refused = driver.swap(steps(&stamp, &native::migrating(&counts("2", 2, true), migrate))).unwrap_err();
    assert_eq!(refused, ["the stage `hourly`: `migrate` refused an accumulator: too old"]);
    push(&mut driver, 0, 2, 2);
    driver.advance(HOUR);
    driver.checkpoint();
    assert_eq!(values(&mut driver), ["1 1"]);
}

/// How many seeds each test of chaos runs; `make test-long` asks for more.
fn seeds() -> u64 {
    std::env::var("WASMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(800)
}

fn window(aggregate: &PluginRef, size: i64) -> KeyedSpec {
    KeyedSpec::Window(WindowSpec {
        name: "w".into(),
        aggregate: aggregate.clone().into(),
        window: Windows::tumbling(size).unwrap(),
        allowed_lateness_ms: 15,
        late: Late::Drop,
        emit: Emit::Close,
        compound_key: false,
    })
}

/// Another version of each plugin, which does the same.
fn renamed(topology: &Topology, version: &str) -> Topology {
    let mut other = topology.clone();
    for stage in &topology.prefix {
        other = other.with_plugin(&stage.name, &native::version_of(&stage.plugin, version));
    }
    match &topology.keyed[0] {
        KeyedSpec::Window(WindowSpec { name, aggregate: Aggregate::Plugin(plugin), .. })
        | KeyedSpec::Running(RunningSpec { name, aggregate: Aggregate::Plugin(plugin), .. }) => {
            other.with_plugin(name, &native::version_of(plugin, version))
        }
        _ => other,
    }
}

#[test]
fn no_swap_changes_a_result_where_the_code_is_the_same() {
    let (mut swaps, mut crashes) = (0, 0);
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0x5A7);
        let logs = random_logs(&mut random, 150);
        let list = list_of_ids(false, None);
        let (keyed, order) = match random.below(3) {
            0 => {
                let running = RunningSpec {
                    name: "r".into(),
                    aggregate: list.into(),
                    compound_key: false,
                    shared: false,
                };
                (KeyedSpec::Running(running), Order::Log)
            }
            _ => (window(&list, [7, 20, 100][random.below(3)]), Order::Log),
        };
        let topology = topology(vec![keyed], order);
        let others = ["2", "3"].map(|version| renamed(&topology, version));
        let scenario = scenario(topology, &logs);
        let plain = run(&scenario, Chaos::CALM, seed);
        let store = Arc::new(MemoryStore::new());
        let swapped = run_swapping(&scenario, &others, Chaos::WILD, seed, store);
        swaps += swapped.swaps;
        crashes += swapped.crashes;
        // A dead letter names the version that refused it: these are not compared to the letter.
        for sink in [0, 2] {
            let sorted = |outcome: &Outcome| {
                let mut outputs = outcome.committed[sink].clone();
                outputs.sort();
                outputs
            };
            assert_eq!(sorted(&swapped), sorted(&plain), "seed {seed}, sink {sink}");
        }
        assert_eq!(swapped.committed[1].len(), plain.committed[1].len(), "seed {seed}: dead letters");
        swapped.check().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(swapped.counts, plain.counts, "seed {seed}");
    }
    assert!(swaps > 0 && crashes > 0, "{swaps} swaps, {crashes} crashes");
}

/// A sink that shows what isn't committed yet sees no message done by one version and then, behind a crash, by another.
#[test]
fn each_message_is_one_versions_whatever_crashes() {
    let (mut versions_seen, mut swaps) = (BTreeSet::new(), 0);
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0x0E1);
        let logs = random_logs(&mut random, 150);
        let stages = |version: &'static str| {
            let stamps = Arc::new(StageSpec {
                name: "stamps".to_owned(),
                kind: StageKind::Transform,
                plugin: stamps(version),
            });
            // The version of the aggregate is told where it finishes, that of the transform where it was folded.
            let fns = AggregateFns {
                info: AggregateInfo { commutative: false, state_version: 1, initial: Vec::new() },
                fold: |accumulator, message| {
                    let by = message.metadata().entries().find(|e| e.name == b"by").map(|e| e.value.to_vec());
                    let by = by.unwrap_or_default();
                    accumulator.extend_from_slice(message.id().as_bytes());
                    accumulator.push(b'=');
                    accumulator.extend_from_slice(&by);
                    accumulator.push(b',');
                    Ok(())
                },
                merge: |left, right| left.extend_from_slice(right),
                finish: |accumulator| Value::from(String::from_utf8_lossy(accumulator)).to_string(),
                scan: None,
            };
            let list = native::version_of(&native::aggregate("list", fns, None), version);
            let mut topology = topology(vec![window(&list, 20)], Order::Log);
            topology.prefix.push(stamps);
            topology
        };
        let scenario = scenario(stages("1"), &logs);
        let others = [stages("2"), stages("3")];
        let outcome = run_swapping(&scenario, &others, Chaos::WILD, seed, Arc::new(MemoryStore::new()));
        swaps += outcome.swaps;
        outcome.check().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let mut by: BTreeMap<String, String> = BTreeMap::new();
        for payload in payloads(&outcome.committed[0]) {
            for one in payload["value"].as_str().unwrap().split_terminator(',') {
                let (id, version) = one.split_once('=').unwrap();
                versions_seen.insert(version.to_owned());
                if id.starts_with('m') {
                    assert_eq!(by.insert(id.to_owned(), version.to_owned()), None, "seed {seed}: {id} twice");
                }
            }
        }
    }
    assert!(swaps > 0 && versions_seen.len() == 3, "{swaps} swaps, versions {versions_seen:?}");
}
