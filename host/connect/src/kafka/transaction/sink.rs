//! A sink whose records are a part of a transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use rdkafka::producer::BaseRecord;
use wasmill_engine::output::{EncodedBatch, Encoder};

use super::super::encoder::KafkaEncoder;
use super::super::sink::{KafkaSinkSpec, Parts, YIELD_EVERY, parts};
use super::outcomes::SINK_SHIFT;
use super::{Sent, Shared, Transactions};
use crate::{ConnectorError, Refused, Sink, SinkTraits, codec};

/// Writes to a topic, within a transaction.
pub(super) struct TransactionalSink {
    pub spec: KafkaSinkSpec,
    pub shared: Arc<Shared>,
    pub number: usize,
    /// Which transaction the two below are of.
    pub transaction: u64,
    /// How many records of the batch that is being written were handed over, should the call be repeated.
    pub written: usize,
    /// How many records were handed over since the transaction began, before this batch.
    pub before: usize,
}

#[async_trait]
impl Sink for TransactionalSink {
    fn traits(&self) -> SinkTraits {
        SinkTraits { transactional: true, refuses_repeats: false, by_token: false }
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(KafkaEncoder { codec: Arc::clone(&codec.writer), key: self.spec.key })
    }

    /// [`Transactions::init`] has found the topic.
    async fn recover(&mut self, _: Option<&str>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        let session = self.shared.session()?;
        let transaction = self.shared.begun.load(Ordering::SeqCst);
        if std::mem::replace(&mut self.transaction, transaction) != transaction {
            (self.written, self.before) = (0, 0);
        }
        while let Some(record) = batch.records.get(self.written) {
            let Parts { value, key, headers } = parts(batch, record);
            let taken = BaseRecord {
                topic: &self.spec.topic,
                partition: None,
                payload: value,
                key,
                // 0 means now to librdkafka, and Kafka has no times before 1970.
                timestamp: record.timestamp.filter(|t| *t > 0),
                headers,
                delivery_opaque: self.number << SINK_SHIFT | (self.before + self.written),
            };
            match self.shared.send(&session, &self.spec.topic, taken)? {
                Sent::Taken => self.written += 1,
                Sent::Full => self.shared.wait_for_room(&session).await?,
            }
            if self.written.is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
        }
        self.before += std::mem::take(&mut self.written);
        Ok(())
    }

    /// [`Transactions::flush`] flushes for all of them.
    async fn flush(&mut self) -> Result<String, ConnectorError> {
        Ok(String::new())
    }

    fn refused(&mut self) -> Vec<Refused> {
        Transactions(Arc::clone(&self.shared)).take_refused(self.number)
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _in_order: bool) -> Result<(), ConnectorError> {
        Ok(())
    }
}
