//! Commits an epoch by a transaction of Kafka: what leaves, what changes in the state, and how far the sources
//! are, in one. The store follows: begin, write, offsets, flush, **commit**, store, publish, acknowledge.
//!
//! A transaction that fails before its commit is aborted, and the same epoch is written again in another one:
//! nobody has seen anything of it. Where a commit is in doubt, or the group has gone on without this process,
//! the pipeline begins again from what the brokers say is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use wasmill_connect::kafka::{Changelog, Transactions};
use wasmill_connect::store::PartitionedStore;
use wasmill_connect::{ConnectorError, Refused};
use wasmill_engine::commit::Commit;
use wasmill_engine::output::{EncodedBatch, Outbox};
use wasmill_engine::position::Position;
use wasmill_engine::state::{Change, Checkpoint, Delta, StateStore, StoreError};

use super::assemble::NamedSink;
use super::commit::{Committer, dead_letters, refused_even_so};
use super::coordinate::Halt;
use super::retry::{Backoff, answered, insist};
use super::{failpoint, follower};

/// What `/ready` calls it.
pub(super) const TRANSACTION: &str = "the transaction";

/// What commits a pipeline in place of its store.
pub(super) struct Transacted {
    pub transactions: Transactions,
    /// Where state and positions are; none where there are positions alone, with the sources' groups.
    pub changelog: Option<Changelog>,
    /// The stores behind it, where it has a part for each partition of an exchange.
    pub partitioned: Option<Arc<PartitionedStore>>,
    /// How many producers were replaced when it was looked last.
    pub replaced: u64,
    /// Whether a dead letter was cut in this epoch already.
    pub shortened: bool,
}

/// The positions of each source's partitions.
type Positions = BTreeMap<u16, Vec<(u32, Position)>>;

impl Committer {
    fn transacted(&mut self) -> &mut Transacted {
        let Some(transacted) = &mut self.transacted else {
            unreachable!("what is called here is called where there are transactions alone")
        };
        transacted
    }

    pub(super) async fn commit_in_transaction(&mut self, commit: Commit) -> Result<(), Halt> {
        // No sink shows anything before the commit: facts that the messages don't tell need not be foretold.
        let Commit { mut out, delta, mut checkpoint, mut counts, open_windows, .. } = commit;
        checkpoint.sinks.clear();
        let last = self.sinks.len() - 1;
        for number in 0..=last {
            if self.sinks[number].in_transaction {
                continue;
            }
            let (refused, mut token) = self.write(number, &out.sinks[number]).await?;
            if !refused.is_empty() && number < last {
                counts.dead += refused.len() as u64;
                counts.written = counts.written.saturating_sub(refused.len() as u64);
                self.bury(number, &refused, &mut out);
            } else if !refused.is_empty() {
                token = self.write_shorter(number, &refused).await?;
            }
            checkpoint.sinks.push((self.sinks[number].name.clone(), token));
        }
        let mut positions = Positions::new();
        for (id, position) in &checkpoint.positions {
            positions.entry(id.source).or_default().push((id.partition, position.clone()));
        }
        self.transacted().shortened = false;
        let mut backoff = Backoff::new();
        let outside = loop {
            match self.attempt(&out, &delta, &checkpoint, &positions).await {
                Ok(outside) => break outside,
                Err(ConnectorError::Aborted(why)) => {
                    self.ends.observed.aborted();
                    let refused = self.take_refused(&mut out, &mut checkpoint).await?;
                    counts.dead += refused;
                    counts.written = counts.written.saturating_sub(refused);
                    tracing::warn!(%why, refused, "a transaction is given up, and its epoch written again in another one");
                    let transactions = self.transacted().transactions.clone();
                    insist!(self.ends, TRANSACTION, transactions.abort())?;
                    if refused == 0 {
                        tokio::time::sleep(backoff.next().min(Duration::from_secs(1))).await;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        failpoint::reached("committed");
        self.ends.observed.positions(&checkpoint.positions);
        let follow = self.follow(delta, checkpoint);
        self.blocking(follow).await?;
        failpoint::reached("applied");
        for NamedSink { name, sink, .. } in &mut self.sinks {
            insist!(self.ends, name, sink.publish())?;
        }
        for number in outside {
            let offsets: Vec<(u32, u64)> =
                positions[&number].iter().map(|(partition, p)| (*partition, p.offset)).collect();
            let name = format!("source {number}");
            let mut source = self.sources[usize::from(number)].lock().await;
            insist!(self.ends, &name, source.commit(&offsets))?;
        }
        let replaced = self.transacted().transactions.replaced();
        let before = std::mem::replace(&mut self.transacted().replaced, replaced);
        self.ends.observed.replaced(replaced - before);
        self.ends.observed.counted(counts, open_windows);
        self.look_ahead().await;
        Ok(())
    }

    /// What brings the store, or each of them, to where the changelog is behind a commit.
    fn follow(
        &mut self,
        delta: Delta,
        checkpoint: Checkpoint,
    ) -> impl Fn(&dyn StateStore) -> Result<(), StoreError> + Send + Sync + 'static {
        let followed = self.transacted().changelog.clone().map(|changelog| {
            move |partition| match changelog.followed(partition) {
                Some(followed) => followed,
                None => unreachable!("the checkpoint of an epoch was flushed before its commit"),
            }
        });
        let partitioned = self.transacted().partitioned.clone();
        move |store| match (&followed, &partitioned) {
            (None, _) => store.commit(&delta, &checkpoint),
            (Some(followed), None) => {
                store.commit(&delta, &follower::noted(checkpoint.clone(), &followed(0)))
            }
            (Some(followed), Some(partitioned)) => {
                let note = |partition, part| follower::noted(part, &followed(partition));
                partitioned.commit_parts(&delta, &checkpoint, note)
            }
        }
    }

    /// One transaction, from its beginning to its commit; answers the sources whose positions are not in it.
    async fn attempt(
        &mut self,
        out: &Outbox,
        delta: &Delta,
        checkpoint: &Checkpoint,
        positions: &Positions,
    ) -> Result<Vec<u16>, ConnectorError> {
        let Some(Transacted { transactions, changelog, partitioned, .. }) = &self.transacted else {
            return Ok(Vec::new());
        };
        answered!(self.ends, TRANSACTION, transactions.begin())?;
        for (NamedSink { name, sink, .. }, batch) in
            self.sinks.iter_mut().zip(&out.sinks).filter(|(sink, _)| sink.in_transaction)
        {
            if !batch.records.is_empty() {
                answered!(self.ends, name, sink.write(batch))?;
            }
            answered!(self.ends, name, sink.progress(&checkpoint.positions))?;
        }
        match (changelog, partitioned) {
            (Some(changelog), Some(partitioned)) => {
                for (partition, (changes, part)) in partitioned.parts(delta, checkpoint) {
                    answered!(self.ends, TRANSACTION, changelog.write(partition, &changes, &part))?;
                }
            }
            (Some(changelog), None) => {
                let changes: Vec<&Change> = delta.changes.iter().collect();
                answered!(self.ends, TRANSACTION, changelog.write(0, &changes, checkpoint))?;
            }
            (None, _) => {}
        }
        if failpoint::is_asked("produced") {
            answered!(self.ends, TRANSACTION, transactions.flush())?;
            failpoint::reached("produced");
        }
        let mut outside = Vec::new();
        for (number, positions) in positions {
            // Asked now: what the group says of this process must be of the time when it had the partitions.
            let offsets = self.sources[usize::from(*number)].lock().await.offsets(positions)?;
            match offsets.map(Arc::new) {
                Some(offsets) => answered!(self.ends, TRANSACTION, transactions.send_offsets(&offsets))?,
                None => outside.push(*number),
            }
        }
        failpoint::reached("offsets");
        answered!(self.ends, TRANSACTION, transactions.flush())?;
        failpoint::reached("flushed");
        answered!(self.ends, TRANSACTION, transactions.commit())?;
        Ok(outside)
    }

    /// Takes out of an epoch what the brokers refused of it, and puts dead letters in its place; answers how
    /// many messages that were.
    async fn take_refused(&mut self, out: &mut Outbox, checkpoint: &mut Checkpoint) -> Result<u64, Halt> {
        let last = self.sinks.len() - 1;
        let mut messages = 0;
        for number in 0..=last {
            if !self.sinks[number].in_transaction {
                continue;
            }
            let refused = self.sinks[number].sink.refused();
            let Some(first) = refused.first() else { continue };
            if number == last {
                if std::mem::replace(&mut self.transacted().shortened, true) {
                    return Err(refused_even_so(first));
                }
                let shorter = self.shorter(number, &refused);
                without(&mut out.sinks[number], &refused);
                out.sinks[number].append(shorter);
                continue;
            }
            messages += refused.len() as u64;
            let before = out.sinks[last].records.len();
            self.bury(number, &refused, out);
            without(&mut out.sinks[number], &refused);
            if !self.sinks[last].in_transaction {
                // What was in it before is written already.
                let mut dead = std::mem::take(&mut out.sinks[last]);
                dead.records.drain(..before);
                let (refused, mut token) = self.write(last, &dead).await?;
                if !refused.is_empty() {
                    token = self.write_shorter(last, &refused).await?;
                }
                let name = &self.sinks[last].name;
                checkpoint.sinks.retain(|(n, _)| n != name);
                checkpoint.sinks.push((name.clone(), token));
            }
        }
        Ok(messages)
    }

    /// Puts dead letters of what a sink's other end refused behind what leaves.
    fn bury(&self, number: usize, refused: &[Refused], out: &mut Outbox) {
        let dead = dead_letters(&self.routes, &self.sinks[number].name, &out.sinks[number], refused);
        for (sink, dead) in out.sinks.iter_mut().zip(dead.sinks) {
            sink.append(dead);
        }
    }
}

/// Takes what was refused out of a batch.
fn without(batch: &mut EncodedBatch, refused: &[Refused]) {
    let refused: BTreeSet<usize> = refused.iter().map(|r| r.nth).collect();
    let mut nth = 0;
    batch.records.retain(|_| {
        nth += 1;
        !refused.contains(&(nth - 1))
    });
}
