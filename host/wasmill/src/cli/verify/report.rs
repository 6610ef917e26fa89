//! What was checked, and the difference that was found.

use std::fmt::Write as _;

use serde::Serialize;

/// One property of one of a plugin's interfaces.
#[derive(Debug, Serialize)]
pub struct Check {
    pub interface: &'static str,
    pub property: &'static str,
    /// How many comparisons were made.
    pub compared: usize,
    /// How many calls of the plugin that took.
    pub calls: usize,
    /// Over how many messages.
    pub messages: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
}

/// Where two answers that must be the same differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The set of messages.
    pub set: String,
    /// Which call.
    pub call: String,
    /// Which message, by its number from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<usize>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Of which key the value is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How the answer came about that the other must be the same as.
    pub reference: String,
    /// That answer.
    pub expected: String,
    /// The other.
    pub came: String,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub plugin: String,
    pub digest: String,
    pub seed: u64,
    pub sets: Vec<SetShown>,
    pub checks: Vec<Check>,
}

/// A set of messages.
#[derive(Debug, Serialize)]
pub struct SetShown {
    pub name: String,
    pub messages: usize,
    /// How many of them failed: where it is all, little was verified.
    pub failed: usize,
}

impl Verified {
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|c| c.difference.is_none())
    }

    /// Adds to a property's check.
    pub fn check(&mut self, interface: &'static str, property: &'static str) -> &mut Check {
        let at = self.checks.iter().position(|c| (c.interface, c.property) == (interface, property));
        let at = at.unwrap_or_else(|| {
            let new = Check { interface, property, compared: 0, calls: 0, messages: 0, difference: None };
            self.checks.push(new);
            self.checks.len() - 1
        });
        &mut self.checks[at]
    }

    /// As text. Writing to a `String` can't fail.
    pub fn text(&self) -> String {
        let mut t = String::new();
        let _ = writeln!(t, "plugin {}, seed {}", self.plugin, self.seed);
        for set in &self.sets {
            let failed = match set.failed {
                0 => String::new(),
                n if n == set.messages => ", all of which failed: give better ones by --sample".to_owned(),
                n => format!(", {n} of which failed"),
            };
            let _ = writeln!(t, "  {}: {} messages{failed}", set.name, set.messages);
        }
        let _ = writeln!(t, "\n{:<10} {:<46} {:>8} {:>8}", "interface", "property", "compared", "calls");
        for c in &self.checks {
            let result = if c.difference.is_some() { "FAILED" } else { "ok" };
            let _ = writeln!(
                t,
                "{:<10} {:<46} {:>8} {:>8}  {result}",
                c.interface, c.property, c.compared, c.calls
            );
        }
        let broken: Vec<&Check> = self.checks.iter().filter(|c| c.difference.is_some()).collect();
        if let Some((check, d)) = broken.first().and_then(|c| Some((c, c.difference.as_ref()?))) {
            let _ = writeln!(t, "\n{}: {}", check.interface, check.property);
            let _ = writeln!(t, "  of {}", d.set);
            let _ = writeln!(t, "  call: {}", d.call);
            if let (Some(message), Some(id)) = (d.message, &d.id) {
                let _ = writeln!(t, "  message {message}, id `{id}`");
            }
            if let Some(key) = &d.key {
                let _ = writeln!(t, "  key `{key}`");
            }
            let _ = writeln!(t, "  {}:\n{}", d.reference, indented(&d.expected));
            let _ = writeln!(t, "  here:\n{}", indented(&d.came));
            if broken.len() > 1 {
                let _ = writeln!(t, "\n{} more properties failed: --json has them all", broken.len() - 1);
            }
        }
        let ok = self.checks.len() - broken.len();
        let _ = writeln!(t, "\n{ok} of {} properties hold", self.checks.len());
        t
    }
}

/// The longest answer that is shown.
const SHOWN_BYTES_MAX: usize = 4 << 10;

fn indented(text: &str) -> String {
    let cut = (0..=SHOWN_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let rest = if cut < text.len() { " … (cut)" } else { "" };
    text[..cut].lines().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n") + rest
}
