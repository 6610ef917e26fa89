//! Messages that are folded by one call, and the parts that they go to.

use super::table::{Part, Place};
use super::{Windowed, note_fold};
use crate::aggregate::{Item, Unfolded};
use crate::batch::Batch;
use crate::lane::Way;
use crate::stage::Origins;
use crate::window::{Emit, Kind};

/// Messages on their way into their parts.
#[derive(Default)]
pub(super) struct Segment {
    items: Vec<Item>,
    /// By accumulator.
    touched: Vec<Touched>,
    accumulators: Vec<Vec<u8>>,
}

/// A part that messages of the segment go to.
struct Touched {
    place: Place,
    /// Where the part begins.
    start: i64,
    /// Of a session, where it began and ended before; a part's own bounds do if a message fails.
    before: (i64, i64),
    /// How many messages were folded in, and the stamps of the first and the last.
    took: u32,
    stamps: (i64, i64),
}

impl Segment {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl Windowed {
    /// Puts a message to a part, whose bounds were `before` it.
    pub(super) fn put(&mut self, index: usize, place: Place, at: usize, before: (i64, i64)) {
        let initial = self.aggregator.initial();
        let keyed = self.table.at_mut(place);
        keyed.in_segment = true;
        let part = &mut keyed.parts[at];
        if part.held == 0 {
            let segment = &mut self.segment;
            segment.accumulators.push(match (part.count, self.spec.window.0) {
                (0, _) => initial.to_vec(),
                (_, Kind::Paned(_)) => std::mem::take(&mut part.accumulator),
                // A copy: what a failed message made of sessions is undone.
                (_, Kind::Session { .. }) => part.accumulator.clone(),
            });
            part.held = u32::try_from(segment.accumulators.len()).unwrap_or(u32::MAX);
            let start = part.start;
            segment.touched.push(Touched { place, start, before, took: 0, stamps: (0, 0) });
        }
        let accumulator = part.held as usize - 1;
        self.segment.touched[accumulator].start = part.start;
        self.segment.items.push((index, accumulator));
    }

    /// Folds what was put to parts.
    pub(super) fn close_segment(&mut self, batch: &Batch, origins: Origins<'_>, way: &mut Way<'_>) {
        if self.segment.is_empty() {
            return;
        }
        let mut segment = std::mem::take(&mut self.segment);
        let mut unfolded = self.aggregator.fold(batch, origins, &segment.items, &mut segment.accumulators);
        let is_session = matches!(self.spec.window.0, Kind::Session { .. });
        if is_session && !unfolded.is_empty() && segment.items.len() > 1 {
            return self.fold_one_by_one(segment, batch, origins, way);
        }
        unfolded.sort_by_key(|u| u.index);
        let failed = |index: usize| unfolded.binary_search_by_key(&index, |u| u.index).is_ok();
        for (index, accumulator) in segment.items.iter().filter(|(index, _)| !failed(*index)) {
            let (touched, stamp) = (&mut segment.touched[*accumulator], batch.rows[*index].stamp);
            touched.stamps = (if touched.took == 0 { stamp } else { touched.stamps.0 }, stamp);
            touched.took += 1;
        }
        for (touched, accumulator) in segment.touched.iter().zip(&mut segment.accumulators) {
            self.settle(touched, std::mem::take(accumulator));
        }
        if self.spec.emit == Emit::Update {
            let mut fires = Vec::new();
            let folded = segment.items.iter().filter(|(index, _)| !failed(*index));
            let each: Vec<(usize, Place)> =
                folded.map(|(index, accumulator)| (*index, segment.touched[*accumulator].place)).collect();
            match self.spec.window.0 {
                Kind::Paned(panes) => self.updated_panes(panes, batch, &each, &mut fires),
                Kind::Session { .. } => self.updated_sessions(batch, &each, &mut fires),
            }
            self.send(fires, way);
        }
        self.bury_unfolded(batch, origins, &unfolded, way);
        segment.items.clear();
        segment.touched.clear();
        segment.accumulators.clear();
        if self.segment.is_empty() {
            self.segment = segment;
        }
    }

    pub(super) fn bury_unfolded(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
        unfolded: &[Unfolded],
        way: &mut Way<'_>,
    ) {
        for failed in unfolded {
            let why = (failed.kind, failed.reason.as_str(), failed.attempts);
            self.bury(batch, failed.index, origins, why, way);
        }
    }

    /// A message that can't be folded opens no session, makes none longer and joins none: so those behind it
    /// may belong elsewhere. Each alone is sure.
    fn fold_one_by_one(&mut self, segment: Segment, batch: &Batch, origins: Origins<'_>, way: &mut Way<'_>) {
        for touched in &segment.touched {
            self.settle(touched, Vec::new());
        }
        for (index, _) in segment.items {
            self.join(batch, (index, None), origins, way);
            self.close_segment(batch, origins, way);
        }
    }

    /// Gives a part its accumulator back.
    fn settle(&mut self, touched: &Touched, accumulator: Vec<u8>) {
        let place = touched.place;
        let emit = self.spec.emit;
        // What is merged and kept reaches no further than the last window that fired.
        let may_be_merged = touched.start < self.closed(self.time);
        let is_session = matches!(self.spec.window.0, Kind::Session { .. });
        let keyed = self.table.at_mut(place);
        keyed.in_segment = false;
        let Ok(at) = keyed.find(touched.start) else { return };
        let part: &mut Part = &mut keyed.parts[at];
        part.held = 0;
        if touched.took > 0 {
            part.accumulator = accumulator;
            note_fold(part, touched.took, touched.stamps, emit);
            if let Some(run) = keyed.run.as_mut().filter(|_| may_be_merged) {
                run.forget(touched.start);
            }
            self.table.mark_dirty(place, at);
            if let Emit::Every(_) = emit {
                self.note_change(place);
            }
        } else if part.count == 0 {
            self.table.remove(place, at);
            self.table.tidy(place);
        } else if is_session {
            (part.start, part.end) = touched.before;
        } else {
            part.accumulator = accumulator;
        }
    }
}
