//! What a pipeline will do and promise, as `check` and `explain` tell it.

use serde::Serialize;
use wasmill_connect::kafka::Changelog;
use wasmill_connect::{SinkTraits, SourceTraits};
use wasmill_engine::output::When;
use wasmill_engine::topology::OnAhead;

use super::exit::{Exit, Stop};
use crate::report::Diagnostic;
use crate::spec::guarantee::{Route, RouteSink, RouteSource, route, too_weak};
use crate::spec::secrets::is_secret;
use crate::spec::{
    AggregateStage, CodecSpec, ComputedBy, Delivery, Grant, Granted, HumanSize, Kept, Late, LookupSpec,
    Order, Pipeline, Sharing, SinkSpec, Stage, StateSpec, SwapBy, Then,
};

/// A pipeline as it will run.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its sources.
    pub sources: Vec<End>,
    /// Its stages in order.
    pub stages: Vec<Step>,
    /// Its sinks, the one for dead letters included.
    pub sinks: Vec<End>,
    /// The tables that its stages look into.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<LookedInto>,
    /// What is promised for each source and sink.
    pub routes: Vec<Route>,
    /// What the spec asks for.
    pub delivery: Delivery,
    /// How many threads work.
    pub workers: usize,
    /// Where positions and state are kept.
    pub kept: Kept,
    /// The same, in words.
    pub kept_where: String,
    /// Whether several processes may run it together.
    pub sharing: Sharing,
    /// What keeps them from it, each with what to change.
    pub alone_because: Vec<String>,
    /// After how long results are committed, in milliseconds.
    pub epoch_interval_ms: u64,
    /// After how long a quiet partition no longer holds stream time, in milliseconds; none: never.
    pub idle_timeout_ms: Option<u64>,
    /// How far an event time may be ahead of when the source took the message in; none: any distance.
    pub max_ahead: Option<Ahead>,
    /// Whether a replay gives the same results.
    pub replayable: bool,
    /// What keeps it from that.
    pub not_replayable_because: Vec<String>,
    /// What the author may want to know.
    pub notes: Vec<String>,
}

/// A bound on event times.
#[derive(Debug, Serialize)]
pub struct Ahead {
    /// So many milliseconds.
    pub ms: i64,
    /// What becomes of a message beyond it.
    pub beyond: &'static str,
}

/// A source or a sink.
#[derive(Debug, Serialize)]
pub struct End {
    /// What people call it.
    pub name: String,
    /// Its settings, as the spec has them.
    pub settings: serde_json::Value,
    /// How its messages are read or written in bytes.
    pub codec: &'static str,
    /// What it is like.
    pub is: Vec<&'static str>,
    /// What a sink takes, and a source that takes dead letters alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takes: Option<String>,
    /// How a sink is tried again, where that is not as by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
}

/// One stage.
#[derive(Debug, Serialize)]
pub struct Step {
    /// transform, filter, key_by or aggregate.
    pub kind: &'static str,
    /// Its name; of a key_by the key.
    pub name: String,
    /// What its built-ins compute, each in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub built_ins: Vec<String>,
    /// Its plugin's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Its grants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// What its grants say beyond their names, each in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub granted: Vec<String>,
    /// How a message that fails is tried again, where that is not as by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
    /// Where it runs and in which order it sees messages.
    pub runs: String,
}

/// A table that stages look into.
#[derive(Debug, Serialize)]
pub struct LookedInto {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// The column or field that rows are found by.
    pub key: String,
    /// How many rows it has; none where it can't be read.
    pub rows: Option<usize>,
    /// The SHA-256 of its file; none where it can't be read.
    pub digest: Option<String>,
    /// Why it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

fn lookups(pipeline: &Pipeline) -> Vec<LookedInto> {
    let looked_into = |(name, spec): (&str, &LookupSpec)| {
        let table = spec.table();
        LookedInto {
            name: name.to_owned(),
            file: spec.file.display().to_string(),
            key: spec.key.clone(),
            rows: table.ok().map(|t| t.rows.len()),
            digest: table.ok().map(|t| t.digest.clone()),
            problem: table.err().map(str::to_owned),
        }
    };
    pipeline.granted_lookups().into_iter().map(looked_into).collect()
}

/// What grants say beyond their names.
fn granted(granted: &Granted) -> Vec<String> {
    let mut told = Vec::new();
    if !granted.secrets.is_empty() {
        told.push(format!("secrets {}", granted.secrets.join(", ")));
    }
    if let Some(http) = &granted.http {
        let joined = |names: Vec<String>| names.join(", ");
        told.push(format!(
            "http {} to {}; at most {} a second, {} at once, {} and {} each",
            joined(http.methods.iter().map(ToString::to_string).collect()),
            joined(http.allow.iter().map(ToString::to_string).collect()),
            http.rate_per_second,
            http.concurrency,
            human(http.timeout),
            HumanSize(http.response_bytes_max as u64),
        ));
    }
    if !granted.lookups.is_empty() {
        told.push(format!("lookup {}", granted.lookups.join(", ")));
    }
    told
}

/// The key groups of a pipeline.
const KEY_GROUPS: u16 = wasmill_engine::topology::Topology::KEY_GROUPS;

/// Plans a pipeline. Connects to nothing.
///
/// # Errors
/// When the settings of a source or sink can't be right.
pub fn plan(pipeline: &Pipeline) -> Result<Plan, Stop> {
    let (sources, source_traits) = sources(pipeline)?;
    let (mut sinks, sink_traits) = sinks(pipeline)?;
    let kept = pipeline.kept();
    let exact = pipeline.transactions().is_some();
    let keeps_tokens = pipeline.keeps_tokens();
    let mut routes = Vec::new();
    for (source, traits) in sources.iter().zip(&source_traits) {
        for ((sink, sink_traits), spec) in sinks.iter().zip(&sink_traits).zip(&pipeline.sinks) {
            routes.push(route(
                RouteSource { name: &source.name, traits: *traits },
                kept,
                exact,
                RouteSink {
                    name: &sink.name,
                    traits: *sink_traits,
                    in_transaction: pipeline.in_transactions(&spec.connector).is_some(),
                    knows_repeats: match sink_traits.by_token {
                        // A pipeline that Kafka's transactions commit has no token before its first one.
                        true => keeps_tokens && (sink_traits.transactional || kept != Kept::Changelog),
                        false => sink_traits.transactional || pipeline.sharing() == Sharing::Alone,
                    },
                    conditions: spec.connector.conditions().iter().map(ToString::to_string).collect(),
                    more: more_of(pipeline, &spec.connector),
                },
            ));
        }
    }
    let mut notes = Vec::new();
    match &pipeline.dead_letter {
        Some(_) => {}
        None => notes.push(
            "no dead_letter: a message that can't be processed is written whole to the log; add `dead_letter` to keep such messages where they can be found"
                .to_owned(),
        ),
    }
    if pipeline.is_stateful() && kept == Kept::Memory {
        notes.push(if source_traits.iter().all(|t| t.seekable) {
            "no data_dir: state is in memory, and a restart reads all from the start".to_owned()
        } else {
            "no data_dir: state is in memory, and a restart begins anew".to_owned()
        });
    }
    if pipeline.data_dir.is_some()
        && matches!(kept, Kept::Source | Kept::Redis | Kept::Postgres | Kept::Acked)
    {
        notes.push("the data_dir is not used: nothing is kept in it".to_owned());
    }
    let sharing = pipeline.sharing();
    if sharing == Sharing::Store && pipeline.is_stateful() {
        notes.push(
            "totals are exact at each commit; a replay may number messages anew, and two processes may give the same number"
                .to_owned(),
        );
    }
    if let Some(dead) = &pipeline.dead_letter {
        dead.sink().map_err(|e| Stop::error(Exit::Usage, format!("dead_letter: {e}")))?;
        let traits = pipeline.sink_traits(dead);
        sinks.push(End {
            name: dead.name().to_owned(),
            settings: settings(dead),
            codec: "json",
            is: sink_is(traits),
            takes: Some("dead letters".to_owned()),
            tried: Vec::new(),
        });
    }
    let not_replayable_because = not_replayable(pipeline, &source_traits);
    Ok(Plan {
        name: pipeline.name.clone(),
        file: pipeline.file.display().to_string(),
        stages: steps(pipeline, sources.len()),
        sources,
        sinks,
        lookups: lookups(pipeline),
        routes,
        delivery: pipeline.delivery,
        workers: pipeline.workers,
        kept,
        kept_where: kept_where(pipeline, kept),
        sharing,
        alone_because: pipeline.alone_because(),
        epoch_interval_ms: millis(pipeline.epoch.interval),
        idle_timeout_ms: pipeline.idle_timeout.map(millis),
        max_ahead: pipeline.max_ahead.map(|most| Ahead {
            ms: most.ms,
            beyond: match most.beyond {
                OnAhead::DeadLetter => "dead_letter",
                OnAhead::Clamp => "clamp",
            },
        }),
        replayable: not_replayable_because.is_empty(),
        not_replayable_because,
        notes,
    })
}

/// Refuses a pipeline that asks for more than one of its routes can give.
///
/// # Errors
/// The route, why it can't, and what to change, at the place in the spec.
pub fn refuse_too_weak(pipeline: &Pipeline, plan: &Plan) -> Result<(), Stop> {
    // What nobody asked for is told by `explain`, not refused.
    let Some(span) = pipeline.delivery_span() else { return Ok(()) };
    let weak = too_weak(&plan.routes, pipeline.delivery);
    let Some(worst) = weak.first() else { return Ok(()) };
    let asked = match pipeline.delivery {
        Delivery::ExactlyOnce => "exactly-once",
        Delivery::AtLeastOnce => "at-least-once",
    };
    let title = format!("{asked} is not possible from {} to {}", worst.source, worst.sink);
    let mut diagnostic = Diagnostic::at(span, title, format!("this route is {}", worst.guarantee));
    for because in &worst.because {
        diagnostic = diagnostic.help(format!("because {because}"));
    }
    for more in &worst.for_more {
        diagnostic = diagnostic.help(format!("to get it, {more}"));
    }
    Err(Stop::problems(Exit::Usage, &pipeline.problem(diagnostic)))
}

fn kept_where(pipeline: &Pipeline, kept: Kept) -> String {
    match (kept, &pipeline.state) {
        (Kept::Redis, StateSpec::Redis { url, .. }) => format!("in Redis at {url}"),
        (Kept::Postgres, _) => "in the database that it writes to".to_owned(),
        (Kept::Source | Kept::Redis | Kept::Acked, _) => {
            "with the sources' groups; there is no state".to_owned()
        }
        (Kept::Disk, _) => {
            let folder = pipeline.data_dir.as_deref().unwrap_or(std::path::Path::new("."));
            format!("in the data directory {}", folder.display())
        }
        (Kept::Changelog, _) => {
            let topic = Changelog::topic_of(&pipeline.name);
            match &pipeline.data_dir {
                Some(folder) => format!("in the topic {topic}, and what follows it in {}", folder.display()),
                None => format!("in the topic {topic}, and what follows it in memory"),
            }
        }
        (Kept::Memory, _) => "in memory: nothing outlives the process".to_owned(),
    }
}

/// What would make a sink promise more.
fn more_of(pipeline: &Pipeline, sink: &SinkSpec) -> Option<String> {
    sink.in_transactions().map(|_| match (&pipeline.delivery, pipeline.transactions()) {
        (Delivery::AtLeastOnce, _) => {
            "set `delivery: exactly_once`: then it is written by transactions".to_owned()
        }
        (Delivery::ExactlyOnce, None) => {
            "keep state in this process: what is in Redis can't be a part of Kafka's transactions".to_owned()
        }
        (Delivery::ExactlyOnce, Some(_)) => {
            "write to one cluster alone, with the same `properties`: one transaction holds no more".to_owned()
        }
    })
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn settings(spec: &impl Serialize) -> serde_json::Value {
    match serde_json::to_value(spec) {
        // One key, the connector's name: its settings are below it.
        Ok(serde_json::Value::Object(map)) => {
            let mut settings = map.into_iter().next().map(|(_, v)| v).unwrap_or_default();
            hide_secrets(&mut settings);
            settings
        }
        _ => serde_json::Value::Null,
    }
}

fn hide_secrets(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if is_secret(key) && !value.is_null() {
                    *value = "(hidden)".into();
                } else {
                    hide_secrets(value);
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        serde_json::Value::String(text) => *text = crate::spec::secrets::hide(text),
        _ => {}
    }
}

/// The name of the `index`-th of several ends, numbered where a name stands twice.
fn numbered(names: &[&str], index: usize) -> String {
    let name = names[index];
    if names.iter().filter(|n| **n == name).count() == 1 {
        return name.to_owned();
    }
    let before = names[..=index].iter().filter(|n| **n == name).count();
    format!("{name} {before}")
}

fn sources(pipeline: &Pipeline) -> Result<(Vec<End>, Vec<SourceTraits>), Stop> {
    let names: Vec<&str> = pipeline.sources.iter().map(|s| s.name()).collect();
    let mut ends = Vec::new();
    let mut all = Vec::new();
    for (i, spec) in pipeline.sources.iter().enumerate() {
        spec.source().map_err(|e| {
            at(pipeline, pipeline.source_span(i), format!("the source `{}` can't be made: {e}", spec.name()))
        })?;
        let traits = spec.traits();
        let is = vec![
            if traits.seekable { "can be read again" } else { "can't be read again" },
            if traits.bounded { "ends" } else { "goes on for ever" },
        ];
        let is = is.into_iter().chain(traits.shared.then_some("has a group that shares its partitions out"));
        let is = is.collect();
        let codec = pipeline.codecs.get(i).map_or("json", CodecSpec::name);
        let letters =
            "dead letters, each put through again from the stage where it failed; they move no stream time";
        let takes = (pipeline.replay() == Some(i)).then(|| letters.to_owned());
        ends.push(End {
            name: numbered(&names, i),
            settings: settings(spec),
            codec,
            is,
            takes,
            tried: Vec::new(),
        });
        all.push(traits);
    }
    Ok((ends, all))
}

fn sinks(pipeline: &Pipeline) -> Result<(Vec<End>, Vec<SinkTraits>), Stop> {
    let names: Vec<&str> = pipeline.sinks.iter().map(|s| s.connector.name()).collect();
    let mut ends = Vec::new();
    let mut all = Vec::new();
    for (i, sink) in pipeline.sinks.iter().enumerate() {
        let spec = &sink.connector;
        spec.sink().map_err(|e| {
            at(pipeline, pipeline.sink_span(i), format!("the sink `{}` can't be made: {e}", spec.name()))
        })?;
        let takes = match &sink.output {
            None => "what comes out of the last stage".to_owned(),
            Some(output) => format!("the output `{output}`"),
        };
        let takes = match &sink.when {
            When::Always => takes,
            When::Holds(condition) => format!("{takes}, where {condition}"),
            When::Otherwise => format!("{takes}, what no other condition takes"),
        };
        let traits = pipeline.sink_traits(spec);
        let is = sink_is(traits);
        ends.push(End {
            name: numbered(&names, i),
            settings: settings(spec),
            codec: sink.codec.name(),
            is,
            takes: Some(takes),
            tried: sink.tried.told(),
        });
        all.push(traits);
    }
    Ok((ends, all))
}

fn sink_is(traits: SinkTraits) -> Vec<&'static str> {
    vec![match (traits.transactional, traits.refuses_repeats) {
        (true, _) => "shows only what is committed",
        (false, true) => "refuses repeats",
        (false, false) => "shows messages at once",
    }]
}

fn at(pipeline: &Pipeline, span: Option<crate::report::Span>, title: String) -> Stop {
    let mut diagnostic = Diagnostic::new(title);
    diagnostic.span = span;
    diagnostic.label = "this one".to_owned();
    Stop::problems(Exit::Usage, &pipeline.problem(diagnostic))
}

fn steps(pipeline: &Pipeline, sources: usize) -> Vec<Step> {
    let exchange = pipeline.exchange();
    let lanes = pipeline.workers;
    let mut steps = Vec::new();
    for (i, stage) in pipeline.stages.iter().enumerate() {
        let keyed = exchange.is_some_and(|e| i > e);
        let runs = match stage {
            Stage::KeyBy(_) => match pipeline.exchange_topic() {
                Some(exchange) => format!(
                    "exchange through the topic {}, as `exchange` asks: {} partitions; order is kept by key",
                    exchange.topic, exchange.partitions
                ),
                None => {
                    let plural = if lanes == 1 { "lane" } else { "lanes" };
                    format!(
                        "exchange in memory, in this process: {KEY_GROUPS} key groups on {lanes} {plural}; order is kept by key"
                    )
                }
            },
            Stage::Aggregate(a) => match &a.window {
                Some(w) => {
                    let late = match &w.late {
                        Late::Drop => "dropped".to_owned(),
                        Late::DeadLetter => "dead letters".to_owned(),
                        Late::Output(name) => format!("sent to the output `{name}`"),
                    };
                    format!(
                        "{}, allowed lateness {}, late messages are {late}; values go out {}; in the order of the log",
                        w.kind,
                        human(w.allowed_lateness),
                        w.emit
                    )
                }
                None => format!("running, an answer for each message; {}", order(a.order)),
            },
            Stage::Transform(_) | Stage::Filter(_) if keyed => "on the key's lane".to_owned(),
            Stage::Transform(_) | Stage::Filter(_) => {
                let each = if sources > 1 { "each source's partitions" } else { "each partition" };
                format!("on any of the {lanes} workers; order is kept in {each}")
            }
        };
        let plugin = stage.plugin();
        let name = match stage {
            Stage::KeyBy(key) => key.paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            _ => stage.name().unwrap_or_default().to_owned(),
        };
        let built_ins = match stage {
            Stage::Aggregate(AggregateStage { by: ComputedBy::BuiltIns(b), .. }) => b.built_ins.told(),
            _ => Vec::new(),
        };
        steps.push(Step {
            kind: stage.kind(),
            name,
            built_ins,
            plugin: plugin.map(|p| p.file.display().to_string()),
            grants: plugin.map(|p| p.grants.clone()).unwrap_or_default(),
            granted: plugin.map(|p| granted(&p.granted)).unwrap_or_default(),
            tried: plugin.map(|p| p.tried.told()).unwrap_or_default(),
            runs,
        });
    }
    steps
}

fn order(order: Order) -> &'static str {
    match order {
        Order::Arrival => "in the order of arrival",
        Order::Log => "in the order of the log",
    }
}

fn human(duration: std::time::Duration) -> String {
    crate::spec::HumanDuration(duration).to_string()
}

fn not_replayable(pipeline: &Pipeline, sources: &[SourceTraits]) -> Vec<String> {
    let mut reasons = Vec::new();
    for (spec, traits) in pipeline.sources.iter().zip(sources) {
        if !traits.seekable {
            reasons.push(format!("the source `{}` can't be read again", spec.name()));
        }
    }
    for sink in pipeline.sinks.iter().filter(|sink| sink.tried.then == Then::DeadLetter) {
        reasons.push(format!(
            "what the sink `{}` gives up, and so what becomes a dead letter, depends on what its other end answers",
            sink.connector.name()
        ));
    }
    let by_the_log = |s: &Stage| matches!(s, Stage::Aggregate(a) if a.order == Order::Log);
    if pipeline.idle_timeout.is_some() && pipeline.stages.iter().any(by_the_log) {
        reasons.push(
            "`time.idle_timeout` goes by the clock: what was called idle is remembered with the state, but a run from the start may call it idle elsewhere".to_owned(),
        );
    }
    if pipeline.replays && pipeline.is_stateful() {
        reasons.push(
            "`replay` puts dead letters through when they come: where that was is remembered with the state, but a run from the start may take them in elsewhere".to_owned(),
        );
    }
    if pipeline.swap != SwapBy::Restart && pipeline.stages.iter().any(|stage| stage.plugin().is_some()) {
        let forgotten = match (pipeline.sharing(), pipeline.kept()) {
            (Sharing::Alone, Kept::Memory) => Some("and without a data_dir nothing remembers which did what"),
            (Sharing::Alone, _) => None,
            _ => Some("in each of its processes at a time of its own, and no commit tells which did what"),
        };
        reasons.extend(forgotten.map(|forgotten| {
            format!("new versions of its plugins take over while it runs, {forgotten}; with `swap: restart` one does all of a run")
        }));
    }
    for stage in &pipeline.stages {
        if let Some(p) = stage.plugin().filter(|p| p.grants.contains(&Grant::WallClock)) {
            reasons.push(format!("the stage `{}` is granted the wall clock", p.name));
        }
        if let Some(p) = stage.plugin().filter(|p| p.grants.contains(&Grant::Http)) {
            reasons.push(format!("the stage `{}` is granted http: what it is answered is in no log", p.name));
        }
        for lookup in stage.plugin().map(|p| p.granted.lookups.as_slice()).unwrap_or_default() {
            reasons.push(format!(
                "the stage `{}` looks into `{lookup}`, whose file is outside the log: with another content results are others",
                stage.name().unwrap_or_default()
            ));
        }
        if let Stage::Aggregate(a) = stage
            && a.order == Order::Arrival
        {
            if pipeline.sharing() == Sharing::Store {
                reasons.push(format!(
                    "the stage `{}` takes messages in the order of arrival in each process; the totals come out the same, the numbers between may not",
                    a.name
                ));
            } else if pipeline.kept() == Kept::Memory {
                reasons.push(format!(
                    "the stage `{}` takes messages in the order of arrival, and without a data_dir nothing remembers that order; with a single partition there is one order only",
                    a.name
                ));
            }
        }
    }
    reasons
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
