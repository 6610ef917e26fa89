//! The seam between the command line and what runs pipelines.

use serde_json::Value;

use crate::spec::Pipeline;

/// How a run is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Forget positions and state first.
    pub reset: bool,
}

/// What runs pipelines; the binary gives it to the command line, tests give another.
pub trait Runtime {
    /// Runs pipelines until their sources end or a signal comes. Answers one summary each, in order.
    ///
    /// # Errors
    /// Why a run failed, with what to do.
    fn run(&self, pipelines: Vec<Pipeline>, options: RunOptions) -> anyhow::Result<Vec<Value>>;

    /// Forgets a pipeline's positions, state, and what its sinks keep of earlier runs.
    ///
    /// # Errors
    /// Why it could not.
    fn reset(&self, pipeline: &Pipeline) -> anyhow::Result<()>;

    /// The shape of a pipeline's state, as its plugins and its spec make it.
    ///
    /// # Errors
    /// Why a plugin can't be loaded.
    fn shape(&self, pipeline: &Pipeline) -> anyhow::Result<String>;
}
