//! What the benches of the engine share: its aggregate, its keys.

use std::sync::Arc;

use wasmill_connect::store::MemoryStore;
use wasmill_engine::WindowSpec;
use wasmill_engine::batch::Batch;
use wasmill_engine::builtin::{BuiltIn, BuiltIns, Kind};
use wasmill_engine::lane::{KeyedSpec, Lane, LaneBounds};
use wasmill_engine::output::Routes;
use wasmill_engine::state::StateStore;
use wasmill_engine::topology::Topology;
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_frame::Parts;

/// Messages a batch, as the engine's default.
pub const BATCH: usize = 256;
/// An odd number: multiplied by it, the numbers below a count all come, in no order that a cache likes.
pub const SCATTER: usize = 7_368_787;

/// SplitMix64.
pub fn splitmix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Adds a message to a batch.
pub fn push(batch: &mut Batch, offset: u64, timestamp: i64, key: &[u8], payload: &str) {
    let parts = Parts {
        id: "message",
        kind: "click",
        key: Some(key),
        payload: payload.as_bytes(),
        timestamp,
        metadata: b"",
        payload_is_json: true,
    };
    batch.push(&parts, offset);
}

/// `count`, and `sum` of `payload.n`, in these windows.
pub fn count_and_sum(window: Result<Windows, String>) -> KeyedSpec {
    let sum = BuiltIn::new(Kind::Sum, "payload.n".parse().ok());
    let results = vec![("count".to_owned(), BuiltIn::new(Kind::Count, None)), ("sum".to_owned(), sum)];
    KeyedSpec::Window(WindowSpec {
        name: "bench".into(),
        aggregate: BuiltIns::named(results).unwrap_or_else(|e| panic!("{e}")).into(),
        window: window.unwrap_or_else(|e| panic!("{e}")),
        allowed_lateness_ms: 0,
        late: Late::Drop,
        emit: Emit::Close,
        compound_key: false,
    })
}

/// The one lane of a pipeline without sinks.
pub fn lane(spec: KeyedSpec, store: &Arc<dyn StateStore>, bounds: LaneBounds) -> Lane {
    let routes = Arc::new(Routes::new(Vec::new(), Default::default()));
    let lane = Lane::new(&[spec], &routes, store, Topology::KEY_GROUPS, (0, 1), bounds);
    lane.unwrap_or_else(|e| panic!("{e}"))
}

/// The same, with a store that stays empty.
pub fn lane_in_memory(spec: KeyedSpec) -> Lane {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    lane(spec, &store, LaneBounds::NONE)
}
