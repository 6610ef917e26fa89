//! Messages from a formula, for demos, benchmarks and tests.
//!
//! A message is a pure function of (seed, partition, offset), so any offset can be read again. An
//! offset counts messages.

use std::io::Write;
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::TIMESTAMP_MAX_MS;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::pace::{self, Pacer};
use crate::table::SourceConnector;
use crate::units::{HumanDuration, HumanSize};
use crate::{ConnectorError, Partition, Polled, Reader, Source, SourceTraits};

/// The most partitions.
const PARTITIONS_MAX: u32 = 4096;
/// The greatest padding of a payload.
const PADDING_BYTES_MAX: u64 = 1 << 20;

/// Made-up messages `{"id", "type": "reading", "payload": {"key", "value", "pad"}, …}`, the same at every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeneratorSourceSpec {
    /// How many partitions. Default: 1.
    #[schemars(range(min = 1, max = 4096))]
    pub partitions: u32,
    /// How many messages each partition has. Default: it never ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// At most this many messages a second, over all partitions. Default: as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Another seed gives other messages. Default: 0.
    pub seed: u64,
    /// How many keys there are: `k0`, `k1` and so on. Default: 100.
    pub keys: u64,
    /// The size of the payload's text `pad`. Default: 64B.
    pub padding: HumanSize,
    /// The event time of the first message, in milliseconds since 1970. Default: 2024-01-01 in UTC.
    pub start: i64,
    /// How much event time lies between two messages. Default: 10ms.
    pub interval: HumanDuration,
    /// By how much event time a message may be behind its place in the order. Default: 0s.
    pub disorder: HumanDuration,
}

impl Default for GeneratorSourceSpec {
    fn default() -> Self {
        Self {
            partitions: 1,
            count: None,
            rate: None,
            seed: 0,
            keys: 100,
            padding: HumanSize(64),
            start: 1_704_067_200_000,
            interval: HumanDuration(std::time::Duration::from_millis(10)),
            disorder: HumanDuration::default(),
        }
    }
}

impl SourceConnector for GeneratorSourceSpec {
    fn refuses_codec(&self) -> Option<&'static str> {
        Some("it makes its messages itself")
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits {
            seekable: true,
            bounded: self.count.is_some(),
            shared: false,
            shared_with_positions: false,
            forgets: false,
            append_times: false,
        }
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(GeneratorSource::new(self.clone())?))
    }
}

/// Messages from a formula.
pub struct GeneratorSource {
    spec: Arc<GeneratorSourceSpec>,
    pacer: Option<Arc<Pacer>>,
}

impl GeneratorSource {
    /// A source of the messages that a spec describes.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn new(spec: GeneratorSourceSpec) -> Result<Self, ConnectorError> {
        let wrong = |what: String| Err(ConnectorError::Fatal(format!("generator: {what}")));
        if !(1..=PARTITIONS_MAX).contains(&spec.partitions) {
            return wrong(format!("partitions of {}: expected 1 to {PARTITIONS_MAX}", spec.partitions));
        }
        if spec.keys == 0 {
            return wrong("keys of 0: expected at least 1".into());
        }
        if spec.padding.0 > PADDING_BYTES_MAX {
            return wrong(format!(
                "padding of {}: expected at most {}",
                spec.padding,
                HumanSize(PADDING_BYTES_MAX)
            ));
        }
        if !(0..=TIMESTAMP_MAX_MS).contains(&spec.start) {
            return wrong(format!("start of {}: expected 0 to {TIMESTAMP_MAX_MS}", spec.start));
        }
        let pacer = Pacer::new(pace::check(spec.rate)?);
        Ok(Self { spec: Arc::new(spec), pacer })
    }
}

#[async_trait]
impl Source for GeneratorSource {
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let s = &self.spec;
        // What changes the messages; a greater count or another rate doesn't.
        let shape = format!("{} {} {} {} {} {}", s.seed, s.keys, s.padding, s.start, s.interval, s.disorder);
        let incarnation = format!("generator-{:016x}", xxh3_64(shape.as_bytes()));
        let partition = |number| Partition {
            number,
            name: format!("generator {number}"),
            incarnation: incarnation.clone(),
            begin: 0,
            position: None,
            extent: s.count,
        };
        Ok((0..s.partitions).map(partition).collect())
    }

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let s = &self.spec;
        let last = s.count.unwrap_or(u64::MAX);
        if partition >= s.partitions || offset > last {
            return Err(ConnectorError::Fatal(format!(
                "generator: there is no message {offset} of partition {partition}; `partitions` or `count` was greater when that was committed: raise it again, or run `wasmill reset`"
            )));
        }
        Ok(Box::new(GeneratorReader {
            pad: "x".repeat(usize::try_from(s.padding.0).unwrap_or(0)),
            spec: Arc::clone(s),
            pacer: self.pacer.clone(),
            partition,
            offset,
        }))
    }

    async fn commit(&mut self, _offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        Ok(())
    }
}

struct GeneratorReader {
    spec: Arc<GeneratorSourceSpec>,
    pacer: Option<Arc<Pacer>>,
    pad: String,
    partition: u32,
    offset: u64,
}

impl GeneratorReader {
    fn push(&self, offset: u64, batch: &mut RawBatch) {
        let s = &*self.spec;
        let mut place = [0; 12];
        place[..4].copy_from_slice(&self.partition.to_le_bytes());
        place[4..].copy_from_slice(&offset.to_le_bytes());
        let random = xxh3_64_with_seed(&place, s.seed);
        let behind = match s.disorder.as_millis() {
            0 => 0,
            disorder => (random >> 32) % disorder.saturating_add(1),
        };
        let time = i64::try_from(offset.saturating_mul(s.interval.as_millis())).unwrap_or(i64::MAX);
        let time = s.start.saturating_add(time).saturating_sub_unsigned(behind).clamp(0, TIMESTAMP_MAX_MS);
        let (key, value, partition) = (random % s.keys, (random >> 16) % 1000, self.partition);
        let data = &mut batch.data;
        // Writing to a Vec can't fail.
        let _ = write!(data, "k{key}");
        let key_at = data.len() - digits(key) - 1..data.len();
        let start = data.len();
        let _ = write!(
            data,
            r#"{{"id":"{partition}-{offset}","type":"reading","payload":{{"key":"k{key}","value":{value},"pad":"{}"}},"timestamp":{time},"metadata":{{}}}}"#,
            self.pad
        );
        batch.records.push(RawRecord {
            offset,
            next: offset + 1,
            value: start..data.len(),
            key: Some(key_at),
            line: None,
            ..RawRecord::default()
        });
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |d| d as usize + 1)
}

#[async_trait]
impl Reader for GeneratorReader {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        let end = self.spec.count.unwrap_or(u64::MAX);
        if self.offset >= end {
            return Ok(Polled::End);
        }
        let messages_max = match &self.pacer {
            Some(pacer) => pacer.due(messages_max).await,
            None => messages_max,
        };
        let mut batch = RawBatch {
            partition: PartitionId { source: 0, partition: self.partition },
            data: Vec::new(),
            records: Vec::new(),
            next: self.offset,
            preamble: None,
        };
        while self.offset < end
            && batch.records.len() < messages_max
            && (batch.records.is_empty() || batch.data.len() < bytes_max)
        {
            self.push(self.offset, &mut batch);
            self.offset += 1;
        }
        batch.next = self.offset;
        if let Some(pacer) = &self.pacer {
            pacer.took(batch.records.len());
        }
        Ok(Polled::Records(batch))
    }
}
