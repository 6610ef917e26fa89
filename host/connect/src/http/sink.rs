//! Posts messages to a URL.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wasmill_codec::Takes;
use wasmill_codec::unseen::append;
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_frame::Message;

use super::deliver::{Outcome, Receiver, check_url, header};
use super::packages::{BatchForm, Package, PostingOrder, Queue, Waiting};
use super::token::{check_token, token};
use crate::secret::Secret;
use crate::table::SinkConnector;
use crate::units::HumanDuration;
use crate::{ConnectorError, Refused, Sink, SinkTraits, Writer, codec, os};

/// How much waits in memory to be posted, beside what is under way.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// How many requests may be under way.
const CONCURRENCY_MAX: usize = 256;

/// A URL to which messages are posted as JSON envelopes (a webhook): at least once. Each request has the header
/// `Idempotency-Key`, by which a receiver can drop repeats: with `batch: one` it is the message's own and the same
/// in every repeat; of a batch it is a hash of its messages', and behind a crash they may be in other batches.
/// A message is done when it is answered 2xx. It is posted again, for as long as it takes, where there is no
/// answer, and at 408, 425, 429 and 5xx, not before `Retry-After` says so, up to a minute; behind a failure one
/// request at a time, until one is taken. At 401, 403, 404, 405 and 3xx the pipeline ends. At any other 4xx the message becomes a dead letter; a batch is halved until it is known
/// which of its messages that is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSinkSpec {
    /// The URL, http:// or https://. Redirects are not followed, and the environment's proxies are not used.
    pub url: Secret,
    /// More headers for each request, by name; their values are shown nowhere. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// A token, sent as `Authorization: Bearer TOKEN`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds the token, read when the pipeline starts; in place of `token`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// What a request has: `one` message, a JSON `array` of messages, or messages one a line (`ndjson`).
    /// Default: one.
    #[serde(default)]
    pub batch: BatchForm,
    /// How many messages a request of a batch has at most; about 1MiB of them at most. Default: 100.
    #[serde(default = "batch_messages")]
    pub batch_messages: usize,
    /// How many requests may be under way at once, at most 256; above 1 with `order: any` alone, for they may
    /// overtake each other. Default: 1.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// `keep`: messages are taken in their order, and one that is to be posted again holds up those behind it.
    /// `any`: it is posted again behind the others, and messages arrive in another order, those of one key too.
    /// Default: keep.
    #[serde(default)]
    pub order: PostingOrder,
    /// How long a request may take until its answer counts as lost. Default: 10s.
    #[serde(default = "timeout")]
    pub timeout: HumanDuration,
    /// More statuses at which a request is posted again. Default: none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub retry_statuses: BTreeSet<u16>,
    /// A file of certificates in PEM that are trusted beside the system's. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

fn batch_messages() -> usize {
    100
}

fn concurrency() -> usize {
    1
}

fn timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

impl HttpSinkSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            headers: BTreeMap::new(),
            token: None,
            token_file: None,
            batch: BatchForm::default(),
            batch_messages: batch_messages(),
            concurrency: concurrency(),
            order: PostingOrder::default(),
            timeout: timeout(),
            retry_statuses: BTreeSet::new(),
            ca_file: None,
        }
    }

    fn check(&self) -> Result<(), ConnectorError> {
        let fatal = |text: String| Err(ConnectorError::Fatal(text));
        check_url(self.url.reveal())?;
        self.header_map()?;
        check_token(self.token.as_ref(), self.token_file.as_deref())?;
        let has_token = self.token.is_some() || self.token_file.is_some();
        if has_token && self.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")) {
            return fatal("`headers` has Authorization beside a token: set one of them".to_owned());
        }
        if self.batch_messages == 0 {
            return fatal("batch_messages of 0: expected 1 or more".to_owned());
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return fatal(format!("concurrency of {}: expected 1 to {CONCURRENCY_MAX}", self.concurrency));
        }
        if self.concurrency > 1 && self.order == PostingOrder::Keep {
            return fatal(format!(
                "concurrency of {}: requests that are under way together may overtake each other. Write `order: any` beside it if the order of messages doesn't matter, else leave `concurrency` out",
                self.concurrency
            ));
        }
        if self.timeout.0.is_zero() {
            return fatal("timeout of 0s: expected a duration such as 10s".to_owned());
        }
        if let Some(status) = self.retry_statuses.iter().find(|s| !(300..600).contains(*s)) {
            return fatal(format!("retry_statuses: {status}: expected statuses from 300 to 599"));
        }
        Ok(())
    }

    fn header_map(&self) -> Result<HeaderMap, ConnectorError> {
        self.headers.iter().map(|(name, value)| header(name, value.reveal())).collect()
    }

    /// Reads what it names.
    fn receiver(&self) -> Result<Receiver, ConnectorError> {
        let mut headers = self.header_map()?;
        if let Some(token) = token(self.token.as_ref(), self.token_file.as_deref())? {
            let (_, value) = header("authorization", &format!("Bearer {}", token.reveal()))?;
            headers.insert(AUTHORIZATION, value);
        }
        let (retry, timeout) = (self.retry_statuses.clone(), self.timeout.0);
        Receiver::new(
            check_url(self.url.reveal())?,
            headers,
            self.batch,
            retry,
            timeout,
            self.ca_file.as_deref(),
        )
    }
}

/// What this sink is like.
const LIKE: SinkTraits = SinkTraits { transactional: false, refuses_repeats: false, by_token: false };

impl SinkConnector for HttpSinkSpec {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(HttpSink::new(self.clone())?))
    }

    fn gives_up(&self) -> bool {
        true
    }
}

/// Writes envelopes with their output ids.
struct HttpEncoder {
    codec: codec::Writing,
    writer: Writer,
}

impl Encoder for HttpEncoder {
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let mut record = self.codec.writer.write(message, Takes::default(), into)?;
        record.key = message.key().map(|key| append(key, &mut into.data));
        let start = into.data.len();
        self.writer.write_id(id, &mut into.data);
        record.id = Some(start..into.data.len());
        into.records.push(record);
        Ok(())
    }
}

/// Posts messages to a URL.
pub struct HttpSink {
    spec: HttpSinkSpec,
    writer: Writer,
    receiver: Option<Arc<Receiver>>,
    queue: Queue,
    /// The requests that are under way. They go on between calls, and end when the sink is dropped.
    posting: JoinSet<(Package, Outcome)>,
    /// When the receiver wants to be asked again.
    not_before: Option<Instant>,
    refused: Vec<Refused>,
    /// After how many answers that ask for another try a message is given up.
    attempts_max: Option<u32>,
    /// How many messages were taken.
    taken: Arc<AtomicU64>,
    /// Whether nothing was taken since the last failure: then one request is under way at a time.
    failing: bool,
    /// How many messages of the batch that is being written were taken over, should the call be repeated.
    written: usize,
    /// How many were written since the last flush, before this batch.
    unflushed: usize,
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// As far as it goes without waiting.
    Started,
    /// There is room for more.
    Room,
    /// All is done.
    Done,
}

impl HttpSink {
    /// A sink that posts as a spec says; connects to nothing.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn new(spec: HttpSinkSpec) -> Result<Self, ConnectorError> {
        spec.check()?;
        Ok(Self {
            spec,
            writer: Writer::default(),
            receiver: None,
            queue: Queue::default(),
            posting: JoinSet::new(),
            not_before: None,
            refused: Vec::new(),
            attempts_max: None,
            taken: Arc::default(),
            failing: false,
            written: 0,
            unflushed: 0,
        })
    }

    fn take(&mut self, batch: &EncodedBatch, record: &EncodedRecord) {
        let bytes = |range: &std::ops::Range<usize>| batch.data[range.clone()].to_vec();
        self.queue.push(Waiting {
            nth: self.unflushed + self.written,
            value: bytes(&record.value),
            key: record.key.as_ref().map(bytes),
            id: record.id.as_ref().map(bytes),
            attempts: 0,
        });
    }

    /// Posts what waits. Dropping the future loses nothing.
    async fn drive(&mut self, until: Until) -> Result<(), ConnectorError> {
        let receiver = self.receiver.clone().ok_or_else(|| {
            ConnectorError::Fatal("an HTTP sink was written to before it was recovered".to_owned())
        })?;
        loop {
            if let Some(at) = self.not_before {
                if until == Until::Started && at > Instant::now() {
                    return Ok(());
                }
                tokio::time::sleep_until(at).await;
                self.not_before = None;
            }
            let messages_max = if self.spec.batch == BatchForm::One { 1 } else { self.spec.batch_messages };
            let concurrency = if self.failing { 1 } else { self.spec.concurrency };
            while self.posting.len() < concurrency
                && let Some(package) = self.queue.next(messages_max, until == Until::Done)
            {
                let receiver = Arc::clone(&receiver);
                self.posting.spawn(async move {
                    let outcome = receiver.post(&package).await;
                    (package, outcome)
                });
            }
            let has_room = self.queue.bytes() <= WAITING_BYTES_MAX;
            let ended = match until {
                Until::Started => self.posting.try_join_next(),
                Until::Room if has_room => self.posting.try_join_next(),
                _ => self.posting.join_next().await,
            };
            let Some(ended) = ended else { return Ok(()) };
            if let Some(failure) = self.settle(ended, &receiver.shown) {
                return Err(self.wait_for_others(failure, &receiver.shown).await);
            }
        }
    }

    /// Notes what became of a package; answers what it failed by, if it is to be posted again.
    fn settle(
        &mut self,
        ended: Result<(Package, Outcome), tokio::task::JoinError>,
        shown: &str,
    ) -> Option<ConnectorError> {
        let (mut package, outcome) = match ended {
            Ok(ended) => ended,
            Err(e) => return Some(ConnectorError::Fatal(format!("{shown}: a request did not finish: {e}"))),
        };
        match outcome {
            Outcome::Done => {
                self.failing = false;
                self.taken.fetch_add(package.0.len() as u64, Ordering::AcqRel);
                None
            }
            Outcome::Again { cause, after, answered } => {
                self.failing = true;
                let tried = if answered { package.tried() } else { 0 };
                match self.attempts_max {
                    Some(most) if tried >= most => {
                        let reason =
                            format!("{shown} doesn't take the message, however often it is posted: {cause}");
                        self.refuse(package, &reason);
                    }
                    _ if self.spec.order == PostingOrder::Any => self.queue.put_behind(package),
                    _ => self.queue.put_back(package),
                }
                if let Some(after) = after {
                    let at = Instant::now() + after;
                    self.not_before = Some(self.not_before.map_or(at, |other| other.max(at)));
                }
                Some(ConnectorError::Disconnected { what: format!("cannot post to {shown}"), cause })
            }
            Outcome::Refused(reason) => {
                self.failing = false;
                package.tried();
                self.refuse(package, &reason);
                None
            }
            Outcome::Fatal(text) => {
                self.queue.put_back(package);
                Some(ConnectorError::Fatal(text))
            }
        }
    }

    /// The receiver doesn't take a package: the message that it is, or each half alone.
    fn refuse(&mut self, package: Package, reason: &str) {
        match package.halves() {
            // The second is put back first, and both come before the rest.
            Ok((first, second)) => {
                self.queue.put_back(second);
                self.queue.put_back(first);
            }
            Err(Package(messages)) => {
                self.refused.extend(messages.into_iter().map(|m| Refused {
                    nth: m.nth,
                    value: m.value,
                    key: m.key,
                    reason: reason.to_owned(),
                    attempts: m.attempts,
                }));
            }
        }
    }

    /// One failed: those that are under way with it are waited for, and no others posted.
    async fn wait_for_others(&mut self, mut failure: ConnectorError, shown: &str) -> ConnectorError {
        while let Some(ended) = self.posting.join_next().await {
            if let Some(other @ ConnectorError::Fatal(_)) = self.settle(ended, shown) {
                failure = other;
            }
        }
        failure
    }
}

#[async_trait]
impl Sink for HttpSink {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn identify(&mut self, writer: Writer) {
        self.writer = writer;
    }

    fn give_up_after(&mut self, attempts: u32) {
        self.attempts_max = Some(attempts);
    }

    fn taken(&self) -> Option<Arc<AtomicU64>> {
        Some(Arc::clone(&self.taken))
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(HttpEncoder { codec: codec.clone(), writer: self.writer.clone() })
    }

    async fn recover(&mut self, _token: Option<&str>) -> Result<(), ConnectorError> {
        if self.receiver.is_none() {
            let spec = self.spec.clone();
            self.receiver = Some(os::blocking(move || spec.receiver().map(Arc::new)).await?);
        }
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        while let Some(record) = batch.records.get(self.written) {
            if self.queue.bytes() > WAITING_BYTES_MAX {
                self.drive(Until::Room).await?;
            }
            self.take(batch, record);
            self.written += 1;
        }
        self.drive(Until::Started).await?;
        self.unflushed += std::mem::take(&mut self.written);
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        self.drive(Until::Done).await?;
        self.unflushed = 0;
        Ok(String::new())
    }

    fn refused(&mut self) -> Vec<Refused> {
        let mut refused = std::mem::take(&mut self.refused);
        refused.sort_by_key(|r| r.nth);
        refused
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _in_order: bool) -> Result<(), ConnectorError> {
        self.posting.shutdown().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut spec = HttpSinkSpec::new("https://u:hush@example.com/?k=hush");
        spec.headers.insert("X-Key".into(), Secret::new("hush"));
        spec.token = Some(Secret::new("hush"));
        assert!(!format!("{spec:?}").contains("hush"), "{spec:?}");
        assert!(spec.header_map().expect("headers")["x-key"].is_sensitive());
    }
}
