//! What a record of the topic has in it. Integers are little-endian:
//!
//! ```text
//! messages  'd' (length u32, source u16, partition u32, stamp i64, frame) so many times
//!                                          `length` bytes follow; the frame has one message, with its key
//! mark      'm' count u32, then (source u16, partition u32, stream time i64) so many times
//! ```
//!
//! A message has a **place** in the topic's partition: its record's offset, then which it is in the record. What
//! is behind the topic counts in places.

use wasmill_engine::input::{Carried, Decoder, RawBatch, RawRecord};
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::position::PartitionId;
use wasmill_frame::{Frame, FrameBuf, Message};

const DATA: u8 = b'd';
const MARK: u8 = b'm';
/// What stands before a message.
const LENGTH_BYTES: usize = 4;
/// What stands before a message's frame.
const HEAD_BYTES: usize = 2 + 4 + 8;
/// What a mark has of a partition.
const MARKED_BYTES: usize = 2 + 4 + 8;
/// Where a place has the offset.
const OFFSET_SHIFT: u32 = 12;
/// Why a record is not taken in that is neither messages nor a mark.
pub(super) const NOBODYS: &str = "the record is none of an exchange: who else writes to the topic?";
/// How many messages a record has at most.
pub(super) const MESSAGES_MAX: usize = 1 << OFFSET_SHIFT;

/// The place of the first message of the record at an offset.
pub(super) fn place_of(offset: u64) -> u64 {
    offset << OFFSET_SHIFT
}

/// The offset of the record that a place is in.
#[must_use]
pub fn offset_of(place: u64) -> u64 {
    place >> OFFSET_SHIFT
}

/// Puts one more message into a record.
pub(super) fn pack(message: &[u8], record: &mut Vec<u8>) {
    if record.is_empty() {
        record.push(DATA);
    }
    record.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(message);
}

/// A mark of how far partitions of the sources are.
pub(super) fn mark<'a>(positions: impl ExactSizeIterator<Item = (&'a PartitionId, i64)>, into: &mut Vec<u8>) {
    into.push(MARK);
    into.extend_from_slice(&u32::try_from(positions.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (id, stream_time) in positions {
        into.extend_from_slice(&id.source.to_le_bytes());
        into.extend_from_slice(&id.partition.to_le_bytes());
        into.extend_from_slice(&stream_time.to_le_bytes());
    }
}

/// One thing that a record says of a partition of the sources.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// A message, as the record has it.
    Message(&'a [u8]),
    /// How far the partition is.
    Mark(i64),
}

impl Said<'_> {
    /// Writes it as a record of its own.
    pub fn alone(&self, of: PartitionId, into: &mut Vec<u8>) {
        match self {
            Self::Message(message) => {
                into.push(DATA);
                into.extend_from_slice(message);
            }
            Self::Mark(time) => mark(std::iter::once((&of, *time)), into),
        }
    }
}

/// What a record says, by partition of the sources; none where it is none of an exchange.
pub(super) fn said(value: &[u8]) -> Option<Vec<(PartitionId, Said<'_>)>> {
    let (tag, mut rest) = value.split_first()?;
    let mut all = Vec::new();
    match *tag {
        DATA => {
            while !rest.is_empty() {
                let (length, behind) = rest.split_first_chunk::<LENGTH_BYTES>()?;
                let (message, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                all.push((from(message)?, Said::Message(message)));
                rest = behind;
            }
            (all.len() <= MESSAGES_MAX).then_some(all)
        }
        MARK => {
            let (count, entries) = rest.split_first_chunk()?;
            if entries.len() != (u32::from_le_bytes(*count) as usize).checked_mul(MARKED_BYTES)? {
                return None;
            }
            for entry in entries.chunks_exact(MARKED_BYTES) {
                all.push((from(entry)?, Said::Mark(time(entry)?)));
            }
            Some(all)
        }
        _ => None,
    }
}

/// The partition of the sources that stands first.
fn from(entry: &[u8]) -> Option<PartitionId> {
    let (source, rest) = entry.split_first_chunk()?;
    let source = u16::from_le_bytes(*source);
    Some(PartitionId { source, partition: u32::from_le_bytes(*rest.first_chunk()?) })
}

/// The stamp or the stream time that stands behind it.
fn time(entry: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(*entry.get(2 + 4..)?.first_chunk()?))
}

/// Writes messages for the topic.
pub(super) struct ExchangeEncoder;

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

/// Reads what a record says, each thing as a record of its own.
pub struct ExchangeDecoder;

impl Decoder for ExchangeDecoder {
    fn decode(&self, record: &RawRecord, of: &RawBatch, into: &mut FrameBuf) -> Result<(), String> {
        let frame = match of.data[record.value.clone()].split_first() {
            Some((&DATA, message)) => message.get(HEAD_BYTES..),
            _ => None,
        };
        let frame = frame.ok_or(NOBODYS)?;
        let frame = Frame::parse(frame).map_err(|e| format!("the record has no whole frame: {e}"))?;
        if frame.len() != 1 {
            return Err(format!("the record's frame has {} messages, not one", frame.len()));
        }
        into.push_message(&frame.get(0));
        Ok(())
    }

    fn carried(&self, record: &RawRecord, data: &[u8]) -> Carried {
        let stamp = match data[record.value.clone()].split_first() {
            Some((&DATA, message)) => time(message).map(Carried::Stamp),
            Some((&MARK, marked)) => marked.get(4..).and_then(time).map(Carried::Mark),
            _ => None,
        };
        stamp.unwrap_or(Carried::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use wasmill_frame::Parts;

    use super::*;

    fn encoded(from: PartitionId, stamp: i64) -> Vec<u8> {
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
        ExchangeEncoder.encode_stamped(frame.get(0), stamp, &id, &mut batch).expect("it is written");
        batch.data[batch.records[0].value.clone()].to_vec()
    }

    fn alone(of: PartitionId, said: &Said<'_>) -> Vec<u8> {
        let mut value = Vec::new();
        said.alone(of, &mut value);
        value
    }

    #[test]
    fn what_is_written_is_read() {
        let (one, other) =
            (PartitionId { source: 3, partition: 70_000 }, PartitionId { source: 0, partition: 1 });
        let messages =
            [(one, 17), (other, -4), (one, 18)].map(|(from, stamp)| (from, stamp, encoded(from, stamp)));
        let mut record = Vec::new();
        for (_, _, message) in &messages {
            pack(message, &mut record);
        }
        let read = said(&record).expect("it is a record");
        assert_eq!(read.len(), messages.len());
        for ((of, said), (from, stamp, message)) in read.iter().zip(&messages) {
            assert_eq!((of, said), (from, &Said::Message(message)));
            let value = alone(*of, said);
            let batch = RawBatch::of_value(&value);
            let mut into = FrameBuf::with_capacity(1, 64);
            ExchangeDecoder.decode(&batch.records[0], &batch, &mut into).expect("it is read");
            assert_eq!(into.get(0).id(), "a");
            assert_eq!(ExchangeDecoder.carried(&batch.records[0], &value), Carried::Stamp(*stamp));
        }
    }

    #[test]
    fn a_mark_is_read_for_each_partition() {
        let ids = [PartitionId { source: 1, partition: 2 }, PartitionId { source: 0, partition: 0 }];
        let mut value = Vec::new();
        mark(ids.iter().zip([40, -1]), &mut value);
        assert_eq!(said(&value), Some(vec![(ids[0], Said::Mark(40)), (ids[1], Said::Mark(-1))]));
        let value = alone(ids[0], &Said::Mark(40));
        assert_eq!(ExchangeDecoder.carried(&RawRecord::of_value(&value), &value), Carried::Mark(40));
    }

    #[test]
    fn what_is_not_ours_is_told() {
        let mut record = Vec::new();
        pack(&encoded(PartitionId { source: 0, partition: 0 }, 1), &mut record);
        let cut = &record[..record.len() - 1];
        for wrong in [&b""[..], b"x", b"d\x01", b"d\x01\x00\x00\x00a", b"m\x01\x00\x00\x00", b"m", cut] {
            assert_eq!(said(wrong), None, "{wrong:?}");
            let batch = RawBatch::of_value(wrong);
            let mut into = FrameBuf::with_capacity(1, 64);
            assert!(ExchangeDecoder.decode(&batch.records[0], &batch, &mut into).is_err(), "{wrong:?}");
        }
        let many = vec![0u8; HEAD_BYTES];
        let mut record = Vec::new();
        (0..=MESSAGES_MAX).for_each(|_| pack(&many, &mut record));
        assert_eq!(said(&record), None, "it has too many for places");
    }

    #[test]
    fn a_place_is_of_a_record() {
        assert_eq!(offset_of(place_of(7)), 7);
        assert_eq!(offset_of(place_of(7) + MESSAGES_MAX as u64 - 1), 7);
        assert_eq!(offset_of(place_of(7) + MESSAGES_MAX as u64), 8);
    }
}
