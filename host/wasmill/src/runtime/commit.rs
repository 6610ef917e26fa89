//! The committer: takes epochs one after the other, and makes each durable in the one order in which a
//! crash at any point loses nothing: foretell, write, flush, store, publish, acknowledge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::mpsc::UnboundedReceiver;
use wasmill_connect::{ConnectorError, Refused};
use wasmill_engine::commit::Commit;
use wasmill_engine::dead_letter::{Buried, DeadLetter};
use wasmill_engine::output::{EncodedBatch, Outbox, OutputId, Routes};
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::{Checkpoint, StateStore, StoreError};

use super::alarm::Alarm;
use super::assemble::NamedSink;
use super::coordinate::{Event, Halt};
use super::health::Health;
use super::members::SharedSource;
use super::observe::Observed;
use super::retry::Backoff;

/// What the committer works with.
pub(super) struct Committer {
    /// The last one takes the dead letters.
    pub sinks: Vec<NamedSink>,
    pub sources: Vec<SharedSource>,
    pub routes: Arc<Routes>,
    pub store: Arc<dyn StateStore>,
    pub events: Sender<Event>,
    pub health: Arc<Health>,
    pub observed: Arc<Observed>,
    /// When the ends of the sources' partitions were asked for last.
    pub looked_ahead: Option<Instant>,
}

/// How much of a message that a sink's other end refused stands in its dead letter: the other end may
/// have refused it for its size.
const REFUSED_BYTES_MAX: usize = 16 << 10;
/// How often the ends of the sources' partitions are asked for.
const EXTENTS_EVERY: Duration = Duration::from_secs(1);

/// Tries again for as long as the other end is away.
macro_rules! persist {
    ($committer:expr, $name:expr, $call:expr) => {{
        let (health, observed) = (&$committer.health, &$committer.observed);
        let mut backoff = Backoff::new();
        loop {
            match $call.await {
                Ok(done) => {
                    if backoff.end() {
                        health.well($name);
                        tracing::info!(end = %$name, "it is back");
                    }
                    break Ok(done);
                }
                Err(ConnectorError::Fatal(text)) => break Err(text),
                Err(ConnectorError::Disconnected { what, cause }) => {
                    health.ill($name, &format!("{what}: {cause}"));
                    observed.away();
                    let wait = backoff.next();
                    tracing::warn!(end = %$name, %what, %cause, again_in_ms = wait.as_millis() as u64, "it is away; nothing is lost, reading will pause");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }};
}

impl Committer {
    /// Commits what comes until nobody sends any more; answers itself, for the end.
    pub async fn run(mut self, mut commits: UnboundedReceiver<Commit>) -> Self {
        let _alarm = Alarm::new("the committer", &self.events);
        while let Some(commit) = commits.recv().await {
            let epoch = commit.checkpoint.epoch;
            let since = Instant::now();
            let event = match self.commit(commit).await {
                Ok(()) => {
                    self.observed.committed(since.elapsed());
                    Event::Committed(epoch, self.store.merged())
                }
                Err(Halt::Failed(text)) => Event::Failed(text),
                Err(Halt::Fenced(text)) => Event::Fenced(text),
            };
            let failed = !matches!(event, Event::Committed(..));
            if self.events.send(event).is_err() || failed {
                break;
            }
        }
        self
    }

    async fn commit(&mut self, commit: Commit) -> Result<(), Halt> {
        let Commit { foretell, mut out, delta, mut checkpoint, mut counts, open_windows } = commit;
        let epoch = checkpoint.epoch;
        // Nothing that a transactional sink has flushed is seen before the commit: only others need facts first.
        let seen_before_commit = self.sinks.iter().any(|s| !s.sink.traits().transactional);
        if let Some(facts) = foretell.filter(|_| seen_before_commit) {
            self.blocking(move |store| store.foretell(epoch, &facts)).await?;
        }
        checkpoint.sinks.clear();
        let last = self.sinks.len() - 1;
        for number in 0..=last {
            let refused = self.write(number, &out.sinks[number], &mut checkpoint).await?;
            if number == last {
                for Refused { reason, .. } in &refused {
                    tracing::error!(sink = %self.sinks[last].name, %reason, "a dead letter was refused, and is lost");
                }
            } else if !refused.is_empty() {
                counts.dead += refused.len() as u64;
                counts.written = counts.written.saturating_sub(refused.len() as u64);
                let dead = dead_letters(&self.routes, &self.sinks[number].name, &refused);
                for (sink, dead) in out.sinks.iter_mut().zip(dead.sinks) {
                    sink.append(dead);
                }
            }
        }
        let mut offsets: BTreeMap<u16, Vec<(u32, u64)>> = BTreeMap::new();
        for (id, position) in &checkpoint.positions {
            offsets.entry(id.source).or_default().push((id.partition, position.offset));
        }
        self.observed.positions(&checkpoint.positions);
        self.blocking(move |store| store.commit(&delta, &checkpoint)).await?;
        for NamedSink { name, sink } in &mut self.sinks {
            persist!(self, name, sink.publish())?;
        }
        for (source, offsets) in offsets {
            let name = format!("source {source}");
            let mut source = self.sources[usize::from(source)].lock().await;
            persist!(self, &name, source.commit(&offsets))?;
        }
        self.observed.counted(counts, open_windows);
        self.look_ahead().await;
        Ok(())
    }

    /// Writes an epoch's messages to a sink and waits until it has them; answers those that it will never take.
    async fn write(
        &mut self,
        number: usize,
        batch: &EncodedBatch,
        checkpoint: &mut Checkpoint,
    ) -> Result<Vec<Refused>, String> {
        let NamedSink { name, sink } = &mut self.sinks[number];
        if !batch.records.is_empty() {
            persist!(self, name, sink.write(batch))?;
        }
        let token = persist!(self, name, sink.flush())?;
        checkpoint.sinks.push((name.clone(), token));
        Ok(sink.refused())
    }

    /// Asks the sources now and then how far their partitions go: for the lag.
    async fn look_ahead(&mut self) {
        if self.looked_ahead.is_some_and(|at| at.elapsed() < EXTENTS_EVERY) {
            return;
        }
        self.looked_ahead = Some(Instant::now());
        for (number, source) in (0u16..).zip(&self.sources) {
            for (partition, extent) in source.lock().await.extents() {
                self.observed.extent(PartitionId { source: number, partition }, extent);
            }
        }
    }

    /// A call of the store, off the threads that wait for the network; again for as long as it is away.
    fn blocking<F>(&self, call: F) -> impl Future<Output = Result<(), Halt>> + Send + use<F>
    where
        F: Fn(&dyn StateStore) -> Result<(), StoreError> + Send + Sync + 'static,
    {
        let (store, call) = (Arc::clone(&self.store), Arc::new(call));
        let ends = Ends { health: Arc::clone(&self.health), observed: Arc::clone(&self.observed) };
        async move {
            let again = || {
                let (store, call) = (Arc::clone(&store), Arc::clone(&call));
                async move { off_the_network(move || call(store.as_ref())).await }
            };
            persist!(ends, "the store", again())?
        }
    }

    /// Closes the sinks in order, once everything is committed, and leaves the sources.
    pub async fn close(mut self) -> Result<(), String> {
        for NamedSink { name, sink } in &mut self.sinks {
            persist!(self, name, sink.close(true))?;
        }
        for source in &self.sources {
            let mut source = source.lock().await;
            persist!(self, "a source", source.close())?;
        }
        Ok(())
    }

    /// Leaves sinks and sources as they are: what is not committed is another run's.
    pub async fn abandon(mut self) {
        for NamedSink { sink, .. } in &mut self.sinks {
            let _ = sink.close(false).await;
        }
        for source in &self.sources {
            let _ = source.lock().await.close().await;
        }
    }
}

/// Where it shows that an end is away.
struct Ends {
    health: Arc<Health>,
    observed: Arc<Observed>,
}

/// What is fatal stays so, what is away may be asked again, and one that was fenced is no error of the store's.
async fn off_the_network(
    call: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
) -> Result<Result<(), Halt>, ConnectorError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(())) => Ok(Ok(())),
        Ok(Err(StoreError::Away { what, cause })) => Err(ConnectorError::Disconnected { what, cause }),
        Ok(Err(e @ StoreError::Fenced { .. })) => Ok(Err(Halt::Fenced(e.to_string()))),
        Ok(Err(e)) => Err(ConnectorError::Fatal(e.to_string())),
        Err(e) => Err(ConnectorError::Fatal(format!("the store's thread panicked: {e}"))),
    }
}

/// What a sink's other end refused, as dead letters.
fn dead_letters(routes: &Routes, sink: &str, refused: &[Refused]) -> Outbox {
    let mut out = Outbox::new(routes);
    for Refused { value, reason, .. } in refused {
        let why = DeadLetter { reason, kind: "refused", stage: "sink", plugin: None, attempts: 1 };
        let head = &value[..value.len().min(REFUSED_BYTES_MAX)];
        let id = OutputId::Refused { sink, digest: xxhash_rust::xxh3::xxh3_64(head) };
        out.bury(routes, &why, Buried::Bytes(head), &id);
    }
    out
}
