//! What can't go on, or is wrong in one message, says what, where and what to do.

use std::time::Duration;

use wasmill_tests::Place;
use wasmill_tests::http::free_address;

use crate::clients::client;
use crate::nats::NatsServer;
use crate::postgres::PostgresServer;
use crate::servers::RedisServer;
use crate::world::{DATABASE, From, Host, To, World, shared};

/// Runs a pipeline that can't: the exit code is that of something outside.
#[track_caller]
fn refused(source: &str, sink: &str, more: &str, says: &[&str]) {
    let place = Place::new();
    let text = format!("name: p\nsource: {{ {source} }}\nstages: []\nsink: {{ {sink} }}\n{more}");
    place.file("pipeline.yaml", text).file("in.jsonl", "{\"id\":\"1\",\"type\":\"t\"}\n");
    let ended = place.pipeline().env("WASMILL_HTTP", "off").run().exits(4).says(says);
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("hunter2"), "{}", ended.stderr);
}

const FILE: &str = "file: { path: in.jsonl }";

#[test]
fn a_nats_that_can_t_be_used() {
    let server = NatsServer::start();
    let url = server.url();
    let stream = |settings: &str| format!("nats: {{ url: '{url}', stream: events, consumer: c{settings} }}");
    let out = format!("nats: {{ url: '{url}', subject: out.a }}");
    refused(&stream(""), "stdout", "", &["no stream events", "nats stream add events"]);
    client(&["nats-make", &url, "events", "in.>"]);
    refused(FILE, &out, "", &["out.a", "stream"]);
    // A consumer of that name that was made with other settings.
    let place = Place::new();
    let text = |wait: &str| {
        format!(
            "name: p\nsource: {{ {} }}\nstages: []\nsink: stdout\n",
            stream(&format!(", ack_wait: {wait}"))
        )
    };
    place.file("pipeline.yaml", text("5s"));
    let mut host = Host::start(&place, &[]);
    host.until_ready();
    host.end();
    refused(&stream(", ack_wait: 7s"), "stdout", "", &["c", "ack_wait", "7s", "5s"]);
    let login = NatsServer::start_with("authorization { user: u, password: hunter3 }", "u:hunter3@");
    let wrong =
        format!("nats: {{ url: 'nats://u:hunter2@{}', stream: events, consumer: c }}", login.address());
    refused(&wrong, "stdout", "", &["user", "password"]);
    let wrong = format!("nats: {{ url: 'nats://u:hunter2@{}', subject: out.a }}", login.address());
    refused(FILE, &wrong, "", &["user", "password"]);
}

#[test]
fn a_redis_that_can_t_be_used() {
    let Some(server) = RedisServer::start("a Redis that can't be used") else { return };
    server.say(&["SET", "text", "x"]);
    let url = server.url();
    refused(FILE, &format!("redis: {{ url: '{url}', stream: text }}"), "", &["text", "stream"]);
    server.say(&["CONFIG", "SET", "appendfsync", "everysec"]);
    let exact = "delivery: exactly_once\ndata_dir: d\n";
    refused(
        FILE,
        &format!("redis: {{ url: '{url}', stream: out }}"),
        exact,
        &["appendfsync everysec", "appendfsync always"],
    );
    server.say(&["CONFIG", "SET", "requirepass", "right"]);
    let wrong = url.replace("://", "://:hunter2@");
    refused(FILE, &format!("redis: {{ url: '{wrong}', stream: out }}"), "", &["password"]);
    refused(&format!("redis: {{ url: '{wrong}', stream: in, group: g }}"), "stdout", "", &["password"]);
}

#[test]
fn a_table_that_can_t_be_used() {
    let server = PostgresServer::start();
    server.psql(DATABASE, "CREATE TABLE t (id text PRIMARY KEY, n int NOT NULL)");
    let url = server.url(DATABASE);
    let table = |settings: &str| format!("postgres: {{ url: '{url}', {settings} }}");
    refused(FILE, &table("table: nothing, columns: { id: id }"), "", &["nothing"]);
    refused(FILE, &table("table: t, columns: { id: id, m: payload.m }"), "", &["no column `m`", "id, n"]);
    refused(FILE, &table("table: t, columns: { id: id }"), "", &["`n`", "takes no NULL"]);
    refused(
        FILE,
        &table("table: t, columns: { id: id, n: payload.n }, mode: upsert, key: [n]"),
        "",
        &["unique"],
    );
    server.secure("hunter3");
    let wrong = url.replace("postgres@", "postgres:hunter2@");
    refused(FILE, &format!("postgres: {{ url: '{wrong}', table: t }}"), "", &["password"]);
}

#[test]
fn a_message_that_an_end_will_never_take_is_a_dead_letter_and_its_batch_passes() {
    let small = NatsServer::start_with("max_payload: 2000", "");
    let nats = shared(small);
    let postgres = shared(PostgresServer::start());
    for to in [To::Nats(nats), To::Postgres(postgres)] {
        let world = World::new(
            From::Http(free_address()),
            to,
            "stages: []\ndata_dir: data\ndead_letter: { file: { path: dead } }\n",
        );
        let long = "x".repeat(3_000);
        let bad = [
            format!(r#"{{"id":"long","type":"a","payload":{{"n":1,"carrier":"{long}"}},"timestamp":1}}"#),
            r#"{"id":"text","type":"a","payload":{"n":"many"},"timestamp":1}"#.to_owned(),
        ];
        let bad = match world.to {
            To::Postgres(_) => &bad[1],
            _ => &bad[0],
        };
        let mut host = world.start();
        host.until_ready();
        world.from.feed(0, 100, Duration::ZERO).finish();
        let From::Http(address) = world.from else { panic!("it is HTTP") };
        let url = format!("http://{address}/");
        let said = client(&["http-post", &url, crate::world::TOKEN, bad]);
        assert!(said.contains(r#""accepted":1"#), "{said}");
        // What is broken in the middle is refused whole.
        let broken = format!("{bad}\n{{\"id\":\n{bad}");
        let said = client(&["http-post", &url, crate::world::TOKEN, &broken]);
        assert!(said.contains(r#""line":2"#) && said.contains(r#""accepted":0"#), "{said}");
        world.from.feed(100, 100, Duration::ZERO).finish();
        let wanted: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        let found = world.until_whole(&wanted, &mut host);
        host.end();
        assert_eq!(found.len(), 200);
        let dead = world.place.text("dead/part-000001.jsonl");
        assert_eq!(dead.lines().count(), 1, "{dead}");
        let expected = if matches!(world.to, To::Nats(_)) { "max_payload" } else { "`n` (bigint)" };
        assert!(dead.contains(expected), "{dead}");
    }
}
