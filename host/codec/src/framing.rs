//! How records stand one behind the other in a stream of bytes: a file, stdin, the body of a request.

use wasmill_engine::input::RawBatch;

mod delimited;
mod length;
mod lines;
mod objects;
mod pieces;

pub use delimited::Delimited;
pub use length::Length;
pub use lines::Lines;
pub use objects::Objects;

/// How records stand one behind the other.
pub trait Framing: Send + Sync {
    /// Whether a stream can be cut from a record in its middle. Else a cutter is fed the stream from its
    /// start, and passes over what comes before its place.
    fn resumes(&self) -> bool {
        false
    }
    /// Whether each record is a line.
    fn has_lines(&self) -> bool {
        false
    }
    /// Cuts a stream into records from `from` on. What is above `message_bytes_max`, or broken, goes on as a
    /// rejected record.
    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter>;
    /// What the names of files of it end in, without the dot.
    fn extension(&self) -> &'static str;
    /// Joins records into a stream.
    fn joiner(&self) -> Box<dyn Joiner>;
    /// Whether a record can stand in such a stream.
    ///
    /// # Errors
    /// Why not, and what to do: the reason, for the dead-letter queue.
    fn check(&self, _value: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Where a record starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its offset, which rises from record to record: its first byte where the framing resumes, else what
    /// the framing counts.
    pub offset: u64,
    /// Its line, from 1, where the stream has lines.
    pub line: u64,
}

impl Place {
    /// The start of a stream.
    pub const START: Self = Self { offset: 0, line: 1 };
}

/// Cuts a stream into records, piece by piece.
pub trait Cutter: Send + Sync {
    /// Takes the next piece. The one before must be used up: `take` has added nothing.
    fn feed(&mut self, chunk: Vec<u8>);
    /// Moves whole records to `batch` until it has `messages_max` of them, or about `bytes_max` bytes, or what was
    /// fed is used up. Each record's `offset` and `next` are set; the batch's `next` is the caller's.
    fn take(&mut self, batch: &mut RawBatch, messages_max: usize, bytes_max: usize);
    /// The stream has ended: moves what is left, at most one record.
    fn end(&mut self, batch: &mut RawBatch);
    /// The offset behind the last record that was moved.
    fn next(&self) -> u64;
}

/// Joins records into a stream.
pub trait Joiner: Send + Sync {
    /// What stands at the start of each stream.
    fn head(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Adds a record; may keep it until `finish`, and must then bound what it keeps by finishing itself.
    fn push(&mut self, value: &[u8], out: &mut Vec<u8>);
    /// Everything pushed so far is to stand in `out`.
    fn finish(&mut self, _out: &mut Vec<u8>) {}
}
