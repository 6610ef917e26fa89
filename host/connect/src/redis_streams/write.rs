//! What both ways to write to a stream share: how outputs are encoded, and scripts that are sent once.

use std::ops::Range;
use std::sync::Arc;

use redis::{Cmd, Connection, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind};
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_frame::Message;

use crate::Writer;
use crate::codec::{RecordWriter, Takes};

/// What one script takes at most, in bytes and in entries: so long, and no longer, others wait for it.
pub(super) const STEP_BYTES_MAX: usize = 1 << 20;
pub(super) const STEP_ENTRIES_MAX: usize = 2_000;

/// Writes messages as envelopes, with their output ids.
pub(super) struct RedisEncoder {
    pub codec: Arc<dyn RecordWriter>,
    pub writer: Writer,
}

impl Encoder for RedisEncoder {
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let encoded = self.codec.write(message, Takes::default(), into)?;
        let start = into.data.len();
        self.writer.write_id(id, &mut into.data);
        into.records.push(EncodedRecord { id: Some(start..into.data.len()), ..encoded });
        Ok(())
    }
}

/// Where an output's id and value are in a batch's data.
pub(super) fn places(record: &EncodedRecord) -> (Range<usize>, Range<usize>) {
    (record.id.clone().unwrap_or_default(), record.value.clone())
}

/// A command that runs a script, to which its arguments are added.
pub(super) fn run(script: &Script, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys);
    command
}

/// Runs a command of [`run`]; a server that doesn't know the script is told it.
pub(super) fn query<T: FromRedisValue>(c: &mut Connection, script: &Script, command: &Cmd) -> RedisResult<T> {
    match command.query(c) {
        Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.prepare_invoke().load(c)?;
            command.query(c)
        }
        answer => answer,
    }
}
