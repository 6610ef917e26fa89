//! Ends and plugins that fail, for a while or for good: tried again within bounds, under a breaker.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use wasmill_tests::http::{free_address, get};
use wasmill_tests::output::{field, finished_lines, sorted};
use wasmill_tests::{Place, Signal};

/// Whether a request fails, for what is posted.
type Failing = Box<dyn FnMut(&Told, &str) -> bool + Send>;

/// What the receiver goes by.
#[derive(Default)]
struct Told {
    /// It answers 503 at these of its requests, counted from 0.
    failing: Option<Failing>,
    /// The ids of what it took, in the order in which it did.
    taken: Vec<String>,
    /// How many requests it answered 503.
    failed: usize,
}

/// A server that takes POSTs of one message each.
struct Receiver {
    address: SocketAddr,
    told: Arc<Mutex<Told>>,
}

impl Receiver {
    /// It answers 503 where `failing` says so, of what it took and failed so far and of the message's id.
    fn start(failing: impl FnMut(&Told, &str) -> bool + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let told = Arc::new(Mutex::new(Told { failing: Some(Box::new(failing)), ..Told::default() }));
        let shared = Arc::clone(&told);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &told));
            }
        });
        Self { address, told }
    }

    fn told<T>(&self, of: impl FnOnce(&mut Told) -> T) -> T {
        of(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on it takes all.
    fn heal(&self) {
        self.told(|told| told.failing = None);
    }

    fn taken(&self) -> Vec<String> {
        self.told(|told| told.taken.clone())
    }

    fn failed(&self) -> usize {
        self.told(|told| told.failed)
    }
}

/// Answers the requests of a connection until it is closed.
fn serve(stream: &TcpStream, told: &Mutex<Told>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("the body");
        let message: Value = serde_json::from_slice(&body).expect("a message");
        let id = message["id"].as_str().expect("an id").to_owned();
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failing = told.failing.take();
        let fails = failing.as_mut().is_some_and(|failing| failing(&told, &id));
        told.failing = failing;
        let answer = match fails {
            true => {
                told.failed += 1;
                "503 Service Unavailable"
            }
            false => {
                told.taken.push(id);
                "200 OK"
            }
        };
        drop(told);
        let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
        if (&*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Messages with these numbers as ids; those that `boom` names make `panics-on` panic.
fn messages(count: usize, boom: impl Fn(usize) -> bool) -> String {
    let line = |i| {
        let payload = if boom(i) { "{\"boom\":true}" } else { "{}" };
        format!("{{\"id\":\"{i}\",\"type\":\"t\",\"payload\":{payload},\"timestamp\":{}}}\n", 1_000 + i)
    };
    (0..count).map(line).collect()
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

/// The samples of `/metrics`, by name and labels.
fn metrics(address: SocketAddr) -> BTreeMap<String, f64> {
    let body = get(address, "/metrics").map(|answer| answer.body).unwrap_or_default();
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

fn of_breaker(metric: &str, end: &str) -> String {
    format!("wasmill_breaker_{metric}{{end=\"{end}\",pipeline=\"flaps\"}}")
}

/// A pipeline that posts, with more settings of its sink, and a source that goes on.
fn posting(place: &Place, to: &Receiver, http: SocketAddr, settings: &str, more: &str) {
    let to = to.address;
    let spec = format!(
        "\
name: flaps
sources:
  - file: {{ path: input.jsonl }}
  - stdin
http: {http}
data_dir: data
sink:
  http: {{ url: \"http://{to}/{settings}
{more}
"
    );
    place.file("pipeline.yaml", spec);
}

const SINK: &str = "0:http";

/// An end that fails, comes back and fails again: every message arrives, in its order, and each time that the
/// breaker opens it costs the end one request.
#[test]
fn a_sink_that_flaps_is_spared_by_its_breaker_and_gets_every_message_in_order() {
    const MESSAGES: usize = 300;
    const OUTAGES: usize = 6;
    const FAILURES: usize = 3;
    const UP: usize = 50;
    // The first outage lasts until it was seen, each other one for so many requests.
    let seen = Arc::new(AtomicBool::new(false));
    let (is_seen, mut outages, mut left) = (Arc::clone(&seen), 0, 0);
    let receiver = Receiver::start(move |told, _| {
        if outages < OUTAGES && told.taken.len() == outages * UP {
            outages += 1;
            left = FAILURES + 4;
        }
        if outages > 1 || is_seen.load(Ordering::Acquire) {
            left = left.saturating_sub(1);
        }
        left > 0
    });
    let (place, http) = (Place::new(), free_address());
    let settings =
        "\" }\n  retry: { backoff: 2ms, backoff_max: 10ms }\n  breaker: { failures: 3, open: 40ms }";
    posting(&place, &receiver, http, settings, "");
    place.file("input.jsonl", messages(MESSAGES, |_| false));
    let mut running = place.pipeline().stdin_open().start();
    let (state, opened) = (of_breaker("state", SINK), of_breaker("opened_total", SINK));
    running.until("the breaker is open, and shows", || {
        let ready = get(http, "/ready").map(|answer| answer.body).unwrap_or_default();
        ready.contains("0:http: cannot post to")
            && ready.contains("its breaker is open: nothing is asked of it")
    });
    running.until("the metric says so", || metrics(http).get(&state) == Some(&2.0));
    seen.store(true, Ordering::Release);
    running.until("everything is taken", || receiver.taken().len() >= MESSAGES);
    running.until("it is well", || get(http, "/ready").is_some_and(|answer| answer.status == 200));
    running.until("it shows as closed", || metrics(http).get(&state) == Some(&0.0));
    let found = metrics(http);
    running.end_stdin();
    running.wait().exits(0).says(&[
        "its breaker opens",
        "its breaker lets one try through",
        "its breaker closes",
    ]);
    assert_eq!(receiver.taken(), ids(MESSAGES), "each once, in order");
    // Of the first failures of an outage the last one opens it, and then each probe that fails.
    let spared = OUTAGES * (FAILURES - 1);
    assert_eq!(found[&opened] as usize, receiver.failed() - spared, "{found:?}");
    assert!(receiver.failed() >= OUTAGES * (FAILURES + 3), "{}", receiver.failed());
    assert_eq!(found["wasmill_disconnected_total{pipeline=\"flaps\"}"] as usize, receiver.failed());
}

/// While a breaker is open nothing at all is asked, and an ordered end doesn't wait for it for longer than it may.
#[test]
fn an_open_breaker_asks_nothing_and_what_was_read_is_not_lost() {
    const MESSAGES: usize = 60;
    let receiver = Receiver::start(|told, _| told.taken.len() == 25);
    let (place, http) = (Place::new(), free_address());
    let settings = "\" }\n  retry: { backoff: 1ms, backoff_max: 2ms }\n  breaker: { failures: 4, open: 1h }";
    posting(&place, &receiver, http, settings, "shutdown_timeout: 500ms");
    place.file("input.jsonl", messages(MESSAGES, |_| false));
    let mut running = place.pipeline().stdin_open().start();
    let state = of_breaker("state", SINK);
    running.until("the breaker is open", || metrics(http).get(&state) == Some(&2.0));
    running.signal(Signal::TERM);
    running.wait().exits(1).says(&["could not drain within"]);
    assert_eq!((receiver.taken().len(), receiver.failed()), (25, 4), "four requests, and no probe");
    receiver.heal();
    let mut running = place.pipeline().stdin_open().start();
    running.end_stdin();
    running.wait().exits(0);
    // What was not committed is posted again: an HTTP sink is at least once.
    let taken = receiver.taken();
    assert_eq!(taken[25..], ids(MESSAGES), "from the last commit on, in order");
}

#[test]
fn a_sink_that_is_given_up_stops_the_run_and_the_next_one_goes_on_without_loss() {
    const MESSAGES: usize = 40;
    for (bound, told) in [
        ("attempts: 3", "it was tried 3 times, as often as `retry.attempts` says"),
        ("within: 1ms", "another try would be later than `retry.within`"),
    ] {
        let receiver = Receiver::start(|told, _| told.taken.len() == 20);
        let (place, http) = (Place::new(), free_address());
        let settings = format!("\" }}\n  retry: {{ backoff: 5ms, {bound}, then: stop }}");
        posting(&place, &receiver, http, &settings, "");
        place.file("input.jsonl", messages(MESSAGES, |_| false));
        let running = place.pipeline().stdin_open().start();
        let lost = "Nothing is lost: what is not committed is read again at the next start";
        running.wait().exits(1).says(&["flaps: 0:http: cannot post to", "503", told, lost]);
        assert_eq!(receiver.failed(), if bound == "attempts: 3" { 3 } else { 1 }, "{bound}");
        receiver.heal();
        place.pipeline().run().exits(0);
        let mut taken = receiver.taken();
        taken.drain(..20);
        assert_eq!(taken, ids(MESSAGES), "{bound}: from the last commit on, in order");
    }
}

/// A message that its receiver never takes becomes a dead letter, with how often it was posted; the others arrive.
#[test]
fn a_message_that_is_given_up_becomes_a_dead_letter_and_the_others_arrive() {
    const MESSAGES: usize = 50;
    let poison = ["7", "8", "31", "49"];
    for order in ["keep", "any"] {
        let receiver = Receiver::start(move |_, id| poison.contains(&id));
        let (place, http) = (Place::new(), free_address());
        let settings = format!(
            "\", order: {order} }}\n  retry: {{ backoff: 1ms, backoff_max: 2ms, attempts: 3, then: dead_letter }}\n  breaker: {{ failures: 2, open: 2ms }}"
        );
        posting(&place, &receiver, http, &settings, "dead_letter: { file: { path: dead } }");
        place.file("input.jsonl", messages(MESSAGES, |_| false));
        place.pipeline().run().exits(0);
        let good: Vec<String> =
            ids(MESSAGES).into_iter().filter(|id| !poison.contains(&id.as_str())).collect();
        assert_eq!(receiver.taken(), good, "{order}");
        assert_eq!(receiver.failed(), 3 * poison.len(), "{order}");
        let dead = finished_lines(&place.path("dead"));
        let mut found: Vec<String> = dead
            .iter()
            .map(|line| {
                assert_eq!(field(line, "/payload/attempts"), 3, "{line}");
                assert_eq!(field(line, "/payload/kind"), "refused", "{line}");
                assert!(line.contains("however often it is posted: it answered 503"), "{line}");
                let output = field(line, "/payload/output");
                field(output.as_str().expect("its bytes"), "/id").as_str().expect("an id").to_owned()
            })
            .collect();
        found.sort_by_key(|id| id.parse::<usize>().unwrap_or_default());
        assert_eq!(found, poison, "{order}");
    }
}

/// A pipeline of a plugin that panics, with more settings of its stage.
fn panicking(settings: &str) -> Place {
    let place = Place::with_plugins(&["panics-on"]);
    place.file(
        "pipeline.yaml",
        format!(
            "\
name: flaps
source: {{ file: {{ path: input.jsonl }} }}
data_dir: data
workers: 2
stages:
  - transform: panics-on
{settings}
sink: {{ file: {{ path: out }} }}
dead_letter: {{ file: {{ path: dead }} }}
"
        ),
    );
    place
}

/// What came of a pipeline's messages.
fn results(place: &Place) -> (Vec<String>, Vec<String>) {
    (finished_lines(&place.path("out")), sorted(finished_lines(&place.path("dead"))))
}

#[test]
fn a_plugins_breaker_changes_no_result() {
    const MESSAGES: usize = 120;
    for (what, boom) in [
        ("all of them", (|_| true) as fn(usize) -> bool),
        ("some in a row", |i| (30..50).contains(&i) || i % 11 == 0),
        ("none", |_| false),
    ] {
        let run = |settings: &str| {
            let place = panicking(settings);
            place.file("input.jsonl", messages(MESSAGES, boom));
            let ended = place.pipeline().run().exits(0);
            (ended.stderr.contains("its breaker opens"), results(&place))
        };
        let (_, plain) = run("");
        let (opened, slowed) = run("    breaker: { failures: 3, open: 3ms }");
        assert_eq!(slowed, plain, "{what}");
        assert_eq!(opened, what != "none", "{what}");
        assert_eq!(plain.0.len() + plain.1.len(), MESSAGES, "{what}");
    }
}

#[test]
fn a_plugins_open_breaker_shows_and_an_ordered_end_does_not_wait_for_it() {
    const MESSAGES: usize = 50;
    let place = panicking("    breaker: { failures: 5, open: 1h }");
    place.file("input.jsonl", messages(MESSAGES, |_| true));
    let http = free_address();
    let mut running = place.pipeline().env("WASMILL_HTTP", http).start();
    let (state, opened) =
        (of_breaker("state", "stage panics-on"), of_breaker("opened_total", "stage panics-on"));
    running.until("the breaker is open", || metrics(http).get(&state) == Some(&2.0));
    assert_eq!(metrics(http).get(&opened), Some(&1.0));
    let ready = get(http, "/ready").expect("an answer");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("stage panics-on: 5 messages in a row failed"), "{}", ready.body);
    running.signal(Signal::TERM);
    running
        .wait()
        .exits(1)
        .says(&["the breaker of the stage panics-on was open when the run was told to end"]);
    // The same messages, without a breaker: nothing of them is missing, nothing there twice.
    let text = place.text("pipeline.yaml").replace("    breaker: { failures: 5, open: 1h }", "");
    place.file("pipeline.yaml", text);
    place.pipeline().run().exits(0);
    let undisturbed = panicking("");
    undisturbed.file("input.jsonl", messages(MESSAGES, |_| true));
    undisturbed.pipeline().run().exits(0);
    assert_eq!(results(&place), results(&undisturbed));
}

#[test]
fn a_message_is_tried_as_often_as_its_stage_says() {
    const MESSAGES: usize = 40;
    let boom = |i| i % 9 == 4;
    for (settings, attempts) in [
        ("", 2),
        ("    retry: { attempts: 3, backoff: 1ms }", 4),
        ("    retry: { attempts: 3, backoff: 1ms, on: [error] }", 2),
        (
            "    retry: { attempts: 2, backoff: 1ms, on: [trap, error] }\n    breaker: { failures: 1, open: 1ms }",
            3,
        ),
    ] {
        let place = panicking(settings);
        place.file("input.jsonl", messages(MESSAGES, boom));
        place.pipeline().run().exits(0);
        let dead = finished_lines(&place.path("dead"));
        assert_eq!(dead.len(), (0..MESSAGES).filter(|i| boom(*i)).count(), "{settings}");
        for line in &dead {
            assert_eq!(field(line, "/payload/attempts"), attempts, "{settings}: {line}");
        }
        assert_eq!(finished_lines(&place.path("out")).len(), MESSAGES - dead.len(), "{settings}");
    }
}
