//! The exchange in memory: messages go to the lanes that own their keys.

use crate::batch::Batch;
use crate::key::{key_group, lane_of};
use crate::position::PartitionId;
use crate::virtual_log::Released;

fn empty_batch(messages: usize, bytes: usize) -> Batch {
    Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, messages, bytes)
}

/// Hands messages to the lanes that own their keys.
pub(crate) struct Exchange {
    pub lanes: Vec<Vec<Batch>>,
    key_groups: u16,
    batch_messages_max: usize,
}

impl Exchange {
    pub fn new(lanes: usize, key_groups: u16, batch_messages_max: usize) -> Self {
        Self { lanes: vec![Vec::new(); lanes.max(1)], key_groups, batch_messages_max }
    }

    pub fn take(&mut self, released: Released<'_>) {
        match released {
            // One lane: the batch goes through without a copy.
            Released::Whole(batch) if self.lanes.len() == 1 && batch.len() <= self.batch_messages_max => {
                self.lanes[0].push(batch);
            }
            Released::Whole(batch) => self.copy(&batch, 0..batch.len()),
            Released::Some(batch, range) => self.copy(batch, range),
        }
    }

    fn copy(&mut self, from: &Batch, range: std::ops::Range<usize>) {
        let lanes = self.lanes.len();
        for index in range {
            let message = from.frame.get(index);
            let lane = if lanes == 1 {
                0
            } else {
                let group = key_group(message.key().unwrap_or_default(), self.key_groups);
                lane_of(group, self.key_groups, lanes)
            };
            let batches = &mut self.lanes[lane];
            if batches.last().is_none_or(|b| b.len() >= self.batch_messages_max) {
                batches.push(empty_batch(from.len(), from.frame.size_bytes() / lanes));
            }
            if let Some(to) = batches.last_mut() {
                to.frame.push_message(&message);
                to.rows.push(from.rows[index]);
                to.enters |= from.enters;
            }
        }
    }
}
