//! `sum` and `avg`: exact, rounded once.
//!
//! Section: how many numbers; the sum of the integers among them; whether there were others; if so, their sum.

use super::exact::{Exact, IntSum};
use super::number::Number;
use super::section::{add_u64, read_u64};

const INTS: usize = 8;
const FLOATS: usize = INTS + IntSum::BYTES;
const NO_FLOATS: u8 = 0;
const SOME_FLOATS: u8 = 1;

pub(crate) fn empty(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len() + FLOATS, 0);
    bytes.push(NO_FLOATS);
}

pub(crate) fn end(bytes: &[u8], at: usize) -> Option<usize> {
    let floats = at + FLOATS;
    let end = match *bytes.get(floats)? {
        NO_FLOATS => floats + 1,
        _ => floats + 1 + Exact::written_bytes(*bytes.get(floats + 1)?),
    };
    (end <= bytes.len()).then_some(end)
}

pub(crate) fn fold(bytes: &mut Vec<u8>, at: usize, number: Number) {
    add_u64(bytes, at, 1);
    match number {
        Number::Int(int) => {
            let ints = &mut bytes[at + INTS..at + FLOATS];
            IntSum::read(ints).plus(IntSum::of(int)).write(ints);
        }
        Number::Float(float) => {
            let floats = at + FLOATS..end(bytes, at).unwrap_or(bytes.len());
            let mut sum = read_floats(&bytes[floats.clone()]).unwrap_or(Exact::ZERO);
            sum.add(float);
            let mut written = Vec::with_capacity(64);
            write_floats(&sum, &mut written);
            if written.len() == floats.len() {
                bytes[floats].copy_from_slice(&written);
            } else {
                bytes.splice(floats, written);
            }
        }
    }
}

pub(crate) fn merge(left: &[u8], right: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&read_u64(left, 0).saturating_add(read_u64(right, 0)).to_le_bytes());
    let at = into.len();
    into.resize(at + IntSum::BYTES, 0);
    ints(left).plus(ints(right)).write(&mut into[at..]);
    match (read_floats(&left[FLOATS..]), read_floats(&right[FLOATS..])) {
        (None, None) => into.push(NO_FLOATS),
        (Some(one), None) | (None, Some(one)) => write_floats(&one, into),
        (Some(mut one), Some(other)) => {
            one.add_sum(&other);
            write_floats(&one, into);
        }
    }
}

/// The sum; none of no numbers.
pub(crate) fn finish_sum(section: &[u8]) -> Result<Option<String>, String> {
    if read_u64(section, 0) == 0 {
        return Ok(None);
    }
    let Some(mut sum) = read_floats(&section[FLOATS..]) else { return Ok(Some(ints(section).digits())) };
    sum.add_ints(ints(section));
    let rounded = sum.quotient(1).ok_or("the sum is beyond the range of a double")?;
    Ok(Some(double(rounded)))
}

/// The sum divided by the count; none of no numbers.
pub(crate) fn finish_avg(section: &[u8]) -> Option<String> {
    let count = read_u64(section, 0);
    let mut sum = read_floats(&section[FLOATS..]).unwrap_or(Exact::ZERO);
    sum.add_ints(ints(section));
    // A mean lies between the least and the greatest, both of which a double can hold.
    (count > 0).then(|| double(sum.quotient(count).unwrap_or(f64::MAX)))
}

/// A finite double as JSON has it: the shortest text that is read back as the same.
pub(crate) fn double(number: f64) -> String {
    serde_json::Value::from(number).to_string()
}

fn ints(section: &[u8]) -> IntSum {
    IntSum::read(&section[INTS..FLOATS])
}

fn read_floats(bytes: &[u8]) -> Option<Exact> {
    match bytes.split_first() {
        Some((&SOME_FLOATS, written)) => Exact::read(written),
        _ => None,
    }
}

fn write_floats(sum: &Exact, bytes: &mut Vec<u8>) {
    bytes.push(SOME_FLOATS);
    sum.write(bytes);
}
