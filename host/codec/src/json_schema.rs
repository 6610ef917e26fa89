//! JSON that keeps to a schema: a record's value is the payload, checked against JSON Schema as it is read and as it
//! is written.
//!
//! Without a registry a value is the JSON text alone, and the schema is a file's. With one, a value is in the
//! registry's [wire format](crate::registry): what is read is checked against the schema that it names itself, what
//! is written against the file's, or the newest of the subject.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use jsonschema::{Retrieve, Uri, ValidationError, Validator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::{FrameBuf, Message};

use crate::around::{Around, Body, HeaderNames, TYPE};
use crate::framing::{Framing, Length, Lines};
use crate::json::one_line;
use crate::registry::{
    Fetched, Reference, Registered, Registry, RegistrySettings, SchemaKind, put_wire, wire,
};
use crate::table::CodecSettings;
use crate::unseen::is_tombstone;
use crate::{Ahead, CodecError, Reading, RecordWriter, Takes, Writing, asking};

/// How many breaches of a schema are told of one value.
const BREACHES_MAX: usize = 3;
/// How much is shown of one.
const BREACH_BYTES_MAX: usize = 300;

/// JSON that keeps to a schema: each value is checked as it is read and as it is written, and is the payload to the
/// letter. What breaks the schema becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSchemaSettings {
    /// A file with the schema: JSON Schema, draft 4 to 2020-12 as its `$schema` says, 2020-12 where it says nothing.
    /// Required without `registry`. With it, the schema of what is written; default: the newest of the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_file: Option<PathBuf>,
    /// A schema registry. With it each value must begin with the id of its schema there. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Box<RegistrySettings>>,
    /// The type of messages whose headers tell none. Default: the schema's `title`, or `message`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The names of the headers with the message's id, type and timestamp. Default: as they are called.
    #[serde(default)]
    pub headers: HeaderNames,
}

impl JsonSchemaSettings {
    fn around(&self) -> Around {
        Around::new(self.headers.clone(), self.kind.clone())
    }

    /// The text of the schema file, if there is one.
    fn text(&self) -> Result<Option<(&Path, String)>, CodecError> {
        let Some(file) = self.schema_file.as_deref() else { return Ok(None) };
        let bytes = asking::read_file("schema_file", file).map_err(CodecError::Wrong)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((file, text))),
            Err(_) => Err(wrong_file(file, "it is not UTF-8: expected JSON text")),
        }
    }

    /// The file's schema, as what has no registry needs it.
    fn file(&self) -> Result<Schema, CodecError> {
        let (file, text) = self.text()?.ok_or_else(|| {
            CodecError::Wrong(
                "json_schema: no schema: set `schema_file`, or `registry` where values name theirs"
                    .to_owned(),
            )
        })?;
        Schema::new(&text, &[]).map_err(|why| wrong_file(file, &why))
    }
}

fn wrong_file(file: &Path, why: &str) -> CodecError {
    CodecError::Wrong(format!("`schema_file`: {}: {why}", file.display()))
}

#[async_trait]
impl CodecSettings for JsonSchemaSettings {
    fn declared(&self) -> Result<Option<Value>, CodecError> {
        match self.text()? {
            Some((file, text)) => parse(&text).map(Some).map_err(|why| wrong_file(file, &why)),
            None => Ok(None),
        }
    }

    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        let around = self.around();
        let Some(settings) = &self.registry else {
            let schemas = Schemas::File(self.file()?);
            let decoder = Arc::new(JsonSchemaDecoder { around, schemas });
            return Ok(Reading { decoder, framing: Arc::new(Lines), ahead: None });
        };
        let fetched = Arc::new(Fetched::new(Registry::new(settings)?, Schema::registered));
        let decoder = Arc::new(JsonSchemaDecoder { around, schemas: Schemas::Fetched(Arc::clone(&fetched)) });
        Ok(Reading { decoder, framing: Arc::new(Length), ahead: Some(fetched as Arc<dyn Ahead>) })
    }

    async fn writing(&self, name: &str) -> Result<Writing, CodecError> {
        let (schema, id, framing): (_, _, Arc<dyn Framing>) = match &self.registry {
            None => (self.file()?, None, Arc::new(Lines)),
            Some(settings) => {
                let registry = Registry::new(settings)?;
                let file = match self.text()? {
                    Some((file, text)) => {
                        // Looked at before it is registered, for others would meet it there.
                        Schema::new(&text, &[]).map_err(|why| wrong_file(file, &why))?;
                        Some(Registered::new(SchemaKind::Json, text))
                    }
                    None => None,
                };
                let (id, schema) = registry.for_writing(name, SchemaKind::Json, file.as_ref()).await?;
                let schema = Schema::registered(&schema).map_err(|why| {
                    CodecError::Wrong(format!("schema registry {registry}: schema {id}: {why}"))
                })?;
                (schema, Some(id), Arc::new(Length))
            }
        };
        Ok(Writing { writer: Arc::new(JsonSchemaWriter { around: self.around(), schema, id }), framing })
    }
}

/// A schema, ready to check values.
struct Schema {
    validator: Validator,
    title: String,
}

impl Schema {
    /// # Errors
    /// Why the text is no schema, without its place.
    fn new(text: &str, references: &[Reference]) -> Result<Self, String> {
        let json = parse(text)?;
        let title = json.get("title").and_then(Value::as_str).unwrap_or(TYPE).to_owned();
        let validator =
            jsonschema::options().with_retriever(Known(references.to_vec())).build(&json).map_err(|e| {
                let at = e.instance_path().as_str();
                format!("no valid JSON Schema{}{at}: {}", if at.is_empty() { "" } else { " at " }, shown(&e))
            })?;
        Ok(Self { validator, title })
    }

    fn registered(schema: &Registered) -> Result<Self, String> {
        if schema.kind != SchemaKind::Json {
            return Err(format!("it is of the type {}: expected JSON, a JSON Schema", schema.kind.name()));
        }
        Self::new(&schema.text, &schema.references)
    }

    /// # Errors
    /// What is wrong with a body, or where it breaks the schema.
    fn check(&self, body: &[u8]) -> Result<(), String> {
        let value: Value = serde_json::from_slice(body).map_err(|e| broken(body, &e))?;
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let mut text = String::new();
        let mut breaches = self.validator.iter_errors(&value);
        for breach in breaches.by_ref().take(BREACHES_MAX) {
            if !text.is_empty() {
                text.push_str("; ");
            }
            // Writing to a String can't fail.
            let _ = write!(
                text,
                "{}: {} (rule {})",
                place(breach.instance_path().as_str()),
                shown(&breach),
                breach.schema_path().as_str()
            );
        }
        if breaches.next().is_some() {
            text.push_str("; and more");
        }
        Err(format!("breaks the schema: {text}"))
    }
}

/// The schemas that another one may refer to: those that the registry has with it. None is fetched from elsewhere.
struct Known(Vec<Reference>);

impl Retrieve for Known {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let asked = uri.as_str();
        let is_it = |name: &str| {
            asked == name || asked.strip_suffix(name).is_some_and(|before| before.ends_with('/'))
        };
        let Some(found) = self.0.iter().find(|reference| is_it(&reference.name)) else {
            return Err("it is not among the schema's references in a registry, and schemas are fetched from nowhere else; put it into the schema, below `$defs`".into());
        };
        Ok(parse(&found.text)?)
    }
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))
}

/// Why a body is no JSON.
fn broken(body: &[u8], error: &serde_json::Error) -> String {
    if body.is_empty() {
        return "empty: expected a JSON value".to_owned();
    }
    if let Err(e) = std::str::from_utf8(body) {
        return format!("not UTF-8: invalid byte at {}; expected JSON text", e.valid_up_to());
    }
    format!("broken JSON: {error}")
}

/// A place in the payload, as paths are written in a pipeline: of `/a/3/b` it is `payload.a[3].b`.
fn place(pointer: &str) -> String {
    let mut place = "payload".to_owned();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        // Writing to a String can't fail.
        let _ = if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            write!(place, "[{part}]")
        } else {
            write!(place, ".{part}")
        };
    }
    place
}

/// A breach in words, without going through a long value to its end.
fn shown(error: &ValidationError<'_>) -> String {
    struct Bounded(String);
    impl fmt::Write for Bounded {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            let room = BREACH_BYTES_MAX.saturating_sub(self.0.len());
            if more.len() <= room {
                self.0.push_str(more);
                return Ok(());
            }
            self.0.push_str(&more[..more.floor_char_boundary(room)]);
            self.0.push('…');
            Err(fmt::Error)
        }
    }
    let mut text = Bounded(String::new());
    // It fails where the text is cut.
    let _ = write!(text, "{error}");
    text.0
}

enum Schemas {
    File(Schema),
    Fetched(Arc<Fetched<Schema>>),
}

struct JsonSchemaDecoder {
    around: Around,
    schemas: Schemas,
}

impl Decoder for JsonSchemaDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        if record.tombstone {
            return self.around.push(record, of, TYPE, Body::default(), frame);
        }
        let value = &of.data[record.value.clone()];
        let mut push = |schema: &Schema, payload: &[u8]| {
            schema.check(payload)?;
            let body = Body { payload, is_json: true, unseen: &[] };
            self.around.push(record, of, &schema.title, body, frame)
        };
        match &self.schemas {
            Schemas::File(schema) => push(schema, value),
            Schemas::Fetched(fetched) => {
                let (id, body) = wire(value)?;
                fetched
                    .with(id, |schema| match schema {
                        Ok(schema) => push(schema, body),
                        Err(why) => Err(why.clone()),
                    })
                    .unwrap_or_else(|| Err(format!("schema {id} was not fetched")))
            }
        }
    }
}

struct JsonSchemaWriter {
    around: Around,
    schema: Schema,
    /// The schema's number, where there is a registry.
    id: Option<u32>,
}

impl RecordWriter for JsonSchemaWriter {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.around.record(message, takes, into, |out| {
            if is_tombstone(message) {
                return Err(
                    "a tombstone, which this sink can't write: it has no records without a value".to_owned()
                );
            }
            let payload = message.payload();
            self.schema.check(payload)?;
            match self.id {
                Some(id) => {
                    put_wire(id, out);
                    out.extend_from_slice(payload);
                }
                None => one_line(payload, out),
            }
            Ok(())
        })
    }
}
