//! Reads files of JSON lines.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_codec::framing::{Framing, Lines, Place};

use super::text::{FileChunks, Text, begins_as, incarnation_now};
use crate::pace::{self, Pacer};
use crate::stream::StreamReader;
use crate::table::SourceConnector;
use crate::units::HumanSize;
use crate::{ConnectorError, Partition, Reader, Source, SourceTraits, os};

/// How many files a pattern may name.
const FILES_MAX: usize = 10_000;

/// Files of JSON lines: one message a line; names that end in .gz are decompressed. Ends with the files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSourceSpec {
    /// The file, or a pattern such as `data/*.jsonl.gz`: then every file is a partition, numbered in
    /// the order of their names.
    pub path: String,
    /// At most this many messages a second, over all files. Default: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// A longer line goes to the dead-letter queue unread. Default: 1MiB.
    #[serde(default = "message_bytes_max")]
    pub message_bytes_max: HumanSize,
}

/// The default limit of a line.
pub(crate) fn message_bytes_max() -> HumanSize {
    HumanSize(1 << 20)
}

impl FileSourceSpec {
    /// A spec of a path with the defaults.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), rate: None, message_bytes_max: message_bytes_max() }
    }
}

impl SourceConnector for FileSourceSpec {
    fn called(&self) -> String {
        self.path.clone()
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits {
            seekable: true,
            bounded: true,
            shared: false,
            shared_with_positions: false,
            forgets: false,
            append_times: false,
        }
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(FileSource::new(self.clone())?))
    }
}

/// Reads files. An offset is a byte of a file's text (decompressed), where a line starts, or what another framing counts.
pub struct FileSource {
    spec: FileSourceSpec,
    message_bytes_max: usize,
    files: Vec<PathBuf>,
    pacer: Option<Arc<Pacer>>,
    framing: Arc<dyn Framing>,
}

impl FileSource {
    /// A source of the files that a spec names.
    ///
    /// # Errors
    /// When the rate is no rate.
    pub fn new(spec: FileSourceSpec) -> Result<Self, ConnectorError> {
        let pacer = Pacer::new(pace::check(spec.rate)?);
        let message_bytes_max = usize::try_from(spec.message_bytes_max.0).unwrap_or(usize::MAX - 1);
        Ok(Self { spec, message_bytes_max, files: Vec::new(), pacer, framing: Arc::new(Lines) })
    }

    fn file(&self, partition: u32) -> Result<PathBuf, ConnectorError> {
        self.files.get(partition as usize).cloned().ok_or_else(|| {
            ConnectorError::Fatal(format!(
                "there is no file {partition} for {}: it named more files when that was committed; put them back, or run `wasmill reset`",
                self.spec.path
            ))
        })
    }
}

fn list(path: &str) -> Result<Vec<PathBuf>, ConnectorError> {
    // A file whose name has brackets is a file first.
    if !path.contains(['*', '?', '[']) || std::fs::metadata(path).is_ok() {
        return Ok(vec![PathBuf::from(path)]);
    }
    let bad = |why: String| ConnectorError::Fatal(format!("the pattern {path}: {why}"));
    let mut files = Vec::new();
    for found in glob::glob(path).map_err(|e| bad(e.to_string()))? {
        let file = found.map_err(|e| bad(e.to_string()))?;
        if file.is_dir() {
            continue;
        }
        files.push(file);
        if files.len() > FILES_MAX {
            return Err(bad(format!("names more than {FILES_MAX} files; name fewer, or join them")));
        }
    }
    if files.is_empty() {
        return Err(bad(
            "no file has such a name; it is relative to the directory that wasmill runs in".into()
        ));
    }
    files.sort();
    Ok(files)
}

fn partition(number: usize, path: &std::path::Path) -> Result<Partition, ConnectorError> {
    // Opening tells missing, unreadable and wrong files now rather than later.
    Text::open(path)?;
    let what = || format!("cannot read {}", path.display());
    let incarnation = incarnation_now(path).map_err(|e| os::fatal(what(), &e))?;
    let length = std::fs::metadata(path).map_err(|e| os::fatal(what(), &e))?.len();
    let plain = path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("gz"));
    Ok(Partition {
        number: u32::try_from(number).unwrap_or(u32::MAX),
        name: path.display().to_string(),
        incarnation,
        begin: 0,
        position: None,
        extent: plain.then_some(length),
    })
}

#[async_trait]
impl Source for FileSource {
    fn frame_by(&mut self, framing: Arc<dyn Framing>) {
        self.framing = framing;
    }

    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let path = self.spec.path.clone();
        // What other framings count is known once it is read.
        let counts_bytes = self.framing.resumes();
        let (files, partitions) = os::blocking(move || {
            let files = list(&path)?;
            let mut partitions =
                files.iter().enumerate().map(|(i, f)| partition(i, f)).collect::<Result<Vec<_>, _>>()?;
            if !counts_bytes {
                partitions.iter_mut().for_each(|p| p.extent = None);
            }
            Ok((files, partitions))
        })
        .await?;
        self.files = files;
        Ok(partitions)
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let path = self.file(partition)?;
        let (resumes, has_lines) = (self.framing.resumes(), self.framing.has_lines());
        let open = move || match resumes {
            true => Text::open_at(&path, offset, has_lines),
            false => Ok((Text::open(&path)?, Place { offset, ..Place::START })),
        };
        let (text, from) = os::blocking(open).await?;
        let (chunks, pacer) = (FileChunks::new(text), self.pacer.clone());
        let max = self.message_bytes_max;
        Ok(Box::new(StreamReader::new(chunks, &*self.framing, partition, from, max, pacer)))
    }

    async fn commit(&mut self, _offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn is_same_log(&mut self, partition: &Partition, committed: &str) -> Result<bool, ConnectorError> {
        let path = self.file(partition.number)?;
        let committed = committed.to_owned();
        os::blocking(move || {
            begins_as(&path, &committed).map_err(|e| os::fatal(format!("cannot read {}", path.display()), &e))
        })
        .await
    }
}
