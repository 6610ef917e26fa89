//! The one writer of a log.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::{self, list, segment_path};
use super::frames::{Found, Frames};
use super::layout::{Batch, FRAME_BYTES_MAX, note};
use super::marker::Marker;
use super::shared::Shared;
use crate::{ConnectorError, os};

/// A segment is finished when it is this long, in bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Why nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk takes no more for now; the log is as it was. Ask again later.
    #[error("{0}")]
    Full(String),
    /// The log can't be written any more: what is not synced may be lost. Open it again.
    #[error("{0}")]
    Failed(String),
}

impl From<LogError> for ConnectorError {
    fn from(error: LogError) -> Self {
        Self::Fatal(error.to_string())
    }
}

/// What of a log is kept when it is opened to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All that is whole: a write at the end that a crash cut short goes.
    Whole,
    /// What is before this offset, where a frame begins; all of it must be there.
    Before(u64),
}

/// The place of a log's writer, taken: nobody else writes.
#[derive(Debug)]
pub struct Taken {
    directory: PathBuf,
    lock: File,
    marker: Marker,
    incarnation: String,
}

impl Taken {
    /// Takes it; makes an empty log where there is none.
    ///
    /// # Errors
    /// Who writes it, or what can't be made or read.
    pub fn take(directory: &Path) -> Result<Self, ConnectorError> {
        let incarnation = directory::make(directory)?;
        let lock = directory::take_writer(directory)?;
        let marker = Marker::open(directory, true)
            .map_err(|e| os::fatal(format!("cannot write to the log {}", directory.display()), &e))?;
        Ok(Self { directory: directory.to_owned(), lock, marker, incarnation })
    }

    /// Which log it is.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// Up to which offset its readers may have seen.
    ///
    /// # Errors
    /// When that can't be read.
    pub fn committed(&self) -> Result<u64, ConnectorError> {
        let path = self.marker.path();
        self.marker.read().map_err(|e| os::fatal(format!("cannot read {}", path.display()), &e))
    }

    /// Opens the log to be written behind what is kept.
    ///
    /// # Errors
    /// What of it is damaged or missing, and what to do.
    pub fn open(self, keep: Keep, segment_bytes: u64) -> Result<LogWriter, ConnectorError> {
        let committed = self.committed()?;
        let shown = self.directory.display().to_string();
        let failed = |e: &io::Error| os::fatal(format!("cannot open the log {shown}"), e);
        let mut bases = list(&self.directory).map_err(|e| failed(&e))?;
        if let Keep::Before(end) = keep {
            // The last first, so that a crash leaves no gap.
            while let Some(base) = bases.last().copied().filter(|base| *base > end) {
                fs::remove_file(segment_path(&self.directory, base)).map_err(|e| failed(&e))?;
                directory::sync(&self.directory).map_err(|e| failed(&e))?;
                bases.remove(&base);
            }
        }
        let must_have = match keep {
            Keep::Whole => committed,
            Keep::Before(end) => end,
        };
        let (base, length, end, last_ms) = match bases.last() {
            Some(base) => {
                let tail = tail(&self.directory, *base, keep, must_have)?;
                (*base, tail.length, tail.end, tail.last_ms)
            }
            None => {
                File::create_new(segment_path(&self.directory, 0)).map_err(|e| failed(&e))?;
                directory::sync(&self.directory).map_err(|e| failed(&e))?;
                (0, 0, 0, 0)
            }
        };
        if end < must_have {
            return Err(ConnectorError::Fatal(format!(
                "the log {shown} ends at offset {end}, but {must_have} is committed: its files were cut off or removed; put them back, or remove the directory and run `wasmill reset` for those who write and read it"
            )));
        }
        if end > must_have && keep != Keep::Whole {
            return Err(ConnectorError::Fatal(format!(
                "the log {shown} can't be cut at offset {must_have}, for nothing was flushed there: it is not the log that was committed; put that back, or remove the directory and run `wasmill reset`"
            )));
        }
        let path = segment_path(&self.directory, base);
        let file = OpenOptions::new().write(true).open(path).map_err(|e| failed(&e))?;
        if file.metadata().map_err(|e| failed(&e))?.len() > length {
            file.set_len(length).and_then(|()| file.sync_all()).map_err(|e| failed(&e))?;
        }
        let shared = Shared::of(&self.directory);
        shared.set_failed(None);
        shared.set_bytes(directory::size_bytes(&self.directory).map_err(|e| failed(&e))?);
        shared.commit(committed);
        let segment = Segment { file, base, length };
        let Self { directory, lock, marker, incarnation } = self;
        Ok(LogWriter {
            directory,
            _lock: lock,
            marker,
            incarnation,
            shared,
            segment,
            end,
            committed,
            last_ms,
            segment_bytes: segment_bytes.max(1),
            is_dirty: false,
            broken: None,
        })
    }
}

/// Where a segment ends.
struct Tail {
    length: u64,
    end: u64,
    last_ms: i64,
}

/// Reads the last segment up to where it is kept.
fn tail(directory: &Path, base: u64, keep: Keep, must_have: u64) -> Result<Tail, ConnectorError> {
    let failed = |e: &io::Error| os::fatal(format!("cannot read the log {}", directory.display()), e);
    let mut frames = Frames::open(directory, base).map_err(|e| failed(&e))?;
    let mut last_ms = 0;
    loop {
        let tail = Tail { length: frames.at(), end: frames.next_offset(), last_ms };
        if keep == Keep::Before(tail.end) {
            return Ok(tail);
        }
        let why = match frames.next().map_err(|e| failed(&e))? {
            Found::Frame(header, _) => {
                last_ms = header.time_ms;
                continue;
            }
            Found::End => return Ok(tail),
            Found::Bad(why) => why,
        };
        if tail.end < must_have || frames.is_any_behind().map_err(|e| failed(&e))? {
            return Err(damaged(frames.path(), tail.length, tail.end, why));
        }
        tracing::warn!(
            log = %directory.display(), offset = tail.end, byte = tail.length, %why,
            "a write at the log's end that a crash cut short is removed: nobody was told that it is durable"
        );
        return Ok(tail);
    }
}

/// That a log is damaged where it was whole.
pub(super) fn damaged(path: &Path, byte: u64, offset: u64, why: &str) -> ConnectorError {
    ConnectorError::Fatal(format!(
        "{} is damaged at byte {byte}, offset {offset}: {why}; put a copy of the file back, or remove the log's directory, by which what is not read is lost, and run `wasmill reset` for those who write and read it",
        path.display()
    ))
}

#[derive(Debug)]
struct Segment {
    file: File,
    base: u64,
    length: u64,
}

/// Writes a log. It blocks: not for async threads.
#[derive(Debug)]
pub struct LogWriter {
    directory: PathBuf,
    _lock: File,
    marker: Marker,
    incarnation: String,
    pub(super) shared: Arc<Shared>,
    segment: Segment,
    end: u64,
    committed: u64,
    last_ms: i64,
    segment_bytes: u64,
    is_dirty: bool,
    broken: Option<String>,
}

impl LogWriter {
    /// Which log it is.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The offset behind the last record.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Up to which offset readers may see.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// How long the segments are together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes()
    }

    /// Appends records, to be read once they are committed; answers their offsets. `now_ms` is the time, in
    /// milliseconds since 1970; a log's times don't go back.
    ///
    /// # Errors
    /// Why none of them was.
    pub fn append(&mut self, batch: &mut Batch, now_ms: i64) -> Result<Range<u64>, LogError> {
        if batch.count() == 0 {
            return Ok(self.end..self.end);
        }
        if batch.bytes() > FRAME_BYTES_MAX {
            return Err(LogError::Full(format!(
                "{} bytes are too many to be appended to a log at once: at most {FRAME_BYTES_MAX}",
                batch.bytes()
            )));
        }
        self.roll_if_due()?;
        let time_ms = now_ms.max(self.last_ms);
        let base = self.end;
        self.write(batch.seal(base, time_ms))?;
        self.last_ms = time_ms;
        self.end += u64::from(batch.count());
        Ok(base..self.end)
    }

    /// Appends what readers pass over.
    ///
    /// # Errors
    /// Why it was not.
    pub(super) fn append_note(&mut self, text: &[u8]) -> Result<(), LogError> {
        self.write(&note(self.end, self.last_ms, text))
    }

    /// Whether nothing is in the segment that is written yet.
    pub(super) fn is_at_segment_start(&self) -> bool {
        self.segment.length == 0
    }

    /// Begins another segment where this one is long enough.
    pub(super) fn roll_if_due(&mut self) -> Result<(), LogError> {
        // A segment without records has the name that the next one would have.
        if self.segment.length < self.segment_bytes || self.segment.base == self.end {
            return Ok(());
        }
        self.sync()?;
        let path = segment_path(&self.directory, self.end);
        let made = File::create_new(&path).and_then(|file| directory::sync(&self.directory).map(|()| file));
        match made {
            Ok(file) => {
                self.segment = Segment { file, base: self.end, length: 0 };
                Ok(())
            }
            Err(e) => {
                // It may be made already, though nobody knows whether it lasts.
                let _ = fs::remove_file(&path);
                Err(LogError::Full(format!("cannot make {}: {}", path.display(), os::cause(&e))))
            }
        }
    }

    /// As `roll_if_due`; the new segment is there from the first with a note in it, so that what the note tells is
    /// never known by a segment alone that may be removed.
    pub(super) fn roll_with_note(&mut self, text: impl FnOnce() -> Vec<u8>) -> Result<(), LogError> {
        if self.segment.length < self.segment_bytes || self.segment.base == self.end {
            return Ok(());
        }
        self.sync()?;
        let path = segment_path(&self.directory, self.end);
        let new = path.with_extension("tmp");
        let bytes = note(self.end, self.last_ms, &text());
        let make = || -> io::Result<File> {
            let file = File::create(&new)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            directory::sync(&self.directory)?;
            Ok(file)
        };
        match make() {
            Ok(file) => {
                let length = bytes.len() as u64;
                self.segment = Segment { file, base: self.end, length };
                self.shared.add_bytes(length);
                Ok(())
            }
            Err(e) => {
                // It may be made already, though nobody knows whether it lasts.
                let _ = fs::remove_file(&path);
                Err(LogError::Full(format!("cannot make {}: {}", path.display(), os::cause(&e))))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.check()?;
        let path = || segment_path(&self.directory, self.segment.base);
        match self.segment.file.write_all_at(bytes, self.segment.length) {
            Ok(()) => {
                self.segment.length += bytes.len() as u64;
                self.shared.add_bytes(bytes.len() as u64);
                self.is_dirty = true;
                Ok(())
            }
            Err(e) => {
                let text = format!("cannot write {}: {}", path().display(), os::cause(&e));
                match self.segment.file.set_len(self.segment.length) {
                    Ok(()) => Err(LogError::Full(text)),
                    Err(e) => Err(self.fail(format!("{text}; nor take back what was written: {e}"))),
                }
            }
        }
    }

    /// Makes durable what was appended.
    ///
    /// # Errors
    /// Why it is not known to be; nothing more can be appended then.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        if !self.is_dirty {
            return Ok(());
        }
        match self.segment.file.sync_data() {
            Ok(()) => {
                self.is_dirty = false;
                Ok(())
            }
            // The system may have thrown the pages away: asking again would lie.
            Err(e) => {
                let path = segment_path(&self.directory, self.segment.base);
                Err(self.fail(format!(
                    "cannot sync {}: {}; look after the disk and start again",
                    path.display(),
                    os::cause(&e)
                )))
            }
        }
    }

    /// Makes all durable that was found in the segment that is written: an earlier process may have been killed
    /// before it had.
    pub(super) fn sync_again(&mut self) -> Result<(), LogError> {
        self.is_dirty = true;
        self.sync()
    }

    /// Lets readers see what is before an offset, which must be synced. `durably`: also behind a loss of power,
    /// when this is what says that it is committed.
    ///
    /// # Errors
    /// Why they don't.
    pub fn commit(&mut self, before: u64, durably: bool) -> Result<(), LogError> {
        self.check()?;
        if before <= self.committed {
            return Ok(());
        }
        debug_assert!(before <= self.end && !self.is_dirty, "what is committed is there and synced");
        if let Err(e) = self.marker.write(before, durably) {
            let text = format!("cannot write {}: {}", self.marker.path().display(), os::cause(&e));
            return Err(self.fail(text));
        }
        self.committed = before;
        self.shared.commit(before);
        Ok(())
    }

    fn check(&self) -> Result<(), LogError> {
        self.broken.clone().map_or(Ok(()), |text| Err(LogError::Failed(text)))
    }

    fn fail(&mut self, text: String) -> LogError {
        self.broken = Some(text.clone());
        self.shared.set_failed(Some(text.clone()));
        LogError::Failed(text)
    }
}
