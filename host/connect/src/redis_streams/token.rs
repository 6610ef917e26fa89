//! How far a sink is, as a checkpoint keeps it; and outputs of which nobody knows whether they are committed.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::entry::EntryId;

/// The version of [`Token`].
const FORMAT: u32 = 1;
/// How many ranges of doubtful entries a token may have; more are joined, with what is between them.
const RANGES_MAX: usize = 1_000;
/// A doubt ends when at least so many outputs were written since, and this many times as many as were in doubt:
/// what was not made again by then never will be.
const WRITTEN_MIN: usize = 100_000;
const WRITTEN_TIMES: usize = 10;

/// What of a stream is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    format: u32,
    /// The last id of the stream at the flush.
    last: String,
    /// How many entries were ever added by then, where Redis tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// Entries up to `last` that may be results of messages that are not committed: first and last of each range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    doubtful: Vec<(String, String)>,
}

impl Token {
    pub fn new(last: EntryId, added: Option<u64>, doubt: &Doubt) -> Self {
        let doubtful = doubt.ranges().into_iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        Self { format: FORMAT, last: last.to_string(), added, doubtful }
    }

    pub fn read(text: &str) -> Option<Self> {
        let token: Self = serde_json::from_str(text).ok()?;
        let is_whole = token.format == FORMAT && token.last.parse::<EntryId>().is_ok();
        is_whole.then_some(token)
    }

    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub fn last(&self) -> EntryId {
        self.last.parse().unwrap_or_default()
    }

    pub fn doubtful(&self) -> impl Iterator<Item = (EntryId, EntryId)> {
        self.doubtful.iter().filter_map(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
    }
}

/// An output's id, short.
pub(super) fn short(id: &[u8]) -> u128 {
    xxh3_128(id)
}

/// Entries that were written, though what they are results of may not be committed: when they are made again, they
/// are not written again.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// In the stream's order: entry, output id, and whether it may still be made again.
    entries: Vec<(EntryId, bool)>,
    places: HashMap<u128, usize>,
    written: usize,
}

impl Doubt {
    pub fn add(&mut self, id: EntryId, output: u128) {
        self.places.insert(output, self.entries.len());
        self.entries.push((id, true));
    }

    pub fn has(&self, output: u128) -> bool {
        self.places.contains_key(&output)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// An output was made again.
    pub fn settle(&mut self, output: u128) {
        if let Some(at) = self.places.remove(&output) {
            self.entries[at].1 = false;
        }
        if self.places.is_empty() {
            *self = Self::default();
        }
    }

    /// So many other outputs were written. Answers how many doubts end, for they came never again.
    pub fn wrote(&mut self, outputs: usize) -> usize {
        if self.places.is_empty() {
            return 0;
        }
        self.written += outputs;
        if self.written < WRITTEN_MIN.max(self.entries.len() * WRITTEN_TIMES) {
            return 0;
        }
        std::mem::take(self).places.len()
    }

    fn ranges(&self) -> Vec<(EntryId, EntryId)> {
        let mut ranges: Vec<(EntryId, EntryId)> = Vec::new();
        let mut goes_on = false;
        for (id, doubtful) in &self.entries {
            let joins = goes_on || ranges.len() >= RANGES_MAX;
            match ranges.last_mut() {
                // What is joined with it is committed, and does no harm there.
                Some(last) if *doubtful && joins => last.1 = *id,
                _ if *doubtful => ranges.push((*id, *id)),
                _ => {}
            }
            goes_on = *doubtful;
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, sequence: 0 }
    }

    #[test]
    fn a_token_tells_what_is_in_doubt() {
        let mut doubt = Doubt::default();
        for n in 1..=9 {
            doubt.add(id(n), u128::from(n));
        }
        doubt.settle(1);
        doubt.settle(5);
        assert!(!doubt.has(5) && doubt.has(6));
        let token = Token::read(&Token::new(id(12), Some(40), &doubt).write()).expect("a token");
        assert_eq!((token.last(), token.added), (id(12), Some(40)));
        assert_eq!(token.doubtful().collect::<Vec<_>>(), [(id(2), id(4)), (id(6), id(9))]);
        for n in 1..=9 {
            doubt.settle(n);
        }
        assert_eq!(Token::new(id(12), None, &doubt).write(), r#"{"format":1,"last":"12-0"}"#);
        assert_eq!(Token::read("12-0"), None);
    }

    #[test]
    fn a_doubt_ends() {
        let mut doubt = Doubt::default();
        doubt.add(id(1), 1);
        assert_eq!(doubt.wrote(WRITTEN_MIN - 1), 0);
        assert_eq!((doubt.wrote(1), doubt.len()), (1, 0));
    }
}
