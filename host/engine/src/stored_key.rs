//! Stored keys and values taken apart: for whoever shows state, moves it, or hashes it anew.
//!
//! How they are put together stands in [`crate::state`]; every kind is decoded here and nowhere else.

use crate::key::key_group;
use crate::state::StateKind;
use crate::time::END;

/// The bytes before what a kind has of its own: kind, stage, key group.
pub const PREFIX_BYTES: usize = 5;
/// The first of them: kind, stage.
pub const STAGE_PREFIX_BYTES: usize = 3;
const EXPIRY_BYTES: usize = 8;
/// A window's end, which stands before its key. A session's bounds take no more: its start is in the value.
const WINDOW_END_BYTES: usize = 8;

/// The longest key that every store takes: PostgreSQL's index rows end at about 2,700 bytes.
pub const STORED_KEY_BYTES_MAX: usize = 2_600;
/// The longest key that a message may have where state is kept by it: what is left of [`STORED_KEY_BYTES_MAX`] beside what
/// stands around it in a stored key. The same whatever the stages behind: one more of them makes no key too long. The name
/// that a plugin gives an entry comes on top.
pub const MESSAGE_KEY_BYTES_MAX: usize = STORED_KEY_BYTES_MAX - PREFIX_BYTES - WINDOW_END_BYTES;

/// Why no state can be kept by a message's key, for a dead letter; none where it can. The same for all stores.
pub(crate) fn too_long(key: &[u8]) -> Option<String> {
    (key.len() > MESSAGE_KEY_BYTES_MAX).then(|| {
        format!(
            "the key has {} bytes, and one by which state is kept has at most {MESSAGE_KEY_BYTES_MAX}: have `key_by` name another place, or a transform before it make a shorter key, such as a hash of this one",
            key.len()
        )
    })
}

/// What a stored key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredKey<'a> {
    /// What it belongs to.
    pub kind: StateKind,
    /// The stage's place among those behind the key_by.
    pub stage: u16,
    /// The key group.
    pub group: u16,
    /// The messages' key.
    pub key: &'a [u8],
    /// A window's end, in milliseconds.
    pub window_end: Option<i64>,
    /// The name that a plugin gave its entry.
    pub name: Option<&'a str>,
}

/// Why a stored key can't be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownKey {
    /// Another wasmill stores kinds that this one doesn't know.
    #[error("its kind is {0:#04x}, which this wasmill doesn't know")]
    Kind(u8),
    /// It ends too early, or holds what can't be.
    #[error("its {0} can't be read")]
    Part(&'static str),
}

impl<'a> StoredKey<'a> {
    /// Takes a stored key apart.
    ///
    /// # Errors
    /// When it is of an unknown kind, or is no stored key.
    pub fn parse(stored: &'a [u8]) -> Result<Self, UnknownKey> {
        let kind = *stored.first().ok_or(UnknownKey::Part("kind"))?;
        let kind = StateKind::of_byte(kind).ok_or(UnknownKey::Kind(kind))?;
        let u16_at = |at: usize, what| {
            let bytes = stored.get(at..at + 2).and_then(|b| b.first_chunk());
            bytes.map(|b| u16::from_be_bytes(*b)).ok_or(UnknownKey::Part(what))
        };
        let (stage, group) = (u16_at(1, "stage")?, u16_at(3, "key group")?);
        let rest = &stored[PREFIX_BYTES..];
        let parsed = Self { kind, stage, group, key: rest, window_end: None, name: None };
        Ok(match kind {
            StateKind::Running | StateKind::Clock => parsed,
            StateKind::Window => {
                let (end, key) = rest.split_first_chunk::<8>().ok_or(UnknownKey::Part("window"))?;
                Self { key, window_end: Some(i64::from_be_bytes(*end)), ..parsed }
            }
            StateKind::Plugin => {
                let (length, rest) = rest.split_first_chunk::<4>().ok_or(UnknownKey::Part("key's length"))?;
                let length = u32::from_be_bytes(*length) as usize;
                let (key, name) = rest.split_at_checked(length).ok_or(UnknownKey::Part("key"))?;
                let name = std::str::from_utf8(name).map_err(|_| UnknownKey::Part("name"))?;
                Self { key, name: Some(name), ..parsed }
            }
        })
    }
}

/// A stored key as it is with another number of key groups.
///
/// # Errors
/// As [`StoredKey::parse`].
pub fn rehashed(stored: &[u8], groups: u16) -> Result<Vec<u8>, UnknownKey> {
    let parsed = StoredKey::parse(stored)?;
    let mut moved = stored.to_vec();
    // A stage's clock is of no key: it stays where it is.
    if parsed.kind != StateKind::Clock {
        moved[STAGE_PREFIX_BYTES..PREFIX_BYTES].copy_from_slice(&key_group(parsed.key, groups).to_be_bytes());
    }
    Ok(moved)
}

/// Where a stored window, pane or session with this end begins, and its accumulator; none where the bytes are
/// not one.
#[must_use]
pub fn split_window(end: i64, stored: &[u8]) -> Option<(i64, &[u8])> {
    crate::windowed::split_part(end, stored)
}

/// A plugin's entry as it is stored: when it expires, as little-endian i64 of event time, then the value.
#[must_use]
pub fn with_expiry(expiry: i64, value: &[u8]) -> Vec<u8> {
    [&expiry.to_le_bytes(), value].concat()
}

/// When a plugin's stored entry expires, [`END`] for never, and its value.
#[must_use]
pub fn split_expiry(stored: &[u8]) -> (i64, &[u8]) {
    match stored.split_first_chunk::<EXPIRY_BYTES>() {
        Some((expiry, value)) => (i64::from_le_bytes(*expiry), value),
        None => (END, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{clock_key, plugin_state_key, running_key, window_key};

    #[test]
    fn what_is_put_together_is_taken_apart() {
        let parts = |stored: &[u8]| {
            let k = StoredKey::parse(stored).expect("a stored key");
            (k.kind, k.stage, k.group, k.key.to_vec(), k.window_end, k.name.map(str::to_owned))
        };
        let key = b"a\0b".to_vec();
        assert_eq!(
            parts(&window_key(3, 99, 60_000, &key)),
            (StateKind::Window, 3, 99, key.clone(), Some(60_000), None)
        );
        assert_eq!(parts(&running_key(0, 1, b"")), (StateKind::Running, 0, 1, Vec::new(), None, None));
        assert_eq!(
            parts(&plugin_state_key(1, 2, &key, "seen")),
            (StateKind::Plugin, 1, 2, key.clone(), None, Some("seen".to_owned()))
        );
        let moved = rehashed(&window_key(3, 99, 60_000, &key), 7).expect("a stored key");
        assert_eq!(moved, window_key(3, key_group(&key, 7), 60_000, &key));
        assert_eq!(rehashed(&clock_key(3, 0), 7), Ok(clock_key(3, 0)));
    }

    #[test]
    fn the_longest_key_of_a_message_fits_into_every_stored_key() {
        let key = vec![b'k'; MESSAGE_KEY_BYTES_MAX];
        assert_eq!(too_long(&key), None);
        for stored in [
            window_key(u16::MAX, u16::MAX, END, &key),
            running_key(u16::MAX, u16::MAX, &key),
            plugin_state_key(u16::MAX, u16::MAX, &key, ""),
        ] {
            assert!(stored.len() <= STORED_KEY_BYTES_MAX, "{} bytes", stored.len());
        }
        assert_eq!(window_key(0, 0, 0, &key).len(), STORED_KEY_BYTES_MAX, "no byte is given away");
        assert!(too_long(&[&key[..], b"k"].concat()).is_some());
    }

    #[test]
    fn what_is_no_stored_key_is_told() {
        let whole = plugin_state_key(1, 2, b"key", "name");
        let told: Vec<String> =
            [b"".as_slice(), b"x\0\0\0\0k", &whole[..2], &whole[..4], &whole[..8], &whole[..11]]
                .iter()
                .map(|stored| StoredKey::parse(stored).expect_err("no stored key").to_string())
                .collect();
        assert_eq!(
            told,
            [
                "its kind can't be read",
                "its kind is 0x78, which this wasmill doesn't know",
                "its stage can't be read",
                "its key group can't be read",
                "its key's length can't be read",
                "its key can't be read",
            ]
        );
    }
}
