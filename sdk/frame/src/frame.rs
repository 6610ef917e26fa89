//! A frame: a batch of messages as the host keeps it and as the guest reads it.
//!
//! ```text
//! header   16 bytes   magic "WMF1" · version u16 · zero u16 · messages u32 · arena offset u32
//! table    56 bytes a message: timestamp i64 · flags u32 · zero u32 ·
//!                     (offset u32, length u32) of id, type, key, payload, metadata
//! slack               up to the arena offset, unused
//! arena               the bytes that the spans point into, relative to its start
//! ```
//!
//! Spans may lie anywhere in the arena, in any order, so a change appends the new bytes and turns
//! the span; what was not touched is not copied.

use crate::bytes::{
    check_span, i64_at, length, put_i64, put_u32, read_header, table_end, u32_at, write_header,
};
use crate::meta::{Meta, MetaKind, MetaWriter};
use crate::{HEADER_BYTES, Malformed, TIMESTAMP_NONE, timestamp_in_range};

/// The magic word of a frame.
pub const MAGIC: [u8; 4] = *b"WMF1";
/// The size of one message's entry in the table.
pub const RECORD_BYTES: usize = 56;

const TIMESTAMP: usize = 0;
const FLAGS: usize = 8;
const ID: usize = 16;
const TYPE: usize = 24;
const KEY: usize = 32;
const PAYLOAD: usize = 40;
const META: usize = 48;

const FLAG_KEY: u32 = 1;
const FLAG_JSON: u32 = 2;

/// What a message is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The user's id.
    pub id: &'a str,
    /// The user's type.
    pub kind: &'a str,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The payload, to the letter.
    pub payload: &'a [u8],
    /// Event time in milliseconds since 1970, or [`TIMESTAMP_NONE`].
    pub timestamp: i64,
    /// The metadata column, as [`MetaWriter`] writes it.
    pub metadata: &'a [u8],
    /// Whether the payload was checked to be one JSON value.
    pub payload_is_json: bool,
}

/// A view of one message of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    record: &'a [u8],
    arena: &'a [u8],
}

impl<'a> Message<'a> {
    fn span(&self, field: usize) -> &'a [u8] {
        let start = u32_at(self.record, field) as usize;
        &self.arena[start..start + u32_at(self.record, field + 4) as usize]
    }

    fn text(&self, field: usize) -> &'a str {
        // Checked when the frame was parsed or written; empty is for bytes that never were.
        std::str::from_utf8(self.span(field)).unwrap_or_default()
    }

    /// The user's id.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.text(ID)
    }

    /// The user's type.
    #[must_use]
    pub fn kind(&self) -> &'a str {
        self.text(TYPE)
    }

    /// The user's type, as bytes.
    #[must_use]
    pub fn kind_bytes(&self) -> &'a [u8] {
        self.span(TYPE)
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        (u32_at(self.record, FLAGS) & FLAG_KEY != 0).then(|| self.span(KEY))
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.span(PAYLOAD)
    }

    /// Whether the host has checked that the payload is one JSON value.
    #[must_use]
    pub fn payload_is_json(&self) -> bool {
        u32_at(self.record, FLAGS) & FLAG_JSON != 0
    }

    /// Event time in milliseconds since 1970, or [`TIMESTAMP_NONE`].
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        i64_at(self.record, TIMESTAMP)
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> Meta<'a> {
        Meta::new(self.span(META))
    }

    /// All of it.
    #[must_use]
    pub fn parts(&self) -> Parts<'a> {
        Parts {
            id: self.id(),
            kind: self.kind(),
            key: self.key(),
            payload: self.payload(),
            timestamp: self.timestamp(),
            metadata: self.span(META),
            payload_is_json: self.payload_is_json(),
        }
    }

    /// The bytes that its fields fill in an arena.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        [ID, TYPE, KEY, PAYLOAD, META].iter().map(|f| u32_at(self.record, f + 4) as usize).sum()
    }
}

/// A view of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    table: &'a [u8],
    arena: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks a frame: header, table, every span, every text.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let frame = Self::open(bytes)?;
        for (i, record) in frame.table.chunks_exact(RECORD_BYTES).enumerate() {
            let at = HEADER_BYTES + i * RECORD_BYTES;
            let time = i64_at(record, TIMESTAMP);
            if time != TIMESTAMP_NONE && !timestamp_in_range(time) {
                return Err(Malformed { what: "timestamp out of range", at });
            }
            if u32_at(record, FLAGS) & !(FLAG_KEY | FLAG_JSON) != 0 || u32_at(record, 12) != 0 {
                return Err(Malformed { what: "unknown flags", at: at + FLAGS });
            }
            for field in [ID, TYPE, KEY, PAYLOAD, META] {
                let (offset, len) = (u32_at(record, field), u32_at(record, field + 4));
                check_span(offset, len, frame.arena.len(), at + field)?;
            }
            let message = Message { record, arena: frame.arena };
            for field in [ID, TYPE] {
                if std::str::from_utf8(message.span(field)).is_err() {
                    return Err(Malformed { what: "id or type is not UTF-8", at: at + field });
                }
            }
            Meta::parse(message.span(META)).map_err(|m| Malformed { at: at + META, ..m })?;
        }
        Ok(frame)
    }

    /// Opens a frame that comes from the host, which wrote it with [`FrameBuf`]: only header and
    /// table are checked, so that a guest pays nothing for each message. A span that leaves the
    /// arena would panic when it is read.
    ///
    /// # Errors
    /// When the header is not a frame's, or the table leaves the bytes.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (count, arena_at) = read_header(bytes, MAGIC)?;
        let end = table_end(bytes, HEADER_BYTES, count, RECORD_BYTES)?;
        let arena_at = arena_at as usize;
        if arena_at < end || arena_at > bytes.len() {
            return Err(Malformed { what: "arena starts outside the frame", at: 12 });
        }
        Ok(Self { table: &bytes[HEADER_BYTES..end], arena: &bytes[arena_at..] })
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() / RECORD_BYTES
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The message at `index`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> Message<'a> {
        let at = index * RECORD_BYTES;
        Message { record: &self.table[at..at + RECORD_BYTES], arena: self.arena }
    }

    /// The messages in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Message<'a>> {
        self.table.chunks_exact(RECORD_BYTES).map(move |record| Message { record, arena: self.arena })
    }
}

/// A message's entry in a frame's table.
#[derive(Debug, Clone)]
pub struct Record([u8; RECORD_BYTES]);

/// A frame that its owner builds and changes in place.
#[derive(Debug)]
pub struct FrameBuf {
    bytes: Vec<u8>,
    arena_at: usize,
    count: usize,
}

impl Clone for FrameBuf {
    /// Keeps the room too: a copy is made to be changed.
    fn clone(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.bytes.capacity());
        bytes.extend_from_slice(&self.bytes);
        Self { bytes, arena_at: self.arena_at, count: self.count }
    }
}

impl Default for FrameBuf {
    fn default() -> Self {
        Self::with_capacity(16, 0)
    }
}

impl FrameBuf {
    /// An empty frame with room for `messages` and for `arena_bytes`.
    #[must_use]
    pub fn with_capacity(messages: usize, arena_bytes: usize) -> Self {
        let arena_at = HEADER_BYTES + messages * RECORD_BYTES;
        let mut bytes = Vec::with_capacity(arena_at + arena_bytes);
        bytes.resize(arena_at, 0);
        write_header(&mut bytes, MAGIC, 0, length(arena_at));
        Self { bytes, arena_at, count: 0 }
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The whole layout, as a guest takes it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A view of it.
    #[must_use]
    pub fn view(&self) -> Frame<'_> {
        Frame {
            table: &self.bytes[HEADER_BYTES..HEADER_BYTES + self.count * RECORD_BYTES],
            arena: &self.bytes[self.arena_at..],
        }
    }

    /// The message at `index`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> Message<'_> {
        self.view().get(index)
    }

    fn record_at(&self, index: usize) -> usize {
        assert!(index < self.count, "message {index} of {}", self.count);
        HEADER_BYTES + index * RECORD_BYTES
    }

    fn append(&mut self, bytes: &[u8]) -> (u32, u32) {
        let offset = length(self.bytes.len() - self.arena_at);
        self.bytes.extend_from_slice(bytes);
        length(self.bytes.len() - self.arena_at);
        (offset, length(bytes.len()))
    }

    fn set_span(&mut self, index: usize, field: usize, bytes: &[u8]) {
        let at = self.record_at(index);
        let (offset, len) = self.append(bytes);
        put_u32(&mut self.bytes, at + field, offset);
        put_u32(&mut self.bytes, at + field + 4, len);
    }

    fn set_flag(&mut self, index: usize, flag: u32, on: bool) {
        let at = self.record_at(index) + FLAGS;
        let flags = u32_at(&self.bytes, at);
        put_u32(&mut self.bytes, at, if on { flags | flag } else { flags & !flag });
    }

    /// Doubles the table's room by moving the arena.
    fn grow_table(&mut self) {
        let room = (self.arena_at - HEADER_BYTES).max(RECORD_BYTES * 8);
        let slack = vec![0; room];
        self.bytes.splice(self.arena_at..self.arena_at, slack);
        self.arena_at += room;
        let arena_at = length(self.arena_at);
        put_u32(&mut self.bytes, 12, arena_at);
    }

    fn set_count(&mut self, count: usize) {
        self.count = count;
        put_u32(&mut self.bytes, 8, length(count));
    }

    /// Adds a message behind the others.
    pub fn push(&mut self, parts: &Parts<'_>) {
        let mut record = [0u8; RECORD_BYTES];
        record[..8].copy_from_slice(&parts.timestamp.to_le_bytes());
        let flags = if parts.key.is_some() { FLAG_KEY } else { 0 }
            | if parts.payload_is_json { FLAG_JSON } else { 0 };
        put_u32(&mut record, FLAGS, flags);
        let mut field = ID;
        for bytes in [
            parts.id.as_bytes(),
            parts.kind.as_bytes(),
            parts.key.unwrap_or_default(),
            parts.payload,
            parts.metadata,
        ] {
            let (offset, len) = self.append(bytes);
            put_u32(&mut record, field, offset);
            put_u32(&mut record, field + 4, len);
            field += 8;
        }
        self.add(&record);
    }

    /// Adds a message of another frame behind the others, as it is.
    pub fn push_message(&mut self, message: &Message<'_>) {
        let mut record = [0u8; RECORD_BYTES];
        record.copy_from_slice(message.record);
        let spans = [ID, TYPE, KEY, PAYLOAD, META]
            .map(|field| (field, u32_at(&record, field), u32_at(&record, field + 4)));
        let filled = || spans.iter().filter(|(_, _, len)| *len > 0);
        let start = filled().map(|(_, offset, _)| *offset).min().unwrap_or(0);
        let end = filled().map(|(_, offset, len)| offset + len).max().unwrap_or(0);
        // A message that was never changed is one stretch; of others, what lies between is left out.
        if (end - start) as usize == message.arena_bytes() {
            let (to, _) = self.append(&message.arena[start as usize..end as usize]);
            for (field, offset, len) in spans {
                put_u32(&mut record, field, if len > 0 { offset - start + to } else { to });
            }
        } else {
            for (field, _, _) in spans {
                let (to, _) = self.append(message.span(field));
                put_u32(&mut record, field, to);
            }
        }
        self.add(&record);
    }

    fn add(&mut self, record: &[u8; RECORD_BYTES]) {
        let at = HEADER_BYTES + self.count * RECORD_BYTES;
        if at + RECORD_BYTES > self.arena_at {
            self.grow_table();
        }
        self.bytes[at..at + RECORD_BYTES].copy_from_slice(record);
        self.set_count(self.count + 1);
    }

    /// Sets a message's id.
    pub fn set_id(&mut self, index: usize, id: &str) {
        self.set_span(index, ID, id.as_bytes());
    }

    /// Sets a message's type.
    pub fn set_kind(&mut self, index: usize, kind: &str) {
        self.set_span(index, TYPE, kind.as_bytes());
    }

    /// Sets or takes away a message's key.
    pub fn set_key(&mut self, index: usize, key: Option<&[u8]>) {
        if let Some(key) = key {
            self.set_span(index, KEY, key);
        }
        self.set_flag(index, FLAG_KEY, key.is_some());
    }

    /// Sets a message's payload; `is_json` says that it was checked to be one JSON value.
    pub fn set_payload(&mut self, index: usize, payload: &[u8], is_json: bool) {
        self.set_span(index, PAYLOAD, payload);
        self.set_flag(index, FLAG_JSON, is_json);
    }

    /// Sets a message's event time; the text that it came as is dropped, its form kept by `text`.
    pub fn set_timestamp(&mut self, index: usize, timestamp: i64, text: Option<&str>) {
        let at = self.record_at(index);
        put_i64(&mut self.bytes, at + TIMESTAMP, timestamp);
        let meta = self.get(index).metadata();
        if meta.timestamp_text().is_none() && text.is_none() {
            return;
        }
        let mut column = MetaWriter::new();
        for e in meta.entries().filter(|e| e.kind != MetaKind::Timestamp) {
            column.push(e.kind, e.name, e.value);
        }
        if let Some(text) = text {
            column.push(MetaKind::Timestamp, b"", text.as_bytes());
        }
        self.set_span(index, META, column.as_bytes());
    }

    /// Sets one metadata entry, in its old place where the name is known.
    pub fn set_metadata(&mut self, index: usize, kind: MetaKind, name: &str, value: &[u8]) {
        if self.get(index).metadata().get(name).is_none() {
            return self.add_metadata(index, kind, name, value);
        }
        let mut column = MetaWriter::new();
        let mut done = false;
        for e in self.get(index).metadata().entries() {
            if e.kind.is_metadata() && e.name == name.as_bytes() {
                if !done {
                    column.push(kind, e.name, value);
                }
                done = true;
            } else {
                column.push(e.kind, e.name, e.value);
            }
        }
        self.set_span(index, META, column.as_bytes());
    }

    /// Adds a metadata entry behind the others: the usual case, without a buffer between.
    fn add_metadata(&mut self, index: usize, kind: MetaKind, name: &str, value: &[u8]) {
        let at = self.record_at(index) + META;
        let (offset, len) = (u32_at(&self.bytes, at) as usize, u32_at(&self.bytes, at + 4) as usize);
        let old = self.arena_at + offset;
        // Where the old column ends the arena it simply goes on.
        let start = if old + len == self.bytes.len() {
            old
        } else {
            let start = self.bytes.len();
            self.bytes.extend_from_within(old..old + len);
            start
        };
        crate::meta::write_entry(&mut self.bytes, kind, name.as_bytes(), value);
        let len = length(self.bytes.len() - start);
        put_u32(&mut self.bytes, at, length(start - self.arena_at));
        put_u32(&mut self.bytes, at + 4, len);
    }

    /// Takes one metadata entry away.
    pub fn remove_metadata(&mut self, index: usize, name: &str) {
        let meta = self.get(index).metadata();
        if meta.get(name).is_none() {
            return;
        }
        let mut column = MetaWriter::new();
        for e in meta.entries().filter(|e| !(e.kind.is_metadata() && e.name == name.as_bytes())) {
            column.push(e.kind, e.name, e.value);
        }
        self.set_span(index, META, column.as_bytes());
    }

    /// Takes all metadata away, and with it the fields that plugins don't see.
    pub fn clear_metadata(&mut self, index: usize) {
        self.set_span(index, META, b"");
    }

    /// The message's entry in the table, to be put back with [`FrameBuf::push_record`].
    #[must_use]
    pub fn record(&self, index: usize) -> Record {
        let at = self.record_at(index);
        let mut record = [0; RECORD_BYTES];
        record.copy_from_slice(&self.bytes[at..at + RECORD_BYTES]);
        Record(record)
    }

    /// Adds a message behind the others that shares its bytes with the message `record` was taken
    /// from, as that was at the time.
    ///
    /// # Panics
    /// When the record is of another frame and its spans leave this one's arena.
    pub fn push_record(&mut self, record: &Record) {
        let at = HEADER_BYTES + self.count * RECORD_BYTES;
        if at + RECORD_BYTES > self.arena_at {
            self.grow_table();
        }
        let arena_bytes = self.bytes.len() - self.arena_at;
        for field in [ID, TYPE, KEY, PAYLOAD, META] {
            let (offset, len) = (u32_at(&record.0, field), u32_at(&record.0, field + 4));
            assert!(offset as usize + len as usize <= arena_bytes, "a record of another frame");
        }
        self.bytes[at..at + RECORD_BYTES].copy_from_slice(&record.0);
        self.set_count(self.count + 1);
    }

    /// Keeps the messages named in `order`, in that order.
    ///
    /// # Panics
    /// When `order` names a message that is not there.
    pub fn arrange(&mut self, order: &[usize]) {
        let rising = order.windows(2).all(|w| w[0] < w[1]);
        if rising {
            // In place: a message only ever moves towards the front.
            for (to, &from) in order.iter().enumerate() {
                let at = self.record_at(from);
                if to == from {
                    continue;
                }
                self.bytes.copy_within(at..at + RECORD_BYTES, HEADER_BYTES + to * RECORD_BYTES);
            }
        } else {
            let mut table = Vec::with_capacity(order.len() * RECORD_BYTES);
            for &from in order {
                let at = self.record_at(from);
                table.extend_from_slice(&self.bytes[at..at + RECORD_BYTES]);
            }
            while HEADER_BYTES + table.len() > self.arena_at {
                self.grow_table();
            }
            self.bytes[HEADER_BYTES..HEADER_BYTES + table.len()].copy_from_slice(&table);
        }
        self.set_count(order.len());
        if order.is_empty() {
            self.bytes.truncate(self.arena_at);
        }
    }

    /// Removes all messages and keeps the room.
    pub fn clear(&mut self) {
        self.set_count(0);
        self.bytes.truncate(self.arena_at);
    }

    /// The bytes in memory, spans that nothing points to any more included.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}
