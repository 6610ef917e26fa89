//! What a grant of outgoing HTTP allows. Whoever loads a plugin brings the client along, as an
//! [`Outgoing`]; what it is given has passed the grant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

/// The methods that may be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // their names say it
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl HttpMethod {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// Its name, in capitals.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

impl fmt::Display for HttpMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom requests may go to: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Url) -> Option<Self> {
        let scheme = Some(url.scheme()).filter(|s| matches!(*s, "http" | "https"))?;
        let host = url.host_str().filter(|host| !host.is_empty())?;
        Some(Self { scheme: scheme.to_owned(), host: host.to_owned(), port: url.port_or_known_default()? })
    }
}

impl FromStr for Origin {
    type Err = String;

    /// Reads `https://HOST` or `http://HOST:PORT`, with nothing behind it.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected `https://HOST`, with `:PORT` where it is another than the scheme's";
        if text.contains('*') {
            return Err(format!("a host is named whole, without `*`: {expected}"));
        }
        let url = Url::parse(text).map_err(|e| format!("{e}: {expected}"))?;
        let Some(origin) = Self::of(&url) else { return Err(format!("no http:// or https://: {expected}")) };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("a user has no place here: {expected}"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("all paths of a host are allowed, or none: {expected}"));
        }
        Ok(origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match (self.scheme.as_str(), self.port) {
            ("http", 80) | ("https", 443) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

/// A request that a grant has let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Its method.
    pub method: HttpMethod,
    /// The URL, without a user and a fragment.
    pub url: String,
    /// Names and values, fit for a header's line.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// Its status.
    pub status: u16,
    /// Names, in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// The bytes that it holds.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.body.len() + headers
    }
}

/// A client of HTTP. It sends no more side by side and in a second than its grant says, follows no redirect,
/// and lets no answer take longer or be greater.
pub trait Outgoing: Send + Sync {
    /// Sends these side by side and waits for their answers, in their order and one for each. Answers that
    /// together are above `bytes_max`, and those that are not there `within` this time, are errors.
    fn send(
        &self,
        requests: Vec<HttpRequest>,
        bytes_max: usize,
        within: Duration,
    ) -> Vec<Result<HttpResponse, String>>;
}

/// A grant of outgoing HTTP.
#[derive(Clone)]
pub struct HttpGrant {
    /// Whom requests may go to.
    pub allow: Vec<Origin>,
    /// By which methods.
    pub methods: Vec<HttpMethod>,
    /// How many of them go out in a second: what one call may ask for depends on it.
    pub rate_per_second: u32,
    /// What sends them.
    pub client: Arc<dyn Outgoing>,
}

impl fmt::Debug for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpGrant")
            .field("allow", &self.allow)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// The longest URL.
const URL_BYTES_MAX: usize = 8 << 10;
/// The most headers of a request, and the bytes of them.
const HEADERS_MAX: usize = 64;
const HEADERS_BYTES_MAX: usize = 16 << 10;
/// Headers that the host sets, or that are about the connection, which is the host's.
const HOSTS_HEADERS: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "via",
    "user-agent",
    "accept-encoding",
];

impl HttpGrant {
    /// Whether a request may be sent, and what is sent then. No reason tells more of a URL than its origin: a
    /// query may hold a secret.
    pub(crate) fn check(
        &self,
        method: &str,
        url: &str,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Result<HttpRequest, String> {
        let tame = |text: &str| crate::text::tame(text, 128);
        let Some(method) = self.methods.iter().find(|m| m.name() == method) else {
            let granted: Vec<&str> = self.methods.iter().map(|m| m.name()).collect();
            return Err(format!(
                "the method {:?} is not granted; granted: {}",
                tame(method),
                granted.join(", ")
            ));
        };
        if url.len() > URL_BYTES_MAX {
            return Err(format!("the URL has {} bytes, above the limit of {URL_BYTES_MAX}", url.len()));
        }
        if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("the URL has a space or a control character: percent-encode it".to_owned());
        }
        let mut url = Url::parse(url).map_err(|e| format!("the URL can't be read: {e}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL has a user: send a header `authorization` instead".to_owned());
        }
        let Some(origin) = Origin::of(&url) else {
            return Err("the URL is no http:// or https://".to_owned());
        };
        if !self.allow.contains(&origin) {
            let granted: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
            let granted = if granted.is_empty() { "none".to_owned() } else { granted.join(", ") };
            return Err(format!("{} is not granted; granted: {granted}", tame(&origin.to_string())));
        }
        url.set_fragment(None);
        let headers_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > HEADERS_MAX || headers_bytes > HEADERS_BYTES_MAX {
            return Err(format!(
                "{} headers of {headers_bytes} bytes are above the limits of {HEADERS_MAX} headers and {HEADERS_BYTES_MAX} bytes",
                headers.len()
            ));
        }
        headers.iter().try_for_each(|(name, value)| check_header(name, value))?;
        Ok(HttpRequest { method: *method, url: url.into(), headers, body })
    }
}

/// A name is a token (RFC 9110, 5.6.2), and nothing in a value can end its line.
fn check_header(name: &str, value: &str) -> Result<(), String> {
    let shown = crate::text::tame(name, 64);
    let in_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(in_token) {
        return Err(format!("{shown:?} can't be a header's name"));
    }
    let lower = name.to_ascii_lowercase();
    if HOSTS_HEADERS.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        return Err(format!("the header `{shown}` is set by the host: leave it out"));
    }
    if value.chars().any(|c| c != '\t' && c.is_control()) {
        return Err(format!(
            "the value of the header `{shown}` has a line's end or another control character"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Outgoing for Nobody {
        fn send(&self, _: Vec<HttpRequest>, _: usize, _: Duration) -> Vec<Result<HttpResponse, String>> {
            Vec::new()
        }
    }

    fn grant() -> HttpGrant {
        let allow = ["https://api.example.com", "http://[::1]:8080"].map(|o| o.parse().expect("an origin"));
        HttpGrant {
            allow: allow.to_vec(),
            methods: vec![HttpMethod::Get],
            rate_per_second: 100,
            client: Arc::new(Nobody),
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_alone() {
        for (text, shown) in [
            ("https://api.example.com", "https://api.example.com"),
            ("HTTPS://API.example.com:443/", "https://api.example.com"),
            ("http://h:8080", "http://h:8080"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<Origin>().expect(text).to_string(), shown);
        }
        for (text, why) in [
            ("api.example.com", "relative URL"),
            ("ftp://h", "no http"),
            ("https://*.example.com", "without `*`"),
            ("https://h/path", "all paths"),
            ("https://h?q", "all paths"),
            ("https://u:p@h", "a user"),
            ("https://", "empty host"),
        ] {
            let error = text.parse::<Origin>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn only_what_is_granted_passes_to_the_letter() {
        for (method, url, sent) in [
            ("GET", "https://api.example.com/a?b=c#d", Ok("https://api.example.com/a?b=c")),
            ("GET", "https://API.EXAMPLE.COM:443/", Ok("https://api.example.com/")),
            ("GET", "http://[::1]:8080/x", Ok("http://[::1]:8080/x")),
            ("get", "https://api.example.com/", Err("\"get\" is not granted; granted: GET")),
            ("POST", "https://api.example.com/", Err("\"POST\" is not granted")),
            ("GET", "http://api.example.com/", Err("http://api.example.com is not granted")),
            ("GET", "https://api.example.com:8443/", Err("is not granted")),
            ("GET", "https://api.example.com.evil.example/", Err("is not granted")),
            ("GET", "https://evil.example/https://api.example.com/", Err("is not granted")),
            ("GET", "https://api.example.com@evil.example/", Err("has a user")),
            ("GET", "https://api.example.com\\@evil.example/", Ok("https://api.example.com/@evil.example/")),
            ("GET", "https://user:pass@api.example.com/", Err("has a user")),
            ("GET", "https://evil.example\t/", Err("a control character")),
            ("GET", "https://api.example.com/ HTTP/1.1\r\nx: y", Err("a control character")),
            ("GET", "file:///etc/passwd", Err("no http:// or https://")),
            ("GET", "/relative", Err("can't be read")),
        ] {
            let checked = grant().check(method, url, Vec::new(), Vec::new());
            match sent {
                Ok(sent) => assert_eq!(checked.expect(url).url, sent),
                Err(why) => {
                    let error = checked.expect_err(url);
                    assert!(error.contains(why), "{url}: {error}");
                    assert!(!error.contains("pass@"), "{error}");
                }
            }
        }
        let long = format!("https://api.example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert!(
            grant()
                .check("GET", &long, Vec::new(), Vec::new())
                .expect_err("long")
                .contains("above the limit")
        );
    }

    #[test]
    fn a_header_can_t_be_the_host_s_nor_end_its_line() {
        let send = |name: &str, value: &str| {
            let headers = vec![(name.to_owned(), value.to_owned())];
            grant().check("GET", "https://api.example.com/", headers, Vec::new())
        };
        for (name, value) in [("authorization", "Bearer x"), ("X-Y", "tab\there"), ("accept", "ümlaut")] {
            send(name, value).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        for (name, value, why) in [
            ("Host", "evil", "set by the host"),
            ("content-Length", "3", "set by the host"),
            ("Transfer-Encoding", "chunked", "set by the host"),
            ("proxy-authorization", "x", "set by the host"),
            ("", "x", "can't be a header's name"),
            ("a b", "x", "can't be a header's name"),
            ("a\r\nb", "x", "can't be a header's name"),
            ("a:", "x", "can't be a header's name"),
            ("a", "x\r\nhost: evil", "a line's end"),
            ("a", "x\n", "a line's end"),
            ("a", "x\0", "a line's end"),
        ] {
            let error = send(name, value).expect_err(name);
            assert!(error.contains(why), "{name:?}: {error}");
        }
        let many = vec![("a".to_owned(), "b".to_owned()); HEADERS_MAX + 1];
        let error = grant().check("GET", "https://api.example.com/", many, Vec::new()).expect_err("many");
        assert!(error.contains("above the limits"), "{error}");
    }
}
