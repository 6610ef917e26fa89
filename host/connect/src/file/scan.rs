//! Reads what a sink has written: its finished files, in their order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::manifest::list;
use super::source::{FileSource, FileSourceSpec};
use crate::scan::{Part, SCAN_BYTES_MAX, SCAN_RECORDS_MAX, Scan, Scanned};
use crate::units::HumanSize;
use crate::{ConnectorError, Polled, Reader, Source, os};

/// A longer line is passed on as one that could not be taken whole.
const LINE_BYTES_MAX: HumanSize = HumanSize(256 << 20);

/// Reads the finished files of a sink's directory, those that somebody has compressed since included.
pub struct FileScan {
    files: Vec<PathBuf>,
    parts: Vec<Part>,
    /// How long what isn't finished is.
    unfinished_bytes: u64,
    directory: PathBuf,
    at: usize,
    reader: Option<Box<dyn Reader>>,
}

impl FileScan {
    /// Looks into a directory; none is no mistake, for its sink may not have begun.
    ///
    /// # Errors
    /// What can't be read.
    pub async fn open(directory: &Path) -> Result<Self, ConnectorError> {
        let directory = directory.to_owned();
        os::blocking(move || Self::look(directory)).await
    }

    fn look(directory: PathBuf) -> Result<Self, ConnectorError> {
        let mut scan = Self {
            files: Vec::new(),
            parts: Vec::new(),
            unfinished_bytes: 0,
            directory,
            at: 0,
            reader: None,
        };
        if !scan.directory.exists() {
            return Ok(scan);
        }
        let listing = list(&scan.directory)?;
        scan.unfinished_bytes = listing.unfinished.values().map(|file| file.bytes).sum();
        // A file gets its name once all of it is committed: all that have one count, listed or not.
        let mut files: BTreeMap<u64, PathBuf> = compressed(&scan.directory)?;
        files.extend(listing.finished.into_iter().map(|(n, file)| (n, file.path)));
        for (sequence, path) in files {
            scan.parts.push(Part {
                // The sink counts from 1, and never so far.
                number: u32::try_from(sequence).unwrap_or(u32::MAX),
                name: path.display().to_string(),
                incarnation: None,
                begin: 0,
                end: None,
            });
            scan.files.push(path);
        }
        Ok(scan)
    }
}

/// The finished files that were compressed, by their sequence.
fn compressed(directory: &Path) -> Result<BTreeMap<u64, PathBuf>, ConnectorError> {
    let failed = |e: &std::io::Error| os::fatal(format!("cannot list {}", directory.display()), e);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(|e| failed(&e))? {
        let path = entry.map_err(|e| failed(&e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let sequence = name.strip_prefix("part-").and_then(|rest| rest.strip_suffix(".jsonl.gz"));
        if let Some(sequence) = sequence.and_then(|n| n.parse().ok()) {
            files.insert(sequence, path);
        }
    }
    Ok(files)
}

#[async_trait]
impl Scan for FileScan {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    async fn next(&mut self) -> Result<Option<Scanned>, ConnectorError> {
        while let (Some(file), Some(part)) = (self.files.get(self.at), self.parts.get(self.at)) {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => {
                    let mut spec = FileSourceSpec::new(file.display().to_string());
                    spec.message_bytes_max = LINE_BYTES_MAX;
                    let mut source = FileSource::new(spec)?;
                    source.partitions().await?;
                    none.insert(source.open(0, 0).await?)
                }
            };
            match reader.poll(SCAN_RECORDS_MAX, SCAN_BYTES_MAX).await? {
                Polled::Records(mut batch) => {
                    batch.partition.partition = part.number;
                    return Ok(Some(Scanned::Records(batch)));
                }
                Polled::End => {
                    self.reader = None;
                    self.at += 1;
                }
            }
        }
        Ok(None)
    }

    fn unread(&self) -> Option<String> {
        (self.unfinished_bytes > 0).then(|| {
            format!(
                "{} bytes more are in {} in a file that isn't finished: they can be read when it is (`roll_interval`, or the pipeline's end)",
                self.unfinished_bytes,
                self.directory.display()
            )
        })
    }
}
