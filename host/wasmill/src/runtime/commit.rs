//! The committer: takes epochs one after the other, and makes each durable in the one order in which a
//! crash at any point loses nothing: foretell, write, flush, store, publish, acknowledge. Where Kafka's
//! transactions commit a pipeline the order is theirs: `transaction`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::mpsc::UnboundedReceiver;
use wasmill_connect::Refused;
use wasmill_engine::commit::Commit;
use wasmill_engine::dead_letter::{Buried, DeadLetter, SHORT_ORIGINAL_BYTES_MAX};
use wasmill_engine::output::{EncodedBatch, Outbox, OutputId, Routes};
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::{StateStore, StoreError};

use super::alarm::Alarm;
use super::assemble::NamedSink;
use super::coordinate::{Event, Halt};
use super::members::SharedSource;
use super::retry::{Ends, insist, off_the_network};
use super::transaction::{TRANSACTION, Transacted};

/// What the committer works with.
pub(super) struct Committer {
    /// The last one takes the dead letters.
    pub sinks: Vec<NamedSink>,
    pub sources: Vec<SharedSource>,
    pub routes: Arc<Routes>,
    pub store: Arc<dyn StateStore>,
    /// What commits in place of the store.
    pub transacted: Option<Transacted>,
    pub events: Sender<Event>,
    pub ends: Ends,
    /// When the ends of the sources' partitions were asked for last.
    pub looked_ahead: Option<Instant>,
    /// How many messages the sources had lost when they were asked last, by source.
    pub lost: Vec<u64>,
}

/// How much of a message that a sink's other end refused stands in its dead letter: the other end may
/// have refused it for its size.
const REFUSED_BYTES_MAX: usize = 16 << 10;
/// How often the ends of the sources' partitions are asked for.
const EXTENTS_EVERY: Duration = Duration::from_secs(1);

impl Committer {
    /// Commits what comes until nobody sends any more; answers itself, for the end.
    pub async fn run(mut self, mut commits: UnboundedReceiver<Commit>) -> Self {
        let _alarm = Alarm::new("the committer", &self.events);
        // The epoch behind, where it is there already and its facts were foretold.
        let mut next: Option<Commit> = None;
        loop {
            let taken = match next.take() {
                Some(commit) => Some(commit),
                None => commits.recv().await,
            };
            let Some(commit) = taken else { break };
            let epoch = commit.checkpoint.epoch;
            let since = Instant::now();
            let event = match self.commit(commit, || take_next(&mut next, &mut commits)).await {
                Ok(()) => {
                    self.ends.observed.committed(since.elapsed());
                    Event::Committed(epoch, self.store.merged())
                }
                Err(halt) => halt.into(),
            };
            let failed = !matches!(event, Event::Committed(..));
            if self.events.send(event).is_err() || failed {
                break;
            }
        }
        self
    }

    /// Commits an epoch; `next` answers the facts of the one behind, if it is there already.
    async fn commit(&mut self, commit: Commit, next: impl FnOnce() -> Option<Vec<u8>>) -> Result<(), Halt> {
        if self.transacted.is_some() {
            return self.commit_in_transaction(commit).await;
        }
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
            let (refused, token) = self.write(number, &out.sinks[number]).await?;
            let token = match refused.as_slice() {
                [] => token,
                refused if number < last => {
                    counts.dead += refused.len() as u64;
                    counts.written = counts.written.saturating_sub(refused.len() as u64);
                    let name = &self.sinks[number].name;
                    let dead = dead_letters(&self.routes, name, &out.sinks[number], refused);
                    for (sink, dead) in out.sinks.iter_mut().zip(dead.sinks) {
                        sink.append(dead);
                    }
                    token
                }
                refused => self.write_shorter(number, refused).await?,
            };
            checkpoint.sinks.push((self.sinks[number].name.clone(), token));
        }
        let mut offsets: BTreeMap<u16, Vec<(u32, u64)>> = BTreeMap::new();
        for (id, position) in &checkpoint.positions {
            offsets.entry(id.source).or_default().push((id.partition, position.offset));
        }
        self.ends.observed.positions(&checkpoint.positions);
        let facts = if seen_before_commit && self.store.foretells_in_commits() { next() } else { None };
        self.blocking(move |store| match &facts {
            Some(facts) => store.commit_and_foretell(&delta, &checkpoint, facts),
            None => store.commit(&delta, &checkpoint),
        })
        .await?;
        for NamedSink { name, sink, .. } in &mut self.sinks {
            insist!(self.ends, name, sink.publish())?;
        }
        for (source, offsets) in offsets {
            let name = format!("source {source}");
            let mut source = self.sources[usize::from(source)].lock().await;
            insist!(self.ends, &name, source.commit(&offsets))?;
        }
        self.ends.observed.counted(counts, open_windows);
        self.look_ahead().await;
        Ok(())
    }

    /// Writes an epoch's messages to a sink and waits until it has them; answers those that it will never
    /// take, and the sink's token.
    pub(super) async fn write(
        &mut self,
        number: usize,
        batch: &EncodedBatch,
    ) -> Result<(Vec<Refused>, String), Halt> {
        let NamedSink { name, sink, .. } = &mut self.sinks[number];
        if !batch.records.is_empty() {
            insist!(self.ends, name, sink.write(batch))?;
        }
        let token = insist!(self.ends, name, sink.flush())?;
        Ok((sink.refused(), token))
    }

    /// Writes dead letters again that their sink's other end refused, with less in them. One that is refused
    /// even so stops the pipeline, for it must not vanish: what is not committed is read again.
    pub(super) async fn write_shorter(&mut self, number: usize, refused: &[Refused]) -> Result<String, Halt> {
        let shorter = self.shorter(number, refused);
        let (refused, token) = self.write(number, &shorter).await?;
        match refused.first() {
            None => Ok(token),
            Some(refused) => Err(refused_even_so(refused)),
        }
    }

    /// Dead letters that their sink's other end refused, with less in them.
    pub(super) fn shorter(&self, number: usize, refused: &[Refused]) -> EncodedBatch {
        let name = &self.sinks[number].name;
        let mut shorter = Outbox::new(&self.routes);
        for Refused { value, reason, .. } in refused {
            tracing::warn!(sink = %name, %reason, "a dead letter was refused; it is cut and written again");
            let id = OutputId::Refused { sink: name, digest: digest(value), origin: None };
            shorter.bury_shorter(&self.routes, value, reason, &id);
        }
        std::mem::take(&mut shorter.sinks[number])
    }

    /// Asks the sources now and then how far their partitions go: for the lag.
    pub(super) async fn look_ahead(&mut self) {
        if self.looked_ahead.is_some_and(|at| at.elapsed() < EXTENTS_EVERY) {
            return;
        }
        self.looked_ahead = Some(Instant::now());
        for (number, source) in (0u16..).zip(&self.sources) {
            let source = source.lock().await;
            for (partition, extent) in source.extents() {
                self.ends.observed.extent(PartitionId { source: number, partition }, extent);
            }
            let lost = source.lost();
            if let Some(before) = self.lost.get_mut(usize::from(number)) {
                self.ends.observed.lost(lost.saturating_sub(std::mem::replace(before, lost)));
            }
            for (partition, offsets) in source.unstable() {
                self.ends.observed.unstable(PartitionId { source: number, partition }, offsets);
            }
        }
    }

    /// A call of the store, off the threads that wait for the network; again for as long as it is away.
    pub(super) fn blocking<F>(&self, call: F) -> impl Future<Output = Result<(), Halt>> + Send + use<F>
    where
        F: Fn(&dyn StateStore) -> Result<(), StoreError> + Send + Sync + 'static,
    {
        let (store, call, ends) = (Arc::clone(&self.store), Arc::new(call), self.ends.clone());
        async move {
            let again = || {
                let (store, call) = (Arc::clone(&store), Arc::clone(&call));
                off_the_network(move || call(store.as_ref()))
            };
            insist!(ends, "the store", again())
        }
    }

    /// Closes the sinks in order, once everything is committed, and leaves the sources.
    pub async fn close(mut self) -> Result<(), Halt> {
        for NamedSink { name, sink, .. } in &mut self.sinks {
            insist!(self.ends, name, sink.close(true))?;
        }
        if let Some(transacted) = &self.transacted {
            insist!(self.ends, TRANSACTION, transacted.transactions.close())?;
        }
        for source in &self.sources {
            let mut source = source.lock().await;
            insist!(self.ends, "a source", source.close())?;
        }
        Ok(())
    }

    /// Leaves sinks and sources as they are: what is not committed is another run's.
    pub async fn abandon(mut self) {
        for NamedSink { sink, .. } in &mut self.sinks {
            let _ = sink.close(false).await;
        }
        if let Some(Transacted { transactions, .. }) = &self.transacted {
            // What is left open would keep readers waiting until the brokers give it up.
            let _ = transactions.abort().await;
            let _ = transactions.close().await;
        }
        for source in &self.sources {
            let _ = source.lock().await.close().await;
        }
    }
}

/// Takes the epoch behind out of the queue, if it is there, and its facts out of it.
fn take_next(next: &mut Option<Commit>, commits: &mut UnboundedReceiver<Commit>) -> Option<Vec<u8>> {
    *next = commits.try_recv().ok();
    next.as_mut().and_then(|commit| commit.foretell.take())
}

/// What a sink's other end refused of what was written, as dead letters.
pub(super) fn dead_letters(
    routes: &Routes,
    sink: &str,
    written: &EncodedBatch,
    refused: &[Refused],
) -> Outbox {
    let mut out = Outbox::new(routes);
    for Refused { value, reason, nth, attempts, .. } in refused {
        let why = DeadLetter { reason, kind: "refused", stage: "sink", plugin: None, attempts: *attempts };
        let head = &value[..value.len().min(REFUSED_BYTES_MAX)];
        let origin = written.records.get(*nth).and_then(|record| record.origin);
        let id = OutputId::Refused { sink, digest: digest(value), origin };
        out.bury(routes, &why, Buried::Output(head), &id, None);
    }
    out
}

/// That a dead letter can't be written in any form.
pub(super) fn refused_even_so(refused: &Refused) -> Halt {
    Halt::Failed(format!(
        "a dead letter is refused, even cut to {SHORT_ORIGINAL_BYTES_MAX} bytes of its message: {}. Mend that and run again: nothing is lost, for what is not committed is read again",
        refused.reason
    ))
}

fn digest(value: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&value[..value.len().min(REFUSED_BYTES_MAX)])
}
