//! Grants, and the secrets and tables that they name, as they are written.
//!
//! The comments here are the schema's descriptions, so they speak to the author of a pipeline.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::located::Located;
use super::outside::{HumanDuration, HumanSize};
use super::raw::Grant;
use crate::report::did_you_mean;

/// One item of `grants`: a name, or a map of one key.
#[derive(Debug, Clone)]
pub enum RawGrant {
    /// `state`, `metrics` or `wall-clock`.
    Name(Grant),
    /// `{ secrets: [NAME] }`.
    Secrets(Vec<Located<String>>),
    /// `{ http: { … } }`.
    Http(Box<RawHttp>),
    /// `{ lookup: [NAME] }`.
    Lookup(Vec<Located<String>>),
}

impl RawGrant {
    /// Which grant it is.
    #[must_use]
    pub fn grant(&self) -> Grant {
        match self {
            Self::Name(grant) => *grant,
            Self::Secrets(_) => Grant::Secrets,
            Self::Http(_) => Grant::Http,
            Self::Lookup(_) => Grant::Lookup,
        }
    }
}

/// What a plugin may be granted beyond its messages.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[allow(dead_code, reason = "the schema is made of it")]
enum GrantForms {
    /// State of the message's key.
    State,
    /// Counters of its own in the metrics.
    Metrics,
    /// The wall clock: results can't be replayed any more.
    WallClock,
    /// These of the pipeline's `secrets`.
    Secrets(Vec<String>),
    /// Outgoing HTTP: results can't be replayed any more.
    Http(RawHttp),
    /// These of the pipeline's `lookups`.
    Lookup(Vec<String>),
}

impl JsonSchema for RawGrant {
    fn schema_name() -> Cow<'static, str> {
        "Grant".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        GrantForms::json_schema(generator)
    }
}

/// Outgoing HTTP: whom a stage may ask, and how much.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHttp {
    /// Whom requests may go to: `https://HOST` or `http://HOST:PORT`, each to the letter, with any path. It is the
    /// name that is allowed: connections go to whatever it resolves to. Redirects are not followed.
    pub allow: Located<Vec<Located<String>>>,
    /// By which methods. Default: GET alone.
    pub methods: Option<Located<Vec<Located<RawMethod>>>>,
    /// How many requests the stage sends in any second, over all workers; more of them wait. Default: 100.
    pub rate_per_second: Option<Located<u32>>,
    /// How long a request may take, from when it goes out until its answer is whole. Default: 2s.
    pub timeout: Option<Located<HumanDuration>>,
    /// How many requests of the stage are under way at once, over all workers, at most 256; more of them wait.
    /// Default: 16.
    pub concurrency: Option<Located<u32>>,
    /// The greatest body of an answer. Default: 1MiB.
    pub response_bytes_max: Option<Located<HumanSize>>,
}

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // their names say it
pub enum RawMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

/// The names that an item of `grants` may have.
const NAMES: [&str; 6] = ["state", "metrics", "wall-clock", "secrets", "http", "lookup"];

impl<'de> Deserialize<'de> for RawGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GrantVisitor)
    }
}

struct GrantVisitor;

impl<'de> Visitor<'de> for GrantVisitor {
    type Value = RawGrant;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a grant, such as `metrics` or `{ secrets: [api-key] }`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<RawGrant, E> {
        let form = match name {
            "state" => return Ok(RawGrant::Name(Grant::State)),
            "metrics" => return Ok(RawGrant::Name(Grant::Metrics)),
            "wall-clock" => return Ok(RawGrant::Name(Grant::WallClock)),
            "secrets" => "{ secrets: [NAME] }",
            "http" => "{ http: { allow: [\"https://HOST\"] } }",
            "lookup" => "{ lookup: [NAME] }",
            _ => return Err(unknown(name)),
        };
        Err(E::custom(format!("the grant `{name}` says which: expected `{form}`")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawGrant, A::Error> {
        let mut grant = None;
        while let Some(name) = map.next_key::<String>()? {
            if grant.is_some() {
                return Err(de::Error::custom(format!(
                    "`{name}` is a second grant in one item: expected an item of the list for each"
                )));
            }
            grant = Some(match name.as_str() {
                "secrets" => RawGrant::Secrets(map.next_value()?),
                "http" => RawGrant::Http(map.next_value()?),
                "lookup" => RawGrant::Lookup(map.next_value()?),
                "state" | "metrics" | "wall-clock" => {
                    return Err(de::Error::custom(format!(
                        "`{name}` takes no settings: expected the name alone"
                    )));
                }
                _ => return Err(unknown(&name)),
            });
        }
        grant.ok_or_else(|| de::Error::custom(format!("an empty grant: {}", did_you_mean("", NAMES))))
    }
}

fn unknown<E: de::Error>(name: &str) -> E {
    E::custom(format!("unknown grant `{name}`: {}", did_you_mean(name, NAMES)))
}

/// Where a secret comes from: one of the two. It is read when the pipeline starts.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SecretPlaces {
    /// The environment variable that holds it.
    env: Option<Located<String>>,
    /// The file that holds it, at most 64KiB; a line's end at its end is left out.
    file: Option<Located<String>>,
}

/// Where a secret comes from.
#[derive(Debug, Clone)]
pub struct RawSecret {
    /// The environment variable.
    pub env: Option<Located<String>>,
    /// The file.
    pub file: Option<Located<String>>,
}

impl JsonSchema for RawSecret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        SecretPlaces::json_schema(generator)
    }
}

impl<'de> Deserialize<'de> for RawSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

/// Says nothing of what was found: it may be the secret.
fn in_the_spec<T, E: de::Error>() -> Result<T, E> {
    Err(E::custom("a secret has no place in the spec: expected `{ env: VARIABLE }` or `{ file: PATH }`"))
}

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = RawSecret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`{ env: VARIABLE }` or `{ file: PATH }`")
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<RawSecret, E> {
        in_the_spec()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<RawSecret, E> {
        in_the_spec()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<RawSecret, E> {
        in_the_spec()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<RawSecret, E> {
        in_the_spec()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<RawSecret, E> {
        in_the_spec()
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawSecret, A::Error> {
        let SecretPlaces { env, file } = SecretPlaces::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RawSecret { env, file })
    }
}

/// A table that plugins may look into, read when the pipeline starts. It is no part of the log: with another
/// content, results are others.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLookup {
    /// Its file: `.csv`, with the columns' names in its first line, or `.jsonl`, a JSON object a line.
    pub file: Located<String>,
    /// The column or field that rows are found by: a text or a number, another one in each row.
    pub key: Located<String>,
    /// The most memory that it may take. Default: 64MiB.
    pub bytes_max: Option<Located<HumanSize>>,
}
