//! Outgoing HTTP, where the stage is granted it: `grants: [{ http: { allow: ["https://api.example.com"] } }]`.
//!
//! A call waits for its answer, and the stage with it: ask for all of a batch at once, by [`send_all`] in a
//! [`transform_batch!`](crate::transform_batch). Calls are made again when a batch is: they should change nothing
//! where they are answered, or bear a name by which a repeat is known. What is answered is in no log, so results
//! that use it can't be replayed.
//!
//! ```
//! use wasmill_sdk::prelude::*;
//! use wasmill_sdk::{http, testing};
//!
//! fn score(batch: &mut Batch) -> Result<()> {
//!     let asked = batch.read(|m| http::Request::get(format!("https://api.example.com/score/{}", m.id())));
//!     batch.each(http::send_all(asked), |message, answer| {
//!         message.set_metadata("score", answer?.ok()?.text()?);
//!         Ok(Keep)
//!     })
//! }
//! transform_batch!(score);
//!
//! let host = testing::Host::new().http(|request| match request.url.ends_with("/1") {
//!     true => Ok(http::Response::new(200, "7")),
//!     false => Ok(http::Response::new(404, "")),
//! });
//! let outcomes = testing::transform_batch(score, &["1", "2"].map(|id| testing::message("m").id(id)));
//! assert_eq!(outcomes[0].kept().text("score"), Some("7"));
//! assert_eq!(outcomes[1].failed(), "http: answered 404");
//! # drop(host);
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Reason, Result, host, json};

/// The most requests that go to the host at once: its answers must have room in the plugin's memory.
const REQUESTS_AT_ONCE_MAX: usize = 1_024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, in capitals.
    pub method: String,
    /// The URL, whole.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// A GET.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A POST of this body.
    #[must_use]
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", url) }
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this value as its body, in JSON.
    ///
    /// # Errors
    /// When the value can't be JSON.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        self.body = serde_json::to_vec(value)?;
        Ok(self.header("content-type", "application/json"))
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names, in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without headers, as tests make one.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// The answer itself, if its status is 2xx.
    ///
    /// # Errors
    /// With the status, if it isn't.
    pub fn ok(self) -> Result<Self> {
        if (200..300).contains(&self.status) {
            Ok(self)
        } else {
            crate::fail!("http: answered {}", self.status)
        }
    }

    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).map_err(|_| crate::reason!("http: the answer is not UTF-8"))
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// A reason that names the field and the place.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        json::read("http answer", &self.body)
    }
}

fn of(cause: String) -> Reason {
    crate::reason!("http: {cause}")
}

/// Sends a request and waits for its answer.
///
/// # Errors
/// When there is no answer, or the request is not granted.
pub fn send(request: &Request) -> Result<Response> {
    host::http_send(request).map_err(of)
}

/// Sends requests side by side, as many as the grant allows, and waits for their answers, which come in the
/// requests' order.
#[must_use]
pub fn send_all(requests: impl IntoIterator<Item = Request>) -> Vec<Result<Response>> {
    let requests: Vec<Request> = requests.into_iter().collect();
    let sent = requests.chunks(REQUESTS_AT_ONCE_MAX).flat_map(host::http_send_many);
    sent.map(|answer| answer.map_err(of)).collect()
}
