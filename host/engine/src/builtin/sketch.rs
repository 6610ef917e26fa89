//! `quantiles`: counts in buckets whose width grows with the values, so that an answer is off by a share.
//!
//! This is DDSketch (Masson, Rim, Lee: "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
//! Relative-Error Guarantees", 2019) with its linearly interpolated mapping: a bucket is a double's exponent
//! and first bits, so that no logarithm is taken, which machines round differently. Where a key's values fill
//! too many buckets, all are joined two by two, as UDDSketch does (Epicoco et al., 2020): what a set of values
//! comes to does not depend on the order in which they came. No crate is used, because the counts are changed
//! where they stand in the accumulator, and the same values must give the same bytes.
//!
//! Section: a body, empty or: how often buckets were joined, the least and the greatest value, the buckets
//! that are not empty, sorted, each its number (four bytes) and its count (eight).

use super::section::{self, add_u64, read_u64};

/// How many bits of the fraction a bucket has at first: 128 buckets from each power of two to the next, each
/// answered by its middle, which is at most 1/256 off.
const FRACTION_BITS: u32 = 7;
/// The most buckets that a key has.
pub(crate) const BUCKETS_MAX: usize = 2_048;

const LEVEL: usize = 0;
const LEAST: usize = 1;
const GREATEST: usize = LEAST + 8;
const BUCKETS: usize = GREATEST + 8;
const BUCKET_BYTES: usize = 12;

/// A value's bucket: 0 of zero, above it those of positive values, below it those of negative ones.
fn bucket_of(value: f64, level: u8) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let number = value.abs().to_bits() >> shift(level);
    let number = i32::try_from(number).unwrap_or(i32::MAX - 1) + 1;
    if value < 0.0 { -number } else { number }
}

fn shift(level: u8) -> u32 {
    52 - FRACTION_BITS + u32::from(level)
}

/// The bucket one level up that has this bucket's values.
fn joined(bucket: i32) -> i32 {
    bucket.signum() * ((bucket.abs() + 1) / 2)
}

/// The middle of a bucket.
fn middle(bucket: i32, level: u8) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let number = u64::from(bucket.unsigned_abs()) - 1;
    let bound = |n: u64| f64::from_bits((n << shift(level)).min(f64::MAX.to_bits()));
    let (low, high) = (bound(number), bound(number + 1));
    (low + (high - low) / 2.0).copysign(bucket.into())
}

fn bucket_at(buckets: &[u8], i: usize) -> i32 {
    let bytes = buckets.get(BUCKET_BYTES * i..).and_then(|b| b.first_chunk());
    bytes.map_or(0, |b| i32::from_le_bytes(*b))
}

fn buckets(body: &[u8]) -> impl Iterator<Item = (i32, u64)> {
    let all = body.get(BUCKETS..).unwrap_or_default();
    (0..all.len() / BUCKET_BYTES).map(|i| (bucket_at(all, i), read_u64(all, BUCKET_BYTES * i + 4)))
}

pub(crate) fn fold(bytes: &mut Vec<u8>, at: usize, value: f64) {
    // One zero only.
    let value = value + 0.0;
    let range = section::body_range(bytes, at);
    if range.is_empty() {
        let body = write(0, value, value, &[(bucket_of(value, 0), 1)]);
        return section::replace(bytes, at, range, &body);
    }
    let body = &mut bytes[range.clone()];
    let level = body[LEVEL];
    let (least, greatest) = (read_f64(body, LEAST), read_f64(body, GREATEST));
    body[LEAST..GREATEST].copy_from_slice(&least.min(value).to_le_bytes());
    body[GREATEST..BUCKETS].copy_from_slice(&greatest.max(value).to_le_bytes());
    let bucket = bucket_of(value, level);
    let all = &mut body[BUCKETS..];
    let count = all.len() / BUCKET_BYTES;
    let (mut from, mut to) = (0, count);
    while from < to {
        let half = from.midpoint(to);
        if bucket_at(all, half) < bucket {
            from = half + 1;
        } else {
            to = half;
        }
    }
    if from < count && bucket_at(all, from) == bucket {
        return add_u64(all, BUCKET_BYTES * from + 4, 1);
    }
    let mut new = [0; BUCKET_BYTES];
    new[..4].copy_from_slice(&bucket.to_le_bytes());
    new[4..].copy_from_slice(&1u64.to_le_bytes());
    let place = range.start + BUCKETS + BUCKET_BYTES * from;
    section::replace(bytes, at, place..place, &new);
    if count + 1 > BUCKETS_MAX {
        let range = section::body_range(bytes, at);
        let body = bounded(level, buckets(&bytes[range.clone()]).collect(), &bytes[range.clone()]);
        section::replace(bytes, at, range, &body);
    }
}

pub(crate) fn merge(left: &[u8], right: &[u8], into: &mut Vec<u8>) {
    let (left, right) = (section::body(left), section::body(right));
    if left.is_empty() || right.is_empty() {
        return section::push_body(into, if left.is_empty() { right } else { left });
    }
    let level = left[LEVEL].max(right[LEVEL]);
    let at_level = |body: &[u8]| {
        let joins = level - body[LEVEL];
        let up = move |bucket| (0..joins).fold(bucket, |b, _| joined(b));
        buckets(body).map(move |(bucket, count)| (up(bucket), count)).collect::<Vec<_>>()
    };
    let mut all = at_level(left);
    all.extend(at_level(right));
    let least = read_f64(left, LEAST).min(read_f64(right, LEAST));
    let greatest = read_f64(left, GREATEST).max(read_f64(right, GREATEST));
    let bounds = write(level, least, greatest, &[]);
    section::push_body(into, &bounded(level, summed(all), &bounds));
}

/// A body of so many buckets, joined until they are few enough; its bounds are another body's.
fn bounded(mut level: u8, mut all: Vec<(i32, u64)>, bounds: &[u8]) -> Vec<u8> {
    while all.len() > BUCKETS_MAX {
        level += 1;
        all = summed(all.into_iter().map(|(bucket, count)| (joined(bucket), count)).collect());
    }
    write(level, read_f64(bounds, LEAST), read_f64(bounds, GREATEST), &all)
}

fn summed(mut all: Vec<(i32, u64)>) -> Vec<(i32, u64)> {
    all.sort_unstable();
    all.dedup_by(|next, held| {
        let same = next.0 == held.0;
        if same {
            held.1 = held.1.saturating_add(next.1);
        }
        same
    });
    all
}

fn write(level: u8, least: f64, greatest: f64, all: &[(i32, u64)]) -> Vec<u8> {
    let mut body = Vec::with_capacity(BUCKETS + BUCKET_BYTES * all.len());
    body.push(level);
    body.extend_from_slice(&least.to_le_bytes());
    body.extend_from_slice(&greatest.to_le_bytes());
    for (bucket, count) in all {
        body.extend_from_slice(&bucket.to_le_bytes());
        body.extend_from_slice(&count.to_le_bytes());
    }
    body
}

fn read_f64(body: &[u8], at: usize) -> f64 {
    f64::from_bits(read_u64(body, at))
}

/// The `q`-quantiles, 0 ≤ q ≤ 1: near the value with floor(q · (n − 1)) others before it in order, and the
/// least and the greatest value themselves for 0 and 1. None of no values.
pub(crate) fn finish(section: &[u8], quantiles: &[f64]) -> Vec<Option<f64>> {
    let body = section::body(section);
    if body.is_empty() {
        return vec![None; quantiles.len()];
    }
    let (least, greatest) = (read_f64(body, LEAST), read_f64(body, GREATEST));
    let total = buckets(body).fold(0, |sum: u64, (_, count)| sum.saturating_add(count));
    let answer = |q: &f64| {
        if *q >= 1.0 {
            return greatest;
        }
        if *q <= 0.0 {
            return least;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank, rounded down")]
        let rank = (q * (total - 1) as f64) as u64;
        let mut before = 0u64;
        for (bucket, count) in buckets(body) {
            before = before.saturating_add(count);
            if before > rank {
                return middle(bucket, body[LEVEL]).clamp(least, greatest);
            }
        }
        greatest
    };
    quantiles.iter().map(answer).map(Some).collect()
}
