//! Hostile plugins: each meets its bound, says which, and hurts neither host nor neighbour.

mod common;

use std::sync::{Arc, Barrier};

use common::*;
use wasmill_engine::guest::{CallContext, Guest, KeyedState, Plugin, PluginRef, Trial};
use wasmill_frame::Edits;
use wasmill_plugin::{Grant, Grants, Limits, Sandbox, StageConfig};

struct Case {
    name: &'static str,
    component: Vec<u8>,
    /// Kind of the error in production and in the verdict, and what its text says.
    batch: &'static str,
    verdict: &'static str,
    says: &'static str,
}

fn case(
    name: &'static str,
    component: Vec<u8>,
    batch: &'static str,
    verdict: &'static str,
    says: &'static str,
) -> Case {
    Case { name, component, batch, verdict, says }
}

const LOOP: &str = "(loop $again (br $again)) unreachable";

fn cases() -> Vec<Case> {
    let importing = transform_importing;
    vec![
        case("loops for ever", transform(LOOP), "deadline", "fuel", ""),
        case(
            "loops in its start function",
            importing(&Imports::default(), "(func $s (loop $again (br $again))) (start $s)", "unreachable"),
            "deadline",
            "fuel",
            "",
        ),
        case(
            "fills memory in a loop",
            transform(
                "(loop $again (memory.fill (i32.const 512) (i32.const 1) (i32.const 65000)) (br $again)) unreachable",
            ),
            "deadline",
            "fuel",
            "",
        ),
        case("traps", transform("unreachable"), "trap", "trap", "unreachable"),
        case(
            "divides by zero",
            transform("(i32.div_u (local.get $n) (i32.const 0))"),
            "trap",
            "trap",
            "divide by zero",
        ),
        case(
            "recurses without end",
            importing(
                &Imports::default(),
                "(func $deep (call $deep) (call $deep))",
                "(call $deep) unreachable",
            ),
            "trap",
            "trap",
            "stack",
        ),
        case(
            "grows memory until it may not",
            transform(
                "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
            ),
            "memory",
            "memory",
            "4194304 bytes",
        ),
        case(
            "grows a table until it may not",
            importing(
                &Imports::default(),
                "(table $t 1 funcref)",
                "(loop $again (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 9999)) (i32.const -1)))) unreachable",
            ),
            "memory",
            "memory",
            "",
        ),
        case(
            "answers 1 GiB that it does not have",
            transform("(call $ok (i32.const 0) (i32.const 0x40000000))"),
            "answer",
            "answer",
            "",
        ),
        case(
            "answers more than it may",
            transform("(drop (memory.grow (i32.const 2))) (call $ok (i32.const 0) (i32.const 100000))"),
            "answer",
            "answer",
            "more than 65536 bytes",
        ),
        case(
            "answers neither ok nor error",
            transform("(call $answer (i32.const 7) (i32.const 0) (i32.const 0))"),
            "answer",
            "answer",
            "",
        ),
        case(
            "answers from an unaligned place",
            transform("(drop (call $keep (local.get $p))) (i32.const 33)"),
            "answer",
            "answer",
            "align",
        ),
        case("answers from outside memory", transform("(i32.const -4)"), "answer", "answer", ""),
        case(
            "gives an error that is not text",
            transform("(call $err (i32.const 256) (i32.const 2))"),
            "answer",
            "answer",
            "utf-8",
        ),
        case(
            "refuses the whole call",
            transform("(call $err (i32.const 128) (i32.const 22))"),
            "error",
            "error",
            "panic: no such airport",
        ),
        case(
            "panics",
            importing(&LOG, "", "(call $write (i32.const 0) (i32.const 128) (i32.const 38)) unreachable"),
            "trap",
            "trap",
            "panic: no such airport at src/lib.rs:7",
        ),
        case(
            "floods the host with calls",
            importing(&RANDOM, "", "(loop $again (drop (call $next (i32.const 0))) (br $again)) unreachable"),
            "trap",
            "trap",
            "called the host more than 1000 times",
        ),
        case(
            "asks of a message that isn't there",
            importing(&RANDOM, "", "(drop (call $next (i32.const 3))) (call $keep (local.get $p))"),
            "trap",
            "trap",
            "message 3; this call has 3",
        ),
        case(
            "dies with words on stderr",
            importing(
                &WASI,
                "",
                "(call $print (call $stderr) (i32.const 128) (i32.const 22) (i32.const 700)) unreachable",
            ),
            "trap",
            "trap",
            "no such airport",
        ),
        case(
            "forges a file handle",
            importing(&WASI, "", "(call $sync (i32.const 1) (i32.const 700)) unreachable"),
            "trap",
            "trap",
            "handle",
        ),
    ]
}

fn load(sandbox: &Sandbox, component: &[u8]) -> PluginRef {
    let grants = [Grant::State, Grant::Metrics].into_iter().collect();
    sandbox.load_bytes("guest", component, &grants, StageConfig::new()).expect("admitted")
}

/// Whether a guest of this plugin answers three messages with no edits.
fn keeps(plugin: &dyn Plugin) -> bool {
    let frame = frame(3, 10);
    let answer = plugin.guest().transform(frame.as_bytes(), &mut facts(3), Trial::Batch);
    answer.is_ok_and(|bytes| Edits::parse(&bytes, 3).is_ok_and(|edits| edits.is_empty()))
}

#[test]
fn each_hostile_guest_meets_its_bound_and_hurts_nobody() {
    let sandbox = small_sandbox();
    let neighbour = load(&sandbox, &transform("(call $keep (local.get $p))"));
    let frame = frame(3, 10);
    for Case { name, component, batch, verdict, says } in cases() {
        let plugin = load(&sandbox, &component);
        let mut guest = plugin.guest();
        // Twice: the second call must find a fresh instance, not what the first left.
        for (trial, kind) in [(Trial::Batch, batch), (Trial::Verdict, verdict), (Trial::Batch, batch)] {
            let mut cx = facts(3);
            let error = guest.transform(frame.as_bytes(), &mut cx, trial).expect_err(name);
            assert_eq!(error.kind(), kind, "{name}, {trial:?}: {error}");
            assert!(error.to_string().contains(says), "{name}, {trial:?}: {error}");
            // A call that fails before it begins leaves the context untouched, any other gives it back.
            assert_eq!(cx.facts.len(), 3, "{name}: the context came back");
        }
        assert!(keeps(neighbour.as_ref()), "{name}: the neighbour answers as before");
    }
}

#[test]
fn a_verdict_repeats_to_the_letter() {
    let sandbox = small_sandbox();
    let frame = frame(3, 10);
    for Case { name, component, .. } in cases() {
        let verdict = |sandbox: &Sandbox| {
            let mut guest = load(sandbox, &component).guest();
            guest.transform(frame.as_bytes(), &mut facts(3), Trial::Verdict).expect_err(name)
        };
        assert_eq!(verdict(&sandbox), verdict(&small_sandbox()), "{name}");
    }
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

#[test]
fn a_sandbox_without_grants_grants_nothing() {
    let sandbox = small_sandbox();
    let keep = "(call $keep (local.get $p))";
    for (imports, name) in [(&STATE, "state"), (&METRICS, "metrics"), (&WALL_CLOCK, "wall-clock")] {
        let component = transform_importing(imports, "", keep);
        let refused = sandbox.load_bytes("enrich", &component, &Grants::none(), StageConfig::new());
        let error = refused.err().expect("refused").to_string();
        let expected =
            format!("plugin enrich imports `{name}`, which its stage isn't granted: add `grants: [{name}]`");
        assert_eq!(error, expected);
        let granted = [name.parse::<Grant>().expect("a grant")].into_iter().collect();
        let plugin = sandbox.load_bytes("enrich", &component, &granted, StageConfig::new()).expect("granted");
        assert!(keeps(plugin.as_ref()));
    }
}
