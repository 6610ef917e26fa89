//! Bytes of any kind: before each record stands its length, four bytes, the greatest first.

use super::pieces::{Pieces, Scan, Scanner};
use super::{Cutter, Framing, Joiner, Place};

/// How many bytes a length has.
const LENGTH_BYTES: usize = 4;

/// One record behind its length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Length;

impl Framing for Length {
    fn resumes(&self) -> bool {
        true
    }

    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Pieces::<Prefix>::new(from, message_bytes_max))
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
            Err(_) => Err(format!(
                "the message has {} bytes, and its length is written with four: expected less than 4 GiB",
                value.len()
            )),
        }
    }
}

impl Joiner for Length {
    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        // What is longer was refused by `check`.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// Reads a length, then passes over so many bytes.
#[derive(Default)]
struct Prefix {
    length: u32,
    length_bytes: usize,
    /// How many of the record's bytes are still to come, once the length is known.
    left: u64,
}

impl Scanner for Prefix {
    const WHAT: &'static str = "a record";

    fn scan(&mut self, bytes: &[u8]) -> Scan {
        let more = (LENGTH_BYTES - self.length_bytes).min(bytes.len());
        for byte in &bytes[..more] {
            self.length = self.length << 8 | u32::from(*byte);
        }
        self.length_bytes += more;
        if self.length_bytes < LENGTH_BYTES {
            return Scan::More;
        }
        if more > 0 {
            self.left = u64::from(self.length);
        }
        let there = bytes.len() - more;
        match usize::try_from(self.left) {
            Ok(left) if left <= there => Scan::Ends(more + left),
            _ => {
                self.left -= there as u64;
                Scan::More
            }
        }
    }

    fn before(&self) -> usize {
        self.length_bytes
    }

    fn expected(&self) -> Option<u64> {
        (self.length_bytes == LENGTH_BYTES).then(|| LENGTH_BYTES as u64 + u64::from(self.length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pieces::tests::{cut, resumes_anywhere};
    use super::*;

    fn joined(records: &[Vec<u8>]) -> Vec<u8> {
        let (mut joiner, mut out) = (Length.joiner(), Vec::new());
        records.iter().for_each(|r| joiner.push(r, &mut out));
        joiner.finish(&mut out);
        out
    }

    proptest! {
        #[test]
        fn cuts_are_the_same_however_the_stream_comes(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            cut_off in 0usize..50, piece in 1usize..90, max in 1usize..30, messages_max in 1usize..9,
            bytes_max in 1usize..100,
        ) {
            let mut stream = joined(&records);
            stream.truncate(stream.len().saturating_sub(cut_off));
            let cuts = cut(&Length, (0, &stream), piece, max, messages_max, bytes_max);
            let mut at = 0;
            for (record, (offset, next, value, rejected)) in records.iter().zip(&cuts) {
                prop_assert_eq!(*offset, at);
                let whole = at as usize + LENGTH_BYTES + record.len();
                at = *next;
                prop_assert_eq!(at as usize, whole.min(stream.len()));
                prop_assert_eq!(rejected.is_some(), record.len() > max || whole > stream.len());
                let fits = if rejected.is_some() { record.starts_with(value) } else { record == value };
                prop_assert!(fits);
            }
            prop_assert_eq!(at as usize, stream.len());
            resumes_anywhere(&Length, &stream, max);
        }
    }

    #[test]
    fn reasons() {
        for (stream, expected) in [
            (&b"\0\0\0\x09123456789"[..], "a record of 9 bytes is above message_bytes_max of 8"),
            (b"\xff\xff\xff\xff12", "a record is cut off: the stream ends after 6 of its 4294967299 bytes"),
            (b"\0\0", "a record is cut off: the stream ends after 2 of its bytes"),
        ] {
            for piece in [1, 3, 100] {
                let cuts = cut(&Length, (0, stream), piece, 8, 10, 100);
                assert_eq!(cuts.len(), 1);
                assert_eq!(cuts[0].3.as_deref(), Some(expected));
            }
        }
    }

    #[test]
    fn a_record_far_above_the_limit_is_not_held() {
        let mut cutter = Pieces::<Prefix>::new(Place::START, 1000);
        let mut batch = wasmill_engine::input::RawBatch::of_value(b"");
        cutter.feed(10_000_000u32.to_be_bytes().to_vec());
        for _ in 0..1000 {
            cutter.take(&mut batch, 10, 1 << 20);
            cutter.feed(vec![b'x'; 10_000]);
            assert!(cutter.held_capacity() < 4096);
        }
        cutter.take(&mut batch, 10, 1 << 20);
        cutter.feed(b"\0\0\0\x02{}".to_vec());
        cutter.take(&mut batch, 10, 1 << 20);
        let last = batch.records.last().expect("a record");
        assert_eq!((&batch.data[last.value.clone()], last.offset), (&b"{}"[..], 10_000_004));
        let long = &batch.records[batch.records.len() - 2];
        assert!(long.rejected.is_some() && long.value.len() == 256);
    }
}
