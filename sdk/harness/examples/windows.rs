//! What windows cost in the engine alone, on one core: `cargo run --release -p wasmill-harness --example
//! windows`. Taking messages and firing windows are timed apart, by the thread's time on a processor; firing
//! includes making each result's message, which no sink takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_connect::store::MemoryStore;
use wasmill_engine::WindowSpec;
use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{AggregateInfo, PluginRef};
use wasmill_engine::lane::{EVERYTHING, KeyedSpec, Lane, LaneInput};
use wasmill_engine::output::Routes;
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::StateStore;
use wasmill_engine::time::START;
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_frame::Parts;
use wasmill_harness::native::{self, AggregateFns};
use wasmill_harness::simulator::Seeded;

/// As many as a plugin is given at once by default.
const BATCH_MESSAGES: usize = 256;

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn count() -> PluginRef {
    let fns = AggregateFns {
        info: AggregateInfo { commutative: true, state_version: 1, initial: vec![0; 8] },
        fold: |accumulator, _| {
            let n = number(accumulator) + 1;
            accumulator.copy_from_slice(&n.to_le_bytes());
            Ok(())
        },
        merge: |left, right| {
            let n = number(left) + number(right);
            left.copy_from_slice(&n.to_le_bytes());
        },
        finish: |accumulator| number(accumulator).to_string(),
        scan: None,
    };
    native::aggregate("count", fns, None)
}

/// How long this thread has had a processor: other load on the machine counts less than by the clock.
fn busy_ns() -> Result<u64, String> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").map_err(|e| e.to_string())?;
    let busy = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    busy.ok_or_else(|| format!("unexpected schedstat: {stat}"))
}

/// A stream: so many keys, each with so many messages a second of event time while it is active.
#[derive(Clone, Copy)]
struct Load {
    keys: usize,
    a_second: usize,
    seconds: i64,
    /// Of each period of seconds, a key is active in so many.
    active: (i64, i64),
}

fn measure(what: &str, windows: Result<Windows, String>, load: Load) -> Result<(), String> {
    let spec = WindowSpec {
        name: "w".into(),
        aggregate: count().into(),
        window: windows?,
        allowed_lateness_ms: 0,
        late: Late::Drop,
        emit: Emit::Close,
        compound_key: false,
    };
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let routes = Arc::new(Routes::new(Vec::new(), BTreeMap::new()));
    let mut lane = Lane::new(&[KeyedSpec::Window(spec)], &routes, &store, 128, (0, 1), EVERYTHING)
        .map_err(|e| e.to_string())?;
    let keys: Vec<String> = (0..load.keys).map(|k| format!("key-{k:08}")).collect();
    let mut random = Seeded::new(1);
    let (mut taking, mut firing) = (0, 0);
    let (mut messages, mut offset, mut fired) = (0u64, 0, 0);
    for second in 0..load.seconds {
        let each_second = load.keys * load.a_second;
        let mut batches = Vec::new();
        for n in 0..each_second {
            let key = random.below(load.keys);
            if (second + key as i64) % load.active.1 >= load.active.0 {
                continue;
            }
            if batches.last().is_none_or(|b: &Batch| b.len() == BATCH_MESSAGES) {
                let nowhere = PartitionId { source: 0, partition: 0 };
                batches.push(Batch::with_capacity(nowhere, 0, BATCH_MESSAGES, BATCH_MESSAGES * 64));
            }
            let Some(batch) = batches.last_mut() else { continue };
            let timestamp = second * 1_000 + (n * 1_000 / each_second) as i64;
            batch.push(
                &Parts {
                    id: "id",
                    kind: "a",
                    key: Some(keys[key].as_bytes()),
                    payload: b"{}",
                    timestamp,
                    metadata: b"",
                    payload_is_json: true,
                },
                offset,
            );
            if let Some(row) = batch.rows.last_mut() {
                row.stamp = timestamp;
            }
            offset += 1;
            messages += 1;
        }
        let start = busy_ns()?;
        lane.process(LaneInput { batches, stream_time: second * 1_000, settled: START });
        taking += busy_ns()? - start;
        let start = busy_ns()?;
        lane.process(LaneInput { batches: Vec::new(), stream_time: (second + 1) * 1_000, settled: START });
        firing += busy_ns()? - start;
        if second % 10 == 9 {
            fired += lane.barrier(1).counts.fired;
        }
    }
    fired += lane.barrier(1).counts.fired;
    let ns = |ns: u64, n: u64| ns / n.max(1);
    println!(
        "{what:<36} {:>5} ns a message to take, {:>5} ns a window to fire; {messages} messages, {fired} windows",
        ns(taking, messages),
        ns(firing, fired)
    );
    Ok(())
}

fn main() -> Result<(), String> {
    let always = (1, 1);
    let many = Load { keys: 1_000_000, a_second: 1, seconds: 13, active: always };
    measure("tumbling 10 s, 1 M keys", Windows::tumbling(10_000), many)?;
    let dense = Load { keys: 10_000, a_second: 10, seconds: 130, active: always };
    measure("tumbling 60 s, 10 a key and second", Windows::tumbling(60_000), dense)?;
    measure("sliding 60 s every 1 s, the same", Windows::sliding(60_000, 1_000), dense)?;
    measure("sessions, gap 1 s, the same", Windows::session(1_000), dense)?;
    let bursts = Load { active: (3, 10), ..dense };
    measure("tumbling 10 s, 3 s of 10 active", Windows::tumbling(10_000), bursts)?;
    measure("sessions, gap 1 s, the same", Windows::session(1_000), bursts)?;
    Ok(())
}
