//! The small expressions by which a sink chooses its messages: `type == "departed" && payload.delay > 15`.
//!
//! ```text
//! any      := all { "||" all }
//! all      := one { "&&" one }
//! one      := "!" one | "(" any ")" | term [ ("==" | "!=" | "<" | "<=" | ">" | ">=") term ]
//! term  := "text" | 'text' | number | true | false | null | a place in a message
//! ```
//! Numbers compare as numbers and texts by their bytes; values of two kinds are never equal, and neither is less.
//! A place that stands alone asks whether something is there, `false` being nothing.

use std::borrow::Cow;
use std::cmp::Ordering;

use wasmill_frame::Message;

use crate::key::{Found, Path};

/// How deep conditions may be put into one another.
const DEPTH_MAX: u32 = 64;

/// Whether a message is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    root: Node,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Compare(Term, Is, Term),
    Holds(Term),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Equal,
    Different,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Debug, Clone, PartialEq)]
enum Term {
    Place(Path),
    Text(String),
    Number(f64),
    Truth(bool),
    Null,
}

/// What an term is for one message.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Text(Cow<'a, [u8]>),
    Number(f64),
    Truth(bool),
    Nested,
    Null,
}

/// A text that is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct NotACondition {
    /// What is wrong.
    pub what: String,
    /// Where, in bytes from the text's start.
    pub at: usize,
}

impl std::str::FromStr for Condition {
    type Err = NotACondition;

    fn from_str(text: &str) -> Result<Self, NotACondition> {
        let mut reader = Reader { text, at: 0 };
        let root = reader.any(0)?;
        reader.skip_spaces();
        if reader.at < text.len() {
            return Err(reader.wrong("expected `&&`, `||`, a comparison, or the end"));
        }
        Ok(Self { root, text: text.to_owned() })
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Condition {
    /// Whether it holds for a message.
    ///
    /// # Errors
    /// When a place can't be looked up: the payload is not JSON.
    pub fn holds(&self, message: Message<'_>) -> Result<bool, String> {
        self.root.holds(message)
    }
}

impl Node {
    fn holds(&self, message: Message<'_>) -> Result<bool, String> {
        match self {
            Self::Any(nodes) => {
                for node in nodes {
                    if node.holds(message)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::All(nodes) => {
                for node in nodes {
                    if !node.holds(message)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Not(node) => node.holds(message).map(|holds| !holds),
            Self::Holds(term) => Ok(!matches!(term.value(message)?, Value::Null | Value::Truth(false))),
            Self::Compare(left, is, right) => {
                let order = left.value(message)?.compare(&right.value(message)?);
                Ok(match is {
                    Is::Equal => order == Some(Ordering::Equal),
                    Is::Different => order != Some(Ordering::Equal),
                    Is::Less => order == Some(Ordering::Less),
                    Is::AtMost => order.is_some_and(Ordering::is_le),
                    Is::More => order == Some(Ordering::Greater),
                    Is::AtLeast => order.is_some_and(Ordering::is_ge),
                })
            }
        }
    }
}

impl Term {
    fn value<'a>(&'a self, message: Message<'a>) -> Result<Value<'a>, String> {
        Ok(match self {
            Self::Text(text) => Value::Text(Cow::Borrowed(text.as_bytes())),
            Self::Number(number) => Value::Number(*number),
            Self::Truth(truth) => Value::Truth(*truth),
            Self::Null => Value::Null,
            Self::Place(path) => match path.find(message)? {
                Found::Text(text) => Value::Text(text),
                Found::Nested(_) => Value::Nested,
                Found::Null => Value::Null,
                Found::Literal(text) => match text.as_ref() {
                    "true" => Value::Truth(true),
                    "false" => Value::Truth(false),
                    text => text.parse().map_or(Value::Nested, Value::Number),
                },
            },
        })
    }
}

impl Value<'_> {
    /// None where the two are of different kinds, or have no order.
    fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Self::Number(a), Value::Number(b)) => a.partial_cmp(b),
            (Self::Truth(a), Value::Truth(b)) => Some(a.cmp(b)),
            (Self::Null, Value::Null) => Some(Ordering::Equal),
            _ => None,
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, what: impl Into<String>) -> NotACondition {
        NotACondition { what: what.into(), at: self.at }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn takes(&mut self, token: &str) -> bool {
        self.skip_spaces();
        let takes = self.rest().starts_with(token);
        if takes {
            self.at += token.len();
        }
        takes
    }

    fn any(&mut self, depth: u32) -> Result<Node, NotACondition> {
        if depth > DEPTH_MAX {
            return Err(self.wrong(format!("more than {DEPTH_MAX} conditions in one another")));
        }
        let mut nodes = vec![self.all(depth)?];
        while self.takes("||") {
            nodes.push(self.all(depth)?);
        }
        Ok(one_or(nodes, Node::Any))
    }

    fn all(&mut self, depth: u32) -> Result<Node, NotACondition> {
        let mut nodes = vec![self.one(depth)?];
        while self.takes("&&") {
            nodes.push(self.one(depth)?);
        }
        Ok(one_or(nodes, Node::All))
    }

    fn one(&mut self, depth: u32) -> Result<Node, NotACondition> {
        self.skip_spaces();
        if !self.rest().starts_with("!=") && self.takes("!") {
            if depth > DEPTH_MAX {
                return Err(self.wrong(format!("more than {DEPTH_MAX} conditions in one another")));
            }
            return Ok(Node::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes("(") {
            let node = self.any(depth + 1)?;
            return if self.takes(")") { Ok(node) } else { Err(self.wrong("expected `)`")) };
        }
        let left = self.term()?;
        self.skip_spaces();
        for (token, is) in [
            ("==", Is::Equal),
            ("!=", Is::Different),
            ("<=", Is::AtMost),
            (">=", Is::AtLeast),
            ("<", Is::Less),
            (">", Is::More),
        ] {
            if self.takes(token) {
                return Ok(Node::Compare(left, is, self.term()?));
            }
        }
        if self.rest().starts_with('=') {
            return Err(self.wrong("`=` is no comparison: did you mean `==`?"));
        }
        match left {
            Term::Place(_) | Term::Truth(_) => Ok(Node::Holds(left)),
            _ => Err(self.wrong("expected a comparison: `==`, `!=`, `<`, `<=`, `>` or `>=`")),
        }
    }

    fn term(&mut self) -> Result<Term, NotACondition> {
        self.skip_spaces();
        let start = self.at;
        if let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')) {
            return self.quoted(quote);
        }
        let is_word =
            |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '@' | '$' | ':' | '/');
        let length = self.rest().find(|c| !is_word(c)).unwrap_or(self.rest().len());
        let word = self.rest()[..length].to_owned();
        if word.is_empty() {
            return Err(self.wrong("expected a place in a message, a \"text\" or a number"));
        }
        self.at += length;
        Ok(match word.as_str() {
            "true" => Term::Truth(true),
            "false" => Term::Truth(false),
            "null" => Term::Null,
            number if number.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+')) => {
                match number.parse::<f64>() {
                    Ok(n) if n.is_finite() => Term::Number(n),
                    _ => {
                        return Err(NotACondition { what: format!("`{number}` is no number"), at: start });
                    }
                }
            }
            place => Term::Place(place.parse().map_err(|what: String| NotACondition {
                what: format!("{what}; a text stands in quotes"),
                at: start,
            })?),
        })
    }

    fn quoted(&mut self, quote: char) -> Result<Term, NotACondition> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest()[1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, c @ ('\\' | '"' | '\''))) => text.push(c),
                    _ => {
                        return Err(NotACondition {
                            what: "expected `\\\\`, `\\\"` or `\\'`".into(),
                            at: start + 1 + i,
                        });
                    }
                },
                c if c == quote => {
                    self.at = start + 1 + i + 1;
                    return Ok(Term::Text(text));
                }
                c => text.push(c),
            }
        }
        Err(NotACondition { what: format!("the text has no end: expected {quote}"), at: start })
    }
}

fn one_or(mut nodes: Vec<Node>, of: fn(Vec<Node>) -> Node) -> Node {
    match nodes.len() {
        1 => nodes.remove(0),
        _ => of(nodes),
    }
}

#[cfg(test)]
mod tests {
    use wasmill_frame::{FrameBuf, MetaKind, MetaWriter, Parts};

    use super::*;

    fn message() -> FrameBuf {
        let mut frame = FrameBuf::default();
        let mut metadata = MetaWriter::new();
        metadata.push(MetaKind::Text, b"region", b"eu");
        let message = Parts {
            id: "7",
            kind: "departed",
            key: None,
            payload: br#"{"delay":15.5,"carrier":"UA","late":true,"no":false,"none":null,"n":1e3,"of":{"x":"\u0041"}}"#,
            timestamp: 1_000,
            metadata: metadata.as_bytes(),
            payload_is_json: true,
        };
        frame.push(&message);
        frame
    }

    #[test]
    fn conditions_hold_or_not() {
        let frame = message();
        for (text, holds) in [
            (r#"type == "departed""#, true),
            ("type == 'cancelled'", false),
            ("type != 'cancelled'", true),
            ("payload.delay > 15 && payload.carrier == 'UA'", true),
            ("payload.delay > 15.5 || payload.carrier < 'UB'", true),
            ("payload.n == 1000", true),
            ("timestamp >= 1000", true),
            ("metadata.region == 'eu'", true),
            ("metadata.region", true),
            ("metadata.zone", false),
            ("!metadata.zone", true),
            ("payload.late", true),
            ("payload.no", false),
            ("payload.none == null && payload.missing == null", true),
            ("payload.of", true),
            ("payload.of.x == 'A'", true),
            // Of two kinds: neither equal nor less.
            ("payload.delay == '15.5'", false),
            ("payload.delay != '15.5'", true),
            ("payload.carrier > 1", false),
            ("payload.carrier <= 1", false),
            ("!(payload.delay > 15 && type == 'x') && id == '7'", true),
            // `&&` binds tighter.
            ("true || false && false", true),
            ("(true || false) && false", false),
            (r"id == '\'\\'", false),
        ] {
            let condition: Condition = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(condition.holds(frame.get(0)), Ok(holds), "{text}");
            assert_eq!(condition.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_condition_says_where() {
        for (text, at, what) in [
            ("", 0, "expected a place"),
            ("type = 'x'", 5, "did you mean `==`"),
            ("tipe == 'x'", 0, "no place in a message"),
            ("type == departed", 8, "stands in quotes"),
            ("type == 'x", 8, "no end"),
            ("type == 'x' payload.a", 12, "expected `&&`"),
            ("(type == 'x'", 12, "expected `)`"),
            ("payload.a > 1x", 12, "no number"),
            ("'a'", 3, "expected a comparison"),
            ("type == 'x' &&", 14, "expected a place"),
        ] {
            let wrong = text.parse::<Condition>().expect_err(text);
            assert!(wrong.at == at && wrong.what.contains(what), "{text}: {wrong:?}");
        }
        assert!("!".repeat(100_000).parse::<Condition>().is_err());
        assert!("(".repeat(100_000).parse::<Condition>().is_err());
    }
}
