//! Cuts streams whose records tell themselves where they end.

use wasmill_engine::input::{RawBatch, RawRecord};

use super::{Cutter, Place};

/// How much of a rejected record goes on.
const HEAD_BYTES: usize = 256;

/// Finds a record's end, piece by piece.
pub(super) trait Scanner: Default + Send + Sync {
    /// What a record is called in errors.
    const WHAT: &'static str;
    /// Looks at the next bytes of a record.
    fn scan(&mut self, bytes: &[u8]) -> Scan;
    /// How many bytes stand before the value. It is told once the record has ended.
    fn before(&self) -> usize {
        0
    }
    /// How long the whole record is, where it is known before its end.
    fn expected(&self) -> Option<u64> {
        None
    }
}

/// What a scanner found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scan {
    /// The record ends behind so many of the bytes.
    Ends(usize),
    /// All of the bytes are the record's, and more is to come.
    More,
    /// The stream can't be read from this record on.
    Broken(String),
}

/// A stream between two pieces.
pub(super) struct Pieces<S> {
    message_bytes_max: usize,
    offset: u64,
    chunk: Vec<u8>,
    at: usize,
    scanner: S,
    /// A record's beginning from earlier chunks; only its head once it is too long.
    held: Vec<u8>,
    /// How long that beginning is.
    held_bytes: u64,
    broken: Option<String>,
}

impl<S: Scanner> Pieces<S> {
    pub(super) fn new(from: Place, message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            offset: from.offset,
            chunk: Vec::new(),
            at: 0,
            scanner: S::default(),
            held: Vec::new(),
            held_bytes: 0,
            broken: None,
        }
    }

    #[cfg(test)]
    pub(super) fn held_capacity(&self) -> usize {
        self.held.capacity()
    }

    /// Keeps the piece up to `to` for the record that it begins.
    fn hold(&mut self, to: usize) {
        // What stands before a value is ten bytes at most.
        let max = self.message_bytes_max.saturating_add(10);
        let part = &self.chunk[self.at..to];
        self.at = to;
        self.held_bytes += part.len() as u64;
        let too_long = self.broken.is_some() || self.held_bytes > max as u64;
        let head = HEAD_BYTES + 10;
        let room = if too_long { head } else { max.max(head) };
        if self.held.len() > room {
            self.held.truncate(room);
            self.held.shrink_to_fit();
        }
        let more = part.len().min(room - self.held.len());
        self.held.extend_from_slice(&part[..more]);
    }

    /// Adds the record that ends `behind` the start of it, `there` of whose bytes stand at the end of the batch.
    fn push(&mut self, batch: &mut RawBatch, length: u64, start: usize, rejected: Option<String>) {
        let next = self.offset + length;
        let there = batch.data.len() - start;
        let before = self.scanner.before();
        let value = length.saturating_sub(before as u64);
        let rejected = rejected.or_else(|| {
            (value > self.message_bytes_max as u64).then(|| {
                format!(
                    "{} of {value} bytes is above message_bytes_max of {}",
                    S::WHAT,
                    self.message_bytes_max
                )
            })
        });
        let from = start + before.min(there);
        let end = if rejected.is_some() { (start + there).min(from + HEAD_BYTES) } else { start + there };
        batch.data.truncate(end);
        batch.records.push(RawRecord {
            offset: self.offset,
            next,
            value: from..end,
            rejected,
            ..RawRecord::default()
        });
        self.offset = next;
        self.scanner = S::default();
    }
}

impl<S: Scanner> Cutter for Pieces<S> {
    fn feed(&mut self, chunk: Vec<u8>) {
        debug_assert!(self.at == self.chunk.len(), "the piece before is used up");
        self.chunk = chunk;
        self.at = 0;
    }

    fn take(&mut self, batch: &mut RawBatch, messages_max: usize, bytes_max: usize) {
        let base = batch.data.len();
        while self.at < self.chunk.len() {
            if self.broken.is_some() {
                return self.hold(self.chunk.len());
            }
            let full = batch.data.len() - base >= bytes_max && !batch.records.is_empty();
            if batch.records.len() >= messages_max || full {
                return;
            }
            match self.scanner.scan(&self.chunk[self.at..]) {
                Scan::More => self.hold(self.chunk.len()),
                Scan::Broken(why) => {
                    self.broken = Some(why);
                    self.hold(self.chunk.len());
                }
                Scan::Ends(n) if self.held_bytes == 0 => {
                    let start = batch.data.len();
                    batch.data.extend_from_slice(&self.chunk[self.at..self.at + n]);
                    self.at += n;
                    self.push(batch, n as u64, start, None);
                }
                Scan::Ends(n) => {
                    self.hold(self.at + n);
                    let start = batch.data.len();
                    batch.data.extend_from_slice(&self.held);
                    let length = std::mem::take(&mut self.held_bytes);
                    self.held.clear();
                    self.push(batch, length, start, None);
                }
            }
        }
    }

    fn end(&mut self, batch: &mut RawBatch) {
        if self.held_bytes == 0 {
            return;
        }
        let length = std::mem::take(&mut self.held_bytes);
        let reason = match (self.broken.take(), self.scanner.expected()) {
            (Some(why), _) => {
                format!(
                    "{why}; the rest of the stream, {length} bytes, can't be read, for nothing tells where the next begins"
                )
            }
            (None, Some(expected)) => {
                format!("{} is cut off: the stream ends after {length} of its {expected} bytes", S::WHAT)
            }
            (None, None) => format!("{} is cut off: the stream ends after {length} of its bytes", S::WHAT),
        };
        let start = batch.data.len();
        batch.data.extend_from_slice(&self.held);
        self.held.clear();
        self.push(batch, length, start, Some(reason));
    }

    fn next(&self) -> u64 {
        self.offset
    }
}

#[cfg(test)]
pub(super) mod tests {
    use wasmill_engine::position::PartitionId;

    use super::*;
    use crate::framing::Framing;

    /// What a record was made of: offset, next, value, reason.
    pub(crate) type Cut = (u64, u64, Vec<u8>, Option<String>);

    /// What is cut of a stream that comes in pieces, taken with these limits.
    pub(crate) fn cut(
        framing: &dyn Framing,
        (from, stream): (u64, &[u8]),
        piece_bytes: usize,
        max: usize,
        messages_max: usize,
        bytes_max: usize,
    ) -> Vec<Cut> {
        let mut cutter = framing.cutter(Place { offset: from, line: 1 }, max);
        let mut cuts: Vec<Cut> = Vec::new();
        let mut pieces = stream.chunks(piece_bytes).map(<[u8]>::to_vec);
        let mut ended = false;
        loop {
            let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
            cutter.take(&mut batch, messages_max, bytes_max);
            if batch.records.is_empty() {
                match pieces.next() {
                    Some(piece) => cutter.feed(piece),
                    None if ended => return cuts,
                    None => {
                        ended = true;
                        cutter.end(&mut batch);
                    }
                }
            }
            assert!(batch.records.len() <= messages_max, "more than was asked for");
            for r in batch.records {
                assert!(r.next > r.offset && r.offset == cuts.last().map_or(from, |c| c.1));
                cuts.push((r.offset, r.next, batch.data[r.value].to_vec(), r.rejected));
            }
            assert_eq!(cutter.next(), cuts.last().map_or(from, |c| c.1));
        }
    }

    /// A resumption at every record's `next` gives the rest.
    pub(crate) fn resumes_anywhere(framing: &dyn Framing, stream: &[u8], max: usize) {
        let whole = cut(framing, (0, stream), 7, max, 3, 50);
        for n in 0..whole.len() {
            let from = whole[n].0;
            let place = usize::try_from(from).expect("small");
            assert_eq!(cut(framing, (from, &stream[place..]), 5, max, 2, 40), whole[n..]);
        }
    }
}
