//! The names in a log's directory: what is made, what is held, what goes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::marker::{MARKER, Marker};
use super::shared::Shared;
use crate::{ConnectorError, os};

const ABOUT: &str = "log.json";
const NEW: &str = "log.json.tmp";
const MAKE_LOCK: &str = "make.lock";
const WRITER_LOCK: &str = "writer.lock";
const READER_LOCK: &str = "reader.lock";
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    incarnation: String,
}

/// What a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which log it is: a random text, made with it.
    pub incarnation: String,
    /// The first offset that is still there.
    pub first: u64,
    /// Up to which offset readers may see.
    pub committed: u64,
}

/// What a log is; makes an empty one where there is none, for its writer may come later.
///
/// # Errors
/// What can't be made or read.
pub fn facts(directory: &Path) -> Result<Facts, ConnectorError> {
    let incarnation = make(directory)?;
    let failed = |e: &io::Error| os::fatal(format!("cannot read the log {}", directory.display()), e);
    let committed = Marker::open(directory, false).and_then(|m| m.read()).map_err(|e| failed(&e))?;
    let first = list(directory).map_err(|e| failed(&e))?.first().copied().unwrap_or(0);
    Ok(Facts { incarnation, first, committed })
}

/// A segment's path.
pub(super) fn segment_path(directory: &Path, base: u64) -> PathBuf {
    directory.join(format!("{base:020}.log"))
}

/// The offsets at which the segments begin.
pub(super) fn list(directory: &Path) -> io::Result<BTreeSet<u64>> {
    let mut bases = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let base = name.to_str().and_then(|n| n.strip_suffix(".log")).filter(|n| n.len() == 20);
        bases.extend(base.and_then(|n| n.parse::<u64>().ok()));
    }
    Ok(bases)
}

/// How long the segments are together.
pub(super) fn size_bytes(directory: &Path) -> io::Result<u64> {
    list(directory)?.into_iter().map(|b| Ok(fs::metadata(segment_path(directory, b))?.len())).sum()
}

/// Makes new names, or that names are gone, durable.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes the log where it isn't; answers its incarnation.
pub(super) fn make(directory: &Path) -> Result<String, ConnectorError> {
    if let Some(incarnation) = incarnation(directory)? {
        return Ok(incarnation);
    }
    let make = || -> io::Result<()> {
        let parent = directory.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_new = !directory.exists();
        fs::create_dir_all(directory)?;
        if is_new {
            sync(parent)?;
        }
        let lock = os::lock_file(&directory.join(MAKE_LOCK))?;
        // Two may have come at once; the second finds what the first has made.
        lock.lock()?;
        if directory.join(ABOUT).exists() {
            return Ok(());
        }
        Marker::open(directory, true)?;
        let mut random = [0; 16];
        openssl::rand::rand_bytes(&mut random)?;
        let about = About { format: FORMAT, incarnation: format!("{:032x}", u128::from_le_bytes(random)) };
        let mut file = File::create(directory.join(NEW))?;
        serde_json::to_writer(&mut file, &about)?;
        file.write_all(b"\n").and_then(|()| file.sync_all())?;
        fs::rename(directory.join(NEW), directory.join(ABOUT))?;
        sync(directory)
    };
    make().map_err(|e| os::fatal(format!("cannot make the log {}", directory.display()), &e))?;
    incarnation(directory)?.ok_or_else(|| {
        ConnectorError::Fatal(format!("the log {} went away while it was made", directory.display()))
    })
}

/// The incarnation of a log; none where there is no log.
pub(super) fn incarnation(directory: &Path) -> Result<Option<String>, ConnectorError> {
    let path = directory.join(ABOUT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(os::fatal(format!("cannot read {}", path.display()), &e)),
    };
    match serde_json::from_slice::<About>(&bytes) {
        Ok(about) if about.format == FORMAT => Ok(Some(about.incarnation)),
        Ok(about) => Err(ConnectorError::Fatal(format!(
            "{} is of format {}, and this wasmill knows format {FORMAT}: use the one that wrote it, or give another path",
            path.display(),
            about.format
        ))),
        Err(e) => Err(ConnectorError::Fatal(format!(
            "{} is not a log's ({e}): put it back, or give another path",
            path.display()
        ))),
    }
}

fn take(directory: &Path, name: &str, taken: &str) -> Result<File, ConnectorError> {
    os::lock(
        &directory.join(name),
        format_args!("the log {} {taken}", directory.display()),
        format_args!("cannot use the log {}", directory.display()),
    )
}

/// The place of the one writer.
pub(super) fn take_writer(directory: &Path) -> Result<File, ConnectorError> {
    take(
        directory,
        WRITER_LOCK,
        "is written by another pipeline or process: give each its own path, or stop the other",
    )
}

/// The place of a log's one reader: let go of when it is dropped.
#[derive(Debug)]
pub struct ReaderLock {
    _file: File,
}

impl ReaderLock {
    /// Takes it; the log must be there.
    ///
    /// # Errors
    /// That another one reads it.
    pub fn take(directory: &Path) -> Result<Self, ConnectorError> {
        let taken = "is read by another pipeline or process, and what one has read is removed: \
                     give each its own log, or stop the other";
        Ok(Self { _file: take(directory, READER_LOCK, taken)? })
    }
}

/// Removes the segments that hold nothing but records before an offset; never the last one. Answers how many
/// bytes are free now.
///
/// # Errors
/// What can't be removed.
pub fn trim(directory: &Path, before: u64) -> Result<u64, ConnectorError> {
    let mut freed = 0;
    let mut trim = || -> io::Result<()> {
        let bases: Vec<u64> = list(directory)?.into_iter().collect();
        for pair in bases.windows(2) {
            let [base, end] = pair else { break };
            if *end > before {
                break;
            }
            let path = segment_path(directory, *base);
            let bytes = fs::metadata(&path)?.len();
            fs::remove_file(&path)?;
            // One by one, so that a crash leaves no gap.
            sync(directory)?;
            freed += bytes;
        }
        Ok(())
    };
    let done = trim();
    if freed > 0 {
        Shared::of(directory).take_bytes(freed);
    }
    done.map_err(|e| {
        os::fatal(format!("cannot remove what was read of the log {}", directory.display()), &e)
    })?;
    Ok(freed)
}

/// Removes a log; other files of the directory stay. What comes there next is another incarnation.
///
/// # Errors
/// Who writes it, or what can't be removed.
pub fn remove(directory: &Path) -> Result<(), ConnectorError> {
    if incarnation(directory)?.is_none() {
        return Ok(());
    }
    let _writer = take_writer(directory)?;
    let remove = || -> io::Result<()> {
        for base in list(directory)?.into_iter().rev() {
            fs::remove_file(segment_path(directory, base))?;
        }
        for name in [MARKER, NEW, MAKE_LOCK, READER_LOCK] {
            remove_if_there(&directory.join(name))?;
        }
        // Last, so that a removal that was interrupted can be repeated. The writer's lock stays, for another may
        // be waiting for that very file.
        remove_if_there(&directory.join(ABOUT))?;
        sync(directory)
    };
    remove().map_err(|e| os::fatal(format!("cannot remove the log {}", directory.display()), &e))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
