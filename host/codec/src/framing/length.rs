//! Cuts bytes of any kind: before each record stands its length, four bytes, the greatest first.

use wasmill_engine::input::{RawBatch, RawRecord};

use super::{Cutter, Framing, Joiner, Place};

const PREFIX_BYTES: usize = 4;
/// How much of a rejected record goes on.
const HEAD_BYTES: usize = 256;

/// One record behind its length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Length;

impl Framing for Length {
    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Splitter {
            message_bytes_max,
            from: from.offset,
            next: from.offset,
            offset: 0,
            chunk: Vec::new(),
            at: 0,
            held: Vec::new(),
            held_bytes: 0,
        })
    }

    fn extension(&self) -> &'static str {
        "bin"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        Box::new(Self)
    }

    fn check(&self, value: &[u8]) -> Result<(), String> {
        match u32::try_from(value.len()) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!(
                "the message has {} bytes, and its length is written with four: expected less than 4 GiB",
                value.len()
            )),
        }
    }
}

impl Joiner for Length {
    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        // What is longer was refused by `check`.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// The state between two pieces of the stream.
struct Splitter {
    message_bytes_max: usize,
    /// Records before this offset are passed over.
    from: u64,
    /// Behind the last record that was moved.
    next: u64,
    /// Where the record that is next starts.
    offset: u64,
    chunk: Vec<u8>,
    at: usize,
    /// A record's beginning from earlier chunks, with its length; only its head once it is too long.
    held: Vec<u8>,
    /// How long that beginning is.
    held_bytes: u64,
}

fn length_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<PREFIX_BYTES>().map(|prefix| u64::from(u32::from_be_bytes(*prefix)))
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
            if self.held_bytes == 0
                && let Some(length) = length_of(rest)
                && let Ok(end) = usize::try_from(PREFIX_BYTES as u64 + length)
                && let Some(record) = rest.get(..end)
            {
                self.at += end;
                self.push(batch, record, end as u64);
                continue;
            }
            let more = match length_of(&self.held) {
                Some(length) => PREFIX_BYTES as u64 + length - self.held_bytes,
                None => (PREFIX_BYTES - self.held.len()) as u64,
            };
            let more = usize::try_from(more).unwrap_or(usize::MAX).min(rest.len());
            self.hold(&rest[..more]);
            self.at += more;
            if length_of(&self.held).is_some_and(|length| PREFIX_BYTES as u64 + length == self.held_bytes) {
                let held = std::mem::take(&mut self.held);
                self.push(batch, &held, self.held_bytes);
                self.held_bytes = 0;
            }
        }
        self.chunk = chunk;
    }

    fn end(&mut self, batch: &mut RawBatch) {
        if self.held_bytes == 0 {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let there = self.held_bytes;
        self.held_bytes = 0;
        let reason = match length_of(&held) {
            Some(length) => format!(
                "the stream ends within a record: its length is {length} bytes, of which there are {}",
                there - PREFIX_BYTES as u64
            ),
            None => format!("the stream ends within the length of a record: {there} of {PREFIX_BYTES} bytes"),
        };
        self.add(batch, held.get(PREFIX_BYTES..).unwrap_or_default(), there, Some(reason));
    }

    fn next(&self) -> u64 {
        self.next
    }
}

impl Splitter {
    fn hold(&mut self, part: &[u8]) {
        // The length is a stranger's claim: memory grows with what is there.
        let too_long = length_of(&self.held).is_some_and(|length| length > self.message_bytes_max as u64);
        let room = PREFIX_BYTES + if too_long { HEAD_BYTES } else { self.message_bytes_max };
        let more = part.len().min(room.saturating_sub(self.held.len()));
        self.held.extend_from_slice(&part[..more]);
        self.held_bytes += part.len() as u64;
    }

    /// Adds a record whose bytes, or their head, are `record`, its length first.
    fn push(&mut self, batch: &mut RawBatch, record: &[u8], whole: u64) {
        let (length, max) = (whole - PREFIX_BYTES as u64, self.message_bytes_max);
        let rejected = (length > max as u64)
            .then(|| format!("record of {length} bytes is above message_bytes_max of {max}"));
        self.add(batch, &record[PREFIX_BYTES..], whole, rejected);
    }

    fn add(&mut self, batch: &mut RawBatch, value: &[u8], whole: u64, rejected: Option<String>) {
        let offset = self.offset;
        self.offset += whole;
        if offset < self.from {
            return;
        }
        self.next = self.offset;
        let value = &value[..if rejected.is_some() { value.len().min(HEAD_BYTES) } else { value.len() }];
        let start = batch.data.len();
        batch.data.extend_from_slice(value);
        batch.records.push(RawRecord {
            offset,
            next: self.offset,
            value: start..start + value.len(),
            rejected,
            ..RawRecord::default()
        });
    }
}
