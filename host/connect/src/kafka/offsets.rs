//! What a group's committed offset says beside its number, and how offsets become a part of a transaction.
//!
//! ```text
//! TOPIC#ID                      which log the offset counts in
//! TOPIC#ID;INDEX;TIME;PROGRESS  and the rest of a position: how many results of the message there are taken
//!                               in, the stream time before it in ms, and 0 live, 1 idle, 2 ended, or 3.OFFSET:
//!                               what is before that offset comes next
//! ```

use rdkafka::consumer::{Consumer, ConsumerGroupMetadata};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use wasmill_engine::position::{Position, Progress};

use super::group::{Group, Handle, number};
use crate::ConnectorError;

/// What stands between the parts of a note; it is in no topic's name and no id.
const MARK: char = ';';

/// Offsets of a group, to be committed in a transaction; the brokers refuse them if the group has gone on
/// without this process.
pub struct GroupOffsets {
    pub(super) offsets: TopicPartitionList,
    pub(super) group: ConsumerGroupMetadata,
}

impl std::fmt::Debug for GroupOffsets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupOffsets").field("offsets", &self.offsets).finish_non_exhaustive()
    }
}

/// A position as a note beside its offset.
pub(super) fn note_of(position: &Position) -> String {
    let progress = match position.progress {
        Progress::Live => "0".to_owned(),
        Progress::Idle => "1".to_owned(),
        Progress::Ended => "2".to_owned(),
        Progress::Due(before) => format!("3.{before}"),
    };
    let Position { incarnation, index, stream_time, .. } = position;
    format!("{incarnation}{MARK}{index}{MARK}{stream_time}{MARK}{progress}")
}

/// The incarnation that a note names.
pub(super) fn incarnation_in(note: &str) -> &str {
    note.split(MARK).next().unwrap_or_default()
}

/// The position that a note and its offset tell; none where it tells no more than the log.
pub(super) fn position_of(note: &str, offset: u64) -> Option<Position> {
    let mut parts = note.split(MARK);
    let incarnation = parts.next()?.to_owned();
    let index = parts.next()?.parse().ok()?;
    let stream_time = parts.next()?.parse().ok()?;
    let progress = match parts.next()? {
        "0" => Progress::Live,
        "1" => Progress::Idle,
        "2" => Progress::Ended,
        due => Progress::Due(due.strip_prefix("3.")?.parse().ok()?),
    };
    Some(Position { incarnation, offset, index, stream_time, progress })
}

impl Group {
    /// As [`Handle::offsets`].
    pub(super) fn offsets(&self, positions: &[(u32, Position)]) -> Result<GroupOffsets, ConnectorError> {
        self.handle().offsets(positions)
    }
}

impl Handle {
    /// The offsets of these positions with the group's word that they are this process's to commit.
    pub(super) fn offsets(&self, positions: &[(u32, Position)]) -> Result<GroupOffsets, ConnectorError> {
        let left = || ConnectorError::Outdated(format!("group {} is left already", self.shared().group()));
        let consumer = self.consumer().map_err(|_| left())?;
        // Looked at on both sides of the group's word: a later word than the one that was with the partitions
        // would make the brokers take what another process has gone on with.
        self.shared().is_whole()?;
        let group = consumer.group_metadata().ok_or_else(left)?;
        self.shared().is_whole()?;
        let mut offsets = TopicPartitionList::with_capacity(positions.len());
        for (partition, position) in positions {
            let offset = Offset::Offset(i64::try_from(position.offset).unwrap_or(i64::MAX));
            let topic = self.shared().topic();
            // It fails for offsets below zero alone, which no partition has.
            let _ = offsets.add_partition_offset(topic, number(*partition), offset);
            if let Some(mut element) = offsets.find_partition(topic, number(*partition)) {
                element.set_metadata(note_of(position));
            }
        }
        Ok(GroupOffsets { offsets, group })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_the_position_that_it_is_of() {
        for (index, stream_time, progress) in [
            (0, 0, Progress::Live),
            (7, -1, Progress::Idle),
            (u32::MAX, i64::MIN, Progress::Ended),
            (0, 3, Progress::Due(17)),
        ] {
            let incarnation = "orders#aB-_".to_owned();
            let position = Position { incarnation, offset: 12, index, stream_time, progress };
            let note = note_of(&position);
            assert_eq!(position_of(&note, 12).as_ref(), Some(&position), "{note}");
            assert_eq!(incarnation_in(&note), "orders#aB-_");
        }
        for other in ["", "orders", "orders#aB", "orders#aB;1", "orders#aB;1;2;3", "orders#aB;x;2;0"] {
            assert_eq!(position_of(other, 1), None, "{other}");
        }
    }
}
