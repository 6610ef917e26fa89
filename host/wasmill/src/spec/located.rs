//! A value that remembers where it was written.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::de::{LOCATED, LOCATED_FIELDS};
use crate::report::Span;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        with_span(deserializer, PhantomData)
    }
}

/// What a seed makes of a value, with the value's place.
pub(super) fn with_span<'de, D: Deserializer<'de>, S: DeserializeSeed<'de>>(
    deserializer: D,
    seed: S,
) -> Result<Located<S::Value>, D::Error> {
    deserializer.deserialize_struct(LOCATED, LOCATED_FIELDS, LocatedVisitor(seed))
}

struct LocatedVisitor<S>(S);

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for LocatedVisitor<S> {
    type Value = Located<S::Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value with its place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut span = Span::default();
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "source" => span.source = map.next_value()?,
                "start" => span.start = map.next_value()?,
                "end" => span.end = map.next_value()?,
                _ => return Ok(Located { value: map.next_value_seed(self.0)?, span }),
            }
        }
        Err(A::Error::missing_field("value"))
    }
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
