//! What a pipeline shows of itself while it runs: metrics, and the figures of progress line and summary.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{
    Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use wasmill_engine::lane::Counts;
use wasmill_engine::position::{PartitionId, Position};
use wasmill_engine::time::{END, START};

use super::breaker::Position as BreakerPosition;

/// One pipeline's figures.
pub(super) struct Observed {
    read: IntCounter,
    read_bytes: IntCounter,
    committed: IntCounter,
    dropped: IntCounter,
    late: IntCounter,
    clamped: IntCounter,
    dead: IntCounter,
    written: IntCounter,
    fired: IntCounter,
    open: IntGauge,
    epochs: IntCounter,
    commit_seconds: Histogram,
    stream_time: IntGauge,
    waiting: IntGauge,
    lag: IntGaugeVec,
    unstable: IntGaugeVec,
    waiting_for: IntGaugeVec,
    partitions: IntGauge,
    rebalances: IntCounter,
    away: IntCounter,
    breakers: IntGaugeVec,
    swaps: IntCounterVec,
    opened: IntCounterVec,
    held_back: Counter,
    restoring: IntGauge,
    aborted: IntCounter,
    replaced: IntCounter,
    lost: IntCounter,
    inner: Mutex<Inner>,
}

struct Inner {
    inputs: Vec<Progress>,
    counts: Counts,
    stream_time: i64,
    waiting_for: Option<(String, Instant)>,
    /// The breakers that are not closed.
    breakers: BTreeSet<String>,
    since: Instant,
}

/// How far one partition is read and committed.
struct Progress {
    id: PartitionId,
    name: String,
    start: u64,
    extent: Option<u64>,
    committed: u64,
}

/// What progress line and summary show.
pub(super) struct Snapshot {
    pub counts: Counts,
    pub read: u64,
    pub stream_time: Option<i64>,
    /// How much of the inputs is committed, from 0 to 1, where their ends are known.
    pub done: Option<f64>,
    /// The partition that holds stream time while nothing of it is there, and since when.
    pub waiting_for: Option<(String, Duration)>,
    /// The ends and stages whose breaker is not closed.
    pub breakers: Vec<String>,
    pub elapsed: Duration,
}

impl Observed {
    /// Registers a pipeline's metrics.
    ///
    /// # Errors
    /// When a metric of that name and pipeline is there already.
    pub fn new(pipeline: &str, registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("pipeline", pipeline);
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(opts(name, help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::with_opts(opts(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let commit_seconds = Histogram::with_opts(
            HistogramOpts::from(opts(
                "wasmill_commit_seconds",
                "Time from an epoch's end of work to its commit.",
            ))
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]),
        )?;
        registry.register(Box::new(commit_seconds.clone()))?;
        let lag = IntGaugeVec::new(
            opts(
                "wasmill_lag_offsets",
                "Offsets between a partition's committed position and its end, where the end is known.",
            ),
            &["partition"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        let unstable = IntGaugeVec::new(
            opts(
                "wasmill_open_transaction_offsets",
                "Offsets at a partition's end that a transaction which is open there holds back.",
            ),
            &["partition"],
        )?;
        registry.register(Box::new(unstable.clone()))?;
        let waiting_for = IntGaugeVec::new(
            opts(
                "wasmill_waiting_for_seconds",
                "How long the partition that holds stream time has been quiet.",
            ),
            &["partition"],
        )?;
        registry.register(Box::new(waiting_for.clone()))?;
        let breakers = IntGaugeVec::new(
            opts(
                "wasmill_breaker_state",
                "How the breaker of a sink or a stage stands: 0 closed, 1 half-open, 2 open.",
            ),
            &["end"],
        )?;
        registry.register(Box::new(breakers.clone()))?;
        let opened = IntCounterVec::new(
            opts("wasmill_breaker_opened_total", "Times that the breaker of a sink or a stage opened."),
            &["end"],
        )?;
        registry.register(Box::new(opened.clone()))?;
        let swaps = IntCounterVec::new(
            opts(
                "wasmill_plugin_swaps_total",
                "New versions of a stage's plugin, by what became of them: took_over, rolled_back, stayed_out.",
            ),
            &["stage", "outcome"],
        )?;
        registry.register(Box::new(swaps.clone()))?;
        let held_back = Counter::with_opts(opts(
            "wasmill_held_back_seconds_total",
            "Time that readers did not read because what is behind them was full, all partitions together.",
        ))?;
        registry.register(Box::new(held_back.clone()))?;
        Ok(Self {
            read: counter(
                "wasmill_messages_read_total",
                "Messages read from sources, those read again after a restart included.",
            )?,
            read_bytes: counter("wasmill_read_bytes_total", "Bytes read from sources.")?,
            committed: counter(
                "wasmill_messages_committed_total",
                "Messages of sources whose results are committed.",
            )?,
            dropped: counter(
                "wasmill_messages_dropped_total",
                "Messages dropped because a plugin asked for it.",
            )?,
            late: counter(
                "wasmill_messages_late_total",
                "Messages too late for their windows, whatever became of them.",
            )?,
            clamped: counter(
                "wasmill_messages_clamped_total",
                "Messages that got an earlier event time, for theirs was too far ahead.",
            )?,
            dead: counter("wasmill_dead_letters_total", "Messages that could not be processed.")?,
            written: counter("wasmill_messages_written_total", "Messages out of the last stage, committed.")?,
            fired: counter("wasmill_windows_fired_total", "Windows that fired, committed.")?,
            open: gauge("wasmill_windows_open", "Windows that are open.")?,
            epochs: counter("wasmill_epochs_committed_total", "Epochs committed.")?,
            commit_seconds,
            stream_time: gauge("wasmill_stream_time_seconds", "Stream time, in seconds since 1970.")?,
            waiting: gauge(
                "wasmill_waiting_bytes",
                "Bytes of messages read and not yet taken in by the lanes.",
            )?,
            lag,
            unstable,
            waiting_for,
            partitions: gauge("wasmill_partitions", "Partitions that this process reads.")?,
            rebalances: counter(
                "wasmill_rebalances_total",
                "Times that a source's partitions were shared out anew between processes.",
            )?,
            away: counter(
                "wasmill_disconnected_total",
                "Tries that failed because a source, sink or store was away.",
            )?,
            breakers,
            opened,
            swaps,
            held_back,
            restoring: gauge(
                "wasmill_restoring_records",
                "Records of the changelog that are still to be read before the pipeline goes on.",
            )?,
            aborted: counter(
                "wasmill_transactions_aborted_total",
                "Transactions that were given up; what was in them was written again in another one.",
            )?,
            replaced: counter(
                "wasmill_producers_replaced_total",
                "Producers replaced because a request of a transaction had no answer.",
            )?,
            lost: counter(
                "wasmill_lost_trimmed_total",
                "Messages that their source's log had trimmed before they could be read: they are lost.",
            )?,
            inner: Mutex::new(Inner {
                inputs: Vec::new(),
                counts: Counts::default(),
                stream_time: START,
                waiting_for: None,
                breakers: BTreeSet::new(),
                since: Instant::now(),
            }),
        })
    }

    /// A partition is this process's, read from `start` on.
    pub fn assigned(&self, id: PartitionId, name: &str, start: u64, extent: Option<u64>) {
        let mut inner = self.inner();
        inner.inputs.retain(|i| i.id != id);
        inner.inputs.push(Progress { id, name: name.to_owned(), start, extent, committed: start });
        self.partitions.set(i64::try_from(inner.inputs.len()).unwrap_or(i64::MAX));
    }

    /// A partition is not this process's any more: its gauges go, for another process shows them.
    pub fn left(&self, id: PartitionId) {
        let mut inner = self.inner();
        if let Some(at) = inner.inputs.iter().position(|i| i.id == id) {
            let input = inner.inputs.remove(at);
            // One that was never set is not there to be removed.
            let _ = self.lag.remove_label_values(&[&input.name]);
            let _ = self.unstable.remove_label_values(&[&input.name]);
            let _ = self.waiting_for.remove_label_values(&[&input.name]);
        }
        self.partitions.set(i64::try_from(inner.inputs.len()).unwrap_or(i64::MAX));
    }

    /// A partition's end, now.
    pub fn extent(&self, id: PartitionId, extent: u64) {
        let mut inner = self.inner();
        let Some(input) = inner.inputs.iter_mut().find(|i| i.id == id) else { return };
        input.extent = Some(extent);
        self.show_lag(input);
    }

    /// So many messages more were lost.
    pub fn lost(&self, messages: u64) {
        self.lost.inc_by(messages);
    }

    /// So many offsets of a partition are held back.
    pub fn unstable(&self, id: PartitionId, offsets: u64) {
        let inner = self.inner();
        let Some(input) = inner.inputs.iter().find(|i| i.id == id) else { return };
        self.unstable.with_label_values(&[&input.name]).set(i64::try_from(offsets).unwrap_or(i64::MAX));
    }

    fn show_lag(&self, input: &Progress) {
        if let Some(extent) = input.extent {
            let lag = i64::try_from(extent.saturating_sub(input.committed)).unwrap_or(i64::MAX);
            self.lag.with_label_values(&[&input.name]).set(lag);
        }
    }

    pub fn rebalanced(&self) {
        self.rebalances.inc();
    }

    pub fn away(&self) {
        self.away.inc();
    }

    /// What has become of a new version of a stage's plugin.
    pub fn swapped(&self, stage: &str, outcome: &str) {
        self.swaps.with_label_values(&[stage, outcome]).inc();
    }

    /// How the breaker of an end or a stage stands now, and whether it has just opened.
    pub fn breaker(&self, end: &str, position: BreakerPosition, opened: bool) {
        let mut inner = self.inner();
        match position {
            BreakerPosition::Closed => inner.breakers.remove(end),
            _ => inner.breakers.insert(end.to_owned()),
        };
        self.breakers.with_label_values(&[end]).set(position.number());
        self.opened.with_label_values(&[end]).inc_by(u64::from(opened));
    }

    pub fn held_back(&self, time: Duration) {
        self.held_back.inc_by(time.as_secs_f64());
    }

    /// So many records of the changelog are to be read yet.
    pub fn restoring(&self, records: u64) {
        self.restoring.set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// A transaction was given up.
    pub fn aborted(&self) {
        self.aborted.inc();
    }

    /// So many producers were replaced since this was asked last.
    pub fn replaced(&self, more: u64) {
        self.replaced.inc_by(more);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read(&self, messages: usize, bytes: usize) {
        self.read.inc_by(messages as u64);
        self.read_bytes.inc_by(bytes as u64);
    }

    /// Called after every round of the coordinator.
    pub fn flow(&self, stream_time: i64, waiting_bytes: usize, waiting_for: Vec<(PartitionId, i64)>) {
        self.waiting.set(i64::try_from(waiting_bytes).unwrap_or(i64::MAX));
        if stream_time != START && stream_time != END {
            self.stream_time.set(stream_time / 1_000);
        }
        let mut inner = self.inner();
        inner.stream_time = stream_time;
        let name = waiting_for
            .first()
            .and_then(|(id, _)| inner.inputs.iter().find(|i| i.id == *id).map(|i| i.name.clone()));
        if let Some((before, _)) = inner.waiting_for.as_ref().filter(|(n, _)| name.as_ref() != Some(n)) {
            let _ = self.waiting_for.remove_label_values(&[before]);
        }
        inner.waiting_for = match (name, inner.waiting_for.take()) {
            (Some(name), Some((before, since))) if name == before => Some((name, since)),
            (Some(name), _) => Some((name, Instant::now())),
            (None, _) => None,
        };
        if let Some((name, since)) = inner.waiting_for.as_ref() {
            let seconds = i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
            self.waiting_for.with_label_values(&[name]).set(seconds);
        }
    }

    pub fn committed(&self, took: Duration) {
        self.epochs.inc();
        self.commit_seconds.observe(took.as_secs_f64());
    }

    pub fn counted(&self, counts: Counts, open_windows: u64) {
        self.committed.inc_by(counts.read);
        self.dropped.inc_by(counts.dropped);
        self.late.inc_by(counts.late);
        self.clamped.inc_by(counts.clamped);
        self.dead.inc_by(counts.dead);
        self.written.inc_by(counts.written);
        self.fired.inc_by(counts.fired);
        self.open.set(i64::try_from(open_windows).unwrap_or(i64::MAX));
        self.inner().counts.add(counts);
    }

    pub fn positions(&self, positions: &[(PartitionId, Position)]) {
        let mut inner = self.inner();
        for (id, position) in positions {
            let Some(input) = inner.inputs.iter_mut().find(|i| i.id == *id) else { continue };
            input.committed = position.offset;
            self.show_lag(input);
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        let mut whole = 0u64;
        let mut committed = 0u64;
        let known = inner.inputs.iter().all(|input| {
            let Some(extent) = input.extent else { return false };
            whole += extent.saturating_sub(input.start);
            committed += input.committed.min(extent).saturating_sub(input.start);
            true
        });
        Snapshot {
            counts: inner.counts,
            read: self.read.get(),
            stream_time: (inner.stream_time != START && inner.stream_time != END)
                .then_some(inner.stream_time),
            done: (known && whole > 0).then(|| committed as f64 / whole as f64),
            waiting_for: inner.waiting_for.as_ref().map(|(name, since)| (name.clone(), since.elapsed())),
            breakers: inner.breakers.iter().cloned().collect(),
            elapsed: inner.since.elapsed(),
        }
    }
}
