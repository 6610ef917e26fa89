//! Avro: datums by a schema of a file, of a schema registry, of a single object's fingerprint or of the container
//! file in which they stand.
//!
//! | Avro | JSON |
//! |---|---|
//! | record, map | an object |
//! | array | a list |
//! | enum, string, uuid | text |
//! | union | the value alone; on the way back the first branch that fits exactly |
//! | int, long | a number |
//! | float, double | a number; NaN and the infinities as `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | bytes, fixed | base64 |
//! | decimal | a number with all its digits |
//! | date | `"2013-01-31"` |
//! | time-millis, time-micros | `"23:59:59.999"`, with six digits |
//! | timestamp-millis, -micros, -nanos | `"2013-01-31T23:59:59.999Z"`, with six or nine digits |
//! | local-timestamp-… | the same without `Z` |
//! | duration | `"P1M2DT3.004S"`: months, days, seconds |
//!
//! A date or time outside the years 0 to 9999, or a time that is none of a day's, is the number that it is on the
//! wire; numbers are taken back in their place.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::{FrameBuf, Message};

use crate::around::{Around, Body, HeaderNames, TYPE};
use crate::number::Numbers;
use crate::registry::{Fetched, Registered, Registry, RegistrySettings, SchemaKind, put_wire, wire};
use crate::table::CodecSettings;
use crate::{Ahead, CodecError, Reading, RecordWriter, Takes, Writing};

mod container;
mod logical;
mod plan;
mod read;
mod schema;
mod tape;
mod write;

pub use container::Compression;
use container::{Container, Header};
use plan::{Plan, Planned};
use schema::Schema;

/// What becomes of fields of a payload that the schema doesn't have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    /// The message is a dead letter, which names the field.
    #[default]
    Refuse,
    /// They are left out of what is written.
    Drop,
}

/// Avro. Where neither a registry, a fingerprint nor a container file tells by which schema something was written, it
/// is read by `schema_file`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AvroSettings {
    /// A file with a schema (`.avsc`): the one by which messages are written; and the one by which values were
    /// written that don't tell it. Default: none; written is then by the latest of the registry's subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_file: Option<PathBuf>,
    /// A file with the schema as which everything is read, whatever it was written by: fields are renamed, left out or
    /// filled with defaults as Avro's schema resolution has it. Default: what each was written by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader_schema_file: Option<PathBuf>,
    /// The schema registry, by whose wire format values are read and written: a zero byte, the number of the
    /// schema, the datum. In container files it is left out. Default: none; values are datums alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Box<RegistrySettings>>,
    /// Whether values are in the single-object encoding, which begins with the bytes C3 01 and the schema's
    /// fingerprint. Those of `schema_file` and `reader_schema_file` are known. Default: false.
    pub single_object: bool,
    /// How the blocks of container files are compressed that are written: `null` or `deflate`. Both are read.
    /// Default: `null`, not at all.
    pub compression: Compression,
    /// What becomes of fields of a payload that the schema doesn't have: `refuse` or `drop`. Default: `refuse`, the
    /// message is a dead letter.
    pub unknown_fields: UnknownFields,
    /// What becomes of numbers with more digits than their type has: `exact` or `round`. Default: `exact`, the
    /// message is a dead letter.
    pub numbers: Numbers,
    /// The type of messages that no header tells one. Default: the full name of the schema's record.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The headers that hold a message's id, type and timestamp.
    pub headers: HeaderNames,
}

impl AvroSettings {
    fn around(&self) -> Around {
        Around::new(self.headers.clone(), self.kind.clone())
    }

    fn check(&self) -> Result<(), CodecError> {
        if self.single_object && self.registry.is_some() {
            return Err(CodecError::Wrong(
                "avro: `single_object` beside `registry`: a value has one of the two before its datum; leave one out".into(),
            ));
        }
        Ok(())
    }
}

/// A schema of a file, with its text as it stands there.
fn schema_of(setting: &str, path: Option<&Path>) -> Result<Option<(Schema, String)>, CodecError> {
    let Some(path) = path else { return Ok(None) };
    let told = |why: String| CodecError::Wrong(format!("avro: {setting} {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| told(e.to_string()))?;
    let schema = Schema::parse(&text, &[]).map_err(told)?;
    Ok(Some((schema, text)))
}

/// A schema of the registry.
fn of_registry(registered: &Registered) -> Result<Schema, String> {
    if registered.kind != SchemaKind::Avro {
        return Err(format!("it is of the type {}, not AVRO", registered.kind.name()));
    }
    let references: Vec<_> = registered.references.iter().map(|r| r.text.clone()).collect();
    Schema::parse(&registered.text, &references)
}

#[async_trait]
impl CodecSettings for AvroSettings {
    fn declared(&self) -> Result<Option<serde_json::Value>, CodecError> {
        let schema = match schema_of("reader_schema_file", self.reader_schema_file.as_deref())? {
            Some(reader) => Some(reader),
            None => schema_of("schema_file", self.schema_file.as_deref())?,
        };
        Ok(schema.map(|(schema, _)| schema.declared()))
    }

    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        self.check()?;
        let file = schema_of("schema_file", self.schema_file.as_deref())?.map(|(schema, _)| schema);
        let reader = schema_of("reader_schema_file", self.reader_schema_file.as_deref())?;
        let reader = reader.map(|(schema, _)| Arc::new(schema));
        let planned = |schema: &Schema| {
            plan(schema, reader.as_deref()).map_err(|why| CodecError::Wrong(format!("avro: {why}")))
        };
        let mut ahead = None;
        let written = match (&self.registry, &file) {
            (Some(settings), _) => {
                let reader = reader.clone();
                let fetched = Arc::new(Fetched::new(Registry::new(settings)?, move |registered| {
                    plan(&of_registry(registered)?, reader.as_deref())
                }));
                ahead = Some(Arc::new(Bring(fetched.clone())) as Arc<dyn Ahead>);
                Written::Registry(fetched)
            }
            (None, _) if self.single_object => {
                let known: Vec<_> = file.iter().chain(reader.as_deref()).collect();
                if known.is_empty() {
                    return Err(CodecError::Wrong(
                        "avro: `single_object` without `schema_file` or `reader_schema_file`: no fingerprint is known".into(),
                    ));
                }
                let known = known.into_iter().map(|schema| Ok((schema.fingerprint(), planned(schema)?)));
                Written::Fingerprint(known.collect::<Result<_, CodecError>>()?)
            }
            (None, Some(file)) => Written::Plain(Some(planned(file)?)),
            (None, None) => Written::Plain(None),
        };
        Ok(Reading {
            decoder: Arc::new(AvroDecoder {
                around: self.around(),
                written,
                reader,
                files: RwLock::default(),
            }),
            framing: Arc::new(Container { writes: None, compression: self.compression }),
            ahead,
        })
    }

    async fn writing(&self, name: &str) -> Result<Writing, CodecError> {
        self.check()?;
        let file = schema_of("schema_file", self.schema_file.as_deref()).map_err(|e| match e {
            // Which subjects have what it refers to, only its owner knows.
            CodecError::Wrong(why) if self.registry.is_some() => CodecError::Wrong(format!(
                "{why}; where it refers to types of other subjects, register it yourself, with its references, and leave `schema_file` out"
            )),
            e => e,
        })?;
        let mut prefix = Vec::new();
        let schema = match (&self.registry, file) {
            (Some(settings), file) => {
                let file = file.map(|(_, text)| Registered::new(SchemaKind::Avro, text));
                let registry = Registry::new(settings)?;
                let (id, registered) = registry.for_writing(name, SchemaKind::Avro, file.as_ref()).await?;
                put_wire(id, &mut prefix);
                of_registry(&registered).map_err(|why| {
                    CodecError::Wrong(format!("avro: the schema {id} of the registry: {why}"))
                })?
            }
            (None, Some((schema, _))) => {
                if self.single_object {
                    prefix.extend_from_slice(&SINGLE_OBJECT);
                    prefix.extend_from_slice(&schema.fingerprint().to_le_bytes());
                }
                schema
            }
            (None, None) => {
                return Err(CodecError::Wrong(
                    "avro: nothing says by which schema to write: set `schema_file`, or `registry`".into(),
                ));
            }
        };
        let schema = Arc::new(schema);
        Ok(Writing {
            framing: Arc::new(Container {
                writes: Some((schema.clone(), prefix.len())),
                compression: self.compression,
            }),
            writer: Arc::new(AvroWriter {
                around: self.around(),
                schema,
                prefix,
                numbers: self.numbers,
                unknown_fields: self.unknown_fields,
            }),
        })
    }
}

fn plan(writer: &Schema, reader: Option<&Schema>) -> Result<Plan, String> {
    match reader {
        Some(reader) => Plan::resolved(writer, reader),
        None => Plan::of(writer),
    }
}

/// What a value in the single-object encoding begins with.
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// Brings the schemas of values in the wire format, which those of container files are not.
struct Bring(Arc<Fetched<Plan>>);

#[async_trait]
impl Ahead for Bring {
    async fn bring(&self, batch: &RawBatch) -> Result<(), CodecError> {
        if batch.preamble.is_some() { Ok(()) } else { self.0.bring(batch).await }
    }
}

/// What tells by which schema a value was written, outside of container files.
enum Written {
    /// Nothing: by the file's, if there is one.
    Plain(Option<Plan>),
    Fingerprint(Vec<(u64, Plan)>),
    Registry(Arc<Fetched<Plan>>),
}

struct AvroDecoder {
    around: Around,
    written: Written,
    reader: Option<Arc<Schema>>,
    /// The container files that are being read, by their headers.
    files: RwLock<Vec<(Arc<[u8]>, Planned)>>,
}

/// How many container files' plans are kept.
const FILES_MAX: usize = 32;

thread_local! {
    static PAYLOAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How long a thread's buffer may stay once it was used.
const KEPT_BYTES_MAX: usize = 1 << 20;

impl Decoder for AvroDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        if record.tombstone {
            return self.around.push(record, of, TYPE, Body::default(), frame);
        }
        let value = &of.data[record.value.clone()];
        let mut read = |plan: &Plan, datum: &[u8]| {
            PAYLOAD.with_borrow_mut(|payload| {
                payload.clear();
                payload.shrink_to(KEPT_BYTES_MAX);
                read::read(plan, datum, payload)?;
                let body = Body { payload, is_json: true, unseen: &[] };
                self.around.push(record, of, &plan.kind, body, frame)
            })
        };
        if let Some(preamble) = &of.preamble {
            return match &*self.file(preamble) {
                Ok(plan) => read(plan, value),
                Err(why) => Err(format!("the schema of the file: {why}")),
            };
        }
        match &self.written {
            Written::Plain(Some(plan)) => read(plan, value),
            Written::Plain(None) => Err(
                "nothing says by which schema this was written: set `schema_file` or `registry` on the codec"
                    .into(),
            ),
            Written::Fingerprint(known) => {
                let Some((fingerprint, datum)) =
                    value.strip_prefix(&SINGLE_OBJECT).and_then(|rest| rest.split_first_chunk())
                else {
                    return Err(
                        "the value is no single object: it does not begin with the bytes C3 01 and a fingerprint".into(),
                    );
                };
                let fingerprint = u64::from_le_bytes(*fingerprint);
                match known.iter().find(|(known, _)| *known == fingerprint) {
                    Some((_, plan)) => read(plan, datum),
                    None => Err(format!(
                        "the value was written by a schema with the fingerprint {fingerprint:016x}, which is neither that of `schema_file` nor of `reader_schema_file`"
                    )),
                }
            }
            Written::Registry(fetched) => {
                let (id, datum) = wire(value)?;
                let read = fetched.with(id, |found| match found {
                    Ok(plan) => read(plan, datum),
                    Err(why) => Err(why.clone()),
                });
                read.unwrap_or_else(|| Err(format!("schema {id} was not fetched from the registry")))
            }
        }
    }
}

impl AvroDecoder {
    /// The plan of a container file.
    fn file(&self, preamble: &Arc<[u8]>) -> Planned {
        let known = |files: &[(Arc<[u8]>, Planned)]| {
            let same = files.iter().find(|(known, _)| Arc::ptr_eq(known, preamble));
            same.or_else(|| files.iter().find(|(known, _)| known == preamble)).map(|(_, plan)| plan.clone())
        };
        if let Some(plan) = known(&self.files.read().unwrap_or_else(PoisonError::into_inner)) {
            return plan;
        }
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = known(&files) {
            return plan;
        }
        let planned = Header::of(preamble).and_then(|header| Schema::parse(header.schema, &[]));
        let planned: Planned = Arc::new(planned.and_then(|schema| plan(&schema, self.reader.as_deref())));
        if files.len() >= FILES_MAX {
            files.remove(0);
        }
        files.push((preamble.clone(), planned.clone()));
        planned
    }
}

struct AvroWriter {
    around: Around,
    schema: Arc<Schema>,
    /// What stands before each datum outside of container files.
    prefix: Vec<u8>,
    numbers: Numbers,
    unknown_fields: UnknownFields,
}

impl RecordWriter for AvroWriter {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.around.record(message, takes, into, |out| {
            out.extend_from_slice(&self.prefix);
            write::write(&self.schema, message.payload(), self.numbers, self.unknown_fields, out)
        })
    }
}
