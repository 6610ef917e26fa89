//! Writes JSON lines to files that appear whole.
//!
//! Lines go to a hidden file. When it is full or old enough it is *sealed*; when all of it is committed
//! it is renamed, and the manifest lists it. So readers of the directory see committed messages only,
//! in whole files. Where a file ends by size depends on the messages alone, never on epochs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wasmill_codec::framing::{Framing, Joiner, Lines};
use wasmill_engine::output::{EncodedBatch, Encoder};

use super::manifest::{FORMAT, LOCK, MANIFEST, Manifest, Names, list, remove, sync_directory};
use crate::stream::StreamEncoder;
use crate::table::SinkConnector;
use crate::units::{HumanDuration, HumanSize};
use crate::{ConnectorError, Sink, SinkTraits, codec, os};

/// How much waits in memory before it is written.
const PENDING_BYTES_MAX: u64 = 1 << 20;

/// A directory of JSON lines: `part-000001.jsonl` and so on, each complete from the moment it is seen,
/// and `manifest.json`, which lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSinkSpec {
    /// The directory; made where it is missing. It belongs to this sink alone.
    pub path: PathBuf,
    /// A file is finished when it is this large. Default: 128MiB.
    #[serde(default = "roll_bytes")]
    pub roll_bytes: HumanSize,
    /// A file is finished when it is this old, and when the pipeline ends. Default: 1m. `null`: age
    /// doesn't matter.
    #[serde(default = "roll_interval", skip_serializing_if = "Option::is_none")]
    pub roll_interval: Option<HumanDuration>,
}

#[expect(clippy::unnecessary_wraps, reason = "serde's default has the field's type")]
fn roll_interval() -> Option<HumanDuration> {
    Some(HumanDuration(std::time::Duration::from_secs(60)))
}

fn roll_bytes() -> HumanSize {
    HumanSize(128 << 20)
}

impl FileSinkSpec {
    /// A spec of a directory with the defaults.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), roll_bytes: roll_bytes(), roll_interval: roll_interval() }
    }
}

/// What this sink is like.
const LIKE: SinkTraits = SinkTraits { transactional: true, refuses_repeats: false, by_token: true };

impl SinkConnector for FileSinkSpec {
    fn called(&self) -> String {
        self.path.display().to_string()
    }

    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(FileSink::new(self.clone())?))
    }

    fn reset(&self) -> Result<(), ConnectorError> {
        FileSink::reset(&self.path)
    }
}

/// Writes JSON lines to files that appear whole.
pub struct FileSink {
    files: Arc<Mutex<Files>>,
    joiner: Box<dyn Joiner>,
    pending: Vec<u8>,
    /// How long the current file is with what waits, and when it must be finished for its size.
    length: u64,
    roll_bytes: u64,
}

impl FileSink {
    /// A sink that writes to the directory that a spec names.
    ///
    /// # Errors
    /// When a limit is 0.
    pub fn new(spec: FileSinkSpec) -> Result<Self, ConnectorError> {
        if spec.roll_bytes.0 == 0 {
            return Err(ConnectorError::Fatal("roll_bytes of 0: expected a size such as 128MiB".into()));
        }
        let roll_bytes = spec.roll_bytes.0;
        let files = Files {
            names: Names { directory: spec.path, extension: Lines.extension() },
            head: Vec::new(),
            roll_interval: spec.roll_interval,
            lock: None,
            manifest: Manifest::default(),
            sealed: Vec::new(),
            current: Current { sequence: 1, length: 0, file: None, since: None, dirty: false },
            flushed: None,
        };
        let joiner = Lines.joiner();
        Ok(Self { files: Arc::new(Mutex::new(files)), joiner, pending: Vec::new(), length: 0, roll_bytes })
    }

    /// Removes what sinks have written to a directory: the files that its manifest lists, the unfinished
    /// ones and the manifest. Other files stay. A directory without a manifest is left alone.
    ///
    /// # Errors
    /// When another run writes there, the manifest can't be read, or a file can't be removed.
    pub fn reset(directory: &Path) -> Result<(), ConnectorError> {
        let Some(manifest) = Manifest::read(directory)? else { return Ok(()) };
        let _lock = lock(directory)?;
        let listing = list(directory)?;
        for path in manifest.paths(directory) {
            remove(&path)?;
        }
        // Renamed by a run that died before it could list them.
        for (_, file) in listing.finished.range(manifest.last() + 1..) {
            remove(&file.path)?;
        }
        for file in listing.unfinished.values() {
            remove(&file.path)?;
        }
        // Last, so that a reset that was interrupted can be repeated.
        remove(&directory.join(MANIFEST))?;
        remove(&directory.join(LOCK))?;
        sync_directory(directory)
    }

    async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Files) -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let files = Arc::clone(&self.files);
        os::blocking(move || work(&mut files.lock().unwrap_or_else(PoisonError::into_inner))).await
    }

    async fn write_pending(&mut self, seal: bool) -> Result<(), ConnectorError> {
        self.joiner.finish(&mut self.pending);
        let bytes = std::mem::take(&mut self.pending);
        self.with_files(move |files| {
            files.append(&bytes)?;
            if seal { files.seal() } else { Ok(()) }
        })
        .await?;
        if seal {
            self.length = 0;
        }
        Ok(())
    }
}

/// What of the output is committed, as the pipeline's checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    format: u32,
    /// The file that is being written, and how much of it counts.
    sequence: u64,
    length: u64,
    /// The files that are due to be finished, with their lengths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sealed: Vec<(u64, u64)>,
}

struct Current {
    sequence: u64,
    length: u64,
    file: Option<File>,
    since: Option<Instant>,
    dirty: bool,
}

struct Files {
    names: Names,
    /// What stands at the start of each.
    head: Vec<u8>,
    roll_interval: Option<HumanDuration>,
    lock: Option<File>,
    manifest: Manifest,
    sealed: Vec<(u64, u64)>,
    current: Current,
    /// What the last flush answered; kept while nothing is written, so that nothing is synced either.
    flushed: Option<Token>,
}

fn lock(directory: &Path) -> Result<File, ConnectorError> {
    os::lock(
        &directory.join(LOCK),
        format_args!(
            "another run writes to {}: give this sink another path, or stop the other run",
            directory.display()
        ),
        format_args!("cannot write to {}", directory.display()),
    )
}

impl Files {
    fn recover(&mut self, token: Option<&str>) -> Result<u64, ConnectorError> {
        let shown = self.names.directory.display().to_string();
        fs::create_dir_all(&self.names.directory)
            .map_err(|e| os::fatal(format!("cannot create {shown}"), &e))?;
        if self.lock.is_none() {
            self.lock = Some(lock(&self.names.directory)?);
        }
        let manifest = Manifest::read(&self.names.directory)?;
        let has_manifest = manifest.is_some();
        self.manifest = manifest.unwrap_or_default();
        self.sealed.clear();
        let listing = list(&self.names.directory)?;
        let Some(token) = token.filter(|t| !t.is_empty()) else {
            if !listing.finished.is_empty() {
                return Err(ConnectorError::Fatal(format!(
                    "{shown} holds the output of an earlier run, of which this pipeline knows nothing: remove both with `wasmill run --reset`, or give the sink another path"
                )));
            }
            for file in listing.unfinished.values() {
                remove(&file.path)?;
            }
            if !has_manifest || self.manifest != Manifest::default() {
                self.manifest = Manifest::default();
                self.manifest.write(&self.names.directory)?;
            }
            self.begin(1);
            self.flushed = None;
            return Ok(0);
        };
        let token: Token = serde_json::from_str(token).ok().filter(|t: &Token| t.format == FORMAT).ok_or_else(|| {
            ConnectorError::Fatal(format!(
                "what the state says of {shown} is not of this wasmill: use the one that wrote it, or run `wasmill reset`"
            ))
        })?;
        // Checked before anything is changed: a directory that doesn't fit stays as it is.
        for (sequence, length) in token.sealed.iter().copied().chain([(token.sequence, token.length)]) {
            self.check(&listing, sequence, length)?;
        }
        if let Some((sequence, _)) = listing.finished.range(token.sequence + 1..).next() {
            return Err(self.newer(*sequence));
        }
        for (sequence, length) in &token.sealed {
            if listing.unfinished.contains_key(sequence) {
                self.cut(*sequence, *length)?;
            }
        }
        for (_, file) in listing.unfinished.range(token.sequence + 1..) {
            remove(&file.path)?;
        }
        self.sealed = token.sealed.clone();
        self.publish()?;
        if listing.finished.contains_key(&token.sequence) {
            // Finished when the pipeline ended; more came since.
            if self.manifest.add(&self.names, token.sequence, token.length) {
                self.manifest.write(&self.names.directory)?;
            }
            self.begin(token.sequence + 1);
        } else {
            self.begin(token.sequence);
            if token.length == 0 {
                remove(&self.names.unfinished(token.sequence))?;
            } else {
                let mut file = self.cut(token.sequence, token.length)?;
                file.seek(SeekFrom::End(0)).map_err(|e| os::fatal(format!("cannot write to {shown}"), &e))?;
                self.current.file = Some(file);
                self.current.length = token.length;
                self.current.since = Some(Instant::now());
            }
        }
        self.flushed = Some(token);
        Ok(self.current.length)
    }

    /// Whether a file still has what is committed of it.
    fn check(
        &self,
        listing: &super::manifest::Listing,
        sequence: u64,
        length: u64,
    ) -> Result<(), ConnectorError> {
        if let Some(there) = listing.finished.get(&sequence) {
            return if there.bytes == length { Ok(()) } else { Err(self.newer(sequence)) };
        }
        match listing.unfinished.get(&sequence) {
            Some(there) if there.bytes >= length => Ok(()),
            None if length == 0 => Ok(()),
            there => Err(ConnectorError::Fatal(format!(
                "{} has {} of the {length} bytes that are committed: the output was changed or lost since; put it back, or run `wasmill reset` to write all of it again",
                self.names.unfinished(sequence).display(),
                there.map_or(0, |t| t.bytes)
            ))),
        }
    }

    fn newer(&self, sequence: u64) -> ConnectorError {
        ConnectorError::Fatal(format!(
            "{} is finished, but the state of this pipeline is from before that: put back the state that goes with it, or run `wasmill reset`",
            self.names.finished(sequence).display()
        ))
    }

    /// Cuts off what is not committed.
    fn cut(&self, sequence: u64, length: u64) -> Result<File, ConnectorError> {
        let path = self.names.unfinished(sequence);
        let cut = || -> io::Result<File> {
            let file = OpenOptions::new().write(true).open(&path)?;
            if file.metadata()?.len() != length {
                file.set_len(length)?;
                file.sync_all()?;
            }
            Ok(file)
        };
        cut().map_err(|e| os::fatal(format!("cannot write {}", path.display()), &e))
    }

    fn begin(&mut self, sequence: u64) {
        self.current = Current { sequence, length: 0, file: None, since: None, dirty: false };
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ConnectorError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let path = self.names.unfinished(self.current.sequence);
        let failed = |e: io::Error| os::fatal(format!("cannot write {}", path.display()), &e);
        let file = match &mut self.current.file {
            Some(file) => file,
            none => {
                let file = File::create_new(&path).map_err(failed)?;
                // Its name must be as durable as the commit that will count on it.
                sync_directory(&self.names.directory)?;
                self.current.length += self.head.len() as u64;
                let file = none.insert(file);
                file.write_all(&self.head).map_err(failed)?;
                file
            }
        };
        file.write_all(bytes).map_err(failed)?;
        self.current.length += bytes.len() as u64;
        self.current.dirty = true;
        self.current.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ConnectorError> {
        if let Some(file) = self.current.file.as_ref().filter(|_| self.current.dirty) {
            let path = self.names.unfinished(self.current.sequence);
            file.sync_data().map_err(|e| os::fatal(format!("cannot sync {}", path.display()), &e))?;
            self.current.dirty = false;
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), ConnectorError> {
        if self.current.length == 0 {
            return Ok(());
        }
        self.sync()?;
        self.sealed.push((self.current.sequence, self.current.length));
        self.begin(self.current.sequence + 1);
        self.flushed = None;
        Ok(())
    }

    fn is_old(&self) -> bool {
        match (self.roll_interval, self.current.since) {
            (Some(interval), Some(since)) => since.elapsed() >= interval.0,
            _ => false,
        }
    }

    fn flush(&mut self) -> Result<Token, ConnectorError> {
        if self.is_old() {
            self.seal()?;
        }
        if let Some(token) = self.flushed.as_ref().filter(|_| !self.current.dirty) {
            return Ok(token.clone());
        }
        self.sync()?;
        let (sequence, length) = (self.current.sequence, self.current.length);
        let token = Token { format: FORMAT, sequence, length, sealed: self.sealed.clone() };
        self.flushed = Some(token.clone());
        Ok(token)
    }

    /// Finishes the sealed files. Each step may have been done before a crash.
    fn publish(&mut self) -> Result<(), ConnectorError> {
        if self.sealed.is_empty() {
            return Ok(());
        }
        for (sequence, _) in &self.sealed {
            self.rename(*sequence)?;
        }
        sync_directory(&self.names.directory)?;
        let mut changed = false;
        for (sequence, length) in self.sealed.drain(..) {
            changed |= self.manifest.add(&self.names, sequence, length);
        }
        if changed { self.manifest.write(&self.names.directory) } else { Ok(()) }
    }

    fn rename(&self, sequence: u64) -> Result<(), ConnectorError> {
        let (from, to) = (self.names.unfinished(sequence), self.names.finished(sequence));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
            done => done.map_err(|e| os::fatal(format!("cannot finish {}", to.display()), &e)),
        }
    }
}

#[async_trait]
impl Sink for FileSink {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn frame_by(&mut self, framing: Arc<dyn Framing>) {
        self.joiner = framing.joiner();
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.head = self.joiner.head();
        files.names.extension = framing.extension();
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(StreamEncoder(codec.clone()))
    }

    async fn recover(&mut self, token: Option<&str>) -> Result<(), ConnectorError> {
        let token = token.map(str::to_owned);
        self.pending.clear();
        self.length = self.with_files(move |files| files.recover(token.as_deref())).await?;
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        for record in &batch.records {
            let value = &batch.data[record.value.clone()];
            let before = self.pending.len();
            self.joiner.push(value, &mut self.pending);
            // What the joiner keeps counts once it comes out.
            self.length += (self.pending.len() - before) as u64;
            let seal = self.length >= self.roll_bytes;
            if seal || self.pending.len() as u64 >= PENDING_BYTES_MAX {
                self.write_pending(seal).await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        self.joiner.finish(&mut self.pending);
        let bytes = std::mem::take(&mut self.pending);
        let (token, length) = self
            .with_files(move |files| {
                files.append(&bytes)?;
                Ok((files.flush()?, files.current.length))
            })
            .await?;
        self.length = length;
        serde_json::to_string(&token).map_err(|e| ConnectorError::Fatal(format!("file sink: {e}")))
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        self.with_files(Files::publish).await
    }

    async fn close(&mut self, ended: bool) -> Result<(), ConnectorError> {
        self.pending.clear();
        self.with_files(move |files| {
            // Only what a flush answered is committed; a close in disorder leaves all to `recover`.
            let whole = files.flushed.as_ref().is_some_and(|t| t.length == files.current.length);
            if ended && whole && !files.current.dirty && files.current.length > 0 {
                let sealed = (files.current.sequence, files.current.length);
                files.sealed.push(sealed);
                files.begin(sealed.0 + 1);
                files.publish()?;
            }
            files.lock = None;
            Ok(())
        })
        .await
    }
}
