//! Entries and their ids, as Redis answers them.

use std::fmt;
use std::str::FromStr;

use redis::{RedisError, ToRedisArgs, Value};

/// How many bits of an offset are the sequence number in a millisecond.
const SEQUENCE_BITS: u32 = 20;
/// How many bits are the milliseconds.
const MS_BITS: u32 = 44;

/// An entry's id: milliseconds, and a number in that millisecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId {
    pub ms: u64,
    pub sequence: u64,
}

impl EntryId {
    /// The id as one number: in the same order as the ids.
    pub fn offset(self) -> Result<u64, String> {
        if self.ms >> MS_BITS != 0 || self.sequence >> SEQUENCE_BITS != 0 {
            return Err(format!(
                "the id {self} is out of bounds: wasmill takes ids of up to 2^44 milliseconds with up to 2^20 entries in each; let Redis give the ids (XADD with *)"
            ));
        }
        Ok(self.ms << SEQUENCE_BITS | self.sequence)
    }

    pub fn of_offset(offset: u64) -> Self {
        Self { ms: offset >> SEQUENCE_BITS, sequence: offset & ((1 << SEQUENCE_BITS) - 1) }
    }

    /// The greatest id below this one.
    pub fn before(self) -> Self {
        match (self.ms, self.sequence) {
            (0, 0) => self,
            (ms, 0) => Self { ms: ms - 1, sequence: u64::MAX },
            (ms, sequence) => Self { ms, sequence: sequence - 1 },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

impl FromStr for EntryId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (ms, sequence) = text.split_once('-').ok_or(())?;
        Ok(Self { ms: ms.parse().map_err(|_| ())?, sequence: sequence.parse().map_err(|_| ())? })
    }
}

impl ToRedisArgs for EntryId {
    fn write_redis_args<W: ?Sized + redis::RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

/// One entry; no fields where it was trimmed while it was pending.
#[derive(Debug)]
pub(super) struct Entry {
    pub id: EntryId,
    pub fields: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

fn odd(what: &'static str) -> RedisError {
    RedisError::from((
        redis::ErrorKind::UnexpectedReturnType,
        "Redis answered otherwise than expected",
        what.into(),
    ))
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(super) fn id(value: &Value) -> Result<EntryId, RedisError> {
    text(value).and_then(|text| text.parse().ok()).ok_or_else(|| odd("no id where one must be"))
}

pub(super) fn array(value: Value) -> Result<Vec<Value>, RedisError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(odd("no list where one must be")),
    }
}

/// Names with values: a list in turn, or a map.
pub(super) fn pairs(value: Value) -> Result<Vec<(Value, Value)>, RedisError> {
    match value {
        Value::Map(pairs) => Ok(pairs),
        other => {
            let mut values = array(other)?.into_iter();
            let mut pairs = Vec::with_capacity(values.len() / 2);
            while let (Some(name), Some(value)) = (values.next(), values.next()) {
                pairs.push((name, value));
            }
            Ok(pairs)
        }
    }
}

/// What XRANGE answers, and the like.
pub(super) fn entries(value: Value) -> Result<Vec<Entry>, RedisError> {
    array(value)?.into_iter().filter(|v| *v != Value::Nil).map(entry).collect()
}

fn entry(value: Value) -> Result<Entry, RedisError> {
    let mut parts = array(value)?.into_iter();
    let (Some(first), Some(fields)) = (parts.next(), parts.next()) else {
        return Err(odd("an entry without id or fields"));
    };
    let bytes = |value| match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(odd("a field that is no bytes")),
    };
    let fields = match fields {
        Value::Nil => None,
        some => {
            let pairs = pairs(some)?.into_iter().map(|(name, value)| Ok((bytes(name)?, bytes(value)?)));
            Some(pairs.collect::<Result<_, RedisError>>()?)
        }
    };
    Ok(Entry { id: id(&first)?, fields })
}

/// What XREAD and XREADGROUP answer of one stream.
pub(super) fn of_stream(value: Value) -> Result<Vec<Entry>, RedisError> {
    let stream = match value {
        Value::Map(streams) => streams.into_iter().next().map(|(_, of)| of),
        other => match array(other)?.into_iter().next() {
            Some(stream) => array(stream)?.into_iter().nth(1),
            None => None,
        },
    };
    stream.map_or_else(|| Ok(Vec::new()), entries)
}

/// What one step takes in: an entry with its offset.
#[derive(Debug)]
pub(super) struct Raw {
    pub offset: u64,
    pub next: u64,
    pub time_ms: i64,
    pub value: Vec<u8>,
    pub rejected: Option<String>,
}

impl Raw {
    /// An entry's message: the value of `field`, or all its fields as an object.
    pub fn new(
        (offset, next): (u64, u64),
        id: EntryId,
        fields: Vec<(Vec<u8>, Vec<u8>)>,
        field: &str,
    ) -> Self {
        let mut fields = fields;
        let (value, rejected) = match fields.iter().position(|(name, _)| name == field.as_bytes()) {
            Some(at) => (fields.swap_remove(at).1, None),
            None => object(&fields),
        };
        Self { offset, next, time_ms: i64::try_from(id.ms).unwrap_or(i64::MAX), value, rejected }
    }
}

fn object(fields: &[(Vec<u8>, Vec<u8>)]) -> (Vec<u8>, Option<String>) {
    let mut object = serde_json::Map::new();
    for (name, value) in fields {
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            let name = String::from_utf8_lossy(name);
            return (
                value.clone(),
                Some(format!("the field `{name}` is not UTF-8, and no message can be made of it")),
            );
        };
        object.insert(name.to_owned(), value.into());
    }
    (serde_json::Value::Object(object).to_string().into_bytes(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_offsets_in_their_order() {
        let id = |ms, sequence| EntryId { ms, sequence };
        for ids in [[id(0, 1), id(0, 2)], [id(5, (1 << 20) - 1), id(6, 0)], [id(1, 0), id((1 << 44) - 1, 7)]]
        {
            let [a, b] = ids.map(|id| id.offset().expect("an offset"));
            assert!(a < b);
            assert_eq!([a, b].map(EntryId::of_offset), ids);
        }
        assert!(id(1 << 44, 0).offset().is_err() && id(0, 1 << 20).offset().is_err());
        assert_eq!(id(7, 0).before(), id(6, u64::MAX));
        assert_eq!(id(7, 3).before(), id(7, 2));
        assert_eq!("12-34".parse(), Ok(id(12, 34)));
        assert_eq!(id(12, 34).to_string(), "12-34");
    }

    #[test]
    fn an_entry_without_the_field_is_an_object() {
        let fields =
            |of: &[(&str, &[u8])]| of.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect();
        let of = |f| Raw::new((1, 2), EntryId { ms: 9, sequence: 0 }, f, "message");
        assert_eq!(of(fields(&[("id", b"x"), ("message", b"{}")])).value, b"{}");
        let object = of(fields(&[("id", b"1"), ("type", b"a\"b")]));
        assert_eq!((object.value.as_slice(), object.rejected), (&br#"{"id":"1","type":"a\"b"}"#[..], None));
        assert!(of(fields(&[("id", b"\xff")])).rejected.expect("why").contains("`id` is not UTF-8"));
    }
}
