//! An exchange through a topic: what comes out of the stages before a key_by, for whoever has its key.
//!
//! The topic has a fixed number of partitions; the keys of a range of key groups go to each. Its records are
//! wasmill's own: messages, and marks ([`record`]).
//!
//! A mark says how far partitions of the sources are. It goes to every partition of the topic, in the transaction
//! of the messages before it, so that who reads one knows when nothing earlier can come there.
//!
//! Behind the topic each of its partitions counts as many: one for each partition of the sources, which the
//! engine merges as it merges partitions in memory. So the results are the same, to the byte.

mod member;
mod record;
mod sink;
mod source;
mod split;

use wasmill_engine::key::{key_group, lane_of};
use wasmill_engine::position::PartitionId;

use super::client::Facts;
use super::own_topic;
use super::transaction::Transactions;
use crate::{ConnectorError, Sink};

pub use member::{ExchangeMember, Shared};
pub use record::{ExchangeDecoder, offset_of as exchange_offset};
pub use source::ExchangeSource;

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
        let asked = (&transactions.asking(), brokers);
        let found = own_topic::find_or_make(asked, topic, self.partitions, &SETTINGS, look).await?;
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
    fn partition_of(&self, key: &[u8]) -> usize {
        lane_of(key_group(key, self.key_groups), self.key_groups, self.partitions as usize)
    }

    /// A sink that writes to it, within transactions.
    #[must_use]
    pub fn sink(&self, transactions: &Transactions) -> Box<dyn Sink> {
        let (transactions, number) = (transactions.clone(), transactions.next_sink(&self.topic));
        Box::new(sink::ExchangeSink {
            exchange: self.clone(),
            transactions,
            number,
            transaction: 0,
            written: 0,
            alone: false,
        })
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

/// The partition of the topic, and that of a source, that a number of the engine's is for.
#[must_use]
pub fn exchange_part(number: u32) -> (u32, PartitionId) {
    let source = u16::try_from((number >> SOURCE_SHIFT) & ((1 << (PARTITION_SHIFT - SOURCE_SHIFT)) - 1));
    let partition = number & ((1 << SOURCE_SHIFT) - 1);
    (number >> PARTITION_SHIFT, PartitionId { source: source.unwrap_or_default(), partition })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tell_what_they_are_of() {
        for (partition, source, of) in [(0, 0, 0), (4_095, 63, 16_383), (7, 2, 9)] {
            let id = PartitionId { source, partition: of };
            assert_eq!(exchange_part(number_of(partition, id)), (partition, id));
        }
    }

    #[test]
    fn each_key_group_has_one_partition() {
        let exchange = ExchangeTopic { topic: "x".to_owned(), partitions: 5, key_groups: 16 };
        for key in 0..200 {
            let key = format!("k{key}");
            let partition = exchange.partition_of(key.as_bytes());
            let group = key_group(key.as_bytes(), 16);
            let groups = wasmill_engine::key::groups_of(partition, 16, 5);
            assert!(groups.contains(&group), "{key}");
        }
    }
}
