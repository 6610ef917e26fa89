//! Plugins that are swapped while the pipeline runs, by their files and by hand; what stays out; what a restart goes on
//! with. Under load and kill -9 from Kafka: `kafka/exactly_once/swaps.rs`.

use std::net::SocketAddr;

use serde_json::Value;
use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::{field, finished_lines};
use wasmill_tests::stamps::{component, put, saying, stamp};
use wasmill_tests::{Place, Running, Signal, home};

/// The lines that are to be seen so far.
fn written(place: &Place) -> Vec<String> {
    let files = std::fs::read_dir(place.path("out")).into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
    files.sort();
    let texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Messages that come one after the other, stamped by `stages`.
fn place_with(source: &str, more: &str) -> Place {
    let place = Place::new();
    put(&place, "stamps", &component(0));
    let spec = format!(
        "\
name: swapped
source: {{ generator: {source} }}
stages: [{{ transform: stamps }}]
sinks:
  - file: {{ path: out, roll_interval: 200ms }}
  - file: {{ path: stamped, roll_interval: 1s }}
    output: stamped
data_dir: data
{more}"
    );
    place.file("pipeline.yaml", spec);
    place
}

fn start(place: &Place) -> (Running, SocketAddr) {
    let http = free_address();
    (place.pipeline().env("WASMILL_HTTP", http).start(), http)
}

fn page(http: SocketAddr, pipeline: &str) -> Option<Value> {
    serde_json::from_str(&get(http, &format!("/plugins/{pipeline}"))?.body).ok()
}

/// Waits until a version runs in the first stage.
#[track_caller]
fn until_runs(running: &mut Running, http: SocketAddr, number: u32) {
    let wanted = Value::from(number.to_string());
    running.until(&format!("version {number} to run"), || {
        page(http, "swapped").is_some_and(|page| page["plugins"]["now"][0]["version"] == wanted)
    });
}

/// Waits until a message was written by a version.
#[track_caller]
fn until_stamped(running: &mut Running, place: &Place, number: u32) {
    let stamp = stamp(number);
    running.until(&format!("a message of version {number}"), || {
        written(place).iter().any(|line| line.contains(&stamp))
    });
}

/// The versions along the messages, each once for as long as it did them; each message must be there once.
#[track_caller]
fn versions_along(place: &Place) -> Vec<String> {
    let mut messages: Vec<(u64, String)> = Vec::new();
    for line in finished_lines(&place.path("out")) {
        let id = field(&line, "/id").as_str().unwrap_or_default().to_owned();
        let n = id.strip_prefix("0-").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("the id {id:?}"));
        messages.push((n, field(&line, "/metadata/by").as_str().unwrap_or_default().to_owned()));
    }
    messages.sort();
    assert!(messages.iter().zip(0..).all(|((n, _), due)| *n == due), "each message is there once");
    let mut versions: Vec<String> = messages.into_iter().map(|(_, by)| by).collect();
    versions.dedup();
    versions
}

fn ended(running: Running) {
    let mut running = running;
    assert!(running.signal(Signal::TERM), "it runs:\n{}", running.log().text());
    running.wait().exits(0);
}

fn plugin_command(place: &Place, http: SocketAddr, args: &[&str]) -> wasmill_tests::Ended {
    let (command, rest) = args.split_first().expect("a command");
    let args = ["plugin", command, "pipeline.yaml"].into_iter().chain(rest.iter().copied());
    place.wasmill(args).env("WASMILL_HTTP", http).run()
}

#[test]
fn a_new_file_takes_over_a_broken_one_stays_out_and_a_rollback_holds() {
    let place = place_with("{ rate: 2000 }", "");
    let (mut running, http) = start(&place);
    until_stamped(&mut running, &place, 0);
    put(&place, "stamps", &component(1));
    until_runs(&mut running, http, 1);
    until_stamped(&mut running, &place, 1);

    put(&place, "stamps", b"this is no component");
    running.until("the broken one to be told", || {
        page(http, "swapped").is_some_and(|page| page["waiting"]["stamps"]["why"].as_str().is_some())
    });
    let listed = plugin_command(&place, http, &["list"]);
    assert!(listed.stdout.contains("stamps@1 "), "{}", listed.stdout);
    assert!(listed.stdout.contains("no WebAssembly component"), "{}", listed.stdout);

    plugin_command(&place, http, &["rollback", "stamps"]).exits(0);
    until_runs(&mut running, http, 0);
    // What was rolled back isn't taken because its file is there again.
    put(&place, "stamps", &component(1));
    let looked = |page: Value| page["plugins"]["refused"][0]["version"] == "1";
    running.until("what is refused to be told", || page(http, "swapped").is_some_and(looked));
    put(&place, "stamps", &component(2));
    until_runs(&mut running, http, 2);
    until_stamped(&mut running, &place, 2);

    let refused = plugin_command(&place, http, &["promote", "stamps@77"]);
    let refused = refused.exits(1);
    assert!(refused.stderr.contains("there is no `stamps@77`; there is 0, 1, 2"), "{}", refused.stderr);
    plugin_command(&place, http, &["promote", "stamps@1"]).exits(0);
    until_stamped(&mut running, &place, 1);
    ended(running);
    assert_eq!(versions_along(&place), [0, 1, 0, 2, 1].map(stamp));

    let history = plugin_command(&place, http, &["history"]);
    let told_lines: Vec<&str> = history.stdout.lines().collect();
    let told = [
        "took over in the place of stamps@2",
        "took over in the place of stamps@0",
        "was rolled back to in the place of stamps@1",
        "stays out",
        "took over in the place of stamps@0",
    ];
    assert_eq!(told_lines.len(), told.len(), "{}", history.stdout);
    for (line, told) in told_lines.iter().zip(told) {
        assert!(line.contains(told), "{told}: {line}");
    }
    // A start doesn't take what was passed over.
    let (mut running, http) = start(&place);
    until_runs(&mut running, http, 1);
    ended(running);
    assert_eq!(versions_along(&place), [0, 1, 0, 2, 1].map(stamp));
}

/// A version that declares of what type a field is of the messages that it takes, or makes.
fn declaring(number: u32, what: &str, of_type: &str) -> Vec<u8> {
    let schema = format!(r#"{{"type":"object","properties":{{"v":{{"type":"{of_type}"}}}}}}"#);
    saying(component(number), what, &schema)
}

#[test]
fn what_fits_only_together_takes_over_together_and_goes_back_together() {
    let place = place_with("{ rate: 2000 }", "");
    let two = "stages: [{ transform: makes }, { transform: takes }]";
    let spec = place.text("pipeline.yaml").replace("stages: [{ transform: stamps }]", two);
    place.file("pipeline.yaml", spec);
    put(&place, "makes", &declaring(0, "wasmill:output", "integer"));
    put(&place, "takes", &declaring(0, "wasmill:input", "integer"));
    let (mut running, http) = start(&place);
    until_stamped(&mut running, &place, 0);
    put(&place, "makes", &declaring(1, "wasmill:output", "string"));
    running.until("it to stay out", || {
        let why = |page: Value| page["waiting"]["makes"]["why"].as_str().map(str::to_owned);
        page(http, "swapped").and_then(why).is_some_and(|why| why.contains("`payload.v` doesn't fit"))
    });
    put(&place, "takes", &declaring(1, "wasmill:input", "string"));
    let both_run = |number: &str| {
        page(http, "swapped")
            .is_some_and(|page| (0..2).all(|stage| page["plugins"]["now"][stage]["version"] == number))
    };
    running.until("both to have taken over", || both_run("1"));
    plugin_command(&place, http, &["rollback"]).exits(0);
    running.until("both to be rolled back", || both_run("0"));
    ended(running);
}

#[test]
fn behind_a_crash_what_is_committed_goes_on_and_then_the_new_file() {
    let place = place_with("{ rate: 2000 }", "");
    let (mut running, _) = start(&place);
    until_stamped(&mut running, &place, 0);
    running.kill();
    put(&place, "stamps", &component(1));
    // Its copy is gone too: it can't go on.
    std::fs::rename(place.path("data/.plugins"), place.path("elsewhere")).expect("moved");
    let refused = place.pipeline().run();
    let refused = refused.exits(3);
    for part in ["is gone, with which the stage `stamps` goes on", "put it back as ", "stamps@VERSION.wasm"] {
        assert!(refused.stderr.contains(part), "no {part:?} in {}", refused.stderr);
    }
    place.file("plugins/stamps@0.wasm", component(0));
    let (mut running, http) = start(&place);
    until_runs(&mut running, http, 1);
    until_stamped(&mut running, &place, 1);
    ended(running);
    assert_eq!(versions_along(&place), [0, 1].map(stamp));
    let log_of_all = place.text("data/.plugins/swapped.jsonl");
    assert!(log_of_all.contains("took_over"), "{log_of_all}");
}

#[test]
fn behind_an_end_in_order_the_folders_plugin_begins() {
    let place = place_with("{ rate: 2000 }", "");
    let (mut running, _) = start(&place);
    until_stamped(&mut running, &place, 0);
    ended(running);
    put(&place, "stamps", &component(1));
    std::fs::remove_dir_all(place.path("data/.plugins")).expect("removed");
    let (mut running, _) = start(&place);
    until_stamped(&mut running, &place, 1);
    ended(running);
    assert_eq!(versions_along(&place), [0, 1].map(stamp));
    assert!(!place.text("data/.plugins/swapped.jsonl").contains("took_over"), "nothing was swapped");
}

#[test]
fn a_new_version_can_wait_for_a_hand() {
    let place = place_with("{ rate: 2000 }", "swap: hand\n");
    let (mut running, http) = start(&place);
    until_stamped(&mut running, &place, 0);
    put(&place, "stamps", &component(1));
    running.until("the new version to wait", || {
        page(http, "swapped").is_some_and(|page| page["waiting"]["stamps"]["of"]["version"] == "1")
    });
    plugin_command(&place, http, &["promote", "stamps"]).exits(0);
    until_stamped(&mut running, &place, 1);
    ended(running);
    assert_eq!(versions_along(&place), [0, 1].map(stamp));
}

#[test]
fn a_pinned_stage_has_its_version_whatever_else_is_there() {
    let place = place_with("{ count: 100 }", "");
    let pinned = |to: &str| {
        let spec = place.text("pipeline.yaml").replace("transform: stamps }", &format!("transform: {to} }}"));
        place.file("pinned.yaml", spec);
        place.wasmill(["run", "pinned.yaml", "--reset"]).run()
    };
    place.file("plugins/stamps@1.wasm", component(1));
    put(&place, "stamps", &component(2));
    pinned("stamps@1").exits(0);
    assert_eq!(versions_along(&place), [1].map(stamp));
    let refused = pinned("stamps@3");
    let refused = refused.exits(3);
    assert!(
        refused.stderr.contains("the stage is pinned to `stamps@3`, and there is "),
        "{}",
        refused.stderr
    );
    let refused = pinned("stamps@sha256:xyz");
    let refused = refused.exits(2);
    assert!(refused.stderr.contains("`xyz` is no beginning of a SHA-256"), "{}", refused.stderr);
}

#[test]
fn totals_are_migrated_and_a_version_that_cannot_stays_out() {
    let program = |name: &str| std::fs::read(home::plugin(name)).expect("it is built");
    let place = Place::new();
    put(&place, "totals", &program("totals"));
    place.file(
        "pipeline.yaml",
        "\
name: swapped
source: { generator: { rate: 2000, keys: 50 } }
stages:
  - key_by: payload.key
  - aggregate: totals
sink: { file: { path: out, roll_interval: 200ms } }
data_dir: data
",
    );
    let (mut running, http) = start(&place);
    let is_written = |part: &str| written(&place).iter().any(|line| line.contains(part));
    running.until("totals", || is_written("\"value\":20"));
    put(&place, "totals", &program("totals-2"));
    running.until("migrated totals", || is_written("\"migrated\":"));
    put(&place, "totals", &program("totals"));
    running.until("the older one to stay out", || {
        page(http, "swapped").is_some_and(|page| page["waiting"]["totals"]["why"].as_str().is_some())
    });
    let page = page(http, "swapped").expect("a page");
    let why = page["waiting"]["totals"]["why"].as_str().unwrap_or_default();
    assert!(why.contains("are of state version 2, and those of the new plugin of 1"), "{why}");
    running.kill();
    // Killed, it goes on with what is migrated.
    let before = written(&place).len();
    let (mut running, _) = start(&place);
    running.until("more", || written(&place).len() > before + 1_000);
    ended(running);

    // Each total is one more than the one before of its key, whoever counted it.
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    let mut migrated = std::collections::BTreeMap::<String, u64>::new();
    for line in finished_lines(&place.path("out")) {
        let (key, value) = (field(&line, "/payload/key").to_string(), field(&line, "/payload/value"));
        let count = counts.entry(key.clone()).or_default();
        *count += 1;
        match value.as_u64() {
            Some(value) => assert_eq!(value, *count, "{line}"),
            None => {
                assert_eq!(value["count"], *count, "{line}");
                let first = *migrated.entry(key).or_insert(*count - 1);
                assert_eq!(value["migrated"], first, "{line}");
            }
        }
    }
    assert!(migrated.len() == 50 && migrated.values().any(|n| *n > 0), "{migrated:?}");
}
