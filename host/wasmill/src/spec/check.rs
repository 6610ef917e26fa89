//! From what is written to what it means: every rule that a key's type can't express.

mod aggregate;
mod grants;
mod replay;
mod stages;
mod time;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use wasmill_engine::condition::Condition;
use wasmill_engine::key::Path as FieldPath;
use wasmill_engine::output::When;
use wasmill_engine::topology::Topology;

use super::located::Located;
use super::raw::{Delivery, RawPipeline, RawRedis, RawState};
use super::{
    BATCH_SIZE_MAX, CodecSpec, EpochBounds, HumanDuration, HumanSize, KEY_GROUPS_MAX, Limits, NAME_BYTES_MAX,
    Part, Pipeline, Places, PluginLimits, SecretUrl, Sink, SourceSpec, StateSpec, WORKERS_MAX, folder_of,
};
use crate::report::{Diagnostic, Problems, Sources, Span};

/// The most workers that are taken where the spec names none.
const WORKERS_DEFAULT_MAX: usize = 64;
/// The batch size where the spec names none.
const BATCH_SIZE_DEFAULT: usize = 256;
/// The longest ordered end where the spec names none.
const SHUTDOWN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How often results of a broker are committed that are seen at once, where the spec says nothing: a
/// message waits for half of it on average. What each commit costs would matter with a store on disk.
const EPOCH_AT_ONCE: EpochBounds = EpochBounds { interval: Duration::from_millis(5), bytes_max: 2 << 20 };
/// How often results are committed in transactions of Kafka, where the spec says nothing: as Kafka Streams does.
const EPOCH_IN_TRANSACTIONS: EpochBounds =
    EpochBounds { interval: Duration::from_millis(100), bytes_max: 8 << 20 };
/// The schemes of a Redis server's URL.
const REDIS_SCHEMES: [&str; 2] = ["redis", "rediss"];
/// The longest window or allowed lateness: a hundred years, far inside the range of event times.
const EVENT_TIME_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Checks a spec's meaning.
pub(super) fn check(raw: RawPipeline, file: &Path, texts: Sources) -> Result<Pipeline, Problems> {
    let mut checker = Checker {
        diagnostics: Vec::new(),
        folder: folder_of(file).to_owned(),
        keyed: None,
        log: None,
        late_outputs: Vec::new(),
        exchange: None,
        named: grants::Named::default(),
        plugin_limits: PluginLimits::default(),
    };
    let pipeline = checker.pipeline(raw, file);
    match pipeline {
        Some(mut pipeline) if checker.diagnostics.is_empty() => {
            pipeline.places.texts = texts;
            Ok(pipeline)
        }
        _ => {
            let place = |d: &Diagnostic| d.span.map(|s| (s.source, s.start));
            checker.diagnostics.sort_by_key(place);
            Err(Problems { sources: texts, diagnostics: checker.diagnostics })
        }
    }
}

pub(super) struct Checker {
    diagnostics: Vec<Diagnostic>,
    folder: PathBuf,
    /// Where the key_by is, right or wrong.
    keyed: Option<Span>,
    /// What makes the stages behind the key_by go by the log.
    log: Option<Span>,
    /// Outputs that late messages go to.
    pub(super) late_outputs: Vec<Located<String>>,
    /// What bounds a plugin whose stage says nothing of it.
    pub(super) plugin_limits: PluginLimits,
    /// How many partitions an exchange has, and where it is asked for.
    pub(super) exchange: Option<(Located<u32>, Span)>,
    /// What grants may name.
    named: grants::Named,
}

impl Checker {
    /// The codec of an end, which may have none of its choice.
    fn codec(
        &mut self,
        end: &str,
        refuses: Option<&'static str>,
        codec: Option<Located<CodecSpec>>,
    ) -> CodecSpec {
        let Some(codec) = codec else { return CodecSpec::default() };
        if let Some(why) = refuses {
            self.wrong(codec.span, format!("`{end}` has no codec: {why}"), "remove it");
        }
        codec.value
    }

    pub(super) fn wrong(
        &mut self,
        span: Span,
        title: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Diagnostic {
        self.diagnostics.push(Diagnostic::at(span, title, label));
        let last = self.diagnostics.len() - 1;
        &mut self.diagnostics[last]
    }

    fn pipeline(&mut self, raw: RawPipeline, file: &Path) -> Option<Pipeline> {
        let top = raw.name.span;
        self.name("pipeline", &raw.name);
        let mut places = Places { delivery: raw.delivery.as_ref().map(|d| d.span), ..Places::default() };
        let sources = self.one_or_many(("source", raw.source), ("sources", raw.sources), top);
        let sinks = self.one_or_many(("sink", raw.sink), ("sinks", raw.sinks), top);
        places.sources = sources.iter().map(|s| s.span).collect();
        places.sinks = sinks.iter().map(|s| s.span).collect();
        let (sources, codecs): (Vec<_>, Vec<_>) = sources
            .into_iter()
            .map(|Located { value, span }| {
                let refuses = value.connector.refuses_codec();
                let codec = self.codec(value.connector.name(), refuses, value.codec);
                (Located { value: value.connector, span }, codec)
            })
            .unzip();
        let plugin_dir = self.plugin_dir(raw.plugin_dir.as_ref());
        let (secrets, lookups) = (self.secrets(raw.secrets), self.lookups(raw.lookups));
        let mut limits = raw.limits.map_or_else(Limits::default, |raw| self.limits(raw));
        self.plugin_limits = limits.plugin;
        let stages = self.stages(raw.stages, &plugin_dir);
        limits.room_for(stages.iter().filter_map(|stage| stage.value.plugin()));
        let sinks: Vec<Sink> = sinks
            .into_iter()
            .map(|s| {
                if let Some(output) = &s.value.output {
                    self.name("output", output);
                }
                let output = s.value.output.map(|o| o.value).filter(|o| o != "main");
                let when = s.value.when.map_or(When::Always, |when| self.when(&when));
                let refuses = s.value.connector.refuses_codec();
                let codec = self.codec(s.value.connector.name(), refuses, s.value.codec);
                let tried = self.tried(s.value.retry, s.value.breaker, &s.value.connector);
                Sink { connector: s.value.connector, output, when, codec, tried }
            })
            .collect();
        self.outputs(&sinks, &places);
        let time = self.time(raw.time, &sources);
        let epoch = raw.epoch;
        let delivery = raw.delivery.map_or(Delivery::default(), |d| d.value);
        let mut bounds = default_epoch(&sources, &sinks, delivery);
        if let Some(slot) = &raw.slot {
            self.name("slot", slot);
        }
        if let Some(e) = epoch {
            bounds.interval = self.duration("epoch.interval", e.interval, 1, bounds.interval);
            bounds.bytes_max = self.size("epoch.bytes", e.bytes, 1, bounds.bytes_max);
        }
        let key_groups =
            self.count("key_groups", raw.key_groups, KEY_GROUPS_MAX, usize::from(Topology::KEY_GROUPS));
        // One that is out of range was found wrong, so nobody sees what stands for it.
        let key_groups = u16::try_from(key_groups).unwrap_or(Topology::KEY_GROUPS);
        let time = time?;
        let replay = raw.replay;
        let replay_span = replay.as_ref().map(|replay| replay.span);
        places.sources.extend(replay_span);
        if let Some(replay) = &replay {
            self.replay(replay, raw.dead_letter.as_ref());
        }
        let pipeline = Pipeline {
            name: raw.name.value,
            file: file.to_owned(),
            // The last one: the others' numbers stay as they are.
            sources: sources.into_iter().chain(replay).map(|s| s.value).collect(),
            replays: replay_span.is_some(),
            // Letters are envelopes.
            codecs: codecs.into_iter().chain(replay_span.map(|_| CodecSpec::default())).collect(),
            time: time.field,
            idle_timeout: time.idle_timeout,
            max_ahead: time.max_ahead,
            workers: self.count("workers", raw.workers, WORKERS_MAX, default_workers()),
            batch_size: self.count("batch_size", raw.batch_size, BATCH_SIZE_MAX, BATCH_SIZE_DEFAULT),
            key_groups,
            plugin_dir,
            swap: raw.swap.map(|swap| swap.value).unwrap_or_default(),
            data_dir: raw.data_dir.map(|d| self.relative(&d)),
            state: raw.state.map_or(StateSpec::Local, |s| self.state(s)),
            stages: stages.into_iter().map(|s| s.value).collect(),
            sinks,
            dead_letter: raw.dead_letter.map(|d| d.value),
            delivery,
            slot: raw.slot.map(|s| s.value),
            epoch: bounds,
            limits,
            secrets,
            lookups,
            http: match raw.http {
                None => None,
                Some(http) => self.address(&http),
            },
            shutdown_timeout: self.duration(
                "shutdown_timeout",
                raw.shutdown_timeout,
                1,
                SHUTDOWN_TIMEOUT_DEFAULT,
            ),
            exchange_partitions: self.exchange.as_ref().map(|(partitions, _)| partitions.value),
            part: Part::Whole,
            places,
        };
        self.exchange(&pipeline);
        self.replay_exchange(replay_span);
        Some(pipeline)
    }

    /// An exchange through a topic is for what is exactly once within one cluster.
    fn exchange(&mut self, pipeline: &Pipeline) {
        let Some((partitions, span)) = self.exchange.clone() else { return };
        let most = u32::from(pipeline.key_groups).min(4_096);
        if !(1..=most).contains(&partitions.value) {
            let title = format!("`exchange.topic.partitions`: {} is out of range", partitions.value);
            let diagnostic =
                self.wrong(partitions.span, title, format!("expected a whole number from 1 to {most}"));
            diagnostic.help.push("each partition has some of the `key_groups`".to_owned());
        }
        let missing = match pipeline.transactions() {
            None if pipeline.delivery == Delivery::AtLeastOnce => "`delivery: exactly_once`",
            None => "a `kafka` sink, and state in this process",
            Some(sink) if !pipeline.sources.iter().all(|s| s.is_in_transactions_of(sink)) => {
                "sources on the `brokers` that it writes to"
            }
            Some(_) => return,
        };
        let title = "an exchange through a topic is for pipelines that are exactly once from Kafka to Kafka";
        self.wrong(span, title, format!("needs {missing}"));
    }

    /// A name that can be a folder's, a label's and a column's.
    pub(super) fn name(&mut self, whose: &str, name: &Located<String>) {
        let text = name.value.as_str();
        let right = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            let title = format!("the {whose}'s name has {} bytes", text.len());
            self.wrong(name.span, title, format!("expected 1 to {NAME_BYTES_MAX}"));
        } else if let Some(wrong) = text.chars().find(|c| !right(*c)) {
            let title = format!("the {whose}'s name has the character {wrong:?}");
            self.wrong(name.span, title, "expected letters, digits, `-`, `_` and `.` only");
        } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            let title = format!("the {whose}'s name starts with {:?}", &text[..1]);
            self.wrong(name.span, title, "expected a letter or a digit first");
        }
    }

    fn one_or_many<T>(
        &mut self,
        (one_key, one): (&str, Option<Located<T>>),
        (many_key, many): (&str, Option<Located<Vec<Located<T>>>>),
        top: Span,
    ) -> Vec<Located<T>> {
        match (one, many) {
            (Some(one), None) => vec![one],
            (None, Some(many)) => {
                if many.value.is_empty() {
                    self.wrong(many.span, format!("`{many_key}` is empty"), "at least one must be given");
                }
                many.value
            }
            (Some(one), Some(many)) => {
                let title = format!("both `{one_key}` and `{many_key}` are given");
                let diagnostic = self.wrong(many.span, title, "this one");
                diagnostic.also.push((one.span, "and this one".to_owned()));
                diagnostic.help.push(format!("put all of them under `{many_key}`"));
                Vec::new()
            }
            (None, None) => {
                let example =
                    if one_key == "source" { "{ file: { path: input.jsonl } }" } else { "{ stdout: {} }" };
                let title = format!("the pipeline has no {one_key}");
                self.wrong(top, title, format!("`{one_key}` or `{many_key}` must be given"))
                    .help
                    .push(format!("for example `{one_key}: {example}`"));
                Vec::new()
            }
        }
    }

    /// A path in the file starts from the file's folder; one in the environment, or given by an option,
    /// from the current one.
    fn relative(&self, path: &Located<String>) -> PathBuf {
        if path.span.source == 0 { self.folder.join(&path.value) } else { PathBuf::from(&path.value) }
    }

    fn plugin_dir(&mut self, given: Option<&Located<String>>) -> PathBuf {
        if let Some(given) = given {
            return self.relative(given);
        }
        let beside = self.folder.join("plugins");
        if beside.is_dir() { beside } else { PathBuf::from("plugins") }
    }

    fn path(&mut self, text: &Located<String>) -> Option<FieldPath> {
        match FieldPath::from_str(&text.value) {
            Ok(path) => Some(path),
            Err(_) => {
                let near = match text.value.split_once('.') {
                    None => format!("did you mean `payload.{}`?", text.value),
                    Some(_) => "expected id, type, key, timestamp, metadata.NAME or payload.FIELD".to_owned(),
                };
                self.wrong(text.span, format!("`{}` is no place in a message", text.value), near).help.push(
                    "a message has id, type, key, timestamp, metadata.NAME and payload.FIELD.FIELD…"
                        .to_owned(),
                );
                None
            }
        }
    }

    pub(super) fn count(
        &mut self,
        key: &str,
        given: Option<Located<u32>>,
        max: u32,
        default: usize,
    ) -> usize {
        let Some(given) = given else { return default };
        if given.value == 0 || given.value > max {
            let title = format!("`{key}`: {} is out of range", given.value);
            self.wrong(given.span, title, format!("expected a whole number from 1 to {max}"));
        }
        given.value as usize
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        given: Option<Located<HumanDuration>>,
        min_ms: u64,
        default: Duration,
    ) -> Duration {
        let Some(given) = given else { return default };
        let duration = Duration::from_millis(given.value.as_millis());
        if given.value.as_millis() < min_ms {
            self.wrong(given.span, format!("`{key}` is {}", given.value), "must be longer");
        } else if duration > EVENT_TIME_MAX {
            self.wrong(given.span, format!("`{key}` is longer than a hundred years"), "must be shorter");
        }
        duration
    }

    pub(super) fn size(
        &mut self,
        key: &str,
        given: Option<Located<HumanSize>>,
        min: u64,
        default: usize,
    ) -> usize {
        // The layouts count bytes in 32 bits.
        self.size_within(key, given, min..=2 << 30, default)
    }

    pub(super) fn size_within(
        &mut self,
        key: &str,
        given: Option<Located<HumanSize>>,
        range: RangeInclusive<u64>,
        default: usize,
    ) -> usize {
        let Some(given) = given else { return default };
        if !range.contains(&given.value.0) {
            let title = format!("`{key}`: {} is out of range", given.value);
            let label = format!("expected {} to {}", HumanSize(*range.start()), HumanSize(*range.end()));
            self.wrong(given.span, title, label);
        }
        usize::try_from(given.value.0).unwrap_or(usize::MAX)
    }

    fn address(&mut self, http: &Located<String>) -> Option<std::net::SocketAddr> {
        if http.value == "off" {
            return None;
        }
        match http.value.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let title = format!("`http`: `{}` is no address to listen at", http.value);
                self.wrong(http.span, title, "expected IP:PORT, such as `127.0.0.1:9464`, or `off`");
                None
            }
        }
    }

    fn state(&mut self, raw: Located<RawState>) -> StateSpec {
        let RawRedis { url, ca_file } = raw.value.redis;
        if super::secrets::server_of(&url.value, &REDIS_SCHEMES).is_none() {
            let title = format!("`{}` is no URL of a Redis server", super::secrets::hide(&url.value));
            self.wrong(url.span, title, "expected `redis://HOST:PORT`, or `rediss://…` for an encrypted one");
        }
        if let Some(file) = ca_file.as_ref().filter(|_| !url.value.starts_with("rediss:")) {
            let title = "`ca_file` is for an encrypted connection, which `url` doesn't ask for";
            self.wrong(file.span, title, "write `rediss://…` as the `url`, or leave this out");
        }
        let ca_file = ca_file.map(|file| self.relative(&file));
        StateSpec::Redis { url: SecretUrl::new(url.value), ca_file }
    }

    /// A sink's condition.
    fn when(&mut self, text: &Located<String>) -> When {
        if text.value.trim() == "otherwise" {
            return When::Otherwise;
        }
        match text.value.parse::<Condition>() {
            Ok(condition) => When::Holds(Arc::new(condition)),
            Err(wrong) => {
                let shown = text.value.get(wrong.at..).filter(|rest| !rest.is_empty());
                let label = match shown {
                    Some(rest) => format!("at `{rest}`: {wrong}"),
                    None => format!("at its end: {wrong}"),
                };
                let help = "such as `type == 'departed' && payload.delay > 15`, or `otherwise`".to_owned();
                self.wrong(text.span, "this `when` is no condition", label).help.push(help);
                When::Always
            }
        }
    }

    /// Every message that leaves must have a sink that takes it.
    fn outputs(&mut self, sinks: &[Sink], places: &Places) {
        if let (Some(span), false) = (places.sinks.first(), sinks.iter().any(|s| s.output.is_none())) {
            self.wrong(*span, "no sink takes what comes out of the last stage", "takes a named output only")
                .help
                .push("add a sink without `output`".to_owned());
        }
        for Located { value: name, span } in std::mem::take(&mut self.late_outputs) {
            if name == "main" || sinks.iter().any(|s| s.output.as_ref() == Some(&name)) {
                continue;
            }
            let known = sinks.iter().filter_map(|s| s.output.as_deref());
            let label = match crate::report::nearest(&name, known) {
                Some(near) => format!("a sink takes `{near}`: did you mean that?"),
                None => format!("add a sink with `output: {name}`"),
            };
            self.wrong(span, format!("late messages go to the output `{name}`, which no sink takes"), label);
        }
    }
}

/// How often results are committed where the spec says nothing. Between a broker and a sink that shows
/// messages at once nobody gains by waiting; files and the like are written in greater pieces.
fn default_epoch(sources: &[Located<SourceSpec>], sinks: &[Sink], delivery: Delivery) -> EpochBounds {
    if delivery == Delivery::ExactlyOnce && sinks.iter().any(|s| s.connector.in_transactions().is_some()) {
        return EPOCH_IN_TRANSACTIONS;
    }
    let shown_at_once = |s: &Sink| !s.connector.traits().transactional;
    let at_once = sinks.iter().filter(|s| s.output.is_none()).any(shown_at_once);
    if at_once && sources.iter().any(|s| s.value.traits().shared) {
        EPOCH_AT_ONCE
    } else {
        EpochBounds::default()
    }
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(WORKERS_DEFAULT_MAX)
}
