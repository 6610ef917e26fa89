//! What a plugin may touch: state, counters, time and chance, and WASI's empty world.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wasmill_engine::guest::{CallContext, CallError, Judged, KeyedState, Trial};
use wasmill_frame::{Edit, Edits};
use wasmill_plugin::{Grants, Limits, Sandbox, StageConfig};

use crate::common::*;

type Entries = BTreeMap<(u32, String), Vec<u8>>;

#[derive(Clone, Default)]
struct FakeState(Arc<Mutex<Entries>>);

impl KeyedState for FakeState {
    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.lock().expect("lock").get(&(index, name.to_owned())).cloned())
    }
    fn set(&mut self, index: u32, name: &str, value: Option<&[u8]>, _ttl: Option<u64>) -> Result<(), String> {
        let mut entries = self.0.lock().expect("lock");
        match value {
            Some(value) => entries.insert((index, name.to_owned()), value.to_vec()),
            None => entries.remove(&(index, name.to_owned())),
        };
        Ok(())
    }
}

fn call(
    sandbox: &Sandbox,
    component: &[u8],
    cx: &mut CallContext,
    trial: Trial,
) -> Result<Vec<u8>, CallError> {
    let plugin = sandbox.load_bytes("guest", component, &Grants::all(), StageConfig::new());
    let mut guest = plugin.unwrap_or_else(|e| panic!("{e}")).guest();
    guest.transform(frame(3, 10).as_bytes(), cx, trial)
}

#[test]
fn state_counts_in_decimal_text_and_comes_back_with_the_context() {
    // Increments entry "n" of message 1 by 5, and refuses the call if the host does.
    let component = transform_importing(
        &STATE,
        "",
        "(call $increment (i32.const 1) (i32.const 288) (i32.const 1) (i64.const 5) (i32.const 720))
         (if (i32.load8_u (i32.const 720))
           (then (return (call $err (i32.load (i32.const 728)) (i32.load (i32.const 732))))))
         (call $keep (local.get $p))",
    );
    let sandbox = small_sandbox();
    for (before, after, says) in [
        (None, Some("5"), ""),
        (Some("37"), Some("42"), ""),
        (Some("many"), Some("many"), "\"many\" is no number"),
        (Some("9223372036854775807"), Some("9223372036854775807"), "leaves 64 bits"),
    ] {
        for trial in [Trial::Batch, Trial::Verdict] {
            let state = FakeState::default();
            let key = (1, "n".to_owned());
            if let Some(before) = before {
                state.0.lock().expect("lock").insert(key.clone(), before.into());
            }
            let mut cx = CallContext { state: Some(Box::new(state.clone())), ..facts(3) };
            let answer = call(&sandbox, &component, &mut cx, trial);
            assert_eq!(answer.is_ok(), says.is_empty(), "{before:?}: {answer:?}");
            assert!(says.is_empty() || answer.expect_err("refused").to_string().contains(says));
            assert!(cx.state.is_some(), "the state came back");
            let entries = state.0.lock().expect("lock");
            assert_eq!(entries.get(&key).map(Vec::as_slice), after.map(str::as_bytes), "{before:?}");
        }
    }
    let error = call(&sandbox, &component, &mut facts(3), Trial::Batch).expect_err("no state");
    assert!(error.to_string().contains("this call has no state"), "{error}");
}

/// A state in a store that was away.
struct SlowState(FakeState);

impl KeyedState for SlowState {
    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
        std::thread::sleep(3 * Duration::from_millis(small_limits().deadline_ms));
        self.0.get(index, name)
    }
    fn set(&mut self, index: u32, name: &str, value: Option<&[u8]>, ttl: Option<u64>) -> Result<(), String> {
        self.0.set(index, name, value, ttl)
    }
}

#[test]
fn what_the_store_takes_is_not_the_guest_s_time() {
    let increment =
        "(call $increment (i32.const 1) (i32.const 288) (i32.const 1) (i64.const 5) (i32.const 720))";
    let keeps =
        transform_importing(&STATE, "", &format!("{increment} {increment} (call $keep (local.get $p))"));
    let spins = transform_importing(&STATE, "", &format!("{increment} (loop $on (br $on)) unreachable"));
    let sandbox = small_sandbox();
    let slow = || CallContext { state: Some(Box::new(SlowState(FakeState::default()))), ..facts(3) };
    call(&sandbox, &keeps, &mut slow(), Trial::Batch).expect("it waited, and goes on");
    let error = call(&sandbox, &spins, &mut slow(), Trial::Batch).expect_err("it goes on for ever");
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
}

#[test]
fn a_verdict_waits_for_the_store_as_long_as_it_takes() {
    let increment =
        "(call $increment (i32.const 1) (i32.const 288) (i32.const 1) (i64.const 5) (i32.const 720))";
    let keeps = transform_importing(&STATE, "", &format!("{increment} (call $keep (local.get $p))"));
    let sandbox = sandbox(Limits { host_wait_ms_max: 1, ..small_limits() });
    let slow = || CallContext { state: Some(Box::new(SlowState(FakeState::default()))), ..facts(3) };
    let error = call(&sandbox, &keeps, &mut slow(), Trial::Batch).expect_err("it waits too long");
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    call(&sandbox, &keeps, &mut slow(), Trial::Verdict).expect("no message is to blame");
}

#[test]
fn counters_stand_only_for_calls_that_succeeded() {
    let add = "(call $add (i32.const 320) (i32.const 4) (i64.const 2))";
    let sandbox = small_sandbox();
    let good = transform_importing(&METRICS, "", &format!("{add} {add} (call $keep (local.get $p))"));
    let bad = transform_importing(&METRICS, "", &format!("{add} unreachable"));
    call(&sandbox, &bad, &mut facts(3), Trial::Batch).expect_err("traps");
    assert_eq!(sandbox.counters(), []);
    let plugin = sandbox.load_bytes("guest", &good, &Grants::all(), StageConfig::new()).expect("loaded");
    let mut guest = plugin.guest();
    for _ in 0..2 {
        guest.transform(frame(3, 10).as_bytes(), &mut facts(3), Trial::Batch).expect("keeps");
    }
    // Until the next call, or its word, the engine may still refuse what was answered.
    assert!(sandbox.counters().iter().all(|c| c.value < 8));
    guest.judged(Judged { passed: true, failed: 0 });
    let counters = sandbox.counters();
    assert_eq!(counters.len(), 1);
    assert_eq!(
        (counters[0].plugin.as_str(), counters[0].name.as_str(), counters[0].value),
        ("guest", "hits", 8)
    );
}

#[test]
fn chance_is_a_message_s_own_and_repeats() {
    // Traps if two draws are the same.
    let differ = transform_importing(
        &RANDOM,
        "",
        "(if (i64.eq (call $next (i32.const 2)) (call $next (i32.const 2))) (then unreachable))
         (call $keep (local.get $p))",
    );
    // Answers message 2's first number: the engine alone would mind that it is no edit.
    let draw = transform_importing(
        &RANDOM,
        "",
        "(i64.store (i32.const 800) (call $next (i32.const 2))) (call $ok (i32.const 800) (i32.const 8))",
    );
    let sandbox = small_sandbox();
    call(&sandbox, &differ, &mut facts(3), Trial::Batch).expect("two draws differ");
    let first = call(&sandbox, &draw, &mut facts(3), Trial::Batch).expect("drawn");
    assert_eq!(first, call(&sandbox, &draw, &mut facts(3), Trial::Verdict).expect("drawn"));
    let mut other = facts(3);
    other.facts[2].seed = 99;
    assert_ne!(first, call(&sandbox, &draw, &mut other, Trial::Batch).expect("drawn"));
    // The first number of SplitMix64 from seed 3, by its reference implementation.
    let expected = 0x1d0b_14e4_db01_8fed_u64;
    assert_eq!(u64::from_le_bytes(first.try_into().expect("8 bytes")), expected);
}

#[test]
fn a_foreign_toolchain_finds_an_empty_world() {
    // Traps unless: no environment, no directories, a socket is denied (error 1), two dice differ.
    let component = transform_importing(
        &WASI,
        "",
        "(call $environment (i32.const 800))
         (if (i32.load (i32.const 804)) (then unreachable))
         (call $directories (i32.const 800))
         (if (i32.load (i32.const 804)) (then unreachable))
         (call $socket (i32.const 0) (i32.const 800))
         (if (i32.ne (i32.load8_u (i32.const 800)) (i32.const 1)) (then unreachable))
         (if (i32.ne (i32.load8_u (i32.const 804)) (i32.const 1)) (then unreachable))
         (if (i64.eq (call $dice) (call $dice)) (then unreachable))
         (call $print (call $stderr) (i32.const 128) (i32.const 22) (i32.const 800))
         (if (i32.load8_u (i32.const 800)) (then unreachable))
         (call $keep (local.get $p))",
    );
    call(&small_sandbox(), &component, &mut facts(3), Trial::Batch).expect("an empty world");
}

#[test]
fn the_typed_width_answers_edits_as_frames_do() {
    for trial in [Trial::Batch, Trial::Verdict] {
        let answer = call(&small_sandbox(), &typed_transform(), &mut facts(3), trial).expect("answer");
        let edits = Edits::parse(&answer, 3).expect("edits");
        assert_eq!(edits.iter().collect::<Vec<_>>(), [(1, Edit::Drop)]);
    }
}

#[test]
fn an_aggregate_is_called_with_its_blobs() {
    let sandbox = small_sandbox();
    let plugin =
        sandbox.load_bytes("sum", &aggregate(""), &Grants::none(), StageConfig::new()).expect("loaded");
    let mut guest = plugin.guest();
    let mut cx = CallContext::default();
    let mut blobs = wasmill_frame::BlobsWriter::new();
    blobs.push(0, b"left");
    blobs.push(0, b"right");
    let blobs = blobs.finish();
    assert_eq!(guest.merge(&blobs, &mut cx, Trial::Batch).expect("merged"), blobs);
    assert_eq!(guest.finish(&blobs, &mut cx, Trial::Verdict).expect("finished"), blobs);
    let error = guest.transform(frame(1, 1).as_bytes(), &mut cx, Trial::Batch).expect_err("no transform");
    assert!(error.to_string().contains("exports no transform"), "{error}");
}
