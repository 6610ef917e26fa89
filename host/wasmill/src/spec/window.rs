//! The windows of an aggregate: what is written, and what it means.
//!
//! The comments on what is written are the schema's descriptions, so they speak to the author of a pipeline.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use wasmill_engine::window::Windows;

use super::HumanDuration;
use super::check::Checker;
use super::located::Located;
use crate::report::Span;

/// Windows of event time: exactly one of `tumbling`, `sliding` and `session`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawWindow {
    /// Windows of this size, one behind the other: `1h`.
    pub tumbling: Option<Located<HumanDuration>>,
    /// Windows that overlap: `{ size: 1m, every: 10s }`; or, without `every`, windows that end and begin at
    /// the messages themselves.
    pub sliding: Option<Located<RawSliding>>,
    /// Messages that are no further apart than a gap: `{ gap: 30m }`.
    pub session: Option<Located<RawSession>>,
    /// How long a window waits, in event time, for messages that are behind. Default: 0s.
    pub allowed_lateness: Option<Located<HumanDuration>>,
    /// What becomes of a message that is behind even that. Default: drop, which is counted.
    pub late: Option<Located<Late>>,
    /// When a window's value goes out. Default: close.
    pub emit: Option<Located<RawEmit>>,
}

/// Windows that overlap.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSliding {
    /// Their size.
    pub size: Located<HumanDuration>,
    /// From the begin of one to the begin of the next; at most the size. Without it, as Kafka's
    /// SlidingWindows: one that ends at each message, and one that begins right behind it.
    pub every: Option<Located<HumanDuration>>,
}

/// Messages that are no further apart than a gap.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSession {
    /// The longest time from one message of a session to the next.
    pub gap: Located<HumanDuration>,
}

/// When a window's value goes out.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawEmit {
    /// Once, when it closes.
    Close,
    /// After each message that changed it, and when it closes.
    Update,
    /// At each multiple of this much stream time, if it has changed since; and when it closes.
    Every(Located<HumanDuration>),
}

/// What becomes of a late message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It is dropped, and counted as late.
    #[default]
    Drop,
    /// It goes to the dead-letter queue.
    DeadLetter,
    /// It goes to the sinks that take this output.
    Output(String),
}

/// Windows of event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Which.
    pub kind: WindowKind,
    /// How long a window waits for messages that are behind.
    pub allowed_lateness: Duration,
    /// What becomes of a message that is behind even that.
    pub late: Late,
    /// When a window's value goes out.
    pub emit: Emit,
}

/// A kind of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// One behind the other.
    Tumbling {
        /// Their size, more than nothing.
        size: Duration,
    },
    /// Overlapping, at fixed times.
    Sliding {
        /// Their size, more than nothing.
        size: Duration,
        /// From begin to begin, more than nothing and at most the size.
        every: Duration,
    },
    /// Overlapping, at the messages' times.
    AtMessages {
        /// Their size, more than nothing.
        size: Duration,
    },
    /// Sessions.
    Session {
        /// The longest time from message to message, more than nothing.
        gap: Duration,
    },
}

/// When a window's value goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// Once, when it closes.
    Close,
    /// After each message that changed it, and when it closes.
    Update,
    /// At each multiple of this much stream time, more than nothing; and when it closes.
    Every(Duration),
}

impl WindowKind {
    /// The same, for the engine.
    ///
    /// # Errors
    /// When a time is not what this type says.
    pub fn windows(self) -> Result<Windows, String> {
        match self {
            Self::Tumbling { size } => Windows::tumbling(millis(size)),
            Self::Sliding { size, every } => Windows::sliding(millis(size), millis(every)),
            Self::AtMessages { size } => Windows::at_messages(millis(size)),
            Self::Session { gap } => Windows::session(millis(gap)),
        }
    }
}

impl std::fmt::Display for WindowKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let human = HumanDuration;
        match self {
            Self::Tumbling { size } => write!(f, "tumbling windows of {}", human(*size)),
            Self::Sliding { size, every } => {
                write!(f, "sliding windows of {} every {}", human(*size), human(*every))
            }
            Self::AtMessages { size } => {
                write!(f, "sliding windows of {} that end at each message or begin behind it", human(*size))
            }
            Self::Session { gap } => write!(f, "sessions with a gap of {}", human(*gap)),
        }
    }
}

impl std::fmt::Display for Emit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Close => f.write_str("when they close"),
            Self::Update => f.write_str("after each message and when they close"),
            Self::Every(every) => {
                write!(f, "every {} of stream time and when they close", HumanDuration(*every))
            }
        }
    }
}

/// A duration as the engine counts it.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Checker {
    pub(super) fn window(&mut self, raw: Located<RawWindow>) -> Option<Window> {
        let Located { value: raw, span } = raw;
        if let Some(Located { value: Late::Output(name), span }) = &raw.late {
            let output = Located { value: name.clone(), span: *span };
            self.name("output", &output);
            self.late_outputs.push(output);
        }
        let emit = match raw.emit.map(|e| e.value) {
            None | Some(RawEmit::Close) => Emit::Close,
            Some(RawEmit::Update) => Emit::Update,
            Some(RawEmit::Every(every)) => Emit::Every(self.time_of("window.emit.every", every)),
        };
        let allowed_lateness =
            self.duration("window.allowed_lateness", raw.allowed_lateness, 0, Duration::ZERO);
        let kinds = [
            ("tumbling", raw.tumbling.as_ref().map(|k| k.span)),
            ("sliding", raw.sliding.as_ref().map(|k| k.span)),
            ("session", raw.session.as_ref().map(|k| k.span)),
        ];
        self.one_kind(span, &kinds)?;
        let kind = match (raw.tumbling, raw.sliding, raw.session) {
            (Some(size), _, _) => WindowKind::Tumbling { size: self.time_of("window.tumbling", size) },
            (_, Some(sliding), _) => self.sliding(sliding.value),
            (_, _, session) => {
                WindowKind::Session { gap: self.time_of("window.session.gap", session?.value.gap) }
            }
        };
        Some(Window { kind, allowed_lateness, late: raw.late.map_or(Late::default(), |l| l.value), emit })
    }

    fn time_of(&mut self, key: &str, given: Located<HumanDuration>) -> Duration {
        self.duration(key, Some(given), 1, Duration::ZERO)
    }

    fn sliding(&mut self, raw: RawSliding) -> WindowKind {
        let (size_span, every_span) = (raw.size.span, raw.every.as_ref().map(|e| e.span));
        let size = self.time_of("window.sliding.size", raw.size);
        let Some(every) = raw.every else { return WindowKind::AtMessages { size } };
        let every = self.time_of("window.sliding.every", every);
        if let Some(at) = every_span.filter(|_| every > size && !size.is_zero()) {
            let title = format!(
                "`window.sliding`: a window of {} every {}",
                HumanDuration(size),
                HumanDuration(every)
            );
            let diagnostic = self.wrong(at, title, "messages between two windows would be in none");
            diagnostic.also.push((size_span, "must not be shorter than `every`".to_owned()));
        }
        WindowKind::Sliding { size, every }
    }

    /// Exactly one kind of windows is given.
    fn one_kind(&mut self, window: Span, kinds: &[(&str, Option<Span>)]) -> Option<()> {
        let given: Vec<(&str, Span)> = kinds.iter().filter_map(|(k, s)| Some((*k, (*s)?))).collect();
        match given.as_slice() {
            [_] => Some(()),
            [] => {
                self.wrong(window, "a window of no kind", "how long are its windows?").help.push(
                    "a window has one of `tumbling: 1h`, `sliding: { size: 1m, every: 10s }`, `sliding: { size: 1m }` and `session: { gap: 30m }`"
                        .to_owned(),
                );
                None
            }
            [(first, at), more @ ..] => {
                for (second, also) in more {
                    let title = format!("one window is both `{first}` and `{second}`");
                    let diagnostic = self.wrong(*also, title, "this one");
                    diagnostic.also.push((*at, "and this one".to_owned()));
                    diagnostic.help.push("take one away, or write two stages".to_owned());
                }
                None
            }
        }
    }
}
