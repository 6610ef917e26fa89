//! A YAML document as a tree in which every key and value knows its place.
//!
//! The environment and `${…}` change this tree before it becomes a typed spec, so that a mistake is
//! shown where it stands, be it the file or a variable.

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::report::{Diagnostic, Span};

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its place.
    pub span: Span,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One text, number, truth value or null, as it was written.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in the written order.
    Map(Vec<Entry>),
}

/// A scalar as it was written. What it means depends on what is asked of it: `8` is a number for
/// `workers` and a text for `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text, without quotes.
    pub text: String,
    /// Whether it stood without quotes, and so may be a number, a truth value or null.
    pub plain: bool,
}

/// What a plain scalar is by YAML's core schema.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Resolved<'a> {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number that is not negative.
    Unsigned(u64),
    /// A negative whole number.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// Anything else.
    Text(&'a str),
}

impl Scalar {
    /// What it is by YAML's core schema.
    #[must_use]
    pub fn resolve(&self) -> Resolved<'_> {
        if !self.plain {
            return Resolved::Text(&self.text);
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
            "true" | "True" | "TRUE" => return Resolved::Bool(true),
            "false" | "False" | "FALSE" => return Resolved::Bool(false),
            _ => {}
        }
        let text = self.text.strip_prefix('+').unwrap_or(&self.text);
        let numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
        if !numeric {
            return Resolved::Text(&self.text);
        }
        if let Ok(n) = text.parse() {
            return Resolved::Unsigned(n);
        }
        if let Ok(n) = text.parse() {
            return Resolved::Signed(n);
        }
        // `f64::from_str` also reads words such as "infinity"; those start with no digit.
        match text.parse::<f64>() {
            Ok(n) if n.is_finite() => Resolved::Float(n),
            _ => Resolved::Text(&self.text),
        }
    }
}

/// One key of a map with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its place.
    pub key_span: Span,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// The value of a key, where this is a map that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }
}

/// Reads a YAML text that stands at `offset` of the source with this number.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(text: &str, source: u32, offset: usize) -> Result<Node, Diagnostic> {
    if let Some(at) = tab_indentation(text) {
        return Err(Diagnostic::at(
            Span::new(source, offset + at, offset + at + 1),
            "a tab in the indentation",
            "YAML indents with spaces only",
        ));
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let place = Place { text, source, offset };
    match serde_saphyr::from_str_with_options::<Spanned<Parsed>>(text, options) {
        Ok(parsed) => Ok(place.node(parsed)),
        Err(error) => Err(place.diagnostic(&error)),
    }
}

fn tab_indentation(text: &str) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        let rest = line[indent..].trim_end();
        if let Some(tab) = line[..indent].find('\t').filter(|_| !rest.is_empty() && !rest.starts_with('#')) {
            return Some(at + tab);
        }
        at += line.len();
    }
    None
}

/// What serde_saphyr gives; scalars are taken from the text itself, which keeps their spelling.
enum Parsed {
    Text(String),
    Plain,
    List(Vec<Spanned<Parsed>>),
    Map(Vec<(Spanned<String>, Spanned<Parsed>)>),
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_str<E>(self, v: &str) -> Result<Parsed, E> {
        Ok(Parsed::Text(v.to_owned()))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_u128<E>(self, _: u128) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_i128<E>(self, _: i128) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Plain)
    }
    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parsed, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Parsed::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Parsed::Map(entries))
    }
}

/// The text being read, and where it stands.
struct Place<'a> {
    text: &'a str,
    source: u32,
    offset: usize,
}

impl Place<'_> {
    fn bytes(&self, location: Location) -> std::ops::Range<usize> {
        let span = location.span();
        let start = usize::try_from(span.byte_offset().unwrap_or(0)).unwrap_or(0).min(self.text.len());
        let len = usize::try_from(span.byte_len().unwrap_or(0)).unwrap_or(0);
        start..start.saturating_add(len).min(self.text.len())
    }

    fn span(&self, location: Location) -> Span {
        let mut bytes = self.bytes(location);
        if let Some(text) = self.text.get(bytes.clone()) {
            bytes.end = bytes.start + text.trim_end().len();
        }
        Span::new(self.source, self.offset + bytes.start, self.offset + bytes.end)
    }

    fn node(&self, parsed: Spanned<Parsed>) -> Node {
        let mut span = self.span(parsed.referenced);
        let value = match parsed.value {
            Parsed::Text(text) => {
                let written = self.text.get(self.bytes(parsed.defined)).unwrap_or_default();
                Value::Scalar(Scalar { plain: !written.starts_with(['"', '\'', '|', '>']), text })
            }
            Parsed::Plain => {
                let text = self.text.get(self.bytes(parsed.defined)).unwrap_or_default().trim();
                Value::Scalar(Scalar { text: text.to_owned(), plain: true })
            }
            Parsed::List(items) => Value::List(items.into_iter().map(|i| self.node(i)).collect()),
            Parsed::Map(entries) => {
                let entries: Vec<Entry> = entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        key_span: self.span(key.referenced),
                        key: key.value,
                        node: self.node(value),
                    })
                    .collect();
                // A block map starts with its first key and has no sign of its own to underline.
                if let Some(first) = entries.first().filter(|e| e.key_span.start == span.start) {
                    span = first.key_span;
                }
                Value::Map(entries)
            }
        };
        Node { value, span }
    }

    fn diagnostic(&self, error: &serde_saphyr::Error) -> Diagnostic {
        let formatter = serde_saphyr::UserMessageFormatter;
        let mut title = error.render_with_options(serde_saphyr::render_options! {
            formatter: &formatter,
            snippets: serde_saphyr::SnippetMode::Off,
        });
        // The place is shown by the snippet.
        if let Some(at) = title.find(" at line ") {
            title.truncate(at);
        }
        let Some(location) = error.location().filter(|l| *l != Location::UNKNOWN) else {
            return Diagnostic::new(format!("this is not YAML: {title}"));
        };
        let mut span = self.span(location);
        if location.span().byte_offset().is_none() {
            let line = usize::try_from(location.line()).unwrap_or(1).saturating_sub(1);
            let start: usize = self.text.split_inclusive('\n').take(line).map(str::len).sum();
            let column = usize::try_from(location.column()).unwrap_or(1).saturating_sub(1);
            span = Span::new(self.source, self.offset + start + column, self.offset + start + column + 1);
        }
        match title
            .strip_prefix("duplicate mapping key ")
            .and_then(|t| t.strip_suffix(" is not allowed here"))
        {
            Some(key) => Diagnostic::at(span, format!("the key {key} stands twice"), "the second one"),
            None => Diagnostic::at(span, format!("this is not YAML that a spec can have: {title}"), "here"),
        }
    }
}
