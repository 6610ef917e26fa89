//! A batch: a frame with what the host alone knows of each message.

use wasmill_frame::{FrameBuf, Parts};

use crate::position::PartitionId;
use crate::time::START;

/// What left the main way before a message, since the message before it: dropped, failed or routed.
/// It still counts: for stream time, and in the totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// The greatest event time among them.
    pub time: i64,
    /// How many messages of the source they were.
    pub read: u32,
    /// How many of them a filter or transform dropped.
    pub dropped: u32,
    /// How many of them went to the dead-letter queue.
    pub dead: u32,
    /// How many of them had an event time too far ahead, and were given another.
    pub clamped: u32,
}

impl Passed {
    /// Nothing left.
    pub const NONE: Self = Self { time: START, read: 0, dropped: 0, dead: 0, clamped: 0 };

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            time: self.time.max(other.time),
            read: self.read + other.read,
            dropped: self.dropped + other.dropped,
            dead: self.dead + other.dead,
            clamped: self.clamped + other.clamped,
        }
    }
}

/// What the host knows of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Which partition's; behind a window, of no meaning.
    pub partition: PartitionId,
    /// The offset of the message of the source that this one is a result of; behind a window, which
    /// of the batch's firings.
    pub offset: u64,
    /// Stream time at this message, set by the coordinator.
    pub stamp: i64,
    /// The latest event time that it may have; `i64::MAX` where nothing bounds it.
    pub latest: i64,
    /// Which of its results, numbered when the stages before the key_by are done; 0 until then.
    pub index: u32,
    /// Which of the results of that, numbered when the stages behind the key_by are done; 0 until then.
    pub emit: u32,
    /// What counts when it is released: 1 read for the message of the source itself, 0 for one that a
    /// plugin emitted beside; and what left of the same message of the source just before it.
    pub own: Passed,
    /// What left before it of earlier messages.
    pub passed: Passed,
    /// At which of the stages behind the key_by it enters: the first, but for one that is put through again.
    pub enter: u16,
}

impl Row {
    /// What it is a result of.
    pub(crate) fn of(&self) -> (PartitionId, u64, u32) {
        (self.partition, self.offset, self.index)
    }
}

/// A copy of some messages of a frame.
pub(crate) fn slice(frame: &FrameBuf, messages: impl ExactSizeIterator<Item = usize> + Clone) -> FrameBuf {
    let bytes = messages.clone().map(|i| frame.get(i).arena_bytes()).sum();
    let mut part = FrameBuf::with_capacity(messages.len(), bytes);
    for i in messages {
        part.push_message(&frame.get(i));
    }
    part
}

/// Gathers what leaves a batch between the messages that stay.
#[derive(Debug)]
pub(crate) struct Leaving {
    earlier: Passed,
    same: Passed,
    offset: Option<u64>,
    any: bool,
}

impl Leaving {
    pub fn new() -> Self {
        Self { earlier: Passed::NONE, same: Passed::NONE, offset: None, any: false }
    }

    /// A message leaves; its own counts and what left before it go with it. A time later than it may have
    /// moves nothing.
    pub fn leave(&mut self, row: &Row, time: i64, dropped: bool, dead: bool) {
        self.any = true;
        self.turn(row.offset);
        self.earlier = self.earlier.and(row.passed);
        let (dropped, dead) = (u32::from(dropped), u32::from(dead));
        let time = if time > row.latest { START } else { time };
        self.same = self.same.and(row.own).and(Passed { time, dropped, dead, ..Passed::NONE });
    }

    /// A message stays.
    pub fn stay(&mut self, row: &mut Row) {
        if !self.any {
            // The usual case: nothing has left since the last one that stayed.
            self.offset = Some(row.offset);
            return;
        }
        self.any = false;
        self.turn(row.offset);
        row.passed = std::mem::replace(&mut self.earlier, Passed::NONE).and(row.passed);
        row.own = std::mem::replace(&mut self.same, Passed::NONE).and(row.own);
    }

    /// What left behind the last message that stays.
    pub fn tail(self) -> Passed {
        self.earlier.and(self.same)
    }

    fn turn(&mut self, offset: u64) {
        if self.offset != Some(offset) {
            self.offset = Some(offset);
            self.earlier = self.earlier.and(std::mem::replace(&mut self.same, Passed::NONE));
        }
    }
}

/// Messages on their way: in the prefix consecutive ones of one partition, in a lane a run of the
/// virtual log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Whose they are; in a lane the rows say.
    pub partition: PartitionId,
    /// The messages.
    pub frame: FrameBuf,
    /// What the host knows of each.
    pub rows: Vec<Row>,
    /// What left behind the last one.
    pub tail: Passed,
    /// The offset to read next.
    pub next: u64,
    /// Whether any of its messages enters behind the first stage of a lane.
    pub(crate) enters: bool,
    /// Messages that the host's own steps could not take: index, kind, reason; rising.
    failed: Vec<(usize, &'static str, String)>,
}

impl Batch {
    /// An empty batch with room.
    #[must_use]
    pub fn with_capacity(partition: PartitionId, next: u64, messages: usize, arena_bytes: usize) -> Self {
        Self {
            partition,
            frame: FrameBuf::with_capacity(messages, arena_bytes),
            rows: Vec::with_capacity(messages),
            tail: Passed::NONE,
            next,
            enters: false,
            failed: Vec::new(),
        }
    }

    /// Adds a message of the source.
    pub fn push(&mut self, parts: &Parts<'_>, offset: u64) {
        self.frame.push(parts);
        self.push_row(offset, i64::MAX);
    }

    /// Puts the messages of a batch of the same partition behind the others, and what left behind them.
    pub(crate) fn append(&mut self, mut other: Batch) {
        let before = std::mem::replace(&mut self.tail, Passed::NONE);
        match other.rows.first_mut() {
            Some(row) => row.passed = before.and(row.passed),
            None => other.tail = before.and(other.tail),
        }
        for message in other.frame.view().iter() {
            self.frame.push_message(&message);
        }
        self.rows.extend(other.rows);
        self.enters |= other.enters;
        self.tail = other.tail;
    }

    /// Parts it before a message; what left behind the last one stays behind the last one.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let back = Self {
            partition: self.partition,
            frame: slice(&self.frame, at..self.len()),
            rows: self.rows.split_off(at),
            tail: std::mem::replace(&mut self.tail, Passed::NONE),
            next: self.next,
            enters: self.enters,
            failed: Vec::new(),
        };
        self.frame = slice(&self.frame, 0..at);
        back
    }

    /// Adds the row of a message of the source that is in the frame already, with the latest event time that
    /// it may have.
    pub fn push_row(&mut self, offset: u64, latest: i64) {
        self.rows.push(Row {
            partition: self.partition,
            offset,
            stamp: START,
            latest,
            index: 0,
            emit: 0,
            own: Passed { read: 1, ..Passed::NONE },
            passed: std::mem::replace(&mut self.tail, Passed::NONE),
            enter: 0,
        });
    }

    /// Notes that a message can't go on; it is taken out with the others by the step that notes it.
    pub(crate) fn fail(&mut self, index: usize, kind: &'static str, reason: String) {
        self.failed.push((index, kind, reason));
    }

    /// The messages noted as failed, and forgets them.
    pub(crate) fn take_failed(&mut self) -> Vec<(usize, &'static str, String)> {
        std::mem::take(&mut self.failed)
    }

    /// Whether two messages that stand side by side are results of one and the same.
    pub(crate) fn is_of_one(&self, left: usize, right: usize) -> bool {
        self.rows[left].of() == self.rows[right].of()
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Numbers the results of each message of the source, in order: behind the stages before the key_by.
    pub(crate) fn number(&mut self) {
        let mut ordinals = Ordinals::default();
        for row in &mut self.rows {
            debug_assert_eq!(row.index, 0, "numbered once");
            row.index = ordinals.of(row);
        }
    }

    /// Numbers the results of each result, in order: behind the stages after the key_by.
    pub(crate) fn number_emits(&mut self) {
        let mut ordinals = Ordinals::default();
        for row in &mut self.rows {
            row.emit = ordinals.of(row);
        }
    }
}

/// Counts the results of one and the same, which always stand together in a batch, however batches are cut.
#[derive(Debug, Default)]
pub(crate) struct Ordinals {
    last: Option<(PartitionId, u64, u32)>,
    ordinal: u32,
}

impl Ordinals {
    /// Which result the next row is.
    pub fn of(&mut self, row: &Row) -> u32 {
        let of = row.of();
        self.ordinal = if self.last == Some(of) { self.ordinal + 1 } else { 0 };
        self.last = Some(of);
        self.ordinal
    }
}
