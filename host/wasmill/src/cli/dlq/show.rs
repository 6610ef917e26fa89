//! Shows dead letters to people. What stands in them is somebody's data: what a terminal would obey is escaped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::letter::{ID_DIGITS, Letter};
use super::letters::State;

/// How much of a reason a list shows.
const REASON_CHARS_MAX: usize = 100;
/// How many different texts are counted each; what is beyond counts together.
const COUNTED_MAX: usize = 1000;
/// How many of them people are shown.
const SHOWN_MAX: usize = 20;
/// Under what is counted that is beyond.
const OTHERS: &str = "others";

pub(super) fn time(ms: Option<i64>) -> String {
    ms.map_or_else(|| "-".to_owned(), wasmill_connect::codec::rfc3339::format)
}

/// A text without what a terminal would obey; quotes stay.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// The first characters of a text, on one line.
fn cut(text: &str, chars_max: usize) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(chars_max).collect();
    let more = if line.len() < text.trim_end().len() { "…" } else { "" };
    format!("{}{more}", escaped(&line))
}

fn plugin(letter: &Letter<'_>) -> String {
    letter.body.plugin.as_ref().map_or_else(|| "-".to_owned(), super::letter::Plugin::shown)
}

/// What stands above a list.
pub(super) fn heading() -> String {
    line(&["id", "time", "state", "stage", "kind", "plugin", "reason"])
}

fn line([id, time, state, stage, kind, plugin, reason]: &[&str; 7]) -> String {
    format!("{id:<ID_DIGITS$}  {time:<24}  {state:<8}  {stage:<16}  {kind:<8}  {plugin:<20}  {reason}\n")
}

/// A letter in a line.
pub(super) fn listed(letter: &Letter<'_>, state: State) -> String {
    let body = &letter.body;
    line(&[
        &letter.id()[..ID_DIGITS],
        &time(letter.time_ms()),
        state.name(),
        &escaped(&body.stage),
        &escaped(&body.kind),
        &escaped(&plugin(letter)),
        &cut(&body.reason, REASON_CHARS_MAX),
    ])
}

/// A letter as a list's JSON has it.
pub(super) fn listed_json(letter: &Letter<'_>, state: State, place: &str) -> Value {
    let body = &letter.body;
    json!({
        "id": letter.id(),
        "time": letter.time_ms(),
        "state": state.name(),
        "stage": body.stage,
        "kind": body.kind,
        "plugin": body.plugin.as_ref().map(|p| json!({"name": p.name, "version": p.version, "digest": p.digest})),
        "reason": body.reason,
        "attempts": body.attempts,
        "partition": body.partition,
        "offset": body.offset,
        "place": place,
    })
}

/// A letter whole.
pub(super) fn whole(letter: &Letter<'_>, state: &str, place: &str, obstacle: Option<&str>) -> String {
    let body = &letter.body;
    let mut text = format!("{}\n", letter.id());
    let mut put = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    put("state", state);
    if let Some(obstacle) = obstacle {
        put("replay", &format!("not possible: {obstacle}"));
    }
    put("stage", &escaped(&body.stage));
    put("kind", &escaped(&body.kind));
    for (nth, line) in body.reason.lines().enumerate() {
        put(if nth == 0 { "reason" } else { "" }, &escaped(line));
    }
    if let Some(plugin) = &body.plugin {
        let digest = plugin.digest.as_ref().map_or_else(String::new, |d| format!(", digest {d}"));
        put("plugin", &escaped(&format!("{}{digest}", plugin.shown())));
    }
    put("attempts", &body.attempts.to_string());
    if let Some(partition) = &body.partition {
        let offset = body.offset.map_or_else(String::new, |offset| format!(", offset {offset}"));
        let index = if body.index > 0 { format!(", result {}", body.index) } else { String::new() };
        put("came from", &format!("{}{offset}{index}", escaped(partition)));
    }
    if let (Some(start), Some(end)) = (body.start, body.end) {
        put("window", &format!("[{start}, {end}) of key {}", body.key.map_or("null", RawValue::get)));
    }
    put("time", &time(letter.time_ms()));
    if let Some(trace) = &body.trace_id {
        put("trace", &escaped(trace));
    }
    put("stands in", place);
    for (name, value) in [("message", body.message), ("original", body.original), ("output", body.output)] {
        let Some(value) = value else { continue };
        let _ = writeln!(text, "{name}");
        for line in readable(value).lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// A value laid out, with numbers as they stand only in `--json`; a record whose text is JSON is shown as that.
fn readable(value: &RawValue) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(value.get()) else { return value.get().to_owned() };
    if let Some(inner) = value.get_mut("value")
        && let Some(parsed) = inner.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
        && (parsed.is_object() || parsed.is_array())
    {
        *inner = parsed;
    }
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

/// Texts, and how often each came.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Counted(BTreeMap<String, u64>);

impl Counted {
    fn add(&mut self, text: String) {
        let is_new = !self.0.contains_key(&text);
        let text = if is_new && self.0.len() >= COUNTED_MAX { OTHERS.to_owned() } else { text };
        *self.0.entry(text).or_default() += 1;
    }

    fn show(&self, title: &str, to: &mut String) {
        let mut all: Vec<(&String, &u64)> = self.0.iter().collect();
        all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let _ = writeln!(to, "\n{title}");
        for (text, count) in all.iter().take(SHOWN_MAX) {
            let _ = writeln!(to, "  {count:>9}  {}", escaped(text));
        }
        if all.len() > SHOWN_MAX {
            let rest: u64 = all[SHOWN_MAX..].iter().map(|(_, count)| **count).sum();
            let _ = writeln!(to, "  {rest:>9}  of {} more (--json lists them)", all.len() - SHOWN_MAX);
        }
    }
}

/// Counts of letters.
#[derive(Debug, Default, Serialize)]
pub(super) struct Sums {
    letters: u64,
    states: BTreeMap<&'static str, u64>,
    oldest: Option<i64>,
    newest: Option<i64>,
    stages: Counted,
    kinds: Counted,
    plugins: Counted,
    reasons: Counted,
}

impl Sums {
    pub fn add(&mut self, letter: &Letter<'_>, state: State) {
        self.letters += 1;
        *self.states.entry(state.name()).or_default() += 1;
        let time = letter.time_ms();
        self.oldest = self.oldest.into_iter().chain(time).min();
        self.newest = self.newest.into_iter().chain(time).max();
        let body = &letter.body;
        self.stages.add(body.stage.clone());
        self.kinds.add(body.kind.clone());
        self.plugins.add(plugin(letter));
        self.reasons.add(alike(&body.reason));
    }

    /// For people.
    pub fn show(&self, pipeline: &str) -> String {
        let mut text = format!("{pipeline}: {}\n", letters(self.letters));
        if self.letters == 0 {
            return text;
        }
        let states: Vec<String> = self.states.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let _ = writeln!(text, "  {}", states.join(", "));
        let _ = writeln!(text, "  oldest {}, newest {}", time(self.oldest), time(self.newest));
        for (title, counted) in [
            ("by stage", &self.stages),
            ("by kind", &self.kinds),
            ("by plugin", &self.plugins),
            ("by reason, with # for numbers", &self.reasons),
        ] {
            counted.show(title, &mut text);
        }
        text
    }
}

/// So many dead letters, in words.
pub(super) fn letters(n: u64) -> String {
    match n {
        0 => "no dead letters".to_owned(),
        1 => "1 dead letter".to_owned(),
        n => format!("{n} dead letters"),
    }
}

/// A reason without what differs from message to message.
fn alike(reason: &str) -> String {
    let mut text = String::new();
    let line = reason.lines().next().unwrap_or_default();
    for c in line.chars().take(REASON_CHARS_MAX) {
        match c {
            c if c.is_ascii_digit() => {
                if !text.ends_with('#') {
                    text.push('#');
                }
            }
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_are_counted_together() {
        assert_eq!(alike("order 17 has no price\nsecond line"), "order # has no price");
        let mut counted = Counted::default();
        for n in 0..COUNTED_MAX + 10 {
            counted.add(format!("reason {}", "x".repeat(n)));
        }
        assert_eq!(counted.0.len(), COUNTED_MAX + 1);
        assert_eq!(counted.0[OTHERS], 10);
    }

    #[test]
    fn a_list_shows_no_more_than_a_line() {
        assert_eq!(cut("one\ntwo", 100), "one…");
        assert_eq!(cut("\u{1b}[31mred", 100), "\\u{1b}[31mred");
        assert_eq!(cut("abcdef", 3), "abc…");
    }
}
