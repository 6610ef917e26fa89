//! The committer: takes epochs one after the other, and makes each durable in the one order in which a
//! crash at any point loses nothing: foretell, write, flush, store, publish, acknowledge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use tokio::sync::mpsc::UnboundedReceiver;
use wasmill_connect::{ConnectorError, Source};
use wasmill_engine::commit::Commit;
use wasmill_engine::state::{StateStore, StoreError};

use super::alarm::Alarm;
use super::assemble::NamedSink;
use super::coordinate::Event;
use super::health::Health;
use super::observe::Observed;
use super::retry::Backoff;

/// What the committer works with.
pub(super) struct Committer {
    pub sinks: Vec<NamedSink>,
    pub sources: Vec<Box<dyn Source>>,
    pub store: Arc<dyn StateStore>,
    pub events: Sender<Event>,
    pub health: Arc<Health>,
    pub observed: Arc<Observed>,
}

/// Tries again for as long as the other end is away.
macro_rules! persist {
    ($health:expr, $name:expr, $call:expr) => {{
        let mut backoff = Backoff::new();
        loop {
            match $call.await {
                Ok(done) => {
                    if backoff.end() {
                        $health.well($name);
                        tracing::info!(sink = %$name, "the sink is back");
                    }
                    break Ok(done);
                }
                Err(ConnectorError::Fatal(text)) => break Err(text),
                Err(ConnectorError::Disconnected { what, cause }) => {
                    $health.ill($name, &format!("{what}: {cause}"));
                    let wait = backoff.next();
                    tracing::warn!(sink = %$name, %what, %cause, again_in_ms = wait.as_millis() as u64, "the sink is away; nothing is lost, reading will pause");
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
                    Event::Committed(epoch)
                }
                Err(text) => Event::Failed(text),
            };
            let failed = matches!(event, Event::Failed(_));
            if self.events.send(event).is_err() || failed {
                break;
            }
        }
        self
    }

    async fn commit(&mut self, commit: Commit) -> Result<(), String> {
        let Commit { foretell, out, delta, mut checkpoint, counts, open_windows } = commit;
        let epoch = checkpoint.epoch;
        // Nothing that a transactional sink has flushed is seen before the commit: only others need facts first.
        let seen_before_commit = self.sinks.iter().any(|s| !s.sink.traits().transactional);
        if let Some(facts) = foretell.filter(|_| seen_before_commit) {
            self.blocking(move |store| store.foretell(epoch, &facts)).await?;
        }
        checkpoint.sinks.clear();
        for (named, batch) in self.sinks.iter_mut().zip(&out.sinks) {
            let NamedSink { name, sink } = named;
            if !batch.records.is_empty() {
                persist!(self.health, name, sink.write(batch))?;
            }
            let token = persist!(self.health, name, sink.flush())?;
            checkpoint.sinks.push((name.clone(), token));
        }
        let mut offsets: BTreeMap<u16, Vec<(u32, u64)>> = BTreeMap::new();
        for (id, position) in &checkpoint.positions {
            offsets.entry(id.source).or_default().push((id.partition, position.offset));
        }
        self.observed.positions(&checkpoint.positions);
        self.blocking(move |store| store.commit(&delta, &checkpoint)).await?;
        for NamedSink { name, sink } in &mut self.sinks {
            persist!(self.health, name, sink.publish())?;
        }
        for (source, offsets) in offsets {
            let name = format!("source {source}");
            persist!(self.health, &name, self.sources[usize::from(source)].commit(&offsets))?;
        }
        self.observed.counted(counts, open_windows);
        Ok(())
    }

    /// A call of the store, off the threads that wait for the network.
    fn blocking<F>(&self, call: F) -> impl Future<Output = Result<(), String>> + Send + use<F>
    where
        F: FnOnce(&dyn StateStore) -> Result<(), StoreError> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        async move {
            match tokio::task::spawn_blocking(move || call(store.as_ref())).await {
                Ok(done) => done.map_err(|e| e.to_string()),
                Err(e) => Err(format!("the store's thread panicked: {e}")),
            }
        }
    }

    /// Closes the sinks in order, once everything is committed.
    pub async fn close(mut self) -> Result<(), String> {
        for NamedSink { name, sink } in &mut self.sinks {
            persist!(self.health, name, sink.close(true))?;
        }
        Ok(())
    }
}
