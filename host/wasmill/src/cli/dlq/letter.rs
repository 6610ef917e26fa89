//! One dead letter, as it stands in its sink.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use wasmill_connect::codec::json::JsonDecoder;
use wasmill_connect::scan::digest;
use wasmill_engine::dead_letter::TYPE;
use wasmill_engine::input::{Decoder as _, RawBatch, RawRecord};
use wasmill_frame::FrameBuf;

use crate::spec::Pipeline;

/// How many digits of an id are shown in lists.
pub(super) const ID_DIGITS: usize = 12;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// What a letter says.
#[derive(Debug, Deserialize)]
pub(super) struct Body<'a> {
    pub reason: String,
    pub kind: String,
    pub stage: String,
    pub plugin: Option<Plugin>,
    #[serde(default)]
    pub attempts: u32,
    pub source: Option<u32>,
    pub partition: Option<String>,
    pub offset: Option<u64>,
    #[serde(default)]
    pub index: u64,
    pub time: Option<i64>,
    pub trace_id: Option<String>,
    /// Which sink refused it: a name, or a number.
    #[serde(borrow)]
    pub sink: Option<&'a RawValue>,
    /// Where its letter was in the replay log, where it has failed before.
    #[serde(borrow)]
    pub replay: Option<&'a RawValue>,
    #[serde(borrow)]
    pub key: Option<&'a RawValue>,
    pub start: Option<i64>,
    pub end: Option<i64>,
    #[serde(default)]
    pub cut: bool,
    #[serde(borrow)]
    pub message: Option<&'a RawValue>,
    #[serde(borrow)]
    pub original: Option<&'a RawValue>,
    #[serde(borrow)]
    pub output: Option<&'a RawValue>,
}

/// The plugin that failed.
#[derive(Debug, Deserialize)]
pub(super) struct Plugin {
    pub name: String,
    pub version: Option<String>,
    pub digest: Option<String>,
}

impl Plugin {
    /// Name and version, as people write them.
    pub fn shown(&self) -> String {
        match &self.version {
            Some(version) => format!("{}@{version}", self.name),
            None => self.name.clone(),
        }
    }
}

/// A dead letter.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    /// By which it is known wherever it stands: of what failed and where, not of when and why.
    pub digest: u128,
    /// The whole of it, as it stands.
    pub value: &'a [u8],
    pub key: Option<&'a [u8]>,
    /// Where it stands.
    pub part: u32,
    pub offset: u64,
    /// When its log says that it came, in milliseconds.
    pub logged_ms: Option<i64>,
    pub body: Body<'a>,
}

impl<'a> Letter<'a> {
    /// Reads a record; why it is no dead letter.
    pub fn read(batch: &'a RawBatch, record: &RawRecord) -> Result<Self, String> {
        if let Some(why) = &record.rejected {
            return Err(why.clone());
        }
        let value = &batch.data[record.value.clone()];
        let envelope: Envelope<'_> =
            serde_json::from_slice(value).map_err(|e| format!("it is no JSON envelope: {e}"))?;
        if envelope.kind != TYPE {
            return Err(format!("it is of type `{}`", super::show::escaped(&envelope.kind)));
        }
        let body: Body<'_> = serde_json::from_str(envelope.payload.get())
            .map_err(|e| format!("its payload is none of a dead letter: {e}"))?;
        Ok(Self {
            digest: digest_of(&body),
            value,
            key: record.key.clone().map(|key| &batch.data[key]),
            part: batch.partition.partition,
            offset: record.offset,
            logged_ms: record.time_ms,
            body,
        })
    }

    /// Its id, whole.
    pub fn id(&self) -> String {
        format!("{:032x}", self.digest)
    }

    /// When what failed was taken in, or else when the letter came.
    pub fn time_ms(&self) -> Option<i64> {
        self.body.time.or(self.logged_ms)
    }

    /// Why it can't be put through again, if it can't.
    pub fn obstacle(&self, pipeline: &Pipeline) -> Option<String> {
        let body = &self.body;
        let is_cut = body.cut || body.message.is_none() && body.original.is_some_and(is_cut);
        let why = if is_cut {
            "it was cut short, for the whole was too large"
        } else if body.start.is_some() {
            "it is a window's result, of many messages"
        } else if body.message.is_none() && (body.stage == "sink" || body.kind == "refused") {
            "a sink's other end refused what came of it, and would again"
        } else if body.message.is_none() && body.original.is_none() {
            "it has no message"
        } else {
            ""
        };
        if !why.is_empty() {
            return Some(why.to_owned());
        }
        let known = ["source", "time", "key_by", "sink"];
        let is_stage = |name: &str| pipeline.stages.iter().any(|s| s.name() == Some(name));
        if !known.contains(&body.stage.as_str()) && !is_stage(&body.stage) {
            return Some(format!(
                "the pipeline has no stage `{}`: it is another pipeline's, or the stage has another name now",
                super::show::escaped(&body.stage)
            ));
        }
        None
    }
}

/// Whether a record is not whole.
fn is_cut(original: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Original {
        #[serde(default)]
        cut: bool,
    }
    serde_json::from_str(original.get()).is_ok_and(|original: Original| original.cut)
}

/// What makes a letter this one. Written again after a crash it has the same, though it says another reason.
fn digest_of(body: &Body<'_>) -> u128 {
    let raw = |value: Option<&RawValue>| value.map(|v| v.get().to_owned());
    // With its names, so that nothing can pass for something else. What failed has the message; a record that
    // is no message has itself.
    let what = match body.message {
        Some(message) => ("message", Some(message.get().to_owned())),
        None => ("original", raw(body.original)),
    };
    let parts = serde_json::json!([
        ["stage", body.stage],
        ["source", body.source],
        ["partition", body.partition],
        ["offset", body.offset],
        ["index", body.index],
        ["sink", raw(body.sink)],
        // One that failed again is another letter.
        ["replay", raw(body.replay)],
        ["key", raw(body.key)],
        ["window", body.start, body.end],
        what,
        ["output", raw(body.output)],
    ]);
    digest(parts.to_string().as_bytes())
}

/// The letter as a message alone in a frame, for conditions.
pub(super) fn as_message(value: &[u8], frame: &mut FrameBuf) -> Result<(), String> {
    frame.clear();
    let raw = RawBatch::of_value(value);
    JsonDecoder.decode(&raw.records[0], &raw, frame)
}

#[cfg(test)]
mod tests {
    use wasmill_engine::position::PartitionId;

    use super::*;

    fn batch(text: &str) -> RawBatch {
        RawBatch {
            partition: PartitionId { source: 0, partition: 3 },
            data: text.as_bytes().to_vec(),
            records: vec![RawRecord::of_value(text.as_bytes())],
            next: 1,
            preamble: None,
        }
    }

    fn digest_in(text: &str) -> u128 {
        let batch = batch(text);
        Letter::read(&batch, &batch.records[0]).unwrap_or_else(|e| panic!("{text}: {e}")).digest
    }

    const LETTER: &str = r#"{"id":"7","type":"wasmill.dead_letter","metadata":{},"payload":{"reason":"boom","kind":"trap","stage":"enrich","plugin":{"name":"enrich","version":"1.0.0","digest":"ab"},"attempts":2,"source":0,"partition":"orders[0]","offset":7,"time":5,"message":{"id":"7","type":"t","payload":{"n":1}}}}"#;

    #[test]
    fn a_letter_that_is_written_again_is_the_same_one() {
        let same = digest_in(LETTER);
        for (from, to) in [
            ("boom", "another reason"),
            ("\"attempts\":2", "\"attempts\":3"),
            ("1.0.0", "1.0.1"),
            ("\"trap\"", "\"fuel\""),
        ] {
            assert_eq!(digest_in(&LETTER.replace(from, to)), same, "{to}");
        }
        for (from, to) in [
            ("\"offset\":7", "\"offset\":8"),
            ("\"stage\":\"enrich\"", "\"stage\":\"other\""),
            ("orders[0]", "orders[1]"),
            ("\"source\":0", "\"source\":1"),
            ("{\"n\":1}", "{\"n\":2}"),
            ("\"offset\":7", "\"offset\":7,\"index\":1"),
            ("\"offset\":7", "\"offset\":7,\"replay\":{\"offset\":3}"),
        ] {
            assert_ne!(digest_in(&LETTER.replace(from, to)), same, "{to}");
        }
    }

    #[test]
    fn what_is_no_letter_says_what_it_is() {
        for (text, why) in [
            ("no", "no JSON envelope"),
            (r#"{"type":"order","payload":{}}"#, "of type `order`"),
            (r#"{"type":"wasmill.dead_letter","payload":{"kind":"trap"}}"#, "none of a dead letter"),
        ] {
            let batch = batch(text);
            let said = Letter::read(&batch, &batch.records[0]).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
