//! The JSON envelope: `{"id", "type", "payload", "timestamp", "metadata"}`, one message a line.
//!
//! | field | read | written |
//! |---|---|---|
//! | `id` | text or number, required | as it came; a changed one as text |
//! | `type` | text, required | text |
//! | `payload` | any JSON, kept to the letter; `null` where absent | to the letter, on one line |
//! | `timestamp` | RFC 3339 text or integer milliseconds, optional | in the form it came, to the letter where unchanged |
//! | `metadata` | an object, optional | always; text as text, other values to the letter |
//! | any other | any JSON, kept to the letter | behind `metadata` |
//!
//! Where a known field or a metadata name stands twice, the last one counts. An unknown field that
//! stands twice is kept twice. Plugins see an id that is a number as text.
//!
//! A record without a value, a tombstone, is a message of the type `tombstone` without payload, its id the
//! record's key. A record's headers stay with its message, unseen by plugins; sinks that have such write them again.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::framing::Lines;
use crate::table::CodecSettings;
use crate::{CodecError, Reading, Writing};

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod scan;

pub use decode::JsonDecoder;
pub use encode::JsonEncoder;
pub(crate) use encode::one_line;

pub use crate::unseen::{TOMBSTONE, is_tombstone};

/// The JSON envelope: one message a record, as `{"id", "type", "payload", "timestamp", "metadata"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSettings {}

#[async_trait]
impl CodecSettings for JsonSettings {
    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        Ok(reading())
    }

    async fn writing(&self, _: &str) -> Result<Writing, CodecError> {
        Ok(writing())
    }
}

/// Reads envelopes, in streams of bytes one a line.
#[must_use]
pub fn reading() -> Reading {
    Reading { decoder: Arc::new(JsonDecoder), framing: Arc::new(Lines), ahead: None }
}

/// Writes envelopes, in streams of bytes one a line.
#[must_use]
pub fn writing() -> Writing {
    Writing { writer: Arc::new(JsonEncoder), framing: Arc::new(Lines) }
}
