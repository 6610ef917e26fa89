//! From a spec's stages to what the engine runs.

use std::sync::Arc;

use wasmill_connect::codec::rfc3339;
use wasmill_connect::kafka::ExchangeDecoder;
use wasmill_engine::guest::PluginRef;
use wasmill_engine::input::Decoder;
use wasmill_engine::key::Path as FieldPath;
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::replay::ReplayDecoder;
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::topology::{Order, TimeSpec, Topology, Via};
use wasmill_engine::window::{Emit, Late};
use wasmill_engine::{Aggregate, RunningSpec, WindowSpec};
use wasmill_plugin::Sandbox;

use super::super::guarded::Guards;
use super::{outside, stopped};
use crate::cli::check::{load_fitting, unambiguous};
use crate::cli::{Exit, RunFailure};
use crate::spec;
use crate::spec::{ComputedBy, Part, Pipeline, PluginStage, Sharing, Stage, millis};

pub(super) fn topology(
    pipeline: &Pipeline,
    sandbox: &Sandbox,
    decoders: Vec<Arc<dyn Decoder>>,
    guards: Option<&Guards>,
) -> anyhow::Result<Topology> {
    let exchange = pipeline.exchange();
    let mut topology = Topology {
        decoders,
        time: (pipeline.time != FieldPath::Timestamp)
            .then(|| TimeSpec { path: pipeline.time.clone(), parse: parse_time }),
        max_ahead: pipeline.max_ahead,
        prefix: Vec::new(),
        key: None,
        keyed: Vec::new(),
        order: Order::Log,
        idle_marks: pipeline.idle_timeout.is_some(),
        // Behind an exchange partitions come and go from run to run, and there may be none.
        shared: pipeline.sharing() != Sharing::Alone || pipeline.part == Part::Behind,
        key_groups: pipeline.key_groups,
        via: match (pipeline.part, pipeline.exchange_partitions) {
            (Part::Before, _) => Via::BeforeTopic,
            (Part::Behind, Some(partitions)) => Via::BehindTopic(partitions),
            _ => Via::Memory,
        },
    };
    if let Some(envelope) = pipeline.replay().and_then(|replay| topology.decoders.get_mut(replay)) {
        *envelope = Arc::new(ReplayDecoder { envelope: Arc::clone(envelope), parse_time });
    }
    for (place, stage) in pipeline.stages.iter().enumerate() {
        let behind_exchange = exchange.is_some_and(|e| place > e);
        let is_here = match pipeline.part {
            Part::Whole => true,
            Part::Before => !behind_exchange,
            Part::Behind => behind_exchange,
        };
        if !is_here && !matches!(stage, Stage::KeyBy(_)) {
            continue;
        }
        let (kind, plugin_stage) = match stage {
            Stage::KeyBy(key) => {
                topology.key = Some(key.clone());
                continue;
            }
            Stage::Aggregate(aggregate) => {
                let keyed = aggregate_stage(pipeline, sandbox, guards, aggregate, &topology)?;
                if let KeyedSpec::Running(_) = &keyed {
                    topology.order = match aggregate.order {
                        spec::Order::Log => Order::Log,
                        spec::Order::Arrival => Order::Arrival,
                    };
                }
                topology.keyed.push(keyed);
                continue;
            }
            Stage::Transform(p) => (StageKind::Transform, p),
            Stage::Filter(p) => (StageKind::Filter, p),
        };
        let plugin = load_fitting(sandbox, pipeline, stage, plugin_stage).map_err(stopped)?;
        let plugin = guarded(guards, plugin, plugin_stage);
        let stage = Arc::new(StageSpec { name: plugin_stage.name.clone(), kind, plugin });
        if behind_exchange {
            topology.keyed.push(KeyedSpec::Stage(stage));
        } else {
            topology.prefix.push(stage);
        }
    }
    match pipeline.part {
        Part::Whole => {}
        Part::Before => topology.order = Order::Arrival,
        Part::Behind => {
            topology.decoders = vec![Arc::new(ExchangeDecoder)];
            (topology.time, topology.max_ahead) = (None, None);
        }
    }
    Ok(topology)
}

/// A plugin as its stage wants it tried; where nothing is run, as it is.
fn guarded(guards: Option<&Guards>, plugin: PluginRef, stage: &PluginStage) -> PluginRef {
    match guards {
        Some(guards) => guards.guard(plugin, stage),
        None => plugin,
    }
}

pub(super) fn aggregate_stage(
    pipeline: &Pipeline,
    sandbox: &Sandbox,
    guards: Option<&Guards>,
    aggregate: &spec::AggregateStage,
    topology: &Topology,
) -> anyhow::Result<KeyedSpec> {
    let stage = Stage::Aggregate(aggregate.clone());
    let by = match &aggregate.by {
        ComputedBy::Plugin(plugin) => {
            let loaded = load_fitting(sandbox, pipeline, &stage, plugin).map_err(stopped)?;
            Aggregate::Plugin(guarded(guards, loaded, plugin))
        }
        ComputedBy::BuiltIns(by) => {
            unambiguous(pipeline, &stage).map_err(stopped)?;
            Aggregate::BuiltIns(Arc::clone(&by.built_ins))
        }
    };
    let name: Arc<str> = aggregate.name.as_str().into();
    let compound_key = topology.key.as_ref().is_some_and(wasmill_engine::key::KeySpec::is_compound);
    let shared = pipeline.sharing() == Sharing::Store;
    if shared && !by.is_commutative() {
        return Err(RunFailure {
            exit: Exit::Plugin,
            text: format!(
                "the aggregate `{name}` is not commutative, so several processes can't put to its totals: declare it commutative if it is, or take `state.redis` (USE_DISTRIBUTED_STATE) away and run one process"
            ),
        }
        .into());
    }
    Ok(match &aggregate.window {
        None => KeyedSpec::Running(RunningSpec { name, aggregate: by, compound_key, shared }),
        Some(window) => KeyedSpec::Window(WindowSpec {
            name,
            aggregate: by,
            window: window.kind.windows().map_err(outside)?,
            allowed_lateness_ms: millis(window.allowed_lateness),
            late: match &window.late {
                spec::Late::Drop => Late::Drop,
                spec::Late::DeadLetter => Late::DeadLetter,
                spec::Late::Output(name) => Late::Output(name.clone()),
            },
            emit: match window.emit {
                spec::Emit::Close => Emit::Close,
                spec::Emit::Update => Emit::Update,
                spec::Emit::Every(every) => Emit::Every(millis(every)),
            },
            compound_key,
        }),
    })
}

/// Event time as milliseconds or RFC 3339.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(ms) => Ok(ms),
        Err(_) => rfc3339::parse(text),
    }
}
