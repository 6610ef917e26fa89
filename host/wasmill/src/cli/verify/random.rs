//! Chance that a seed repeats.

use std::hash::BuildHasher;
use std::ops::Range;

/// A sequence of random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that nobody chose; short, for it is typed in again.
    pub fn seed() -> u64 {
        std::hash::RandomState::new().hash_one(0) % 1_000_000
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        // What is below `end` fits.
        usize::try_from(self.draw() % (end.max(1) as u64)).unwrap_or(0)
    }

    /// One of some.
    pub fn one_of<'a, T>(&mut self, some: &'a [T]) -> Option<&'a T> {
        some.get(self.below(some.len()))
    }

    /// Cuts so many messages into batches of 1 to about a quarter of them.
    pub fn cut(&mut self, messages: usize) -> Vec<Range<usize>> {
        let (mut at, mut batches) = (0, Vec::new());
        while at < messages {
            let end = messages.min(at + 1 + self.below(messages.div_ceil(4).max(2)));
            batches.push(at..end);
            at = end;
        }
        batches
    }

    /// A random order.
    pub fn shuffled(&mut self, messages: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..messages).collect();
        for i in (1..messages).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_every_message_once_and_orders_are_orders() {
        let mut random = Random::new(7);
        for messages in 0..40 {
            let cut: Vec<usize> = random.cut(messages).into_iter().flatten().collect();
            assert_eq!(cut, (0..messages).collect::<Vec<_>>());
            let mut order = random.shuffled(messages);
            order.sort_unstable();
            assert_eq!(order, cut);
        }
        assert_eq!(Random::new(3).shuffled(9), Random::new(3).shuffled(9));
        assert_ne!(Random::new(3).shuffled(9), Random::new(4).shuffled(9));
    }
}
