//! Cuts a stream into rows: a newline within quotes ends none.

use std::sync::Arc;

use wasmill_engine::input::{RawBatch, RawRecord};

use super::{BOM, Dialect};
use crate::framing::{Cutter, Framing, Joiner, Place};

/// How much of a rejected row goes on.
const HEAD_BYTES: usize = 256;

/// One record a row. Offsets are bytes; the stream is read from its start for its header row.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    dialect: Dialect,
    head: Arc<[u8]>,
}

impl Rows {
    pub fn reading(dialect: Dialect) -> Self {
        Self { dialect, head: Arc::from([]) }
    }

    /// With the line that begins each file.
    pub fn writing(dialect: Dialect, head: Vec<u8>) -> Self {
        Self { dialect, head: head.into() }
    }
}

impl Framing for Rows {
    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Splitter::new(self.dialect, from, message_bytes_max))
    }

    fn extension(&self) -> &'static str {
        "csv"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        Box::new(Join(Arc::clone(&self.head)))
    }
}

struct Join(Arc<[u8]>);

impl Joiner for Join {
    fn head(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(value);
        out.push(b'\n');
    }
}

/// Where in a row the cutter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A quote here opens a field.
    FieldStart,
    /// In a field without quotes, or behind one with.
    Plain,
    /// Within quotes.
    Quoted,
    /// Behind a quote within quotes: another one stands for itself.
    QuoteInQuoted,
}

/// The state between two pieces of the stream.
struct Splitter {
    dialect: Dialect,
    message_bytes_max: usize,
    /// Rows before this offset are passed over.
    from: u64,
    /// Behind the last row that was moved.
    next: u64,
    /// Where the row that is next starts.
    place: Place,
    preamble: Option<Arc<[u8]>>,
    /// Whether a header row is still to come.
    header_due: bool,
    chunk: Vec<u8>,
    at: usize,
    state: State,
    /// How many lines the row that is next has ended.
    newlines: u64,
    /// A row's beginning from earlier chunks; only its head once it is too long.
    held: Vec<u8>,
    /// How long that beginning is.
    held_bytes: u64,
}

impl Cutter for Splitter {
    fn feed(&mut self, chunk: Vec<u8>) {
        debug_assert!(self.at == self.chunk.len(), "the piece before is used up");
        self.chunk = chunk;
        self.at = 0;
    }

    fn take(&mut self, batch: &mut RawBatch, messages_max: usize, bytes_max: usize) {
        let chunk = std::mem::take(&mut self.chunk);
        while self.at < chunk.len()
            && batch.records.len() < messages_max
            && (batch.records.is_empty() || batch.data.len() < bytes_max)
        {
            let rest = &chunk[self.at..];
            match self.row_end(rest) {
                Some(newline) => {
                    self.at += newline + 1;
                    if self.held_bytes == 0 {
                        self.finish(batch, &rest[..newline], newline as u64, true);
                    } else {
                        self.hold(&rest[..newline]);
                        self.finish_held(batch, true);
                    }
                }
                None => {
                    self.hold(rest);
                    self.at = chunk.len();
                }
            }
        }
        self.chunk = chunk;
        batch.preamble.clone_from(&self.preamble);
    }

    fn end(&mut self, batch: &mut RawBatch) {
        if self.held_bytes > 0 {
            self.finish_held(batch, false);
        }
        batch.preamble.clone_from(&self.preamble);
    }

    fn next(&self) -> u64 {
        self.next
    }
}

impl Splitter {
    fn new(dialect: Dialect, from: Place, message_bytes_max: usize) -> Self {
        Self {
            dialect,
            message_bytes_max,
            from: from.offset,
            next: from.offset,
            place: Place::START,
            preamble: None,
            header_due: dialect.header,
            chunk: Vec::new(),
            at: 0,
            state: State::FieldStart,
            newlines: 0,
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    /// Where the newline is that ends the row; the state goes on with the bytes before it.
    fn row_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let Dialect { separator, quote, .. } = self.dialect;
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::FieldStart if bytes[at] == quote => {
                    self.state = State::Quoted;
                    at += 1;
                }
                State::Quoted => match memchr::memchr2(quote, b'\n', &bytes[at..]) {
                    None => return None,
                    Some(n) => {
                        if bytes[at + n] == quote {
                            self.state = State::QuoteInQuoted;
                        } else {
                            self.newlines += 1;
                        }
                        at += n + 1;
                    }
                },
                State::QuoteInQuoted if bytes[at] == quote => {
                    self.state = State::Quoted;
                    at += 1;
                }
                State::FieldStart | State::Plain | State::QuoteInQuoted => {
                    // A quote within a field opens nothing: most rows are looked through once.
                    let Some(n) = memchr::memchr2(quote, b'\n', &bytes[at..]) else {
                        self.state = match bytes.last() {
                            Some(last) if *last == separator => State::FieldStart,
                            _ if self.is_bom(bytes) => State::FieldStart,
                            _ => State::Plain,
                        };
                        return None;
                    };
                    let found = at + n;
                    if bytes[found] == b'\n' {
                        self.state = State::FieldStart;
                        return Some(found);
                    }
                    let opens = n > 0 && (bytes[found - 1] == separator || self.is_bom(&bytes[..found]));
                    self.state = if opens { State::Quoted } else { State::Plain };
                    at = found + 1;
                }
            }
        }
        None
    }

    /// Whether the stream's beginning, which `bytes` end, is a mark and nothing else.
    fn is_bom(&self, bytes: &[u8]) -> bool {
        let held = self.held_bytes as usize;
        self.place.offset == 0
            && held + bytes.len() == BOM.len()
            && self.held.len() == held
            && BOM.starts_with(&self.held)
            && BOM.ends_with(bytes)
    }

    /// Keeps a row's piece.
    fn hold(&mut self, part: &[u8]) {
        self.held_bytes += part.len() as u64;
        // Some more for a carriage return and a mark that are no part of the row.
        let most = self.message_bytes_max + BOM.len() + 1;
        let room = if self.held_bytes > most as u64 { HEAD_BYTES + BOM.len() } else { most };
        if self.held.len() > room {
            self.held.truncate(room);
            self.held.shrink_to_fit();
        }
        let more = part.len().min(room - self.held.len());
        self.held.extend_from_slice(&part[..more]);
    }

    fn finish_held(&mut self, batch: &mut RawBatch, newline: bool) {
        let held = std::mem::take(&mut self.held);
        let bytes = std::mem::take(&mut self.held_bytes);
        self.finish(batch, &held, bytes, newline);
    }

    /// A row of `bytes` bytes has ended, of which `there` is what is kept.
    fn finish(&mut self, batch: &mut RawBatch, there: &[u8], bytes: u64, newline: bool) {
        let place = self.place;
        let next = place.offset + bytes + u64::from(newline);
        self.place = Place { offset: next, line: place.line + self.newlines + u64::from(newline) };
        self.state = State::FieldStart;
        self.newlines = 0;
        let (mut row, mut bytes) = (there, bytes);
        if place.offset == 0
            && let Some(rest) = row.strip_prefix(BOM)
        {
            (row, bytes) = (rest, bytes - BOM.len() as u64);
        }
        if row.len() as u64 == bytes
            && let Some(rest) = row.strip_suffix(b"\r")
        {
            (row, bytes) = (rest, bytes - 1);
        }
        if bytes == 0 {
            return;
        }
        let max = self.message_bytes_max;
        let is_header = std::mem::take(&mut self.header_due);
        let rejected = (bytes > max as u64).then(|| {
            let what = if is_header { "header row" } else { "row" };
            format!("{what} of {bytes} bytes is above message_bytes_max of {max}")
        });
        if is_header && rejected.is_none() {
            self.preamble = Some(row.into());
            return;
        }
        if place.offset < self.from {
            return;
        }
        self.next = next;
        let row = &row[..if rejected.is_some() { row.len().min(HEAD_BYTES) } else { row.len() }];
        let start = batch.data.len();
        batch.data.extend_from_slice(row);
        batch.records.push(RawRecord {
            offset: place.offset,
            next,
            value: start..start + row.len(),
            line: Some(place.line),
            rejected,
            ..RawRecord::default()
        });
    }
}
