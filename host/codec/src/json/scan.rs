//! Finds where JSON values end, in one pass that builds nothing.
//!
//! What it takes for JSON is to the byte what serde_json takes when it skips a value: any depth, strings whose
//! escapes are well-formed, numbers of any length. It says no more than that something is wrong: who needs the
//! place and the cause asks serde_json, which is slower. The text must be UTF-8 already.

/// A one in each byte.
const ONES: u64 = u64::MAX / 255;

/// A value that stands in JSON text, to the letter.
pub(crate) fn value_at(json: &str, start: usize) -> Option<&str> {
    json.get(start..value_end(json.as_bytes(), start)?)
}

/// Whether a text is one JSON value, with blanks around it at most.
pub(crate) fn is_value(json: &str) -> bool {
    let bytes = json.as_bytes();
    value_end(bytes, blanks(bytes, 0)).is_some_and(|end| blanks(bytes, end) == bytes.len())
}

/// Behind the blanks that stand at `at`.
#[inline]
pub(crate) fn blanks(json: &[u8], mut at: usize) -> usize {
    while let Some(byte) = json.get(at)
        && *byte <= b' '
        && matches!(byte, b' ' | b'\n' | b'\t' | b'\r')
    {
        at += 1;
    }
    at
}

/// The members of a JSON object, one after the other.
pub(crate) struct Members<'a> {
    json: &'a str,
    at: usize,
    begun: bool,
}

/// What comes next in an object.
pub(crate) enum Next<'a> {
    /// A member: what stands between its name's quotes, escapes as they are, and its value.
    Member(&'a str, &'a str),
    /// The closing brace, and where it ends.
    End(usize),
    /// Not JSON.
    Broken,
}

impl<'a> Members<'a> {
    /// Of the object whose brace stands at `at`.
    pub fn new(json: &'a str, at: usize) -> Self {
        debug_assert_eq!(json.as_bytes().get(at), Some(&b'{'));
        Self { json, at: at + 1, begun: false }
    }

    /// The next one. Behind anything but a member it is not asked again.
    #[inline]
    pub fn next(&mut self) -> Next<'a> {
        self.step().unwrap_or(Next::Broken)
    }

    #[inline]
    fn step(&mut self) -> Option<Next<'a>> {
        let bytes = self.json.as_bytes();
        let mut at = blanks(bytes, self.at);
        let mut byte = *bytes.get(at)?;
        if byte == b'}' {
            return Some(Next::End(at + 1));
        }
        if std::mem::replace(&mut self.begun, true) {
            if byte != b',' {
                return None;
            }
            at = blanks(bytes, at + 1);
            byte = *bytes.get(at)?;
        }
        if byte != b'"' {
            return None;
        }
        let name_end = string_end(bytes, at + 1)?;
        let name = self.json.get(at + 1..name_end - 1)?;
        let start = blanks(bytes, colon(bytes, name_end)?);
        let value = value_at(self.json, start)?;
        self.at = start + value.len();
        Some(Next::Member(name, value))
    }
}

/// Behind the colon that stands at `at`, blanks before it.
#[inline]
fn colon(json: &[u8], at: usize) -> Option<usize> {
    let at = blanks(json, at);
    (*json.get(at)? == b':').then_some(at + 1)
}

/// Which brackets are open: a bit a level, set for an object.
#[derive(Default)]
struct Open {
    bits: u64,
    levels: usize,
    deeper: Vec<u64>,
}

impl Open {
    #[inline]
    fn push(&mut self, object: bool) {
        if self.levels > 0 && self.levels.is_multiple_of(64) {
            self.deeper.push(self.bits);
        }
        self.bits = (self.bits << 1) | u64::from(object);
        self.levels += 1;
    }

    #[inline]
    fn pop(&mut self) {
        self.levels -= 1;
        self.bits >>= 1;
        if self.levels > 0 && self.levels.is_multiple_of(64) {
            self.bits = self.deeper.pop().unwrap_or_default();
        }
    }
}

/// Behind the value that starts at `at`; none where there is no well-formed one.
fn value_end(json: &[u8], start: usize) -> Option<usize> {
    let mut open = Open::default();
    let mut at = start;
    loop {
        // A value starts here.
        at = match *json.get(at)? {
            b'"' => string_end(json, at + 1)?,
            b'-' | b'0'..=b'9' => number_end(json, at)?,
            b't' => literal_end(json, at, b"true")?,
            b'n' => literal_end(json, at, b"null")?,
            b'f' => literal_end(json, at, b"false")?,
            b'{' => {
                at = blanks(json, at + 1);
                match *json.get(at)? {
                    b'}' => at + 1,
                    b'"' => {
                        open.push(true);
                        at = blanks(json, colon(json, string_end(json, at + 1)?)?);
                        continue;
                    }
                    _ => return None,
                }
            }
            b'[' => {
                at = blanks(json, at + 1);
                if *json.get(at)? != b']' {
                    open.push(false);
                    continue;
                }
                at + 1
            }
            _ => return None,
        };
        // A value has ended.
        loop {
            if open.levels == 0 {
                return Some(at);
            }
            at = blanks(json, at);
            let in_object = open.bits & 1 == 1;
            match *json.get(at)? {
                b',' => {
                    at = blanks(json, at + 1);
                    if in_object {
                        if *json.get(at)? != b'"' {
                            return None;
                        }
                        at = blanks(json, colon(json, string_end(json, at + 1)?)?);
                    }
                    break;
                }
                b'}' if in_object => open.pop(),
                b']' if !in_object => open.pop(),
                _ => return None,
            }
            at += 1;
        }
    }
}

#[inline]
fn literal_end(json: &[u8], at: usize, literal: &[u8]) -> Option<usize> {
    json.get(at..)?.starts_with(literal).then_some(at + literal.len())
}

/// Behind the digits that stand at `at`.
#[inline(always)]
fn digits(json: &[u8], mut at: usize) -> usize {
    // Eight at once, so that there is one branch for most numbers. Above the first byte that is no digit it may err.
    while let Some((eight, _)) = json.get(at..).and_then(|rest| rest.split_first_chunk::<8>()) {
        let bytes = u64::from_le_bytes(*eight) ^ (ONES * u64::from(b'0'));
        let others = (((bytes & (ONES * 0x7f)) + ONES * 0x76) | bytes) & (ONES * 0x80);
        if others != 0 {
            return at + (others.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while json.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

#[inline]
fn number_end(json: &[u8], start: usize) -> Option<usize> {
    let whole = start + usize::from(json[start] == b'-');
    let mut at = digits(json, whole);
    if at == whole || (at > whole + 1 && json[whole] == b'0') {
        return None;
    }
    if json.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = digits(json, fraction);
        if at == fraction {
            return None;
        }
    }
    if let Some(b'e' | b'E') = json.get(at) {
        let exponent = at + 1 + usize::from(matches!(json.get(at + 1), Some(b'+' | b'-')));
        at = digits(json, exponent);
        if at == exponent {
            return None;
        }
    }
    Some(at)
}

/// Eight bytes with the high bit of each that ends a string, begins an escape, or must not be there. Above the
/// first such byte it may err.
#[inline]
fn special(bytes: u64) -> u64 {
    let equal = |byte: u8| {
        let differs = bytes ^ (ONES * u64::from(byte));
        differs.wrapping_sub(ONES) & !differs
    };
    let control = bytes.wrapping_sub(ONES * 0x20) & !bytes;
    (control | equal(b'"') | equal(b'\\')) & (ONES * 0x80)
}

/// Behind the quote that closes the string whose text starts at `at`.
#[inline(always)]
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    // Most names and many texts end within sixteen bytes.
    let mut next = at;
    for _ in 0..2 {
        let Some((eight, _)) = json.get(next..)?.split_first_chunk::<8>() else { break };
        let found = special(u64::from_le_bytes(*eight));
        if found != 0 {
            let end = next + (found.trailing_zeros() / 8) as usize;
            if json[end] == b'"' {
                return Some(end + 1);
            }
            break;
        }
        next += 8;
    }
    long_string_end(json, next)
}

/// As [`string_end`], for any string.
#[inline(never)]
fn long_string_end(json: &[u8], mut at: usize) -> Option<usize> {
    const WIDE: usize = 32;
    loop {
        let mut rest = json.get(at..)?;
        // Without a branch a byte, so that the compiler looks at many at once.
        while let Some((wide, more)) = rest.split_first_chunk::<WIDE>()
            && !wide.iter().fold(false, |any, b| any | (*b < b' ') | (*b == b'"') | (*b == b'\\'))
        {
            at += WIDE;
            rest = more;
        }
        while let Some((eight, more)) = rest.split_first_chunk::<8>() {
            let found = special(u64::from_le_bytes(*eight));
            if found != 0 {
                at += (found.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
            rest = more;
        }
        match *json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at = escape_end(json, at + 1)?,
            byte if byte < 0x20 => return None,
            _ => at += 1,
        }
    }
}

#[inline(never)]
fn escape_end(json: &[u8], at: usize) -> Option<usize> {
    match *json.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => json.get(at + 1..at + 5)?.iter().all(u8::is_ascii_hexdigit).then_some(at + 5),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// The members as serde_json sees them.
    struct Oracle<'a>(Vec<(String, &'a RawValue)>);

    impl<'de> serde::Deserialize<'de> for Oracle<'de> {
        fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            struct All;
            impl<'de> serde::de::Visitor<'de> for All {
                type Value = Oracle<'de>;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Oracle<'de>, A::Error> {
                    let mut all = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        all.push(member);
                    }
                    Ok(Oracle(all))
                }
            }
            d.deserialize_map(All)
        }
    }

    /// Both say the same of a text: whether it is a value, and which members it has.
    fn compare(text: &str) {
        let raw = serde_json::from_str::<&RawValue>(text);
        assert_eq!(is_value(text), raw.is_ok(), "{text:?}: serde_json says {raw:?}");
        let start = blanks(text.as_bytes(), 0);
        if let Ok(raw) = raw {
            assert_eq!(value_at(text, start), Some(raw.get()));
        }
        if text.as_bytes().get(start) != Some(&b'{') {
            return;
        }
        let mut members = Members::new(text, start);
        let mut found = Vec::new();
        let whole = loop {
            match members.next() {
                Next::Member(name, value) => found.push((name, value)),
                Next::End(end) => break blanks(text.as_bytes(), end) == text.len(),
                Next::Broken => break false,
            }
        };
        // A name with half a character in escapes is JSON, yet no text.
        let named = |name: &str| serde_json::from_str::<String>(&format!("\"{name}\""));
        let names: Result<Vec<_>, _> = found.iter().map(|(name, _)| named(name)).collect();
        match serde_json::from_str::<Oracle<'_>>(text) {
            Ok(Oracle(members)) => {
                assert!(whole, "{text:?}");
                let found: Vec<_> =
                    names.expect("texts").into_iter().zip(found.iter().map(|(_, v)| *v)).collect();
                assert_eq!(found, members.iter().map(|(n, v)| (n.clone(), v.get())).collect::<Vec<_>>());
            }
            Err(e) => assert!(!whole || names.is_err(), "{text:?}: serde_json says {e}"),
        }
    }

    const TEXTS: &[&str] = &[
        r#"{"id":"1","type":"order","payload":{"a":[1,-0.5e+7,true,false,null,{}],"b":"\u00e9\\\"\n/"},"timestamp":0}"#,
        r#" [ [ ] , { } , [ { "a" : [ "é€😀" , 0 , -0 , 10.01E-2 ] } ] ] "#,
        "{\"a\": \"sixteen bytes and more of them\", \"longer name\" :\t\r\n\"\\ud800\"}",
        "\"\"",
        "-1",
        r#"{"\ud83d\ude00":1,"a":1,"a":2}"#,
    ];

    #[test]
    fn every_cut_and_every_changed_byte_is_judged_as_by_serde_json() {
        let alphabet = b"\"\\{}[]:,0123456789-+.eEtrufalsn \t\n\r\x00\x1f\x7fx";
        for text in TEXTS {
            for at in 0..=text.len() {
                if text.is_char_boundary(at) {
                    compare(&text[..at]);
                    compare(&text[at..]);
                    for byte in alphabet {
                        let insert = format!("{}{}{}", &text[..at], *byte as char, &text[at..]);
                        compare(&insert);
                        let mut changed = text.as_bytes().to_vec();
                        if let Some(slot) = changed.get_mut(at) {
                            *slot = *byte;
                        }
                        if let Ok(changed) = std::str::from_utf8(&changed) {
                            compare(changed);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn any_depth_is_scanned() {
        for depth in [1, 63, 64, 65, 127, 128, 129, 200, 1000, 100_000] {
            let kinds = |i: usize| i.is_multiple_of(3);
            let mut text: String = (0..depth).map(|i| if kinds(i) { "{\"a\":" } else { "[" }).collect();
            text.push('1');
            let closers = (0..depth).rev().map(|i| if kinds(i) { '}' } else { ']' });
            text.extend(closers);
            assert!(is_value(&text), "{depth}");
            // A wrong closer at each of some levels.
            for level in (0..depth).step_by(1 + depth / 70) {
                let at = text.len() - 1 - level;
                let wrong = if &text[at..=at] == "}" { "]" } else { "}" };
                let mut wrong_text = text.clone();
                wrong_text.replace_range(at..=at, wrong);
                assert!(!is_value(&wrong_text), "{depth} {level}");
            }
        }
    }

    proptest! {
        #[test]
        fn mixed_tokens_are_judged_as_by_serde_json(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "\"a\"", "\"\\u12aF\"", "\"\\ud800\"", "\"\\u12g4\"", "\"\\x\"", "\"",
                "0", "-", "12", ".", "1.5", "e", "E+", "1e5", "true", "fals", "null", " ", "\n", "\"é\"", "\"tab\t\"",
                "\"123456789\"", "\"1234567\\n9\"", "\u{feff}", "\\",
            ]), 0..14),
            inside in any::<bool>(),
        ) {
            let text = tokens.concat();
            compare(&if inside { format!("{{\"m\":{text}}}") } else { text });
        }

        #[test]
        fn changed_texts_are_judged_as_by_serde_json(
            text in prop::sample::select(TEXTS.to_vec()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = text.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(text) = std::str::from_utf8(&bytes) {
                compare(text);
            }
        }
    }
}
