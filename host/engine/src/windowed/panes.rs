//! Windows that are put together of panes: tumbling, sliding, and sliding with the messages.

use std::sync::Arc;

use wasmill_frame::TIMESTAMP_NONE;

use super::firing::{Fire, Value};
use super::runs::{Run, Wanted, values};
use super::table::{Closing, Keyed, NEVER, Place, Table};
use super::{FINISH_WINDOWS_MAX, Windowed, new_part};
use crate::batch::Batch;
use crate::lane::Way;
use crate::stage::{Origins, unreadable};
use crate::state::StoreError;
use crate::window::{Emit, Panes};

/// How many keys' panes are merged side by side: so many that a call costs little, so few that they stay in
/// the processor's cache from one merge to the next.
const MERGE_KEYS_MAX: usize = 256;

/// Windows of one key, by end, that are asked for together.
type Asked = (Place, Vec<i64>);

/// Has a key looked at when the first window that holds this part closes.
pub(super) fn register(panes: Panes, table: &mut Table, place: Place, at: usize, closed: i64) {
    let start = table.part(place, at).start;
    match panes {
        Panes::Every { .. } => {
            let first = first_end_behind(panes, start, closed);
            let keyed = table.at_mut(place);
            if first < keyed.due {
                keyed.due = first;
                table.register(first, place);
            }
        }
        Panes::AtMessages { .. } => {
            let first = panes.first_end(start);
            if first > closed {
                table.register(first, place);
            }
            table.register(panes.useful_until(start), place);
        }
    }
}

/// The first end behind `closed` of windows that hold this time, or would without that bound.
fn first_end_behind(panes: Panes, time: i64, closed: i64) -> i64 {
    let first = panes.first_end(time);
    match panes {
        Panes::Every { every_ms, .. } if closed >= first => {
            first + ((closed - first) / every_ms + 1) * every_ms
        }
        _ => first,
    }
}

/// Whether a key has the window with this end.
fn has_window(panes: Panes, keyed: &Keyed, end: i64) -> bool {
    let within = keyed.within(end - panes.length_ms(), end);
    match (panes, within.last()) {
        (_, None) => false,
        (Panes::Every { .. }, Some(_)) => true,
        (Panes::AtMessages { size_ms }, Some(last)) => {
            let begins_behind_a_message = || keyed.find(end - 1 - panes.length_ms()).is_ok();
            last.end == end || end == size_ms + 1 || begins_behind_a_message()
        }
    }
}

/// The ends of the open windows that a pane has changed, or by being new brought into being.
fn ends_changed_by(panes: Panes, keyed: &Keyed, pane: i64, is_new: bool, closed: i64) -> Vec<i64> {
    match panes {
        Panes::Every { every_ms, .. } => {
            let mut ends = Vec::new();
            let mut end = first_end_behind(panes, pane, closed);
            while end <= panes.last_end(pane) {
                ends.push(end);
                end += every_ms;
            }
            ends
        }
        Panes::AtMessages { .. } => {
            let length = panes.length_ms();
            let ending = keyed.within(pane, pane + length).iter().map(|p| panes.first_end(p.start));
            let behind = keyed.within(pane - length, pane).iter().map(|p| panes.useful_until(p.start));
            let mut ends: Vec<i64> = ending.chain(behind).collect();
            let own = panes.useful_until(pane);
            if is_new && keyed.find(own - 1).is_err() && has_window(panes, keyed, own) {
                ends.push(own);
            }
            ends.retain(|end| *end > closed);
            ends.sort_unstable();
            ends.dedup();
            ends
        }
    }
}

impl Windowed {
    pub(super) fn join_pane(
        &mut self,
        panes: Panes,
        batch: &Batch,
        (index, hint): (usize, Option<Place>),
        origins: Origins<'_>,
        way: &mut Way<'_>,
    ) {
        let message = batch.frame.get(index);
        let (time, stamp) = (message.timestamp(), batch.rows[index].stamp);
        let closed = self.closed(stamp);
        if panes.last_end(time) <= closed {
            return self.late(batch, index, origins, way);
        }
        let place = self.table.place(message.key().unwrap_or_default(), hint);
        let (start, end) = panes.pane_of(time);
        let at = match self.table.at(place).find(start) {
            Ok(at) => at,
            Err(at) => {
                self.table.insert(place, at, new_part(start, end));
                // No window that was closed to the message comes into being by it.
                register(panes, &mut self.table, place, at, closed);
                at
            }
        };
        self.put(index, place, at, (start, end));
    }

    /// Fires the windows of one end, as many as the epoch may have.
    pub(super) fn close_in_memory(
        &mut self,
        panes: Panes,
        mut closing: Closing,
        bytes_max: usize,
        way: &mut Way<'_>,
    ) {
        let at_once = self.windows_at_once(bytes_max);
        while closing.places.len() > 0 {
            let some: Vec<Place> = closing.places.by_ref().take(at_once).collect();
            self.close_panes(panes, closing.end, &some, way);
            if closing.places.len() > 0 && self.is_full(bytes_max, way) {
                return self.table.put_off(closing);
            }
        }
    }

    /// Fires windows of one end.
    fn close_panes(&mut self, panes: Panes, end: i64, places: &[Place], way: &mut Way<'_>) {
        let at_once = if self.spec.window.is_one_part() { FINISH_WINDOWS_MAX } else { MERGE_KEYS_MAX };
        let at_once = at_once.min(self.at_once_max);
        for some in places.chunks(at_once) {
            let due: Vec<Place> =
                some.iter().copied().filter(|p| has_window(panes, self.table.at(*p), end)).collect();
            let start = end - panes.length_ms();
            let counts: Vec<u32> = due.iter().map(|p| self.messages(*p, start, end)).collect();
            let values = if self.spec.window.is_one_part() {
                due.iter().map(|p| self.take_only(*p, start)).collect()
            } else {
                self.merge_kept(&due, start, end)
            };
            let fires = due.iter().zip(counts).zip(values);
            let fires = fires.map(|((place, count), value)| {
                let revision = if self.spec.emit == Emit::Close { 0 } else { count };
                Fire { place: *place, start, end, last: true, revision, stamp: end - 1, value }
            });
            let fires: Vec<Fire> = fires.collect();
            self.send(fires, way);
            for place in some {
                self.retire(panes, *place, end);
            }
        }
    }

    /// The accumulator of a window that is one pane, which is not needed any more.
    fn take_only(&mut self, place: Place, start: i64) -> Value {
        let keyed = self.table.at_mut(place);
        let at = keyed.find(start);
        Value::Accumulator(at.map(|at| std::mem::take(&mut keyed.parts[at].accumulator)).unwrap_or_default())
    }

    /// Values of windows that close, with what is kept for the next ones.
    fn merge_kept(&mut self, due: &[Place], start: i64, end: i64) -> Vec<Value> {
        let mut wanted: Vec<Wanted> = Vec::with_capacity(due.len());
        for place in due {
            let run = self.table.at_mut(*place).run.take().unwrap_or_default();
            wanted.push(Wanted::new(*place, (start, end), run));
        }
        values(&mut self.aggregator, &self.table, &mut wanted);
        let mut merged = Vec::with_capacity(wanted.len());
        for Wanted { place, run, value, .. } in wanted {
            self.table.at_mut(place).run = Some(run);
            merged.push(Value::of(value));
        }
        merged
    }

    /// As [`Windowed::close_in_memory`], with what is in the store alone.
    pub(super) fn close_with_stored(
        &mut self,
        panes: Panes,
        closing: Closing,
        bytes_max: usize,
        way: &mut Way<'_>,
    ) {
        if let Err(fault) = self.try_close_with_stored(panes, closing, bytes_max, way) {
            unreadable(&self.spec.name, &fault);
        }
    }

    fn try_close_with_stored(
        &mut self,
        panes: Panes,
        mut closing: Closing,
        bytes_max: usize,
        way: &mut Way<'_>,
    ) -> Result<(), StoreError> {
        let (store, end) = (Arc::clone(&self.store), closing.end);
        if !closing.is_begun {
            // A key may be in memory, and stand at this end, while its window is in the store alone.
            let has = |place: &Place| has_window(panes, self.table.at(*place), end);
            let (places, in_vain): (Vec<Place>, Vec<Place>) = closing.places.partition(has);
            for place in in_vain {
                self.retire(panes, place, end);
            }
            closing.places = places.into_iter().peekable();
        }
        let at_once = self.windows_at_once(bytes_max);
        let mut stored = self.table.stored_due(store.as_ref(), end, closing.last.as_deref())?;
        loop {
            let some = self.table.take_due_of_both(&mut closing.places, &mut stored, at_once)?;
            let Some(last) = some.last() else { break };
            closing.last = Some(self.table.at(*last).key().to_vec());
            self.close_panes(panes, end, &some, way);
            if self.is_full(bytes_max, way) {
                self.table.put_off(closing);
                return Ok(());
            }
        }
        self.table.closed(store.as_ref(), end)
    }

    /// Brings the panes back that a batch's messages go to, where they left.
    pub(super) fn bring_back(&mut self, panes: Panes, batch: &Batch, hints: &[Option<Place>]) {
        let mut wanted: Vec<Vec<u8>> = Vec::new();
        for ((message, row), hint) in batch.frame.view().iter().zip(&batch.rows).zip(hints) {
            let time = message.timestamp();
            if time == TIMESTAMP_NONE || panes.last_end(time) <= self.closed(row.stamp) {
                continue;
            }
            let (start, end) = panes.pane_of(time);
            if hint.is_none_or(|place| self.table.at(place).find(start).is_err()) {
                wanted.extend(self.table.evicted_key(message.key().unwrap_or_default(), end));
            }
        }
        if wanted.is_empty() {
            return;
        }
        // In the store's order, which costs least there.
        wanted.sort_unstable();
        wanted.dedup();
        let (store, closed) = (Arc::clone(&self.store), self.closed(self.time));
        let brought = self.table.bring_back(store.as_ref(), &wanted, |table, place, at| {
            register(panes, table, place, at, closed);
        });
        brought.unwrap_or_else(|fault| unreadable(&self.spec.name, &fault));
    }

    /// Takes away what no window behind this end holds.
    fn retire(&mut self, panes: Panes, place: Place, end: i64) {
        // A key that left and came back may stand at an end in vain.
        if matches!(panes, Panes::Every { .. }) && self.table.at(place).due != end {
            return;
        }
        while self.table.at(place).parts.first().is_some_and(|p| panes.useful_until(p.start) <= end) {
            self.table.remove(place, 0);
        }
        if let Panes::Every { .. } = panes {
            let first = self.table.at(place).parts.first().map(|p| p.start);
            let next = first.map_or(NEVER, |start| first_end_behind(panes, start, end));
            self.table.at_mut(place).due = next;
            if next != NEVER {
                self.table.register(next, place);
            }
        }
        self.table.tidy(place);
    }

    /// How many messages a window has taken.
    fn messages(&self, place: Place, start: i64, end: i64) -> u32 {
        let within = self.table.at(place).within(start, end);
        within.iter().fold(0, |sum, part| sum.saturating_add(part.count))
    }

    /// The windows that messages of this segment changed, message by message; each key is in it once.
    pub(super) fn updated_panes(
        &mut self,
        panes: Panes,
        batch: &Batch,
        each: &[(usize, Place)],
        fires: &mut Vec<Fire>,
    ) {
        let asked: Vec<Asked> = each
            .iter()
            .map(|(index, place)| {
                let (pane, _) = panes.pane_of(batch.frame.get(*index).timestamp());
                let keyed = self.table.at(*place);
                let is_new = keyed.find(pane).is_ok_and(|at| keyed.parts[at].count == 1);
                let closed = self.closed(batch.rows[*index].stamp);
                (*place, ends_changed_by(panes, keyed, pane, is_new, closed))
            })
            .collect();
        let from = fires.len();
        self.open_windows(panes, &asked, fires);
        // A stage behind sees an update when it sees the stream time of its message.
        let stamps = each.iter().zip(&asked).flat_map(|((index, _), (_, ends))| {
            std::iter::repeat_n(self.closed(batch.rows[*index].stamp), ends.len())
        });
        fires[from..].iter_mut().zip(stamps).for_each(|(fire, stamp)| fire.stamp = stamp);
    }

    /// The open windows that have changed since a tick.
    pub(super) fn changed_panes(
        &mut self,
        panes: Panes,
        places: &[Place],
        (since, moment): (i64, i64),
    ) -> Vec<Fire> {
        let closed = self.closed(moment);
        let ends = |place: &Place| {
            let keyed = self.table.at(*place);
            let mut ends: Vec<i64> = Vec::new();
            for part in &keyed.parts {
                let Some(changes) = part.changes.as_ref().filter(|c| c.touched >= since) else { continue };
                ends.extend(ends_changed_by(panes, keyed, part.start, changes.born >= since, closed));
            }
            ends.sort_unstable();
            ends.dedup();
            (*place, ends)
        };
        let asked: Vec<Asked> = places.iter().map(ends).collect();
        let mut fires = Vec::new();
        self.open_windows(panes, &asked, &mut fires);
        // Stable: the keys are in order already.
        fires.sort_by_key(|f| (f.end, f.start));
        fires
    }

    /// Values of open windows, in the order asked for.
    fn open_windows(&mut self, panes: Panes, asked: &[Asked], fires: &mut Vec<Fire>) {
        let length = panes.length_ms();
        let mut found: Vec<std::vec::IntoIter<Value>> = Vec::new();
        if self.spec.window.is_one_part() {
            let value = |place: Place, start: i64| {
                let keyed = self.table.at(place);
                let accumulator = keyed.find(start).map(|at| keyed.parts[at].accumulator.clone());
                Value::Accumulator(accumulator.unwrap_or_default())
            };
            for (place, ends) in asked {
                let each: Vec<Value> = ends.iter().map(|end| value(*place, end - length)).collect();
                found.push(each.into_iter());
            }
        } else {
            found = self.merge_open(length, asked).into_iter().map(Vec::into_iter).collect();
        }
        for ((place, ends), mut found) in asked.iter().zip(found) {
            for end in ends {
                let start = end - length;
                let revision = self.messages(*place, start, *end).saturating_sub(1);
                let value = found.next().unwrap_or(Value::Accumulator(Vec::new()));
                let (place, end, stamp) = (*place, *end, 0);
                fires.push(Fire { place, start, end, last: false, revision, stamp, value });
            }
        }
    }

    /// As those that close, but with nothing kept: they don't come in the order of closing.
    fn merge_open(&mut self, length: i64, asked: &[Asked]) -> Vec<Vec<Value>> {
        let mut found: Vec<Vec<Value>> = asked.iter().map(|_| Vec::new()).collect();
        let mut runs: Vec<Box<Run>> = asked.iter().map(|_| Box::default()).collect();
        for round in 0.. {
            let mut wanted = Vec::new();
            let mut whose = Vec::new();
            for (i, (place, ends)) in asked.iter().enumerate() {
                if let Some(end) = ends.get(round) {
                    wanted.push(Wanted::new(*place, (end - length, *end), std::mem::take(&mut runs[i])));
                    whose.push(i);
                }
            }
            if wanted.is_empty() {
                break;
            }
            values(&mut self.aggregator, &self.table, &mut wanted);
            for (i, Wanted { run, value, .. }) in whose.into_iter().zip(wanted) {
                runs[i] = run;
                found[i].push(Value::of(value));
            }
        }
        found
    }
}
