//! A swap of plugins as the coordinator's thread does it: at a barrier, which the new plugins' first results wait for.
//!
//! Where nothing is stored that the new plugins must migrate, lanes and readers never stop: the barrier's checkpoint
//! says what does what from there on. Else nothing is released until the lanes' accumulators are migrated, in an epoch
//! of their own: before its commit everything is as it was, behind it everything is new.

use std::sync::Arc;

use tokio::sync::oneshot;
use wasmill_engine::edition::Plugins;
use wasmill_engine::state::Epoch;
use wasmill_engine::swap::Swap;
use wasmill_engine::topology::Topology;

use super::coordinate::{Coordinate, Flow};
use super::workers::LaneWork;

/// A pipeline's stages with the plugins that some of its messages are done by.
pub(super) struct Edition {
    pub number: u64,
    pub topology: Arc<Topology>,
}

/// Other plugins that are to take over.
pub(super) struct Proposal {
    pub topology: Arc<Topology>,
    /// What the checkpoint says of them; nothing where processes share the pipeline.
    pub plugins: Plugins,
    pub swap: Swap,
    /// Whether a stage behind the key_by is among those that change.
    pub is_keyed: bool,
    /// Told the epoch at whose barrier they took over, once it is committed, and what that says of plugins; or why
    /// they didn't.
    pub done: oneshot::Sender<Result<(Epoch, Plugins), String>>,
}

/// Why a swap is refused that is to be asked for again.
pub(super) const NOT_YET: &str = "what was there when the run before broke off is done first, by the version of then; ask again in a moment";

/// How far a swap is.
pub(super) struct Swapping {
    proposal: Proposal,
    phase: Phase,
}

enum Phase {
    /// It waits for a barrier.
    Asked,
    /// Nothing more is released: what is on its way must be in the store before it is migrated. Whether an epoch has
    /// ended since.
    Draining(bool),
    /// So many lanes have not migrated yet; why one could not.
    Migrating(usize, Option<String>),
    /// It waits for this epoch's commit.
    Committing(Epoch),
    /// So many lanes have not read back yet what they migrated.
    Restoring(usize, Epoch),
}

impl Swapping {
    pub fn new(proposal: Proposal) -> Self {
        let phase = match proposal.swap {
            Swap::Plain => Phase::Asked,
            Swap::Migrating(_) => Phase::Draining(false),
        };
        Self { proposal, phase }
    }

    /// Whether nothing may be released, and no epoch ended, but by the swap.
    pub fn holds(&self) -> bool {
        match self.phase {
            Phase::Asked => false,
            Phase::Committing(_) => self.proposal.swap != Swap::Plain,
            Phase::Draining(_) | Phase::Migrating(..) | Phase::Restoring(..) => true,
        }
    }

    /// Whether it may be forgotten: nothing was done for it yet.
    pub fn is_only_asked(&self) -> bool {
        matches!(self.phase, Phase::Asked | Phase::Draining(_))
    }

    /// Nothing comes of it.
    pub fn refuse(self, why: &str) {
        // Whoever asked may be gone: the run has ended.
        let _ = self.proposal.done.send(Err(why.to_owned()));
    }

    /// A lane has migrated, or has read back, its part.
    pub fn lane_done(&mut self, result: Result<(), String>) {
        match &mut self.phase {
            Phase::Migrating(left, failed) => {
                *left -= 1;
                *failed = failed.take().or(result.err());
            }
            Phase::Restoring(left, _) => *left -= 1,
            Phase::Asked | Phase::Draining(_) | Phase::Committing(_) => {}
        }
    }

    /// An epoch is committed.
    pub fn committed(&mut self, epoch: Epoch, lanes: &[crossbeam_channel::Sender<LaneWork>]) {
        if !matches!(self.phase, Phase::Committing(of) if of == epoch) {
            return;
        }
        let restored = if self.proposal.swap == Swap::Plain { &[] } else { lanes };
        for lane in restored {
            let _ = lane.send(LaneWork::Restore(Arc::clone(&self.proposal.topology)));
        }
        self.phase = Phase::Restoring(restored.len(), epoch);
    }
}

impl Coordinate {
    /// Goes on with a swap as far as that is possible now.
    pub(super) fn go_on_swapping(&mut self, flow: &mut Flow) {
        while let Some(mut swapping) = flow.swapping.take() {
            let must_wait = self.coordinator.is_in_doubt() || !self.coordinator.can_barrier();
            if swapping.proposal.is_keyed && swapping.is_only_asked() && must_wait {
                return swapping.refuse(NOT_YET);
            }
            let can_end_epoch = self.can_end_epoch(flow) && !flow.is_over;
            match &mut swapping.phase {
                Phase::Asked if can_end_epoch => {
                    for lane in &self.lanes {
                        let _ = lane.send(LaneWork::Swap(Arc::clone(&swapping.proposal.topology)));
                    }
                    swapping.phase = Phase::Committing(self.take_over(&swapping.proposal, flow));
                }
                Phase::Draining(ended) if can_end_epoch && flow.epochs == 0 && flow.lane_inputs == 0 => {
                    if !*ended || flow.lane_owes.contains(&true) || flow.lane_waiting.iter().any(|n| *n > 0) {
                        *ended = true;
                        self.end_epoch(flow);
                    } else {
                        let Swap::Migrating(from) = &swapping.proposal.swap else { return };
                        for lane in &self.lanes {
                            let topology = Arc::clone(&swapping.proposal.topology);
                            let _ = lane.send(LaneWork::Migrate(topology, from.clone()));
                        }
                        swapping.phase = Phase::Migrating(self.lanes.len(), None);
                    }
                }
                Phase::Migrating(0, failed) => {
                    if let Some(why) = failed.take() {
                        for lane in &self.lanes {
                            let _ = lane.send(LaneWork::ForgetMigrated);
                        }
                        return swapping.refuse(&why);
                    }
                    self.collector.reshape(swapping.proposal.topology.shape());
                    swapping.phase = Phase::Committing(self.take_over(&swapping.proposal, flow));
                }
                Phase::Restoring(0, epoch) => {
                    let plugins = self.coordinator.plugins().clone();
                    let _ = swapping.proposal.done.send(Ok((*epoch, plugins)));
                    return;
                }
                _ => {
                    flow.swapping = Some(swapping);
                    return;
                }
            }
            flow.swapping = Some(swapping);
        }
    }

    /// Ends the epoch; what is read from here on is the new plugins'. Answers that epoch.
    fn take_over(&mut self, proposal: &Proposal, flow: &mut Flow) -> Epoch {
        let number = self.coordinator.swap(proposal.plugins.clone(), &flow.edges);
        let edition = Edition { number, topology: Arc::clone(&proposal.topology) };
        self.editions.insert(number, Arc::new(edition));
        self.end_epoch(flow)
    }
}
