//! Protocol Buffers: bodies by a message type, whose descriptors come from a file or a schema registry.
//!
//! The payload is Protobuf's own JSON of the body, with integers of 64 bits as numbers to the last digit and
//! fields by the names that the `.proto` file has. Fields that the type doesn't have travel along, unseen.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::{FrameBuf, Message, MetaKind};
use xxhash_rust::xxh3::xxh3_64;

use crate::around::{Around, Body, HeaderNames};
use crate::framing::Delimited;
use crate::number::Numbers;
use crate::place::Wrong;
use crate::registry::{Fetched, Registered, Registry, RegistrySettings, SchemaKind, put_wire, wire};
use crate::table::CodecSettings;
use crate::{CodecError, Reading, RecordWriter, Takes, Writing, jsontext};

mod decode;
mod encode;
mod kept;
mod known;
mod plan;
mod wire;

pub use decode::UnknownFields;
pub(crate) use known::write_timestamp;
use plan::Plan;

/// The name under which unknown fields travel: the message type and their bytes.
const UNSEEN: &str = "$protobuf";

/// What a schema of the registry is called among the files that it imports.
const ROOT_FILE: &str = "wasmill/schema.proto";

/// How fields are called in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    /// As in the `.proto` file: `display_name`.
    #[default]
    Proto,
    /// As Protobuf's JSON has them by default: `displayName`.
    Json,
}

/// Protocol Buffers: the payload is Protobuf's JSON of the body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtobufSettings {
    /// A file of descriptors, a FileDescriptorSet: `protoc --include_imports --descriptor_set_out=FILE`, or
    /// `buf build -o FILE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor_file: Option<PathBuf>,
    /// A `.proto` file, in place of `descriptor_file`. What it imports is looked for beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_file: Option<PathBuf>,
    /// The full name of the message type: `flights.Flight`. Default: what the registry's schema says; else it must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The schema registry: bodies are in its wire format, and read by the schemas they were written by.
    /// Default: none, bodies are plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistrySettings>,
    /// How fields are called: `proto`, as in the `.proto` file, or `json`, in camel case. Both are taken. Default: proto.
    #[serde(default)]
    pub names: Names,
    /// Whether fields that have no presence of their own, and are absent, are shown with their defaults: 0,
    /// "", false, [], {}. Default: false.
    #[serde(default)]
    pub defaults: bool,
    /// How numbers that a double or a float can't hold to the last digit are written: `exact` refuses, `round`
    /// rounds. Default: exact.
    #[serde(default)]
    pub numbers: Numbers,
    /// What is done with fields that the message type doesn't have: `keep` takes them along unseen, `drop` leaves
    /// them out, `refuse` makes a dead letter. Default: keep.
    #[serde(default)]
    pub unknown_fields: UnknownFields,
    /// The type of messages without a header that tells it. Default: the message type's name.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The names of the headers that hold id, type and timestamp.
    #[serde(default)]
    pub headers: HeaderNames,
}

impl ProtobufSettings {
    fn pool(&self) -> Result<Option<DescriptorPool>, CodecError> {
        match (&self.descriptor_file, &self.schema_file) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(CodecError::Wrong(
                "protobuf: both `descriptor_file` and `schema_file` are set: leave one of them".into(),
            )),
            (Some(path), None) => {
                let bytes = read(path)?;
                DescriptorPool::decode(bytes.as_slice()).map(Some).map_err(|e| {
                    CodecError::Wrong(format!(
                        "protobuf: {} is no set of descriptors that can be used: {e}; make it with `protoc --include_imports --descriptor_set_out={}`",
                        path.display(),
                        path.display()
                    ))
                })
            }
            (None, Some(path)) => {
                let text = read(path)?;
                let text = String::from_utf8(text)
                    .map_err(|_| CodecError::Wrong(format!("protobuf: {} is not UTF-8", path.display())))?;
                let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
                let beside = IncludeFileResolver::new(folder);
                compile(&text, beside)
                    .map(Some)
                    .map_err(|why| CodecError::Wrong(format!("protobuf: {}: {why}", path.display())))
            }
        }
    }

    fn options(&self) -> decode::Options {
        decode::Options { defaults: self.defaults, unknown_fields: self.unknown_fields }
    }

    fn around(&self) -> Around {
        Around::new(self.headers.clone(), self.kind.clone())
    }

    /// The type that the settings name, in these descriptors.
    fn root(&self, pool: &DescriptorPool) -> Result<MessageDescriptor, CodecError> {
        let Some(name) = &self.message else {
            return Err(CodecError::Wrong(
                "protobuf: `message` is not set: name the message type in full, such as `flights.Flight`"
                    .into(),
            ));
        };
        pool.get_message_by_name(name).ok_or_else(|| CodecError::Wrong(unknown_type(name, pool)))
    }

    fn typed(&self, pool: &DescriptorPool, root: &MessageDescriptor) -> Result<Typed, CodecError> {
        let plan = Plan::new(pool, self.names);
        let root = plan
            .find(root.full_name())
            .ok_or_else(|| CodecError::Wrong(unknown_type(root.full_name(), pool)))?;
        Ok(Typed { plan: Arc::new(plan), root })
    }
}

fn unknown_type(name: &str, pool: &DescriptorPool) -> String {
    const SHOWN_MAX: usize = 8;
    let all: Vec<String> = pool
        .all_messages()
        .filter(|m| !m.is_map_entry() && !m.full_name().starts_with("google.protobuf."))
        .map(|m| m.full_name().to_owned())
        .collect();
    let more = if all.len() > SHOWN_MAX { ", …" } else { "" };
    let shown = all.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!(
        "protobuf: there is no message type `{name}` in the schema, which has {shown}{more}: correct `message`"
    )
}

fn read(path: &Path) -> Result<Vec<u8>, CodecError> {
    std::fs::read(path).map_err(|e| CodecError::Wrong(format!("protobuf: reading {}: {e}", path.display())))
}

/// Compiles a `.proto` text, its imports from `imports`, or Google's own.
fn compile(text: &str, imports: impl FileResolver + 'static) -> Result<DescriptorPool, String> {
    struct Root(String);
    impl FileResolver for Root {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            if name == ROOT_FILE {
                return file(name, &self.0);
            }
            Err(protox::Error::file_not_found(name))
        }
    }
    let mut files = ChainFileResolver::new();
    files.add(Root(text.to_owned()));
    files.add(imports);
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.include_imports(true);
    compiler.open_file(ROOT_FILE).map_err(|e| {
        // The name is wasmill's own.
        format!("the .proto text can't be compiled: {}", e.to_string().replace(ROOT_FILE, "the file"))
    })?;
    Ok(compiler.descriptor_pool())
}

/// A file of a `.proto` text; or of a descriptor in base64, as which Confluent's client for Python registers schemas.
fn file(name: &str, text: &str) -> Result<File, protox::Error> {
    let mut bytes = Vec::new();
    if !text.is_empty()
        && jsontext::of_base64(text, &mut bytes).is_ok()
        && let Ok(mut descriptor) = FileDescriptorProto::decode(bytes.as_slice())
    {
        descriptor.name = Some(name.to_owned());
        return Ok(File::from_file_descriptor_proto(descriptor));
    }
    File::from_source(name, text)
}

/// The texts that a schema of the registry imports.
struct Imports(Vec<(String, String)>);

impl FileResolver for Imports {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(known, _)| known == name) {
            Some((_, text)) => file(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn compile_registered(schema: &Registered) -> Result<DescriptorPool, String> {
    if schema.kind != SchemaKind::Protobuf {
        return Err(format!(
            "it is of the type {}, not PROTOBUF: choose the codec for it",
            schema.kind.name()
        ));
    }
    let imports = schema.references.iter().map(|r| (r.name.clone(), r.text.clone())).collect();
    compile(&schema.text, Imports(imports))
}

fn root_file(pool: &DescriptorPool) -> Result<FileDescriptor, String> {
    pool.get_file_by_name(ROOT_FILE).ok_or_else(|| "the compiled schema is not there".to_owned())
}

/// A message type, ready.
#[derive(Clone)]
struct Typed {
    plan: Arc<Plan>,
    root: usize,
}

/// A schema of the registry: its message types, and where in the text each stands.
struct Schema {
    plan: Arc<Plan>,
    types: Vec<(Vec<u32>, usize)>,
    /// The same, where the pairs of maps count as types, which they are in descriptors.
    with_pairs: Vec<(Vec<u32>, usize)>,
}

impl Schema {
    fn of(registered: &Registered, names: Names) -> Result<Self, String> {
        let pool = compile_registered(registered)?;
        let plan = Plan::new(&pool, names);
        let (mut types, mut with_pairs) = (Vec::new(), Vec::new());
        let messages: Vec<MessageDescriptor> = root_file(&pool)?.messages().collect();
        let mut open = vec![(Vec::new(), Vec::new(), messages)];
        while let Some((path, path_with_pairs, messages)) = open.pop() {
            let below = |path: &Vec<u32>, n| path.iter().copied().chain([n]).collect::<Vec<u32>>();
            let mut own = 0;
            for (n, message) in (0..).zip(messages) {
                if message.is_map_entry() {
                    continue;
                }
                let (path, path_with_pairs) = (below(&path, own), below(&path_with_pairs, n));
                own += 1;
                if let Some(at) = plan.find(message.full_name()) {
                    types.push((path.clone(), at));
                    with_pairs.push((path_with_pairs.clone(), at));
                }
                open.push((path, path_with_pairs, message.child_messages().collect()));
            }
        }
        types.sort();
        with_pairs.sort();
        Ok(Self { plan: Arc::new(plan), types, with_pairs })
    }

    /// The message type at these indexes. Confluent's own clients don't agree whether the pairs of maps count: in
    /// Java they don't, and so not here; in Python and Go they do, and such indexes are understood where nothing
    /// else is at the place, or where they lead to the type that `only` names.
    fn find(&self, indexes: &[u32], only: Option<&str>) -> Option<usize> {
        let of = |types: &[(Vec<u32>, usize)]| {
            let found = types.binary_search_by(|(path, _)| path.as_slice().cmp(indexes)).ok()?;
            Some(types[found].1)
        };
        let (plain, with_pairs) = (of(&self.types), of(&self.with_pairs));
        let is_named = |at: &usize| only == Some(self.plan.messages[*at].name.as_str());
        plain.filter(is_named).or_else(|| with_pairs.filter(is_named)).or(plain).or(with_pairs)
    }
}

/// Reads which message type of a schema it is, as the wire format has it.
fn indexes(data: &[u8], at: &mut usize) -> Result<smallvec::SmallVec<[u32; 4]>, String> {
    const DEPTH_MAX: i64 = 100;
    let start = *at;
    let wrong = |why: &str| format!("the message indexes behind the schema's id, at byte {start}: {why}");
    let mut next = || -> Result<i64, String> {
        let n = wire::varint(data, at, data.len()).map_err(|_| wrong("cut off"))?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    };
    let count = next()?;
    if count == 0 {
        return Ok(smallvec::smallvec![0]);
    }
    if !(0..=DEPTH_MAX).contains(&count) {
        return Err(wrong(&format!("{count} of them, where up to {DEPTH_MAX} are expected")));
    }
    (0..count)
        .map(|_| {
            let n = next()?;
            u32::try_from(n).map_err(|_| wrong(&format!("{n} is no index")))
        })
        .collect()
}

fn write_indexes(indexes: &[u32], out: &mut Vec<u8>) {
    if indexes == [0] {
        out.push(0);
        return;
    }
    wire::write_varint((indexes.len() as u64) << 1, out);
    for index in indexes {
        wire::write_varint(u64::from(*index) << 1, out);
    }
}

#[async_trait]
impl CodecSettings for ProtobufSettings {
    fn declared(&self) -> Result<Option<serde_json::Value>, CodecError> {
        let Some(pool) = self.pool()? else { return Ok(None) };
        if self.registry.is_some() && self.message.is_none() {
            return Ok(None);
        }
        let typed = self.typed(&pool, &self.root(&pool)?)?;
        Ok(Some(typed.plan.json_schema(typed.root)))
    }

    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        let (types, ahead) = match &self.registry {
            None => {
                let pool = self.pool()?.ok_or_else(no_schema)?;
                (Types::One(self.typed(&pool, &self.root(&pool)?)?), None)
            }
            Some(registry) => {
                let names = self.names;
                let fetched =
                    Arc::new(Fetched::new(Registry::new(registry)?, move |schema| Schema::of(schema, names)));
                let types = Types::Registry { fetched: Arc::clone(&fetched), only: self.message.clone() };
                (types, Some(fetched as Arc<dyn crate::Ahead>))
            }
        };
        let decoder = Arc::new(ProtobufDecoder { types, options: self.options(), around: self.around() });
        Ok(Reading { decoder, framing: Arc::new(Delimited), ahead })
    }

    async fn writing(&self, name: &str) -> Result<Writing, CodecError> {
        let (typed, prefix) = match &self.registry {
            None => {
                let pool = self.pool()?.ok_or_else(no_schema)?;
                (self.typed(&pool, &self.root(&pool)?)?, Vec::new())
            }
            Some(registry) => self.registered(registry, name).await?,
        };
        let writer = Arc::new(ProtobufWriter {
            typed,
            prefix,
            numbers: self.numbers,
            keeps: self.unknown_fields == UnknownFields::Keep,
            around: self.around(),
        });
        Ok(Writing { writer, framing: Arc::new(Delimited) })
    }
}

impl ProtobufSettings {
    /// The type that is written by a schema of the registry, and what stands before each body.
    async fn registered(
        &self,
        registry: &RegistrySettings,
        name: &str,
    ) -> Result<(Typed, Vec<u8>), CodecError> {
        if self.descriptor_file.is_some() {
            return Err(CodecError::Wrong(
                "protobuf: a registry takes the text of a schema, not descriptors: set `schema_file` to the .proto file, or leave `descriptor_file` out to write by the subject's latest schema".into(),
            ));
        }
        let file = match &self.schema_file {
            None => None,
            Some(path) => {
                let text = String::from_utf8(read(path)?)
                    .map_err(|_| CodecError::Wrong(format!("protobuf: {} is not UTF-8", path.display())))?;
                // What it imports would have to be registered first, under subjects that only its owner knows.
                compile(&text, Imports(Vec::new())).map_err(|why| {
                    CodecError::Wrong(format!(
                        "protobuf: {}: {why}; where it imports files other than Google's, register it yourself, with its references, and leave `schema_file` out",
                        path.display()
                    ))
                })?;
                Some(Registered::new(SchemaKind::Protobuf, text))
            }
        };
        let (id, schema) =
            Registry::new(registry)?.for_writing(name, SchemaKind::Protobuf, file.as_ref()).await?;
        let wrong = |why: String| CodecError::Wrong(format!("protobuf: schema {id} of the registry: {why}"));
        let schema = Schema::of(&schema, self.names).map_err(wrong)?;
        let name_of = |at: usize| schema.plan.messages[at].name.as_str();
        let found = match &self.message {
            Some(message) => schema.types.iter().find(|(_, at)| name_of(*at) == message),
            // As Confluent's own writers: the first of the file.
            None => schema.types.first(),
        };
        let Some((path, root)) = found else {
            let all: Vec<&str> = schema.types.iter().take(8).map(|(_, at)| name_of(*at)).collect();
            return Err(wrong(format!("it has {}: set `message` to one of its types", all.join(", "))));
        };
        let mut prefix = Vec::new();
        put_wire(id, &mut prefix);
        write_indexes(path, &mut prefix);
        Ok((Typed { plan: Arc::clone(&schema.plan), root: *root }, prefix))
    }
}

fn no_schema() -> CodecError {
    CodecError::Wrong(
        "protobuf: there is no schema: set `descriptor_file` to a file that protoc or buf has made, `schema_file` to a .proto file, or `registry`"
            .into(),
    )
}

/// By which message type a body is read.
enum Types {
    One(Typed),
    Registry { fetched: Arc<Fetched<Schema>>, only: Option<String> },
}

struct ProtobufDecoder {
    types: Types,
    options: decode::Options,
    around: Around,
}

thread_local! {
    /// The JSON of a message, and what travels unseen: used for one message after the other.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::default();
}

impl Decoder for ProtobufDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        if record.tombstone {
            return self.around.push(record, of, "", Body::default(), frame);
        }
        let value = &of.data[record.value.clone()];
        match &self.types {
            Types::One(typed) => self.read(&typed.plan, typed.root, value, 0, record, of, frame),
            Types::Registry { fetched, only } => {
                let (id, body) = wire(value)?;
                let mut at = value.len() - body.len();
                let indexes = indexes(value, &mut at)?;
                let read = |found: &Result<Arc<Schema>, String>| {
                    let schema = found.as_ref().map_err(Clone::clone)?;
                    let Some(root) = schema.find(&indexes, only.as_deref()) else {
                        return Err(format!(
                            "schema {id} has no message type at the indexes {:?}: it was written by another schema",
                            indexes.as_slice()
                        ));
                    };
                    let name = &schema.plan.messages[root].name;
                    if let Some(only) = only.as_ref().filter(|only| *only != name) {
                        return Err(format!(
                            "it is a `{name}`, and `message: {only}` is set: leave it out to take all types"
                        ));
                    }
                    self.read(&schema.plan, root, value, at, record, of, frame)
                };
                fetched.with(id, read).unwrap_or_else(|| Err(format!("schema {id} was not fetched")))
            }
        }
    }
}

impl ProtobufDecoder {
    #[expect(clippy::too_many_arguments, reason = "a body's place takes three, its type two")]
    fn read(
        &self,
        plan: &Plan,
        root: usize,
        value: &[u8],
        body: usize,
        record: &RawRecord,
        of: &RawBatch,
        frame: &mut FrameBuf,
    ) -> Result<(), String> {
        SCRATCH.with_borrow_mut(|(json, unseen)| {
            json.clear();
            unseen.clear();
            let kept = decode::read(plan, root, value, body..value.len(), self.options, json)
                .map_err(|wrong| wrong.told())?;
            let name = plan.messages[root].name.as_str();
            if let Some(kept) = kept {
                let mut bytes = xxh3_64(json).to_le_bytes().to_vec();
                kept.write(&mut bytes);
                unseen.extend_from_slice(b"{\"type\":");
                jsontext::text(name, unseen);
                unseen.extend_from_slice(b",\"fields\":");
                jsontext::base64(&bytes, unseen);
                unseen.push(b'}');
            }
            let fields = [(UNSEEN, unseen.as_slice())];
            let unseen = if unseen.is_empty() { &fields[..0] } else { &fields[..] };
            self.around.push(record, of, name, Body { payload: json, is_json: true, unseen }, frame)
        })
    }
}

struct ProtobufWriter {
    typed: Typed,
    /// What stands before each body.
    prefix: Vec<u8>,
    numbers: Numbers,
    keeps: bool,
    around: Around,
}

impl RecordWriter for ProtobufWriter {
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String> {
        self.around.record(message, takes, into, |out| {
            out.extend_from_slice(&self.prefix);
            self.body(message, out).map_err(|wrong| wrong.told())
        })
    }
}

/// Unknown fields, as they travel.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Travelling<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    fields: std::borrow::Cow<'a, str>,
}

impl ProtobufWriter {
    fn body(&self, message: Message<'_>, out: &mut Vec<u8>) -> Result<(), Wrong> {
        let Typed { plan, root } = &self.typed;
        let is_unseen =
            |e: &wasmill_frame::meta::Entry<'_>| e.kind == MetaKind::Field && e.name == UNSEEN.as_bytes();
        let bytes = match message.metadata().entries().filter(is_unseen).last().filter(|_| self.keeps) {
            None => None,
            Some(entry) => unknown_fields(entry.value, &plan.messages[*root].name)?,
        };
        let (hash, kept) = match bytes.as_deref().and_then(<[u8]>::split_first_chunk) {
            None => (None, None),
            Some((hash, node)) => {
                let view = kept::View::of(node).map_err(|_| damaged())?;
                (Some(u64::from_le_bytes(*hash)), Some(view))
            }
        };
        let unchanged = hash.is_some_and(|hash| hash == xxh3_64(message.payload()));
        encode::write(plan, *root, message.payload(), self.numbers, kept.as_ref(), unchanged, out)
    }
}

/// The unknown fields that travel with a message, if they are of this message type.
fn unknown_fields(json: &[u8], name: &str) -> Result<Option<Vec<u8>>, Wrong> {
    let travelling: Travelling<'_> = serde_json::from_slice(json).map_err(|_| damaged())?;
    if travelling.kind != name {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    jsontext::of_base64(&travelling.fields, &mut bytes).map_err(|_| damaged())?;
    Ok(Some(bytes))
}

fn damaged() -> Wrong {
    Wrong::new(format!("the unknown fields in `{UNSEEN}` are damaged: take that field out of the envelope"))
}
