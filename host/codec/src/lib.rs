//! How messages are written in bytes: one module a codec, one table that registers them all.
//!
//! A codec has two halves. *Reading*: a [`Framing`] cuts a stream of bytes into records where nothing else
//! does, a decoder turns each record into a message. *Writing*: a [`RecordWriter`] turns a message into a
//! record's value and headers, the framing joins records where nothing else keeps them apart. What a
//! connector adds is its own: keys, output ids, the limits of its headers.
//!
//! The payload of a message is JSON wherever the codec knows its structure, so plugins see one form whatever
//! the messages came as.

pub mod around;
pub mod asking;
pub mod avro;
mod bounded;
pub mod cloudevents;
pub mod csv;
pub mod framing;
pub mod json;
pub mod json_body;
pub mod json_schema;
mod jsontext;
pub mod messagepack;
pub mod named;
pub mod number;
pub mod os;
mod place;
pub mod protobuf;
pub mod raw;
pub mod registry;
pub mod rfc3339;
pub mod secret;
pub mod table;
pub mod text;
pub mod units;
pub mod unseen;

use std::sync::Arc;

pub use around::{Around, HeaderNames};
use async_trait::async_trait;
pub use framing::Framing;
pub use table::{CodecSettings, CodecSpec};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_frame::Message;

/// Why a codec can't be used as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The schema registry is away: wait, then ask the same again.
    #[error("{what}: {cause}")]
    Away {
        /// What was asked, with the address.
        what: String,
        /// Why it failed.
        cause: String,
    },
    /// Asking again won't help: what is wrong, where, and what to do.
    #[error("{0}")]
    Wrong(String),
}

/// The half of a codec that reads, ready for one source.
#[derive(Clone)]
pub struct Reading {
    /// Turns records into messages. It does no I/O: what it needs of elsewhere, `ahead` has brought.
    pub decoder: Arc<dyn Decoder>,
    /// How records stand one behind the other in a stream of bytes.
    pub framing: Arc<dyn Framing>,
    /// What must be had before a batch can be decoded, if anything.
    pub ahead: Option<Arc<dyn Ahead>>,
}

/// Brings what the decoder needs of elsewhere, such as schemas of a registry, before a batch is decoded.
#[async_trait]
pub trait Ahead: Send + Sync {
    /// Returns once everything is there. Dropping the future loses nothing; what does not exist elsewhere is
    /// no error, but the decoder's to tell, message by message.
    ///
    /// # Errors
    /// [`CodecError::Away`] where asking again may help.
    async fn bring(&self, batch: &RawBatch) -> Result<(), CodecError>;
}

/// The half of a codec that writes, ready for one sink.
#[derive(Clone)]
pub struct Writing {
    /// Turns messages into records.
    pub writer: Arc<dyn RecordWriter>,
    /// How records stand one behind the other in a stream of bytes.
    pub framing: Arc<dyn Framing>,
}

/// What a sink can take beside values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takes {
    /// Whether it has headers.
    pub headers: bool,
    /// Whether it has records without a value.
    pub tombstones: bool,
}

/// Turns messages into records' values and headers. It runs on the workers.
pub trait RecordWriter: Send + Sync {
    /// Adds the message's bytes to `into.data` and answers the record, which is not in `into.records` yet and
    /// has neither key nor id; or adds nothing and says why.
    ///
    /// # Errors
    /// The reason, for the dead-letter queue.
    fn write(
        &self,
        message: Message<'_>,
        takes: Takes,
        into: &mut EncodedBatch,
    ) -> Result<EncodedRecord, String>;
}
