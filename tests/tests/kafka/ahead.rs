//! Event times in the future, bounded by the append times of a topic.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use wasmill_tests::Signal;
use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::finished_lines;

use crate::broker::kcat;
use crate::world::{FOR_EVER, World, shared_broker};

const APPEND: (&str, &str) = ("message.timestamp.type", "LogAppendTime");
/// In milliseconds.
const WINDOW: i64 = 10_000;
const FAR: i64 = 32_472_144_000_000;

fn spec(world: &World, on_ahead: &str) -> String {
    let (address, input, group) = (&world.address, world.input(), &world.name);
    format!(
        "\
name: {group}
source: {{ kafka: {{ brokers: \"{address}\", topic: {input}, group: {group} }} }}
time: {{ max_ahead: 10m, on_ahead: {on_ahead} }}
data_dir: data
stages:
  - key_by: type
  - window: {{ tumbling: 10s }}
    aggregate: count
sink: {{ file: {{ path: out }} }}
dead_letter: {{ file: {{ path: dead }} }}
"
    )
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock behind 1970");
    i64::try_from(since.as_millis()).expect("a near future")
}

/// Feeds a topic with append times, runs until all of it is committed; answers the summary.
fn run(world: &World, lines: &str) -> Value {
    let broker = shared_broker();
    broker.create_topic(&world.input(), 1, &[FOR_EVER, APPEND]);
    kcat(&world.address, &["-P", "-t", &world.input()], lines);
    let http = free_address();
    let mut running = world.place.pipeline().arg("--json").env("WASMILL_HTTP", http).start();
    let committed = format!(
        "wasmill_messages_committed_total{{pipeline=\"{}\"}} {}\n",
        world.name,
        lines.lines().count()
    );
    running.until("all to be committed", || {
        get(http, "/metrics").is_some_and(|page| page.body.contains(&committed))
    });
    assert!(running.signal(Signal::TERM));
    running.wait().exits(0).summary()
}

#[test]
fn a_message_from_the_future_closes_no_window_of_others() {
    let broker = shared_broker();
    let base = (now() - 60_000) / WINDOW * WINDOW;
    let line = |n: usize, time: i64| format!(r#"{{"id":"{n}","type":"t","timestamp":{time},"payload":{n}}}"#);
    let times = [base, FAR, base + WINDOW, base + 2 * WINDOW];
    let lines: String = times.iter().enumerate().map(|(n, time)| line(n, *time) + "\n").collect();

    let world = World::without_topics(&broker, &[]);
    world.place.file("pipeline.yaml", spec(&world, "dead_letter"));
    let summary = run(&world, &lines);
    assert_eq!(
        (&summary["late"], &summary["dead_letters"], &summary["clamped"]),
        (&0.into(), &1.into(), &0.into())
    );
    let dead = finished_lines(&world.place.path("dead")).concat();
    let letter: Value = serde_json::from_str(&dead).expect("JSON");
    let body = &letter["payload"];
    assert_eq!(
        (&body["kind"], &body["offset"], &body["message"]["timestamp"]),
        (&"time".into(), &1.into(), &FAR.into()),
        "{dead}"
    );
    assert!(dead.contains("ahead of") && dead.contains("max_ahead"), "{dead}");

    // Clamped, it is ten minutes ahead of the log: so all behind it are late.
    let world = World::without_topics(&broker, &[]);
    world.place.file("pipeline.yaml", spec(&world, "clamp"));
    let before = now();
    let summary = run(&world, &lines);
    assert_eq!(
        (&summary["late"], &summary["dead_letters"], &summary["clamped"]),
        (&2.into(), &0.into(), &1.into())
    );
    let stats = world.place.wasmill(["state", "list", "pipeline.yaml", "--json"]).run().exits(0).stdout;
    let open: Value = serde_json::from_str(&stats).expect("one open window");
    let start = open["start"].as_i64().expect("a start");
    let ten_minutes = 600_000;
    assert!((before - WINDOW..=now()).contains(&(start - ten_minutes)), "{stats}");
}

#[test]
fn a_topic_with_its_producers_times_is_refused_where_they_are_to_be_bounded() {
    let broker = shared_broker();
    let world = World::without_topics(&broker, &[]);
    broker.create_topic(&world.input(), 1, &[FOR_EVER]);
    world.place.file("pipeline.yaml", spec(&world, "clamp"));
    let said = world.place.pipeline().run().exits(4);
    said.says(&[&world.input(), "message.timestamp.type=CreateTime", "LogAppendTime", "time.max_ahead"]);
}
