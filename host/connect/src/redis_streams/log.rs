//! Log mode: entries from a position on, whatever groups have.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::entry::{Entry, EntryId, Raw, of_stream};
use super::feed::{BLOCK, Fetch};
use super::info::{self, StreamInfo};
use crate::ConnectorError;
use crate::redis_link::{SharedLink, told};

/// How often it is looked whether entries were trimmed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many entries were added before each offset that was read: for the next run, which so knows how many are
/// missing. Shared by the reader and who commits.
#[derive(Clone, Default)]
pub(super) struct Counts(Arc<Mutex<VecDeque<(u64, u64)>>>);

impl Counts {
    fn push(&self, offset: u64, added: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((offset, added));
    }

    /// Up to the offset that is committed: how many were added before it, where that is known.
    pub fn take(&self, offset: u64) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = counts.partition_point(|(at, _)| *at <= offset);
        counts.drain(..n).next_back().filter(|(at, _)| *at == offset).map(|(_, added)| added)
    }
}

/// Reads on from an offset.
pub(super) struct LogFetch {
    pub link: SharedLink,
    pub stream: String,
    pub field: String,
    pub next: u64,
    /// How many entries were added before `next`, where that is known.
    pub added: Option<u64>,
    pub counts: Counts,
    pub lost: Arc<AtomicU64>,
    looked_at: Option<Instant>,
    is_reset_told: bool,
}

impl LogFetch {
    pub fn new(
        link: SharedLink,
        (stream, field): (&str, &str),
        (next, added): (u64, Option<u64>),
        counts: Counts,
        lost: Arc<AtomicU64>,
    ) -> Self {
        Self {
            link,
            stream: stream.to_owned(),
            field: field.to_owned(),
            next,
            added,
            counts,
            lost,
            looked_at: None,
            is_reset_told: false,
        }
    }

    fn look(&mut self) -> Result<(), ConnectorError> {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let stream = self.stream.clone();
        let what = format!("cannot look at stream {}", self.stream);
        let info = self.link.call(&what, |c| info::stream(c, &stream)).map_err(told)?.unwrap_or_default();
        let next = EntryId::of_offset(self.next);
        if info.last < next.before() && !std::mem::replace(&mut self.is_reset_told, true) {
            tracing::warn!(
                stream = %self.stream, last = %info.last, read = %next.before(),
                "the stream ends before what was read of it: it was removed, or its server lost what it had not saved; entries with ids before that would not be read"
            );
        }
        let lost = missing(&info, next, self.added);
        if lost.messages > 0 {
            self.lost.fetch_add(lost.messages, Ordering::Relaxed);
            let at_least = if lost.at_least { "at least " } else { "" };
            tracing::error!(
                stream = %self.stream, messages = lost.messages, position = %next,
                "messages are lost ({at_least}{}): they were trimmed from the stream before they were read; let whoever writes it keep more (MAXLEN). Reading goes on with the first entry that is there",
                lost.messages
            );
        }
        self.added = lost.added.or(self.added);
        self.looked_at = Some(Instant::now());
        Ok(())
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    messages: u64,
    at_least: bool,
    /// How many were added before the position, or are lost behind it.
    added: Option<u64>,
}

/// What is missing of a stream from a position on. `added`: how many were added before it.
fn missing(info: &StreamInfo, next: EntryId, added: Option<u64>) -> Missing {
    let all_ahead = info.first.is_none_or(|first| first >= next);
    // Of what was ever added, what is there is still to be read, or nothing is.
    let (known, to_read) = match info.added {
        Some(known) if all_ahead => (known, info.length),
        Some(known) if info.last < next => (known, 0),
        _ => return Missing::default(),
    };
    let passed = known.saturating_sub(to_read);
    match added {
        Some(added) => Missing {
            messages: passed.saturating_sub(added),
            at_least: false,
            added: Some(passed.max(added)),
        },
        // Behind a position without a count nobody knows how many were there, or whether any.
        None if passed > 0 && all_ahead && info.last >= next && info.first != Some(next) => {
            Missing { messages: 1, at_least: true, added: Some(passed) }
        }
        None => Missing { messages: 0, at_least: false, added: Some(passed) },
    }
}

impl Fetch for LogFetch {
    fn fetch(&mut self, entries_max: usize) -> Result<Vec<Raw>, ConnectorError> {
        self.look()?;
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(entries_max).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        command.arg("STREAMS").arg(&self.stream).arg(EntryId::of_offset(self.next).before());
        let what = format!("cannot read stream {}", self.stream);
        let found = self.link.call(&what, |c| of_stream(command.query(c)?)).map_err(told)?;
        let mut taken = Vec::with_capacity(found.len());
        for Entry { id, fields } in found {
            let offset = match id.offset() {
                Ok(offset) => offset,
                // What comes before it is read first.
                Err(_) if !taken.is_empty() => break,
                Err(why) => return Err(ConnectorError::Fatal(format!("stream {}: {why}", self.stream))),
            };
            self.next = offset + 1;
            if let Some(added) = &mut self.added {
                *added += 1;
                self.counts.push(self.next, *added);
            }
            taken.push(Raw::new((offset, self.next), id, fields.unwrap_or_default(), &self.field));
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_where_it_can_be() {
        let id = |ms| EntryId { ms, sequence: 0 };
        let info = |added, length, first: Option<u64>, last| StreamInfo {
            length,
            first: first.map(id),
            last: id(last),
            added: Some(added),
        };
        let lost = |info, next, added| missing(&info, id(next), added).messages;
        // Ten entries 1…10, the first three are trimmed.
        let trimmed = info(10, 7, Some(4), 10);
        assert_eq!(lost(trimmed, 1, Some(0)), 3);
        assert_eq!(lost(trimmed, 3, Some(2)), 1);
        assert_eq!(lost(trimmed, 4, Some(3)), 0);
        assert_eq!(lost(trimmed, 6, Some(5)), 0);
        assert_eq!(lost(trimmed, 11, Some(10)), 0);
        // Two that were passed over were deleted before they could be read.
        assert_eq!(lost(trimmed, 11, Some(8)), 2);
        // All of them are gone.
        assert_eq!(lost(info(10, 0, None, 10), 5, Some(4)), 6);
        assert_eq!(
            missing(&info(10, 0, None, 10), id(5), None),
            Missing { messages: 1, at_least: true, added: Some(10) }
        );
        assert_eq!(missing(&trimmed, id(4), None), Missing { messages: 0, at_least: false, added: Some(3) });
        assert_eq!(missing(&trimmed, id(3), None), Missing { messages: 1, at_least: true, added: Some(3) });
        assert_eq!(missing(&trimmed, id(6), None), Missing::default());
    }

    #[test]
    fn a_commit_knows_how_many_were_before_it() {
        let counts = Counts::default();
        for n in 1..=5 {
            counts.push(n * 10, n);
        }
        assert_eq!(counts.take(20), Some(2));
        assert_eq!(counts.take(35), None);
        assert_eq!(counts.take(50), Some(5));
        assert_eq!(counts.take(50), None);
    }
}
