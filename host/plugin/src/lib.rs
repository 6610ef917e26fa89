//! Plugins as wasmill runs them: admission, compile cache, instances, limits.
//!
//! One [`Sandbox`] a process. [`Sandbox::load`] admits a component, compiles it or takes it from the
//! cache, and gives the engine a [`wasmill_engine::guest::Plugin`]; the engine makes one guest of it
//! for each worker and stage, and all guests of one plugin share its instances. Nothing outside this crate knows wasmtime.
//!
//! What holds for every plugin:
//!
//! - Production calls run under deadline ticks, verdicts under fuel on a fresh instance: only the
//!   latter say the same on every machine ([`Limits`]).
//! - After a call that failed, the instance is gone; so is what it staged.
//! - A plugin sees nothing of the machine: no files, sockets, environment, or clock. It imports what
//!   the contract always gives, what its stage grants ([`Grants`]), and, for other toolchains, a WASI
//!   0.2 world in which there is nothing.
//! - HTTP is sent by an [`Outgoing`] that whoever loads the plugin brings along, once the grant's own
//!   rules have passed the request. A granted [`Secrets`] value stands in no log line, panic or reason.
//! - No code that wasmtime compiled elsewhere is ever run: a cache entry must carry this cache's own
//!   authentication code.

mod admission;
mod artifact;
mod budget;
mod cache;
mod compiler;
mod context;
mod contract;
mod counters;
mod engines;
mod failure;
mod file;
mod grants;
mod guest;
mod hidden;
mod imports;
mod inspect;
mod instances;
mod limits;
mod lookup;
mod outgoing;
mod outline;
mod plugin;
mod sandbox;
mod secrets;
mod text;
mod typed;

pub use admission::{AdmissionError, CASES_BYTES_MAX};
pub use compiler::{Compiler, compile_for_parent};
pub use contract::{CONTRACT_VERSION, Width};
pub use counters::{Counter, Usage};
pub use file::{FILE_BYTES_MAX, read_file};
pub use grants::{Grant, Grants, UnknownGrant};
pub use guest::processor_ms;
pub use inspect::{Identity, ImportNeed, Inspection};
pub use limits::Limits;
pub use lookup::{Lookup, LookupBuilder, LookupError};
pub use outgoing::{HttpGrant, HttpMethod, HttpRequest, HttpResponse, Origin, Outgoing};
pub use outline::{CASES_SECTION, Declared};
pub use sandbox::{Sandbox, SandboxError, SandboxOptions, StageConfig, digest};
pub use secrets::Secrets;
