//! The command line.

mod args;
pub(crate) mod cases;
pub(crate) mod check;
mod connectors;
mod dlq;
mod embed;
mod exit;
mod explain;
mod inspect;
mod load;
mod log;
mod pages;
mod plan;
mod plugin;
mod plugin_folder;
mod run;
mod runtime;
pub(crate) mod sandbox;
mod state;
mod verify;

use std::io::Write;

use clap::Parser;
use serde::Serialize;

pub use exit::{Exit, Stop};
pub use run::RunFailure;
pub use runtime::{RunOptions, Runtime};

use args::{Cli, Command, PluginCommand};

/// Runs the command line of the process.
#[must_use]
pub fn main(runtime: &dyn Runtime) -> Exit {
    sandbox::compile_in_processes();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no mistakes.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match log::start(cli.log.as_deref(), cli.command.is_by_environment())
        .and_then(|()| dispatch(&cli.command, runtime))
    {
        Ok(()) => Exit::Ok,
        Err(stop) => {
            if !stop.shown.is_empty() {
                // Where stderr is gone, the exit code still tells.
                let _ = writeln!(std::io::stderr(), "{}", stop.shown.trim_end());
            }
            stop.exit
        }
    }
}

fn dispatch(command: &Command, runtime: &dyn Runtime) -> Result<(), Stop> {
    match command {
        Command::Run(args) => run::run(args, runtime),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Plugin { command: PluginCommand::Inspect { file, json } } => inspect::run(file, *json),
        Command::Plugin { command: PluginCommand::List(args) } => plugin::list(args),
        Command::Plugin { command: PluginCommand::History(args) } => plugin::history(args),
        Command::Plugin { command: PluginCommand::Promote(args) } => plugin::promote(args),
        Command::Plugin { command: PluginCommand::Rollback(args) } => plugin::rollback(args),
        Command::Plugin { command: PluginCommand::Verify(args) } => verify::run(args),
        Command::Plugin { command: PluginCommand::Embed(args) } => embed::run(args),
        Command::Test(args) => cases::run(args),
        Command::Reset(args) => run::reset(args, runtime),
        Command::State { command } => state::run(command, runtime),
        Command::Dlq { command } => dlq::run(command),
        Command::Connectors(args) => connectors::run(args),
        Command::Schema => print(&crate::spec::schema::text()),
        Command::CompilePlugin => {
            wasmill_plugin::compile_for_parent().map_err(|shown| Stop { exit: Exit::Plugin, shown })
        }
    }
}

/// Prints to stdout. A reader that went away, as behind `| head`, has read enough.
fn print(text: &str) -> Result<(), Stop> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Stop::error(Exit::Failed, format!("can't write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Stop> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Stop::error(Exit::Failed, e))?;
    print(&format!("{text}\n"))
}
