//! Each budget of a plugin: what meets it is told its limit, its value and its setting, and is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{CallContext, KeyedState, Trial};
use wasmill_engine::output::{EncodedBatch, Encoder, Outbox, OutputId, Routes, SinkRoute, Takes, When};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Stage, StageKind, StageSpec};
use wasmill_frame::{Edit, EditsWriter, Message};
use wasmill_plugin::{Grants, Limits, Sandbox, Secrets, StageConfig, Usage};

use crate::common::*;

const LOOP: &str = "(loop $again (br $again)) unreachable";
const KEEP: &str = "(call $keep (local.get $p))";

#[derive(Default)]
struct Entries(BTreeMap<(u32, String), Vec<u8>>);

impl KeyedState for Entries {
    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.get(&(index, name.to_owned())).cloned())
    }
    fn set(&mut self, index: u32, name: &str, value: Option<&[u8]>, _: Option<u64>) -> Result<(), String> {
        let key = (index, name.to_owned());
        match value {
            Some(value) => self.0.insert(key, value.to_vec()),
            None => self.0.remove(&key),
        };
        Ok(())
    }
}

fn usage(sandbox: &Sandbox) -> Usage {
    let [usage] = sandbox.usage().try_into().expect("one plugin");
    usage
}

fn hits(usage: &Usage, limit: &str) -> u64 {
    usage.limit_hits.iter().find(|(name, _)| *name == limit).expect("a limit of this name").1
}

/// Increments entry `n` until the host refuses, and then refuses the call with the host's words.
fn counts_up() -> Vec<u8> {
    transform_importing(
        &STATE,
        "",
        "(loop $again
           (call $increment (i32.const 1) (i32.const 288) (i32.const 1) (i64.const 5) (i32.const 720))
           (br_if $again (i32.eqz (i32.load8_u (i32.const 720)))))
         (call $err (i32.load (i32.const 728)) (i32.load (i32.const 732)))",
    )
}

struct Case {
    budget: &'static str,
    component: Vec<u8>,
    trial: Trial,
    limits: Limits,
    /// What the call's error says; nothing: it goes well.
    says: &'static str,
}

fn cases() -> Vec<Case> {
    let case =
        |budget, component, trial, says| Case { budget, component, trial, limits: small_limits(), says };
    let logs = |line: u32| {
        let body = format!(
            "(local $i i32)
             (loop $again
               (call $write (i32.const 2) (i32.const 128) (i32.const {line}))
               (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50))))
             {KEEP}"
        );
        transform_importing(&LOG, "", &body)
    };
    vec![
        case("deadline", transform(LOOP), Trial::Batch, "ran past its deadline of 50 ms: `limits.deadline`"),
        case("fuel", transform(LOOP), Trial::Verdict, "used up its fuel of 1000000: `limits.fuel`"),
        case(
            "memory",
            transform(
                "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
            ),
            Trial::Batch,
            "asked for more than its 4194304 bytes of memory: `limits.memory`",
        ),
        case(
            "answer",
            transform("(drop (memory.grow (i32.const 2))) (call $ok (i32.const 0) (i32.const 100000))"),
            Trial::Batch,
            "more than 65536 bytes at once: `limits.answer`",
        ),
        case("state", counts_up(), Trial::Batch, "more than 4096 bytes of keys, names and values"),
        Case {
            limits: Limits { state_keys_max: 7, ..small_limits() },
            ..case(
                "state_keys",
                counts_up(),
                Trial::Verdict,
                "more than 7 entries read and changed in one call: `limits.state_keys`",
            )
        },
        Case {
            limits: Limits { log_lines_per_second_max: 1, ..small_limits() },
            ..case("log_lines", logs(22), Trial::Batch, "")
        },
        Case {
            limits: Limits { log_line_bytes_max: 16, ..small_limits() },
            ..case("log_line", logs(22), Trial::Batch, "")
        },
        case(
            "host_calls",
            transform_importing(
                &RANDOM,
                "",
                "(loop $again (drop (call $next (i32.const 0))) (br $again)) unreachable",
            ),
            Trial::Batch,
            "called the host more than 1000 times in one call: `limits.host_calls`",
        ),
        Case {
            // Any time is too long.
            limits: Limits { host_wait_ms_max: 0, ..small_limits() },
            ..case(
                "host_wait",
                counts_up(),
                Trial::Batch,
                "waited for the host past the limit of 0 ms: `limits.host_wait`",
            )
        },
        Case {
            limits: Limits { metric_names_max: 1, ..small_limits() },
            ..case(
                "counters",
                transform_importing(
                    &METRICS,
                    "",
                    "(call $add (i32.const 320) (i32.const 4) (i64.const 2))
                     (call $add (i32.const 320) (i32.const 3) (i64.const 2)) (call $keep (local.get $p))",
                ),
                Trial::Batch,
                "",
            )
        },
    ]
}

#[test]
fn each_budget_says_its_limit_and_its_setting_and_is_counted() {
    // Of all of them one sandbox, whose own limits none would meet.
    for Case { budget, component, trial, limits, says } in cases() {
        let wide = sandbox(Limits { instances_max: 4, ..Limits::default() });
        let plugin = wide.within(limits).load_bytes("guest", &component, &Grants::all(), StageConfig::new());
        let mut guest = plugin.unwrap_or_else(|e| panic!("{budget}: {e}")).guest();
        let mut cx = CallContext { state: Some(Box::new(Entries::default())), ..facts(3) };
        assert_eq!(hits(&usage(&wide), budget), 0, "{budget}: nothing was called yet");
        let answer = guest.transform(frame(3, 10).as_bytes(), &mut cx, trial);
        let told = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert_eq!(answer.is_err(), !says.is_empty(), "{budget}: {told}");
        assert!(told.contains(says), "{budget}: {told}");
        let usage = usage(&wide);
        assert!(hits(&usage, budget) > 0, "{budget}: {usage:?}");
        let others: Vec<_> = usage.limit_hits.iter().filter(|(n, hits)| *n != budget && *hits > 0).collect();
        assert!(others.is_empty(), "{budget}, and no other: {others:?}");
        let failed: Vec<_> = usage.failures.iter().filter(|(_, count)| *count > 0).collect();
        match &answer {
            Ok(_) => assert!(failed.is_empty(), "{budget}: {failed:?}"),
            Err(error) => assert_eq!(failed, [&(error.kind(), 1)], "{budget}"),
        }
        if budget == "log_lines" {
            assert_eq!(usage.log_lines_dropped, hits(&usage, budget));
        }
    }
}

#[test]
fn the_key_of_a_message_counts_with_each_of_its_entries_before_anything_is_read() {
    const KEY_BYTES: usize = 1_000;
    let wide = sandbox(Limits { state_bytes_max: 3 * (KEY_BYTES + 1), ..small_limits() });
    let plugin = wide.load_bytes("guest", &counts_up(), &Grants::all(), StageConfig::new()).expect("loaded");
    let state = Arc::new(Mutex::new(Vec::new()));
    struct Told(Arc<Mutex<Vec<&'static str>>>, Entries);
    impl KeyedState for Told {
        fn stored_bytes(&self, _: u32, name: &str) -> usize {
            KEY_BYTES + name.len()
        }
        fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
            self.0.lock().expect("lock").push("get");
            self.1.get(index, name)
        }
        fn set(
            &mut self,
            index: u32,
            name: &str,
            value: Option<&[u8]>,
            ttl: Option<u64>,
        ) -> Result<(), String> {
            self.0.lock().expect("lock").push("set");
            self.1.set(index, name, value, ttl)
        }
    }
    let told = Told(Arc::clone(&state), Entries::default());
    let mut cx = CallContext { state: Some(Box::new(told)), ..facts(3) };
    plugin.guest().transform(frame(3, 10).as_bytes(), &mut cx, Trial::Batch).expect_err("too much");
    // A value takes the room of a third key; the second increment's `get` is refused before the store is asked.
    assert_eq!(*state.lock().expect("lock"), ["get", "set"]);
}

/// A transform that answers these edits, whatever it is asked.
fn answers(edits: &[u8]) -> Vec<u8> {
    let bytes: String = edits.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let data = format!("(data (i32.const 1024) \"{bytes}\")");
    let body = format!("(call $ok (i32.const 1024) (i32.const {}))", edits.len());
    transform_importing(&Imports::default(), &data, &body)
}

struct Letters;

impl Encoder for Letters {
    fn encode(&self, m: Message<'_>, _: &OutputId<'_>, out: &mut EncodedBatch) -> Result<(), String> {
        out.data.extend_from_slice(m.payload());
        Ok(())
    }
}

/// The dead letters of a stage with this plugin, to which one message comes.
fn letters(sandbox: &Sandbox, component: &[u8], grants: &Grants) -> String {
    let plugin = sandbox.load_bytes("guest", component, grants, StageConfig::new());
    let plugin = plugin.unwrap_or_else(|e| panic!("{e}"));
    let kind = StageKind::Transform;
    let mut stage = Stage::new(&Arc::new(StageSpec { name: "s".into(), kind, plugin }));
    let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, 1, 10);
    batch.push(&frame(1, 10).get(0).parts(), 0);
    let route = SinkRoute { takes: Takes::DeadLetters, encoder: Arc::new(Letters), when: When::Always };
    let routes = Routes::new(vec![route], Default::default());
    let mut out = Outbox::new(&routes);
    stage.run(&mut batch, Origins::Source, &routes, &mut out);
    String::from_utf8_lossy(&out.sinks[0].data).into_owned()
}

#[test]
fn what_a_plugin_counts_counts_only_where_its_answer_does() {
    let counts = |copies: usize| {
        let mut edits = EditsWriter::new(1);
        (0..copies).for_each(|_| edits.push(0, Edit::Emit { copy: true }));
        let bytes: String = edits.finish().iter().map(|byte| format!("\\{byte:02x}")).collect();
        let answer = format!(
            "(call $add (i32.const 320) (i32.const 4) (i64.const 2))
             (call $ok (i32.const 1024) (i32.const {}))",
            bytes.len() / 3
        );
        transform_importing(&METRICS, &format!("(data (i32.const 1024) \"{bytes}\")"), &answer)
    };
    for (copies, counted) in [(3, Some(2)), (4, None)] {
        let sandbox = sandbox(Limits { outputs_max: 3, ..small_limits() });
        let letters = letters(&sandbox, &counts(copies), &Grants::all());
        assert_eq!(letters.is_empty(), counted.is_some(), "{letters}");
        let counters: Vec<u64> = sandbox.counters().iter().map(|c| c.value).collect();
        assert_eq!(counters, Vec::from_iter(counted), "{copies}");
    }
}

#[test]
fn what_a_plugin_names_is_short_in_reasons_and_left_out_where_it_has_secrets() {
    let secrets = || Grants::none().with_secrets(Secrets::new([("key".to_owned(), b"hunter2".to_vec())]));
    let long = "\u{1b}n".repeat(1_000);
    for name in ["hunter2", long.as_str()] {
        for (edit, says) in [
            (Edit::Output(name), "no sink takes the output"),
            (Edit::SetMetadata { name, value: b"{", json: true }, "set to JSON that isn't"),
        ] {
            let mut edits = EditsWriter::new(1);
            edits.push(0, edit);
            let component = answers(&edits.finish());
            let shown = letters(&small_sandbox(), &component, &Grants::none());
            assert!(shown.contains(says) && shown.len() < 1_500, "{shown}");
            assert!(shown.contains(if name == long { "{1b}n" } else { name }), "{shown}");
            let hidden = letters(&small_sandbox(), &component, &secrets());
            assert!(
                hidden.contains(says) && !hidden.contains("hunter2") && !hidden.contains("{1b}n"),
                "{hidden}"
            );
        }
    }
}

#[test]
fn what_a_message_becomes_is_bounded_where_the_engine_checks_the_answer() {
    let emitting = |copies: usize| {
        let mut edits = EditsWriter::new(1);
        (0..copies).for_each(|_| edits.push(0, Edit::Emit { copy: true }));
        answers(&edits.finish())
    };
    let limits = Limits { outputs_max: 3, copies_bytes_max: 1_000, ..small_limits() };
    for (limit, copies, payload_bytes, says) in [
        ("", 3, 10, ""),
        ("outputs", 4, 10, "more than 3 messages emitted for one: `limits.outputs`"),
        ("copies", 3, 900, "copies of more than 1000 bytes emitted for one message: `limits.copies`"),
    ] {
        let sandbox = sandbox(small_limits());
        let plugin = sandbox.within(limits.clone()).load_bytes(
            "guest",
            &emitting(copies),
            &Grants::none(),
            StageConfig::new(),
        );
        let plugin = plugin.unwrap_or_else(|e| panic!("{e}"));
        let kind = StageKind::Transform;
        let mut stage = Stage::new(&Arc::new(StageSpec { name: "s".into(), kind, plugin }));
        let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, 1, payload_bytes);
        batch.push(&frame(1, payload_bytes).get(0).parts(), 0);
        let route = SinkRoute { takes: Takes::DeadLetters, encoder: Arc::new(Letters), when: When::Always };
        let routes = Routes::new(vec![route], Default::default());
        let mut out = Outbox::new(&routes);
        stage.run(&mut batch, Origins::Source, &routes, &mut out);
        let usage = usage(&sandbox);
        if says.is_empty() {
            assert_eq!((batch.len(), out.dead), (1 + copies, 0));
            assert!(usage.limit_hits.iter().all(|(_, hits)| *hits == 0), "{usage:?}");
            continue;
        }
        assert_eq!((batch.len(), out.dead), (0, 1), "{limit}");
        let letter = String::from_utf8_lossy(&out.sinks[0].data);
        assert!(letter.contains(says), "{limit}: {letter}");
        // Once among others, once alone.
        assert_eq!(hits(&usage, limit), 2, "{limit}: {usage:?}");
        assert_eq!(
            usage.failures.iter().find(|(kind, _)| *kind == "answer"),
            Some(&("answer", 2)),
            "{limit}"
        );
        assert_eq!(usage.instances, 0, "{limit}: the instance that answered wrongly is gone");
    }
}

#[test]
fn memory_is_shown_while_it_is_held_and_instances_that_grew_too_far_are_replaced() {
    let grows = transform(&format!("(drop (memory.grow (i32.const 2))) {KEEP}"));
    let limits = Limits { instance_growth_bytes_max: 3 << 16, ..small_limits() };
    let sandbox = sandbox(limits);
    let plugin = sandbox.load_bytes("guest", &grows, &Grants::none(), StageConfig::new()).expect("loaded");
    let mut call = {
        let mut guest = plugin.guest();
        move || guest.transform(frame(1, 1).as_bytes(), &mut facts(1), Trial::Batch).map(drop)
    };
    let seen = |usage: Usage| (usage.memory_bytes, usage.instances, usage.instances_made, usage.recycled);
    assert_eq!(seen(usage(&sandbox)), (0, 0, 0, 0));
    let page = 1 << 16;
    for expected in [(3 * page, 1, 1, 0), (0, 0, 1, 1), (3 * page, 1, 2, 1), (0, 0, 2, 2)] {
        call().expect("it keeps");
        assert_eq!(seen(usage(&sandbox)), expected);
    }
    call().expect("it keeps");
    drop(call);
    assert_eq!(seen(usage(&sandbox)), (0, 0, 3, 2));
}

#[test]
fn a_plugin_that_starts_with_more_than_its_limit_is_not_admitted() {
    let large = transform_importing(&Imports::default(), "(memory $more 20)", KEEP);
    let sandbox = small_sandbox();
    let within = |memory_bytes_max| {
        let within = sandbox.within(Limits { memory_bytes_max, ..small_limits() });
        within.load_bytes("guest", &large, &Grants::none(), StageConfig::new())
    };
    let error = within(20 << 16 >> 1).map(drop).expect_err("too large").to_string();
    assert_eq!(
        error,
        "plugin guest: the memory that it starts with, in bytes, is 1310720, above the limit of 655360: raise `limits.memory`"
    );
    within(21 << 16).map(drop).expect("it fits");
    // The process's own bound stands above all.
    assert_eq!(sandbox.within(Limits::default()).limits().memory_bytes_max, small_limits().memory_bytes_max);
}
