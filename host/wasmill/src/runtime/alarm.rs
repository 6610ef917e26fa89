//! A task's panic must not go unheard: nobody waits for it, and everybody for what it no longer sends.

use crossbeam_channel::Sender;

use super::coordinate::Event;

/// Tells the coordinator when it is dropped by a panic.
pub(super) struct Alarm {
    who: &'static str,
    events: Sender<Event>,
}

impl Alarm {
    pub fn new(who: &'static str, events: &Sender<Event>) -> Self {
        Self { who, events: events.clone() }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = format!("{} panicked. This is a defect of wasmill: please report it", self.who);
            let _ = self.events.send(Event::Failed(text));
        }
    }
}
