//! A row of COPY's binary form as JSON: what a dead letter shows of a row that the server refused.

use serde_json::{Map, Value, json};

use super::numeric;
use super::table::Column;
use super::types::{Scalar, Type};

/// The row as an object, by the names of its columns.
pub(super) fn row(row: &[u8], columns: &[Column]) -> Vec<u8> {
    let mut fields = Map::new();
    let mut rest = row.get(2..).unwrap_or_default();
    for column in columns {
        let Some(value) = next(&mut rest) else { break };
        let shown = value.map_or(Value::Null, |bytes| shown(column.of, bytes).unwrap_or(Value::Null));
        fields.insert(column.name.clone(), shown);
    }
    Value::Object(fields).to_string().into_bytes()
}

/// The next value, with its length before it; `Some(None)` is NULL.
#[expect(clippy::option_option, reason = "there may be none, and it may be NULL")]
fn next<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, behind) = rest.split_first_chunk()?;
    *rest = behind;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { return Some(None) };
    let (value, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(Some(value))
}

fn shown(of: Type, bytes: &[u8]) -> Option<Value> {
    match of {
        Type::Scalar(scalar) => scalar_shown(scalar, bytes),
        Type::Cast => scalar_shown(Scalar::Text(None), bytes),
        Type::Array(scalar, _) => {
            let mut rest = bytes.get(20..).unwrap_or_default();
            let mut elements = Vec::new();
            while let Some(value) = next(&mut rest) {
                elements.push(value.map_or(Some(Value::Null), |v| scalar_shown(scalar, v))?);
            }
            Some(elements.into())
        }
    }
}

fn scalar_shown(scalar: Scalar, bytes: &[u8]) -> Option<Value> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let long = || Some(i64::from_be_bytes(*bytes.first_chunk()?));
    let time =
        |micros: i64| jiff::Timestamp::from_microsecond(micros).ok().map(|t| Value::from(t.to_string()));
    let since = 10_957i64 * 86_400_000_000;
    Some(match scalar {
        Scalar::Bool => (bytes == [1]).into(),
        Scalar::Int2 => i16::from_be_bytes(*bytes.first_chunk()?).into(),
        Scalar::Int4 => i32::from_be_bytes(*bytes.first_chunk()?).into(),
        Scalar::Int8 => long()?.into(),
        Scalar::Float4 => json!(f32::from_be_bytes(*bytes.first_chunk()?)),
        Scalar::Float8 => json!(f64::from_be_bytes(*bytes.first_chunk()?)),
        // As text, for a number of JSON may not hold all of its digits.
        Scalar::Numeric(_) => numeric::read(bytes)?.into(),
        Scalar::Text(_) => String::from_utf8_lossy(bytes).into(),
        Scalar::Json => serde_json::from_slice(bytes).ok()?,
        Scalar::Jsonb => serde_json::from_slice(bytes.get(1..)?).ok()?,
        Scalar::Uuid => {
            let digits = hex(bytes);
            let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)].map(|(a, b)| digits.get(a..b));
            parts.into_iter().collect::<Option<Vec<_>>>()?.join("-").into()
        }
        Scalar::Bytea => format!("\\x{}", hex(bytes)).into(),
        Scalar::Date => {
            let days = i64::from(i32::from_be_bytes(*bytes.first_chunk()?));
            let time = jiff::Timestamp::from_second((days + 10_957) * 86_400).ok()?;
            time.to_string().split('T').next()?.into()
        }
        Scalar::Timestamp => time(long()? + since)?.as_str().map(|t| t.trim_end_matches('Z').into())?,
        Scalar::Timestamptz => time(long()? + since)?,
    })
}
