//! Dead letters in a topic, replayed through another one, in a pipeline that is exactly once: each message has its
//! one result, though the copying is killed and fenced and the pipeline is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use wasmill_tests::home;
use wasmill_tests::process::{Running, Wasmill};
use wasmill_tests::{Place, Signal};

use crate::broker::Broker;
use crate::world::{FOR_EVER, PATIENCE, World, read_all, shared_broker};

/// How many messages the broken plugin fails: every second one.
const FAILING: u64 = 10_000;
const BEFORE: u64 = 2 * FAILING;

struct Circle {
    _broker: Arc<Broker>,
    world: World,
    producer: BaseProducer,
    sent: u64,
}

impl Circle {
    fn new() -> Self {
        let broker = shared_broker();
        let mut world = World::without_topics(&broker, &[]);
        world.name = format!("circle-{}", world.name);
        for topic in [world.input(), world.output(), world.dead_letters(), format!("{}-replay", world.name)] {
            broker.create_topic(&topic, 3, &[FOR_EVER]);
        }
        let (name, brokers) = (&world.name, &world.address);
        world.place.file(
            "pipeline.yaml",
            format!(
                "\
name: {name}
source: {{ kafka: {{ brokers: '{brokers}', topic: {}, group: {name}, properties: {{ session.timeout.ms: 3000, heartbeat.interval.ms: 500 }} }} }}
stages:
  - transform: mend
sink: {{ kafka: {{ brokers: '{brokers}', topic: {} }} }}
dead_letter: {{ kafka: {{ brokers: '{brokers}', topic: {} }} }}
replay: {{ kafka: {{ brokers: '{brokers}', topic: {name}-replay, group: {name}-replay, properties: {{ session.timeout.ms: 3000, heartbeat.interval.ms: 500 }} }} }}
delivery: exactly_once
data_dir: data
",
                world.input(),
                world.output(),
                world.dead_letters()
            ),
        );
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .create()
            .expect("a producer");
        Self { _broker: broker, world, producer, sent: 0 }
    }

    fn place(&self) -> &Place {
        &self.world.place
    }

    fn plugin(&self, from: &str) {
        let folder = self.place().path("plugins");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::copy(home::plugin(from), folder.join("mend.wasm")).expect("copied");
    }

    fn feed(&mut self, messages: u64) {
        let topic = self.world.input();
        for n in self.sent..self.sent + messages {
            let boom = n < BEFORE && n.is_multiple_of(2);
            let value = json!({ "id": n.to_string(), "type": "order", "payload": { "n": n, "boom": boom } })
                .to_string();
            let key = n.to_string();
            while let Err((error, _)) = self.producer.send(BaseRecord::to(&topic).key(&key).payload(&value)) {
                assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
                self.producer.poll(Duration::from_millis(10));
            }
        }
        self.sent += messages;
        self.producer.flush(PATIENCE).expect("the broker takes it");
    }

    fn dlq(&self, command: &str) -> Wasmill {
        self.place().wasmill(["dlq", command, "pipeline.yaml", "--json"])
    }

    fn stats(&self) -> (u64, BTreeMap<String, u64>) {
        let ended = self.dlq("stats").run().exits(0);
        let stats: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        let states = serde_json::from_value(stats["stats"]["states"].clone()).expect("counts");
        (stats["stats"]["letters"].as_u64().expect("a number"), states)
    }

    fn replay(&self) -> Value {
        let ended = self.dlq("replay").run().exits(0);
        serde_json::from_str(&ended.stdout).expect("JSON")
    }

    fn start(&self) -> Running {
        self.place().pipeline().start()
    }
}

#[test]
fn dead_letters_in_a_topic_are_replayed_once_each_while_new_messages_flow() {
    let mut circle = Circle::new();
    circle.plugin("panics-on");
    circle.feed(BEFORE);
    let mut running = circle.start();
    running.until("all dead letters", || circle.stats().0 == FAILING);
    assert!(running.signal(Signal::TERM));
    running.wait().exits(0);
    assert_eq!(circle.stats().1, BTreeMap::from([("waiting".to_owned(), FAILING)]));

    circle.plugin("seed-job");
    let mut running = circle.start();
    circle.feed(500);
    let killed = circle.dlq("replay").env("TEST_FAILPOINT", "dlq-copied:3").run();
    assert_ne!(killed.code, Some(0), "it died in its midst:\n{}", killed.stderr);
    circle.feed(500);
    running.until("some are cleared", || circle.stats().1.contains_key("cleared"));
    let (was_killed, _) = running.kill();
    assert!(was_killed);
    let told = circle.replay();
    let (copied, there) = (told["copied"].as_u64(), told["there_already"].as_u64());
    assert!(there > Some(0) && copied.zip(there).map(|(c, t)| c + t) == Some(FAILING), "{told}");
    let mut running = circle.start();
    circle.feed(500);
    assert_eq!(circle.replay()["copied"], 0);
    running.until("all of them are cleared", || circle.stats().1.get("cleared") == Some(&FAILING));
    assert_eq!(circle.stats(), (FAILING, BTreeMap::from([("cleared".to_owned(), FAILING)])));
    let sent = circle.sent;
    let found = || read_all(&circle.world.address, &circle.world.output());
    running.until("all results", || found().len() as u64 >= sent);
    assert!(running.signal(Signal::TERM));
    running.wait().exits(0);

    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for record in found() {
        let n = record.value["payload"]["n"].as_u64().expect("a number");
        let mark = if n < BEFORE && !n.is_multiple_of(2) { "survived" } else { "processed" };
        assert!(!record.value["metadata"][mark].is_null(), "{}", record.text);
        *counts.entry(n).or_default() += 1;
    }
    let wrong: Vec<_> = (0..sent).filter(|n| counts.get(n) != Some(&1)).take(5).collect();
    assert!(wrong.is_empty() && counts.len() as u64 == sent, "not once each: {wrong:?}");
}
