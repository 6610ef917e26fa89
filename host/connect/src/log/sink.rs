//! Writes a log.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_codec::unseen::append;
use wasmill_codec::{RecordWriter, Takes};
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_frame::Message;

use crate::local_log::{self, Batch, Keep, LogWriter, Record, SEGMENT_BYTES, Taken, now_ms};
use crate::table::SinkConnector;
use crate::{ConnectorError, Sink, SinkTraits, codec, os};

/// How much waits in memory before it is written.
const PENDING_BYTES_MAX: u64 = 1 << 20;
/// The version of the token's form.
const FORMAT: u32 = 1;

/// A log in a directory, which the `log` source of another pipeline reads, in the same process or in another one
/// on the same machine. Readers see what is committed only. It grows until its reader has read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSinkSpec {
    /// The directory; made where it is missing. It belongs to this sink, and to who reads it.
    pub path: PathBuf,
}

impl LogSinkSpec {
    /// A spec of a directory.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

/// What this sink is like.
const LIKE: SinkTraits = SinkTraits { transactional: true, refuses_repeats: false, by_token: true };

impl SinkConnector for LogSinkSpec {
    fn called(&self) -> String {
        self.path.display().to_string()
    }

    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(LogSink::new(self.clone())))
    }

    /// Removes the log, so that its reader must be reset as well: what it has read comes again.
    fn reset(&self) -> Result<(), ConnectorError> {
        local_log::remove(&self.path)
    }
}

/// What of the log is committed, as the pipeline's checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    format: u32,
    incarnation: String,
    end: u64,
}

#[derive(Default)]
struct Writing {
    writer: Option<LogWriter>,
    /// What the last flush answered for.
    flushed: u64,
}

/// Writes a log.
pub struct LogSink {
    path: PathBuf,
    writing: Arc<Mutex<Writing>>,
    pending: Batch,
}

impl LogSink {
    /// A sink that writes the log that a spec names.
    #[must_use]
    pub fn new(spec: LogSinkSpec) -> Self {
        Self { path: spec.path, writing: Arc::default(), pending: Batch::default() }
    }

    async fn with_writer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut LogWriter, &mut u64) -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let (writing, path) = (Arc::clone(&self.writing), self.path.clone());
        os::blocking(move || {
            let mut writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
            let Writing { writer, flushed } = &mut *writing;
            let writer = writer.as_mut().ok_or_else(|| {
                ConnectorError::Fatal(format!(
                    "the log {}: written to before it was recovered",
                    path.display()
                ))
            })?;
            work(writer, flushed)
        })
        .await
    }
}

impl Writing {
    fn recover(&mut self, path: &std::path::Path, token: Option<&str>) -> Result<(), ConnectorError> {
        // The one from before lets go of its lock first.
        self.writer = None;
        let taken = Taken::take(path)?;
        let seen = taken.committed()?;
        let shown = path.display();
        let end = match token.filter(|t| !t.is_empty()) {
            None => seen,
            Some(token) => {
                let token: Token = serde_json::from_str(token).ok().filter(|t: &Token| t.format == FORMAT).ok_or_else(|| {
                    ConnectorError::Fatal(format!(
                        "what the state says of the log {shown} is not of this wasmill: use the one that wrote it, or run `wasmill reset`"
                    ))
                })?;
                if token.incarnation != taken.incarnation() {
                    return Err(ConnectorError::Fatal(format!(
                        "the log {shown} is another than the one that this pipeline has written: put that back, or run `wasmill reset` to write all of it again"
                    )));
                }
                if token.end < seen {
                    return Err(ConnectorError::Fatal(format!(
                        "readers of the log {shown} have seen up to offset {seen}, but the state of this pipeline is from before that, at {}: put back the state that goes with it, or run `wasmill reset`",
                        token.end
                    )));
                }
                token.end
            }
        };
        let mut writer = taken.open(Keep::Before(end), SEGMENT_BYTES)?;
        writer.commit(end, true)?;
        self.flushed = end;
        self.writer = Some(writer);
        Ok(())
    }
}

/// Writes messages with their keys.
struct KeyedEncoder(Arc<dyn RecordWriter>);

impl Encoder for KeyedEncoder {
    fn encode(&self, message: Message<'_>, _: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let record = self.0.write(message, Takes::default(), into)?;
        let key = message.key().map(|key| append(key, &mut into.data));
        into.records.push(EncodedRecord { key, ..record });
        Ok(())
    }
}

#[async_trait]
impl Sink for LogSink {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(KeyedEncoder(Arc::clone(&codec.writer)))
    }

    async fn recover(&mut self, token: Option<&str>) -> Result<(), ConnectorError> {
        self.pending = Batch::default();
        let (writing, path) = (Arc::clone(&self.writing), self.path.clone());
        let token = token.map(str::to_owned);
        os::blocking(move || {
            writing.lock().unwrap_or_else(PoisonError::into_inner).recover(&path, token.as_deref())
        })
        .await
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        for record in &batch.records {
            let key = record.key.as_ref().map(|key| &batch.data[key.clone()]);
            self.pending.push(Record { value: &batch.data[record.value.clone()], key, id: None });
            if self.pending.bytes() >= PENDING_BYTES_MAX {
                let mut pending = std::mem::take(&mut self.pending);
                self.with_writer(move |writer, _| Ok(writer.append(&mut pending, now_ms()).map(drop)?))
                    .await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        let mut pending = std::mem::take(&mut self.pending);
        let token = self
            .with_writer(move |writer, flushed| {
                writer.append(&mut pending, now_ms())?;
                writer.sync()?;
                *flushed = writer.end();
                let incarnation = writer.incarnation().to_owned();
                Ok(Token { format: FORMAT, incarnation, end: writer.end() })
            })
            .await?;
        serde_json::to_string(&token).map_err(|e| ConnectorError::Fatal(format!("log sink: {e}")))
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        self.with_writer(|writer, flushed| Ok(writer.commit(*flushed, true)?)).await
    }

    async fn close(&mut self, _in_order: bool) -> Result<(), ConnectorError> {
        self.pending = Batch::default();
        let writing = Arc::clone(&self.writing);
        os::blocking(move || {
            writing.lock().unwrap_or_else(PoisonError::into_inner).writer = None;
            Ok(())
        })
        .await
    }
}
