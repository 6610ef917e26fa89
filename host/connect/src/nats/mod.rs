//! NATS JetStream, by async-nats.
//!
//! | module | has |
//! |---|---|
//! | `source`, `sink` | the specs, and what the host calls |
//! | `access`, `link` | the settings of a connection; the connection, and what its errors mean |
//! | `api` | what is asked of JetStream, as it answers |
//! | `pull` | one consumer's messages, as long as it is alive |
//! | `pump` | the task that reads ahead of the host, and the reader of what it read |
//! | `log` | a stream read by sequence, without acknowledgements |
//! | `queue` | a durable consumer that several processes share: what is held, acknowledged, delivered again |
//! | `ledger` | what the processes of a pipeline agree on, in a stream |
//! | `owner` | the record that says which process reads a log |
//! | `own_stream` | the two streams above: made |
//! | `encoder` | messages as a stream takes them |
//! | `look` | a subject read to its end, for who looks through dead letters |
//! | `publisher`, `scan` | what is on its way to a stream; which of it is there |

mod access;
mod api;
mod encoder;
mod ledger;
mod link;
mod log;
mod look;
mod own_stream;
mod owner;
mod publisher;
mod pull;
mod pump;
mod queue;
mod scan;
mod sink;
mod source;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use crate::queue::Start;
pub use crate::secret::Secret;
pub use access::NatsUrl;
pub use look::NatsScan;
pub use sink::{MessageHeaders, NatsSink, NatsSinkSpec};
pub use source::{NatsSource, NatsSourceSpec, Subjects};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
