//! Keys: where a message's key comes from, and which lane owns it.

use std::borrow::Cow;
use std::ops::Range;

use wasmill_frame::{Message, MetaKind, TIMESTAMP_NONE};

use crate::json::{self, Text};

/// A place in a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// The envelope's id.
    Id,
    /// The envelope's type.
    Type,
    /// The key that came with the message.
    Key,
    /// The envelope's timestamp.
    Timestamp,
    /// A metadata entry.
    Metadata(String),
    /// A field of the payload, by the names on the way to it; a number names an element of an array.
    Payload(Vec<String>),
}

impl std::str::FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, rest) = match text.split_once('.') {
            Some((head, rest)) => (head, Some(rest)),
            None => (text, None),
        };
        match (head, rest) {
            ("id", None) => Ok(Self::Id),
            ("type", None) => Ok(Self::Type),
            ("key", None) => Ok(Self::Key),
            ("timestamp", None) => Ok(Self::Timestamp),
            ("metadata", Some(name)) if !name.is_empty() => Ok(Self::Metadata(name.to_owned())),
            ("payload", None) => Ok(Self::Payload(Vec::new())),
            ("payload", Some(path)) if path.split('.').all(|p| !p.is_empty()) => {
                Ok(Self::Payload(path.split('.').map(str::to_owned).collect()))
            }
            _ => Err(format!(
                "`{text}` is no place in a message: expected id, type, key, timestamp, metadata.NAME or payload.FIELD"
            )),
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id => f.write_str("id"),
            Self::Type => f.write_str("type"),
            Self::Key => f.write_str("key"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Metadata(name) => write!(f, "metadata.{name}"),
            Self::Payload(path) => {
                f.write_str("payload")?;
                path.iter().try_for_each(|p| write!(f, ".{p}"))
            }
        }
    }
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    /// A text, unescaped, or bytes.
    Text(Cow<'a, [u8]>),
    /// A number, `true` or `false`, to the letter.
    Literal(Cow<'a, str>),
    /// An object or an array, to the letter.
    Nested(&'a str),
    /// Nothing, or null.
    Null,
}

impl Path {
    /// Looks the path up in a message.
    ///
    /// # Errors
    /// When the payload is not JSON as far as the path goes.
    pub fn find<'a>(&self, message: Message<'a>) -> Result<Found<'a>, String> {
        let text = |bytes: &'a [u8]| Found::Text(Cow::Borrowed(bytes));
        Ok(match self {
            Self::Id => text(message.id().as_bytes()),
            Self::Type => text(message.kind_bytes()),
            Self::Key => message.key().map_or(Found::Null, text),
            Self::Timestamp => match message.timestamp() {
                TIMESTAMP_NONE => Found::Null,
                time => Found::Literal(Cow::Owned(time.to_string())),
            },
            Self::Metadata(name) => match message.metadata().get(name) {
                None => Found::Null,
                Some(e) if e.kind == MetaKind::Text => text(e.value),
                Some(e) => classify(e.value)?,
            },
            Self::Payload(path) => find_in_json(message.payload(), path)?,
        })
    }
}

fn find_in_json<'a>(json: &'a [u8], path: &Vec<String>) -> Result<Found<'a>, String> {
    if path.is_empty() {
        return classify(json);
    }
    let mut found = [None];
    json::find(json, std::slice::from_ref(path), &mut found).map_err(not_json)?;
    found[0].map_or(Ok(Found::Null), |raw| classify(raw.get().as_bytes()))
}

/// Finds what stands at several places of a payload, as JSON to the letter, in one pass. The paths are sorted and
/// differ, and none is empty; `found` has a place for each.
///
/// # Errors
/// When the payload is not JSON as far as the paths go.
pub fn find_all<'a>(
    payload: &'a [u8],
    paths: &[Vec<String>],
    found: &mut [Option<&'a serde_json::value::RawValue>],
) -> Result<(), String> {
    json::find(payload, paths, found).map_err(not_json)
}

pub(crate) fn not_json(error: serde_json::Error) -> String {
    format!("the payload is not JSON: {error}")
}

/// What a JSON value is, as far as its first byte tells.
pub(crate) fn classify(json: &[u8]) -> Result<Found<'_>, String> {
    let text = std::str::from_utf8(json).map_err(|_| "the payload is not UTF-8".to_owned())?.trim();
    Ok(match text.as_bytes().first() {
        None | Some(b'n') => Found::Null,
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(text).map_err(|e| e.to_string())?.0;
            Found::Text(match text {
                Cow::Borrowed(t) => Cow::Borrowed(t.as_bytes()),
                Cow::Owned(t) => Cow::Owned(t.into_bytes()),
            })
        }
        Some(b'{' | b'[') => Found::Nested(text),
        Some(_) => Found::Literal(Cow::Borrowed(text)),
    })
}

/// What becomes of a message whose key is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnNull {
    /// It goes to the dead-letter queue.
    #[default]
    DeadLetter,
    /// It is dropped, and counted as dropped.
    Drop,
    /// All of them share one key, the empty one.
    Shared,
}

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// One path, or several for a compound key.
    pub paths: Vec<Path>,
    /// What becomes of a null key.
    pub on_null: OnNull,
}

impl KeySpec {
    /// Whether keys are JSON arrays rather than plain texts.
    #[must_use]
    pub fn is_compound(&self) -> bool {
        self.paths.len() > 1
    }

    /// Writes the message's key into `key`: the text or literal itself, or for a compound key the JSON
    /// array of its parts. Answers false where a part is null.
    ///
    /// # Errors
    /// The reason for the dead-letter queue: the payload can't be read, or the key is an object or array.
    pub fn extract(&self, message: Message<'_>, key: &mut Vec<u8>) -> Result<bool, String> {
        key.clear();
        for (i, path) in self.paths.iter().enumerate() {
            if self.is_compound() {
                key.push(if i == 0 { b'[' } else { b',' });
            }
            match path.find(message)? {
                Found::Null => {
                    key.clear();
                    return Ok(false);
                }
                Found::Nested(_) => {
                    return Err(format!(
                        "the key at `{path}` is an object or an array, not a text or a number"
                    ));
                }
                Found::Literal(text) => key.extend_from_slice(text.as_bytes()),
                Found::Text(text) if self.is_compound() => {
                    let text = String::from_utf8_lossy(&text);
                    key.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
                }
                Found::Text(text) => key.extend_from_slice(&text),
            }
        }
        if self.is_compound() {
            key.push(b']');
        }
        Ok(true)
    }
}

/// The key's group: the unit in which lanes own keys. A pure function of key and number of groups,
/// part of the format of stored state: XXH3, 64 bits, modulo the groups.
#[must_use]
pub fn key_group(key: &[u8], groups: u16) -> u16 {
    group_of_hash(xxhash_rust::xxh3::xxh3_64(key), groups)
}

/// The group of a key with this hash.
pub(crate) fn group_of_hash(hash: u64, groups: u16) -> u16 {
    u16::try_from(hash % u64::from(groups)).unwrap_or_default()
}

/// The lane that owns a group: lanes own ranges of equal size, give or take one.
#[must_use]
pub fn lane_of(group: u16, groups: u16, lanes: usize) -> usize {
    usize::from(group) * lanes / usize::from(groups)
}

/// The groups that a lane owns.
#[must_use]
pub fn groups_of(lane: usize, groups: u16, lanes: usize) -> Range<u16> {
    let first = |lane: usize| {
        let group = (lane * usize::from(groups)).div_ceil(lanes.max(1));
        u16::try_from(group).unwrap_or(groups).min(groups)
    };
    first(lane)..first(lane + 1)
}
