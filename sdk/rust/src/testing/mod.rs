//! Tests of plugins, natively: no WebAssembly, no host, but the real frames and edits.
//!
//! ```
//! use wasmill_sdk::prelude::*;
//! use wasmill_sdk::testing;
//!
//! fn shout(message: &mut Message) -> Result<Verdict> {
//!     let limit: usize = host::config("limit")?.unwrap_or(10);
//!     if message.payload().len() > limit {
//!         fail!("{} bytes are more than {limit}", message.payload().len());
//!     }
//!     message.set_kind(&message.kind().to_uppercase());
//!     Ok(Keep)
//! }
//!
//! let hello = testing::message("hello").payload("hi");
//! assert_eq!(testing::transform(shout, &hello).kept().kind, "HELLO");
//!
//! let host = testing::Host::new().config("limit", 1);
//! assert_eq!(testing::transform(shout, &hello).failed(), "2 bytes are more than 1");
//! # drop(host);
//! ```

mod answer;
pub(crate) mod host;
mod law;
mod message;

use serde_json::Value;
use wasmill_frame::{Blobs, BlobsWriter, Edits, Frame, FrameBuf, GroupsWriter};

use crate::{Aggregate, Batch, Message, Result, Scan, Verdict, aggregate, stage};
pub use answer::Outcome;
pub use host::Host;
pub use law::check_fold_law;
pub use message::{TestMessage, message};

/// Runs a transform on one message.
pub fn transform(function: impl Fn(&mut Message<'_>) -> Result<Verdict>, message: &TestMessage) -> Outcome {
    only(transform_all(function, std::slice::from_ref(message)))
}

/// Runs a transform on a batch.
pub fn transform_all(
    function: impl Fn(&mut Message<'_>) -> Result<Verdict>,
    messages: &[TestMessage],
) -> Vec<Outcome> {
    edited(messages, |frame| stage::transform(function, frame))
}

/// Runs a batch transform on a batch.
pub fn transform_batch(
    function: impl Fn(&mut Batch<'_>) -> Result<()>,
    messages: &[TestMessage],
) -> Vec<Outcome> {
    edited(messages, |frame| stage::transform_batch(function, frame))
}

/// Runs a filter on one message: whether it passes.
///
/// # Errors
/// The reason of a message that failed.
pub fn filter(
    function: impl Fn(&Message<'_>) -> Result<bool>,
    message: &TestMessage,
) -> Result<bool, String> {
    let outcome = only(edited(std::slice::from_ref(message), |frame| stage::filter(function, frame)));
    match outcome.reason {
        Some(reason) => Err(reason),
        None => Ok(outcome.message.is_some()),
    }
}

/// What folding gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// The finished value.
    pub value: Value,
    /// The messages that failed, by their place, with the reason.
    pub failed: Vec<(usize, String)>,
}

/// Folds messages and finishes.
#[must_use]
pub fn fold<A: Aggregate>(messages: &[TestMessage]) -> Folded {
    let (accumulator, failed) = fold_into::<A>(&aggregate::initial::<A>(), messages);
    Folded { value: parse(&finish::<A>(&accumulator)), failed }
}

/// Scans messages: what became of each, and the value at the end.
#[must_use]
pub fn scan<A: Scan>(messages: &[TestMessage]) -> (Vec<Outcome>, Folded) {
    let groups = one_group(&aggregate::initial::<A>(), messages.len());
    let mut blobs = Vec::new();
    let mut outcomes = edited(messages, |frame| {
        let (edits, answer) = aggregate::scan::<A>(frame, &groups)?;
        blobs = answer;
        Ok(edits)
    });
    let (accumulator, failed) = read_folded(&blobs);
    for (index, reason) in &failed {
        outcomes[*index] = Outcome { message: None, emitted: Vec::new(), reason: Some(reason.clone()) };
    }
    (outcomes, Folded { value: parse(&finish::<A>(&accumulator)), failed })
}

fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("the finished value is JSON")
}

fn only(mut outcomes: Vec<Outcome>) -> Outcome {
    outcomes.pop().expect("one message, one outcome")
}

fn frame_of(messages: &[TestMessage]) -> FrameBuf {
    let mut frame = FrameBuf::default();
    for message in messages {
        message.push_to(&mut frame);
    }
    assert_eq!(Frame::parse(frame.as_bytes()).map(|f| f.len()), Ok(messages.len()));
    frame
}

fn edited(messages: &[TestMessage], run: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>) -> Vec<Outcome> {
    let frame = frame_of(messages);
    let answer = match host::during(messages, || run(frame.as_bytes())) {
        Ok(answer) => answer,
        Err(reason) => panic!("the whole call failed: {reason}"),
    };
    let edits = match Edits::parse(&answer, messages.len()) {
        Ok(edits) => edits,
        Err(e) => panic!("the SDK wrote edits that the host refuses: {e}"),
    };
    answer::apply(messages, edits)
}

fn one_group(accumulator: &[u8], messages: usize) -> Vec<u8> {
    let mut groups = GroupsWriter::new();
    groups.push(accumulator, 0..messages);
    groups.finish()
}

fn fold_into<A: Aggregate>(accumulator: &[u8], messages: &[TestMessage]) -> (Vec<u8>, Vec<(usize, String)>) {
    let frame = frame_of(messages);
    let groups = one_group(accumulator, messages.len());
    let folded = host::during(messages, || aggregate::fold::<A>(frame.as_bytes(), &groups));
    read_folded(&folded.unwrap_or_else(|reason| panic!("the whole fold failed: {reason}")))
}

fn read_folded(blobs: &[u8]) -> (Vec<u8>, Vec<(usize, String)>) {
    let mut blobs = Blobs::parse(blobs).expect("the SDK writes blobs").iter();
    let accumulator = blobs.next().expect("one group, one accumulator").1.to_vec();
    let failed = blobs.map(|(tag, reason)| (tag as usize - 1, String::from_utf8_lossy(reason).into_owned()));
    (accumulator, failed.collect())
}

fn merge<A: Aggregate>(earlier: &[u8], later: &[u8]) -> Vec<u8> {
    let merged = aggregate::merge::<A>(&blobs_of(&[earlier, later]));
    only_blob(&merged.unwrap_or_else(|reason| panic!("the merge failed: {reason}")))
}

fn finish<A: Aggregate>(accumulator: &[u8]) -> Vec<u8> {
    let finished = aggregate::finish::<A>(&blobs_of(&[accumulator]));
    only_blob(&finished.unwrap_or_else(|reason| panic!("finish failed: {reason}")))
}

fn blobs_of(parts: &[&[u8]]) -> Vec<u8> {
    let mut blobs = BlobsWriter::new();
    for part in parts {
        blobs.push(0, part);
    }
    blobs.finish()
}

fn only_blob(blobs: &[u8]) -> Vec<u8> {
    let (tag, bytes) =
        Blobs::parse(blobs).expect("the SDK writes blobs").iter().next().expect("one in, one out");
    assert_eq!(tag, 0, "finish failed: {}", String::from_utf8_lossy(bytes));
    bytes.to_vec()
}
