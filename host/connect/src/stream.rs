//! Streams of bytes in which records stand one behind the other: files, stdin, stdout.

use std::sync::Arc;

use async_trait::async_trait;
use wasmill_codec::framing::{Cutter, Framing, Place};
use wasmill_codec::{Takes, Writing};
use wasmill_engine::input::RawBatch;
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId};
use wasmill_engine::position::PartitionId;
use wasmill_frame::Message;

use crate::pace::Pacer;
use crate::{ConnectorError, Polled, Reader};

/// Bytes, piece by piece.
#[async_trait]
pub(crate) trait Chunks: Send {
    /// The next piece, never empty; none at the end. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ConnectorError>;
}

/// Reads the records of a stream.
pub(crate) struct StreamReader<C> {
    chunks: C,
    cutter: Box<dyn Cutter>,
    partition: u32,
    pacer: Option<Arc<Pacer>>,
}

impl<C: Chunks> StreamReader<C> {
    /// Reads `chunks` from `from` on: its first byte stands there where the framing resumes, else it is the
    /// stream's.
    pub(crate) fn new(
        chunks: C,
        framing: &dyn Framing,
        partition: u32,
        from: Place,
        message_bytes_max: usize,
        pacer: Option<Arc<Pacer>>,
    ) -> Self {
        Self { chunks, cutter: framing.cutter(from, message_bytes_max), partition, pacer }
    }
}

#[async_trait]
impl<C: Chunks> Reader for StreamReader<C> {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        let messages_max = match &self.pacer {
            Some(pacer) => pacer.due(messages_max).await,
            None => messages_max,
        };
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: self.partition });
        loop {
            self.cutter.take(&mut batch, messages_max, bytes_max);
            if !batch.records.is_empty() {
                break;
            }
            // Nothing is taken between this wait and the return, so a dropped future loses nothing.
            match self.chunks.next().await? {
                Some(chunk) => self.cutter.feed(chunk),
                None => {
                    self.cutter.end(&mut batch);
                    if batch.records.is_empty() {
                        return Ok(Polled::End);
                    }
                    break;
                }
            }
        }
        batch.next = self.cutter.next();
        if let Some(pacer) = &self.pacer {
            pacer.took(batch.records.len());
        }
        Ok(Polled::Records(batch))
    }
}

/// Writes messages for a stream.
pub(crate) struct StreamEncoder(pub Writing);

impl Encoder for StreamEncoder {
    fn encode(&self, message: Message<'_>, _: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let start = into.data.len();
        let record = self.0.writer.write(message, Takes::default(), into)?;
        if let Err(reason) = self.0.framing.check(&into.data[record.value.clone()]) {
            into.data.truncate(start);
            return Err(reason);
        }
        into.records.push(record);
        Ok(())
    }
}
