//! What Avro's logical types are in JSON: dates and times as texts, decimals as numbers, durations and UUIDs as texts.
//!
//! A date or time that no text of four-digit years can say stays the number that it is on the wire, so that
//! nothing is lost. Such a number is taken back in all of them.

use std::io::Write as _;

pub(super) use crate::bounded::shown;
use crate::number::{Decimal, Numbers};

/// How fine a time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fraction {
    Millis,
    Micros,
    Nanos,
}

impl Fraction {
    fn digits(self) -> usize {
        match self {
            Self::Millis => 3,
            Self::Micros => 6,
            Self::Nanos => 9,
        }
    }

    fn per_second(self) -> i64 {
        match self {
            Self::Millis => 1000,
            Self::Micros => 1_000_000,
            Self::Nanos => 1_000_000_000,
        }
    }
}

/// What an `int` or a `long` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// Itself.
    Number,
    /// Days since 1970.
    Date,
    /// Since midnight.
    TimeOfDay(Fraction),
    /// Since 1970, UTC.
    Instant(Fraction),
    /// Since 1970, of a clock somewhere.
    Local(Fraction),
}

impl Whole {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Number => "a whole number",
            Self::Date => "date",
            Self::TimeOfDay(Fraction::Millis) => "time-millis",
            Self::TimeOfDay(_) => "time-micros",
            Self::Instant(Fraction::Millis) => "timestamp-millis",
            Self::Instant(Fraction::Micros) => "timestamp-micros",
            Self::Instant(Fraction::Nanos) => "timestamp-nanos",
            Self::Local(Fraction::Millis) => "local-timestamp-millis",
            Self::Local(Fraction::Micros) => "local-timestamp-micros",
            Self::Local(Fraction::Nanos) => "local-timestamp-nanos",
        }
    }

    /// Adds the value as JSON.
    pub(super) fn write(self, value: i64, out: &mut Vec<u8>) {
        match self {
            Self::Number => number(value, out),
            Self::Date => match civil(value) {
                Some(date) => {
                    out.push(b'"');
                    write_date(date, out);
                    out.push(b'"');
                }
                None => number(value, out),
            },
            Self::TimeOfDay(fraction) => {
                let second = value.div_euclid(fraction.per_second());
                if !(0..DAY_SECONDS).contains(&second) {
                    return number(value, out);
                }
                out.push(b'"');
                write_time(second, value.rem_euclid(fraction.per_second()), fraction, out);
                out.push(b'"');
            }
            Self::Instant(fraction) | Self::Local(fraction) => {
                let seconds = value.div_euclid(fraction.per_second());
                let Some(date) = civil(seconds.div_euclid(DAY_SECONDS)) else { return number(value, out) };
                out.push(b'"');
                write_date(date, out);
                out.push(b'T');
                let second = seconds.rem_euclid(DAY_SECONDS);
                write_time(second, value.rem_euclid(fraction.per_second()), fraction, out);
                out.extend_from_slice(if matches!(self, Self::Instant(_)) { b"Z\"" } else { b"\"" });
            }
        }
    }

    /// The value that a text says.
    pub(super) fn read(self, text: &str, numbers: Numbers) -> Result<i128, String> {
        let wrong = |example: &str| {
            format!("the text `{}` is no {}: expected one as {example}", shown(text), self.name())
        };
        match self {
            Self::Number => Err(wrong("12")),
            Self::Date => read_date(text.as_bytes()).map(i128::from).ok_or_else(|| wrong("2013-01-31")),
            Self::TimeOfDay(fraction) => {
                let (second, nanos, rest) =
                    read_time(text.as_bytes()).ok_or_else(|| wrong("23:59:59.999"))?;
                if !rest.is_empty() {
                    return Err(wrong("23:59:59.999"));
                }
                joined(second, nanos, fraction, numbers, text)
            }
            Self::Instant(fraction) | Self::Local(fraction) => {
                let local = matches!(self, Self::Local(_));
                let example = if local { "2013-01-31T23:59:59.999" } else { "2013-01-31T23:59:59.999Z" };
                let bytes = text.as_bytes();
                let day = bytes.get(..10).and_then(read_date);
                let time = bytes.get(11..).and_then(read_time);
                let (Some(day), Some(b'T' | b't' | b' '), Some((second, nanos, zone))) =
                    (day, bytes.get(10), time)
                else {
                    return Err(wrong(example));
                };
                let offset = match (local, zone) {
                    (true, b"") | (false, b"Z" | b"z") => 0,
                    (true, _) => return Err(wrong("2013-01-31T23:59:59.999, without an offset")),
                    (false, [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2]) => {
                        let (h, m) = (two(*h1, *h2), two(*m1, *m2));
                        let (Some(h @ 0..=23), Some(m @ 0..=59)) = (h, m) else { return Err(wrong(example)) };
                        (h * 60 + m) * 60 * if *sign == b'-' { -1 } else { 1 }
                    }
                    (false, _) => return Err(wrong("2013-01-31T23:59:59.999Z, with Z or an offset")),
                };
                joined(day * DAY_SECONDS + second - offset, nanos, fraction, numbers, text)
            }
        }
    }
}

const DAY_SECONDS: i64 = 86_400;

fn joined(
    seconds: i64,
    nanos: i64,
    fraction: Fraction,
    numbers: Numbers,
    text: &str,
) -> Result<i128, String> {
    let unit = 1_000_000_000 / fraction.per_second();
    if nanos % unit != 0 && numbers == Numbers::Exact {
        return Err(format!(
            "the text `{}` has more than {} digits behind the second: cut them, or set `numbers: round` on the codec",
            shown(text),
            fraction.digits()
        ));
    }
    Ok(i128::from(seconds) * i128::from(fraction.per_second()) + i128::from(nanos / unit))
}

pub(super) fn number(value: i64, out: &mut Vec<u8>) {
    // Writing to a Vec can't fail.
    let _ = serde_json::to_writer(out, &value);
}

/// Year, month and day of the days since 1970, where the year has four digits. By Howard Hinnant's
/// `civil_from_days`.
fn civil(days: i64) -> Option<(i64, i64, i64)> {
    // 0000-01-01 to 9999-12-31.
    if !(-719_528..=2_932_896).contains(&days) {
        return None;
    }
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    Some((year, month, doy - (153 * mp + 2) / 5 + 1))
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Adds the last `width` digits.
fn digits(value: i64, width: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut left = value.unsigned_abs();
    for at in (start..start + width).rev() {
        out[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
}

fn write_date((year, month, day): (i64, i64, i64), out: &mut Vec<u8>) {
    digits(year, 4, out);
    out.push(b'-');
    digits(month, 2, out);
    out.push(b'-');
    digits(day, 2, out);
}

fn write_time(second: i64, part: i64, fraction: Fraction, out: &mut Vec<u8>) {
    digits(second / 3600, 2, out);
    out.push(b':');
    digits(second / 60 % 60, 2, out);
    out.push(b':');
    digits(second % 60, 2, out);
    out.push(b'.');
    digits(part, fraction.digits(), out);
}

fn two(a: u8, b: u8) -> Option<i64> {
    (a.is_ascii_digit() && b.is_ascii_digit()).then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
}

fn read_date(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = two(*y1, *y2)? * 100 + two(*y3, *y4)?;
    let (month, day) = (two(*m1, *m2)?, two(*d1, *d2)?);
    if !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    let at = days(year, month, day);
    // A day that the month lacks comes out as another one.
    (civil(at) == Some((year, month, day))).then_some(at)
}

/// The second of the day, the nanoseconds, and what follows. Digits beyond nanoseconds must be zeros.
fn read_time(text: &[u8]) -> Option<(i64, i64, &[u8])> {
    let [h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = text else { return None };
    let (hour, minute, second) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (mut nanos, mut rest) = (0, rest);
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if length == 0 || fraction[..length].iter().skip(9).any(|b| *b != b'0') {
            return None;
        }
        let zeros = std::iter::repeat(&b'0');
        for digit in fraction[..length].iter().chain(zeros).take(9) {
            nanos = nanos * 10 + i64::from(digit - b'0');
        }
        rest = &fraction[length..];
    }
    Some((hour * 3600 + minute * 60 + second, nanos, rest))
}

/// A duration's 12 bytes as ISO 8601 text: months, days, milliseconds.
pub(super) fn write_duration(bytes: [u8; 12], out: &mut Vec<u8>) {
    let part = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (months, days, millis) = (part(0), part(4), part(8));
    // Writing to a Vec can't fail.
    let _ = write!(out, "\"P{months}M{days}DT{}.{:03}S\"", millis / 1000, millis % 1000);
}

pub(super) fn read_duration(text: &str) -> Result<[u8; 12], String> {
    let read = || {
        let (date, time) = text.strip_prefix('P')?.split_once('T')?;
        let (months, days) = date.strip_suffix('D')?.split_once('M')?;
        let (seconds, millis) = time.strip_suffix('S')?.split_once('.')?;
        let whole = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u32>().ok())?;
        let millis = (millis.len() == 3).then(|| whole(millis))??;
        let millis = whole(seconds)?.checked_mul(1000)?.checked_add(millis)?;
        let mut bytes = [0; 12];
        for (at, part) in [whole(months)?, whole(days)?, millis].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&part.to_le_bytes());
        }
        Some(bytes)
    };
    read().ok_or_else(|| {
        format!(
            "the text `{}` is no duration: expected months, days and seconds as P1M2DT3.004S, each below 2^32 (of milliseconds)",
            shown(text)
        )
    })
}

/// 16 bytes as a UUID's text.
pub(super) fn write_uuid(bytes: [u8; 16], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for (at, byte) in bytes.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
    out.push(b'"');
}

pub(super) fn read_uuid(text: &str) -> Result<[u8; 16], String> {
    let read = || {
        let text = text.as_bytes();
        if text.len() != 36 {
            return None;
        }
        let mut digits =
            text.iter().enumerate().filter(|(at, _)| !matches!(at, 8 | 13 | 18 | 23)).map(|(_, b)| *b);
        if [8, 13, 18, 23].into_iter().any(|at| text[at] != b'-') {
            return None;
        }
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let (a, b) = (char::from(digits.next()?).to_digit(16)?, char::from(digits.next()?).to_digit(16)?);
            *byte = u8::try_from(a * 16 + b).ok()?;
        }
        Some(bytes)
    };
    read().ok_or_else(|| {
        format!("the text `{}` is no uuid: expected one as 123e4567-e89b-12d3-a456-426614174000", shown(text))
    })
}

/// How many digits a decimal may have: to write one takes time by the square of them.
pub(super) const DECIMAL_DIGITS_MAX: usize = 1000;
/// How many bytes hold as many, and some more.
const DECIMAL_BYTES_MAX: usize = 512;

/// Adds a decimal, its unscaled value as a big-endian two's complement, as a JSON number with all its digits.
pub(super) fn write_decimal(bytes: &[u8], scale: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if bytes.len() > DECIMAL_BYTES_MAX {
        return Err(format!("a decimal of {} bytes is above the limit of {DECIMAL_BYTES_MAX}", bytes.len()));
    }
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let text = if bytes.len() <= 16 {
        let mut wide = if negative { [0xff; 16] } else { [0; 16] };
        wide[16 - bytes.len()..].copy_from_slice(bytes);
        i128::from_be_bytes(wide).unsigned_abs().to_string()
    } else {
        magnitude_text(bytes, negative)
    };
    if negative {
        out.push(b'-');
    }
    let whole = text.len().saturating_sub(scale);
    if scale == 0 {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    out.extend_from_slice(if whole == 0 { b"0" } else { &text.as_bytes()[..whole] });
    out.push(b'.');
    out.resize(out.len() + scale.saturating_sub(text.len()), b'0');
    out.extend_from_slice(&text.as_bytes()[whole..]);
    Ok(())
}

fn magnitude_text(bytes: &[u8], negative: bool) -> String {
    let mut bytes = bytes.to_vec();
    if negative {
        negate(&mut bytes);
    }
    let mut groups = Vec::new();
    while bytes.iter().any(|b| *b != 0) {
        let mut rest = 0_u64;
        for byte in &mut bytes {
            let value = rest << 8 | u64::from(*byte);
            // The rest before was below a billion, so the quotient is below 256.
            *byte = u8::try_from(value / 1_000_000_000).unwrap_or(u8::MAX);
            rest = value % 1_000_000_000;
        }
        groups.push(rest);
    }
    let mut text = groups.pop().unwrap_or(0).to_string();
    for group in groups.iter().rev() {
        text.push_str(&format!("{group:09}"));
    }
    text
}

fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
        (*byte, carry) = (sum, over);
    }
}

/// The unscaled value of a decimal number, as the fewest bytes of a big-endian two's complement.
pub(super) fn read_decimal(
    text: &str,
    precision: usize,
    scale: usize,
    numbers: Numbers,
) -> Result<Vec<u8>, String> {
    let no_number = || format!("`{}` is no number", shown(text));
    let decimal = Decimal::of(text).ok_or_else(no_number)?;
    let too_long = || {
        format!(
            "the number {} does not fit a decimal of {precision} digits, {scale} of them behind the point",
            shown(text)
        )
    };
    let scale = i64::try_from(scale).map_err(|_| too_long())?;
    let zeros = decimal.exponent.checked_add(scale).ok_or_else(too_long)?;
    let mut digits = decimal.digits;
    if digits.is_empty() {
        return Ok(vec![0]);
    }
    if let Ok(zeros) = usize::try_from(zeros) {
        if digits.len().checked_add(zeros).is_none_or(|length| length > precision) {
            return Err(too_long());
        }
        digits.extend(std::iter::repeat_n('0', zeros));
    } else {
        if numbers == Numbers::Exact {
            return Err(format!(
                "the number {} has more than {scale} digits behind the point: round it, or set `numbers: round` on the codec",
                shown(text)
            ));
        }
        let cut = usize::try_from(zeros.unsigned_abs()).unwrap_or(usize::MAX);
        digits = rounded(&digits, cut);
        if digits.len() > precision {
            return Err(too_long());
        }
    }
    // Digits of no more than the precision, which is bounded: the square of it is small.
    let mut bytes = vec![0_u8];
    for digit in digits.bytes() {
        let mut carry = u32::from(digit - b'0');
        for byte in bytes.iter_mut().rev() {
            let value = u32::from(*byte) * 10 + carry;
            *byte = u8::try_from(value & 0xff).unwrap_or(0);
            carry = value >> 8;
        }
        if carry > 0 {
            bytes.insert(0, u8::try_from(carry).unwrap_or(0));
        }
    }
    if bytes[0] & 0x80 != 0 {
        bytes.insert(0, 0);
    }
    if decimal.negative {
        negate(&mut bytes);
        // The fewest bytes: -128 is one.
        while bytes.len() > 1 && bytes[0] == 0xff && bytes[1] & 0x80 != 0 {
            bytes.remove(0);
        }
    }
    Ok(bytes)
}

/// Digits without their last `cut`, rounded to the nearest, halves to the even.
fn rounded(digits: &str, cut: usize) -> String {
    let Some(kept) = digits.len().checked_sub(cut) else { return "0".into() };
    let (head, tail) = digits.split_at(kept);
    let half = tail.as_bytes()[0].cmp(&b'5').then(if tail[1..].bytes().any(|b| b != b'0') {
        std::cmp::Ordering::Greater
    } else {
        std::cmp::Ordering::Equal
    });
    let odd = head.bytes().last().is_some_and(|b| b % 2 == 1);
    let mut head: Vec<u8> = head.bytes().collect();
    if half.is_gt() || (half.is_eq() && odd) {
        let nines = head.iter().rev().take_while(|b| **b == b'9').count();
        let at = head.len() - nines;
        head[at..].fill(b'0');
        match at.checked_sub(1) {
            Some(before) => head[before] += 1,
            None => head.insert(0, b'1'),
        }
    }
    if head.is_empty() {
        return "0".into();
    }
    head.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Whole; 9] = [
        Whole::Date,
        Whole::TimeOfDay(Fraction::Millis),
        Whole::TimeOfDay(Fraction::Micros),
        Whole::Instant(Fraction::Millis),
        Whole::Instant(Fraction::Micros),
        Whole::Instant(Fraction::Nanos),
        Whole::Local(Fraction::Millis),
        Whole::Local(Fraction::Micros),
        Whole::Local(Fraction::Nanos),
    ];

    #[test]
    fn days_and_dates_agree_with_jiff() {
        for at in (-719_528..=2_932_896).step_by(97) {
            let (year, month, day) = civil(at).expect("in range");
            let date = jiff::civil::date(1970, 1, 1)
                .checked_add(jiff::Span::new().days(at))
                .expect("in jiff's range");
            let expected = (i64::from(date.year()), i64::from(date.month()), i64::from(date.day()));
            assert_eq!((year, month, day), expected);
            assert_eq!(days(year, month, day), at);
        }
        assert_eq!((civil(-719_529), civil(2_932_897)), (None, None));
    }

    #[test]
    fn decimals_are_rounded_where_that_is_asked() {
        for (text, scale, back) in [
            ("1.25", 1, "1.2"),
            ("1.35", 1, "1.4"),
            ("-9.99", 1, "-10.0"),
            ("0.05", 1, "0.0"),
            ("0.051", 1, "0.1"),
            ("1e-9", 2, "0.00"),
        ] {
            let bytes = read_decimal(text, 9, scale, Numbers::Round).expect(text);
            let mut out = Vec::new();
            write_decimal(&bytes, scale, &mut out).expect(text);
            assert_eq!(String::from_utf8_lossy(&out), back, "{text}");
            assert!(read_decimal(text, 9, scale, Numbers::Exact).is_err());
        }
        assert!(read_decimal("1e999999999", 1000, 0, Numbers::Exact).is_err());
        assert!(read_decimal("99.9", 2, 0, Numbers::Round).is_err(), "it would be 100");
    }

    proptest! {
        #[test]
        fn whole_values_come_back(value in any::<i64>(), scaled in -100_000_000_000_i64..300_000_000_000, kind in 0..9_usize) {
            let kind = KINDS[kind];
            for value in [value, scaled, scaled / 1000, scaled % 90_000_000] {
                let mut out = Vec::new();
                kind.write(value, &mut out);
                let text = String::from_utf8(out).expect("ASCII");
                match text.strip_prefix('"') {
                    Some(text) => {
                        let text = text.strip_suffix('"').expect("closed");
                        prop_assert_eq!(kind.read(text, Numbers::Exact), Ok(i128::from(value)));
                    }
                    None => prop_assert_eq!(text, value.to_string()),
                }
            }
        }

        #[test]
        fn decimals_come_back(bytes in prop::collection::vec(any::<u8>(), 1..40), scale in 0..50_usize) {
            let mut out = Vec::new();
            write_decimal(&bytes, scale, &mut out).expect("short");
            let text = String::from_utf8(out).expect("ASCII");
            let back = read_decimal(&text, DECIMAL_DIGITS_MAX, scale, Numbers::Exact).expect("exact");
            let mut again = Vec::new();
            write_decimal(&back, scale, &mut again).expect("short");
            prop_assert_eq!(String::from_utf8(again).expect("ASCII"), text);
            let fewest = back.len() == 1 || !(back[0] == 0 && back[1] < 0x80 || back[0] == 0xff && back[1] >= 0x80);
            prop_assert!(fewest && back.len() <= bytes.len());
        }

        #[test]
        fn small_decimals_are_as_of_i128(value in any::<i128>()) {
            let mut out = Vec::new();
            write_decimal(&value.to_be_bytes(), 0, &mut out).expect("short");
            prop_assert_eq!(String::from_utf8(out).expect("ASCII"), value.to_string());
            let back = read_decimal(&value.to_string(), 39, 0, Numbers::Exact).expect("exact");
            let mut wide = if value < 0 { [0xff; 16] } else { [0; 16] };
            wide[16 - back.len()..].copy_from_slice(&back);
            prop_assert_eq!(i128::from_be_bytes(wide), value);
        }

        #[test]
        fn durations_and_uuids_come_back(bytes in any::<[u8; 16]>()) {
            let mut out = Vec::new();
            write_uuid(bytes, &mut out);
            let text = String::from_utf8(out).expect("ASCII");
            prop_assert_eq!(read_uuid(text.trim_matches('"')), Ok(bytes));
            let duration: [u8; 12] = bytes[..12].try_into().expect("12");
            let mut out = Vec::new();
            write_duration(duration, &mut out);
            let text = String::from_utf8(out).expect("ASCII");
            prop_assert_eq!(read_duration(text.trim_matches('"')), Ok(duration));
        }
    }
}
