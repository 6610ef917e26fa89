//! Write a wasmill plugin as one Rust function.
//!
//! A plugin is a library crate of type `["cdylib", "rlib"]` with this crate and `serde` as its
//! dependencies. `scripts/build-plugins.sh` makes the `.wasm` file of it that goes into the host's
//! plugin folder.
//!
//! # A first plugin, and its test
//! ```
//! use wasmill_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Flight {
//!     dep_delay: Option<i32>,
//! }
//!
//! fn enrich(message: &mut Message) -> Result<Verdict> {
//!     let flight: Flight = message.json()?;
//!     message.set_metadata("delayed", if flight.dep_delay > Some(15) { "yes" } else { "no" });
//!     Ok(Keep)
//! }
//! transform!(enrich);
//!
//! // In the crate's tests:
//! use wasmill_sdk::testing;
//! let late = testing::message("departed").json(json!({ "dep_delay": 40 }));
//! assert_eq!(testing::transform(enrich, &late).kept().text("delayed"), Some("yes"));
//!
//! let broken = testing::message("departed").json(json!({ "dep_delay": "soon" }));
//! let reason = "payload.dep_delay: invalid type: string \"soon\", expected i32 at line 1 column 19";
//! assert_eq!(testing::transform(enrich, &broken).failed(), reason);
//! ```
//!
//! # What may become of a message
//! | the function | the message |
//! |---|---|
//! | `Ok(Keep)` | goes on with the changes that were made |
//! | `Ok(Drop)` | goes no further, counted as dropped; what it emitted goes on |
//! | `Err(reason)`, by `?` or [`fail!`] | goes as it came to the dead-letter queue, with the reason; nothing that it emitted goes out |
//! | [`message.emit()`](Message::emit), `emit_empty()` | one more message behind this one |
//! | [`message.route("alerts")`](Message::route) | it leaves the pipeline here, by the output of that name |
//! | a panic | the host tries again without it; if it fails alone too, to the dead-letter queue, with the panic's text, file and line |
//!
//! What is read is always the message as it came: [`Message::set_kind`] does not change what
//! [`Message::kind`] answers in the same function.
//!
//! # The kinds of plugin
//! - `transform!(f)` with `fn(&mut Message) -> Result<Verdict>`;
//! - `filter!(f)` with `fn(&Message) -> Result<bool>`: `true` lets it pass;
//! - `aggregate!(T)` with a type that is an [`Aggregate`]: the host owns keys and windows;
//! - `scan!(T)` with an [`Aggregate`] that is a [`Scan`] too: it answers for each message, as a
//!   running total does;
//! - `transform_batch!(f)` with `fn(&mut Batch) -> Result<()>`: for bulk calls to the state.
//!
//! A crate may use several, each once.
//!
//! # Aggregates
//! ```
//! use wasmill_sdk::prelude::*;
//! use wasmill_sdk::testing;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Sum(i64);
//!
//! impl Aggregate for Sum {
//!     const COMMUTATIVE: bool = true;
//!     fn fold(&mut self, message: &Message) -> Result<()> {
//!         self.0 += message.json::<i64>()?;
//!         Ok(())
//!     }
//!     fn merge(&mut self, later: Self) {
//!         self.0 += later.0;
//!     }
//!     fn finish(&self) -> impl Serialize {
//!         self.0
//!     }
//! }
//! aggregate!(Sum);
//!
//! let messages = [1, 20, 300].map(|n| testing::message("number").json(json!(n)));
//! assert_eq!(testing::fold::<Sum>(&messages).value, json!(321));
//! testing::check_fold_law::<Sum>(&messages);
//! ```
//! The law that [`testing::check_fold_law`] checks is what lets the host cut batches as it likes, move
//! keys between workers and repeat after a crash. Floating-point sums break it: gather integers.
//! The value between batches is postcard bytes of the type: no `#[serde(skip)]`, no `flatten`, no
//! untagged enum. A changed type needs a new [`Aggregate::STATE_VERSION`], and [`Migrate`] to keep
//! what was gathered.
//!
//! # The world outside
//! There is none, but for [`host`]: config, log, counters, the wall clock; a message's
//! [`time`](Message::time), [`random`](Message::random) numbers and [`state`](Message::state); and where they are
//! granted, the pipeline's [`secret`]s and tables ([`lookup`]), and [`http`].
//! A plugin imports what it uses (and the log, by which a panic tells its text and line), and the host
//! refuses to load one that uses what was not granted. A function must be pure: the same messages,
//! the same answers. Statics may be gone at the next call.

mod accumulator;
mod aggregate;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod bindings;
mod export;
pub mod host;
pub mod http;
mod json;
pub mod lookup;
mod message;
mod panic;
mod reason;
mod rfc3339;
pub mod secret;
mod stage;
mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod text;

pub use accumulator::decode;
pub use aggregate::{Aggregate, Migrate, Scan};
#[doc(hidden)]
pub use export::__guest;
pub use host::{Level, log};
pub use message::{Emitted, Message, Verdict};
pub use reason::{Reason, Result};
pub use rfc3339::rfc3339;
pub use serde_json::json;
pub use stage::Batch;
pub use state::State;
pub use text::Text;

/// All that a plugin usually needs.
pub mod prelude {
    pub use crate::Verdict::{Drop, Keep};
    pub use crate::{
        Aggregate, Batch, Message, Migrate, Reason, Result, Scan, Verdict, aggregate, fail, filter, host,
        json, log_debug, log_error, log_info, log_warn, reason, rfc3339, scan, transform, transform_batch,
    };
    pub use serde::{Deserialize, Serialize};
}
