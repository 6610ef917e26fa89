//! A sink whose messages are written when their entries are acknowledged.

use std::sync::Arc;

use async_trait::async_trait;
use wasmill_engine::output::{EncodedBatch, Encoder};

use super::acks_store::RedisAcksStore;
use super::info;
use super::write::RedisEncoder;
use crate::redis_link::told;
use crate::{ConnectorError, Sink, SinkTraits, Writer, codec, os};

/// What it answers to each flush: what is committed is known to Redis alone.
const TOKEN: &str = "acknowledged";

/// A stream as a sink of a [`RedisAcksStore`].
pub(super) struct AcksSink {
    store: Arc<RedisAcksStore>,
    number: usize,
    stream: String,
    writer: Writer,
}

impl AcksSink {
    pub fn new(store: Arc<RedisAcksStore>, number: usize, stream: String) -> Self {
        Self { store, number, stream, writer: Writer::default() }
    }
}

#[async_trait]
impl Sink for AcksSink {
    fn traits(&self) -> SinkTraits {
        // What is written is written in the commit.
        SinkTraits { transactional: true, refuses_repeats: true, by_token: false }
    }

    fn identify(&mut self, writer: Writer) {
        self.writer = writer;
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(RedisEncoder { codec: Arc::clone(&codec.writer), writer: self.writer.clone() })
    }

    async fn recover(&mut self, _: Option<&str>) -> Result<(), ConnectorError> {
        let (store, stream, exact) = (Arc::clone(&self.store), self.stream.clone(), self.writer.exact);
        os::blocking(move || {
            // Tells of a key that is no stream now, not at the first commit.
            store.link().call("cannot look at the stream", |c| info::stream(c, &stream)).map_err(told)?;
            if exact { store.must_be_exact().map_err(told) } else { Ok(()) }
        })
        .await
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        self.store.keep(self.number, batch);
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        Ok(TOKEN.to_owned())
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _: bool) -> Result<(), ConnectorError> {
        Ok(())
    }
}
