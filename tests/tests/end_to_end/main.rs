//! wasmill from end to end: the built binary, on files, as a user runs it.
//!
//! One binary for all of it, so that a test that waits (for a stalled sink, say) does not hold up the
//! others. Needed first: `cargo build --release -p wasmill`, `scripts/build-plugins.sh` and
//! `scripts/build-typed-js.sh` and `scripts/build-typed-py.sh`; a test that misses one of them fails and says so.

mod backpressure;
mod bad_input;
mod codecs;
mod dead_letters;
mod dlq;
mod flapping;
mod flights;
mod flights_built_ins;
mod granted;
mod hostile;
mod http;
mod killing;
mod many_keys;
mod pipelines;
mod redis;
mod sandbox;
#[path = "../../../host/connect/tests/servers/mod.rs"]
mod servers;
mod signals;
mod state;
mod state_killed;
mod swaps;
mod swelling;
mod tidy;
