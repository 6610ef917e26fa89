//! What a spec chooses by its name: `NAME: { settings }`, or the name alone where all settings have defaults.

use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;

/// Settings that all have their defaults.
///
/// # Errors
/// Which one has none.
pub fn from_nothing<T: DeserializeOwned, E: serde::de::Error>() -> Result<T, E> {
    T::deserialize(MapDeserializer::<_, E>::new(std::iter::empty::<(&str, &str)>()))
}

/// Makes an enum of a table, a line a name: `"NAME" => Variant(Settings);`. It is read, written and described as a
/// spec has it, with `$connector` as the trait by which each of the settings is used.
#[macro_export]
macro_rules! named {
    ($(#[$doc:meta])* $specs:ident, $connector:ident, $what:literal: $($name:literal => $variant:ident($spec:ty);)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "a pipeline has few, and they are moved once")]
        pub enum $specs {
            $(#[doc = concat!("`", $name, "`")] $variant($spec),)+
        }

        impl $specs {
            /// The names, as a pipeline spec has them.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The connector's name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            fn spec(&self) -> &dyn $connector {
                match self { $(Self::$variant(spec) => spec,)+ }
            }

            /// The names of those that need nothing but their name.
            #[must_use]
            pub fn names_alone() -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if $crate::named::from_nothing::<$spec, ::serde::de::value::Error>().is_ok() { names.push($name); })+
                names
            }
        }

        impl ::serde::Serialize for $specs {
            fn serialize<S: ::serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                use ::serde::ser::SerializeMap as _;
                let mut map = s.serialize_map(Some(1))?;
                match self { $(Self::$variant(spec) => map.serialize_entry($name, spec)?,)+ }
                map.end()
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $specs {
            fn deserialize<D: ::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                use ::serde::de::Error as _;
                struct Named;
                impl<'de> ::serde::de::Visitor<'de> for Named {
                    type Value = $specs;
                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        write!(f, concat!("a ", $what, ": one of {}, with its settings"), $specs::NAMES.join(", "))
                    }
                    fn visit_str<E: ::serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
                        match name {
                            $($name => $crate::named::from_nothing().map($specs::$variant),)+
                            _ => Err(E::unknown_variant(name, $specs::NAMES)),
                        }
                    }
                    fn visit_map<A: ::serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let Some(name) = map.next_key::<::std::borrow::Cow<'de, str>>()? else {
                            return Err(A::Error::invalid_length(0, &self));
                        };
                        let spec = match &*name {
                            $($name => $specs::$variant(map.next_value()?),)+
                            other => return Err(A::Error::unknown_variant(other, $specs::NAMES)),
                        };
                        if let Some((more, ::serde::de::IgnoredAny)) = map.next_entry::<::std::borrow::Cow<'de, str>, _>()? {
                            return Err(A::Error::custom(format_args!(
                                concat!("`{}` beside `{}`: a ", $what, " has one name; indent its settings below it"),
                                more, name
                            )));
                        }
                        Ok(spec)
                    }
                }
                d.deserialize_any(Named)
            }
        }

        impl ::schemars::JsonSchema for $specs {
            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($specs).into()
            }
            fn json_schema(generator: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                let mut forms = vec![::serde_json::json!({ "type": "string", "enum": Self::names_alone() })];
                $(forms.push(::serde_json::json!({
                    "type": "object",
                    "properties": { $name: generator.subschema_for::<$spec>() },
                    "required": [$name],
                    "additionalProperties": false
                }));)+
                let mut schema = ::schemars::Schema::default();
                schema.insert("oneOf".into(), forms.into());
                schema
            }
        }
    };
}
