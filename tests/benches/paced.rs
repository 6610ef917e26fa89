//! Pipelines from stdin to stdout, given messages at a pace.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use wasmill_tests::{Place, home};

/// What was measured.
pub struct Measured {
    /// Messages a second.
    pub rate: f64,
    /// The 99th percentile from when a message was due to when it came back, in milliseconds.
    pub p99_ms: f64,
}

/// Runs these pipelines, writes so many messages at this rate to stdin, and takes the time until each is on stdout.
pub fn run(place: &Place, specs: &[&str], rate: f64, messages: usize) -> Measured {
    let mut child = Command::new(home::binary())
        .arg("run")
        .args(specs)
        .current_dir(place.path(""))
        .env_clear()
        .env("XDG_CACHE_HOME", home::cache())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("wasmill can't be started: {e}"));
    let (mut stdin, stdout) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
    let line = |i: usize| {
        format!("{{\"id\":\"m{i}\",\"type\":\"t\",\"payload\":{{\"n\":{i}}},\"timestamp\":{i}}}\n")
    };
    // One message ahead: the process has begun once it is back.
    stdin.write_all(line(messages).as_bytes()).expect("a line");
    stdin.flush().expect("a line");
    let (began, has_begun) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut came = vec![None; messages];
        let mut left = messages;
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("a line");
            let id = line.split_once("\"id\":\"m").and_then(|(_, rest)| rest.split_once('"'));
            let id: usize = id.and_then(|(id, _)| id.parse().ok()).expect("an id");
            match came.get_mut(id) {
                Some(place) => {
                    *place = Some(Instant::now());
                    left -= 1;
                }
                None => began.send(()).expect("somebody waits"),
            }
            if left == 0 {
                break;
            }
        }
        came
    });
    has_begun.recv().expect("the first message comes back");
    let begun = Instant::now();
    let due = |i: usize| begun + Duration::from_secs_f64(i as f64 / rate);
    let mut sent = 0;
    while sent < messages {
        let mut package = String::new();
        while sent < messages && due(sent) <= Instant::now() && package.len() < 64 << 10 {
            package.push_str(&line(sent));
            sent += 1;
        }
        stdin.write_all(package.as_bytes()).expect("lines");
        if package.is_empty() {
            thread::sleep(Duration::from_micros(500));
        }
    }
    let came = reader.join().expect("a reader");
    let took = begun.elapsed().as_secs_f64();
    // What was due but waited for its turn has waited too.
    let latency = |(i, came): (usize, &Option<Instant>)| {
        came.map(|at| at.saturating_duration_since(due(i)).as_secs_f64() * 1e3)
    };
    let mut latencies: Vec<f64> = came.iter().enumerate().filter_map(latency).collect();
    assert_eq!(latencies.len(), messages, "every message came back");
    latencies.sort_unstable_by(f64::total_cmp);
    child.kill().and_then(|()| child.wait()).expect("it ends");
    Measured { rate: messages as f64 / took, p99_ms: latencies[latencies.len() * 99 / 100] }
}
