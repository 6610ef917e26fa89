//! What the errors of librdkafka's transactions mean.

use rdkafka::error::{RDKafkaError, RDKafkaErrorCode};

/// What a call of librdkafka's means.
pub(super) enum Meaning {
    /// No answer yet: the same call again.
    Again,
    /// Abort, and do it all again.
    Abort,
    /// The group has gone on without this process.
    LeftBehind,
    /// Another producer of this id, or the brokers gave the transaction up.
    Fenced,
    /// This user may not.
    Forbidden,
    /// Nobody knows how it stands.
    Unknown,
}

pub(super) fn meaning(error: &RDKafkaError) -> Meaning {
    use RDKafkaErrorCode as Code;
    match error.code() {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Meaning::Fenced,
        Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedInstanceId => Meaning::LeftBehind,
        Code::TransactionalIdAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::TopicAuthorizationFailed => Meaning::Forbidden,
        _ if error.is_fatal() => Meaning::Unknown,
        _ if error.txn_requires_abort() => Meaning::Abort,
        _ if error.is_retriable() => Meaning::Again,
        _ => Meaning::Unknown,
    }
}
