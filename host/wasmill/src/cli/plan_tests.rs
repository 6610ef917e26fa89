//! What each route promises, as docs/connectors.md has it.

use std::path::Path;

use super::*;
use crate::spec::Environment;
use crate::spec::guarantee::Guarantee::{self, AtLeastOnce, AtMostOnce, ExactlyOnce};

fn source(name: &str) -> &'static str {
    match name {
        "kafka" => "kafka: { brokers: b:9092, topic: t, group: g }",
        "nats" => "nats: { url: 'nats://h:1', stream: s, consumer: c }",
        "redis" => "redis: { url: 'redis://h:1', stream: s, group: g }",
        "http" => "http: { listen: '127.0.0.1:0', log: l }",
        "log" => "log: { path: l }",
        "file" => "file: { path: f }",
        "stdin" => "stdin: {}",
        other => panic!("{other}"),
    }
}

fn sink(name: &str) -> &'static str {
    match name {
        "kafka" => "kafka: { brokers: b:9092, topic: o }",
        "nats" => "nats: { url: 'nats://h:1', subject: o }",
        "redis" => "redis: { url: 'redis://h:1', stream: o }",
        "another redis" => "redis: { url: 'redis://h:2', stream: o }",
        "postgres" => "postgres: { url: 'postgres://u:hunter2@h/d', table: t }",
        "http" => "http: { url: 'http://h/' }",
        "log" => "log: { path: o }",
        "file" => "file: { path: o }",
        "stdout" => "stdout: {}",
        other => panic!("{other}"),
    }
}

const COUNTS: &str = "stages: [{ key_by: type }, { aggregate: count }]\n";
const DISK: &str = "data_dir: d\n";

fn planned(from: &str, to: &str, more: &str, delivery: &str) -> (Pipeline, Plan) {
    let text = format!(
        "name: p\nsource: {{ {} }}\nsink: {{ {} }}\ndelivery: {delivery}\n{more}",
        source(from),
        sink(to)
    );
    let parsed = Pipeline::parse(Path::new("p.yaml"), &text, &Environment::default());
    let pipeline = parsed.unwrap_or_else(|e| panic!("{text}{e}"));
    let plan = plan(&pipeline).unwrap_or_else(|e| panic!("{text}{}", e.shown));
    (pipeline, plan)
}

#[test]
fn each_route_promises_what_the_documentation_says() {
    use Kept::{Acked, Changelog, Disk, Memory, Postgres, Source};
    use Sharing::{Alone, Source as Groups, Store};
    let once = "exactly_once";
    for (from, to, more, kept, sharing, guarantee) in [
        ("kafka", "postgres", "", Postgres, Store, ExactlyOnce),
        ("kafka", "postgres", COUNTS, Postgres, Alone, ExactlyOnce),
        ("nats", "postgres", "", Postgres, Alone, ExactlyOnce),
        ("redis", "postgres", "", Postgres, Alone, ExactlyOnce),
        ("http", "postgres", DISK, Postgres, Alone, ExactlyOnce),
        ("stdin", "postgres", "", Postgres, Alone, AtMostOnce),
        ("redis", "redis", "", Acked, Groups, ExactlyOnce),
        ("redis", "redis", DISK, Acked, Groups, ExactlyOnce),
        ("redis", "another redis", "", Source, Groups, AtLeastOnce),
        ("redis", "another redis", DISK, Disk, Alone, ExactlyOnce),
        ("redis", "redis", &[COUNTS, DISK].concat(), Disk, Alone, ExactlyOnce),
        ("nats", "nats", "", Source, Groups, AtLeastOnce),
        ("nats", "nats", DISK, Disk, Alone, ExactlyOnce),
        ("nats", "nats", &[COUNTS, DISK].concat(), Disk, Alone, ExactlyOnce),
        ("nats", "nats", COUNTS, Memory, Alone, AtLeastOnce),
        ("nats", "redis", DISK, Disk, Alone, ExactlyOnce),
        ("nats", "file", DISK, Disk, Alone, ExactlyOnce),
        ("nats", "log", DISK, Disk, Alone, ExactlyOnce),
        ("nats", "kafka", "", Changelog, Alone, ExactlyOnce),
        ("kafka", "nats", DISK, Disk, Alone, ExactlyOnce),
        ("kafka", "redis", DISK, Disk, Alone, ExactlyOnce),
        ("kafka", "kafka", DISK, Source, Groups, ExactlyOnce),
        ("kafka", "http", DISK, Source, Groups, AtLeastOnce),
        ("log", "log", DISK, Disk, Alone, ExactlyOnce),
        ("log", "log", "", Memory, Alone, AtLeastOnce),
        ("http", "nats", DISK, Disk, Alone, ExactlyOnce),
        ("file", "redis", DISK, Disk, Alone, ExactlyOnce),
        ("http", "stdout", DISK, Disk, Alone, AtLeastOnce),
    ] {
        let (pipeline, plan) = planned(from, to, more, once);
        let what = format!("{from} to {to}, {more:?}");
        assert_eq!((plan.kept, plan.sharing), (kept, sharing), "{what}");
        let [route] = plan.routes.as_slice() else { panic!("{what}") };
        assert_eq!(route.guarantee, guarantee, "{what}: {route:?}");
        assert_eq!(refuse_too_weak(&pipeline, &plan).is_ok(), guarantee == Guarantee::ExactlyOnce, "{what}");
        assert_eq!(route.for_more.is_empty(), guarantee == ExactlyOnce, "{what}: {route:?}");
        assert_eq!(plan.alone_because.is_empty(), sharing != Alone, "{what}: {:?}", plan.alone_because);
        assert!(!format!("{pipeline:?} {}", serde_json::json!(plan)).contains("hunter2"), "{what}");
    }
}

#[test]
fn what_asks_for_nothing_leaves_its_positions_to_a_shared_source() {
    for (from, to) in [("nats", "nats"), ("kafka", "redis"), ("redis", "another redis")] {
        let (_, plan) = planned(from, to, DISK, "at_least_once");
        assert_eq!((plan.kept, plan.sharing), (Kept::Source, Sharing::Source), "{from} to {to}");
        let [route] = plan.routes.as_slice() else { panic!("{from} to {to}") };
        assert_eq!(route.guarantee, AtLeastOnce);
        assert!(route.because.iter().any(|b| b.contains("repeats are refused no longer")), "{route:?}");
    }
}

/// A sink that hides what is not committed, or tells repeats, must be told at a start how far the last commit was: what
/// keeps no tokens can't be exact for it, and a hidden one would lose.
#[test]
fn what_a_sink_must_be_told_at_a_start_is_kept_or_not_promised() {
    use Kept::{Acked, Changelog, Disk, Memory, Postgres, Source};
    use Sharing::{Alone, Source as Groups, Store};
    let (exact, least) = ("exactly_once", "at_least_once");
    for (from, sinks, more, delivery, kept, sharing, guarantees) in [
        ("redis", ["redis", "file"], DISK, exact, Disk, Alone, [ExactlyOnce, ExactlyOnce]),
        ("redis", ["redis", "file"], "", exact, Memory, Alone, [AtLeastOnce, AtLeastOnce]),
        ("redis", ["redis", "nats"], DISK, exact, Disk, Alone, [ExactlyOnce, ExactlyOnce]),
        ("redis", ["redis", "nats"], "", least, Acked, Groups, [ExactlyOnce, AtLeastOnce]),
        ("kafka", ["postgres", "file"], "", exact, Postgres, Alone, [ExactlyOnce, ExactlyOnce]),
        ("kafka", ["postgres", "nats"], DISK, exact, Postgres, Alone, [ExactlyOnce, ExactlyOnce]),
        ("kafka", ["postgres", "nats"], "", least, Postgres, Store, [ExactlyOnce, AtLeastOnce]),
        ("kafka", ["kafka", "file"], DISK, exact, Changelog, Alone, [ExactlyOnce, ExactlyOnce]),
        ("kafka", ["kafka", "kafka"], DISK, exact, Source, Groups, [ExactlyOnce, ExactlyOnce]),
        ("kafka", ["file", "stdout"], DISK, least, Disk, Alone, [ExactlyOnce, AtLeastOnce]),
    ] {
        let text = format!(
            "name: p\nsource: {{ {} }}\nsinks:\n  - {}\n  - {}\ndelivery: {delivery}\n{more}",
            source(from),
            sink(sinks[0]),
            sink(sinks[1])
        );
        let parsed = Pipeline::parse(Path::new("p.yaml"), &text, &Environment::default());
        let plan =
            plan(&parsed.unwrap_or_else(|e| panic!("{text}{e}"))).unwrap_or_else(|e| panic!("{}", e.shown));
        assert_eq!((plan.kept, plan.sharing), (kept, sharing), "{text}");
        let found: Vec<Guarantee> = plan.routes.iter().map(|r| r.guarantee).collect();
        assert_eq!(found, guarantees, "{text}{:?}", plan.routes);
        assert_eq!(plan.alone_because.is_empty(), sharing != Alone, "{text}");
    }
    // So must the one of dead letters.
    let dead = "dead_letter: { file: { path: dead } }\n";
    let (_, plan) = planned("redis", "redis", &[DISK, dead].concat(), exact);
    assert_eq!((plan.kept, plan.sharing), (Disk, Alone));
}

#[test]
fn processes_that_share_totals_may_overwrite_newer_rows() {
    let state = [COUNTS, "state: { redis: { url: 'redis://h:1' } }\n"].concat();
    let text = format!(
        "name: p\nsource: {{ {} }}\nsink: {{ postgres: {{ url: 'postgres://u@h/d', table: t, mode: upsert, key: [id] }} }}\n{state}",
        source("kafka")
    );
    let parsed = Pipeline::parse(Path::new("p.yaml"), &text, &Environment::default());
    let plan =
        plan(&parsed.unwrap_or_else(|e| panic!("{text}{e}"))).unwrap_or_else(|e| panic!("{}", e.shown));
    assert_eq!((plan.sharing, plan.routes[0].guarantee), (Sharing::Store, AtLeastOnce), "{:?}", plan.routes);
}
