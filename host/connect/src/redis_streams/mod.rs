//! Redis Streams: read alone from any position, or shared out by a consumer group; written exactly once.
//!
//! Beside a stream are, all in its hash slot:
//! ```text
//! wasmill:{STREAM}:incarnation      a random token: which stream this is
//! wasmill:{STREAM}:owner:GROUP      log mode: the process that reads it
//! wasmill:{STREAM}:read:GROUP       log mode: offset, entries: how many were added before that offset
//! wasmill:{STREAM}:trimmed:GROUP    queue mode: what was trimmed undelivered and is told already
//! wasmill:{STREAM}:writer:WHO       the process that writes for a sink
//! wasmill:{STREAM}:agreed:PIPELINE  a stream: what the processes of a pipeline agree on (ledger.rs)
//! wasmill:{STREAM}:agreed:PIPELINE:FILE   a file that goes with it
//! wasmill:{STREAM}:settled          the start of the server behind which its file was rewritten (redis_durable.rs)
//! ```

mod acks;
mod acks_sink;
mod acks_store;
mod entry;
mod feed;
mod group;
mod info;
mod ledger;
mod log;
mod look;
mod queue;
mod renew;
mod sink;
mod source;
mod spec;
mod token;
mod write;

pub use crate::queue::Start;
pub use acks::RedisAcks;
pub use acks_store::RedisAcksStore;
pub use look::RedisScan;
pub use sink::RedisSink;
pub use source::RedisSource;
pub use spec::{RedisSinkSpec, RedisSourceSpec};

/// The key of something that is kept beside a stream, in the same hash slot.
fn beside(stream: &str, what: &str) -> String {
    let tag = stream.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    match tag {
        Some(tag) if !tag.is_empty() => format!("wasmill:{{{tag}}}:{stream}:{what}"),
        _ => format!("wasmill:{{{stream}}}:{what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn what_is_beside_a_stream_is_in_its_slot() {
        assert_eq!(beside("orders", "incarnation"), "wasmill:{orders}:incarnation");
        assert_eq!(beside("{shop}:orders", "owner:g"), "wasmill:{shop}:{shop}:orders:owner:g");
        assert_eq!(beside("a{}b", "x"), "wasmill:{a{}b}:x");
    }
}
