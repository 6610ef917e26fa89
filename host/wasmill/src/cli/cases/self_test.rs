//! The cases that a plugin carries, run before it is taken in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmill_engine::guest::{
    AnswerBounds, CallContext, CallError, Guest, GuestInfo, Plugin, PluginRef, Trial, Tries,
};
use wasmill_plugin::{Grants, Limits, Sandbox, StageConfig};

use super::format::{Case, parse_embedded};
use super::judge;
use crate::cli::sandbox;

/// The most cases that a plugin may carry, and messages in all of them: they are run before a pipeline starts.
const CASES_MAX: usize = 256;
const MESSAGES_MAX: usize = 4_096;
/// The processor time that all of them may take together: a start waits for them, and the swapper of a running pipeline.
/// Each call is bounded too, but so many calls of a second are hours. Processor time, for on a busy machine a clock goes
/// on without them; a call that is being made may go on to its own bound.
const PROCESSOR_MS_MAX: u64 = 60_000;
/// How much of what is wrong is shown: both sides may be as long as an answer.
const SHOWN_BYTES_MAX: usize = 16 << 10;

/// What is wrong with a plugin's own cases.
#[derive(Debug, PartialEq, Eq)]
pub struct SelfTestFailure {
    /// Which case, in one line.
    pub title: String,
    /// What is wrong: the difference between what was expected and what came.
    pub difference: String,
    /// What to do.
    pub help: &'static str,
}

impl SelfTestFailure {
    fn new(title: String, difference: String) -> Self {
        let help = "take a version of it that passes, or give the stage the config and grants that it needs";
        Self { title, difference, help }
    }
}

/// Runs the cases that a plugin carries, with the grants of its stage, and the stage's config where a case has
/// none of its own. What passed once, with the same grants, config and limits, is not run again while the compile
/// cache remembers it.
///
/// # Errors
/// The first case that fails, why they can't be run, or that they were not done in time.
pub fn self_test(
    sandbox: &Sandbox,
    plugin: &PluginRef,
    grants: &Grants,
    config: &StageConfig,
) -> Result<(), SelfTestFailure> {
    let info = plugin.info();
    let texts = sandbox.cases(info);
    if texts.is_empty() {
        return Ok(());
    }
    let version = env!("CARGO_PKG_VERSION");
    // How many instances there may be changes no answer; the other limits may.
    let limits = Limits { instances_max: 0, ..sandbox.limits().clone() };
    let note =
        format!("cases passed: {version} {} {} {grants:?} {config:?} {limits:?}", info.digest, info.name);
    if sandbox.has_note(&note) {
        return Ok(());
    }
    let cases = read(&info.name, &texts)?;
    let load = |case: &Case| match &case.config {
        None => Ok(plugin.clone()),
        Some(own) => sandbox.load_again(info, grants, sandbox::config(own)).map_err(|e| e.to_string()),
    };
    run(&info.name, &cases, PROCESSOR_MS_MAX, load)?;
    sandbox.note(&note);
    Ok(())
}

/// Runs cases one by one, as long as they are within their processor time.
fn run(
    name: &str,
    cases: &[Case],
    limit_ms: u64,
    load: impl Fn(&Case) -> Result<PluginRef, String>,
) -> Result<(), SelfTestFailure> {
    let budget = Arc::new(Budget::begin(limit_ms));
    for (at, case) in cases.iter().enumerate() {
        let failed = |difference: String| {
            let title = format!("the plugin `{name}` fails its own test case `{}`", plain(&case.name));
            SelfTestFailure::new(title, plain(&difference))
        };
        let plugin: PluginRef =
            Arc::new(Budgeted { plugin: load(case).map_err(failed)?, budget: Arc::clone(&budget) });
        let differences = judge::judge(&plugin, case);
        // What was stopped is no difference: nothing is known of it.
        if budget.was_short() {
            return Err(SelfTestFailure {
                title: format!("the plugin `{name}` was not done with its own test cases in time"),
                difference: format!(
                    "all {} of them together may take {limit_ms} ms of processor time; they had taken {} ms in the case `{}`, which is number {}, and were stopped: none has failed so far",
                    cases.len(),
                    budget.spent_ms(),
                    plain(&case.name),
                    at + 1
                ),
                help: "have it carry fewer or smaller cases, and run all of them by hand: `wasmill test FILE.wasm CASES`",
            });
        }
        if !differences.is_empty() {
            return Err(failed(differences.join("\n")));
        }
    }
    Ok(())
}

/// What of their processor time cases have left. They are run on one thread, which is this one.
struct Budget {
    limit_ms: u64,
    begun_ms: u64,
    was_short: AtomicBool,
}

impl Budget {
    fn begin(limit_ms: u64) -> Self {
        Self { limit_ms, begun_ms: wasmill_plugin::processor_ms(), was_short: AtomicBool::new(false) }
    }

    fn spent_ms(&self) -> u64 {
        wasmill_plugin::processor_ms().saturating_sub(self.begun_ms)
    }

    /// Whether a call was refused for it.
    fn was_short(&self) -> bool {
        self.was_short.load(Ordering::Relaxed)
    }

    /// Whether another call may be made.
    ///
    /// # Errors
    /// When there is nothing left: no verdict on any message, for the cases don't count any more.
    fn check(&self) -> Result<(), CallError> {
        if self.spent_ms() <= self.limit_ms && !self.was_short() {
            return Ok(());
        }
        self.was_short.store(true, Ordering::Relaxed);
        Err(CallError::Refused("the cases are not done in time".to_owned()))
    }
}

/// A plugin that isn't called any more once the budget is used up, so that a case comes to its end at once.
struct Budgeted {
    plugin: PluginRef,
    budget: Arc<Budget>,
}

impl Plugin for Budgeted {
    fn info(&self) -> &GuestInfo {
        self.plugin.info()
    }

    fn guest(&self) -> Box<dyn Guest> {
        Box::new(BudgetedGuest { guest: self.plugin.guest(), budget: Arc::clone(&self.budget) })
    }

    fn tries(&self) -> Tries {
        self.plugin.tries()
    }

    fn bounds(&self) -> AnswerBounds {
        self.plugin.bounds()
    }
}

struct BudgetedGuest {
    guest: Box<dyn Guest>,
    budget: Arc<Budget>,
}

impl Guest for BudgetedGuest {
    fn around(&mut self) -> Option<&mut dyn Guest> {
        Some(self.guest.as_mut())
    }

    fn transform(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        self.budget.check()?;
        self.guest.transform(frame, cx, trial)
    }

    fn filter(&mut self, frame: &[u8], cx: &mut CallContext, trial: Trial) -> Result<Vec<u8>, CallError> {
        self.budget.check()?;
        self.guest.filter(frame, cx, trial)
    }

    fn fold(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.budget.check()?;
        self.guest.fold(frame, groups, cx, trial)
    }

    fn scan(
        &mut self,
        frame: &[u8],
        groups: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        self.budget.check()?;
        self.guest.scan(frame, groups, cx, trial)
    }

    fn merge(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.budget.check()?;
        self.guest.merge(accumulators, cx, trial)
    }

    fn finish(
        &mut self,
        accumulators: &[u8],
        cx: &mut CallContext,
        trial: Trial,
    ) -> Result<Vec<u8>, CallError> {
        self.budget.check()?;
        self.guest.finish(accumulators, cx, trial)
    }
}

/// A stranger's text as a terminal may have it: so much of it, lines as they are, and all else that is no text written
/// out.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        if plain.len() >= SHOWN_BYTES_MAX {
            plain.push('…');
            break;
        }
        match c {
            '\n' | '"' | '\'' | '\\' => plain.push(c),
            c => plain.extend(c.escape_debug()),
        }
    }
    plain
}

fn read(plugin: &str, texts: &[Vec<u8>]) -> Result<Vec<Case>, SelfTestFailure> {
    let wrong = |difference: String| {
        let title = format!("the plugin `{plugin}` carries test cases that can't be read");
        SelfTestFailure::new(title, plain(&difference))
    };
    let mut cases = Vec::new();
    for text in texts {
        let text = std::str::from_utf8(text).map_err(|e| wrong(format!("they are no UTF-8: {e}")))?;
        let name = format!("{plugin}: the section {}", wasmill_plugin::CASES_SECTION);
        cases.extend(parse_embedded(&name, text).map_err(|p| wrong(p.render(false)))?);
    }
    bounded(&cases).map_err(wrong)?;
    Ok(cases)
}

/// Whether a plugin may carry so many.
///
/// # Errors
/// How many there are, and may be.
pub fn bounded(cases: &[Case]) -> Result<(), String> {
    let (count, messages) = (cases.len(), cases.iter().map(|c| c.input.len()).sum::<usize>());
    if count > CASES_MAX || messages > MESSAGES_MAX {
        return Err(format!(
            "there are {count} with {messages} messages; a plugin may carry {CASES_MAX} with {MESSAGES_MAX}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use wasmill_engine::guest::Kinds;
    use wasmill_frame::{EditsWriter, Frame};

    use super::*;

    /// A transform that lets all through; each call takes some processor time.
    struct Slow {
        info: GuestInfo,
        calls: Arc<AtomicUsize>,
        ms: u64,
    }

    impl Plugin for Slow {
        fn info(&self) -> &GuestInfo {
            &self.info
        }

        fn guest(&self) -> Box<dyn Guest> {
            Box::new(SlowGuest { calls: Arc::clone(&self.calls), ms: self.ms })
        }
    }

    struct SlowGuest {
        calls: Arc<AtomicUsize>,
        ms: u64,
    }

    impl Guest for SlowGuest {
        fn transform(&mut self, frame: &[u8], _: &mut CallContext, _: Trial) -> Result<Vec<u8>, CallError> {
            let messages = Frame::open(frame).expect("a frame").len();
            self.calls.fetch_add(1, Ordering::Relaxed);
            let begun = wasmill_plugin::processor_ms();
            while wasmill_plugin::processor_ms() - begun < self.ms {
                std::hint::spin_loop();
            }
            Ok(EditsWriter::new(messages).finish())
        }
    }

    fn tried(ms: u64, limit_ms: u64) -> (Result<(), SelfTestFailure>, usize) {
        let calls = Arc::new(AtomicUsize::new(0));
        let info = GuestInfo {
            name: "slow".to_owned(),
            kinds: Kinds { transform: true, ..Kinds::default() },
            ..GuestInfo::default()
        };
        let plugin: PluginRef = Arc::new(Slow { info, calls: Arc::clone(&calls), ms });
        let case = |name: &str| {
            let input: Vec<_> = (0..40)
                .map(|i| serde_json::json!({ "id": i.to_string(), "type": "t", "payload": {} }))
                .collect();
            serde_json::json!({ "name": name, "input": input, "expect": input }).to_string()
        };
        let text = [case("first"), case("second")].join("\n");
        let cases = parse_embedded("cases", &text).unwrap_or_else(|p| panic!("{}", p.render(false)));
        let ran = run("slow", &cases, limit_ms, |_| Ok(plugin.clone()));
        (ran, calls.load(Ordering::Relaxed))
    }

    #[test]
    fn cases_that_are_not_done_in_time_are_stopped_and_fail_nothing() {
        let (ran, calls) = tried(5, 300);
        let failure = ran.expect_err("too slow");
        assert_eq!(failure.title, "the plugin `slow` was not done with its own test cases in time");
        for part in ["all 2 of them together may take 300 ms", "the case `second`, which is number 2"] {
            assert!(failure.difference.contains(part), "no {part:?} in {}", failure.difference);
        }
        assert!(failure.help.contains("wasmill test FILE.wasm CASES"));
        assert!(calls <= 62, "{calls} calls of 5 ms in 300 ms");
    }

    #[test]
    fn cases_within_their_time_pass() {
        let (ran, calls) = tried(0, 60_000);
        assert_eq!((ran, calls), (Ok(()), 82), "each as one batch, and message by message");
    }

    #[test]
    fn what_a_plugin_s_case_tells_is_plain_and_bounded() {
        assert_eq!(plain("- \"a\\n\"\n+ \u{1b}[2Jb\r\u{202e}é"), "- \"a\\n\"\n+ \\u{1b}[2Jb\\r\\u{202e}é");
        let long = plain(&"x".repeat(1 << 20));
        assert_eq!(long.len(), SHOWN_BYTES_MAX + '…'.len_utf8());
    }
}
