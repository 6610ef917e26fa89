//! Keeps secrets out of what people are shown: errors quote the line that they are about, and a line may
//! hold a password.

use std::fmt;

/// What a key or variable that holds a secret ends with.
const SECRET_KEYS: [&str; 4] = ["password", "secret", "token", "passphrase"];

/// The text with a star for each byte of a secret: the password of a URL, and the value of a key such as
/// `sasl.password`. The length stays, so that places in the text stay right.
#[must_use]
pub fn hide(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (at, _) in text.match_indices("://") {
        let from = at + 3;
        let end = text[from..].find(['/', '?', '#', '\n', '"', '\'', '`', ' ', ',', '}']);
        let authority = &text[from..end.map_or(text.len(), |e| from + e)];
        // A password may hold what ends an authority, where nobody escaped it: the last `@` of the line.
        let line = text[from..].split(['\n', ' ', '`', '"', '\'']).next().unwrap_or(authority);
        let Some(host) = line.rfind('@') else { continue };
        // A NATS URL's user without a password is a token.
        let is_token = text[..at].ends_with("nats") || text[..at].ends_with("tls");
        let user = match line[..host].find(':') {
            Some(user) => user + 1,
            None if is_token => 0,
            None => continue,
        };
        bytes[from + user..from + host].fill(b'*');
    }
    let lower = text.to_ascii_lowercase();
    for key in SECRET_KEYS {
        for (at, _) in lower.match_indices(key) {
            let rest = &text[at + key.len()..];
            let spaces = rest.len() - rest.trim_start_matches(['"', '\'', ' ']).len();
            let Some(value) = rest[spaces..].strip_prefix([':', '=']) else { continue };
            let start = text.len() - value.len();
            let end = start + end_of(value, rest[spaces..].starts_with('='));
            bytes[start..end].iter_mut().filter(|b| **b != b' ').for_each(|b| *b = b'*');
        }
    }
    // Stars took the place of whole characters between ASCII ones.
    String::from_utf8(bytes).unwrap_or_else(|_| "(hidden)".to_owned())
}

/// Where the value of a key ends. A variable's goes to the end of the line, and one in quotes to the other quote.
fn end_of(value: &str, is_variable: bool) -> usize {
    let ends: &[char] = if is_variable { &['\n'] } else { &['\n', '}', ','] };
    let spaces = value.len() - value.trim_start_matches(' ').len();
    let quoted = value[spaces..].chars().next().filter(|c| !is_variable && matches!(c, '"' | '\''));
    let closing = quoted.and_then(|quote| {
        let line = value[spaces + 1..].split('\n').next()?;
        let escaped = |at: usize| quote == '"' && line[..at].ends_with('\\');
        let mut quotes = line.match_indices(quote).map(|(at, _)| at).filter(|at| !escaped(*at));
        quotes.next().map(|at| spaces + 1 + at + 1)
    });
    closing.or_else(|| value.find(ends)).unwrap_or(value.len())
}

/// Whether a setting's name says that its value is a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|key| name.ends_with(key))
}

/// The server that a URL of one of these schemes names, `HOST:PORT`; none where it is no such URL.
#[must_use]
pub fn server_of<'u>(url: &'u str, schemes: &[&str]) -> Option<&'u str> {
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| schemes.contains(scheme))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
    let clean = !url.contains(|c: char| c.is_whitespace() || c.is_control());
    (clean && !scheme.is_empty() && !server.is_empty() && !server.starts_with(':')).then_some(server)
}

/// A URL that may hold a password. Shown without it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Takes a URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL as it is, for who connects.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_server() {
        let schemes = ["redis", "rediss"];
        for (url, server) in [
            ("redis://localhost:6379", Some("localhost:6379")),
            ("rediss://u:p@h/1", Some("h")),
            ("redis://:p@", None),
            ("redis://:6379", None),
            ("redis:///1", None),
            ("http://h", None),
            ("redis://h h", None),
            ("h:1", None),
        ] {
            assert_eq!(server_of(url, &schemes), server, "{url}");
        }
    }

    #[test]
    fn no_password_is_shown_and_nothing_else_is_hidden() {
        for (text, shown) in [
            ("redis://localhost:6379/1", "redis://localhost:6379/1"),
            ("REDIS_URL=redis://:pw@h:1/0", "REDIS_URL=redis://:**@h:1/0"),
            ("redis://user:p:w@h:1", "redis://user:***@h:1"),
            ("redis://user:p/w@h", "redis://user:***@h"),
            ("redis://user@h", "redis://user@h"),
            ("url: \"nats://token@h\"", "url: \"nats://*****@h\""),
            ("redis://u:schlüssel@h", "redis://u:**********@h"),
            ("{ sasl.password: abc, topic: t }", "{ sasl.password: ***, topic: t }"),
            ("\"sasl.password\": \"abc\"\ntopic: t", "\"sasl.password\": *****\ntopic: t"),
            ("K__SASL.PASSWORD=abc", "K__SASL.PASSWORD=***"),
            ("brokers: localhost:9092", "brokers: localhost:9092"),
            ("KAFKA_SASL_PASSWORD=a,b}c d", "KAFKA_SASL_PASSWORD=***** *"),
            ("KAFKA_SASL_PASSWORD_FILE=/run/a", "KAFKA_SASL_PASSWORD_FILE=/run/a"),
            ("sasl: { password: 'a,}b', username: u }", "sasl: { password: ******, username: u }"),
            ("{ password: \"a\\\",b\", username: u }", "{ password: *******, username: u }"),
            ("key_password: \"a}\" # why", "key_password: **** # why"),
        ] {
            assert_eq!(hide(text), shown);
        }
        assert_eq!(format!("{:?}", SecretUrl::new("redis://:pw@h")), "redis://:**@h");
    }
}
