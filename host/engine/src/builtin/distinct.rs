//! `distinct`: how many different values there are, exactly.
//!
//! Section: a body with the table of the values, sorted; or with one byte, where there are more of them, or
//! more bytes, than are kept. Whether a set has too many does not depend on the order in which it grew, and
//! one that has stays so: so the bound, too, is the same in every order.

use super::number::Number;
use super::section::{self, Table};
use super::sum::double;
use super::value::Value;

/// The most values that a key may be asked to keep.
pub(crate) const VALUES_MAX_MOST: u32 = 100_000;
/// How many a key keeps where nothing else is said.
pub const VALUES_MAX_DEFAULT: u32 = 10_000;
/// The most bytes that the values of a key may have together.
pub(crate) const BYTES_MAX: usize = 4 << 20;

const TOO_MANY: [u8; 1] = [0];

/// A value in the one form that it has, whatever way it was written: 1, 1.0 and 1e0 are one value, the text
/// "1" is another.
pub(crate) fn canonical(value: &Value<'_>) -> Vec<u8> {
    match value {
        Value::Literal(Some(number), _) => match number.canonical() {
            Number::Int(int) => int.to_string().into_bytes(),
            Number::Float(float) => double(float).into_bytes(),
        },
        Value::Literal(None, text) => text.as_bytes().to_vec(),
        Value::Text(text) => [b"\"", text.as_ref()].concat(),
        Value::Nested(text) => text.as_bytes().to_vec(),
        Value::Null => Vec::new(),
    }
}

pub(crate) fn fold(bytes: &mut Vec<u8>, at: usize, values_max: u32, value: &Value<'_>) {
    let range = section::body_range(bytes, at);
    let body = &bytes[range.clone()];
    if body == TOO_MANY {
        return;
    }
    let table = Table::of(body);
    let value = canonical(value);
    let Err(i) = table.search(|held| held.cmp(&value)) else { return };
    if is_too_many(table.len() + 1, table.text_bytes() + value.len(), values_max) {
        section::replace(bytes, at, range, &TOO_MANY);
    } else {
        section::insert(bytes, at, i, &value);
    }
}

pub(crate) fn merge(left: &[u8], right: &[u8], values_max: u32, into: &mut Vec<u8>) {
    let (left, right) = (section::body(left), section::body(right));
    if left == TOO_MANY || right == TOO_MANY {
        return section::push_body(into, &TOO_MANY);
    }
    let mut all: Vec<&[u8]> = Table::of(left).iter().chain(Table::of(right).iter()).collect();
    all.sort_unstable();
    all.dedup();
    if is_too_many(all.len(), all.iter().map(|v| v.len()).sum(), values_max) {
        section::push_body(into, &TOO_MANY);
    } else {
        section::push_table(into, &all);
    }
}

pub(crate) fn finish(section: &[u8], values_max: u32) -> Result<usize, String> {
    let body = section::body(section);
    if body == TOO_MANY {
        return Err(format!(
            "more than {values_max} different values, or {BYTES_MAX} bytes of them: raise `values_max` (at most {VALUES_MAX_MOST}), or take `approximate: true`"
        ));
    }
    Ok(Table::of(body).len())
}

fn is_too_many(values: usize, bytes: usize, values_max: u32) -> bool {
    values > values_max as usize || bytes > BYTES_MAX
}
