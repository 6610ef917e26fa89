//! What a plugin's call costs against the same job in plain Rust.

use std::sync::Arc;
use std::time::Duration;

use wasmill_engine::batch::Batch;
use wasmill_engine::guest::PluginRef;
use wasmill_engine::output::{EncodedBatch, Encoder, Outbox, OutputId, Routes, SinkRoute, Takes, When};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Stage, StageKind, StageSpec};
use wasmill_frame::{Message, Parts};
use wasmill_plugin::{Grants, Sandbox, SandboxOptions, StageConfig};
use wasmill_tests::home;

use crate::clock::{Contender, by_turns, timed};
use crate::native::{self, Owned};
use crate::report::{Report, Row, Target};
use crate::untimed::{Ticks, Untimed};

/// Messages a call, as the engine's default.
const BATCH: usize = 256;
const BATCHES: usize = 200;
const MESSAGES: usize = BATCH * BATCHES;
const ROUNDS: usize = 21;
/// JavaScript is so much slower that fewer say as much.
const BATCHES_SLOW: usize = 10;
/// One message in so many is of type `ignore`.
const IGNORED_EVERY: usize = 10;

/// Measures the jobs of DESIGN's table.
pub fn measure(report: &mut Report) {
    let sandbox = Sandbox::new(SandboxOptions { cache: Some(home::cache()), ..SandboxOptions::default() });
    let sandbox = sandbox.unwrap_or_else(|e| panic!("{e}"));
    seed_job(report, &sandbox);
    json_job(report, &sandbox);
}

fn seed_job(report: &mut Report, sandbox: &Sandbox) {
    let messages = messages(100);
    let batches = packed(&messages);
    let kept_of = |batches: usize| native::seed_job(&messages[..batches * BATCH]).len();
    let kept = kept_of(BATCHES);
    let mut contenders = vec![
        Contender {
            name: "native, outputs are new messages".into(),
            messages: MESSAGES,
            run: Box::new(|| by_batch(&messages, native::seed_job)),
        },
        Contender {
            name: "native, messages given away".into(),
            messages: MESSAGES,
            run: Box::new(|| {
                let owned: Vec<Vec<Owned>> = messages.chunks(BATCH).map(<[Owned]>::to_vec).collect();
                timed(|| owned.into_iter().map(native::seed_job_in_place).map(|out| out.len()).sum::<usize>())
            }),
        },
        staged("frames, ticks on", &load(sandbox, "seed-job"), &batches, kept),
        staged("frames, ticks off", &untimed("seed-job"), &batches, kept),
        staged("typed width, a guest that keeps everything", &typed_keep(sandbox), &batches, MESSAGES),
        staged(
            "typed width, JavaScript (componentize-js)",
            &load(sandbox, "typed-js"),
            &batches[..BATCHES_SLOW],
            kept_of(BATCHES_SLOW),
        ),
    ];
    let times = by_turns(&mut contenders, ROUNDS);
    let targets = [None, None, Some(0.6), Some(0.6), None, None];
    for ((contender, times_of), target) in contenders.iter().zip(&times).zip(targets) {
        report.push(Row::ratio(
            "seed's job, 100 B payload",
            &contender.name,
            times_of,
            &times[0],
            target.map(Target::AtMost),
        ));
    }
}

fn json_job(report: &mut Report, sandbox: &Sandbox) {
    let messages = messages(200);
    let batches = packed(&messages);
    let mut contenders = vec![
        Contender {
            name: "native, payloads alone".into(),
            messages: MESSAGES,
            run: Box::new(|| by_batch(&messages, native::json_job)),
        },
        staged("frames, ticks on", &load(sandbox, "json-job"), &batches, MESSAGES),
        staged("frames, ticks off", &untimed("json-job"), &batches, MESSAGES),
    ];
    let times = by_turns(&mut contenders, ROUNDS);
    for ((contender, times_of), target) in contenders.iter().zip(&times).zip([None, Some(1.8), Some(1.45)]) {
        report.push(Row::ratio(
            "serde_json parse and re-encode, 200 B payload",
            &contender.name,
            times_of,
            &times[0],
            target.map(Target::AtMost),
        ));
    }
}

/// Messages with payloads of so many bytes of JSON.
fn messages(payload_bytes: usize) -> Vec<Owned> {
    let payload = |i: usize| {
        let head = format!(
            "{{\"user\":\"u{:05}\",\"n\":{},\"ok\":true,\"tags\":[\"a\",\"b\"],\"pad\":\"",
            i % 99_999,
            i % 1000
        );
        let pad = payload_bytes.saturating_sub(head.len() + 2);
        format!("{head}{}\"}}", "x".repeat(pad))
    };
    (0..MESSAGES)
        .map(|i| Owned {
            id: format!("message-{i}"),
            kind: if i % IGNORED_EVERY == 0 { "ignore".to_owned() } else { "click".to_owned() },
            key: None,
            payload: payload(i),
            timestamp: 1_700_000_000_000 + i as i64,
            metadata: Vec::new(),
        })
        .collect()
}

/// The messages as the engine keeps them.
fn packed(messages: &[Owned]) -> Vec<Batch> {
    let partition = PartitionId { source: 0, partition: 0 };
    let chunks = messages.chunks(BATCH).enumerate();
    chunks
        .map(|(n, chunk)| {
            let bytes = chunk.iter().map(|m| m.id.len() + m.kind.len() + m.payload.len() + 64).sum();
            let mut batch = Batch::with_capacity(partition, 0, BATCH, bytes);
            for (i, m) in chunk.iter().enumerate() {
                let parts = Parts {
                    id: &m.id,
                    kind: &m.kind,
                    key: m.key.as_ref().map(String::as_bytes),
                    payload: m.payload.as_bytes(),
                    timestamp: m.timestamp,
                    metadata: b"",
                    payload_is_json: true,
                };
                batch.push(&parts, (n * BATCH + i) as u64);
            }
            batch
        })
        .collect()
}

fn by_batch<T>(messages: &[Owned], job: fn(&[Owned]) -> Vec<T>) -> Duration {
    timed(|| messages.chunks(BATCH).map(|chunk| std::hint::black_box(job(chunk)).len()).sum::<usize>())
}

/// A stage of the engine with this plugin: the call, and its edits applied to the batch.
fn staged<'a>(name: &str, plugin: &PluginRef, batches: &'a [Batch], kept: usize) -> Contender<'a> {
    let spec = StageSpec { name: "bench".into(), kind: StageKind::Transform, plugin: Arc::clone(plugin) };
    let mut stage = Stage::new(&Arc::new(spec));
    let routes = Routes::new(vec![dead_letters()], Default::default());
    Contender {
        name: name.to_owned(),
        messages: batches.len() * BATCH,
        run: Box::new(move || {
            let mut batches = batches.to_vec();
            let mut left = 0;
            let took = timed(|| {
                for mut batch in batches.drain(..) {
                    let mut out = Outbox::new(&routes);
                    stage.run(&mut batch, Origins::Source, &routes, &mut out);
                    left += std::hint::black_box(batch).len();
                    assert_eq!(out.dead, 0, "the plugin fails");
                }
            });
            assert_eq!(left, kept, "the plugin does the job");
            took
        }),
    }
}

fn dead_letters() -> SinkRoute {
    struct Nothing;
    impl Encoder for Nothing {
        fn encode(&self, _: Message<'_>, _: &OutputId<'_>, _: &mut EncodedBatch) -> Result<(), String> {
            Ok(())
        }
    }
    SinkRoute { takes: Takes::DeadLetters, encoder: Arc::new(Nothing), when: When::Always }
}

fn load(sandbox: &Sandbox, name: &str) -> PluginRef {
    let loaded = sandbox.load(&home::plugin(name), &Grants::all(), StageConfig::new());
    loaded.unwrap_or_else(|e| panic!("{e}"))
}

fn untimed(name: &str) -> PluginRef {
    Arc::new(Untimed::load(&home::plugin(name), Ticks::Off).unwrap_or_else(|e| panic!("{name}: {e:#}")))
}

/// A guest of the typed width that answers `keep` to everything: what remains is the price of records.
fn typed_keep(sandbox: &Sandbox) -> PluginRef {
    let bytes = wat::parse_str(TYPED_KEEP).unwrap_or_else(|e| panic!("{e}"));
    let loaded = sandbox.load_bytes("typed-keep", &bytes, &Grants::none(), StageConfig::new());
    loaded.unwrap_or_else(|e| panic!("{e}"))
}

/// Memory: answers at 1 MiB (72 zero bytes are one `keep`), what comes in from 2 MiB on.
const TYPED_KEEP: &str = r#"(component
  (import "wasmill:plugin/types@0.1.0" (instance $types
    (type $e' (record (field "name" string) (field "value" string) (field "json" bool)))
    (export "metadata-entry" (type $e (eq $e')))
    (type $m' (record (field "id" string) (field "type" string) (field "key" (option (list u8)))
      (field "payload" (list u8)) (field "timestamp" (option s64)) (field "metadata" (list $e))))
    (export "message" (type $m (eq $m')))
    (type $r' (record (field "message" $m) (field "output" (option string))))
    (export "routed" (type $r (eq $r')))
    (type $o' (variant (case "keep") (case "drop") (case "replace" $m) (case "several" (list $r))
      (case "fail" string)))
    (export "outcome" (type $o (eq $o')))))
  (alias export $types "message" (type $message))
  (alias export $types "outcome" (type $outcome))
  (core module $m
    (memory (export "memory") 64)
    (global $next (mut i32) (i32.const 0x200000))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at))
    (func (export "process") (param $at i32) (param $count i32) (result i32)
      (global.set $next (i32.const 0x200000))
      (i32.store8 (i32.const 64) (i32.const 0))
      (i32.store (i32.const 68) (i32.const 0x100000))
      (i32.store (i32.const 72) (local.get $count))
      (i32.const 64)))
  (core instance $i (instantiate $m))
  (func $process (param "messages" (list $message)) (result (result (list $outcome) (error string)))
    (canon lift (core func $i "process") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $face (export "process" (func $process)))
  (export "wasmill:plugin/transform-typed@0.1.0" (instance $face)))"#;
