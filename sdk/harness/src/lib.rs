//! Test driver and simulator: the real engine with fake ends and a clock you turn.
//!
//! [`driver::Driver`] is for authors and for tests that tell a story: push messages, advance event
//! time, checkpoint, crash, look at what came out. [`simulator`] drives the same engine from a seed:
//! random batch sizes, workers, interleavings, stalls, repeats and crashes; a seed that fails is
//! printed and fails again in the same way. [`native`] makes plugins of plain functions, for tests of
//! the engine that need no WebAssembly; [`logs`] random logs and what the rules of time and order make of them.
#![forbid(unsafe_code)]

pub mod driver;
pub mod logs;
pub mod native;
pub mod parts;
pub mod simulator;
