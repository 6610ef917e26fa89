//! What the sandbox costs beside the plugins' own work: instances, loading, memory, limits.

use std::time::{Duration, Instant};

use wasmill_engine::guest::{CallContext, Guest, PluginRef, Trial};
use wasmill_frame::{FrameBuf, Parts};
use wasmill_plugin::{Compiler, Grants, Limits, Sandbox, SandboxOptions, StageConfig};
use wasmill_tests::home;

use crate::clock::{Contender, Times, by_turns, process_cpu, timed};
use crate::report::{Report, Row, Target};
use crate::untimed::{Ticks, Untimed};

/// What is loaded: the seed's own job, by the Rust SDK.
const PLUGIN: &str = "seed-job";
/// Plugins that differ, as the cache sees them.
const CACHED: usize = 100;
/// Plugins at once in one process.
const LOADED: usize = 1_000;
/// Instances made in a row.
const INSTANCES: usize = 200;
const ROUNDS: usize = 9;
/// Calls in a row, and messages of one.
const CALLS: usize = 200;
const MESSAGES: usize = 256;

pub fn measure(report: &mut Report) {
    instances(report);
    limits(report);
    compiling(report);
    loading(report);
}

fn bytes() -> Vec<u8> {
    let file = home::plugin(PLUGIN);
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn load(sandbox: &Sandbox, name: &str, bytes: &[u8]) -> PluginRef {
    let loaded = sandbox.load_bytes(name, bytes, &Grants::all(), StageConfig::new());
    loaded.unwrap_or_else(|e| panic!("{e}"))
}

fn sandbox(options: SandboxOptions) -> Sandbox {
    Sandbox::new(options).unwrap_or_else(|e| panic!("{e}"))
}

fn frame(messages: usize) -> FrameBuf {
    let mut frame = FrameBuf::with_capacity(messages, messages * 160);
    let payload = format!("{{\"pad\":\"{}\"}}", "x".repeat(90));
    for i in 0..messages {
        frame.push(&Parts {
            id: &format!("message-{i}"),
            kind: if i % 10 == 0 { "ignore" } else { "click" },
            key: None,
            payload: payload.as_bytes(),
            timestamp: 1_700_000_000_000 + i as i64,
            metadata: b"",
            payload_is_json: true,
        });
    }
    frame
}

fn call(guest: &mut dyn Guest, frame: &FrameBuf) -> Vec<u8> {
    let answer = guest.transform(frame.as_bytes(), &mut CallContext::default(), Trial::Batch);
    answer.unwrap_or_else(|e| panic!("{e}"))
}

/// An instance from the pool, with its first call; beside it a call of an instance that is there.
fn instances(report: &mut Report) {
    let sandbox = sandbox(SandboxOptions { cache: Some(home::cache()), ..SandboxOptions::default() });
    let (held, plugin) = (load(&sandbox, "held", &bytes()), load(&sandbox, "not-held", &bytes()));
    let one = frame(1);
    // Whose last guest goes has no instance left; guests of one plugin share theirs.
    let mut kept = held.guest();
    call(kept.as_mut(), &one);
    let mut contenders = vec![
        Contender {
            name: "an instance that is there".into(),
            messages: INSTANCES,
            run: Box::new(|| timed(|| (0..INSTANCES).for_each(|_| drop(call(kept.as_mut(), &one))))),
        },
        Contender {
            name: "one from the pool, given back".into(),
            messages: INSTANCES,
            run: Box::new(|| {
                timed(|| (0..INSTANCES).for_each(|_| drop(call(plugin.guest().as_mut(), &one))))
            }),
        },
    ];
    let times = by_turns(&mut contenders, ROUNDS);
    for ((contender, times), most) in contenders.iter().zip(&times).zip([None, Some(100.0)]) {
        let micros = times.scaled(1e-3);
        let target = most.map(Target::AtMost);
        report.push(Row::figure("a call with one message", &contender.name, &micros, "µs", target));
    }
}

/// What a call costs beside the same code in a bare store.
fn limits(report: &mut Report) {
    let sandbox = sandbox(SandboxOptions { cache: Some(home::cache()), ..SandboxOptions::default() });
    let many = frame(MESSAGES);
    let bare = |ticks| Untimed::load(&home::plugin(PLUGIN), ticks).unwrap_or_else(|e| panic!("{e:#}"));
    let (without, with) = (bare(Ticks::Off), bare(Ticks::On));
    let limited = load(&sandbox, PLUGIN, &bytes());
    let contender = |name: &str, plugin: &dyn wasmill_engine::guest::Plugin| {
        let mut guest = plugin.guest();
        let many = &many;
        Contender {
            name: name.to_owned(),
            messages: CALLS * MESSAGES,
            run: Box::new(move || timed(|| (0..CALLS).for_each(|_| drop(call(guest.as_mut(), many))))),
        }
    };
    let mut contenders = vec![
        contender("a bare store, without ticks", &without),
        contender("a bare store, with ticks", &with),
        contender("the sandbox: ticks and all limits", limited.as_ref()),
    ];
    let times = by_turns(&mut contenders, 2 * ROUNDS);
    let what = "a frames call, 256 messages";
    for (contender, of) in contenders.iter().zip(&times) {
        report.push(Row::ratio(what, &contender.name, of, &times[0], None));
    }
    let how = "limits other than ticks: the sandbox to the bare store with ticks";
    report.push(Row::ratio(what, how, &times[2], &times[1], Some(Target::AtMost(1.05))));
}

/// A plugin's first start, where no cache has it: on a quiet machine, for it is the clock's time.
fn compiling(report: &mut Report) {
    let own = Compiler { program: home::binary(), arguments: vec!["compile-plugin".into()] };
    let bytes = bytes();
    for (how, compiler) in [("in this process", None), ("in a process of its own", Some(own))] {
        let sandbox = sandbox(SandboxOptions { compiler, ..SandboxOptions::default() });
        let mut times = Times::default();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            load(&sandbox, PLUGIN, &bytes);
            times.push(milliseconds(begun.elapsed()));
        }
        report.push(Row::figure("a plugin compiled and ready", how, &times, "ms", None));
    }
}

/// Plugins as good as new to the cache, loaded once more from it.
fn loading(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let limits = Limits { instances_max: 16, ..Limits::default() };
    let open = || {
        let cache = Some(folder.path().to_owned());
        sandbox(SandboxOptions { limits: limits.clone(), cache, ..SandboxOptions::default() })
    };
    // Each has a digest of its own: what is the same is loaded once.
    let plugins: Vec<(String, Vec<u8>)> = (0..LOADED).map(|n| (format!("p{n}"), numbered(n))).collect();
    let ready_of = |sandbox: &Sandbox, count: usize| -> (Vec<PluginRef>, f64) {
        let begun = process_cpu();
        let loaded = plugins[..count].iter().map(|(name, bytes)| load(sandbox, name, bytes)).collect();
        (loaded, milliseconds(process_cpu().saturating_sub(begun)))
    };
    let ready = |sandbox: &Sandbox| ready_of(sandbox, CACHED);
    let mut compiled = Times::default();
    compiled.push(ready(&open()).1);
    report.push(Row::figure("100 plugins ready", "compiled, one after the other", &compiled, "ms", None));
    let mut cached = Times::default();
    for _ in 0..ROUNDS {
        cached.push(ready(&open()).1);
    }
    report.push(Row::figure(
        "100 plugins ready",
        "from the cache",
        &cached,
        "ms",
        Some(Target::AtMost(1_000.0)),
    ));

    drop(ready_of(&open(), LOADED));
    let sandbox = open();
    let before = resident_mib();
    let loaded = ready_of(&sandbox, LOADED).0;
    let mut held = Times::default();
    held.push(resident_mib() - before);
    assert_eq!(loaded.len(), LOADED);
    report.push(Row::figure(
        "1,000 plugins loaded",
        "resident memory",
        &held,
        "MiB",
        Some(Target::AtMost(2_048.0)),
    ));
}

/// The plugin with a section of its own, so that it has a digest of its own.
fn numbered(number: usize) -> Vec<u8> {
    let mut bytes = bytes();
    let text = format!("{number:04}");
    // A custom section: its kind, its length, its name's length, its name, and what it holds.
    bytes.extend_from_slice(&[0, 2 + text.len() as u8, 1, b'n']);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The memory that the process has.
fn resident_mib() -> f64 {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = told.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(f64::NAN);
    pages * rustix::param::page_size() as f64 / f64::from(1 << 20)
}
