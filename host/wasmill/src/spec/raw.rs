//! The spec as it is written: what `docs/pipeline.schema.json` describes, key for key.
//!
//! The comments here are the schema's descriptions, so they speak to the author of a pipeline.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::outside::{CodecSpec, SinkSpec, SourceSpec};
use super::outside::{HumanDuration, HumanSize, parse_duration};
pub use super::raw_source::RawSource;
use super::raw_source::codec_schema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::built_ins::RawAggregate;
use super::limits::{RawLimits, RawPluginLimits};
use super::located::Located;
use super::raw_grants::{RawGrant, RawLookup, RawSecret};
use super::retry::{RawBreaker, RawSinkRetry, RawStageRetry};
use super::window::RawWindow;

/// A wasmill pipeline: from its sources, through its stages, to its sinks.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "wasmill pipeline")]
pub struct RawPipeline {
    /// The pipeline's name: letters, digits, `-`, `_` and `.`. Its state is kept under this name.
    pub name: Located<String>,
    /// Where messages come from. Either this or `sources`.
    pub source: Option<Located<RawSource>>,
    /// Several sources, all read at once. Either this or `source`.
    pub sources: Option<Located<Vec<Located<RawSource>>>>,
    /// Which field is a message's event time. Default: the envelope's `timestamp`.
    pub time: Option<RawTime>,
    /// How many threads work. Default: one a processor. Changes no result. Environment: WORKER_COUNT.
    pub workers: Option<Located<u32>>,
    /// How many messages a plugin is given at once, at most. Default: 256. Changes no result.
    /// Environment: BATCH_SIZE.
    pub batch_size: Option<Located<u32>>,
    /// Into how many groups keys are hashed: no more workers than these can share stateful work. Default: 128.
    /// Changes no result, but state depends on it: `wasmill state rehash` changes that of a stopped pipeline.
    pub key_groups: Option<Located<u32>>,
    /// The folder of the plugins. Default: `plugins` beside this file, else `./plugins`. Environment:
    /// PLUGIN_DIR, which is relative to the current folder.
    pub plugin_dir: Option<Located<String>>,
    /// When a new version of a plugin in that folder takes over from the one that runs. Default: auto.
    pub swap: Option<Located<SwapBy>>,
    /// The folder in which positions and state outlive the process. Without it they are in memory, and a
    /// restart reads everything again. Environment: DATA_DIR, which is relative to the current folder.
    pub data_dir: Option<Located<String>>,
    /// Where state is kept. Default: in this process, on disk with a `data_dir`, else in memory.
    pub state: Option<Located<RawState>>,
    /// What happens to the messages, in this order.
    #[serde(default)]
    pub stages: Vec<Located<RawStage>>,
    /// Where messages go. Either this or `sinks`.
    pub sink: Option<Located<RawSink>>,
    /// Several sinks. Either this or `sink`.
    pub sinks: Option<Located<Vec<Located<RawSink>>>>,
    /// Where messages go that could not be processed, each with the reason. Without it they are counted
    /// and logged, and gone.
    pub dead_letter: Option<Located<SinkSpec>>,
    /// Where dead letters of this pipeline come from that are to be put through again, each from the stage where it
    /// failed; `wasmill dlq replay` writes there. A source that can be read again, and not what `dead_letter`
    /// writes. Its messages move no stream time.
    pub replay: Option<Located<SourceSpec>>,
    /// What the pipeline must promise. Default: at_least_once. A promise that its source, store and sinks
    /// can't keep together is refused at start.
    pub delivery: Option<Located<Delivery>>,
    /// Which of the pipeline's processes this is, where it writes to Kafka exactly once: its transactions have
    /// the id NAME-SLOT. It must outlive the process and be no other's. Default: 0 where one process runs the
    /// pipeline alone, else the host's name. Environment: WASMILL_SLOT.
    pub slot: Option<Located<String>>,
    /// How often results are committed.
    pub epoch: Option<RawEpoch>,
    /// Bounds on messages, plugins and queues.
    pub limits: Option<RawLimits>,
    /// Secrets that plugins may be granted, by name: where each comes from.
    pub secrets: Option<Located<BTreeMap<String, Located<RawSecret>>>>,
    /// Tables that plugins may be granted to look into, by name.
    pub lookups: Option<Located<BTreeMap<String, Located<RawLookup>>>>,
    /// The address of the HTTP pages: health, metrics; or `off`, which it is where nothing is given.
    pub http: Option<Located<String>>,
    /// How long an ordered end may take. Default: 30s. Environment: SHUTDOWN_TIMEOUT.
    pub shutdown_timeout: Option<Located<HumanDuration>>,
}

/// When a new version of a plugin takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SwapBy {
    /// As soon as its file is there and it is admitted.
    #[default]
    Auto,
    /// By `wasmill plugin promote`; it is looked at as soon as it is there.
    Hand,
    /// Never while the pipeline runs: at its next start.
    Restart,
}

/// Which field is a message's event time.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTime {
    /// `timestamp`, `payload.FIELD` or `metadata.NAME`. Default: `timestamp`.
    pub field: Option<Located<String>>,
    /// After how long without a message a partition no longer holds stream time, or `off`. Default: 30s
    /// where a source is a broker, else off. For sources that may fall silent, such as stdin beside a file.
    pub idle_timeout: Option<Located<IdleTimeout>>,
    /// How far an event time may be ahead of the time at which the source took the message in, as a Kafka
    /// topic with `message.timestamp.type=LogAppendTime` tells it. Default: any distance. One message from
    /// the future would close all windows before it.
    pub max_ahead: Option<Located<HumanDuration>>,
    /// Beside `max_ahead`: what becomes of a message that is further ahead. Default: dead_letter.
    pub on_ahead: Option<Located<RawOnAhead>>,
}

/// What becomes of a message whose event time is too far ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawOnAhead {
    /// It goes to the dead-letter queue.
    DeadLetter,
    /// It gets the latest event time that is allowed, and is counted.
    Clamp,
}

/// A duration, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleTimeout {
    /// A quiet partition holds stream time for ever.
    Off,
    /// It does for so long.
    After(HumanDuration),
}

impl<'de> Deserialize<'de> for IdleTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OffOrDuration;
        impl Visitor<'_> for OffOrDuration {
            type Value = IdleTimeout;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 30s, or `off`")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<IdleTimeout, E> {
                if on { Err(E::invalid_type(de::Unexpected::Bool(on), &self)) } else { Ok(IdleTimeout::Off) }
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<IdleTimeout, E> {
                HumanDuration::deserialize(de::value::U64Deserializer::new(n)).map(IdleTimeout::After)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<IdleTimeout, E> {
                if text == "off" {
                    return Ok(IdleTimeout::Off);
                }
                let duration = parse_duration(text).map_err(|e| E::custom(format!("{e}, or `off`")))?;
                Ok(IdleTimeout::After(HumanDuration(duration)))
            }
        }
        deserializer.deserialize_any(OffOrDuration)
    }
}

impl JsonSchema for IdleTimeout {
    fn schema_name() -> Cow<'static, str> {
        "IdleTimeout".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let duration = generator.subschema_for::<HumanDuration>();
        json_schema!({ "anyOf": [duration, { "const": "off" }] })
    }
}

/// A store that other processes reach too.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawState {
    /// State in Redis, and the positions with it.
    pub redis: RawRedis,
}

/// Redis as a store of state.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRedis {
    /// Its URL: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`; `rediss://` is encrypted.
    pub url: Located<String>,
    /// With `rediss://`: a file of certificates in PEM that are trusted beside the system's.
    pub ca_file: Option<Located<String>>,
}

/// What a pipeline promises about each result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// After a crash every result is there exactly once.
    ExactlyOnce,
    /// After a crash every result is there, some perhaps twice.
    #[default]
    AtLeastOnce,
}

/// One stage. It has exactly one of `transform`, `filter`, `key_by` and `aggregate`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawStage {
    /// Changes messages by a plugin.
    pub transform: Option<Located<RawPlugin>>,
    /// Lets messages pass or not by a plugin.
    pub filter: Option<Located<RawPlugin>>,
    /// Gives each message the key that the stages behind gather by: `payload.FIELD`, `type`, `id`, `key`,
    /// `metadata.NAME`, or a list of these.
    pub key_by: Option<Located<RawKey>>,
    /// Beside `key_by`: what becomes of a message whose key is null. Default: dead_letter.
    pub on_null: Option<Located<RawOnNull>>,
    /// Beside `key_by`: how messages come to who has their key. Default: within this process, which then runs
    /// the pipeline alone.
    pub exchange: Option<Located<RawExchange>>,
    /// Gathers messages of a key into a value, by a plugin or by built-ins.
    pub aggregate: Option<Located<RawAggregate>>,
    /// Beside `aggregate`: over which stretch of event time. Without it the aggregate runs on for ever and
    /// answers for each message.
    pub window: Option<Located<RawWindow>>,
    /// Beside `aggregate`: in which order it sees messages of several partitions. `log`, the same at
    /// every run, is the default where there are windows; `arrival`, at once, where there are none.
    pub order: Option<Located<Order>>,
    /// Beside a plugin: how often a message is tried that it can't process. Default: alone, once.
    pub retry: Option<Located<RawStageRetry>>,
    /// Beside a plugin: slows the stage down while one message after the other fails; changes no result.
    /// Default: none.
    pub breaker: Option<Located<RawBreaker>>,
    /// Beside a plugin: its own bounds. Default: the pipeline's `limits`.
    pub limits: Option<Located<RawPluginLimits>>,
    /// The stage's name. Default: the plugin's or the built-in's; of several built-ins `aggregate`.
    pub name: Option<Located<String>>,
}

/// An exchange between several processes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawExchange {
    /// Through a topic of Kafka, which wasmill makes: NAME-exchange. For pipelines that are exactly once from
    /// Kafka to Kafka.
    pub topic: RawExchangeTopic,
}

/// The topic of an exchange.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawExchangeTopic {
    /// How many partitions it has: no more processes than these can share the stages behind it. State depends
    /// on it.
    pub partitions: Located<u32>,
}

/// In which order an aggregate sees messages of several partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they arrive; the order is logged, so that a replay repeats it.
    Arrival,
    /// By event time, the same at every run.
    Log,
}

/// What becomes of a message whose key is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawOnNull {
    /// It goes to the dead-letter queue.
    DeadLetter,
    /// It is dropped, and counted as dropped.
    Drop,
    /// All of them share one key.
    Shared,
}

/// How often results are committed: whichever comes first.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEpoch {
    /// After this long. Default: 5ms from a broker to a sink that shows messages at once, else 200ms.
    pub interval: Option<Located<HumanDuration>>,
    /// After this many bytes of messages. Default: 8MiB; 2MiB from a broker to a main sink that shows
    /// messages at once.
    pub bytes: Option<Located<HumanSize>>,
}

/// A plugin in a stage: its name, or the long form.
#[derive(Debug, Clone)]
pub struct RawPlugin {
    /// Its file's name in the plugin folder, without `.wasm`.
    pub plugin: Located<String>,
    /// The stage's name.
    pub name: Option<Located<String>>,
    /// What it may use.
    pub grants: Vec<Located<RawGrant>>,
    /// What it reads as its config.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// What a plugin may be granted beyond its messages, by its name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// State of the message's key.
    State,
    /// Counters of its own in the metrics.
    Metrics,
    /// The wall clock: results can't be replayed any more.
    WallClock,
    /// Secrets of the pipeline's.
    Secrets,
    /// Outgoing HTTP: results can't be replayed any more.
    Http,
    /// Tables of the pipeline's.
    Lookup,
}

/// The keys of a plugin in its long form.
pub(super) const PLUGIN_KEYS: [&str; 4] = ["plugin", "name", "grants", "config"];

/// A plugin in its long form.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LongPlugin {
    /// The plugin's name: its file in the plugin folder, without `.wasm`.
    plugin: Located<String>,
    /// The stage's name. Default: the plugin's.
    name: Option<Located<String>>,
    /// What the plugin may use beyond its messages.
    #[serde(default)]
    grants: Vec<Located<RawGrant>>,
    /// What the plugin reads as its config.
    #[serde(default)]
    config: BTreeMap<String, serde_json::Value>,
}

impl<'de> Deserialize<'de> for RawPlugin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PluginVisitor)
    }
}

struct PluginVisitor;

impl<'de> Visitor<'de> for PluginVisitor {
    type Value = RawPlugin;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plugin's name, or a map with `plugin`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<RawPlugin, E> {
        // The place is the whole value's, which whoever holds this in a `Located` knows.
        let plugin = Located { value: name.to_owned(), span: crate::report::Span::default() };
        Ok(RawPlugin { plugin, name: None, grants: Vec::new(), config: BTreeMap::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawPlugin, A::Error> {
        LongPlugin::deserialize(MapAccessDeserializer::new(map)).map(RawPlugin::from)
    }
}

impl From<LongPlugin> for RawPlugin {
    fn from(LongPlugin { plugin, name, grants, config }: LongPlugin) -> Self {
        Self { plugin, name, grants, config }
    }
}

impl JsonSchema for RawPlugin {
    fn schema_name() -> Cow<'static, str> {
        "Plugin".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<LongPlugin>();
        json_schema!({
            "description": "A plugin: its name, or a map for its grants and config.",
            "anyOf": [{ "type": "string" }, long],
        })
    }
}

/// One path, or several for a compound key.
#[derive(Debug, Clone)]
pub struct RawKey(pub Vec<Located<String>>);

impl<'de> Deserialize<'de> for RawKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = RawKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place in the message such as `payload.carrier`, or a list of them")
    }

    fn visit_str<E: de::Error>(self, path: &str) -> Result<RawKey, E> {
        Ok(RawKey(vec![Located { value: path.to_owned(), span: crate::report::Span::default() }]))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<RawKey, A::Error> {
        let mut paths = Vec::new();
        while let Some(path) = seq.next_element()? {
            paths.push(path);
        }
        Ok(RawKey(paths))
    }
}

impl JsonSchema for RawKey {
    fn schema_name() -> Cow<'static, str> {
        "Key".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One place in the message, or several for a compound key.",
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ],
        })
    }
}

/// A sink: one connector's key, and beside it which output it takes.
#[derive(Debug, Clone)]
pub struct RawSink {
    /// Where the messages go.
    pub connector: SinkSpec,
    /// The output that it takes; none: what comes out of the last stage.
    pub output: Option<Located<String>>,
    /// Which of that output's messages it takes; none: all.
    pub when: Option<Located<String>>,
    /// How messages are written in bytes; none: as JSON envelopes.
    pub codec: Option<Located<CodecSpec>>,
    /// How it is asked again while its other end is away.
    pub retry: Option<Located<RawSinkRetry>>,
    /// Its circuit breaker.
    pub breaker: Option<Located<RawBreaker>>,
}

impl<'de> Deserialize<'de> for RawSink {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SinkVisitor)
    }
}

struct SinkVisitor;

impl<'de> Visitor<'de> for SinkVisitor {
    type Value = RawSink;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sink, such as `file: { path: out }`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<RawSink, E> {
        let connector = SinkSpec::deserialize(de::value::StrDeserializer::new(name))?;
        Ok(RawSink { connector, output: None, when: None, codec: None, retry: None, breaker: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawSink, A::Error> {
        let (mut connector, mut output, mut when, mut codec) = (None, None, None, None);
        let (mut retry, mut breaker) = (None, None);
        while let Some(key) = map.next_key_seed(SinkKeySeed { more: connector.is_none() })? {
            match key {
                SinkKey::Output => output = Some(map.next_value()?),
                SinkKey::When => when = Some(map.next_value()?),
                SinkKey::Codec => codec = Some(map.next_value()?),
                SinkKey::Retry => retry = Some(map.next_value()?),
                SinkKey::Breaker => breaker = Some(map.next_value()?),
                SinkKey::Connector(name) => {
                    connector = Some(SinkSpec::deserialize(MapAccessDeserializer::new(OneEntry {
                        name: Some(name),
                        map: &mut map,
                    }))?)
                }
            }
        }
        let connector = connector
            .ok_or_else(|| de::Error::custom("no sink is named here, such as `file: { path: out }`"))?;
        Ok(RawSink { connector, output, when, codec, retry, breaker })
    }
}

/// A key of a sink.
enum SinkKey {
    Output,
    When,
    Codec,
    Retry,
    Breaker,
    Connector(String),
}

struct SinkKeySeed {
    more: bool,
}

impl<'de> DeserializeSeed<'de> for SinkKeySeed {
    type Value = SinkKey;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SinkKey, D::Error> {
        let key = String::deserialize(deserializer)?;
        match key.as_str() {
            "output" => return Ok(SinkKey::Output),
            "when" => return Ok(SinkKey::When),
            "codec" => return Ok(SinkKey::Codec),
            "retry" => return Ok(SinkKey::Retry),
            "breaker" => return Ok(SinkKey::Breaker),
            _ => {}
        }
        // The name is checked here, where the key's place is known.
        let known: Vec<&str> = super::outside::sink_names();
        if !known.contains(&key.as_str()) {
            let names = known.iter().copied().chain(["output", "when", "codec", "retry", "breaker"]);
            let near = crate::report::did_you_mean(&key, names.collect::<Vec<_>>());
            return Err(de::Error::custom(format!("unknown sink `{key}`: {near}")));
        }
        if !self.more {
            return Err(de::Error::custom(format!(
                "`{key}` is a second sink in one place: use a list, `sinks:`"
            )));
        }
        Ok(SinkKey::Connector(key))
    }
}

/// The connector's entry alone, as a map of one key.
pub(super) struct OneEntry<'a, A> {
    pub(super) name: Option<String>,
    pub(super) map: &'a mut A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for OneEntry<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(name) = self.name.take() else { return Ok(None) };
        seed.deserialize(de::value::StringDeserializer::<A::Error>::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

impl JsonSchema for RawSink {
    fn schema_name() -> Cow<'static, str> {
        "Sink".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        // Each form of a sink, with what is allowed beside its key.
        let codec = codec_schema(generator, "written");
        let mut schema = SinkSpec::json_schema(generator);
        let retry = generator.subschema_for::<RawSinkRetry>();
        let breaker = generator.subschema_for::<RawBreaker>();
        for forms in ["oneOf", "anyOf"] {
            let Some(list) = schema.get_mut(forms).and_then(|f| f.as_array_mut()) else { continue };
            for form in list.iter_mut() {
                if let Some(properties) = form.get_mut("properties").and_then(|p| p.as_object_mut()) {
                    properties.insert(
                        "output".into(),
                        serde_json::json!({
                            "type": "string",
                            "description": "The output that this sink takes. Default: main, what comes out of the last stage.",
                        }),
                    );
                    properties.insert("retry".into(), retry.clone().into());
                    properties.insert("breaker".into(), breaker.clone().into());
                    properties.insert(
                        "when".into(),
                        serde_json::json!({
                            "type": "string",
                            "description": "Which messages of that output this sink takes: a condition such as `type == 'departed' && payload.delay > 15`, or `otherwise` for those that no other condition takes. Default: all.",
                        }),
                    );
                    properties.insert("codec".into(), codec.clone());
                }
            }
        }
        schema
    }
}
