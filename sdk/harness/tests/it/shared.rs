//! A running aggregate whose totals several processes share: what is stored is exact, and one process
//! alone sees the same numbers as without sharing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use wasmill_connect::codec::json::JsonDecoder;
use wasmill_connect::store::MemoryStore;
use wasmill_engine::guest::{AggregateInfo, PluginRef};
use wasmill_engine::key::KeySpec;
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::output::Takes;
use wasmill_engine::state::{Checkpoint, Delta, Epoch, Merged, Share, StateStore, StoreError, VisitEntry};
use wasmill_engine::topology::{Order, Topology, Via};
use wasmill_engine::{RunningSpec, ShareMerger};
use wasmill_harness::driver::{Driver, Steps};
use wasmill_harness::native::{self, AggregateFns};
use wasmill_harness::parts::sink;
use wasmill_harness::simulator::{Chaos, Scenario, Seeded, run, run_over};

fn seeds() -> u64 {
    std::env::var("WASMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000)
}

/// A store that merges shares as one that several processes reach does; another process may put to the
/// same keys right before each commit.
struct Sharing {
    inner: MemoryStore,
    merger: ShareMerger,
    merged: Mutex<Merged>,
    /// What the other one puts to each key.
    others: Option<&'static str>,
}

impl Sharing {
    fn new(keyed: &[KeyedSpec], others: Option<&'static str>) -> Self {
        let inner = MemoryStore::new();
        Self { inner, merger: ShareMerger::new(keyed), merged: Mutex::default(), others }
    }
}

impl StateStore for Sharing {
    fn name(&self) -> String {
        "sharing".into()
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.checkpoint()
    }

    fn generation(&self) -> Result<u64, StoreError> {
        self.inner.generation()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        self.inner.entries(prefix, after, visit)
    }

    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut delta = delta.clone();
        let mut merged = Merged::new();
        for change in &mut delta.changes {
            let Some(Share::Accumulator(share)) = change.share.take() else { panic!("not shared") };
            let mut value = self.inner.get(&change.key)?;
            for share in
                [self.others.map(|others| others.as_bytes().to_vec()), Some(share)].into_iter().flatten()
            {
                value = Some(match value {
                    Some(stored) => self.merger.merge(&change.key, &stored, &share).unwrap(),
                    None => share,
                });
            }
            change.value.clone_from(&value);
            merged.push((change.key.clone(), value.unwrap()));
        }
        self.inner.commit(&delta, checkpoint)?;
        *self.merged.lock().unwrap() = merged;
        Ok(())
    }

    fn merged(&self) -> Merged {
        std::mem::take(&mut self.merged.lock().unwrap())
    }

    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError> {
        self.inner.foretell(epoch, facts)
    }

    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        self.inner.foretold()
    }

    fn reset(&self) -> Result<(), StoreError> {
        self.inner.reset()
    }
}

/// An aggregate that tells every message in order: nothing can be swapped, lost or doubled unseen.
fn list_of_ids(scan: bool) -> PluginRef {
    let fns = AggregateFns {
        info: AggregateInfo { commutative: false, state_version: 1, initial: Vec::new() },
        fold: |accumulator, message| {
            if message.kind() == "odd" {
                return Err("odd".into());
            }
            accumulator.extend_from_slice(message.id().as_bytes());
            accumulator.push(b',');
            Ok(())
        },
        merge: |left, right| left.extend_from_slice(right),
        finish: |accumulator| serde_json::Value::from(String::from_utf8_lossy(accumulator)).to_string(),
        scan: scan.then_some(|accumulator| String::from_utf8_lossy(accumulator).into_owned()),
    };
    native::aggregate("list", fns, Some("trap"))
}

fn count_of(accumulator: &[u8]) -> u64 {
    String::from_utf8_lossy(accumulator).parse().unwrap()
}

fn count() -> PluginRef {
    let fns = AggregateFns {
        info: AggregateInfo { commutative: true, state_version: 1, initial: b"0".to_vec() },
        fold: |accumulator, _| {
            *accumulator = (count_of(accumulator) + 1).to_string().into_bytes();
            Ok(())
        },
        merge: |left, right| *left = (count_of(left) + count_of(right)).to_string().into_bytes(),
        finish: |accumulator| count_of(accumulator).to_string(),
        scan: Some(|accumulator| count_of(accumulator).to_string()),
    };
    native::aggregate("count", fns, None)
}

fn scenario(plugin: &PluginRef, shared: bool, logs: Vec<Vec<String>>) -> Scenario {
    let spec =
        RunningSpec { name: "r".into(), aggregate: plugin.clone().into(), compound_key: false, shared };
    let topology = Topology {
        decoders: vec![Arc::new(JsonDecoder)],
        time: None,
        max_ahead: None,
        prefix: Vec::new(),
        key: Some(KeySpec { paths: vec!["payload.k".parse().unwrap()], on_null: Default::default() }),
        keyed: vec![KeyedSpec::Running(spec)],
        order: Order::Log,
        idle_marks: false,
        shared: false,
        key_groups: 16,
        via: Via::Memory,
    };
    Scenario { topology, sinks: vec![sink(Takes::Main), sink(Takes::DeadLetters)], logs }
}

fn random_logs(random: &mut Seeded) -> Vec<Vec<String>> {
    let mut id = 0;
    (0..1 + random.below(4))
        .map(|_| {
            let mut time = random.below(50);
            (0..random.below(60))
                .map(|_| {
                    time += random.below(9);
                    id += 1;
                    let kind = if random.chance(50) { "odd" } else { "a" };
                    let note = if random.chance(30) { "trap" } else { "" };
                    let key = random.below(4);
                    format!(
                        r#"{{"id":"m{id}","type":"{kind}","timestamp":{time},"payload":{{"k":"k{key}","note":"{note}"}},"metadata":{{}}}}"#
                    )
                })
                .collect()
        })
        .collect()
}

fn state(store: &dyn StateStore) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    store.scan(b"", &mut |key, value| drop(state.insert(key.to_vec(), value.to_vec()))).unwrap();
    state
}

#[test]
fn alone_it_sees_the_same_as_without_sharing() {
    for seed in 0..seeds() {
        let plugin = list_of_ids(seed % 3 > 0);
        let logs = random_logs(&mut Seeded::new(seed ^ 0x5A5A));
        let plain = Arc::new(MemoryStore::new());
        let expected = run_over(&scenario(&plugin, false, logs.clone()), Chaos::CALM, seed, plain.clone());
        let scenario = scenario(&plugin, true, logs);
        let sharing = Arc::new(Sharing::new(&scenario.topology.keyed, None));
        let outcome = run_over(&scenario, Chaos::WILD, seed, sharing.clone());
        for (found, expected) in outcome.committed.into_iter().zip(expected.committed) {
            let sorted = |mut outputs: Vec<_>| {
                outputs.sort();
                outputs
            };
            assert_eq!(sorted(found), sorted(expected), "seed {seed}");
        }
        let mut expected = state(&*plain);
        // A message that can't be folded leaves an empty list where nothing is shared.
        expected.retain(|_, list| !list.is_empty());
        assert_eq!(state(&*sharing), expected, "seed {seed}");
    }
}

#[test]
fn what_is_stored_is_exact_whatever_others_put_to_it() {
    for seed in 0..seeds() / 4 {
        let logs = random_logs(&mut Seeded::new(seed ^ 0xA5A5));
        let plain = Arc::new(MemoryStore::new());
        let _ = run_over(&scenario(&count(), false, logs.clone()), Chaos::CALM, seed, plain.clone());
        // Each commit finds a million more a key: what this process put to it is in the lower digits.
        let scenario = scenario(&count(), true, logs);
        let others = Some("1000000");
        let sharing = Arc::new(Sharing::new(&scenario.topology.keyed, others));
        let outcome = run_over(&scenario, Chaos::WILD, seed, sharing.clone());
        let mut found = state(&*sharing);
        for value in found.values_mut() {
            assert!(count_of(value) > 1_000_000, "seed {seed}");
            *value = (count_of(value) % 1_000_000).to_string().into_bytes();
        }
        assert_eq!(found, state(&*plain), "seed {seed}");
        assert_eq!(outcome.committed[1], run(&scenario, Chaos::CALM, seed).committed[1], "seed {seed}");
    }
}

#[test]
fn what_others_put_to_it_is_seen_at_the_next_commit() {
    let spec = RunningSpec { name: "r".into(), aggregate: count().into(), compound_key: false, shared: true };
    let others = Some("100");
    let store = Arc::new(Sharing::new(&[KeyedSpec::Running(spec)], others));
    let steps = Steps::new().key_by(&["type"]).running("r", &count(), Order::Log).shared();
    let mut driver = Driver::with_store(steps, 1, 2, store);
    let numbers = |driver: &mut Driver, count: usize| -> Vec<String> {
        for _ in 0..count {
            driver.push(0, r#"{"id":"1","type":"a","timestamp":1,"payload":{}}"#);
        }
        driver.checkpoint();
        let text = |m: &serde_json::Value| m["metadata"]["scan"].as_str().unwrap().to_owned();
        driver.read().iter().map(text).collect()
    };
    assert_eq!(numbers(&mut driver, 2), ["1", "2"]);
    assert_eq!(numbers(&mut driver, 2), ["103", "104"]);
    driver.crash_and_restore(3);
    assert_eq!(numbers(&mut driver, 1), ["205"]);
}
