//! Entries of plugins with a time to live: what has expired is hidden by stamps alone, and leaves the store by
//! and by, without anybody seeing when.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmill_connect::store::{DiskStore, MemoryStore};
use wasmill_engine::WindowSpec;
use wasmill_engine::guest::{CallError, PluginRef};
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::plugin_state::SWEPT_ENTRIES_MAX;
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::state::{Checkpoint, Delta, Epoch, StateStore, StoreError, VisitEntry};
use wasmill_engine::topology::Order;
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_frame::Edit;
use wasmill_harness::driver::{Driver, Steps};
use wasmill_harness::logs::{Sent, list_of_ids, random_logs, scenario, topology, virtual_log};
use wasmill_harness::native;
use wasmill_harness::parts::Output;
use wasmill_harness::simulator::{Chaos, Seeded, run_over};

fn seeds() -> u64 {
    std::env::var("WASMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_500)
}

/// How many messages back the plugin looks.
const LOOKS_BACK: usize = 8;

/// Remembers each message of a key by its number, and tells which of those before it are remembered.
fn remembers(ttl_ms: Option<u64>) -> PluginRef {
    native::transform("remembers", move |index, message, edits, cx| {
        let state = cx.state.as_mut().unwrap();
        let at = u32::try_from(index).unwrap();
        let number: usize = message.id().trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let mut seen = Vec::new();
        for before in number.saturating_sub(LOOKS_BACK)..number {
            if state.get(at, &before.to_string()).map_err(CallError::Refused)?.is_some() {
                seen.push(before.to_string());
            }
        }
        state.set(at, &number.to_string(), Some(b"seen"), ttl_ms).map_err(CallError::Refused)?;
        edits.push(index, Edit::SetMetadata { name: "seen", value: seen.join(",").as_bytes(), json: false });
        Ok(())
    })
}

/// Remembers the last window of a key by its end.
fn remembers_windows(ttl_ms: u64) -> PluginRef {
    native::transform("remembers windows", move |index, _, edits, cx| {
        let state = cx.state.as_mut().unwrap();
        let at = u32::try_from(index).unwrap();
        let last = state.get(at, "last").map_err(CallError::Refused)?.is_some();
        state.set(at, "last", Some(b"seen"), Some(ttl_ms)).map_err(CallError::Refused)?;
        let value = if last { "yes" } else { "no" };
        edits.push(index, Edit::SetMetadata { name: "seen", value: value.as_bytes(), json: false });
        Ok(())
    })
}

fn stage(plugin: PluginRef) -> KeyedSpec {
    KeyedSpec::Stage(Arc::new(StageSpec { name: "s".into(), kind: StageKind::Transform, plugin }))
}

/// Messages as they came to the stage of a key, in that order: number and what it remembered.
fn told(outputs: &[Output]) -> BTreeMap<String, Vec<(usize, String)>> {
    let mut told: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for output in outputs {
        let message: serde_json::Value = serde_json::from_str(&output.line).unwrap();
        let number = message["payload"]["n"].as_u64().unwrap() as usize;
        let seen = message["metadata"]["seen"].as_str().unwrap().to_owned();
        told.entry(message["payload"]["k"].as_str().unwrap().to_owned()).or_default().push((number, seen));
    }
    told
}

/// The logs cut at random, as a first run finds them.
fn cut(logs: &[Vec<Sent>], random: &mut Seeded) -> Vec<Vec<Sent>> {
    logs.iter().map(|log| log[..random.below(log.len() + 1)].to_vec()).collect()
}

#[test]
fn what_plugins_see_depends_on_stamps_alone_and_the_rest_is_swept() {
    let (mut set, mut left, mut grown) = (0, 0, 0);
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0x77E);
        let logs = random_logs(&mut random, 0);
        let ttl = [0, 1, 5, 30, 200][random.below(5)];
        let order = [Order::Log, Order::Arrival][random.below(2)];
        let keyed = vec![stage(remembers(Some(ttl.try_into().unwrap())))];
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
        // A first run comes to the end of everything; then the logs grow. (A crash between the end of one log
        // and the end of all raises the stamps of what the first one grows by.)
        let first = cut(&logs, &mut random);
        let mut outputs = Vec::new();
        for (logs, crashes_per_mille) in [(&first, 0), (&logs, Chaos::WILD.crashes_per_mille)] {
            let scenario = scenario(topology(keyed.clone(), order), logs);
            let chaos = Chaos { crashes_per_mille, ..Chaos::WILD };
            let outcome = run_over(&scenario, chaos, seed, Arc::clone(&store));
            assert_eq!(outcome.check(), Ok(()), "seed {seed}");
            outputs.extend(outcome.committed[0].iter().cloned());
        }
        grown += outputs.len() - first.iter().map(Vec::len).sum::<usize>();
        assert_eq!(outputs.len(), logs.iter().map(Vec::len).sum::<usize>(), "seed {seed}");

        // A partition's stamps don't depend on the others.
        let stamps: BTreeMap<usize, i64> =
            virtual_log(&logs).into_iter().map(|p| (p.id[1..].parse().unwrap(), p.order.0)).collect();
        for (key, messages) in told(&outputs) {
            let mut before = BTreeSet::new();
            for (number, seen) in messages {
                let lives = |n: &&usize| {
                    **n < number && **n + LOOKS_BACK >= number && stamps[*n] + ttl > stamps[&number]
                };
                let expected: Vec<String> = before.iter().filter(lives).map(usize::to_string).collect();
                assert_eq!(seen, expected.join(","), "seed {seed}, key {key}, message {number}");
                before.insert(number);
            }
        }
        set += outputs.len();
        store.scan(b"s", &mut |_, _| left += 1).unwrap();
    }
    assert!(grown > 0 && set - left > set / 10, "{left} of {set} entries are left");
}

#[test]
fn behind_windows_it_goes_by_the_time_that_they_pass_on() {
    let mut remembered = BTreeMap::new();
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0x77F);
        let logs = random_logs(&mut random, 0);
        let size = [7, 20, 100][random.below(3)];
        let ttl = [1, 7, 40, 150][random.below(4)];
        let window = KeyedSpec::Window(WindowSpec {
            name: "w".into(),
            aggregate: list_of_ids(false, None).into(),
            window: Windows::tumbling(size).unwrap(),
            allowed_lateness_ms: [0, 15, 1_000][random.below(3)],
            late: Late::Drop,
            emit: Emit::Close,
            compound_key: false,
        });
        let keyed = vec![window, stage(remembers_windows(ttl.try_into().unwrap()))];
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
        let outcome = run_over(&scenario(topology(keyed, Order::Log), &logs), Chaos::WILD, seed, store);
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for output in &outcome.committed[0] {
            let message: serde_json::Value = serde_json::from_str(&output.line).unwrap();
            let end = message["payload"]["end"].as_i64().unwrap();
            let key = message["payload"]["key"].as_str().unwrap().to_owned();
            // A window's stamp is 1 ms before its end, wherever stream time is.
            let lives = last.insert(key, end).is_some_and(|last| last + ttl > end);
            assert_eq!(message["metadata"]["seen"] == "yes", lives, "seed {seed}: {}", output.line);
            *remembered.entry(lives).or_insert(0) += 1;
        }
    }
    assert_eq!(remembered.len(), 2, "{remembered:?}");
}

/// A store in memory that counts how many entries were looked at, and how often.
#[derive(Default)]
struct Counting {
    inner: MemoryStore,
    entries: AtomicUsize,
    passes: AtomicUsize,
    unordered: bool,
}

impl Counting {
    /// Since the last call.
    fn looked_at(&self) -> (usize, usize) {
        (self.entries.swap(0, Ordering::Relaxed), self.passes.swap(0, Ordering::Relaxed))
    }
}

impl StateStore for Counting {
    fn name(&self) -> String {
        "counting".into()
    }
    fn is_durable(&self) -> bool {
        false
    }
    fn is_ordered(&self) -> bool {
        !self.unordered
    }
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.checkpoint()
    }
    fn generation(&self) -> Result<u64, StoreError> {
        self.inner.generation()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }
    fn entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<(), StoreError> {
        self.passes.fetch_add(1, Ordering::Relaxed);
        self.inner.entries(prefix, after, &mut |key, value| {
            self.entries.fetch_add(1, Ordering::Relaxed);
            visit(key, value)
        })
    }
    fn commit(&self, delta: &Delta, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.inner.commit(delta, checkpoint)
    }
    fn foretell(&self, epoch: Epoch, facts: &[u8]) -> Result<(), StoreError> {
        self.inner.foretell(epoch, facts)
    }
    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        self.inner.foretold()
    }
    fn reset(&self) -> Result<(), StoreError> {
        self.inner.reset()
    }
}

fn message(number: usize, key: &str, time: i64) -> String {
    format!(r#"{{"id":"{number}","type":"t","timestamp":{time},"payload":{{"k":"{key}"}}}}"#)
}

fn driver(ttl_ms: Option<u64>, partitions: usize, lanes: usize, store: Arc<dyn StateStore>) -> Driver {
    let steps = Steps::new().key_by(&["payload.k"]).transform("s", &remembers(ttl_ms));
    Driver::with_store(steps, partitions, lanes, store)
}

/// Plugins' entries in a store.
fn entries(store: &dyn StateStore) -> usize {
    let mut entries = 0;
    store.scan(b"s", &mut |_, _| entries += 1).unwrap();
    entries
}

#[test]
fn a_large_store_is_swept_piece_by_piece_and_then_left_alone() {
    const MESSAGES: usize = 3_500;
    let store = Arc::new(Counting::default());
    let mut d = driver(Some(100), 1, 1, Arc::clone(&store) as Arc<dyn StateStore>);
    (0..MESSAGES).for_each(|n| d.push(0, &message(n, &format!("k{}", n % 700), 0)));
    d.push(0, &message(MESSAGES, "lives on", 60));
    d.checkpoint();
    d.checkpoint();
    store.looked_at();
    for _ in 0..9 {
        d.checkpoint();
    }
    assert_eq!(store.looked_at(), (0, 0), "nothing has expired: nothing is looked for");

    // A process that begins doesn't know what there is: it looks through all of it once, in its lanes.
    d.crash_and_restore(3);
    d.push(0, &message(MESSAGES + 1, "lives on", 110));
    let mut rounds = 0;
    while entries(&store.inner) > 2 {
        let before = entries(&store.inner);
        store.looked_at();
        d.checkpoint();
        let (looked_at, _) = store.looked_at();
        assert!(looked_at <= 3 * (SWEPT_ENTRIES_MAX + 1), "{looked_at} entries at one barrier");
        assert!(before - entries(&store.inner) <= 3 * SWEPT_ENTRIES_MAX);
        rounds += 1;
        assert!(rounds < 20, "{} entries are left", entries(&store.inner));
    }
    assert!(rounds >= 2, "{rounds} rounds");
    // Both that live expire at 160 at the earliest.
    (0..3).for_each(|_| d.checkpoint());
    store.looked_at();
    d.push(0, &message(MESSAGES + 2, "lives on", 159));
    (0..3).for_each(|_| d.checkpoint());
    assert_eq!(store.looked_at().0, 0);
    d.push(0, &message(MESSAGES + 3, "lives on", 160));
    (0..3).for_each(|_| d.checkpoint());
    assert!(store.looked_at().0 > 0);
    assert_eq!(entries(store.as_ref()), 3, "what expired at 160 is gone, to the millisecond");
}

#[test]
fn what_never_expires_costs_one_look() {
    let store = Arc::new(Counting::default());
    let mut d = driver(None, 1, 2, Arc::clone(&store) as Arc<dyn StateStore>);
    (0..2_500).for_each(|n| d.push(0, &message(n, &format!("k{}", n % 70), n as i64)));
    (0..9).for_each(|_| d.checkpoint());
    store.looked_at();
    for n in 2_500..2_600 {
        d.push(0, &message(n, "k", n as i64));
        d.checkpoint();
    }
    assert_eq!(store.looked_at(), (0, 0));
    assert_eq!(entries(store.as_ref()), 2_600);
}

#[test]
fn a_store_without_an_order_is_left_alone() {
    let store = Arc::new(Counting { unordered: true, ..Counting::default() });
    let mut d = driver(Some(10), 1, 1, Arc::clone(&store) as Arc<dyn StateStore>);
    for n in 0..5 {
        d.push(0, &message(n, "k", n as i64 * 1_000));
        d.checkpoint();
    }
    assert_eq!((store.looked_at(), entries(store.as_ref())), ((0, 0), 5));
}

#[test]
fn what_has_changed_meanwhile_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    for store in [
        Arc::new(MemoryStore::new()) as Arc<dyn StateStore>,
        Arc::new(DiskStore::open(directory.path()).unwrap()),
    ] {
        let mut d = driver(Some(50), 2, 1, Arc::clone(&store));
        let (slow, fast) = (0, 1);
        d.push(slow, &message(1, "a", 10));
        d.push(fast, &message(2, "a", 5));
        d.push(fast, &message(3, "a", 500));
        (0..3).for_each(|_| d.checkpoint());
        assert_eq!(entries(store.as_ref()), 2, "the slow one may still send what sees them; 3 waits for it");
        // In the epoch in which both turn out to have expired, one of them is set again.
        d.push(slow, &message(1, "a", 490));
        d.push(slow, &message(4, "a", 499));
        (0..3).for_each(|_| d.checkpoint());
        assert_eq!(entries(store.as_ref()), 2, "1 and 4");
        d.crash_and_restore(2);
        d.push(slow, &message(5, "a", 501));
        d.push(fast, &message(6, "a", 600));
        (0..3).for_each(|_| d.checkpoint());
        let outputs = d.read();
        let seen =
            |id: &str| outputs.iter().rfind(|o| o["id"] == id).unwrap()["metadata"]["seen"].to_string();
        assert_eq!(seen("4"), r#""1""#);
        assert_eq!(seen("5"), r#""1,3,4""#);
    }
}

#[test]
fn what_had_expired_at_the_end_of_everything_has_for_a_new_partition_too() {
    // Nothing is swept here: what is seen must not depend on it.
    let store: Arc<dyn StateStore> = Arc::new(Counting { unordered: true, ..Counting::default() });
    let mut d = driver(Some(50), 1, 1, Arc::clone(&store));
    d.push(0, &message(1, "a", 0));
    d.push(0, &message(2, "a", 470));
    d.push(0, &message(3, "a", 500));
    d.end();
    d.checkpoint();
    let mut grown = driver(Some(50), 2, 1, store);
    grown.push(1, &message(4, "a", 10));
    grown.end();
    grown.checkpoint();
    assert_eq!(grown.read()[0]["metadata"]["seen"], "2,3");
}
