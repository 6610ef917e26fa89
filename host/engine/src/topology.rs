//! A pipeline as the engine runs it.

use std::sync::Arc;

use serde_json::json;

use crate::aggregate::Aggregate;
use crate::edition::StagePlugin;
use crate::guest::{GuestInfo, PluginRef};
use crate::input::Decoder;
use crate::key::{KeySpec, Path};
use crate::lane::KeyedSpec;
use crate::running::RunningSpec;
use crate::stage::StageSpec;
use crate::windowed::WindowSpec;

/// In which order the stateful part takes the messages of several partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By (stamp, source, partition, position, index): the same whatever the interleaving.
    #[default]
    Log,
    /// As they arrive, for latency; the interleaving is logged before any output leaves.
    Arrival,
}

/// Where a message's event time comes from, if not from the decoder.
#[derive(Debug, Clone)]
pub struct TimeSpec {
    /// The place.
    pub path: Path,
    /// Reads RFC 3339 or milliseconds as text.
    ///
    /// Given by the codecs, so that the engine knows no calendar.
    pub parse: fn(&str) -> Result<i64, String>,
}

/// How far an event time may be ahead of the time at which the log took the message in. A message of which
/// the log doesn't tell that is not bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAhead {
    /// So many milliseconds.
    pub ms: i64,
    /// What becomes of one that is further ahead.
    pub beyond: OnAhead,
}

/// What becomes of a message whose event time is too far ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnAhead {
    /// It goes to the dead-letter queue.
    #[default]
    DeadLetter,
    /// It gets the latest event time that is allowed.
    Clamp,
}

/// How messages come to who has their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// Within this process.
    #[default]
    Memory,
    /// Through a topic, and this is the part before it: what comes out of the prefix is stamped and leaves.
    BeforeTopic,
    /// Through a topic of so many partitions, and this is the part behind it. Its messages have their keys and
    /// carry their stamps; the keys of a partition are one lane's.
    BehindTopic(u32),
}

/// A pipeline as the engine runs it.
#[derive(Clone)]
pub struct Topology {
    /// How each source's records are read, in the sources' order.
    pub decoders: Vec<Arc<dyn Decoder>>,
    /// Where event time comes from, if not from the decoder.
    pub time: Option<TimeSpec>,
    /// How far it may be ahead of the log; none: any distance.
    pub max_ahead: Option<MaxAhead>,
    /// The stateless stages before the key_by.
    pub prefix: Vec<Arc<StageSpec>>,
    /// The key, if there is a key_by.
    pub key: Option<KeySpec>,
    /// The stages behind it.
    pub keyed: Vec<KeyedSpec>,
    /// The order in which they take messages.
    pub order: Order,
    /// Whether quiet partitions are called idle.
    pub idle_marks: bool,
    /// Whether other processes run the same pipeline: partitions come and go, and a running aggregate's
    /// totals are shared.
    pub shared: bool,
    /// Into how many groups keys are hashed; part of the shape.
    pub key_groups: u16,
    /// How messages come to who has their key; part of the shape.
    pub via: Via,
}

impl Topology {
    /// The default number of key groups.
    pub const KEY_GROUPS: u16 = 128;

    /// Whether there is a stateful part, and with it lanes.
    #[must_use]
    pub fn has_lanes(&self) -> bool {
        !self.keyed.is_empty() || self.via != Via::Memory
    }

    /// Whether state is kept by the messages' keys: here, or behind the topic that they go through.
    #[must_use]
    pub fn keeps_state(&self) -> bool {
        self.via == Via::BeforeTopic || self.keyed.iter().any(KeyedSpec::keeps_state)
    }

    /// The number of the source of dead letters that are put through again, if there is one.
    #[must_use]
    pub fn replay(&self) -> Option<u16> {
        let place = self.decoders.iter().position(|decoder| decoder.replay().is_some())?;
        u16::try_from(place).ok()
    }

    /// The plugins of its stages, in their order.
    #[must_use]
    pub fn plugins(&self) -> Vec<StagePlugin> {
        let prefix = self.prefix.iter().map(|stage| (stage.name.as_str(), &stage.plugin));
        let keyed = self.keyed.iter().filter_map(|stage| match stage {
            KeyedSpec::Stage(stage) => Some((stage.name.as_str(), &stage.plugin)),
            KeyedSpec::Window(WindowSpec { name, aggregate: Aggregate::Plugin(plugin), .. })
            | KeyedSpec::Running(RunningSpec { name, aggregate: Aggregate::Plugin(plugin), .. }) => {
                Some((name, plugin))
            }
            KeyedSpec::Window(_) | KeyedSpec::Running(_) => None,
        });
        let of = |(stage, plugin): (&str, &PluginRef)| {
            let GuestInfo { name, digest, version, .. } = plugin.info().clone();
            StagePlugin { stage: stage.to_owned(), plugin: name, digest, version }
        };
        prefix.chain(keyed).map(of).collect()
    }

    /// The same with another plugin in a stage.
    #[must_use]
    pub fn with_plugin(&self, stage: &str, plugin: &PluginRef) -> Self {
        let mut with = self.clone();
        let replaced = |spec: &StageSpec| Arc::new(StageSpec { plugin: Arc::clone(plugin), ..spec.clone() });
        for spec in with.prefix.iter_mut().filter(|spec| spec.name == stage) {
            *spec = replaced(spec);
        }
        for keyed in &mut with.keyed {
            match keyed {
                KeyedSpec::Stage(spec) if spec.name == stage => *spec = replaced(spec),
                KeyedSpec::Window(WindowSpec { name, aggregate, .. })
                | KeyedSpec::Running(RunningSpec { name, aggregate, .. })
                    if &**name == stage =>
                {
                    *aggregate = Aggregate::Plugin(Arc::clone(plugin));
                }
                _ => {}
            }
        }
        with
    }

    /// Everything that stored state depends on, as text: state of another shape is refused.
    #[must_use]
    pub fn shape(&self) -> String {
        let stages: Vec<_> = self
            .keyed
            .iter()
            .map(|stage| match stage {
                KeyedSpec::Stage(s) => json!({"stage": s.name, "state": s.plugin.info().needs_state}),
                KeyedSpec::Window(w) => json!({
                    "window": &*w.name,
                    "layout": 1,
                    "of": w.window.shape(),
                    "emit": w.emit.shape(),
                    // What is stored of these tells what is closed only together with it.
                    "allowed_lateness_ms": w.needs_clock().then_some(w.allowed_lateness_ms),
                    "state_version": w.aggregate.state_version(),
                }),
                KeyedSpec::Running(r) => json!({
                    "running": &*r.name,
                    "state_version": r.aggregate.state_version(),
                }),
            })
            .collect();
        let key: Option<Vec<String>> =
            self.key.as_ref().map(|k| k.paths.iter().map(ToString::to_string).collect());
        json!({
            // One of dead letters may come and go.
            "sources": self.decoders.len() - usize::from(self.replay().is_some()),
            "exchange": match self.via {
                Via::Memory | Via::BeforeTopic => "memory".to_owned(),
                Via::BehindTopic(partitions) => format!("topic of {partitions} partitions"),
            },
            "key": key,
            "key_groups": self.key_groups,
            "stages": stages,
        })
        .to_string()
    }
}
