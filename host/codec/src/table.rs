//! The registration table: one line a codec.
//!
//! A codec is a module with its settings, which is a struct that serde reads and whose comments are the users'
//! documentation, and a line below. From the lines comes [`CodecSpec`], which a pipeline spec holds beside a
//! connector: `codec: { csv: { separator: ";" } }`, or `codec: csv` alone where a codec needs nothing.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use crate::bounded::{BoundedDecoder, BoundedWriter};
use crate::{CodecError, Reading, Writing};

/// The settings of a codec.
#[async_trait]
pub trait CodecSettings: DeserializeOwned + Serialize + JsonSchema + Send + Sync {
    /// The schema of the payloads, as plugins see them, as JSON Schema; none where nothing is declared, or
    /// only a registry knows it.
    ///
    /// # Errors
    /// What is wrong with a file of the settings.
    fn declared(&self) -> Result<Option<serde_json::Value>, CodecError> {
        Ok(None)
    }
    /// The half that reads. `name` is what is read: a topic, a subject, a stream, a path.
    ///
    /// # Errors
    /// What is wrong with the settings, or that a registry is away.
    async fn reading(&self, name: &str) -> Result<Reading, CodecError>;
    /// The half that writes. `name` is what is written: a topic, a subject, a stream, a path.
    ///
    /// # Errors
    /// As of `reading`.
    async fn writing(&self, name: &str) -> Result<Writing, CodecError>;
}

macro_rules! register {
    ($($name:literal => $variant:ident($settings:ty);)+) => {
        /// A codec in a pipeline spec.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "there is one a source or sink, not one a message")]
        pub enum CodecSpec {
            $(#[doc = concat!("`", $name, "`")] $variant($settings),)+
        }

        impl CodecSpec {
            /// The names, as a pipeline spec has them.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The codec's name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            fn settings(&self) -> &dyn CodecOf {
                match self { $(Self::$variant(settings) => settings,)+ }
            }

            /// The names of those that need nothing but their name.
            #[must_use]
            pub fn names_alone() -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if from_nothing::<$settings, serde::de::value::Error>().is_ok() { names.push($name); })+
                names
            }
        }

        impl Serialize for CodecSpec {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                let mut map = s.serialize_map(Some(1))?;
                match self { $(Self::$variant(settings) => map.serialize_entry($name, settings)?,)+ }
                map.end()
            }
        }

        impl<'de> Deserialize<'de> for CodecSpec {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Named;
                impl<'de> Visitor<'de> for Named {
                    type Value = CodecSpec;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a codec: one of {}, with its settings", CodecSpec::NAMES.join(", "))
                    }
                    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
                        match name {
                            $($name => from_nothing().map(CodecSpec::$variant),)+
                            _ => Err(E::unknown_variant(name, CodecSpec::NAMES)),
                        }
                    }
                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let Some(name) = map.next_key::<Cow<'de, str>>()? else {
                            return Err(A::Error::invalid_length(0, &self));
                        };
                        let spec = match &*name {
                            $($name => CodecSpec::$variant(map.next_value()?),)+
                            other => return Err(A::Error::unknown_variant(other, CodecSpec::NAMES)),
                        };
                        if let Some((more, IgnoredAny)) = map.next_entry::<Cow<'de, str>, _>()? {
                            return Err(A::Error::custom(format_args!(
                                "`{more}` beside `{name}`: a codec has one name; indent its settings below it"
                            )));
                        }
                        Ok(spec)
                    }
                }
                d.deserialize_any(Named)
            }
        }

        impl JsonSchema for CodecSpec {
            fn schema_name() -> Cow<'static, str> {
                "CodecSpec".into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let mut forms = vec![json!({ "type": "string", "enum": Self::names_alone() })];
                $(forms.push(json!({
                    "type": "object",
                    "properties": { $name: generator.subschema_for::<$settings>() },
                    "required": [$name],
                    "additionalProperties": false
                }));)+
                let mut schema = Schema::default();
                schema.insert("oneOf".into(), forms.into());
                schema
            }
        }
    };
}

/// Settings that all have their defaults.
fn from_nothing<T: DeserializeOwned, E: serde::de::Error>() -> Result<T, E> {
    T::deserialize(MapDeserializer::<_, E>::new(std::iter::empty::<(&str, &str)>()))
}

register! {
    "json" => Json(crate::json::JsonSettings);
    "json_body" => JsonBody(crate::json_body::JsonBodySettings);
    "raw" => Raw(crate::raw::RawSettings);
    "text" => Text(crate::text::TextSettings);
    "csv" => Csv(crate::csv::CsvSettings);
    "cloudevents" => CloudEvents(crate::cloudevents::CloudEventsSettings);
    "json_schema" => JsonSchema(crate::json_schema::JsonSchemaSettings);
    "messagepack" => MessagePack(crate::messagepack::MessagePackSettings);
    "protobuf" => Protobuf(crate::protobuf::ProtobufSettings);
    "avro" => Avro(crate::avro::AvroSettings);
}

impl Default for CodecSpec {
    fn default() -> Self {
        Self::Json(crate::json::JsonSettings::default())
    }
}

impl CodecSpec {
    /// The schema of the payloads, as JSON Schema, where one is declared.
    ///
    /// # Errors
    /// What is wrong with a file of the settings.
    pub fn declared(&self) -> Result<Option<serde_json::Value>, CodecError> {
        self.settings().schema()
    }

    /// The half that reads what is called `name`.
    ///
    /// # Errors
    /// What is wrong with the settings, or that a registry is away.
    pub async fn reading(&self, name: &str) -> Result<Reading, CodecError> {
        self.settings().read(name).await
    }

    /// The half that writes what is called `name`.
    ///
    /// # Errors
    /// As of [`CodecSpec::reading`].
    pub async fn writing(&self, name: &str) -> Result<Writing, CodecError> {
        self.settings().write(name).await
    }
}

/// The part of [`CodecSettings`] that a `dyn` can have.
#[async_trait]
trait CodecOf: Send + Sync {
    fn schema(&self) -> Result<Option<serde_json::Value>, CodecError>;
    async fn read(&self, name: &str) -> Result<Reading, CodecError>;
    async fn write(&self, name: &str) -> Result<Writing, CodecError>;
}

#[async_trait]
impl<T: CodecSettings> CodecOf for T {
    fn schema(&self) -> Result<Option<serde_json::Value>, CodecError> {
        self.declared()
    }
    async fn read(&self, name: &str) -> Result<Reading, CodecError> {
        let reading = self.reading(name).await?;
        Ok(Reading { decoder: Arc::new(BoundedDecoder(reading.decoder)), ..reading })
    }
    async fn write(&self, name: &str) -> Result<Writing, CodecError> {
        let writing = self.writing(name).await?;
        Ok(Writing { writer: Arc::new(BoundedWriter(writing.writer)), ..writing })
    }
}
