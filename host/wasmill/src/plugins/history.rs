//! What became of each version of a pipeline's plugins: one JSON object a line.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use wasmill_engine::edition::StagePlugin;

/// How much of a history is kept: of a longer one the older half goes.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It runs from this epoch's end on.
    TookOver {
        /// The epoch.
        epoch: u64,
    },
    /// It was rolled back to, and runs from this epoch's end on.
    RolledBackTo {
        /// The epoch.
        epoch: u64,
    },
    /// It stays out.
    StaysOut {
        /// Why.
        why: String,
    },
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Of which stage, and which file.
    pub of: StagePlugin,
    /// What it took the place of, as `name@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// Adds a line.
pub(super) fn append(path: &Path, entry: &Entry) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::metadata(path).is_ok_and(|m| m.len() > HISTORY_BYTES_MAX) {
        let text = fs::read_to_string(path)?;
        let half = text.len() / 2;
        let from =
            text.as_bytes()[half..].iter().position(|b| *b == b'\n').map_or(text.len(), |at| half + at + 1);
        fs::write(path, &text[from..])?;
    }
    let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
    line.push(b'\n');
    fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(&line)
}

/// All lines that can be read, oldest first.
pub(super) fn read(path: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
