//! Frames into records, records into edits and blobs.

use std::collections::{HashMap, HashSet};

use wasmill_engine::guest::CallError;
use wasmill_frame::{
    Blobs, BlobsWriter, Edit, EditsWriter, Frame, Groups, Malformed, MetaKind, TIMESTAMP_NONE,
    timestamp_in_range,
};

use crate::limits::Limits;

use super::types::{
    Entry, EntryRef, Folded, GroupRef, Message, MessageRef, Outcome, PairRef, Routed, Verdict,
};

/// The bytes of an edit beside its name and value.
const EDIT_BYTES: usize = 12;
/// The longest name in a layout.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// What the engine gave is not the layout: a fault of the host's.
pub(crate) fn not_the_layout(error: &Malformed) -> CallError {
    CallError::Refused(format!("the host called with bytes that are not the layout: {error}"))
}

/// A frame's messages.
pub(crate) fn messages<'a>(frame: &Frame<'a>) -> Vec<MessageRef<'a>> {
    let message = |m: wasmill_frame::Message<'a>| MessageRef {
        id: m.id(),
        kind: m.kind(),
        key: m.key(),
        payload: m.payload(),
        timestamp: Some(m.timestamp()).filter(|t| *t != TIMESTAMP_NONE),
        metadata: entries(&m).collect(),
    };
    frame.iter().map(message).collect()
}

/// The metadata that a plugin sees.
fn entries<'a>(message: &wasmill_frame::Message<'a>) -> impl Iterator<Item = EntryRef<'a>> + use<'a> {
    message.metadata().entries().filter(|e| e.kind.is_metadata()).map(|e| EntryRef {
        name: std::str::from_utf8(e.name).unwrap_or_default(),
        value: std::str::from_utf8(e.value).unwrap_or_default(),
        json: e.kind == MetaKind::Json,
    })
}

/// Groups over a frame.
pub(crate) fn groups<'a>(groups: &Groups<'a>) -> Vec<GroupRef<'a>> {
    let group = |g: wasmill_frame::Group<'a>| GroupRef {
        accumulator: g.accumulator,
        messages: g.indices().map(|i| i as u32).collect(),
    };
    groups.iter().map(group).collect()
}

/// Accumulators two by two.
pub(crate) fn pairs<'a>(blobs: Blobs<'a>) -> Vec<PairRef<'a>> {
    let mut blobs = blobs.iter();
    let mut pairs = Vec::with_capacity(blobs.len() / 2);
    while let (Some((_, left)), Some((_, right))) = (blobs.next(), blobs.next()) {
        pairs.push(PairRef { left, right });
    }
    pairs
}

fn count(what: &str, answered: usize, expected: usize) -> Result<(), CallError> {
    if answered == expected {
        return Ok(());
    }
    Err(CallError::Answer(format!("{answered} {what} to {expected}")))
}

/// Outcomes as edits. `replace` and `several` become the differences from the message that came, so that
/// what a plugin doesn't see survives. A timestamp that is left out stays as it was.
///
/// # Errors
/// When they are not one for each message, or become more than an answer may have.
pub(crate) fn outcomes_to_edits(
    frame: &Frame<'_>,
    outcomes: &[Outcome],
    limits: &Limits,
) -> Result<Vec<u8>, CallError> {
    count("outcomes", outcomes.len(), frame.len())?;
    let mut edits = BoundedEdits {
        writer: EditsWriter::new(frame.len()),
        bytes_left: limits.answer_bytes_max,
        bytes_max: limits.answer_bytes_max,
    };
    for (index, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Outcome::Keep => {}
            Outcome::Drop => edits.push(index, Edit::Drop)?,
            Outcome::Fail(reason) => edits.push(index, Edit::Fail(reason))?,
            Outcome::Replace(message) => match check(message, None) {
                Ok(()) => push_differences(&mut edits, index, &Came::of(frame.get(index)), message)?,
                Err(reason) => edits.push(index, Edit::Fail(&reason))?,
            },
            Outcome::Several(routed) => {
                push_several(&mut edits, index, frame.get(index), routed, limits.outputs_max)?;
            }
        }
    }
    Ok(edits.writer.finish())
}

/// Edits that end where an answer has to. A guest says in a few bytes that many of a message's entries are gone, and
/// each is an edit.
struct BoundedEdits {
    writer: EditsWriter,
    bytes_left: usize,
    bytes_max: usize,
}

impl BoundedEdits {
    fn push(&mut self, index: usize, edit: Edit<'_>) -> Result<(), CallError> {
        let says = match edit {
            Edit::Drop | Edit::Emit { .. } | Edit::Key(None) => 0,
            Edit::Payload(bytes) | Edit::Key(Some(bytes)) => bytes.len(),
            Edit::Timestamp(_) => size_of::<i64>(),
            Edit::Kind(text) | Edit::Id(text) | Edit::Output(text) | Edit::Fail(text) => text.len(),
            Edit::SetMetadata { name, value, .. } => name.len() + value.len(),
            Edit::RemoveMetadata(name) => name.len(),
        };
        self.bytes_left = self.bytes_left.checked_sub(EDIT_BYTES + says).ok_or_else(|| {
            let what = format!("differences of more than {} bytes", self.bytes_max);
            CallError::TooMuch { what, limit: "answer" }
        })?;
        self.writer.push(index, edit);
        Ok(())
    }
}

/// A message as it came, with its metadata by name: both sides may have as many entries as a stranger likes.
struct Came<'a> {
    message: wasmill_frame::Message<'a>,
    /// The last one of a name counts.
    entries: HashMap<&'a str, EntryRef<'a>>,
    /// Each name once, as they came.
    names: Vec<&'a str>,
}

impl<'a> Came<'a> {
    fn of(message: wasmill_frame::Message<'a>) -> Self {
        let (mut entries, mut names) = (HashMap::new(), Vec::new());
        for entry in self::entries(&message) {
            if entries.insert(entry.name, entry).is_none() {
                names.push(entry.name);
            }
        }
        Self { message, entries, names }
    }
}

fn push_several(
    edits: &mut BoundedEdits,
    index: usize,
    came: wasmill_frame::Message<'_>,
    routed: &[Routed],
    outputs_max: usize,
) -> Result<(), CallError> {
    // Before the work, which the engine's check comes behind.
    if routed.len() > outputs_max.saturating_add(1) {
        let what = format!("more than {outputs_max} messages emitted for one");
        return Err(CallError::TooMuch { what, limit: "outputs" });
    }
    if routed.is_empty() {
        return edits.push(index, Edit::Drop);
    }
    // All or none: half of an answer would be worse than its failure.
    if let Err(reason) = routed.iter().try_for_each(|r| check(&r.message, r.output.as_deref())) {
        return edits.push(index, Edit::Fail(&reason));
    }
    let came = Came::of(came);
    for (place, Routed { message, output }) in routed.iter().enumerate() {
        if place > 0 {
            edits.push(index, Edit::Emit { copy: true })?;
        }
        push_differences(edits, index, &came, message)?;
        if let Some(output) = output {
            edits.push(index, Edit::Output(output))?;
        }
    }
    Ok(())
}

/// Whether a message fits the layout.
fn check(message: &Message, output: Option<&str>) -> Result<(), String> {
    if let Some(time) = message.timestamp.filter(|t| !timestamp_in_range(*t)) {
        return Err(format!(
            "the plugin answered the timestamp {time}, which is not from 1970 to the year 9999"
        ));
    }
    let names = message.metadata.iter().map(|e| e.name.as_str()).chain(output);
    match names.map(str::len).find(|n| *n > NAME_BYTES_MAX) {
        Some(bytes) => {
            Err(format!("the plugin answered a name of {bytes} bytes; up to {NAME_BYTES_MAX} fit"))
        }
        None => Ok(()),
    }
}

fn push_differences(
    edits: &mut BoundedEdits,
    index: usize,
    Came { message: came, entries: before, names }: &Came<'_>,
    now: &Message,
) -> Result<(), CallError> {
    if now.id != came.id() {
        edits.push(index, Edit::Id(&now.id))?;
    }
    if now.kind != came.kind() {
        edits.push(index, Edit::Kind(&now.kind))?;
    }
    if now.key.as_deref() != came.key() {
        edits.push(index, Edit::Key(now.key.as_deref()))?;
    }
    if now.payload != came.payload() {
        edits.push(index, Edit::Payload(&now.payload))?;
    }
    if let Some(time) = now.timestamp.filter(|t| *t != came.timestamp()) {
        edits.push(index, Edit::Timestamp(time))?;
    }
    let kept: HashSet<&str> = now.metadata.iter().map(|e| e.name.as_str()).collect();
    for name in names.iter().filter(|name| !kept.contains(*name)) {
        edits.push(index, Edit::RemoveMetadata(name))?;
    }
    for Entry { name, value, json } in &now.metadata {
        let same = before.get(name.as_str()).is_some_and(|e| e.value == value && e.json == *json);
        if !same {
            edits.push(index, Edit::SetMetadata { name, value: value.as_bytes(), json: *json })?;
        }
    }
    Ok(())
}

/// A filter's verdicts as edits.
pub(crate) fn verdicts_to_edits(verdicts: &[Verdict], messages: usize) -> Result<Vec<u8>, CallError> {
    count("verdicts", verdicts.len(), messages)?;
    let mut edits = EditsWriter::new(messages);
    for (index, verdict) in verdicts.iter().enumerate() {
        match verdict {
            Verdict::Keep => {}
            Verdict::Drop => edits.push(index, Edit::Drop),
            Verdict::Fail(reason) => edits.push(index, Edit::Fail(reason)),
        }
    }
    Ok(edits.finish())
}

/// New accumulators, and the messages that failed.
pub(crate) fn folded_to_blobs(folded: &Folded, groups: usize) -> Result<Vec<u8>, CallError> {
    count("accumulators", folded.accumulators.len(), groups)?;
    let mut blobs = BlobsWriter::new();
    for accumulator in &folded.accumulators {
        blobs.push(0, accumulator);
    }
    for failed in &folded.failed {
        let tag = failed
            .message
            .checked_add(1)
            .ok_or_else(|| CallError::Answer(format!("message {} is out of the frame", failed.message)))?;
        blobs.push(tag, failed.reason.as_bytes());
    }
    Ok(blobs.finish())
}

/// Byte strings as blobs of tag 0, one for each that was asked for.
pub(crate) fn to_blobs(what: &str, list: &[impl AsRef<[u8]>], expected: usize) -> Result<Vec<u8>, CallError> {
    count(what, list.len(), expected)?;
    let mut blobs = BlobsWriter::new();
    for bytes in list {
        blobs.push(0, bytes.as_ref());
    }
    Ok(blobs.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_frame::{Edits, FrameBuf, MetaWriter, Parts};

    /// One message with metadata a (text), b (JSON), and a hidden field.
    fn frame() -> FrameBuf {
        let mut metadata = MetaWriter::new();
        metadata.push(MetaKind::Text, b"a", b"1");
        metadata.push(MetaKind::Json, b"b", b"[2]");
        metadata.push(MetaKind::Field, b"hidden", b"3");
        let mut frame = FrameBuf::default();
        frame.push(&Parts {
            id: "id",
            kind: "type",
            key: Some(b"key"),
            payload: b"payload",
            timestamp: 1_000,
            metadata: metadata.as_bytes(),
            payload_is_json: false,
        });
        frame
    }

    fn entry(name: &str, value: &str, json: bool) -> Entry {
        Entry { name: name.into(), value: value.into(), json }
    }

    /// The message as a guest that changes nothing gives it back.
    fn same() -> Message {
        Message {
            id: "id".into(),
            kind: "type".into(),
            key: Some(b"key".to_vec()),
            payload: b"payload".to_vec(),
            timestamp: Some(1_000),
            metadata: vec![entry("a", "1", false), entry("b", "[2]", true)],
        }
    }

    fn edits_of(outcome: Outcome) -> String {
        let frame = frame();
        let bytes = outcomes_to_edits(&frame.view(), &[outcome], &Limits::default()).expect("converts");
        let edits = Edits::parse(&bytes, 1).expect("edits");
        edits.iter().map(|(_, edit)| format!("{edit:?}")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_replaced_message_becomes_its_differences() {
        let change = |change: fn(&mut Message)| {
            let mut message = same();
            change(&mut message);
            edits_of(Outcome::Replace(message))
        };
        type Case = (fn(&mut Message), &'static str);
        let cases: [Case; 11] = [
            (|_| {}, ""),
            (|m| m.id = "new".into(), r#"Id("new")"#),
            (|m| m.kind = "new".into(), r#"Kind("new")"#),
            (|m| m.key = None, "Key(None)"),
            (|m| m.payload = vec![1], "Payload([1])"),
            (|m| m.timestamp = Some(7), "Timestamp(7)"),
            (|m| m.timestamp = None, ""),
            (
                |m| m.timestamp = Some(-1),
                r#"Fail("the plugin answered the timestamp -1, which is not from 1970 to the year 9999")"#,
            ),
            (|m| m.metadata.clear(), r#"RemoveMetadata("a"); RemoveMetadata("b")"#),
            (|m| m.metadata[0].json = true, r#"SetMetadata { name: "a", value: [49], json: true }"#),
            (
                |m| m.metadata[0].name = "x".repeat(70_000),
                r#"Fail("the plugin answered a name of 70000 bytes; up to 65535 fit")"#,
            ),
        ];
        for (i, (changed, expected)) in cases.into_iter().enumerate() {
            assert_eq!(change(changed), expected, "case {i}");
        }
    }

    #[test]
    fn several_are_one_changed_and_others_emitted_or_none_at_all() {
        let routed = |id: &str, output: Option<&str>| Routed {
            message: Message { id: id.into(), ..same() },
            output: output.map(str::to_owned),
        };
        assert_eq!(edits_of(Outcome::Several(vec![])), "Drop");
        assert_eq!(
            edits_of(Outcome::Several(vec![routed("id", Some("side")), routed("two", None)])),
            r#"Output("side"); Emit { copy: true }; Id("two")"#
        );
        let mut bad = routed("two", None);
        bad.message.timestamp = Some(i64::MAX);
        let failed = edits_of(Outcome::Several(vec![routed("id", None), bad]));
        assert!(failed.starts_with("Fail("), "{failed}");
    }

    #[test]
    fn what_a_few_bytes_say_is_bounded_as_it_is_written() {
        let routed = || Routed { message: Message { metadata: vec![], ..same() }, output: None };
        let told = |several: usize, limits: &Limits| {
            let outcome = Outcome::Several((0..several).map(|_| routed()).collect());
            outcomes_to_edits(&frame().view(), &[outcome], limits).map(|edits| edits.len())
        };
        // A head, and for each message two names that are gone; for all but the first, a copy.
        let limits = Limits { outputs_max: 3, answer_bytes_max: 4 * 26 + 3 * 12, ..Limits::default() };
        assert_eq!(told(4, &limits), Ok(16 + limits.answer_bytes_max));
        let less = Limits { answer_bytes_max: limits.answer_bytes_max - 1, ..limits.clone() };
        let error = told(4, &less).expect_err("too long").to_string();
        assert_eq!(error, "answered wrongly: differences of more than 139 bytes: `limits.answer`");
        let error = told(5, &limits).expect_err("too many").to_string();
        assert_eq!(error, "answered wrongly: more than 3 messages emitted for one: `limits.outputs`");
    }

    #[test]
    fn an_answer_of_another_length_is_refused() {
        let folded = Folded { accumulators: vec![], failed: vec![] };
        let frame = frame();
        for error in [
            outcomes_to_edits(&frame.view(), &[], &Limits::default()).expect_err("none to 1"),
            verdicts_to_edits(&[Verdict::Keep, Verdict::Drop], 1).expect_err("2 to 1"),
            folded_to_blobs(&folded, 1).expect_err("none to 1"),
            to_blobs("values", &["1"], 2).expect_err("1 to 2"),
        ] {
            assert_eq!(error.kind(), "answer", "{error}");
        }
    }
}
