//! What is asked of JetStream, as it answers. Durations are nanoseconds there.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::link::Link;
use crate::ConnectorError;

/// An answer, as far as it tells an error.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub error: Option<ApiError>,
}

/// Why JetStream refuses something.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ApiError {
    pub code: u16,
    #[serde(default)]
    pub err_code: u32,
    #[serde(default)]
    pub description: String,
}

pub(super) const STREAM_NOT_FOUND: u32 = 10059;
pub(super) const CONSUMER_NOT_FOUND: u32 = 10014;
pub(super) const NO_MESSAGE: u32 = 10037;
pub(super) const MESSAGE_TOO_LARGE: u32 = 10054;
pub(super) const STORE_FAILED: u32 = 10077;
pub(super) const WRONG_LAST_SEQUENCE: u32 = 10071;
/// As above, where the number isn't told.
pub(super) const WRONG_LAST_SEQUENCE_CONSTANT: u32 = 10164;
/// Another message with the same id is on its way.
pub(super) const DUPLICATE_IN_PROCESS: u32 = 10158;

impl ApiError {
    /// Whether it passes by itself: a server that starts, is full of requests, or has no leader.
    pub fn is_passing(&self) -> bool {
        const RESOURCES: [u32; 3] = [10_002, 10_023, 10_028];
        let is_full = self.err_code == STORE_FAILED || RESOURCES.contains(&self.err_code);
        matches!(self.code, 408 | 429 | 500 | 503) && self.err_code != STREAM_NOT_FOUND || is_full
    }

    pub fn is_wrong_last_sequence(&self) -> bool {
        matches!(self.err_code, WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_CONSTANT)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (JetStream's error {})", self.description, self.err_code)
    }
}

/// That a stream has a message.
#[derive(Debug, Deserialize)]
pub(super) struct Published {
    pub seq: u64,
}

/// What a stream is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamInfo {
    pub config: StreamConfig,
    pub created: String,
    pub state: StreamState,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamConfig {
    pub retention: String,
    #[serde(default)]
    pub subjects: Vec<String>,
    #[serde(default)]
    pub duplicate_window: u64,
    #[serde(default)]
    pub num_replicas: u64,
    #[serde(default)]
    pub no_ack: bool,
    #[serde(default)]
    pub sealed: bool,
    pub mirror: Option<Value>,
    pub subject_transform: Option<Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct StreamState {
    pub first_seq: u64,
    pub last_seq: u64,
}

impl StreamInfo {
    /// The sequence of the first message that is there, or that comes.
    pub fn first(&self) -> u64 {
        self.state.first_seq.max(1)
    }

    /// The sequence behind its last message.
    pub fn end(&self) -> u64 {
        self.state.last_seq + 1
    }

    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.config.duplicate_window)
    }
}

/// What a consumer is, as far as it matters.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ConsumerInfo {
    pub name: String,
    pub created: String,
    pub config: ConsumerConfig,
    #[serde(default)]
    pub num_waiting: u64,
    #[serde(default)]
    pub num_pending: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConsumerConfig {
    pub deliver_subject: Option<String>,
    pub ack_policy: String,
    pub ack_wait: u64,
    pub max_ack_pending: i64,
    pub max_deliver: i64,
    pub filter_subject: String,
    pub filter_subjects: Vec<String>,
    pub headers_only: bool,
    pub inactive_threshold: u64,
    pub max_batch: i64,
    pub max_bytes: i64,
    pub max_expires: u64,
    pub backoff: Vec<u64>,
    pub priority_groups: Vec<String>,
}

/// A message of a stream, as it is asked for by its subject.
#[derive(Deserialize)]
pub(super) struct StoredMessage {
    pub seq: u64,
    #[serde(default)]
    data: String,
}

impl StoredMessage {
    /// Its body.
    pub fn bytes(&self) -> Vec<u8> {
        openssl::base64::decode_block(&self.data).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Got {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct Names {
    streams: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Consumers {
    #[serde(default)]
    total: usize,
    consumers: Option<Vec<ConsumerInfo>>,
}

/// An answer of which only the errors matter.
#[derive(Deserialize)]
pub(super) struct Done {}

/// An empty question.
#[derive(Serialize)]
struct Nothing {}

impl Link {
    /// What a stream is; none where there is none.
    pub async fn find_stream(&self, stream: &str) -> Result<Option<StreamInfo>, ConnectorError> {
        let what = format!("cannot ask about stream {stream}");
        match self.ask(&what, &format!("STREAM.INFO.{stream}"), &Nothing {}).await? {
            Ok(info) => Ok(Some(info)),
            Err(e) if e.err_code == STREAM_NOT_FOUND => Ok(None),
            Err(e) => Err(self.refused(&what, &e)),
        }
    }

    /// What a stream is.
    pub async fn stream(&self, stream: &str) -> Result<StreamInfo, ConnectorError> {
        self.find_stream(stream).await?.ok_or_else(|| {
            ConnectorError::Fatal(format!(
                "there is no stream {stream} at {}: make it with `nats stream add {stream}`, or name another one",
                self.address
            ))
        })
    }

    /// The stream that takes a subject, if one does.
    pub async fn stream_of(&self, subject: &str) -> Result<Option<String>, ConnectorError> {
        let what = format!("cannot ask which stream takes {subject}");
        match self.ask::<Names>(&what, "STREAM.NAMES", &json!({ "subject": subject })).await? {
            Ok(names) => Ok(names.streams.unwrap_or_default().into_iter().next()),
            Err(e) => Err(self.refused(&what, &e)),
        }
    }

    /// What a consumer is; none where there is none.
    pub async fn consumer(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<Option<ConsumerInfo>, ConnectorError> {
        let what = format!("cannot ask about consumer {consumer} of stream {stream}");
        match self.ask(&what, &format!("CONSUMER.INFO.{stream}.{consumer}"), &Nothing {}).await? {
            Ok(info) => Ok(Some(info)),
            Err(e) if matches!(e.err_code, CONSUMER_NOT_FOUND | STREAM_NOT_FOUND) => Ok(None),
            Err(e) => Err(self.refused(&what, &e)),
        }
    }

    /// All consumers of a stream.
    pub async fn consumers(&self, stream: &str) -> Result<Vec<ConsumerInfo>, ConnectorError> {
        let what = format!("cannot list the consumers of stream {stream}");
        let mut all = Vec::new();
        loop {
            let page = json!({ "offset": all.len() });
            match self.ask::<Consumers>(&what, &format!("CONSUMER.LIST.{stream}"), &page).await? {
                Ok(found) => {
                    let page = found.consumers.unwrap_or_default();
                    let is_last = page.is_empty();
                    all.extend(page);
                    if is_last || all.len() >= found.total {
                        return Ok(all);
                    }
                }
                Err(e) if e.err_code == STREAM_NOT_FOUND => return Ok(all),
                Err(e) => return Err(self.refused(&what, &e)),
            }
        }
    }

    /// Makes a consumer of this configuration; the inner error is JetStream's.
    pub async fn create_consumer(
        &self,
        stream: &str,
        consumer: &str,
        config: &Value,
    ) -> Result<Result<ConsumerInfo, ApiError>, ConnectorError> {
        let what = format!("cannot make consumer {consumer} of stream {stream}");
        let body = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.ask(&what, &format!("CONSUMER.CREATE.{stream}.{consumer}"), &body).await
    }

    /// Deletes a consumer, if it is there.
    pub async fn delete_consumer(&self, stream: &str, consumer: &str) -> Result<(), ConnectorError> {
        let what = format!("cannot delete consumer {consumer} of stream {stream}");
        match self.ask::<Done>(&what, &format!("CONSUMER.DELETE.{stream}.{consumer}"), &Nothing {}).await? {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.err_code, CONSUMER_NOT_FOUND | STREAM_NOT_FOUND) => Ok(()),
            Err(e) => Err(self.refused(&what, &e)),
        }
    }

    /// The last message of a subject in a stream, if there is one.
    pub async fn last_message(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, ConnectorError> {
        self.message(stream, subject, &json!({ "last_by_subj": subject })).await
    }

    /// The first message of a subject in a stream from a sequence on, if there is one.
    pub async fn message_from(
        &self,
        stream: &str,
        subject: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, ConnectorError> {
        self.message(stream, subject, &json!({ "next_by_subj": subject, "seq": sequence })).await
    }

    async fn message(
        &self,
        stream: &str,
        subject: &str,
        body: &Value,
    ) -> Result<Option<StoredMessage>, ConnectorError> {
        let what = format!("cannot read {subject} of stream {stream}");
        match self.ask::<Got>(&what, &format!("STREAM.MSG.GET.{stream}"), body).await? {
            Ok(got) => Ok(Some(got.message)),
            Err(e) if matches!(e.err_code, NO_MESSAGE | STREAM_NOT_FOUND) => Ok(None),
            Err(e) => Err(self.refused(&what, &e)),
        }
    }
}
