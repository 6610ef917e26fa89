//! A stream read by sequence, without acknowledgements: for a pipeline that keeps its positions itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::Message;
use async_trait::async_trait;
use serde_json::json;

use super::api::StreamInfo;
use super::link::Link;
use super::pull::{Delivery, Pull};
use super::pump::{Feed, Item, Taken};
use crate::ConnectorError;

/// How long the server keeps a consumer that nobody reads: one that was begun anew leaves the old one behind.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// How often it is found out what a hole in the sequences is.
const HOLES_EVERY: Duration = Duration::from_secs(1);
/// How many holes wait for that.
const HOLES_MAX: usize = 10_000;

/// What is known of a log without asking.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The sequence behind its last message, about.
    pub extent: AtomicU64,
    /// How many messages were removed before they could be read.
    pub lost: AtomicU64,
}

/// A log's messages from a sequence on.
pub(super) struct LogFeed {
    link: Arc<Link>,
    stream: String,
    /// When the stream was made: another one of its name is another log.
    created: String,
    subjects: Vec<String>,
    /// What the names of its consumers begin with.
    prefix: String,
    consumer: Option<String>,
    /// The sequence to read next.
    next: u64,
    /// Which delivery of the consumer comes next.
    nth: u64,
    known: Arc<Known>,
    holes: Vec<(u64, u64)>,
    asked: Instant,
}

/// What the names of the consumers begin with by which a pipeline reads a log.
pub(super) fn prefix(consumer: &str) -> String {
    format!("wasmill-{consumer}-")
}

/// That a sequence is not in its log.
pub(super) fn outside(stream: &str, offset: u64, cause: &str) -> ConnectorError {
    ConnectorError::Fatal(format!(
        "offset {offset} of stream {stream} is outside the log: {cause}; run `wasmill reset` to start afresh"
    ))
}

/// Makes sure that a sequence is in a stream, or right behind its end.
pub(super) fn check_inside(info: &StreamInfo, stream: &str, offset: u64) -> Result<(), ConnectorError> {
    if (info.first()..=info.end()).contains(&offset.max(1)) {
        return Ok(());
    }
    let cause = format!("it has the sequences {} to {} now", info.first(), info.end());
    Err(outside(stream, offset, &cause))
}

impl LogFeed {
    pub fn new(
        link: &Arc<Link>,
        (stream, created): (&str, &str),
        subjects: &[String],
        consumer: &str,
        next: u64,
        known: &Arc<Known>,
    ) -> Self {
        Self {
            link: Arc::clone(link),
            stream: stream.to_owned(),
            created: created.to_owned(),
            subjects: subjects.to_vec(),
            prefix: prefix(consumer),
            consumer: None,
            next: next.max(1),
            nth: 1,
            known: Arc::clone(known),
            holes: Vec::new(),
            asked: Instant::now(),
        }
    }

    fn lose(&self, from: u64, to: u64) {
        let lost = to.saturating_sub(from);
        if lost > 0 {
            self.known.lost.fetch_add(lost, Ordering::Relaxed);
            tracing::error!(
                stream = self.stream,
                lost,
                first_sequence = from,
                "the stream's limits removed messages before they were read"
            );
        }
    }

    /// Messages that are missing below the first one that is there were removed by the stream's limits; others
    /// somebody deleted, or a later message of their subject took their place.
    fn count_holes(&mut self, first: u64) {
        for (from, to) in std::mem::take(&mut self.holes) {
            self.lose(from, to.min(first));
        }
    }
}

#[async_trait]
impl Feed for LogFeed {
    async fn begin(&mut self) -> Result<Pull, ConnectorError> {
        let info = self.link.stream(&self.stream).await?;
        if info.created != self.created {
            return Err(made_anew(&self.stream, &self.created, &info.created));
        }
        if self.next > info.end() {
            let cause = format!("it ends at {} now: it has lost messages", info.end());
            return Err(outside(&self.stream, self.next, &cause));
        }
        if self.subjects.is_empty() {
            self.count_holes(info.first());
            self.lose(self.next, info.first());
        }
        self.next = self.next.max(info.first());
        if let Some(old) = self.consumer.take() {
            // It goes by itself where this fails.
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{old}", self.stream);
            self.link.client.publish(subject, "{}".into()).await.ok();
        }
        let inbox = self.link.client.new_inbox();
        let consumer = format!("{}{}", self.prefix, inbox.rsplit('.').next().unwrap_or_default());
        let config = json!({
            "name": consumer,
            "description": "wasmill reads the stream as a log",
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next,
            "filter_subjects": self.subjects,
            "replay_policy": "instant",
            "inactive_threshold": u64::try_from(FORGOTTEN_AFTER.as_nanos()).unwrap_or(u64::MAX),
            "mem_storage": true,
            "num_replicas": 1,
        });
        let what = format!("cannot read stream {}", self.stream);
        let made = self.link.create_consumer(&self.stream, &consumer, &config).await?;
        let made = made.map_err(|e| self.link.refused(&what, &e))?;
        self.known.extent.store(self.next + made.num_pending, Ordering::Relaxed);
        self.nth = 1;
        self.consumer = Some(consumer.clone());
        Pull::start(&self.link, &self.stream, &consumer).await
    }

    fn take(&mut self, message: Message) -> Taken {
        let Some(seen) = message.reply.as_ref().and_then(|reply| Delivery::of(reply)) else {
            return Taken::Gap("a message came without its sequence".to_owned());
        };
        if seen.nth != self.nth || seen.sequence < self.next {
            return Taken::Gap(format!(
                "delivery {} of sequence {} came in place of delivery {}",
                seen.nth, seen.sequence, self.nth
            ));
        }
        if seen.sequence > self.next && self.subjects.is_empty() && self.holes.len() < HOLES_MAX {
            self.holes.push((self.next, seen.sequence));
        }
        self.nth += 1;
        self.next = seen.sequence + 1;
        self.known.extent.store(self.next + seen.left, Ordering::Relaxed);
        Taken::Item(Item { offset: seen.sequence, time_ms: seen.time_ms, message })
    }

    async fn taken(&mut self) {
        if !self.holes.is_empty() && self.asked.elapsed() > HOLES_EVERY {
            self.asked = Instant::now();
            if let Ok(info) = self.link.stream(&self.stream).await {
                self.count_holes(info.first());
            }
        }
    }

    fn name(&self) -> String {
        format!("stream {}", self.stream)
    }
}

/// That a stream is another one than it was.
pub(super) fn made_anew(stream: &str, before: &str, now: &str) -> ConnectorError {
    ConnectorError::Fatal(format!(
        "stream {stream} was made anew: it was made at {before} when it was read, and at {now} now; run `wasmill reset` to start afresh"
    ))
}
