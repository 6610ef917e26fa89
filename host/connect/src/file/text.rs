//! The text of a file, plain or decompressed, read off the async threads.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use flate2::bufread::MultiGzDecoder;
use tokio::task::JoinHandle;
use wasmill_codec::framing::Place;
use xxhash_rust::xxh3::xxh3_64;

use crate::stream::Chunks;
use crate::{ConnectorError, os};

/// How much text one read brings; two of these are in memory for an open file.
const CHUNK_BYTES: usize = 256 * 1024;
/// How much of a file tells it from others.
const HEAD_BYTES: u64 = 4096;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A file's text.
pub(super) struct Text {
    path: PathBuf,
    from: From,
    /// How much text was read before.
    offset: u64,
    /// An error that came behind whole text, for the next read.
    late: Option<io::Error>,
}

enum From {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<Counted>>>),
}

/// Counts what is read, so that an error can name the file's byte.
struct Counted {
    file: File,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(into)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"))
}

impl Text {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self, ConnectorError> {
        let shown = path.display();
        let kind = std::fs::metadata(path).map_err(|e| os::fatal(format!("cannot read {shown}"), &e))?;
        if kind.is_dir() {
            return Err(ConnectorError::Fatal(format!(
                "{shown} is a directory: name a file in it, or many by a pattern such as {shown}/*.jsonl"
            )));
        }
        if !kind.is_file() {
            return Err(ConnectorError::Fatal(format!(
                "{shown} is not a regular file: it can't be read again from a position; use the stdin source for pipes"
            )));
        }
        let mut file = File::open(path).map_err(|e| os::fatal(format!("cannot read {shown}"), &e))?;
        let from = if is_gzip(path) {
            let mut magic = Vec::new();
            (&mut file)
                .take(2)
                .read_to_end(&mut magic)
                .and_then(|_| file.rewind())
                .map_err(|e| os::fatal(format!("cannot read {shown}"), &e))?;
            if !magic.is_empty() && magic != GZIP_MAGIC {
                return Err(ConnectorError::Fatal(format!(
                    "{shown} is not gzip although its name ends in .gz: rename it, or compress it"
                )));
            }
            if magic.is_empty() {
                From::Plain(file)
            } else {
                From::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(
                    64 * 1024,
                    Counted { file, bytes: 0 },
                ))))
            }
        } else {
            From::Plain(file)
        };
        Ok(Self { path: path.to_owned(), from, offset: 0, late: None })
    }

    /// Opens a file at a byte of its text, which must be the start of a line where it `has_lines`; answers the line's number.
    /// All before it is read once, to count lines: dead letters name them.
    pub(super) fn open_at(
        path: &Path,
        offset: u64,
        has_lines: bool,
    ) -> Result<(Self, Place), ConnectorError> {
        let mut text = Self::open(path)?;
        if offset == 0 {
            return Ok((text, Place::START));
        }
        let shown = path.display();
        let (mut newlines, mut last) = (0, 0);
        let mut piece = vec![0; CHUNK_BYTES];
        while text.offset < offset {
            let most = usize::try_from(offset - text.offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let n = text.fill(&mut piece[..most]).map_err(|e| text.damaged(&e))?;
            if n == 0 {
                return Err(ConnectorError::Fatal(format!(
                    "byte {offset} of {shown} is behind its end at {}: the file was cut off or replaced since that was committed; put the old file back, or run `wasmill reset` to start afresh",
                    text.offset
                )));
            }
            newlines += memchr::memchr_iter(b'\n', &piece[..n]).count() as u64;
            last = piece[n - 1];
        }
        // A last line without its newline ends where the file does.
        if has_lines && last != b'\n' && !text.at_end()? {
            return Err(ConnectorError::Fatal(format!(
                "byte {offset} of {shown} is in the middle of a line: the file was changed since that was committed, or its last line was continued; put the old file back, or run `wasmill reset` to start afresh"
            )));
        }
        Ok((text, Place { offset, line: newlines + 1 }))
    }

    /// Asked once, of a text that goes on only if it is not at its end.
    fn at_end(&mut self) -> Result<bool, ConnectorError> {
        self.fill(&mut [0]).map(|n| n == 0).map_err(|e| self.damaged(&e))
    }

    /// Reads until `into` is full or the text ends.
    fn fill(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(late) = self.late.take() {
            return Err(late);
        }
        let mut filled = 0;
        while filled < into.len() {
            let n = match &mut self.from {
                From::Plain(file) => file.read(&mut into[filled..]),
                From::Gzip(gzip) => gzip.read(&mut into[filled..]),
            };
            match n {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    self.offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if filled > 0 => {
                    self.late = Some(e);
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn damaged(&self, error: &io::Error) -> ConnectorError {
        let (shown, offset) = (self.path.display(), self.offset);
        let From::Gzip(gzip) = &self.from else {
            return os::fatal(format!("cannot read {shown} at byte {offset}"), error);
        };
        let from = gzip.get_ref();
        let byte = from.get_ref().bytes - from.buffer().len() as u64;
        match error.kind() {
            io::ErrorKind::UnexpectedEof => ConnectorError::Fatal(format!(
                "{shown} is cut off: its gzip data ends at byte {byte} in the middle of a member; the whole lines of its {offset} bytes of text were read; put the whole file in its place and run again"
            )),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => ConnectorError::Fatal(format!(
                "{shown} is damaged near byte {byte}: {error}; the whole lines of its {offset} bytes of text before it were read; put the whole file in its place and run again"
            )),
            _ => os::fatal(format!("cannot read {shown} at byte {byte}"), error),
        }
    }
}

/// What tells a file from others: how much of its head was hashed, and the hash. A file that grew is
/// still the same for every shorter head of it.
pub(super) fn incarnation(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut head = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut head)?;
    Ok(format!("{}:{:016x}", head.len(), xxh3_64(&head)))
}

/// The incarnation of a file as it is now.
pub(super) fn incarnation_now(path: &Path) -> io::Result<String> {
    incarnation(path, HEAD_BYTES)
}

/// Whether a file still begins as the one that `committed` was made of.
pub(super) fn begins_as(path: &Path, committed: &str) -> io::Result<bool> {
    match committed.split_once(':').and_then(|(length, _)| length.parse::<u64>().ok()) {
        Some(length) if length <= HEAD_BYTES => Ok(incarnation(path, length)? == committed),
        _ => Ok(false),
    }
}

type Reading = JoinHandle<(Text, Vec<u8>, Option<ConnectorError>)>;

/// A file's text piece by piece, one piece read ahead.
pub(super) struct FileChunks {
    reading: Option<Reading>,
    failed: Option<String>,
}

impl FileChunks {
    pub(super) fn new(text: Text) -> Self {
        Self { reading: Some(read(text)), failed: None }
    }
}

fn read(mut text: Text) -> Reading {
    tokio::task::spawn_blocking(move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        let error = match text.fill(&mut chunk) {
            Ok(n) => {
                chunk.truncate(n);
                None
            }
            Err(e) => {
                chunk.clear();
                Some(text.damaged(&e))
            }
        };
        (text, chunk, error)
    })
}

#[async_trait]
impl Chunks for FileChunks {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ConnectorError> {
        if let Some(text) = &self.failed {
            return Err(ConnectorError::Fatal(text.clone()));
        }
        let Some(reading) = &mut self.reading else { return Ok(None) };
        // A dropped wait leaves the handle in its place, so that the piece comes with the next one.
        let done = reading.await;
        self.reading = None;
        let error = match done {
            Ok((_, _, Some(error))) => error,
            Ok((_, chunk, None)) if chunk.is_empty() => return Ok(None),
            Ok((text, chunk, None)) => {
                self.reading = Some(read(text));
                return Ok(Some(chunk));
            }
            Err(e) => ConnectorError::Fatal(format!("a read did not finish: {e}")),
        };
        self.failed = Some(error.to_string());
        Err(error)
    }
}
