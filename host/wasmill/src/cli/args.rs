//! The command line: what can be typed, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::dlq::DlqCommand;
use super::exit;
use super::state::StateCommand;

/// Runs streams of messages through plugins.
#[derive(Debug, Parser)]
#[command(
    name = "wasmill",
    version,
    about = "Runs streams of messages through plugins",
    long_about = "Runs streams of messages through plugins.\n\n\
        A pipeline is a YAML file: where messages come from, what happens to them, where they go. What \
        happens to them is done by plugins, sandboxed WebAssembly components that can be written in any \
        language.\n\n\
        Without a file the environment names the topics, and all plugins in PLUGIN_DIR are applied.",
    after_help = exit::HELP,
    after_long_help = AFTER,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What is logged to stderr: a level, or a list such as `info,wasmill_engine=debug`. Default:
    /// RUST_LOG, else info.
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

const AFTER: &str = concat!(
    "\
Examples:
  wasmill check flights.yaml          is the pipeline right? do its plugins load?
  wasmill explain flights.yaml        what will it do, and what does it promise?
  wasmill run flights.yaml            run it until its sources end or a signal comes
  wasmill run                         run what the environment names
  wasmill plugin inspect enrich.wasm  what is in this plugin?
  wasmill state stats flights.yaml    how large is its state, how far is it?
  wasmill dlq stats flights.yaml      what could not be processed, and why?
  wasmill test enrich.wasm cases.yaml run the plugin's test cases in the sandbox
  wasmill plugin verify enrich.wasm   is it pure, does its aggregate keep its law?

Environment:
  Without a file: BROKER_TYPE, KAFKA_BROKERS, KAFKA_TOPIC, KAFKA_GROUP_ID, KAFKA_OUTPUT_TOPIC,
  KAFKA_DLQ_TOPIC, REDIS_URL, USE_DISTRIBUTED_STATE, AGGREGATE_MODE, WINDOW_SIZE_SECONDS and more:
  docs/configuration.md. Unset ones have defaults.

  Every key of a spec can be set by environment: WASMILL_ and the keys in capitals, with two underscores
  between levels: WASMILL_EPOCH__INTERVAL=1s, WASMILL_SOURCE__FILE__PATH=in.jsonl. Some have short names:
  WORKER_COUNT, BATCH_SIZE, PLUGIN_DIR, DATA_DIR, SHUTDOWN_TIMEOUT. Options are stronger than the
  environment, the environment than the file; an empty variable says nothing.
  In a spec, ${NAME} and ${NAME:-default} stand for variables.

  ENVIRONMENT=development  logs for people; any other value logs JSON. Unset: for people on a terminal.
  RUST_LOG                 what is logged, where --log is not given.
  NO_COLOR                 set to anything: no colours.

",
    exit::codes!()
);

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs pipelines until their sources end or a signal comes
    #[command(long_about = "Runs pipelines until their sources end or a signal comes.\n\n\
        SIGINT or SIGTERM ends them in order: what was read is finished and committed, within \
        shutdown_timeout. A second signal ends at once; the next run goes on at the last commit.")]
    Run(Run),
    /// Checks pipelines without running them
    #[command(long_about = "Checks pipelines without running them: the spec, whether each plugin loads and \
        fits its stage, whether sources can be reached, whether the delivery that is asked for is \
        possible.")]
    Check(Check),
    /// Shows what a pipeline will do and what it promises
    #[command(
        long_about = "Shows what a pipeline will do and what it promises: stages and their order, where \
        messages change hands, the guarantee of each route from a source to a sink and why, and what \
        keeps results from being the same in a replay."
    )]
    Explain(Explain),
    /// Looks into plugins, and after those that run: inspect, list, history, promote, rollback
    Plugin {
        /// What to do with the plugin.
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Runs a plugin's test cases in the sandbox
    #[command(long_about = "Runs a plugin's test cases in the sandbox that production uses.\n\n\
        Each case gives messages and says what must come of them. It is run as one batch and again \
        message by message: a plugin must answer the same. The format is told by `wasmill test --format`.")]
    Test(Test),
    /// Forgets a pipeline's positions and state: its next run starts anew
    Reset(Reset),
    /// Looks after a pipeline's state: list, get, stats, export, import, rehash, reset
    #[command(long_about = "Looks after a pipeline's state.\n\n\
        list, get, stats and export also work while the pipeline runs: they read Redis, or for state on \
        disk ask the running process over its HTTP pages (`http`, WASMILL_HTTP). import, rehash and reset \
        need it stopped.")]
    State {
        /// What to do with it.
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Looks through dead letters, and has them replayed: list, show, stats, replay
    #[command(long_about = "Looks through a pipeline's dead letters, and has them replayed.\n\n\
        They are read where `dead_letter` puts them, also while the pipeline runs; nothing is changed there. \
        replay copies chosen ones to where `replay` reads them again.")]
    Dlq {
        /// What to do with them.
        #[command(subcommand)]
        command: DlqCommand,
    },
    /// Lists the sources and sinks of this build, with their settings
    Connectors(Connectors),
    /// Prints the JSON Schema of pipeline specs
    Schema,
    /// Compiles a plugin for the process that started this one
    #[command(hide = true)]
    CompilePlugin,
}

impl Command {
    /// Whether the environment names the pipeline, not a file.
    #[must_use]
    pub fn is_by_environment(&self) -> bool {
        match self {
            Self::Run(Run { pipelines, .. }) | Self::Check(Check { pipelines, .. }) => pipelines.is_empty(),
            Self::Explain(Explain { pipeline, .. }) | Self::Reset(Reset { pipeline, .. }) => {
                pipeline.is_none()
            }
            Self::State { command } => command.is_by_environment(),
            Self::Plugin {
                command:
                    PluginCommand::List(PluginShown { pipeline, .. })
                    | PluginCommand::History(PluginShown { pipeline, .. }),
            } => pipeline.is_none(),
            Self::Dlq { command } => command.is_by_environment(),
            _ => false,
        }
    }
}

/// What overrides a spec.
#[derive(Debug, Clone, Default, Args)]
pub struct Overrides {
    /// How many threads work [spec: workers; environment: WORKER_COUNT]
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// How many messages a plugin is given at once, at most [spec: batch_size; environment: BATCH_SIZE]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<u32>,
    /// The folder of the plugins [spec: plugin_dir; environment: PLUGIN_DIR]
    #[arg(long, value_name = "FOLDER")]
    pub plugin_dir: Option<PathBuf>,
    /// The folder of the state [spec: data_dir; environment: DATA_DIR]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
}

/// `wasmill run`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill run flights.yaml --workers 4")]
pub struct Run {
    /// The pipelines; none: what the environment names
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipelines: Vec<PathBuf>,
    /// Forget positions and state first
    #[arg(long)]
    pub reset: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// What overrides the spec.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `wasmill check`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill check pipelines/*.yaml")]
pub struct Check {
    /// The pipelines; none: what the environment names
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipelines: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// What overrides the spec.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `wasmill explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The pipeline; none: what the environment names
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// What overrides the spec.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `wasmill plugin …`.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Shows what a plugin exports, imports and needs
    Inspect {
        /// The component
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Lists which plugins a pipeline runs, and which versions are there and stay out
    List(PluginShown),
    /// Shows what became of each version of a pipeline's plugins, the newest first
    History(PluginShown),
    /// Has a version take over in a running pipeline, without a pause
    #[command(long_about = "Has a version take over in a running pipeline, without a pause.\n\n\
        NAME is what the plugin folder has as NAME.wasm; NAME@VERSION and NAME@sha256:DIGEST are looked for there \
        and among the copies that wasmill keeps of what ran. The running process is asked over its HTTP pages \
        (`http`, WASMILL_HTTP).")]
    Promote(Promote),
    /// Has the version before take over again in a running pipeline
    #[command(long_about = "Has the version before take over again in a running pipeline.\n\n\
        What is rolled back is not taken again, at a restart neither, unless it is promoted; a file that is new \
        is. The running process is asked over its HTTP pages (`http`, WASMILL_HTTP).")]
    Rollback(Rollback),
    /// Checks that a plugin is pure, and that an aggregate keeps its law
    #[command(long_about = "Checks that a plugin is pure, and that an aggregate keeps its law.\n\n\
        The same messages must give the same answer: again, on fresh instances and used ones, cut into other \
        batches, under fuel. What an aggregate finishes to must not depend on how messages are cut, folded and \
        merged, nor on their order where it calls itself commutative. The first difference is shown.\n\n\
        The messages are those of the cases that are given or that the plugin carries, and of --sample; else they \
        are made up, by the schema that the plugin declares of its input, if it does.")]
    Verify(Verify),
    /// Puts test cases into a plugin, which are run before it is taken in
    #[command(
        long_about = "Puts test cases into a plugin, as a custom section of its file: `wasmill:cases`.\n\n\
        They are run at each start and check, with the config and grants of the stage: a plugin that fails one of \
        them is refused. In Rust, `wasmill_sdk::cases!(\"cases.yaml\")` does it at build time."
    )]
    Embed(Embed),
}

/// `wasmill plugin list`, `wasmill plugin history`.
#[derive(Debug, Args)]
pub struct PluginShown {
    /// The pipeline; none: what the environment names
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: Option<PathBuf>,
    /// How it is shown.
    #[command(flatten)]
    pub shown: Shown,
}

/// `wasmill plugin promote`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill plugin promote flights.yaml enrich@1.3.0")]
pub struct Promote {
    /// The pipeline
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: PathBuf,
    /// Which version of which plugin
    #[arg(value_name = "NAME[@VERSION]")]
    pub plugin: String,
    /// What overrides the spec.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `wasmill plugin rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill plugin rollback flights.yaml enrich")]
pub struct Rollback {
    /// The pipeline
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: PathBuf,
    /// Which plugin, or which stage's; none: all that have had another version
    #[arg(value_name = "NAME")]
    pub plugin: Option<String>,
    /// What overrides the spec.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `wasmill plugin verify`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill plugin verify plugins/enrich.wasm --sample flights.jsonl --seed 7")]
pub struct Verify {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    pub file: PathBuf,
    /// Cases whose messages to take, as of `wasmill test`
    #[arg(value_name = "CASES")]
    pub cases: Vec<PathBuf>,
    /// Messages to take, as JSON, one a line
    #[arg(long, value_name = "FILE.jsonl")]
    pub sample: Option<PathBuf>,
    /// How many messages are made up, or taken of the sample
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = messages)]
    pub messages: usize,
    /// How many random cuts and orders are tried of each set of messages
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = rounds)]
    pub rounds: usize,
    /// Repeats what chance decided: the seed that was printed
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// The messages' keys, as of a pipeline's key_by: for what isn't a case
    #[arg(long, value_name = "PATH")]
    pub key_by: Option<String>,
    /// What the plugin may use, as of its stage: state, metrics, …
    #[arg(long = "grant", value_name = "GRANT")]
    pub grants: Vec<wasmill_plugin::Grant>,
    /// A value of the stage's config
    #[arg(long, value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

fn between(text: &str, from: usize, to: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (from..=to).contains(n));
    number.ok_or_else(|| format!("expected a number from {from} to {to}"))
}

fn messages(text: &str) -> Result<usize, String> {
    between(text, 1, 10_000)
}

fn rounds(text: &str) -> Result<usize, String> {
    between(text, 0, 1_000)
}

/// `wasmill plugin embed`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill plugin embed enrich.wasm cases.yaml -o plugins/enrich.wasm")]
pub struct Embed {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    pub file: PathBuf,
    /// The cases, as YAML or one JSON object a line
    #[arg(value_name = "CASES")]
    pub cases: PathBuf,
    /// Where the component with the cases goes
    #[arg(long, short, value_name = "OUT.wasm")]
    pub output: PathBuf,
}

/// `wasmill test`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill test plugins/enrich.wasm plugins/enrich/cases.yaml")]
pub struct Test {
    /// Show how cases are written, and end
    #[arg(long, exclusive = true)]
    pub format: bool,
    /// The component
    #[arg(required_unless_present = "format", value_name = "FILE.wasm")]
    pub file: Option<PathBuf>,
    /// The cases, as YAML or one JSON object a line
    #[arg(required_unless_present = "format", value_name = "CASES")]
    pub cases: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `wasmill reset`.
#[derive(Debug, Args)]
pub struct Reset {
    /// The pipeline; none: what the environment names
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: Option<PathBuf>,
    /// Don't ask
    #[arg(long)]
    pub yes: bool,
    /// What overrides the spec.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `wasmill connectors`.
#[derive(Debug, Args)]
pub struct Connectors {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// How a command that shows what a pipeline has shows it, and of which one.
#[derive(Debug, Args)]
pub struct Shown {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// What overrides the spec.
    #[command(flatten)]
    pub overrides: Overrides,
}
