//! The engine under the driver and the simulator: its laws against references, whatever crashes.

mod ahead;
mod builtins;
mod driver;
mod expiry;
mod law_one;
mod merges;
mod plugin_state;
mod replay;
mod room;
#[path = "../../../../host/connect/tests/servers/mod.rs"]
mod servers;
mod shared;
mod sharing;
mod swap;
mod tries;
mod windows;
