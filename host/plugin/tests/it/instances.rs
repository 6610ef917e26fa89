//! Instances: how long one lasts, who shares it, and what a full pool says.

use std::sync::{Arc, Barrier};

use wasmill_engine::guest::{CallContext, Guest, KeyedState, PluginRef, Trial};
use wasmill_plugin::{Grant, Grants, Limits, Sandbox, StageConfig};

use crate::common::*;

fn load(sandbox: &Sandbox, component: &[u8]) -> PluginRef {
    let grants = [Grant::State, Grant::Metrics].into_iter().collect();
    sandbox.load_bytes("guest", component, &grants, StageConfig::new()).expect("admitted")
}

/// A transform that does this; the number of messages in its answer counts the calls that the instance has had.
fn counting(imports: &Imports, does: &str) -> Vec<u8> {
    let body = format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         {does}
         (drop (call $keep (local.get $p)))
         (i32.store (i32.const 76) (global.get $calls))
         (i32.const 32)"
    );
    transform_importing(imports, "(global $calls (mut i32) (i32.const 0))", &body)
}

fn calls_seen_by(guest: &mut dyn Guest, cx: &mut CallContext, trial: Trial) -> u32 {
    let answer = guest.transform(frame(1, 1).as_bytes(), cx, trial).expect("answer");
    u32::from_le_bytes([answer[12], answer[13], answer[14], answer[15]])
}

#[test]
fn stages_of_one_plugin_share_its_instances_and_no_other_does() {
    let sandbox = small_sandbox();
    let component = counting(&Imports::default(), "");
    let config = |text: &str| StageConfig::from([("a".to_owned(), text.to_owned())]);
    let none = Grants::none();
    let load = |name: &str, grants: &Grants, config: StageConfig| {
        sandbox.load_bytes(name, &component, grants, config).expect("admitted").guest()
    };
    let call = |guest: &mut Box<dyn Guest>| calls_seen_by(guest.as_mut(), &mut facts(1), Trial::Batch);
    let mut first = load("guest", &none, config("1"));
    let mut second = load("guest", &none, config("1"));
    assert_eq!([call(&mut first), call(&mut second), call(&mut first)], [1, 2, 3], "one instance for both");
    let state = [Grant::State].into_iter().collect();
    for (what, other) in [
        ("another name", load("other", &none, config("1"))),
        ("another config", load("guest", &none, config("2"))),
        ("other grants", load("guest", &state, config("1"))),
    ] {
        let mut other = other;
        assert_eq!(call(&mut other), 1, "{what}");
    }
    drop(first);
    assert_eq!(call(&mut second), 4, "it stays while a stage has it");
    drop(second);
    assert_eq!(call(&mut load("guest", &none, config("1"))), 1, "and no longer");
}

/// A state at which two calls meet.
struct Meeting(Arc<Barrier>);

impl KeyedState for Meeting {
    fn get(&mut self, _: u32, _: &str) -> Result<Option<Vec<u8>>, String> {
        self.0.wait();
        Ok(None)
    }
    fn set(&mut self, _: u32, _: &str, _: Option<&[u8]>, _: Option<u64>) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn calls_at_the_same_time_have_instances_of_their_own() {
    let sandbox = sandbox(Limits { deadline_ms: 60_000, ..small_limits() });
    let increment =
        "(call $increment (i32.const 0) (i32.const 288) (i32.const 1) (i64.const 1) (i32.const 720))";
    let plugin = load(&sandbox, &counting(&STATE, increment));
    let keeper = plugin.guest();
    let barrier = Arc::new(Barrier::new(2));
    let seen = |_: usize| {
        let (mut guest, barrier) = (plugin.guest(), Arc::clone(&barrier));
        std::thread::spawn(move || {
            let mut cx = CallContext { state: Some(Box::new(Meeting(barrier))), ..facts(1) };
            calls_seen_by(guest.as_mut(), &mut cx, Trial::Batch)
        })
    };
    let threads = [0, 1].map(seen);
    assert_eq!(threads.map(|t| t.join().expect("answered")), [1, 1], "both were in their call");
    // Of the two that were made, one is left for the one guest that is left.
    assert_eq!(calls_alone(&plugin), 2);
    drop(keeper);
    assert_eq!(calls_alone(&plugin), 1);
}

fn calls_alone(plugin: &PluginRef) -> u32 {
    let mut cx = CallContext { state: Some(Box::new(Meeting(Arc::new(Barrier::new(1))))), ..facts(1) };
    calls_seen_by(plugin.guest().as_mut(), &mut cx, Trial::Batch)
}

#[test]
fn an_instance_lasts_while_it_succeeds_and_does_not_grow_too_far() {
    let counting =
        |grow: u32| counting(&Imports::default(), &format!("(drop (memory.grow (i32.const {grow})))"));
    let limits = Limits { instance_growth_bytes_max: 3 << 16, ..small_limits() };
    let sandbox = sandbox(limits);
    for (grow, batch, calls_seen) in [
        (0, Trial::Batch, [1, 2, 3, 4, 5, 6]),
        (2, Trial::Batch, [1, 2, 1, 2, 1, 2]),
        (0, Trial::Verdict, [1; 6]),
    ] {
        let mut guest = load(&sandbox, &counting(grow)).guest();
        let seen = calls_seen.map(|_| calls_seen_by(guest.as_mut(), &mut facts(1), batch));
        assert_eq!(seen, calls_seen, "growing by {grow} pages a call, {batch:?}");
    }
}

#[test]
fn a_full_pool_is_no_verdict() {
    let sandbox = sandbox(Limits { instances_max: 1, ..small_limits() });
    let component = transform("(call $keep (local.get $p))");
    let other =
        sandbox.load_bytes("other", &component, &Grants::none(), StageConfig::new()).expect("admitted");
    let frame = frame(1, 1);
    let (mut first, mut second) = (load(&sandbox, &component).guest(), other.guest());
    let mut cx = CallContext::default();
    first.transform(frame.as_bytes(), &mut cx, Trial::Batch).expect("room for one");
    let error = second.transform(frame.as_bytes(), &mut cx, Trial::Batch).expect_err("no room");
    assert!(error.to_string().contains("instances_max"), "{error}");
    second.transform(frame.as_bytes(), &mut cx, Trial::Verdict).expect("verdicts need no room in the pool");
    drop(first);
    second.transform(frame.as_bytes(), &mut cx, Trial::Batch).expect("room again");
}
