//! `distinct` with `approximate`: HyperLogLog with 4,096 registers, a standard error of 1.6 %.
//!
//! The estimator is Otmar Ertl's improved one ("New cardinality estimation algorithms for HyperLogLog
//! sketches", 2017): it needs no tables of corrections, and only operations that every machine rounds alike.
//! No crate is used, because the registers are changed where they stand in the accumulator, and the same
//! values must give the same bytes.
//!
//! Section: a body of registers that are not 0, each its number (two bytes) and its value, sorted; once that
//! is no smaller than all registers, a byte for each. Hashes are XXH3's, 64 bits, of a value's canonical form.

use super::section;

const PRECISION: u32 = 12;
const REGISTERS: usize = 1 << PRECISION;
/// The greatest value of a register.
const RANK_MAX: usize = 64 - PRECISION as usize + 1;
/// Bytes of one register in the short form.
const ENTRY_BYTES: usize = 3;
/// α∞ = 1 / (2 ln 2).
const ALPHA: f64 = 0.721_347_520_444_481_7;

/// Which register a value belongs to, and how rare it is.
fn register_of(canonical: &[u8]) -> (u16, u8) {
    let hash = xxhash_rust::xxh3::xxh3_64(canonical);
    let number = u16::try_from(hash >> (64 - PRECISION)).unwrap_or_default();
    // The bit behind the hash's end stops the count.
    let rank = (hash << PRECISION | 1 << (PRECISION - 1)).leading_zeros() + 1;
    (number, u8::try_from(rank).unwrap_or(u8::MAX))
}

pub(crate) fn fold(bytes: &mut Vec<u8>, at: usize, canonical: &[u8]) {
    let (number, rank) = register_of(canonical);
    let range = section::body_range(bytes, at);
    if range.len() == REGISTERS {
        let register = &mut bytes[range][usize::from(number)];
        *register = rank.max(*register);
        return;
    }
    let entries = bytes[range.clone()].as_chunks_mut::<ENTRY_BYTES>().0;
    match entries.binary_search_by_key(&number, |[a, b, _]| u16::from_be_bytes([*a, *b])) {
        Ok(i) => entries[i][2] = rank.max(entries[i][2]),
        Err(i) => {
            let [a, b] = number.to_be_bytes();
            let place = range.start + ENTRY_BYTES * i;
            section::replace(bytes, at, place..place, &[a, b, rank]);
            let range = section::body_range(bytes, at);
            if range.len() >= REGISTERS {
                let registers = registers(&bytes[range.clone()]);
                section::replace(bytes, at, range, &registers);
            }
        }
    }
}

pub(crate) fn merge(left: &[u8], right: &[u8], into: &mut Vec<u8>) {
    let (left, right) = (registers(section::body(left)), registers(section::body(right)));
    let merged: Vec<u8> = left.iter().zip(right).map(|(l, r)| r.max(*l)).collect();
    let set = merged.iter().filter(|rank| **rank > 0).count();
    if ENTRY_BYTES * set >= REGISTERS {
        return section::push_body(into, &merged);
    }
    let numbered = (0u16..).zip(merged).filter(|(_, rank)| *rank > 0);
    let entries: Vec<u8> = numbered
        .flat_map(|(number, rank)| {
            let [a, b] = number.to_be_bytes();
            [a, b, rank]
        })
        .collect();
    section::push_body(into, &entries);
}

fn registers(body: &[u8]) -> Vec<u8> {
    if body.len() == REGISTERS {
        return body.to_vec();
    }
    let mut registers = vec![0; REGISTERS];
    for [a, b, rank] in body.as_chunks::<ENTRY_BYTES>().0 {
        if let Some(register) = registers.get_mut(usize::from(u16::from_be_bytes([*a, *b]))) {
            *register = *rank;
        }
    }
    registers
}

/// The estimate, rounded to a whole number.
pub(crate) fn finish(section: &[u8]) -> u64 {
    let mut histogram = [0.0; RANK_MAX + 1];
    for rank in registers(section::body(section)) {
        histogram[usize::from(rank).min(RANK_MAX)] += 1.0;
    }
    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - histogram[RANK_MAX] / m);
    for of_rank in histogram[1..RANK_MAX].iter().rev() {
        z = 0.5 * (z + of_rank);
    }
    z += m * sigma(histogram[0] / m);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
    let estimate = (ALPHA * m * m / z).round() as u64;
    estimate
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(values: std::ops::Range<u64>) -> (u64, Vec<u8>) {
        let mut section = Vec::new();
        section::push_body(&mut section, &[]);
        for value in values {
            fold(&mut section, 0, value.to_string().as_bytes());
        }
        (finish(&section), section)
    }

    #[test]
    fn estimates_are_near_at_every_size() {
        assert_eq!(estimate(0..0).0, 0);
        assert_eq!(estimate(0..1).0, 1);
        for size in [10, 100, 1_000, 4_000, 10_000, 100_000, 1_000_000] {
            let (estimate, _) = estimate(0..size);
            let error = (estimate as f64 - size as f64).abs() / size as f64;
            // Four standard errors.
            assert!(error < 0.065, "{estimate} for {size}");
        }
    }

    #[test]
    fn short_and_long_form_merge_to_what_all_values_give() {
        for (left, right) in
            [(0..10, 5..20), (0..10, 5..9_000), (0..9_000, 8_000..20_000), (0..1_200, 1_000..1_800)]
        {
            let all = estimate(left.start..right.end).1;
            let mut merged = Vec::new();
            merge(&estimate(left.clone()).1, &estimate(right.clone()).1, &mut merged);
            assert_eq!(merged, all, "{left:?} and {right:?}");
            merged.clear();
            merge(&estimate(right).1, &estimate(left).1, &mut merged);
            assert_eq!(merged, all);
        }
    }

    #[test]
    fn the_hash_and_the_form_are_those_that_are_stored() {
        assert_eq!(estimate(0..3).1, [9, 0, 0, 0, 1, 152, 3, 6, 92, 1, 15, 185, 2]);
    }
}
