//! Sessions: messages of a key no further apart than the gap.

use super::firing::{Fire, Value};
use super::table::{Closing, Part, Place, Shown, Table};
use super::{Windowed, new_part, note_fold};
use crate::aggregate::Unfolded;
use crate::batch::Batch;
use crate::lane::Way;
use crate::stage::Origins;
use crate::window::Emit;

/// Has a key looked at when the session's end is over.
pub(super) fn register(table: &mut Table, place: Place, at: usize) {
    let part = table.part(place, at);
    part.due = part.end;
    let due = part.due;
    table.register(due, place);
}

impl Windowed {
    /// The sessions of a key that a message at this time is no further away from than the gap: none, one, or
    /// the two that it joins.
    fn near(&self, place: Place, time: i64, gap_ms: i64) -> std::ops::Range<usize> {
        let parts = &self.table.at(place).parts;
        let from = parts.partition_point(|p| p.end < time);
        let to = parts.partition_point(|p| p.start.saturating_sub(gap_ms) <= time);
        from..to.max(from)
    }

    pub(super) fn join_session(
        &mut self,
        gap_ms: i64,
        batch: &Batch,
        (index, hint): (usize, Option<Place>),
        origins: Origins<'_>,
        way: &mut Way<'_>,
    ) {
        let message = batch.frame.get(index);
        let (time, stamp) = (message.timestamp(), batch.rows[index].stamp);
        let key = message.key().unwrap_or_default();
        let closed = self.closed(stamp);
        let near = |windows: &Self| {
            let place = windows.table.find(key, hint)?;
            Some((place, windows.near(place, time, gap_ms)))
        };
        let is_closed = |windows: &Self, (place, near): &(Place, std::ops::Range<usize>)| {
            windows.table.at(*place).parts[near.clone()].iter().any(|p| p.end <= closed)
        };
        let mut found = near(self);
        if found.as_ref().is_some_and(|found| is_closed(self, found)) {
            // A closed session takes nothing any more: out of the way with it.
            self.close_segment(batch, origins, way);
            self.pass(stamp, way);
            found = near(self);
        }
        if found.as_ref().is_some_and(|(_, near)| near.len() > 1) {
            // Two become one only if the message can be folded: it goes alone, behind those before it.
            self.close_segment(batch, origins, way);
            found = near(self);
        }
        let end = time.saturating_add(gap_ms);
        match found.filter(|(_, near)| !near.is_empty()) {
            Some((place, near)) if near.len() > 1 => {
                self.bridge((place, near.start), (time, end), batch, index, origins, way);
            }
            Some((place, near)) => {
                let part = self.table.part(place, near.start);
                let before = (part.start, part.end);
                (part.start, part.end) = (part.start.min(time), part.end.max(end));
                self.put(index, place, near.start, before);
            }
            None if end <= closed => self.late(batch, index, origins, way),
            None => {
                let place = self.table.place(key, None);
                let at = self.table.at(place).find(time).unwrap_or_else(|at| at);
                self.table.insert(place, at, new_part(time, end));
                register(&mut self.table, place, at);
                self.put(index, place, at, (time, end));
            }
        }
    }

    /// A message joins two sessions, the one at `first` and the next: they are merged in the order of time,
    /// then the message is folded in.
    fn bridge(
        &mut self,
        (place, first): (Place, usize),
        (time, end): (i64, i64),
        batch: &Batch,
        index: usize,
        origins: Origins<'_>,
        way: &mut Way<'_>,
    ) {
        let parts = &self.table.at(place).parts;
        let pair = (parts[first].accumulator.as_slice(), parts[first + 1].accumulator.as_slice());
        let merged = self.aggregator.merge(&[pair]).pop();
        let mut accumulator = match merged.unwrap_or_else(|| Err("merge answered nothing".to_owned())) {
            Ok(merged) => [merged],
            Err(reason) => {
                let reason = format!("the two sessions that it joins can't be merged: {reason}");
                let unfolded = Unfolded { index, kind: "error", reason, attempts: 2 };
                return self.bury_unfolded(batch, origins, &[unfolded], way);
            }
        };
        let unfolded = self.aggregator.fold(batch, origins, &[(index, 0)], &mut accumulator);
        if !unfolded.is_empty() {
            return self.bury_unfolded(batch, origins, &unfolded, way);
        }
        let later = self.table.remove(place, first + 1);
        let (stamp, emit) = (batch.rows[index].stamp, self.spec.emit);
        let part = self.table.part(place, first);
        let [accumulator] = accumulator;
        part.accumulator = accumulator;
        part.start = part.start.min(time);
        part.end = later.end.max(end);
        note_fold(part, later.count.saturating_add(1), (stamp, stamp), emit);
        if let (Some(changes), Some(more)) = (&mut part.changes, later.changes) {
            changes.shown.extend(more.shown);
        }
        self.table.mark_dirty(place, first);
        match emit {
            Emit::Close => {}
            Emit::Every(_) => self.note_change(place),
            Emit::Update => {
                let mut fires = Vec::new();
                self.updated_sessions(batch, &[(index, place)], &mut fires);
                self.send(fires, way);
            }
        }
    }

    /// Fires the sessions with this end, as many as the epoch may have; those that have grown since are due later.
    pub(super) fn close_sessions(&mut self, mut closing: Closing, bytes_max: usize, way: &mut Way<'_>) {
        let end = closing.end;
        if !closing.is_begun {
            closing.places = self.sessions_over(end, closing.places).into_iter().peekable();
        }
        while closing.places.len() > 0 {
            let at_once = self.windows_at_once(bytes_max);
            let some: Vec<Place> = closing.places.by_ref().take(at_once).collect();
            let mut fires = Vec::with_capacity(some.len());
            for place in &some {
                let is_over = |part: &Part| part.due == end && part.end == end;
                let Some(at) = self.table.at(*place).parts.iter().position(is_over) else { continue };
                self.take_back(*place, at, end - 1, &mut fires);
                let part = self.table.remove(*place, at);
                fires.push(Fire {
                    place: *place,
                    start: part.start,
                    end,
                    last: true,
                    revision: if self.spec.emit == Emit::Close { 0 } else { part.count },
                    stamp: end - 1,
                    value: Value::Accumulator(part.accumulator),
                });
            }
            self.send(fires, way);
            for place in some {
                self.table.tidy(place);
            }
            if closing.places.len() > 0 && self.is_full(bytes_max, way) {
                return self.table.put_off(closing);
            }
        }
    }

    /// The keys with a session that is over at this end, by its start and then by key.
    fn sessions_over(&mut self, end: i64, places: impl Iterator<Item = Place>) -> Vec<Place> {
        let mut over: Vec<(i64, Place)> = Vec::new();
        for place in places {
            for at in 0..self.table.at(place).parts.len() {
                let part = self.table.part(place, at);
                if part.due != end {
                    continue;
                }
                if part.end == end {
                    over.push((part.start, place));
                } else {
                    register(&mut self.table, place, at);
                }
            }
        }
        // Stable: the places are in the keys' order.
        over.sort_by_key(|(start, _)| *start);
        over.into_iter().map(|(_, place)| place).collect()
    }

    /// Takes back the windows that went out for a session and are not its own any more.
    fn take_back(&mut self, place: Place, at: usize, stamp: i64, fires: &mut Vec<Fire>) {
        let part = self.table.part(place, at);
        let own = (part.start, part.end);
        let Some(changes) = &mut part.changes else { return };
        let mut gone = std::mem::take(&mut changes.shown);
        gone.retain(|shown| (shown.start, shown.end) != own);
        gone.sort_unstable_by_key(|shown| (shown.end, shown.start));
        fires.extend(gone.into_iter().map(|Shown { start, end, revision }| Fire {
            place,
            start,
            end,
            last: false,
            revision: revision.saturating_add(1),
            stamp,
            value: Value::TakenBack,
        }));
    }

    /// What goes out of a session that is open.
    fn show(&mut self, place: Place, at: usize, stamp: i64, fires: &mut Vec<Fire>) {
        self.take_back(place, at, stamp, fires);
        let part = self.table.part(place, at);
        let (start, end, revision) = (part.start, part.end, part.count.saturating_sub(1));
        if let Some(changes) = &mut part.changes {
            changes.shown = vec![Shown { start, end, revision }];
        }
        let value = Value::Accumulator(part.accumulator.clone());
        self.table.mark_dirty(place, at);
        fires.push(Fire { place, start, end, last: false, revision, stamp, value });
    }

    /// The sessions that messages of this segment changed, message by message; each key is in it once.
    pub(super) fn updated_sessions(&mut self, batch: &Batch, each: &[(usize, Place)], fires: &mut Vec<Fire>) {
        for (index, place) in each {
            let time = batch.frame.get(*index).timestamp();
            let at = self.table.at(*place).parts.partition_point(|p| p.end < time);
            if at < self.table.at(*place).parts.len() {
                let stamp = self.closed(batch.rows[*index].stamp);
                self.show(*place, at, stamp, fires);
            }
        }
    }

    /// The open sessions that have changed since a tick.
    pub(super) fn changed_sessions(&mut self, places: &[Place], since: i64) -> Vec<Fire> {
        let mut changed: Vec<(i64, i64, Place, usize)> = Vec::new();
        for place in places {
            for (at, part) in self.table.at(*place).parts.iter().enumerate() {
                if part.changes.as_ref().is_some_and(|c| c.touched >= since) {
                    changed.push((part.end, part.start, *place, at));
                }
            }
        }
        // Stable: the keys are in order already. What is taken back goes before what takes its place.
        changed.sort_by_key(|(end, start, ..)| (*end, *start));
        let mut fires = Vec::new();
        for (_, _, place, at) in changed {
            self.show(place, at, 0, &mut fires);
        }
        fires
    }
}
