//! A subject's messages in its stream, looked through to their end.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use super::link::{Lasts, Link};
use super::pull::{Delivery, Ended, Pull};
use super::sink::NatsSinkSpec;
use crate::ConnectorError;
use crate::scan::{Part, SCAN_BYTES_MAX, SCAN_RECORDS_MAX, Scan, Scanned};

/// How long the server keeps the consumer, should this process end meanwhile: in nanoseconds.
const FORGOTTEN_AFTER: u64 = 30_000_000_000;

/// Reads what a stream has of a subject, by a consumer that is gone with the scan.
pub struct NatsScan {
    parts: Vec<Part>,
    reading: Option<Reading>,
    what: String,
}

struct Reading {
    link: Arc<Link>,
    pull: Pull,
    /// The subject at which the server is told that the consumer may go.
    done: String,
    nth: u64,
    /// The last sequence that was there when the scan began.
    last: u64,
}

impl NatsScan {
    /// Looks at the stream that takes a sink's subject.
    ///
    /// # Errors
    /// Disconnected where the servers are away; fatal where no stream takes the subject, or it may not be read.
    pub async fn of_sink(spec: &NatsSinkSpec) -> Result<Self, ConnectorError> {
        let link = Arc::new(Link::connect(&spec.access(), Lasts::Always).await?);
        let subject = &spec.subject;
        let what = format!("cannot read back subject {subject}");
        let stream = link.stream_of(subject).await?.ok_or_else(|| {
            ConnectorError::Fatal(format!("no stream at {} takes the subject {subject}", link.address))
        })?;
        let info = link.stream(&stream).await?;
        let inbox = link.client.new_inbox();
        let consumer = format!("wasmill-scan-{}", inbox.rsplit('.').next().unwrap_or_default());
        let config = json!({
            "name": consumer,
            "description": "wasmill looks through dead letters",
            "ack_policy": "none",
            "deliver_policy": "all",
            // What a stream renames on its way in has another subject there.
            "filter_subjects": match info.config.subject_transform { None => vec![subject], Some(_) => Vec::new() },
            "replay_policy": "instant",
            "inactive_threshold": FORGOTTEN_AFTER,
            "mem_storage": true,
            "num_replicas": 1,
        });
        let made = link.create_consumer(&stream, &consumer, &config).await?;
        let made = made.map_err(|e| link.refused(&what, &e))?;
        let done = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
        let part = Part {
            number: 0,
            name: stream.clone(),
            incarnation: None,
            begin: info.first(),
            end: Some(info.end()),
        };
        let pull = Pull::start(&link, &stream, &consumer).await?;
        let mut reading = Reading { link, pull, done, nth: 0, last: info.state.last_seq };
        if made.num_pending == 0 {
            reading.end().await;
            return Ok(Self { parts: vec![part], reading: None, what });
        }
        Ok(Self { parts: vec![part], reading: Some(reading), what })
    }
}

impl Reading {
    async fn end(&mut self) {
        // It goes by itself where this fails.
        self.link.client.publish(self.done.clone(), "{}".into()).await.ok();
        self.link.client.flush().await.ok();
    }

    /// Some more, and whether that is the end.
    async fn step(&mut self, what: &str) -> Result<(RawBatch, bool), ConnectorError> {
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        while batch.records.len() < SCAN_RECORDS_MAX && batch.data.len() < SCAN_BYTES_MAX {
            self.pull.refill().await;
            let message = self.pull.next().await.map_err(|ended| match ended {
                Ended::Lost(cause) => self.link.away(what, &cause),
                Ended::Reconnected => self.link.away(what, "the connection was lost"),
                Ended::Refused(cause) => ConnectorError::Fatal(format!("{what}: {cause}")),
            })?;
            let seen = message.reply.as_ref().and_then(|reply| Delivery::of(reply));
            self.nth += 1;
            let Some(seen) = seen.filter(|seen| seen.nth == self.nth) else {
                return Err(self.link.away(what, "a message was lost on its way"));
            };
            if seen.sequence <= self.last {
                let start = batch.data.len();
                batch.data.extend_from_slice(&message.payload);
                batch.next = seen.sequence + 1;
                batch.records.push(RawRecord {
                    offset: seen.sequence,
                    next: seen.sequence + 1,
                    value: start..batch.data.len(),
                    time_ms: Some(seen.time_ms),
                    appended_ms: Some(seen.time_ms),
                    ..RawRecord::default()
                });
            }
            if seen.left == 0 || seen.sequence >= self.last {
                return Ok((batch, true));
            }
        }
        Ok((batch, false))
    }
}

#[async_trait]
impl Scan for NatsScan {
    fn parts(&self) -> &[Part] {
        &self.parts
    }

    async fn next(&mut self) -> Result<Option<Scanned>, ConnectorError> {
        let Some(mut reading) = self.reading.take() else { return Ok(None) };
        let (batch, is_end) = reading.step(&self.what).await?;
        match is_end {
            true => reading.end().await,
            false => self.reading = Some(reading),
        }
        Ok((!batch.records.is_empty()).then_some(Scanned::Records(batch)))
    }
}
