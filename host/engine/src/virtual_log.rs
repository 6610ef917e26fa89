//! The virtual log: all partitions of a pipeline's sources as one log.
//!
//! In [`Order::Log`] messages are merged by (stamp, source, partition, position, index); one is released
//! once no live partition can still send a smaller key. In [`Order::Arrival`] they are released as they
//! come, and the interleaving is kept so that it can be logged and followed again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::batch::{Batch, Passed, Row};
use crate::output::Outbox;
use crate::position::{PartitionId, Position, Progress};
use crate::time::{END, START, TIMESTAMP_NONE};
use crate::topology::Order;

/// A key of the log that messages must stay below: stamp and partition.
type Bound = (i64, PartitionId);

/// A run of the interleaving: so many messages of one partition.
pub type Run = (PartitionId, u64);

/// How far a partition was: offset and index.
pub type Reached = (PartitionId, u64, u32);

/// What a partition has ready, and how far it is.
pub(crate) struct Queue {
    incarnation: String,
    /// Stamped batches that are not wholly released.
    batches: VecDeque<Ready>,
    /// How many messages of the first batch are released.
    cursor: usize,
    /// Stream time behind everything in `batches`.
    stream_time: i64,
    /// Where the partition is when `batches` is empty.
    next: u64,
    /// Stream time behind the last released message.
    released: i64,
    pub progress: Progress,
    /// Results of the message at the restored offset that were taken in before a restart.
    skip: Option<(u64, u32)>,
    /// Whether it takes no part in the progress of stream time: its messages are put through again.
    pub aside: bool,
    /// Of one that is aside: what is before this offset comes next.
    due: Option<u64>,
}

/// How dead letters that are put through again come in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Letters {
    /// The number of their source.
    pub source: u16,
    /// Whether they wait for a barrier, behind which they come before everything else: where they are in the log is
    /// a fact that the messages don't tell.
    pub wait: bool,
    /// Whether behind the end of everything they are late.
    pub has_windows: bool,
}

struct Ready {
    batch: Batch,
    out: Outbox,
    held_bytes: usize,
    /// Whether what left before the message at the cursor is counted already.
    counted: bool,
}

/// Messages on their way to the lanes.
pub(crate) enum Released<'a> {
    /// A whole batch.
    Whole(Batch),
    /// Some messages of a batch.
    Some(&'a Batch, std::ops::Range<usize>),
}

/// What leaves beside the main way, and counts, when messages are released.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pub passed: Left,
    pub out: Vec<Outbox>,
}

/// What was read and what left the main way, over a whole epoch.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Left {
    pub read: u64,
    pub dropped: u64,
    pub dead: u64,
    pub clamped: u64,
    pub released: u64,
}

impl Left {
    fn add(&mut self, passed: Passed) {
        self.read += u64::from(passed.read);
        self.dropped += u64::from(passed.dropped);
        self.dead += u64::from(passed.dead);
        self.clamped += u64::from(passed.clamped);
    }
}

/// All partitions as one log.
pub(crate) struct VirtualLog {
    queues: BTreeMap<PartitionId, Queue>,
    order: Order,
    /// Stream time that windows have closed by; it never falls.
    closing: i64,
    /// Partitions in the order in which their batches came; for arrival order.
    arrivals: VecDeque<PartitionId>,
    /// The interleaving since the last barrier.
    runs: Vec<Run>,
    /// The interleaving that a replay must follow first.
    replay: VecDeque<Run>,
    /// How far an epoch had come whose outputs may be out: no fact may take effect before.
    hold_until: Vec<Reached>,
    beside: Beside,
    beside_bytes: usize,
    /// Bytes of batches put away, by partition, since somebody asked.
    freed: Vec<(PartitionId, usize)>,
    waiting_bytes: usize,
    letters: Option<Letters>,
}

impl VirtualLog {
    pub fn new(
        order: Order,
        closing: i64,
        positions: Vec<(PartitionId, Position)>,
        replay: Vec<Run>,
        hold_until: Vec<Reached>,
        letters: Option<Letters>,
    ) -> Self {
        let aside = |id: PartitionId| letters.is_some_and(|letters| letters.source == id.source);
        let queues = positions.into_iter().map(|(id, p)| (id, Queue::at(p, closing, aside(id)))).collect();
        Self {
            queues,
            order,
            closing,
            arrivals: VecDeque::new(),
            runs: Vec::new(),
            replay: replay.into(),
            hold_until,
            beside: Beside::default(),
            beside_bytes: 0,
            freed: Vec::new(),
            waiting_bytes: 0,
            letters,
        }
    }

    /// Whether letters wait for a barrier.
    pub fn letters_wait(&self) -> bool {
        let waits = |q: &Queue| q.aside && !q.is_due() && !q.is_empty();
        self.letters.is_some_and(|letters| letters.wait) && self.queues.values().any(waits)
    }

    /// The partition whose letters come before everything else.
    fn due(&self) -> Option<PartitionId> {
        self.letters?;
        self.queues.iter().find(|(_, q)| q.is_due()).map(|(id, _)| *id)
    }

    /// The stream time that is, at which letters are put through again.
    fn now(&self) -> i64 {
        let has_windows = self.letters.is_some_and(|letters| letters.has_windows);
        if self.closing != END || has_windows {
            return self.closing;
        }
        // Behind the end of everything, without windows that they could be late for.
        self.queues.values().filter(|q| !q.aside).map(|q| q.stream_time).max().unwrap_or(START)
    }

    /// Puts a partition beside the others.
    pub fn add(&mut self, partition: PartitionId, position: Position) {
        let aside = self.letters.is_some_and(|letters| letters.source == partition.source);
        self.queues.insert(partition, Queue::at(position, self.closing, aside));
    }

    /// Drops a partition, and what of it is not released.
    pub fn remove(&mut self, partition: PartitionId) {
        if let Some(queue) = self.queues.remove(&partition) {
            self.waiting_bytes -= queue.batches.iter().map(|r| r.held_bytes).sum::<usize>();
            self.arrivals.retain(|p| *p != partition);
        }
    }

    pub fn queue(&self, partition: PartitionId) -> Option<&Queue> {
        self.queues.get(&partition)
    }

    pub fn closing(&self) -> i64 {
        self.closing
    }

    /// No message that is still to come has a smaller stamp, not even of a partition that has ended and grows
    /// after the end of everything, from which on the closing stream time tells nothing any more.
    pub fn settled(&self) -> i64 {
        let ended = |q: &Queue| (q.progress == Progress::Ended && !q.aside).then_some(q.stream_time);
        let least = self.queues.values().filter_map(|q| q.bound().or_else(|| ended(q))).min();
        least.map_or(self.closing, |least| least.min(self.closing))
    }

    /// Bytes of batches that are not wholly released.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Bytes that left beside the main way since the last barrier.
    pub fn beside_bytes(&self) -> usize {
        self.beside_bytes
    }

    /// The bytes of batches that were put away since the last call: their readers may read as much.
    pub fn take_freed(&mut self) -> Vec<(PartitionId, usize)> {
        std::mem::take(&mut self.freed)
    }

    /// Whether a replay has not yet come to where an epoch was that may be out.
    pub fn is_replaying(&self) -> bool {
        !self.replay.is_empty()
            || self.hold_until.iter().any(|(id, offset, index)| {
                self.queues.get(id).is_some_and(|q| q.reached() < (*offset, *index))
            })
    }

    /// Stamps a batch and puts it behind its partition's others.
    pub fn push(&mut self, mut batch: Batch, out: Outbox, held_bytes: usize) {
        let partition = batch.partition;
        let now = self.now();
        let Some(queue) = self.queues.get_mut(&partition) else { return };
        queue.skip_restored(&mut batch);
        if queue.aside {
            let waits = self.letters.is_some_and(|letters| letters.wait);
            if !waits {
                queue.stream_time = queue.stream_time.max(now);
                batch.rows.iter_mut().for_each(|row| row.stamp = queue.stream_time);
                self.arrivals.push_back(partition);
            }
            self.waiting_bytes += held_bytes;
            queue.batches.push_back(Ready { batch, out, held_bytes, counted: false });
            return self.finish_batches(partition);
        }
        for (row, message) in batch.rows.iter_mut().zip(batch.frame.view().iter()) {
            // A message without event time moves nothing: TIMESTAMP_NONE is START.
            debug_assert_eq!(TIMESTAMP_NONE, START);
            queue.stream_time =
                queue.stream_time.max(row.passed.time).max(row.own.time).max(message.timestamp());
            row.stamp = queue.stream_time;
        }
        queue.stream_time = queue.stream_time.max(batch.tail.time);
        self.waiting_bytes += held_bytes;
        queue.batches.push_back(Ready { batch, out, held_bytes, counted: false });
        self.arrivals.push_back(partition);
        self.finish_batches(partition);
    }

    /// Sets what a partition has to do with progress; what it sends from now on is stamped at least at
    /// the closing stream time if it comes back.
    pub fn set_progress(&mut self, partition: PartitionId, progress: Progress) {
        let closing = self.closing;
        if let Some(queue) = self.queues.get_mut(&partition) {
            if queue.progress == Progress::Idle && progress == Progress::Live {
                queue.stream_time = queue.stream_time.max(closing);
                queue.released = queue.released.max(closing);
            }
            queue.progress = progress;
        }
    }

    /// Releases about `bytes_max` bytes of messages, in order, to `take`; answers how many bytes.
    pub fn release(&mut self, bytes_max: usize, mut take: impl FnMut(Released<'_>)) -> usize {
        let mut bytes = 0;
        while let Some(partition) = self.due() {
            let queue = self.queues.get(&partition);
            let Some(count) = queue.map(Queue::due_messages).filter(|n| *n > 0 && bytes < bytes_max) else {
                // Nothing comes before them, nor does time go on.
                return bytes;
            };
            bytes += self.release_run(partition, None, count, bytes_max - bytes, &mut take).max(1);
        }
        if self.order == Order::Log && self.replay.is_empty() {
            let bounds = self.queues.iter().filter_map(|(id, q)| Some(Reverse((q.bound()?, *id))));
            let mut bounds: BinaryHeap<Reverse<Bound>> = bounds.collect();
            while bytes < bytes_max {
                let Some(Reverse((_, first))) = bounds.pop() else { break };
                if self.queues.get(&first).is_none_or(Queue::is_empty) {
                    break;
                }
                let second = bounds.peek().map(|Reverse(bound)| *bound);
                bytes += self.release_run(first, second, u64::MAX, bytes_max - bytes, &mut take).max(1);
                if let Some(bound) = self.queues.get(&first).and_then(Queue::bound) {
                    bounds.push(Reverse((bound, first)));
                }
            }
        } else {
            while bytes < bytes_max {
                let Some((partition, count)) = self.next_arrival() else { break };
                bytes += self.release_run(partition, None, count, bytes_max - bytes, &mut take).max(1);
            }
        }
        self.advance();
        bytes
    }

    /// The partition whose turn it is, and how many messages may be released of it.
    fn next_arrival(&self) -> Option<(PartitionId, u64)> {
        if let Some((partition, count)) = self.replay.front() {
            let queue = self.queues.get(partition)?;
            return (!queue.batches.is_empty()).then_some((*partition, *count));
        }
        let partition = *self.arrivals.front()?;
        let ready = self.queues.get(&partition)?.batches.front()?;
        Some((partition, ready.batch.len() as u64))
    }

    fn release_run(
        &mut self,
        partition: PartitionId,
        up_to: Option<Bound>,
        count: u64,
        bytes_max: usize,
        take: &mut impl FnMut(Released<'_>),
    ) -> usize {
        let Some(queue) = self.queues.get_mut(&partition) else { return 0 };
        let cursor = queue.cursor;
        let Some(ready) = queue.batches.front_mut() else { return 0 };
        let room = usize::try_from(count).unwrap_or(usize::MAX);
        let mut end = ready.batch.len().min(cursor.saturating_add(room));
        if let Some(bound) = up_to {
            let rows = &ready.batch.rows[cursor..end];
            end = cursor + leading(rows, |r| (r.stamp, partition) < bound);
        }
        let mut bytes = ready.held_bytes;
        let mut whole = cursor == 0 && end == ready.batch.len();
        if !whole || bytes > bytes_max {
            let mut last = cursor;
            bytes = 0;
            while last < end && (last == cursor || bytes < bytes_max) {
                bytes += ready.batch.frame.get(last).arena_bytes() + size_of::<crate::batch::Row>();
                last += 1;
            }
            end = last;
            whole = cursor == 0 && end == ready.batch.len();
        }
        let waited = queue.aside && self.letters.is_some_and(|letters| letters.wait);
        for row in &mut ready.batch.rows[cursor..end] {
            if waited {
                row.stamp = queue.stream_time;
            }
            if std::mem::take(&mut ready.counted) {
                row.passed = Passed::NONE;
            }
            self.beside.passed.add(std::mem::replace(&mut row.passed, Passed::NONE));
            self.beside.passed.add(std::mem::replace(&mut row.own, Passed::NONE));
            queue.released = row.stamp;
        }
        if whole {
            // The rows stay: positions are told from them until the batch is finished, which is at once.
            let empty = Batch::with_capacity(partition, ready.batch.next, 0, 0);
            let mut batch = std::mem::replace(&mut ready.batch, empty);
            ready.batch.tail = std::mem::replace(&mut batch.tail, Passed::NONE);
            take(Released::Whole(batch));
            queue.cursor = 0;
        } else {
            take(Released::Some(&ready.batch, cursor..end));
            queue.cursor = end;
        }
        let has_finished = queue.has_finished_batch();
        let released = (end - cursor) as u64;
        self.beside.passed.released += released;
        if self.order == Order::Arrival && !waited {
            match self.runs.last_mut() {
                Some((last, n)) if *last == partition => *n += released,
                _ => self.runs.push((partition, released)),
            }
        }
        if let Some((_, left)) = self.replay.front_mut()
            && !waited
        {
            *left -= released;
            if *left == 0 {
                self.replay.pop_front();
            }
        }
        if has_finished {
            self.finish_batches(partition);
        }
        bytes
    }

    /// Puts batches away whose messages are all released.
    fn finish_batches(&mut self, partition: PartitionId) {
        let Some(queue) = self.queues.get_mut(&partition) else { return };
        while queue.has_finished_batch() {
            let Some(ready) = queue.batches.pop_front() else { break };
            queue.cursor = 0;
            queue.next = ready.batch.next;
            if !queue.aside {
                queue.released = queue.released.max(ready.batch.tail.time);
            }
            self.beside.passed.add(ready.batch.tail);
            let bytes = ready.out.size_bytes();
            if bytes > 0 {
                self.beside_bytes += bytes;
                self.beside.out.push(ready.out);
            }
            self.waiting_bytes -= ready.held_bytes;
            self.freed.push((partition, ready.held_bytes));
            if let Some(at) = self.arrivals.iter().position(|p| *p == partition) {
                self.arrivals.remove(at);
            }
        }
    }

    /// Raises the closing stream time to what no partition can fall below any more.
    fn advance(&mut self) {
        let least = self.queues.values().filter_map(Queue::bound).min();
        let now = least.unwrap_or_else(|| {
            let mut others = self.queues.values().filter(|q| !q.aside).peekable();
            if others.peek().is_none() {
                self.closing
            } else if others.all(|q| q.progress == Progress::Ended) {
                END
            } else {
                let others = self.queues.values().filter(|q| !q.aside);
                others.map(|q| q.stream_time).max().unwrap_or(START)
            }
        });
        self.closing = self.closing.max(now);
    }

    /// Everything up to here belongs to the epoch: where each partition is, what left beside, and the
    /// interleaving.
    pub fn barrier(&mut self) -> (Vec<(PartitionId, Position)>, Beside, Vec<Run>) {
        if self.due().is_none() {
            self.advance();
        }
        let now = self.now();
        let waits = self.letters.is_some_and(|letters| letters.wait);
        let mut positions = Vec::with_capacity(self.queues.len());
        for (id, queue) in &mut self.queues {
            let (offset, index) = queue.reached();
            let (mut stream_time, mut progress) = (queue.released, queue.progress);
            if let Some(ready) = queue.batches.front_mut() {
                let row = &ready.batch.rows[queue.cursor];
                if !queue.aside {
                    progress = Progress::Live;
                    stream_time = stream_time.max(row.passed.time);
                }
                // A restart reads on at this message: what left before it is behind it then.
                if !std::mem::replace(&mut ready.counted, true) {
                    self.beside.passed.add(row.passed);
                }
                self.beside.out.push(ready.out.take_before(offset));
            }
            if queue.aside && waits {
                if !queue.is_due() {
                    queue.set_due(now);
                }
                stream_time = queue.stream_time;
                progress = queue.due.map_or(queue.progress, Progress::Due);
            }
            let incarnation = queue.incarnation.clone();
            positions.push((*id, Position { incarnation, offset, index, stream_time, progress }));
        }
        self.beside_bytes = 0;
        (positions, std::mem::take(&mut self.beside), std::mem::take(&mut self.runs))
    }

    /// The live partitions that hold stream time with nothing ready, least stream time first.
    pub fn waiting_for(&self) -> Vec<(PartitionId, i64)> {
        let mut waiting: Vec<(PartitionId, i64)> = self
            .queues
            .iter()
            .filter(|(_, q)| q.batches.is_empty() && q.progress == Progress::Live)
            .map(|(id, q)| (*id, q.stream_time))
            .collect();
        waiting.sort_by_key(|(_, time)| *time);
        waiting
    }
}

/// How many rows there are before the first of which this doesn't hold, and then of none. Mostly few, where
/// partitions keep pace.
fn leading(rows: &[Row], holds: impl Fn(&Row) -> bool) -> usize {
    let mut to = 1;
    while to < rows.len() && holds(&rows[to - 1]) {
        to *= 2;
    }
    let from = to / 2;
    from + rows[from..to.min(rows.len())].partition_point(holds)
}

impl Queue {
    fn at(p: Position, closing: i64, aside: bool) -> Self {
        if aside {
            let due = match p.progress {
                Progress::Due(before) => Some(before),
                _ => None,
            };
            return Self {
                incarnation: p.incarnation,
                batches: VecDeque::new(),
                cursor: 0,
                stream_time: p.stream_time,
                next: p.offset,
                released: p.stream_time,
                progress: Progress::Idle,
                skip: (p.index > 0).then_some((p.offset, p.index)),
                aside,
                due,
            };
        }
        // A partition that had ended and sends more all the same opens no closed window again.
        let more = p.progress == Progress::Ended && closing != END;
        let stream_time = if more { p.stream_time.max(closing) } else { p.stream_time };
        Self {
            incarnation: p.incarnation,
            batches: VecDeque::new(),
            cursor: 0,
            stream_time,
            next: p.offset,
            released: stream_time,
            // That it had ended says its reader again; until then it may still have something to send.
            progress: if p.progress == Progress::Ended { Progress::Live } else { p.progress },
            skip: (p.index > 0).then_some((p.offset, p.index)),
            aside,
            due: None,
        }
    }

    /// Whether letters of it come before everything else.
    fn is_due(&self) -> bool {
        self.due.is_some_and(|before| self.reached().0 < before)
    }

    /// How many messages of the first batch are among those.
    fn due_messages(&self) -> u64 {
        let (Some(ready), Some(before)) = (self.batches.front(), self.due) else { return 0 };
        ready.batch.rows[self.cursor..].partition_point(|row| row.offset < before) as u64
    }

    /// What waits comes next, at this stream time.
    fn set_due(&mut self, now: i64) {
        let last = self.batches.iter().rev().find_map(|ready| ready.batch.rows.last());
        self.due = last.map(|row| row.offset + 1);
        if self.due.is_some() {
            self.stream_time = self.stream_time.max(now);
        }
    }

    /// The least stamp that this partition's next message can have; none if it holds nothing up.
    fn bound(&self) -> Option<i64> {
        match self.batches.front() {
            _ if self.aside => None,
            Some(ready) => Some(ready.batch.rows[self.cursor].stamp),
            None if self.progress == Progress::Live => Some(self.stream_time),
            None => None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn has_finished_batch(&self) -> bool {
        self.batches.front().is_some_and(|ready| self.cursor == ready.batch.len())
    }

    /// The next offset, and how many results of the message there are released.
    fn reached(&self) -> (u64, u32) {
        match self.batches.front() {
            Some(ready) => {
                let row = &ready.batch.rows[self.cursor];
                (row.offset, row.index)
            }
            // Nothing was read since the restart: the position stays.
            None => self.skip.filter(|(at, _)| *at == self.next).unwrap_or((self.next, 0)),
        }
    }

    /// Takes out the results that were taken in before a restart.
    fn skip_restored(&mut self, batch: &mut Batch) {
        let Some((offset, taken)) = self.skip else { return };
        if batch.next > offset {
            self.skip = None;
        }
        let skipped = batch.rows.iter().take_while(|r| r.offset == offset && r.index < taken).count();
        if skipped > 0 {
            let order: Vec<usize> = (skipped..batch.len()).collect();
            batch.frame.arrange(&order);
            batch.rows.drain(..skipped);
        }
    }
}
