//! The properties of transforms and filters: the same messages, the same answer for each.

use std::collections::BTreeSet;
use std::ops::Range;

use wasmill_engine::stage::StageKind;
use wasmill_frame::FrameBuf;

use super::random::Random;
use super::report::{Difference, Verified};
use super::watched::{On, Watched};
use super::{AGAIN, BATCHES, BATCHES_ON_ONE, Messages, REUSED, VERDICT, cuts};
use crate::cli::cases::{Kind, play};

/// What became of each message, a line for each result.
type Outcomes = Vec<Vec<String>>;

struct Subject<'a> {
    plugin: &'a Watched,
    kind: StageKind,
    keyed: bool,
    frame: &'a FrameBuf,
}

impl Subject<'_> {
    fn run(&self, on: On, outputs: &BTreeSet<String>, batches: &[Range<usize>]) -> Result<Outcomes, String> {
        let plugin = self.plugin.on(on);
        let played = play::stage(&plugin, self.kind, self.keyed, outputs, self.frame, batches)?;
        let mut outcomes = vec![Vec::new(); self.frame.len()];
        let mut add = |origin: usize, line: String| {
            if let Some(of) = outcomes.get_mut(origin) {
                of.push(line);
            }
        };
        for left in played.messages {
            add(left.origin, format!("goes on: {}", left.text));
        }
        for (name, left) in played.outputs {
            left.into_iter().for_each(|l| add(l.origin, format!("leaves by `{name}`: {}", l.text)));
        }
        for (origin, failed) in played.failed {
            add(origin, format!("dead letter: {}", failed.reason));
        }
        Ok(outcomes)
    }
}

/// Checks one interface over one set of messages. Answers how many of them failed.
pub fn check(
    plugin: &Watched,
    kind: Kind,
    set: &Messages,
    frame: &FrameBuf,
    (random, rounds): (&mut Random, usize),
    verified: &mut Verified,
) -> Result<usize, String> {
    let stage_kind = if kind == Kind::Transform { StageKind::Transform } else { StageKind::Filter };
    let subject = Subject { plugin, kind: stage_kind, keyed: set.key.is_some(), frame };
    let all = frame.len();
    let whole = play::batches(all, all);
    // Once to see which outputs there are, for what leaves by one that nobody takes fails.
    subject.run(On::One, &BTreeSet::new(), &whole)?;
    let outputs = plugin.outputs();
    let reference = subject.run(On::One, &outputs, &whole)?;

    let mut runs = vec![(AGAIN, On::One, whole.clone()), (REUSED, On::One, whole.clone())];
    for cut in cuts(all, random, rounds) {
        runs.push((BATCHES, On::Fresh, cut.clone()));
        runs.push((BATCHES_ON_ONE, On::One, cut));
    }
    runs.push((VERDICT, On::Verdict, whole));
    for (property, on, batches) in runs {
        let calls = plugin.calls();
        // While a guest is there, the plugin keeps an instance: the run after the first meets a used one.
        let kept = (property == REUSED).then(|| plugin.guest_of_its_own());
        if kept.is_some() {
            subject.run(on, &outputs, &batches)?;
        }
        let came = subject.run(on, &outputs, &batches)?;
        let check = verified.check(kind.name(), property);
        check.compared += 1;
        check.messages += all;
        check.calls += plugin.calls() - calls;
        if check.difference.is_none()
            && let Some(at) = (0..all).find(|i| reference[*i] != came[*i])
        {
            check.difference = Some(Difference {
                set: set.name.clone(),
                call: call(&batches, at),
                message: Some(at + 1),
                id: Some(frame.get(at).id().to_owned()),
                key: None,
                reference: "as one batch, on a fresh instance".to_owned(),
                expected: shown(&reference[at]),
                came: shown(&came[at]),
            });
        }
    }
    let died = |lines: &&Vec<String>| lines.iter().any(|l| l.starts_with("dead letter"));
    Ok(reference.iter().filter(died).count())
}

fn shown(lines: &[String]) -> String {
    if lines.is_empty() { "it is dropped".to_owned() } else { lines.join("\n") }
}

/// Which call a message was in.
fn call(batches: &[Range<usize>], message: usize) -> String {
    let (all, at) = (batches.len(), batches.iter().position(|b| b.contains(&message)).unwrap_or(0));
    let Range { start, end } = batches.get(at).cloned().unwrap_or_default();
    match end.saturating_sub(start) {
        1 => format!("{} of {all}, message {end}", at + 1),
        _ => format!("{} of {all}, messages {} to {end}", at + 1, start + 1),
    }
}
