//! One consumer's messages, asked for ahead, as long as it is alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::json;

use super::link::Link;
use crate::ConnectorError;

/// How many messages are asked for at once.
const MESSAGES: u64 = 10_000;
/// How many bytes a request may bring; two are open at most.
pub(super) const BYTES: usize = 4 << 20;
/// How long a request waits for messages.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that a request is alive.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Without a word for so long, the consumer counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How long the connection may be lost before the host is told.
const DOWN_MAX: Duration = Duration::from_secs(1);
/// How often a wait looks whether all is well.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why no more messages come.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    /// They may come when it is begun anew.
    Lost(String),
    /// The connection was lost and is there again: begin anew at once.
    Reconnected,
    /// They will not.
    Refused(String),
}

/// A consumer's messages.
pub(super) struct Pull {
    link: Arc<Link>,
    /// Where they are asked for.
    ask: String,
    inbox: String,
    messages: Subscriber,
    /// How many were asked for and didn't come yet.
    pending: u64,
    /// A message was above a request's bytes: the next request has no limit, and asks for one.
    one: bool,
    connects: u64,
    heard: Instant,
    down: Option<Instant>,
    /// Told behind what came before.
    ended: Option<Ended>,
}

impl Pull {
    /// Begins to listen; asks for nothing yet.
    pub async fn start(link: &Arc<Link>, stream: &str, consumer: &str) -> Result<Self, ConnectorError> {
        let connects = link.connects();
        let inbox = link.client.new_inbox();
        let what = || format!("cannot read consumer {consumer} of stream {stream}");
        let messages =
            link.client.subscribe(inbox.clone()).await.map_err(|e| link.away(&what(), &e.to_string()))?;
        Ok(Self {
            link: Arc::clone(link),
            ask: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox,
            messages,
            pending: 0,
            one: false,
            connects,
            heard: Instant::now(),
            down: None,
            ended: None,
        })
    }

    /// Asks for more, where less than half of a request is still to come.
    pub async fn refill(&mut self) {
        if self.pending > MESSAGES / 2 || self.ended.is_some() {
            return;
        }
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let mut asked = json!({ "expires": nanos(EXPIRES), "idle_heartbeat": nanos(HEARTBEAT) });
        let batch = if self.one { 1 } else { MESSAGES };
        asked["batch"] = batch.into();
        if !self.one {
            asked["max_bytes"] = BYTES.into();
        }
        let body = asked.to_string().into_bytes();
        let sent = self.link.client.publish_with_reply(self.ask.clone(), self.inbox.clone(), body.into());
        match sent.await {
            Ok(()) => {
                if self.pending == 0 {
                    self.heard = Instant::now();
                }
                self.pending += batch;
                self.one = false;
            }
            Err(e) => self.ended = Some(Ended::Lost(e.to_string())),
        }
    }

    /// A message that is there already.
    pub fn ready(&mut self) -> Option<Message> {
        while self.ended.is_none() {
            match self.messages.next().now_or_never() {
                None => return None,
                Some(None) => self.ended = Some(Ended::Lost("the connection is closed".into())),
                Some(Some(message)) => {
                    if let Some(message) = self.sort(message) {
                        return Some(message);
                    }
                }
            }
        }
        None
    }

    /// Waits for a message, and asks for more when nothing is to come. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Message, Ended> {
        self.wait(true).await
    }

    /// As `next`, but asks for nothing.
    pub async fn next_unasked(&mut self) -> Result<Message, Ended> {
        self.wait(false).await
    }

    async fn wait(&mut self, asks: bool) -> Result<Message, Ended> {
        loop {
            if let Some(message) = self.ready() {
                return Ok(message);
            }
            self.check();
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            if let Ok(Some(message)) = tokio::time::timeout(LOOK_EVERY, self.messages.next()).await
                && let Some(message) = self.sort(message)
            {
                return Ok(message);
            }
            if asks && self.pending == 0 {
                self.refill().await;
            }
        }
    }

    fn check(&mut self) {
        if self.link.connects() != self.connects {
            self.ended.get_or_insert(Ended::Reconnected);
        } else if !self.link.is_up() {
            if self.down.get_or_insert_with(Instant::now).elapsed() > DOWN_MAX {
                let cause = self.link.last_error_or("the connection is lost");
                self.ended.get_or_insert(Ended::Lost(cause));
            }
        } else if self.pending > 0 && self.heard.elapsed() > SILENCE_MAX {
            let cause = format!("the server sends no heartbeat since {} s", self.heard.elapsed().as_secs());
            self.ended.get_or_insert(Ended::Lost(cause));
        }
    }

    /// A message, or what the server says about a request.
    fn sort(&mut self, message: Message) -> Option<Message> {
        self.heard = Instant::now();
        let Some(status) = message.status else {
            self.pending = self.pending.saturating_sub(1);
            return Some(message);
        };
        let text = message.description.as_deref().unwrap_or_default();
        match status.as_u16() {
            100 => {}
            // The request has ended, with so many messages still to come.
            404 | 408 => self.close_request(&message),
            409 => match text.to_ascii_lowercase().as_str() {
                "message size exceeds maxbytes" => {
                    self.close_request(&message);
                    // Perhaps the first of a request: then no other one would bring it.
                    self.one = self.pending == 0;
                }
                "batch completed" => self.close_request(&message),
                "leadership change" => self.pending = 0,
                said if said.contains("push based") => {
                    self.ended = Some(Ended::Refused(format!("the consumer pushes: {text}")));
                }
                _ => self.ended = Some(Ended::Lost(text.to_owned())),
            },
            503 => self.ended = Some(Ended::Lost("nobody answers for the consumer".into())),
            code => self.ended = Some(Ended::Lost(format!("the server says {code} {text}"))),
        }
        None
    }

    fn close_request(&mut self, message: &Message) {
        let left = message.headers.as_ref().and_then(|h| h.get("Nats-Pending-Messages"));
        let left = left.and_then(|n| n.as_str().parse::<u64>().ok());
        self.pending = left.map_or(0, |n| self.pending.saturating_sub(n));
    }
}

/// What stands in the subject at which a delivery is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    /// How many times it was delivered.
    pub times: u64,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Which delivery of its consumer it is, from 1.
    pub nth: u64,
    /// When the stream took it in, in milliseconds.
    pub time_ms: i64,
    /// How many messages the consumer has behind it.
    pub left: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.…`: of nine parts, or, with domain and account, of eleven or more.
    pub fn of(reply: &str) -> Option<Self> {
        let parts = reply.split('.').count();
        let skipped = if parts == 9 { 4 } else { 6 };
        let mut numbers = reply.strip_prefix("$JS.ACK.")?.split('.').skip(skipped - 2);
        let times = numbers.next()?.parse().ok()?;
        let sequence = numbers.next()?.parse().ok()?;
        let nth = numbers.next()?.parse().ok()?;
        let nanos: i64 = numbers.next()?.parse().ok()?;
        let left = numbers.next()?.parse().ok()?;
        Some(Self { times, sequence, nth, time_ms: nanos.div_euclid(1_000_000), left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        let seen = Delivery { times: 2, sequence: 17, nth: 5, time_ms: 1_700_000_000_123, left: 9 };
        for reply in [
            "$JS.ACK.ORDERS.mine.2.17.5.1700000000123456789.9",
            "$JS.ACK.hub.aXbY.ORDERS.mine.2.17.5.1700000000123456789.9",
            "$JS.ACK.hub.aXbY.ORDERS.mine.2.17.5.1700000000123456789.9.r4nd0m",
        ] {
            assert_eq!(Delivery::of(reply), Some(seen), "{reply}");
        }
        assert_eq!(Delivery::of("_INBOX.x.2.17.5.1700000000123456789.9"), None);
        assert_eq!(Delivery::of("$JS.ACK.short"), None);
    }
}
