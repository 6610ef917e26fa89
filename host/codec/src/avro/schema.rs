//! Schemas, taken apart once into an arena in which a named type that refers to itself is an index.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::logical::{DECIMAL_DIGITS_MAX, Fraction, Whole};

/// How long a schema's text may be.
pub(super) const SCHEMA_BYTES_MAX: usize = 4 << 20;
/// How deep the default of a field may go through the defaults of others.
const DEFAULT_DEPTH_MAX: usize = 32;
/// How many bytes a default may have.
const DEFAULT_BYTES_MAX: usize = 1 << 20;
/// How many values all the defaults of a schema may have: defaults of defaults could make them any number.
const DEFAULT_VALUES_MAX: usize = 1 << 20;

/// Where a type stands in [`Schema::nodes`].
pub(super) type NodeId = usize;

/// A schema.
#[derive(Debug)]
pub(super) struct Schema {
    pub nodes: Vec<Node>,
    pub root: NodeId,
    /// As JSON on one line, whole in itself.
    pub text: String,
}

/// A type.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    Int(Whole),
    Long(Whole),
    Float,
    Double,
    Bytes(Binary),
    String { uuid: bool },
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Record),
    Enum(Enum),
    Fixed(Fixed),
}

/// What bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    /// Themselves.
    Plain,
    Decimal {
        precision: usize,
        scale: usize,
    },
    Uuid,
    Duration,
}

/// The name of a type, with its namespace, and the names that it had.
#[derive(Debug, Clone, Default)]
pub(super) struct Name {
    pub full: String,
    pub aliases: Vec<String>,
}

impl Name {
    fn short_of(full: &str) -> &str {
        full.rsplit_once('.').map_or(full, |(_, short)| short)
    }

    /// Whether what was written under `writer` may be read as this.
    pub fn takes(&self, writer: &Self) -> bool {
        Self::short_of(&self.full) == Self::short_of(&writer.full) || self.aliases.contains(&writer.full)
    }
}

#[derive(Debug)]
pub(super) struct Record {
    pub name: Name,
    pub fields: Vec<Field>,
    pub by_name: HashMap<String, usize>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub node: NodeId,
    /// The default as the schema has it.
    pub default: Option<Value>,
    /// The same as it is on the wire, or why it is no value of the type.
    pub default_bytes: Option<Result<Vec<u8>, String>>,
}

#[derive(Debug)]
pub(super) struct Enum {
    pub name: Name,
    pub symbols: Vec<String>,
    pub by_symbol: HashMap<String, usize>,
    pub default: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Fixed {
    pub name: Name,
    pub size: usize,
    pub says: Binary,
}

impl Schema {
    /// Reads a schema, and before it those that it refers to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, references: &[String]) -> Result<Self, String> {
        let mut builder = Builder::default();
        for reference in references {
            builder.add_text(reference).map_err(|why| format!("in a schema that it refers to: {why}"))?;
        }
        let (root, value) = builder.add_text(text)?;
        let mut schema = Self { nodes: builder.nodes, root, text: String::new() };
        schema.fill_defaults();
        schema.text = if references.is_empty() { value } else { schema.json(false) };
        Ok(schema)
    }

    /// The type's name, for people.
    pub fn describe(&self, node: NodeId) -> String {
        match &self.nodes[node] {
            Node::Null => "null".into(),
            Node::Boolean => "boolean".into(),
            Node::Int(Whole::Number) => "int".into(),
            Node::Long(Whole::Number) => "long".into(),
            Node::Int(whole) | Node::Long(whole) => whole.name().into(),
            Node::Float => "float".into(),
            Node::Double => "double".into(),
            Node::Bytes(Binary::Plain) => "bytes".into(),
            Node::Bytes(_) => "decimal".into(),
            Node::String { .. } => "string".into(),
            Node::Array(_) => "array".into(),
            Node::Map(_) => "map".into(),
            Node::Union(branches) => {
                let mut names: Vec<_> = branches.iter().take(8).map(|b| self.describe(*b)).collect();
                if branches.len() > 8 {
                    names.push("…".into());
                }
                format!("one of [{}]", names.join(", "))
            }
            Node::Record(record) => format!("record {}", record.name.full),
            Node::Enum(e) => format!("enum {}", e.name.full),
            Node::Fixed(fixed) => format!("fixed {}", fixed.name.full),
        }
    }

    /// What a message of it is called: the full name of its record.
    pub fn kind(&self) -> &str {
        match &self.nodes[self.root] {
            Node::Record(Record { name, .. })
            | Node::Enum(Enum { name, .. })
            | Node::Fixed(Fixed { name, .. }) => &name.full,
            _ => crate::around::TYPE,
        }
    }

    fn fill_defaults(&mut self) {
        let mut left = DEFAULT_VALUES_MAX;
        for node in 0..self.nodes.len() {
            let Node::Record(record) = &self.nodes[node] else { continue };
            let defaults: Vec<_> = record
                .fields
                .iter()
                .map(|field| {
                    let mut out = Vec::new();
                    let value = field.default.as_ref()?;
                    Some(self.write_default(field.node, value, (0, &mut left), &mut out).map(|()| out))
                })
                .collect();
            let Node::Record(record) = &mut self.nodes[node] else { continue };
            for (field, default) in record.fields.iter_mut().zip(defaults) {
                field.default_bytes = default;
            }
        }
    }

    /// Writes a default, which is in Avro's own JSON, as it is on the wire.
    fn write_default(
        &self,
        node: NodeId,
        value: &Value,
        (depth, left): (usize, &mut usize),
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let wrong = || format!("the default {} is not of the type {}", shown(value), self.describe(node));
        if depth > DEFAULT_DEPTH_MAX || out.len() > DEFAULT_BYTES_MAX || *left == 0 {
            return Err("the default is too deep or too long".into());
        }
        *left -= 1;
        match (&self.nodes[node], value) {
            (Node::Null, Value::Null) => {}
            (Node::Boolean, Value::Bool(b)) => out.push(u8::from(*b)),
            (Node::Int(_), Value::Number(n)) => {
                let n = n.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(wrong)?;
                long(i64::from(n), out);
            }
            (Node::Long(_), Value::Number(n)) => long(n.as_i64().ok_or_else(wrong)?, out),
            (Node::Float, _) => {
                #[expect(clippy::cast_possible_truncation, reason = "a default's digits are the schema's")]
                let n = double_of(value).ok_or_else(wrong)? as f32;
                out.extend_from_slice(&n.to_le_bytes());
            }
            (Node::Double, _) => out.extend_from_slice(&double_of(value).ok_or_else(wrong)?.to_le_bytes()),
            (Node::Bytes(_), Value::String(text)) => {
                let bytes = latin(text).ok_or_else(wrong)?;
                length(bytes.len(), out);
                out.extend_from_slice(&bytes);
            }
            (Node::Fixed(fixed), Value::String(text)) => {
                let bytes = latin(text).filter(|bytes| bytes.len() == fixed.size).ok_or_else(wrong)?;
                out.extend_from_slice(&bytes);
            }
            (Node::String { .. }, Value::String(text)) => {
                length(text.len(), out);
                out.extend_from_slice(text.as_bytes());
            }
            (Node::Enum(e), Value::String(symbol)) => {
                length(*e.by_symbol.get(symbol).ok_or_else(wrong)?, out);
            }
            (Node::Array(item), Value::Array(items)) => {
                if !items.is_empty() {
                    length(items.len(), out);
                    for value in items {
                        self.write_default(*item, value, (depth + 1, left), out)?;
                    }
                }
                out.push(0);
            }
            (Node::Map(item), Value::Object(members)) => {
                if !members.is_empty() {
                    length(members.len(), out);
                    for (name, value) in members {
                        length(name.len(), out);
                        out.extend_from_slice(name.as_bytes());
                        self.write_default(*item, value, (depth + 1, left), out)?;
                    }
                }
                out.push(0);
            }
            (Node::Union(branches), _) => {
                let start = out.len();
                for (at, branch) in branches.iter().enumerate() {
                    length(at, out);
                    if self.write_default(*branch, value, (depth + 1, left), out).is_ok() {
                        return Ok(());
                    }
                    out.truncate(start);
                }
                return Err(wrong());
            }
            (Node::Record(record), Value::Object(members)) => {
                for field in &record.fields {
                    let value = members.get(&field.name).or(field.default.as_ref());
                    let value =
                        value.ok_or_else(|| format!("the default lacks the field `{}`", field.name))?;
                    self.write_default(field.node, value, (depth + 1, left), out)?;
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// The fingerprint by which single objects name it: CRC-64-AVRO of the parsing canonical form.
    pub fn fingerprint(&self) -> u64 {
        const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
        self.json(true).bytes().fold(EMPTY, |sum, byte| {
            let mut row = (sum ^ u64::from(byte)) & 0xff;
            for _ in 0..8 {
                row = (row >> 1) ^ (EMPTY & 0_u64.wrapping_sub(row & 1));
            }
            (sum >> 8) ^ row
        })
    }

    /// The schema as text: the parsing canonical form, or with everything that reading and writing need.
    pub fn json(&self, canonical: bool) -> String {
        self.value(self.root, canonical, &mut HashSet::new()).to_string()
    }

    fn value(&self, node: NodeId, canonical: bool, seen: &mut HashSet<NodeId>) -> Value {
        let logical = |base: &str, name: &str| {
            if canonical { json!(base) } else { json!({ "type": base, "logicalType": name }) }
        };
        let binary = |map: &mut Map<String, Value>, says: Binary| {
            let name = match says {
                _ if canonical => return,
                Binary::Plain => return,
                Binary::Decimal { precision, scale } => {
                    map.insert("precision".into(), precision.into());
                    map.insert("scale".into(), scale.into());
                    "decimal"
                }
                Binary::Uuid => "uuid",
                Binary::Duration => "duration",
            };
            map.insert("logicalType".into(), name.into());
        };
        let mut named = |name: &Name, kind: &str| {
            if !seen.insert(node) {
                return Err(json!(name.full));
            }
            let mut map = Map::new();
            map.insert("name".into(), name.full.clone().into());
            map.insert("type".into(), kind.into());
            if !canonical && !name.aliases.is_empty() {
                map.insert("aliases".into(), name.aliases.clone().into());
            }
            Ok(map)
        };
        match &self.nodes[node] {
            Node::Int(Whole::Number) => json!("int"),
            Node::Long(Whole::Number) => json!("long"),
            Node::Int(whole) => logical("int", whole.name()),
            Node::Long(whole) => logical("long", whole.name()),
            Node::Bytes(Binary::Plain) => json!("bytes"),
            Node::Bytes(_) if canonical => json!("bytes"),
            Node::Bytes(says) => {
                let mut map = Map::new();
                map.insert("type".into(), "bytes".into());
                binary(&mut map, *says);
                map.into()
            }
            Node::String { uuid: true } => logical("string", "uuid"),
            Node::Array(item) => json!({ "type": "array", "items": self.value(*item, canonical, seen) }),
            Node::Map(item) => json!({ "type": "map", "values": self.value(*item, canonical, seen) }),
            Node::Union(branches) => branches.iter().map(|b| self.value(*b, canonical, seen)).collect(),
            Node::Record(record) => match named(&record.name, "record") {
                Err(name) => name,
                Ok(mut map) => {
                    let fields = record.fields.iter().map(|field| {
                        let mut map = Map::new();
                        map.insert("name".into(), field.name.clone().into());
                        map.insert("type".into(), self.value(field.node, canonical, seen));
                        if let Some(default) = field.default.as_ref().filter(|_| !canonical) {
                            map.insert("default".into(), default.clone());
                        }
                        if !canonical && !field.aliases.is_empty() {
                            map.insert("aliases".into(), field.aliases.clone().into());
                        }
                        Value::from(map)
                    });
                    map.insert("fields".into(), fields.collect());
                    map.into()
                }
            },
            Node::Enum(e) => match named(&e.name, "enum") {
                Err(name) => name,
                Ok(mut map) => {
                    map.insert("symbols".into(), e.symbols.clone().into());
                    if let Some(default) = e.default.filter(|_| !canonical) {
                        map.insert("default".into(), e.symbols[default].clone().into());
                    }
                    map.into()
                }
            },
            Node::Fixed(fixed) => match named(&fixed.name, "fixed") {
                Err(name) => name,
                Ok(mut map) => {
                    map.insert("size".into(), fixed.size.into());
                    binary(&mut map, fixed.says);
                    map.into()
                }
            },
            _ => json!(self.describe(node)),
        }
    }

    /// The JSON Schema of the payloads that plugins see.
    pub fn declared(&self) -> Value {
        let mut definitions = BTreeMap::new();
        let mut root = self.shape(self.root, &mut definitions);
        // A root that is named stands at the top itself; it is a definition too only where something refers to it.
        if let Node::Record(record) = &self.nodes[self.root]
            && let Some(shape) = definitions.get(&record.name.full).cloned()
        {
            root = shape;
            let own = format!("#/$defs/{}", record.name.full);
            let used = refers(&root, &own) || definitions.values().any(|shape| refers(shape, &own));
            if !used {
                definitions.remove(&record.name.full);
            }
        }
        if let Value::Object(map) = &mut root {
            map.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
            if !definitions.is_empty() {
                map.insert("$defs".into(), definitions.into_iter().collect::<Map<_, _>>().into());
            }
        }
        root
    }

    fn shape(&self, node: NodeId, definitions: &mut BTreeMap<String, Value>) -> Value {
        match &self.nodes[node] {
            Node::Null => json!({ "type": "null" }),
            Node::Boolean => json!({ "type": "boolean" }),
            Node::Int(Whole::Number) => {
                json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX })
            }
            Node::Long(Whole::Number) => {
                json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX })
            }
            // Numbers are those that no text of four-digit years says.
            Node::Int(whole) | Node::Long(whole) => {
                let mut shape = json!({ "type": ["string", "integer"] });
                match whole {
                    Whole::Date => shape["format"] = json!("date"),
                    Whole::Instant(_) => shape["format"] = json!("date-time"),
                    _ => {}
                }
                shape
            }
            Node::Float | Node::Double => {
                json!({ "anyOf": [{ "type": "number" }, { "enum": ["NaN", "Infinity", "-Infinity"] }] })
            }
            Node::Bytes(says) | Node::Fixed(Fixed { says, .. }) => match says {
                Binary::Plain => json!({ "type": "string", "contentEncoding": "base64" }),
                Binary::Decimal { .. } => json!({ "type": "number" }),
                Binary::Uuid => json!({ "type": "string", "format": "uuid" }),
                Binary::Duration => json!({ "type": "string", "format": "duration" }),
            },
            Node::String { uuid: true } => json!({ "type": "string", "format": "uuid" }),
            Node::String { uuid: false } => json!({ "type": "string" }),
            Node::Array(item) => json!({ "type": "array", "items": self.shape(*item, definitions) }),
            Node::Map(item) => {
                json!({ "type": "object", "additionalProperties": self.shape(*item, definitions) })
            }
            Node::Union(branches) => {
                json!({ "anyOf": branches.iter().map(|b| self.shape(*b, definitions)).collect::<Vec<_>>() })
            }
            Node::Enum(e) => json!({ "enum": e.symbols }),
            Node::Record(record) => {
                let name = &record.name.full;
                if !definitions.contains_key(name) {
                    definitions.insert(name.clone(), Value::Null);
                    let properties: Map<_, _> = record
                        .fields
                        .iter()
                        .map(|f| (f.name.clone(), self.shape(f.node, definitions)))
                        .collect();
                    let required: Vec<_> =
                        record.fields.iter().filter(|f| f.default.is_none()).map(|f| &f.name).collect();
                    let shape = json!({
                        "type": "object",
                        "title": name,
                        "properties": properties,
                        "required": required,
                        "additionalProperties": false
                    });
                    definitions.insert(name.clone(), shape);
                }
                json!({ "$ref": format!("#/$defs/{name}") })
            }
        }
    }
}

fn refers(shape: &Value, to: &str) -> bool {
    match shape {
        Value::Object(map) => {
            map.get("$ref").is_some_and(|r| r == to) || map.values().any(|shape| refers(shape, to))
        }
        Value::Array(items) => items.iter().any(|shape| refers(shape, to)),
        _ => false,
    }
}

fn double_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => crate::number::not_finite(text),
        _ => None,
    }
}

/// The bytes of a text that has one character a byte, as defaults have them.
fn latin(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Adds a number in Avro's zigzag form.
pub(super) fn long(value: i64, out: &mut Vec<u8>) {
    #[expect(clippy::cast_sign_loss, reason = "zigzag takes the bits")]
    let mut left = (value << 1 ^ value >> 63) as u64;
    while left >= 0x80 {
        out.push(u8::try_from(left & 0x7f).unwrap_or(0) | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).unwrap_or(0));
}

/// Adds a length.
pub(super) fn length(value: usize, out: &mut Vec<u8>) {
    long(i64::try_from(value).unwrap_or(i64::MAX), out);
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
}

impl Builder {
    fn add_text(&mut self, text: &str) -> Result<(NodeId, String), String> {
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(format!("a schema of {} bytes is above the limit of {SCHEMA_BYTES_MAX}", text.len()));
        }
        // A depth above 128 is an error of serde_json's, so what recurs over the value is bounded.
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // Registries give a type that is nothing but its name with or without quotes.
            Err(_) if PRIMITIVES.contains(&text.trim()) => json!(text.trim()),
            Err(e) => return Err(format!("the schema is not JSON: {e}")),
        };
        let root = self.add(&value, "")?;
        Ok((root, value.to_string()))
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn add(&mut self, value: &Value, namespace: &str) -> Result<NodeId, String> {
        match value {
            Value::String(name) => self.by_name(name, namespace),
            Value::Array(branches) => self.union(branches, namespace),
            Value::Object(map) => match map.get("type") {
                Some(Value::String(kind)) => self.object(map, kind, namespace),
                Some(inner @ (Value::Object(_) | Value::Array(_))) => self.add(inner, namespace),
                _ => Err(format!("{} has no `type`", shown(value))),
            },
            _ => Err(format!("{} is no type: expected a name, an object or a list", shown(value))),
        }
    }

    fn by_name(&mut self, name: &str, namespace: &str) -> Result<NodeId, String> {
        let node = match name {
            "null" => Node::Null,
            "boolean" => Node::Boolean,
            "int" => Node::Int(Whole::Number),
            "long" => Node::Long(Whole::Number),
            "float" => Node::Float,
            "double" => Node::Double,
            "bytes" => Node::Bytes(Binary::Plain),
            "string" => Node::String { uuid: false },
            _ => {
                let full = qualified(name, namespace);
                let found = self.names.get(&full).or_else(|| self.names.get(name));
                return found.copied().ok_or_else(|| {
                    format!("the type `{full}` is not defined before it is used; a registry gives it as a reference")
                });
            }
        };
        Ok(self.push(node))
    }

    fn union(&mut self, branches: &[Value], namespace: &str) -> Result<NodeId, String> {
        let mut nodes = Vec::new();
        let mut kinds = HashSet::new();
        for branch in branches {
            let node = self.add(branch, namespace)?;
            let kind = match &self.nodes[node] {
                Node::Union(_) => return Err("a union stands directly in a union".into()),
                Node::Record(Record { name, .. })
                | Node::Enum(Enum { name, .. })
                | Node::Fixed(Fixed { name, .. }) => {
                    format!("the type `{}`", name.full)
                }
                Node::Int(_) => "an int".into(),
                Node::Long(_) => "a long".into(),
                Node::Bytes(_) => "bytes".into(),
                Node::String { .. } => "a string".into(),
                Node::Array(_) => "an array".into(),
                Node::Map(_) => "a map".into(),
                Node::Null => "null".into(),
                Node::Boolean => "a boolean".into(),
                Node::Float => "a float".into(),
                Node::Double => "a double".into(),
            };
            if kinds.contains(&kind) {
                return Err(format!("a union has {kind} twice"));
            }
            kinds.insert(kind);
            nodes.push(node);
        }
        Ok(self.push(Node::Union(nodes)))
    }

    fn object(&mut self, map: &Map<String, Value>, kind: &str, namespace: &str) -> Result<NodeId, String> {
        let logical = map.get("logicalType").and_then(Value::as_str).unwrap_or_default();
        let node = match kind {
            "record" | "error" => return self.record(map, namespace),
            "enum" => return self.symbols(map, namespace),
            "fixed" => return self.fixed(map, logical, namespace),
            "array" => {
                let items = map.get("items").ok_or("an array has no `items`")?;
                Node::Array(self.add(items, namespace)?)
            }
            "map" => {
                let values = map.get("values").ok_or("a map has no `values`")?;
                Node::Map(self.add(values, namespace)?)
            }
            "int" => Node::Int(match logical {
                "date" => Whole::Date,
                "time-millis" => Whole::TimeOfDay(Fraction::Millis),
                _ => Whole::Number,
            }),
            "long" => Node::Long(match logical {
                "time-micros" => Whole::TimeOfDay(Fraction::Micros),
                "timestamp-millis" => Whole::Instant(Fraction::Millis),
                "timestamp-micros" => Whole::Instant(Fraction::Micros),
                "timestamp-nanos" => Whole::Instant(Fraction::Nanos),
                "local-timestamp-millis" => Whole::Local(Fraction::Millis),
                "local-timestamp-micros" => Whole::Local(Fraction::Micros),
                "local-timestamp-nanos" => Whole::Local(Fraction::Nanos),
                _ => Whole::Number,
            }),
            "bytes" if logical == "decimal" => Node::Bytes(decimal(map, usize::MAX)),
            "string" => Node::String { uuid: logical == "uuid" },
            _ => return self.by_name(kind, namespace),
        };
        Ok(self.push(node))
    }

    /// Reads a name, and sets the type aside under it, so that what is inside may refer to it.
    fn name(&mut self, map: &Map<String, Value>, namespace: &str) -> Result<(Name, String, NodeId), String> {
        let name = map.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("{} has no `name`", shown(&Value::Object(map.clone()))))?;
        let namespace = map.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = qualified(name, namespace);
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let aliases = texts(map.get("aliases")).map(|alias| qualified(alias, &namespace)).collect();
        if PRIMITIVES.contains(&full.as_str()) || self.names.contains_key(&full) {
            return Err(format!("the type `{full}` is defined twice"));
        }
        let name = Name { full, aliases };
        // What stands there meanwhile has its name, by which unions tell their branches apart.
        let node = self.push(Node::Fixed(Fixed { name: name.clone(), size: 0, says: Binary::Plain }));
        self.names.insert(name.full.clone(), node);
        Ok((name, namespace, node))
    }

    fn record(&mut self, map: &Map<String, Value>, namespace: &str) -> Result<NodeId, String> {
        let (name, namespace, node) = self.name(map, namespace)?;
        let in_record = |why: String| format!("record {}: {why}", name.full);
        let mut fields = Vec::new();
        let mut by_name = HashMap::new();
        let listed = map.get("fields").and_then(Value::as_array);
        for field in listed.ok_or_else(|| in_record("it has no `fields`".into()))? {
            let field_name = field.get("name").and_then(Value::as_str);
            let field_name =
                field_name.ok_or_else(|| in_record(format!("{} has no `name`", shown(field))))?;
            if by_name.insert(field_name.to_owned(), fields.len()).is_some() {
                return Err(in_record(format!("it has the field `{field_name}` twice")));
            }
            let kind = field
                .get("type")
                .ok_or_else(|| in_record(format!("the field `{field_name}` has no `type`")))?;
            // A field with a logical type beside its type is a common slip; others pass over it, and so do we.
            fields.push(Field {
                name: field_name.to_owned(),
                aliases: texts(field.get("aliases")).map(str::to_owned).collect(),
                node: self
                    .add(kind, &namespace)
                    .map_err(|why| in_record(format!("field `{field_name}`: {why}")))?,
                default: field.get("default").cloned(),
                default_bytes: None,
            });
        }
        self.nodes[node] = Node::Record(Record { name, fields, by_name });
        Ok(node)
    }

    fn symbols(&mut self, map: &Map<String, Value>, namespace: &str) -> Result<NodeId, String> {
        let (name, _, node) = self.name(map, namespace)?;
        let in_enum = |why: String| format!("enum {}: {why}", name.full);
        let symbols: Vec<String> = texts(map.get("symbols")).map(str::to_owned).collect();
        let mut by_symbol = HashMap::new();
        for (at, symbol) in symbols.iter().enumerate() {
            if by_symbol.insert(symbol.clone(), at).is_some() {
                return Err(in_enum(format!("it has the symbol `{symbol}` twice")));
            }
        }
        let default = match map.get("default").and_then(Value::as_str) {
            Some(symbol) => {
                let at = by_symbol.get(symbol).copied();
                Some(at.ok_or_else(|| in_enum(format!("its default `{symbol}` is none of its symbols")))?)
            }
            None => None,
        };
        self.nodes[node] = Node::Enum(Enum { name, symbols, by_symbol, default });
        Ok(node)
    }

    fn fixed(&mut self, map: &Map<String, Value>, logical: &str, namespace: &str) -> Result<NodeId, String> {
        let (name, _, node) = self.name(map, namespace)?;
        let size = map.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| format!("fixed {}: it has no `size`", name.full))?;
        let says = match (logical, size) {
            ("decimal", _) => decimal(map, size),
            ("uuid", 16) => Binary::Uuid,
            ("duration", 12) => Binary::Duration,
            _ => Binary::Plain,
        };
        self.nodes[node] = Node::Fixed(Fixed { name, size, says });
        Ok(node)
    }
}

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// A decimal; one that the specification doesn't allow is the bytes that it stands on.
fn decimal(map: &Map<String, Value>, size: usize) -> Binary {
    let number = |name: &str| map.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let scale = if map.contains_key("scale") { number("scale") } else { Some(0) };
    match (number("precision"), scale) {
        (Some(precision), Some(scale))
            if (1..=DECIMAL_DIGITS_MAX).contains(&precision)
                && scale <= precision
                && (1..).contains(&size) =>
        {
            Binary::Decimal { precision, scale }
        }
        _ => Binary::Plain,
    }
}

fn qualified(name: &str, namespace: &str) -> String {
    if name.contains('.') {
        // A name that begins with a dot is one without a namespace.
        name.strip_prefix('.').unwrap_or(name).to_owned()
    } else if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn shown(value: &Value) -> String {
    super::logical::shown(&value.to_string())
}
