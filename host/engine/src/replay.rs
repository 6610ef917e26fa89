//! Dead letters that are put through the pipeline again: what is in one, and where it enters.
//!
//! A letter enters at the stage where it failed: what the stages before it have made of its message has gone on
//! already. What can't enter becomes a dead letter again, of the kind `replay`, with the reason.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use wasmill_frame::{FrameBuf, Message, MetaKind, MetaWriter, Parts};

use crate::dead_letter::{HEADERS, NUMBER_ID, OWN_NAMES};
use crate::input::{Decoder, Header, RawBatch, RawRecord};
use crate::lane::KeyedSpec;
use crate::position::PartitionId;
use crate::time::{TIMESTAMP_NONE, timestamp_in_range};
use crate::topology::Topology;

/// Reads the records of a source of dead letters.
#[derive(Clone)]
pub struct ReplayDecoder {
    /// Reads a dead letter's own envelope.
    pub envelope: Arc<dyn Decoder>,
    /// Reads a timestamp that came as text; given by the codecs, as [`crate::topology::TimeSpec::parse`] is.
    pub parse_time: fn(&str) -> Result<i64, String>,
}

impl Decoder for ReplayDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, frame: &mut FrameBuf) -> Result<(), String> {
        self.envelope.decode(record, of, frame)
    }

    fn replay(&self) -> Option<&ReplayDecoder> {
        Some(self)
    }
}

/// The records that a batch of dead letters has and that will be decoded again, each as a batch of one whose partition
/// tells its source: for who must bring something before that.
#[must_use]
pub fn originals(envelope: &dyn Decoder, letters: &RawBatch) -> Vec<RawBatch> {
    let mut originals = Vec::new();
    for record in letters.records.iter().filter(|record| record.rejected.is_none()) {
        let mut frame = FrameBuf::default();
        if envelope.decode(record, letters, &mut frame).is_err() {
            continue;
        }
        let Ok(letter) = Letter::of(frame.get(0)) else { continue };
        if letter.body.get("message").is_none()
            && let Some(source) = letter.body.number("source")
        {
            originals.extend(letter.original(source, record.offset).ok());
        }
    }
    originals
}

/// Where a message enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It is decoded by the decoder of this source, and goes the whole way.
    Decode(u16),
    /// Before its event time is read.
    Source,
    /// At a stage of the prefix.
    Stage(usize),
    /// Where event times are bounded.
    Time,
    /// At the key_by.
    Key,
    /// At a stage behind the key_by.
    Keyed(u16),
    /// Behind the last stage, or where it left by a named output.
    Sink {
        /// Which of the sinks; none: all that take what comes out of the last stage.
        number: Option<usize>,
        /// Whether those that come behind it were not asked yet.
        and_behind: bool,
    },
}

/// What a dead letter tells of where its message is from, as JSON: told again if it fails again.
#[derive(Debug, Clone, Default)]
pub struct Replayed {
    /// The letter's offset in its own log.
    pub offset: u64,
    /// Source, partition and offset of the message, and its index.
    pub place: Vec<(&'static str, String)>,
    /// The log's time of it.
    pub time: Option<String>,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
    /// The record as its source gave it.
    pub original: Option<String>,
}

/// The members of a JSON object, in order; a name may stand twice.
#[derive(Debug, Default)]
pub(crate) struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.0.push((name.0, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Members<'a> {
    pub(crate) fn of(json: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|e| e.to_string())
    }

    fn of_member(&self, name: &str) -> Result<Option<Self>, String> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        Self::of(raw.get().as_bytes()).map(Some).map_err(|e| format!("`{name}`: {e}"))
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| *value);
        found.filter(|value| value.get() != "null")
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    fn number<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    fn is(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.get() == "true")
    }
}

/// A dead letter.
pub(crate) struct Letter<'a> {
    body: Members<'a>,
    stage: String,
}

impl<'a> Letter<'a> {
    /// The letter in a message.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(message: Message<'a>) -> Result<Self, String> {
        let none = "it is no dead letter: this source takes those of this pipeline, as they are";
        let body = Members::of(message.payload()).map_err(|e| format!("{none} ({e})"))?;
        let stage = body.text("stage").filter(|_| body.get("reason").is_some() && body.get("kind").is_some());
        Ok(Self { stage: stage.ok_or(none)?, body })
    }

    /// Where it enters.
    ///
    /// # Errors
    /// Why it can't, and what to do.
    pub fn entry(&self, topology: &Topology, sinks: usize) -> Result<Entry, String> {
        let body = &self.body;
        let has_message = body.get("message").is_some();
        if body.is("cut") {
            return Err("it was cut to what its own topic takes, so its message is not whole: take that from its source, whose partition and offset stand here".to_owned());
        }
        if self.stage == "sink" {
            if !has_message {
                return Err("what its sink's other end refused is a result as it was written, not a message: take the message from its source, or mend the sink and run `wasmill reset`".to_owned());
            }
            let number = body.number::<usize>("sink");
            if let Some(number) = number.filter(|number| *number + 1 >= sinks) {
                return Err(format!(
                    "the pipeline has no sink {number}, counted from 0, any more, which refused it: put one there"
                ));
            }
            return Ok(Entry::Sink { number, and_behind: body.text("kind").as_deref() == Some("route") });
        }
        if body.get("start").is_some() {
            return Err(format!(
                "it is of a window of the stage `{}`, whose messages are not in it: mend the stage and run `wasmill reset` to put the messages through again",
                self.stage
            ));
        }
        if self.stage == "source" && !has_message {
            return self.decoded_again(topology);
        }
        if !has_message {
            return Err("it has no message that could be put through".to_owned());
        }
        match self.stage.as_str() {
            "source" => Ok(Entry::Source),
            "time" => Ok(Entry::Time),
            "key_by" if topology.key.is_some() => Ok(Entry::Key),
            name => {
                if let Some(stage) = topology.prefix.iter().position(|stage| stage.name == name) {
                    return Ok(Entry::Stage(stage));
                }
                let named = |stage: &KeyedSpec| match stage {
                    KeyedSpec::Stage(stage) => stage.name == name,
                    KeyedSpec::Window(window) => &*window.name == name,
                    KeyedSpec::Running(running) => &*running.name == name,
                };
                let stage = topology.keyed.iter().position(named).and_then(|n| u16::try_from(n).ok());
                stage.map(Entry::Keyed).ok_or_else(|| {
                    format!("the pipeline has no stage `{name}` any more, where it failed: give a stage this `name`, then put it through again")
                })
            }
        }
    }

    fn decoded_again(&self, topology: &Topology) -> Result<Entry, String> {
        let original = self.body.of_member("original")?;
        let original = original.ok_or("it has neither a message nor the record that it came in")?;
        if original.is("cut") {
            return Err("its source could not take the record whole, so it is not whole here: raise the limit that the reason named, and run `wasmill reset` to read it again".to_owned());
        }
        let source = self.body.number::<u16>("source").ok_or("it doesn't tell which source's it is")?;
        let is_source = |decoder: &Arc<dyn Decoder>| decoder.replay().is_none();
        if !topology.decoders.get(usize::from(source)).is_some_and(is_source) {
            return Err(format!("the pipeline has no source {source}, counted from 0, whose record it is"));
        }
        Ok(Entry::Decode(source))
    }

    /// What it tells again if it fails again.
    pub fn replayed(&self, offset: u64) -> Replayed {
        let raw = |name: &str| self.body.get(name).map(|value| value.get().to_owned());
        let place = ["source", "partition", "offset", "index"];
        Replayed {
            offset,
            place: place.into_iter().filter_map(|name| Some((name, raw(name)?))).collect(),
            time: raw("time"),
            trace_id: self.body.text("trace_id"),
            original: raw("original"),
        }
    }

    /// When the log took its record in.
    pub fn appended_ms(&self) -> Option<i64> {
        self.body.of_member("original").ok()??.number("appended")
    }

    /// The record that it came in, as a batch of one with this offset.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn original(&self, source: u16, offset: u64) -> Result<RawBatch, String> {
        let original = self.body.of_member("original")?.unwrap_or_default();
        let mut data = Vec::new();
        let mut put = |name: &str, raw: &RawValue| -> Result<std::ops::Range<usize>, String> {
            let start = data.len();
            data.extend(bytes_of(raw).map_err(|e| format!("`original.{name}`: {e}"))?);
            Ok(start..data.len())
        };
        let value = original.get("value").map_or(Ok(0..0), |raw| put("value", raw))?;
        let key = original.get("key").map(|raw| put("key", raw)).transpose()?;
        let mut headers = Vec::new();
        for (name, value) in pairs_of(original.get("headers"))? {
            let name = put("headers", name)?;
            headers.push(Header { name, value: value.map(|raw| put("headers", raw)).transpose()? });
        }
        let record = RawRecord {
            offset,
            next: offset + 1,
            value,
            tombstone: original.is("tombstone"),
            headers,
            key,
            time_ms: original.number("time"),
            appended_ms: original.number("appended"),
            line: None,
            rejected: None,
        };
        let preamble = original.get("preamble").map(bytes_of).transpose();
        let preamble = preamble.map_err(|e| format!("`original.preamble`: {e}"))?.map(Arc::from);
        let partition = PartitionId { source, partition: 0 };
        Ok(RawBatch { partition, data, records: vec![record], next: offset + 1, preamble })
    }

    /// Adds its message to a frame, as it stood at its stage.
    ///
    /// # Errors
    /// When it can't be read; then nothing is added.
    pub fn push_message(
        &self,
        parse_time: fn(&str) -> Result<i64, String>,
        frame: &mut FrameBuf,
    ) -> Result<(), String> {
        let of_message = |e: String| format!("its `message` can't be read: {e}");
        let message = self.body.of_member("message")?.unwrap_or_default();
        push(&message, parse_time, frame).map_err(of_message)
    }
}

/// Adds the message in a dead letter to a frame, as it stood at its stage: to try it there before the letter is put
/// through.
///
/// # Errors
/// When it is no dead letter, or its message can't be read; then nothing is added.
pub fn push_message_of(
    letter: Message<'_>,
    parse_time: fn(&str) -> Result<i64, String>,
    frame: &mut FrameBuf,
) -> Result<(), String> {
    Letter::of(letter)?.push_message(parse_time, frame)
}

fn push(
    message: &Members<'_>,
    parse_time: fn(&str) -> Result<i64, String>,
    frame: &mut FrameBuf,
) -> Result<(), String> {
    let mut column = MetaWriter::new();
    if let Some(metadata) = message.of_member("metadata")? {
        for (name, value) in &metadata.0 {
            check_name(name.as_bytes())?;
            match text_of(value) {
                Some(text) => column.push(MetaKind::Text, name.as_bytes(), text.as_bytes()),
                None => column.push(MetaKind::Json, name.as_bytes(), value.get().as_bytes()),
            }
        }
    }
    let id = message.get("id").ok_or("it has no `id`")?;
    let id = match text_of(id) {
        Some(text) => text,
        None => {
            column.push(MetaKind::Field, NUMBER_ID, id.get().as_bytes());
            Cow::Borrowed(id.get())
        }
    };
    let kind = message.text("type").ok_or("it has no `type`")?;
    let mut headers = MetaWriter::new();
    for (name, value) in pairs_of(message.get("headers"))? {
        let (name, value) = (bytes_of(name)?, value.map(bytes_of).transpose()?);
        check_name(&name)?;
        let kind = if value.is_some() { MetaKind::Text } else { MetaKind::Json };
        headers.push(kind, &name, &value.unwrap_or_default());
    }
    if !headers.as_bytes().is_empty() {
        column.push(MetaKind::Field, HEADERS, headers.as_bytes());
    }
    let known = ["id", "type", "payload", "timestamp", "metadata"];
    let hidden = message.of_member("fields")?.unwrap_or_default();
    let fields = message
        .0
        .iter()
        .filter(|(name, _)| !known.contains(&name.as_ref()) && !OWN_NAMES.contains(&name.as_bytes()));
    for (name, value) in fields.chain(&hidden.0) {
        check_name(name.as_bytes())?;
        column.push(MetaKind::Field, name.as_bytes(), value.get().as_bytes());
    }
    let timestamp = match message.get("timestamp") {
        None => TIMESTAMP_NONE,
        Some(raw) => match text_of(raw) {
            Some(text) => {
                column.push(MetaKind::Timestamp, b"", text.as_bytes());
                parse_time(&text)?
            }
            None => {
                if message.get("timestamp_is").is_some() {
                    column.push(MetaKind::Timestamp, b"", b"");
                }
                raw.get().parse().map_err(|_| format!("`timestamp`: {raw} is no number of milliseconds"))?
            }
        },
    };
    if timestamp != TIMESTAMP_NONE && !timestamp_in_range(timestamp) {
        return Err(format!("the timestamp {timestamp} is not between 1970 and 9999"));
    }
    let key = message.get("key").map(bytes_of).transpose()?;
    let payload = message.get("payload");
    let as_bytes = message.get("payload_is").is_some();
    let payload = match payload {
        Some(raw) if as_bytes => Cow::Owned(bytes_of(raw)?),
        Some(raw) => Cow::Borrowed(raw.get().as_bytes()),
        None => Cow::Borrowed(&b"null"[..]),
    };
    frame.push(&Parts {
        id: &id,
        kind: &kind,
        key: key.as_deref(),
        payload: &payload,
        timestamp,
        metadata: column.as_bytes(),
        payload_is_json: !as_bytes,
    });
    Ok(())
}

/// A name in a message's column is no longer than the column can say.
fn check_name(name: &[u8]) -> Result<(), String> {
    let bytes = name.len();
    let most = usize::from(u16::MAX);
    if bytes > most { Err(format!("a name of {bytes} bytes is above the limit of {most}")) } else { Ok(()) }
}

fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Name<'_>>(raw.get()).ok().map(|name| name.0)
}

/// The bytes that stand as text, or as `{"base64": …}`.
fn bytes_of(raw: &RawValue) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    if let Some(text) = text_of(raw) {
        return Ok(text.into_owned().into_bytes());
    }
    let encoded = serde_json::from_str::<Value>(raw.get()).ok();
    let encoded = encoded.as_ref().and_then(|value| value.get("base64")?.as_str());
    let encoded = encoded.ok_or("expected text or {\"base64\": …}")?;
    base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|e| format!("not base64: {e}"))
}

type Pair<'a> = (&'a RawValue, Option<&'a RawValue>);

/// Headers: names and values.
fn pairs_of(raw: Option<&RawValue>) -> Result<Vec<Pair<'_>>, String> {
    raw.map_or(Ok(Vec::new()), |raw| {
        serde_json::from_str(raw.get()).map_err(|e| format!("`headers`: expected [name, value] pairs: {e}"))
    })
}
