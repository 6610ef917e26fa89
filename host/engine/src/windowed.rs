//! A windowed aggregate in one lane: open windows, late messages, firings.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_frame::{Parts, TIMESTAMP_NONE};

use crate::aggregate::{Aggregate, Aggregator};
use crate::batch::Batch;
use crate::dead_letter::{Buried, DeadLetter};
use crate::hash::KeyMap;
use crate::key::key_group;
use crate::lane::Counts;
use crate::output::{Outbox, OutputId, Routes};
use crate::position::PartitionId;
use crate::stage::{Firing, Origins};
use crate::state::{Change, Delta, StateKind, StateStore, StoreError, group_prefix, window_key};
use crate::time::TIMESTAMP_MAX_MS;
use crate::window::{Late, Tumbling, is_over};

/// How many windows are finished by one call of the plugin.
const FINISH_WINDOWS_MAX: usize = 4_096;

/// A windowed aggregate of a pipeline.
#[derive(Clone)]
pub struct WindowSpec {
    /// The stage's name.
    pub name: Arc<str>,
    /// The aggregate.
    pub aggregate: Aggregate,
    /// The windows.
    pub window: Tumbling,
    /// How much later than its window's end, in stream time, a message may come.
    pub allowed_lateness_ms: i64,
    /// What becomes of later ones.
    pub late: Late,
    /// Whether keys are JSON arrays rather than plain texts.
    pub compound_key: bool,
}

struct Slot {
    accumulator: Vec<u8>,
    dirty: bool,
    /// Whether the store has, or will have, this window.
    stored: bool,
    /// Whether no message has been folded in: one that can't be opens no window.
    empty: bool,
    /// The input that touched it last, and its place among that input's accumulators.
    touched: (u64, usize),
}

/// The windows of one lane.
pub(crate) struct Windowed {
    spec: WindowSpec,
    stage: u16,
    key_groups: u16,
    aggregator: Aggregator,
    /// By end, then by key.
    windows: BTreeMap<i64, KeyMap<Slot>>,
    dirty: Vec<(i64, Box<[u8]>)>,
    deleted: Vec<Vec<u8>>,
    inputs: u64,
}

impl Windowed {
    pub fn new(spec: &WindowSpec, stage: u16, key_groups: u16) -> Self {
        Self {
            aggregator: Aggregator::new(&spec.name, &spec.aggregate),
            spec: spec.clone(),
            stage,
            key_groups,
            windows: BTreeMap::new(),
            dirty: Vec::new(),
            deleted: Vec::new(),
            inputs: 0,
        }
    }

    /// Reads the open windows of a key group back.
    pub fn restore(&mut self, store: &dyn StateStore, group: u16) -> Result<(), StoreError> {
        let prefix = group_prefix(StateKind::Window, self.stage, group);
        let mut damaged = false;
        store.scan(&prefix, &mut |stored, accumulator| {
            let Some((end, key)) = stored.get(prefix.len()..).and_then(|s| s.split_first_chunk::<8>()) else {
                damaged = true;
                return;
            };
            let slot = Slot {
                accumulator: accumulator.to_vec(),
                dirty: false,
                stored: true,
                empty: false,
                touched: (0, 0),
            };
            self.windows.entry(i64::from_be_bytes(*end)).or_default().insert(key.into(), slot);
        })?;
        if damaged {
            return Err(StoreError::Corrupt {
                what: format!("the state of the stage `{}`", self.spec.name),
                cause: "a window's key is too short".to_owned(),
            });
        }
        Ok(())
    }

    /// Takes messages in, each at its own stamp.
    pub fn take(&mut self, batch: &Batch, routes: &Routes, out: &mut Outbox, counts: &mut Counts) {
        self.inputs += 1;
        let mut items = Vec::with_capacity(batch.len());
        let mut touched: Vec<(i64, Box<[u8]>)> = Vec::new();
        let mut accumulators: Vec<Vec<u8>> = Vec::new();
        for (index, message) in batch.frame.view().iter().enumerate() {
            let time = message.timestamp();
            if time == TIMESTAMP_NONE {
                let reason = "the message has no event time, so no window can take it";
                self.bury(batch, index, "time", reason, 1, routes, out);
                continue;
            }
            let end = self.spec.window.end_of(time);
            if is_over(end, self.spec.allowed_lateness_ms, batch.rows[index].stamp) {
                counts.late += 1;
                self.late(batch, index, end, routes, out);
                continue;
            }
            let key = message.key().unwrap_or_default();
            let windows = self.windows.entry(end).or_default();
            let slot = match windows.get_mut(key) {
                Some(slot) => slot,
                None => windows.entry(key.into()).or_insert(Slot {
                    accumulator: self.aggregator.initial().to_vec(),
                    dirty: false,
                    stored: false,
                    empty: true,
                    touched: (0, 0),
                }),
            };
            if slot.touched.0 != self.inputs {
                slot.touched = (self.inputs, accumulators.len());
                accumulators.push(std::mem::take(&mut slot.accumulator));
                if !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push((end, key.into()));
                }
                touched.push((end, key.into()));
            }
            items.push((index, slot.touched.1));
        }
        let unfolded = self.aggregator.fold(batch, &items, &mut accumulators);
        let mut folded = vec![unfolded.is_empty(); accumulators.len()];
        for (index, accumulator) in &items {
            folded[*accumulator] = folded[*accumulator] || !unfolded.iter().any(|u| u.index == *index);
        }
        for (((end, key), accumulator), folded) in touched.into_iter().zip(accumulators).zip(folded) {
            let Some(windows) = self.windows.get_mut(&end) else { continue };
            let Some(slot) = windows.get_mut(&key) else { continue };
            slot.accumulator = accumulator;
            slot.empty &= !folded;
            if slot.empty {
                windows.remove(&key);
            }
        }
        for failed in unfolded {
            self.bury(batch, failed.index, failed.kind, &failed.reason, failed.attempts, routes, out);
        }
    }

    fn late(&self, batch: &Batch, index: usize, end: i64, routes: &Routes, out: &mut Outbox) {
        let row = &batch.rows[index];
        match &self.spec.late {
            Late::Drop => {}
            Late::DeadLetter => {
                let reason = format!(
                    "late: its window [{}, {end}) closed at stream time {} with an allowed lateness of {} ms; stream time was {}",
                    end - self.spec.window.size_ms(),
                    end.saturating_add(self.spec.allowed_lateness_ms),
                    self.spec.allowed_lateness_ms,
                    row.stamp,
                );
                self.bury(batch, index, "late", &reason, 1, routes, out);
            }
            Late::Output(name) => match routes.named(name) {
                Ok(sinks) => {
                    let id = Origins::Source.id(row).left_at(&self.spec.name, ordinal(batch, index));
                    out.send(routes, sinks, batch.frame.get(index), &id);
                }
                Err(reason) => self.bury(batch, index, "late", &reason, 1, routes, out),
            },
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one dead letter's facts, said once here")]
    fn bury(
        &self,
        batch: &Batch,
        index: usize,
        kind: &'static str,
        reason: &str,
        attempts: u32,
        routes: &Routes,
        out: &mut Outbox,
    ) {
        let of_plugin = !matches!(kind, "late" | "time");
        let why = DeadLetter {
            reason,
            kind,
            stage: &self.spec.name,
            plugin: self.aggregator.plugin().filter(|_| of_plugin),
            attempts,
        };
        let id = Origins::Source.id(&batch.rows[index]).left_at(&self.spec.name, ordinal(batch, index));
        out.bury(routes, &why, Buried::Message(batch.frame.get(index)), &id);
    }

    /// Fires every window that is over at this stream time, ordered by (end, start, key). Each call of
    /// `pass_on` gets some firings as messages, and what they are.
    pub fn fire(
        &mut self,
        stream_time: i64,
        routes: &Routes,
        out: &mut Outbox,
        mut pass_on: impl FnMut(Batch, &[Firing], &mut Outbox),
    ) {
        while let Some(first) = self.windows.first_entry() {
            let end = *first.key();
            if !is_over(end, self.spec.allowed_lateness_ms, stream_time) {
                return;
            }
            let mut over: Vec<(Box<[u8]>, Slot)> = first.remove().into_iter().collect();
            over.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            for (key, slot) in &over {
                if slot.stored {
                    self.deleted.push(window_key(self.stage, key_group(key, self.key_groups), end, key));
                }
            }
            for some in over.chunks(FINISH_WINDOWS_MAX) {
                let (batch, firings) = self.finish(end, some, routes, out);
                pass_on(batch, &firings, out);
            }
        }
    }

    fn finish(
        &mut self,
        end: i64,
        windows: &[(Box<[u8]>, Slot)],
        routes: &Routes,
        out: &mut Outbox,
    ) -> (Batch, Vec<Firing>) {
        let accumulators: Vec<&[u8]> = windows.iter().map(|(_, slot)| slot.accumulator.as_slice()).collect();
        let values = self.aggregator.finish(&accumulators);
        let start = end - self.spec.window.size_ms();
        let kind = format!("{}.window", self.spec.name);
        let nowhere = PartitionId { source: 0, partition: 0 };
        let mut batch = Batch::with_capacity(nowhere, 0, windows.len(), windows.len() * 256);
        let mut firings = Vec::with_capacity(windows.len());
        for ((key, _), value) in windows.iter().zip(values) {
            match value {
                Ok(value) => {
                    let key_json = key_as_json(key, self.spec.compound_key);
                    let mut payload = format!(
                        "{{\"key\":{key_json},\"start\":{start},\"end\":{end},\"final\":true,\"value\":"
                    )
                    .into_bytes();
                    payload.extend_from_slice(&value);
                    payload.push(b'}');
                    let id = format!("{}/{}/{start}", self.spec.name, String::from_utf8_lossy(key));
                    batch.push(
                        &Parts {
                            id: &id,
                            kind: &kind,
                            key: Some(key),
                            payload: &payload,
                            timestamp: (end - 1).min(TIMESTAMP_MAX_MS),
                            metadata: b"",
                            payload_is_json: true,
                        },
                        firings.len() as u64,
                    );
                    if let Some(row) = batch.rows.last_mut() {
                        // The moment at which it closes, wherever stream time was seen to have passed it.
                        row.stamp = end.saturating_add(self.spec.allowed_lateness_ms);
                    }
                    firings.push(Firing {
                        stage: Arc::clone(&self.spec.name),
                        key: key.clone(),
                        start,
                        end,
                        revision: 0,
                    });
                }
                Err((reason, kind)) => {
                    let why = DeadLetter {
                        reason: &reason,
                        kind,
                        stage: &self.spec.name,
                        plugin: self.aggregator.plugin(),
                        attempts: 2,
                    };
                    let id = OutputId::Window {
                        stage: &self.spec.name,
                        key,
                        start,
                        end,
                        revision: 0,
                        emit: 0,
                        left_at: &self.spec.name,
                    };
                    out.bury(routes, &why, Buried::Bytes(key), &id);
                }
            }
        }
        (batch, firings)
    }

    /// What the epoch has changed.
    pub fn take_delta(&mut self, delta: &mut Delta) {
        delta.changes.extend(self.deleted.drain(..).map(|key| Change { key, value: None, share: None }));
        for (end, key) in self.dirty.drain(..) {
            // A window that has fired since is deleted above, or was never stored.
            let Some(slot) = self.windows.get_mut(&end).and_then(|w| w.get_mut(&key)) else { continue };
            slot.dirty = false;
            slot.stored = true;
            let stored = window_key(self.stage, key_group(&key, self.key_groups), end, &key);
            delta.changes.push(Change { key: stored, value: Some(slot.accumulator.clone()), share: None });
        }
    }

    /// How many windows are open.
    pub fn open(&self) -> usize {
        self.windows.values().map(KeyMap::len).sum()
    }
}

/// Which of the results of the same message of the source a message is.
fn ordinal(batch: &Batch, index: usize) -> u32 {
    let of = |i: usize| (batch.rows[i].partition, batch.rows[i].offset, batch.rows[i].index);
    let before = (0..index).rev().take_while(|i| of(*i) == of(index)).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// A key as the payload of a firing shows it.
pub(crate) fn key_as_json(key: &[u8], compound: bool) -> String {
    let text = String::from_utf8_lossy(key);
    if compound { text.into_owned() } else { serde_json::Value::from(text).to_string() }
}
