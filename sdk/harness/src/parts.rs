//! The ends that driver and simulator share: records as JSON lines, outputs as their id and line.

use std::sync::Arc;

use wasmill_connect::codec::json::JsonEncoder;
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId, SinkRoute, Takes};
use wasmill_engine::position::PartitionId;
use wasmill_frame::Message;

/// One output as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// Its output id.
    pub id: String,
    /// The message, as the JSON envelope.
    pub line: String,
}

/// Writes a message as its JSON envelope, and its output id beside it.
pub struct TestEncoder(pub JsonEncoder);

impl Encoder for TestEncoder {
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        self.0.encode(message, id, into)?;
        let start = into.data.len();
        into.data.extend_from_slice(format!("{id:?}").as_bytes());
        if let Some(record) = into.records.last_mut() {
            record.id = Some(start..into.data.len());
        }
        Ok(())
    }
}

/// A sink for tests that takes what `takes` says.
#[must_use]
pub fn sink(takes: Takes) -> SinkRoute {
    SinkRoute { takes, encoder: Arc::new(TestEncoder(JsonEncoder)) }
}

/// The outputs of an encoded batch.
pub fn outputs(batch: &EncodedBatch) -> impl Iterator<Item = Output> {
    batch.records.iter().map(|r| {
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&batch.data[range]).trim_end().to_owned();
        Output { id: r.id.clone().map(text).unwrap_or_default(), line: text(r.value.clone()) }
    })
}

/// Lines of a partition's log as a raw batch; the offset of a line is its place in the log.
#[must_use]
pub fn raw_batch(partition: PartitionId, first: u64, lines: &[String]) -> RawBatch {
    let mut data = Vec::new();
    let mut records = Vec::with_capacity(lines.len());
    for (offset, line) in (first..).zip(lines) {
        let start = data.len();
        data.extend_from_slice(line.as_bytes());
        records.push(RawRecord {
            offset,
            next: offset + 1,
            value: start..data.len(),
            ..RawRecord::default()
        });
    }
    RawBatch { partition, data, records, next: first + lines.len() as u64 }
}
