//! Entries of state, as they are asked for and shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use wasmill_engine::shape::StageShape;
use wasmill_engine::state::StateKind;
use wasmill_engine::stored_key::{StoredKey, split_expiry, split_window};
use wasmill_engine::time::END;

/// The most entries of one page.
pub const PAGE_ENTRIES_MAX: usize = 1_000;

/// Which entries are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this stage alone.
    pub stage: Option<String>,
    /// Of keys that begin so.
    pub key_prefix: Option<String>,
    /// Those behind a place that an earlier page told.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Which one entry is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its stage.
    pub stage: String,
    /// Its key.
    pub key: String,
    /// Its window's start, or where the window's size is not known its end, in milliseconds.
    pub window: Option<i64>,
    /// The name that the plugin gave it.
    pub name: Option<String>,
}

/// One entry, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its stage's name.
    pub stage: String,
    /// `window` (or a pane or session), `running`, `plugin` or `clock`; for what this wasmill doesn't know, why.
    pub kind: String,
    /// The messages' key as text; bytes that are no UTF-8 are replaced.
    pub key: String,
    /// The key group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u16>,
    /// The window's start, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    /// The window's end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// The name that the plugin gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it expires, in milliseconds of event time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// The bytes of its value.
    pub bytes: usize,
    /// The stored key.
    pub stored_key: String,
}

/// Some entries, as one commit left them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// That commit.
    pub epoch: u64,
    /// Its stream time.
    pub stream_time: i64,
    /// The entries.
    pub entries: Vec<Entry>,
    /// What to ask for those behind them by; none where there are none.
    pub after: Option<String>,
}

/// One entry with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The commit that left it so.
    pub epoch: u64,
    /// The entry.
    pub entry: Entry,
    /// The version of the stage's accumulators.
    pub state_version: Option<serde_json::Value>,
    /// The accumulator, or the plugin's value, in base64.
    pub value: String,
}

impl Entry {
    /// Describes a stored entry by the stages that it was stored by.
    #[must_use]
    pub fn of(stages: &[StageShape], stored_key: &[u8], stored: &[u8]) -> Self {
        let of_unknown = |why: String| Self {
            stage: String::new(),
            kind: why,
            key: String::from_utf8_lossy(stored_key).into_owned(),
            group: None,
            start: None,
            end: None,
            name: None,
            expires: None,
            bytes: stored.len(),
            stored_key: encode(stored_key),
        };
        let parsed = match StoredKey::parse(stored_key) {
            Ok(parsed) => parsed,
            Err(unknown) => return of_unknown(unknown.to_string()),
        };
        let stage = stages.get(usize::from(parsed.stage));
        let part = parsed.window_end.and_then(|end| split_window(end, stored));
        let expiry = (parsed.kind == StateKind::Plugin).then(|| split_expiry(stored).0);
        Self {
            stage: stage.map_or_else(|| format!("stage {}", parsed.stage), |s| s.name.clone()),
            kind: parsed.kind.name().to_owned(),
            key: String::from_utf8_lossy(parsed.key).into_owned(),
            group: Some(parsed.group),
            start: part.map(|(start, _)| start),
            end: parsed.window_end,
            name: parsed.name.map(str::to_owned),
            expires: expiry.filter(|expiry| *expiry != END),
            bytes: value_of(&parsed, stored).len(),
            stored_key: encode(stored_key),
        }
    }
}

/// A stored value without what the host keeps before it.
#[must_use]
pub fn value_of<'a>(key: &StoredKey<'_>, stored: &'a [u8]) -> &'a [u8] {
    match (key.kind, key.window_end) {
        (StateKind::Plugin, _) => split_expiry(stored).1,
        (_, Some(end)) => split_window(end, stored).map_or(stored, |(_, accumulator)| accumulator),
        _ => stored,
    }
}

/// Bytes as text.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Bytes from text.
///
/// # Errors
/// When it is no base64.
pub fn decode(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|e| format!("is no base64: {e}"))
}
