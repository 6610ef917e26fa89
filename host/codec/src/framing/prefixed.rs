//! Cuts bytes into records that stand behind their lengths: four bytes, big-endian, then the record.
//!
//! A record above the limit is not held in memory: its head goes on as a rejected record. A stream that ends in the
//! middle of a record gives what there is of it, rejected.

use wasmill_engine::input::{RawBatch, RawRecord};

use super::{Cutter, Framing, Joiner, Place};

/// How many bytes a length has.
const LENGTH_BYTES: usize = 4;
/// How much of a rejected record goes on.
const HEAD_BYTES: usize = 256;

/// Each record behind its length, as four bytes, big-endian.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prefixed;

impl Framing for Prefixed {
    fn resumes(&self) -> bool {
        true
    }

    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Splitter {
            message_bytes_max,
            offset: from.offset,
            chunk: Vec::new(),
            at: 0,
            length: Vec::new(),
            held: Vec::new(),
            held_bytes: 0,
        })
    }

    fn extension(&self) -> &'static str {
        "bin"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        Box::new(Self)
    }

    fn check(&self, value: &[u8]) -> Result<(), String> {
        match u32::try_from(value.len()) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("a record of {} bytes: its length must fit into four bytes", value.len())),
        }
    }
}

impl Joiner for Prefixed {
    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        // `check` has looked at it.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// The state between two pieces.
struct Splitter {
    message_bytes_max: usize,
    /// Where the record that is next starts, its length included.
    offset: u64,
    chunk: Vec<u8>,
    at: usize,
    /// What there is of the length.
    length: Vec<u8>,
    /// The record's beginning from earlier pieces; only its head where it is too long.
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
        let full = |batch: &RawBatch| {
            batch.records.len() >= messages_max
                || (!batch.records.is_empty() && batch.data.len() >= bytes_max)
        };
        while !full(batch) {
            let Some(size) = self.size() else { return };
            let rest = self.chunk.len() - self.at;
            if size - self.held_bytes > rest {
                return self.hold(rest);
            }
            if self.held_bytes == 0 && size <= self.message_bytes_max {
                // It lies in one piece.
                let start = batch.data.len();
                batch.data.extend_from_slice(&self.chunk[self.at..self.at + size]);
                self.at += size;
                self.push(batch, start, LENGTH_BYTES + size, None);
                continue;
            }
            self.hold(size - self.held_bytes);
            let rejected = (size > self.message_bytes_max).then(|| {
                format!("record of {size} bytes is above message_bytes_max of {}", self.message_bytes_max)
            });
            self.push_held(batch, LENGTH_BYTES + size, rejected);
        }
    }

    fn end(&mut self, batch: &mut RawBatch) {
        let Some(size) = self.size() else {
            if !self.length.is_empty() {
                let rejected = format!(
                    "cut off: {} bytes of a record's length, expected {LENGTH_BYTES}",
                    self.length.len()
                );
                self.push_held(batch, self.length.len(), Some(rejected));
            }
            return;
        };
        let rejected = format!("cut off: {} bytes of a record of {size}", self.held_bytes);
        self.held.truncate(HEAD_BYTES);
        self.push_held(batch, LENGTH_BYTES + self.held_bytes, Some(rejected));
    }

    fn next(&self) -> u64 {
        self.offset
    }
}

impl Splitter {
    /// The length of the record at hand, once there is all of it.
    fn size(&mut self) -> Option<usize> {
        let more = (LENGTH_BYTES - self.length.len()).min(self.chunk.len() - self.at);
        self.length.extend_from_slice(&self.chunk[self.at..self.at + more]);
        self.at += more;
        let length = <[u8; LENGTH_BYTES]>::try_from(&self.length[..]).ok()?;
        usize::try_from(u32::from_be_bytes(length)).ok()
    }

    /// Takes the next bytes for the record at hand.
    fn hold(&mut self, bytes: usize) {
        let part = &self.chunk[self.at..self.at + bytes];
        self.at += bytes;
        self.held_bytes += bytes;
        let is_too_long = <[u8; LENGTH_BYTES]>::try_from(&self.length[..])
            .is_ok_and(|l| u32::from_be_bytes(l) as usize > self.message_bytes_max);
        let room = if is_too_long { HEAD_BYTES } else { self.message_bytes_max };
        let more = part.len().min(room - self.held.len());
        self.held.extend_from_slice(&part[..more]);
    }

    fn push_held(&mut self, batch: &mut RawBatch, bytes: usize, rejected: Option<String>) {
        let start = batch.data.len();
        batch.data.append(&mut self.held);
        self.push(batch, start, bytes, rejected);
    }

    /// The record is what the batch's data has from `start` on; in the stream it has `bytes`, its length included.
    fn push(&mut self, batch: &mut RawBatch, start: usize, bytes: usize, rejected: Option<String>) {
        let next = self.offset + bytes as u64;
        batch.records.push(RawRecord {
            offset: self.offset,
            next,
            value: start..batch.data.len(),
            rejected,
            ..RawRecord::default()
        });
        self.offset = next;
        self.length.clear();
        self.held_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wasmill_engine::position::PartitionId;

    use super::*;

    /// Offset, next, bytes, why it is rejected.
    type Cut = (u64, u64, Vec<u8>, Option<String>);

    fn cut(
        stream: &[u8],
        from: u64,
        piece: usize,
        max: usize,
        messages_max: usize,
        bytes_max: usize,
    ) -> Vec<Cut> {
        let mut cutter = Prefixed.cutter(Place { offset: from, line: 1 }, max);
        let mut pieces = stream[from as usize..].chunks(piece).map(<[u8]>::to_vec);
        let (mut cuts, mut ended) = (Vec::new(), false);
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
                cuts.push((r.offset, r.next, batch.data[r.value].to_vec(), r.rejected));
            }
            assert_eq!(cutter.next(), cuts.last().map_or(from, |cut| cut.1));
        }
    }

    fn joined(records: &[Vec<u8>]) -> Vec<u8> {
        let (mut joiner, mut out) = (Prefixed.joiner(), Vec::new());
        records.iter().for_each(|r| joiner.push(r, &mut out));
        joiner.finish(&mut out);
        out
    }

    proptest! {
        #[test]
        fn cuts_are_the_same_however_the_stream_comes(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            cut_off in 0usize..50,
            piece in 1usize..90,
            max in 1usize..30,
            messages_max in 1usize..9,
            bytes_max in 1usize..100,
        ) {
            let mut stream = joined(&records);
            stream.truncate(stream.len().saturating_sub(cut_off));
            let cuts = cut(&stream, 0, piece, max, messages_max, bytes_max);
            let mut at = 0;
            for (record, (offset, next, value, rejected)) in records.iter().zip(&cuts) {
                prop_assert_eq!(*offset, at);
                let whole = at as usize + LENGTH_BYTES + record.len();
                at = *next;
                prop_assert_eq!(at as usize, whole.min(stream.len()));
                prop_assert_eq!(rejected.is_some(), record.len() > max || whole > stream.len());
                if rejected.is_none() {
                    prop_assert_eq!(value, record);
                } else {
                    prop_assert!(record.starts_with(value) && value.len() <= HEAD_BYTES);
                }
            }
            prop_assert_eq!(at as usize, stream.len());
            for (n, (_, next, _, _)) in cuts.iter().enumerate() {
                prop_assert_eq!(&cut(&stream, *next, piece, max, messages_max, bytes_max), &cuts[n + 1..]);
            }
        }
    }

    #[test]
    fn reasons() {
        for (stream, expected) in [
            (&b"\0\0\0\x09123456789"[..], "record of 9 bytes is above message_bytes_max of 8"),
            (b"\xff\xff\xff\xff12", "cut off: 2 bytes of a record of 4294967295"),
            (b"\0\0", "cut off: 2 bytes of a record's length, expected 4"),
        ] {
            let cuts = cut(stream, 0, 100, 8, 10, 100);
            assert_eq!(cuts.len(), 1);
            assert_eq!(cuts[0].3.as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_record_far_above_the_limit_is_not_held() {
        let mut cutter = Splitter {
            message_bytes_max: 1000,
            offset: 0,
            chunk: Vec::new(),
            at: 0,
            length: Vec::new(),
            held: Vec::new(),
            held_bytes: 0,
        };
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        cutter.feed(10_000_000u32.to_be_bytes().to_vec());
        for _ in 0..1000 {
            cutter.take(&mut batch, 10, 1 << 20);
            cutter.feed(vec![b'x'; 10_000]);
            assert!(cutter.held.capacity() < 4096);
        }
        cutter.take(&mut batch, 10, 1 << 20);
        cutter.feed(b"\0\0\0\x02{}".to_vec());
        cutter.take(&mut batch, 10, 1 << 20);
        assert_eq!(batch.records[0].value.len(), HEAD_BYTES);
        assert_eq!(&batch.data[batch.records[1].value.clone()], b"{}");
        assert_eq!(batch.records[1].offset, 10_000_004);
    }
}
