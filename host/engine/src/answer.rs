//! What a plugin answers for a batch: checked, then applied. What leaves the main way is taken out.

use std::ops::Range;

use wasmill_frame::{Edit, Edits, FrameBuf, Message, MetaKind, meta};

use crate::batch::{Batch, Leaving, Ordinals, Passed, Row};
use crate::dead_letter::{Buried, DeadLetter};
use crate::guest::{AnswerBounds, CallError, GuestInfo, Judged};
use crate::output::{Outbox, Routes, no_sink};
use crate::stage::{Origins, StageKind};

/// The most bytes of metadata that its changes may go through: for an edit of a few bytes the host may have to read,
/// and to write again, all that the message has.
const METADATA_BYTES_PER_MESSAGE_MAX: usize = 4 << 20;

/// What an edit, and a message that is emitted, take up beside their bytes, at most: the one as it is answered, the
/// other as a message and as a dead letter.
const EDIT_BYTES: usize = 16;
const EMITTED_BYTES: usize = 1 << 10;

/// Checks an answer: its layout, and what the layout can't say: that a filter only filters, that JSON is
/// JSON, that what becomes of each message is bounded. `message` is one as it came.
pub(crate) fn check<'a>(
    answer: &[u8],
    messages: usize,
    kind: StageKind,
    bounds: AnswerBounds,
    message: impl Fn(usize) -> Message<'a>,
) -> Result<Checked, CallError> {
    let mut checked = Checked::default();
    let mut current = usize::MAX;
    let (mut emits, mut bytes) = (0, 0);
    let (mut column, mut gone_through) = (0, 0);
    let mut wrong = None;
    let mut passes = PassedOn::default();
    let column_of = |index| message(index).metadata().as_bytes().len();
    Edits::parse_each(answer, messages, |index, edit| {
        checked.bytes += EDIT_BYTES + bytes_of(&edit);
        if index != current {
            (current, emits, bytes) = (index, 0, 0);
            (column, gone_through) = (column_of(index), 0);
            wrong = wrong.take().or(passes.another());
        }
        if let Edit::SetMetadata { .. } | Edit::RemoveMetadata(_) | Edit::Timestamp(_) = edit {
            gone_through += column;
        }
        if let Edit::SetMetadata { name, value, .. } = edit {
            column += meta::ENTRY_BYTES + name.len() + value.len();
        }
        let found = match edit {
            Edit::Fail(reason) => {
                if checked.failed.last() != Some(&index) {
                    checked.failed.push(index);
                    checked.first_error.get_or_insert_with(|| reason.to_owned());
                }
                None
            }
            Edit::Drop => None,
            _ if kind == StageKind::Filter => {
                Some(CallError::Answer("a filter may only drop or fail messages".to_owned()))
            }
            Edit::SetMetadata { name, value, json: true } if !is_json(value) => {
                let name = shown(name, bounds.hides_names);
                Some(CallError::Answer(format!("metadata {name} is set to JSON that isn't")))
            }
            Edit::Emit { copy } => {
                checked.emits = true;
                emits += 1;
                let copied = if copy { message(index).arena_bytes() } else { 0 };
                bytes += copied;
                checked.bytes += EMITTED_BYTES + copied;
                column = if copy { column_of(index) } else { 0 };
                let most = bounds.outputs_max;
                (emits > most).then(|| CallError::TooMuch {
                    what: format!("more than {most} messages emitted for one"),
                    limit: "outputs",
                })
            }
            _ => None,
        };
        let found = found.or_else(|| {
            let most = bounds.copies_bytes_max;
            (bytes > most).then(|| CallError::TooMuch {
                what: format!("copies of more than {most} bytes emitted for one message"),
                limit: "copies",
            })
        });
        let found = found.or_else(|| {
            (gone_through > METADATA_BYTES_PER_MESSAGE_MAX).then(|| {
                CallError::Answer(format!(
                    "changes of one message's metadata that go through more than {METADATA_BYTES_PER_MESSAGE_MAX} bytes"
                ))
            })
        });
        wrong = wrong.take().or(found);
        if !bounds.keeps_keys {
            return;
        }
        match edit {
            Edit::Drop | Edit::Fail(_) | Edit::Output(_) => passes.leaves = true,
            // By none state is kept as by an empty one.
            Edit::Key(key) => {
                passes.has_own_key = key.unwrap_or_default() == message(index).key().unwrap_or_default();
            }
            Edit::Emit { .. } => wrong = wrong.take().or(passes.another()),
            _ => {}
        }
    })
    .map_err(|m| CallError::Answer(m.to_string()))?;
    wrong = wrong.or(passes.another());
    wrong.map_or(Ok(checked), Err)
}

/// One message that an answer may pass on, where it must have the key that came: what its edits have made of it so far.
struct PassedOn {
    /// Whether it goes elsewhere.
    leaves: bool,
    /// Whether it has the key of the message that came.
    has_own_key: bool,
}

impl Default for PassedOn {
    fn default() -> Self {
        Self { leaves: false, has_own_key: true }
    }
}

impl PassedOn {
    /// Its edits are over, and another one's begin, which begins with the key that came; answers what is wrong with it.
    fn another(&mut self) -> Option<CallError> {
        let before = std::mem::take(self);
        let is_wrong = !before.leaves && !before.has_own_key;
        is_wrong.then(|| {
            CallError::Answer(
                "a message with another key than the one that came, behind the key_by, where a stage behind it keeps state by the key: set keys before the key_by".to_owned(),
            )
        })
    }
}

/// What is known of an answer that was checked.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Whether any message is emitted.
    pub emits: bool,
    /// What it takes up when it is applied, about: the sum of what is answered about each message, whichever call
    /// that was.
    pub bytes: usize,
    /// The messages that failed, in their order.
    pub failed: Vec<usize>,
    /// Why the first of them did.
    pub first_error: Option<String>,
}

/// The bytes that an edit carries.
fn bytes_of(edit: &Edit<'_>) -> usize {
    match edit {
        Edit::Payload(payload) => payload.len(),
        Edit::Key(key) => key.map_or(0, <[u8]>::len),
        Edit::Kind(text) | Edit::Id(text) | Edit::Output(text) | Edit::Fail(text) => text.len(),
        Edit::RemoveMetadata(name) => name.len(),
        Edit::SetMetadata { name, value, .. } => name.len() + value.len(),
        Edit::Timestamp(_) | Edit::Drop | Edit::Emit { .. } => 0,
    }
}

/// What became of messages of which these failed; both rise.
pub(crate) fn judged(messages: impl DoubleEndedIterator<Item = usize>, failed: &[usize]) -> Judged {
    let mut judged = Judged::default();
    for message in messages.rev() {
        if failed.binary_search(&message).is_err() {
            judged.passed = true;
            break;
        }
        judged.failed += 1;
    }
    judged
}

/// How many characters of a name that a plugin gave stand in a reason.
const NAME_CHARS_MAX: usize = 128;

/// A name that a plugin gave, as a reason tells it: short, on one line, or not at all.
fn shown(name: &str, hidden: bool) -> String {
    if hidden {
        return format!("(a name of {} bytes, not shown: the stage has secrets)", name.len());
    }
    let (kept, more) = match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((at, _)) => (&name[..at], "…"),
        None => (name, ""),
    };
    format!("`{}{more}`", kept.escape_debug())
}

/// Whether bytes are one JSON value.
pub(crate) fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(bytes).is_ok()
}

/// What the plugin said about a part of a batch.
pub(crate) enum Answer {
    /// Edits, checked, for these messages.
    Edits {
        /// Which messages.
        range: Range<usize>,
        /// The edits' bytes.
        bytes: Vec<u8>,
        /// Whether any message is emitted.
        emits: bool,
    },
    /// One message that it can't process.
    Failed {
        /// Which.
        index: usize,
        /// The error's kind, as metrics label it.
        kind: &'static str,
        /// Why.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
}

/// What becomes of one message.
pub(crate) enum Fate<'a> {
    Keep,
    Drop,
    Route(&'a str),
    Fail { kind: &'static str, reason: &'a str, attempts: u32 },
}

/// Applies answers, which stand in the messages' order and cover the batch, and takes out what leaves.
pub(crate) fn apply(
    batch: &mut Batch,
    answers: &[Answer],
    stage: &str,
    plugin: Option<&GuestInfo>,
    origins: Origins<'_>,
    routes: &Routes,
    out: &mut Outbox,
) {
    let messages = batch.len();
    let mut fates: Vec<(usize, Fate<'_>)> = Vec::new();
    let mut emitted: Vec<(usize, usize)> = Vec::new(); // (behind which message, place in the frame)
    for answer in answers {
        match answer {
            Answer::Failed { index, kind, reason, attempts } => {
                fates.push((*index, Fate::Fail { kind, reason, attempts: *attempts }));
            }
            Answer::Edits { range, bytes, emits } => {
                let edits = Edits::open(bytes);
                let mut current = None;
                let mut target = 0;
                let mut original = None;
                for (index, edit) in edits.iter() {
                    let index = range.start + index;
                    if current != Some(index) {
                        current = Some(index);
                        target = index;
                        // What an emitted copy copies: the message as it came, before it is changed.
                        original = emits.then(|| batch.frame.record(index));
                    }
                    // The first fate decides, so a guest that repeats itself takes no more room.
                    let mut meets = |fate| match fates.last() {
                        Some((last, _)) if *last == target => {}
                        _ => fates.push((target, fate)),
                    };
                    match edit {
                        Edit::Drop => meets(Fate::Drop),
                        Edit::Output(name) => meets(Fate::Route(name)),
                        Edit::Fail(reason) => {
                            meets(Fate::Fail { kind: "error", reason, attempts: 1 });
                        }
                        Edit::Emit { copy } => {
                            if let Some(original) = &original {
                                batch.frame.push_record(original);
                            }
                            target = messages + emitted.len();
                            emitted.push((index, target));
                            if !copy {
                                batch.frame.set_payload(target, b"", false);
                                batch.frame.clear_metadata(target);
                            }
                        }
                        edit => change(&mut batch.frame, target, edit),
                    }
                }
            }
        }
    }
    if fates.is_empty() && emitted.is_empty() {
        return;
    }
    debug_assert!(emitted.is_sorted_by_key(|(behind, _)| *behind), "answers stand in the messages' order");
    let leaving = LeavingAt { stage, plugin, origins, routes };
    leaving.take_out(batch, &fates, &emitted, out);
}

/// Where messages leave the main way.
pub(crate) struct LeavingAt<'a> {
    pub stage: &'a str,
    pub plugin: Option<&'a GuestInfo>,
    pub origins: Origins<'a>,
    pub routes: &'a Routes,
}

impl LeavingAt<'_> {
    /// Puts emitted messages in their places and takes out what leaves.
    pub fn take_out(
        &self,
        batch: &mut Batch,
        fates: &[(usize, Fate<'_>)],
        emitted: &[(usize, usize)],
        out: &mut Outbox,
    ) {
        rebuild(batch, fates, emitted, |frame, index, (row, ordinal), fate| {
            let id = self.origins.id(row).left_at(self.stage, ordinal);
            let message = frame.get(index);
            let records = self.origins.records();
            let bury = |out: &mut Outbox, kind, reason: &str, attempts| {
                let why = DeadLetter { reason, kind, stage: self.stage, plugin: self.plugin, attempts };
                out.bury(self.routes, &why, Buried::Message(message), &id, records);
            };
            let dead = out.dead;
            match fate {
                Fate::Route(name) => match self.routes.of(name) {
                    Some(sinks) => out.send(self.routes, sinks, message, &id, records),
                    None => {
                        let name = shown(name, self.plugin.is_some_and(|p| p.has_secrets));
                        bury(out, "error", &no_sink(&name), 1);
                    }
                },
                Fate::Fail { kind, reason, attempts } => bury(out, kind, reason, *attempts),
                Fate::Keep | Fate::Drop => {}
            }
            out.dead > dead
        });
    }
}

/// Sets an event time in the form that the message's came in: the text is the encoder's to renew.
pub(crate) fn retime(frame: &mut FrameBuf, index: usize, time: i64) {
    let as_text = frame.get(index).metadata().timestamp_text().is_some();
    frame.set_timestamp(index, time, as_text.then_some(""));
}

/// One edit of a message's own fields.
fn change(frame: &mut FrameBuf, target: usize, edit: Edit<'_>) {
    match edit {
        Edit::Payload(payload) => frame.set_payload(target, payload, false),
        Edit::Key(key) => frame.set_key(target, key),
        Edit::Timestamp(time) => retime(frame, target, time),
        Edit::Kind(kind) => frame.set_kind(target, kind),
        Edit::Id(id) => frame.set_id(target, id),
        Edit::SetMetadata { name, value, json } => {
            let kind = if json { MetaKind::Json } else { MetaKind::Text };
            frame.set_metadata(target, kind, name, value);
        }
        Edit::RemoveMetadata(name) => frame.remove_metadata(target, name),
        Edit::Drop | Edit::Output(_) | Edit::Fail(_) | Edit::Emit { .. } => {}
    }
}

/// Puts emitted messages in their places and takes out what leaves; `leave` is told of each that is
/// neither kept nor dropped, and answers whether it became a dead letter.
fn rebuild<'a>(
    batch: &mut Batch,
    fates: &[(usize, Fate<'a>)],
    emitted: &[(usize, usize)],
    mut leave: impl FnMut(&FrameBuf, usize, (&Row, u32), &Fate<'a>) -> bool,
) {
    let messages = batch.len();
    let total = messages + emitted.len();
    // The first fate that is not Keep decides: a message that failed stays failed.
    let mut fate: Vec<&Fate<'a>> = vec![&Fate::Keep; total];
    for (index, f) in fates.iter().rev() {
        fate[*index] = f;
    }
    let mut order = Vec::with_capacity(total);
    // Nothing emitted, the usual case: rows only move towards the front, in place.
    let mut rows = std::mem::take(&mut batch.rows);
    let mut grown = Vec::with_capacity(if emitted.is_empty() { 0 } else { total });
    let mut leaving = Leaving::new();
    let mut emits = emitted.iter().peekable();
    let mut ordinals = Ordinals::default();
    for message in 0..messages {
        let behind = std::iter::from_fn(|| emits.next_if(|(m, _)| *m == message).map(|(_, place)| *place));
        for place in std::iter::once(message).chain(behind) {
            let mut row = rows[message];
            if place != message {
                row.own = Passed::NONE;
                row.passed = Passed::NONE;
            }
            let ordinal = ordinals.of(&row);
            if matches!(fate[place], Fate::Keep) {
                leaving.stay(&mut row);
                if emitted.is_empty() {
                    rows[order.len()] = row;
                } else {
                    grown.push(row);
                }
                order.push(place);
                continue;
            }
            let time = batch.frame.get(place).timestamp();
            let dropped = matches!(fate[place], Fate::Drop);
            let dead = leave(&batch.frame, place, (&row, ordinal), fate[place]);
            // TIMESTAMP_NONE is START: no event time, no progress.
            leaving.leave(&row, time, dropped, dead);
        }
    }
    batch.tail = leaving.tail().and(batch.tail);
    batch.frame.arrange(&order);
    rows.truncate(order.len());
    batch.rows = if emitted.is_empty() { rows } else { grown };
}

#[cfg(test)]
mod tests {
    use wasmill_frame::{EditsWriter, MetaWriter, Parts};

    use super::*;

    /// Checks an answer that sets metadata of no name and no value so often, on a message that has `entries`.
    fn sets_nothing(times: usize, entries: usize) -> Result<(), CallError> {
        let mut column = MetaWriter::new();
        for _ in 0..entries {
            column.push(MetaKind::Text, b"a", b"b");
        }
        let mut frame = FrameBuf::default();
        frame.push(&Parts {
            id: "",
            kind: "",
            key: None,
            payload: b"",
            timestamp: 0,
            metadata: column.as_bytes(),
            payload_is_json: false,
        });
        let mut edits = EditsWriter::new(1);
        for _ in 0..times {
            edits.push(0, Edit::SetMetadata { name: "", value: b"", json: false });
        }
        check(&edits.finish(), 1, StageKind::Transform, AnswerBounds::default(), |i| frame.get(i)).map(|_| ())
    }

    /// Checks an answer about one message, which has this key, of a stage that must keep keys.
    fn keeping(key: Option<&str>, edits: &[Edit<'_>]) -> Result<(), CallError> {
        let mut frame = FrameBuf::default();
        frame.push(&Parts {
            id: "",
            kind: "",
            key: key.map(str::as_bytes),
            payload: b"",
            timestamp: 0,
            metadata: b"",
            payload_is_json: false,
        });
        let mut answer = EditsWriter::new(1);
        edits.iter().for_each(|edit| answer.push(0, *edit));
        let bounds = AnswerBounds { keeps_keys: true, ..AnswerBounds::default() };
        check(&answer.finish(), 1, StageKind::Transform, bounds, |i| frame.get(i)).map(|_| ())
    }

    #[test]
    fn what_goes_on_to_state_has_the_key_that_came() {
        let set = |key| Edit::Key(Some(key));
        let emit = |copy| Edit::Emit { copy };
        // Of a message with the key `a`.
        for kept in [
            &[][..],
            &[set(b"a")],
            &[set(b"b"), set(b"a")],
            &[set(b"b"), Edit::Drop],
            &[set(b"b"), Edit::Output("aside")],
            &[emit(true), Edit::Kind("two")],
            &[emit(false)],
            &[set(b"b"), Edit::Drop, emit(true), emit(false), set(b"b"), Edit::Output("aside")],
        ] {
            assert!(keeping(Some("a"), kept).is_ok(), "{kept:?}");
        }
        for changed in [
            &[set(b"b")][..],
            &[Edit::Key(None)],
            &[emit(true), set(b"b")],
            &[emit(false), set(b"b"), emit(true)],
            &[set(b"b"), emit(true)],
        ] {
            let error = keeping(Some("a"), changed).expect_err("another key");
            assert!(
                error.kind() == "answer" && error.to_string().contains("set keys before the key_by"),
                "{error}"
            );
        }
        assert!(keeping(None, &[set(b"")]).is_ok(), "none is as an empty one");
        assert!(keeping(None, &[set(b"a")]).is_err());
    }

    #[test]
    fn metadata_of_no_bytes_have_a_head_all_the_same() {
        assert!(sets_nothing(800, 0).is_ok());
        let error = sets_nothing(1_100, 0).expect_err("8 bytes and 1,100 changes");
        assert!(error.kind() == "answer" && error.to_string().contains("go through more than"), "{error}");
        assert!(sets_nothing(500, 500).is_ok());
        assert!(sets_nothing(800, 500).is_err());
    }
}
