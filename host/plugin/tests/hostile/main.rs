//! Hostile plugins: each meets its bound, says which, and hurts neither host nor neighbour. Those of the table are
//! files, in `tests/hostile/`; what no file can be is here. docs/sandbox.md tells of all of them.

#[path = "../common/mod.rs"]
mod common;
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::*;
use program::Program;
use rustix::time::{ClockId, clock_gettime};
use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{CallContext, CallError, KeyedState, Plugin, PluginRef, Trial};
use wasmill_engine::output::{
    EncodedBatch, EncodedRecord, Encoder, Outbox, OutputId, Routes, SinkRoute, Takes, When,
};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Stage, StageKind, StageSpec};
use wasmill_frame::{Edits, Message, Parts, TIMESTAMP_NONE};
use wasmill_plugin::{Grant, Grants, Limits, Sandbox, SandboxOptions, StageConfig};

use common::pieces;

/// How often each program is run.
const ROUNDS: usize = 20;
/// By how much the process may grow meanwhile.
const DRIFT_BYTES_MAX: usize = 64 << 20;
/// The processor time that a call of a small deadline may take. How much it takes over its deadline is measured by
/// the benches: `bench hostile`.
const CALL_MAX: Duration = Duration::from_secs(2);
/// The log lines that a plugin may write in a second, and how long one may be.
const LOG_LINES: u32 = 25;
const LOG_LINE_BYTES: usize = 256;

/// The tests that run all programs do so one after the other, for one of them measures the process's memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The limits of the campaign: where no deadline is to be met, none is that a busy machine could miss.
fn campaign_limits(deadline_ms: u64) -> Limits {
    Limits {
        deadline_ms,
        log_lines_per_second_max: LOG_LINES,
        log_line_bytes_max: LOG_LINE_BYTES,
        ..small_limits()
    }
}

/// The limits that a program asks for.
fn limits_of(program: &Program) -> Limits {
    let mut limits = campaign_limits(if program.batch == "deadline" { 20 } else { 30_000 });
    for (name, value) in &program.limits {
        let count = usize::try_from(*value).expect("a limit");
        match name.as_str() {
            "answer_bytes_max" => limits.answer_bytes_max = count,
            "compile_ms_max" => limits.compile_ms_max = *value,
            "fuel" => limits.fuel = *value,
            "functions_max" => limits.functions_max = count,
            "host_calls_max" => limits.host_calls_max = u32::try_from(*value).expect("a limit"),
            "verdict_time_ms" => limits.verdict_time_ms = *value,
            other => panic!("{}: no limit `{other}` is known here", program.name),
        }
    }
    limits
}

/// A program with the sandbox that it runs in.
struct Case {
    program: Program,
    sandbox: Arc<Sandbox>,
    plugin: Option<PluginRef>,
}

fn cases() -> Vec<Case> {
    let mut sandboxes: Vec<Arc<Sandbox>> = Vec::new();
    let mut case = |program: Program| {
        let limits = limits_of(&program);
        let known = sandboxes.iter().find(|s| *s.limits() == limits).cloned();
        let sandbox = known.unwrap_or_else(|| {
            sandboxes.push(Arc::new(sandbox(limits)));
            Arc::clone(&sandboxes[sandboxes.len() - 1])
        });
        let plugin = program.refused.is_none().then(|| {
            admit(&sandbox, &program).unwrap_or_else(|e| panic!("{}: not admitted: {e}", program.name))
        });
        Case { program, sandbox, plugin }
    };
    let cases: Vec<Case> = program::all().into_iter().map(&mut case).collect();
    // Of 30 there are these that no file can be.
    let elsewhere = [30];
    for number in (1..=30).filter(|n| !elsewhere.contains(n)) {
        let is_there = cases.iter().any(|c| program::number(&c.program.name) == Some(number));
        assert!(is_there, "no program {number} in {}", program::folder().display());
    }
    cases
}

fn admit(sandbox: &Sandbox, program: &Program) -> Result<PluginRef, wasmill_plugin::AdmissionError> {
    let grants = program.grants.iter().map(|g| g.parse::<Grant>().expect("a grant")).collect();
    sandbox.load_bytes(&program.name, &program.component, &grants, StageConfig::new())
}

fn load(sandbox: &Sandbox, component: &[u8]) -> PluginRef {
    sandbox.load_bytes("guest", component, &Grants::none(), StageConfig::new()).expect("admitted")
}

/// State of three messages.
#[derive(Default)]
struct Entries(BTreeMap<(u32, String), Vec<u8>>);

impl KeyedState for Entries {
    fn get(&mut self, index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
        if index >= 3 {
            return Err(format!("message {index} is not in the frame, which has 3"));
        }
        Ok(self.0.get(&(index, name.to_owned())).cloned())
    }
    fn set(&mut self, index: u32, name: &str, value: Option<&[u8]>, _: Option<u64>) -> Result<(), String> {
        self.0.insert((index, name.to_owned()), value.unwrap_or_default().to_vec());
        Ok(())
    }
}

/// One call of a program, on a guest of its own.
fn call(plugin: &dyn Plugin, name: &str, trial: Trial) -> Result<Vec<u8>, CallError> {
    let mut cx = CallContext { state: Some(Box::new(Entries::default())), ..facts(3) };
    let frame = frame(3, 10);
    let begun = clock_gettime(ClockId::ThreadCPUTime);
    let answer = plugin.guest().transform(frame.as_bytes(), &mut cx, trial);
    let ended = clock_gettime(ClockId::ThreadCPUTime);
    let took = Duration::try_from(ended).expect("a time") - Duration::try_from(begun).expect("a time");
    assert!(took < CALL_MAX, "{name}, {trial:?}: it took {took:?} of the processor");
    // A call that fails before it begins leaves the context untouched, any other gives it back.
    assert_eq!(cx.facts.len(), 3, "{name}: the context came back");
    answer
}

/// What is wrong with how a call ended, if anything is.
fn other_than(program: &Program, kind: &str, came: &Result<Vec<u8>, CallError>) -> Option<String> {
    match came {
        Ok(answer) => {
            (kind != "answers").then(|| format!("it answered {} bytes, and not `{kind}`", answer.len()))
        }
        // A deadline's text has but the deadline.
        Err(error) => (error.kind() != kind
            || (kind != "deadline" && !error.to_string().contains(&program.says)))
        .then(|| format!("`{}`, and not `{kind}` with {:?}: {error}", error.kind(), program.says)),
    }
}

/// Runs a program once; says what did not become of it as its file says.
fn run(case: &Case, verdicts: &mut BTreeMap<String, Result<Vec<u8>, CallError>>) -> Option<String> {
    let Case { program, sandbox, plugin } = case;
    let name = &program.name;
    let Some(plugin) = plugin else {
        let says = program.refused.as_deref().unwrap_or_default();
        let text = match admit(sandbox, program) {
            Ok(_) => "it was admitted".to_owned(),
            Err(error) => error.to_string(),
        };
        return (!text.contains(says) || !text.contains(name))
            .then(|| format!("not refused with {says:?}: {text}"));
    };
    let batch = call(plugin.as_ref(), name, Trial::Batch);
    let verdict = call(plugin.as_ref(), name, Trial::Verdict);
    if let (Ok(batch), Ok(verdict)) = (&batch, &verdict)
        && batch != verdict
    {
        return Some(format!("it answered {batch:?} in production and {verdict:?} in a verdict"));
    }
    let first = verdicts.entry(name.clone()).or_insert_with(|| verdict.clone());
    if *first != verdict {
        return Some(format!("the verdict was {first:?} and is {verdict:?}"));
    }
    other_than(program, &program.batch, &batch).or_else(|| other_than(program, &program.verdict, &verdict))
}

/// Whether a guest of this plugin answers three messages with no edits.
fn keeps(plugin: &dyn Plugin) -> bool {
    let frame = frame(3, 10);
    let answer = plugin.guest().transform(frame.as_bytes(), &mut facts(3), Trial::Batch);
    answer.is_ok_and(|bytes| Edits::parse(&bytes, 3).is_ok_and(|edits| edits.is_empty()))
}

/// What is resident of this process, in bytes.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let resident = pages.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number of pages");
    resident * rustix::param::page_size()
}

#[test]
fn each_hostile_program_meets_its_bound_twenty_times_and_hurts_nobody() {
    let _alone = alone();
    let log = LogWatch::install();
    let begun = Instant::now();
    let cases = cases();
    let neighbour = load(&sandbox(campaign_limits(30_000)), &transform("(call $keep (local.get $p))"));
    let mut verdicts = BTreeMap::new();
    let mut wrong = BTreeSet::new();
    let mut warm_bytes = 0;
    for round in 0..=ROUNDS {
        for case in &cases {
            let name = &case.program.name;
            wrong.extend(run(case, &mut verdicts).map(|what| format!("{name}: {what}")));
            assert!(keeps(neighbour.as_ref()), "{name}: the neighbour answers as before");
        }
        // What is made once, as compiled verdicts, is no drift.
        if round == 0 {
            warm_bytes = resident_bytes();
        }
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let drift = resident_bytes().saturating_sub(warm_bytes);
    println!("{} programs, {ROUNDS} times each: memory drifted by {} KiB", cases.len(), drift >> 10);
    assert!(drift < DRIFT_BYTES_MAX, "memory drifted by {drift} bytes");
    let most = (begun.elapsed().as_secs() as usize + 2) * LOG_LINES as usize;
    log.check(most);
}

#[test]
fn a_verdict_is_the_same_in_another_sandbox() {
    let _alone = alone();
    for Case { program, plugin, .. } in cases() {
        let Some(plugin) = plugin else { continue };
        let other = admit(&sandbox(limits_of(&program)), &program).expect("admitted");
        let verdict = |plugin: &PluginRef| call(plugin.as_ref(), &program.name, Trial::Verdict);
        assert_eq!(verdict(&plugin), verdict(&other), "{}", program.name);
    }
}

/// Counts what plugins write to the log, and keeps what no line may have.
#[derive(Clone, Default)]
struct LogWatch {
    lines: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl LogWatch {
    fn install() -> Self {
        let watch = Self::default();
        tracing::subscriber::set_global_default(watch.clone()).expect("the only log");
        watch
    }

    fn check(&self, most: usize) {
        let lines = self.lines.load(Ordering::Relaxed);
        assert!(lines > 0 && lines <= most, "{lines} lines of plugins in the log, and at most {most} may be");
        let wrong = self.wrong.lock().expect("lock");
        assert!(wrong.is_empty(), "lines that are more than text: {wrong:?}");
    }
}

impl tracing::Subscriber for LogWatch {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "plugin"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        // How many lines were dropped is a line of the host's.
        if text.0.contains("were dropped") {
            return;
        }
        self.lines.fetch_add(1, Ordering::Relaxed);
        let reorders = |c: char| matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}');
        if text.0.len() > LOG_LINE_BYTES || text.0.contains(|c: char| c.is_control() || reorders(c)) {
            self.wrong.lock().expect("lock").push(text.0);
        }
    }
}

/// Keeps dead letters as they come.
struct AsJson;
impl Encoder for AsJson {
    fn encode(&self, message: Message<'_>, _: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let at = into.data.len();
        into.data.extend_from_slice(message.payload());
        into.records.push(EncodedRecord { value: at..into.data.len(), ..EncodedRecord::default() });
        Ok(())
    }
}

/// The dead letters of a stage with this plugin, to which three messages come; and how many messages go on.
fn letters_of_a_stage(plugin: &PluginRef) -> (Vec<String>, usize) {
    let spec = StageSpec { name: "hostile".into(), kind: StageKind::Transform, plugin: Arc::clone(plugin) };
    let mut stage = Stage::new(&Arc::new(spec));
    let routes = Routes::new(
        vec![SinkRoute { takes: Takes::DeadLetters, encoder: Arc::new(AsJson), when: When::Always }],
        BTreeMap::new(),
    );
    let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, 3, 256);
    for (offset, id) in ["m0", "m1", "m2"].into_iter().enumerate() {
        let parts = Parts {
            id,
            kind: "test",
            key: None,
            payload: b"{}",
            timestamp: TIMESTAMP_NONE,
            metadata: b"",
            payload_is_json: true,
        };
        batch.push(&parts, offset as u64);
    }
    let mut out = Outbox::new(&routes);
    stage.run(&mut batch, Origins::Source, &routes, &mut out);
    let letters = out.sinks[0]
        .records
        .iter()
        .map(|r| String::from_utf8(out.sinks[0].data[r.value.clone()].to_vec()).expect("JSON is text"));
    (letters.collect(), batch.len())
}

#[test]
fn a_stage_makes_dead_letters_of_what_a_hostile_program_is_called_with() {
    let _alone = alone();
    let mut wrong = Vec::new();
    for Case { program, plugin, .. } in cases() {
        // State needs a key_by; whole pipelines are in the end-to-end tests.
        let Some(plugin) = plugin.filter(|plugin| !plugin.info().needs_state) else { continue };
        let name = &program.name;
        let (letters, left) = letters_of_a_stage(&plugin);
        let kind = match (&*program.verdict, program.stage.as_deref()) {
            ("answers", None) if letters.is_empty() && left == 3 => continue,
            ("answers", None) => "none",
            ("answers", Some(kind)) | (kind, _) => kind,
        };
        // What answers edits answers them about the first message of a call, and each is alone in the end.
        let is_wrong = |id: &&str| {
            let letter = letters.iter().find(|letter| letter.contains(&format!("\"id\":\"{id}\"")));
            let kind = format!("\"kind\":\"{kind}\"");
            !letter.is_some_and(|letter| letter.contains(&kind) && letter.contains(&program.says))
        };
        if let Some(id) = ["m0", "m1", "m2"].into_iter().find(is_wrong) {
            wrong
                .push(format!("{name}: of {id} no letter with `{kind}` and {:?}: {letters:?}", program.says));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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

/// 29: what comes as a plugin, or from the compile cache, and is another's.
#[test]
fn a_forged_artifact_is_never_run() {
    let sandbox = small_sandbox();
    // A compiled plugin, as a compile cache holds it, is a file for a linker: it begins as machine code does.
    let refused = sandbox.load_bytes("forged", b"\x7fELF\x02\x01\x01", &Grants::all(), StageConfig::new());
    let error = refused.err().expect("refused").to_string();
    assert!(error.contains("machine code") && error.contains("give the .wasm file"), "{error}");

    // An entry of another plugin's under this one's name is compiled again.
    let directory = std::env::temp_dir().join(format!("wasmill-forged-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&directory));
    let answers = |component: &[u8]| {
        let options = SandboxOptions {
            limits: small_limits(),
            cache: Some(directory.clone()),
            ..SandboxOptions::default()
        };
        keeps(load(&Sandbox::new(options).expect("sandbox"), component).as_ref())
    };
    let entries = || {
        let files = std::fs::read_dir(&directory).expect("directory").flatten().map(|e| e.path());
        let mut entries: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "aot")).collect();
        entries.sort();
        entries
    };
    let (good, bad) = (transform("(call $keep (local.get $p))"), transform("unreachable"));
    assert!(answers(&good));
    let of_good = entries();
    assert!(!answers(&bad));
    let of_bad: Vec<_> = entries().into_iter().filter(|e| !of_good.contains(e)).collect();
    assert!(!of_bad.is_empty());
    for (forged, entry) in of_bad.iter().flat_map(|b| of_good.iter().map(move |g| (b, g))) {
        std::fs::copy(forged, entry).expect("copy");
        assert!(answers(&good), "the forged entry was not run");
    }
    std::fs::remove_dir_all(&directory).expect("clean up");
}

/// What isn't hostile fails too, and says why.
#[test]
fn what_a_plugin_says_of_its_failure_is_told() {
    let importing = transform_importing;
    let sandbox = small_sandbox();
    let cases = [
        (transform("unreachable"), "trap", "unreachable"),
        (transform("(i32.div_u (local.get $n) (i32.const 0))"), "trap", "divide by zero"),
        (transform("(call $err (i32.const 128) (i32.const 22))"), "error", "panic: no such airport"),
        (
            importing(&LOG, "", "(call $write (i32.const 0) (i32.const 128) (i32.const 38)) unreachable"),
            "trap",
            "panic: no such airport at src/lib.rs:7",
        ),
        (
            importing(
                &WASI,
                "",
                "(call $print (call $stderr) (i32.const 128) (i32.const 22) (i32.const 700)) unreachable",
            ),
            "trap",
            "no such airport",
        ),
    ];
    for (component, kind, says) in cases {
        let plugin = load(&sandbox, &component);
        let mut guest = plugin.guest();
        // Twice: the second call must find a fresh instance, not what the first left.
        for trial in [Trial::Batch, Trial::Verdict, Trial::Batch] {
            let error = guest.transform(frame(3, 10).as_bytes(), &mut facts(3), trial).expect_err(says);
            assert_eq!(error.kind(), kind, "{trial:?}: {error}");
            assert!(error.to_string().contains(says), "{trial:?}: {error}");
        }
    }
}
