//! An epoch's commit: what all lanes and the coordinator handed over at a barrier, put together.

use std::collections::BTreeMap;

use crate::coordinator::Barrier;
use crate::lane::{Counts, Lane, LaneEpoch};
use crate::output::Outbox;
use crate::state::{Checkpoint, Delta, Epoch};

/// Everything that one epoch makes durable. The order is: `foretell`, write and flush `out`, put the
/// sinks' tokens into `checkpoint`, store `delta` with `checkpoint`, publish, acknowledge.
#[derive(Debug)]
pub struct Commit {
    /// Facts that the outputs depend on, to be durable before any of them leaves.
    pub foretell: Option<Vec<u8>>,
    /// What leaves.
    pub out: Outbox,
    /// What changes in the state.
    pub delta: Delta,
    /// Positions and totals; its sinks' tokens are the ones of the commit before.
    pub checkpoint: Checkpoint,
    /// What this epoch counted.
    pub counts: Counts,
    /// How many windows are open behind it.
    pub open_windows: u64,
}

/// Puts commits together and keeps the totals.
pub struct Collector {
    lanes: usize,
    generation: u64,
    shape: String,
    totals: Counts,
    open_windows: u64,
    sinks: Vec<(String, String)>,
    open: BTreeMap<Epoch, (Option<Barrier>, Vec<LaneEpoch>)>,
}

impl Collector {
    /// A collector that goes on from a checkpoint, for these lanes. An earlier wasmill didn't store how many
    /// windows were open: then it is as many as the lanes have in memory.
    #[must_use]
    pub fn new(lanes: &[Lane], generation: u64, shape: String, checkpoint: Option<&Checkpoint>) -> Self {
        let open_windows = checkpoint.and_then(|c| c.counts.get(OPEN_WINDOWS).copied());
        let in_memory = || lanes.iter().map(Lane::windows_in_memory).sum::<usize>() as u64;
        Self {
            lanes: lanes.len(),
            open_windows: open_windows.unwrap_or_else(in_memory),
            generation,
            shape,
            totals: checkpoint.map(|c| counts_from(&c.counts)).unwrap_or_default(),
            sinks: checkpoint.map(|c| c.sinks.clone()).unwrap_or_default(),
            open: BTreeMap::new(),
        }
    }

    /// Takes the coordinator's part.
    pub fn barrier(&mut self, barrier: Barrier) -> Option<Commit> {
        let epoch = barrier.epoch;
        self.open.entry(epoch).or_default().0 = Some(barrier);
        self.complete(epoch)
    }

    /// Takes a lane's part. A lane's parts come in the order of their epochs.
    pub fn lane(&mut self, epoch: Epoch, part: LaneEpoch) -> Option<Commit> {
        self.open.entry(epoch).or_default().1.push(part);
        self.complete(epoch)
    }

    /// State is of another shape from the next barrier on: what other plugins have migrated it to.
    pub fn reshape(&mut self, shape: String) {
        self.shape = shape;
    }

    /// The totals since the pipeline's first run, of the epochs put together so far.
    #[must_use]
    pub fn totals(&self) -> Counts {
        self.totals
    }

    fn complete(&mut self, epoch: Epoch) -> Option<Commit> {
        let (barrier, parts) = self.open.get(&epoch)?;
        if barrier.is_none() || parts.len() < self.lanes {
            return None;
        }
        let (barrier, parts) = self.open.remove(&epoch)?;
        let barrier = barrier?;
        let mut counts = barrier.counts;
        let mut out = barrier.out;
        let mut plugins = barrier.plugins;
        let mut delta = Delta::default();
        for part in parts {
            out.append(part.out);
            delta.changes.extend(part.delta.changes);
            counts.add(part.counts);
            plugins.settled &= !part.owes;
            self.open_windows = self.open_windows.saturating_add_signed(part.opened_windows);
        }
        self.totals.add(counts);
        let checkpoint = Checkpoint {
            epoch,
            generation: self.generation,
            shape: self.shape.clone(),
            stream_time: barrier.stream_time,
            positions: barrier.positions,
            sinks: self.sinks.clone(),
            counts: counts_to(self.totals, self.open_windows),
            plugins,
        };
        let open_windows = self.open_windows;
        Some(Commit { foretell: barrier.foretell, out, delta, checkpoint, counts, open_windows })
    }
}

const NAMES: [&str; 7] = ["read", "dropped", "late", "dead_letters", "written", "windows_fired", "clamped"];

const OPEN_WINDOWS: &str = "open_windows";

/// Totals as a checkpoint keeps them.
fn counts_to(c: Counts, open_windows: u64) -> BTreeMap<String, u64> {
    let values = [c.read, c.dropped, c.late, c.dead, c.written, c.fired, c.clamped];
    let mut counts: BTreeMap<String, u64> = NAMES.iter().map(|n| (*n).to_owned()).zip(values).collect();
    counts.insert(OPEN_WINDOWS.to_owned(), open_windows);
    counts
}

/// Totals from a checkpoint.
#[must_use]
pub fn counts_from(counts: &BTreeMap<String, u64>) -> Counts {
    let get = |i: usize| counts.get(NAMES[i]).copied().unwrap_or_default();
    Counts {
        read: get(0),
        dropped: get(1),
        late: get(2),
        dead: get(3),
        written: get(4),
        fired: get(5),
        clamped: get(6),
    }
}
