//! Parts as the scripts take them, and what they answer.

use redis::Value;
use wasmill_engine::state::StoreError;

/// A part as the scripts take it: its length, then its bytes; a length of all ones for none.
pub(super) fn pack(into: &mut Vec<u8>, part: Option<&[u8]>) {
    let length = part.map_or(u32::MAX, |part| u32::try_from(part.len()).unwrap_or(u32::MAX - 1));
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(part.unwrap_or_default());
}

pub(super) fn pack_texts(into: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        pack(into, Some(part.as_bytes()));
    }
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|e| StoreError::Io { what: "cannot write a checkpoint".into(), cause: e.to_string() })
}

pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

pub(super) fn text(value: Value) -> String {
    bytes(value).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
