//! What hostile plugins cost others: how far a call goes over its deadline, and a neighbour's latency beside one.

use std::time::{Duration, Instant};

use wasmill_engine::guest::{CallContext, MessageFacts, Trial};
use wasmill_frame::{FrameBuf, Parts, TIMESTAMP_NONE};
use wasmill_plugin::{Grants, Limits, Sandbox, SandboxOptions, StageConfig};
use wasmill_tests::Place;

use crate::clock::{Times, timed};
use crate::paced::run;
use crate::program;
use crate::report::{Report, Row, Target};

const DEADLINE_MS: u64 = 50;
/// How often the deadline moves on; a call that begins between two ticks has the rest of one more.
const TICK_MS: f64 = 10.0;
/// What the thread that ticks, and the one that is stopped, may wait for their turn.
const TURN_MS: f64 = 1.0;
const CALLS: usize = 20;
/// The part of what the neighbour can take that it is given.
const LOAD: f64 = 0.3;
/// For how long its latency is measured, and how many messages show what it can take.
const SECONDS: f64 = 8.0;
const CAPACITY_MESSAGES: usize = 300_000;

/// Measures what hostile plugins cost others.
pub fn measure(report: &mut Report) {
    preemption(report);
    neighbour(report);
}

fn preemption(report: &mut Report) {
    let limits = Limits {
        deadline_ms: DEADLINE_MS,
        memory_bytes_max: 4 << 20,
        fuel: 1_000_000_000,
        ..Limits::default()
    };
    let sandbox = Sandbox::new(SandboxOptions { limits, ..SandboxOptions::default() });
    let sandbox = sandbox.unwrap_or_else(|e| panic!("{e}"));
    let mut frame = FrameBuf::default();
    frame.push(&Parts {
        id: "m",
        kind: "test",
        key: None,
        payload: b"{}",
        timestamp: TIMESTAMP_NONE,
        metadata: b"",
        payload_is_json: true,
    });
    for program in program::all().into_iter().filter(|p| p.batch == "deadline") {
        let plugin =
            sandbox.load_bytes(&program.name, &program.component, &Grants::none(), StageConfig::new());
        let mut guest = plugin.unwrap_or_else(|e| panic!("{e}")).guest();
        let (mut on_the_clock, mut of_the_processor) = (Times::default(), Times::default());
        let over = |took: Duration| took.as_secs_f64() * 1e3 - DEADLINE_MS as f64;
        for _ in 0..CALLS {
            let mut cx = CallContext { facts: vec![MessageFacts::default()], ..CallContext::default() };
            let begun = Instant::now();
            of_the_processor.push(over(timed(|| {
                let error =
                    guest.transform(frame.as_bytes(), &mut cx, Trial::Batch).expect_err(&program.name);
                assert_eq!(error.kind(), "deadline", "{}: {error}", program.name);
            })));
            on_the_clock.push(over(begun.elapsed()));
        }
        let how = |what: &str| format!("{}: over its deadline of {DEADLINE_MS} ms, {what}", program.name);
        // A busy machine's clock goes on while nothing is done: what must hold is the worst of the other.
        let worst = one(of_the_processor.max());
        let target = Some(Target::AtMost(TICK_MS + TURN_MS));
        report.push(Row::figure("a hostile call", &how("processor time, the worst"), &worst, "ms", target));
        report.push(Row::figure("a hostile call", &how("on the clock"), &on_the_clock, "ms", None));
    }
}

/// A figure that there is one of.
fn one(figure: f64) -> Times {
    let mut times = Times::default();
    times.push(figure);
    times
}

fn neighbour(report: &mut Report) {
    const WHAT: &str = "a neighbour in the same process, stdin → a plugin → stdout";
    let place = Place::with_plugins(&["seed-job"]);
    place.file("plugins/by-letter.wasm", program::named("by-letter").component);
    // Every eighth message does its worst; there are more of them than can be worked off meanwhile.
    let harms: Vec<char> = "ltpmdauoxheg".chars().collect();
    let line = |i: usize| {
        let harm = if i.is_multiple_of(8) { harms[i / 8 % harms.len()] } else { '-' };
        format!("{{\"id\":\"m{i}\",\"type\":\"t\",\"payload\":{{\"harm\":\"{harm}\"}},\"timestamp\":{i}}}\n")
    };
    place.file("hostile.jsonl", (0..200_000).map(line).collect::<String>());
    place.file("hostile.yaml", "name: hostile\nsource: { file: { path: hostile.jsonl } }\nstages: [{ transform: by-letter }]\nsink: { file: { path: out } }\ndead_letter: { file: { path: dead } }\nlimits: { deadline: 50ms, fuel: 50000000, memory: 8MiB }\n");
    place.file("beside.yaml", "name: beside\nsource: { stdin: {} }\nstages: [{ transform: seed-job }]\nsink: { stdout: {} }\nepoch: { interval: 5ms }\n");
    let capacity = run(&place, &["beside.yaml"], f64::INFINITY, CAPACITY_MESSAGES);
    let rate = LOAD * capacity.rate;
    let messages = (rate * SECONDS) as usize;
    let alone = run(&place, &["beside.yaml"], rate, messages);
    let beside = run(&place, &["beside.yaml", "hostile.yaml"], rate, messages);
    let how = format!("p99 at {rate:.0} messages/s, which are 30 % of what it can take, alone");
    report.push(Row::figure(WHAT, &how, &one(alone.p99_ms), "ms", None));
    let how = format!("the same beside a hostile pipeline; the aim is {:.0} ms", 2.0 * alone.p99_ms + 5.0);
    report.push(Row::figure(WHAT, &how, &one(beside.p99_ms), "ms", None));
}
