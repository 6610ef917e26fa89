//! `aggregate` as it is written: a plugin or built-ins.
//!
//! A built-in's bare name is the built-in. A map that begins with a plugin's setting is a plugin in its long
//! form, any other is a map of results.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use wasmill_engine::builtin::BuiltIn;

use super::located::Located;
use super::raw::{LongPlugin, PLUGIN_KEYS, RawPlugin};

/// What computes an aggregate.
#[derive(Debug, Clone)]
pub enum RawAggregate {
    /// A plugin.
    Plugin(RawPlugin),
    /// One built-in by its name alone.
    Bare(RawBuiltIn),
    /// Results by name.
    Named(Vec<(String, Located<RawBuiltIn>)>),
}

/// A built-in and its settings, of which each has its own.
#[derive(Debug, Clone, Default)]
pub struct RawBuiltIn {
    /// Which one.
    pub name: &'static str,
    /// The place that it reads.
    pub of: Option<Located<String>>,
    /// Of `top_k`.
    pub k: Option<Located<u32>>,
    /// Of `distinct`.
    pub approximate: Option<Located<bool>>,
    /// Of `distinct`.
    pub values_max: Option<Located<u32>>,
    /// Of `quantiles`.
    pub at: Option<Located<Vec<Located<f64>>>>,
}

/// `count`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Count {
    /// Counts only messages with something at this place. Default: all.
    of: Option<Located<String>>,
}

/// `sum`, `min`, `max`, `avg`, `first`, `last`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfPlace {
    /// The place that is read.
    of: Located<String>,
}

/// `top_k`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TopK {
    /// The place of the numbers.
    of: Located<String>,
    /// How many of the greatest are kept, 1 to 1000.
    k: Located<u32>,
}

/// `distinct`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Distinct {
    /// The place of the values.
    of: Located<String>,
    /// Whether the count may be off, with a standard error of 1.6 %, for 4 KiB a key at most. Default: false.
    approximate: Option<Located<bool>>,
    /// The most different values that a key may have, 1 to 100000: with more it has no result. Default:
    /// 10000.
    values_max: Option<Located<u32>>,
}

/// `quantiles`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Quantiles {
    /// The place of the numbers.
    of: Located<String>,
    /// Which quantiles: a list of numbers from 0 to 1.
    at: Located<Vec<Located<f64>>>,
}

impl<'de> Deserialize<'de> for RawAggregate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AggregateVisitor)
    }
}

/// A built-in's name as it is kept.
fn known(name: &str) -> Option<&'static str> {
    BuiltIn::NAMES.into_iter().find(|known| *known == name)
}

/// What people call some of them elsewhere.
const ELSEWHERE: [(&str, &str); 8] = [
    ("average", "avg"),
    ("mean", "avg"),
    ("minimum", "min"),
    ("maximum", "max"),
    ("total", "sum"),
    ("unique", "distinct"),
    ("median", "quantiles"),
    ("percentiles", "quantiles"),
];

/// The built-in that a wrong name most likely means.
fn nearest(given: &str) -> Option<&'static str> {
    let elsewhere = || ELSEWHERE.into_iter().map(|(name, _)| name);
    let near = crate::report::nearest(given, BuiltIn::NAMES.into_iter().chain(elsewhere()))?;
    ELSEWHERE.into_iter().find(|(name, _)| *name == near).map_or(Some(near), |(_, built_in)| Some(built_in))
}

fn did_you_mean(given: &str) -> String {
    match nearest(given) {
        Some(near) => format!("did you mean `{near}`?"),
        None => crate::report::did_you_mean("", BuiltIn::NAMES),
    }
}

fn needs_a_place<E: de::Error>(name: &str) -> E {
    E::custom(match name {
        "top_k" => "`top_k` needs `of` and `k`: expected `top_k: { of: payload.FIELD, k: 3 }`".to_owned(),
        "quantiles" => {
            "`quantiles` needs `of` and `at`: expected `quantiles: { of: payload.FIELD, at: [0.5, 0.99] }`"
                .to_owned()
        }
        name => format!("`{name}` needs a place to read: expected `{{ {name}: payload.FIELD }}`"),
    })
}

struct AggregateVisitor;

impl<'de> Visitor<'de> for AggregateVisitor {
    type Value = RawAggregate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a plugin's name, `count`, or a map of results such as `{ mean: { avg: payload.FIELD } }`",
        )
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<RawAggregate, E> {
        match known(name) {
            Some("count") => Ok(RawAggregate::Bare(RawBuiltIn { name: "count", ..RawBuiltIn::default() })),
            Some(name) => Err(needs_a_place(name)),
            None => RawPlugin::deserialize(de::value::StrDeserializer::new(name)).map(RawAggregate::Plugin),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawAggregate, A::Error> {
        let mut results = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if PLUGIN_KEYS.contains(&name.as_str()) {
                if results.is_empty() {
                    let map = Begun { first: Some(name), map };
                    let plugin = LongPlugin::deserialize(MapAccessDeserializer::new(map))?;
                    return Ok(RawAggregate::Plugin(plugin.into()));
                }
                return Err(de::Error::custom(format!(
                    "`{name}` among results is a plugin's setting: expected another name for the result"
                )));
            }
            let result = match known(&name) {
                Some(known) => map.next_value_seed(LocatedSeed(SettingsSeed(known)))?,
                None => {
                    refuse_bad_name(&name)?;
                    let Located { value, span } = map.next_value::<Located<OneBuiltIn>>()?;
                    match value {
                        OneBuiltIn::Known(value) => Located { value, span },
                        OneBuiltIn::Other(text) => return Err(no_built_in(&name, &text)),
                    }
                }
            };
            results.push((name, result));
        }
        if results.is_empty() {
            return Err(de::Error::custom("no result is asked for: expected one such as `count: {}`"));
        }
        Ok(RawAggregate::Named(results))
    }
}

/// The mistake is in the name where that is near a right one, else in what stands behind it.
fn no_built_in<E: de::Error>(name: &str, text: &str) -> E {
    if let Some(near) = nearest(name).or_else(|| crate::report::nearest(name, ["plugin"])) {
        return E::custom(format!("unknown built-in `{name}`: did you mean `{near}`?"));
    }
    E::custom(format!("`{name}` has no built-in behind it, but `{text}`: {}", did_you_mean(text)))
}

fn refuse_bad_name<E: de::Error>(name: &str) -> Result<(), E> {
    let right = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=super::NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(right) {
        return Ok(());
    }
    Err(E::custom(format!(
        "`{name}` is no result's name: expected 1 to {} letters, digits, `-`, `_` and `.`",
        super::NAME_BYTES_MAX
    )))
}

/// A map whose first key was read already.
struct Begun<A> {
    first: Option<String>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Begun<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(de::value::StringDeserializer::new(first)).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// What stands behind a result's name: `count`, or a map of one built-in.
enum OneBuiltIn {
    Known(RawBuiltIn),
    /// A text that names none.
    Other(String),
}

impl<'de> Deserialize<'de> for OneBuiltIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneVisitor;
        impl<'de> Visitor<'de> for OneVisitor {
            type Value = OneBuiltIn;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`count`, or a built-in with its settings such as `{ avg: payload.FIELD }`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneBuiltIn, E> {
                match known(text) {
                    None => Ok(OneBuiltIn::Other(text.to_owned())),
                    Some("count") => {
                        Ok(OneBuiltIn::Known(RawBuiltIn { name: "count", ..RawBuiltIn::default() }))
                    }
                    Some(name) => Err(needs_a_place(name)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OneBuiltIn, A::Error> {
                let Some(name) = map.next_key_seed(BuiltInName)? else {
                    return Err(de::Error::custom("no built-in is named: expected one such as `count: {}`"));
                };
                let built_in = map.next_value_seed(SettingsSeed(name))?;
                match map.next_key::<String>()? {
                    None => Ok(OneBuiltIn::Known(built_in)),
                    Some(more) => Err(de::Error::custom(format!(
                        "`{more}` is a second key in one result: expected one built-in a result, its settings below it"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(OneVisitor)
    }
}

/// A built-in's name, checked here, where its place is known.
struct BuiltInName;

impl<'de> DeserializeSeed<'de> for BuiltInName {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        let name = String::deserialize(deserializer)?;
        known(&name)
            .ok_or_else(|| de::Error::custom(format!("unknown built-in `{name}`: {}", did_you_mean(&name))))
    }
}

/// The settings of a built-in.
#[derive(Clone, Copy)]
struct SettingsSeed(&'static str);

impl<'de> DeserializeSeed<'de> for SettingsSeed {
    type Value = RawBuiltIn;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawBuiltIn, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SettingsSeed {
    type Value = RawBuiltIn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place such as `payload.FIELD`, or a map with `of`")
    }

    fn visit_unit<E: de::Error>(self) -> Result<RawBuiltIn, E> {
        match self.0 {
            "count" => Ok(RawBuiltIn { name: self.0, ..RawBuiltIn::default() }),
            name => Err(needs_a_place(name)),
        }
    }

    fn visit_str<E: de::Error>(self, place: &str) -> Result<RawBuiltIn, E> {
        if matches!(self.0, "top_k" | "quantiles") {
            return Err(needs_a_place(self.0));
        }
        // The place is the whole value's, which whoever holds this in a `Located` knows.
        let of = Located { value: place.to_owned(), span: crate::report::Span::default() };
        Ok(RawBuiltIn { name: self.0, of: Some(of), ..RawBuiltIn::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawBuiltIn, A::Error> {
        let mut built_in = RawBuiltIn { name: self.0, ..RawBuiltIn::default() };
        let map = MapAccessDeserializer::new(map);
        match self.0 {
            "count" => built_in.of = Count::deserialize(map)?.of,
            "top_k" => {
                let TopK { of, k } = TopK::deserialize(map)?;
                (built_in.of, built_in.k) = (Some(of), Some(k));
            }
            "distinct" => {
                let Distinct { of, approximate, values_max } = Distinct::deserialize(map)?;
                (built_in.of, built_in.approximate, built_in.values_max) =
                    (Some(of), approximate, values_max);
            }
            "quantiles" => {
                let Quantiles { of, at } = Quantiles::deserialize(map)?;
                (built_in.of, built_in.at) = (Some(of), Some(at));
            }
            _ => built_in.of = Some(OfPlace::deserialize(map)?.of),
        }
        Ok(built_in)
    }
}

/// A seed's value with its place: of a built-in's settings nobody asks for it but by way of their parts, so
/// it is that of the place that is read.
struct LocatedSeed(SettingsSeed);

impl<'de> DeserializeSeed<'de> for LocatedSeed {
    type Value = Located<RawBuiltIn>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        super::located::with_span(deserializer, self.0)
    }
}

impl JsonSchema for RawAggregate {
    fn schema_name() -> Cow<'static, str> {
        "Aggregate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let place = json_schema!({ "type": "string", "description": "The place that is read." });
        let mut settings = serde_json::Map::new();
        for name in BuiltIn::NAMES {
            let forms = match name {
                "count" => serde_json::json!([place, generator.subschema_for::<Count>(), { "type": "null" }]),
                "top_k" => serde_json::json!([generator.subschema_for::<TopK>()]),
                "distinct" => serde_json::json!([place, generator.subschema_for::<Distinct>()]),
                "quantiles" => serde_json::json!([generator.subschema_for::<Quantiles>()]),
                _ => serde_json::json!([place, generator.subschema_for::<OfPlace>()]),
            };
            settings.insert(name.to_owned(), serde_json::json!({ "anyOf": forms }));
        }
        let result = serde_json::json!({
            "description": "A built-in with its settings.",
            "anyOf": [
                { "const": "count" },
                {
                    "type": "object",
                    "properties": settings,
                    "additionalProperties": false,
                    "minProperties": 1,
                    "maxProperties": 1,
                },
            ],
        });
        let plugin = generator.subschema_for::<RawPlugin>();
        json_schema!({
            "description": "A plugin; `count`; or results by name, each by a built-in: `{ mean: { avg: payload.FIELD } }`. Under a built-in's own name its settings stand at once: `{ count: {}, max: payload.FIELD }`.",
            "anyOf": [
                plugin,
                {
                    "type": "object",
                    "properties": settings,
                    "additionalProperties": result,
                    "propertyNames": { "not": { "enum": PLUGIN_KEYS } },
                    "minProperties": 1,
                },
            ],
        })
    }
}
