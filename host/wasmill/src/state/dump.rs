//! State as a file of JSON Lines: a header, an entry a line, a trailer by which a truncated or damaged
//! file is known.

use std::io::{BufRead, Read as _, Write};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use wasmill_connect::store::Replacement;
use wasmill_engine::key::key_group;
use wasmill_engine::shape;
use wasmill_engine::state::{Checkpoint, StateView, StoreError};
use wasmill_engine::stored_key::StoredKey;
use xxhash_rust::xxh3::Xxh3;

use super::StateError;
use super::entry::{decode, encode};

/// The version of the file's format.
pub const FORMAT: u32 = 1;
/// The longest line that is read: the greatest value, in base64, and some more.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// The first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the file's format.
    pub wasmill_state: u32,
    /// The wasmill that wrote it.
    pub wasmill: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The commit that it is of: epoch, positions, shape, sinks' tokens, counts.
    pub checkpoint: Checkpoint,
    /// What was foretold for the epoch behind it.
    pub foretold: Option<Foretold>,
}

/// Foretold facts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foretold {
    epoch: u64,
    facts: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    value: String,
}

/// The last line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    entries: u64,
    digest: String,
}

/// Why a file can't be imported; the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file can't be read.
    #[error("can't read it: {0}")]
    Io(#[from] std::io::Error),
    /// It is no export.
    #[error("line {line}: {cause}")]
    Line {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        cause: String,
    },
    /// It is of another format.
    #[error(
        "it is of format {found}, written by wasmill {by}; this wasmill reads format {FORMAT}: import it with the wasmill that wrote it"
    )]
    Format {
        /// The format found.
        found: u64,
        /// Who wrote it.
        by: String,
    },
    /// It is not whole.
    #[error(
        "it is cut off behind line {0}: its last line, with the count and the digest, is missing; export it again"
    )]
    Truncated(u64),
    /// It was changed.
    #[error("it is damaged: its end tells of {0} entries, and it has {1} or other ones; export it again")]
    Damaged(u64, u64),
    /// It is of another shape.
    #[error(
        "it belongs to another shape of this pipeline:{differences}\nImport it with the pipeline as it was when it was exported"
    )]
    Shape {
        /// What differs, a line each.
        differences: String,
    },
}

/// The lines on their way out, with the digest of all of them.
struct Lines<'a> {
    to: &'a mut dyn Write,
    digest: Xxh3,
}

impl Lines<'_> {
    fn write(&mut self, line: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(line).map_err(std::io::Error::other)?;
        line.push(b'\n');
        self.digest.update(&line);
        self.to.write_all(&line)
    }
}

fn text_of(digest: &Xxh3) -> String {
    format!("xxh3-128:{:032x}", digest.digest128())
}

/// Writes what a view shows. Answers the number of entries.
///
/// # Errors
/// When the store can't be read, or the file not written.
pub fn export(view: &dyn StateView, pipeline: &str, to: &mut dyn Write) -> Result<u64, ExportError> {
    let checkpoint = view.checkpoint()?.ok_or(StateError::Nothing)?;
    let foretold = view.foretold()?.map(|(epoch, facts)| Foretold { epoch, facts: encode(&facts) });
    let epoch = checkpoint.epoch;
    let header = Header {
        wasmill_state: FORMAT,
        wasmill: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: pipeline.to_owned(),
        checkpoint,
        foretold,
    };
    let mut lines = Lines { to, digest: Xxh3::new() };
    lines.write(&header)?;
    let (mut entries, mut failed) = (0, None);
    view.entries(b"", None, &mut |key, value| {
        entries += 1;
        failed = lines.write(&Line { key: encode(key), value: encode(value) }).err();
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    // A store without snapshots may have gone on; what was written is then of no one commit.
    if view.checkpoint()?.map(|c| c.epoch) != Some(epoch) {
        let text = "the pipeline has committed meanwhile, so what was written is of no one commit and was left without its end: stop the pipeline, then export again";
        return Err(StateError::Unknown(text.to_owned()).into());
    }
    let digest = text_of(&lines.digest);
    lines.write(&Trailer { entries, digest })?;
    to.flush()?;
    Ok(entries)
}

/// Puts what a file has into a store. `begin` opens the store's replacement, once the header is found right.
/// Answers the header and the number of entries.
///
/// # Errors
/// When the file is not an export of this shape, whole and undamaged; when the store fails. The store is
/// then as it was.
pub fn import(
    mut from: impl BufRead,
    shape_now: &str,
    begin: impl FnOnce(&Header) -> Result<Box<dyn Replacement>, StoreError>,
) -> Result<(Header, u64), ImportError> {
    let mut digest = Xxh3::new();
    let mut line = Vec::new();
    let mut number = 1;
    if !next_line(&mut from, &mut line, number)? {
        return Err(ImportError::Truncated(0));
    }
    digest.update(&line);
    let header = header(&line)?;
    if header.checkpoint.shape != shape_now {
        let differences = shape::differences(&header.checkpoint.shape, shape_now);
        let differences = differences.iter().map(|d| format!("\n  - {d}")).collect();
        return Err(ImportError::Shape { differences });
    }
    let groups = shape::key_groups(shape_now);
    let mut replacement = begin(&header)?;
    let mut entries = 0;
    loop {
        number += 1;
        let wrong = |cause: String| ImportError::Line { line: number, cause };
        if !next_line(&mut from, &mut line, number)? {
            return Err(ImportError::Truncated(number - 1));
        }
        if let Ok(trailer) = serde_json::from_slice::<Trailer>(&line) {
            if trailer != (Trailer { entries, digest: text_of(&digest) }) {
                return Err(ImportError::Damaged(trailer.entries, entries));
            }
            break;
        }
        digest.update(&line);
        let entry: Line = serde_json::from_slice(&line).map_err(|e| wrong(format!("is no entry: {e}")))?;
        let key = decode(&entry.key).map_err(|e| wrong(format!("the key {e}")))?;
        let value = decode(&entry.value).map_err(|e| wrong(format!("the value {e}")))?;
        let parsed = StoredKey::parse(&key).map_err(|e| wrong(format!("is of no use here: {e}")))?;
        if groups.is_some_and(|groups| key_group(parsed.key, groups) != parsed.group) {
            return Err(wrong("its key is not in its key group".to_owned()));
        }
        replacement.put(&key, &value)?;
        entries += 1;
    }
    if next_line(&mut from, &mut line, number + 1)? {
        return Err(ImportError::Line { line: number + 1, cause: "stands behind the last line".to_owned() });
    }
    let foretold = match &header.foretold {
        None => None,
        Some(Foretold { epoch, facts }) => {
            let facts = decode(facts)
                .map_err(|e| ImportError::Line { line: 1, cause: format!("what was foretold {e}") })?;
            Some((*epoch, facts))
        }
    };
    let checkpoint = Checkpoint { generation: replacement.generation(), ..header.checkpoint.clone() };
    replacement.finish(&checkpoint, foretold.as_ref())?;
    Ok((header, entries))
}

/// Reads the next whole line with its end; false behind the last one.
fn next_line(from: &mut impl BufRead, line: &mut Vec<u8>, number: u64) -> Result<bool, ImportError> {
    line.clear();
    from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    match line.last() {
        None => Ok(false),
        Some(b'\n') => Ok(true),
        Some(_) if line.len() as u64 == LINE_BYTES_MAX => {
            Err(ImportError::Line { line: number, cause: format!("is longer than {LINE_BYTES_MAX} bytes") })
        }
        Some(_) => Err(ImportError::Truncated(number - 1)),
    }
}

fn header(line: &[u8]) -> Result<Header, ImportError> {
    let wrong = |cause: String| ImportError::Line { line: 1, cause };
    let no_header = "is not the header of a state export";
    let loose: serde_json::Value =
        serde_json::from_slice(line).map_err(|e| wrong(format!("{no_header}: {e}")))?;
    let found = loose.get("wasmill_state").and_then(serde_json::Value::as_u64);
    let found = found.ok_or_else(|| wrong(format!("{no_header}: it has no `wasmill_state`")))?;
    if found != u64::from(FORMAT) {
        let by = loose.get("wasmill").and_then(serde_json::Value::as_str).unwrap_or("of an unknown version");
        return Err(ImportError::Format { found, by: by.escape_debug().to_string() });
    }
    serde_json::from_value(loose).map_err(|e| wrong(format!("{no_header}: {e}")))
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The state can't be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file can't be written.
    #[error("can't write the export: {0}")]
    Io(#[from] std::io::Error),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::State(error.into())
    }
}
