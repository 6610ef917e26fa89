//! An exchange through a topic: what comes out of the stages before a key_by, for whoever has its key.
//!
//! The topic has a fixed number of partitions; the keys of a range of key groups go to each. Its records are
//! wasmill's own. Integers are little-endian:
//!
//! ```text
//! message  'd' source u16, partition u32, stamp i64, frame    a frame of one message, with its key
//! mark     'm' count u32, then (source u16, partition u32, stream time i64) so many times
//! ```
//!
//! A mark says how far partitions of the sources are. It goes to every partition of the topic, in the transaction
//! of the messages before it, so that who reads one knows when nothing earlier can come there.
//!
//! Behind the topic each of its partitions counts as many: one for each partition of the sources, which the
//! engine merges as it merges partitions in memory. So the results are the same, to the byte.

mod member;
mod source;
mod split;

use std::sync::Arc;

use async_trait::async_trait;
use wasmill_engine::input::{Carried, Decoder, RawRecord};
use wasmill_engine::key::{key_group, lane_of};
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::position::{PartitionId, Position};
use wasmill_frame::{Frame, FrameBuf, Message};

use super::client::Facts;
use super::group::number;
use super::own_topic;
use super::transaction::Transactions;
use crate::{ConnectorError, Refused, Sink, SinkTraits};

pub use member::{ExchangeMember, Shared};
pub use source::ExchangeSource;

const DATA: u8 = b'd';
const MARK: u8 = b'm';
/// What stands before a message's frame.
const HEAD_BYTES: usize = 1 + 2 + 4 + 8;
/// What a mark has of a partition.
const MARKED_BYTES: usize = 2 + 4 + 8;
/// How the topic is made: what was taken in is deleted by wasmill, and nothing before.
const SETTINGS: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("max.message.bytes", "67108864")];

/// An exchange of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeTopic {
    /// Its topic.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// Into how many groups keys are hashed.
    pub key_groups: u16,
}

impl ExchangeTopic {
    /// The name of a pipeline's exchange, which is also that of the group which reads it.
    #[must_use]
    pub fn topic_of(pipeline: &str) -> String {
        format!("{pipeline}-exchange")
    }

    /// Makes the topic, if it is not there.
    ///
    /// # Errors
    /// Fatal where it is there with other partitions, or may not be made.
    pub async fn make(&self, transactions: &Transactions) -> Result<(), ConnectorError> {
        let (brokers, topic) = (transactions.brokers(), self.topic.as_str());
        let look = {
            let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
            move |facts: &Facts<'_>| facts.topic(&brokers, &topic)
        };
        let found = own_topic::find_or_make(transactions, topic, self.partitions, &SETTINGS, look).await?;
        if found.numbers.len() != self.partitions as usize {
            return Err(ConnectorError::Fatal(format!(
                "topic {topic} at {brokers} has {} partitions, and the pipeline's exchange {}: set `exchange.topic.partitions` as it was, or run `wasmill reset`",
                found.numbers.len(),
                self.partitions
            )));
        }
        Ok(())
    }

    /// Which of its partitions has a key.
    fn partition_of(&self, key: &[u8]) -> i32 {
        let group = key_group(key, self.key_groups);
        i32::try_from(lane_of(group, self.key_groups, self.partitions as usize)).unwrap_or(0)
    }

    /// A sink that writes to it, within transactions.
    #[must_use]
    pub fn sink(&self, transactions: &Transactions) -> Box<dyn Sink> {
        let (transactions, number) = (transactions.clone(), transactions.next_sink(&self.topic));
        Box::new(ExchangeSink { exchange: self.clone(), transactions, number, written: 0 })
    }
}

/// Writes messages for the topic.
struct ExchangeEncoder;

impl Encoder for ExchangeEncoder {
    fn encode(&self, _: Message<'_>, _: &OutputId<'_>, _: &mut EncodedBatch) -> Result<(), String> {
        Err("a message without a stamp can't go through an exchange: this is a defect of wasmill".to_owned())
    }

    fn encode_stamped(
        &self,
        message: Message<'_>,
        stamp: i64,
        id: &OutputId<'_>,
        into: &mut EncodedBatch,
    ) -> Result<(), String> {
        let OutputId::Message { partition, .. } = id else {
            return Err("what is no message of a source can't go through an exchange".to_owned());
        };
        let start = into.data.len();
        into.data.push(DATA);
        into.data.extend_from_slice(&partition.source.to_le_bytes());
        into.data.extend_from_slice(&partition.partition.to_le_bytes());
        into.data.extend_from_slice(&stamp.to_le_bytes());
        let mut frame = FrameBuf::with_capacity(1, message.arena_bytes());
        frame.push_message(&message);
        into.data.extend_from_slice(frame.as_bytes());
        let value = start..into.data.len();
        let key = message.key().map(|key| {
            let start = into.data.len();
            into.data.extend_from_slice(key);
            start..into.data.len()
        });
        into.records.push(EncodedRecord { value, key, ..EncodedRecord::default() });
        Ok(())
    }
}

/// Writes to the topic.
struct ExchangeSink {
    exchange: ExchangeTopic,
    transactions: Transactions,
    number: usize,
    /// How many records of the batch that is being written were handed over, should the call be repeated.
    written: usize,
}

#[async_trait]
impl Sink for ExchangeSink {
    fn traits(&self) -> SinkTraits {
        SinkTraits { transactional: true, refuses_repeats: false }
    }

    fn encoder(&self) -> Arc<dyn Encoder> {
        Arc::new(ExchangeEncoder)
    }

    async fn recover(&mut self, _: Option<&str>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        let topic = &self.exchange.topic;
        while let Some(record) = batch.records.get(self.written) {
            let bytes = |range: &std::ops::Range<usize>| batch.data.get(range.clone()).unwrap_or_default();
            let key = record.key.as_ref().map(bytes).unwrap_or_default();
            let to = (topic.as_str(), self.exchange.partition_of(key));
            let sent = self.transactions.put_for(self.number, self.written, to, key, bytes(&record.value));
            if let Err(error) = sent.await {
                if matches!(error, ConnectorError::Aborted(_)) {
                    self.written = 0;
                }
                return Err(error);
            }
            self.written += 1;
        }
        self.written = 0;
        Ok(())
    }

    async fn progress(&mut self, positions: &[(PartitionId, Position)]) -> Result<(), ConnectorError> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut mark = vec![MARK];
        mark.extend_from_slice(&u32::try_from(positions.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (id, position) in positions {
            mark.extend_from_slice(&id.source.to_le_bytes());
            mark.extend_from_slice(&id.partition.to_le_bytes());
            mark.extend_from_slice(&position.stream_time.to_le_bytes());
        }
        for partition in 0..self.exchange.partitions {
            let to = (self.exchange.topic.as_str(), number(partition));
            self.transactions.put_for(self.number, usize::MAX, to, b"", &mark).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        Ok(String::new())
    }

    fn refused(&mut self) -> Vec<Refused> {
        self.transactions.take_refused(self.number)
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _: bool) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// Where a number has which partition of the topic it is of; before it stand source and partition.
const PARTITION_SHIFT: u32 = 20;
/// Where it has the source.
const SOURCE_SHIFT: u32 = 14;

/// The number that the engine has for what a partition of the topic has of one of the sources.
fn number_of(partition: u32, of: PartitionId) -> u32 {
    partition << PARTITION_SHIFT | u32::from(of.source) << SOURCE_SHIFT | of.partition
}

/// The partition of the topic, and that of a source, that a number is for.
fn of_number(number: u32) -> (u32, PartitionId) {
    let source = u16::try_from((number >> SOURCE_SHIFT) & ((1 << (PARTITION_SHIFT - SOURCE_SHIFT)) - 1));
    let partition = number & ((1 << SOURCE_SHIFT) - 1);
    (number >> PARTITION_SHIFT, PartitionId { source: source.unwrap_or_default(), partition })
}

/// What a record of the topic is.
enum Said<'a> {
    Message { from: PartitionId, stamp: i64, frame: &'a [u8] },
    Mark,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn marked(value: &[u8]) -> Option<impl Iterator<Item = (PartitionId, i64)>> {
    let count = u32_at(value, 1)? as usize;
    let entries = value.get(5..)?;
    (entries.len() == count.checked_mul(MARKED_BYTES)?).then(|| {
        entries.chunks_exact(MARKED_BYTES).filter_map(|entry| {
            let id = PartitionId { source: u16_at(entry, 0)?, partition: u32_at(entry, 2)? };
            Some((id, i64_at(entry, 6)?))
        })
    })
}

fn said(value: &[u8]) -> Option<Said<'_>> {
    match *value.first()? {
        DATA => {
            let from = PartitionId { source: u16_at(value, 1)?, partition: u32_at(value, 3)? };
            Some(Said::Message { from, stamp: i64_at(value, 7)?, frame: value.get(HEAD_BYTES..)? })
        }
        MARK => marked(value).map(|_| Said::Mark),
        _ => None,
    }
}

/// Reads records of the topic.
pub struct ExchangeDecoder;

impl Decoder for ExchangeDecoder {
    fn decode(&self, record: &RawRecord, data: &[u8], into: &mut FrameBuf) -> Result<(), String> {
        let Some(Said::Message { frame, .. }) = said(&data[record.value.clone()]) else {
            return Err("the record is none of an exchange: who else writes to the topic?".to_owned());
        };
        let frame = Frame::parse(frame).map_err(|e| format!("the record has no whole frame: {e}"))?;
        if frame.len() != 1 {
            return Err(format!("the record's frame has {} messages, not one", frame.len()));
        }
        into.push_message(&frame.get(0));
        Ok(())
    }

    fn carried(&self, record: &RawRecord, data: &[u8]) -> Carried {
        match said(&data[record.value.clone()]) {
            Some(Said::Message { stamp, .. }) => Carried::Stamp(stamp),
            // The reader has put the one partition that the mark is for in the place of all.
            Some(Said::Mark) => {
                let one = marked(&data[record.value.clone()]).and_then(|mut partitions| partitions.next());
                Carried::Mark(one.map_or(i64::MIN, |(_, time)| time))
            }
            None => Carried::Nothing,
        }
    }
}

/// Which partition of the topic the engine's partition of a number is a part of.
#[must_use]
pub fn exchange_partition_of(number: u32) -> u32 {
    of_number(number).0
}

#[cfg(test)]
mod tests {
    use wasmill_frame::Parts;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_told() {
        let from = PartitionId { source: 3, partition: 70_000 };
        let mut frame = FrameBuf::with_capacity(1, 64);
        let parts = Parts {
            id: "a",
            kind: "t",
            key: Some(b"k"),
            payload: b"{}",
            timestamp: 5,
            metadata: &[],
            payload_is_json: true,
        };
        frame.push(&parts);
        let mut batch = EncodedBatch::default();
        let id = OutputId::Message { partition: from, offset: 9, index: 0, emit: 0, left_at: "" };
        ExchangeEncoder.encode_stamped(frame.get(0), 17, &id, &mut batch).expect("it is written");
        let value = batch.data[batch.records[0].value.clone()].to_vec();
        let record = RawRecord::of_value(&value);
        let mut into = FrameBuf::with_capacity(1, 64);
        ExchangeDecoder.decode(&record, &value, &mut into).expect("it is read");
        assert_eq!(into.get(0).id(), "a");
        assert_eq!(ExchangeDecoder.carried(&record, &value), Carried::Stamp(17));
        assert!(matches!(said(&value), Some(Said::Message { from: f, stamp: 17, .. }) if f == from));
        for wrong in [&b""[..], b"x", b"d", b"m\x01\x00\x00\x00", &value[..HEAD_BYTES + 3]] {
            let record = RawRecord::of_value(wrong);
            assert!(ExchangeDecoder.decode(&record, wrong, &mut into).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_tell_what_they_are_of() {
        for (partition, source, of) in [(0, 0, 0), (4_095, 63, 16_383), (7, 2, 9)] {
            let id = PartitionId { source, partition: of };
            assert_eq!(of_number(number_of(partition, id)), (partition, id));
        }
    }

    #[test]
    fn each_key_group_has_one_partition() {
        let exchange = ExchangeTopic { topic: "x".to_owned(), partitions: 5, key_groups: 16 };
        for key in 0..200 {
            let key = format!("k{key}");
            let partition = exchange.partition_of(key.as_bytes());
            let group = key_group(key.as_bytes(), 16);
            let groups = wasmill_engine::key::groups_of(partition as usize, 16, 5);
            assert!(groups.contains(&group), "{key}");
        }
    }
}
