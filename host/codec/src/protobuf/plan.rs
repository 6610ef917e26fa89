//! Message types as bodies are read and written by them: descriptors, with all that is looked up made ready.

use std::collections::HashMap;

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind as Described, MessageDescriptor,
};
use serde_json::{Map, Value, json};

use super::Names;
use crate::jsontext;

/// All message types of a set of descriptors.
pub(super) struct Plan {
    pub(super) messages: Vec<Message>,
    pub(super) enums: Vec<Enum>,
    by_name: HashMap<String, usize>,
}

/// The message types that JSON has a form of its own for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    ListValue,
    Any,
    Wrapper,
}

/// A message type.
pub(super) struct Message {
    pub(super) name: String,
    pub(super) known: Option<Known>,
    /// In the order of their numbers.
    pub(super) fields: Vec<Field>,
    /// The place of each field whose number is below `DENSE`, plus one.
    dense: Vec<u16>,
    sparse: HashMap<u32, usize>,
    by_name: HashMap<String, usize>,
    pub(super) oneofs: usize,
    pub(super) has_required: bool,
}

/// Below this, numbers are looked up in a list.
const DENSE: u32 = 256;

/// A field of a message type.
pub(super) struct Field {
    pub(super) number: u32,
    /// As plugins see it.
    pub(super) name: String,
    /// The name as JSON, with the colon.
    pub(super) json: Vec<u8>,
    pub(super) shape: Shape,
    pub(super) kind: Kind,
    /// Which oneof it is one of, where that has several fields.
    pub(super) oneof: Option<usize>,
}

/// How often a field has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Once, or not at all.
    Optional,
    /// Always: where it is absent it has its default.
    Implicit,
    /// Once: proto2's.
    Required,
    Repeated {
        packed: bool,
    },
    /// Pairs; the field's kind is the message of a pair.
    Map,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(usize),
    Message(usize),
    Group(usize),
}

impl Kind {
    /// The wire type of one value.
    pub(super) fn wire_type(self) -> u8 {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => 1,
            Self::String | Self::Bytes | Self::Message(_) => 2,
            Self::Group(_) => 3,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => 5,
            _ => 0,
        }
    }

    /// What it is called in errors.
    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::Double => "double",
            Self::Float => "float",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Sint32 => "sint32",
            Self::Sint64 => "sint64",
            Self::Fixed32 => "fixed32",
            Self::Fixed64 => "fixed64",
            Self::Sfixed32 => "sfixed32",
            Self::Sfixed64 => "sfixed64",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Enum(_) => "an enum",
            Self::Message(_) => "a message",
            Self::Group(_) => "a group",
        }
    }
}

/// An enum type.
pub(super) struct Enum {
    pub(super) name: String,
    /// Whether it is `google.protobuf.NullValue`, which is JSON's null.
    pub(super) is_null: bool,
    by_number: HashMap<i32, Vec<u8>>,
    pub(super) by_name: HashMap<String, i32>,
    pub(super) names: Vec<String>,
}

impl Enum {
    /// The name of a number, as JSON text.
    pub(super) fn json(&self, number: i32) -> Option<&[u8]> {
        self.by_number.get(&number).map(Vec::as_slice)
    }
}

impl Message {
    pub(super) fn by_number(&self, number: u32) -> Option<(usize, &Field)> {
        let at = if number < DENSE {
            usize::from(*self.dense.get(number as usize)?).checked_sub(1)?
        } else {
            *self.sparse.get(&number)?
        };
        Some((at, self.fields.get(at)?))
    }

    /// A field by one of its names; `guess` is where it may well be.
    pub(super) fn by_name(&self, name: &str, guess: usize) -> Option<(usize, &Field)> {
        if let Some(field) = self.fields.get(guess).filter(|f| f.name == name) {
            return Some((guess, field));
        }
        let at = *self.by_name.get(name)?;
        Some((at, self.fields.get(at)?))
    }
}

impl Plan {
    /// Of a pool of descriptors.
    pub(super) fn new(pool: &DescriptorPool, names: Names) -> Self {
        let mut plan = Self { messages: Vec::new(), enums: Vec::new(), by_name: HashMap::new() };
        let enums: HashMap<String, usize> =
            pool.all_enums().enumerate().map(|(at, e)| (e.full_name().to_owned(), at)).collect();
        plan.enums = pool.all_enums().map(|e| enum_of(&e)).collect();
        plan.by_name =
            pool.all_messages().enumerate().map(|(at, m)| (m.full_name().to_owned(), at)).collect();
        plan.messages = pool.all_messages().map(|m| plan.message_of(&m, &enums, names)).collect();
        plan
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn message_of(
        &self,
        message: &MessageDescriptor,
        enums: &HashMap<String, usize>,
        names: Names,
    ) -> Message {
        let mut fields: Vec<(Field, Vec<String>)> = Vec::new();
        // A oneof of one field says nothing; proto3's `optional` is such a one.
        let oneofs: Vec<String> =
            message.oneofs().filter(|o| o.fields().len() > 1).map(|o| o.name().to_owned()).collect();
        for field in message.fields() {
            let (kind, name) = (self.kind_of(&field.kind(), field.is_group(), enums), field.name());
            let shape = shape_of(&field);
            let oneof = field.containing_oneof().and_then(|o| oneofs.iter().position(|n| n == o.name()));
            let shown = if names == Names::Proto { name } else { field.json_name() };
            let called = vec![name.to_owned(), field.json_name().to_owned()];
            fields.push((field_of(field.number(), shown, shape, kind, oneof), called));
        }
        for extension in message.extensions() {
            let kind = self.kind_of(&extension.kind(), extension.is_group(), enums);
            let shape = match extension.cardinality() {
                Cardinality::Repeated => Shape::Repeated { packed: extension.is_packed() },
                _ => Shape::Optional,
            };
            let name = format!("[{}]", extension.full_name());
            fields.push((field_of(extension.number(), &name, shape, kind, None), vec![name]));
        }
        fields.sort_by_key(|(field, _)| field.number);
        let (mut dense, mut sparse, mut by_name) = (Vec::new(), HashMap::new(), HashMap::new());
        for (at, (field, called)) in fields.iter().enumerate() {
            match u16::try_from(at + 1) {
                Ok(place) if field.number < DENSE => {
                    let number = field.number as usize;
                    if dense.len() <= number {
                        dense.resize(number + 1, 0);
                    }
                    dense[number] = place;
                }
                _ => drop(sparse.insert(field.number, at)),
            }
            for name in called {
                by_name.entry(name.clone()).or_insert(at);
            }
        }
        // A field's own name goes before another's JSON name.
        for (at, (field, _)) in fields.iter().enumerate() {
            by_name.insert(field.name.clone(), at);
        }
        let fields: Vec<Field> = fields.into_iter().map(|(field, _)| field).collect();
        Message {
            name: message.full_name().to_owned(),
            known: known_of(message.full_name(), &fields),
            has_required: fields.iter().any(|f| f.shape == Shape::Required),
            fields,
            dense,
            sparse,
            by_name,
            oneofs: oneofs.len(),
        }
    }

    fn kind_of(&self, kind: &Described, is_group: bool, enums: &HashMap<String, usize>) -> Kind {
        match kind {
            Described::Double => Kind::Double,
            Described::Float => Kind::Float,
            Described::Int32 => Kind::Int32,
            Described::Int64 => Kind::Int64,
            Described::Uint32 => Kind::Uint32,
            Described::Uint64 => Kind::Uint64,
            Described::Sint32 => Kind::Sint32,
            Described::Sint64 => Kind::Sint64,
            Described::Fixed32 => Kind::Fixed32,
            Described::Fixed64 => Kind::Fixed64,
            Described::Sfixed32 => Kind::Sfixed32,
            Described::Sfixed64 => Kind::Sfixed64,
            Described::Bool => Kind::Bool,
            Described::String => Kind::String,
            Described::Bytes => Kind::Bytes,
            // All types of a pool are in it.
            Described::Enum(e) => Kind::Enum(enums.get(e.full_name()).copied().unwrap_or_default()),
            Described::Message(m) => {
                let at = self.by_name.get(m.full_name()).copied().unwrap_or_default();
                if is_group { Kind::Group(at) } else { Kind::Message(at) }
            }
        }
    }

    /// The JSON Schema of the payloads of a message type.
    pub(super) fn json_schema(&self, root: usize) -> Value {
        let mut wanted = vec![root];
        let mut definitions = Map::new();
        let mut at = 0;
        while let Some(message) = wanted.get(at).copied() {
            at += 1;
            let schema = self.message_schema(message, &mut wanted);
            definitions.insert(self.messages[message].name.clone(), schema);
        }
        let mut schema = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema" });
        let name = &self.messages[root].name;
        if let (Some(into), Some(Value::Object(own))) =
            (schema.as_object_mut(), definitions.get(name).cloned())
        {
            into.extend(own);
            into.insert("title".into(), name.clone().into());
            into.insert("$defs".into(), definitions.into());
        }
        schema
    }

    fn message_schema(&self, at: usize, wanted: &mut Vec<usize>) -> Value {
        let message = &self.messages[at];
        match message.known {
            Some(Known::Timestamp) => return json!({ "type": "string", "format": "date-time" }),
            Some(Known::Duration) => {
                return json!({ "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$" });
            }
            Some(Known::FieldMask) => return json!({ "type": "string" }),
            Some(Known::Struct) => return json!({ "type": "object" }),
            Some(Known::Value) => return json!({}),
            Some(Known::ListValue) => return json!({ "type": "array" }),
            Some(Known::Any) => {
                return json!({ "type": "object", "properties": { "@type": { "type": "string" } } });
            }
            Some(Known::Wrapper) => return self.value_schema(message.fields[0].kind, wanted),
            None => {}
        }
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in &message.fields {
            let schema = match field.shape {
                Shape::Repeated { .. } => {
                    json!({ "type": "array", "items": self.value_schema(field.kind, wanted) })
                }
                Shape::Map => {
                    let value = self.entry(field.kind).map(|(_, value)| value.kind);
                    let value = value.map_or(json!({}), |kind| self.value_schema(kind, wanted));
                    json!({ "type": "object", "additionalProperties": value })
                }
                _ => self.value_schema(field.kind, wanted),
            };
            properties.insert(field.name.clone(), schema);
            if field.shape == Shape::Required {
                required.push(field.name.clone());
            }
        }
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if let (Some(schema), false) = (schema.as_object_mut(), required.is_empty()) {
            schema.insert("required".into(), required.into());
        }
        schema
    }

    fn value_schema(&self, kind: Kind, wanted: &mut Vec<usize>) -> Value {
        match kind {
            Kind::Double | Kind::Float => {
                json!({ "anyOf": [{ "type": "number" }, { "enum": ["NaN", "Infinity", "-Infinity"] }] })
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX })
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX })
            }
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Enum(at) if self.enums[at].is_null => json!({ "type": "null" }),
            // A number that the enum has no name for comes as a number.
            Kind::Enum(at) => {
                json!({ "anyOf": [{ "enum": self.enums[at].names }, { "type": "integer" }] })
            }
            Kind::Message(at) | Kind::Group(at) => {
                if !wanted.contains(&at) {
                    wanted.push(at);
                }
                json!({ "$ref": format!("#/$defs/{}", self.messages[at].name) })
            }
        }
    }

    /// The key and the value of a map's pairs.
    pub(super) fn entry(&self, kind: Kind) -> Option<(&Field, &Field)> {
        let Kind::Message(at) = kind else { return None };
        let (_, key) = self.messages[at].by_number(1)?;
        let (_, value) = self.messages[at].by_number(2)?;
        Some((key, value))
    }
}

fn field_of(number: u32, name: &str, shape: Shape, kind: Kind, oneof: Option<usize>) -> Field {
    let mut json = Vec::new();
    jsontext::text(name, &mut json);
    json.push(b':');
    Field { number, name: name.to_owned(), json, shape, kind, oneof }
}

fn shape_of(field: &FieldDescriptor) -> Shape {
    if field.is_map() {
        Shape::Map
    } else if field.is_list() {
        Shape::Repeated { packed: field.is_packed() }
    } else if field.is_required() {
        Shape::Required
    } else if field.supports_presence() {
        Shape::Optional
    } else {
        Shape::Implicit
    }
}

fn enum_of(described: &EnumDescriptor) -> Enum {
    let (mut by_number, mut by_name, mut names) = (HashMap::new(), HashMap::new(), Vec::new());
    for value in described.values() {
        by_name.insert(value.name().to_owned(), value.number());
    }
    // Of several names of a number the first counts, in the order of the file.
    for value in &described.enum_descriptor_proto().value {
        let mut json = Vec::new();
        jsontext::text(value.name(), &mut json);
        names.push(value.name().to_owned());
        by_number.entry(value.number()).or_insert(json);
    }
    let name = described.full_name().to_owned();
    Enum { is_null: name == "google.protobuf.NullValue", name, by_number, by_name, names }
}

/// Which of the well-known types it is: by its name, and only where its fields are theirs.
fn known_of(name: &str, fields: &[Field]) -> Option<Known> {
    let known = match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => Known::Timestamp,
        "Duration" => Known::Duration,
        "FieldMask" => Known::FieldMask,
        "Struct" => Known::Struct,
        "Value" => Known::Value,
        "ListValue" => Known::ListValue,
        "Any" => Known::Any,
        "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
        | "BoolValue" | "StringValue" | "BytesValue" => Known::Wrapper,
        _ => return None,
    };
    let has = |number: u32, kind: fn(Kind) -> bool| fields.iter().any(|f| f.number == number && kind(f.kind));
    let is_message = |k| matches!(k, Kind::Message(_));
    let fits = match known {
        Known::Timestamp | Known::Duration => has(1, |k| k == Kind::Int64) && has(2, |k| k == Kind::Int32),
        Known::FieldMask => has(1, |k| k == Kind::String),
        Known::Struct | Known::ListValue => has(1, is_message),
        Known::Value => has(2, |k| k == Kind::Double) && has(3, |k| k == Kind::String) && has(6, is_message),
        Known::Any => has(1, |k| k == Kind::String) && has(2, |k| k == Kind::Bytes),
        Known::Wrapper => fields.len() == 1 && has(1, |k| !matches!(k, Kind::Message(_) | Kind::Group(_))),
    };
    fits.then_some(known)
}
