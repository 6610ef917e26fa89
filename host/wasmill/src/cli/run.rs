//! `wasmill run` and `wasmill reset`.

use std::io::{IsTerminal, Write};

use super::exit::{Exit, Stop};
use super::plan::{plan, refuse_too_weak};
use super::runtime::{RunOptions, Runtime};
use super::{args, load, print, print_json};

/// Runs pipelines.
///
/// # Errors
/// When a spec is wrong or the run failed.
pub fn run(args: &args::Run, runtime: &dyn Runtime) -> Result<(), Stop> {
    let pipelines = load::pipelines(&args.pipelines, &args.overrides)?;
    for pipeline in &pipelines {
        refuse_too_weak(pipeline, &plan(pipeline)?)?;
    }
    let summaries = runtime.run(pipelines, RunOptions { reset: args.reset }).map_err(|e| failed(&e))?;
    if args.json {
        return print_json(&summaries);
    }
    let mut text = String::new();
    for summary in &summaries {
        // What has no words of its own is shown as it is.
        let line =
            summary.get("text").and_then(|t| t.as_str()).map_or_else(|| summary.to_string(), str::to_owned);
        text.push_str(&line);
        text.push('\n');
    }
    // The results may go to stdout: the summary must not mix with them.
    let _ = std::io::stderr().write_all(text.as_bytes());
    Ok(())
}

/// Forgets a pipeline's positions and state.
///
/// # Errors
/// When the spec is wrong, nobody said yes, or it failed.
pub fn reset(args: &args::Reset, runtime: &dyn Runtime) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.pipeline.as_deref(), &args.overrides)?;
    if !args.yes && !confirmed(&pipeline.name)? {
        return Err(Stop::error(Exit::Usage, "nothing was forgotten"));
    }
    runtime.reset(&pipeline).map_err(|e| failed(&e))?;
    print(&format!("{}: positions and state are forgotten; the next run starts anew\n", pipeline.name))
}

fn confirmed(name: &str) -> Result<bool, Stop> {
    if !std::io::stdin().is_terminal() {
        let text = format!(
            "`reset` forgets the positions and state of `{name}`; say --yes where nobody can be asked"
        );
        return Err(Stop::error(Exit::Usage, text));
    }
    eprint!("Forget the positions and state of `{name}`, and what its sinks hold of earlier runs? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| Stop::error(Exit::Failed, e))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A failure with its causes, one line each. One that is a [`Stop`] or has an exit code keeps it.
pub(super) fn failed(error: &anyhow::Error) -> Stop {
    if let Some(problems) = error.downcast_ref::<crate::report::Problems>() {
        return Stop::problems(Exit::Usage, problems);
    }
    let exit = error.downcast_ref::<RunFailure>().map_or(Exit::Failed, |f| f.exit);
    let mut shown = format!("error: {error}");
    for cause in error.chain().skip(1) {
        shown.push_str(&format!("\n  because {cause}"));
    }
    Stop { exit, shown }
}

/// A failure of a run that has an exit code of its own.
#[derive(Debug)]
pub struct RunFailure {
    /// The exit code.
    pub exit: Exit,
    /// What is shown.
    pub text: String,
}

impl std::fmt::Display for RunFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for RunFailure {}
