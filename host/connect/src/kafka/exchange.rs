//! An exchange through a topic: what comes out of the stages before a key_by, for whoever has its key.
//!
//! The topic has a fixed number of partitions; the keys of a range of key groups go to each. Its records are
//! wasmill's own. Integers are little-endian:
//!
//! ```text
//! message  'd' source u16, partition u32, stamp i64, frame    a frame of one message, with its key
//! mark     'm' count u32, then (source u16, partition u32, stream time i64) so many times
//! ```
//!
//! A mark says how far partitions of the sources are. It goes to every partition of the topic, in the transaction
//! of the messages before it, so that who reads one knows when nothing earlier can come there.
//!
//! Behind the topic each of its partitions counts as many: one for each partition of the sources, which the
//! engine merges as it merges partitions in memory. So the results are the same, to the byte.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Mutex, Notify, oneshot};
use wasmill_engine::input::{Carried, Decoder, RawBatch, RawRecord};
use wasmill_engine::key::{key_group, lane_of};
use wasmill_engine::output::{EncodedBatch, EncodedRecord, Encoder, OutputId};
use wasmill_engine::position::{PartitionId, Position};
use wasmill_frame::{Frame, FrameBuf, Message};

use super::changelog::make_topic;
use super::client::{ASK_MAX, ask, end_aside, lock, missing, why};
use super::group::{Handle, Raw, number};
use super::offsets::GroupOffsets;
use super::sink::KafkaSinkSpec;
use super::source::{KafkaSource, KafkaSourceSpec};
use super::transaction::Transactions;
use crate::{ConnectorError, Partition, Polled, Positions, Reader, Refused, Sink, SinkTraits, Source, os};

const DATA: u8 = b'd';
const MARK: u8 = b'm';
/// What stands before a message's frame.
const HEAD_BYTES: usize = 1 + 2 + 4 + 8;
/// What a mark has of a partition.
const MARKED_BYTES: usize = 2 + 4 + 8;
/// How the topic is made: what was taken in is deleted by wasmill, and nothing before.
const SETTINGS: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("max.message.bytes", "67108864")];
/// How often what was taken in is deleted.
const PURGE_EVERY: Duration = Duration::from_secs(30);

/// An exchange of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeTopic {
    /// Its topic.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// Into how many groups keys are hashed.
    pub key_groups: u16,
}

impl ExchangeTopic {
    /// The name of a pipeline's exchange, which is also that of the group which reads it.
    #[must_use]
    pub fn topic_of(pipeline: &str) -> String {
        format!("{pipeline}-exchange")
    }

    /// Makes the topic, if it is not there.
    ///
    /// # Errors
    /// Fatal where it is there with other partitions, or may not be made.
    pub async fn make(&self, transactions: &Transactions) -> Result<(), ConnectorError> {
        let (config, brokers) = (transactions.config(), transactions.brokers().to_owned());
        let look = || {
            let (config, brokers, topic) = (config.clone(), brokers.clone(), self.topic.clone());
            os::blocking(move || {
                ask(&config, |facts| match facts.is_there(&brokers, &topic)? {
                    true => facts.topic(&brokers, &topic).map(Some),
                    false => Ok(None),
                })
            })
        };
        let found = match look().await? {
            Some(found) => found,
            None => {
                make_topic(&config, &brokers, &self.topic, self.partitions, &SETTINGS).await?;
                look().await?.ok_or_else(|| missing(&brokers, &self.topic))?
            }
        };
        if found.numbers.len() != self.partitions as usize {
            return Err(ConnectorError::Fatal(format!(
                "topic {} at {brokers} has {} partitions, and the pipeline's exchange {}: set `exchange.topic.partitions` as it was, or run `wasmill reset`",
                self.topic,
                found.numbers.len(),
                self.partitions
            )));
        }
        Ok(())
    }

    /// Which of its partitions has a key.
    fn partition_of(&self, key: &[u8]) -> i32 {
        let group = key_group(key, self.key_groups);
        i32::try_from(lane_of(group, self.key_groups, self.partitions as usize)).unwrap_or(0)
    }

    /// A sink that writes to it, within transactions.
    #[must_use]
    pub fn sink(&self, transactions: &Transactions) -> Box<dyn Sink> {
        let (transactions, number) = (transactions.clone(), transactions.next_sink(&self.topic));
        Box::new(ExchangeSink { exchange: self.clone(), transactions, number, written: 0 })
    }
}

/// Writes messages for the topic.
struct ExchangeEncoder;

impl Encoder for ExchangeEncoder {
    fn encode(&self, _: Message<'_>, _: &OutputId<'_>, _: &mut EncodedBatch) -> Result<(), String> {
        Err("a message without a stamp can't go through an exchange: this is a defect of wasmill".to_owned())
    }

    fn encode_stamped(
        &self,
        message: Message<'_>,
        stamp: i64,
        id: &OutputId<'_>,
        into: &mut EncodedBatch,
    ) -> Result<(), String> {
        let OutputId::Message { partition, .. } = id else {
            return Err("what is no message of a source can't go through an exchange".to_owned());
        };
        let start = into.data.len();
        into.data.push(DATA);
        into.data.extend_from_slice(&partition.source.to_le_bytes());
        into.data.extend_from_slice(&partition.partition.to_le_bytes());
        into.data.extend_from_slice(&stamp.to_le_bytes());
        let mut frame = FrameBuf::with_capacity(1, message.arena_bytes());
        frame.push_message(&message);
        into.data.extend_from_slice(frame.as_bytes());
        let value = start..into.data.len();
        let key = message.key().map(|key| {
            let start = into.data.len();
            into.data.extend_from_slice(key);
            start..into.data.len()
        });
        into.records.push(EncodedRecord { value, key, ..EncodedRecord::default() });
        Ok(())
    }
}

/// Writes to the topic.
struct ExchangeSink {
    exchange: ExchangeTopic,
    transactions: Transactions,
    number: usize,
    /// How many records of the batch that is being written were handed over, should the call be repeated.
    written: usize,
}

#[async_trait]
impl Sink for ExchangeSink {
    fn traits(&self) -> SinkTraits {
        SinkTraits { transactional: true, refuses_repeats: false }
    }

    fn encoder(&self) -> Arc<dyn Encoder> {
        Arc::new(ExchangeEncoder)
    }

    async fn recover(&mut self, _: Option<&str>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &EncodedBatch) -> Result<(), ConnectorError> {
        let topic = &self.exchange.topic;
        while let Some(record) = batch.records.get(self.written) {
            let bytes = |range: &std::ops::Range<usize>| batch.data.get(range.clone()).unwrap_or_default();
            let key = record.key.as_ref().map(bytes).unwrap_or_default();
            let to = (topic.as_str(), self.exchange.partition_of(key));
            let sent = self.transactions.put_for(self.number, self.written, to, key, bytes(&record.value));
            if let Err(error) = sent.await {
                if matches!(error, ConnectorError::Aborted(_)) {
                    self.written = 0;
                }
                return Err(error);
            }
            self.written += 1;
        }
        self.written = 0;
        Ok(())
    }

    async fn progress(&mut self, positions: &[(PartitionId, Position)]) -> Result<(), ConnectorError> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut mark = vec![MARK];
        mark.extend_from_slice(&u32::try_from(positions.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (id, position) in positions {
            mark.extend_from_slice(&id.source.to_le_bytes());
            mark.extend_from_slice(&id.partition.to_le_bytes());
            mark.extend_from_slice(&position.stream_time.to_le_bytes());
        }
        for partition in 0..self.exchange.partitions {
            let to = (self.exchange.topic.as_str(), number(partition));
            self.transactions.put_for(self.number, usize::MAX, to, b"", &mark).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<String, ConnectorError> {
        Ok(String::new())
    }

    fn refused(&mut self) -> Vec<Refused> {
        self.transactions.take_refused(self.number)
    }

    async fn publish(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn close(&mut self, _: bool) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// Where a number has which partition of the topic it is of; before it stand source and partition.
const PARTITION_SHIFT: u32 = 20;
/// Where it has the source.
const SOURCE_SHIFT: u32 = 14;

/// The number that the engine has for what a partition of the topic has of one of the sources.
fn number_of(partition: u32, of: PartitionId) -> u32 {
    partition << PARTITION_SHIFT | u32::from(of.source) << SOURCE_SHIFT | of.partition
}

/// The partition of the topic, and that of a source, that a number is for.
fn of_number(number: u32) -> (u32, PartitionId) {
    let source = u16::try_from((number >> SOURCE_SHIFT) & ((1 << (PARTITION_SHIFT - SOURCE_SHIFT)) - 1));
    let partition = number & ((1 << SOURCE_SHIFT) - 1);
    (number >> PARTITION_SHIFT, PartitionId { source: source.unwrap_or_default(), partition })
}

/// What a record of the topic is.
enum Said<'a> {
    Message { from: PartitionId, stamp: i64, frame: &'a [u8] },
    Mark,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn marked(value: &[u8]) -> Option<impl Iterator<Item = (PartitionId, i64)>> {
    let count = u32_at(value, 1)? as usize;
    let entries = value.get(5..)?;
    (entries.len() == count.checked_mul(MARKED_BYTES)?).then(|| {
        entries.chunks_exact(MARKED_BYTES).filter_map(|entry| {
            let id = PartitionId { source: u16_at(entry, 0)?, partition: u32_at(entry, 2)? };
            Some((id, i64_at(entry, 6)?))
        })
    })
}

fn said(value: &[u8]) -> Option<Said<'_>> {
    match *value.first()? {
        DATA => {
            let from = PartitionId { source: u16_at(value, 1)?, partition: u32_at(value, 3)? };
            Some(Said::Message { from, stamp: i64_at(value, 7)?, frame: value.get(HEAD_BYTES..)? })
        }
        MARK => marked(value).map(|_| Said::Mark),
        _ => None,
    }
}

/// Reads records of the topic.
pub struct ExchangeDecoder;

impl Decoder for ExchangeDecoder {
    fn decode(&self, record: &RawRecord, data: &[u8], into: &mut FrameBuf) -> Result<(), String> {
        let Some(Said::Message { frame, .. }) = said(&data[record.value.clone()]) else {
            return Err("the record is none of an exchange: who else writes to the topic?".to_owned());
        };
        let frame = Frame::parse(frame).map_err(|e| format!("the record has no whole frame: {e}"))?;
        if frame.len() != 1 {
            return Err(format!("the record's frame has {} messages, not one", frame.len()));
        }
        into.push_message(&frame.get(0));
        Ok(())
    }

    fn carried(&self, record: &RawRecord, data: &[u8]) -> Carried {
        match said(&data[record.value.clone()]) {
            Some(Said::Message { stamp, .. }) => Carried::Stamp(stamp),
            // The reader has put the one partition that the mark is for in the place of all.
            Some(Said::Mark) => {
                let time = i64_at(&data[record.value.clone()], 5 + 6).unwrap_or(i64::MIN);
                Carried::Mark(time)
            }
            None => Carried::Nothing,
        }
    }
}

/// Which partition of the topic the engine's partition of a number is a part of.
#[must_use]
pub fn exchange_partition_of(number: u32) -> u32 {
    of_number(number).0
}

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
    exchange: ExchangeTopic,
    spec: KafkaSourceSpec,
    source: KafkaSource,
    changed: UnboundedReceiver<Raw>,
    owned: BTreeSet<u32>,
    heard: bool,
    /// The partitions of the sources, in their order.
    of: Vec<(PartitionId, String)>,
}

impl ExchangeMember {
    /// Joins the group; the topic must be there.
    ///
    /// # Errors
    /// As of [`Source::join`].
    pub async fn join(
        exchange: ExchangeTopic,
        sink: &KafkaSinkSpec,
        like: Option<&KafkaSourceSpec>,
    ) -> Result<Self, ConnectorError> {
        let mut spec = KafkaSourceSpec::new(&sink.brokers, &exchange.topic, &exchange.topic);
        if let Some(like) = like {
            spec.properties.clone_from(&like.properties);
        }
        let mut source = KafkaSource::new(spec.clone())?;
        let (changes, changed) = unbounded_channel();
        source.join_with(changes).await?;
        let (owned, of) = (BTreeSet::new(), Vec::new());
        Ok(Self { exchange, spec, source, changed, owned, heard: false, of })
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
    config: ClientConfig,
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
        let (config, topic) = (self.config.clone(), self.topic.clone());
        tokio::spawn(async move {
            let Ok(admin) = config.create::<AdminClient<DefaultClientContext>>() else { return };
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
        let (handle, of, topic, config, incarnation) = {
            let inner = member.lock().await;
            let source = &inner.source;
            let incarnation = source.incarnation().await?;
            (source.handle()?, inner.of.clone(), inner.spec.topic.clone(), source.asking(), incarnation)
        };
        let split = |p: &u32| (*p, Arc::new(Split::new(*p, of.iter().map(|(id, _)| *id))));
        let splits = owned.iter().map(split).collect();
        let (purged, sent) = (Instant::now(), BTreeMap::new());
        Ok(Self { owned, splits, handle, of, topic, incarnation, config, purged, sent })
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

    async fn open(&mut self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        let (of, part) = of_number(partition);
        let split =
            self.splits.get(&of).cloned().ok_or_else(|| {
                ConnectorError::Outdated(format!("{}[{of}] is not this process's", self.topic))
            })?;
        split.from(part, offset, &self.handle).await?;
        Ok(Box::new(PartReader { split, of: part }))
    }

    fn offsets(&mut self, positions: &[(u32, Position)]) -> Result<Option<GroupOffsets>, ConnectorError> {
        let mut least: BTreeMap<u32, Position> = BTreeMap::new();
        for (number, position) in positions {
            let (of, _) = of_number(*number);
            let entry = least.entry(of).or_insert_with(|| position.clone());
            if position.offset < entry.offset {
                *entry = position.clone();
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

/// A partition of the topic, split by the partitions of the sources.
struct Split {
    partition: u32,
    parts: BTreeMap<PartitionId, Part>,
    /// What all parts are read by; whose turn it is reads for all.
    reader: Mutex<Option<Box<dyn Reader>>>,
    opened: Notify,
}

/// What a partition of the topic has of one of the sources.
#[derive(Default)]
struct Part {
    filled: Notify,
    inner: std::sync::Mutex<PartInner>,
}

#[derive(Default)]
struct PartInner {
    /// From where it is read.
    from: Option<u64>,
    queue: VecDeque<RawBatch>,
}

impl Split {
    fn new(partition: u32, of: impl Iterator<Item = PartitionId>) -> Self {
        let parts = of.map(|id| (id, Part::default())).collect();
        Self { partition, parts, reader: Mutex::default(), opened: Notify::new() }
    }

    /// A part is read from an offset on; the partition is opened once all parts are.
    async fn from(&self, of: PartitionId, offset: u64, handle: &Handle) -> Result<(), ConnectorError> {
        let mut reader = self.reader.lock().await;
        if let Some(part) = self.parts.get(&of) {
            lock(&part.inner).from = Some(offset);
        }
        let from: Option<Vec<u64>> = self.parts.values().map(|part| lock(&part.inner).from).collect();
        if let Some(least) = from.and_then(|from| from.into_iter().min()) {
            let (handle, partition) = (handle.clone(), self.partition);
            // What was deleted was taken in by all parts, or never theirs.
            *reader = Some(os::blocking(move || handle.reader(partition, least)).await?);
            self.opened.notify_waiters();
        }
        Ok(())
    }

    /// The next records of a part.
    async fn poll(
        &self,
        of: PartitionId,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Polled, ConnectorError> {
        let Some(part) = self.parts.get(&of) else { return Ok(Polled::End) };
        loop {
            let filled = part.filled.notified();
            if let Some(batch) = lock(&part.inner).queue.pop_front() {
                return Ok(Polled::Records(batch));
            }
            let opened = self.opened.notified();
            tokio::select! {
                () = filled => {}
                mut reader = self.reader.lock() => match reader.as_mut() {
                    // Who had its turn before may have read for this one.
                    _ if !lock(&part.inner).queue.is_empty() => {}
                    None => {
                        drop(reader);
                        opened.await;
                    }
                    Some(reader) => match reader.poll(messages_max, bytes_max).await? {
                        Polled::Records(raw) => self.split(&raw)?,
                        Polled::End => return Ok(Polled::End),
                    },
                }
            }
        }
    }

    /// Puts records to the parts that they are of.
    fn split(&self, raw: &RawBatch) -> Result<(), ConnectorError> {
        let mut batches: BTreeMap<PartitionId, RawBatch> = BTreeMap::new();
        let mut add = |of: PartitionId, record: &RawRecord, value: &[u8]| {
            let part = self
                .parts
                .get(&of)
                .ok_or_else(|| ConnectorError::Outdated(format!("a source has a new partition: {of}")))?;
            // Taken in before.
            if lock(&part.inner).from.is_some_and(|from| record.offset < from) {
                return Ok(());
            }
            let batch = batches.entry(of).or_insert_with(|| RawBatch {
                partition: PartitionId { source: 0, partition: 0 },
                data: Vec::new(),
                records: Vec::new(),
                next: 0,
            });
            let start = batch.data.len();
            batch.data.extend_from_slice(value);
            let value = start..batch.data.len();
            batch.records.push(RawRecord { value, key: None, headers: Vec::new(), ..record.clone() });
            batch.next = record.next;
            Ok(())
        };
        for record in &raw.records {
            let value = raw.data.get(record.value.clone()).unwrap_or_default();
            match said(value) {
                Some(Said::Message { from, .. }) => add(from, record, value)?,
                Some(Said::Mark) => {
                    for (from, time) in marked(value).into_iter().flatten() {
                        let mut mark = vec![MARK, 1, 0, 0, 0];
                        mark.extend_from_slice(&from.source.to_le_bytes());
                        mark.extend_from_slice(&from.partition.to_le_bytes());
                        mark.extend_from_slice(&time.to_le_bytes());
                        add(from, record, &mark)?;
                    }
                }
                // Whose it is nobody knows: the first one tells it as a dead letter.
                None => {
                    if let Some(first) = self.parts.keys().next() {
                        add(*first, record, value)?;
                    }
                }
            }
        }
        for (of, batch) in batches {
            if let Some(part) = self.parts.get(&of) {
                lock(&part.inner).queue.push_back(batch);
                part.filled.notify_one();
            }
        }
        Ok(())
    }
}

/// Reads what one partition of the sources has in one of the topic.
struct PartReader {
    split: Arc<Split>,
    of: PartitionId,
}

#[async_trait]
impl Reader for PartReader {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        self.split.poll(self.of, messages_max, bytes_max).await
    }
}

#[cfg(test)]
mod tests {
    use wasmill_frame::Parts;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_told() {
        let from = PartitionId { source: 3, partition: 70_000 };
        let mut frame = FrameBuf::with_capacity(1, 64);
        let parts = Parts {
            id: "a",
            kind: "t",
            key: Some(b"k"),
            payload: b"{}",
            timestamp: 5,
            metadata: &[],
            payload_is_json: true,
        };
        frame.push(&parts);
        let mut batch = EncodedBatch::default();
        let id = OutputId::Message { partition: from, offset: 9, index: 0, emit: 0, left_at: "" };
        ExchangeEncoder.encode_stamped(frame.get(0), 17, &id, &mut batch).expect("it is written");
        let value = batch.data[batch.records[0].value.clone()].to_vec();
        let record = RawRecord::of_value(&value);
        let mut into = FrameBuf::with_capacity(1, 64);
        ExchangeDecoder.decode(&record, &value, &mut into).expect("it is read");
        assert_eq!(into.get(0).id(), "a");
        assert_eq!(ExchangeDecoder.carried(&record, &value), Carried::Stamp(17));
        assert!(matches!(said(&value), Some(Said::Message { from: f, stamp: 17, .. }) if f == from));
        for wrong in [&b""[..], b"x", b"d", b"m\x01\x00\x00\x00", &value[..HEAD_BYTES + 3]] {
            let record = RawRecord::of_value(wrong);
            assert!(ExchangeDecoder.decode(&record, wrong, &mut into).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_tell_what_they_are_of() {
        for (partition, source, of) in [(0, 0, 0), (4_095, 63, 16_383), (7, 2, 9)] {
            let id = PartitionId { source, partition: of };
            assert_eq!(of_number(number_of(partition, id)), (partition, id));
        }
    }

    #[test]
    fn each_key_group_has_one_partition() {
        let exchange = ExchangeTopic { topic: "x".to_owned(), partitions: 5, key_groups: 16 };
        for key in 0..200 {
            let key = format!("k{key}");
            let partition = exchange.partition_of(key.as_bytes());
            let group = key_group(key.as_bytes(), 16);
            let groups = wasmill_engine::key::groups_of(partition as usize, 16, 5);
            assert!(groups.contains(&group), "{key}");
        }
    }
}
