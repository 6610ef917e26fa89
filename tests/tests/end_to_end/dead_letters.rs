//! Dead letters: put through again by a mended plugin while others flow, killed on the way; and waited for where
//! their sink is away.

use std::io::{Read, Write};
use std::net::TcpListener;

use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::{field, finished_lines, sorted};
use wasmill_tests::random::Random;
use wasmill_tests::{Place, home};

use crate::killing::{Killing, kill_and_resume};

const EACH: usize = 10_000;

fn message(id: usize, boom: bool) -> String {
    format!(
        "{{\"id\":\"{id}\",\"type\":\"keep\",\"payload\":{{\"boom\":{boom}}},\"timestamp\":{}}}\n",
        1_000 + id
    )
}

fn ids_of(folder: &std::path::Path) -> Vec<usize> {
    let lines = finished_lines(folder);
    let ids = lines.iter().map(|line| field(line, "/id").as_str().unwrap_or("").parse());
    let mut ids: Vec<usize> = ids.map(|id| id.expect("a number")).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn ten_thousand_letters_go_through_a_mended_plugin_once_while_others_flow() {
    let place = Place::with_plugins(&["panics-on"]);
    let spec = "\
name: mended
source: { file: { path: input.jsonl } }
data_dir: data
stages:
  - transform: panics-on
  - key_by: type
  - aggregate: count
    name: total
    order: log
sink: { file: { path: out } }
dead_letter: { file: { path: dead } }
delivery: exactly_once
";
    place.file("pipeline.yaml", spec);
    // Each second one fails.
    let first: String = (0..2 * EACH).map(|id| message(id, id % 2 == 1)).collect();
    place.file("input.jsonl", &first);
    place.pipeline().run().exits(0);
    let letters = finished_lines(&place.path("dead"));
    assert_eq!((finished_lines(&place.path("out")).len(), letters.len()), (EACH, EACH));

    let more: String = (2 * EACH..3 * EACH).map(|id| message(id, false)).collect();
    place.file("input.jsonl", first + &more);
    place.file("letters.jsonl", letters.join("\n") + "\n");
    place
        .file("pipeline.yaml", format!("{spec}replay: {{ file: {{ path: letters.jsonl, rate: 30000 }} }}\n"));
    // The mended one is another plugin under the same name.
    std::fs::copy(home::plugin("router"), place.path("plugins/panics-on.wasm")).expect("copied");
    let killing =
        Killing { kills: 5, age_ms: (100, 700), rate: 30_000, workers: &[1, 2, 3], batch_sizes: &[7, 256] };
    let (_, ended) = kill_and_resume(&killing, &mut Random::shown("letters"), || place.pipeline());
    ended.exits(0);
    let out = finished_lines(&place.path("out"));
    // Each has the count at it: no message counted twice, and none missing.
    let mut counts: Vec<u64> =
        out.iter().map(|line| field(line, "/payload/value").as_u64().expect("a count")).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=3 * EACH as u64).collect::<Vec<_>>());
    assert_eq!(ids_of(&place.path("out")), (0..3 * EACH).collect::<Vec<_>>());
    assert_eq!(finished_lines(&place.path("dead")).len(), EACH, "none failed again");
    // Nothing is put through another time.
    place.pipeline().run().exits(0);
    assert_eq!(sorted(finished_lines(&place.path("out"))), sorted(out));
}

#[test]
fn while_the_sink_of_dead_letters_is_away_nothing_is_committed_and_ready_says_so() {
    let place = Place::new();
    let (address, away) = (free_address(), free_address());
    place.file(
        "pipeline.yaml",
        format!(
            "name: blocked\nsource: {{ file: {{ path: input.jsonl }} }}\ndata_dir: data\nhttp: {address}\n\
             sink: {{ file: {{ path: out }} }}\ndead_letter: {{ http: {{ url: \"http://{away}/\" }} }}\n"
        ),
    );
    let lines: String = (0..100).map(|id| message(id, false)).collect();
    place.file("input.jsonl", lines + "not a message\n");
    let mut running = place.pipeline().start();
    running.until("it says what it waits for", || {
        get(address, "/ready")
            .is_some_and(|answer| answer.status == 503 && answer.body.contains("dead_letter"))
    });
    let committed = wasmill_tests::output::lines(&place.path("out"));
    assert_eq!(committed, Vec::<String>::new(), "nothing is committed beyond the letter");
    // It is back: all goes on.
    let listener = TcpListener::bind(away).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut some = [0; 4096];
            while !String::from_utf8_lossy(&request).contains("not a message") {
                match stream.read(&mut some) {
                    Ok(n) if n > 0 => request.extend_from_slice(&some[..n]),
                    _ => break,
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    running.wait().exits(0);
    assert_eq!(finished_lines(&place.path("out")).len(), 100);
}

#[test]
fn a_replay_that_cant_be_is_refused_with_the_reason() {
    let refused = |replay: &str, dead: &str, parts: &[&str]| {
        let place = Place::new();
        place.file(
            "pipeline.yaml",
            format!("name: no\nsource: stdin\nsink: stdout\nreplay: {replay}\n{dead}"),
        );
        place.wasmill(["check", "pipeline.yaml"]).run().exits(2).says(parts);
    };
    let dead = "dead_letter: { log: { path: dead } }\n";
    refused("stdin", dead, &["the source `stdin` can't be read again", "such as `log`"]);
    refused("{ log: { path: again } }", "", &["`replay` without `dead_letter`"]);
    refused("{ log: { path: dead } }", dead, &["`replay` reads what `dead_letter` writes", "for ever"]);
}

#[test]
fn explain_shows_where_letters_come_from() {
    let place = Place::new();
    let spec = "name: shown\nsource: { file: { path: input.jsonl } }\nsink: stdout\n\
                dead_letter: { log: { path: dead } }\nreplay: { log: { path: again } }\n";
    place.file("pipeline.yaml", spec).file("input.jsonl", "");
    let ended = place.wasmill(["explain", "pipeline.yaml"]).run().exits(0);
    ended.says(&["takes dead letters, each put through again from the stage where it failed", "path again"]);
}
