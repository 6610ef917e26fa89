//! The pure core of wasmill: no I/O, no threads, no clock.
//!
//! A message's way: [`input::RawBatch`] → [`prefix::Prefix`] (decode, stateless stages, key) →
//! [`coordinator::Coordinator`] (stamps, virtual log, exchange, barriers) → [`lane::Lane`] (windows,
//! aggregates) → [`commit::Commit`] (one epoch: outputs, state, positions).
//!
//! Whoever drives these pieces, with threads or without, gets the same outputs: they are a pure
//! function of the sources' logs.
#![forbid(unsafe_code)]

mod aggregate;
mod answer;
mod exchange;
mod json;
mod residents;
mod running;
#[cfg(test)]
mod test_store;
mod windowed;

pub mod batch;
pub mod builtin;
pub mod commit;
pub mod condition;
pub mod coordinator;
pub mod dead_letter;
pub mod edition;
pub mod guest;
pub mod input;
pub mod key;
pub mod lane;
pub mod output;
pub mod plugin_state;
pub mod position;
pub mod prefix;
pub mod replay;
pub mod shape;
pub mod stage;
pub mod state;
pub mod stored_key;
pub mod swap;
pub mod time;
pub mod topology;
pub mod virtual_log;
pub mod window;

pub use aggregate::{Aggregate, Folded, ShareMerger};
pub use running::RunningSpec;
pub use windowed::WindowSpec;
