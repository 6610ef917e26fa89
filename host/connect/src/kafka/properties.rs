//! librdkafka's settings as users write them: every name and value is checked before anything connects.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::security::KafkaSecurity;
use super::settings::Settings;
use crate::ConnectorError;

/// Every name that librdkafka knows, with the side that it is for: C(onsumer), P(roducer) or both (*).
/// Taken from the CONFIGURATION.md of the librdkafka that is built in.
const KNOWN: &str = include_str!("properties.txt");
/// How the names of settings end whose values nobody may see.
const SECRET: &[&str] = &["password", "secret", "passphrase", ".pem"];
/// How alike two names must be for one to be meant by the other.
const ALIKE_MIN: f64 = 0.8;

/// A setting's value: text, a number, true or false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property(pub String);

impl Serialize for Property {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = Property;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }
            fn visit_str<E>(self, v: &str) -> Result<Property, E> {
                Ok(Property(v.to_owned()))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Property, E> {
                Ok(Property(v.to_string()))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Property, E> {
                Ok(Property(v.to_string()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Property, E> {
                Ok(Property(v.to_string()))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Property, E> {
                Ok(Property(v.to_string()))
            }
        }
        d.deserialize_any(Scalar)
    }
}

impl JsonSchema for Property {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Property".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "Text, a number, true or false.", "type": ["string", "number", "boolean"] })
    }
}

/// Which end of a topic a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Consumer,
    Producer,
}

impl Side {
    fn takes(self, letter: &str) -> bool {
        letter == "*" || letter == if self == Self::Consumer { "C" } else { "P" }
    }

    fn name(self) -> &'static str {
        if self == Self::Consumer { "source" } else { "sink" }
    }
}

fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    KNOWN.lines().filter_map(|line| line.split_once(' '))
}

/// A librdkafka setting, and the ends that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownProperty {
    /// Its name.
    pub name: &'static str,
    /// Whether a source has it.
    pub source: bool,
    /// Whether a sink has it.
    pub sink: bool,
}

/// A setting's name as a variable's name has it: in capitals, with `_` for `.`.
fn as_variable(name: &str) -> String {
    name.to_uppercase().replace('.', "_")
}

/// The setting that a variable names: `SESSION_TIMEOUT_MS` is `session.timeout.ms`.
///
/// # Errors
/// The nearest that there is, written in the same way, if one is near.
pub fn property_of(variable: &str) -> Result<KnownProperty, Option<String>> {
    let known_as = || known().map(|(name, side)| (as_variable(name), name, side));
    if let Some((_, name, side)) = known_as().find(|(variable_name, ..)| variable_name == variable) {
        let is_of = |end: Side| end.takes(side);
        return Ok(KnownProperty { name, source: is_of(Side::Consumer), sink: is_of(Side::Producer) });
    }
    let alike = known_as().map(|(name, ..)| (strsim::jaro_winkler(variable, &name), name));
    let nearest = alike.filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|a, b| a.0.total_cmp(&b.0));
    Err(nearest.map(|(_, name)| name))
}

/// Whether both sides have a setting.
pub(super) fn is_common(name: &str) -> bool {
    known().any(|(known, letter)| known == name && letter == "*")
}

fn nearest(name: &str, side: Side) -> Option<&'static str> {
    let near =
        known().filter(|(_, letter)| side.takes(letter)).map(|(k, _)| (strsim::jaro_winkler(name, k), k));
    near.filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, k)| k)
}

/// The settings of a client: the host's defaults, and over them the user's.
///
/// # Errors
/// What `security` says twice or not at all, a name that librdkafka doesn't know, or that is the host's (`owned`, with what to do instead), or a
/// value that librdkafka refuses.
pub(super) fn config(
    side: Side,
    defaults: &[(&str, &str)],
    properties: &BTreeMap<String, Property>,
    security: Option<&KafkaSecurity>,
    owned: &[(&str, &str)],
) -> Result<Settings, ConnectorError> {
    let wrong = |name: &str, why: &str| ConnectorError::Fatal(format!("properties: `{name}`: {why}"));
    let mut config = ClientConfig::new();
    // Else it goes by the `log` crate, which nobody sets up here.
    config.set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in defaults {
        config.set(*name, *value);
    }
    for (name, Property(value)) in properties {
        if let Some((_, instead)) = owned.iter().find(|(owned, _)| owned == name) {
            return Err(wrong(name, instead));
        }
        match known().find(|(known, _)| known == name) {
            Some((_, letter)) if side.takes(letter) => {}
            Some(_) => {
                return Err(wrong(
                    name,
                    &format!("librdkafka doesn't know it for a {}; remove it", side.name()),
                ));
            }
            None => {
                let hint = nearest(name, side).map_or_else(
                    || "see librdkafka's CONFIGURATION.md for the names".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(wrong(name, &format!("librdkafka knows no such setting; {hint}")));
            }
        }
        config.set(name, value);
    }
    if let Some(security) = security {
        security.check(properties)?;
        security.set(&mut config);
    }
    match config.create_native_config() {
        Ok(_) => Ok(Settings::new(config, security)),
        Err(KafkaError::ClientConfig(_, why, name, value)) => {
            let is_secret = SECRET.iter().any(|ending| name.ends_with(ending));
            let shown = if is_secret { "(hidden)".to_owned() } else { format!("{value:?}") };
            Err(wrong(&name, &format!("the value {shown} is refused: {}", why.trim())))
        }
        Err(e) => Err(ConnectorError::Fatal(format!("properties: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_knows_every_name_of_the_list() {
        for (name, _) in known() {
            let mut config = ClientConfig::new();
            config.set(name, "");
            if let Err(KafkaError::ClientConfig(_, why, ..)) = config.create_native_config() {
                assert!(!why.contains("No such configuration property"), "{name}: {why}");
            }
        }
        assert!(known().count() > 150);
    }

    #[test]
    fn each_setting_has_a_variable_of_its_own() {
        let names: std::collections::BTreeSet<String> = known().map(|(name, _)| as_variable(name)).collect();
        assert_eq!(names.len(), known().count());
        let found = |name, source, sink| Ok(KnownProperty { name, source, sink });
        assert_eq!(property_of("SECURITY_PROTOCOL"), found("security.protocol", true, true));
        assert_eq!(property_of("SESSION_TIMEOUT_MS"), found("session.timeout.ms", true, false));
        assert_eq!(property_of("LINGER_MS"), found("linger.ms", false, true));
        assert_eq!(property_of("LINGR_MS"), Err(Some("LINGER_MS".to_owned())));
        assert_eq!(property_of("Q"), Err(None));
    }

    #[test]
    fn a_typo_is_told_with_the_right_name() {
        let told = |side, name: &str, value: &str| {
            let properties = BTreeMap::from([(name.to_owned(), Property(value.to_owned()))]);
            config(side, &[], &properties, None, &[("group.id", "set `group`")]).err().map(|e| e.to_string())
        };
        let typo = told(Side::Producer, "lingr.ms", "5").expect("refused");
        assert!(typo.contains("`lingr.ms`") && typo.contains("`linger.ms`"), "{typo}");
        let value = told(Side::Producer, "linger.ms", "soon").expect("refused");
        assert!(value.contains("`linger.ms`") && value.contains("soon"), "{value}");
        let side = told(Side::Consumer, "linger.ms", "5").expect("refused");
        assert!(side.contains("source"), "{side}");
        let owned = told(Side::Consumer, "group.id", "g").expect("refused");
        assert!(owned.contains("set `group`"), "{owned}");
        assert_eq!(told(Side::Producer, "linger.ms", "5"), None);
    }
}
