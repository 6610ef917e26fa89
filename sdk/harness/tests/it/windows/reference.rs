//! What windows must give, from the rules alone: collect a key's messages, order them, look at each window.
//! No timers, no panes that are kept, no state: it asks of every window what it holds at a moment.

use std::collections::BTreeSet;

/// A message as a windowed stage meets it, in the order of its key.
#[derive(Clone, Debug)]
pub struct Met {
    pub stamp: i64,
    pub time: i64,
    pub id: String,
    pub poison: bool,
}

/// The kinds of windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Of {
    Every { size: i64, every: i64 },
    AtMessages { size: i64 },
    Session { gap: i64 },
}

/// When values go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Out {
    Close,
    Update,
    Every(i64),
}

/// What goes out of a key's windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its moment in the stage's time; then, at the same one, what closes (0), a tick (1), message by message.
    pub when: (i64, usize),
    pub start: i64,
    pub end: i64,
    pub last: bool,
    pub revision: usize,
    /// None where it is taken back.
    pub value: Option<String>,
}

/// What a stage makes of a key's messages.
#[derive(Default, Debug)]
pub struct Made {
    pub shown: Vec<Shown>,
    pub late: Vec<String>,
    pub poison: Vec<String>,
}

pub fn list(messages: &[&Met]) -> String {
    messages.iter().map(|m| format!("{}@{},", m.id, m.time)).collect()
}

pub fn windows(of: Of, lateness: i64, out: Out, met: &[Met]) -> Made {
    match of {
        Of::Session { gap } => sessions(gap, lateness, out, met),
        _ => fixed(of, lateness, out, met),
    }
}

/// The ticks at which something may go out: the first one behind each message.
fn ticks(every: i64, met: &[Met]) -> BTreeSet<i64> {
    met.iter().map(|m| (m.stamp.div_euclid(every) + 1) * every).collect()
}

fn fixed(of: Of, lateness: i64, out: Out, met: &[Met]) -> Made {
    let mut made = Made::default();
    let length = if let Of::AtMessages { size } = of { size + 1 } else { size_of(of) };
    let last_end = |t: i64| match of {
        Of::Every { size, every } => t / every * every + size,
        _ => t + length,
    };
    let mut kept: Vec<&Met> = Vec::new();
    for m in met {
        match (last_end(m.time) + lateness <= m.stamp, m.poison) {
            (true, _) => made.late.push(m.id.clone()),
            (false, true) => made.poison.push(m.id.clone()),
            (false, false) => kept.push(m),
        }
    }
    let mut ends: BTreeSet<i64> = BTreeSet::new();
    for m in &kept {
        match of {
            Of::Every { every, size } => {
                let starts = (0..=m.time / every).rev().map(|n| n * every);
                ends.extend(starts.take_while(|s| s + size > m.time).map(|s| s + size));
            }
            _ => ends.extend([m.time.max(length - 1) + 1, m.time + length + 1]),
        }
    }
    // What a window holds of the first messages of the key; none where it has not come into being.
    let holds = |end: i64, first: usize| {
        let mut held: Vec<&Met> = kept[..first]
            .iter()
            .copied()
            .filter(|m| (end - length..end).contains(&m.time) && end + lateness > m.stamp)
            .collect();
        let is_there = match of {
            Of::Every { .. } => !held.is_empty(),
            _ => {
                let left = |m: &&Met| m.time.max(length - 1) + 1 == end;
                let behind = |m: &&Met| m.time + length + 1 == end;
                !held.is_empty() && (held.iter().any(left) || kept[..first].iter().any(behind))
            }
        };
        let pane =
            |time: i64| if let Of::Every { size, every } = of { time / gcd(size, every) } else { time };
        held.sort_by_key(|m| pane(m.time));
        is_there.then_some(held)
    };
    let mut show = |when, end, last, held: &[&Met]| {
        let revision = if last { held.len() } else { held.len() - 1 };
        let value = Some(list(held));
        made.shown.push(Shown { when, start: end - length, end, last, revision, value });
    };
    for end in &ends {
        if let Some(held) = holds(*end, kept.len()) {
            show((end + lateness, 0), *end, true, &held);
        }
    }
    match out {
        Out::Close => {}
        Out::Update => {
            for (i, m) in kept.iter().enumerate() {
                for end in ends.iter().filter(|end| *end + lateness > m.stamp) {
                    let Some(held) = holds(*end, i + 1) else { continue };
                    let is_in = (end - length..*end).contains(&m.time);
                    if is_in || holds(*end, i).is_none() {
                        show((m.stamp, 2 + i), *end, false, &held);
                    }
                }
            }
        }
        Out::Every(every) => {
            for tick in ticks(every, met) {
                let before = |moment: i64| kept.partition_point(|m| m.stamp < moment);
                let (then, now) = (before(tick - every), before(tick));
                for end in ends.iter().filter(|end| *end + lateness > tick) {
                    let Some(held) = holds(*end, now) else { continue };
                    if holds(*end, then).is_none_or(|h| h.len() < held.len()) {
                        show((tick, 1), *end, false, &held);
                    }
                }
            }
        }
    }
    made.shown.sort_by_key(|s| (s.when, s.end, s.start));
    made
}

fn size_of(of: Of) -> i64 {
    match of {
        Of::Every { size, .. } | Of::AtMessages { size } => size,
        Of::Session { gap } => gap,
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A session: its messages, and what of it went out as (start, end, revision).
#[derive(Clone, Default)]
struct Session<'a> {
    held: Vec<&'a Met>,
    shown: BTreeSet<(i64, i64, usize)>,
    touched: i64,
}

fn sessions(gap: i64, lateness: i64, out: Out, met: &[Met]) -> Made {
    let mut made = Made::default();
    let first = |s: &Session<'_>| s.held.iter().map(|m| m.time).min().unwrap_or(0);
    let end = |s: &Session<'_>| s.held.iter().map(|m| m.time).max().unwrap_or(0) + gap;
    let show = |s: &mut Session<'_>, when, last: bool, made: &mut Made| {
        let own = (first(s), end(s));
        let mut back: Vec<_> = std::mem::take(&mut s.shown).into_iter().collect();
        back.retain(|(start, end, _)| (*start, *end) != own);
        back.sort_by_key(|(start, end, _)| (*end, *start));
        for (start, end, revision) in back {
            made.shown.push(Shown { when, start, end, last: false, revision: revision + 1, value: None });
        }
        let revision = if last { s.held.len() } else { s.held.len() - 1 };
        let (start, end) = own;
        made.shown.push(Shown { when, start, end, last, revision, value: Some(list(&s.held)) });
        s.shown = [(start, end, revision)].into();
    };
    let mut all: Vec<Session<'_>> = Vec::new();
    let mut due = if let Out::Every(every) = out { ticks(every, met) } else { BTreeSet::new() };
    // What happens at moments up to this one.
    let pass = |to: i64, all: &mut Vec<Session<'_>>, due: &mut BTreeSet<i64>, made: &mut Made| loop {
        all.sort_by_key(|s| (end(s), first(s)));
        let close = all.first().map_or(i64::MAX, |s| end(s) + 1 + lateness);
        let tick = due.first().copied().unwrap_or(i64::MAX);
        if close.min(tick) > to || close.min(tick) == i64::MAX {
            break;
        }
        if close <= tick {
            show(&mut all.remove(0), (close, 0), true, made);
        } else {
            due.pop_first();
            let Out::Every(every) = out else { break };
            for s in all.iter_mut().filter(|s| s.touched >= tick - every) {
                show(s, (tick, 1), false, made);
            }
        }
    };
    for (i, m) in met.iter().enumerate() {
        pass(m.stamp, &mut all, &mut due, &mut made);
        let near = |s: &Session<'_>| m.time >= first(s) - gap && m.time <= end(s);
        if !all.iter().any(near) && m.time + gap + 1 + lateness <= m.stamp {
            made.late.push(m.id.clone());
            continue;
        }
        if m.poison {
            made.poison.push(m.id.clone());
            continue;
        }
        let (mut joined, apart): (Vec<_>, Vec<_>) = all.into_iter().partition(near);
        all = apart;
        joined.sort_by_key(first);
        let mut session = Session::default();
        for s in joined {
            session.held.extend(s.held);
            session.shown.extend(s.shown);
        }
        session.held.push(m);
        session.touched = m.stamp;
        if out == Out::Update {
            show(&mut session, (m.stamp, 2 + i), false, &mut made);
        }
        all.push(session);
    }
    pass(i64::MAX, &mut all, &mut due, &mut made);
    made
}
