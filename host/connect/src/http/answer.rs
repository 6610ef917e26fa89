//! What a request is answered: its messages are durable, or nothing of it was taken.

use std::fmt::Display;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::body::{Broken, messages};
use super::rate::Allowance;
use crate::local_log::{Answer, Append, Appender, LogError, RequestKey};

/// How long a body may take to come.
const BODY_MAX: Duration = Duration::from_secs(30);
/// How long a request waits for others to be done.
const TURN_MAX: Duration = Duration::from_secs(5);
/// How much of a body that is refused is read, so that its sender sees the answer; and for how long.
const REFUSED_BYTES_MAX: usize = 8 << 20;
const REFUSED_MAX: Duration = Duration::from_secs(2);
/// How long a client's key may be.
const KEY_BYTES_MAX: usize = 255;
/// When to come again where the log is full.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// Takes requests in.
#[derive(Debug)]
pub(super) struct Intake {
    pub path: String,
    /// The hash of the token that a request must have.
    pub token: Option<[u8; 32]>,
    pub body_bytes_max: usize,
    pub message_bytes_max: usize,
    pub allowance: Option<Allowance>,
    /// One for each body that may be in memory.
    pub bodies: Semaphore,
    pub appender: Appender,
    /// What keys are hashed with: another one for another log.
    pub seed: u64,
}

/// Why nothing of a request was taken.
struct No {
    status: StatusCode,
    broken: Broken,
    header: Option<Box<(header::HeaderName, HeaderValue)>>,
}

impl No {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, broken: Broken { error: error.into(), line: None, column: None }, header: None }
    }

    fn with(self, name: header::HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    fn later(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }
}

impl Intake {
    /// Answers a request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        match self.take(request).await {
            Ok((accepted, repeated)) => {
                let mut response = json_response(StatusCode::ACCEPTED, &json!({ "accepted": accepted }));
                if repeated {
                    let yes = HeaderValue::from_static("true");
                    response.headers_mut().insert("idempotency-replayed", yes);
                }
                response
            }
            Err(No { status, broken, header }) => {
                tracing::debug!(status = status.as_u16(), error = %broken.error, "a request is refused");
                let mut text = json!({ "error": broken.error });
                if let Some(line) = broken.line {
                    text["line"] = line.into();
                }
                if let Some(column) = broken.column {
                    text["column"] = column.into();
                }
                text["accepted"] = 0.into();
                let mut response = json_response(status, &text);
                if let Some((name, value)) = header.map(|header| *header) {
                    response.headers_mut().insert(name, value);
                }
                response
            }
        }
    }

    /// Takes a request's messages; answers how many, and whether they were taken before.
    async fn take(&self, request: Request<Body>) -> Result<(u32, bool), No> {
        let (head, body) = request.into_parts();
        let checked = self.check(&head.method, head.uri.path(), &head.headers);
        let key = match checked {
            Ok(key) => key,
            Err(no) => {
                // Who waits for leave to send it sends none.
                if !head.headers.contains_key(header::EXPECT) {
                    read_away(body).await;
                }
                return Err(no);
            }
        };
        let turn = tokio::time::timeout(TURN_MAX, self.bodies.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let no =
                No::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: send it again later");
            return Err(no.later(Duration::from_secs(1)));
        };
        let body = match tokio::time::timeout(BODY_MAX, self.read(body)).await {
            Ok(body) => body?,
            Err(_) => {
                let text = format!("the body did not come within {} s", BODY_MAX.as_secs());
                return Err(No::new(StatusCode::REQUEST_TIMEOUT, text));
            }
        };
        let values = messages(&body, is_lines(&head.headers)).map_err(|broken| No {
            status: StatusCode::BAD_REQUEST,
            broken,
            header: None,
        })?;
        if let Some(nth) = values.iter().position(|v| v.len() > self.message_bytes_max) {
            return Err(too_large(format!("message {} of the body", nth + 1), self.message_bytes_max));
        }
        if let Some(allowance) = &self.allowance {
            allowance.take(values.len()).map_err(|wait| {
                let text = format!(
                    "more than {} messages a second: send it again later",
                    allowance.messages_per_s()
                );
                No::new(StatusCode::TOO_MANY_REQUESTS, text).later(wait)
            })?;
        }
        let key = key.map(|key| RequestKey {
            key: xxh3_128_with_seed(key.as_bytes(), self.seed),
            body: xxh3_64(&body),
        });
        self.append(Append { body, values, key }).await
    }

    fn check<'h>(
        &self,
        method: &Method,
        path: &str,
        headers: &'h HeaderMap,
    ) -> Result<Option<&'h HeaderValue>, No> {
        if path != self.path {
            let text = format!("nothing is here: messages are taken at {}", self.path);
            return Err(No::new(StatusCode::NOT_FOUND, text));
        }
        if method != Method::POST {
            let no = No::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method}: messages are taken by POST"));
            return Err(no.with(header::ALLOW, HeaderValue::from_static("POST")));
        }
        if !self.is_allowed(headers) {
            let text = "the header `Authorization: Bearer TOKEN` with the right token is needed";
            let no = No::new(StatusCode::UNAUTHORIZED, text);
            return Err(no.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        let is_plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
        if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
            let text = "a compressed body is not taken: send it without Content-Encoding";
            return Err(No::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.body_bytes_max as u64) {
            return Err(too_large("the body", self.body_bytes_max));
        }
        let key = headers.get("idempotency-key");
        if key.is_some_and(|k| k.is_empty() || k.len() > KEY_BYTES_MAX) {
            let text =
                format!("Idempotency-Key: expected 1 to {KEY_BYTES_MAX} bytes, another for each request");
            return Err(No::new(StatusCode::BAD_REQUEST, text));
        }
        Ok(key)
    }

    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, given) = given.split_at_checked(7).unwrap_or_default();
        // Hashes of one length, compared in constant time: how long it takes tells nothing about the token.
        let is_same = openssl::memcmp::eq(token, &openssl::sha::sha256(given));
        scheme.eq_ignore_ascii_case(b"bearer ") && is_same
    }

    async fn read(&self, body: Body) -> Result<Bytes, No> {
        let mut stream = body.into_data_stream();
        let mut read = BytesMut::new();
        while let Some(piece) = stream.next().await {
            let piece = piece
                .map_err(|e| No::new(StatusCode::BAD_REQUEST, format!("the body did not come whole: {e}")))?;
            if read.len() + piece.len() > self.body_bytes_max {
                read_away(Body::from_stream(stream)).await;
                return Err(too_large("the body", self.body_bytes_max));
            }
            read.extend_from_slice(&piece);
        }
        Ok(read.freeze())
    }

    async fn append(&self, request: Append) -> Result<(u32, bool), No> {
        let count = u32::try_from(request.values.len()).unwrap_or(u32::MAX);
        match self.appender.append(request).await {
            Answer::Taken => Ok((count, false)),
            Answer::Repeated(count) => Ok((count, true)),
            Answer::KeyUsed => {
                let text =
                    "another request was taken by this Idempotency-Key: use another key for each request";
                Err(No::new(StatusCode::UNPROCESSABLE_ENTITY, text))
            }
            Answer::Full => {
                let text = "the log is full of messages that were not read yet: send it again later";
                Err(No::new(StatusCode::SERVICE_UNAVAILABLE, text).later(FULL_RETRY))
            }
            // Paths are for the operator, not for clients.
            Answer::Failed(LogError::Full(error)) => {
                tracing::error!(%error, "a request was not taken: the log can't be written to; clients are told to come again");
                let text = "the log can't be written to: send it again later";
                Err(No::new(StatusCode::SERVICE_UNAVAILABLE, text).later(FULL_RETRY))
            }
            Answer::Failed(LogError::Failed(error)) => {
                tracing::error!(%error, "a request was perhaps not taken: the log can't be written to");
                let text = "the log failed, and it isn't known whether the request was taken: send it again";
                Err(No::new(StatusCode::SERVICE_UNAVAILABLE, text).later(FULL_RETRY))
            }
        }
    }
}

fn too_large(what: impl Display, bytes_max: usize) -> No {
    No::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("{what} is longer than {bytes_max} bytes, the limit here: send less at once"),
    )
}

fn is_lines(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(
        &*kind,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines"
    )
}

/// Reads a body for nothing, within bounds: a sender that is cut off would not see why.
async fn read_away(body: Body) {
    let mut stream = body.into_data_stream();
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = stream.next().await {
            bytes += piece.len();
            if bytes > REFUSED_BYTES_MAX {
                break;
            }
        }
    };
    // It took too long: then it is cut off.
    let _ = tokio::time::timeout(REFUSED_MAX, read).await;
}

fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
