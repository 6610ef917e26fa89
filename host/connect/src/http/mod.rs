//! HTTP: takes messages by POST into a log of its own, and posts messages to a URL.

mod answer;
mod body;
mod deliver;
mod packages;
mod rate;
mod server;
mod sink;
mod source;
mod token;

pub use crate::secret::Secret;
pub use packages::{BatchForm, PostingOrder};
pub use sink::{HttpSink, HttpSinkSpec};
pub use source::{HttpSource, HttpSourceSpec};
