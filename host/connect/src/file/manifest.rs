//! The names in a sink's directory, and the manifest that lists the finished ones.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ConnectorError, os};

/// The manifest's name.
pub(super) const MANIFEST: &str = "manifest.json";
/// The lock's name: held while a run writes here.
pub(super) const LOCK: &str = ".wasmill.lock";
/// The version of the manifest's and the token's form.
pub(super) const FORMAT: u32 = 1;

/// What a sink has finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    /// The finished files in order.
    finished: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: String,
    bytes: u64,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { format: FORMAT, finished: Vec::new() }
    }
}

/// How a sink's files are called.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) directory: PathBuf,
    /// What the names end in, without the dot.
    pub(super) extension: &'static str,
}

impl Names {
    fn name(&self, sequence: u64) -> String {
        format!("part-{sequence:06}.{}", self.extension)
    }

    /// A finished file's path.
    pub(super) fn finished(&self, sequence: u64) -> PathBuf {
        self.directory.join(self.name(sequence))
    }

    /// A file's path while it is written.
    pub(super) fn unfinished(&self, sequence: u64) -> PathBuf {
        self.directory.join(format!(".{}.tmp", self.name(sequence)))
    }
}

/// The sequence in a file's name, whatever the name ends in.
fn sequence(name: &str) -> Option<u64> {
    name.strip_prefix("part-")?.split_once('.')?.0.parse().ok()
}

/// A file that is there.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// The files of a sink's directory by sequence: finished, and not.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) finished: BTreeMap<u64, Listed>,
    pub(super) unfinished: BTreeMap<u64, Listed>,
}

/// Lists a directory; what is not this sink's is passed over.
pub(super) fn list(directory: &Path) -> Result<Listing, ConnectorError> {
    let failed = |e: io::Error| os::fatal(format!("cannot list {}", directory.display()), &e);
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let hidden = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
        let (to, name) = match hidden {
            Some(name) => (&mut listing.unfinished, name),
            None => (&mut listing.finished, name),
        };
        let Some(n) = sequence(name) else { continue };
        to.insert(n, Listed { path: entry.path(), bytes: entry.metadata().map_err(failed)?.len() });
    }
    Ok(listing)
}

impl Manifest {
    /// The manifest of a directory; none where there is none.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, ConnectorError> {
        let path = directory.join(MANIFEST);
        let shown = path.display();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(os::fatal(format!("cannot read {shown}"), &e)),
        };
        let wrong = |why: String| {
            ConnectorError::Fatal(format!(
                "{shown} is not a manifest of this wasmill ({why}); put it back, or give the sink another path"
            ))
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(wrong(format!("format {}, expected {FORMAT}", manifest.format)));
        }
        Ok(Some(manifest))
    }

    /// Lists a finished file, in its order; false where it is listed already.
    pub(super) fn add(&mut self, names: &Names, sequence: u64, bytes: u64) -> bool {
        let name = names.name(sequence);
        if self.finished.iter().rev().any(|part| part.name == name) {
            return false;
        }
        self.finished.push(Part { name, bytes });
        true
    }

    /// The greatest finished sequence.
    pub(super) fn last(&self) -> u64 {
        self.finished.iter().filter_map(|part| sequence(&part.name)).max().unwrap_or(0)
    }

    /// The paths of the finished files.
    pub(super) fn paths(&self, directory: &Path) -> Vec<PathBuf> {
        // Only a plain name: a manifest that someone changed must not make `reset` reach elsewhere.
        let plain = |name: &&str| Path::new(name).file_name() == Some(name.as_ref());
        self.finished.iter().map(|p| p.name.as_str()).filter(plain).map(|n| directory.join(n)).collect()
    }

    /// Puts it in its place, durably and at once.
    pub(super) fn write(&self, directory: &Path) -> Result<(), ConnectorError> {
        let (temp, path) = (directory.join(".manifest.json.tmp"), directory.join(MANIFEST));
        let failed = |e: io::Error| os::fatal(format!("cannot write {}", path.display()), &e);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        bytes.push(b'\n');
        let mut file = File::create(&temp).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&temp, &path).map_err(failed)?;
        sync_directory(directory)
    }
}

/// Makes new names durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), ConnectorError> {
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|e| os::fatal(format!("cannot sync {}", directory.display()), &e))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), ConnectorError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(os::fatal(format!("cannot remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}
