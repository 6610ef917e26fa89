//! What leaves the engine: encoded messages, each with an id that makes a repeat refusable.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use wasmill_frame::Message;

use crate::condition::Condition;
use crate::dead_letter::{Buried, DeadLetter, Records, shorter};
use crate::input::Header;
use crate::position::PartitionId;
use crate::time::START;

/// What an output is the result of, within one sink. Never an epoch or a batch: a replay must give the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputId<'a> {
    /// The `index`-th result of the message at `offset`.
    Message {
        /// Whose partition's.
        partition: PartitionId,
        /// The message's offset.
        offset: u64,
        /// Which of the results that the stages before the key_by made of it.
        index: u32,
        /// Which of the results that the stages behind the key_by made of that one; before it, which of
        /// the results that the stages so far made of the message.
        emit: u32,
        /// The stage that it left the main way at, by a named output or as a dead letter; empty behind
        /// the last stage.
        left_at: &'a str,
    },
    /// The `revision`-th firing of a window.
    Window {
        /// The stage's name.
        stage: &'a str,
        /// The key.
        key: &'a [u8],
        /// The window's start, in milliseconds.
        start: i64,
        /// The window's end, in milliseconds.
        end: i64,
        /// Which firing, from 0.
        revision: u32,
        /// Which of the results that later stages made of the firing.
        emit: u32,
        /// As of a message.
        left_at: &'a str,
    },
    /// What a sink's other end would not take: known by its own bytes.
    Refused {
        /// The sink.
        sink: &'a str,
        /// The first bytes of what it would not take, as a hash.
        digest: u64,
        /// The message of the source that it is a result of, if it is one's.
        origin: Option<Origin>,
    },
}

impl<'a> OutputId<'a> {
    /// The id of what leaves the main way at a stage, as the `ordinal`-th result there.
    #[must_use]
    pub fn left_at(mut self, stage: &'a str, ordinal: u32) -> Self {
        if let Self::Message { emit, left_at, .. } | Self::Window { emit, left_at, .. } = &mut self {
            (*emit, *left_at) = (ordinal, stage);
        }
        self
    }
}

impl OutputId<'_> {
    /// The offset of the message that it is a result of, if it is one's.
    fn offset(&self) -> Option<u64> {
        match self {
            Self::Message { offset, .. } => Some(*offset),
            Self::Window { .. } | Self::Refused { .. } => None,
        }
    }

    /// Adds the id as text: short, without spaces, and another one for another id, for keys and stages go in
    /// as hashes of 128 bits. It must be read together with who writes, for two pipelines have the same ids.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut out = Ascii(out);
        // Writing to memory can't fail.
        let _ = match *self {
            Self::Message { partition, offset, index, emit, left_at } => {
                write!(out, "{partition}.{offset}.{index}.{emit}.{}", Hashed(left_at))
            }
            Self::Window { stage, key, start, end, revision, emit, left_at } => {
                let key = xxhash_rust::xxh3::xxh3_128(key);
                let (stage, left_at) = (Hashed(stage), Hashed(left_at));
                write!(out, "w{start}.{end}.{revision}.{emit}.{key:032x}.{stage}.{left_at}")
            }
            Self::Refused { sink, digest, origin: Some((partition, offset)) } => {
                write!(out, "r{digest:016x}.{partition}.{offset}.{}", Hashed(sink))
            }
            Self::Refused { sink, digest, origin: None } => write!(out, "r{digest:016x}.{}", Hashed(sink)),
        };
    }
}

/// Bytes that text is written to.
struct Ascii<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Ascii<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// A name as its hash, or nothing where there is none.
struct Hashed<'a>(&'a str);

impl std::fmt::Display for Hashed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            "" => Ok(()),
            name => write!(f, "{:032x}", xxhash_rust::xxh3::xxh3_128(name.as_bytes())),
        }
    }
}

/// The sequence numbers by which a source's own system knows the messages of a partition, where its reader counts
/// them otherwise: as of a queue, which delivers a message again out of its order.
pub trait Sequences: Send + Sync {
    /// The system's number of the message at an offset of the reader's.
    fn of(&self, partition: u32, offset: u64) -> u64;
}

/// A message of a source: its partition, its offset.
pub type Origin = (PartitionId, u64);

/// One message as a sink will write it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedRecord {
    /// Where the value is in [`EncodedBatch::data`].
    pub value: Range<usize>,
    /// Whether it is a tombstone: it has no value at all.
    pub tombstone: bool,
    /// Its headers, where the sink has such.
    pub headers: Vec<Header>,
    /// Where the key is, if it has one.
    pub key: Option<Range<usize>>,
    /// Where the output id is, if the sink wants one.
    pub id: Option<Range<usize>>,
    /// Event time in milliseconds, if it has one.
    pub timestamp: Option<i64>,
    /// The message of the source that it is a result of; none for a window's.
    pub origin: Option<Origin>,
}

impl EncodedRecord {
    /// The same with its bytes at other places.
    fn with_ranges(self, to: &mut impl FnMut(Range<usize>) -> Range<usize>) -> Self {
        Self {
            value: to(self.value),
            headers: self
                .headers
                .into_iter()
                .map(|h| Header { name: to(h.name), value: h.value.map(&mut *to) })
                .collect(),
            key: self.key.map(&mut *to),
            id: self.id.map(&mut *to),
            ..self
        }
    }
}

/// Messages as a sink will write them, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedBatch {
    /// All their bytes.
    pub data: Vec<u8>,
    /// The messages.
    pub records: Vec<EncodedRecord>,
}

impl EncodedBatch {
    /// Takes out the messages from the `at`-th on, with their bytes: neither part has the other's.
    fn split_off(&mut self, at: usize) -> Self {
        let behind = self.records.split_off(at);
        let mut back = Self::default();
        if !behind.is_empty() {
            back.copy(&self.data, behind);
            let (data, before) = (std::mem::take(&mut self.data), std::mem::take(&mut self.records));
            self.copy(&data, before);
        }
        back
    }

    /// Adds messages whose bytes are in `data`.
    fn copy(&mut self, data: &[u8], records: Vec<EncodedRecord>) {
        for record in records {
            let mut bytes = |range: Range<usize>| {
                let start = self.data.len();
                self.data.extend_from_slice(&data[range]);
                start..self.data.len()
            };
            let copied = record.with_ranges(&mut bytes);
            self.records.push(copied);
        }
    }

    /// Puts another batch behind this one.
    pub fn append(&mut self, mut other: EncodedBatch) {
        if other.records.is_empty() {
            return;
        }
        if self.records.is_empty() {
            *self = other;
            return;
        }
        let by = self.data.len();
        self.data.append(&mut other.data);
        let mut shift = |r: Range<usize>| r.start + by..r.end + by;
        self.records.extend(other.records.into_iter().map(|r| r.with_ranges(&mut shift)));
    }
}

/// Turns messages into what one sink writes. It runs on the workers, so that a sink's own thread
/// only moves bytes.
pub trait Encoder: Send + Sync {
    /// Adds a message to the batch, or nothing and says why.
    ///
    /// # Errors
    /// The reason, for the dead-letter queue.
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String>;
    /// As `encode`, with the stream time at the message: for who carries that on.
    ///
    /// # Errors
    /// As of `encode`.
    fn encode_stamped(
        &self,
        message: Message<'_>,
        _stamp: i64,
        id: &OutputId<'_>,
        into: &mut EncodedBatch,
    ) -> Result<(), String> {
        self.encode(message, id, into)
    }
}

/// Which messages a sink takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// What comes out of the last stage.
    Main,
    /// Dead letters.
    DeadLetters,
    /// What a plugin, or a late policy, sends to the output of this name.
    Named(String),
}

/// One sink, as the engine sees it.
#[derive(Clone)]
pub struct SinkRoute {
    /// What it takes.
    pub takes: Takes,
    /// Its own form of a message.
    pub encoder: Arc<dyn Encoder>,
    /// Which of the messages of that output it takes.
    pub when: When,
}

/// Which messages of an output a sink takes.
#[derive(Debug, Clone, Default)]
pub enum When {
    /// All.
    #[default]
    Always,
    /// Those for which this holds.
    Holds(Arc<Condition>),
    /// Those that no other sink of the output takes by a condition of its own.
    Otherwise,
}

/// All sinks of a pipeline, by what they take.
#[derive(Clone)]
pub struct Routes {
    sinks: Vec<SinkRoute>,
    main: Vec<usize>,
    dead_letters: Vec<usize>,
    named: BTreeMap<String, Vec<usize>>,
    partitions: BTreeMap<PartitionId, String>,
    /// By source, of those that have such.
    sequences: BTreeMap<u16, Arc<dyn Sequences>>,
}

impl Routes {
    /// Sorts the sinks by what they take; `partitions` are the names that dead letters tell.
    #[must_use]
    pub fn new(sinks: Vec<SinkRoute>, partitions: BTreeMap<PartitionId, String>) -> Self {
        let mut routes = Self {
            sinks,
            main: Vec::new(),
            dead_letters: Vec::new(),
            named: BTreeMap::new(),
            partitions,
            sequences: BTreeMap::new(),
        };
        for (i, sink) in routes.sinks.iter().enumerate() {
            match &sink.takes {
                Takes::Main => routes.main.push(i),
                Takes::DeadLetters => routes.dead_letters.push(i),
                Takes::Named(name) => routes.named.entry(name.clone()).or_default().push(i),
            }
        }
        let is_last = |i: &usize| matches!(routes.sinks[*i].when, When::Otherwise);
        for sinks in [&mut routes.main].into_iter().chain(routes.named.values_mut()) {
            sinks.sort_by_key(is_last);
        }
        routes
    }

    /// As it is, with the sequence numbers of the sources that have such.
    #[must_use]
    pub fn with_sequences(self, sequences: BTreeMap<u16, Arc<dyn Sequences>>) -> Self {
        Self { sequences, ..self }
    }

    /// An id as the source's own system knows its message: the same when that is delivered again.
    fn lasting<'a>(&self, id: &OutputId<'a>) -> OutputId<'a> {
        let mut lasting = *id;
        if let OutputId::Message { partition, offset, .. } = &mut lasting
            && let Some(sequences) = self.sequences.get(&partition.source)
        {
            *offset = sequences.of(partition.partition, *offset);
        }
        lasting
    }

    /// How many sinks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sinks.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sinks.is_empty()
    }

    /// The sinks of a named output, or a reason for the author.
    ///
    /// # Errors
    /// When no sink takes the output.
    pub fn named(&self, name: &str) -> Result<&[usize], String> {
        self.of(name).ok_or_else(|| no_sink(&format!("`{name}`")))
    }

    /// The same, if there are any.
    pub(crate) fn of(&self, name: &str) -> Option<&[usize]> {
        self.named.get(name).map(Vec::as_slice)
    }

    /// What people call a partition.
    #[must_use]
    pub fn partition_name(&self, partition: PartitionId) -> String {
        self.partitions.get(&partition).cloned().unwrap_or_else(|| partition.to_string())
    }
}

/// Why a message has no sink that was sent to an output of this name, in quotes.
pub(crate) fn no_sink(name: &str) -> String {
    format!("no sink takes the output {name}: add a sink with this `output` to the pipeline")
}

/// Which of an output's sinks are given a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// All that take it.
    All,
    /// Of these, in their order, the ones from this on.
    From(usize),
    /// This one, which has been found to take it before.
    Just(usize),
}

/// What leaves in one epoch, or by one batch: one encoded batch a sink.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    /// By sink.
    pub sinks: Vec<EncodedBatch>,
    /// By sink, for each message the offset of the source's message that it is a result of; empty where
    /// nobody asks.
    pub offsets: Vec<Vec<u64>>,
    /// How many messages of the source became dead letters here.
    pub dead: u64,
    /// How many messages that came out of the last stage no sink takes, for what these ask of messages.
    pub unrouted: u64,
    /// The same of messages of named outputs.
    pub unrouted_beside: u64,
}

impl Outbox {
    /// An empty one for these routes.
    #[must_use]
    pub fn new(routes: &Routes) -> Self {
        Self {
            sinks: vec![EncodedBatch::default(); routes.len()],
            offsets: vec![Vec::new(); routes.len()],
            dead: 0,
            unrouted: 0,
            unrouted_beside: 0,
        }
    }

    /// The bytes of all sinks together.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.sinks.iter().map(|s| s.data.len() + s.records.len() * 64).sum()
    }

    /// Encodes a message of a named output for those of `sinks` that take it. What a sink's encoder refuses
    /// becomes a dead letter, with what its source gave where the `records` are still at hand.
    pub fn send(
        &mut self,
        routes: &Routes,
        sinks: &[usize],
        message: Message<'_>,
        id: &OutputId<'_>,
        records: Option<Records<'_>>,
    ) {
        let taken = self.encode(routes, (sinks, Which::All), (message, START), id, records);
        self.unrouted_beside += u64::from(!taken);
    }

    /// As [`Outbox::send`], of a message that came out of the last stage, with the stream time at it.
    pub fn send_main(
        &mut self,
        routes: &Routes,
        message: Message<'_>,
        stamp: i64,
        id: &OutputId<'_>,
        records: Option<Records<'_>>,
    ) {
        let taken = self.encode(routes, (&routes.main, Which::All), (message, stamp), id, records);
        self.unrouted += u64::from(!taken);
    }

    /// As [`Outbox::send`] or [`Outbox::send_main`], of a message that the sink of the number `first` could not be
    /// given: that one alone takes it now, or those `and_behind` it too, which had not been asked.
    pub(crate) fn send_again(
        &mut self,
        routes: &Routes,
        (first, and_behind): (Option<usize>, bool),
        message: Message<'_>,
        id: &OutputId<'_>,
        records: Option<Records<'_>>,
    ) {
        let (sinks, which) = match first {
            None => (&routes.main, Which::All),
            Some(first) => {
                let named = routes.named.values().find(|sinks| sinks.contains(&first));
                let which = if and_behind { Which::From(first) } else { Which::Just(first) };
                (named.unwrap_or(&routes.main), which)
            }
        };
        let taken = self.encode(routes, (sinks, which), (message, START), id, records);
        self.unrouted_beside += u64::from(!taken);
    }

    /// Whether any of the sinks takes it, or the dead letters do.
    fn encode(
        &mut self,
        routes: &Routes,
        (sinks, which): (&[usize], Which),
        (message, stamp): (Message<'_>, i64),
        id: &OutputId<'_>,
        records: Option<Records<'_>>,
    ) -> bool {
        let lasting = routes.lasting(id);
        let (mut by_condition, mut takers) = (false, 0);
        let mut asked = matches!(which, Which::All | Which::Just(_));
        for &sink in sinks {
            if let Which::Just(only) = which
                && sink != only
            {
                continue;
            }
            asked |= which == Which::From(sink);
            let SinkRoute { encoder, when, .. } = &routes.sinks[sink];
            let takes = match when {
                _ if matches!(which, Which::Just(_)) => true,
                When::Always => true,
                // The sinks stand in an order in which these come last.
                When::Otherwise => !by_condition,
                When::Holds(condition) => match condition.holds(message) {
                    Ok(holds) => {
                        by_condition |= holds;
                        holds
                    }
                    Err(_) if !asked => false,
                    Err(reason) => {
                        let reason = format!("{reason}; `when: {condition}` asks for it");
                        let why = DeadLetter {
                            reason: &reason,
                            kind: "route",
                            stage: "sink",
                            plugin: None,
                            attempts: 1,
                        };
                        self.bury(routes, &why, Buried::AtSink(message, sink), id, records);
                        return true;
                    }
                },
            };
            if !takes || !asked {
                continue;
            }
            takers += 1;
            match encoder.encode_stamped(message, stamp, &lasting, &mut self.sinks[sink]) {
                Ok(()) => self.note_origin(sink, id),
                Err(reason) => self.bury(
                    routes,
                    &DeadLetter { reason: &reason, kind: "encode", stage: "sink", plugin: None, attempts: 1 },
                    Buried::AtSink(message, sink),
                    id,
                    records,
                ),
            }
        }
        takers > 0
    }

    /// Makes a dead letter of a message; of one whose record is among the `records`, with that.
    pub fn bury(
        &mut self,
        routes: &Routes,
        why: &DeadLetter<'_>,
        what: Buried<'_>,
        id: &OutputId<'_>,
        records: Option<Records<'_>>,
    ) {
        self.dead += 1;
        let lasting = routes.lasting(id);
        let original = records.zip(id.offset()).and_then(|(records, offset)| records.at(offset));
        let frame = why.message(routes, what, &lasting, original);
        for &sink in &routes.dead_letters {
            if routes.sinks[sink].encoder.encode(frame.get(0), &lasting, &mut self.sinks[sink]).is_ok() {
                self.note_origin(sink, id);
            }
        }
    }

    /// Makes a dead letter again of one that its sink's other end refused, with less in it and why.
    pub fn bury_shorter(&mut self, routes: &Routes, letter: &[u8], refusal: &str, id: &OutputId<'_>) {
        let frame = shorter(letter, refusal);
        for &sink in &routes.dead_letters {
            // What can't be encoded was not written before either.
            let _ = routes.sinks[sink].encoder.encode(frame.get(0), id, &mut self.sinks[sink]);
        }
    }

    /// Puts each sink's messages in the order of the source's messages that they are results of.
    pub(crate) fn sort_by_offset(&mut self) {
        for (sink, offsets) in self.sinks.iter_mut().zip(&mut self.offsets) {
            if !offsets.is_sorted() {
                let mut order: Vec<usize> = (0..offsets.len()).collect();
                order.sort_by_key(|i| offsets[*i]);
                sink.records = order.iter().map(|i| sink.records[*i].clone()).collect();
                *offsets = order.iter().map(|i| offsets[*i]).collect();
            }
        }
    }

    /// Takes out what is the result of messages before `offset`; the rest must be sorted.
    pub(crate) fn take_before(&mut self, offset: u64) -> Outbox {
        let mut taken = Outbox::default();
        for (sink, offsets) in self.sinks.iter_mut().zip(&mut self.offsets) {
            let n = offsets.partition_point(|o| *o < offset);
            let rest = sink.split_off(n);
            let rest_offsets = offsets.split_off(n);
            taken.sinks.push(std::mem::replace(sink, rest));
            taken.offsets.push(std::mem::replace(offsets, rest_offsets));
        }
        taken
    }

    /// Puts another outbox of the same routes behind this one; the offsets are of no use any more.
    pub fn append(&mut self, other: Outbox) {
        for (sink, more) in self.sinks.iter_mut().zip(other.sinks) {
            sink.append(more);
        }
        self.dead += other.dead;
        self.unrouted += other.unrouted;
        self.unrouted_beside += other.unrouted_beside;
    }

    fn note_origin(&mut self, sink: usize, id: &OutputId<'_>) {
        let origin = match id {
            OutputId::Message { partition, offset, .. } => {
                self.offsets[sink].push(*offset);
                Some((*partition, *offset))
            }
            OutputId::Refused { origin, .. } => *origin,
            OutputId::Window { .. } => None,
        };
        if let Some(record) = self.sinks[sink].records.last_mut() {
            record.origin = origin;
        }
    }
}
