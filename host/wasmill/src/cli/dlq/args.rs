//! `wasmill dlq`: what can be typed.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::args::Shown;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Lists a pipeline's dead letters, one a line
    List(List),
    /// Shows one dead letter whole
    Show(Show),
    /// Counts a pipeline's dead letters by stage, kind, plugin, reason and state
    Stats(Stats),
    /// Copies dead letters to where the pipeline reads them again
    #[command(
        long_about = "Copies dead letters to where the pipeline reads them again: into the log of its \
        `replay:` source. Each then enters at the stage where it failed.\n\n\
        No letter is copied twice: what is in that log already is passed over, so a command that was \
        interrupted is simply run again. What can't be replayed is told."
    )]
    Replay(Replay),
}

impl DlqCommand {
    /// Whether the environment names the pipeline, not a file.
    #[must_use]
    pub fn is_by_environment(&self) -> bool {
        match self {
            Self::List(List { common, .. }) | Self::Stats(Stats { common }) => common.pipeline.is_none(),
            Self::Replay(Replay { common, .. }) => common.pipeline.is_none(),
            Self::Show(show) => show.pipeline().is_none(),
        }
    }
}

/// What most of them take.
#[derive(Debug, Args)]
pub struct Common {
    /// The pipeline; none: what the environment names
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: Option<PathBuf>,
    /// Those for which this holds, of the letter as a message: as the spec's `when`
    #[arg(long = "where", value_name = "EXPR")]
    pub chosen: Option<String>,
    /// What all of them take.
    #[command(flatten)]
    pub shown: Shown,
}

/// `wasmill dlq list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: wasmill dlq list flights.yaml --where 'payload.kind == \"trap\" && payload.stage == \"enrich\"'"
)]
pub struct List {
    /// What most of them take.
    #[command(flatten)]
    pub common: Common,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
}

/// `wasmill dlq show`.
#[derive(Debug, Args)]
#[command(override_usage = "wasmill dlq show [OPTIONS] [PIPELINE.yaml] ID")]
#[command(after_help = "Example: wasmill dlq show flights.yaml 5f0c2a9be1d4")]
pub struct Show {
    /// The pipeline, unless the environment names it; the letter's id, or how it begins
    #[arg(value_name = "ID", num_args = 1..=2, required = true)]
    pub what: Vec<String>,
    /// What all of them take.
    #[command(flatten)]
    pub shown: Shown,
}

impl Show {
    /// The pipeline's file.
    #[must_use]
    pub fn pipeline(&self) -> Option<&Path> {
        (self.what.len() > 1).then(|| Path::new(&self.what[0]))
    }

    /// The letter's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.what.last().map_or("", String::as_str)
    }
}

/// `wasmill dlq stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// What most of them take.
    #[command(flatten)]
    pub common: Common,
}

/// `wasmill dlq replay`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: wasmill dlq replay flights.yaml --where 'payload.stage == \"enrich\"' --plugin plugins/enrich.wasm"
)]
pub struct Replay {
    /// What most of them take.
    #[command(flatten)]
    pub common: Common,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Try each letter's message with this plugin first, and copy what it takes
    #[arg(long, value_name = "FILE.wasm")]
    pub plugin: Option<PathBuf>,
    /// Tell what would be copied, and copy nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Also copy letters of which the replay topic no longer tells whether it had them
    #[arg(long)]
    pub forgotten: bool,
}
