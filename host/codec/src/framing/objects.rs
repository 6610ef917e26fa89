//! MessagePack objects one behind the other: each tells where it ends.
//!
//! An object's end is found without decoding it: what counts is how many values are still to come, so it takes the
//! same memory however deep it is. A byte that begins no value ends the stream: all from there on is one rejected
//! record, at the stream's end.

use super::pieces::{Pieces, Scan, Scanner};
use super::{Cutter, Framing, Joiner, Place};
use crate::messagepack::header::{Header, header};

/// MessagePack objects one behind the other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Objects;

impl Framing for Objects {
    fn resumes(&self) -> bool {
        true
    }

    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Pieces::<Object>::new(from, message_bytes_max))
    }

    fn extension(&self) -> &'static str {
        "msgpack"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        Box::new(Self)
    }
}

impl Joiner for Objects {
    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(value);
    }
}

/// Counts what is still to come of an object.
struct Object {
    /// Values, of all lists and maps that are open.
    values: u64,
    /// Bytes of the value at hand.
    bytes: u64,
    /// A header that a piece has cut: nine bytes at most.
    head: [u8; 9],
    head_bytes: usize,
}

impl Default for Object {
    fn default() -> Self {
        Self { values: 1, bytes: 0, head: [0; 9], head_bytes: 0 }
    }
}

impl Scanner for Object {
    const WHAT: &'static str = "an object";

    fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        loop {
            let there = (bytes.len() - at) as u64;
            if there < self.bytes {
                self.bytes -= there;
                return Scan::More;
            }
            at += self.bytes as usize;
            self.bytes = 0;
            if self.values == 0 {
                return Scan::Ends(at);
            }
            let Some(first) = bytes.get(at) else { return Scan::More };
            let (value, size) = if self.head_bytes == 0 {
                let Some((value, size)) = header(&bytes[at..]) else {
                    let rest = &bytes[at..];
                    self.head[..rest.len()].copy_from_slice(rest);
                    self.head_bytes = rest.len();
                    return Scan::More;
                };
                (value, size)
            } else {
                self.head[self.head_bytes] = *first;
                self.head_bytes += 1;
                at += 1;
                let Some((value, _)) = header(&self.head[..self.head_bytes]) else { continue };
                self.head_bytes = 0;
                (value, 0)
            };
            at += size;
            let more = match value {
                Header::None => {
                    return Scan::Broken("the byte 0xc1, which MessagePack does not use".into());
                }
                Header::List(count) => u64::from(count),
                Header::Map(count) => 2 * u64::from(count),
                other => {
                    self.bytes = other.body_bytes();
                    0
                }
            };
            // Each list adds less than 2^33, so it takes 2^31 of them to come near the end.
            self.values = (self.values - 1).saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pieces::tests::{cut, resumes_anywhere};
    use super::*;
    use crate::messagepack::{MessagePackSettings, tests::of_json};

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>()
                .prop_filter("finite", |f| f.is_finite())
                .prop_map(|f| serde_json::json!(f).to_string()),
            prop::sample::select(vec![0_usize, 5, 40, 300]).prop_map(|n| format!("\"{}\"", "x".repeat(n))),
        ];
        leaf.prop_recursive(4, 40, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(inner, 0..20).prop_map(|all| {
                    let all: Vec<_> = all.iter().enumerate().map(|(n, v)| format!("\"{n}\":{v}")).collect();
                    format!("{{{}}}", all.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn cuts_are_the_same_however_the_stream_comes(
            values in prop::collection::vec(json(), 0..8),
            piece in 1usize..90, max in 1usize..400, messages_max in 1usize..9, bytes_max in 1usize..300,
            lost in 0usize..3,
        ) {
            let values: Vec<Vec<u8>> =
                values.iter().map(|v| of_json(v, &MessagePackSettings::default()).expect("an object")).collect();
            let mut stream = values.concat();
            stream.truncate(stream.len().saturating_sub(lost));
            let cuts = cut(&Objects, (0, &stream), piece, max, messages_max, bytes_max);
            prop_assert_eq!(&cuts, &cut(&Objects, (0, &stream), stream.len().max(1), max, 100, 1 << 20));
            prop_assert_eq!(cuts.last().map_or(0, |c| c.1), stream.len() as u64);
            let whole = if lost == 0 { values.len() } else { cuts.len().saturating_sub(1) };
            for (value, (.., got, rejected)) in values.iter().zip(&cuts).take(whole) {
                let over = value.len() > max;
                prop_assert_eq!(rejected.is_some(), over, "{:?}", rejected);
                prop_assert_eq!(got, &value[..if over { value.len().min(256) } else { value.len() }]);
            }
            resumes_anywhere(&Objects, &stream, max);
        }
    }

    #[test]
    fn what_ends_the_stream_is_told() {
        for (bytes, part) in [
            (
                &[0x92, 1, 0xc1, 5][..],
                "the byte 0xc1, which MessagePack does not use; the rest of the stream, 4 bytes",
            ),
            (
                &[0xdd, 0xff, 0xff, 0xff, 0xff, 1][..],
                "an object is cut off: the stream ends after 6 of its bytes",
            ),
            (&[0xdb, 0xff, 0xff, 0xff, 0xff, 1][..], "an object is cut off"),
            (&[0xcf, 0, 0][..], "an object is cut off"),
        ] {
            let mut stream = vec![0x91, 7];
            stream.extend_from_slice(bytes);
            for piece in [1, 2, 100] {
                let cuts = cut(&Objects, (0, &stream), piece, 100, 10, 1 << 20);
                assert_eq!((cuts.len(), &cuts[0].2[..]), (2, &[0x91, 7][..]));
                let reason = cuts[1].3.as_deref().expect("a reason");
                assert!(reason.contains(part), "{reason}");
            }
        }
    }

    #[test]
    fn a_bomb_of_lists_is_not_held() {
        let mut cutter = Pieces::<Object>::new(Place::START, 1000);
        let mut batch = wasmill_engine::input::RawBatch::of_value(b"");
        for _ in 0..100 {
            cutter.feed(vec![0xdd; 99_999]);
            cutter.take(&mut batch, 10, 1 << 20);
            assert!(cutter.held_capacity() < 4096);
        }
        assert_eq!(batch.records.len(), 1, "nothing but what was there");
    }
}
