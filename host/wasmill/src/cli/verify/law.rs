//! The law of aggregates, on what they finish to: however messages are cut, folded, merged and, where the plugin calls
//! itself commutative, ordered, the same bytes come of them.

use std::ops::Range;

use wasmill_engine::guest::{PluginRef, Trial};
use wasmill_frame::FrameBuf;

use super::random::Random;
use super::report::{Difference, Verified};
use super::watched::{On, Watched};
use super::{AGAIN, BATCHES, BATCHES_ON_ONE, Messages, REUSED, VERDICT, cuts};
use crate::cli::cases::play::{self, Calls, Gathered, Way};

const MERGE: &str = "merging parts gives what folding all gives";
const GROUPING: &str = "merging parts in another grouping";
const UNIT: &str = "`initial` merged to it changes nothing";
const ORDER: &str = "any order, as it calls itself commutative";

struct Run {
    property: &'static str,
    on: On,
    way: Way,
    says: String,
}

/// Checks `fold`, `merge` and `finish`, or with `scan` that in place of `fold`, over one set of messages. Answers how
/// many of them failed.
pub fn check(
    plugin: &Watched,
    scan: bool,
    set: &Messages,
    frame: &FrameBuf,
    (random, rounds): (&mut Random, usize),
    verified: &mut Verified,
) -> Result<usize, String> {
    let interface = if scan { "scan" } else { "aggregate" };
    let all = frame.len();
    let whole = Way::folded(play::batches(all, all));
    let play = |plugin: &PluginRef, way: &Way| {
        play::aggregate(plugin, frame, way, Calls { trial: Trial::Batch, alone: true, scan })
    };
    let one = plugin.on(On::One);
    let reference = play(&one, &whole);
    let commutative = plugin.info_of_aggregate().is_some_and(|a| a.commutative);
    for Run { property, on, way, says } in runs(all, scan, commutative, random, rounds) {
        let calls = plugin.calls();
        let on = plugin.on(on);
        let kept = (property == REUSED).then(|| plugin.guest_of_its_own());
        if kept.is_some() {
            // Whether it can answer at all is the reference's matter.
            drop(play(&on, &way));
        }
        let came = play(&on, &way);
        let check = verified.check(interface, property);
        check.compared += 1;
        check.messages += all;
        check.calls += plugin.calls() - calls;
        if check.difference.is_none() && (came != reference || came.is_err()) {
            // The fewest of the messages that show it.
            let differs = |n: &usize| play(&one, &first(&whole, *n)) != play(&on, &first(&way, *n));
            let shortest = (1..all).find(differs).unwrap_or(all);
            let (mut left, mut right) =
                (play(&one, &first(&whole, shortest)), play(&on, &first(&way, shortest)));
            if left == right {
                (left, right) = (reference.clone(), came);
            }
            let (key, expected, came) = parts(&left, &right);
            let last = shortest.checked_sub(1);
            check.difference = Some(Difference {
                set: set.name.clone(),
                call: says,
                message: last.map(|at| at + 1),
                id: last.map(|at| frame.get(at).id().to_owned()),
                key,
                reference: format!("messages 1 to {shortest} folded as one batch, on a fresh instance"),
                expected,
                came,
            });
        }
    }
    reference.map(|r| r.failed.len())
}

fn runs(all: usize, scan: bool, commutative: bool, random: &mut Random, rounds: usize) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut run = |property, on, way: Way, says: String| runs.push(Run { property, on, way, says });
    let folded = |cut: &[Range<usize>]| Way::folded(cut.iter().cloned());
    let whole = play::batches(all, all);
    run(AGAIN, On::One, folded(&whole), "all messages, on another fresh instance".to_owned());
    run(REUSED, On::One, folded(&whole), "all messages, on an instance that folded them before".to_owned());
    let cuts = cuts(all, random, rounds);
    for cut in &cuts {
        run(BATCHES, On::Fresh, folded(cut), format!("folded in batches of {}", sizes(cut)));
        run(BATCHES_ON_ONE, On::One, folded(cut), format!("folded in batches of {}", sizes(cut)));
    }
    run(VERDICT, On::Verdict, folded(&whole), "all messages, under fuel".to_owned());
    if scan {
        return runs;
    }
    for cut in &cuts {
        let merged = Way::merged(cut.iter().cloned());
        let right = Way { from_the_right: true, ..merged.clone() };
        run(MERGE, On::One, merged, format!("parts of {}, folded each and merged from the left", sizes(cut)));
        run(GROUPING, On::One, right, format!("parts of {}, merged from the right", sizes(cut)));
    }
    let in_front = Way { initial_in_front: true, ..folded(&whole) };
    let behind = Way { initial_behind: true, ..folded(&whole) };
    run(UNIT, On::One, in_front, "merge(initial, what was folded)".to_owned());
    run(UNIT, On::One, behind, "merge(what was folded, initial)".to_owned());
    if commutative {
        let reverse: Vec<usize> = (0..all).rev().collect();
        run(ORDER, On::One, Way::ordered(reverse), "the last message first".to_owned());
        let halves = [all / 2..all, 0..all / 2];
        run(ORDER, On::One, Way::merged(halves), "merge(second half, first half)".to_owned());
        for _ in 0..rounds {
            let order = random.shuffled(all);
            let says = format!("in the order {}", numbers(&order));
            run(ORDER, On::One, Way::ordered(order), says);
        }
    }
    runs
}

/// The same way with the first so many messages alone.
fn first(way: &Way, messages: usize) -> Way {
    let mut way = way.clone();
    for batch in way.parts.iter_mut().flatten() {
        batch.retain(|i| *i < messages);
    }
    way
}

/// What differs: of which key, what was expected, what came.
fn parts(
    left: &Result<Gathered, String>,
    right: &Result<Gathered, String>,
) -> (Option<String>, String, String) {
    let (left, right) = match (left, right) {
        (Ok(left), Ok(right)) => (left, right),
        (left, right) => {
            let text = |r: &Result<Gathered, String>| match r {
                Ok(_) => "an answer".to_owned(),
                Err(error) => format!("no answer: {error}"),
            };
            return (None, text(left), text(right));
        }
    };
    if left.failed != right.failed {
        let text = |g: &Gathered| {
            let one = |(at, failed): &(usize, crate::cli::cases::Failed)| {
                format!("message {} fails: {}", at + 1, failed.reason)
            };
            let lines: Vec<String> = g.failed.iter().map(one).collect();
            if lines.is_empty() { "no message fails".to_owned() } else { lines.join("\n") }
        };
        return (None, text(left), text(right));
    }
    if let Some(at) =
        left.edits.keys().chain(right.edits.keys()).find(|at| left.edits.get(at) != right.edits.get(at))
    {
        let text = |g: &Gathered| {
            let edits = g.edits.get(at).map_or_else(|| "it stays as it is".to_owned(), |e| e.join("\n"));
            format!("message {}: {edits}", at + 1)
        };
        return (None, text(left), text(right));
    }
    let key = left.values.keys().chain(right.values.keys());
    let key = key.into_iter().find(|k| left.values.get(*k) != right.values.get(*k));
    let text = |g: &Gathered| {
        key.and_then(|k| g.values.get(k)).cloned().unwrap_or_else(|| "no value of this key".to_owned())
    };
    let shown = key.filter(|k| !k.is_empty()).map(|k| String::from_utf8_lossy(k).into_owned());
    (shown, text(left), text(right))
}

fn sizes(cut: &[Range<usize>]) -> String {
    let lengths: Vec<usize> = cut.iter().map(ExactSizeIterator::len).collect();
    match lengths.as_slice() {
        [first, rest @ ..] if rest.len() > 1 && rest.iter().all(|n| n == first) => first.to_string(),
        _ => numbers(&lengths.iter().map(|n| n - 1).collect::<Vec<_>>()),
    }
}

/// The most numbers that a line shows.
const NUMBERS_MAX: usize = 24;

/// Places, counted from 1.
fn numbers(places: &[usize]) -> String {
    let mut texts: Vec<String> = places.iter().take(NUMBERS_MAX).map(|n| (n + 1).to_string()).collect();
    if places.len() > NUMBERS_MAX {
        texts.push("…".to_owned());
    }
    texts.join(", ")
}
