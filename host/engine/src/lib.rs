//! The pure core of wasmill: no I/O, no threads, no clock.
#![forbid(unsafe_code)]

pub mod guest;
pub mod input;
pub mod output;
pub mod position;
pub mod state;
pub mod time;
