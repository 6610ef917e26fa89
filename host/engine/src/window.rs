//! Which windows a message belongs to, when they close, what becomes of late messages.

use serde_json::{Value, json};

/// The windows of an aggregate. A window is half-open, [start, end), in milliseconds; no start is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows(pub(crate) Kind);

/// The kinds of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Windows put together of panes.
    Paned(Panes),
    /// Sessions: messages no further apart than the gap.
    Session { gap_ms: i64 },
}

/// Windows of one length that are put together of panes, stretches that no window cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panes {
    /// [n · every, n · every + size); tumbling where both are the same.
    Every { size_ms: i64, every_ms: i64, pane_ms: i64 },
    /// Kafka's SlidingWindows: [t − size, t] ending at each message, [t + 1, t + 1 + size] behind it if that
    /// holds a message. Where t < size the first one is [0, size]. A pane is a millisecond.
    AtMessages { size_ms: i64 },
}

impl Windows {
    /// Windows of one size, side by side: [n · size, (n + 1) · size).
    ///
    /// # Errors
    /// When the size is not above zero.
    pub fn tumbling(size_ms: i64) -> Result<Self, String> {
        Self::sliding(size_ms, size_ms)
    }

    /// Windows of one size that begin at every multiple of `every_ms`: [n · every, n · every + size).
    ///
    /// # Errors
    /// When one of the two is not above zero, or `every_ms` is above the size.
    pub fn sliding(size_ms: i64, every_ms: i64) -> Result<Self, String> {
        above_zero("a window's size", size_ms)?;
        above_zero("the time from window to window", every_ms)?;
        if every_ms > size_ms {
            return Err(format!("windows of {size_ms} ms every {every_ms} ms would leave gaps between them"));
        }
        let pane_ms = greatest_common_divisor(size_ms, every_ms);
        Ok(Self(Kind::Paned(Panes::Every { size_ms, every_ms, pane_ms })))
    }

    /// Kafka's SlidingWindows: a window that ends at each message, [t − size, t], and one that begins right
    /// behind it, [t + 1, t + 1 + size], if a message falls into that. Both ends belong to the window, so it
    /// is reported as [t − size, t + 1). No window begins before 0: in its place is [0, size].
    ///
    /// # Errors
    /// When the size is not above zero.
    pub fn at_messages(size_ms: i64) -> Result<Self, String> {
        above_zero("a window's size", size_ms)?;
        Ok(Self(Kind::Paned(Panes::AtMessages { size_ms })))
    }

    /// Sessions: a message joins a session that it is at most `gap_ms` away from, and joins two into one. A
    /// session is reported as [first, last + gap).
    ///
    /// # Errors
    /// When the gap is not above zero.
    pub fn session(gap_ms: i64) -> Result<Self, String> {
        above_zero("a session's gap", gap_ms)?;
        Ok(Self(Kind::Session { gap_ms }))
    }

    /// How long after its end a window closes, in stream time, and with it what a stage behind sees of that.
    pub(crate) fn delay_ms(self, allowed_lateness_ms: i64) -> i64 {
        match self.0 {
            Kind::Paned(_) => allowed_lateness_ms,
            // A message exactly the gap behind the last one, at the end, still joins.
            Kind::Session { .. } => allowed_lateness_ms.saturating_add(1),
        }
    }

    /// Whether a window is one part of the state, so that closing it takes the part away.
    pub(crate) fn is_one_part(self) -> bool {
        match self.0 {
            Kind::Paned(Panes::Every { size_ms, every_ms, .. }) => size_ms == every_ms,
            Kind::Paned(Panes::AtMessages { .. }) => false,
            Kind::Session { .. } => true,
        }
    }

    /// What stored state depends on.
    pub(crate) fn shape(self) -> Value {
        match self.0 {
            Kind::Paned(Panes::Every { size_ms, every_ms, .. }) => {
                json!({"size_ms": size_ms, "every_ms": every_ms})
            }
            Kind::Paned(Panes::AtMessages { size_ms }) => json!({"at_messages_ms": size_ms}),
            Kind::Session { gap_ms } => json!({"gap_ms": gap_ms}),
        }
    }
}

impl Panes {
    /// From start to end of a window.
    pub fn length_ms(self) -> i64 {
        match self {
            Self::Every { size_ms, .. } => size_ms,
            Self::AtMessages { size_ms } => size_ms.saturating_add(1),
        }
    }

    /// The pane that a time of 0 or more falls into: start and end.
    pub fn pane_of(self, time: i64) -> (i64, i64) {
        let length = match self {
            Self::Every { pane_ms, .. } => pane_ms,
            Self::AtMessages { .. } => 1,
        };
        let start = time - time.rem_euclid(length);
        (start, start.saturating_add(length))
    }

    /// The earliest end of a window that holds this time, if such a window comes into being.
    pub fn first_end(self, time: i64) -> i64 {
        match self {
            Self::Every { size_ms, every_ms, .. } => {
                let first = ((time - size_ms).div_euclid(every_ms) + 1) * every_ms;
                first.max(0).saturating_add(size_ms)
            }
            Self::AtMessages { size_ms } => time.max(size_ms).saturating_add(1),
        }
    }

    /// The latest end of a window that holds this time, if such a window comes into being.
    pub fn last_end(self, time: i64) -> i64 {
        match self {
            Self::Every { size_ms, every_ms, .. } => {
                (time - time.rem_euclid(every_ms)).saturating_add(size_ms)
            }
            Self::AtMessages { size_ms } => time.saturating_add(size_ms).saturating_add(1),
        }
    }

    /// The end at which a pane is of no use any more.
    pub fn useful_until(self, pane_start: i64) -> i64 {
        match self {
            Self::Every { .. } => self.last_end(pane_start),
            // Behind its message it may begin one more window, which doesn't hold it.
            Self::AtMessages { .. } => self.last_end(pane_start).saturating_add(1),
        }
    }
}

/// Whether a window is over at a stream time: no message may join it any more, and it fires.
#[must_use]
pub fn is_over(end: i64, delay_ms: i64, stream_time: i64) -> bool {
    end.saturating_add(delay_ms) <= stream_time
}

fn above_zero(what: &str, ms: i64) -> Result<(), String> {
    if ms > 0 { Ok(()) } else { Err(format!("{what} must be at least 1 ms, not {ms}")) }
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// When a window's value goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emit {
    /// Once, when it closes.
    #[default]
    Close,
    /// After each message that changed it, and when it closes.
    Update,
    /// At each multiple of so many milliseconds of stream time, if it has changed since; and when it closes.
    Every(i64),
}

impl Emit {
    /// What stored state depends on.
    pub(crate) fn shape(self) -> Value {
        match self {
            Self::Close => json!("close"),
            Self::Update => json!("update"),
            Self::Every(every_ms) => json!({"every_ms": every_ms}),
        }
    }
}

/// What becomes of a late message. It is counted in every case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Late {
    /// It is dropped.
    #[default]
    Drop,
    /// It goes to the dead-letter queue.
    DeadLetter,
    /// It leaves by a named output.
    Output(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panes(windows: Result<Windows, String>) -> Panes {
        match windows.expect("times that windows can have").0 {
            Kind::Paned(panes) => panes,
            Kind::Session { .. } => panic!("a session has no panes"),
        }
    }

    #[test]
    fn a_time_is_in_the_windows_that_begin_at_multiples_and_hold_it() {
        for (size, every) in [(1, 1), (7, 7), (10, 3), (12, 4), (60, 1), (100, 99)] {
            let panes = panes(Windows::sliding(size, every));
            for time in 0..400 {
                let starts = (0..500).map(|n| n * every).filter(|s| (*s..s + size).contains(&time));
                let ends: Vec<i64> = starts.map(|s| s + size).collect();
                let found = (panes.first_end(time), panes.last_end(time));
                assert_eq!(found, (ends[0], ends[ends.len() - 1]), "{size} every {every}, at {time}");
                let (start, end) = panes.pane_of(time);
                assert!(
                    (start..end).contains(&time) && size % (end - start) == 0 && every % (end - start) == 0
                );
            }
        }
        let (last, panes) = (253_402_300_799_999, panes(Windows::tumbling(10)));
        assert_eq!((panes.first_end(last), panes.last_end(last)), (last + 1, last + 1));
    }

    #[test]
    fn no_window_of_a_message_begins_before_0() {
        let panes = panes(Windows::at_messages(5));
        let bounds = |time| (panes.first_end(time), panes.last_end(time), panes.useful_until(time));
        assert_eq!(bounds(0), (6, 6, 7), "[0, 5]; behind it [1, 6]");
        assert_eq!(bounds(4), (6, 10, 11), "[0, 5] to [4, 9]; behind it [5, 10]");
        assert_eq!(bounds(5), (6, 11, 12), "[0, 5] to [5, 10]; behind it [6, 11]");
        assert_eq!(bounds(6), (7, 12, 13), "[1, 6] to [6, 11]; behind it [7, 12]");
        assert_eq!(panes.length_ms(), 6, "both ends belong to it");
    }

    #[test]
    fn a_window_is_over_at_its_end_and_delay_and_never_by_an_overflow() {
        assert!(!is_over(10, 5, 14) && is_over(10, 5, 15));
        assert!(!is_over(i64::MAX, i64::MAX, i64::MAX - 1));
        let session = Windows::session(3).expect("a gap");
        assert_eq!(session.delay_ms(5), 6, "a message exactly the gap behind still joins");
    }

    #[test]
    fn windows_that_can_not_be_are_refused() {
        let wrong = [
            Windows::tumbling(0),
            Windows::tumbling(-1),
            Windows::sliding(0, 0),
            Windows::sliding(10, 0),
            Windows::sliding(10, 11),
            Windows::at_messages(0),
            Windows::session(0),
        ];
        for windows in wrong {
            let reason = windows.expect_err("no such windows");
            assert!(reason.contains(" ms"), "{reason}");
        }
    }
}
