//! One task a shared source: takes in the partitions that become this process's, and lets go of those
//! that become another's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wasmill_connect::kafka::Shared;
use wasmill_connect::{Change, ConnectorError, Membership, Partition, Reader, Source};
use wasmill_engine::coordinator::FoundPartition;
use wasmill_engine::position::{PartitionId, Position};

use super::alarm::Alarm;
use super::assemble::{EXCHANGE, SharedMember};
use super::claims::Claims;
use super::coordinate::{Event, Halt};
use super::readers::{Credit, QUIET, ReaderTask, Reading};
use super::retry::{Backoff, Ends, insist};

/// A source that the committer and the task of its readers both use.
pub(super) type SharedSource = Arc<Mutex<Box<dyn Source>>>;

/// What the task of one shared source needs.
pub(super) struct MemberTask {
    /// The source's place in the pipeline.
    pub source_number: u16,
    /// What `/ready` calls it.
    pub name: String,
    pub source: SharedSource,
    pub membership: Box<dyn Membership>,
    /// Where positions are, if not with the source.
    pub claims: Option<Claims>,
    /// How many bytes of one partition may be on their way.
    pub credit_bytes: usize,
    pub reading: Reading,
    /// Asks for the pipeline to have all plugins that were decided on so far.
    pub reads_on: mpsc::Sender<oneshot::Sender<()>>,
    pub stop: watch::Receiver<bool>,
}

/// A reader that runs.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl MemberTask {
    /// Goes on until it is told to stop, or can't go on.
    pub async fn run(mut self) {
        let _alarm = Alarm::new("a member of a source's group", &self.reading.events);
        let mut stop = self.stop.clone();
        let mut readers = BTreeMap::new();
        let last = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Event::ReaderStopped,
            halt = self.follow(&mut readers) => halt.into(),
        };
        let all: Vec<u32> = readers.keys().copied().collect();
        end(&mut readers, &all).await;
        let _ = self.reading.events.send(last);
        // Until the pipeline's end its partitions stay this process's: what was read is committed yet.
        if *stop.borrow() {
            self.let_go().await;
        }
    }

    /// Takes changes in until one of them can't be: why.
    async fn follow(&mut self, readers: &mut BTreeMap<u32, Running>) -> Halt {
        let mut backoff = Backoff::new();
        loop {
            let next = self.membership.next();
            let next = match backoff.is_waiting() {
                false => next.await,
                // One that was away and waits quietly now is back.
                true => match tokio::time::timeout(QUIET, next).await {
                    Ok(next) => next,
                    Err(_) => {
                        self.reading.ends.well(&self.name, &mut backoff);
                        continue;
                    }
                },
            };
            let taken_in = match next {
                Ok(change) => {
                    self.reading.ends.well(&self.name, &mut backoff);
                    self.reading.ends.observed.rebalanced();
                    self.take_in(change, readers).await
                }
                Err(error) => self.reading.ends.wait(&self.name, &mut backoff, error).await,
            };
            if let Err(halt) = taken_in {
                return halt;
            }
        }
    }

    async fn take_in(&mut self, change: Change, readers: &mut BTreeMap<u32, Running>) -> Result<(), Halt> {
        match change {
            Change::Assigned(partitions) => self.assigned(partitions, readers).await?,
            Change::Revoked { partitions, release } => {
                end(readers, &partitions).await;
                let event = Event::Left { partitions: self.ids(&partitions), release };
                let _ = self.reading.events.send(event);
            }
            Change::Lost(partitions) => {
                end(readers, &partitions).await;
                let _ = self.reading.events.send(Event::Lost(self.ids(&partitions)));
            }
        }
        Ok(())
    }

    /// The pipeline drains: others may take over at once, without this process's reading on.
    async fn let_go(&mut self) {
        while let Ok(change) = self.membership.next().await {
            if let Change::Revoked { release, partitions } = change {
                let event = Event::Left { partitions: self.ids(&partitions), release };
                if self.reading.events.send(event).is_err() {
                    return;
                }
            }
        }
    }

    fn ids(&self, partitions: &[u32]) -> Vec<PartitionId> {
        partitions.iter().map(|p| PartitionId { source: self.source_number, partition: *p }).collect()
    }

    async fn assigned(
        &mut self,
        partitions: Vec<Partition>,
        readers: &mut BTreeMap<u32, Running>,
    ) -> Result<(), Halt> {
        let ids: Vec<PartitionId> = self.ids(&partitions.iter().map(|p| p.number).collect::<Vec<_>>());
        let mut positions = match &self.claims {
            Some(claims) => claims.claim(&ids, &self.reading.ends).await?,
            None => BTreeMap::new(),
        };
        // Who had them may have gone on with other plugins: nothing is done by earlier ones behind those.
        let (caught_up, is_caught_up) = oneshot::channel();
        if self.reads_on.send(caught_up).await.is_ok() {
            // It is dropped where the run ends.
            let _ = is_caught_up.await;
        }
        for (mut partition, id) in partitions.into_iter().zip(ids) {
            let mut position = positions.remove(&id).or_else(|| partition.position.take());
            if let Some(position) = &mut position {
                self.settle(&partition, position).await?;
            }
            let start = position.as_ref().map_or(partition.begin, |p| p.offset);
            let Some(reader) = self.open(&partition, start).await? else { continue };
            let credit = Arc::new(Credit::new(self.credit_bytes));
            let found = FoundPartition {
                id,
                name: partition.name.clone(),
                incarnation: partition.incarnation,
                begin: partition.begin,
            };
            self.reading.ends.observed.assigned(id, &partition.name, start, partition.extent);
            // Before anything that its reader sends.
            let _ =
                self.reading.events.send(Event::Assigned { found, position, credit: Arc::clone(&credit) });
            let (stop, stopped) = watch::channel(false);
            let task = ReaderTask {
                id,
                name: partition.name,
                reader,
                credit,
                stop: stopped,
                reading: self.reading.clone(),
            };
            readers.insert(partition.number, Running { stop, task: tokio::spawn(task.run()) });
        }
        Ok(())
    }

    /// A position counts in its own log alone. One that was written when the log had another name for it
    /// takes today's.
    async fn settle(&self, found: &Partition, position: &mut Position) -> Result<(), Halt> {
        let same = insist!(
            self.reading.ends,
            &self.name,
            self.source.lock().await.is_same_log(found, &position.incarnation)
        );
        if same? {
            position.incarnation.clone_from(&found.incarnation);
            return Ok(());
        }
        Err(Halt::Failed(format!(
            "{} is not the log that was read before ({} then, {} now); run `wasmill reset` to read it from its start",
            found.name, position.incarnation, found.incarnation
        )))
    }

    /// A reader; none where the partition was taken away meanwhile, which the next change tells.
    async fn open(&self, partition: &Partition, start: u64) -> Result<Option<Box<dyn Reader>>, Halt> {
        let opened = async || match self.source.lock().await.open(partition.number, start).await {
            Ok(reader) => Ok(Some(reader)),
            Err(ConnectorError::Outdated(_)) => Ok(None),
            Err(error) => Err(error),
        };
        insist!(self.reading.ends, &self.name, opened())
    }
}

/// Stops readers and waits until they are: what they have read is on its way then.
async fn end(readers: &mut BTreeMap<u32, Running>, partitions: &[u32]) {
    for number in partitions {
        if let Some(Running { stop, task }) = readers.remove(number) {
            stop.send_replace(true);
            // A reader that panicked has said so.
            let _ = task.await;
        }
    }
}

/// Follows an exchange's group until what this process has of it changes: then the pipeline begins again with
/// what it has, once what goes is committed.
pub(super) async fn follow_exchange(member: SharedMember, events: Sender<Event>, ends: Ends) {
    let mut backoff = Backoff::new();
    let ids = |partitions: Vec<u32>| {
        partitions.into_iter().map(|partition| PartitionId { source: 0, partition }).collect()
    };
    let why = "the exchange is shared out anew";
    loop {
        // Not held while anything is waited for that the next run does.
        let change = { member.lock().await.change().await };
        match change {
            Ok(Shared::More) => {
                let _ = events.send(Event::Fenced(why.to_owned()));
            }
            Ok(Shared::Less { partitions, release }) => {
                let (committed, is_committed) = oneshot::channel();
                let _ = events.send(Event::Left { partitions: ids(partitions), release: committed });
                // It is dropped, not sent to.
                let _ = is_committed.await;
                let _ = events.send(Event::Fenced(why.to_owned()));
                drop(release);
            }
            Ok(Shared::Lost) => {
                let _ = events.send(Event::Lost(Vec::new()));
            }
            Err(error) => match ends.wait(EXCHANGE, &mut backoff, error).await {
                Ok(()) => continue,
                Err(halt) => {
                    let _ = events.send(halt.into());
                }
            },
        }
        ends.observed.rebalanced();
        return;
    }
}
