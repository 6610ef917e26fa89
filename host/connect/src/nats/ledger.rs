//! What the processes of a pipeline agree on: subjects of a stream that wasmill makes.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;

use super::link::Link;
use super::own_stream::OwnStream;
use super::source::NatsSourceSpec;
use crate::ledger::PIECE_BYTES;
use crate::{ConnectorError, Ledger, Notes};

/// Where it is.
const STREAM: OwnStream = OwnStream {
    name: "WASMILL-AGREED",
    subjects: "wasmill.agreed.>",
    about: "what the processes of a pipeline agree on",
    per_subject: -1,
};

/// What can't be done where something is not forgotten.
const FORGETS: &str = "cannot forget what the pipeline's processes agreed on";

/// A ledger in JetStream.
pub(super) struct NatsLedger {
    spec: NatsSourceSpec,
    pipeline: String,
    link: Option<Arc<Link>>,
    /// The last note that was read, with its sequence.
    last: Option<(u64, Vec<u8>)>,
}

impl NatsLedger {
    pub fn new(spec: NatsSourceSpec, pipeline: &str) -> Self {
        Self { spec, pipeline: pipeline.to_owned(), link: None, last: None }
    }

    async fn link(&mut self) -> Result<Arc<Link>, ConnectorError> {
        Link::kept(&mut self.link, &self.spec.access()).await
    }

    fn notes(&self) -> String {
        format!("wasmill.agreed.note.{}", self.pipeline)
    }

    /// A piece of a file; the first one says how many there are.
    fn piece(&self, name: &str, number: usize) -> String {
        format!("wasmill.agreed.file.{name}.{number}.{}", self.pipeline)
    }

    async fn publish(&mut self, subject: &str, body: Bytes) -> Result<(), ConnectorError> {
        const WHAT: &str = "cannot tell the pipeline's other processes";
        let link = self.link().await?;
        link.publish(WHAT, subject, HeaderMap::new(), body)
            .await
            .map_err(told)?
            .map(drop)
            .map_err(|e| link.refused(WHAT, &e))
    }

    /// The stream as safe as the one that is read.
    async fn make(&mut self) -> Result<(), ConnectorError> {
        let link = self.link().await?;
        let replicas = link.stream(&self.spec.stream).await?.config.num_replicas;
        STREAM.make(&link, replicas).await.map_err(told)
    }
}

/// A server tells what a user may not do beside the answer, which then never comes.
fn told(error: ConnectorError) -> ConnectorError {
    match error {
        ConnectorError::Disconnected { what, cause }
            if cause.to_lowercase().contains("permissions violation") =>
        {
            ConnectorError::Fatal(format!(
                "{what}: {cause}; allow this user $JS.API.STREAM.*.{}, $JS.API.STREAM.MSG.GET.{} and {}",
                STREAM.name, STREAM.name, STREAM.subjects
            ))
        }
        error => error,
    }
}

#[async_trait]
impl Ledger for NatsLedger {
    async fn read(&mut self) -> Result<Notes, ConnectorError> {
        let (link, subject) = (self.link().await?, self.notes());
        let from = async |sequence| link.message_from(STREAM.name, &subject, sequence).await.map_err(told);
        let mut last = self.last.clone();
        let mut is_anew = false;
        if let Some((sequence, note)) = &last {
            let there = from(*sequence).await?;
            is_anew = !there.is_some_and(|there| there.seq == *sequence && there.bytes() == *note);
        }
        if is_anew {
            last = None;
        }
        let mut notes = Vec::new();
        while let Some(message) = from(last.as_ref().map_or(1, |(sequence, _)| sequence + 1)).await? {
            notes.push(message.bytes());
            last = Some((message.seq, message.bytes()));
        }
        self.last = last;
        Ok(Notes { is_anew, notes })
    }

    async fn add(&mut self, note: &[u8]) -> Result<(), ConnectorError> {
        self.make().await?;
        self.publish(&self.notes(), Bytes::copy_from_slice(note)).await
    }

    async fn keep(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConnectorError> {
        self.make().await?;
        let link = self.link().await?;
        // What is asked for comes back as text.
        let piece_bytes = PIECE_BYTES.min(link.client.server_info().max_payload / 2).max(1);
        let pieces: Vec<&[u8]> = bytes.chunks(piece_bytes).collect();
        for (number, piece) in pieces.iter().enumerate() {
            self.publish(&self.piece(name, number + 1), Bytes::copy_from_slice(piece)).await?;
        }
        // The last to come: with it the file is whole.
        self.publish(&self.piece(name, 0), pieces.len().to_string().into()).await
    }

    async fn fetch(&mut self, name: &str) -> Result<Option<Vec<u8>>, ConnectorError> {
        let link = self.link().await?;
        let head = link.last_message(STREAM.name, &self.piece(name, 0)).await.map_err(told)?;
        let count = head.and_then(|head| String::from_utf8(head.bytes()).ok()?.parse::<usize>().ok());
        let Some(count) = count else { return Ok(None) };
        let mut file = Vec::new();
        for number in 1..=count {
            match link.last_message(STREAM.name, &self.piece(name, number)).await.map_err(told)? {
                Some(piece) => file.extend(piece.bytes()),
                None => return Ok(None),
            }
        }
        Ok(Some(file))
    }

    async fn forget(&mut self, names: &[String]) -> Result<(), ConnectorError> {
        let link = self.link().await?;
        for name in names {
            let pieces = format!("wasmill.agreed.file.{name}.*.{}", self.pipeline);
            STREAM.forget(&link, FORGETS, &pieces).await.map_err(told)?;
        }
        Ok(())
    }

    async fn reset(&mut self) -> Result<(), ConnectorError> {
        let link = self.link().await?;
        let files = format!("wasmill.agreed.file.*.*.{}", self.pipeline);
        for subjects in [self.notes(), files] {
            STREAM.forget(&link, FORGETS, &subjects).await.map_err(told)?;
        }
        Ok(())
    }
}
