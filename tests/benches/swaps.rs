//! What a swap adds to the latency of messages that flow meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasmill_tests::Place;
use wasmill_tests::stamps::{component, put};

use crate::clock::Times;
use crate::paced::run;
use crate::report::{Report, Row, Target};

const WHAT: &str = "stdin → a plugin → stdout";
/// Messages a second, and for how long.
const RATE: f64 = 5_000.0;
const MESSAGES: usize = 60_000;
/// How often the plugin is swapped meanwhile.
const EVERY: Duration = Duration::from_secs(1);
/// What swaps may add to the 99th percentile.
const ADDED_MS: f64 = 20.0;

/// Measures it.
pub fn measure(report: &mut Report) {
    let place = Place::new();
    put(&place, "stamps", &component(0));
    place.file("pipeline.yaml", "name: swapped\nsource: { stdin: {} }\nstages: [{ transform: stamps }]\nsinks:\n  - stdout: {}\n  - file: { path: stamped }\n    output: stamped\nepoch: { interval: 5ms }\n");
    let alone = run(&place, &["pipeline.yaml"], RATE, MESSAGES);
    let over = AtomicBool::new(false);
    let (swapped, swaps) = thread::scope(|threads| {
        let swapping = threads.spawn(|| {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                put(&place, "stamps", &component(number));
                thread::sleep(EVERY);
            }
            number
        });
        let swapped = run(&place, &["pipeline.yaml"], RATE, MESSAGES);
        over.store(true, Ordering::Relaxed);
        (swapped, swapping.join().expect("it swaps"))
    });
    let one = |figure: f64| {
        let mut times = Times::default();
        times.push(figure);
        times
    };
    let how = format!("p99 at {RATE:.0} messages/s");
    report.push(Row::figure(WHAT, &how, &one(alone.p99_ms), "ms", None));
    let how = format!("the same with {swaps} swaps to versions never seen, one a second");
    let target = Target::AtMost((alone.p99_ms + ADDED_MS).ceil());
    report.push(Row::figure(WHAT, &how, &one(swapped.p99_ms), "ms", Some(target)));
}
