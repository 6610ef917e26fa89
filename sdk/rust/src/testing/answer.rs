//! What became of a message: edits applied as the host does.

use serde_json::Value;
use wasmill_frame::{Edit, Edits};

use super::TestMessage;

/// What became of one message.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The message as it goes on; none when it was dropped or failed.
    pub message: Option<TestMessage>,
    /// What was emitted behind it.
    pub emitted: Vec<TestMessage>,
    /// Why it failed, if it did.
    pub reason: Option<String>,
}

impl Outcome {
    /// The message as it goes on.
    ///
    /// # Panics
    /// When it was dropped or failed.
    #[must_use]
    pub fn kept(&self) -> &TestMessage {
        match (&self.message, &self.reason) {
            (Some(message), _) => message,
            (None, Some(reason)) => panic!("the message failed: {reason}"),
            (None, None) => panic!("the message was dropped"),
        }
    }

    /// Whether it was dropped.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.message.is_none() && self.reason.is_none()
    }

    /// Why it failed.
    ///
    /// # Panics
    /// When it did not fail.
    #[must_use]
    pub fn failed(&self) -> &str {
        match &self.reason {
            Some(reason) => reason,
            None => panic!("the message did not fail: {self:?}"),
        }
    }
}

pub(super) fn apply(messages: &[TestMessage], edits: Edits<'_>) -> Vec<Outcome> {
    let keep = |m: &TestMessage| Outcome { message: Some(m.clone()), emitted: Vec::new(), reason: None };
    let mut outcomes: Vec<_> = messages.iter().map(keep).collect();
    for (index, edit) in edits.iter() {
        let outcome = &mut outcomes[index];
        match edit {
            Edit::Emit { copy } => {
                let mut extra = messages[index].clone();
                if !copy {
                    extra.payload.clear();
                    extra.metadata.clear();
                }
                outcome.emitted.push(extra);
            }
            Edit::Drop => outcome.message = None,
            Edit::Fail(reason) => {
                outcome.message = None;
                outcome.reason = Some(reason.to_owned());
            }
            change => {
                if let Some(message) = outcome.emitted.last_mut().or(outcome.message.as_mut()) {
                    apply_change(message, change);
                }
            }
        }
    }
    outcomes
}

fn apply_change(message: &mut TestMessage, change: Edit<'_>) {
    match change {
        Edit::Payload(v) => message.payload = v.to_vec(),
        Edit::Key(v) => message.key = v.map(<[u8]>::to_vec),
        Edit::Timestamp(v) => message.timestamp = Some(v),
        Edit::Kind(v) => message.kind = v.to_owned(),
        Edit::Id(v) => message.id = v.to_owned(),
        Edit::SetMetadata { name, value, json: false } => {
            message.set_metadata(name, Value::String(String::from_utf8_lossy(value).into_owned()));
        }
        Edit::SetMetadata { name, value, json: true } => {
            message.set_metadata(name, serde_json::from_slice(value).expect("metadata that is JSON"));
        }
        Edit::RemoveMetadata(name) => message.metadata.retain(|(n, _)| n != name),
        Edit::Output(name) => message.output = Some(name.to_owned()),
        Edit::Drop | Edit::Fail(_) | Edit::Emit { .. } => {}
    }
}
