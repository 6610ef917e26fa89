//! Secrets, tables and outgoing HTTP, as a pipeline grants them: from files, variables and a server.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::json;
use wasmill_tests::Place;
use wasmill_tests::output::{field, finished_lines};

const KEY: &str = "hunter2-and-more";
const CARRIERS: &str = "code,name\nUA,United\nAA,\"American, Inc\"\n";
/// How many answers `/last` waits for.
const OTHERS: usize = 7;

/// A server that remembers what it was asked.
#[derive(Clone, Default)]
struct Server(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Server {
    /// Answers until the test's process ends.
    fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = listener.local_addr().expect("an address");
        let server = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(&stream));
            }
        });
        address
    }

    fn asked(&self) -> Vec<String> {
        self.0.0.lock().expect("lock").clone()
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        loop {
            let mut head = Vec::new();
            loop {
                let line = lines.next()?.ok()?;
                if line.is_empty() {
                    break;
                }
                head.push(line);
            }
            let path = head.first()?.split(' ').nth(1)?.to_owned();
            let (asked, told) = &*self.0;
            if path == "/last" {
                // So that whoever asks for one after the other never comes to the others.
                let asked = asked.lock().expect("lock");
                drop(told.wait_while(asked, |asked| asked.len() < OTHERS).expect("lock"));
            }
            let (status, body) = match path.as_str() {
                "/never" => return lines.next().and_then(Result::ok).map(drop),
                "/moved" => ("302 Found\r\nlocation: http://127.0.0.1:1/elsewhere", String::new()),
                "/large" => ("200 OK", "x".repeat(2_000)),
                path => ("200 OK", format!("you asked for {path}")),
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            { stream }.write_all(answer.as_bytes()).ok()?;
            asked.lock().expect("lock").push(head.join("\n"));
            told.notify_all();
        }
    }
}

fn message(id: &str, kind: &str, carrier: &str, path: &str) -> String {
    format!(
        "{{\"id\":\"{id}\",\"type\":\"{kind}\",\"payload\":{{\"carrier\":\"{carrier}\",\"path\":\"{path}\"}}}}\n"
    )
}

/// A pipeline with everything that can be granted, from files; `more` stands in the grant of HTTP.
fn place(server: SocketAddr, more: &str) -> Place {
    let place = Place::with_plugins(&["asks-around"]);
    place.file("secrets/api-key", format!("{KEY}\n")).file("data/carriers.csv", CARRIERS);
    let spec = format!(
        "\
name: granted
source: {{ file: {{ path: in.jsonl }} }}
secrets:
  api-key: {{ file: secrets/api-key }}
lookups:
  carriers: {{ file: data/carriers.csv, key: code }}
stages:
  - transform:
      plugin: asks-around
      config: {{ server: \"http://{server}\" }}
      grants:
        - secrets: [api-key]
        - lookup: [carriers]
        - http: {{ allow: [\"http://{server}\"]{more} }}
sink: {{ file: {{ path: out }} }}
dead_letter: {{ file: {{ path: dead }} }}
workers: 1
"
    );
    place.file("pipeline.yaml", spec);
    place
}

#[test]
fn the_calls_of_a_batch_go_side_by_side_so_a_slow_one_holds_up_no_other() {
    let server = Server::default();
    let place = place(server.start(), ", timeout: 60s");
    let mut input = message("m0", "flight", "UA", "/last");
    for i in 1..=OTHERS {
        input.push_str(&message(&format!("m{i}"), "flight", ["AA", "XX"][i % 2], &format!("/{i}")));
    }
    place.file("in.jsonl", input);
    place.pipeline().run().exits(0);
    assert_eq!(finished_lines(&place.path("dead")), Vec::<String>::new());
    let out = finished_lines(&place.path("out"));
    assert_eq!(out.len(), 1 + OTHERS);
    for (i, line) in out.iter().enumerate() {
        let path = if i == 0 { "/last".to_owned() } else { format!("/{i}") };
        assert_eq!(field(line, "/id"), format!("m{i}"), "in order");
        assert_eq!(field(line, "/metadata/answer"), format!("you asked for {path}"));
        let name = match i {
            0 => json!("United"),
            i if i % 2 == 0 => json!("American, Inc"),
            _ => json!(null),
        };
        assert_eq!(field(line, "/metadata/name"), name, "{line}");
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 1 + OTHERS, "each once");
    let key = format!("authorization: Bearer {KEY}");
    assert!(asked.iter().all(|head| head.contains(&key)), "{asked:?}");
}

#[test]
fn a_granted_secret_stands_in_no_log_dead_letter_or_plan() {
    let place = place(Server::default().start(), "");
    let kinds = ["flight", "tell", "panic", "log", "other"];
    place.file("in.jsonl", kinds.map(|kind| message(kind, kind, "UA", "/x")).concat());
    let ended = place.pipeline().run().exits(0).says(&["my key is ***"]);
    let ids = |folder: &str| -> Vec<serde_json::Value> {
        finished_lines(&place.path(folder)).iter().map(|line| field(line, "/id")).collect()
    };
    assert_eq!(ids("out"), ["flight", "log"]);
    let dead = finished_lines(&place.path("dead"));
    let told: Vec<String> = dead
        .iter()
        .map(|line| field(line, "/payload/reason").as_str().expect("a reason").to_owned())
        .collect();
    let expected = ["the key *** is not for you", "no *** here", "the secret \"other-key\" is not granted"];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected), "{told}");
    }
    let plan = place.wasmill(["explain", "pipeline.yaml"]).run().exits(0);
    let plan_json = place.wasmill(["explain", "--json", "pipeline.yaml"]).run().exits(0);
    let all =
        [ended.stdout, ended.stderr, plan.stdout, plan.stderr, plan_json.stdout, dead.concat()].concat();
    assert!(!all.contains("hunter2"), "{all}");
}

#[test]
fn what_a_server_may_not_do_is_a_reason_of_that_message_alone() {
    let server = Server::default();
    let place = place(server.start(), ", timeout: 200ms, response_bytes_max: 1000B");
    let paths = ["/moved", "/large", "/never", "/fine"];
    place.file("in.jsonl", paths.map(|path| message(path, "flight", "UA", path)).concat());
    place.pipeline().run().exits(0);
    let out = finished_lines(&place.path("out"));
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!(field(&out[0], "/id"), "/fine");
    let dead = finished_lines(&place.path("dead"));
    let told: Vec<serde_json::Value> = dead.iter().map(|line| field(line, "/payload/reason")).collect();
    let expected = [
        "http: answered 302",
        "http: the answer has more than 1000 bytes, the grant's `response_bytes_max`",
        "http: no answer within 200ms",
    ];
    assert_eq!(told, expected);
}

#[test]
fn explain_says_what_is_granted_and_why_a_replay_may_differ() {
    let place = place("127.0.0.1:8080".parse().expect("an address"), ", rate_per_second: 7");
    place.file("in.jsonl", "");
    // As `sha256sum` has it.
    let digest = "b7286b2754eeef587c8fda0b93ec1501f6b16cd880db29d3696000fd8fe87990";
    place.wasmill(["explain", "pipeline.yaml"]).run().exits(0).says(&[
        "granted secrets api-key",
        "granted http GET to http://127.0.0.1:8080; at most 7 a second, 16 at once, 2s and 1MiB each",
        "granted lookup carriers",
        &format!("carriers  ./data/carriers.csv by code, 2 rows, sha256 {digest}"),
        "results may differ in a replay: the stage `asks-around` is granted http: what it is answered is in no log",
        "results may differ in a replay: the stage `asks-around` looks into `carriers`, whose file is outside the log",
    ]);
    place.wasmill(["plugin", "inspect", "plugins/asks-around.wasm"]).run().exits(0).says(&[
        "wasmill:plugin/secrets@0.1.0: needs `grants: [{ secrets: [NAME] }]`",
        "wasmill:plugin/lookup@0.1.0: needs `grants: [{ lookup: [NAME] }]`",
        "wasmill:plugin/http@0.1.0: needs `grants: [{ http: { allow: [\"https://HOST\"] } }]`",
    ]);
}

#[test]
fn what_a_grant_names_and_is_not_there_is_told_at_its_place() {
    let place = place("127.0.0.1:8080".parse().expect("an address"), "");
    place.file("in.jsonl", "").file("secrets/api-key", "");
    let told = [
        "the secret `api-key`: ./secrets/api-key is empty",
        "pipeline.yaml:4:12",
        "granted to the stage `asks-around`",
    ];
    place.pipeline().run().exits(2).says(&told);
    place.wasmill(["check", "pipeline.yaml"]).run().exits(2).says(&told);
    let spec = place.text("pipeline.yaml").replace("{ file: secrets/api-key }", "{ env: API_KEY }");
    place.file("pipeline.yaml", spec);
    place
        .pipeline()
        .run()
        .exits(2)
        .says(&["the secret `api-key`: the environment variable `API_KEY` is not set"]);
    place.pipeline().env("API_KEY", KEY).run().exits(0);
    place.file("data/carriers.csv", "code,name\nUA,United\nUA,Unified\n");
    place.pipeline().env("API_KEY", KEY).run().exits(2).says(&[
        "the table `carriers`: ./data/carriers.csv, line 3: the key \"UA\" stands twice",
        "pipeline.yaml:6:13",
    ]);
}

#[test]
fn without_a_pipeline_file_there_is_nothing_to_grant_by() {
    let place = Place::with_plugins(&["asks-around"]);
    place.wasmill(["run"]).env("PLUGIN_DIR", "plugins").run().exits(3).says(&[
        "which the environment can't give; write a pipeline file with `{ plugin: asks-around, grants: [{ ",
    ]);
}

const CASES: &str = r#"
config: { server: "https://api.example.com" }
secrets: { api-key: abc }
lookups: { carriers: { UA: { name: United } } }
http:
  "https://api.example.com/a": { body: seven }
  "https://api.example.com/b": { status: 500 }
cases:
  - name: a case gives what its plugin asks for
    input:
      - { id: "1", type: flight, payload: { carrier: UA, path: /a } }
      - { id: "2", type: flight, payload: { carrier: XX, path: /b } }
      - { id: "3", type: flight, payload: { carrier: XX, path: /c } }
      - { id: "4", type: tell, payload: { carrier: UA, path: /a } }
    expect:
      - { id: "1", metadata: { name: United, answer: seven } }
    failed:
      - { id: "2", reason: "http: answered 500" }
      - { id: "3", reason: "http: the case's `http` has no answer for https://api.example.com/c" }
      - { id: "4", reason: "the key *** is not for you" }
"#;

#[test]
fn cases_give_a_plugin_what_a_pipeline_would() {
    let place = Place::with_plugins(&["asks-around"]);
    place.file("cases.yaml", CASES);
    let test = ["test", "plugins/asks-around.wasm", "cases.yaml"];
    place.wasmill(test).run().exits(0).says(&["1 of 1 cases passed"]);
    place.file("cases.yaml", CASES.replace("secrets: { api-key: abc }", ""));
    place.wasmill(test).run().exits(3).says(&["imports `secrets`, which its stage isn't granted"]);
}
