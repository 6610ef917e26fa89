//! Files of JSON lines, plain or gzip.

mod manifest;
mod scan;
mod sink;
mod source;
mod text;

pub use scan::FileScan;
pub use sink::{FileSink, FileSinkSpec};
pub(crate) use source::message_bytes_max;
pub use source::{FileSource, FileSourceSpec};
