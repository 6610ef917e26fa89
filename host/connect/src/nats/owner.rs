//! The record that says which process reads a log: whoever writes it last has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use serde::{Deserialize, Serialize};

use super::link::Link;
use super::own_stream::OwnStream;
use crate::ConnectorError;

/// The stream of the records.
const STREAM: OwnStream =
    OwnStream { name: "WASMILL", subjects: "wasmill.owner.>", about: "who reads a stream", per_subject: 1 };
/// How often the record is written again; in between it is read.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How often it is tried to be the last one of several that begin at the same time.
const TRIES_MAX: usize = 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Random: nobody else's.
    token: String,
    /// Counts this process's records.
    count: u64,
    /// The process, for people.
    pid: u32,
}

/// What is known of this process's record.
pub(super) struct Owner {
    link: Arc<Link>,
    /// The stream and the consumer, for people.
    what: String,
    subject: String,
    record: Record,
    /// The sequence of the record.
    sequence: u64,
    written: Instant,
}

enum Written {
    Done,
    Wrong,
}

impl Owner {
    /// Takes the log from whoever has it.
    pub async fn take(
        link: &Arc<Link>,
        stream: &str,
        consumer: &str,
        replicas: u64,
    ) -> Result<Self, ConnectorError> {
        STREAM.make(link, replicas).await?;
        let inbox = link.client.new_inbox();
        let record = Record {
            token: inbox.rsplit('.').next().unwrap_or_default().to_owned(),
            count: 0,
            pid: std::process::id(),
        };
        let mut owner = Self {
            link: Arc::clone(link),
            what: format!("stream {stream} for consumer {consumer}"),
            subject: subject(stream, consumer),
            record,
            sequence: 0,
            written: Instant::now(),
        };
        for _ in 0..TRIES_MAX {
            let found = owner.found().await?;
            owner.sequence = found.as_ref().map_or(0, |(sequence, _)| *sequence);
            if let Some((_, Some(before))) = &found
                && before.token != owner.record.token
            {
                tracing::info!(
                    pid = before.pid,
                    "another process read {}, and may no more commit",
                    owner.what
                );
            }
            match owner.write().await {
                Ok(Written::Done) => return Ok(owner),
                Ok(Written::Wrong) => {}
                Err(error) => {
                    // The record may be there though its answer was lost.
                    let Ok(Some((sequence, Some(now)))) = owner.found().await else { return Err(error) };
                    if now.token == owner.record.token {
                        owner.sequence = sequence;
                        return Ok(owner);
                    }
                    return Err(error);
                }
            }
        }
        Err(ConnectorError::Disconnected {
            what: format!("cannot take {}", owner.what),
            cause: "other processes take it at the same time".to_owned(),
        })
    }

    /// Makes sure that it is this process's still.
    pub async fn confirm(&mut self) -> Result<(), ConnectorError> {
        if self.written.elapsed() >= WRITE_EVERY {
            match self.write().await {
                Ok(Written::Done) => return Ok(()),
                Ok(Written::Wrong) => {}
                // Whether it is written is told by what is there: below, now or at the next call.
                Err(error @ ConnectorError::Disconnected { .. }) if !self.link.is_up() => return Err(error),
                Err(ConnectorError::Disconnected { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match self.found().await? {
            Some((sequence, Some(now))) if now.token == self.record.token => {
                self.sequence = sequence;
                Ok(())
            }
            Some((_, Some(now))) => {
                Err(self.fenced(&format!("another process, with the id {}, took it over", now.pid)))
            }
            Some((_, None)) => Err(self.fenced("its record of who reads it is another's")),
            None => Err(self.fenced("its record of who reads it was removed, as `wasmill reset` does")),
        }
    }

    fn fenced(&self, why: &str) -> ConnectorError {
        ConnectorError::Fenced(format!(
            "{}: {why}, so this process ends; run one process of a pipeline that keeps state, and give another pipeline another `consumer`",
            self.what
        ))
    }

    /// The last record, if it can be read, with its sequence.
    async fn found(&self) -> Result<Option<(u64, Option<Record>)>, ConnectorError> {
        let found = self.link.last_message(STREAM.name, &self.subject).await?;
        Ok(found.map(|message| (message.seq, serde_json::from_slice(&message.bytes()).ok())))
    }

    /// Writes the record behind the last one that is known.
    async fn write(&mut self) -> Result<Written, ConnectorError> {
        self.record.count += 1;
        let what = format!("cannot note who reads {}", self.what);
        let body = serde_json::to_vec(&self.record).map_err(|e| ConnectorError::Fatal(e.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.sequence.to_string().as_str());
        match self.link.publish(&what, &self.subject, headers, body.into()).await? {
            Ok(published) => {
                self.sequence = published.seq;
                self.written = Instant::now();
                Ok(Written::Done)
            }
            Err(e) if e.is_wrong_last_sequence() => Ok(Written::Wrong),
            Err(e) => Err(self.link.refused(&what, &e)),
        }
    }
}

/// Where the record is.
fn subject(stream: &str, consumer: &str) -> String {
    format!("wasmill.owner.{stream}.{consumer}")
}

/// Forgets who reads a log.
pub(super) async fn forget(link: &Link, stream: &str, consumer: &str) -> Result<(), ConnectorError> {
    let what = format!("cannot forget who reads stream {stream} for consumer {consumer}");
    STREAM.forget(link, &what, &subject(stream, consumer)).await
}
