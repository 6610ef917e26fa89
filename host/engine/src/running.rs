//! A running aggregate in one lane: no window, an answer to each message.
//!
//! Where several processes share its totals, a lane's accumulator is what the store had after the lane's
//! last commit, and on top of it what is not committed yet. Beside it the lane folds what each epoch puts
//! to a key by itself: the store merges that into what it has, whoever wrote it, so that what is stored is
//! exact. What others have added is seen at the next commit of that key.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use wasmill_frame::{Edit, EditsWriter};

use crate::aggregate::{Aggregate, Aggregator, Item, Unfolded};
use crate::answer::{Answer, apply};
use crate::batch::Batch;
use crate::lane::{GROWN_BYTES_MAX, overgrown};
use crate::output::{Outbox, Routes};
use crate::residents::{Head, Place, Resident, Residents};
use crate::stage::{Origins, unreadable};
use crate::state::{
    Change, Delta, Epoch, Share, StateKind, StateStore, StoreError, group_prefix, running_key, stage_of,
};
use crate::stored_key::PREFIX_BYTES;
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

#[derive(Default)]
struct Slot {
    head: Head,
    accumulator: Vec<u8>,
    /// The last input that had a message of it, and which of the touched ones it was there.
    touched: (u64, usize),
    /// Of a shared key: what the store doesn't have yet.
    uncommitted: Option<Box<Uncommitted>>,
}

impl Resident for Slot {
    fn head(&self) -> &Head {
        &self.head
    }
    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }
    fn heap_bytes(&self) -> usize {
        self.accumulator.capacity()
    }
    fn may_leave(&self) -> bool {
        self.uncommitted.is_none()
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
    store: Arc<dyn StateStore>,
    aggregator: Aggregator,
    slots: Residents<Slot>,
    /// Whether the store may have keys that are not in memory.
    lacks_keys: bool,
    inputs: u64,
    keeps_keys: bool,
    made_bytes: usize,
}

impl Running {
    /// No accumulators yet; at most about `bytes_max` bytes of those of the store are in memory.
    pub fn new(
        spec: &RunningSpec,
        stage: u16,
        key_groups: u16,
        store: &Arc<dyn StateStore>,
        bytes_max: usize,
    ) -> Self {
        Self {
            aggregator: Aggregator::new(&spec.name, &spec.aggregate),
            spec: spec.clone(),
            stage,
            store: Arc::clone(store),
            slots: Residents::new(key_groups, bytes_max),
            lacks_keys: false,
            inputs: 0,
            keeps_keys: false,
            made_bytes: 0,
        }
    }

    /// Says whether its plugin may give no message another key.
    pub fn keep_keys(&mut self, keeps_keys: bool) {
        self.keeps_keys = keeps_keys;
        self.aggregator.keep_keys(keeps_keys);
    }

    /// Another aggregate does what comes; the accumulators stay.
    pub fn swap(&mut self, spec: &RunningSpec) {
        self.aggregator = Aggregator::new(&spec.name, &spec.aggregate);
        self.aggregator.keep_keys(self.keeps_keys);
        self.spec = spec.clone();
    }

    /// As of a [`crate::stage::Stage`].
    pub fn begin_step(&mut self) {
        self.made_bytes = 0;
        self.aggregator.begin_step();
    }

    /// As of a [`crate::stage::Stage`].
    pub fn made_bytes(&self) -> usize {
        self.made_bytes.max(self.aggregator.made_bytes())
    }

    /// Reads the accumulators of a key group back, as many as have room; where the store would be long at it,
    /// none before they are asked for.
    pub fn restore(&mut self, group: u16) -> Result<(), StoreError> {
        let prefix = group_prefix(StateKind::Running, self.stage, group);
        let (slots, lacks_keys) = (&mut self.slots, &mut self.lacks_keys);
        let key = |stored: &[u8]| stored[prefix.len()..].to_vec();
        if !slots.is_bounded() {
            return self.store.scan(&prefix, &mut |stored, value| put_stored(slots, &key(stored), value));
        }
        if !self.store.is_ordered() {
            *lacks_keys = true;
            return Ok(());
        }
        self.store.entries(&prefix, None, &mut |stored, value| {
            if !slots.may_restore() {
                *lacks_keys = true;
                return ControlFlow::Break(());
            }
            put_stored(slots, &key(stored), value);
            ControlFlow::Continue(())
        })
    }

    /// Brings the accumulators back that a batch's messages go to, where they left.
    fn bring_back(&mut self, batch: &Batch) {
        let keys = batch.frame.view().iter().map(|message| message.key().unwrap_or_default());
        let mut wanted: Vec<Vec<u8>> = keys
            .filter(|key| self.slots.find(key, None).is_none())
            .map(|key| running_key(self.stage, self.slots.group(key), key))
            .collect();
        // In the store's order, which costs least there.
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return;
        }
        match self.store.get_many(&wanted) {
            Ok(found) => {
                for (stored, accumulator) in wanted.iter().zip(found) {
                    if let Some(accumulator) = accumulator {
                        put_stored(&mut self.slots, &stored[PREFIX_BYTES..], &accumulator);
                    }
                }
            }
            Err(fault) => unreadable(&self.spec.name, &fault),
        }
    }

    /// Folds the messages in, and makes of each what goes on.
    pub fn run(&mut self, batch: &mut Batch, origins: Origins<'_>, routes: &Routes, out: &mut Outbox) {
        if self.lacks_keys {
            self.bring_back(batch);
        }
        self.inputs += 1;
        let mut items: Vec<Item> = Vec::with_capacity(batch.len());
        let mut accumulators: Vec<Vec<u8>> = Vec::new();
        let mut touched: Vec<Place> = Vec::new();
        for (index, message) in batch.frame.view().iter().enumerate() {
            let key = message.key().unwrap_or_default();
            let place = self.slots.find(key, None).unwrap_or_else(|| {
                let place = self.slots.place(key, None);
                self.slots.at_mut(place).accumulator = self.aggregator.initial().to_vec();
                place
            });
            let slot = self.slots.at_mut(place);
            if slot.touched.0 != self.inputs {
                slot.touched = (self.inputs, accumulators.len());
                accumulators.push(std::mem::take(&mut slot.accumulator));
                touched.push(place);
            }
            items.push((index, slot.touched.1));
        }
        let mut answers = Vec::new();
        let mut unfolded = if self.aggregator.scans() {
            self.aggregator.scan(batch, origins, &items, &mut accumulators, &mut answers)
        } else {
            self.fold_each(batch, origins, &items, &mut accumulators, &mut answers)
        };
        for (place, accumulator) in touched.iter().zip(accumulators) {
            if !self.spec.shared {
                self.slots.mark_dirty(*place, accumulator.len());
            }
            self.slots.at_mut(*place).accumulator = accumulator;
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
        let lacks_keys = &mut self.lacks_keys;
        self.slots.make_room(|_| *lacks_keys = true);
    }

    /// Folds the messages that were taken once more, into what the open epoch alone puts to their keys.
    fn fold_apart(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[Item],
        touched: &[Place],
    ) -> Vec<Unfolded> {
        let mut took = vec![false; touched.len()];
        for (_, accumulator) in items {
            took[*accumulator] = true;
        }
        let mut shares = Vec::with_capacity(touched.len());
        for place in touched {
            let share = self.slots.at_mut(*place).uncommitted.as_mut().and_then(|u| u.open.take());
            shares.push((share.is_some(), share.unwrap_or_else(|| self.aggregator.initial().to_vec())));
        }
        let (had_one, mut shares): (Vec<bool>, Vec<Vec<u8>>) = shares.into_iter().unzip();
        let unfolded = self.aggregator.fold(batch, origins, items, &mut shares);
        for (n, (place, share)) in touched.iter().zip(shares).enumerate() {
            if took[n] || had_one[n] {
                self.slots.mark_dirty(*place, share.len());
                self.slots.at_mut(*place).uncommitted.get_or_insert_default().open = Some(share);
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
        let mut value_bytes = 0;
        for round in rounds {
            unfolded.extend(self.aggregator.fold(batch, origins, &round, accumulators));
            let now: Vec<&[u8]> = round.iter().map(|(_, a)| accumulators[*a].as_slice()).collect();
            let mut done = 0;
            while done < now.len() {
                let finished = self.aggregator.finish(&now[done..]);
                let of = &round[done..];
                done += finished.len().max(1);
                for ((index, _), value) in of.iter().zip(finished) {
                    let value = value.map_err(|(reason, _)| reason);
                    value_bytes += value.as_ref().map_or_else(String::len, Vec::len);
                    values[*index] = Some(value);
                }
                self.made_bytes = self.made_bytes.max(value_bytes);
                if value_bytes > GROWN_BYTES_MAX {
                    overgrown(&format!("the stage `{}`", self.spec.name));
                }
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

    /// What has changed since the last call, which this epoch stores.
    pub fn take_delta(&mut self, epoch: Epoch, delta: &mut Delta) {
        for place in self.slots.take_dirty(epoch) {
            let Slot { head, accumulator, uncommitted, .. } = self.slots.at_mut(place);
            let mut share = None;
            if let Some(uncommitted) = uncommitted
                && let Some(open) = uncommitted.open.take()
            {
                uncommitted.in_flight.push_back((epoch, open.clone()));
                share = Some(Share::Accumulator(open));
            }
            let stored = running_key(self.stage, head.group, &head.key);
            delta.changes.push(Change { key: stored, value: Some(accumulator.clone()), share });
        }
    }

    /// About what a delta of now would hold, in bytes.
    pub fn changed_bytes(&self) -> usize {
        self.slots.dirty_bytes()
    }

    /// An epoch is in the store, which merged its shared keys with what others have put to them: goes on
    /// from what is stored, with what is not committed yet on top.
    pub fn committed(&mut self, epoch: Epoch, merged: &[(Vec<u8>, Vec<u8>)]) {
        self.slots.committed(epoch);
        if !self.spec.shared {
            return;
        }
        let mut bases: Vec<(Place, Vec<u8>)> = Vec::new();
        for (stored, value) in merged.iter().filter(|(stored, _)| stage_of(stored) == Some(self.stage)) {
            let Some(key) = stored.get(PREFIX_BYTES..) else { continue };
            let Some(place) = self.slots.find(key, None) else { continue };
            let slot = self.slots.at_mut(place);
            if let Some(uncommitted) = &mut slot.uncommitted {
                uncommitted.in_flight.retain(|(of, _)| *of > epoch);
                if uncommitted.in_flight.is_empty() && uncommitted.open.is_none() {
                    slot.uncommitted = None;
                }
            }
            bases.push((place, value.clone()));
        }
        // In rounds of at most one share a key, so that a round is one call of the plugin.
        for round in 0.. {
            let share_of = |place: Place| self.slots.at(place).uncommitted.as_ref()?.share(round);
            let due: Vec<(usize, &[u8])> =
                bases.iter().enumerate().filter_map(|(i, (place, _))| Some((i, share_of(*place)?))).collect();
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
                        let (place, base) = &mut bases[i];
                        base.clone_from(&self.slots.at(*place).accumulator);
                    }
                }
            }
        }
        for (place, value) in bases {
            self.slots.at_mut(place).accumulator = value;
        }
    }
}

/// Puts an accumulator in memory that is in the store.
fn put_stored(slots: &mut Residents<Slot>, key: &[u8], accumulator: &[u8]) {
    let place = slots.place(key, None);
    slots.at_mut(place).accumulator = accumulator.to_vec();
    slots.count(place);
}

impl Uncommitted {
    /// The share of the `n`-th epoch that is not committed yet, the open one last.
    fn share(&self, n: usize) -> Option<&[u8]> {
        let open = || self.open.as_ref().filter(|_| n == self.in_flight.len());
        self.in_flight.get(n).map(|(_, share)| share).or_else(open).map(Vec::as_slice)
    }
}
