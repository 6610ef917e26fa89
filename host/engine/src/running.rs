//! A running aggregate in one lane: no window, an answer to each message.

use wasmill_frame::{Edit, EditsWriter};

use crate::aggregate::{Aggregator, Item, Unfolded};
use crate::batch::Batch;
use crate::guest::PluginRef;
use crate::hash::KeyMap;
use crate::key::key_group;
use crate::output::{Outbox, Routes};
use crate::stage::{Answer, Origins, apply};
use crate::state::{Delta, StateKind, StateStore, StoreError, group_prefix, running_key};
use crate::windowed::key_as_json;

/// A running aggregate of a pipeline.
#[derive(Clone)]
pub struct RunningSpec {
    /// The stage's name.
    pub name: std::sync::Arc<str>,
    /// The aggregate. With a `scan` it edits each message; without, each message's payload becomes
    /// `{key, value}` with the value after it, and its type `<stage>.running`.
    pub plugin: PluginRef,
    /// Whether keys are JSON arrays rather than plain texts.
    pub compound_key: bool,
}

struct Slot {
    accumulator: Vec<u8>,
    dirty: bool,
    touched: (u64, usize),
}

/// The running accumulators of one lane.
pub(crate) struct Running {
    spec: RunningSpec,
    stage: u16,
    key_groups: u16,
    aggregator: Aggregator,
    slots: KeyMap<Slot>,
    dirty: Vec<Box<[u8]>>,
    inputs: u64,
}

impl Running {
    pub fn new(spec: &RunningSpec, stage: u16, key_groups: u16) -> Self {
        Self {
            aggregator: Aggregator::new(&spec.name, &spec.plugin),
            spec: spec.clone(),
            stage,
            key_groups,
            slots: KeyMap::default(),
            dirty: Vec::new(),
            inputs: 0,
        }
    }

    /// Reads the accumulators of a key group back.
    pub fn restore(&mut self, store: &dyn StateStore, group: u16) -> Result<(), StoreError> {
        let prefix = group_prefix(StateKind::Running, self.stage, group);
        store.scan(&prefix, &mut |stored, accumulator| {
            let key = stored[prefix.len()..].into();
            self.slots.insert(key, Slot { accumulator: accumulator.to_vec(), dirty: false, touched: (0, 0) });
        })
    }

    /// Folds the messages in, and makes of each what goes on.
    pub fn run(&mut self, batch: &mut Batch, origins: Origins<'_>, routes: &Routes, out: &mut Outbox) {
        self.inputs += 1;
        let mut items: Vec<Item> = Vec::with_capacity(batch.len());
        let mut accumulators: Vec<Vec<u8>> = Vec::new();
        let mut touched: Vec<Box<[u8]>> = Vec::new();
        for (index, message) in batch.frame.view().iter().enumerate() {
            let key = message.key().unwrap_or_default();
            if !self.slots.contains_key(key) {
                let accumulator = self.aggregator.initial().to_vec();
                self.slots.insert(key.into(), Slot { accumulator, dirty: false, touched: (0, 0) });
            }
            let Some(slot) = self.slots.get_mut(key) else { continue };
            if slot.touched.0 != self.inputs {
                slot.touched = (self.inputs, accumulators.len());
                accumulators.push(std::mem::take(&mut slot.accumulator));
                if !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push(key.into());
                }
                touched.push(key.into());
            }
            items.push((index, slot.touched.1));
        }
        let mut answers = Vec::new();
        let unfolded = if self.aggregator.info().kinds.scan {
            self.aggregator.scan(batch, &items, &mut accumulators, &mut answers)
        } else {
            self.fold_each(batch, &items, &mut accumulators, &mut answers)
        };
        for (key, accumulator) in touched.iter().zip(accumulators) {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.accumulator = accumulator;
            }
        }
        answers.extend(unfolded.into_iter().map(|u| Answer::Failed {
            index: u.index,
            kind: u.kind,
            reason: u.reason,
            attempts: u.attempts,
        }));
        apply(batch, &answers, &self.spec.name, self.aggregator.info(), origins, routes, out);
    }

    /// Without a `scan`: folds in rounds of at most one message a key, and finishes after each.
    fn fold_each(
        &mut self,
        batch: &Batch,
        items: &[Item],
        accumulators: &mut [Vec<u8>],
        answers: &mut Vec<Answer>,
    ) -> Vec<Unfolded> {
        let mut unfolded = Vec::new();
        let mut values: Vec<Option<Result<Vec<u8>, String>>> = vec![None; batch.len()];
        let mut rounds: Vec<Vec<Item>> = Vec::new();
        let mut seen = vec![0usize; accumulators.len()];
        for &(index, accumulator) in items {
            let round = seen[accumulator];
            seen[accumulator] += 1;
            if rounds.len() == round {
                rounds.push(Vec::new());
            }
            rounds[round].push((index, accumulator));
        }
        for round in rounds {
            unfolded.extend(self.aggregator.fold(batch, &round, accumulators));
            let now: Vec<&[u8]> = round.iter().map(|(_, a)| accumulators[*a].as_slice()).collect();
            for ((index, _), value) in round.iter().zip(self.aggregator.finish(&now)) {
                values[*index] = Some(value.map_err(|(reason, _)| reason));
            }
        }
        let mut edits = EditsWriter::new(batch.len());
        let kind = format!("{}.running", self.spec.name);
        for failed in &unfolded {
            values[failed.index] = None;
        }
        for (index, value) in values.into_iter().enumerate() {
            match value {
                Some(Ok(value)) => {
                    let key = batch.frame.get(index).key().unwrap_or_default();
                    let key = key_as_json(key, self.spec.compound_key);
                    let mut payload = format!("{{\"key\":{key},\"value\":").into_bytes();
                    payload.extend_from_slice(&value);
                    payload.push(b'}');
                    edits.push(index, Edit::Payload(&payload));
                    edits.push(index, Edit::Kind(&kind));
                }
                Some(Err(reason)) => edits.push(index, Edit::Fail(&reason)),
                None => {}
            }
        }
        answers.push(Answer::Edits { range: 0..batch.len(), bytes: edits.finish(), emits: false });
        unfolded
    }

    /// What the epoch has changed.
    pub fn take_delta(&mut self, delta: &mut Delta) {
        for key in self.dirty.drain(..) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            slot.dirty = false;
            let stored = running_key(self.stage, key_group(&key, self.key_groups), &key);
            delta.changes.push((stored, Some(slot.accumulator.clone())));
        }
    }
}
