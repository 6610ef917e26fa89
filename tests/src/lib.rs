//! What the end-to-end tests and benches share: the built binary in a folder of its own, processes that
//! are killed and resumed, and what they leave behind.
//!
//! Nothing here knows wasmill from inside: a test sees what a user sees.
#![forbid(unsafe_code)]

pub mod home;
pub mod http;
pub mod output;
pub mod place;
pub mod process;
pub mod proxy;
pub mod random;
pub mod stamps;

pub use place::Place;
pub use process::{Ended, Running, Signal};
