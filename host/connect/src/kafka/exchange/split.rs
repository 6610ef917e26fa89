//! A partition of the topic as many: one for each partition of the sources.
//!
//! One reader reads for all of them and puts into the queue of each what is its own. The partitions of the
//! sources may be far apart in event time, and the engine then leaves those unread that are before the others.
//! A queue that is full takes nothing more: what comes is left in the topic, and read again from there once the
//! queue is empty. So each **part** has its own place, and the log is read where the part whose turn it is waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;
use wasmill_engine::time::START;

use super::record::{NOBODYS, Said, offset_of, place_of, said};
use crate::kafka::client::lock;
use crate::kafka::group::Handle;
use crate::{ConnectorError, Polled, Reader, os};

/// What a split goes by.
#[derive(Clone, Copy)]
struct Bounds {
    /// How much a part has in its queue at most, and one message more.
    part_bytes_max: usize,
    /// How many records of others are read over before it is cheaper to begin elsewhere.
    read_over_max: u64,
}

const BOUNDS: Bounds = Bounds { part_bytes_max: 512 << 10, read_over_max: 256 };

/// How long who reads may go on where somebody wants to read elsewhere: long enough for what is under way.
const TURN: Duration = Duration::from_millis(10);

/// Begins to read a partition of the topic at an offset. Blocks.
pub(super) trait Log: Send + Sync {
    fn reader(&self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError>;
}

impl Log for Handle {
    fn reader(&self, partition: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
        Self::reader(self, partition, offset)
    }
}

/// A partition of the topic, split by the partitions of the sources.
pub(super) struct Split {
    partition: u32,
    log: Arc<dyn Log>,
    parts: BTreeMap<PartitionId, Part>,
    /// What all parts are read by; whose turn it is reads for all.
    reading: Mutex<Option<Reading>>,
    opened: Notify,
    /// How many want to read elsewhere than who reads.
    behind: AtomicUsize,
    wanted: Notify,
    bounds: Bounds,
}

/// Where the topic is being read.
struct Reading {
    reader: Box<dyn Reader>,
    /// What is read next.
    place: u64,
}

/// What a partition of the topic has of one of the sources.
#[derive(Default)]
struct Part {
    filled: Notify,
    inner: std::sync::Mutex<PartInner>,
}

struct PartInner {
    /// The place from which on nothing was taken in or queued; none before it is known where it begins.
    next: Option<u64>,
    /// Whether all that is read from now on behind that place is to be queued: nothing of this part lies
    /// between it and where the topic is being read.
    is_in_step: bool,
    queue: VecDeque<RawBatch>,
    queued_bytes: usize,
    /// How far the source's partition was when something was handed on last.
    time: i64,
    /// The place behind that.
    handed_on: u64,
}

impl Default for PartInner {
    fn default() -> Self {
        Self {
            next: None,
            is_in_step: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            time: START,
            handed_on: 0,
        }
    }
}

impl PartInner {
    fn next(&self) -> u64 {
        self.next.unwrap_or_default()
    }
}

impl Split {
    pub fn new(partition: u32, of: impl Iterator<Item = PartitionId>, log: Arc<dyn Log>) -> Self {
        Self {
            partition,
            log,
            parts: of.map(|id| (id, Part::default())).collect(),
            reading: Mutex::default(),
            opened: Notify::new(),
            behind: AtomicUsize::new(0),
            wanted: Notify::new(),
            bounds: BOUNDS,
        }
    }

    /// A part is read from a place on; the partition is opened once all parts are.
    pub async fn from(&self, of: PartitionId, place: u64) -> Result<(), ConnectorError> {
        let mut reading = self.reading.lock().await;
        if let Some(part) = self.parts.get(&of) {
            let mut inner = lock(&part.inner);
            (inner.next, inner.handed_on) = (Some(place), place);
        }
        let places: Option<Vec<u64>> = self.parts.values().map(|part| lock(&part.inner).next).collect();
        if let Some(least) = places.and_then(|places| places.into_iter().min()) {
            *reading = Some(self.begin(least).await?);
            self.opened.notify_waiters();
        }
        Ok(())
    }

    /// Begins to read at a place. Parts that are before it are behind from now on; all are until it has begun.
    async fn begin(&self, place: u64) -> Result<Reading, ConnectorError> {
        for part in self.parts.values() {
            if std::mem::take(&mut lock(&part.inner).is_in_step) {
                // It may be waiting, as one that is in step does.
                part.filled.notify_one();
            }
        }
        let (log, partition, offset) = (Arc::clone(&self.log), self.partition, offset_of(place));
        // What was deleted was taken in by all parts, or never theirs.
        let reader = os::blocking(move || log.reader(partition, offset)).await?;
        for part in self.parts.values() {
            let mut inner = lock(&part.inner);
            inner.is_in_step = inner.next() >= place;
        }
        Ok(Reading { reader, place })
    }

    /// Up to where a part is taken in that is taken in up to a place of its own messages: others' may follow.
    pub fn taken_in(&self, of: PartitionId, place: u64) -> u64 {
        let Some(part) = self.parts.get(&of) else { return place };
        let inner = lock(&part.inner);
        if place < inner.handed_on { place } else { place.max(inner.next()) }
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
            if let Some(batch) = part.take() {
                return Ok(Polled::Records(batch));
            }
            let behind = (!lock(&part.inner).is_in_step).then(|| Behind::new(self));
            let opened = self.opened.notified();
            tokio::select! {
                () = filled => {}
                mut reading = self.reading.lock() => {
                    drop(behind);
                    match reading.as_mut() {
                        // Who had its turn before may have read for this one.
                        _ if !lock(&part.inner).queue.is_empty() => {}
                        None => {
                            drop(reading);
                            opened.await;
                        }
                        Some(reading) => self.read(part, reading, messages_max, bytes_max).await?,
                    }
                }
            }
        }
    }

    /// Reads until there is something for a part, or somebody else is to read first.
    async fn read(
        &self,
        part: &Part,
        reading: &mut Reading,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<(), ConnectorError> {
        let (next, is_in_step) = {
            let inner = lock(&part.inner);
            (inner.next(), inner.is_in_step)
        };
        let is_elsewhere = !is_in_step || next > reading.place + place_of(self.bounds.read_over_max);
        if is_elsewhere {
            *reading = self.begin(next).await?;
        }
        let mut wanted = std::pin::pin!(self.is_wanted());
        loop {
            let (has_some, has_room) = {
                let inner = lock(&part.inner);
                (
                    !inner.queue.is_empty(),
                    inner.is_in_step && inner.queued_bytes < self.bounds.part_bytes_max / 2,
                )
            };
            // To begin elsewhere costs something: then as much is read as is there.
            if has_some && !(is_elsewhere && has_room) {
                return Ok(());
            }
            tokio::select! {
                polled = reading.reader.poll(messages_max, bytes_max) => match polled? {
                    Polled::Records(raw) => {
                        self.split(&raw)?;
                        reading.place = place_of(raw.next);
                    }
                    Polled::End => return Err(ConnectorError::Fatal("the exchange's topic has ended".to_owned())),
                },
                // The lock is given in turn: who wants it has it next.
                () = &mut wanted => return Ok(()),
                () = tokio::time::sleep(TURN), if has_some => return Ok(()),
            }
        }
    }

    /// Waits until somebody wants to read elsewhere, and has waited for a moment.
    async fn is_wanted(&self) {
        while self.behind.load(Ordering::SeqCst) == 0 {
            self.wanted.notified().await;
        }
        tokio::time::sleep(TURN).await;
    }

    /// Puts what records say to the parts that it is of.
    fn split(&self, raw: &RawBatch) -> Result<(), ConnectorError> {
        let mut takings: BTreeMap<PartitionId, Taking> = BTreeMap::new();
        // About as much as each will have.
        let room_bytes = raw.data.len() / self.parts.len().max(1);
        for (id, part) in &self.parts {
            if let Some(taking) = Taking::of(part, self.bounds.part_bytes_max, room_bytes) {
                takings.insert(*id, taking);
            }
        }
        for record in &raw.records {
            let value = raw.data.get(record.value.clone()).unwrap_or_default();
            let (first, behind) = (place_of(record.offset), place_of(record.next));
            let Some(all) = said(value) else {
                // Whose it is nobody knows: the first part tells it as a dead letter.
                let id = self.parts.keys().next();
                if let Some(taking) = id.and_then(|id| takings.get_mut(id)) {
                    let nobodys = RawRecord { rejected: Some(NOBODYS.to_owned()), ..record.clone() };
                    taking.take(&nobodys, first..behind, None, |data| data.extend_from_slice(value));
                }
                continue;
            };
            let mut places = first..;
            for ((of, said), nth) in all.iter().zip(1..) {
                if !self.parts.contains_key(of) {
                    return Err(ConnectorError::Outdated(format!("a source has a new partition: {of}")));
                }
                let (place, time) = match said {
                    Said::Message(_) => (places.next().unwrap_or(first), None),
                    // All of a mark is at one place: each part has one thing of it.
                    Said::Mark(time) => (first, Some(*time)),
                };
                let next = if nth == all.len() { behind } else { place + 1 };
                if let Some(taking) = takings.get_mut(of) {
                    taking.take(record, place..next, time, |data| said.alone(*of, data));
                }
            }
        }
        for (of, taking) in takings {
            if let Some(part) = self.parts.get(&of) {
                part.fill(taking, place_of(raw.next));
            }
        }
        Ok(())
    }
}

/// Somebody who wants to read elsewhere, until it is its turn.
struct Behind<'a>(&'a Split);

impl<'a> Behind<'a> {
    fn new(split: &'a Split) -> Self {
        split.behind.fetch_add(1, Ordering::SeqCst);
        split.wanted.notify_one();
        Self(split)
    }
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        self.0.behind.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Part {
    /// What is queued first.
    fn take(&self) -> Option<RawBatch> {
        let mut inner = lock(&self.inner);
        let batch = inner.queue.pop_front()?;
        inner.queued_bytes -= batch.data.len();
        Some(batch)
    }

    /// Queues what was taken of records that end at a place.
    fn fill(&self, taking: Taking, behind: u64) {
        let mut inner = lock(&self.inner);
        // Together: whoever asks how far this part is must not find it further than what it has handed on.
        inner.is_in_step = taking.is_in_step;
        inner.next = Some(if taking.is_in_step { taking.next.max(behind) } else { taking.next });
        inner.time = taking.time;
        if taking.batch.records.is_empty() {
            return;
        }
        inner.handed_on = taking.batch.next;
        inner.queued_bytes += taking.batch.data.len();
        inner.queue.push_back(taking.batch);
        drop(inner);
        self.filled.notify_one();
    }
}

/// What a part takes of some records.
struct Taking {
    next: u64,
    is_in_step: bool,
    time: i64,
    batch: RawBatch,
    bytes_max: usize,
}

impl Taking {
    /// None where a part takes nothing now.
    fn of(part: &Part, bytes_max: usize, room_bytes: usize) -> Option<Self> {
        let inner = lock(&part.inner);
        inner.is_in_step.then(|| Self {
            next: inner.next(),
            is_in_step: true,
            time: inner.time,
            batch: RawBatch {
                partition: PartitionId { source: 0, partition: 0 },
                data: Vec::with_capacity(room_bytes),
                records: Vec::new(),
                next: 0,
                preamble: None,
            },
            bytes_max: bytes_max.saturating_sub(inner.queued_bytes),
        })
    }

    /// Takes what is at a place, unless it was taken before or there is no room for it. `time`: how far the
    /// source's partition is, where it is a mark; that of one that is quiet must not look as if it were not.
    fn take(
        &mut self,
        record: &RawRecord,
        place: std::ops::Range<u64>,
        time: Option<i64>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if !self.is_in_step || place.start < self.next || time.is_some_and(|time| time <= self.time) {
            return;
        }
        if self.batch.data.len() >= self.bytes_max {
            (self.is_in_step, self.next) = (false, place.start);
            return;
        }
        let start = self.batch.data.len();
        write(&mut self.batch.data);
        let value = start..self.batch.data.len();
        (self.next, self.batch.next) = (place.end, place.end);
        self.time = self.time.max(time.unwrap_or(START));
        self.batch.records.push(RawRecord {
            offset: place.start,
            next: place.end,
            value,
            time_ms: record.time_ms,
            appended_ms: record.appended_ms,
            rejected: record.rejected.clone(),
            ..RawRecord::default()
        });
    }
}

/// Reads what one partition of the sources has in one of the topic.
pub(super) struct PartReader {
    pub split: Arc<Split>,
    pub of: PartitionId,
}

#[async_trait]
impl Reader for PartReader {
    async fn poll(&mut self, messages_max: usize, bytes_max: usize) -> Result<Polled, ConnectorError> {
        self.split.poll(self.of, messages_max, bytes_max).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::{mark, pack};
    use super::*;

    /// A partition of the topic that is in memory.
    struct Memory {
        records: Vec<Vec<u8>>,
        begun: AtomicUsize,
    }

    struct MemoryReader(Arc<Memory>, usize);

    impl Log for Arc<Memory> {
        fn reader(&self, _: u32, offset: u64) -> Result<Box<dyn Reader>, ConnectorError> {
            self.begun.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(MemoryReader(Arc::clone(self), usize::try_from(offset).expect("a small log"))))
        }
    }

    #[async_trait]
    impl Reader for MemoryReader {
        async fn poll(&mut self, _: usize, _: usize) -> Result<Polled, ConnectorError> {
            let Self(log, at) = self;
            let Some(value) = log.records.get(*at) else { return std::future::pending().await };
            let mut record = RawRecord::of_value(value);
            (record.offset, record.next) = (*at as u64, *at as u64 + 1);
            *at += 1;
            let partition = PartitionId { source: 0, partition: 0 };
            Ok(Polled::Records(RawBatch {
                partition,
                data: value.clone(),
                next: record.next,
                preamble: None,
                records: vec![record],
            }))
        }
    }

    const PARTS: u32 = 3;

    /// Of each part what it is to have: the place, and the record of its own.
    type Wanted = BTreeMap<u32, Vec<(u64, Vec<u8>)>>;

    fn id(part: u32) -> PartitionId {
        PartitionId { source: 1, partition: part }
    }

    /// What is written: of which part, and how long.
    #[derive(Debug, Clone)]
    enum Written {
        Messages(Vec<(u32, usize)>),
        Mark(u32),
    }

    fn written() -> impl Strategy<Value = Written> {
        let message = (0..PARTS, 0..40usize);
        prop_oneof![
            3 => prop::collection::vec(message, 1..12).prop_map(Written::Messages),
            1 => (0..PARTS).prop_map(Written::Mark),
        ]
    }

    /// The log that is written, and what each part is to have of it.
    fn log(all: &[Written]) -> (Arc<Memory>, Wanted) {
        let mut records = Vec::new();
        let mut wanted = Wanted::new();
        for (offset, written) in (0u64..).zip(all) {
            let mut record = Vec::new();
            let mut want = |part: u32, place: u64, said: Said<'_>| {
                let mut value = Vec::new();
                said.alone(id(part), &mut value);
                wanted.entry(part).or_default().push((place, value));
            };
            match written {
                Written::Messages(messages) => {
                    for ((part, length), place) in messages.iter().zip(place_of(offset)..) {
                        let mut message = [1u16.to_le_bytes().as_slice(), &part.to_le_bytes()].concat();
                        // The stamp, and in place of a frame which message it is.
                        message.extend_from_slice(&place.to_le_bytes());
                        message.resize(message.len() + length, 7);
                        pack(&message, &mut record);
                        want(*part, place, Said::Message(&message));
                    }
                }
                Written::Mark(part) => {
                    // Each is further than the one before.
                    let time = i64::try_from(offset).unwrap_or(0);
                    mark(std::iter::once((&id(*part), time)), &mut record);
                    want(*part, place_of(offset), Said::Mark(time));
                }
            }
            records.push(record);
        }
        (Arc::new(Memory { records, begun: AtomicUsize::new(0) }), wanted)
    }

    async fn split_of(log: &Arc<Memory>, places: &BTreeMap<u32, u64>, bounds: Bounds) -> Arc<Split> {
        let mut split = Split::new(0, (0..PARTS).map(id), Arc::new(Arc::clone(log)));
        split.bounds = bounds;
        for part in 0..PARTS {
            split.from(id(part), places.get(&part).copied().unwrap_or(0)).await.expect("it is opened");
        }
        Arc::new(split)
    }

    /// What one poll answers, by place.
    async fn polled(split: &Split, part: u32) -> Vec<(u64, u64, Vec<u8>)> {
        let polled = split.poll(id(part), 100, 1 << 20);
        let polled = tokio::time::timeout(Duration::from_secs(60), polled).await.expect("there is more");
        let Polled::Records(raw) = polled.expect("it is read") else { panic!("the log has no end") };
        raw.records.iter().map(|r| (r.offset, r.next, raw.data[r.value.clone()].to_vec())).collect()
    }

    /// Polls in an order, goes on from there as after a stop, and polls all at once to the end.
    async fn run(all: &[Written], order: &[u32], bounds: Bounds) {
        let (log, wanted) = log(all);
        let mut seen = Wanted::new();
        let mut places: BTreeMap<u32, u64> = (0..PARTS).map(|part| (part, 0)).collect();
        let split = split_of(&log, &places, bounds).await;
        for part in order {
            let had = seen.entry(*part).or_default().len();
            if wanted.get(part).is_none_or(|wanted| had >= wanted.len()) {
                continue;
            }
            for (place, next, value) in polled(&split, *part).await {
                seen.entry(*part).or_default().push((place, value));
                places.insert(*part, next);
            }
        }
        for (part, place) in &mut places {
            let next = wanted.get(part).and_then(|w| w.get(seen.get(part).map_or(0, Vec::len)));
            let taken_in = split.taken_in(id(*part), *place);
            assert!(taken_in >= *place && next.is_none_or(|(next, _)| taken_in <= *next), "part {part}");
            *place = taken_in;
        }
        let split = split_of(&log, &places, bounds).await;
        let seen = Arc::new(std::sync::Mutex::new(seen));
        let mut polling = tokio::task::JoinSet::new();
        for part in 0..PARTS {
            let (split, seen) = (Arc::clone(&split), Arc::clone(&seen));
            polling.spawn(async move {
                // Whoever has all goes on waiting for more, as the engine does.
                while let Ok(Polled::Records(raw)) = split.poll(id(part), 100, 1 << 20).await {
                    let said = raw.records.iter().map(|r| (r.offset, raw.data[r.value.clone()].to_vec()));
                    lock(&seen).entry(part).or_default().extend(said);
                }
            });
        }
        let count = |of: &Wanted| of.values().map(Vec::len).sum::<usize>();
        for _ in 0..10_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if count(&lock(&seen)) >= count(&wanted) {
                break;
            }
        }
        let mut seen = lock(&seen).clone();
        seen.retain(|_, seen| !seen.is_empty());
        assert_eq!(seen, wanted);
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
    }

    proptest! {
        #[test]
        fn each_part_has_its_own_in_order(
            all in prop::collection::vec(written(), 0..60),
            order in prop::collection::vec(0..PARTS, 0..40),
            part_bytes_max in prop_oneof![Just(1usize), 20..400usize, Just(1 << 20)],
            read_over_max in prop_oneof![0..4u64, Just(100)],
        ) {
            runtime().block_on(run(&all, &order, Bounds { part_bytes_max, read_over_max }));
        }
    }

    #[test]
    fn what_is_far_before_the_others_stays_in_the_topic() {
        let (far, other) = (Written::Messages(vec![(0, 100); 4]), Written::Messages(vec![(1, 100); 4]));
        let all: Vec<Written> =
            std::iter::repeat_n(far, 2_000).chain(std::iter::repeat_n(other, 2_000)).collect();
        let (log, _) = log(&all);
        runtime().block_on(async {
            let split = split_of(&log, &BTreeMap::new(), Bounds { part_bytes_max: 10_000, ..BOUNDS }).await;
            let mut read = [0, 0];
            // As the engine does where they are as far in event time.
            while read[0] < 8_000 || read[1] < 8_000 {
                let part = u32::from(read[1] < read[0]);
                read[part as usize] += polled(&split, part).await.len();
                let queued: usize = split.parts.values().map(|part| lock(&part.inner).queued_bytes).sum();
                assert!(queued < 30_000, "{queued} bytes wait in queues");
            }
            let begun = log.begun.load(Ordering::Relaxed);
            assert!((80..1_000).contains(&begun), "the topic was begun anew {begun} times");
        });
    }

    #[test]
    fn who_waits_at_the_end_gives_way() {
        let all = [Written::Messages(vec![(0, 100), (0, 100), (0, 100)]), Written::Messages(vec![(1, 1)])];
        let (log, _) = log(&all);
        runtime().block_on(async {
            let split = split_of(&log, &BTreeMap::new(), Bounds { part_bytes_max: 150, ..BOUNDS }).await;
            assert_eq!(polled(&split, 1).await.len(), 1);
            let waits = tokio::spawn({
                let split = Arc::clone(&split);
                async move { split.poll(id(1), 100, 1 << 20).await.map(drop) }
            });
            tokio::task::yield_now().await;
            let mut read = 0;
            while read < 3 {
                read += polled(&split, 0).await.len();
            }
            assert!(!waits.is_finished(), "there is nothing more for it");
        });
    }

    #[test]
    fn a_record_of_nobody_is_the_first_parts() {
        let log = Arc::new(Memory { records: vec![b"x".to_vec()], begun: AtomicUsize::new(0) });
        runtime().block_on(async {
            let split = split_of(&log, &BTreeMap::new(), BOUNDS).await;
            let polled = split.poll(id(0), 100, 1 << 20).await.expect("it is read");
            let Polled::Records(raw) = polled else { panic!("the log has no end") };
            let [record] = raw.records.as_slice() else { panic!("{:?}", raw.records) };
            assert_eq!((record.offset, record.next, raw.data.as_slice()), (0, place_of(1), b"x".as_slice()));
            assert_eq!(record.rejected.as_deref(), Some(NOBODYS));
        });
    }
}
