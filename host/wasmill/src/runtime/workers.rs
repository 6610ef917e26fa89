//! The workers: OS threads that run the prefix, and a lane each where there are lanes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, never, select};
use wasmill_engine::guest::{HostFault, Overgrown};
use wasmill_engine::lane::{Lane, LaneInput};
use wasmill_engine::output::Routes;
use wasmill_engine::prefix::{Prefix, Work};
use wasmill_engine::state::{Epoch, Merged};
use wasmill_engine::topology::Topology;

use super::coordinate::Event;
use super::guarded::Abandoned;
use super::swapping::Edition;

/// A raw batch for the prefix, or what is left of one.
pub(super) struct Job {
    pub work: Work,
    /// Who does it.
    pub edition: Arc<Edition>,
    /// Whether nothing goes on without it: it is done however much waits.
    pub is_needed: bool,
}

/// How many bytes of results wait for the lanes, as the coordinator last saw it, and from when on no more is to be made.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Waiting {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Arc::default(), bytes_max }
    }

    /// So many wait now.
    pub fn set(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// So many more will, once the coordinator hears of them.
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn are_too_many(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }
}

/// Of how many editions a worker keeps the prefix: older ones have few messages to come, and are made anew for these.
const PREFIXES_MAX: usize = 2;

/// What a lane is told, in order.
pub(super) enum LaneWork {
    /// Messages of so many bytes.
    Input(LaneInput, usize),
    /// An epoch ends here.
    Barrier(Epoch),
    /// An epoch is in the store, which made this of the keys that other processes share.
    Committed(Epoch, Arc<Merged>),
    /// Other plugins do what comes.
    Swap(Arc<Topology>),
    /// Other plugins migrate what the store has of these stages' accumulators, from these state versions.
    Migrate(Arc<Topology>, Vec<(usize, u32)>),
    /// Not all could migrate.
    ForgetMigrated,
    /// What was migrated is in the store: go on from there.
    Restore(Arc<Topology>),
}

/// The prefix of each edition that a worker does messages of, the newest last.
pub(super) struct Prefixes {
    routes: Arc<Routes>,
    made: Vec<(u64, Prefix)>,
}

impl Prefixes {
    pub fn new(routes: &Arc<Routes>) -> Self {
        Self { routes: Arc::clone(routes), made: Vec::new() }
    }

    fn of(&mut self, edition: &Edition) -> &mut Prefix {
        let number = edition.number;
        let place = match self.made.iter().position(|(of, _)| *of == number) {
            Some(place) => place,
            None => {
                if self.made.len() >= PREFIXES_MAX {
                    self.made.remove(0);
                }
                let place = self.made.partition_point(|(of, _)| *of < number);
                self.made.insert(place, (number, Prefix::new(&edition.topology, &self.routes)));
                place
            }
        };
        &mut self.made[place].1
    }
}

/// One worker.
pub(super) struct Worker {
    pub prefixes: Prefixes,
    pub lane: Option<(usize, Lane, Receiver<LaneWork>)>,
    pub jobs: Receiver<Job>,
    pub waiting: Waiting,
    pub events: Sender<Event>,
}

impl Worker {
    /// Works until nobody sends work any more.
    pub fn run(mut self) {
        let events = self.events.clone();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            if let Some(Overgrown(text)) = panic.downcast_ref::<Overgrown>() {
                let _ = events.send(Event::Overgrown(text.clone()));
                return;
            }
            let text = match (panic.downcast_ref::<HostFault>(), panic.downcast_ref::<Abandoned>()) {
                (Some(HostFault(text)), _) => format!("the host can't run a plugin: {text}"),
                (None, Some(Abandoned(text))) => text.clone(),
                (None, None) => {
                    let text = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("no text");
                    format!("a worker panicked: {text}. This is a defect of wasmill: please report it")
                }
            };
            let _ = events.send(Event::Failed(text));
        }
    }

    fn work(&mut self) {
        let lane_work = self.lane.as_ref().map_or_else(never, |(_, _, work)| work.clone());
        loop {
            // What is further down the way goes first: it frees what the rest waits for.
            match lane_work.try_recv() {
                Ok(work) => {
                    if !self.lane(work) {
                        return;
                    }
                    continue;
                }
                Err(TryRecvError::Disconnected) if self.lane.is_some() => return,
                Err(_) => {}
            }
            select! {
                recv(lane_work) -> work => match work {
                    Ok(work) => {
                        if !self.lane(work) {
                            return;
                        }
                    }
                    Err(_) => return,
                },
                recv(self.jobs) -> job => match job {
                    Ok(job) => {
                        let event = self.prepare(job);
                        if self.events.send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn prepare(&mut self, job: Job) -> Event {
        if !job.is_needed && self.waiting.are_too_many() {
            return Event::Returned(Box::new(job));
        }
        let Job { work, edition, .. } = job;
        let (prepared, rest) = self.prefixes.of(&edition).run(work);
        self.waiting.add(prepared.held_bytes);
        let rest = rest.map(|work| Box::new(Job { work, edition, is_needed: false }));
        Event::Prepared(Box::new(prepared), rest)
    }

    fn lane(&mut self, work: LaneWork) -> bool {
        let Some((number, lane, _)) = &mut self.lane else { return false };
        let event = match work {
            LaneWork::Input(input, bytes) => {
                lane.process(input);
                let (made_bytes, waiting_bytes) = (lane.made_bytes(), lane.waiting_bytes());
                Event::LaneDone { lane: *number, bytes, made_bytes, waiting_bytes }
            }
            LaneWork::Barrier(epoch) => {
                let part = lane.barrier(epoch);
                let owes = part.owes;
                if self.events.send(Event::LaneEpoch { lane: *number, epoch, part }).is_err() {
                    return false;
                }
                if !owes {
                    return true;
                }
                lane.go_on();
                Event::LaneWentOn { lane: *number, waiting_bytes: lane.waiting_bytes() }
            }
            LaneWork::Committed(epoch, merged) => {
                lane.committed(epoch, &merged);
                return true;
            }
            LaneWork::Swap(topology) => {
                lane.swap(&topology.keyed);
                return true;
            }
            LaneWork::Migrate(topology, from) => {
                Event::LaneSwapped(lane.migrate(&topology.keyed, &from).map_err(|e| e.to_string()))
            }
            LaneWork::ForgetMigrated => {
                lane.forget_migrated();
                return true;
            }
            LaneWork::Restore(topology) => match lane.restore(&topology.keyed) {
                Ok(()) => Event::LaneSwapped(Ok(())),
                Err(fault) => Event::Failed(format!("what was migrated can't be read back: {fault}")),
            },
        };
        self.events.send(event).is_ok()
    }
}
