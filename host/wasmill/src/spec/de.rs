//! Turns a [`Node`] into typed values; every mistake keeps the place it was made at.

use serde::de::{self, DeserializeSeed, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{Entry, Node, Resolved, Scalar, Value};
use crate::report::{Diagnostic, Span, did_you_mean, nearest};

/// The name by which [`super::located::Located`] asks for a value with its place.
pub(super) const LOCATED: &str = "$wasmill::Located";
/// Its fields.
pub(super) const LOCATED_FIELDS: &[&str] = &["source", "start", "end", "value"];

/// A mistake on its way up to the place that knows where it is.
#[derive(Debug)]
pub struct Mistake {
    title: String,
    label: String,
    help: Option<String>,
    span: Option<Span>,
    /// The key that it is about, where the map that has it finds the mistake only after reading it.
    subject: Option<String>,
    /// A missing key is shown at the key of the map that lacks it.
    missing: bool,
    path: Vec<String>,
}

impl Mistake {
    fn new(title: impl Into<String>, label: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            title: title.into(),
            label: label.into(),
            help: None,
            span: None,
            subject: None,
            missing: false,
            path: Vec::new(),
        })
    }
}

/// A boxed [`Mistake`], as serde wants it.
#[derive(Debug)]
pub struct DeError(Box<Mistake>);

impl DeError {
    fn at(mut self, span: Span) -> Self {
        if !self.0.missing {
            self.0.span.get_or_insert(span);
        }
        self
    }

    fn at_node(self, node: &Node) -> Self {
        let key = self.0.subject.as_deref().and_then(|key| node.get(key)).map(|entry| entry.key_span);
        self.at(key.unwrap_or(node.span))
    }

    fn inside(mut self, key: impl Into<String>, key_span: Span) -> Self {
        if self.0.missing && self.0.span.is_none() {
            self.0.span = Some(key_span);
        }
        self.0.path.push(key.into());
        self
    }

    fn diagnostic(self, whole: Span) -> Diagnostic {
        let mistake = *self.0;
        let mut path = String::new();
        for part in mistake.path.iter().rev() {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        let title = match path.as_str() {
            "" => mistake.title,
            path => format!("`{path}`: {}", mistake.title),
        };
        let mut diagnostic = Diagnostic::at(mistake.span.unwrap_or(whole), title, mistake.label);
        diagnostic.help.extend(mistake.help);
        diagnostic
    }
}

impl std::fmt::Display for DeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.title)
    }
}

impl std::error::Error for DeError {}

/// What serde expects, in words for people.
fn expectation(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" | "u16" => format!("a whole number, 0 to {}", if text == "u8" { 255 } else { 65_535 }),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        t if t.starts_with("a nonzero u") => "a whole number, 1 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" | "string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        t if t.starts_with("struct ") => "a map".to_owned(),
        t if t.starts_with("enum ") => "one name".to_owned(),
        t if t.starts_with("unit struct") || t == "unit" => "nothing".to_owned(),
        _ => text,
    }
}

/// What was found, in words for people.
fn found(unexpected: de::Unexpected<'_>) -> String {
    use de::Unexpected as U;
    match unexpected {
        U::Bool(b) => format!("`{b}`"),
        U::Unsigned(n) => format!("the number {n}"),
        U::Signed(n) => format!("the number {n}"),
        U::Float(n) => format!("the number {n}"),
        U::Str(s) => format!("the text `{s}`"),
        U::Unit | U::Option => "nothing".to_owned(),
        U::Seq => "a list".to_owned(),
        U::Map | U::StructVariant | U::NewtypeVariant | U::TupleVariant => "a map".to_owned(),
        U::UnitVariant => "a name".to_owned(),
        other => other.to_string(),
    }
}

impl de::Error for DeError {
    fn custom<T: std::fmt::Display>(text: T) -> Self {
        // "what is wrong: what was expected" goes on two lines: title and label.
        let text = text.to_string();
        let hint = [": expected ", ": did you mean "].into_iter().find_map(|hint| text.find(hint));
        let subject =
            text.split_once('`').and_then(|(_, t)| t.split_once('`')).map(|(key, _)| key.to_owned());
        let mut mistake = match hint {
            Some(at) => Mistake::new(&text[..at], &text[at + 2..]),
            None => Mistake::new(text, "this"),
        };
        mistake.subject = subject;
        Self(mistake)
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expectation(expected);
        Self(Mistake::new(
            format!("expected {expected}, found {}", found(unexpected)),
            format!("not {expected}"),
        ))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut mistake = Mistake::new(format!("unknown name `{variant}`"), hint(variant, expected));
        mistake.subject = Some(variant.to_owned());
        mistake.help = known(variant, expected, "the names here are");
        Self(mistake)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut mistake = Mistake::new(format!("unknown key `{field}`"), hint(field, expected));
        mistake.help = known(field, expected, "the keys here are");
        Self(mistake)
    }

    fn missing_field(field: &'static str) -> Self {
        let mut mistake =
            Mistake::new(format!("the key `{field}` is missing"), format!("`{field}` must be given"));
        mistake.missing = true;
        Self(mistake)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self(Mistake::new(format!("the key `{field}` stands twice"), "take one away"))
    }
}

/// The most names that stand beside the underlined text; more of them go below it.
const NAMES_BESIDE_MAX: usize = 5;

/// What stands beside a name that is unknown.
fn hint(given: &str, names: &[&str]) -> String {
    if names.len() > NAMES_BESIDE_MAX && nearest(given, names.iter().copied()).is_none() {
        return "not known here".to_owned();
    }
    did_you_mean(given, names.iter().copied())
}

/// The list of names, where it does not stand beside the text already.
fn known(given: &str, names: &[&str], intro: &str) -> Option<String> {
    if names.len() <= NAMES_BESIDE_MAX && nearest(given, names.iter().copied()).is_none() {
        return None;
    }
    let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    Some(format!("{intro} {}", names.join(", ")))
}

/// Turns a tree into a typed value.
///
/// # Errors
/// The first mistake, with its place.
pub fn from_node<'de, T: serde::Deserialize<'de>>(node: &'de Node) -> Result<T, Box<Diagnostic>> {
    T::deserialize(NodeDe(node)).map_err(|e| Box::new(e.diagnostic(node.span)))
}

#[derive(Clone, Copy)]
struct NodeDe<'de>(&'de Node);

impl<'de> NodeDe<'de> {
    fn unexpected(self) -> de::Unexpected<'de> {
        match &self.0.value {
            Value::List(_) => de::Unexpected::Seq,
            Value::Map(_) => de::Unexpected::Map,
            Value::Scalar(s) => match s.resolve() {
                Resolved::Null => de::Unexpected::Unit,
                Resolved::Bool(b) => de::Unexpected::Bool(b),
                Resolved::Unsigned(n) => de::Unexpected::Unsigned(n),
                Resolved::Signed(n) => de::Unexpected::Signed(n),
                Resolved::Float(n) => de::Unexpected::Float(n),
                Resolved::Text(t) => de::Unexpected::Str(t),
            },
        }
    }

    fn is_null(self) -> bool {
        matches!(&self.0.value, Value::Scalar(s) if s.resolve() == Resolved::Null)
    }

    fn any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(ListAccess { items: items.iter().enumerate() }),
            Value::Map(entries) => {
                visitor.visit_map(EntriesAccess { entries: entries.iter(), current: None })
            }
            Value::Scalar(s) => match s.resolve() {
                Resolved::Null => visitor.visit_unit(),
                Resolved::Bool(b) => visitor.visit_bool(b),
                Resolved::Unsigned(n) => visitor.visit_u64(n),
                Resolved::Signed(n) => visitor.visit_i64(n),
                Resolved::Float(n) => visitor.visit_f64(n),
                Resolved::Text(t) => visitor.visit_str(t),
            },
        }
    }

    fn text<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.0.value {
            Value::Scalar(Scalar { text, .. }) if !self.is_null() => visitor.visit_str(text),
            _ => Err(DeError::invalid_type(self.unexpected(), &visitor)),
        }
    }
}

macro_rules! placed {
    ($($method:ident => $with:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            self.$with(visitor).map_err(|e| e.at_node(self.0))
        })*
    };
}

impl<'de> de::Deserializer<'de> for NodeDe<'de> {
    type Error = DeError;

    placed! {
        deserialize_any => any
        deserialize_bool => any
        deserialize_i8 => any
        deserialize_i16 => any
        deserialize_i32 => any
        deserialize_i64 => any
        deserialize_u8 => any
        deserialize_u16 => any
        deserialize_u32 => any
        deserialize_u64 => any
        deserialize_f32 => any
        deserialize_f64 => any
        deserialize_char => text
        deserialize_str => text
        deserialize_string => text
        deserialize_identifier => text
        deserialize_bytes => text
        deserialize_byte_buf => text
        deserialize_unit => any
        deserialize_seq => any
        deserialize_map => any
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self).map_err(|e| e.at(self.0.span))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        if name == LOCATED {
            return visitor.visit_map(LocatedAccess { node: self.0, field: 0 });
        }
        // `file: ` with nothing behind it is a map of nothing: what is missing is then named.
        if self.is_null() {
            return visitor
                .visit_map(EntriesAccess { entries: [].iter(), current: None })
                .map_err(|e| e.at(self.0.span));
        }
        match &self.0.value {
            Value::Map(_) => self.any(visitor),
            _ => Err(DeError::invalid_type(self.unexpected(), &visitor)),
        }
        .map_err(|e| e.at(self.0.span))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let names = || variants.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
        match &self.0.value {
            Value::Scalar(s) if !self.is_null() => visitor.visit_enum(s.text.as_str().into_deserializer()),
            Value::Map(entries) if entries.len() == 1 => visitor.visit_enum(VariantAccess(&entries[0])),
            Value::Map(entries) if entries.len() > 1 => Err(DeError(Mistake::new(
                format!("expected exactly one of {}, found {}", names(), entries.len()),
                "one key only",
            ))
            .at(entries[1].key_span)),
            _ => Err(DeError(Mistake::new(
                format!("expected one of {}, found {}", names(), found(self.unexpected())),
                "one of them must be given",
            ))),
        }
        .map_err(|e| e.at(self.0.span))
    }
}

struct ListAccess<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> de::SeqAccess<'de> for ListAccess<'de> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        let Some((i, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(NodeDe(node)).map(Some).map_err(|e| e.inside(format!("[{i}]"), node.span))
    }
}

struct EntriesAccess<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for EntriesAccess<'de> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        seed.deserialize(KeyDe(entry)).map(Some).map_err(|e| e.at(entry.key_span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some(entry) = self.current.take() else {
            return Err(DeError::custom("a value was asked for before its key"));
        };
        seed.deserialize(NodeDe(&entry.node)).map_err(|e| e.inside(&entry.key, entry.key_span))
    }
}

/// A map's key, which [`super::located::Located`] may ask for too.
struct KeyDe<'de>(&'de Entry);

impl<'de> de::Deserializer<'de> for KeyDe<'de> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_borrowed_str(&self.0.key)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct VariantAccess<'de>(&'de Entry);

impl<'de> de::EnumAccess<'de> for VariantAccess<'de> {
    type Error = DeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DeError> {
        let name = seed.deserialize(KeyDe(self.0)).map_err(|e| e.at(self.0.key_span))?;
        Ok((name, self))
    }
}

impl<'de> de::VariantAccess<'de> for VariantAccess<'de> {
    type Error = DeError;

    fn unit_variant(self) -> Result<(), DeError> {
        let node = NodeDe(&self.0.node);
        let empty = node.is_null() || matches!(&self.0.node.value, Value::Map(m) if m.is_empty());
        if empty {
            return Ok(());
        }
        Err(DeError(Mistake::new(format!("`{}` takes no settings", self.0.key), "take this away"))
            .at(self.0.node.span))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        seed.deserialize(NodeDe(&self.0.node)).map_err(|e| e.inside(&self.0.key, self.0.key_span))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_seq(NodeDe(&self.0.node), visitor)
            .map_err(|e| e.inside(&self.0.key, self.0.key_span))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_struct(NodeDe(&self.0.node), "variant", fields, visitor)
            .map_err(|e| e.inside(&self.0.key, self.0.key_span))
    }
}

/// Gives a value together with its place.
struct LocatedAccess<'de> {
    node: &'de Node,
    field: usize,
}

impl<'de> de::MapAccess<'de> for LocatedAccess<'de> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        let Some(field) = LOCATED_FIELDS.get(self.field) else { return Ok(None) };
        seed.deserialize((*field).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        self.field += 1;
        let span = self.node.span;
        match self.field {
            1 => seed.deserialize(span.source.into_deserializer()),
            2 => seed.deserialize(span.start.into_deserializer()),
            3 => seed.deserialize(span.end.into_deserializer()),
            _ => seed.deserialize(NodeDe(self.node)),
        }
    }
}
