//! Cuts text into lines, one message a line.
//!
//! A line ends with a newline, a carriage return before it is not part of it; the last line may lack
//! the newline. Empty lines are passed over. A line above the limit is not held in memory: its head
//! goes on as a rejected record.

use wasmill_engine::input::{RawBatch, RawRecord};

use super::{Cutter, Framing, Joiner, Place};

/// How much of a rejected line goes on.
const HEAD_BYTES: usize = 256;

/// One record a line, ended by a newline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

impl Framing for Lines {
    fn resumes(&self) -> bool {
        true
    }

    fn has_lines(&self) -> bool {
        true
    }

    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Splitter::new(from, message_bytes_max))
    }

    fn extension(&self) -> &'static str {
        "jsonl"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        Box::new(Self)
    }

    fn check(&self, value: &[u8]) -> Result<(), String> {
        match memchr::memchr(b'\n', value) {
            Some(at) => Err(format!(
                "the message's text has a newline, at byte {at}, and would be two lines: use a codec that keeps it, such as `json`"
            )),
            None => Ok(()),
        }
    }
}

impl Joiner for Lines {
    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(value);
        out.push(b'\n');
    }
}

/// The state between two pieces of text.
struct Splitter {
    message_bytes_max: usize,
    /// Where the line that is next starts.
    place: Place,
    chunk: Vec<u8>,
    at: usize,
    /// A line's beginning from earlier chunks; only its head once it is too long.
    held: Vec<u8>,
    /// How long that beginning is.
    held_bytes: usize,
}

impl Cutter for Splitter {
    fn feed(&mut self, chunk: Vec<u8>) {
        debug_assert!(self.at == self.chunk.len(), "the piece before is used up");
        self.chunk = chunk;
        self.at = 0;
    }

    fn take(&mut self, batch: &mut RawBatch, messages_max: usize, bytes_max: usize) {
        if self.held_bytes > 0 && self.at < self.chunk.len() {
            match memchr::memchr(b'\n', &self.chunk[self.at..]) {
                None => return self.hold(self.chunk.len()),
                Some(n) => {
                    let newline = self.at + n;
                    self.hold(newline);
                    self.at = newline + 1;
                    self.finish_held(batch, 1);
                }
            }
        }
        let chunk = std::mem::take(&mut self.chunk);
        let used_up = self.take_whole(&chunk, batch, messages_max, bytes_max);
        self.chunk = chunk;
        if used_up {
            self.hold(self.chunk.len());
        }
    }

    fn end(&mut self, batch: &mut RawBatch) {
        if self.held_bytes > 0 {
            self.finish_held(batch, 0);
        }
    }

    fn next(&self) -> u64 {
        self.place.offset
    }
}

impl Splitter {
    fn new(place: Place, message_bytes_max: usize) -> Self {
        Self { message_bytes_max, place, chunk: Vec::new(), at: 0, held: Vec::new(), held_bytes: 0 }
    }

    /// The lines that lie in one piece, copied all at once; false where the batch is full before.
    fn take_whole(
        &mut self,
        chunk: &[u8],
        batch: &mut RawBatch,
        messages_max: usize,
        bytes_max: usize,
    ) -> bool {
        let (from, base) = (self.at, batch.data.len());
        let mut used_up = true;
        for n in memchr::memchr_iter(b'\n', &chunk[from..]) {
            let filled = base + self.at - from;
            if batch.records.len() >= messages_max || (!batch.records.is_empty() && filled >= bytes_max) {
                used_up = false;
                break;
            }
            let newline = from + n;
            let line = without_cr(&chunk[self.at..newline]).len();
            let next = self.place.offset + (newline + 1 - self.at) as u64;
            self.push(batch, filled, line, line, next);
            self.at = newline + 1;
        }
        batch.data.extend_from_slice(&chunk[from..self.at]);
        used_up
    }

    /// Keeps the piece up to `to` for the line that it begins.
    fn hold(&mut self, to: usize) {
        let part = &self.chunk[self.at..to];
        self.at = to;
        self.held_bytes += part.len();
        // One more for a carriage return that may be its last byte.
        let room = if self.held_bytes > self.message_bytes_max + 1 {
            HEAD_BYTES
        } else {
            self.message_bytes_max + 1
        };
        if self.held.len() > room {
            self.held.truncate(room);
            self.held.shrink_to_fit();
        }
        let more = part.len().min(room - self.held.len());
        self.held.extend_from_slice(&part[..more]);
    }

    fn finish_held(&mut self, batch: &mut RawBatch, newline: usize) {
        let next = self.place.offset + (self.held_bytes + newline) as u64;
        let whole = self.held.len() == self.held_bytes;
        let line = if whole { without_cr(&self.held).len() } else { self.held_bytes };
        let start = batch.data.len();
        batch.data.extend_from_slice(&self.held);
        self.push(batch, start, line, self.held.len().min(line), next);
        self.held.clear();
        self.held_bytes = 0;
    }

    /// Adds a line of `line` bytes whose first `there` stand at `start` of the batch's data.
    fn push(&mut self, batch: &mut RawBatch, start: usize, line: usize, there: usize, next: u64) {
        let place = self.place;
        self.place = Place { offset: next, line: place.line + 1 };
        if line == 0 {
            return;
        }
        let max = self.message_bytes_max;
        let (length, rejected) = if line > max {
            let reason = format!("line of {line} bytes is above message_bytes_max of {max}");
            (there.min(HEAD_BYTES), Some(reason))
        } else {
            (line, None)
        };
        batch.records.push(RawRecord {
            offset: place.offset,
            next,
            value: start..start + length,
            line: Some(place.line),
            rejected,
            ..RawRecord::default()
        });
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wasmill_engine::position::PartitionId;

    use super::*;

    type Line = (u64, u64, Vec<u8>, bool);

    /// What the splitter makes of text that comes in pieces, polled with these limits.
    fn split(
        text: &[u8],
        piece_bytes: usize,
        max: usize,
        messages_max: usize,
        bytes_max: usize,
    ) -> Vec<Line> {
        let mut splitter = Splitter::new(Place::START, max);
        let mut lines = Vec::new();
        let mut pieces = text.chunks(piece_bytes).map(<[u8]>::to_vec);
        let mut ended = false;
        let mut next = 0;
        loop {
            let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
            splitter.take(&mut batch, messages_max, bytes_max);
            if batch.records.is_empty() {
                match pieces.next() {
                    Some(piece) => splitter.feed(piece),
                    None if ended => return lines,
                    None => {
                        ended = true;
                        splitter.end(&mut batch);
                    }
                }
            }
            assert!(batch.records.len() <= messages_max, "more than was asked for");
            for r in batch.records {
                assert!(r.offset >= next && r.next > r.offset);
                next = r.next;
                let line = r.line.expect("a line");
                lines.push((r.offset, line, batch.data[r.value].to_vec(), r.rejected.is_some()));
            }
        }
    }

    /// The same, by the plainest code.
    fn oracle(text: &[u8], max: usize) -> Vec<Line> {
        let mut offset = 0;
        let mut lines = Vec::new();
        for (i, piece) in text.split_inclusive(|b| *b == b'\n').enumerate() {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let over = line.len() > max;
            let value = if over { &line[..line.len().min(HEAD_BYTES)] } else { line };
            if !line.is_empty() {
                lines.push((offset, i as u64 + 1, value.to_vec(), over));
            }
            offset += piece.len() as u64;
        }
        lines
    }

    proptest! {
        #[test]
        fn cuts_are_the_same_however_the_text_comes(
            lines in prop::collection::vec((0usize..40, 0u8..3), 0..40),
            ends in any::<bool>(),
            piece in 1usize..90,
            max in 1usize..30,
            messages_max in 1usize..9,
            bytes_max in 1usize..100,
        ) {
            let mut text = Vec::new();
            for (i, (len, end)) in lines.iter().enumerate() {
                text.extend(std::iter::repeat_n(b'a' + (i % 26) as u8, *len));
                text.extend_from_slice([&b"\n"[..], b"\r\n", b"\n\n"][*end as usize]);
            }
            if ends {
                text.extend_from_slice(b"last");
            }
            prop_assert_eq!(split(&text, piece, max, messages_max, bytes_max), oracle(&text, max));
        }
    }

    #[test]
    fn a_line_far_above_the_limit_is_not_held() {
        let mut splitter = Splitter::new(Place::START, 1000);
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        for _ in 0..1000 {
            splitter.feed(vec![b'x'; 10_000]);
            splitter.take(&mut batch, 10, 1 << 20);
            assert!(splitter.held.capacity() < 4096);
        }
        splitter.feed(b"\n{}\n".to_vec());
        splitter.take(&mut batch, 10, 1 << 20);
        let reason = batch.records[0].rejected.as_deref();
        assert_eq!(reason, Some("line of 10000000 bytes is above message_bytes_max of 1000"));
        assert_eq!(batch.records[0].value.len(), HEAD_BYTES);
        assert_eq!(&batch.data[batch.records[1].value.clone()], b"{}");
        assert_eq!(batch.records[1].offset, 10_000_001);
    }
}
