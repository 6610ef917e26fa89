//! NATS, Redis, PostgreSQL and HTTP as ends of pipelines: the built binary between real servers, whose inputs are
//! written and whose outputs are read by clients that are not ours (`tests/clients/client.py`, psql, curl).
//!
//! Needed first: `cargo build --release -p wasmill`, `scripts/build-plugins.sh`, and what `scripts/setup.sh test`
//! installs.

#[path = "../../../host/connect/tests/support/broker.rs"]
mod broker;
#[path = "../../../host/connect/tests/support/nats.rs"]
mod nats;
#[path = "../../../host/connect/tests/support/postgres.rs"]
mod postgres;
#[path = "../../../host/connect/tests/servers/mod.rs"]
mod servers;

mod away;
mod bad;
mod clients;
mod fan;
mod killing;
mod world;
