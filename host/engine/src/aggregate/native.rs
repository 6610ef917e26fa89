//! Built-ins as one lane calls them.

use std::sync::Arc;

use super::{Finished, Item, Unfolded};
use crate::batch::Batch;
use crate::builtin::BuiltIns;
use crate::guest::HostFault;
use crate::stage::Origins;

/// A message that holds what a built-in can't take, or a key whose messages have no value together.
const KIND: &str = "value";

pub(crate) struct NativeAggregator {
    built_ins: Arc<BuiltIns>,
    stage: String,
}

impl NativeAggregator {
    pub fn new(stage: &str, built_ins: &Arc<BuiltIns>) -> Self {
        Self { built_ins: Arc::clone(built_ins), stage: stage.to_owned() }
    }

    pub fn initial(&self) -> &[u8] {
        self.built_ins.initial()
    }

    pub fn fold(
        &self,
        batch: &Batch,
        origins: Origins<'_>,
        items: &[Item],
        accumulators: &mut [Vec<u8>],
    ) -> Vec<Unfolded> {
        let mut unfolded = Vec::new();
        let refuse = |index, reason| unfolded.push(Unfolded { index, kind: KIND, reason, attempts: 1 });
        let folded = self.built_ins.fold(batch, origins, items, accumulators, refuse);
        folded.unwrap_or_else(|cause| self.damaged(&cause));
        unfolded
    }

    pub fn merge(&self, pairs: &[(&[u8], &[u8])]) -> Vec<Result<Vec<u8>, String>> {
        pairs.iter().map(|(left, right)| self.built_ins.merge(left, right)).collect()
    }

    pub fn finish(&self, accumulators: &[&[u8]]) -> Vec<Finished> {
        let finish = |accumulator: &&[u8]| match self.built_ins.finish(accumulator) {
            Ok(value) => value.map_err(|reason| (reason, KIND)),
            Err(cause) => self.damaged(&cause),
        };
        accumulators.iter().map(finish).collect()
    }

    /// State that is wrong must not become results that are.
    fn damaged(&self, cause: &str) -> ! {
        HostFault(format!(
            "the stored state of the stage `{}` is damaged: {cause}; take a copy of it back, or process everything again with --reset",
            self.stage
        ))
        .end()
    }
}
