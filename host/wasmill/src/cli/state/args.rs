//! `wasmill state`: what can be typed.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::args::{Reset, Shown};

/// What to do with state.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Lists the keys of a pipeline's state
    List(List),
    /// Shows one entry with its value
    #[command(long_about = "Shows one entry with its value.\n\n\
        A value is shown as bytes, as text where it is one, and an aggregate's accumulator also as its \
        plugin finishes it, where that plugin is at hand.")]
    Get(Get),
    /// Sums up a pipeline's state: sizes, positions, stream time
    Stats(Stats),
    /// Writes a pipeline's state into a file
    #[command(long_about = "Writes a pipeline's state into a file, one JSON object a line, with its \
        positions; `wasmill state import` reads it.")]
    Export(Export),
    /// Reads a pipeline's state from a file that `state export` wrote
    #[command(long_about = "Reads a pipeline's state from a file that `state export` wrote.\n\n\
        The pipeline must be stopped, have no state yet, and be of the same shape. The state is there \
        whole at the end, or as it was before.")]
    Import(Import),
    /// Brings the state into the number of key groups that the pipeline has now
    #[command(long_about = "Brings the state into the number of key groups that the pipeline has now \
        (`key_groups`).\n\nThe pipeline must be stopped. The state is moved whole, or is as it was before.")]
    Rehash(Rehash),
    /// Forgets a pipeline's positions and state, as `wasmill reset`
    Reset(Reset),
}

impl StateCommand {
    /// Whether the environment names the pipeline, not a file.
    #[must_use]
    pub fn is_by_environment(&self) -> bool {
        match self {
            Self::List(List { common, .. }) | Self::Export(Export { common, .. }) => {
                common.pipeline.is_none()
            }
            Self::Stats(Stats { common }) | Self::Rehash(Rehash { common }) => common.pipeline.is_none(),
            Self::Reset(Reset { pipeline, .. }) => pipeline.is_none(),
            Self::Get(get) => get.pipeline().is_none(),
            Self::Import(import) => import.pipeline().is_none(),
        }
    }
}

/// What most of them take.
#[derive(Debug, Args)]
pub struct Common {
    /// The pipeline; none: what the environment names
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: Option<PathBuf>,
    /// What all of them take.
    #[command(flatten)]
    pub shown: Shown,
}

/// `wasmill state list`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill state list flights.yaml --stage delays --key-prefix A")]
pub struct List {
    /// What most of them take.
    #[command(flatten)]
    pub common: Common,
    /// Of this stage alone
    #[arg(long, value_name = "STAGE")]
    pub stage: Option<String>,
    /// Of keys that begin so
    #[arg(long, value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Go on behind a place that an earlier list told
    #[arg(long, value_name = "PLACE")]
    pub after: Option<String>,
}

/// `wasmill state get`.
#[derive(Debug, Args)]
#[command(override_usage = "wasmill state get [OPTIONS] [PIPELINE.yaml] STAGE KEY")]
#[command(after_help = "Example: wasmill state get flights.yaml delays AA --window 1357002000000")]
pub struct Get {
    /// The pipeline, unless the environment names it; the stage; the key
    #[arg(value_name = "STAGE KEY", num_args = 2..=3, required = true)]
    pub what: Vec<String>,
    /// The window that starts then, in milliseconds
    #[arg(long, value_name = "START", allow_negative_numbers = true, conflicts_with = "name")]
    pub window: Option<i64>,
    /// The entry that the plugin gave this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What all of them take.
    #[command(flatten)]
    pub shown: Shown,
}

impl Get {
    /// The pipeline's file.
    #[must_use]
    pub fn pipeline(&self) -> Option<&Path> {
        (self.what.len() > 2).then(|| Path::new(&self.what[0]))
    }
}

/// `wasmill state stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// What most of them take.
    #[command(flatten)]
    pub common: Common,
}

/// `wasmill state export`.
#[derive(Debug, Args)]
#[command(after_help = "Example: wasmill state export flights.yaml --output flights.state.jsonl")]
pub struct Export {
    /// What most of them take.
    #[command(flatten)]
    pub common: Common,
    /// The file to write; none: stdout
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `wasmill state import`.
#[derive(Debug, Args)]
#[command(override_usage = "wasmill state import [OPTIONS] [PIPELINE.yaml] FILE")]
#[command(after_help = "Example: wasmill state import flights.yaml flights.state.jsonl")]
pub struct Import {
    /// The pipeline, unless the environment names it; the file to read
    #[arg(value_name = "FILE", num_args = 1..=2, required = true)]
    pub what: Vec<PathBuf>,
    /// What all of them take.
    #[command(flatten)]
    pub shown: Shown,
}

impl Import {
    /// The pipeline's file.
    #[must_use]
    pub fn pipeline(&self) -> Option<&Path> {
        (self.what.len() > 1).then(|| self.what[0].as_path())
    }

    /// The file to read.
    #[must_use]
    pub fn file(&self) -> &Path {
        self.what.last().map_or(Path::new(""), PathBuf::as_path)
    }
}

/// `wasmill state rehash`.
#[derive(Debug, Args)]
pub struct Rehash {
    /// What most of them take.
    #[command(flatten)]
    pub common: Common,
}
