//! Apache Kafka, by librdkafka.
//!
//! | module | has |
//! |---|---|
//! | `source`, `sink` | the specs, and what the host calls |
//! | `group` | the thread that polls the consumer: rebalances, commits |
//! | `reader`, `queue` | one partition's queue: what is read of it, and how librdkafka hands it over |
//! | `encoder` | messages as records |
//! | `transaction`, `offsets`, `logs` | records and offsets that count all at once; the guard of that; librdkafka's log |
//! | `exchange` | a topic between the stages before a key_by and those behind it |
//! | `changelog` | state in a topic, in the same transactions |
//! | `ledger` | what the processes of a pipeline agree on, in a topic |
//! | `own_topic` | the three topics above: made, found, deleted |
//! | `scan` | a topic read to its end outside of any group, and letters copied into one |
//! | `admin` | a topic's id, and the end of a group's offsets: librdkafka's C interface |
//! | `client`, `properties`, `settings` | what both sides need of librdkafka |
//! | `security`, `refusal` | TLS and users as the spec has them; what it means that brokers refuse a client |
//!
//! librdkafka's calls block: none but the ones that only look into a queue run on tokio's workers.

mod admin;
mod changelog;
mod client;
mod encoder;
mod exchange;
mod group;
mod ledger;
mod logs;
mod offsets;
mod own_topic;
mod properties;
mod queue;
mod reader;
mod refusal;
mod scan;
mod security;
mod settings;
mod sink;
mod source;
mod transaction;

pub use changelog::{Changelog, Followed, Replay, Replayed};
pub use encoder::KeyFrom;
pub use exchange::{
    ExchangeDecoder, ExchangeMember, ExchangeSource, ExchangeTopic, Shared, exchange_offset, exchange_part,
};
pub use offsets::GroupOffsets;
pub use own_topic::delete_own_topics;
pub use properties::{KnownProperty, Property, property_of};
pub use scan::{KafkaCopier, KafkaScan, committed};
pub use security::{KafkaMechanism, KafkaSasl, KafkaSecurity, KafkaTls};
pub use sink::{KafkaSink, KafkaSinkSpec};
pub use source::{KafkaSource, KafkaSourceSpec, OffsetReset};
pub use transaction::Transactions;
