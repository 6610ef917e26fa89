//! The exchange as a source.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Mutex;
use wasmill_engine::position::{PartitionId, Position};

use super::record::offset_of;
use super::split::{Log, PartReader, Split};
use super::{ExchangeMember, exchange_part, number_of};
use crate::kafka::client::{ASK_MAX, end_aside, why};
use crate::kafka::group::{Handle, number};
use crate::kafka::offsets::GroupOffsets;
use crate::kafka::settings::Settings;
use crate::{ConnectorError, Partition, Reader, Source};

/// How often what was taken in is deleted.
const PURGE_EVERY: Duration = Duration::from_secs(30);

/// The exchange as a source, for one run.
pub struct ExchangeSource {
    /// What is this process's for the run.
    owned: Vec<u32>,
    splits: BTreeMap<u32, Arc<Split>>,
    handle: Handle,
    of: Vec<(PartitionId, String)>,
    topic: String,
    incarnation: String,
    /// What deletes.
    settings: Settings,
    purged: Instant,
    /// Up to where each partition was taken in, as sent with the last epoch.
    sent: BTreeMap<u32, u64>,
}

impl ExchangeSource {
    /// Deletes what was taken in and is committed, now and then.
    fn purge(&mut self) {
        if self.purged.elapsed() < PURGE_EVERY || self.sent.is_empty() {
            return;
        }
        self.purged = Instant::now();
        let mut list = TopicPartitionList::new();
        for (partition, before) in &self.sent {
            let before = Offset::Offset(i64::try_from(*before).unwrap_or(0));
            let _ = list.add_partition_offset(&self.topic, number(*partition), before);
        }
        let (settings, topic) = (self.settings.clone(), self.topic.clone());
        tokio::spawn(async move {
            let made: Result<AdminClient<DefaultClientContext>, _> = settings.create(DefaultClientContext);
            let Ok(admin) = made else { return };
            let options = AdminOptions::new().operation_timeout(Some(ASK_MAX)).request_timeout(Some(ASK_MAX));
            if let Err(error) = admin.delete_records(&list, &options).await {
                tracing::debug!(%topic, cause = %why(&error), "what was taken in could not be deleted; it is tried again");
            }
            end_aside(admin);
        });
    }

    /// A source of what a member has: as [`ExchangeMember::settle`] has just told.
    ///
    /// # Errors
    /// When the group is left already.
    pub async fn new(member: &Mutex<ExchangeMember>, owned: Vec<u32>) -> Result<Self, ConnectorError> {
        let (handle, of, topic, settings, incarnation) = {
            let inner = member.lock().await;
            let source = &inner.source;
            let incarnation = source.incarnation().await?;
            (source.handle()?, inner.of.clone(), inner.exchange.topic.clone(), source.asking(), incarnation)
        };
        let log: Arc<dyn Log> = Arc::new(handle.clone());
        let split = |p: &u32| (*p, Arc::new(Split::new(*p, of.iter().map(|(id, _)| *id), Arc::clone(&log))));
        let splits = owned.iter().map(split).collect();
        let (purged, sent) = (Instant::now(), BTreeMap::new());
        Ok(Self { owned, splits, handle, of, topic, incarnation, settings, purged, sent })
    }
}

#[async_trait]
impl Source for ExchangeSource {
    async fn partitions(&mut self) -> Result<Vec<Partition>, ConnectorError> {
        let mut partitions = Vec::new();
        for partition in &self.owned {
            for (id, of) in &self.of {
                partitions.push(Partition {
                    number: number_of(*partition, *id),
                    name: format!("{}[{partition}] of {of}", self.topic),
                    incarnation: self.incarnation.clone(),
                    begin: 0,
                    position: None,
                    extent: None,
                });
            }
        }
        Ok(partitions)
    }

    /// `offset` is a place.
    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let (of, part) = exchange_part(partition);
        let split =
            self.splits.get(&of).cloned().ok_or_else(|| {
                ConnectorError::Outdated(format!("{}[{of}] is not this process's", self.topic))
            })?;
        split.from(part, offset).await?;
        Ok(Box::new(PartReader { split, of: part }))
    }

    fn offsets(&mut self, positions: &[(u32, Position)]) -> Result<Option<GroupOffsets>, ConnectorError> {
        let mut least: BTreeMap<u32, Position> = BTreeMap::new();
        for (number, position) in positions {
            let (of, part) = exchange_part(*number);
            let place = self.splits.get(&of).map_or(position.offset, |s| s.taken_in(part, position.offset));
            // A record is taken in once all in it is.
            let offset = offset_of(place);
            let position = Position { offset, ..position.clone() };
            match least.get_mut(&of) {
                Some(least) if least.offset <= offset => {}
                Some(least) => *least = position,
                None => drop(least.insert(of, position)),
            }
        }
        self.purge();
        self.sent = least.iter().map(|(p, position)| (*p, position.offset)).collect();
        let least: Vec<(u32, Position)> = least.into_iter().collect();
        self.handle.offsets(&least).map(Some)
    }

    async fn commit(&mut self, _: &[(u32, u64)]) -> Result<(), ConnectorError> {
        Ok(())
    }
}
