//! What a stage may be answered: how much about all results of one message, and how much before it goes on with a part.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{
    AnswerBounds, CallContext, CallError, Guest, GuestInfo, Plugin, PluginRef, Trial,
};
use wasmill_engine::output::{Outbox, Routes, Takes};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Remaining, Stage, StageKind, StageSpec};
use wasmill_frame::{Edit, Frame, Parts};
use wasmill_harness::native;
use wasmill_harness::parts::{outputs, sink};
use wasmill_harness::simulator::Seeded;

const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };
const RESULTS_BYTES_MAX: usize = 1_000;
/// What an edit takes up beside its bytes.
const EDIT_BYTES: usize = 16;

/// Makes each payload as long as it says, and traps where it is given more than so many messages at once.
struct Swells {
    inner: PluginRef,
    at_once: usize,
}

struct SwellsGuest {
    inner: Box<dyn Guest>,
    at_once: usize,
}

impl Swells {
    fn plugin(at_once: usize) -> PluginRef {
        let inner = native::transform("swells", |index, message, edits, _| {
            let to: usize = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
            edits.push(index, Edit::Payload(&vec![b'x'; to]));
            Ok(())
        });
        Arc::new(Self { inner, at_once })
    }
}

impl Plugin for Swells {
    fn info(&self) -> &GuestInfo {
        self.inner.info()
    }
    fn guest(&self) -> Box<dyn Guest> {
        Box::new(SwellsGuest { inner: self.inner.guest(), at_once: self.at_once })
    }
    fn bounds(&self) -> AnswerBounds {
        AnswerBounds { results_bytes_max: RESULTS_BYTES_MAX, ..AnswerBounds::default() }
    }
}

impl Guest for SwellsGuest {
    fn around(&mut self) -> Option<&mut dyn Guest> {
        Some(self.inner.as_mut())
    }
    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        match Frame::parse(frame).unwrap().len() {
            n if n > self.at_once => Err(CallError::Trap(format!("{n} at once"))),
            _ => self.inner.transform(frame, cx, trial),
        }
    }
}

/// A message: the offset of that of which it is a result, and what its payload is made to.
type Asked = (u64, usize);

fn batch(asked: &[Asked]) -> Batch {
    let mut batch = Batch::with_capacity(PARTITION, 100, asked.len(), 0);
    for (number, (offset, to)) in asked.iter().enumerate() {
        let (id, payload) = (format!("{offset}-{number}"), to.to_string());
        let parts = Parts {
            id: &id,
            kind: "t",
            key: None,
            payload: payload.as_bytes(),
            timestamp: 0,
            metadata: b"",
            payload_is_json: true,
        };
        batch.push(&parts, *offset);
    }
    batch
}

/// Runs a stage, in parts of about `room`; gives the lengths of what passed, by id, and the ids of what didn't.
fn run(at_once: usize, room: usize, asked: &[Asked]) -> (Vec<(String, usize)>, Vec<String>) {
    let spec = StageSpec { name: "s".into(), kind: StageKind::Transform, plugin: Swells::plugin(at_once) };
    let mut stage = Stage::new(&Arc::new(spec));
    let routes = Routes::new(vec![sink(Takes::DeadLetters)], BTreeMap::new());
    let mut out = Outbox::new(&routes);
    let (mut passed, mut rest) = (Vec::new(), Some(batch(asked)));
    let mut asked_at_once = usize::MAX;
    while let Some(mut batch) = rest {
        let left = stage.run_some(&mut batch, Origins::Source, (room, asked_at_once), &routes, &mut out);
        let messages = (0..batch.len()).map(|i| batch.frame.get(i));
        passed.extend(messages.map(|message| (message.id().to_owned(), message.payload().len())));
        if let Some(Remaining { batch: behind, behind: last, .. }) = &left {
            assert!(behind.rows.iter().all(|row| row.offset > *last), "results of one message stay together");
        }
        (rest, asked_at_once) = match left {
            Some(left) => (Some(left.batch), left.at_once),
            None => (None, usize::MAX),
        };
    }
    let dead = outputs(&out.sinks[0]).map(|output| {
        let letter: serde_json::Value = serde_json::from_str(&output.line).unwrap();
        let reason = letter["payload"]["reason"].as_str().unwrap();
        assert!(reason.contains("about all results of one message together: `limits.answer`"), "{reason}");
        letter["id"].as_str().unwrap().to_owned()
    });
    let dead = dead.collect();
    (passed, dead)
}

/// Of each message's results those pass that have room behind those before that passed; the first always has.
fn expected(asked: &[Asked]) -> (Vec<(String, usize)>, Vec<String>) {
    let mut taken: BTreeMap<u64, usize> = BTreeMap::new();
    let (mut passed, mut dead) = (Vec::new(), Vec::new());
    for (number, (offset, to)) in asked.iter().enumerate() {
        let (id, bytes) = (format!("{offset}-{number}"), to + EDIT_BYTES);
        let taken = taken.entry(*offset).or_default();
        if *taken == 0 || *taken + bytes <= RESULTS_BYTES_MAX {
            *taken += bytes;
            passed.push((id, *to));
        } else {
            dead.push(id);
        }
    }
    (passed, dead)
}

#[test]
fn results_of_one_message_are_bounded_however_they_are_asked_about() {
    for seed in 0..400 {
        let mut random = Seeded::new(seed);
        let mut asked = Vec::new();
        for offset in 0..1 + random.below(4) as u64 {
            for _ in 0..1 + random.below(7) {
                let most = [10, 400, 1_500][random.below(3)];
                asked.push((offset, random.below(most)));
            }
        }
        let expected = expected(&asked);
        for at_once in [1, 2, 3, 5, 100] {
            let room = [1, 300, 2_000, usize::MAX][random.below(4)];
            let ran = run(at_once, room, &asked);
            assert_eq!(ran, expected, "seed {seed}: {at_once} at once, {room} bytes of room: {asked:?}");
        }
    }
}
