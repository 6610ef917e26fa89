//! Values of windows that are put together of panes, without merging every pane again for each window.
//!
//! Time is cut into blocks as long as a window, at fixed places. A window takes the end of one block and the
//! beginning of the next: a *suffix* of the one, merged from the back, and a *prefix* of the other, merged
//! from the front. Both are kept from window to window, so a pane costs about three merges, however many
//! windows it is in. How parts are merged depends on time alone, never on what was kept: an aggregate whose
//! merge is not quite associative, as with floating point, still gives the same at every run.

use super::table::{Keyed, Place, Table};
use crate::aggregate::Aggregator;

/// A merged value, or why there is none.
type Merged = Result<Vec<u8>, String>;

/// What is kept of a key from window to window.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Where the blocks meet: suffixes end here, the prefix begins here.
    border: i64,
    /// Of the panes before the border, from the last one on: the pane's start, and what it and all behind it
    /// merge to.
    suffixes: Vec<(i64, Vec<u8>)>,
    /// All panes from here to the border are in `suffixes`.
    suffix_from: i64,
    /// What the panes from the border on merge to, up to `prefix_to`.
    prefix: Option<Vec<u8>>,
    prefix_to: i64,
}

/// A window whose value is asked for. It must hold a pane.
pub(super) struct Wanted {
    pub place: Place,
    pub start: i64,
    pub end: i64,
    pub run: Box<Run>,
    pub value: Merged,
}

impl Wanted {
    pub fn new(place: Place, (start, end): (i64, i64), run: Box<Run>) -> Self {
        Self { place, start, end, run, value: Ok(Vec::new()) }
    }
}

enum Next {
    /// The pane that begins here joins the suffixes.
    Suffix(i64),
    /// The pane that begins here joins the prefix.
    Prefix(i64),
    Value,
    Done,
}

/// Puts the windows' values together: one call of the aggregate for all keys, as often as the key with the
/// most merges needs it.
pub(super) fn values(aggregator: &mut Aggregator, table: &Table, wanted: &mut [Wanted]) {
    for w in wanted.iter_mut() {
        w.run.turn_to(w.start, w.end);
    }
    let mut open: Vec<usize> = (0..wanted.len()).collect();
    while !open.is_empty() {
        let mut steps: Vec<Next> = Vec::with_capacity(open.len());
        for i in &open {
            let w = &mut wanted[*i];
            let (next, value) = w.run.without_merge(table.at(w.place), w.start, w.end);
            if let Some(value) = value {
                w.value = Ok(value);
            }
            steps.push(next);
        }
        let pair = |(i, next): (&usize, &Next)| {
            let w: &Wanted = &wanted[*i];
            w.run.pair(table.at(w.place), next)
        };
        let pairs: Vec<(&[u8], &[u8])> = open.iter().zip(&steps).filter_map(pair).collect();
        let mut merged = aggregator.merge(&pairs).into_iter();
        let mut still = Vec::new();
        for (i, next) in open.iter().zip(steps) {
            if matches!(next, Next::Done) {
                continue;
            }
            let w = &mut wanted[*i];
            match merged.next().unwrap_or_else(|| Err("merge answered nothing".to_owned())) {
                Ok(bytes) => match next {
                    Next::Suffix(start) => w.run.push_suffix(start, bytes),
                    Next::Prefix(start) => w.run.set_prefix(start, bytes),
                    Next::Value | Next::Done => {
                        w.value = Ok(bytes);
                        continue;
                    }
                },
                Err(reason) => {
                    w.value = Err(reason);
                    continue;
                }
            }
            still.push(*i);
        }
        open = still;
    }
}

impl Run {
    /// A pane has changed.
    pub fn forget(&mut self, start: i64) {
        if start >= self.border {
            if start < self.prefix_to {
                self.prefix = None;
                self.prefix_to = self.border;
            }
        } else if start >= self.suffix_from {
            while self.suffixes.pop_if(|(from, _)| *from <= start).is_some() {}
            self.suffix_from = start + 1;
        }
    }

    /// Goes on to a window.
    fn turn_to(&mut self, start: i64, end: i64) {
        let length = end - start;
        let border = (end - 1).div_euclid(length) * length;
        if border != self.border || end < self.prefix_to {
            *self = Self { border, suffix_from: border, prefix_to: border, ..Self::default() };
        }
        while self.suffixes.pop_if(|(from, _)| *from < start).is_some() {}
        self.suffix_from = self.suffix_from.max(start.min(border));
    }

    /// Does what needs no merge, and says what is next; with the value, where that needs none either.
    fn without_merge(&mut self, keyed: &Keyed, start: i64, end: i64) -> (Next, Option<Vec<u8>>) {
        if let Some(pane) = keyed.within(start, self.suffix_from).last() {
            if !self.suffixes.is_empty() {
                return (Next::Suffix(pane.start), None);
            }
            self.push_suffix(pane.start, pane.accumulator.clone());
            return self.without_merge(keyed, start, end);
        }
        self.suffix_from = self.suffix_from.min(start);
        if let Some(pane) = keyed.within(self.prefix_to, end).first() {
            if self.prefix.is_some() {
                return (Next::Prefix(pane.start), None);
            }
            self.set_prefix(pane.start, pane.accumulator.clone());
            return self.without_merge(keyed, start, end);
        }
        self.prefix_to = self.prefix_to.max(end);
        match (self.suffixes.last(), &self.prefix) {
            (Some(_), Some(_)) => (Next::Value, None),
            (Some((_, value)), None) | (None, Some(value)) => (Next::Done, Some(value.clone())),
            (None, None) => (Next::Done, None),
        }
    }

    /// The two that are to be merged, the earlier one first.
    fn pair<'a>(&'a self, keyed: &'a Keyed, next: &Next) -> Option<(&'a [u8], &'a [u8])> {
        let pane = |start: i64| keyed.find(start).ok().map(|at| keyed.parts[at].accumulator.as_slice());
        let suffix = self.suffixes.last().map(|(_, value)| value.as_slice());
        let prefix = self.prefix.as_deref();
        match next {
            Next::Suffix(start) => pane(*start).zip(suffix),
            Next::Prefix(start) => prefix.zip(pane(*start)),
            Next::Value => suffix.zip(prefix),
            Next::Done => None,
        }
    }

    fn push_suffix(&mut self, start: i64, bytes: Vec<u8>) {
        self.suffixes.push((start, bytes));
        self.suffix_from = start;
    }

    fn set_prefix(&mut self, start: i64, bytes: Vec<u8>) {
        self.prefix = Some(bytes);
        self.prefix_to = start + 1;
    }
}
