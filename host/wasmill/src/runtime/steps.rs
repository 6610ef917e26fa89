//! How much the lanes are given at once.

/// About how much is released to the lanes at once.
const RELEASE_BYTES: usize = 512 << 10;
/// In small steps: how much lanes may make of a step before the next one is the smallest again.
const MADE_BYTES_MAX: usize = 64 << 20;
/// How much smaller the largest of the small steps is when they were too large.
const SMALLER: usize = 8;

/// The largest that small steps may become, in bytes of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SmallSteps(usize);

impl SmallSteps {
    /// What comes behind these, or behind large ones, that were too large; none where they were of one message.
    pub fn behind(before: Option<Self>) -> Option<Self> {
        match before {
            Some(Self(1)) => None,
            Some(Self(bytes)) => Some(Self((bytes / SMALLER).max(1))),
            None => Some(Self(RELEASE_BYTES / SMALLER)),
        }
    }
}

/// How much is released to the lanes at once, and whether before they are done with it. In small steps they have little
/// at once, and more once what they make of it is known: a plugin may make very much of a message.
#[derive(Debug)]
pub(super) struct Steps {
    small: Option<SmallSteps>,
    next_bytes: usize,
    /// What the lanes have made of the last step.
    made: Option<usize>,
}

impl Steps {
    /// Small ones or not.
    pub fn new(small: Option<SmallSteps>) -> Self {
        Self { small, next_bytes: 1, made: None }
    }

    /// A lane is done with its part of a step, and made so many bytes of it.
    pub fn made(&mut self, bytes: usize) {
        *self.made.get_or_insert(0) += bytes;
    }

    /// How many bytes are released next, at least one message; none while lanes have `inputs` to do first.
    pub fn next(&mut self, inputs: usize) -> Option<usize> {
        let Some(SmallSteps(most)) = self.small else { return Some(RELEASE_BYTES) };
        if inputs > 0 {
            return None;
        }
        if let Some(made) = self.made.take() {
            let more = self.next_bytes.saturating_mul(2).min(most);
            self.next_bytes = if made > MADE_BYTES_MAX { 1 } else { more };
        }
        Some(self.next_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_steps_wait_for_nobody() {
        let mut steps = Steps::new(None);
        steps.made(usize::MAX);
        assert_eq!(steps.next(7), Some(RELEASE_BYTES));
    }

    #[test]
    fn small_steps_grow_while_little_comes_of_them() {
        let mut steps = Steps::new(SmallSteps::behind(None));
        assert_eq!(steps.next(0), Some(1));
        assert_eq!(steps.next(0), Some(1), "nothing was made yet");
        assert_eq!(steps.next(1), None);
        for expected in [2, 4, 8] {
            steps.made(MADE_BYTES_MAX);
            assert_eq!(steps.next(0), Some(expected));
        }
        steps.made(MADE_BYTES_MAX);
        steps.made(1);
        assert_eq!(steps.next(0), Some(1), "all lanes together made too much");
        for _ in 0..40 {
            steps.made(0);
            steps.next(0);
        }
        assert_eq!(steps.next(0), Some(RELEASE_BYTES / SMALLER));
    }

    #[test]
    fn steps_that_were_too_large_become_smaller_until_they_are_of_one_message() {
        let mut small = SmallSteps::behind(None);
        let mut rounds = 0;
        while small.is_some() {
            (small, rounds) = (SmallSteps::behind(small), rounds + 1);
        }
        assert_eq!(rounds, 7);
    }
}
