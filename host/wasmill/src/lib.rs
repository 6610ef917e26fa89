//! wasmill: the stream host whose business logic is a plugin. This crate has what people meet: the
//! pipeline spec, the reports about it, the command line; and the runtime that runs pipelines.
#![forbid(unsafe_code)]

pub mod cli;
pub mod grants;
pub mod plugins;
pub mod report;
pub mod runtime;
pub mod schema;
pub mod spec;
pub mod state;
