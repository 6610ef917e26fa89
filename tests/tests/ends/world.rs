//! The ends of a pipeline, the servers behind them, and wasmill between.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use wasmill_tests::http::{free_address, get};
use wasmill_tests::{Place, Running};

use crate::broker::Broker;
use crate::clients::{Feeding, client, messages};
use crate::nats::NatsServer;
use crate::postgres::PostgresServer;
use crate::servers::RedisServer;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The database of the sink.
pub const DATABASE: &str = "postgres";
/// The token of the HTTP source.
pub const TOKEN: &str = "let-me-in";

/// A server that is killed and comes back with what it had.
pub trait Server: Send {
    fn kill(&mut self);
    fn run(&mut self);
}

macro_rules! server {
    ($server:ty, $again:ident) => {
        impl Server for $server {
            fn kill(&mut self) {
                <$server>::kill(self);
            }
            fn run(&mut self) {
                <$server>::$again(self);
            }
        }
    };
}

server!(Broker, run);
server!(NatsServer, run);
server!(PostgresServer, restart);
server!(RedisServer, restart);

/// A server that ends of a pipeline share.
pub type Shared<S> = Arc<Mutex<S>>;

pub fn shared<S>(server: S) -> Shared<S> {
    Arc::new(Mutex::new(server))
}

fn of<S>(server: &Shared<S>) -> MutexGuard<'_, S> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where messages come from.
pub enum From {
    Nats(Shared<NatsServer>),
    Redis(Shared<RedisServer>),
    Kafka(Shared<Broker>),
    Http(SocketAddr),
}

/// A feeder that runs.
pub enum Feeder {
    Client(Feeding),
    Thread(std::thread::JoinHandle<()>),
}

impl Feeder {
    pub fn finish(self) {
        match self {
            Self::Client(feeding) => feeding.finish(),
            Self::Thread(thread) => thread.join().expect("the feeder"),
        }
    }
}

impl From {
    /// Makes stream or topic.
    pub fn make(&self) {
        match self {
            Self::Nats(server) => drop(client(&["nats-make", &of(server).url(), "events", "in.>"])),
            Self::Kafka(broker) => of(broker).create_topic("events", 4, &[("retention.ms", "-1")]),
            Self::Redis(_) | Self::Http(_) => {}
        }
    }

    pub fn spec(&self) -> String {
        match self {
            Self::Nats(server) => {
                format!(
                    "nats: {{ url: \"{}\", stream: events, consumer: processor, ack_wait: 5s }}",
                    of(server).url()
                )
            }
            Self::Redis(server) => {
                format!(
                    "redis: {{ url: \"{}\", stream: events, group: processor, claim_idle: 2s }}",
                    of(server).url()
                )
            }
            Self::Kafka(broker) => format!(
                "kafka: {{ brokers: \"{}\", topic: events, group: processor, properties: {{ session.timeout.ms: 2000, heartbeat.interval.ms: 500 }} }}",
                of(broker).address()
            ),
            Self::Http(address) => {
                format!("http: {{ listen: \"{address}\", log: http-log, token: {TOKEN} }}")
            }
        }
    }

    /// Writes messages over some time.
    pub fn feed(&self, first: u64, count: u64, over: Duration) -> Feeder {
        let (first_text, count_text, seconds) =
            (first.to_string(), count.to_string(), over.as_secs_f64().to_string());
        let fed = |start: &[&str], end: &[&str]| {
            let arguments = [start, &[&first_text, &count_text, &seconds], end].concat();
            Feeder::Client(Feeding::start(&arguments))
        };
        match self {
            Self::Nats(server) => fed(&["nats-feed", &of(server).url(), "in.a"], &[]),
            Self::Redis(server) => fed(&["redis-feed", &of(server).url(), "events"], &[]),
            Self::Http(address) => fed(&["http-feed", &format!("http://{address}/")], &[TOKEN]),
            Self::Kafka(broker) => {
                let address = of(broker).address();
                Feeder::Thread(std::thread::spawn(move || feed_kafka(&address, first, count, over)))
            }
        }
    }

    pub fn server(&self) -> Option<Shared<dyn Server>> {
        match self {
            Self::Nats(server) => Some(Arc::clone(server) as _),
            Self::Redis(server) => Some(Arc::clone(server) as _),
            Self::Kafka(server) => Some(Arc::clone(server) as _),
            Self::Http(_) => None,
        }
    }
}

/// The message of a number, as `client.py` has it.
fn message(n: u64) -> String {
    let kind = if n % 10 == 9 { "ignore" } else { ["departed", "cancelled"][(n % 2) as usize] };
    serde_json::json!({
        "id": n.to_string(),
        "type": kind,
        "timestamp": 1_700_000_000_000_u64 + n * 10,
        "payload": { "n": n, "carrier": format!("C{}", n % 7) },
        "metadata": { "origin": "test" },
    })
    .to_string()
}

fn feed_kafka(address: &str, first: u64, count: u64, over: Duration) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "0")
        .create()
        .expect("a producer");
    let begun = Instant::now();
    for n in first..first + count {
        let due = begun + over.mul_f64((n - first) as f64 / count as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (key, value) = (format!("C{}", n % 7), message(n));
        producer.send(BaseRecord::to("events").key(&key).payload(&value)).map_err(|(e, _)| e).expect("room");
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).expect("everything is stored");
}

/// Where messages go.
pub enum To {
    Nats(Shared<NatsServer>),
    Redis(Shared<RedisServer>),
    Postgres(Shared<PostgresServer>),
}

impl To {
    /// Makes stream or table.
    pub fn make(&self) {
        match self {
            Self::Nats(server) => drop(client(&["nats-make", &of(server).url(), "processed", "out.>", "1"])),
            Self::Redis(_) => {}
            Self::Postgres(server) => drop(of(server).psql(
                DATABASE,
                "CREATE TABLE flights (id text NOT NULL, kind text, n bigint, carrier text, at timestamptz, payload jsonb);
                 CREATE INDEX flights_n ON flights (n)",
            )),
        }
    }

    pub fn spec(&self) -> String {
        match self {
            Self::Nats(server) => format!("nats: {{ url: \"{}\", subject: out.a }}", of(server).url()),
            Self::Redis(server) => format!("redis: {{ url: \"{}\", stream: processed }}", of(server).url()),
            Self::Postgres(server) => format!(
                "postgres: {{ url: \"{}\", table: flights, columns: {{ id: id, kind: type, n: payload.n, carrier: payload.carrier, at: timestamp, payload: payload }} }}",
                of(server).url(DATABASE)
            ),
        }
    }

    /// How often each id is there.
    pub fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        let mut found = |id: &str| *ids.entry(id.to_owned()).or_insert(0) += 1;
        match self {
            Self::Postgres(server) => {
                of(server).psql(DATABASE, "SELECT id FROM flights").lines().for_each(found)
            }
            _ => self.messages().iter().for_each(|message| found(message["id"].as_str().expect("an id"))),
        }
        ids
    }

    /// All messages, in their order; not of a table.
    pub fn messages(&self) -> Vec<Value> {
        match self {
            Self::Nats(server) => messages(&["nats-read", &of(server).url(), "processed"]),
            Self::Redis(server) => messages(&["redis-read", &of(server).url(), "processed"]),
            Self::Postgres(_) => panic!("a table has rows"),
        }
    }

    pub fn server(&self) -> Shared<dyn Server> {
        match self {
            Self::Nats(server) => Arc::clone(server) as _,
            Self::Redis(server) => Arc::clone(server) as _,
            Self::Postgres(server) => Arc::clone(server) as _,
        }
    }
}

/// A pipeline between two ends, in a folder.
pub struct World {
    pub place: Place,
    pub from: From,
    pub to: To,
}

impl World {
    /// Makes both ends and a pipeline, exactly once, with `more` lines of its spec.
    pub fn new(from: From, to: To, more: &str) -> Self {
        from.make();
        to.make();
        let place = Place::with_plugins(&["drop-ignored"]);
        let (source, sink) = (from.spec(), to.spec());
        place.file(
            "pipeline.yaml",
            format!("name: flights\nsource:\n  {source}\nsink:\n  {sink}\ndelivery: exactly_once\n{more}"),
        );
        Self { place, from, to }
    }

    /// The host, started.
    pub fn start(&self) -> Host {
        Host::start(&self.place, &[])
    }

    /// Waits until every one of `wanted` is there, and answers how often each id is.
    #[track_caller]
    pub fn until_whole(&self, wanted: &[String], host: &mut Host) -> BTreeMap<String, usize> {
        let since = Instant::now();
        loop {
            let found = self.to.ids();
            let missing: Vec<&String> = wanted.iter().filter(|id| !found.contains_key(*id)).collect();
            if missing.is_empty() {
                return found;
            }
            let log = host.running.log().text();
            assert!(host.running.is_running(), "it ended:\n{log}");
            assert!(
                since.elapsed() < PATIENCE,
                "{} of {} are missing, such as {:?}; ready: {:?}\n{}",
                missing.len(),
                wanted.len(),
                &missing[..missing.len().min(5)],
                host.ready(),
                &log[log.len().saturating_sub(4000)..]
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// wasmill, running.
pub struct Host {
    pub running: Running,
    pub http: SocketAddr,
}

impl Host {
    /// Runs the folder's pipeline, and others beside it.
    pub fn start(place: &Place, others: &[&str]) -> Self {
        let http = free_address();
        let command = others.iter().fold(place.pipeline(), |command, other| command.arg(other));
        Self { running: command.env("WASMILL_HTTP", http).start(), http }
    }

    /// What `/ready` says, if anybody answers.
    pub fn ready(&self) -> Option<(u16, String)> {
        get(self.http, "/ready").map(|answer| (answer.status, answer.body))
    }

    #[track_caller]
    pub fn until_ready(&mut self) {
        let http = self.http;
        self.running.until("ready", || get(http, "/ready").is_some_and(|answer| answer.status == 200));
    }

    /// Ends it in order.
    #[track_caller]
    pub fn end(mut self) {
        self.running.signal(wasmill_tests::Signal::TERM);
        self.running.wait().exits(0);
    }
}
