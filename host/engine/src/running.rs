//! A running aggregate in one lane: no window, an answer to each message.
//!
//! Where several processes share its totals, a lane's accumulator is what the store had after the lane's
//! last commit, and on top of it what is not committed yet. Beside it the lane folds what each epoch puts
//! to a key by itself: the store merges that into what it has, whoever wrote it, so that what is stored is
//! exact. What others have added is seen at the next commit of that key.

use std::collections::VecDeque;

use wasmill_frame::{Edit, EditsWriter};

use crate::aggregate::{Aggregate, Aggregator, Item, Unfolded};
use crate::batch::Batch;
use crate::hash::KeyMap;
use crate::key::key_group;
use crate::output::{Outbox, Routes};
use crate::stage::{Answer, Origins, apply};
use crate::state::{
    Change, Delta, Epoch, Share, StateKind, StateStore, StoreError, group_prefix, running_key, stage_of,
};
use crate::windowed::key_as_json;

/// A running aggregate of a pipeline.
#[derive(Clone)]
pub struct RunningSpec {
    /// The stage's name.
    pub name: std::sync::Arc<str>,
    /// The aggregate. With a `scan` it edits each message; without, each message's payload becomes
    /// `{key, value}` with the value after it, and its type `<stage>.running`.
    pub aggregate: Aggregate,
    /// Whether keys are JSON arrays rather than plain texts.
    pub compound_key: bool,
    /// Whether other processes put to the same totals: the aggregate must be commutative, and the store
    /// one that merges shares and tells [`StateStore::merged`].
    pub shared: bool,
}

struct Slot {
    accumulator: Vec<u8>,
    dirty: bool,
    touched: (u64, usize),
    /// Of a shared key: what the store doesn't have yet.
    uncommitted: Option<Box<Uncommitted>>,
}

impl Slot {
    fn new(accumulator: Vec<u8>) -> Self {
        Self { accumulator, dirty: false, touched: (0, 0), uncommitted: None }
    }
}

/// What a lane has put to a shared key since the store's last value of it.
#[derive(Default)]
struct Uncommitted {
    /// By epoch that is not committed yet, oldest first: the accumulator of its messages alone.
    in_flight: VecDeque<(Epoch, Vec<u8>)>,
    /// The same of the open epoch, once it took a message.
    open: Option<Vec<u8>>,
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
            aggregator: Aggregator::new(&spec.name, &spec.aggregate),
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
            self.slots.insert(key, Slot::new(accumulator.to_vec()));
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
                self.slots.insert(key.into(), Slot::new(accumulator));
            }
            let Some(slot) = self.slots.get_mut(key) else { continue };
            if slot.touched.0 != self.inputs {
                slot.touched = (self.inputs, accumulators.len());
                accumulators.push(std::mem::take(&mut slot.accumulator));
                if !slot.dirty && !self.spec.shared {
                    slot.dirty = true;
                    self.dirty.push(key.into());
                }
                touched.push(key.into());
            }
            items.push((index, slot.touched.1));
        }
        let mut answers = Vec::new();
        let mut unfolded = if self.aggregator.scans() {
            self.aggregator.scan(batch, origins, &items, &mut accumulators, &mut answers)
        } else {
            self.fold_each(batch, origins, &items, &mut accumulators, &mut answers)
        };
        for (key, accumulator) in touched.iter().zip(accumulators) {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.accumulator = accumulator;
            }
        }
        if self.spec.shared {
            items.retain(|(index, _)| !unfolded.iter().any(|u| u.index == *index));
            unfolded.extend(self.fold_apart(batch, origins, &items, &touched));
        }
        answers.extend(unfolded.into_iter().map(|u| Answer::Failed {
            index: u.index,
            kind: u.kind,
            reason: u.reason,
            attempts: u.attempts,
        }));
        apply(batch, &answers, &self.spec.name, self.aggregator.plugin(), origins, routes, out);
    }

    /// Folds the messages that were taken once more, into what the open epoch alone puts to their keys.
    fn fold_apart(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[Item],
        touched: &[Box<[u8]>],
    ) -> Vec<Unfolded> {
        let mut took = vec![false; touched.len()];
        for (_, accumulator) in items {
            took[*accumulator] = true;
        }
        let mut shares = Vec::with_capacity(touched.len());
        for key in touched {
            let uncommitted = self.slots.get_mut(key).and_then(|slot| slot.uncommitted.as_mut());
            let share = uncommitted.and_then(|uncommitted| uncommitted.open.take());
            shares.push(share.unwrap_or_else(|| self.aggregator.initial().to_vec()));
        }
        let unfolded = self.aggregator.fold(batch, origins, items, &mut shares);
        for ((key, share), took) in touched.iter().zip(shares).zip(took) {
            let Some(slot) = self.slots.get_mut(key) else { continue };
            if !took && !slot.dirty {
                continue;
            }
            slot.uncommitted.get_or_insert_default().open = Some(share);
            if !slot.dirty {
                slot.dirty = true;
                self.dirty.push(key.clone());
            }
        }
        unfolded
    }

    /// Without a `scan`: folds in rounds of at most one message a key, and finishes after each.
    fn fold_each(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
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
            unfolded.extend(self.aggregator.fold(batch, origins, &round, accumulators));
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
    pub fn take_delta(&mut self, epoch: Epoch, delta: &mut Delta) {
        for key in self.dirty.drain(..) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            slot.dirty = false;
            let mut share = None;
            if let Some(uncommitted) = &mut slot.uncommitted
                && let Some(open) = uncommitted.open.take()
            {
                uncommitted.in_flight.push_back((epoch, open.clone()));
                share = Some(Share::Accumulator(open));
            }
            let stored = running_key(self.stage, key_group(&key, self.key_groups), &key);
            delta.changes.push(Change { key: stored, value: Some(slot.accumulator.clone()), share });
        }
    }

    /// An epoch is in the store, which merged its shared keys with what others have put to them: goes on
    /// from what is stored, with what is not committed yet on top.
    pub fn committed(&mut self, epoch: Epoch, merged: &[(Vec<u8>, Vec<u8>)]) {
        if !self.spec.shared {
            return;
        }
        let prefix_bytes = group_prefix(StateKind::Running, self.stage, 0).len();
        let mut bases: Vec<(&[u8], Vec<u8>)> = Vec::new();
        for (stored, value) in merged.iter().filter(|(stored, _)| stage_of(stored) == Some(self.stage)) {
            let Some(key) = stored.get(prefix_bytes..) else { continue };
            let Some(slot) = self.slots.get_mut(key) else { continue };
            if let Some(uncommitted) = &mut slot.uncommitted {
                uncommitted.in_flight.retain(|(of, _)| *of > epoch);
                if uncommitted.in_flight.is_empty() && uncommitted.open.is_none() {
                    slot.uncommitted = None;
                }
            }
            bases.push((key, value.clone()));
        }
        // In rounds of at most one share a key, so that a round is one call of the plugin.
        for round in 0.. {
            let share_of = |key: &[u8]| self.slots.get(key)?.uncommitted.as_ref()?.share(round);
            let due: Vec<(usize, &[u8])> =
                bases.iter().enumerate().filter_map(|(i, (key, _))| Some((i, share_of(key)?))).collect();
            if due.is_empty() {
                break;
            }
            let pairs: Vec<(&[u8], &[u8])> = due.iter().map(|(i, s)| (bases[*i].1.as_slice(), *s)).collect();
            let values = self.aggregator.merge(&pairs);
            let places: Vec<usize> = due.iter().map(|(i, _)| *i).collect();
            for (i, value) in places.into_iter().zip(values) {
                // The plugin can't merge: the lane goes on from what it has itself. What is stored is the
                // store's merge, which then fails, and stops the pipeline.
                match value {
                    Ok(value) => bases[i].1 = value,
                    Err(_) => {
                        if let Some(slot) = self.slots.get(bases[i].0) {
                            bases[i].1.clone_from(&slot.accumulator);
                        }
                    }
                }
            }
        }
        for (key, value) in bases {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.accumulator = value;
            }
        }
    }
}

impl Uncommitted {
    /// The share of the `n`-th epoch that is not committed yet, the open one last.
    fn share(&self, n: usize) -> Option<&[u8]> {
        let open = || self.open.as_ref().filter(|_| n == self.in_flight.len());
        self.in_flight.get(n).map(|(_, share)| share).or_else(open).map(Vec::as_slice)
    }
}
