//! A log in a directory, between two pipelines: one writes it, one reads it, in one process or two.

mod sink;
mod source;

pub use sink::{LogSink, LogSinkSpec};
pub(crate) use source::LIKE;
pub use source::{LogSource, LogSourceSpec};
