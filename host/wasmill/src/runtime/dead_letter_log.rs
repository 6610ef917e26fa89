//! Where dead letters go when a pipeline names no sink for them: into the log, each whole.

use std::sync::Arc;

use async_trait::async_trait;
use wasmill_connect::codec::Writing;
use wasmill_connect::codec::json::JsonEncoder;
use wasmill_connect::{ConnectorError, Sink, SinkTraits};
use wasmill_engine::output::{EncodedBatch, Encoder};

/// The sink of last resort: nothing vanishes unsaid.
pub(super) struct DeadLetterLog;

#[async_trait]
impl Sink for DeadLetterLog {
    fn traits(&self) -> SinkTraits {
        SinkTraits { transactional: false, refuses_repeats: false, by_token: false }
    }

    fn encoder(&self, _: &Writing) -> Arc<dyn Encoder> {
        Arc::new(JsonEncoder)
    }

    async fn recover(&mut self, _: Option<&str>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        for record in &batch.records {
            let text = String::from_utf8_lossy(&batch.data[record.value.clone()]);
            tracing::error!(dead_letter = text.trim_end(), "a message could not be processed");
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        Ok(String::new())
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _: bool) -> Result<(), ConnectorError> {
        Ok(())
    }
}
