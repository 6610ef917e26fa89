//! Reads lines from stdin.

use std::hash::BuildHasher;
use std::io::{self, Read};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use wasmill_codec::framing::{Framing, Lines, Place};

use crate::file::message_bytes_max;
use crate::stream::{Chunks, StreamReader};
use crate::table::SourceConnector;
use crate::units::HumanSize;
use crate::{ConnectorError, Partition, Reader, Source, SourceTraits, os};

/// How much one read brings, and how many reads may wait.
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS_MAX: usize = 4;

/// JSON lines from stdin: one message a line. Ends with stdin; can't be read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdinSourceSpec {
    /// A longer line goes to the dead-letter queue unread. Default: 1MiB.
    #[serde(default = "message_bytes_max")]
    pub message_bytes_max: HumanSize,
}

impl Default for StdinSourceSpec {
    fn default() -> Self {
        Self { message_bytes_max: message_bytes_max() }
    }
}

impl SourceConnector for StdinSourceSpec {
    fn traits(&self) -> SourceTraits {
        SourceTraits {
            seekable: false,
            bounded: true,
            shared: false,
            shared_with_positions: false,
            forgets: false,
            append_times: false,
        }
    }

    fn source(&self) -> Result<Box<dyn Source>, ConnectorError> {
        Ok(Box::new(StdinSource::new(self, io::stdin())))
    }
}

/// Reads lines from stdin, or from another stream that can't be read again. An offset is a byte.
pub struct StdinSource {
    message_bytes_max: usize,
    from: Option<Box<dyn Read + Send>>,
    framing: Arc<dyn Framing>,
}

impl StdinSource {
    /// A source of the lines of `from`.
    pub fn new(spec: &StdinSourceSpec, from: impl Read + Send + 'static) -> Self {
        let message_bytes_max = usize::try_from(spec.message_bytes_max.0).unwrap_or(usize::MAX - 1);
        Self { message_bytes_max, from: Some(Box::new(from)), framing: Arc::new(Lines) }
    }
}

#[async_trait]
impl Source for StdinSource {
    fn frame_by(&mut self, framing: Arc<dyn Framing>) {
        self.framing = framing;
    }

    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        // Every run's stdin is another log, so that no position of an earlier one fits.
        let random = std::hash::RandomState::new().hash_one(0);
        let incarnation = format!("stdin-{random:016x}");
        Ok(vec![Partition {
            number: 0,
            name: "stdin".into(),
            incarnation,
            begin: 0,
            position: None,
            extent: None,
        }])
    }

    async fn open(&mut self, _partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let from = self.from.take().filter(|_| offset == 0).ok_or_else(|| {
            ConnectorError::Fatal(format!(
                "stdin can't be read again from byte {offset}: give a file as source to resume, or run `wasmill reset` to start afresh"
            ))
        })?;
        let chunks = StreamChunks::start(from)?;
        let max = self.message_bytes_max;
        Ok(Box::new(StreamReader::new(chunks, &*self.framing, 0, Place::START, max, None)))
    }

    async fn commit(&mut self, _offsets: &[(u32, u64)]) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// A stream piece by piece. It has a thread of its own, for a read of a terminal may last for ever and
/// must not hold up the end of the process.
struct StreamChunks {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    failed: Option<String>,
}

impl StreamChunks {
    fn start(mut from: Box<dyn Read + Send>) -> Result<Self, ConnectorError> {
        let (to, chunks) = mpsc::channel(CHUNKS_MAX);
        let run = move || loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = match from.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => {
                    chunk.truncate(n);
                    Ok(chunk)
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let ends = read.is_err();
            if to.blocking_send(read).is_err() || ends {
                return;
            }
        };
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(run)
            .map_err(|e| os::fatal("cannot start the thread that reads stdin", &e))?;
        Ok(Self { chunks, failed: None })
    }
}

#[async_trait]
impl Chunks for StreamChunks {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ConnectorError> {
        if let Some(text) = &self.failed {
            return Err(ConnectorError::Fatal(text.clone()));
        }
        match self.chunks.recv().await {
            None => Ok(None),
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(e)) => {
                let error = os::fatal("cannot read stdin", &e);
                self.failed = Some(error.to_string());
                Err(error)
            }
        }
    }
}
