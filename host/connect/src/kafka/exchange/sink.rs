//! The exchange as a sink.

use std::sync::Arc;

use async_trait::async_trait;
use wasmill_engine::output::{EncodedBatch, Encoder};
use wasmill_engine::position::{PartitionId, Position};

use super::ExchangeTopic;
use super::record::{ExchangeEncoder, MESSAGES_MAX, mark, pack};
use crate::kafka::group::number;
use crate::kafka::transaction::Transactions;
use crate::{ConnectorError, Refused, Sink, SinkTraits, codec};

/// How much goes into one record: what a record costs, at both ends and between, is then little beside its
/// messages.
const RECORD_BYTES: usize = 16 << 10;

/// Writes to the topic.
pub(super) struct ExchangeSink {
    pub exchange: ExchangeTopic,
    pub transactions: Transactions,
    pub number: usize,
    /// Which transaction `written` is of.
    pub transaction: u64,
    /// How many records of the batch that is being written were handed over, should the call be repeated.
    pub written: usize,
    /// Whether each message has a record of its own, so that it shows which one the brokers refuse.
    pub alone: bool,
}

/// A record that is being filled.
#[derive(Default, Clone)]
struct Filling {
    value: Vec<u8>,
    messages: usize,
    /// Which message of the batch is the first in it.
    first: usize,
}

impl ExchangeSink {
    /// Writes the `nth` record of a batch, unless it is written already.
    async fn put(&mut self, nth: usize, partition: usize, filled: &Filling) -> Result<(), ConnectorError> {
        if nth < self.written {
            return Ok(());
        }
        let to = (self.exchange.topic.as_str(), i32::try_from(partition).unwrap_or(0));
        self.transactions.put_for(self.number, filled.first, to, b"", &filled.value).await?;
        self.written = nth + 1;
        Ok(())
    }
}

#[async_trait]
impl Sink for ExchangeSink {
    fn traits(&self) -> SinkTraits {
        SinkTraits { transactional: true, refuses_repeats: false, by_token: false }
    }

    fn encoder(&self, _: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(ExchangeEncoder)
    }

    async fn recover(&mut self, _: Option<&str>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        let transaction = self.transactions.begun();
        if std::mem::replace(&mut self.transaction, transaction) != transaction {
            self.written = 0;
        }
        let (bytes_max, messages_max) = if self.alone { (0, 1) } else { (RECORD_BYTES, MESSAGES_MAX) };
        let mut filling = vec![Filling::default(); self.exchange.partitions as usize];
        let mut nth = 0;
        for (message, record) in batch.records.iter().enumerate() {
            let bytes = |range: &std::ops::Range<usize>| batch.data.get(range.clone()).unwrap_or_default();
            let key = record.key.as_ref().map(bytes).unwrap_or_default();
            let (partition, value) = (self.exchange.partition_of(key), bytes(&record.value));
            let full = &mut filling[partition];
            if full.messages > 0
                && (full.messages == messages_max || full.value.len() + value.len() > bytes_max)
            {
                self.put(nth, partition, full).await?;
                nth += 1;
                full.value.clear();
                full.messages = 0;
            }
            if full.messages == 0 {
                full.first = message;
                full.value.reserve(bytes_max.max(value.len()));
            }
            pack(value, &mut full.value);
            full.messages += 1;
        }
        for (partition, rest) in filling.iter().enumerate().filter(|(_, rest)| rest.messages > 0) {
            self.put(nth, partition, rest).await?;
            nth += 1;
        }
        self.written = 0;
        Ok(())
    }

    async fn progress(&mut self, positions: &[(PartitionId, Position)]) -> Result<(), ConnectorError> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut value = Vec::new();
        mark(positions.iter().map(|(id, position)| (id, position.stream_time)), &mut value);
        for partition in 0..self.exchange.partitions {
            let to = (self.exchange.topic.as_str(), number(partition));
            self.transactions.put_for(self.number, usize::MAX, to, b"", &value).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        Ok(String::new())
    }

    /// Of a record of many messages nobody knows which one is refused: the epoch is written once more then, with
    /// each by itself.
    fn refused(&mut self) -> Vec<Refused> {
        let refused = self.transactions.take_refused(self.number);
        if refused.is_empty() || std::mem::replace(&mut self.alone, true) { refused } else { Vec::new() }
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _: bool) -> Result<(), ConnectorError> {
        Ok(())
    }
}
