//! Random logs, the stages that tests put behind them, and what the rules of time and order make of them,
//! with no code of the engine's.
#![allow(clippy::unwrap_used, reason = "outputs that are no messages fail the test that looks at them")]

use std::sync::Arc;

use wasmill_connect::codec::json::JsonDecoder;
use wasmill_engine::guest::{AggregateInfo, CallError, PluginRef};
use wasmill_engine::key::{KeySpec, OnNull, Path};
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::output::Takes;
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::topology::{Order, Topology, Via};
use wasmill_frame::Edit;

use crate::native::{self, AggregateFns};
use crate::parts::{Output, sink};
use crate::simulator::{Scenario, Seeded};

/// A message of a random log, as the reference sees it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its event time.
    pub time: i64,
    /// Its key.
    pub key: String,
    /// "a" passes; "drop" is filtered; "twice" is dropped with two others emitted in its place, the second
    /// one 5 ms later; "aside" leaves by the output `side`; "trap" traps the plugin; "bad" is no message;
    /// "poison" passes, but [`list_of_ids`] can't fold it.
    pub kind: &'static str,
    /// Its number in all the logs.
    pub number: usize,
}

/// What may happen to a message before it is stamped.
const KINDS: [&str; 6] = ["drop", "twice", "aside", "trap", "bad", "late-edit"];

/// Random logs, in which so many of a thousand messages are odd.
pub fn random_logs(random: &mut Seeded, odd_per_mille: usize) -> Vec<Vec<Sent>> {
    let partitions = 1 + random.below(6);
    let disorder = [0, 3, 40, 400][random.below(4)];
    let keys = 1 + random.below(5);
    let mut number = 0;
    (0..partitions)
        .map(|_| {
            let mut now = random.below(50);
            (0..random.below(40))
                .map(|_| {
                    now += random.below(12);
                    number += 1;
                    let kind =
                        if random.chance(odd_per_mille) { KINDS[random.below(KINDS.len())] } else { "a" };
                    let time = now.saturating_sub(random.below(disorder + 1)) as i64;
                    Sent { time, key: format!("k{}", random.below(keys)), kind, number }
                })
                .collect()
        })
        .collect()
}

/// The message as a line of its log.
#[must_use]
pub fn line(sent: &Sent) -> String {
    if sent.kind == "bad" {
        return format!("{{\"id\":\"{}\",\"type\":\"a\",\"payload\":", sent.number);
    }
    format!(
        "{{\"id\":\"m{n}\",\"type\":\"{}\",\"timestamp\":{},\"payload\":{{\"k\":\"{}\",\"n\":{n}}},\"metadata\":{{}}}}",
        sent.kind,
        sent.time,
        sent.key,
        n = sent.number
    )
}

/// Does what the message's type says.
#[must_use]
pub fn odd_transform() -> Arc<StageSpec> {
    let plugin = native::transform("odd", |index, message, edits, _| {
        match message.kind() {
            "twice" => {
                edits.push(index, Edit::Drop);
                edits.push(index, Edit::Emit { copy: true });
                edits.push(index, Edit::Id("first"));
                edits.push(index, Edit::Emit { copy: true });
                edits.push(index, Edit::Id("second"));
                edits.push(index, Edit::Timestamp(message.timestamp() + 5));
            }
            "aside" => edits.push(index, Edit::Output("side")),
            "late-edit" => edits.push(index, Edit::Timestamp(message.timestamp() + 100)),
            "trap" => return Err(CallError::Trap(format!("panic on {}", message.id()))),
            _ => {}
        }
        Ok(())
    });
    Arc::new(StageSpec { name: "odd".into(), kind: StageKind::Transform, plugin })
}

/// Drops a firing and emits three in its place; one leaves by the output `side`.
#[must_use]
pub fn every_firing_thrice() -> Arc<StageSpec> {
    let plugin = native::transform("thrice", |index, _, edits, _| {
        edits.push(index, Edit::Drop);
        for kind in ["one", "two", "three"] {
            edits.push(index, Edit::Emit { copy: true });
            edits.push(index, Edit::Kind(kind));
        }
        edits.push(index, Edit::Emit { copy: true });
        edits.push(index, Edit::Output("side"));
        Ok(())
    });
    Arc::new(StageSpec { name: "thrice".into(), kind: StageKind::Transform, plugin })
}

/// Drops what the message's type says.
#[must_use]
pub fn drop_filter() -> Arc<StageSpec> {
    let plugin = native::filter("drop", |m| m.kind() != "drop");
    Arc::new(StageSpec { name: "drop".into(), kind: StageKind::Filter, plugin })
}

/// An aggregate that tells every message in order: nothing can be swapped, lost or doubled unseen. It can't fold what
/// is of the type `poison`.
#[must_use]
pub fn list_of_ids(scan: bool, trap_on: Option<&'static str>) -> PluginRef {
    let fns = AggregateFns {
        info: AggregateInfo { commutative: false, state_version: 1, initial: Vec::new() },
        fold: |accumulator, message| {
            if message.kind() == "poison" {
                return Err("it is poison".to_owned());
            }
            accumulator.extend_from_slice(format!("{}@{},", message.id(), message.timestamp()).as_bytes());
            Ok(())
        },
        merge: |left, right| left.extend_from_slice(right),
        finish: |accumulator| serde_json::Value::from(String::from_utf8_lossy(accumulator)).to_string(),
        scan: scan.then_some(|accumulator| String::from_utf8_lossy(accumulator).into_owned()),
    };
    native::aggregate("list", fns, trap_on)
}

/// Odd stages, a key, and these stages behind it.
#[must_use]
pub fn topology(keyed: Vec<KeyedSpec>, order: Order) -> Topology {
    Topology {
        decoders: vec![Arc::new(JsonDecoder)],
        time: None,
        max_ahead: None,
        prefix: vec![drop_filter(), odd_transform()],
        key: Some(KeySpec { paths: vec![Path::Payload(vec!["k".to_owned()])], on_null: OnNull::default() }),
        keyed,
        order,
        idle_marks: false,
        shared: false,
        key_groups: 16,
        via: Via::Memory,
    }
}

/// A pipeline over logs, with sinks for results, dead letters and the output `side`.
#[must_use]
pub fn scenario(topology: Topology, logs: &[Vec<Sent>]) -> Scenario {
    Scenario {
        topology,
        sinks: vec![sink(Takes::Main), sink(Takes::DeadLetters), sink(Takes::Named("side".into()))],
        logs: logs.iter().map(|log| log.iter().map(line).collect()).collect(),
    }
}

/// A result of the stateless stages, with the place that orders it.
pub struct Placed {
    /// Stamp, partition, offset, index.
    pub order: (i64, usize, usize, usize),
    /// Its event time.
    pub time: i64,
    /// Its key.
    pub key: String,
    /// Its id.
    pub id: String,
    /// Whether it can't be folded.
    pub poison: bool,
}

/// What the windows see, by the letter of the rules: stamps partition by partition, then one order.
#[must_use]
pub fn virtual_log(logs: &[Vec<Sent>]) -> Vec<Placed> {
    let mut all = Vec::new();
    for (partition, log) in logs.iter().enumerate() {
        let mut stream_time = i64::MIN;
        for (offset, sent) in log.iter().enumerate() {
            let id = format!("m{}", sent.number);
            let mut results: Vec<(i64, String)> = Vec::new();
            match sent.kind {
                "bad" => continue,
                "twice" => {
                    stream_time = stream_time.max(sent.time);
                    results = vec![(sent.time, "first".into()), (sent.time + 5, "second".into())];
                }
                "late-edit" => results.push((sent.time + 100, id)),
                "a" | "poison" => results.push((sent.time, id)),
                _ => stream_time = stream_time.max(sent.time),
            }
            for (index, (time, id)) in results.into_iter().enumerate() {
                stream_time = stream_time.max(time);
                all.push(Placed {
                    order: (stream_time, partition, offset, index),
                    time,
                    key: sent.key.clone(),
                    id,
                    poison: sent.kind == "poison",
                });
            }
        }
    }
    all.sort_by_key(|p| p.order);
    all
}

/// The payloads of outputs.
///
/// # Panics
/// When one is no message.
#[must_use]
pub fn payloads(outputs: &[Output]) -> Vec<serde_json::Value> {
    outputs
        .iter()
        .map(|o| serde_json::from_str::<serde_json::Value>(&o.line).unwrap()["payload"].take())
        .collect()
}

/// The ids of outputs, sorted.
///
/// # Panics
/// When one is no message.
#[must_use]
pub fn ids(outputs: &[Output]) -> Vec<String> {
    let mut ids: Vec<String> = outputs
        .iter()
        .map(|o| {
            serde_json::from_str::<serde_json::Value>(&o.line).unwrap()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    ids.sort();
    ids
}
