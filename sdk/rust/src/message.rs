//! One message as an author's function sees it.

use serde::{Deserialize, Serialize};
use wasmill_frame::edits::Mark;
use wasmill_frame::{Edit, EditsWriter, Frame, MetaKind, TIMESTAMP_NONE, timestamp_in_range};

use crate::{Reason, Result, State, Text, host, json};

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, with its changes.
    Keep,
    /// It goes no further. What it emitted does.
    Drop,
}

/// A message. What is read is always the message *as it came*: a change shows in the next stage, not
/// in what this function reads.
pub struct Message<'a> {
    frame: Frame<'a>,
    view: wasmill_frame::Message<'a>,
    index: usize,
    edits: EditsWriter,
    start: Mark,
    extras: Option<Extras>,
    /// Why this call has no state, where it has none.
    pub(crate) stateless: Option<&'static str>,
}

/// The messages emitted behind one message, kept apart so that changes of both may mingle.
struct Extras {
    edits: EditsWriter,
    start: Mark,
}

/// Room for the edits of a message, so that a usual batch's buffer never grows.
const EDIT_BYTES_USUAL: usize = 40;

impl<'a> Message<'a> {
    /// The first message of a frame that has one.
    pub(crate) fn first(frame: Frame<'a>, edited: bool) -> Option<Self> {
        if frame.is_empty() {
            return None;
        }
        let room = if edited { frame.len() * EDIT_BYTES_USUAL } else { 0 };
        let edits = EditsWriter::with_capacity(frame.len(), room);
        Some(Self {
            frame,
            view: frame.get(0),
            index: 0,
            start: edits.mark(),
            edits,
            extras: None,
            stateless: None,
        })
    }

    #[inline]
    pub(crate) fn turn_to(&mut self, index: usize) {
        self.view = self.frame.get(index);
        self.index = index;
        self.start = self.edits.mark();
    }

    /// Takes the function's answer for this message into the edits.
    #[inline]
    pub(crate) fn settle(&mut self, answer: Result<Verdict>) {
        match answer {
            Ok(Verdict::Keep) => {}
            Ok(Verdict::Drop) => {
                self.edits.rewind(self.start);
                self.edits.push(self.index, Edit::Drop);
            }
            Err(reason) => {
                self.forget();
                self.edits.push(self.index, Edit::Fail(reason.as_str()));
            }
        }
        if let Some(extras) = &mut self.extras {
            self.edits.append(&extras.edits);
            extras.edits.rewind(extras.start);
        }
    }

    /// Takes back all that was changed and emitted.
    pub(crate) fn forget(&mut self) {
        self.edits.rewind(self.start);
        if let Some(extras) = &mut self.extras {
            extras.edits.rewind(extras.start);
        }
    }

    /// The place in the edits where this message begins.
    pub(crate) fn mark(&self) -> Mark {
        self.start
    }

    /// Takes back the edits behind a place, of earlier messages too.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.forget();
        self.edits.rewind(mark);
    }

    /// The edits of all messages.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.edits.finish()
    }

    #[inline]
    fn edit(&mut self, edit: Edit<'_>) {
        self.edits.push(self.index, edit);
    }
}

/// Reading: views into the batch, without a copy.
impl<'a> Message<'a> {
    /// The user's id.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.view.id()
    }

    /// The user's type (`type` is a word of the language).
    #[must_use]
    pub fn kind(&self) -> &'a str {
        self.view.kind()
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.view.key()
    }

    /// The payload's bytes.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.view.payload()
    }

    /// The payload, read as JSON. A type with `&str` fields borrows them from the batch.
    ///
    /// # Errors
    /// A reason that names the field and the place: return it with `?`.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T> {
        json::read("payload", self.payload())
    }

    /// Event time in milliseconds since 1970, if it has one.
    #[must_use]
    pub fn timestamp(&self) -> Option<i64> {
        Some(self.view.timestamp()).filter(|t| *t != TIMESTAMP_NONE)
    }

    /// The metadata of this name as text: a JSON value that is not text as it is written.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<&'a str> {
        let entry = self.view.metadata().get(name)?;
        std::str::from_utf8(entry.value).ok()
    }

    /// The metadata of this name, read as JSON.
    ///
    /// # Errors
    /// A reason that names the entry, the field and the place.
    pub fn metadata_json<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>> {
        match self.view.metadata().get(name) {
            Some(entry) if entry.kind == MetaKind::Json => {
                json::read(&format!("metadata.{name}"), entry.value).map(Some)
            }
            Some(_) => Err(Reason::new(format!("metadata.{name} is text, not another kind of JSON"))),
            None => Ok(None),
        }
    }

    /// The metadata's names, in their order.
    pub fn metadata_names(&self) -> impl Iterator<Item = &'a str> {
        let entries = self.view.metadata().entries();
        entries.filter(|e| e.kind.is_metadata()).filter_map(|e| std::str::from_utf8(e.name).ok())
    }

    /// When the message happened, in milliseconds since 1970: its event time or, where it has none,
    /// when the log took it in; 0 where neither is known. A replay answers the same.
    #[must_use]
    pub fn time(&self) -> i64 {
        self.timestamp().unwrap_or_else(|| host::message_time(self.host_index()))
    }

    /// The next of this message's own random numbers. A replay answers the same.
    #[must_use]
    pub fn random(&self) -> u64 {
        host::random_next(self.host_index())
    }

    /// State of this message's key. The plugin must be granted `state`.
    pub fn state(&mut self) -> State {
        State::new(self.host_index(), self.stateless)
    }

    fn host_index(&self) -> u32 {
        // A frame holds far less than 2^32 messages: its table alone would be 224 GiB.
        self.index as u32
    }
}

/// Changing: written straight into the answer.
impl<'a> Message<'a> {
    /// Sets the id.
    pub fn set_id(&mut self, id: &str) {
        self.edit(Edit::Id(id));
    }

    /// Sets the type.
    pub fn set_kind(&mut self, kind: &str) {
        self.edit(Edit::Kind(kind));
    }

    /// Sets the key.
    pub fn set_key(&mut self, key: impl AsRef<[u8]>) {
        self.edit(Edit::Key(Some(key.as_ref())));
    }

    /// Takes the key away.
    pub fn remove_key(&mut self) {
        self.edit(Edit::Key(None));
    }

    /// Sets the payload's bytes.
    pub fn set_payload(&mut self, payload: impl AsRef<[u8]>) {
        self.edit(Edit::Payload(payload.as_ref()));
    }

    /// Sets the payload to a value as JSON.
    ///
    /// # Errors
    /// When the value can't be JSON: a map whose keys are not text.
    pub fn set_json(&mut self, payload: &(impl Serialize + ?Sized)) -> Result<()> {
        write_json(&mut self.edits, self.index, Edit::Payload(b""), payload)
    }

    /// Sets the event time in milliseconds since 1970.
    ///
    /// # Errors
    /// When it lies outside 1970 to the year 9999.
    pub fn set_timestamp(&mut self, timestamp_ms: i64) -> Result<()> {
        write_timestamp(&mut self.edits, self.index, timestamp_ms)
    }

    /// Sets metadata to a text: a string, a number, a `bool`.
    #[inline]
    pub fn set_metadata(&mut self, name: &str, value: impl Text) {
        write_text(&mut self.edits, self.index, name, &value);
    }

    /// Sets metadata to a value as JSON.
    ///
    /// # Errors
    /// When the value can't be JSON: a map whose keys are not text.
    pub fn set_metadata_json(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        write_json(&mut self.edits, self.index, Edit::SetMetadata { name, value: b"", json: true }, value)
    }

    /// Takes metadata away.
    pub fn remove_metadata(&mut self, name: &str) {
        self.edit(Edit::RemoveMetadata(name));
    }

    /// The message leaves the pipeline here, by the output of this name.
    pub fn route(&mut self, output: &str) {
        self.edit(Edit::Output(output));
    }

    /// Adds a message behind this one: a copy of it as it came.
    pub fn emit(&mut self) -> Emitted<'_> {
        self.emit_as(true)
    }

    /// Adds a message behind this one: with its id, type, key and timestamp, but no payload and no metadata.
    pub fn emit_empty(&mut self) -> Emitted<'_> {
        self.emit_as(false)
    }

    fn emit_as(&mut self, copy: bool) -> Emitted<'_> {
        let extras = self.extras.get_or_insert_with(|| {
            let edits = EditsWriter::new(self.frame.len());
            Extras { start: edits.mark(), edits }
        });
        extras.edits.push(self.index, Edit::Emit { copy });
        Emitted { edits: &mut extras.edits, index: self.index }
    }
}

/// A message that goes out behind the one at hand. Each setter gives it back, so that they chain.
pub struct Emitted<'m> {
    edits: &'m mut EditsWriter,
    index: usize,
}

impl Emitted<'_> {
    fn edit(&mut self, edit: Edit<'_>) -> &mut Self {
        self.edits.push(self.index, edit);
        self
    }

    /// Sets the id.
    pub fn set_id(&mut self, id: &str) -> &mut Self {
        self.edit(Edit::Id(id))
    }

    /// Sets the type.
    pub fn set_kind(&mut self, kind: &str) -> &mut Self {
        self.edit(Edit::Kind(kind))
    }

    /// Sets the key.
    pub fn set_key(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.edit(Edit::Key(Some(key.as_ref())))
    }

    /// Takes the key away.
    pub fn remove_key(&mut self) -> &mut Self {
        self.edit(Edit::Key(None))
    }

    /// Sets the payload's bytes.
    pub fn set_payload(&mut self, payload: impl AsRef<[u8]>) -> &mut Self {
        self.edit(Edit::Payload(payload.as_ref()))
    }

    /// Sets the payload to a value as JSON.
    ///
    /// # Errors
    /// When the value can't be JSON: a map whose keys are not text.
    pub fn set_json(&mut self, payload: &(impl Serialize + ?Sized)) -> Result<&mut Self> {
        write_json(self.edits, self.index, Edit::Payload(b""), payload)?;
        Ok(self)
    }

    /// Sets the event time in milliseconds since 1970.
    ///
    /// # Errors
    /// When it lies outside 1970 to the year 9999.
    pub fn set_timestamp(&mut self, timestamp_ms: i64) -> Result<&mut Self> {
        write_timestamp(self.edits, self.index, timestamp_ms)?;
        Ok(self)
    }

    /// Sets metadata to a text: a string, a number, a `bool`.
    pub fn set_metadata(&mut self, name: &str, value: impl Text) -> &mut Self {
        write_text(self.edits, self.index, name, &value);
        self
    }

    /// Sets metadata to a value as JSON.
    ///
    /// # Errors
    /// When the value can't be JSON: a map whose keys are not text.
    pub fn set_metadata_json(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<&mut Self> {
        let edit = Edit::SetMetadata { name, value: b"", json: true };
        write_json(self.edits, self.index, edit, value)?;
        Ok(self)
    }

    /// Takes metadata away.
    pub fn remove_metadata(&mut self, name: &str) -> &mut Self {
        self.edit(Edit::RemoveMetadata(name))
    }

    /// The message leaves the pipeline here, by the output of this name.
    pub fn route(&mut self, output: &str) -> &mut Self {
        self.edit(Edit::Output(output))
    }
}

#[inline(always)]
fn write_text(edits: &mut EditsWriter, index: usize, name: &str, value: &impl Text) {
    let edit = Edit::SetMetadata { name, value: b"", json: false };
    let written: Result<(), std::convert::Infallible> = edits.push_with(index, edit, |bytes| {
        value.write_text(bytes);
        Ok(())
    });
    match written {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

fn write_json(
    edits: &mut EditsWriter,
    index: usize,
    edit: Edit<'_>,
    value: &(impl Serialize + ?Sized),
) -> Result<()> {
    edits.push_with(index, edit, |bytes| serde_json::to_writer(bytes, value))?;
    Ok(())
}

fn write_timestamp(edits: &mut EditsWriter, index: usize, timestamp_ms: i64) -> Result<()> {
    if !timestamp_in_range(timestamp_ms) {
        crate::fail!("timestamp {timestamp_ms} ms lies outside 1970 to the year 9999");
    }
    edits.push(index, Edit::Timestamp(timestamp_ms));
    Ok(())
}
