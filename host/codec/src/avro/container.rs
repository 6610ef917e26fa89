//! Object container files: a header with the schema, then blocks of datums, each followed by the file's sync marker.
//!
//! A record's offset is its number in the file. A cutter is fed the file from its start, and passes over whole
//! blocks before its place without decompressing them. So that numbers are the same wherever it begins, a block
//! that is damaged inside has the numbers of all its datums, and one that is damaged as a block has one.

use std::sync::Arc;

use flate2::{Compress, Compression as Level, Decompress, FlushCompress, FlushDecompress, Status};
use memchr::memmem;
use wasmill_engine::input::{RawBatch, RawRecord};

use super::read::{Wire, extent};
use super::schema::{SCHEMA_BYTES_MAX, Schema, length};
use crate::framing::{Cutter, Framing, Joiner, Place};

/// How long a block may be, compressed or not.
pub(super) const BLOCK_BYTES_MAX: usize = 64 << 20;
/// How long a header may be.
const HEADER_BYTES_MAX: usize = SCHEMA_BYTES_MAX + (1 << 20);
/// How many datums a block may say to have. Those of no bytes could be any number.
const BLOCK_DATUMS_MAX: u64 = 1 << 32;
/// How many datums of no bytes a block may have beside one a byte.
const EMPTY_DATUMS_MAX: u64 = 1 << 16;
/// How long a block becomes before it is closed.
const BLOCK_BYTES: usize = 64 << 10;
/// How much of a rejected record goes on.
const HEAD_BYTES: usize = 256;

const MAGIC: &[u8; 4] = b"Obj\x01";
const SYNC_BYTES: usize = 16;

/// How blocks of container files are compressed.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// They are not.
    #[default]
    Null,
    /// With DEFLATE.
    Deflate,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Deflate => "deflate",
        }
    }
}

/// The head of a container file.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub schema: &'a str,
    compression: Compression,
    sync: [u8; SYNC_BYTES],
    bytes: usize,
}

/// Why a header can't be read.
enum Odd {
    /// It goes on to this many bytes, at least.
    Short(usize),
    Wrong(String),
}

impl<'a> Header<'a> {
    /// Reads a header that is whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(bytes: &'a [u8]) -> Result<Self, String> {
        Self::read(bytes).map_err(|odd| match odd {
            Odd::Short(_) => "the file's header is cut off".into(),
            Odd::Wrong(why) => why,
        })
    }

    fn read(bytes: &'a [u8]) -> Result<Self, Odd> {
        let mut at = 0;
        let mut take = |count: usize| {
            let end = count.checked_add(at).filter(|end| *end <= HEADER_BYTES_MAX);
            let end = end.ok_or_else(|| {
                Odd::Wrong(format!("the file's header is longer than {HEADER_BYTES_MAX} bytes"))
            })?;
            let taken = bytes.get(at..end).ok_or(Odd::Short(end))?;
            at = end;
            Ok::<_, Odd>(taken)
        };
        let magic = take(MAGIC.len()).or_else(|odd| {
            // A file of another kind may be shorter than the magic number.
            if MAGIC.starts_with(bytes) { Err(odd) } else { Ok(bytes) }
        })?;
        if magic != MAGIC {
            return Err(Odd::Wrong(
                "this is no Avro container file: it does not begin with `Obj` and the byte 1".into(),
            ));
        }
        let (mut schema, mut codec) = (None, &b"null"[..]);
        let wrong = |what: &str| Odd::Wrong(format!("the file's header is damaged: {what}"));
        loop {
            let mut long = || loop_long(&mut take);
            let count = long()?.ok_or_else(|| wrong("a count"))?;
            if count == 0 {
                break;
            }
            if count < 0 {
                long()?;
            }
            for _ in 0..count.unsigned_abs() {
                let mut text = || {
                    let length = loop_long(&mut take)?.and_then(|length| usize::try_from(length).ok());
                    take(length.ok_or_else(|| wrong("a length"))?)
                };
                match (text()?, text()?) {
                    (b"avro.schema", value) => schema = Some(value),
                    (b"avro.codec", value) => codec = value,
                    _ => {}
                }
            }
        }
        let mut sync = [0; SYNC_BYTES];
        sync.copy_from_slice(take(SYNC_BYTES)?);
        let schema = schema.ok_or_else(|| wrong("it has no `avro.schema`"))?;
        let schema = std::str::from_utf8(schema).map_err(|_| wrong("its `avro.schema` is not UTF-8"))?;
        let compression = match codec {
            b"null" | b"" => Compression::Null,
            b"deflate" => Compression::Deflate,
            other => {
                return Err(Odd::Wrong(format!(
                    "the file is compressed with `{}`, which wasmill can't read: write it with the codec `null` or `deflate`",
                    super::logical::shown(&String::from_utf8_lossy(other))
                )));
            }
        };
        Ok(Self { schema, compression, sync, bytes: at })
    }
}

fn loop_long<'a>(take: &mut impl FnMut(usize) -> Result<&'a [u8], Odd>) -> Result<Option<i64>, Odd> {
    let mut bytes = Vec::with_capacity(10);
    while bytes.len() < 10 {
        let byte = take(1)?[0];
        bytes.push(byte);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(Wire::new(&bytes).long("a number").ok())
}

/// The framing of container files.
#[derive(Clone)]
pub(super) struct Container {
    /// What is written: the schema, and how many bytes before each datum stand for it elsewhere.
    pub writes: Option<(Arc<Schema>, usize)>,
    pub compression: Compression,
}

impl Framing for Container {
    fn cutter(&self, from: Place, message_bytes_max: usize) -> Box<dyn Cutter> {
        Box::new(Blocks {
            message_bytes_max,
            from: from.offset,
            moved: from.offset,
            number: 0,
            buffer: Vec::new(),
            at: 0,
            before: 0,
            need: MAGIC.len(),
            state: State::Header,
            file: None,
        })
    }

    fn extension(&self) -> &'static str {
        "avro"
    }

    fn joiner(&self) -> Box<dyn Joiner> {
        let (text, prefix_bytes) = match &self.writes {
            Some((schema, prefix_bytes)) => (schema.text.as_str(), *prefix_bytes),
            None => ("\"null\"", 0),
        };
        let mut head = MAGIC.to_vec();
        length(2, &mut head);
        for part in ["avro.codec", self.compression.name(), "avro.schema", text] {
            length(part.len(), &mut head);
            head.extend_from_slice(part.as_bytes());
        }
        head.push(0);
        // Of what the file is, so that the same results are the same bytes.
        let sync = xxhash_rust::xxh3::xxh3_128(&head).to_be_bytes();
        head.extend_from_slice(&sync);
        Box::new(BlockJoiner {
            head,
            sync,
            prefix_bytes,
            compression: self.compression,
            block: Vec::new(),
            count: 0,
        })
    }
}

/// Puts datums into blocks.
struct BlockJoiner {
    head: Vec<u8>,
    sync: [u8; SYNC_BYTES],
    prefix_bytes: usize,
    compression: Compression,
    block: Vec<u8>,
    count: usize,
}

impl Joiner for BlockJoiner {
    fn head(&self) -> Vec<u8> {
        self.head.clone()
    }

    fn push(&mut self, value: &[u8], out: &mut Vec<u8>) {
        self.block.extend_from_slice(value.get(self.prefix_bytes..).unwrap_or_default());
        self.count += 1;
        // Datums may have no bytes.
        if self.block.len() >= BLOCK_BYTES || self.count >= BLOCK_BYTES {
            self.finish(out);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.count == 0 {
            return;
        }
        length(self.count, out);
        match self.compression {
            Compression::Null => {
                length(self.block.len(), out);
                out.extend_from_slice(&self.block);
            }
            Compression::Deflate => {
                let packed = deflate(&self.block);
                length(packed.len(), out);
                out.extend_from_slice(&packed);
            }
        }
        out.extend_from_slice(&self.sync);
        self.block.clear();
        self.count = 0;
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut packer = Compress::new(Level::default(), false);
    let mut out = Vec::with_capacity(bytes.len() / 2 + 64);
    loop {
        let done = usize::try_from(packer.total_in()).unwrap_or(usize::MAX).min(bytes.len());
        match packer.compress_vec(&bytes[done..], &mut out, FlushCompress::Finish) {
            // Raw DEFLATE into memory can't fail: it ends, or wants more room.
            Ok(Status::StreamEnd) | Err(_) => return out,
            Ok(_) => out.reserve(out.len().max(1024)),
        }
    }
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut unpacker = Decompress::new(false);
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(4).clamp(1024, 1 << 20));
    loop {
        let done = usize::try_from(unpacker.total_in()).unwrap_or(usize::MAX).min(bytes.len());
        let before = (done, out.len());
        let status = unpacker.decompress_vec(&bytes[done..], &mut out, FlushDecompress::None);
        match status {
            Ok(Status::StreamEnd) => return Ok(out),
            Err(e) => return Err(format!("its DEFLATE data is damaged: {e}")),
            Ok(_) if out.len() >= BLOCK_BYTES_MAX => {
                return Err(format!("it has more than {BLOCK_BYTES_MAX} bytes when decompressed"));
            }
            Ok(_) if out.len() == out.capacity() => {
                out.reserve_exact(out.len().min(BLOCK_BYTES_MAX - out.len()))
            }
            Ok(_) => {
                let now = usize::try_from(unpacker.total_in()).unwrap_or(usize::MAX);
                if (now, out.len()) == before || now >= bytes.len() {
                    return Err("its DEFLATE data is cut off".into());
                }
            }
        }
    }
}

/// What the header of the file that is being cut says.
struct File {
    preamble: Arc<[u8]>,
    schema: Schema,
    compression: Compression,
    sync: [u8; SYNC_BYTES],
}

enum State {
    Header,
    /// Before a block.
    Between,
    /// In a block's datums.
    Datums(Block),
    /// A block was damaged: looking for the next sync marker.
    Lost,
    /// The header was: there is nothing to be had.
    Dead,
}

/// A block, decompressed.
struct Block {
    data: Vec<u8>,
    at: usize,
    /// How many datums are left.
    left: u64,
    /// How many there are.
    count: u64,
    /// Where it starts in the file.
    start: u64,
}

struct Blocks {
    message_bytes_max: usize,
    from: u64,
    /// Behind the last record that was moved.
    moved: u64,
    /// The number of the datum that is next.
    number: u64,
    buffer: Vec<u8>,
    at: usize,
    /// How many bytes of the file were there before the buffer's.
    before: u64,
    /// How many bytes of the buffer, from `at`, must be there before it is looked at again.
    need: usize,
    state: State,
    file: Option<File>,
}

impl Cutter for Blocks {
    fn feed(&mut self, chunk: Vec<u8>) {
        if self.at == self.buffer.len() {
            self.before += self.at as u64;
            (self.buffer, self.at) = (chunk, 0);
            return;
        }
        // Only once half of it is used up, so that no byte is moved again and again.
        if self.at >= self.buffer.len() / 2 {
            self.before += self.at as u64;
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(&chunk);
    }

    fn take(&mut self, batch: &mut RawBatch, messages_max: usize, bytes_max: usize) {
        self.cut(batch, messages_max, bytes_max);
        if let Some(file) = &self.file {
            batch.preamble.get_or_insert_with(|| file.preamble.clone());
        }
    }

    fn end(&mut self, batch: &mut RawBatch) {
        let left = self.buffer.len() - self.at;
        let at = self.before + self.at as u64;
        let rest = std::mem::replace(&mut self.state, State::Dead);
        match rest {
            State::Header if left > 0 => {
                let why = match Header::read(&self.buffer[self.at..]) {
                    Err(Odd::Wrong(why)) => why,
                    _ => "the file's header is cut off".into(),
                };
                self.reject(batch, 1, self.at, self.buffer.len(), why);
            }
            State::Between if left > 0 => {
                let why = format!(
                    "the file is cut off: its last block, at byte {at}, has {left} bytes and no end; the blocks before it were read"
                );
                self.reject(batch, 1, self.at, self.buffer.len(), why);
            }
            _ => {}
        }
        self.at = self.buffer.len();
    }

    fn next(&self) -> u64 {
        self.moved
    }
}

impl Blocks {
    /// As [`Cutter::take`].
    fn cut(&mut self, batch: &mut RawBatch, messages_max: usize, bytes_max: usize) {
        let full = |batch: &RawBatch| {
            batch.records.len() >= messages_max
                || (!batch.records.is_empty() && batch.data.len() >= bytes_max)
        };
        while !full(batch) {
            match &mut self.state {
                State::Datums(_) => self.datums(batch, &full),
                State::Dead => {
                    self.at = self.buffer.len();
                    return;
                }
                State::Lost => {
                    if !self.find_sync() {
                        return;
                    }
                }
                _ if self.buffer.len() - self.at < self.need => return,
                State::Header => self.header(batch),
                State::Between => {
                    if self.at == self.buffer.len() {
                        return;
                    }
                    self.block(batch);
                }
            }
        }
    }

    fn header(&mut self, batch: &mut RawBatch) {
        let bytes = &self.buffer[self.at..];
        let read = Header::read(bytes).and_then(|header| {
            let schema = Schema::parse(header.schema, &[]);
            let schema =
                schema.map_err(|why| Odd::Wrong(format!("the schema in the file's header: {why}")))?;
            Ok((schema, header))
        });
        match read {
            Ok((schema, header)) => {
                self.at += header.bytes;
                self.file = Some(File {
                    preamble: bytes[..header.bytes].into(),
                    schema,
                    compression: header.compression,
                    sync: header.sync,
                });
                self.state = State::Between;
                self.need = 1;
            }
            Err(Odd::Short(need)) => self.need = need,
            Err(Odd::Wrong(why)) => {
                // As many of its bytes as there are however the file comes in pieces.
                self.reject(batch, 1, self.at, self.at + MAGIC.len(), why);
                self.state = State::Dead;
            }
        }
    }

    fn block(&mut self, batch: &mut RawBatch) {
        let Some(file) = &self.file else { return };
        let bytes = &self.buffer[self.at..];
        let start = self.before + self.at as u64;
        let mut wire = Wire::new(&bytes[..bytes.len().min(20)]);
        let head = wire.long("").and_then(|count| Ok((count, wire.long("")?)));
        let Ok((count, size)) = head else {
            // Two numbers have twenty bytes at most.
            if bytes.len() >= 20 {
                self.lose(batch, start, 20, "its count or its size is no number".into());
            } else {
                self.need = bytes.len() + 1;
            }
            return;
        };
        let count = u64::try_from(count).ok().filter(|count| *count <= BLOCK_DATUMS_MAX);
        let size = usize::try_from(size).ok().filter(|size| *size <= BLOCK_BYTES_MAX);
        let (Some(count), Some(size)) = (count, size) else {
            let why = format!(
                "its count or its size is negative, or above {BLOCK_DATUMS_MAX} datums or {BLOCK_BYTES_MAX} bytes"
            );
            let head = wire.at;
            self.lose(batch, start, head, why);
            return;
        };
        let body = wire.at..wire.at + size;
        self.need = body.end + SYNC_BYTES;
        let Some(sync) = bytes.get(body.end..self.need) else { return };
        if sync != file.sync {
            let block = self.need;
            self.lose(batch, start, block, "the file's sync marker does not follow it".into());
            return;
        }
        let whole = self.at..self.at + self.need;
        self.need = 1;
        if self.number + count <= self.from {
            self.number += count;
            self.at = whole.end;
            return;
        }
        let data = match file.compression {
            Compression::Null => Ok(bytes[body].to_vec()),
            Compression::Deflate => inflate(&bytes[body]),
        };
        let data = data.and_then(|data| {
            if count > data.len() as u64 + EMPTY_DATUMS_MAX {
                return Err(format!("it says to have {count} datums in {} bytes", data.len()));
            }
            Ok(data)
        });
        match data {
            Ok(data) => {
                self.state = State::Datums(Block { data, at: 0, left: count, count, start });
            }
            Err(why) => {
                let why = format!(
                    "the block at byte {start} of the file is damaged: {why}; its {count} datums are lost"
                );
                self.reject(batch, count, whole.start, whole.end, why);
            }
        }
        self.at = whole.end;
    }

    /// Moves the datums of the block as far as the batch has room.
    fn datums(&mut self, batch: &mut RawBatch, full: &impl Fn(&RawBatch) -> bool) {
        let Some(file) = &self.file else { return };
        let State::Datums(block) = &mut self.state else { return };
        let mut wire = Wire::new(&block.data);
        wire.at = block.at;
        let mut damage = None;
        while block.left > 0 && !full(batch) {
            let start = wire.at;
            let size = match extent(&file.schema, &mut wire) {
                Ok(_) if block.left == 1 && wire.left() > 0 => {
                    Err(format!("{} bytes follow its last datum", wire.left()))
                }
                other => other,
            };
            let offset = self.number;
            let size = match size {
                Ok(size) => size,
                Err(why) => {
                    damage = Some((start, why));
                    break;
                }
            };
            self.number += 1;
            block.left -= 1;
            if offset < self.from {
                continue;
            }
            let place = batch.data.len();
            let mut record = RawRecord { offset, next: offset + 1, ..RawRecord::default() };
            if size > self.message_bytes_max {
                let reason = format!(
                    "a datum of {size} bytes is above message_bytes_max of {}",
                    self.message_bytes_max
                );
                record.rejected = Some(reason);
                batch.data.extend_from_slice(&block.data[start..start + size.min(HEAD_BYTES)]);
            } else {
                batch.data.extend_from_slice(&block.data[start..start + size]);
            }
            record.value = place..batch.data.len();
            batch.records.push(record);
            self.moved = offset + 1;
        }
        block.at = wire.at;
        let (left, count, begin) = (block.left, block.count, block.start);
        if let Some((start, why)) = damage {
            let why = format!(
                "datum {} of the block at byte {begin} of the file is damaged: {why}; the block's last {left} of {count} datums are lost",
                count - left
            );
            let head = block.data[start..].iter().take(HEAD_BYTES).copied().collect();
            self.state = State::Between;
            self.reject_with(batch, left, head, why);
        } else if left == 0 {
            self.state = State::Between;
        }
    }

    /// A block that can't be told from its surroundings: goes on at the next sync marker.
    fn lose(&mut self, batch: &mut RawBatch, start: u64, length: usize, why: String) {
        let why = format!(
            "the block at byte {start} of the file is damaged: {why}; reading goes on behind the next sync marker"
        );
        self.reject(batch, 1, self.at, self.at + length, why);
        self.state = State::Lost;
        self.need = 1;
    }

    /// Whether the next sync marker is there; it is passed then, else all that can't be a part of it.
    fn find_sync(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        match memmem::find(&self.buffer[self.at..], &file.sync) {
            Some(found) => {
                self.at += found + SYNC_BYTES;
                self.state = State::Between;
                self.need = 1;
                true
            }
            None => {
                self.at = self.at.max(self.buffer.len().saturating_sub(SYNC_BYTES - 1));
                false
            }
        }
    }

    fn reject(&mut self, batch: &mut RawBatch, count: u64, start: usize, end: usize, why: String) {
        let head = self.buffer[start..end.min(start + HEAD_BYTES).min(self.buffer.len())].to_vec();
        self.reject_with(batch, count, head, why);
    }

    /// What takes the place of `count` datums; nothing if they are before the place to begin at.
    fn reject_with(&mut self, batch: &mut RawBatch, count: u64, head: Vec<u8>, why: String) {
        let offset = self.number;
        self.number += count;
        if self.number <= self.from || count == 0 {
            return;
        }
        let start = batch.data.len();
        batch.data.extend_from_slice(&head);
        batch.records.push(RawRecord {
            offset,
            next: self.number,
            value: start..batch.data.len(),
            rejected: Some(why),
            ..RawRecord::default()
        });
        self.moved = self.number;
    }
}
