//! Edits: what a transform or filter answers to a frame.
//!
//! ```text
//! header   16 bytes   magic "WME1" · version u16 · zero u16 · edits u32 · messages of the frame u32
//! edit     12 bytes   op u8 · flag u8 · name length u16 · message u32 · value length u32
//!                     then the name's bytes and the value's bytes
//! ```
//!
//! Edits stand in the order of the messages they are about. A message without an edit is kept as it
//! is. [`Edit::Emit`] adds a message behind this one and turns what follows for the same message to
//! the new one.

use crate::bytes::{length, put_u32, read_header, u16_at, u32_at, write_header};
use crate::{HEADER_BYTES, Malformed, timestamp_in_range};

/// The magic word of edits.
pub const MAGIC: [u8; 4] = *b"WME1";
const EDIT_BYTES: usize = 12;

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<'a> {
    /// Op 1: the message goes no further; asked for, counted as dropped.
    Drop,
    /// Op 2: a new payload.
    Payload(&'a [u8]),
    /// Op 3: a new key; op 4: no key.
    Key(Option<&'a [u8]>),
    /// Op 5: a new event time in milliseconds, from 1970 to the year 9999.
    Timestamp(i64),
    /// Op 6: a new type.
    Kind(&'a str),
    /// Op 7: sets metadata; flag 0: the value is text, flag 1: it is JSON.
    SetMetadata {
        /// The entry's name.
        name: &'a str,
        /// Its value.
        value: &'a [u8],
        /// Whether the value is JSON rather than text.
        json: bool,
    },
    /// Op 8: takes metadata away.
    RemoveMetadata(&'a str),
    /// Op 9: the message leaves the pipeline here, by the output of this name.
    Output(&'a str),
    /// Op 10: this message fails: it goes to the dead-letter queue with the reason.
    Fail(&'a str),
    /// Op 11: one more message behind this one; flag 1: it starts as a copy of the message as it
    /// came in, flag 0: empty, with the same id, type, key and timestamp.
    Emit {
        /// Whether it starts as a copy.
        copy: bool,
    },
    /// Op 12: a new id.
    Id(&'a str),
}

/// A checked view of edits.
#[derive(Debug, Clone, Copy)]
pub struct Edits<'a> {
    body: &'a [u8],
    count: u32,
}

impl<'a> Edits<'a> {
    /// Checks edits that answer a frame of `messages` messages.
    ///
    /// # Errors
    /// What is wrong, and at which byte.
    pub fn parse(bytes: &'a [u8], messages: usize) -> Result<Self, Malformed> {
        Self::parse_each(bytes, messages, |_, _| {})
    }

    /// As [`Edits::parse`], and shows `each` every edit on the way: one pass for two checks.
    ///
    /// # Errors
    /// As [`Edits::parse`]; `each` has then seen the edits before the place.
    pub fn parse_each(
        bytes: &'a [u8],
        messages: usize,
        mut each: impl FnMut(usize, Edit<'a>),
    ) -> Result<Self, Malformed> {
        let (count, answered) = read_header(bytes, MAGIC)?;
        if answered as usize != messages {
            return Err(Malformed { what: "edits answer another frame's number of messages", at: 12 });
        }
        let body = &bytes[HEADER_BYTES..];
        let (mut at, mut last) = (0, 0);
        for _ in 0..count {
            let (index, edit, next) =
                read(body, at).map_err(|what| Malformed { what, at: HEADER_BYTES + at })?;
            if index < last || index as usize >= messages {
                let what = "edit for a message out of order or out of the frame";
                return Err(Malformed { what, at: HEADER_BYTES + at + 4 });
            }
            each(index as usize, edit);
            (at, last) = (next, index);
        }
        if at != body.len() {
            return Err(Malformed { what: "bytes behind the last edit", at: HEADER_BYTES + at });
        }
        Ok(Self { body, count })
    }

    /// Opens edits that were checked before. Of bytes that were not, what is malformed ends the edits.
    #[must_use]
    pub fn open(bytes: &'a [u8]) -> Self {
        let count = if bytes.len() < HEADER_BYTES { 0 } else { u32_at(bytes, 8) };
        Self { body: bytes.get(HEADER_BYTES..).unwrap_or_default(), count }
    }

    /// How many edits there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none: every message is kept as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The edits in order, each with the index of its message.
    pub fn iter(self) -> impl Iterator<Item = (usize, Edit<'a>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (index, edit, next) = (at < self.body.len()).then(|| read(self.body, at).ok())??;
            at = next;
            Some((index as usize, edit))
        })
    }
}

fn read(body: &[u8], at: usize) -> Result<(u32, Edit<'_>, usize), &'static str> {
    let name_at = at + EDIT_BYTES;
    if name_at > body.len() {
        return Err("edit leaves the buffer");
    }
    let (op, flag) = (body[at], body[at + 1]);
    let value_at = name_at + u16_at(body, at + 2) as usize;
    let end = match value_at.checked_add(u32_at(body, at + 8) as usize) {
        Some(end) if end <= body.len() => end,
        _ => return Err("edit leaves the buffer"),
    };
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "text that is not UTF-8");
    let (name, value) = (&body[name_at..value_at], &body[value_at..end]);
    let takes_name = matches!(op, 7..=9);
    let takes_value = matches!(op, 2 | 3 | 5 | 6 | 7 | 10 | 12);
    if (!takes_name && !name.is_empty()) || (!takes_value && !value.is_empty()) {
        return Err("edit with a name or value that its op does not take");
    }
    if flag > u8::from(matches!(op, 7 | 11)) {
        return Err("unknown flag of an edit");
    }
    let edit = match op {
        1 => Edit::Drop,
        2 => Edit::Payload(value),
        3 => Edit::Key(Some(value)),
        4 => Edit::Key(None),
        5 => {
            let bytes: [u8; 8] = value.try_into().map_err(|_| "timestamp that is not 8 bytes")?;
            let time = i64::from_le_bytes(bytes);
            if !timestamp_in_range(time) {
                return Err("timestamp out of range");
            }
            Edit::Timestamp(time)
        }
        6 => Edit::Kind(text(value)?),
        7 => {
            if flag == 0 {
                text(value)?;
            }
            Edit::SetMetadata { name: text(name)?, value, json: flag == 1 }
        }
        8 => Edit::RemoveMetadata(text(name)?),
        9 => Edit::Output(text(name)?),
        10 => Edit::Fail(text(value)?),
        11 => Edit::Emit { copy: flag == 1 },
        12 => Edit::Id(text(value)?),
        _ => return Err("unknown edit"),
    };
    Ok((u32_at(body, at + 4), edit, end))
}

/// Writes edits.
#[derive(Debug, Clone)]
pub struct EditsWriter {
    bytes: Vec<u8>,
    count: u32,
}

/// A place in an [`EditsWriter`] to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    bytes: usize,
    count: u32,
}

impl EditsWriter {
    /// No edits yet, for a frame of `messages` messages.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        Self::with_capacity(messages, 0)
    }

    /// As [`EditsWriter::new`], with room for `bytes` bytes of edits.
    #[must_use]
    pub fn with_capacity(messages: usize, bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADER_BYTES + bytes);
        buffer.resize(HEADER_BYTES, 0);
        write_header(&mut buffer, MAGIC, 0, length(messages));
        Self { bytes: buffer, count: 0 }
    }

    /// Adds an edit for the message at `index`; indices must not fall.
    ///
    /// # Panics
    /// When a name is longer than 65,535 bytes.
    // Inlined, an edit with a literal name is a few stores; a call of WebAssembly's memory.copy for
    // each part costs several times as much.
    #[inline(always)]
    pub fn push(&mut self, index: usize, edit: Edit<'_>) {
        let timestamp;
        let (op, flag, name, value): (u8, bool, &str, &[u8]) = match edit {
            Edit::Drop => (1, false, "", b""),
            Edit::Payload(v) => (2, false, "", v),
            Edit::Key(Some(v)) => (3, false, "", v),
            Edit::Key(None) => (4, false, "", b""),
            Edit::Timestamp(t) => {
                timestamp = t.to_le_bytes();
                (5, false, "", &timestamp)
            }
            Edit::Kind(v) => (6, false, "", v.as_bytes()),
            Edit::SetMetadata { name, value, json } => (7, json, name, value),
            Edit::RemoveMetadata(name) => (8, false, name, b""),
            Edit::Output(name) => (9, false, name, b""),
            Edit::Fail(v) => (10, false, "", v.as_bytes()),
            Edit::Emit { copy } => (11, copy, "", b""),
            Edit::Id(v) => (12, false, "", v.as_bytes()),
        };
        let name_bytes = match u16::try_from(name.len()) {
            Ok(n) => n.to_le_bytes(),
            Err(_) => panic!("a name of {} bytes", name.len()),
        };
        let mut head = [op, u8::from(flag), name_bytes[0], name_bytes[1], 0, 0, 0, 0, 0, 0, 0, 0];
        put_u32(&mut head, 4, length(index));
        put_u32(&mut head, 8, length(value.len()));
        self.bytes.reserve(EDIT_BYTES + name.len() + value.len());
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(value);
        self.count += 1;
    }

    /// Adds an edit whose value goes on with what `write` appends, which saves a copy. What `write`
    /// finds in the buffer belongs to earlier edits: it must only append. The edit must be one that
    /// takes a value. When `write` fails, no edit is added.
    ///
    /// # Errors
    /// What `write` gives.
    #[inline(always)]
    pub fn push_with<E>(
        &mut self,
        index: usize,
        edit: Edit<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.mark();
        self.push(index, edit);
        let appended_at = self.bytes.len();
        if let Err(e) = write(&mut self.bytes) {
            self.rewind(before);
            return Err(e);
        }
        let by = length(self.bytes.len() - appended_at);
        let value_length = u32_at(&self.bytes, before.bytes + 8);
        put_u32(&mut self.bytes, before.bytes + 8, length(value_length as usize + by as usize));
        Ok(())
    }

    /// The place behind the last edit.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), count: self.count }
    }

    /// Takes away the edits behind a mark of this writer.
    pub fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.count = mark.count;
    }

    /// Puts another writer's edits behind these.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes[HEADER_BYTES..]);
        self.count += other.count;
    }

    /// Whether there is no edit yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The finished layout.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        put_u32(&mut self.bytes, 8, self.count);
        self.bytes
    }
}
