//! The calls of transforms and filters: from a frame to edits, message by message.

use wasmill_frame::{Blobs, BlobsWriter, Frame};

use crate::{Message, Reason, Result, Verdict, host, panic};

pub(crate) fn begin() {
    panic::tell_host();
    host::begin();
}

pub(crate) fn open(frame: &[u8]) -> Result<Frame<'_>, String> {
    begin();
    Frame::open(frame).map_err(|e| format!("the host's frame can't be read: {e}"))
}

/// The edits that change nothing.
fn no_edits(messages: usize) -> Vec<u8> {
    wasmill_frame::EditsWriter::new(messages).finish()
}

/// Runs an author's function over a frame.
#[doc(hidden)]
#[inline]
pub fn transform(
    function: impl Fn(&mut Message<'_>) -> Result<Verdict>,
    frame: &[u8],
) -> Result<Vec<u8>, String> {
    let frame = open(frame)?;
    let Some(mut message) = Message::first(frame, true) else { return Ok(no_edits(0)) };
    for index in 0..frame.len() {
        message.turn_to(index);
        let answer = function(&mut message);
        message.settle(answer);
    }
    host::flush();
    Ok(message.finish())
}

/// Runs an author's filter over a frame.
#[doc(hidden)]
#[inline]
pub fn filter(function: impl Fn(&Message<'_>) -> Result<bool>, frame: &[u8]) -> Result<Vec<u8>, String> {
    transform(|message| Ok(if function(message)? { Verdict::Keep } else { Verdict::Drop }), frame)
}

/// Runs an author's batch function over a frame.
#[doc(hidden)]
pub fn transform_batch(
    function: impl Fn(&mut Batch<'_>) -> Result<()>,
    frame: &[u8],
) -> Result<Vec<u8>, String> {
    let frame = open(frame)?;
    let Some(message) = Message::first(frame, true) else { return Ok(no_edits(0)) };
    let mut batch = Batch { messages: frame.len(), message, visited: false };
    function(&mut batch).map_err(|reason| reason.to_string())?;
    host::flush();
    Ok(batch.message.finish())
}

/// A batch of messages: for functions that ask the host for state once a batch rather than once a
/// message, which costs as much as 100 messages' work. What it answers must not depend on where
/// batches are cut.
pub struct Batch<'a> {
    messages: usize,
    message: Message<'a>,
    visited: bool,
}

impl<'a> Batch<'a> {
    /// How many messages it has; at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Calls `function` for each message in order, each with the next of `values`.
    ///
    /// # Errors
    /// When the batch was visited before, or there are fewer values than messages. An error of
    /// `function` is only that message's.
    pub fn each<V>(
        &mut self,
        values: impl IntoIterator<Item = V>,
        mut function: impl FnMut(&mut Message<'a>, V) -> Result<Verdict>,
    ) -> Result<()> {
        if std::mem::replace(&mut self.visited, true) {
            crate::fail!("a batch is visited once");
        }
        let mut values = values.into_iter();
        for index in 0..self.messages {
            let Some(value) = values.next() else {
                crate::fail!("{index} values for {} messages", self.messages);
            };
            self.message.turn_to(index);
            let answer = function(&mut self.message, value);
            self.message.settle(answer);
        }
        Ok(())
    }

    /// What `look` makes of each message, in order: for calls of the host about all of them, before
    /// [`Batch::each`] goes through them.
    pub fn read<V>(&mut self, mut look: impl FnMut(&Message<'a>) -> V) -> Vec<V> {
        let looked = |index| {
            self.message.turn_to(index);
            look(&self.message)
        };
        (0..self.messages).map(looked).collect()
    }

    fn names(&self, name: &str) -> Vec<u8> {
        let mut names = BlobsWriter::new();
        for index in 0..self.messages {
            names.push(index as u32, name.as_bytes());
        }
        names.finish()
    }

    /// The state of this name of each message's key, before the batch: one host call.
    ///
    /// # Errors
    /// When the host can't read it.
    pub fn state_get(&self, name: &str) -> Result<Vec<Option<Vec<u8>>>> {
        let answer = host::state_get_many(&self.names(name)).map_err(|e| of_state(name, &e))?;
        let blobs = Blobs::parse(&answer).map_err(|e| of_state(name, &e.to_string()))?;
        Ok(blobs.iter().map(|(there, value)| (there == 1).then(|| value.to_vec())).collect())
    }

    /// Sets (`Some`) or deletes (`None`) the state of this name for each message's key in order, one
    /// value a message: one host call. Where messages share a key, the last stands.
    ///
    /// # Errors
    /// When the host refuses, or there is not one value a message.
    pub fn state_change<V: AsRef<[u8]>>(
        &self,
        name: &str,
        values: impl IntoIterator<Item = Option<V>>,
    ) -> Result<()> {
        let mut changes = BlobsWriter::new();
        let mut count = 0;
        for value in values {
            changes.push(count as u32, name.as_bytes());
            changes.push(u32::from(value.is_some()), value.as_ref().map_or(b"", AsRef::as_ref));
            count += 1;
        }
        if count != self.messages {
            crate::fail!("state {name:?}: {count} values for {} messages", self.messages);
        }
        host::state_change_many(&changes.finish()).map_err(|e| of_state(name, &e))
    }

    /// Adds to the number of this name for each message's key in order, and gives the sum after each
    /// message: one host call.
    ///
    /// # Errors
    /// When a value is no number, or a sum leaves 64 bits.
    pub fn state_increment(&self, name: &str, by: i64) -> Result<Vec<i64>> {
        host::state_increment_many(&self.names(name), by).map_err(|e| of_state(name, &e))
    }
}

fn of_state(name: &str, cause: &str) -> Reason {
    crate::reason!("state {name:?}: {cause}")
}
