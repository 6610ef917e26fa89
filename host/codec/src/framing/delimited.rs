//! Messages with their lengths before them, as Protobuf's `writeDelimitedTo` and `parseDelimitedFrom` have them:
//! a varint, then so many bytes.
//!
//! A length that can't be one ends the stream: all from there on is one rejected record, at the stream's end.

use super::pieces::{Pieces, Scan, Scanner};
use super::{Cutter, Framing, Joiner, Place};

/// The longest message that Protobuf allows.
const LENGTH_MAX: u64 = i32::MAX as u64;

/// A varint with the length before each message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delimited;

impl Framing for Delimited {
    fn resumes(&self) -> bool {
        true
    }

    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Pieces::<Length>::new(from, message_bytes_max))
    }

    fn extension(&self) -> &'static str {
        "pb"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        Box::new(Self)
    }
}

impl Joiner for Delimited {
    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        let mut length = value.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(value);
    }
}

/// Reads a length, then passes over so many bytes.
#[derive(Default)]
struct Length {
    length: u64,
    length_bytes: usize,
    /// Whether the length is known, and how many bytes of it are still to come.
    left: Option<u64>,
}

impl Scanner for Length {
    const WHAT: &'static str = "a message";

    fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        while self.left.is_none() {
            let Some(byte) = bytes.get(at) else { return Scan::More };
            if self.length_bytes == 10 {
                return Scan::Broken("the length before a message has more than ten bytes".into());
            }
            // Beyond 63 bits it is too great anyway.
            let bits = u64::from(byte & 0x7f).checked_shl(7 * self.length_bytes as u32).unwrap_or_default();
            let cut = self.length_bytes == 9 && byte & 0x7f > 0;
            self.length |= if cut { u64::MAX } else { bits };
            self.length_bytes += 1;
            at += 1;
            if byte & 0x80 == 0 {
                self.left = Some(self.length);
            }
        }
        if self.length > LENGTH_MAX {
            return Scan::Broken(format!(
                "the length before a message says {} bytes, above the {LENGTH_MAX} that Protobuf allows",
                self.length
            ));
        }
        let left = self.left.unwrap_or_default();
        let there = (bytes.len() - at) as u64;
        if there >= left {
            return Scan::Ends(at + left as usize);
        }
        self.left = Some(left - there);
        Scan::More
    }

    fn before(&self) -> usize {
        self.length_bytes
    }

    fn expected(&self) -> Option<u64> {
        self.left.map(|_| self.length.saturating_add(self.length_bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pieces::tests::{cut, resumes_anywhere};
    use super::*;

    fn joined(values: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut joiner = Delimited.joiner();
        values.iter().for_each(|v| joiner.push(v, &mut out));
        out
    }

    proptest! {
        #[test]
        fn cuts_are_the_same_however_the_stream_comes(
            lengths in prop::collection::vec(prop_oneof![0usize..20, 120usize..140, 250usize..300], 0..20),
            piece in 1usize..90, max in 1usize..290, messages_max in 1usize..9, bytes_max in 1usize..300,
            lost in 0usize..4,
        ) {
            let values: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(n, l)| vec![n as u8; *l]).collect();
            let mut stream = joined(&values);
            stream.truncate(stream.len().saturating_sub(lost));
            let cuts = cut(&Delimited, (0, &stream), piece, max, messages_max, bytes_max);
            prop_assert_eq!(&cuts, &cut(&Delimited, (0, &stream), stream.len().max(1), max, 100, 1 << 20));
            let whole = if lost == 0 { values.len() } else { cuts.len().saturating_sub(1) };
            prop_assert_eq!(cuts.last().map_or(0, |c| c.1), stream.len() as u64);
            for (value, (.., got, rejected)) in values.iter().zip(&cuts).take(whole) {
                let over = value.len() > max;
                prop_assert_eq!(rejected.is_some(), over);
                prop_assert_eq!(got, &value[..if over { value.len().min(256) } else { value.len() }]);
            }
            resumes_anywhere(&Delimited, &stream, max);
        }
    }

    #[test]
    fn a_broken_length_ends_the_stream_with_a_reason() {
        for (bytes, part) in [
            (&[0xff; 11][..], "more than ten bytes"),
            (&[0x80, 0x80, 0x80, 0x80, 0x08, 1, 2][..], "says 2147483648 bytes, above the 2147483647"),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..],
                "says 18446744073709551615 bytes",
            ),
            (&[5, 1, 2][..], "a message is cut off: the stream ends after 3 of its 6 bytes"),
            (&[0x80][..], "a message is cut off: the stream ends after 1 of its bytes"),
        ] {
            let mut stream = joined(&[b"good".to_vec()]);
            stream.extend_from_slice(bytes);
            for piece in [1, 3, 100] {
                let cuts = cut(&Delimited, (0, &stream), piece, 100, 10, 1 << 20);
                assert_eq!(cuts.len(), 2);
                assert_eq!(cuts[0].2, b"good");
                let reason = cuts[1].3.as_deref().expect("a reason");
                assert!(reason.contains(part), "{reason}");
                assert_eq!(cuts[1].1, stream.len() as u64);
            }
        }
    }

    #[test]
    fn what_is_too_long_or_broken_is_not_held() {
        for head in [&[0x80, 0xad, 0xe2, 0x04][..], &[0xff; 11][..]] {
            let mut cutter = Pieces::<Length>::new(Place::START, 1000);
            let mut batch = wasmill_engine::input::RawBatch::of_value(b"");
            cutter.feed(head.to_vec());
            cutter.take(&mut batch, 10, 1 << 20);
            for _ in 0..100 {
                cutter.feed(vec![1; 99_999]);
                cutter.take(&mut batch, 10, 1 << 20);
                assert!(cutter.held_capacity() < 4096);
            }
        }
    }
}
