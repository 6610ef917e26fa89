//! Writes messages to stdout.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmill_codec::framing::{Framing, Joiner, Lines};
use wasmill_engine::output::{EncodedBatch, Encoder};

use super::table::Table;
use crate::stream::StreamEncoder;
use crate::table::SinkConnector;
use crate::{ConnectorError, Sink, SinkTraits, codec, os};

/// The text of the error that says that nobody reads stdout any more, as behind `| head`: the end of the
/// run, but no failure.
pub const PIPE_CLOSED: &str = "stdout was closed by its reader";

/// How much waits before it is written without a flush.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// Messages to stdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutSinkSpec {
    /// `json` (default): one message a line, as it comes. `table`: the first rows as a table, at the end.
    #[serde(default)]
    pub format: StdoutFormat,
    /// With `table`: the columns as paths into the payload, else into the message, such as
    /// `[key, start, value.departures]`. Default: those that the first message's payload has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// With `table`: how many rows it shows at most, 1 to 10000. Default: 20.
    #[serde(default = "rows_max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub rows_max: usize,
}

fn rows_max() -> usize {
    20
}

/// The rows that a table may keep in memory.
const ROWS_MAX: usize = 10_000;

/// How messages look on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StdoutFormat {
    /// One JSON envelope a line.
    #[default]
    Json,
    /// A table for people, at the end.
    Table,
}

impl Default for StdoutSinkSpec {
    fn default() -> Self {
        Self { format: StdoutFormat::Json, columns: Vec::new(), rows_max: rows_max() }
    }
}

/// What this sink is like.
const LIKE: SinkTraits = SinkTraits { transactional: false, refuses_repeats: false, by_token: false };

impl SinkConnector for StdoutSinkSpec {
    fn refuses_codec(&self) -> Option<&'static str> {
        (self.format == StdoutFormat::Table).then_some("with `format: table` it shows columns")
    }

    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn sink(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(Box::new(StdoutSink::new(self.clone(), io::stdout())?))
    }
}

/// Writes messages to stdout, or to another stream that can't take anything back.
pub struct StdoutSink {
    to: Arc<Mutex<dyn Write + Send>>,
    pending: Vec<u8>,
    joiner: Box<dyn Joiner>,
    table: Option<Table>,
}

impl StdoutSink {
    /// A sink that writes to `to`.
    ///
    /// # Errors
    /// When the number of rows is out of range.
    pub fn new(spec: StdoutSinkSpec, to: impl Write + Send + 'static) -> Result<Self, ConnectorError> {
        if !(1..=ROWS_MAX).contains(&spec.rows_max) {
            let rows = spec.rows_max;
            return Err(ConnectorError::Fatal(format!("rows_max of {rows}: expected 1 to {ROWS_MAX}")));
        }
        let table = (spec.format == StdoutFormat::Table).then(|| Table::new(spec.columns, spec.rows_max));
        Ok(Self { to: Arc::new(Mutex::new(to)), pending: Vec::new(), joiner: Lines.joiner(), table })
    }

    async fn write_pending(&mut self) -> Result<(), ConnectorError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.pending);
        let to = Arc::clone(&self.to);
        os::blocking(move || {
            let mut to = to.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            to.write_all(&bytes).and_then(|()| to.flush()).map_err(|e| match e.kind() {
                io::ErrorKind::BrokenPipe => ConnectorError::Fatal(PIPE_CLOSED.into()),
                _ => os::fatal("cannot write to stdout", &e),
            })
        })
        .await
    }
}

#[async_trait]
impl Sink for StdoutSink {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn frame_by(&mut self, framing: Arc<dyn Framing>) {
        self.joiner = framing.joiner();
        self.pending = self.joiner.head();
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(StreamEncoder(codec.clone()))
    }

    async fn recover(&mut self, _token: Option<&str>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        for record in &batch.records {
            let message = &batch.data[record.value.clone()];
            match &mut self.table {
                Some(table) => table.push(message),
                None => {
                    self.joiner.push(message, &mut self.pending);
                }
            }
        }
        if self.pending.len() >= PENDING_BYTES_MAX {
            self.write_pending().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        self.joiner.finish(&mut self.pending);
        self.write_pending().await?;
        Ok(String::new())
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _ended: bool) -> Result<(), ConnectorError> {
        if let Some(table) = self.table.take() {
            self.pending.extend_from_slice(table.render().as_bytes());
        }
        self.write_pending().await
    }
}
