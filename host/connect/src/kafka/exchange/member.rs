//! A place in the group that shares an exchange's partitions out.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use wasmill_engine::position::PartitionId;

use super::{ExchangeTopic, PARTITION_SHIFT, SOURCE_SHIFT, number_of};
use crate::kafka::group::Raw;
use crate::kafka::properties::Property;
use crate::kafka::security::is_of_security;
use crate::kafka::sink::KafkaSinkSpec;
use crate::kafka::source::{KafkaSource, KafkaSourceSpec};
use crate::{ConnectorError, Positions};

/// How long the brokers wait for more before they answer that there is nothing.
const FETCH_WAIT_MS: &str = "20";

/// A change of what this process has of the exchange.
#[derive(Debug)]
pub enum Shared {
    /// More partitions are its own: begin again with all.
    More,
    /// These are about to be another's: commit what was taken in of them, then drop `release`, and begin again.
    Less {
        /// As the engine numbers them.
        partitions: Vec<u32>,
        /// Dropped when they are let go.
        release: oneshot::Sender<()>,
    },
    /// These are another's already.
    Lost,
}

/// A place in the group that shares an exchange's partitions out. It lasts longer than a run, for what a run
/// has changes with it.
pub struct ExchangeMember {
    pub(super) exchange: ExchangeTopic,
    pub(super) source: KafkaSource,
    changed: UnboundedReceiver<Raw>,
    owned: BTreeSet<u32>,
    heard: bool,
    /// The partitions of the sources, in their order.
    pub(super) of: Vec<(PartitionId, String)>,
}

impl ExchangeMember {
    /// Joins the group; the topic must be there.
    ///
    /// # Errors
    /// As of [`crate::Source::join`].
    pub async fn join(
        exchange: ExchangeTopic,
        sink: &KafkaSinkSpec,
        like: Option<&KafkaSourceSpec>,
    ) -> Result<Self, ConnectorError> {
        let mut spec = KafkaSourceSpec::new(&sink.brokers, &exchange.topic, &exchange.topic);
        if let Some(like) = like {
            spec.properties.clone_from(&like.properties);
        }
        // The topic is where the sink's is, and a source may be elsewhere.
        spec.security.clone_from(&sink.security);
        spec.properties.retain(|name, _| !is_of_security(name));
        let secured = sink.properties.iter().filter(|(name, _)| is_of_security(name));
        spec.properties.extend(secured.map(|(name, value)| (name.clone(), value.clone())));
        // Reading begins elsewhere now and then, and waits for the answer to what was asked before.
        let wait = spec.properties.entry("fetch.wait.max.ms".to_owned());
        wait.or_insert_with(|| Property(FETCH_WAIT_MS.to_owned()));
        let mut source = KafkaSource::new(spec)?;
        let (changes, changed) = unbounded_channel();
        source.join_with(changes).await?;
        let (owned, of) = (BTreeSet::new(), Vec::new());
        Ok(Self { exchange, source, changed, owned, heard: false, of })
    }

    fn take(&mut self, raw: Raw) -> Result<Option<Shared>, ConnectorError> {
        self.heard = true;
        Ok(match raw {
            Raw::Assigned(more) if more.is_empty() => None,
            Raw::Assigned(more) => {
                self.owned.extend(more);
                Some(Shared::More)
            }
            Raw::Revoked(less, release) => {
                self.owned.retain(|p| !less.contains(p));
                let partitions = less.iter().flat_map(|p| self.numbers(*p)).collect();
                (!less.is_empty()).then_some(Shared::Less { partitions, release })
            }
            Raw::Lost(lost) => {
                self.owned.retain(|p| !lost.contains(p));
                Some(Shared::Lost)
            }
            Raw::Failed(text) => return Err(ConnectorError::Fatal(text)),
        })
    }

    /// Waits for a change that a run can't go on with as it is. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Disconnected while the brokers are away and say nothing.
    pub async fn change(&mut self) -> Result<Shared, ConnectorError> {
        loop {
            let raw = match tokio::time::timeout(Duration::from_secs(1), self.changed.recv()).await {
                Ok(raw) => raw,
                Err(_) => {
                    self.source.check()?;
                    continue;
                }
            };
            let left =
                || ConnectorError::Fatal(format!("the group of {} is left already", self.exchange.topic));
            let raw = raw.ok_or_else(left)?;
            if let Some(shared) = self.take(raw)? {
                return Ok(shared);
            }
        }
    }

    /// The partitions of the topic that are this process's now, once the group has said so; nobody has anything
    /// under way of them. `of`: the partitions of the sources, with their names.
    ///
    /// # Errors
    /// As of [`ExchangeMember::change`].
    pub async fn settle(&mut self, of: Vec<(PartitionId, String)>) -> Result<Vec<u32>, ConnectorError> {
        let is_far = |id: &PartitionId| {
            u32::from(id.source) >> (PARTITION_SHIFT - SOURCE_SHIFT) > 0 || id.partition >> SOURCE_SHIFT > 0
        };
        if of.iter().any(|(id, _)| is_far(id)) {
            return Err(ConnectorError::Fatal(
                "an exchange through a topic is for at most 64 sources of at most 16,384 partitions each"
                    .to_owned(),
            ));
        }
        self.of = of;
        while let Ok(raw) = self.changed.try_recv() {
            // What is about to go goes at once: nothing of it is taken in.
            drop(self.take(raw)?);
        }
        while !self.heard {
            if let Shared::Less { release, .. } = self.change().await? {
                drop(release);
            }
        }
        self.source.begin_whole()?;
        let owned: Vec<u32> = self.owned.iter().copied().collect();
        // Who had them before may have a transaction open with their offsets: the answer waits for its end.
        self.source.list(Positions::Source, owned.clone()).await?;
        Ok(owned)
    }

    /// The numbers that the engine has for a partition of the topic.
    fn numbers(&self, partition: u32) -> Vec<u32> {
        self.of.iter().map(|(id, _)| number_of(partition, *id)).collect()
    }
}
