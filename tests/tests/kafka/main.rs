//! wasmill as a service between Kafka topics, on a real broker: killed, shared out, cut off, refused.
//!
//! Needed first: Java 17, what `scripts/build-plugins.sh` builds, the built host. Tests that leave the
//! broker alone share one. `WASMILL_KILL_ROUNDS` (10) is how often processes are killed or join and
//! leave, `WASMILL_EXACT_ROUNDS` (5) how often each campaign of `exactly_once` does its harm,
//! `WASMILL_STOP_SECONDS` (15) how long the broker is stopped.

mod agreed;
mod ahead;
#[path = "../../../host/connect/tests/support/broker.rs"]
mod broker;
mod built_ins;
mod dead_letters;
mod exactly_once;
mod faults;
mod foreign;
mod group;
mod killing;
#[path = "../../../host/connect/tests/servers/mod.rs"]
mod servers;
mod topics;
mod world;
mod zombie;
