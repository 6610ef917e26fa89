//! Durations and sizes as people write them: `30s`, `1h`, `100ms`; `128MiB`, `64KiB`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The units of a duration, the longest first, each in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// The units of a size, the greatest first, in bytes.
const SIZE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// Reads a duration: whole numbers with the units d, h, m, s, ms, such as `90s` or `1h30m`.
///
/// # Errors
/// What is wrong, and what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a duration such as 100ms, 30s, 5m, 1h or 1h30m";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.trim();
    let (mut total, mut last) = (0u64, u64::MAX);
    if rest.is_empty() {
        return Err(format!("nothing: {expected}"));
    }
    while !rest.is_empty() {
        let (number, tail) = split(rest, |c| c.is_ascii_digit());
        let (unit, tail) = split(tail.trim_start(), |c| c.is_ascii_alphabetic());
        let number: u64 = number.parse().map_err(|_| format!("`{text}` is no duration: {expected}"))?;
        if unit.is_empty() {
            return Err(format!("`{text}` lacks a unit: {expected}"));
        }
        let ms = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
        let ms = ms.filter(|ms| *ms < last).ok_or_else(|| format!("`{text}` is no duration: {expected}"))?;
        total = number
            .checked_mul(ms)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("`{text}` is too long a duration"))?;
        (rest, last) = (tail.trim_start(), ms);
    }
    Ok(Duration::from_millis(total))
}

/// Reads a size: a whole number of bytes, or one with B, KiB, MiB, GiB, TiB, kB, MB, GB.
///
/// # Errors
/// What is wrong, and what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = "expected a size such as 65536, 64KiB, 128MiB or 1GiB";
    let (number, unit) = split(text.trim(), |c| c.is_ascii_digit());
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no size: {expected}"))?;
    let by = match unit.trim_start() {
        "" => 1,
        unit => SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, by)| *by)
            .ok_or_else(|| format!("`{text}` has an unknown unit: {expected}"))?,
    };
    number.checked_mul(by).ok_or_else(|| format!("`{text}` is too great a size"))
}

fn split(text: &str, take: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !take(c)).unwrap_or(text.len()))
}

/// A duration in a spec; whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(pub Duration);

/// A size in a spec, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanSize(pub u64);

impl HumanDuration {
    /// In milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, ms) in DURATION_UNITS {
            if rest >= ms {
                write!(f, "{}{unit}", rest / ms)?;
                rest %= ms;
            }
        }
        Ok(())
    }
}

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |by: u64| self.0 != 0 && self.0.is_multiple_of(by);
        match SIZE_UNITS.iter().take(4).find(|(_, by)| fits(*by)) {
            Some((unit, by)) => write!(f, "{}{unit}", self.0 / by),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for HumanSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = HumanDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as 100ms, 30s or 1h")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                parse_duration(text).map(HumanDuration).map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }
        }
        d.deserialize_any(V)
    }
}

impl<'de> Deserialize<'de> for HumanSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = HumanSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 65536, 64KiB or 128MiB")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                parse_size(text).map(HumanSize).map_err(E::custom)
            }
            fn visit_u64<E>(self, bytes: u64) -> Result<Self::Value, E> {
                Ok(HumanSize(bytes))
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Self::Value, E> {
                u64::try_from(bytes).map(HumanSize).map_err(|_| E::custom(format!("{bytes} is no size")))
            }
        }
        d.deserialize_any(V)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration: whole numbers with the units d, h, m, s, ms, such as 30s or 1h30m.",
            "type": "string",
            "pattern": "^(0|(\\d+d)?(\\d+h)?(\\d+m)?(\\d+s)?(\\d+ms)?)$"
        })
    }
}

impl JsonSchema for HumanSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: bytes, or a whole number with B, KiB, MiB, GiB, TiB, kB, MB or GB.",
            "oneOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^\\d+ ?([KkMmGgTt][Ii]?)?[Bb]?$" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0", 0),
            ("100ms", 100),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d 2h", 93_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, part) in [
            ("", "nothing"),
            ("30", "lacks a unit"),
            ("s", "is no duration"),
            ("-1s", "is no duration"),
            ("1.5h", "lacks a unit"),
            ("1w", "is no duration"),
            ("1s1h", "is no duration"),
            ("99999999999999999d", "too long"),
        ] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64KiB", 65_536),
            ("128 MiB", 1 << 27),
            ("1kb", 1000),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, part) in [
            ("", "is no size"),
            ("big", "is no size"),
            ("5 apples", "unknown unit"),
            ("99999999TiB", "too great"),
        ] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn what_they_show_they_read() {
        for ms in [0, 1, 999, 1000, 90_000, 5_400_001, 86_400_000] {
            let duration = HumanDuration(Duration::from_millis(ms));
            assert_eq!(parse_duration(&duration.to_string()), Ok(duration.0));
        }
        for bytes in [0, 1, 1000, 1024, 1 << 27, (1 << 27) + 1, 1 << 40] {
            assert_eq!(parse_size(&HumanSize(bytes).to_string()), Ok(bytes));
        }
    }
}
