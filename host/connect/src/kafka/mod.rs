//! Apache Kafka, by librdkafka.
//!
//! | module | has |
//! |---|---|
//! | `source`, `sink` | the specs, and what the host calls |
//! | `group` | the thread that polls the consumer: rebalances, commits |
//! | `reader`, `queue` | one partition's queue: what is read of it, and how librdkafka hands it over |
//! | `encoder` | messages as records |
//! | `admin` | a topic's id, and the end of a group's offsets: librdkafka's C interface |
//! | `client`, `properties` | what both sides need of librdkafka |
//!
//! librdkafka's calls block: none but the ones that only look into a queue run on tokio's workers.

mod admin;
mod client;
mod encoder;
mod group;
mod properties;
mod queue;
mod reader;
mod sink;
mod source;

pub use encoder::KeyFrom;
pub use properties::{KnownProperty, Property, property_of};
pub use sink::{KafkaSink, KafkaSinkSpec};
pub use source::{KafkaSource, KafkaSourceSpec, OffsetReset};
