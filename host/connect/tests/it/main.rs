//! Each connector and each store: its contract, and what real servers, files and crashes can do to it.

mod contract;
mod files;
mod http;
mod kafka;
mod kafka_security;
mod ledgers;
mod local_log;
mod nats;
mod postgres;
mod redis;
mod redis_streams;
mod scans;
#[path = "../servers/mod.rs"]
mod servers;
mod specs;
mod stores;
mod tools;

/// Servers that other crates' tests start too, and what these tests alone need.
#[path = "../support"]
mod support {
    pub mod broker;
    pub mod certificates;
    pub mod nats;
    pub mod postgres;
    pub mod receiver;
    pub mod redis;
}
