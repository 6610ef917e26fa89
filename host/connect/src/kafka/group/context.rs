//! The consumer's callbacks.

use std::sync::Arc;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::super::client::{lock, log, why};
use super::{GroupConsumer, Shared};

/// What librdkafka calls back.
pub(in crate::kafka) struct Context(pub(super) Arc<Shared>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(cause = %error, reason, "librdkafka tells an error");
        self.0.last_error.note(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.0.topic) else { return };
        let mut state = lock(&self.0.state);
        for partition in topic.partitions.values() {
            let Ok(number) = u32::try_from(partition.partition) else { continue };
            // Both are below zero where they are not known.
            if let Ok(end) = u64::try_from(partition.hi_offset) {
                state.extents.insert(number, end);
                if let Ok(stable) = u64::try_from(partition.ls_offset) {
                    state.unstable.insert(number, end.saturating_sub(stable));
                }
            }
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &GroupConsumer, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list.elements().iter().filter_map(|e| u32::try_from(e.partition()).ok()).collect();
        if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.0.assigned(consumer, partitions);
        } else {
            self.0.revoked(consumer, partitions);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let mut state = lock(&self.0.state);
        for element in offsets.elements() {
            let Ok(partition) = u32::try_from(element.partition()) else { continue };
            match (&result, element.error(), element.offset()) {
                (Ok(()), Ok(()), Offset::Offset(offset)) if state.owned.contains(&partition) => {
                    state.acknowledged.insert(partition, offset.cast_unsigned());
                }
                // To be sent again.
                _ => drop(state.sent.remove(&partition)),
            }
        }
        if let Err(error) = result {
            tracing::warn!(topic = %self.0.topic, group = %self.0.group, cause = %why(&error), "offsets were not committed; they are sent again");
        }
    }
}
