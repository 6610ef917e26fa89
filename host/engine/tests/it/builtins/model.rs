//! Messages of one key, what the engine makes of them, and exact numbers to compare with.

use num_bigint::BigInt;
use wasmill_engine::batch::Batch;
use wasmill_engine::builtin::{BuiltIn, BuiltIns, Kind};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::Origins;
use wasmill_frame::Parts;

/// A message: where it stands, and its payload.
#[derive(Debug, Clone)]
pub struct Sent {
    pub time: i64,
    pub partition: u32,
    pub offset: u64,
    pub payload: String,
}

impl Sent {
    /// What decides between equals.
    pub fn place(&self) -> (i64, u32, u64) {
        (self.time, self.partition, self.offset)
    }
}

/// Messages with these payloads, one after the other.
pub fn in_a_row(payloads: &[&str]) -> Vec<Sent> {
    let sent = |(offset, payload): (u64, &&str)| Sent {
        time: 100 + offset as i64,
        partition: 0,
        offset,
        payload: (*payload).to_owned(),
    };
    (0..).zip(payloads).map(sent).collect()
}

/// A built-in over a place; without one, none is read.
pub fn of(kind: Kind, place: &str) -> BuiltIn {
    BuiltIn::new(kind, (!place.is_empty()).then(|| place.parse().unwrap()))
}

pub fn batch(messages: &[Sent]) -> Batch {
    let nowhere = PartitionId { source: 0, partition: 0 };
    let mut batch = Batch::with_capacity(nowhere, 0, messages.len(), 64 * messages.len());
    for sent in messages {
        let parts = Parts {
            id: "m",
            kind: "k",
            key: None,
            payload: sent.payload.as_bytes(),
            timestamp: sent.time,
            metadata: b"",
            payload_is_json: true,
        };
        batch.push(&parts, sent.offset);
        batch.rows.last_mut().unwrap().partition.partition = sent.partition;
    }
    batch
}

/// The accumulator of these messages, folded in their order; and the reasons of those that were refused.
pub fn folded(built_ins: &BuiltIns, messages: &[Sent]) -> (Vec<u8>, Vec<String>) {
    let items: Vec<(usize, usize)> = (0..messages.len()).map(|index| (index, 0)).collect();
    let mut accumulators = [built_ins.initial().to_vec()];
    let mut refused = Vec::new();
    built_ins
        .fold(&batch(messages), Origins::Source, &items, &mut accumulators, |index, reason| {
            refused.push(format!("{index}: {reason}"));
        })
        .unwrap();
    let [accumulator] = accumulators;
    (accumulator, refused)
}

/// The value of these messages.
pub fn value(built_ins: &BuiltIns, messages: &[Sent]) -> Result<String, String> {
    let (accumulator, refused) = folded(built_ins, messages);
    assert_eq!(refused, Vec::<String>::new());
    finished(built_ins, &accumulator)
}

pub fn finished(built_ins: &BuiltIns, accumulator: &[u8]) -> Result<String, String> {
    built_ins.finish(accumulator).unwrap().map(|json| String::from_utf8(json).unwrap())
}

/// A number literal exactly: in units of 2^-1074, of which every double is a whole multiple.
pub fn units(literal: &str) -> BigInt {
    match literal.parse::<i128>() {
        Ok(int) => BigInt::from(int) << 1074u32,
        Err(_) => units_of(literal.parse().unwrap()),
    }
}

pub fn units_of(float: f64) -> BigInt {
    let bits = float.abs().to_bits();
    let (exponent, fraction) = (bits >> 52, bits & ((1 << 52) - 1));
    let magnitude = match exponent {
        0 => BigInt::from(fraction),
        e => BigInt::from(fraction | 1 << 52) << (e - 1),
    };
    if float < 0.0 { -magnitude } else { magnitude }
}

/// Whether a double is the nearest one to `sum / count`, ties to even.
pub fn is_nearest(rounded: f64, sum: &BigInt, count: u64) -> bool {
    let distance = |to: f64| {
        let difference = sum - units_of(to) * count;
        if difference < BigInt::ZERO { -difference } else { difference }
    };
    let here = distance(rounded);
    [rounded.next_up(), rounded.next_down()].into_iter().filter(|n| n.is_finite()).all(|neighbour| {
        let there = distance(neighbour);
        here < there || here == there && rounded.to_bits() & 1 == 0
    })
}
