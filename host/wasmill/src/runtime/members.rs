//! One task a shared source: takes in the partitions that become this process's, and lets go of those
//! that become another's.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use wasmill_connect::{Change, ConnectorError, Membership, Partition, Reader, Source};
use wasmill_engine::coordinator::FoundPartition;
use wasmill_engine::position::{PartitionId, Position};

use super::alarm::Alarm;
use super::claims::Claims;
use super::coordinate::Event;
use super::readers::{Credit, ReaderTask, Reading};
use super::retry::Backoff;

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
            failed = self.follow(&mut readers) => Event::Failed(failed),
        };
        let all: Vec<u32> = readers.keys().copied().collect();
        end(&mut readers, &all).await;
        let _ = self.reading.events.send(last);
        // Until the pipeline's end its partitions stay this process's: what was read is committed yet.
        if *stop.borrow() {
            self.let_go().await;
        }
    }

    /// Takes changes in until one of them can't be.
    async fn follow(&mut self, readers: &mut BTreeMap<u32, Running>) -> String {
        let mut backoff = Backoff::new();
        loop {
            let change = match self.membership.next().await {
                Ok(change) => change,
                Err(ConnectorError::Fatal(text)) => return text,
                Err(ConnectorError::Disconnected { what, cause }) => {
                    self.reading.health.ill(&self.name, &format!("{what}: {cause}"));
                    self.reading.observed.away();
                    let wait = backoff.next();
                    tracing::warn!(source = %self.name, %what, %cause, again_in_ms = wait.as_millis() as u64, "the source is away");
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            backoff.end();
            self.reading.health.well(&self.name);
            self.reading.observed.rebalanced();
            match change {
                Change::Assigned(partitions) => {
                    if let Err(text) = self.assigned(partitions, readers).await {
                        return text;
                    }
                }
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
        }
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
    ) -> Result<(), String> {
        let ids: Vec<PartitionId> = self.ids(&partitions.iter().map(|p| p.number).collect::<Vec<_>>());
        let mut positions = match &self.claims {
            Some(claims) => claims.claim(&ids, &self.name, &self.reading).await?,
            None => BTreeMap::new(),
        };
        for (partition, id) in partitions.into_iter().zip(ids) {
            let position = positions.remove(&id);
            self.refuse_other_log(&partition, position.as_ref()).await?;
            let start = position.as_ref().map_or(partition.begin, |p| p.offset);
            let reader = self.open(&partition, start).await?;
            let credit = Arc::new(Credit::new(self.credit_bytes));
            let found = FoundPartition {
                id,
                name: partition.name.clone(),
                incarnation: partition.incarnation,
                begin: partition.begin,
            };
            self.reading.observed.assigned(id, &partition.name, start, partition.extent);
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

    async fn refuse_other_log(&self, found: &Partition, position: Option<&Position>) -> Result<(), String> {
        let Some(position) = position else { return Ok(()) };
        let same = self.source.lock().await.is_same_log(found, &position.incarnation).await;
        match same {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "{} is not the log that was read before ({} then, {} now); run `wasmill reset` to read it from its start",
                found.name, position.incarnation, found.incarnation
            )),
            Err(e) => Err(e.to_string()),
        }
    }

    async fn open(&self, partition: &Partition, start: u64) -> Result<Box<dyn Reader>, String> {
        let mut backoff = Backoff::new();
        loop {
            match self.source.lock().await.open(partition.number, start).await {
                Ok(reader) => return Ok(reader),
                Err(ConnectorError::Fatal(text)) => return Err(text),
                Err(ConnectorError::Disconnected { what, cause }) => {
                    self.reading.health.ill(&self.name, &format!("{what}: {cause}"));
                    tracing::warn!(source = %self.name, %what, %cause, "the source is away");
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
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
