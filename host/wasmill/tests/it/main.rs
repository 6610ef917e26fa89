//! The built binary, as people call it.

mod cli;
#[path = "../../../plugin/tests/common/mod.rs"]
mod common;
mod dlq;
mod ran;
mod verify;
