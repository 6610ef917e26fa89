//! The processes that the Kafka figures are measured of.

use std::process::{Child, Command};

use wasmill_tests::{Place, Running};

use crate::broker::Broker;

/// A clock tick of /proc, in seconds.
const TICK_S: f64 = 0.01;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// A bare librdkafka loop that copies.
    Copy,
    /// The service as the environment alone makes it: the seed's job with the global count on disk.
    Service,
    /// The same, exactly once: its count in a changelog, by transactions every 100 ms.
    Exact,
    /// Counts and sums of windows of 10 s for each user, on disk.
    Windows,
    /// A count for each user, exactly once.
    Keyed,
    /// The same through a topic.
    Exchanged,
}

/// A process under measure; gone when dropped.
pub enum Contender {
    /// The copy.
    Copy(Child),
    /// The host, in a folder of its own.
    Wasmill {
        /// Its process.
        running: Running,
        /// Its folder.
        _place: Place,
    },
}

impl Contender {
    /// Starts one between two topics.
    pub fn start(job: Job, broker: &Broker, input: &str, output: &str) -> Self {
        let (place, host) = match job {
            Job::Copy => {
                let this = std::env::current_exe().unwrap_or_else(|e| panic!("this program: {e}"));
                let child = Command::new(this).args(["copy", &broker.address(), input, output]).spawn();
                return Self::Copy(child.unwrap_or_else(|e| panic!("the copy: {e}")));
            }
            Job::Service | Job::Exact => {
                let place = Place::with_plugins(&["processed-at", "drop-ignored", "count-types"]);
                let host = place
                    .wasmill(["run"])
                    .env("KAFKA_BROKERS", broker.address())
                    .env("KAFKA_TOPIC", input)
                    .env("KAFKA_OUTPUT_TOPIC", output)
                    .env("KAFKA_GROUP_ID", format!("{job:?}-{input}"))
                    .env("DATA_DIR", "data");
                let host = match job {
                    Job::Exact => host.env("WASMILL_DELIVERY", "exactly_once"),
                    _ => host,
                };
                (place, host)
            }
            Job::Windows | Job::Keyed | Job::Exchanged => {
                let place = Place::new();
                let address = broker.address();
                let spec = match job {
                    Job::Keyed => keyed(&address, input, output, ""),
                    Job::Exchanged => {
                        keyed(&address, input, output, "exchange: { topic: { partitions: 4 } }")
                    }
                    _ => windows(&address, input, output),
                };
                place.file("pipeline.yaml", spec);
                let host = place.pipeline();
                (place, host)
            }
        };
        let host = match std::env::var("BENCH_WORKERS") {
            Ok(workers) => host.env("WORKER_COUNT", workers),
            Err(_) => host,
        };
        Self::Wasmill { running: host.env("WASMILL_HTTP", "off").start(), _place: place }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Copy(child) => child.id(),
            Self::Wasmill { running, .. } => running.pid(),
        }
    }

    /// The processor time that it has used, in seconds.
    pub fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Behind the name: the 14th and 15th field of all.
        let behind = stat.rsplit(')').next().unwrap_or_default();
        let ticks = behind.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
        ticks.sum::<f64>() * TICK_S
    }

    /// The most memory that it has had, in MB.
    pub fn peak_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
        kib * 1024.0 / 1e6
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Self::Copy(child) = self {
            // It has no end of its own.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn keyed(address: &str, input: &str, output: &str, exchange: &str) -> String {
    format!(
        r#"name: {output}
source: {{ kafka: {{ brokers: "{address}", topic: {input}, group: {output} }} }}
data_dir: data
stages:
  - key_by: payload.user
    {exchange}
  - aggregate: count
sink: {{ kafka: {{ brokers: "{address}", topic: {output} }} }}
delivery: exactly_once
"#
    )
}

fn windows(address: &str, input: &str, output: &str) -> String {
    format!(
        r#"name: windows-of-users
source: {{ kafka: {{ brokers: "{address}", topic: {input}, group: windows }} }}
data_dir: data
stages:
  - key_by: payload.user
  - window: {{ tumbling: 10s }}
    aggregate: {{ count: {{}}, sum: payload.n }}
sink: {{ kafka: {{ brokers: "{address}", topic: {output} }} }}
"#
    )
}
