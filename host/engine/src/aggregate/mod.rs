//! An aggregate, whoever computes it: a plugin or built-ins.

mod answered;
mod native;
mod plugin;
mod shared;

use std::sync::Arc;

use crate::answer::Answer;
use crate::batch::Batch;
use crate::builtin::BuiltIns;
use crate::guest::{GuestInfo, PluginRef};
use crate::stage::Origins;

use native::NativeAggregator;
use plugin::PluginAggregator;

use answered::{answered, count_differs};

pub use answered::Folded;
pub use shared::ShareMerger;

/// What gathers the messages of a key into a value.
#[derive(Clone)]
pub enum Aggregate {
    /// A plugin.
    Plugin(PluginRef),
    /// Built-ins.
    BuiltIns(Arc<BuiltIns>),
}

impl From<PluginRef> for Aggregate {
    fn from(plugin: PluginRef) -> Self {
        Self::Plugin(plugin)
    }
}

impl From<BuiltIns> for Aggregate {
    fn from(built_ins: BuiltIns) -> Self {
        Self::BuiltIns(Arc::new(built_ins))
    }
}

impl Aggregate {
    /// Whether the order in which messages are folded and merged changes no result.
    #[must_use]
    pub fn is_commutative(&self) -> bool {
        match self {
            Self::Plugin(plugin) => plugin.info().aggregate.as_ref().is_some_and(|a| a.commutative),
            Self::BuiltIns(_) => true,
        }
    }

    /// The version of its accumulators, as a pipeline's shape has it.
    #[must_use]
    pub fn state_version(&self) -> serde_json::Value {
        match self {
            Self::Plugin(plugin) => plugin.info().aggregate.as_ref().map(|a| a.state_version).into(),
            Self::BuiltIns(built_ins) => built_ins.shape().into(),
        }
    }
}

/// A finished value, or a reason and its kind.
pub(crate) type Finished = Result<Vec<u8>, (String, &'static str)>;

/// A message to fold: its place in the frame, and which accumulator it goes to.
pub(crate) type Item = (usize, usize);

/// A message that could not be folded.
pub(crate) struct Unfolded {
    pub index: usize,
    pub kind: &'static str,
    pub reason: String,
    pub attempts: u32,
}

/// An aggregate as one lane calls it.
pub(crate) enum Aggregator {
    Plugin(Box<PluginAggregator>),
    BuiltIns(NativeAggregator),
}

impl Aggregator {
    pub fn new(stage: &str, aggregate: &Aggregate) -> Self {
        match aggregate {
            Aggregate::Plugin(plugin) => Self::Plugin(Box::new(PluginAggregator::new(stage, plugin))),
            Aggregate::BuiltIns(built_ins) => Self::BuiltIns(NativeAggregator::new(stage, built_ins)),
        }
    }

    /// Whether what it has to say to a message may be no other key.
    pub fn keep_keys(&mut self, keeps_keys: bool) {
        if let Self::Plugin(plugin) = self {
            plugin.keeps_keys = keeps_keys;
        }
    }

    /// A step begins: [`Aggregator::made_bytes`] counts anew.
    pub fn begin_step(&mut self) {
        if let Self::Plugin(plugin) = self {
            plugin.most_made_bytes = 0;
        }
    }

    /// The most bytes that a plugin made of what it was asked for at once.
    pub fn made_bytes(&self) -> usize {
        match self {
            Self::Plugin(plugin) => plugin.most_made_bytes,
            Self::BuiltIns(_) => 0,
        }
    }

    /// The plugin that computes it, if one does.
    pub fn plugin(&self) -> Option<&GuestInfo> {
        match self {
            Self::Plugin(plugin) => Some(plugin.info()),
            Self::BuiltIns(_) => None,
        }
    }

    /// Whether it has something of its own to say to each message.
    pub fn scans(&self) -> bool {
        self.plugin().is_some_and(|info| info.kinds.scan)
    }

    /// The accumulator of no messages.
    pub fn initial(&self) -> &[u8] {
        match self {
            Self::Plugin(plugin) => plugin.initial(),
            Self::BuiltIns(native) => native.initial(),
        }
    }

    /// Folds messages into accumulators, in the items' order for each accumulator.
    pub fn fold(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[Item],
        accumulators: &mut [Vec<u8>],
    ) -> Vec<Unfolded> {
        match self {
            Self::Plugin(plugin) => plugin.fold(batch, origins, items, accumulators),
            Self::BuiltIns(native) => native.fold(batch, origins, items, accumulators),
        }
    }

    /// Folds messages, and collects what an aggregate that [`Aggregator::scans`] has to say to each.
    pub fn scan(
        &mut self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[Item],
        accumulators: &mut [Vec<u8>],
        answers: &mut Vec<Answer>,
    ) -> Vec<Unfolded> {
        match self {
            Self::Plugin(plugin) => plugin.scan(batch, origins, items, accumulators, answers),
            Self::BuiltIns(native) => native.fold(batch, origins, items, accumulators),
        }
    }

    /// Merges accumulators two by two, the right one into the left one.
    pub fn merge(&mut self, pairs: &[(&[u8], &[u8])]) -> Vec<Result<Vec<u8>, String>> {
        match self {
            Self::Plugin(plugin) => plugin.merge(pairs),
            Self::BuiltIns(native) => native.merge(pairs),
        }
    }

    /// Finishes accumulators, at least the first, and as many behind it as have room in memory at once: a JSON value
    /// or a reason for each.
    pub fn finish(&mut self, accumulators: &[&[u8]]) -> Vec<Finished> {
        match self {
            Self::Plugin(plugin) => plugin.finish(accumulators),
            Self::BuiltIns(native) => native.finish(accumulators),
        }
    }
}
