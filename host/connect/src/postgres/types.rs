//! One value as a column's type has it in PostgreSQL's binary form.

use std::borrow::Cow;

use jiff::civil;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::numeric;

/// The types that wasmill writes in their own binary form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// The most digits before the point, where the column has a limit.
    Numeric(Option<i32>),
    /// The most characters, where the column has a limit.
    Text(Option<usize>),
    Json,
    Jsonb,
    Uuid,
    Bytea,
    Date,
    Timestamp,
    Timestamptz,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Scalar(Scalar),
    /// An array of one dimension, with its elements' OID.
    Array(Scalar, u32),
    /// Any other type: it comes as text, and the server reads it.
    Cast,
}

impl Type {
    /// The type of an OID, with a column's modifier; none for what wasmill leaves to the server.
    pub fn of(oid: u32, modifier: i32) -> Self {
        if let Some(scalar) = Scalar::of(oid, modifier) {
            return Self::Scalar(scalar);
        }
        let element = match oid {
            1000 => 16,
            1001 => 17,
            1005 => 21,
            1007 => 23,
            1009 => 25,
            1014 => 1042,
            1015 => 1043,
            1016 => 20,
            1021 => 700,
            1022 => 701,
            1231 => 1700,
            199 => 114,
            3807 => 3802,
            2951 => 2950,
            1182 => 1082,
            1115 => 1114,
            1185 => 1184,
            _ => return Self::Cast,
        };
        Scalar::of(element, modifier).map_or(Self::Cast, |scalar| Self::Array(scalar, element))
    }
}

impl Scalar {
    fn of(oid: u32, modifier: i32) -> Option<Self> {
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            25 => Self::Text(None),
            114 => Self::Json,
            700 => Self::Float4,
            701 => Self::Float8,
            1042 | 1043 => Self::Text(usize::try_from(modifier - 4).ok()),
            1082 => Self::Date,
            1114 => Self::Timestamp,
            1184 => Self::Timestamptz,
            // The modifier has precision and scale; a negative scale is one of 11 bits.
            1700 if modifier >= 4 => {
                let (precision, scale) = (((modifier - 4) >> 16) & 0xFFFF, (modifier - 4) & 0x7FF);
                Self::Numeric(Some(precision - ((scale ^ 1024) - 1024)))
            }
            1700 => Self::Numeric(None),
            2950 => Self::Uuid,
            3802 => Self::Jsonb,
            _ => return None,
        })
    }
}

/// What stands in a message, on its way into a column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// JSON to the letter, and not null.
    Json(&'a str),
    /// What the envelope has as text, or bytes: a number may stand in it, for it can't come otherwise.
    Plain(&'a [u8]),
    /// The time of the message, in milliseconds.
    Time(i64),
}

impl<'a> Value<'a> {
    /// A JSON value; none for null.
    pub fn of_json(raw: &'a str) -> Option<Self> {
        let raw = raw.trim();
        (!raw.is_empty() && raw != "null").then_some(Self::Json(raw))
    }

    /// The head of it, for an error.
    pub fn shown(&self) -> String {
        const CHARS_MAX: usize = 40;
        let (text, quoted) = match self {
            Self::Json(raw) => (Cow::Borrowed(*raw), false),
            Self::Plain(bytes) => (String::from_utf8_lossy(bytes), true),
            Self::Time(ms) => (Cow::Owned(ms.to_string()), false),
        };
        let head = match text.char_indices().nth(CHARS_MAX) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text.into_owned(),
        };
        // JSON has its escapes already, but may stand on several lines.
        if quoted { format!("{head:?}") } else { head.replace(['\n', '\r'], " ") }
    }

    /// The value if it is text: that of JSON unescaped.
    fn text(&self) -> Result<Option<Cow<'a, str>>, String> {
        match *self {
            Self::Json(raw) if raw.starts_with('"') => unescaped(raw).map(Some),
            Self::Json(_) | Self::Time(_) => Ok(None),
            Self::Plain(bytes) => Ok(Some(Cow::Borrowed(utf8(bytes)?))),
        }
    }

    /// The number that it is, to the letter; `or_text`: also one that stands in a JSON text.
    fn number(&self, or_text: bool) -> Option<Cow<'a, str>> {
        match *self {
            Self::Json(raw) if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                Some(Cow::Borrowed(raw))
            }
            Self::Json(raw) if or_text && raw.starts_with('"') => unescaped(raw).ok(),
            Self::Json(_) => None,
            Self::Plain(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Self::Time(ms) => Some(Cow::Owned(ms.to_string())),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

fn unescaped(raw: &str) -> Result<Cow<'_, str>, String> {
    let inner = &raw[1..raw.len().saturating_sub(1).max(1)];
    if raw.len() >= 2 && !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw).map(Cow::Owned).map_err(|e| format!("is no JSON text: {e}"))
}

/// Writes a value with its length before it. `Err` tells what the value is not: "is no integer".
pub(super) fn write(of: Type, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    match of {
        Type::Scalar(scalar) => scalar.write(value, out)?,
        Type::Array(scalar, oid) => array(scalar, oid, value, out)?,
        Type::Cast => Scalar::Text(None).write(value, out)?,
    }
    let length = i32::try_from(out.len() - start - 4).map_err(|_| "is too long".to_owned())?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Writes NULL.
pub(super) fn write_null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1i32).to_be_bytes());
}

fn array(scalar: Scalar, oid: u32, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let elements: Vec<&RawValue> = match value {
        Value::Json(raw) if raw.starts_with('[') => serde_json::from_str(raw).map_err(|e| e.to_string())?,
        _ => return Err("is no array".into()),
    };
    let elements: Vec<Option<Value<'_>>> = elements.iter().map(|raw| Value::of_json(raw.get())).collect();
    let dimensions = i32::from(!elements.is_empty());
    out.extend_from_slice(&dimensions.to_be_bytes());
    out.extend_from_slice(&i32::from(elements.iter().any(Option::is_none)).to_be_bytes());
    out.extend_from_slice(&oid.to_be_bytes());
    if elements.is_empty() {
        return Ok(());
    }
    let length = i32::try_from(elements.len()).map_err(|_| "is too long".to_owned())?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    for (i, element) in elements.into_iter().enumerate() {
        match element {
            Some(value) => write(Type::Scalar(scalar), value, out)
                .map_err(|e| format!("has an element, number {i}, that {e}"))?,
            None => write_null(out),
        }
    }
    Ok(())
}

/// The days from 1970 to 2000, where PostgreSQL's times begin.
const EPOCH_DAYS: i64 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS * 86_400_000_000;

impl Scalar {
    fn write(self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Bool => out.push(u8::from(boolean(value)?)),
            Self::Int2 => out.extend_from_slice(&integer::<i16>(value)?.to_be_bytes()),
            Self::Int4 => out.extend_from_slice(&integer::<i32>(value)?.to_be_bytes()),
            Self::Int8 => out.extend_from_slice(&integer::<i64>(value)?.to_be_bytes()),
            Self::Float4 => {
                let number = float::<f32>(value)?;
                finite(number.is_finite())?;
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Float8 => {
                let number = float::<f64>(value)?;
                finite(number.is_finite())?;
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Numeric(whole_max) => {
                let number = value.number(true).ok_or("is no number")?;
                let whole = numeric::write(&number, out).ok_or("is no number, or too large a one")?;
                if whole_max.is_some_and(|max| i32::try_from(whole).is_ok_and(|whole| whole > max.max(0))) {
                    return Err("is out of range".into());
                }
            }
            Self::Text(chars_max) => text(value, chars_max, out)?,
            Self::Json => json(value, out)?,
            Self::Jsonb => {
                // The version of the form.
                out.push(1);
                json(value, out)?;
            }
            Self::Uuid => uuid(value, out)?,
            Self::Bytea => bytes(value, out)?,
            Self::Date => {
                let micros = match value.text()? {
                    Some(t) => match t.parse::<civil::Date>() {
                        Ok(date) if t.len() <= 13 => micros_of(date.at(0, 0, 0, 0)),
                        _ => instant(value, "a date, such as 2013-01-31")?,
                    },
                    None => instant(value, "a date, such as 2013-01-31")?,
                };
                let days = micros.div_euclid(86_400_000_000) - EPOCH_DAYS;
                let days = i32::try_from(days).map_err(|_| "is out of range")?;
                out.extend_from_slice(&days.to_be_bytes());
            }
            Self::Timestamp => {
                const EXPECTED: &str = "a time, such as 2013-01-31T23:59:59 or milliseconds since 1970";
                let micros = match value.text()? {
                    Some(t) => match t.parse::<jiff::Timestamp>() {
                        Ok(time) => time.as_microsecond(),
                        Err(_) => match t.parse::<civil::DateTime>() {
                            Ok(time) => micros_of(time),
                            Err(_) => instant(value, EXPECTED)?,
                        },
                    },
                    None => instant(value, EXPECTED)?,
                };
                out.extend_from_slice(&(micros - EPOCH_MICROS).to_be_bytes());
            }
            Self::Timestamptz => {
                let micros = instant(
                    value,
                    "a time with its offset, such as 2013-01-31T23:59:59Z, or milliseconds since 1970",
                )?;
                out.extend_from_slice(&(micros - EPOCH_MICROS).to_be_bytes());
            }
        }
        Ok(())
    }
}

fn finite(is: bool) -> Result<(), String> {
    if is { Ok(()) } else { Err("is out of range".into()) }
}

fn boolean(value: Value<'_>) -> Result<bool, String> {
    match value {
        Value::Json("true") | Value::Plain(b"true") => Ok(true),
        Value::Json("false") | Value::Plain(b"false") => Ok(false),
        _ => Err("is neither true nor false".into()),
    }
}

fn integer<T: TryFrom<i64>>(value: Value<'_>) -> Result<T, String> {
    let none = || "is no integer".to_owned();
    let text = value.number(false).ok_or_else(none)?;
    let number = match text.parse::<i64>() {
        Ok(number) => number,
        // 5.0 and 1e3 are integers, and what is too large for 64 bits is one too.
        Err(_) => {
            let number: f64 = text.parse().map_err(|_| none())?;
            if !number.is_finite() || number.fract() != 0.0 {
                return Err(none());
            }
            if number.abs() > 9_007_199_254_740_992.0 {
                return Err("is out of range".into());
            }
            #[expect(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
            let number = number as i64;
            number
        }
    };
    T::try_from(number).map_err(|_| "is out of range".to_owned())
}

fn float<T: std::str::FromStr>(value: Value<'_>) -> Result<T, String> {
    let text = value.number(false).ok_or("is no number")?;
    text.parse().map_err(|_| "is no number".to_owned())
}

fn text(value: Value<'_>, chars_max: Option<usize>, out: &mut Vec<u8>) -> Result<(), String> {
    let text = match value.text()? {
        Some(text) => text,
        None => match value {
            Value::Json(raw) => Cow::Borrowed(raw),
            Value::Time(ms) => Cow::Owned(ms.to_string()),
            Value::Plain(_) => Cow::Borrowed(""),
        },
    };
    if text.contains('\0') {
        return Err("holds a character U+0000, which PostgreSQL's texts can't".into());
    }
    if let Some(max) = chars_max.filter(|max| text.len() > *max) {
        // Blanks above the limit are cut by the server, as by any INSERT.
        let chars = text.trim_end_matches(' ').chars().count();
        if chars > max {
            return Err(format!("is too long: {chars} characters, of {max}"));
        }
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn json(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Json(raw) => out.extend_from_slice(raw.as_bytes()),
        Value::Time(ms) => out.extend_from_slice(ms.to_string().as_bytes()),
        Value::Plain(bytes) => {
            // Writing text to memory can't fail.
            let _ = serde_json::to_writer(&mut *out, utf8(bytes)?);
        }
    }
    Ok(())
}

fn uuid(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let none = || "is no UUID, such as 7d444840-9dc0-11d1-b245-5ffdce74fad2".to_owned();
    let text = value.text()?.ok_or_else(none)?;
    let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(&text);
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 {
        return Err(none());
    }
    hex(&digits, out).ok_or_else(none)
}

fn hex(digits: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    for pair in digits.chunks_exact(2) {
        out.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(())
}

fn bytes(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    if let Value::Plain(bytes) = value {
        out.extend_from_slice(bytes);
        return Ok(());
    }
    let none = || "is neither base64 nor hex after \\x".to_owned();
    let text = value.text()?.ok_or_else(none)?;
    if let Some(digits) = text.strip_prefix("\\x") {
        return hex(digits.as_bytes(), out).ok_or_else(none);
    }
    let decoded = openssl::base64::decode_block(&text).map_err(|_| none())?;
    out.extend_from_slice(&decoded);
    Ok(())
}

fn micros_of(time: civil::DateTime) -> i64 {
    let days = i64::from((time.date() - civil::date(1970, 1, 1)).get_days());
    let of_day = time.time() - civil::Time::midnight();
    days * 86_400_000_000
        + i64::from(of_day.get_hours()) * 3_600_000_000
        + of_day.get_minutes() * 60_000_000
        + of_day.get_seconds() * 1_000_000
        + of_day.get_milliseconds() * 1000
        + of_day.get_microseconds()
}

/// Microseconds since 1970.
fn instant(value: Value<'_>, expected: &str) -> Result<i64, String> {
    let none = || format!("is not {expected}");
    if let Some(text) = value.text()? {
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(time.as_microsecond());
        }
        // The envelope's texts may be numbers.
        if !matches!(value, Value::Plain(_)) {
            return Err(none());
        }
    }
    let ms = integer::<i64>(value).map_err(|_| none())?;
    // The range of PostgreSQL's timestamps: 4714 before our era to 294276.
    if !(-210_866_803_200_000..9_224_318_016_000_000).contains(&ms) {
        return Err("is out of range".into());
    }
    Ok(ms * 1000)
}

/// Whether bytes are one JSON value.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}
