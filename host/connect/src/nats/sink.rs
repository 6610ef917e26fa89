//! Writes to a stream. Every message has its output id as `Nats-Msg-Id`. The stream refuses a repeat within its
//! window; beyond it, the ids that stand in the stream tell what is there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::output::{EncodedBatch, Encoder};

use super::access::with_access;
use super::api::StreamInfo;
use super::encoder::NatsEncoder;
use super::publisher::{InFlight, Outgoing, Publisher};
use super::scan::Scan;
use crate::table::SinkConnector;
use crate::{ConnectorError, Refused, Sink, SinkTraits, Writer, codec};

/// The shortest window that bridges the time from a reading of the stream to a message that comes late.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// How long a message that was found, but isn't written again, holds the position back from which the stream is
/// read at a recovery: it may be of another run of the pipeline's plugins, and never come.
const HELD_MAX: Duration = Duration::from_secs(600);

/// Which headers a message has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageHeaders {
    /// Those that it came with, but for NATS's own (`Nats-…`).
    #[default]
    Pass,
    /// None but its id's.
    None,
}

with_access! {
    /// A subject of NATS JetStream: a message each, whose payload is the JSON envelope. Its id stands in the header
    /// `Nats-Msg-Id`, and a message that the stream has is not written to it again.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct NatsSinkSpec {
        /// The subject, without wildcards. A stream must take it.
        pub subject: String,
        /// Which headers messages have: pass, those that they came with, or none. Default: pass.
        #[serde(default)]
        pub headers: MessageHeaders,
    }
}

impl NatsSinkSpec {
    /// A spec with the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, subject: impl Into<String>) -> Self {
        Self {
            url: super::NatsUrl::from(url),
            subject: subject.into(),
            headers: MessageHeaders::default(),
            credentials_file: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            nkey_seed_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// What this sink is like.
const LIKE: SinkTraits = SinkTraits { transactional: false, refuses_repeats: true, by_token: true };

impl SinkConnector for NatsSinkSpec {
    fn called(&self) -> String {
        self.subject.clone()
    }

    const CONDITIONS: &'static [&'static str] = &[
        "its stream keeps messages by limits, and what the server answered outlives a loss of power only with `sync_interval: always`",
        "no other process runs the same pipeline: one that was cut off for longer than the stream's duplicate window while another took over may write the rest of its epoch again",
    ];

    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(NatsSink::new(self.clone())?))
    }
}

/// What a flush answers: up to where the stream is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    stream: String,
    /// When it was made: another one of its name is another log.
    created: String,
    /// Nothing that is written later has a sequence up to this.
    sequence: u64,
}

/// What the stream has already of what will be written.
#[derive(Default)]
struct There {
    ids: HashMap<Box<str>, u64>,
    sequences: BTreeSet<u64>,
    since: Option<Instant>,
}

impl There {
    fn new(ids: HashMap<Box<str>, u64>) -> Self {
        let sequences = ids.values().copied().collect();
        Self { ids, sequences, since: Some(Instant::now()) }
    }

    fn take(&mut self, id: &[u8]) -> bool {
        if self.ids.is_empty() {
            return false;
        }
        let found = std::str::from_utf8(id).ok().and_then(|id| self.ids.remove(id));
        found.is_some_and(|sequence| self.sequences.remove(&sequence))
    }

    /// The first sequence of what may still be written.
    fn first(&self) -> Option<u64> {
        let is_held = self.since.is_some_and(|since| since.elapsed() < HELD_MAX);
        self.sequences.first().copied().filter(|_| is_held)
    }
}

/// Writes to a stream.
pub struct NatsSink {
    spec: NatsSinkSpec,
    writer: Writer,
    /// What all its ids begin with.
    prefix: String,
    publisher: Option<Publisher>,
    /// Up to where the stream is known: from there it is read when it isn't known what it took.
    token: Option<Token>,
    there: There,
    flying: InFlight,
    /// How many records of the batch that is being written are on their way, should the call be repeated.
    written: usize,
    /// How many were since the last flush, before this batch.
    unflushed: usize,
}

impl NatsSink {
    /// A sink that writes to the subject that a spec names; connects to nothing.
    ///
    /// # Errors
    /// When a setting is missing or wrong.
    pub fn new(spec: NatsSinkSpec) -> Result<Self, ConnectorError> {
        spec.access().check()?;
        let wrong = |c: char| c.is_whitespace() || c.is_control() || "*>".contains(c);
        let subject = &spec.subject;
        if subject.contains(wrong) || subject.split('.').any(str::is_empty) || subject.starts_with('$') {
            return Err(ConnectorError::Fatal(format!(
                "subject: {subject:?} is no subject that can be published to: expected such as orders.checked, without wildcards"
            )));
        }
        let writer = Writer::default();
        Ok(Self {
            prefix: prefix(&writer),
            spec,
            writer,
            publisher: None,
            token: None,
            there: There::default(),
            flying: InFlight::default(),
            written: 0,
            unflushed: 0,
        })
    }

    /// Makes sure that the stream is one that can be written to in this way.
    fn check(&self, stream: &str, info: &StreamInfo) -> Result<(), ConnectorError> {
        let fatal = |why: String| {
            Err(ConnectorError::Fatal(format!("stream {stream}, which takes {}, {why}", self.spec.subject)))
        };
        let config = &info.config;
        if config.no_ack {
            return fatal(format!(
                "acknowledges nothing (`no_ack`), so that losses would go unseen: `nats stream edit {stream} --ack`"
            ));
        }
        if config.sealed {
            return fatal("is sealed, and takes nothing any more: name another subject".to_owned());
        }
        if !self.writer.exact {
            return Ok(());
        }
        if config.retention != "limits" {
            return fatal(format!(
                "has the retention {}: its readers' acks remove what tells a repeat, so it can't be exactly once; give it the retention `limits`, or set `delivery: at_least_once`",
                config.retention
            ));
        }
        if config.mirror.is_some() {
            return fatal("is a mirror: write to what it mirrors".to_owned());
        }
        if info.window() < WINDOW_MIN {
            return fatal(format!(
                "has a duplicate window of {} ms, which is too short for exactly once: `nats stream edit {stream} --dupe-window 2m`",
                info.window().as_millis()
            ));
        }
        Ok(())
    }

    /// Connects, where it isn't, and finds out what the stream took of what is on its way.
    async fn resume(&mut self) -> Result<(), ConnectorError> {
        if self.publisher.is_some() {
            return Ok(());
        }
        let mut publisher = Publisher::connect(&self.spec.access(), &self.spec.subject).await?;
        let subject = &self.spec.subject;
        let stream = publisher.link.stream_of(subject).await?.ok_or_else(|| {
            let name = subject.split('.').next().unwrap_or_default().to_uppercase();
            ConnectorError::Fatal(format!(
                "no stream at {} takes the subject {subject}: make one with `nats stream add {name} --subjects {subject}`, or name another subject",
                publisher.link.address
            ))
        })?;
        let info = publisher.link.stream(&stream).await?;
        self.check(&stream, &info)?;
        publisher.stream.clone_from(&stream);
        let now = Token { created: info.created.clone(), sequence: info.state.last_seq, stream };
        let token = self.token.get_or_insert_with(|| now.clone()).clone();
        check_same(&token, &now)?;
        if !self.flying.is_empty() {
            let there = self.scan(&publisher, &info, &token).await?;
            let mut sequence = self.flying.sequence;
            self.flying.settle(|id| {
                let found = there.get(id);
                sequence = sequence.max(found.copied().unwrap_or(0));
                found.is_some()
            });
            self.flying.sequence = sequence;
            let rest = self.flying.all();
            tracing::info!(
                subject = self.spec.subject,
                found = there.len(),
                again = rest.len(),
                "connected again: what the stream doesn't have is published again"
            );
            self.flying.again = rest;
            publisher.again(&mut self.flying).await?;
        }
        self.flying.floor = token.sequence;
        self.flying.sequence = self.flying.sequence.max(token.sequence);
        self.publisher = Some(publisher);
        Ok(())
    }

    /// The ids of this writer that the stream has behind a token.
    async fn scan(
        &self,
        publisher: &Publisher,
        info: &StreamInfo,
        token: &Token,
    ) -> Result<HashMap<Box<str>, u64>, ConnectorError> {
        if info.config.retention != "limits" {
            // A reader's acks remove what would be found, and the stream's consumers may not overlap.
            return Ok(HashMap::new());
        }
        if info.first() > token.sequence + 1 && info.state.last_seq > token.sequence {
            tracing::warn!(
                stream = token.stream,
                from = token.sequence + 1,
                first = info.first(),
                "the stream's limits removed messages since the last commit: what was this pipeline's of them is written again"
            );
        }
        let scan = Scan {
            stream: &token.stream,
            subject: info.config.subject_transform.is_none().then_some(&self.spec.subject),
            sequences: (token.sequence + 1, info.state.last_seq),
            prefix: &self.prefix,
        };
        scan.run(&publisher.link).await
    }

    /// Ends the connection after an error that leaves open what the stream took: `resume` finds that out.
    fn broke(&mut self, error: ConnectorError) -> ConnectorError {
        if !matches!(error, ConnectorError::Disconnected { .. }) {
            return error;
        }
        // A stream that is full says so over a connection that works.
        if self.flying.is_refusing() && self.publisher.as_ref().is_some_and(|p| p.link.is_up()) {
            return error;
        }
        self.publisher = None;
        error
    }

    async fn send(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        publisher.again(&mut self.flying).await?;
        let data = Bytes::copy_from_slice(&batch.data);
        while let Some(record) = batch.records.get(self.written) {
            let id = record.id.as_ref().and_then(|id| batch.data.get(id.clone()));
            let nth = self.unflushed + self.written;
            // Counted first: what is handed over stays on its way whatever becomes of this call.
            if id.is_some_and(|id| self.there.take(id)) {
                self.written += 1;
                continue;
            }
            publisher.room(&mut self.flying, record.value.len()).await?;
            self.written += 1;
            let message = Outgoing { data: data.clone(), record: record.clone(), nth };
            publisher.send(&mut self.flying, message).await?;
        }
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), ConnectorError> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        publisher.again(&mut self.flying).await?;
        publisher.drain(&mut self.flying)?;
        while !self.flying.is_empty() {
            publisher.wait(&mut self.flying).await?;
        }
        if std::mem::take(&mut self.flying.is_suspect)
            && let Some(token) = &self.token
        {
            let info = publisher.link.stream(&token.stream).await?;
            let now =
                Token { created: info.created, sequence: info.state.last_seq, stream: token.stream.clone() };
            check_same(token, &now)?;
        }
        Ok(())
    }
}

/// What the ids of a writer begin with.
fn prefix(writer: &Writer) -> String {
    let mut id = Vec::new();
    let none = wasmill_engine::output::OutputId::Refused { sink: "", digest: 0, origin: None };
    let mut rest = Vec::new();
    none.write_to(&mut rest);
    writer.write_id(&none, &mut id);
    id.truncate(id.len() - rest.len());
    String::from_utf8_lossy(&id).into_owned()
}

/// Makes sure that the stream is the one of a token.
fn check_same(token: &Token, now: &Token) -> Result<(), ConnectorError> {
    if token.stream != now.stream || token.created != now.created {
        return Err(ConnectorError::Fatal(format!(
            "stream {}, made at {}, takes the subject now, and stream {}, made at {}, did when this pipeline committed: run `wasmill reset` to start afresh",
            now.stream, now.created, token.stream, token.created
        )));
    }
    if token.sequence > now.sequence {
        return Err(ConnectorError::Fatal(format!(
            "stream {} ends at {}, before {}, which this pipeline has committed: it has lost messages that it had acknowledged, as in a power cut without `sync_interval: always`; run `wasmill reset` to start afresh",
            token.stream, now.sequence, token.sequence
        )));
    }
    Ok(())
}

#[async_trait]
impl Sink for NatsSink {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn identify(&mut self, writer: Writer) {
        self.prefix = prefix(&writer);
        self.writer = writer;
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        let codec = Arc::clone(&codec.writer);
        Arc::new(NatsEncoder { codec, writer: self.writer.clone(), headers: self.spec.headers })
    }

    async fn recover(&mut self, token: Option<&str>) -> Result<(), ConnectorError> {
        self.token = match token.filter(|t| !t.is_empty()) {
            None => None,
            Some(text) => Some(serde_json::from_str(text).map_err(|e| {
                ConnectorError::Fatal(format!(
                    "what was committed of subject {} can't be read ({e}): run `wasmill reset` to start afresh",
                    self.spec.subject
                ))
            })?),
        };
        self.publisher = None;
        self.flying = InFlight::default();
        (self.written, self.unflushed) = (0, 0);
        let is_known = self.token.is_some();
        self.resume().await?;
        if let (true, Some(publisher), Some(token)) = (is_known, &self.publisher, &self.token) {
            let info = publisher.link.stream(&token.stream).await?;
            self.there = There::new(self.scan(publisher, &info, token).await?);
            let last = self.there.sequences.last().copied().unwrap_or(0);
            self.flying.sequence = self.flying.sequence.max(last);
            if !self.there.ids.is_empty() {
                tracing::info!(
                    subject = self.spec.subject,
                    messages = self.there.ids.len(),
                    "the stream has messages that were written, but not committed: they are not written again"
                );
            }
        }
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        self.resume().await?;
        if let Err(error) = self.send(batch).await {
            return Err(self.broke(error));
        }
        self.unflushed += std::mem::take(&mut self.written);
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        self.resume().await?;
        if let Err(error) = self.drain().await {
            return Err(self.broke(error));
        }
        self.unflushed = 0;
        let token = self.token.as_mut().ok_or_else(|| {
            ConnectorError::Fatal(format!(
                "subject {}: written to before it was recovered",
                self.spec.subject
            ))
        })?;
        let known = self.flying.sequence;
        token.sequence = self.there.first().map_or(known, |first| known.min(first - 1)).max(token.sequence);
        self.flying.floor = token.sequence;
        serde_json::to_string(token).map_err(|e| ConnectorError::Fatal(e.to_string()))
    }

    fn refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.flying.refused)
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _in_order: bool) -> Result<(), ConnectorError> {
        self.publisher = None;
        Ok(())
    }
}
