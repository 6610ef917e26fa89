//! JSON text, taken apart from left to right and put together: numbers keep their digits.

use std::borrow::Cow;

/// How deep the objects and lists of a payload may be in one another.
pub(crate) const NESTING_MAX: usize = 120;

/// What a JSON value begins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    List,
    Text,
    Number,
    Bool,
    Null,
}

impl Kind {
    /// What it is called in errors.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::List => "a list",
            Self::Text => "text",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::Null => "null",
        }
    }
}

/// JSON text with a place in it.
#[derive(Clone, Copy)]
pub(crate) struct Json<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Json<'a> {
    /// Of a payload's bytes.
    pub(crate) fn of(payload: &'a [u8]) -> Result<Self, String> {
        match std::str::from_utf8(payload) {
            Ok(text) => Ok(Self { text, at: 0 }),
            Err(e) => Err(format!("the payload is not JSON: invalid UTF-8 at byte {}", e.valid_up_to())),
        }
    }

    fn wrong(&self, expected: &str) -> String {
        if self.at >= self.text.len() {
            return format!("the payload is not JSON: cut off at byte {}, expected {expected}", self.at);
        }
        format!("the payload is not JSON: expected {expected} at byte {}", self.at)
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// What the next value is.
    pub(crate) fn kind(&mut self) -> Result<Kind, String> {
        self.blanks();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::List),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.wrong("a value")),
        }
    }

    /// Enters an object or a list that `kind` has seen.
    pub(crate) fn enter(&mut self) {
        self.at += 1;
    }

    fn more(&mut self, first: &mut bool, close: u8) -> Result<bool, String> {
        self.blanks();
        if self.byte() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            if self.byte() != Some(b',') {
                return Err(self.wrong(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" }));
            }
            self.at += 1;
            self.blanks();
        }
        Ok(true)
    }

    /// The next name of an object, its value being next; none at the object's end. `first` begins as true.
    pub(crate) fn name(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>, String> {
        if !self.more(first, b'}')? {
            return Ok(None);
        }
        if self.byte() != Some(b'"') {
            return Err(self.wrong("a name"));
        }
        let name = self.string()?;
        self.blanks();
        if self.byte() != Some(b':') {
            return Err(self.wrong("`:`"));
        }
        self.at += 1;
        Ok(Some(name))
    }

    /// Whether a list has one more value, which is next. `first` begins as true.
    pub(crate) fn item(&mut self, first: &mut bool) -> Result<bool, String> {
        self.more(first, b']')
    }

    /// A text that `kind` has seen.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, String> {
        let text = self.text;
        let start = self.at + 1;
        let bytes = text.as_bytes();
        let mut at = start;
        loop {
            match bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Cow::Borrowed(&text[start..at]));
                }
                Some(b'\\') => break,
                Some(0..=0x1f) => {
                    self.at = at;
                    return Err(self.wrong("no control character within text"));
                }
                Some(_) => at += 1,
                None => {
                    self.at = at;
                    return Err(self.wrong("the text's end"));
                }
            }
        }
        let mut out = text[start..at].to_owned();
        self.at = at;
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let escaped = self.escape()?;
                    out.push(escaped);
                }
                Some(0..=0x1f) => return Err(self.wrong("no control character within text")),
                Some(_) => {
                    let from = self.at;
                    while !matches!(self.byte(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                        self.at += 1;
                    }
                    out.push_str(&text[from..self.at]);
                }
                None => return Err(self.wrong("the text's end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let c = match self.byte() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let high = self.hex()?;
                if !(0xd800..0xe000).contains(&high) {
                    return char::from_u32(high).ok_or_else(|| self.wrong("a character"));
                }
                let pair = self.text.as_bytes().get(self.at..self.at + 2) == Some(b"\\u");
                if !pair || high >= 0xdc00 {
                    return Err(self.wrong("the second half of a surrogate pair"));
                }
                self.at += 2;
                let low = self.hex()?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(self.wrong("the second half of a surrogate pair"));
                }
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(code).ok_or_else(|| self.wrong("a character"));
            }
            _ => return Err(self.wrong("an escape")),
        };
        self.at += 1;
        Ok(c)
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let code = digits.and_then(|digits| {
            digits.iter().try_fold(0, |code, d| Some(code * 16 + char::from(*d).to_digit(16)?))
        });
        let code = code.ok_or_else(|| self.wrong("four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }

    /// A number that `kind` has seen, as it stands.
    pub(crate) fn number(&mut self) -> Result<&'a str, String> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.')) {
            return Err(self.wrong("the number's end"));
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), String> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.wrong("a digit")) }
    }

    /// A `true` or `false` that `kind` has seen.
    pub(crate) fn bool(&mut self) -> Result<bool, String> {
        if self.byte() == Some(b't') {
            self.word("true").map(|()| true)
        } else {
            self.word("false").map(|()| false)
        }
    }

    /// A `null` that `kind` has seen.
    pub(crate) fn null(&mut self) -> Result<(), String> {
        self.word("null")
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Passes over the next value.
    pub(crate) fn skip(&mut self) -> Result<(), String> {
        self.skip_in(0)
    }

    fn skip_in(&mut self, nesting: usize) -> Result<(), String> {
        let mut first = true;
        match self.kind()? {
            Kind::Object | Kind::List if nesting >= NESTING_MAX => {
                Err(format!("objects and lists are more than {NESTING_MAX} deep in one another"))
            }
            Kind::Object => {
                self.enter();
                while self.name(&mut first)?.is_some() {
                    self.skip_in(nesting + 1)?;
                }
                Ok(())
            }
            Kind::List => {
                self.enter();
                while self.item(&mut first)? {
                    self.skip_in(nesting + 1)?;
                }
                Ok(())
            }
            Kind::Text => self.string().map(|_| ()),
            Kind::Number => self.number().map(|_| ()),
            Kind::Bool => self.bool().map(|_| ()),
            Kind::Null => self.null(),
        }
    }

    /// The text has ended.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.blanks();
        if self.at == self.text.len() { Ok(()) } else { Err(self.wrong("the end")) }
    }
}

/// Adds a text with its quotes.
pub(crate) fn text(value: &str, out: &mut Vec<u8>) {
    // Without a branch a byte, so that the compiler looks at many at once.
    let escapes = value.bytes().fold(false, |any, b| any | (b < b' ') | (b == b'"') | (b == b'\\'));
    if escapes {
        // Writing text to a Vec can't fail.
        let _ = serde_json::to_writer(out, value);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// Adds bytes as base64 with its quotes.
pub(crate) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    use ::base64::Engine;
    let engine = ::base64::engine::general_purpose::STANDARD;
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The room is what padded base64 takes.
    let written = engine.encode_slice(bytes, &mut out[start..]).unwrap_or_default();
    out.truncate(start + written);
    out.push(b'"');
}

/// The bytes of base64: the standard alphabet or that of URLs, padded or not.
pub(crate) fn of_base64(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    use ::base64::Engine;
    use ::base64::alphabet::{STANDARD, URL_SAFE};
    use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const OF_TEXT: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
    const OF_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);
    let engine = if text.contains(['-', '_']) { &OF_URLS } else { &OF_TEXT };
    engine.decode_vec(text, out).map_err(|e| format!("{} is not base64: {e}", quoted(text)))
}

/// Adds a whole number.
pub(crate) fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The head of a text in quotes, for an error: a stranger's may be long.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", crate::bounded::shown(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &[u8]) -> Result<(), String> {
        let mut json = Json::of(text)?;
        json.skip()?;
        json.end()
    }

    proptest! {
        #[test]
        fn takes_what_serde_json_takes(text in r#"[\[\]{}",:0-9eE.+\-a\\un tfrlse]{0,24}"#) {
            let ours = whole(text.as_bytes());
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
        }

        #[test]
        fn texts_are_the_same(value in any::<String>()) {
            let escaped = serde_json::to_string(&value).expect("text");
            let ascii: String = value.encode_utf16().map(|u| format!("\\u{u:04x}")).collect();
            for text in [escaped, format!("\"{ascii}\"")] {
                let mut json = Json::of(text.as_bytes()).expect("UTF-8");
                prop_assert_eq!(&*json.string().expect("text"), value.as_str());
                prop_assert_eq!(json.end(), Ok(()));
            }
            let mut out = Vec::new();
            super::text(&value, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), value);
        }
    }

    #[test]
    fn halves_of_pairs_and_great_depths_are_refused() {
        for text in [r#""\ud800""#, r#""\ud800\u0041""#, r#""\udc00""#, r#""\ud800\"#, "\"\n\""] {
            assert!(whole(text.as_bytes()).is_err(), "{text}");
        }
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(whole(deep(NESTING_MAX).as_bytes()), Ok(()));
        let error = whole(deep(NESTING_MAX + 1).as_bytes()).expect_err("too deep");
        assert_eq!(error, "objects and lists are more than 120 deep in one another");
    }
}
