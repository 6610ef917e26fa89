//! JSON in, with errors that name the field and the place.

use serde::Deserialize;
use serde_path_to_error::Segment;

use crate::{Reason, Result};

/// Reads JSON; `what` names the bytes in the error, as `payload`.
pub(crate) fn read<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(what, bytes, error))
}

/// Reads once more, following the path: paid for by failing messages alone.
#[cold]
#[inline(never)]
fn explain<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8], error: serde_json::Error) -> Reason {
    if bytes.is_empty() {
        return Reason::new(format!("{what} is empty, not JSON"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let Err(tracked) = serde_path_to_error::deserialize::<_, T>(&mut reader) else {
        return Reason::new(format!("{what}: {error}"));
    };
    // Where text breaks off, the path ends in a segment that is not known.
    let mut path = String::from(what);
    for segment in tracked.path() {
        match segment {
            Segment::Seq { index } => path.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => path.push_str(&format!(".{key}")),
            Segment::Unknown => break,
        }
    }
    Reason::new(format!("{path}: {}", tracked.inner()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::read;

    #[test]
    fn an_error_names_the_field_and_the_place() {
        type Lists = BTreeMap<String, Vec<u8>>;
        for (bytes, reason) in [
            (
                r#"{"a":[1,256]}"#,
                "payload.a[1]: invalid value: integer `256`, expected u8 at line 1 column 11",
            ),
            (r#"{"a":[1"#, "payload.a: EOF while parsing a list at line 1 column 7"),
            ("{\n \"a\": 7}", "payload.a: invalid type: integer `7`, expected a sequence at line 2 column 7"),
            ("{} x", "payload: trailing characters at line 1 column 4"),
            ("", "payload is empty, not JSON"),
        ] {
            assert_eq!(
                read::<Lists>("payload", bytes.as_bytes()).map_err(|e| e.to_string()),
                Err(reason.to_owned())
            );
        }
    }
}
