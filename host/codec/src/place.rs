//! Where in a payload something is wrong: the path is put together on the way out, so it costs nothing before.

use std::fmt::Write as _;

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Name(String),
    Index(usize),
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    why: String,
    at: Option<usize>,
    /// From the inside out.
    path: Vec<Step>,
}

impl Wrong {
    /// Something wrong in a payload.
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), at: None, path: Vec::new() }
    }

    /// Something wrong at a byte of a record.
    pub(crate) fn at(at: usize, why: impl Into<String>) -> Self {
        Self { why: why.into(), at: Some(at), path: Vec::new() }
    }

    /// The same, seen from one step further out.
    pub(crate) fn within(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    /// The reason, for the dead-letter queue.
    pub(crate) fn told(&self) -> String {
        self.told_of("payload")
    }

    /// The same, of something else than a payload.
    pub(crate) fn told_of(&self, what: &str) -> String {
        const STEPS_MAX: usize = 16;
        let mut told = format!("`{what}");
        for step in self.path.iter().rev().take(STEPS_MAX) {
            // Writing to a String can't fail.
            let _ = match step {
                Step::Name(name) => {
                    write!(told, ".{}", name.chars().take(64).collect::<String>())
                }
                Step::Index(index) => write!(told, "[{index}]"),
            };
        }
        if self.path.len() > STEPS_MAX {
            told.push('…');
        }
        told.push_str("`: ");
        told.push_str(&self.why);
        if let Some(at) = self.at {
            let _ = write!(told, ", at byte {at}");
        }
        told
    }
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::new(why)
    }
}
