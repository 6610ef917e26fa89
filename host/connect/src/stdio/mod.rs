//! The process's own ends: messages from stdin, to stdout.

mod stdin;
mod stdout;
mod table;

pub use stdin::{StdinSource, StdinSourceSpec};
pub use stdout::{PIPE_CLOSED, StdoutFormat, StdoutSink, StdoutSinkSpec};
