//! CloudEvents 1.0.2, structured (one JSON object) and binary (attributes in headers, the data as the value).
//!
//! | of the event | of the message |
//! |---|---|
//! | `id` | id |
//! | `type` | type |
//! | `time` | timestamp; where there is none, the record's time |
//! | `data`, `data_base64` | payload; an empty one that is not JSON where there is none |
//! | `source`, `subject`, `dataschema`, `datacontenttype`, extensions | metadata under their names |
//! | `partitionkey` | metadata, and the key where the record has none |
//!
//! Rules: <https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents>: spec.md, formats/json-format.md,
//! bindings/{kafka,nats,http}-protocol-binding.md.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::framing::Lines;
use crate::table::CodecSettings;
use crate::{CodecError, Reading, Writing};

mod decode;
mod encode;

use decode::CloudEventsDecoder;
use encode::CloudEventsWriter;

/// CloudEvents 1.0. Reading takes structured and binary ones, whichever a record is: with the header `content-type` of
/// `application/cloudevents+json` or as such an object, or with attributes in headers (`ce_id` as in Kafka, `ce-id` as in
/// NATS). Batches of events are refused. In files, stdin and stdout an event is a line, structured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CloudEventsSettings {
    /// Writing: whether an event is one JSON object, or its attributes are headers. Default: `structured`.
    pub mode: Mode,
    /// Writing, binary: how attributes are headers: `kafka`, as `ce_id`; or `nats`, as `ce-id`, where values are
    /// percent-encoded. Default: `kafka`.
    pub binding: Binding,
    /// Writing: the source of events whose metadata has no `source`, a URI or a path of one. Default: `/wasmill/` and the name of
    /// what is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One JSON object.
    #[default]
    Structured,
    /// Attributes are headers, the value is the data.
    Binary,
}

/// How attributes are headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// `ce_id`, values as they are.
    #[default]
    Kafka,
    /// `ce-id`, values percent-encoded.
    Nats,
}

#[async_trait]
impl CodecSettings for CloudEventsSettings {
    async fn reading(&self, _: &str) -> Result<Reading, CodecError> {
        Ok(Reading { decoder: Arc::new(CloudEventsDecoder), framing: Arc::new(Lines), ahead: None })
    }

    async fn writing(&self, name: &str) -> Result<Writing, CodecError> {
        let source = match &self.source {
            Some(source) => {
                uri_reference(source)
                    .map_err(|why| CodecError::Wrong(format!("cloudevents: the setting `source` {why}")))?;
                source.clone()
            }
            None => format!("/wasmill/{}", in_path(name)),
        };
        let writer = CloudEventsWriter { mode: self.mode, binding: self.binding, source };
        Ok(Writing { writer: Arc::new(writer), framing: Arc::new(Lines) })
    }
}

/// The media type of a structured event, and what the others of CloudEvents begin with.
const STRUCTURED: &str = "application/cloudevents+json";
const CLOUDEVENTS: &str = "application/cloudevents";
const CONTENT_TYPE: &str = "content-type";
const VERSION: &str = "1.0";

/// Whether a text is the name of an attribute.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Whether a media type says that data is JSON.
fn is_json_type(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some((_, subtype)) => subtype == "json" || subtype.ends_with("+json"),
        None => false,
    }
}

/// An integer of an attribute: 32 bits.
fn integer(literal: &str) -> Option<i32> {
    literal.parse().ok()
}

/// Whether an attribute can have a text.
fn check_text(text: &str) -> Result<(), String> {
    // Without a branch a byte, so that the compiler looks at many at once.
    if text.bytes().fold(true, |plain, b| plain & matches!(b, b' '..=b'~')) {
        return Ok(());
    }
    let refused = |c: char| {
        c.is_control()
            || matches!(u32::from(c) & 0xffff, 0xfffe | 0xffff)
            || matches!(c, '\u{fdd0}'..='\u{fdef}')
    };
    match text.chars().find(|c| refused(*c)) {
        Some(c) => Err(format!(
            "has the character U+{:04X}, which no attribute of CloudEvents can have",
            u32::from(c)
        )),
        None => Ok(()),
    }
}

/// Whether a text can be a URI, or a part of one.
fn uri_reference(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty: expected a URI or a path of one, such as /orders".to_owned());
    }
    let refused = |c: char| {
        c <= ' ' || c.is_control() || matches!(c, '<' | '>' | '"' | '{' | '}' | '|' | '\\' | '^' | '`')
    };
    match text.chars().find(|c| refused(*c) || !c.is_ascii()) {
        Some(c) => Err(format!("is no URI: it has {c:?}, which must be percent-encoded")),
        None => Ok(()),
    }
}

/// A name as a path of a URI.
fn in_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.trim_start_matches('/').bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                path.push(char::from(byte))
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}
