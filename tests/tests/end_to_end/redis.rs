//! State in a real Redis: one that goes away and comes back, and looked at and moved by the tools.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;
use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::{finished_lines, unfinished_bytes};
use wasmill_tests::process::Wasmill;
use wasmill_tests::{Place, Running};

use crate::servers::RedisServer;

const MESSAGES: usize = 30_000;
/// Many, so that a lane reads most of them in Redis.
const USERS: usize = 7_500;

fn place(redis: &RedisServer) -> Place {
    let place = Place::with_plugins(&["stateful"]);
    let url = redis.url();
    place.file(
        "pipeline.yaml",
        format!(
            "\
name: away
source: {{ file: {{ path: input.jsonl }} }}
state: {{ redis: {{ url: \"{url}\" }} }}
workers: 2
batch_size: 64
epoch: {{ interval: 5ms, bytes: 64KiB }}
stages:
  - key_by: payload.user
  - transform: {{ plugin: stateful, grants: [state] }}
sink: {{ file: {{ path: out }} }}
dead_letter: {{ file: {{ path: dead }} }}
"
        ),
    );
    let line = |n: usize| {
        let user = n * 7 % USERS;
        format!(
            "{{\"id\":\"{n}\",\"type\":\"t\",\"payload\":{{\"user\":\"u{user}\"}},\"timestamp\":{}}}\n",
            1_357_000_000_000 + n as i64
        )
    };
    place.file("input.jsonl", (0..MESSAGES).map(line).collect::<String>());
    place
}

fn tool(place: &Place, args: &[&str]) -> Wasmill {
    let (command, rest) = args.split_first().expect("a command");
    place.wasmill(["state", command, "pipeline.yaml"].into_iter().chain(rest.iter().copied()))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_tools_look_at_it_and_move_it() {
    let Some(redis) = RedisServer::start("the tools of state") else { return };
    let place = place(&redis);
    tool(&place, &["stats"]).run().exits(4).says(&["nothing is committed yet"]);
    place.pipeline().run().exits(0);

    let stats = json(&tool(&place, &["stats", "--json"]).run().exits(0).stdout)["stats"].take();
    let entries = 2 * USERS as u64;
    assert_eq!(stats["entries"], entries, "{stats}");
    assert_eq!(stats["counts"]["read"], MESSAGES as u64, "{stats}");
    assert_eq!(stats["positions"]["0/0"]["offset"], place.text("input.jsonl").len(), "{stats}");
    let one =
        json(&tool(&place, &["get", "stateful", "u7", "--name", "count", "--json"]).run().exits(0).stdout);
    assert_eq!(one["text"], (MESSAGES / USERS).to_string(), "{one}");
    tool(&place, &["get", "stateful", "u7"]).run().exits(4).says(&["--name count, --name last_batch"]);
    tool(&place, &["get", "stateful", "nobody", "--name", "count"]).run().exits(4);

    // Page behind page has every entry once, in one order.
    let mut all: Vec<String> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut args = vec!["list", "--limit", "4000", "--json"];
        args.extend(after.as_deref().map(|place| ["--after", place]).into_iter().flatten());
        let page = tool(&place, &args).run().exits(0).stdout;
        let page: Vec<Value> = page.lines().map(json).collect();
        let Some(last) = page.last() else { break };
        after = Some(last["stored_key"].as_str().expect("a place").to_owned());
        all.extend(page.iter().map(|entry| format!("{} {}", entry["key"], entry["name"])));
        assert!(all.len() as u64 <= entries, "some came twice");
    }
    assert_eq!(all.len() as u64, entries);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    let some = tool(&place, &["list", "--key-prefix", "u71", "--limit", "9", "--json"]).run().exits(0).stdout;
    assert!(
        some.lines().count() == 9 && some.lines().all(|line| json(line)["key"].to_string().contains("u71"))
    );

    // Out of this database and into another one, and to disk.
    let exported = tool(&place, &["export"]).run().exits(0).stdout;
    assert_eq!(exported.lines().count() as u64, entries + 2);
    place.file("exported.jsonl", &exported);
    tool(&place, &["import", "exported.jsonl"]).run().exits(4).says(&["has state already"]);
    let here = place.text("pipeline.yaml");
    let url = redis.url();
    let in_redis = format!("state: {{ redis: {{ url: \"{url}\" }} }}");
    assert!(here.contains(&in_redis), "{here}");
    for there in [format!("state: {{ redis: {{ url: \"{url}/1\" }} }}"), "data_dir: data".to_owned()] {
        place.file("pipeline.yaml", here.replace(&in_redis, &there));
        tool(&place, &["import", "exported.jsonl"]).run().exits(0).says(&["the next run goes on from there"]);
        assert!(tool(&place, &["export"]).run().exits(0).stdout == exported, "{there}");
        let summary = place.pipeline().arg("--json").run().exits(0).summary();
        assert_eq!(summary["read"], 0, "{there}: it goes on from the end");
    }
}

/// How often each user's count came out, by user and count.
fn counts(place: &Place) -> BTreeMap<(String, u64), usize> {
    let mut counts = BTreeMap::new();
    for line in finished_lines(&place.path("out")) {
        let message: Value = serde_json::from_str(&line).expect("a message");
        let user = message["payload"]["user"].as_str().expect("a user").to_owned();
        let count = &message["metadata"]["count"];
        let count = count.as_str().map_or_else(|| count.as_u64(), |text| text.parse().ok());
        *counts.entry((user, count.expect("a count"))).or_default() += 1;
    }
    counts
}

/// Takes Redis away, until lanes have found their state away this often. Where it went just as all that is read waits for
/// a commit, no lane looks for state: then it comes back and goes again.
fn until_reads_fail(
    (running, http): (&mut Running, SocketAddr),
    redis: &mut RedisServer,
    (stop, back): (impl Fn(&mut RedisServer), impl Fn(&mut RedisServer)),
    times: usize,
) {
    let log = running.log();
    let count = |what: &str| log.text().matches(what).count();
    let failed = || (count("cannot read the state of pipeline `away`"), count("cannot commit epoch"));
    for _ in 0..20 {
        let (reads, commits) = failed();
        stop(redis);
        running.until("it finds that Redis is away", || {
            let (now_reads, now_commits) = failed();
            now_reads >= reads + times || (now_reads == reads && now_commits >= commits + 4)
        });
        if failed().0 >= reads + times {
            return;
        }
        back(redis);
        running.until("it goes on", || get(http, "/ready").is_some_and(|ready| ready.status == 200));
    }
    panic!("Redis never went while a lane looked for state:\n{}", log.text());
}

fn goes_on_once_it_is_back(
    stop: impl Fn(&mut RedisServer),
    back: impl Fn(&mut RedisServer),
    failures: usize,
) {
    let Some(mut redis) = RedisServer::start("state that is away") else { return };
    let place = place(&redis);
    let http = free_address();
    let mut running = place.pipeline().env("WASMILL_HTTP", http).start();
    running.until("it is under way", || unfinished_bytes(&place.path("out")) > 0);
    until_reads_fail((&mut running, http), &mut redis, (&stop, &back), failures);
    let ready = get(http, "/ready").expect("it answers");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.contains("the store"), "{ready:?}");
    back(&mut redis);
    running.wait().exits(0);
    let per_user = (MESSAGES / USERS) as u64;
    let expected: BTreeMap<(String, u64), usize> = (0..USERS)
        .flat_map(|user| (1..=per_user).map(move |count| ((format!("u{user}"), count), 1)))
        .collect();
    assert!(counts(&place) == expected, "each message counts once, and none is missing");
    assert_eq!(finished_lines(&place.path("dead")), Vec::<String>::new(), "nobody is to blame");
}

#[test]
fn a_redis_that_was_killed_is_waited_for_in_the_midst_of_a_plugin_s_call() {
    // Longer than a plugin's deadline: each failure waits longer than the one before.
    goes_on_once_it_is_back(RedisServer::kill, RedisServer::restart, 12);
}

#[test]
fn a_redis_that_stands_still_is_waited_for_in_the_midst_of_a_plugin_s_call() {
    goes_on_once_it_is_back(|redis| redis.freeze(), |redis| redis.thaw(), 1);
}
