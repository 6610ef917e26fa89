//! The codecs of a pipeline's ends, ready for use: their files read, their registries asked.

use std::sync::Arc;

use wasmill_connect::ConnectorError;
use wasmill_connect::codec::{Ahead, CodecError, Reading, Writing, json};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::replay::originals;

use super::super::retry::{Ends, insist};
use super::outside;
use crate::spec::{CodecSpec, Part, Pipeline, SinkSpec};

/// How the messages of each source are read, in the sources' order; none of an exchange, which has a form of its own.
pub(super) async fn readings(pipeline: &Pipeline, ends: &Ends) -> anyhow::Result<Vec<Reading>> {
    let mut readings = Vec::new();
    if pipeline.part == Part::Behind {
        return Ok(readings);
    }
    for (source, codec) in pipeline.sources.iter().zip(&pipeline.codecs) {
        let end = format!("codec of source {}", source.name());
        let called = source.called();
        let read = async || codec.reading(&called).await.map_err(ConnectorError::from);
        readings.push(insist!(ends, &end, read()).map_err(outside)?);
    }
    if let Some(replay) = pipeline.replay() {
        let of: Vec<_> = readings.iter().map(|r| r.ahead.clone()).collect();
        if let Some(reading) = readings.get_mut(replay).filter(|_| of.iter().any(Option::is_some)) {
            reading.ahead = Some(Arc::new(OfLetters { envelope: Arc::clone(&reading.decoder), of }));
        }
    }
    Ok(readings)
}

/// Brings what the records need that dead letters hold and that are decoded again.
struct OfLetters {
    envelope: Arc<dyn Decoder>,
    /// By source.
    of: Vec<Option<Arc<dyn Ahead>>>,
}

#[async_trait::async_trait]
impl Ahead for OfLetters {
    async fn bring(&self, batch: &RawBatch) -> Result<(), CodecError> {
        for original in originals(&*self.envelope, batch) {
            if let Some(Some(ahead)) = self.of.get(usize::from(original.partition.source)) {
                ahead.bring(&original).await?;
            }
        }
        Ok(())
    }
}

/// How the messages of a sink are written.
pub(super) async fn writing(
    codec: &CodecSpec,
    name: &str,
    sink: &SinkSpec,
    ends: &Ends,
) -> anyhow::Result<Writing> {
    let end = format!("codec of sink {name}");
    let called = sink.called();
    let write = async || codec.writing(&called).await.map_err(ConnectorError::from);
    insist!(ends, &end, write()).map_err(outside)
}

/// How dead letters are written, and what goes through an exchange.
pub(super) fn envelopes() -> Writing {
    json::writing()
}

/// Decoders of as many sources as a pipeline has, for who never reads.
pub(super) fn envelope_decoders(pipeline: &Pipeline) -> Vec<Arc<dyn Decoder>> {
    pipeline.sources.iter().map(|_| json::reading().decoder).collect()
}

/// The decoders of readings.
pub(super) fn decoders(readings: &[Reading]) -> Vec<Arc<dyn Decoder>> {
    readings.iter().map(|r| Arc::clone(&r.decoder)).collect()
}

/// What must be had before batches of each source can be decoded.
pub(super) fn aheads(readings: &[Reading]) -> Arc<[Option<Arc<dyn Ahead>>]> {
    readings.iter().map(|r| r.ahead.clone()).collect()
}
