//! What a message costs with few keys and with many: in memory, and on disk with a bounded cache.
//!
//! A lane of the engine with `count` and `sum` in tumbling windows that stay open, its epochs committed to the
//! store as a pipeline would. The time is the whole process's on its processors, so that it includes what
//! the store does behind a commit; only the making of the messages is taken off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wasmill_connect::store::{DiskStore, MemoryStore};
use wasmill_engine::batch::Batch;
use wasmill_engine::lane::{EVERYTHING, Lane, LaneBounds, LaneInput};
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::{Checkpoint, Epoch, StateStore};
use wasmill_engine::time::START;
use wasmill_engine::window::Windows;

use crate::clock::{Times, process_cpu, timed};
use crate::report::{Report, Row, Target};
use crate::stream::{BATCH, SCATTER, count_and_sum, lane, push, splitmix};

const FEW: usize = 10_000;
const MANY: usize = 10_000_000;
/// Messages an epoch: about what `epoch.bytes` lets through of 200 bytes each.
const EPOCH: usize = BATCH * 160;
/// Messages that are measured.
const MESSAGES: usize = EPOCH * 50;
/// How often as many go before.
const WARM: usize = 4;
/// The default of `limits.state_cache`.
const CACHE_BYTES: usize = 256 << 20;

/// How often each key comes.
#[derive(Clone, Copy)]
enum Keys {
    /// Each as often as any other.
    Uniform(usize),
    /// The n-th in 1/n as many messages as the first.
    Zipf(usize),
}

impl Keys {
    fn count(self) -> usize {
        match self {
            Self::Uniform(keys) | Self::Zipf(keys) => keys,
        }
    }

    /// The key of the n-th message.
    fn of(self, n: usize) -> usize {
        let random = splitmix(n as u64);
        match self {
            Self::Uniform(keys) => (random % keys as u64) as usize,
            Self::Zipf(keys) => {
                // The inverse of the sum of 1/n, which is about the logarithm.
                let share = (random >> 11) as f64 / (1u64 << 53) as f64;
                let rank = (keys as f64).powf(share) as usize - 1;
                rank * SCATTER % keys
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Uniform(_) => "uniform",
            Self::Zipf(_) => "Zipf",
        }
    }
}

/// Measures few keys and many, and a start with many.
pub fn measure(report: &mut Report) {
    // The disk first: memory that was had once is not all given back.
    for (keys, most) in [(Keys::Zipf as fn(usize) -> Keys, 1.5), (Keys::Uniform, 5.0)] {
        let what = "a lane's windows on disk, 256 MiB of cache";
        let few = once(Disk::new(FEW).run(keys(FEW)));
        let how = |keys: Keys| format!("{} keys, {}", keys.count(), keys.name());
        report.push(Row::ratio(what, &how(keys(FEW)), &few, &few, None));
        let disk = Disk::new(MANY);
        let many = once(disk.run(keys(MANY)));
        report.push(Row::ratio(what, &how(keys(MANY)), &many, &few, Some(Target::AtMost(most))));
        let mut resident = Times::default();
        resident.push(resident_mib());
        report.push(Row::figure("the same", "memory of the whole process", &resident, "MiB", None));
        let mut starts = Times::default();
        for _ in 0..3 {
            starts.push(disk.start().as_secs_f64() * 1_000.0);
        }
        let how = format!("{MANY} keys: store opened, lane made, first message folded");
        report.push(Row::figure("a start", &how, &starts, "ms", Some(Target::AtMost(1_000.0))));
    }
    let memory = |keys| {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
        let mut run = Run::new(&store, EVERYTHING);
        // Nothing is committed: the store in memory is none of the engine's.
        run.fill(keys, |_| {});
        run.messages(Keys::Uniform(keys), |_| {})
    };
    let few = once(memory(FEW));
    report.push(Row::ratio("a lane's windows in memory", &format!("{FEW} keys, uniform"), &few, &few, None));
    let (many, target) = (once(memory(MANY)), Some(Target::AtMost(2.0)));
    report.push(Row::ratio(
        "a lane's windows in memory",
        &format!("{MANY} keys, uniform"),
        &many,
        &few,
        target,
    ));
}

fn once(ns: f64) -> Times {
    let mut times = Times::default();
    times.push(ns);
    times
}

/// A store on disk that has a window of each key.
struct Disk {
    directory: TempDir,
}

impl Disk {
    fn new(keys: usize) -> Self {
        let disk = Self { directory: TempDir::new().unwrap_or_else(|e| panic!("{e}")) };
        let store = disk.open();
        Run::new(&store, CACHE_BYTES).fill(keys, |run| run.commit());
        disk
    }

    fn open(&self) -> Arc<dyn StateStore> {
        Arc::new(DiskStore::open(self.directory.path()).unwrap_or_else(|e| panic!("{e}")))
    }

    fn run(&self, keys: Keys) -> f64 {
        let store = self.open();
        let mut run = Run::new(&store, CACHE_BYTES);
        // First until the cache is full of what is used most.
        for _ in 0..WARM {
            run.messages(keys, Run::commit);
        }
        run.messages(keys, Run::commit)
    }

    /// From nothing open to the first message folded.
    fn start(&self) -> Duration {
        let batches = vec![batch(0, |_| MANY / 2)];
        let begun = Instant::now();
        let store = self.open();
        let mut run = Run::new(&store, CACHE_BYTES);
        run.lane.process(LaneInput { batches, stream_time: START, settled: START });
        begun.elapsed()
    }
}

/// A lane over a store.
struct Run {
    store: Arc<dyn StateStore>,
    lane: Lane,
    epoch: Epoch,
    messages: usize,
}

impl Run {
    fn new(store: &Arc<dyn StateStore>, cache_bytes: usize) -> Self {
        let lane = lane(
            count_and_sum(Windows::tumbling(3_600_000)),
            store,
            LaneBounds { cache_bytes, ..LaneBounds::NONE },
        );
        let checkpoint = store.checkpoint().unwrap_or_else(|e| panic!("{e}"));
        Self { store: Arc::clone(store), lane, epoch: checkpoint.map_or(0, |c| c.epoch), messages: 0 }
    }

    /// A message of each key.
    fn fill(&mut self, keys: usize, mut behind_epoch: impl FnMut(&mut Self)) {
        for first in (0..keys).step_by(EPOCH) {
            self.epoch_of(|n| (first + n).min(keys - 1) * SCATTER % keys);
            behind_epoch(self);
        }
    }

    /// Answers nanoseconds a message.
    fn messages(&mut self, keys: Keys, mut behind_epoch: impl FnMut(&mut Self)) -> f64 {
        let begun = process_cpu();
        let mut making = Duration::ZERO;
        for _ in 0..MESSAGES / EPOCH {
            let first = self.messages;
            making += self.epoch_of(|n| keys.of(first + n));
            behind_epoch(self);
        }
        let took = process_cpu().saturating_sub(begun).saturating_sub(making);
        took.as_nanos() as f64 / MESSAGES as f64
    }

    /// Folds the messages of an epoch, whose n-th has this key; answers how long it took to make them.
    fn epoch_of(&mut self, key: impl Fn(usize) -> usize) -> Duration {
        let mut batches = Vec::new();
        let making = timed(|| batches = (0..EPOCH / BATCH).map(|n| batch(n * BATCH, &key)).collect());
        self.messages += EPOCH;
        self.lane.process(LaneInput { batches, stream_time: START, settled: START });
        making
    }

    fn commit(&mut self) {
        self.epoch += 1;
        let delta = self.lane.barrier(self.epoch).delta;
        let checkpoint = Checkpoint {
            epoch: self.epoch,
            generation: 0,
            shape: String::new(),
            stream_time: START,
            positions: Vec::new(),
            sinks: Vec::new(),
            counts: Default::default(),
            ..Checkpoint::default()
        };
        self.store.commit(&delta, &checkpoint).unwrap_or_else(|e| panic!("{e}"));
        self.lane.committed(self.epoch, &[]);
    }
}

fn batch(first: usize, key: impl Fn(usize) -> usize) -> Batch {
    let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, BATCH, BATCH * 160);
    for n in first..first + BATCH {
        let payload = format!("{{\"user\":\"u{:08}\",\"n\":{:<6}}}", key(n), n % 1_000);
        let timestamp = 1_700_000_000_000 + (n as i64 % 1_000);
        push(&mut batch, n as u64, timestamp, &payload.as_bytes()[9..18], &payload);
    }
    batch
}

/// The memory that this process has now.
fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<f64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(f64::NAN) * rustix::param::page_size() as f64 / f64::from(1 << 20)
}
