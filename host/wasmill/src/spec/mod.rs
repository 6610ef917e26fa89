//! The pipeline spec: YAML and environment in, a checked [`Pipeline`] out.
//!
//! text → tree ([`node`]) → environment and `${…}` ([`environment`]) → keys and types ([`raw`]) →
//! meaning ([`check`]). Without a file the tree is made from variables ([`variables`]). Each step reports mistakes with their place; what comes out needs no further
//! check but those that look at the world: files, plugins, addresses.

mod built_ins;
mod check;
pub mod de;
pub mod environment;
mod granted;
pub mod guarantee;
mod limits;
pub mod located;
pub mod near_miss;
pub mod node;
mod outside;
mod raw;
mod raw_grants;
mod raw_source;
mod retry;
pub mod schema;
pub mod secrets;
mod sharing;
pub mod variables;
mod window;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wasmill_connect::kafka::ExchangeTopic;
use wasmill_connect::store::DiskStore;
use wasmill_engine::builtin::BuiltIns;
use wasmill_engine::edition::DIGITS_SHOWN;
use wasmill_engine::key::{KeySpec, Path as FieldPath};
use wasmill_engine::output::When;
use wasmill_engine::topology::MaxAhead;

pub use environment::Environment;
pub use granted::{Granted, HttpSpec, LookupSpec, SecretFrom, SecretSpec, TableForm};
pub use limits::{Limits, PluginLimits};
pub use outside::{CodecSpec, HumanDuration, HumanSize, SinkSpec, SourceSpec};
pub use raw::{Delivery, Grant, Order, SwapBy};
pub use retry::{Backoffs, BreakerBounds, Then, Tried, TriedStage};
pub use secrets::SecretUrl;
pub use sharing::{Kept, Sharing, StateSpec};
pub(crate) use window::millis;
pub use window::{Emit, Late, Window, WindowKind};

use crate::report::{Diagnostic, Problems, Sources, Span};

/// The greatest spec that is read.
pub const SPEC_BYTES_MAX: u64 = 1 << 20;
/// The most workers of one pipeline.
pub const WORKERS_MAX: u32 = 1024;
/// The most key groups of one pipeline.
pub const KEY_GROUPS_MAX: u32 = 32_768;
/// The most messages that a plugin is given at once.
pub const BATCH_SIZE_MAX: u32 = 65_536;
/// The longest name of a pipeline, stage or output.
pub const NAME_BYTES_MAX: usize = 64;

/// A checked pipeline.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name; its state is kept under it.
    pub name: String,
    /// The file it was read from.
    pub file: PathBuf,
    /// Where messages come from; at least one. Paths in them start from the spec's folder already.
    pub sources: Vec<SourceSpec>,
    /// How the messages of each source are read, in the sources' order.
    pub codecs: Vec<CodecSpec>,
    /// Which field is a message's event time.
    pub time: FieldPath,
    /// After how long without a message a partition no longer holds stream time; none: never. Where the
    /// spec says nothing, 30 s with a shared source and never with others.
    pub idle_timeout: Option<Duration>,
    /// How far an event time may be ahead of when the source took the message in; none: any distance.
    pub max_ahead: Option<MaxAhead>,
    /// How many threads work, from 1.
    pub workers: usize,
    /// How many messages a plugin is given at once, at most, from 1.
    pub batch_size: usize,
    /// Into how many groups keys are hashed; state depends on it.
    pub key_groups: u16,
    /// The folder of the plugins.
    pub plugin_dir: PathBuf,
    /// When a new version of a plugin takes over.
    pub swap: SwapBy,
    /// The folder in which state outlives the process; none: it does not.
    pub data_dir: Option<PathBuf>,
    /// Where state is kept.
    pub state: StateSpec,
    /// What happens to the messages, in this order.
    pub stages: Vec<Stage>,
    /// Where messages go; at least one.
    pub sinks: Vec<Sink>,
    /// Where messages go that could not be processed.
    pub dead_letter: Option<SinkSpec>,
    /// Whether the last of the sources is of dead letters that are put through again.
    pub replays: bool,
    /// What the pipeline must promise.
    pub delivery: Delivery,
    /// Which of the pipeline's processes this is; none: as [`Pipeline::transactional_id`] says.
    pub slot: Option<String>,
    /// When results are committed.
    pub epoch: EpochBounds,
    /// Bounds on messages, plugins and queues.
    pub limits: Limits,
    /// The secrets that stages may be granted, by name.
    pub secrets: BTreeMap<String, SecretSpec>,
    /// The tables that stages may be granted, by name.
    pub lookups: BTreeMap<String, LookupSpec>,
    /// The address of the HTTP pages.
    pub http: Option<SocketAddr>,
    /// How long an ordered end may take.
    pub shutdown_timeout: Duration,
    /// How many partitions the topic has that its messages go through to who has their key; none: they go
    /// there in memory.
    pub exchange_partitions: Option<u32>,
    /// Which part of what the spec says this is.
    pub part: Part,
    places: Places,
}

/// A part of a pipeline with an exchange through a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The stages before the exchange.
    Before,
    /// The stages behind it.
    Behind,
}

/// Where what was written, for mistakes that show only later.
#[derive(Debug, Clone, Default)]
struct Places {
    texts: Sources,
    delivery: Option<Span>,
    sources: Vec<Span>,
    sinks: Vec<Span>,
}

/// One stage.
#[derive(Debug, Clone)]
pub enum Stage {
    /// Changes messages.
    Transform(PluginStage),
    /// Lets messages pass or not.
    Filter(PluginStage),
    /// Gives each message the key that the stages behind gather by.
    KeyBy(KeySpec),
    /// Gathers messages of a key into a value.
    Aggregate(AggregateStage),
}

impl Stage {
    /// The stage's plugin, where it has one.
    #[must_use]
    pub fn plugin(&self) -> Option<&PluginStage> {
        match self {
            Self::Transform(p) | Self::Filter(p) => Some(p),
            Self::Aggregate(a) => a.plugin(),
            Self::KeyBy(_) => None,
        }
    }

    /// Its name in the pipeline; a key_by has none.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Transform(p) | Self::Filter(p) => Some(&p.name),
            Self::Aggregate(a) => Some(&a.name),
            Self::KeyBy(_) => None,
        }
    }

    /// The word that the spec has for it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Transform(_) => "transform",
            Self::Filter(_) => "filter",
            Self::KeyBy(_) => "key_by",
            Self::Aggregate(_) => "aggregate",
        }
    }
}

/// A stage that a plugin does.
#[derive(Debug, Clone)]
pub struct PluginStage {
    /// The stage's name, unique in the pipeline.
    pub name: String,
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's file, where it is not pinned.
    pub file: PathBuf,
    /// The one version that the stage may have.
    pub pin: Option<Pin>,
    /// What it may use beyond its messages, each once.
    pub grants: Vec<Grant>,
    /// What its grants say beyond their names.
    pub granted: Box<Granted>,
    /// What it reads as its config: names and JSON values.
    pub config: BTreeMap<String, serde_json::Value>,
    /// What bounds it.
    pub limits: PluginLimits,
    /// How a message is tried that it can't process.
    pub tried: TriedStage,
    /// Where the plugin is named.
    pub span: Span,
}

/// What a stage's plugin is pinned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The version that its metadata names.
    Version(String),
    /// How its file's SHA-256 begins, in hexadecimal.
    Digest(String),
}

impl Pin {
    /// Whether a plugin is the one.
    #[must_use]
    pub fn takes(&self, version: Option<&str>, digest: &str) -> bool {
        match self {
            Self::Version(wanted) => version == Some(wanted.as_str()),
            Self::Digest(wanted) => digest.starts_with(wanted.as_str()),
        }
    }
}

/// Why a text is no pin.
#[derive(Debug)]
pub struct NoPin {
    /// What is wrong.
    pub title: String,
    /// What was expected.
    pub label: String,
    /// Where the right one is found.
    pub help: Option<&'static str>,
}

impl std::fmt::Display for NoPin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title, self.label)
    }
}

impl std::str::FromStr for Pin {
    type Err = NoPin;

    /// What stands behind the `@` of a plugin's name.
    fn from_str(text: &str) -> Result<Self, NoPin> {
        let is_hex = |t: &str| t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.strip_prefix("sha256:") {
            Some(digest) if is_hex(digest) && (DIGITS_SHOWN..=64).contains(&digest.len()) => {
                Ok(Self::Digest(digest.to_owned()))
            }
            Some(digest) => Err(NoPin {
                title: format!("`{digest}` is no beginning of a SHA-256"),
                label: format!("expected {DIGITS_SHOWN} to 64 digits, 0 to 9 and a to f"),
                help: Some("`wasmill plugin inspect FILE.wasm` shows it"),
            }),
            None if text.is_empty() => Err(NoPin {
                title: "no version stands behind the `@`".to_owned(),
                label: "expected NAME@VERSION or NAME@sha256:DIGEST".to_owned(),
                help: None,
            }),
            None => Ok(Self::Version(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(version) => f.write_str(version),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

/// An aggregate.
#[derive(Debug, Clone)]
pub struct AggregateStage {
    /// The stage's name, unique in the pipeline.
    pub name: String,
    /// What computes it.
    pub by: ComputedBy,
    /// Over which windows; none: it runs on for ever and answers for each message.
    pub window: Option<Window>,
    /// In which order it sees messages of several partitions.
    pub order: Order,
}

impl AggregateStage {
    /// Its plugin, where one computes it.
    #[must_use]
    pub fn plugin(&self) -> Option<&PluginStage> {
        match &self.by {
            ComputedBy::Plugin(plugin) => Some(plugin),
            ComputedBy::BuiltIns(_) => None,
        }
    }
}

/// What computes an aggregate.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one a stage")]
pub enum ComputedBy {
    /// A plugin.
    Plugin(PluginStage),
    /// Built-ins.
    BuiltIns(BuiltInStage),
}

/// Built-ins of a stage.
#[derive(Debug, Clone)]
pub struct BuiltInStage {
    /// What they compute.
    pub built_ins: Arc<BuiltIns>,
    /// The file of a plugin that could be meant too: it must not be there.
    pub not: Option<PathBuf>,
    /// Where they are named.
    pub span: Span,
}

/// A sink and what it takes.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Where its messages go.
    pub connector: SinkSpec,
    /// The named output that it takes; none: what comes out of the last stage.
    pub output: Option<String>,
    /// Which of that output's messages it takes.
    pub when: When,
    /// How they are written.
    pub codec: CodecSpec,
    /// How it is asked while its other end is away.
    pub tried: Tried,
}

/// When results are committed: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochBounds {
    /// After this long.
    pub interval: Duration,
    /// After this many bytes of messages.
    pub bytes_max: usize,
}

impl Default for EpochBounds {
    fn default() -> Self {
        Self { interval: Duration::from_millis(200), bytes_max: 8 << 20 }
    }
}

impl Pipeline {
    /// Reads and checks a spec.
    ///
    /// # Errors
    /// Every mistake that was found, with its place.
    pub fn load(file: &Path, environment: &Environment) -> Result<Self, Problems> {
        match read_bounded(file) {
            Ok(text) => Self::parse(file, &text, environment),
            Err(title) => {
                Err(Problems { sources: Sources::default(), diagnostics: vec![Diagnostic::new(title)] })
            }
        }
    }

    /// Reads and checks a spec's text, as if it stood in `file`.
    ///
    /// # Errors
    /// Every mistake that was found, with its place.
    pub fn parse(file: &Path, text: &str, environment: &Environment) -> Result<Self, Problems> {
        let mut sources = Sources::default();
        let source = sources.add(file.display().to_string(), secrets::hide(text));
        let mut read = || -> Result<raw::RawPipeline, Box<Diagnostic>> {
            let mut root = node::parse(text, source, 0).map_err(Box::new)?;
            environment.overlay(&mut root, &mut sources)?;
            granted::hide_written(&root, &mut sources);
            environment.substitute(&mut root)?;
            outside::resolve_paths(&mut root, folder_of(file));
            de::from_node(&root)
        };
        match read() {
            Ok(raw) => check::check(raw, file, sources).map(|mut pipeline| {
                pipeline.take_secrets(environment);
                pipeline
            }),
            Err(mut diagnostic) => {
                hide_secrets(&mut diagnostic);
                Err(Problems { sources, diagnostics: vec![*diagnostic] })
            }
        }
    }

    /// The folder of the spec, which relative paths in it start from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        folder_of(&self.file)
    }

    /// A mistake that showed only when the pipeline was looked at more closely.
    #[must_use]
    pub fn problem(&self, diagnostic: Diagnostic) -> Problems {
        Problems { sources: self.places.texts.clone(), diagnostics: vec![diagnostic] }
    }

    /// The number of the source of dead letters that are put through again, if there is one.
    #[must_use]
    pub fn replay(&self) -> Option<usize> {
        self.replays.then(|| self.sources.len() - 1)
    }

    /// Where `delivery` is written, if it is.
    #[must_use]
    pub fn delivery_span(&self) -> Option<Span> {
        self.places.delivery
    }

    /// Where a source is written.
    #[must_use]
    pub fn source_span(&self, index: usize) -> Option<Span> {
        self.places.sources.get(index).copied()
    }

    /// Where a sink is written.
    #[must_use]
    pub fn sink_span(&self, index: usize) -> Option<Span> {
        self.places.sinks.get(index).copied()
    }

    /// Whether any stage keeps state by key.
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        self.stages.iter().any(|s| match s {
            Stage::Aggregate(_) => true,
            Stage::Transform(p) | Stage::Filter(p) => p.grants.contains(&Grant::State),
            Stage::KeyBy(_) => false,
        })
    }

    /// The parts that run beside one another: before an exchange through a topic and behind it, else the whole.
    #[must_use]
    pub fn parts(self) -> Vec<Self> {
        if self.exchange_partitions.is_none() {
            return vec![self];
        }
        let name = ExchangeTopic::topic_of(&self.name);
        let mut before = Self { name, part: Part::Before, ..self.clone() };
        // What it keeps is with its sources' groups.
        before.data_dir = None;
        let behind = Self { part: Part::Behind, ..self };
        vec![before, behind]
    }

    /// The name as the spec has it, of which its topics' names are made.
    #[must_use]
    pub fn whole_name(&self) -> &str {
        match self.part {
            Part::Before => self.name.strip_suffix("-exchange").unwrap_or(&self.name),
            Part::Whole | Part::Behind => &self.name,
        }
    }

    /// Where its state is on disk.
    #[must_use]
    pub fn state_directory(&self) -> Option<PathBuf> {
        self.data_dir.as_ref().map(|folder| DiskStore::directory(folder, &self.name))
    }

    /// Where the state of a partition of its exchange is.
    #[must_use]
    pub fn part_directory(&self, partition: u32) -> Option<PathBuf> {
        let folder = self.data_dir.as_ref()?.join(&self.name);
        Some(DiskStore::directory(&folder, &format!("p{partition}")))
    }

    /// Its exchange through a topic.
    #[must_use]
    pub fn exchange_topic(&self) -> Option<ExchangeTopic> {
        self.exchange_partitions.map(|partitions| ExchangeTopic {
            topic: ExchangeTopic::topic_of(self.whole_name()),
            partitions,
            key_groups: self.key_groups,
        })
    }

    /// The place of the key_by, where there is one: stages before it run by partition, those behind it
    /// by key.
    #[must_use]
    pub fn exchange(&self) -> Option<usize> {
        self.stages.iter().position(|s| matches!(s, Stage::KeyBy(_)))
    }
}

/// Takes passwords out of what a mistake quotes.
fn hide_secrets(diagnostic: &mut Diagnostic) {
    for text in [&mut diagnostic.title, &mut diagnostic.label].into_iter().chain(&mut diagnostic.help) {
        *text = secrets::hide(text);
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn read_bounded(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let size = std::fs::metadata(file).map_err(|e| format!("can't read the pipeline {shown}: {e}"))?.len();
    if size > SPEC_BYTES_MAX {
        return Err(format!("{shown} has {size} bytes; a spec has at most {SPEC_BYTES_MAX}"));
    }
    let bytes = std::fs::read(file).map_err(|e| format!("can't read the pipeline {shown}: {e}"))?;
    String::from_utf8(bytes)
        .map_err(|e| format!("{shown} is not UTF-8 from byte {} on", e.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests;
