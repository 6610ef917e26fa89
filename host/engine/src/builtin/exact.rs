//! Exact sums of doubles and integers, rounded once: a fixed-point number wide enough for all of them.
//!
//! What Kulisch called a long accumulator: every double is a whole multiple of 2^-1074, so sums of them are
//! integers of 2,100 bits and some room above for carries. Adding integers is associative and commutative,
//! hence so is this; the one rounding, to nearest, ties to even, is at the end.

/// Bits below the point: the least double above zero is 2^-1074.
const FRACTION_BITS: usize = 1_074;
/// 2,098 bits hold the greatest double, 64 more the carries of 2^64 of them, one the sign.
const WORDS: usize = 35;
/// The words of a sum of integers: 2^64 numbers of 128 bits fit.
const INT_WORDS: usize = 3;

/// A sum of integers of up to 128 bits each; it can't overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IntSum([u64; INT_WORDS]);

impl IntSum {
    pub const BYTES: usize = 8 * INT_WORDS;

    pub fn read(bytes: &[u8]) -> Self {
        let mut words = [0; INT_WORDS];
        read_words(bytes, &mut words);
        Self(words)
    }

    pub fn write(self, bytes: &mut [u8]) {
        write_words(&self.0, bytes);
    }

    pub fn of(int: i128) -> Self {
        let sign = if int < 0 { u64::MAX } else { 0 };
        let bytes = int.to_le_bytes();
        let mut words = [sign; INT_WORDS];
        read_words(&bytes, &mut words[..2]);
        Self(words)
    }

    pub fn plus(mut self, other: Self) -> Self {
        add_at(&mut self.0, 0, &other.0);
        self
    }

    fn is_negative(self) -> bool {
        is_negative(&self.0)
    }

    /// In decimal digits.
    pub fn digits(self) -> String {
        let mut magnitude = self.0;
        if self.is_negative() {
            negate(&mut magnitude);
        }
        // Nineteen digits at a time, the lowest first.
        let mut chunks = Vec::new();
        while magnitude != [0; INT_WORDS] {
            chunks.push(divide(&mut magnitude, 10_000_000_000_000_000_000));
        }
        let mut text = if self.is_negative() { "-".to_owned() } else { String::new() };
        text.push_str(&chunks.pop().unwrap_or_default().to_string());
        for chunk in chunks.iter().rev() {
            text.push_str(&format!("{chunk:019}"));
        }
        text
    }
}

/// A sum of doubles and integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exact {
    /// Two's complement, the lowest word first, in units of 2^-1074.
    words: [u64; WORDS],
}

impl Exact {
    pub const ZERO: Self = Self { words: [0; WORDS] };

    /// Adds a finite double.
    pub fn add(&mut self, float: f64) {
        let bits = float.to_bits();
        let exponent = usize::try_from(bits >> 52 & 0x7ff).unwrap_or_default();
        let fraction = bits & ((1 << 52) - 1);
        let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
        let shift = exponent.max(1) - 1;
        let wide = u128::from(mantissa) << (shift % 64);
        #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
        let halves = [wide as u64, (wide >> 64) as u64];
        if float.is_sign_negative() {
            subtract_at(&mut self.words, shift / 64, &halves);
        } else {
            add_at(&mut self.words, shift / 64, &halves);
        }
    }

    /// Adds another sum.
    pub fn add_sum(&mut self, other: &Self) {
        add_at(&mut self.words, 0, &other.words);
    }

    /// Adds a sum of integers.
    pub fn add_ints(&mut self, ints: IntSum) {
        let mut magnitude = ints.0;
        if ints.is_negative() {
            negate(&mut magnitude);
        }
        let (word, shift) = (FRACTION_BITS / 64, FRACTION_BITS % 64);
        let mut shifted = [0; INT_WORDS + 1];
        for (i, part) in magnitude.iter().enumerate() {
            shifted[i] |= part << shift;
            shifted[i + 1] = part >> (64 - shift);
        }
        if ints.is_negative() {
            subtract_at(&mut self.words, word, &shifted);
        } else {
            add_at(&mut self.words, word, &shifted);
        }
    }

    /// The sum divided by `count`, rounded once to the nearest double; none where that is beyond the range.
    pub fn quotient(&self, count: u64) -> Option<f64> {
        // Below the point one word more than the sum has, so that a quotient has its digits too.
        let mut magnitude = [0; WORDS + 1];
        magnitude[1..].copy_from_slice(&self.words);
        let negative = is_negative(&self.words);
        if negative {
            negate(&mut magnitude);
        }
        let rest = divide(&mut magnitude, count.max(1));
        let rounded = round(&magnitude, FRACTION_BITS + 64, rest != 0)?;
        Some(if negative { -rounded } else { rounded })
    }

    /// Writes how many words the sum needs, and those alone: the same sum, the same bytes.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        let sign = if is_negative(&self.words) { u64::MAX } else { 0 };
        let first = self.words.iter().position(|w| *w != 0).unwrap_or(WORDS);
        let mut end = WORDS;
        // The top word's first bit is the sign, which the words above it repeat.
        while end > first + 1 && self.words[end - 1] == sign && self.words[end - 2] >> 63 == sign >> 63 {
            end -= 1;
        }
        let count = end - first;
        bytes.push(small(count));
        if count > 0 {
            bytes.push(small(first));
            for word in &self.words[first..end] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// How many bytes `write` wrote, as its first byte tells.
    pub fn written_bytes(words: u8) -> usize {
        if words == 0 { 1 } else { 2 + 8 * usize::from(words) }
    }

    /// Reads what `write` wrote; none where it can't have written that.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first()?;
        let count = usize::from(*count);
        let mut sum = Self::ZERO;
        if count > 0 {
            let (first, rest) = rest.split_first()?;
            let first = usize::from(*first);
            read_words(rest.get(..8 * count)?, sum.words.get_mut(first..first + count)?);
            if is_negative(&sum.words[..first + count]) {
                sum.words[first + count..].fill(u64::MAX);
            }
        }
        Some(sum)
    }
}

fn small(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn read_words(bytes: &[u8], words: &mut [u64]) {
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
}

fn write_words(words: &[u64], bytes: &mut [u8]) {
    for (word, bytes) in words.iter().zip(bytes.as_chunks_mut::<8>().0) {
        *bytes = word.to_le_bytes();
    }
}

fn is_negative(words: &[u64]) -> bool {
    words.last().is_some_and(|top| top >> 63 == 1)
}

/// Adds `parts` to the words from `at` on.
fn add_at(words: &mut [u64], at: usize, parts: &[u64]) {
    let mut carry = false;
    for (i, word) in words[at..].iter_mut().enumerate() {
        if i >= parts.len() && !carry {
            break;
        }
        let part = parts.get(i).copied().unwrap_or_default();
        (*word, carry) = word.carrying_add(part, carry);
    }
}

/// Subtracts `parts` from the words from `at` on.
fn subtract_at(words: &mut [u64], at: usize, parts: &[u64]) {
    let mut borrow = false;
    for (i, word) in words[at..].iter_mut().enumerate() {
        if i >= parts.len() && !borrow {
            break;
        }
        let part = parts.get(i).copied().unwrap_or_default();
        (*word, borrow) = word.borrowing_sub(part, borrow);
    }
}

fn negate(words: &mut [u64]) {
    words.iter_mut().for_each(|w| *w = !*w);
    add_at(words, 0, &[1]);
}

/// Divides by `by`, and answers the rest.
fn divide(words: &mut [u64], by: u64) -> u64 {
    let by = u128::from(by);
    let mut rest = 0;
    for word in words.iter_mut().rev() {
        let upper = rest << 64 | u128::from(*word);
        *word = u64::try_from(upper / by).unwrap_or(u64::MAX);
        rest = upper % by;
    }
    u64::try_from(rest).unwrap_or(u64::MAX)
}

/// The double nearest to an integer in units of 2^-`fraction_bits`, of which there are 1,074 or more; ties to
/// even. `more`: the true value is a little above it, by less than a unit.
fn round(magnitude: &[u64], fraction_bits: usize, more: bool) -> Option<f64> {
    let bit = |n: usize| magnitude[n / 64] >> (n % 64) & 1;
    let Some(top_word) = magnitude.iter().rposition(|w| *w != 0) else { return Some(0.0) };
    let top = top_word * 64 + 63 - magnitude[top_word].leading_zeros() as usize;
    // A double's lowest bit is 52 below its top one, or the least that there is.
    let least = fraction_bits - FRACTION_BITS;
    let lowest = top.saturating_sub(52).max(least);
    let mut mantissa = (lowest..=top.max(lowest)).rev().fold(0, |bits, n| bits << 1 | bit(n));
    if lowest > 0 && bit(lowest - 1) == 1 {
        let below = lowest - 1;
        let rest = more
            || magnitude[..below / 64].iter().any(|w| *w != 0)
            || magnitude[below / 64] & ((1 << (below % 64)) - 1) != 0;
        mantissa += u64::from(rest || mantissa & 1 == 1);
    }
    // The exponent counts from the least bit on; a mantissa of 53 bits adds the one that makes it normal, and
    // one of 54 bits, after rounding up, another.
    let bits = (u64::try_from(lowest - least).ok()? << 52).checked_add(mantissa)?;
    (bits < f64::INFINITY.to_bits()).then(|| f64::from_bits(bits))
}
