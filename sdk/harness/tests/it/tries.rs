//! How often a message is tried, and what a guest is told of what became of it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use wasmill_connect::codec::json::JsonDecoder;
use wasmill_connect::store::MemoryStore;
use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{
    CallContext, CallError, Guest, GuestInfo, Judged, Plugin, PluginRef, Trial, Tries,
};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::output::{Outbox, Routes, Takes};
use wasmill_engine::plugin_state::{CACHE_BYTES_MAX, PluginState};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Stage, StageKind, StageSpec};
use wasmill_engine::topology::Topology;
use wasmill_frame::{Edit, FrameBuf};
use wasmill_harness::native;
use wasmill_harness::parts::{outputs, sink};
use wasmill_harness::simulator::Seeded;

const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

/// What guests were told.
#[derive(Debug, Default)]
struct Told {
    /// How many messages failed in a row, as a breaker would count them.
    failed_in_a_row: usize,
    pauses: Vec<u32>,
    /// The most messages of one call.
    messages_max: usize,
}

/// A plugin that is tried so often, and notes what its guests are told.
struct Tried {
    inner: PluginRef,
    tries: Tries,
    told: Arc<Mutex<Told>>,
}

struct TriedGuest {
    inner: Box<dyn Guest>,
    told: Arc<Mutex<Told>>,
}

impl Plugin for Tried {
    fn info(&self) -> &GuestInfo {
        self.inner.info()
    }
    fn guest(&self) -> Box<dyn Guest> {
        Box::new(TriedGuest { inner: self.inner.guest(), told: Arc::clone(&self.told) })
    }
    fn tries(&self) -> Tries {
        self.tries
    }
}

type Answer = Result<Vec<u8>, CallError>;

impl Guest for TriedGuest {
    fn around(&mut self) -> Option<&mut dyn Guest> {
        Some(self.inner.as_mut())
    }
    fn pause(&mut self, tried: u32) {
        self.told.lock().unwrap().pauses.push(tried);
    }
    fn judged(&mut self, judged: Judged) {
        let mut told = self.told.lock().unwrap();
        if judged.passed {
            told.failed_in_a_row = 0;
        }
        told.failed_in_a_row += judged.failed;
    }
    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Answer {
        let messages = wasmill_frame::Frame::parse(frame).unwrap().len();
        let mut told = self.told.lock().unwrap();
        told.messages_max = told.messages_max.max(messages);
        drop(told);
        self.inner.transform(frame, cx, trial)
    }
}

/// Counts the messages of a key in its state, then fails in the way that the message's type says, as often as its
/// metadata does: `trap` without an answer, `error` by one.
fn counts_and_fails(tries: Tries) -> (PluginRef, Arc<Mutex<Told>>) {
    let failed: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let inner = native::transform("counts", move |index, message, edits, cx| {
        let state = cx.state.as_mut().unwrap();
        let at = u32::try_from(index).unwrap();
        let before = state.get(at, "n").map_err(CallError::Refused)?.map_or(0, |n| n[0]);
        state.set(at, "n", Some(&[before + 1]), None).map_err(CallError::Refused)?;
        let times =
            message.metadata().get("times").map_or("0", |times| std::str::from_utf8(times.value).unwrap());
        let times: u64 = times.parse().unwrap();
        let mut failed = failed.lock().unwrap();
        let so_far = failed.entry(message.id().to_owned()).or_default();
        if *so_far < times {
            *so_far += 1;
            match message.kind() {
                "trap" => return Err(CallError::Trap("asked to".to_owned())),
                _ => edits.push(index, Edit::Fail("asked to")),
            }
        } else {
            let value = [b'0' + before + 1];
            edits.push(index, Edit::SetMetadata { name: "n", value: &value, json: false });
        }
        Ok(())
    });
    let told = Arc::<Mutex<Told>>::default();
    (Arc::new(Tried { inner, tries, told: Arc::clone(&told) }), told)
}

fn message(id: usize, kind: &str, times: u64) -> String {
    format!(
        r#"{{"id":"{id}","type":"{kind}","timestamp":{id},"payload":{{"k":"a"}},"metadata":{{"times":"{times}"}}}}"#
    )
}

/// What passed with its count, and what is dead with its attempts.
type Ran = (Vec<(String, String)>, Vec<(String, u64)>);

/// Puts messages of one key through a stage, all in one batch; answers what passed with its count, and what is dead
/// with its attempts.
fn run(plugin: &PluginRef, messages: &[String]) -> Ran {
    let mut frame = FrameBuf::default();
    let mut batch = Batch::with_capacity(PARTITION, messages.len() as u64, messages.len(), 0);
    for (i, message) in messages.iter().enumerate() {
        let raw = RawBatch::of_value(message.as_bytes());
        JsonDecoder.decode(&raw.records[0], &raw, &mut frame).unwrap();
        frame.set_key(i, Some(b"a"));
        batch.push(&frame.get(i).parts(), i as u64);
    }
    let groups = (0..Topology::KEY_GROUPS, Topology::KEY_GROUPS);
    let state = PluginState::new(0, groups, Arc::new(MemoryStore::new()), CACHE_BYTES_MAX);
    let spec = Arc::new(StageSpec { name: "s".into(), kind: StageKind::Transform, plugin: plugin.clone() });
    let mut stage = Stage::with_state(&spec, Arc::new(Mutex::new(state)));
    let routes = Routes::new(vec![sink(Takes::DeadLetters)], BTreeMap::new());
    let mut out = Outbox::new(&routes);
    stage.run(&mut batch, Origins::Source, &routes, &mut out);
    let passed = (0..batch.len()).map(|i| {
        let message = batch.frame.get(i);
        let n = message.metadata().get("n").unwrap().value;
        (message.id().to_owned(), String::from_utf8_lossy(n).into_owned())
    });
    let dead = outputs(&out.sinks[0]).map(|output| {
        let payload = &serde_json::from_str::<serde_json::Value>(&output.line).unwrap()["payload"];
        let id = payload["message"]["id"].as_str().unwrap().to_owned();
        (id, payload["attempts"].as_u64().unwrap())
    });
    (passed.collect(), dead.collect())
}

fn pairs<T: Clone>(of: &[(&str, T)]) -> Vec<(String, T)> {
    of.iter().map(|(id, value)| ((*id).to_owned(), value.clone())).collect()
}

#[test]
fn a_message_that_passes_at_last_counts_once_and_one_that_does_not_leaves_no_trace() {
    let on = |traps, errors| Tries { alone: 3, traps, errors };
    let n = |of: &[(&str, &str)]| -> Vec<(String, String)> {
        of.iter().map(|(id, n)| ((*id).to_owned(), (*n).to_owned())).collect()
    };
    for (kind, tries) in [("trap", on(true, false)), ("error", on(false, true)), ("trap", on(true, true))] {
        // Among others, alone beside them, and three times on a new instance: the last one passes.
        let messages: Vec<String> = [0, 3, 0, 99, 0]
            .iter()
            .enumerate()
            .map(|(id, times)| message(id, if *times == 0 { "fine" } else { kind }, *times))
            .collect();
        let (plugin, told) = counts_and_fails(tries);
        let (passed, dead) = run(&plugin, &messages);
        let told = told.lock().unwrap();
        assert!(told.messages_max > 1, "{kind}: they came together");
        assert_eq!(passed, n(&[("0", "1"), ("1", "2"), ("2", "3"), ("4", "4")]), "{kind}");
        assert_eq!(dead, pairs(&[("3", 4)]), "{kind}");
        assert!(told.pauses.ends_with(&[1, 2]), "{kind}: {:?}", told.pauses);
    }
}

#[test]
fn what_is_not_asked_for_is_not_tried_again() {
    let messages = [message(0, "fine", 0), message(1, "trap", 99), message(2, "error", 99)];
    for (tries, attempts) in [
        (Tries::default(), [2, 1]),
        (Tries { alone: 5, traps: true, errors: false }, [6, 1]),
        (Tries { alone: 5, traps: false, errors: true }, [2, 6]),
        (Tries { alone: 1, traps: true, errors: true }, [2, 1]),
    ] {
        let (plugin, told) = counts_and_fails(tries);
        let (_, dead) = run(&plugin, &messages);
        assert_eq!(dead, pairs(&[("1", attempts[0]), ("2", attempts[1])]), "{tries:?}");
        let pauses = attempts.iter().map(|n| n.saturating_sub(2)).sum::<u64>();
        assert_eq!(told.lock().unwrap().pauses.len() as u64, pauses, "{tries:?}");
    }
}

/// However messages come together, a guest is told of as many failures in a row as there were.
#[test]
fn a_guest_is_told_how_many_failed_in_a_row() {
    for seed in 0..300 {
        let mut random = Seeded::new(seed);
        let kinds: Vec<&str> =
            (0..=random.below(12)).map(|_| ["fine", "trap", "error"][random.below(3)]).collect();
        let messages: Vec<String> = kinds
            .iter()
            .enumerate()
            .map(|(id, kind)| message(id, kind, if *kind == "fine" { 0 } else { 99 }))
            .collect();
        let tries = Tries { alone: 1 + random.below(2) as u32, traps: true, errors: random.below(2) == 0 };
        let (plugin, told) = counts_and_fails(tries);
        let (passed, dead) = run(&plugin, &messages);
        assert_eq!(passed.len() + dead.len(), kinds.len(), "seed {seed}");
        let expected = kinds.iter().rev().take_while(|kind| **kind != "fine").count();
        assert_eq!(told.lock().unwrap().failed_in_a_row, expected, "seed {seed}: {kinds:?} {tries:?}");
    }
}
