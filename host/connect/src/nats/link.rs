//! A connection to NATS, and what its errors tell the host to do.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, Event, HeaderMap};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::access::Access;
use super::api::{Answer, ApiError, Published};
use super::lock;
use crate::ConnectorError;

/// How long a server may take to take a connection, or to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the connection is tried: three pings without an answer end it.
const PING_EVERY: Duration = Duration::from_secs(2);
/// The longest wait between two tries to connect again.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Whether a connection is made again by itself when it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// It is: what wasn't sent yet is sent then.
    Always,
    /// It is not: nothing that was handed to it is sent later.
    Once,
}

/// A connection.
pub(super) struct Link {
    pub client: Client,
    /// The servers, without a password.
    pub address: String,
    last_error: Arc<Mutex<Option<String>>>,
}

impl Link {
    /// Connects.
    pub async fn connect(access: &Access, lasts: Lasts) -> Result<Self, ConnectorError> {
        let (servers, options) = access.options().await?;
        let address = access.url.to_string();
        let last_error = Arc::new(Mutex::new(None));
        let (noted, connected) = (Arc::clone(&last_error), Arc::new(AtomicBool::new(false)));
        let was = Arc::clone(&connected);
        let options = options
            .name("wasmill")
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .ping_interval(PING_EVERY)
            .reconnect_delay_callback(move |tries| match lasts {
                // The tasks of this connection are ended long before.
                Lasts::Once if was.load(Ordering::SeqCst) => Duration::from_secs(86_400),
                Lasts::Once => Duration::ZERO,
                Lasts::Always if tries <= 1 => Duration::ZERO,
                Lasts::Always => RECONNECT_MAX.min(Duration::from_millis(25 << tries.min(6))),
            })
            .event_callback(move |event| {
                tracing::debug!(%event, "NATS tells something");
                match event {
                    Event::Connected => *lock(&noted) = None,
                    Event::ServerError(e) => *lock(&noted) = Some(e.to_string()),
                    Event::ClientError(e) => *lock(&noted) = Some(e.to_string()),
                    _ => {}
                }
                std::future::ready(())
            });
        let client = options.connect(servers).await.map_err(|e| told(access, &address, &e))?;
        connected.store(true, Ordering::SeqCst);
        Ok(Self { client, address, last_error })
    }

    /// The connection that is kept, which is made where there is none: it lasts.
    pub async fn kept(kept: &mut Option<Arc<Self>>, access: &Access) -> Result<Arc<Self>, ConnectorError> {
        if let Some(link) = kept {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Self::connect(access, Lasts::Always).await?);
        *kept = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Whether it is connected now.
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How many times it was connected.
    pub fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// What the servers or the client said last, or else this.
    pub fn last_error_or(&self, otherwise: &str) -> String {
        lock(&self.last_error).clone().unwrap_or_else(|| otherwise.to_owned())
    }

    /// That the servers are away.
    pub fn away(&self, what: &str, cause: &str) -> ConnectorError {
        ConnectorError::Disconnected {
            what: format!("{what} ({})", self.address),
            cause: self.last_error_or(cause),
        }
    }

    /// That JetStream refuses something for good.
    pub fn refused(&self, what: &str, error: &ApiError) -> ConnectorError {
        ConnectorError::Fatal(format!("{what} ({}): {error}", self.address))
    }

    /// Asks JetStream: `STREAM.INFO.x`. What it refuses for good is the inner error.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        of: &str,
        body: &impl Serialize,
    ) -> Result<Result<T, ApiError>, ConnectorError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| ConnectorError::Fatal(format!("{what}: what is asked is no JSON: {e}")))?;
        let subject = format!("$JS.API.{of}");
        let answer = self.request(what, &subject, None, body.into()).await?;
        self.read(what, &answer)
    }

    /// Publishes to a stream and waits until it has it.
    pub async fn publish(
        &self,
        what: &str,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Result<Published, ApiError>, ConnectorError> {
        let answer = self.request(what, subject, Some(headers), body).await?;
        self.read(what, &answer)
    }

    fn read<T: DeserializeOwned>(
        &self,
        what: &str,
        answer: &Bytes,
    ) -> Result<Result<T, ApiError>, ConnectorError> {
        let unread = |e: serde_json::Error| {
            ConnectorError::Fatal(format!("{what} ({}): JetStream's answer can't be read: {e}", self.address))
        };
        // An answer without an error may have any other shape.
        if let Answer { error: Some(error) } = serde_json::from_slice(answer).map_err(unread)? {
            return if error.is_passing() {
                Err(ConnectorError::Disconnected {
                    what: format!("{what} ({})", self.address),
                    cause: error.to_string(),
                })
            } else {
                Ok(Err(error))
            };
        }
        serde_json::from_slice(answer).map(Ok).map_err(unread)
    }

    async fn request(
        &self,
        what: &str,
        subject: &str,
        headers: Option<HeaderMap>,
        body: Bytes,
    ) -> Result<Bytes, ConnectorError> {
        if !self.is_up() {
            return Err(self.away(what, "the connection is lost"));
        }
        // What the server says from here on is of this, or of nothing older.
        *lock(&self.last_error) = None;
        let subject = subject.to_owned();
        let asked = match headers {
            Some(headers) => self.client.request_with_headers(subject, headers, body).await,
            None => self.client.request(subject, body).await,
        };
        asked.map(|message| message.payload).map_err(|e| match e.kind() {
            RequestErrorKind::NoResponders => self.away(
                what,
                "nobody answers: JetStream is not ready, or not enabled for this account (`jetstream` in the server's configuration)",
            ),
            RequestErrorKind::TimedOut => self.away(what, "no answer within 5 s"),
            _ => self.away(what, &e.to_string()),
        })
    }
}

/// What it means that no connection was made.
fn told(access: &Access, address: &str, error: &async_nats::ConnectError) -> ConnectorError {
    let mut cause = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !cause.contains(&text) {
            cause = format!("{cause}: {text}");
        }
        source = inner.source();
    }
    let what = format!("cannot connect to {address}");
    let is_mistrust = cause.contains("certificate") || cause.contains("UnknownIssuer");
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ConnectorError::Fatal(format!(
                "{what}: {cause}; give the right `user` with `password_file`, `token_file`, `credentials_file` or `nkey_seed_file`"
            ))
        }
        _ if is_mistrust => {
            let now = match &access.ca_file {
                Some(file) => format!("which is {} now", file.display()),
                None => "which is not set".to_owned(),
            };
            ConnectorError::Fatal(format!(
                "{what}: {cause}; the server's certificate is not trusted, or it does not trust this client's: name a file with its issuer's certificate as `ca_file`, {now}; it must be for the host in the address"
            ))
        }
        ConnectErrorKind::ServerParse => ConnectorError::Fatal(format!("{what}: {cause}")),
        _ => ConnectorError::Disconnected { what, cause },
    }
}
