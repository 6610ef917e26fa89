//! A schema registry with Confluent's API: where the schemas of binary messages are, each under a number.
//!
//! A value in the *wire format* begins with a zero byte and the number of its schema, as four bytes; behind them
//! is the body. What a number means never changes, so a schema that was fetched once is kept.

use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::secret::Secret;
use crate::units::HumanDuration;

mod client;
mod fetched;

pub use client::Registry;
pub use fetched::Fetched;

/// How many bytes stand before the body in the wire format.
pub const WIRE_BYTES: usize = 5;

/// A schema registry, by Confluent's API: Confluent's own, Apicurio's (`/apis/ccompat/v7`), Redpanda's, Karapace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistrySettings {
    /// The URL, http:// or https://; several of one registry, as a list or with commas between them, are tried one
    /// after the other. Redirects are not followed, and the environment's proxies are not used.
    pub url: Urls,
    /// The user, beside `password`. Default: none, or the one in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's password. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A token, sent as `Authorization: Bearer TOKEN`; in place of `user`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file of certificates in PEM that are trusted beside the system's. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A file with wasmill's own certificate in PEM, which the registry asks for; beside `key_file`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// A file with the key of `cert_file` in PEM (PKCS#8, without a password). Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// How long a request may take. Default: 10s.
    #[serde(default = "timeout")]
    pub timeout: HumanDuration,
    /// The subject of what is written. Default: `NAME-value`, NAME being what is written: a topic, a subject, a
    /// stream, a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Whether the schema file of what is written is registered at the start, where the registry doesn't have it
    /// under the subject. With `false` it must be there. Default: true.
    #[serde(default = "register")]
    pub register: bool,
}

fn timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

fn register() -> bool {
    true
}

impl RegistrySettings {
    /// Of a URL, or several with commas between them, all else by default.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: Urls::of(url),
            user: None,
            password: None,
            token: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            timeout: timeout(),
            subject: None,
            register: true,
        }
    }
}

/// URLs, as a list or with commas between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Urls(Vec<Secret>);

impl Urls {
    /// Of a text with commas.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(Secret::new).collect())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Secret::reveal)
    }
}

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct TextOrList;
        impl<'de> Visitor<'de> for TextOrList {
            type Value = Urls;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a URL, or a list of URLs")
            }
            fn visit_str<E>(self, text: &str) -> Result<Urls, E> {
                Ok(Urls::of(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Urls, A::Error> {
                let mut urls = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    urls.extend(Urls::of(&text).0);
                }
                Ok(Urls(urls))
            }
        }
        d.deserialize_any(TextOrList)
    }
}

impl JsonSchema for Urls {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Urls".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 }
        ] })
    }
}

/// What language a schema is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaKind {
    /// Avro.
    Avro,
    /// JSON Schema.
    Json,
    /// Protocol Buffers.
    Protobuf,
}

impl SchemaKind {
    /// As the API has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avro => "AVRO",
            Self::Json => "JSON",
            Self::Protobuf => "PROTOBUF",
        }
    }
}

/// A schema, as a registry has it or is to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its language.
    pub kind: SchemaKind,
    /// Its text.
    pub text: String,
    /// The schemas that it refers to, and those that they refer to, each name once, and each behind those that it
    /// refers to itself.
    pub references: Vec<Reference>,
}

impl Registered {
    /// One that refers to no other.
    #[must_use]
    pub fn new(kind: SchemaKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), references: Vec::new() }
    }

    /// How many bytes its texts have.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.text.len() + self.references.iter().map(|r| r.text.len()).sum::<usize>()
    }
}

/// A schema that another one refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What it is called there: of Avro a full name, of Protobuf the path of an import, of JSON Schema a `$ref`.
    pub name: String,
    /// Its subject.
    pub subject: String,
    /// Its version under the subject.
    pub version: u32,
    /// Its text.
    pub text: String,
    /// Whether the schema itself refers to it, or only one of its references does. Only direct ones are registered
    /// with a schema.
    pub direct: bool,
}

/// The schema's number and the body of a value in the wire format.
///
/// # Errors
/// Why it is none, for the dead-letter queue.
pub fn wire(value: &[u8]) -> Result<(u32, &[u8]), String> {
    let expected =
        "expected the wire format of a schema registry: a zero byte, then the schema's id as four bytes";
    match value {
        [0, a, b, c, d, body @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), body)),
        [] => Err(format!("an empty value: {expected}")),
        [0, ..] => Err(format!("a value of {} bytes: {expected}, then the body", value.len())),
        [first @ (b'{' | b'[' | b'"'), ..] => Err(format!(
            "the value begins with `{}`, as JSON does: {expected}; leave out `registry` where values are plain",
            char::from(*first)
        )),
        [first, ..] => Err(format!("the value begins with the byte 0x{first:02x}: {expected}")),
    }
}

/// Puts what stands before the body in the wire format.
pub fn put_wire(id: u32, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&id.to_be_bytes());
}
