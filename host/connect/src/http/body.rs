//! Finds the messages in a request's body: all of it is right, or nothing is taken.

use std::ops::Range;

use serde_json::value::RawValue;

/// What is wrong with a body, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub error: String,
    /// From 1.
    pub line: Option<usize>,
    /// From 1, in bytes.
    pub column: Option<usize>,
}

impl Broken {
    fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), line: None, column: None }
    }
}

const OBJECT: &str = "expected a JSON object, such as {\"id\":\"1\",\"type\":\"order\",\"payload\":{}}";

/// Where the messages of a body are: one JSON object, an array of such, or one a line. `lines`: it is said to be
/// lines.
pub(super) fn messages(body: &[u8], lines: bool) -> Result<Vec<Range<usize>>, Broken> {
    let Some(start) = body.iter().position(|b| !b.is_ascii_whitespace()) else {
        return Err(Broken::new(format!("the body is empty: {OBJECT}, an array of them, or one a line")));
    };
    if std::str::from_utf8(body).is_err() {
        return Err(not_utf8(body));
    }
    match body[start] {
        _ if lines => by_line(body),
        b'[' => array(body),
        b'{' => match serde_json::from_slice::<&RawValue>(body) {
            Ok(object) => Ok(vec![place(body, object)]),
            // A second value behind the first.
            Err(e) if e.is_syntax() && by_line(body).is_ok_and(|all| all.len() > 1) => by_line(body),
            Err(e) if first_line_is_whole(body, start) => by_line(body).map_err(|broken| match broken.line {
                Some(_) => broken,
                None => told(&e, 0),
            }),
            Err(e) => Err(told(&e, 0)),
        },
        _ => Err(Broken { line: Some(line_of(body, start)), column: None, ..Broken::new(OBJECT) }),
    }
}

/// Whether a line of its own is a whole value: then the body is meant as lines.
fn first_line_is_whole(body: &[u8], start: usize) -> bool {
    let line = body[start..].split(|b| *b == b'\n').next().unwrap_or_default();
    line.len() < body.len() - start && serde_json::from_slice::<&RawValue>(line).is_ok()
}

fn by_line(body: &[u8]) -> Result<Vec<Range<usize>>, Broken> {
    let mut found = Vec::new();
    let mut at = 0;
    for (nth, line) in body.split(|b| *b == b'\n').enumerate() {
        let start = at;
        at += line.len() + 1;
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        if text[0] != b'{' {
            return Err(Broken { line: Some(nth + 1), column: Some(1), ..Broken::new(OBJECT) });
        }
        let object: &RawValue = serde_json::from_slice(line).map_err(|e| told(&e, nth))?;
        let within = place(line, object);
        found.push(start + within.start..start + within.end);
    }
    Ok(found)
}

fn array(body: &[u8]) -> Result<Vec<Range<usize>>, Broken> {
    let all: Vec<&RawValue> = serde_json::from_slice(body).map_err(|e| told(&e, 0))?;
    if all.is_empty() {
        return Err(Broken::new(format!("the array is empty: {OBJECT} in it")));
    }
    let mut found = Vec::with_capacity(all.len());
    for (nth, object) in all.into_iter().enumerate() {
        let place = place(body, object);
        if !object.get().starts_with('{') {
            let line = Some(line_of(body, place.start));
            let error = format!("element {} of the array is no object: {OBJECT}", nth + 1);
            return Err(Broken { line, ..Broken::new(error) });
        }
        found.push(place);
    }
    Ok(found)
}

/// Where a value that was read from `text` is in it.
fn place(text: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + value.get().len()
}

fn told(e: &serde_json::Error, lines_before: usize) -> Broken {
    // Its own words for the place are for the part of the body that it saw.
    let text = e.to_string();
    let error = text.split(" at line ").next().unwrap_or(&text).to_owned();
    Broken { error, line: Some(lines_before + e.line()), column: Some(e.column()) }
}

fn line_of(body: &[u8], at: usize) -> usize {
    memchr::memchr_iter(b'\n', &body[..at]).count() + 1
}

fn not_utf8(body: &[u8]) -> Broken {
    let at = std::str::from_utf8(body).map_or_else(|e| e.valid_up_to(), str::len);
    let line_start = memchr::memrchr(b'\n', &body[..at]).map_or(0, |n| n + 1);
    Broken {
        line: Some(line_of(body, at)),
        column: Some(at - line_start + 1),
        ..Broken::new("a byte that is not UTF-8: JSON is UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str, lines: bool) -> Result<Vec<&str>, Broken> {
        Ok(messages(body.as_bytes(), lines)?.into_iter().map(|place| &body[place]).collect())
    }

    #[test]
    fn messages_are_found_as_they_were_sent() {
        for (body, found) in [
            (" {\"a\": 1} ", vec!["{\"a\": 1}"]),
            ("{\n  \"a\": 1\n}\n", vec!["{\n  \"a\": 1\n}"]),
            ("[{\"a\":1},\n {\"b\" : [2]}]", vec!["{\"a\":1}", "{\"b\" : [2]}"]),
            ("{\"a\":1}\n{\"b\":2}", vec!["{\"a\":1}", "{\"b\":2}"]),
            ("{\"a\":1}\r\n\r\n  {\"b\":2}\r\n", vec!["{\"a\":1}", "{\"b\":2}"]),
        ] {
            assert_eq!(texts(body, false), Ok(found), "{body}");
        }
        assert_eq!(texts("{\"a\":1}\n", true), Ok(vec!["{\"a\":1}"]));
    }

    #[test]
    fn what_is_broken_is_told_with_its_place() {
        for (body, lines, part, line, column) in [
            ("", false, "empty", None, None),
            (" \n", true, "empty", None, None),
            ("[]", false, "the array is empty", None, None),
            ("5", false, "expected a JSON object", Some(1), None),
            ("[{},5]", false, "element 2", Some(1), None),
            ("[{},\n{]", false, "key must be a string", Some(2), Some(2)),
            ("{\"a\":1}\n{\"b\":}\n{}", false, "expected value", Some(2), Some(6)),
            ("{\"a\":1}\n[1]\n", false, "expected a JSON object", Some(2), Some(1)),
            ("{\"a\":1}\n{\"b\":", true, "EOF", Some(2), Some(5)),
            ("{\"a\":\n1,}", false, "key must be a string", Some(2), Some(3)),
            ("{\"a\":1} {\"b\":2}", false, "trailing characters", Some(1), Some(9)),
            ("{} x\n{}", true, "trailing characters", Some(1), Some(4)),
        ] {
            let broken = texts(body, lines).expect_err(body);
            assert!(broken.error.contains(part), "{body}: {broken:?}");
            assert_eq!((broken.line, broken.column), (line, column), "{body}: {broken:?}");
        }
        let broken = messages(b"{}\n{\"a\":\"\xff\"}", true).expect_err("not UTF-8");
        assert_eq!((broken.line, broken.column), (Some(2), Some(7)), "{broken:?}");
    }
}
