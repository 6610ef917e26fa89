//! Measures what a call costs: `cargo run --release -p wasmill-plugin --example calls [PLUGIN.wasm …]`.
//!
//! Without arguments it calls a guest that answers no edits, and one that reads every byte of the frame.
//! For each: compile, load from the cache, make an instance, and call with 256 messages of 100 bytes.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use wasmill_engine::guest::{CallContext, MessageFacts, Trial};
use wasmill_plugin::{Grants, Sandbox, SandboxOptions, StageConfig};

const MESSAGES: usize = 256;
const CALLS: u32 = 2_000;

fn main() {
    let cache = std::env::temp_dir().join(format!("wasmill-calls-{}", std::process::id()));
    let mut guests: Vec<(String, Vec<u8>)> = std::env::args()
        .skip(1)
        .map(|path| (path.clone(), std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))))
        .collect();
    if guests.is_empty() {
        guests.push(("no edits".into(), common::transform("(call $keep (local.get $p))")));
        guests.push(("reads each byte".into(), common::transform(READS)));
    }
    let (sandbox, took) = timed(|| {
        let options = SandboxOptions { cache: Some(cache.clone()), ..SandboxOptions::default() };
        Sandbox::new(options).expect("sandbox")
    });
    println!("sandbox: {took:?}");
    for (name, bytes) in &guests {
        measure(&sandbox, name, bytes);
    }
    ticks();
    drop(std::fs::remove_dir_all(cache));
}

const READS: &str = "(local $at i32) (local $sum i32)
  (loop $next
    (local.set $sum (i32.add (local.get $sum) (i32.load8_u (i32.add (local.get $p) (local.get $at)))))
    (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $n))))
  (i32.store (i32.const 800) (local.get $sum))
  (call $keep (local.get $p))";

fn timed<T>(f: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = f();
    (value, start.elapsed())
}

fn measure(sandbox: &Sandbox, name: &str, bytes: &[u8]) {
    let load = || sandbox.load_bytes("guest", bytes, &Grants::all(), StageConfig::new()).expect("loads");
    let (_, compiled) = timed(load);
    let (plugin, cached) = timed(load);
    println!("{name}: {} bytes; compile and load {compiled:?}, load from the cache {cached:?}", bytes.len());
    if !plugin.info().kinds.transform {
        return;
    }
    let frame = common::frame(MESSAGES, 100);
    let context = || CallContext {
        facts: vec![MessageFacts::default(); if plugin.info().needs_facts { MESSAGES } else { 0 }],
        state: None,
    };
    let mut cx = context();
    let call = |guest: &mut dyn wasmill_engine::guest::Guest, cx: &mut CallContext, trial| {
        guest.transform(frame.as_bytes(), cx, trial).map(|answer| answer.len())
    };
    if let Err(error) = call(&mut *plugin.guest(), &mut cx, Trial::Batch) {
        println!("  a call fails: {error}");
        return;
    }
    let mut guest = plugin.guest();
    let (_, first) = timed(|| call(&mut *guest, &mut cx, Trial::Batch));
    let (_, all) = timed(|| (0..CALLS).for_each(|_| drop(call(&mut *guest, &mut cx, Trial::Batch))));
    println!("  first call, on a new instance {first:?}; then {:?} a call of {MESSAGES}", all / CALLS);
    let (_, first) = timed(|| call(&mut *guest, &mut cx, Trial::Verdict));
    let (_, all) = timed(|| (0..100).for_each(|_| drop(call(&mut *guest, &mut cx, Trial::Verdict))));
    println!("  first verdict {first:?}; then {:?} a verdict, each on a new instance", all / 100);
}

/// The same component called through wasmtime alone, with and without ticks.
fn ticks() {
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Config, Engine, Store};
    let frame = common::frame(MESSAGES, 100);
    for (name, body) in [("no edits", "(call $keep (local.get $p))"), ("reads each byte", READS)] {
        let bytes = common::transform(body);
        for ticks in [false, true] {
            let mut config = Config::new();
            config.concurrency_support(false).epoch_interruption(ticks);
            let engine = Engine::new(&config).expect("engine");
            let component = Component::from_binary(&engine, &bytes).expect("component");
            let mut store = Store::new(&engine, ());
            if ticks {
                store.set_epoch_deadline(1_000_000);
            }
            let instance = Linker::new(&engine).instantiate(&mut store, &component).expect("instance");
            let face = component.get_export_index(None, "wasmill:plugin/transform@0.1.0").expect("export");
            let process = component.get_export_index(Some(&face), "process").expect("function");
            let mut call = || {
                type Answer = (Result<Vec<u8>, String>,);
                let function =
                    instance.get_typed_func::<(&[u8],), Answer>(&mut store, process).expect("type");
                function.call(&mut store, (frame.as_bytes(),)).expect("answer").0.map(|a| a.len())
            };
            let (_, warm) = timed(&mut call);
            let (_, all) = timed(|| (0..CALLS).for_each(|_| drop(call())));
            println!("wasmtime alone, {name}, ticks {ticks}: {:?} a call (first {warm:?})", all / CALLS);
        }
    }
}
