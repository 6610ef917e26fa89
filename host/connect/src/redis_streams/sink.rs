//! A stream as a sink of a pipeline whose positions are kept elsewhere.
//!
//! What was written after the last commit can't be taken back. So a run that begins looks which outputs are there
//! behind what is committed, and doesn't write these again: their ids are the same when they are made again.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redis::{Connection, RedisResult, Script};
use wasmill_engine::output::{EncodedBatch, Encoder};

use super::beside;
use super::entry::{EntryId, entries};
use super::info::{self, StreamInfo};
use super::spec::RedisSinkSpec;
use super::token::{Doubt, Token, short};
use super::write::{RedisEncoder, STEP_BYTES_MAX, STEP_ENTRIES_MAX, places, query, run};
use crate::redis_durable::Durable;
use crate::redis_link::{SharedLink, told};
use crate::{ConnectorError, Sink, SinkTraits, Writer, codec, os, random_token};

/// What this sink is like.
pub(super) const LIKE: SinkTraits =
    SinkTraits { transactional: false, refuses_repeats: true, by_token: true };

/// How many entries a look at the stream takes at once.
const PAGE: usize = 1_000;

/// Writes to a stream.
pub struct RedisSink {
    writer: Writer,
    stream: Arc<Mutex<Stream>>,
}

impl RedisSink {
    /// A sink that writes to the stream that a spec names; connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn new(spec: RedisSinkSpec) -> Result<Self, ConnectorError> {
        spec.check()?;
        let stream = Stream {
            link: spec.link()?,
            durable: Durable::new(spec.address(), beside(&spec.stream, "settled")),
            spec,
            script: Script::new(include_str!("write.lua")),
            me: random_token(),
            fence: String::new(),
            prefix: Vec::new(),
            exact: false,
            alone: false,
            doubt: Doubt::default(),
            known: EntryId::default(),
            is_uncertain: false,
            token: None,
        };
        Ok(Self { writer: Writer::default(), stream: Arc::new(Mutex::new(stream)) })
    }

    async fn with_stream<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Stream) -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let stream = Arc::clone(&self.stream);
        os::blocking(move || work(&mut stream.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

struct Stream {
    spec: RedisSinkSpec,
    link: SharedLink,
    script: Script,
    /// This process, as the fence has it.
    me: String,
    fence: String,
    /// How the ids of this writer's outputs begin.
    prefix: Vec<u8>,
    exact: bool,
    /// Whether who wrote before is shut out: not where processes share a pipeline.
    alone: bool,
    durable: Durable,
    doubt: Doubt,
    /// The stream's last id when the last write ended.
    known: EntryId,
    /// Whether a write ended without an answer.
    is_uncertain: bool,
    /// What the last flush answered; none since something was written.
    token: Option<String>,
}

type Places = Vec<(Range<usize>, Range<usize>)>;

impl Stream {
    fn call<T>(
        &self,
        what: &str,
        call: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, ConnectorError> {
        self.link.call(&format!("{what} stream {}", self.spec.stream), call).map_err(told)
    }

    fn shown(&self) -> String {
        format!("stream {} at {}", self.spec.stream, self.spec.address())
    }

    fn info(&self) -> Result<StreamInfo, ConnectorError> {
        Ok(self.call("cannot look at", |c| info::stream(c, &self.spec.stream))?.unwrap_or_default())
    }

    fn identify(&mut self, writer: &Writer) {
        self.fence = beside(&self.spec.stream, &format!("writer:{}/{}", writer.pipeline, writer.sink));
        self.prefix = format!("{}/{}/{}/", writer.pipeline, writer.generation, writer.sink).into_bytes();
        self.exact = writer.exact;
        self.alone = writer.alone;
    }

    /// Makes sure that the server has nothing that comes up again later.
    fn settle(&mut self) -> Result<(), ConnectorError> {
        if self.exact { self.durable.settle(&self.link).map_err(told) } else { Ok(()) }
    }

    fn recover(&mut self, token: Option<&str>) -> Result<(), ConnectorError> {
        if self.exact {
            self.durable.check(&self.link).map_err(told)?;
        }
        self.durable.unsettle();
        self.settle()?;
        // First, so that nothing comes behind what is looked at.
        if self.alone {
            self.call("cannot become the writer of", |c| {
                redis::cmd("SET").arg(&self.fence).arg(&self.me).exec(c)
            })?;
        }
        self.doubt = Doubt::default();
        let info = self.info()?;
        if let Some(token) = token.filter(|t| !t.is_empty()) {
            let token = Token::read(token).ok_or_else(|| {
                ConnectorError::Fatal(format!(
                    "what the state says of {} is not of this wasmill: use the one that wrote it, or run `wasmill reset`",
                    self.shown()
                ))
            })?;
            for (first, last) in token.doubtful() {
                self.look(&first.to_string(), &last.to_string())?;
            }
            let seen = self.look(&format!("({}", token.last()), "+")?;
            self.check_whole(&token, &info, seen)?;
            if self.doubt.len() > 0 {
                tracing::info!(
                    stream = %self.spec.stream, outputs = self.doubt.len(),
                    "outputs were written that may not be committed; they are not written again"
                );
            }
            self.token = Some(token.write());
        } else {
            self.token = Some(Token::new(info.last, info.added, &self.doubt).write());
        }
        self.known = info.last;
        self.is_uncertain = false;
        Ok(())
    }

    /// Whether all that was written since a token is still there to be looked at.
    fn check_whole(&self, token: &Token, info: &StreamInfo, seen: u64) -> Result<(), ConnectorError> {
        let problem = if info.last < token.last() {
            format!("ends at {}, before what is committed ({})", info.last, token.last())
        } else {
            match (token.added, info.added) {
                (Some(then), Some(now)) if now.saturating_sub(then) > seen => format!(
                    "has {seen} of the {} entries that were added since the last commit",
                    now.saturating_sub(then)
                ),
                _ => return Ok(()),
            }
        };
        let shown = self.shown();
        if self.exact {
            return Err(ConnectorError::Fatal(format!(
                "{shown} {problem}: it was trimmed, removed or put back, so that nobody can tell which outputs were in it, and the pipeline must be exactly once; raise `max_len`, and run `wasmill reset` to write everything again, or let the pipeline be `delivery: at_least_once`"
            )));
        }
        tracing::warn!(
            "{shown} {problem}: it was trimmed, removed or put back; outputs that were in it may be written again"
        );
        Ok(())
    }

    /// Notes this writer's outputs in a range of the stream as doubtful; answers how many entries it has.
    fn look(&mut self, from: &str, to: &str) -> Result<u64, ConnectorError> {
        let (mut from, mut seen) = (from.to_owned(), 0);
        loop {
            let mut command = redis::cmd("XRANGE");
            command.arg(&self.spec.stream).arg(&from).arg(to).arg("COUNT").arg(PAGE);
            let found = self.call("cannot look what is in", |c| entries(command.query(c)?))?;
            let Some(last) = found.last() else { return Ok(seen) };
            from = format!("({}", last.id);
            seen += found.len() as u64;
            let is_last = found.len() < PAGE;
            for entry in found {
                let id = entry.fields.iter().flatten().find(|(name, _)| name == b"id");
                if let Some((_, output)) = id.filter(|(_, output)| output.starts_with(&self.prefix)) {
                    self.doubt.add(entry.id, short(output));
                }
            }
            if is_last {
                return Ok(seen);
            }
        }
    }

    fn write(&mut self, data: &[u8], places: &Places) -> Result<(), ConnectorError> {
        if self.is_uncertain {
            self.durable.unsettle();
        }
        self.settle()?;
        if self.is_uncertain {
            // What was asked without an answer may be there.
            self.look(&format!("({}", self.known), "+")?;
            self.is_uncertain = false;
        }
        let mut made_again = Vec::new();
        let mut rest = Vec::with_capacity(places.len());
        for (id, value) in places {
            let output = short(&data[id.clone()]);
            match self.doubt.has(output) {
                true => made_again.push(output),
                false => rest.push((id.clone(), value.clone())),
            }
        }
        let mut last = None;
        let mut ahead = rest.as_slice();
        while !ahead.is_empty() {
            let mut command = run(&self.script, &[&self.spec.stream, &self.fence]);
            let me = if self.alone { self.me.as_str() } else { "" };
            command.arg(me).arg(&self.spec.field);
            command.arg(self.spec.max_len.map(|n| n.to_string()).unwrap_or_default());
            let (mut n, mut bytes) = (0, 0);
            for (id, value) in ahead.iter().take(STEP_ENTRIES_MAX) {
                bytes += id.len() + value.len();
                if n > 0 && bytes > STEP_BYTES_MAX {
                    break;
                }
                command.arg(&data[id.clone()]).arg(&data[value.clone()]);
                n += 1;
            }
            self.is_uncertain = true;
            let answer: Option<String> =
                self.call("cannot write to", |c| query(c, &self.script, &command))?;
            let Some(id) = answer else {
                return Err(ConnectorError::Fenced(format!(
                    "another process writes to {} for this sink now",
                    self.shown()
                )));
            };
            last = id.parse().ok();
            ahead = &ahead[n..];
        }
        self.is_uncertain = false;
        self.known = last.unwrap_or(self.known);
        // Only now: a write that failed is made again as a whole.
        for output in made_again {
            self.doubt.settle(output);
        }
        let never = self.doubt.wrote(rest.len());
        if never > 0 {
            tracing::warn!(
                stream = %self.spec.stream, outputs = never,
                "outputs of the run before were not made again: the pipeline makes other ones now, and they stay beside these"
            );
        }
        self.token = None;
        Ok(())
    }

    fn flush(&mut self) -> Result<String, ConnectorError> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        let info = self.info();
        if info.is_err() {
            self.durable.unsettle();
        }
        let info = info?;
        let token = Token::new(info.last, info.added, &self.doubt).write();
        self.token = Some(token.clone());
        Ok(token)
    }
}

#[async_trait]
impl Sink for RedisSink {
    fn traits(&self) -> SinkTraits {
        LIKE
    }

    fn identify(&mut self, writer: Writer) {
        self.writer = writer;
    }

    fn encoder(&self, codec: &codec::Writing) -> Arc<dyn Encoder> {
        Arc::new(RedisEncoder { codec: Arc::clone(&codec.writer), writer: self.writer.clone() })
    }

    async fn recover(&mut self, token: Option<&str>) -> Result<(), ConnectorError> {
        let (writer, token) = (self.writer.clone(), token.map(str::to_owned));
        self.with_stream(move |stream| {
            stream.identify(&writer);
            stream.recover(token.as_deref())
        })
        .await
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        let data = batch.data.clone();
        let places: Places = batch.records.iter().map(places).collect();
        self.with_stream(move |stream| stream.write(&data, &places)).await
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        self.with_stream(Stream::flush).await
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _: bool) -> Result<(), ConnectorError> {
        Ok(())
    }
}
