//! RFC 3339 timestamps to and from milliseconds since 1970.
//!
//! Fractions finer than a millisecond are floored. A leap second is refused: milliseconds since 1970
//! have no number for it.

use std::io::Write;

use jiff::civil;
use wasmill_engine::time::timestamp_in_range;

use crate::bounded::shown;

/// The range that event times have, as error texts name it.
pub const RANGE: &str = "1970-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z";

/// Reads a timestamp.
///
/// # Errors
/// What is wrong with the text, and what was expected.
pub fn parse(text: &str) -> Result<i64, String> {
    let ms = read(text.as_bytes()).map_err(|why| format!("timestamp `{}` {why}", shown(text)))?;
    if timestamp_in_range(ms) {
        return Ok(ms);
    }
    Err(format!("timestamp `{}` is out of range ({RANGE})", shown(text)))
}

/// Writes a timestamp in UTC with milliseconds. One out of range is written as its number.
pub fn write(ms: i64, into: &mut Vec<u8>) {
    // The civil clock, for jiff's instants end some hours before the year 9999 does.
    let time = civil::date(1970, 1, 1).at(0, 0, 0, 0).checked_add(jiff::SignedDuration::from_millis(ms));
    // Writing to a Vec can't fail.
    let _ = match time {
        Ok(time) if timestamp_in_range(ms) => write!(into, "{time:.3}Z"),
        _ => write!(into, "{ms}"),
    };
}

/// A timestamp in UTC with milliseconds, as text.
#[must_use]
pub fn format(ms: i64) -> String {
    let mut bytes = Vec::new();
    write(ms, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read(text: &[u8]) -> Result<i64, String> {
    let shape = || "is not RFC 3339, such as 2013-01-31T23:59:59Z, or integer milliseconds".to_owned();
    if text.len() < 20 || !text.is_ascii() {
        return Err(shape());
    }
    for (at, byte) in [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')] {
        if text[at] != byte {
            return Err(shape());
        }
    }
    if !matches!(text[10], b'T' | b't' | b' ') {
        return Err(shape());
    }
    let number = |from: usize, to: usize| -> Result<i64, String> {
        text[from..to].iter().try_fold(0i64, |n, d| match d {
            b'0'..=b'9' => Ok(n * 10 + i64::from(d - b'0')),
            _ => Err(shape()),
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if second == 60 {
        return Err(
            "is a leap second, which milliseconds since 1970 have no number for; send second 59 or 0".into(),
        );
    }
    let mut at = 19;
    let mut millis = 0;
    if text[at] == b'.' {
        at += 1;
        let digits = text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return Err(shape());
        }
        for place in 0..3 {
            millis = millis * 10 + if place < digits { i64::from(text[at + place] - b'0') } else { 0 };
        }
        at += digits;
    }
    let offset_minutes = match text.get(at) {
        Some(b'Z' | b'z') if text.len() == at + 1 => 0,
        Some(sign @ (b'+' | b'-')) if text.len() == at + 6 && text[at + 3] == b':' => {
            let (h, m) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if h > 23 || m > 59 {
                return Err("has an offset beyond 23:59".into());
            }
            (h * 60 + m) * if *sign == b'-' { -1 } else { 1 }
        }
        Some(_) => return Err(shape()),
        None => return Err("has no offset; end it with Z or one such as +02:00".into()),
    };
    let narrow = |n: i64| i8::try_from(n).unwrap_or(i8::MAX);
    let year = i16::try_from(year).unwrap_or(i16::MAX);
    let date = civil::Date::new(year, narrow(month), narrow(day)).map_err(|_| "names no day".to_owned())?;
    civil::Time::new(narrow(hour), narrow(minute), narrow(second), 0)
        .map_err(|_| "names no time of day".to_owned())?;
    let days = i64::from((date - civil::date(1970, 1, 1)).get_days());
    Ok(((days * 24 + hour) * 60 + minute - offset_minutes) * 60_000 + second * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_rfc_3339_allows() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2013-01-31T23:59:59.999Z", 1_359_676_799_999),
            ("2013-01-31t23:59:59.9999999z", 1_359_676_799_999),
            ("2013-02-01 01:59:59+02:00", 1_359_676_799_000),
            ("2013-01-31T18:59:59.5-05:00", 1_359_676_799_500),
            ("2012-02-29T00:00:00Z", 1_330_473_600_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            ("yesterday", "is not RFC 3339"),
            ("2013-01-31", "is not RFC 3339"),
            ("2013-01-31T23:59:59", "is not RFC 3339"),
            ("2013-01-31T23:59:59.25", "has no offset"),
            ("2013-01-31T23:59:59.Z", "is not RFC 3339"),
            ("2013-01-31T23:59:59Z[UTC]", "is not RFC 3339"),
            ("2013-02-29T00:00:00Z", "names no day"),
            ("2013-13-01T00:00:00Z", "names no day"),
            ("2013-01-01T24:00:00Z", "names no time of day"),
            ("2016-12-31T23:59:60Z", "leap second"),
            ("2013-01-01T00:00:00+24:00", "offset beyond"),
            ("1969-12-31T23:59:59.999Z", "out of range (1970-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z)"),
            ("1970-01-01T00:00:00+00:01", "out of range"),
            ("0000-01-01T00:00:00Z", "out of range"),
            ("２０１３-01-01T00:00:00Z", "is not RFC 3339"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn what_it_writes_it_reads() {
        for ms in [0, 1, 999, 1_359_676_799_999, 253_402_300_799_999] {
            assert_eq!(parse(&format(ms)), Ok(ms));
        }
        assert_eq!(format(1_359_676_799_000), "2013-01-31T23:59:59.000Z");
    }
}
