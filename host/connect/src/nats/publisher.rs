//! What is on its way to a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::client::PublishErrorKind;
use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::runtime::Runtime;
use wasmill_engine::output::EncodedRecord;

use super::access::Access;
use super::api::{ApiError, DUPLICATE_IN_PROCESS, MESSAGE_TOO_LARGE};
use super::link::{Lasts, Link, TIMEOUT};
use crate::{ConnectorError, Refused};

/// How many messages may be without an answer, and how many bytes.
const MESSAGES_MAX: usize = 4096;
const BYTES_MAX: usize = 8 << 20;
/// After how many messages the answers are looked at.
const LOOK_EVERY: u64 = 64;
/// How often a wait looks whether the connection is there.
const WAIT: Duration = Duration::from_millis(250);

/// A message on its way.
pub(super) struct Outgoing {
    /// The bytes of its batch.
    pub data: Bytes,
    pub record: EncodedRecord,
    /// Which it is of those that were written since the flush before.
    pub nth: usize,
}

impl Outgoing {
    fn text(&self, range: &std::ops::Range<usize>) -> &str {
        self.data.get(range.clone()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }

    fn value(&self) -> Bytes {
        let range = self.record.value.clone();
        if range.end <= self.data.len() { self.data.slice(range) } else { Bytes::new() }
    }

    /// Its output id.
    pub fn id(&self) -> Option<&str> {
        self.record.id.as_ref().map(|range| self.text(range))
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(id) = self.id() {
            headers.insert(NATS_MESSAGE_ID, id);
        }
        for header in &self.record.headers {
            headers.append(self.text(&header.name), header.value.as_ref().map_or("", |v| self.text(v)));
        }
        headers
    }

    fn size(&self) -> usize {
        self.record.value.len() + size_of::<Self>()
    }

    fn refused(&self, reason: String) -> Refused {
        Refused {
            nth: self.nth,
            value: self.value().to_vec(),
            key: self.record.key.as_ref().and_then(|r| self.data.get(r.clone())).map(<[u8]>::to_vec),
            reason,
            attempts: 1,
        }
    }
}

/// All that is on its way, in order. It outlives connections.
#[derive(Default)]
pub(super) struct InFlight {
    first: u64,
    slots: VecDeque<Option<Outgoing>>,
    count: usize,
    bytes: usize,
    /// What the stream did not take, though nothing is wrong with it: to be published again.
    pub again: Vec<u64>,
    /// Why it did not.
    stalled: Option<String>,
    /// The greatest sequence that the stream gave one of them.
    pub sequence: u64,
    /// New messages get sequences above it.
    pub floor: u64,
    /// One did not: the stream may have been made anew.
    pub is_suspect: bool,
    pub refused: Vec<Refused>,
}

impl InFlight {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the stream did not take some of it.
    pub fn is_refusing(&self) -> bool {
        !self.again.is_empty()
    }

    fn push(&mut self, message: Outgoing) -> u64 {
        self.count += 1;
        self.bytes += message.size();
        self.slots.push_back(Some(message));
        self.first + self.slots.len() as u64 - 1
    }

    fn get(&self, n: u64) -> Option<&Outgoing> {
        self.slots.get(usize::try_from(n.checked_sub(self.first)?).ok()?)?.as_ref()
    }

    fn take(&mut self, n: u64) -> Option<Outgoing> {
        let at = usize::try_from(n.checked_sub(self.first)?).ok()?;
        let message = self.slots.get_mut(at)?.take()?;
        self.count -= 1;
        self.bytes -= message.size();
        while matches!(self.slots.front(), Some(None)) {
            self.slots.pop_front();
            self.first += 1;
        }
        Some(message)
    }

    /// Takes out what is known to be there.
    pub fn settle(&mut self, mut is_there: impl FnMut(&str) -> bool) {
        let end = self.first + self.slots.len() as u64;
        for n in self.first..end {
            if self.get(n).and_then(Outgoing::id).is_some_and(&mut is_there) {
                self.take(n);
            }
        }
    }

    /// Those that the stream doesn't have, for all that is known.
    pub fn all(&self) -> Vec<u64> {
        let numbers = self.first..self.first + self.slots.len() as u64;
        numbers.filter(|n| self.get(*n).is_some()).collect()
    }
}

/// An answer to a message.
#[derive(Deserialize)]
struct Acked {
    error: Option<ApiError>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// A connection that only publishes. When it breaks, nothing that was handed to it is sent any more: its tasks
/// run in a runtime of its own, and end with it.
pub(super) struct Publisher {
    pub link: Arc<Link>,
    runtime: Option<Runtime>,
    acks: Subscriber,
    /// Where answers go, with the number of the message behind it.
    inbox: String,
    heard: Instant,
    pub subject: String,
    pub stream: String,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Publisher {
    /// Connects.
    pub async fn connect(access: &Access, subject: &str) -> Result<Self, ConnectorError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("nats-sink")
            .enable_all()
            .build()
            .map_err(|e| crate::os::fatal("cannot start the connection's thread", &e))?;
        let owned = access.clone();
        let connecting = runtime.spawn(async move { Link::connect(&owned, Lasts::Once).await });
        // Told before the runtime goes, which can't be dropped here.
        let connected = match connecting.await {
            Ok(Ok(link)) => Ok(Arc::new(link)),
            Ok(Err(error)) => Err(error),
            Err(e) => Err(ConnectorError::Fatal(format!("connecting to {} did not finish: {e}", access.url))),
        };
        let link = match connected {
            Ok(link) => link,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let inbox = format!("{}.", link.client.new_inbox());
        match link.client.subscribe(format!("{inbox}*")).await {
            Ok(acks) => Ok(Self {
                link,
                runtime: Some(runtime),
                acks,
                inbox,
                heard: Instant::now(),
                subject: subject.to_owned(),
                stream: String::new(),
            }),
            Err(e) => {
                runtime.shutdown_background();
                Err(link.away("cannot publish", &e.to_string()))
            }
        }
    }

    fn what(&self) -> String {
        format!("cannot publish to {}", self.subject)
    }

    /// Waits until there is room for a message of so many bytes.
    pub async fn room(&mut self, flying: &mut InFlight, bytes: usize) -> Result<(), ConnectorError> {
        if flying.count == 0 {
            self.heard = Instant::now();
        } else if flying.first.wrapping_add(flying.slots.len() as u64).is_multiple_of(LOOK_EVERY) {
            self.drain(flying)?;
        }
        while flying.count >= MESSAGES_MAX || (flying.count > 0 && flying.bytes + bytes > BYTES_MAX) {
            self.wait(flying).await?;
        }
        Ok(())
    }

    /// Publishes a message, which is on its way from now on whatever this answers.
    pub async fn send(&mut self, flying: &mut InFlight, message: Outgoing) -> Result<(), ConnectorError> {
        let n = flying.push(message);
        self.publish(flying, n).await
    }

    /// Publishes what is on its way once more.
    pub async fn publish(&mut self, flying: &mut InFlight, n: u64) -> Result<(), ConnectorError> {
        let Some(message) = flying.get(n) else { return Ok(()) };
        let (headers, value) = (message.headers(), message.value());
        let reply = format!("{}{n}", self.inbox);
        let sent = match headers.is_empty() {
            true => self.link.client.publish_with_reply(self.subject.clone(), reply, value).left_future(),
            false => self
                .link
                .client
                .publish_with_reply_and_headers(self.subject.clone(), reply, headers, value)
                .right_future(),
        };
        match tokio::time::timeout(TIMEOUT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) if e.kind() == PublishErrorKind::MaxPayloadExceeded => {
                let limit = self.link.client.max_payload();
                let reason = format!(
                    "the servers take no message above {limit} bytes, headers included: raise `max_payload` in their configuration, or make the message smaller"
                );
                if let Some(message) = flying.take(n) {
                    flying.refused.push(message.refused(reason));
                }
                Ok(())
            }
            Ok(Err(e)) => Err(self.link.away(&self.what(), &e.to_string())),
            Err(_) => Err(self.link.away(&self.what(), "the server takes nothing")),
        }
    }

    /// Publishes again what the stream could not take before.
    pub async fn again(&mut self, flying: &mut InFlight) -> Result<(), ConnectorError> {
        let mut numbers = std::mem::take(&mut flying.again);
        numbers.sort_unstable();
        self.heard = Instant::now();
        for n in numbers {
            self.publish(flying, n).await?;
        }
        Ok(())
    }

    /// Takes the answers that are there.
    pub fn drain(&mut self, flying: &mut InFlight) -> Result<(), ConnectorError> {
        while let Some(Some(answer)) = self.acks.next().now_or_never() {
            self.answered(flying, &answer)?;
        }
        self.check(flying)
    }

    /// Waits for an answer.
    pub async fn wait(&mut self, flying: &mut InFlight) -> Result<(), ConnectorError> {
        if let Ok(answer) = tokio::time::timeout(WAIT, self.acks.next()).await {
            match answer {
                Some(answer) => self.answered(flying, &answer)?,
                None => return Err(self.link.away(&self.what(), "the connection is closed")),
            }
        }
        self.drain(flying)
    }

    fn check(&self, flying: &mut InFlight) -> Result<(), ConnectorError> {
        if !self.link.is_up() {
            return Err(self.link.away(&self.what(), "the connection is lost"));
        }
        if let Some(cause) = flying.stalled.take() {
            return Err(ConnectorError::Disconnected { what: self.what(), cause });
        }
        if flying.count > 0 && self.heard.elapsed() > TIMEOUT {
            return Err(self.link.away(&self.what(), "no answer within 5 s"));
        }
        Ok(())
    }

    fn answered(&mut self, flying: &mut InFlight, answer: &Message) -> Result<(), ConnectorError> {
        self.heard = Instant::now();
        let Some(n) = answer.subject.strip_prefix(self.inbox.as_str()).and_then(|n| n.parse().ok()) else {
            return Ok(());
        };
        if answer.status.is_some() {
            // Whether the stream is there is found out when it is connected to again.
            return Err(self
                .link
                .away(&self.what(), "nobody takes it: JetStream or the stream is not there"));
        }
        let acked: Acked = serde_json::from_slice(&answer.payload)
            .map_err(|e| ConnectorError::Fatal(format!("{}: the answer can't be read: {e}", self.what())))?;
        match acked.error {
            None if acked.stream != self.stream => Err(ConnectorError::Fatal(format!(
                "{}: stream {} takes it now, and {} did before; run `wasmill reset`, or give the subject back",
                self.what(),
                acked.stream,
                self.stream
            ))),
            None => {
                flying.is_suspect |= !acked.duplicate && acked.seq <= flying.floor;
                flying.sequence = flying.sequence.max(acked.seq);
                flying.take(n);
                Ok(())
            }
            Some(e) if e.err_code == MESSAGE_TOO_LARGE => {
                if let Some(message) = flying.take(n) {
                    let reason = format!(
                        "stream {} takes no message of {} bytes: raise its `max_msg_size` (`nats stream edit {} --max-msg-size`), or make the message smaller",
                        self.stream,
                        message.value().len(),
                        self.stream
                    );
                    flying.refused.push(message.refused(reason));
                }
                Ok(())
            }
            Some(e) if e.is_passing() || e.err_code == DUPLICATE_IN_PROCESS => {
                flying.again.push(n);
                flying.stalled = Some(format!("stream {}: {e}", self.stream));
                Ok(())
            }
            Some(e) => Err(self.link.refused(&self.what(), &e)),
        }
    }
}
