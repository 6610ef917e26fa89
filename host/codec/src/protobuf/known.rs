//! The texts that JSON has for timestamps, durations and field masks.

use std::io::Write as _;

/// The seconds of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;
const NANOS: i32 = 1_000_000_000;

/// Adds a timestamp as RFC 3339 in UTC, with as many of 0, 3, 6, 9 digits of a second as it needs.
pub(crate) fn write_timestamp(seconds: i64, nanos: i32, out: &mut Vec<u8>) -> Result<(), String> {
    if !SECONDS.contains(&seconds) || !(0..NANOS).contains(&nanos) {
        return Err(format!(
            "a timestamp of {seconds} seconds and {nanos} nanoseconds is out of range (the years 1 to 9999)"
        ));
    }
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // From days to a date, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Writing to a Vec can't fail.
    let _ = write!(out, "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    fraction(nanos.unsigned_abs(), out);
    out.extend_from_slice(b"Z\"");
    Ok(())
}

fn fraction(nanos: u32, out: &mut Vec<u8>) {
    // Writing to a Vec can't fail.
    let _ = match nanos {
        0 => Ok(()),
        n if n.is_multiple_of(1_000_000) => write!(out, ".{:03}", n / 1_000_000),
        n if n.is_multiple_of(1000) => write!(out, ".{:06}", n / 1000),
        n => write!(out, ".{n:09}"),
    };
}

/// Reads a timestamp: seconds and nanoseconds. Digits beyond are zeros, or refused where `exact` is asked.
pub(crate) fn timestamp(text: &str, exact: bool) -> Result<(i64, i32), String> {
    let shown = crate::jsontext::quoted(text);
    let wrong = || format!("{shown} is not RFC 3339, such as 2013-01-31T23:59:59.123456789Z");
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !bytes.is_ascii() {
        return Err(wrong());
    }
    let stands = |at: usize, all: &[u8]| all.contains(&bytes[at].to_ascii_uppercase());
    if !(stands(4, b"-") && stands(7, b"-") && stands(10, b"T ") && stands(13, b":") && stands(16, b":")) {
        return Err(wrong());
    }
    let number = |from: usize, to: usize| -> Result<i64, String> {
        bytes[from..to].iter().try_fold(0, |n, d| match d {
            b'0'..=b'9' => Ok(n * 10 + i64::from(d - b'0')),
            _ => Err(wrong()),
        })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    if !(1..=days_of_month).contains(&day) {
        return Err(format!("{shown} names no day"));
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(format!("{shown} names no time of day; a leap second has no number"));
    }
    let mut at = 19;
    let mut nanos = 0;
    if bytes[at] == b'.' {
        let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        nanos = fraction_of(&text[at + 1..at + 1 + digits], exact).ok_or_else(|| too_fine(&shown, digits))?;
        at += 1 + digits;
    }
    let offset_minutes = match bytes.get(at) {
        Some(b'Z' | b'z') if bytes.len() == at + 1 => 0,
        Some(sign @ (b'+' | b'-')) if bytes.len() == at + 6 && bytes[at + 3] == b':' => {
            let (h, m) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if h > 23 || m > 59 {
                return Err(format!("{shown} has an offset beyond 23:59"));
            }
            (h * 60 + m) * if *sign == b'-' { -1 } else { 1 }
        }
        None => return Err(format!("{shown} has no offset; end it with Z or one such as +02:00")),
        Some(_) => return Err(wrong()),
    };
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + (hour * 60 + minute - offset_minutes) * 60 + second;
    if !SECONDS.contains(&seconds) {
        return Err(format!("{shown} is out of range (the years 1 to 9999)"));
    }
    Ok((seconds, nanos))
}

fn too_fine(shown: &str, digits: usize) -> String {
    if digits == 0 {
        return format!("{shown} has no digit behind its point");
    }
    format!("{shown} is finer than nanoseconds: shorten it, or set `numbers: round` on the codec")
}

/// The nanoseconds that digits behind a point are.
fn fraction_of(digits: &str, exact: bool) -> Option<i32> {
    let (nine, beyond) = digits.split_at_checked(9).unwrap_or((digits, ""));
    if exact && beyond.bytes().any(|b| b != b'0') {
        return None;
    }
    let n: i32 = nine.bytes().all(|b| b.is_ascii_digit()).then(|| nine.parse().ok())??;
    Some(n * 10_i32.pow(9 - u32::try_from(nine.len()).unwrap_or(9)))
}

/// Adds a duration, as `1.500s`.
pub(super) fn write_duration(seconds: i64, nanos: i32, out: &mut Vec<u8>) -> Result<(), String> {
    let agree = (seconds >= 0 && nanos >= 0) || (seconds <= 0 && nanos <= 0);
    if seconds.unsigned_abs() > DURATION_SECONDS_MAX.unsigned_abs()
        || nanos.unsigned_abs() >= NANOS.unsigned_abs()
        || !agree
    {
        return Err(format!(
            "a duration of {seconds} seconds and {nanos} nanoseconds: expected up to {DURATION_SECONDS_MAX} seconds, and both of one sign"
        ));
    }
    out.push(b'"');
    if seconds < 0 || nanos < 0 {
        out.push(b'-');
    }
    // Writing to a Vec can't fail.
    let _ = write!(out, "{}", seconds.unsigned_abs());
    fraction(nanos.unsigned_abs(), out);
    out.extend_from_slice(b"s\"");
    Ok(())
}

/// Reads a duration: seconds and nanoseconds.
pub(super) fn duration(text: &str, exact: bool) -> Result<(i64, i32), String> {
    let shown = crate::jsontext::quoted(text);
    let wrong = || format!("{shown} is no duration, such as 1.5s");
    let body = text.strip_suffix('s').ok_or_else(wrong)?;
    let (negative, body) = body.strip_prefix('-').map_or((false, body), |body| (true, body));
    let (whole, nanos) = match body.split_once('.') {
        Some((whole, digits)) => {
            if !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            (whole, fraction_of(digits, exact).ok_or_else(|| too_fine(&shown, digits.len()))?)
        }
        None => (body, 0),
    };
    if whole.is_empty() || whole.len() > 15 || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    if seconds > DURATION_SECONDS_MAX || (seconds == DURATION_SECONDS_MAX && nanos > 0) {
        return Err(format!("{shown} is more than {DURATION_SECONDS_MAX} seconds"));
    }
    Ok(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// A path of a field mask as JSON has it: `user.displayName`.
pub(super) fn camel(path: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rises = false;
    for c in path.chars() {
        match c {
            '_' if rises => return Err(lossy(path)),
            '_' => rises = true,
            'a'..='z' if rises => {
                out.push(c.to_ascii_uppercase());
                rises = false;
            }
            'A'..='Z' | ',' => return Err(lossy(path)),
            _ if rises => return Err(lossy(path)),
            _ => out.push(c),
        }
    }
    if rises { Err(lossy(path)) } else { Ok(out) }
}

fn lossy(path: &str) -> String {
    format!(
        "the path {} of a field mask can't be written as JSON has it, in camel case",
        crate::jsontext::quoted(path)
    )
}

/// A path of a field mask as Protobuf has it: `user.display_name`.
pub(super) fn snake(path: &str) -> Result<String, String> {
    let mut out = String::new();
    for c in path.chars() {
        match c {
            '_' => {
                let shown = crate::jsontext::quoted(path);
                return Err(format!("the path {shown} of a field mask has a `_`: JSON has it in camel case"));
            }
            'A'..='Z' => {
                out.push('_');
                out.push(c.to_ascii_lowercase());
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn timestamps_come_back_and_are_those_of_jiff(seconds in SECONDS, nanos in 0..NANOS) {
            let mut text = Vec::new();
            write_timestamp(seconds, nanos, &mut text).expect("in range");
            let text = String::from_utf8(text).expect("ASCII");
            let text = text.trim_matches('"');
            prop_assert_eq!(timestamp(text, true), Ok((seconds, nanos)));
            let civil = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
            let civil = civil.checked_add(jiff::SignedDuration::new(seconds, nanos)).expect("in range");
            prop_assert!(text.starts_with(&format!("{civil:.0}")), "{} {}", text, civil);
        }

        #[test]
        fn durations_come_back(total in -315_576_000_000_000_000_000_i128..=315_576_000_000_000_000_000) {
            let seconds = i64::try_from(total / i128::from(NANOS)).expect("in range");
            let nanos = i32::try_from(total % i128::from(NANOS)).expect("in range");
            let mut text = Vec::new();
            write_duration(seconds, nanos, &mut text).expect("in range");
            let text = String::from_utf8(text).expect("ASCII");
            prop_assert_eq!(duration(text.trim_matches('"'), true), Ok((seconds, nanos)));
        }

        #[test]
        fn paths_come_back(path in "[a-z]{1,4}(_[a-z]{1,4})?(\\.[a-z]{1,4}(_[a-z]{1,4}){0,2}){0,2}") {
            prop_assert_eq!(snake(&camel(&path).expect("camel")), Ok(path));
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, part) in [
            ("2013-01-31", "is not RFC 3339"),
            ("2013-02-29T00:00:00Z", "names no day"),
            ("2013-00-01T00:00:00Z", "names no day"),
            ("2013-01-01T24:00:00Z", "names no time of day"),
            ("2013-01-01T00:00:60Z", "leap second"),
            ("2013-01-01T00:00:00.Z", "no digit"),
            ("2013-01-01T00:00:00.0000000001Z", "finer than nanoseconds"),
            ("2013-01-01T00:00:00.5", "has no offset"),
            ("2013-01-01T00:00:00+24:00", "offset beyond"),
            ("0001-01-01T00:00:00+00:01", "out of range"),
            ("0000-12-31T23:59:59Z", "out of range"),
        ] {
            let error = timestamp(text, true).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(
            timestamp("2013-01-01T00:00:00.1234567899+01:00", false),
            Ok((1_356_994_800, 123_456_789))
        );
        assert_eq!(timestamp("2013-01-01t00:00:00.10000000000z", true), Ok((1_356_998_400, 100_000_000)));
        for text in
            ["", "s", "1", "1.s", ".5s", "-s", "+1s", "1e3s", "1.0000000001s", "315576000000.1s", "1 s"]
        {
            assert!(duration(text, true).is_err(), "{text}");
        }
        for path in ["fooBar", "a__b", "a_", "a_1", "a_.b", "a,b"] {
            assert!(camel(path).is_err(), "{path}");
        }
        assert!(snake("a_b").is_err());
    }
}
