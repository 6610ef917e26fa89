//! A source as the spec writes it: one connector's key, and beside it the codec.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::located::Located;
use super::outside::{CodecSpec, SourceSpec};
use super::raw::OneEntry;

/// A source: one connector's key, and beside it how its messages are read.
#[derive(Debug, Clone)]
pub struct RawSource {
    /// Where the messages come from.
    pub connector: SourceSpec,
    /// How they are read; none: as JSON envelopes.
    pub codec: Option<Located<CodecSpec>>,
}

impl<'de> Deserialize<'de> for RawSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = RawSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a source: one of {}, with its settings", SourceSpec::NAMES.join(", "))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<RawSource, E> {
        Ok(RawSource { connector: SourceSpec::deserialize(StrDeserializer::new(name))?, codec: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawSource, A::Error> {
        let (mut connector, mut codec) = (None, None);
        while let Some(key) = map.next_key_seed(KeySeed { more: connector.is_none() })? {
            match key {
                Key::Codec => codec = Some(map.next_value()?),
                Key::Connector(name) => {
                    connector = Some(SourceSpec::deserialize(MapAccessDeserializer::new(OneEntry {
                        name: Some(name),
                        map: &mut map,
                    }))?);
                }
            }
        }
        let connector = connector.ok_or_else(|| {
            de::Error::custom("no source is named here, such as `file: { path: input.jsonl }`")
        })?;
        Ok(RawSource { connector, codec })
    }
}

enum Key {
    Codec,
    Connector(String),
}

struct KeySeed {
    more: bool,
}

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        let key = String::deserialize(deserializer)?;
        if key == "codec" {
            return Ok(Key::Codec);
        }
        // The name is checked here, where the key's place is known.
        if !SourceSpec::NAMES.contains(&key.as_str()) {
            let names = SourceSpec::NAMES.iter().copied().chain(["codec"]);
            let near = crate::report::did_you_mean(&key, names.collect::<Vec<_>>());
            return Err(de::Error::custom(format!("unknown source `{key}`: {near}")));
        }
        if !self.more {
            return Err(de::Error::custom(format!(
                "`{key}` is a second source in one place: use a list, `sources:`; settings are indented below their source"
            )));
        }
        Ok(Key::Connector(key))
    }
}

/// The schema of the key `codec` beside a connector.
pub(super) fn codec_schema(generator: &mut SchemaGenerator, done: &str) -> serde_json::Value {
    let schema = generator.subschema_for::<CodecSpec>();
    serde_json::json!({
        "description": format!("How messages are {done} in bytes. Default: json, the envelope."),
        "allOf": [schema],
    })
}

impl JsonSchema for RawSource {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let codec = codec_schema(generator, "read");
        let mut schema = SourceSpec::json_schema(generator);
        for forms in ["oneOf", "anyOf"] {
            let Some(list) = schema.get_mut(forms).and_then(|f| f.as_array_mut()) else { continue };
            for form in list.iter_mut() {
                if let Some(properties) = form.get_mut("properties").and_then(|p| p.as_object_mut()) {
                    properties.insert("codec".into(), codec.clone());
                }
            }
        }
        schema
    }
}
