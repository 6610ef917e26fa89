//! JSON text as a flat list of its values, made in one pass without recursion, so that a value can be passed over,
//! come back to, and told by its place.

use std::borrow::Cow;

use super::read::DEPTH_MAX;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    True,
    False,
    Number,
    /// Without its quotes.
    Text,
    /// The same, with escapes.
    Escaped,
    Array,
    /// Its members are names and values by turns.
    Object,
}

/// A value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub kind: Kind,
    start: u32,
    end: u32,
    /// The token behind the value and what is in it.
    pub next: u32,
}

/// The values of a text.
#[derive(Default)]
pub(super) struct Tape {
    pub tokens: Vec<Token>,
    open: Vec<u32>,
}

impl Tape {
    /// Reads a text.
    ///
    /// # Errors
    /// Why it is not JSON, and where.
    pub fn fill(&mut self, json: &str) -> Result<(), String> {
        self.tokens.clear();
        self.open.clear();
        if u32::try_from(json.len()).is_err() {
            return Err("the payload is longer than 4 GiB".into());
        }
        let bytes = json.as_bytes();
        let mut at = 0;
        let broken = |at: usize, expected: &str| {
            Err(format!("the payload is not JSON, at byte {at}: expected {expected}"))
        };
        loop {
            // A value.
            at = blank(bytes, at);
            let Some(byte) = bytes.get(at) else { return broken(at, "a value") };
            match byte {
                b'{' | b'[' => {
                    let kind = if *byte == b'{' { Kind::Object } else { Kind::Array };
                    let index = self.push(kind, at, at);
                    at = blank(bytes, at + 1);
                    let close = if kind == Kind::Object { b'}' } else { b']' };
                    if bytes.get(at) == Some(&close) {
                        at += 1;
                        self.close(index, at);
                    } else {
                        if self.open.len() >= DEPTH_MAX {
                            return Err(format!(
                                "the payload's values stand more than {DEPTH_MAX} deep in one another"
                            ));
                        }
                        self.open.push(index);
                        if kind == Kind::Object {
                            match self.name(bytes, at) {
                                Ok(end) => at = end,
                                Err((at, expected)) => return broken(at, expected),
                            }
                        }
                        continue;
                    }
                }
                b'"' => match self.string(bytes, at) {
                    Ok(end) => at = end,
                    Err((at, expected)) => return broken(at, expected),
                },
                b'-' | b'0'..=b'9' => match number(bytes, at) {
                    Some(end) => {
                        self.push(Kind::Number, at, end);
                        at = end;
                    }
                    None => return broken(at, "a number"),
                },
                _ => {
                    let words = [("null", Kind::Null), ("true", Kind::True), ("false", Kind::False)];
                    let word = words.iter().find(|(word, _)| bytes[at..].starts_with(word.as_bytes()));
                    let Some((word, kind)) = word else { return broken(at, "a value") };
                    self.push(*kind, at, at + word.len());
                    at += word.len();
                }
            }
            // What follows a value.
            loop {
                at = blank(bytes, at);
                let Some(index) = self.open.last().copied() else {
                    return if at == bytes.len() { Ok(()) } else { broken(at, "the end") };
                };
                let object = self.tokens[index as usize].kind == Kind::Object;
                match (bytes.get(at), object) {
                    (Some(b','), true) => match self.name(bytes, blank(bytes, at + 1)) {
                        Ok(end) => at = end,
                        Err((at, expected)) => return broken(at, expected),
                    },
                    (Some(b','), false) => at += 1,
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        at += 1;
                        self.open.pop();
                        self.close(index, at);
                        continue;
                    }
                    (_, true) => return broken(at, "`,` or `}`"),
                    (_, false) => return broken(at, "`,` or `]`"),
                }
                break;
            }
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the text is below 4 GiB, so are its places and values"
    )]
    fn push(&mut self, kind: Kind, start: usize, end: usize) -> u32 {
        let index = self.tokens.len() as u32;
        self.tokens.push(Token { kind, start: start as u32, end: end as u32, next: index + 1 });
        index
    }

    #[expect(clippy::cast_possible_truncation, reason = "as of push")]
    fn close(&mut self, index: u32, end: usize) {
        let next = self.tokens.len() as u32;
        let token = &mut self.tokens[index as usize];
        (token.end, token.next) = (end as u32, next);
    }

    /// A member's name and its colon.
    fn name(&mut self, bytes: &[u8], at: usize) -> Result<usize, (usize, &'static str)> {
        if bytes.get(at) != Some(&b'"') {
            return Err((at, "a name"));
        }
        let at = blank(bytes, self.string(bytes, at)?);
        if bytes.get(at) == Some(&b':') { Ok(at + 1) } else { Err((at, "`:`")) }
    }

    fn string(&mut self, bytes: &[u8], at: usize) -> Result<usize, (usize, &'static str)> {
        let (start, mut at) = (at + 1, at + 1);
        let mut kind = Kind::Text;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    kind = Kind::Escaped;
                    at += 2;
                }
                Some(0..0x20) => return Err((at, "no control characters in text")),
                Some(_) => at += 1,
                None => return Err((bytes.len(), "a closing quote")),
            }
        }
        self.push(kind, start, at);
        Ok(at + 1)
    }

    /// The value at an index.
    pub fn token(&self, index: u32) -> Token {
        self.tokens[index as usize]
    }
}

impl Token {
    /// A number's text, or a text's with its escapes.
    pub fn raw<'a>(&self, json: &'a str) -> &'a str {
        json.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// A text.
    ///
    /// # Errors
    /// That an escape is none.
    pub fn text<'a>(&self, json: &'a str) -> Result<Cow<'a, str>, String> {
        let raw = self.raw(json);
        if self.kind == Kind::Text {
            return Ok(Cow::Borrowed(raw));
        }
        let quoted = json.get(self.start as usize - 1..=self.end as usize).unwrap_or_default();
        serde_json::from_str::<String>(quoted)
            .map(Cow::Owned)
            .map_err(|e| format!("the text is not well-formed: {e}"))
    }
}

fn blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// The end of a number.
fn number(bytes: &[u8], mut at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let count = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        (count > 0).then_some(at + count)
    };
    if bytes[at] == b'-' {
        at += 1;
    }
    let start = at;
    at = digits(at)?;
    if bytes[start] == b'0' && at > start + 1 {
        return None;
    }
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = digits(at)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_what_is_json_and_refuses_what_is_not() {
        let mut tape = Tape::default();
        let good = [
            "1",
            "-0",
            "0.5e-3",
            "\"\"",
            "[]",
            "{}",
            "[1]",
            " {\"a\" : [ 1 , {} , \"x\\\"\" ] } ",
            "true",
            "[null,false]",
        ];
        for text in good {
            assert_eq!(tape.fill(text), Ok(()), "{text}");
        }
        for text in [
            "",
            " ",
            "01",
            "1.",
            "-",
            "1e",
            "+1",
            ".5",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "[1}",
            "{\"a\":1]",
            "\"",
            "\"\\",
            "\"\\\"",
            "\"\n\"",
            "nul",
            "truefalse",
            "1 2",
            "[]]",
            "{\"a\" 1}",
            "[1 2]",
        ] {
            assert!(tape.fill(text).is_err(), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn says_as_serde_json_does_what_is_json(text in "[\\[\\]{}:,\"a0-9.eE+\\- \\\\tu]{0,12}") {
            let known = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            let ours = Tape::default().fill(&text).is_ok();
            // Escapes are looked at when the text is asked for.
            prop_assert!(ours == known || (ours && text.contains('\\')), "{text}");
        }
    }
}
