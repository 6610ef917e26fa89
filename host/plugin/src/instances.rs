//! The instances of one plugin that no call has at the moment.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// The instances of one plugin that no call has at the moment. All guests of the plugin share them, so that a
/// worker has one instance of it, however many stages call it: an instance's memory is no state, and what belongs
/// to a call comes and goes with the call. With those that calls have, there are at most as many as guests.
pub(crate) struct Instances<T> {
    idle: Mutex<Idle<T>>,
}

struct Idle<T> {
    guests: usize,
    /// By when they were last used; each with the thread that used it.
    live: Vec<(ThreadId, T)>,
}

impl<T> Default for Instances<T> {
    fn default() -> Self {
        Self { idle: Mutex::new(Idle { guests: 0, live: Vec::new() }) }
    }
}

impl<T> Instances<T> {
    fn idle(&self) -> MutexGuard<'_, Idle<T>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One guest more.
    pub fn join(&self) {
        self.idle().guests += 1;
    }

    /// One guest less. What the others don't need goes.
    pub fn leave(&self) {
        let mut idle = self.idle();
        idle.guests = idle.guests.saturating_sub(1);
        let excess = idle.live.len().saturating_sub(idle.guests);
        let dropped: Vec<_> = idle.live.drain(..excess).collect();
        // Giving memory back takes its time; the others needn't wait for it.
        drop(idle);
        drop(dropped);
    }

    /// An instance for a call: the one that this thread used last, whose memory its processor may still have at
    /// hand, else the one that was used longest ago.
    pub fn take(&self) -> Option<T> {
        let thread = thread::current().id();
        let mut idle = self.idle();
        let at = idle.live.iter().rposition(|(of, _)| *of == thread).unwrap_or(0);
        (at < idle.live.len()).then(|| idle.live.remove(at).1)
    }

    /// Throws the instance away that this thread put back last: what it answered was wrong.
    pub fn discard(&self) {
        let thread = thread::current().id();
        let mut idle = self.idle();
        let discarded = idle.live.iter().rposition(|(of, _)| *of == thread).map(|at| idle.live.remove(at));
        drop(idle);
        drop(discarded);
    }

    /// Puts an instance back after its call.
    pub fn put(&self, instance: T) {
        let mut idle = self.idle();
        if idle.live.len() < idle.guests {
            idle.live.push((thread::current().id(), instance));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_its_own_back_else_the_one_that_idled_longest() {
        let instances = Instances::default();
        (0..3).for_each(|_| instances.join());
        assert_eq!(instances.take(), None, "none was put");
        thread::scope(|scope| {
            let instances = &instances;
            for name in ["a", "b"] {
                scope.spawn(move || instances.put(name)).join().expect("put");
            }
        });
        instances.put("mine");
        assert_eq!(instances.take(), Some("mine"));
        assert_eq!(instances.take(), Some("a"));
        instances.put("a");
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(instances.take(), Some("b"), "longest ago")).join().expect("taken");
        });
    }

    #[test]
    fn there_are_never_more_than_guests() {
        let instances = Instances::default();
        (0..2).for_each(|_| instances.join());
        (1..=3).for_each(|i| instances.put(i));
        instances.leave();
        assert_eq!(instances.take(), Some(2), "the one used last stays");
        assert_eq!(instances.take(), None);
        instances.put(2);
        instances.leave();
        assert_eq!(instances.take(), None, "no guest, no instance");
    }
}
