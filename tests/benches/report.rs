//! The table.

use std::process::{Command, ExitCode};

use crate::clock::Times;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At most this; above it the bench fails.
    AtMost(f64),
    /// At least this, on a quiet machine.
    Aim(f64),
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    what: String,
    how: String,
    best: String,
    median: String,
    ratio: String,
    target: String,
    is_met: Option<bool>,
    must: bool,
}

impl Row {
    /// Nanoseconds a message, and their ratio to another's. The ratio is that of the least times, which
    /// other work on the machine disturbs least.
    pub fn ratio(what: &str, how: &str, times: &Times, base: &Times, target: Option<Target>) -> Self {
        let ratio = times.min() / base.min();
        Self {
            what: what.to_owned(),
            how: how.to_owned(),
            best: format!("{:.0} ns", times.min()),
            median: format!("{:.0} ns", times.median()),
            ratio: format!("{ratio:.2} (medians {:.2})", times.median() / base.median()),
            ..Self::judged(ratio, target, "")
        }
    }

    /// A figure with its unit.
    pub fn figure(what: &str, how: &str, times: &Times, unit: &str, target: Option<Target>) -> Self {
        let best = match target {
            Some(Target::Aim(_)) => times.max(),
            _ => times.min(),
        };
        let shown = |n: f64| if n >= 1000.0 { format!("{n:.0} {unit}") } else { format!("{n:.2} {unit}") };
        Self {
            what: what.to_owned(),
            how: how.to_owned(),
            best: shown(best),
            median: shown(times.median()),
            ratio: String::new(),
            ..Self::judged(best, target, unit)
        }
    }

    fn judged(figure: f64, target: Option<Target>, unit: &str) -> Self {
        let (target, is_met, must) = match target {
            Some(Target::AtMost(most)) => (format!("≤ {most} {unit}"), Some(figure <= most), true),
            Some(Target::Aim(least)) => (format!("≥ {least} {unit}"), Some(figure >= least), false),
            None => (String::new(), None, false),
        };
        let empty = String::new;
        let target = target.trim().to_owned();
        Self {
            what: empty(),
            how: empty(),
            best: empty(),
            median: empty(),
            ratio: empty(),
            target,
            is_met,
            must,
        }
    }
}

/// All lines.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a line, and shows it at once to whoever waits.
    pub fn push(&mut self, row: Row) {
        eprintln!("{}: {}: {} {}", row.what, row.how, row.median, row.ratio);
        self.rows.push(row);
    }

    /// The table, with where and when it was made.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} · commit {} · {}\n\n| what | how | best | median | ratio to the first of its kind | target | |\n|---|---|---|---|---|---|---|\n",
            said_by("date", &["-u", "+%F"]),
            commit(),
            cpu(),
        );
        for row in &self.rows {
            let met = match row.is_met {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "",
            };
            let Row { what, how, best, median, ratio, target, .. } = row;
            text.push_str(&format!("| {what} | {how} | {best} | {median} | {ratio} | {target} | {met} |\n"));
        }
        text
    }

    /// 1 where a target is missed that no other work on the machine explains.
    pub fn exit_code(&self) -> ExitCode {
        let missed = self.rows.iter().any(|row| row.must && row.is_met == Some(false));
        if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn said_by(command: &str, args: &[&str]) -> String {
    let said = Command::new(command).args(args).current_dir(wasmill_tests::home::root()).output();
    said.ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn commit() -> String {
    let commit = said_by("git", &["rev-parse", "--short", "HEAD"]);
    match said_by("git", &["status", "--porcelain"]).as_str() {
        "" => commit,
        _ => format!("{commit} with changes"),
    }
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    format!("{}, {cores} cores", model.trim_start_matches([' ', '\t', ':']))
}
