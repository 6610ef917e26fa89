//! Posts one request, and says what its answer means.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use wasmill_codec::asking::{self, NOT_TRUSTED, beginning, cause, on_one_line};

use super::packages::{BatchForm, Package};
use crate::ConnectorError;
use crate::local_log::now_ms;

/// How much of an answer is shown.
const SHOWN_BYTES: usize = 200;
/// How much of a good answer is read, so that its connection can be used again.
const READ_BYTES_MAX: usize = 64 * 1024;
/// For how long a receiver may ask to be left alone.
const AFTER_MAX: Duration = Duration::from_secs(60);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is taken.
    Done,
    /// It is to be posted again, perhaps not before some time has passed. Whether it was `answered`, or may have
    /// been the reason that there was no answer: what never reached the receiver says nothing about the message.
    Again { cause: String, after: Option<Duration>, answered: bool },
    /// The receiver won't take it for what it is.
    Refused(String),
    /// It won't take any.
    Fatal(String),
}

/// Where requests go.
#[derive(Debug)]
pub(super) struct Receiver {
    client: Client,
    url: Url,
    /// The URL without what may be secret in it.
    pub shown: String,
    headers: HeaderMap,
    form: BatchForm,
    retry_statuses: BTreeSet<u16>,
}

/// A URL as people may see it.
pub(super) fn check_url(url: &str) -> Result<(Url, String), ConnectorError> {
    // The URL itself is not shown, for it may hold a secret.
    let wrong = |why: String| {
        ConnectorError::Fatal(format!("url: {why}; expected one such as https://example.com/messages"))
    };
    let parsed = Url::parse(url).map_err(|e| wrong(e.to_string()))?;
    let Some(host) = parsed.host_str().filter(|_| matches!(parsed.scheme(), "http" | "https")) else {
        return Err(wrong("it is neither http:// nor https://".to_owned()));
    };
    let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
    let shown = format!("{}://{host}{port}{}", parsed.scheme(), parsed.path());
    Ok((parsed, shown))
}

/// A header of a spec.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), ConnectorError> {
    const OWN: [&str; 6] =
        ["content-length", "transfer-encoding", "connection", "host", "content-type", "idempotency-key"];
    let wrong = |why: &str| ConnectorError::Fatal(format!("headers: `{name}`: {why}"));
    if OWN.contains(&&*name.to_ascii_lowercase()) {
        return Err(wrong("wasmill sets it itself; remove it"));
    }
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("this is no header's name"))?;
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| wrong("its value has a character that a header can't have"))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

impl Receiver {
    /// The receiver at a URL.
    pub fn new(
        (url, shown): (Url, String),
        headers: HeaderMap,
        form: BatchForm,
        retry_statuses: BTreeSet<u16>,
        timeout: Duration,
        ca_file: Option<&Path>,
    ) -> Result<Self, ConnectorError> {
        let mut builder = asking::client(timeout);
        if let Some(file) = ca_file {
            builder = asking::trusting(builder, file).map_err(ConnectorError::Fatal)?;
        }
        let client = builder
            .build()
            .map_err(|e| ConnectorError::Fatal(format!("cannot make an HTTP client: {}", cause(&e))))?;
        Ok(Self { client, url, shown, headers, form, retry_statuses })
    }

    /// Posts a package.
    pub async fn post(&self, package: &Package) -> Outcome {
        let mut request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, self.form.content_type())
            .body(package.body(self.form));
        if let Some(key) = package.idempotency_key() {
            request = request.header("idempotency-key", key);
        }
        match request.send().await {
            Ok(response) => self.judge(response).await,
            Err(e) => {
                let cause = cause(&e);
                if cause.contains("certificate verify failed") {
                    return Outcome::Fatal(format!("{}: {cause}; {NOT_TRUSTED}", self.shown));
                }
                if e.is_builder() {
                    return Outcome::Fatal(format!("{}: the request can't be made: {cause}", self.shown));
                }
                Outcome::Again { cause, after: None, answered: e.is_timeout() && !e.is_connect() }
            }
        }
    }

    async fn judge(&self, mut response: Response) -> Outcome {
        let status = response.status();
        let (shown, number) = (&self.shown, status.as_u16());
        if status.is_success() {
            // It is taken, whatever the body says, or whether it comes.
            let _ = beginning(&mut response, READ_BYTES_MAX).await;
            return Outcome::Done;
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|v| retry_after(v.to_str().ok()?));
        let location =
            response.headers().get(LOCATION).map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
        let said = said(&beginning(&mut response, SHOWN_BYTES).await);
        if status.is_server_error()
            || matches!(number, 408 | 425 | 429)
            || self.retry_statuses.contains(&number)
        {
            return Outcome::Again { cause: format!("it answered {status}{said}"), after, answered: true };
        }
        if status.is_redirection() {
            let to = location.map_or_else(String::new, |to| {
                // What is behind the path may be a secret, and is not needed to know the place.
                format!(" to {}", to.split(['?', '#']).next().unwrap_or_default())
            });
            return Outcome::Fatal(format!(
                "{shown} answered {status}{to}: set `url` to where messages are taken; redirects are not followed"
            ));
        }
        let todo = match status {
            StatusCode::UNAUTHORIZED => "set the right `token`, `token_file` or `headers`",
            StatusCode::FORBIDDEN => "what `token` or `headers` say must be allowed to post there",
            StatusCode::NOT_FOUND => "nothing is there: set `url` to where messages are taken",
            StatusCode::METHOD_NOT_ALLOWED => "it takes no POST: set `url` to where messages are taken",
            status if status.is_client_error() => {
                return Outcome::Refused(format!("{shown} refuses the message: {status}{said}"));
            }
            _ => "that is no answer to a POST: is `url` an HTTP server's?",
        };
        Outcome::Fatal(format!("{shown} answered {status}{said}: {todo}"))
    }
}

fn said(body: &[u8]) -> String {
    let text = on_one_line(body);
    if text.is_empty() { text } else { format!(", saying: {text}") }
}

/// How long to wait, of seconds or of a date.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::from_millis(u64::try_from(at.as_millisecond() - now_ms()).unwrap_or(0))
        }
    };
    Some(wait.min(AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_may_ask_for_a_minute_at_most() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("86400"), Some(AFTER_MAX));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("Fri, 21 Oct 2095 07:28:00 GMT"), Some(AFTER_MAX));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let (_, shown) = check_url("https://user:secret@example.com:8443/in?token=secret").expect("a URL");
        assert_eq!(shown, "https://example.com:8443/in");
        for url in ["ftp://example.com/secret", "not a url with a secret", "http://"] {
            let error = check_url(url).expect_err(url).to_string();
            assert!(error.contains("expected") && !error.contains("secret"), "{error}");
        }
    }
}
