//! The exit codes, all in one place.

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// The run failed.
    Failed = 1,
    /// The command or a pipeline spec is wrong, or the spec asks for what can't be given.
    Usage = 2,
    /// A plugin was refused: it can't be loaded, or does not fit its stage.
    Plugin = 3,
    /// A source, sink or data directory can't be used.
    Outside = 4,
    /// Test cases failed.
    Tests = 5,
    /// Another process has taken this one's place, as of the same `slot`.
    Replaced = 6,
    /// A second signal ended the run before it could end in order.
    Interrupted = 130,
}

/// The codes as `--help` shows them: a literal, which stands in other texts too.
macro_rules! codes {
    () => {
        "\
Exit codes:
    0  all went well
    1  the run failed
    2  the command or a pipeline spec is wrong, or asks for what can't be given
    3  a plugin was refused: it can't be loaded, or does not fit its stage
    4  a source, sink or data directory can't be used
    5  test cases failed
    6  another process has taken this one's place: it has the same `slot`
  130  a second signal ended the run before it could end in order"
    };
}

pub(super) use codes;

/// The codes as `--help` shows them.
pub const HELP: &str = codes!();

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command stopped, with what is shown for it.
#[derive(Debug)]
pub struct Stop {
    /// The exit code.
    pub exit: Exit,
    /// The text for people, wholly rendered.
    pub shown: String,
}

impl Stop {
    /// Stops with `error: …`.
    #[must_use]
    pub fn error(exit: Exit, text: impl std::fmt::Display) -> Self {
        Self { exit, shown: format!("error: {text}") }
    }

    /// Stops with mistakes in a file.
    #[must_use]
    pub fn problems(exit: Exit, problems: &crate::report::Problems) -> Self {
        Self { exit, shown: problems.render(crate::report::colours_on_stderr()) }
    }
}
