//! A durable consumer that several processes share: what each holds, acknowledges, and is delivered again.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::Message;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use wasmill_engine::output::Sequences;

use super::link::{Link, TIMEOUT};
use super::lock;
use super::pull::{Delivery, Pull};
use super::pump::{Feed, Item, Taken};
use crate::ConnectorError;

const ACK: Bytes = Bytes::from_static(b"+ACK");
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const NOT_TAKEN: Bytes = Bytes::from_static(b"-NAK");

/// A message that was delivered.
struct Held {
    sequence: u64,
    /// Where it is acknowledged; none when it is.
    reply: Option<Box<str>>,
    /// When it was delivered, or said to be in progress.
    touched: Instant,
}

#[derive(Default)]
struct Deliveries {
    /// The offset of the first of `held`.
    base: u64,
    held: VecDeque<Held>,
    /// Everything before this offset is acknowledged.
    acked: u64,
    /// The offset of each that is held, by its sequence.
    offsets: HashMap<u64, u64>,
    /// Deliveries of what was acknowledged: to be acknowledged again.
    again: Vec<Box<str>>,
}

impl Deliveries {
    fn next(&self) -> u64 {
        self.base + self.held.len() as u64
    }

    fn held_from(&self, offset: u64) -> impl Iterator<Item = &Held> {
        self.held.iter().skip(usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX))
    }

    fn get_mut(&mut self, offset: u64) -> Option<&mut Held> {
        self.held.get_mut(usize::try_from(offset.checked_sub(self.base)?).ok()?)
    }
}

/// What this process was delivered. Offsets count deliveries from 0.
pub(super) struct Queue {
    pub number: u32,
    /// How many acknowledged messages are remembered, so that one that is delivered again is known.
    remembered: usize,
    deliveries: Mutex<Deliveries>,
    /// How many messages the consumer has behind those that were delivered, about.
    left: AtomicU64,
    /// How many were delivered more than once.
    redelivered: AtomicU64,
}

impl Queue {
    pub fn new(number: u32, remembered: usize) -> Self {
        Self {
            number,
            remembered,
            deliveries: Mutex::default(),
            left: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
        }
    }

    /// The offset behind the last message that this process may be delivered, about.
    pub fn extent(&self) -> u64 {
        lock(&self.deliveries).next() + self.left.load(Ordering::Relaxed)
    }

    /// Begins at an offset: gives back what is held.
    pub async fn begin(&self, link: &Link, offset: u64) {
        self.give_back(link).await;
        let mut deliveries = lock(&self.deliveries);
        *deliveries = Deliveries { base: offset, acked: offset, ..Deliveries::default() };
    }

    fn take(&self, message: Message) -> Taken {
        let reply = message.reply.as_deref().unwrap_or_default();
        let Some(seen) = Delivery::of(reply) else {
            return Taken::Gap("a message came without its sequence".to_owned());
        };
        let reply = Box::from(reply);
        self.left.store(seen.left, Ordering::Relaxed);
        let mut deliveries = lock(&self.deliveries);
        if seen.times > 1 {
            let redelivered = self.redelivered.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(sequence = seen.sequence, times = seen.times, redelivered, "delivered again");
        }
        if let Some(offset) = deliveries.offsets.get(&seen.sequence).copied() {
            if offset < deliveries.acked {
                deliveries.again.push(reply);
            } else if let Some(held) = deliveries.get_mut(offset) {
                (held.reply, held.touched) = (Some(reply), Instant::now());
            }
            return Taken::Known;
        }
        let offset = deliveries.next();
        deliveries.offsets.insert(seen.sequence, offset);
        let held = Held { sequence: seen.sequence, reply: Some(reply), touched: Instant::now() };
        deliveries.held.push_back(held);
        Taken::Item(Item { offset, time_ms: seen.time_ms, message })
    }

    /// Acknowledges all deliveries before an offset, and waits until the server knows it.
    pub async fn commit(&self, link: &Link, offset: u64) -> Result<(), ConnectorError> {
        const WHAT: &str = "cannot acknowledge what is done";
        let (mut replies, again): (Vec<Box<str>>, usize) = {
            let deliveries = lock(&self.deliveries);
            let count = usize::try_from(offset.saturating_sub(deliveries.acked)).unwrap_or(usize::MAX);
            let due = deliveries.held_from(deliveries.acked).take(count);
            let due = due.filter_map(|held| held.reply.clone());
            (deliveries.again.iter().cloned().chain(due).collect(), deliveries.again.len())
        };
        let Some(last) = replies.pop() else { return Ok(()) };
        let connects = link.connects();
        let send = async {
            for reply in replies {
                link.client.publish(String::from(reply), ACK).await.map_err(|e| e.to_string())?;
            }
            link.client.request(String::from(last), ACK).await.map(drop).map_err(|e| e.to_string())
        };
        if !link.is_up() {
            return Err(link.away(WHAT, "the connection is lost"));
        }
        match tokio::time::timeout(TIMEOUT * 2, send).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => return Err(link.away(WHAT, &cause)),
            Err(_) => return Err(link.away(WHAT, "no answer")),
        }
        if link.connects() != connects || !link.is_up() {
            return Err(link.away(WHAT, "the connection was lost meanwhile"));
        }
        self.note_acked(offset, again);
        Ok(())
    }

    fn note_acked(&self, offset: u64, again: usize) {
        let mut deliveries = lock(&self.deliveries);
        let deliveries = &mut *deliveries;
        let count = again.min(deliveries.again.len());
        deliveries.again.drain(..count);
        while deliveries.acked < offset {
            let at = deliveries.acked;
            if let Some(held) = deliveries.get_mut(at) {
                held.reply = None;
            }
            deliveries.acked += 1;
        }
        while deliveries.acked - deliveries.base > self.remembered as u64
            && let Some(gone) = deliveries.held.pop_front()
        {
            if deliveries.offsets.get(&gone.sequence) == Some(&deliveries.base) {
                deliveries.offsets.remove(&gone.sequence);
            }
            deliveries.base += 1;
        }
    }

    /// Lets the server deliver what is held to others at once.
    pub async fn give_back(&self, link: &Link) {
        if !link.is_up() {
            return;
        }
        let replies: Vec<Box<str>> = {
            let mut deliveries = lock(&self.deliveries);
            let acked = usize::try_from(deliveries.acked - deliveries.base).unwrap_or(usize::MAX);
            // Once: a second time it would take it away from who has it by then.
            deliveries.held.iter_mut().skip(acked).filter_map(|held| held.reply.take()).collect()
        };
        if replies.is_empty() {
            return;
        }
        let send = async {
            for reply in replies {
                // What isn't given back comes back when its time is over.
                link.client.publish(String::from(reply), NOT_TAKEN).await.ok();
            }
            link.client.flush().await.ok();
        };
        let _ = tokio::time::timeout(TIMEOUT, send).await;
    }

    /// Says that what is held is in progress, at times, until `closed` is dropped; gives it back then.
    pub async fn keep(
        self: Arc<Self>,
        link: Arc<Link>,
        ack_wait: Duration,
        mut closed: oneshot::Receiver<()>,
    ) {
        let mut ticks = tokio::time::interval((ack_wait / 6).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut closed => return self.give_back(&link).await,
                _ = ticks.tick() => {}
            }
            if !link.is_up() {
                continue;
            }
            for reply in self.due(ack_wait / 6) {
                if link.client.publish(String::from(reply), IN_PROGRESS).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Where to say that what is held for so long is in progress.
    fn due(&self, age: Duration) -> Vec<Box<str>> {
        let mut deliveries = lock(&self.deliveries);
        let now = Instant::now();
        let skipped = usize::try_from(deliveries.acked - deliveries.base).unwrap_or(usize::MAX);
        let held = deliveries.held.iter_mut().skip(skipped);
        held.filter(|h| now.duration_since(h.touched) >= age)
            .filter_map(|h| {
                h.touched = now;
                h.reply.clone()
            })
            .collect()
    }
}

impl Sequences for Queue {
    fn of(&self, _: u32, offset: u64) -> u64 {
        // What was forgotten is acknowledged, and nothing is made of it any more.
        lock(&self.deliveries).get_mut(offset).map_or(u64::MAX, |held| held.sequence)
    }
}

/// A durable consumer's messages.
pub(super) struct QueueFeed {
    pub link: Arc<Link>,
    pub stream: String,
    pub consumer: String,
    /// When the stream and the consumer were made.
    pub created: (String, String),
    pub queue: Arc<Queue>,
}

#[async_trait]
impl Feed for QueueFeed {
    async fn begin(&mut self) -> Result<Pull, ConnectorError> {
        let (stream, consumer) = (&self.stream, &self.consumer);
        let info = self.link.stream(stream).await?;
        let found = self.link.consumer(stream, consumer).await?;
        let is_same = found.as_ref().is_some_and(|f| f.created == self.created.1);
        if info.created != self.created.0 || !is_same {
            return Err(ConnectorError::Fatal(format!(
                "consumer {consumer} of stream {stream} was deleted while it was read, and what it had acknowledged is forgotten; start again to make it anew: it begins as `start` says"
            )));
        }
        Pull::start(&self.link, stream, consumer).await
    }

    fn take(&mut self, message: Message) -> Taken {
        self.queue.take(message)
    }

    fn name(&self) -> String {
        format!("consumer {} of stream {}", self.consumer, self.stream)
    }
}
