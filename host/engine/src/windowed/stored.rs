//! A part as the store keeps it, beside its end and key: numbers of seven bits a byte, then the accumulator.

use super::table::{Changes, NEVER, Part, Shown};
use crate::state::StoreError;

/// What is told where a part's value is not one.
pub(super) fn damaged(stage: u16) -> StoreError {
    StoreError::Corrupt {
        what: format!("a window of the stage number {stage} behind the key_by"),
        cause: "its value can't be read".to_owned(),
    }
}

/// The part's value in the store.
pub(super) fn write(part: &Part) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(part.accumulator.len() + 8);
    put(&mut bytes, part.end.wrapping_sub(part.start).unsigned_abs());
    put(&mut bytes, u64::from(part.count));
    match &part.changes {
        None => bytes.push(0),
        Some(changes) => {
            put(&mut bytes, 1 + changes.shown.len() as u64);
            put_signed(&mut bytes, changes.born);
            put_signed(&mut bytes, changes.touched);
            for shown in &changes.shown {
                put_signed(&mut bytes, shown.start);
                put_signed(&mut bytes, shown.end);
                put(&mut bytes, u64::from(shown.revision));
            }
        }
    }
    bytes.extend_from_slice(&part.accumulator);
    bytes
}

/// Where a stored part begins, and its accumulator; none where the bytes are not one.
pub(crate) fn split(end: i64, mut bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (start, ..) = read_head(end, &mut bytes)?;
    Some((start, bytes))
}

/// Reads a part back; none where the bytes are not one.
pub(super) fn read(end: i64, mut bytes: &[u8]) -> Option<Part> {
    let (start, count, changes) = read_head(end, &mut bytes)?;
    Some(Part {
        start,
        end,
        accumulator: bytes.to_vec(),
        count,
        held: 0,
        dirty: false,
        due: NEVER,
        stored_end: end,
        changes,
    })
}

/// What stands before the accumulator, which is left.
fn read_head(end: i64, bytes: &mut &[u8]) -> Option<(i64, u32, Option<Box<Changes>>)> {
    let start = end.checked_sub(i64::try_from(take(bytes)?).ok()?)?;
    let count = u32::try_from(take(bytes)?).ok()?;
    let changes = match take(bytes)? {
        0 => None,
        shown => {
            let mut changes =
                Changes { born: take_signed(bytes)?, touched: take_signed(bytes)?, shown: Vec::new() };
            for _ in 1..shown {
                changes.shown.push(Shown {
                    start: take_signed(bytes)?,
                    end: take_signed(bytes)?,
                    revision: u32::try_from(take(bytes)?).ok()?,
                });
            }
            Some(Box::new(changes))
        }
    };
    Some((start, count, changes))
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Small numbers stay small, whatever their sign.
fn put_signed(bytes: &mut Vec<u8>, number: i64) {
    put(bytes, (number.wrapping_shl(1) ^ (number >> 63)).cast_unsigned());
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let number = take(bytes)?;
    Some((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_comes_back_as_it_was_stored() {
        for (start, end, count) in [(0, 1, 1), (5, 3_600_005, u32::MAX), (-7, 0, 0)] {
            for shown in [None, Some(0), Some(3)] {
                let changes = shown.map(|n| {
                    let shown = Shown { start: -3, end: i64::MAX, revision: 9 };
                    Box::new(Changes { born: i64::MIN, touched: -1, shown: vec![shown; n] })
                });
                let part = Part { start, end, count, changes, accumulator: vec![0x80, 1], ..Part::default() };
                let bytes = write(&part);
                let back = read(end, &bytes).expect("it was written");
                assert_eq!((back.start, back.end, back.count), (start, end, count));
                assert_eq!((back.accumulator, back.changes), (part.accumulator, part.changes));
                for cut in 0..bytes.len() - 2 {
                    assert!(read(end, &bytes[..cut]).is_none(), "cut to {cut} of {bytes:?}");
                }
            }
        }
    }
}
