//! The wasmill binary.

use std::process::ExitCode;

use wasmill::cli::{RunOptions, Runtime};
use wasmill::spec::Pipeline;

/// SEAM: the runtime takes this place (`wasmill::runtime`); until then `run` and `reset` say so.
struct NoRuntime;

impl Runtime for NoRuntime {
    fn run(&self, _: Vec<Pipeline>, _: RunOptions) -> anyhow::Result<Vec<serde_json::Value>> {
        anyhow::bail!("this build has no runtime: `run` is not there yet")
    }
    fn reset(&self, _: &Pipeline) -> anyhow::Result<()> {
        anyhow::bail!("this build has no runtime: `reset` is not there yet")
    }
}

fn main() -> ExitCode {
    wasmill::cli::main(&NoRuntime).into()
}
