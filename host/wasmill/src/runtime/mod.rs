//! Runs pipelines: threads, tasks, signals.
//!
//! ```text
//! reader tasks ─▶ coordinator thread ◀─▶ workers (prefix; a lane each)
//!                       │ one commit at a time
//!                       ▼
//!                 committer task ─▶ sinks, store, sources
//! ```

mod alarm;
mod assemble;
mod breaker;
mod claims;
mod commit;
mod coordinate;
mod dead_letter_log;
pub(crate) mod failpoint;
mod follower;
mod guarded;
mod health;
mod http;
mod members;
mod observe;
mod patient_store;
mod plugin_metrics;
mod plugin_pages;
mod progress;
mod readers;
mod retry;
mod state_pages;
mod steps;
mod swapper;
mod swapping;
mod transaction;
mod workers;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use crossbeam_channel::{never, unbounded};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use wasmill_connect::stdio::PIPE_CLOSED;
use wasmill_engine::edition::Plugins;
use wasmill_engine::lane::Step;
use wasmill_engine::position::PartitionId;

use crate::cli::{Exit, RunFailure, RunOptions, Runtime};
use crate::spec::{Pipeline, Stage};
use assemble::{Group, KeptOpen, assemble};
use commit::Committer;
use coordinate::{Bounds, Coordinate, Ended, Event, Halt};
use health::Health;
use http::Pages;
use members::{MemberTask, SharedSource};
use observe::{Observed, Snapshot};
use progress::grouped;
use readers::{Credit, ReaderTask, Reading};
use retry::{Backoff, Ends};
use state_pages::StatePages;
use steps::SmallSteps;
use swapper::Swapper;
use workers::{Prefixes, Waiting, Worker};

/// The most raw bytes that one poll of a reader asks for.
const POLL_BYTES_MAX: usize = 256 << 10;

/// A run that lasted so long went well before it had to begin again.
const RUN_WELL_MIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The runtime of the binary.
pub struct Threads;

impl Runtime for Threads {
    fn run(&self, pipelines: Vec<Pipeline>, options: RunOptions) -> anyhow::Result<Vec<Value>> {
        if options.reset {
            pipelines.iter().try_for_each(assemble::reset)?;
        }
        let runtime = tokio_runtime()?;
        let done = runtime.block_on(run_all(pipelines));
        // A write that blocks, as to a stdout that nobody reads, must not keep the process.
        runtime.shutdown_background();
        done
    }

    fn reset(&self, pipeline: &Pipeline) -> anyhow::Result<()> {
        assemble::reset(pipeline)
    }

    fn shape(&self, pipeline: &Pipeline) -> anyhow::Result<String> {
        assemble::shape(pipeline)
    }
}

fn tokio_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("wasmill-io")
        .enable_all()
        .build()
        .context("can't start the I/O threads")
}

async fn run_all(pipelines: Vec<Pipeline>) -> anyhow::Result<Vec<Value>> {
    let (stop, stopped) = watch::channel(false);
    watch_signals(stop.clone())?;
    let health = Arc::new(Health::default());
    let pages = Arc::new(Pages {
        registry: Registry::new(),
        health: Arc::clone(&health),
        sandboxes: std::sync::Mutex::default(),
        states: StatePages::default(),
        catalog: Arc::default(),
    });
    let pipelines: Vec<Pipeline> = pipelines.into_iter().flat_map(Pipeline::parts).collect();
    for pipeline in &pipelines {
        health.ill(&pipeline.name, "starting");
    }
    let mut addresses: Vec<_> = pipelines.iter().filter_map(|p| p.http).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for address in addresses {
        http::serve(address, Arc::clone(&pages))
            .await
            .map_err(|text| RunFailure { exit: Exit::Outside, text })?;
    }
    let mut running = JoinSet::new();
    for (number, pipeline) in pipelines.into_iter().enumerate() {
        let (pages, stopped) = (Arc::clone(&pages), stopped.clone());
        running.spawn(async move { (number, run_one(pipeline, pages, stopped).await) });
    }
    let mut summaries = BTreeMap::new();
    let mut failure = None;
    while let Some(done) = running.join_next().await {
        match done.context("a pipeline's task panicked")? {
            (number, Ok(summary)) => drop(summaries.insert(number, summary)),
            (_, Err(error)) => {
                // One pipeline that can't go on ends the process: the others end in order first.
                tracing::error!(%error, "a pipeline can't go on; the others are stopped");
                stop.send_replace(true);
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or_else(|| Ok(summaries.into_values().collect()), Err)
}

/// The first signal stops in order, the second at once.
fn watch_signals(stop: watch::Sender<bool>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    tokio::spawn(async move {
        for nth in 1.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if nth > 1 {
                eprintln!("stopped at once; what is not committed is read again at the next start");
                std::process::exit(Exit::Interrupted as i32);
            }
            tracing::info!("stopping: draining what was read; a second signal stops at once");
            stop.send_replace(true);
        }
    });
    Ok(())
}

/// Runs a pipeline to its end; from what is stored again, where another process has taken a part over.
async fn run_one(
    pipeline: Pipeline,
    pages: Arc<Pages>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<Value> {
    let name = &pipeline.name;
    let observed = Arc::new(Observed::new(name, &pages.registry)?);
    let ends = Ends::new(Arc::clone(&pages.health), observed, stopped.clone());
    let mut kept = KeptOpen::default();
    let mut backoff = Backoff::new();
    let mut small_steps = None;
    let ended = loop {
        let began = Instant::now();
        let until = stopped.clone();
        match run_once(&pipeline, &pages, &ends, &mut kept, (small_steps, until)).await? {
            Ok(ended) => break ended,
            Err(Halt::Overgrown(why)) => {
                small_steps = SmallSteps::behind(small_steps);
                if small_steps.is_none() {
                    let text = format!(
                        "{name}: {why}, which was one message. Lower `limits.answer` or `limits.outputs`, or mend the plugin that makes so much of it"
                    );
                    return Err(RunFailure { exit: Exit::Failed, text }.into());
                }
                tracing::warn!(pipeline = %name, %why, "beginning again from what is stored, in small steps");
            }
            Err(fenced) => {
                tracing::warn!(pipeline = %name, %fenced, "beginning again from what is stored");
                // One that fails at once, again and again, must not spin.
                if began.elapsed() > RUN_WELL_MIN {
                    backoff.end();
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next()) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            }
        }
    };
    Ok(summary(name, ended, &ends.observed.snapshot()))
}

/// Runs a pipeline from what is stored; answers why, if it must begin again.
async fn run_once(
    pipeline: &Pipeline,
    pages: &Pages,
    ends: &Ends,
    kept: &mut KeptOpen,
    (small_steps, mut stopped): (Option<SmallSteps>, watch::Receiver<bool>),
) -> anyhow::Result<Result<Ended, Halt>> {
    let started = Instant::now();
    let name = pipeline.name.clone();
    let step = if small_steps.is_some() { Step::Small } else { Step::Bounded };
    let assembled = tokio::select! {
        assembled = assemble(pipeline, ends, (kept, step)) => assembled?,
        // Stopped while it waited for something that is away: nothing was read yet.
        _ = stopped.wait_for(|stop| *stop) => return Ok(Ok(Ended::Stopped)),
    };
    keep_copies(pipeline, &assembled);
    // However the run ends: workers that wait for a breaker are not waited for.
    let _waits = assembled.waits;
    let sandbox = Arc::new(assembled.sandbox);
    pages.show(&name, &sandbox);
    pages.states.show(&name, &assembled.store);
    tracing::info!(
        pipeline = %name,
        partitions = assembled.partition_count,
        workers = pipeline.workers,
        store = %assembled.store.name(),
        resumed = assembled.resumed,
        ready_in_ms = started.elapsed().as_millis() as u64,
        "running"
    );

    let (events, inbox) = unbounded();
    let (job_sender, jobs) = unbounded();
    let (commit_sender, commits) = mpsc::unbounded_channel();
    let (reading_until, read_until) = watch::channel(false);

    let credit_bytes = (pipeline.limits.queue_bytes_max / assembled.partition_count.max(1)).max(1);
    let reading = Reading {
        batch_messages_max: pipeline.batch_size,
        batch_bytes_max: POLL_BYTES_MAX.min(credit_bytes),
        events: events.clone(),
        ends: ends.clone(),
        aheads: Arc::clone(&assembled.aheads),
    };
    let credits =
        start_readers(&assembled.sources, &assembled.inputs, &reading, credit_bytes, &read_until).await?;
    let members = assembled.groups.len();
    let (reads_on, reading_on) = mpsc::channel(1);
    let mut member_tasks = JoinSet::new();
    for Group { source, name, membership } in assembled.groups {
        let task = MemberTask {
            source_number: source,
            name,
            source: Arc::clone(&assembled.sources[usize::from(source)]),
            membership,
            claims: assembled.claims.clone(),
            credit_bytes,
            reading: reading.clone(),
            reads_on: reads_on.clone(),
            stop: read_until.clone(),
        };
        member_tasks.spawn(task.run());
    }
    if let Some(member) = assembled.member.clone() {
        let (events, ends) = (events.clone(), ends.clone());
        member_tasks.spawn(members::follow_exchange(member, events, ends));
    }
    drop((reading, reads_on));
    let waiting = Waiting::new(pipeline.limits.queue_bytes_max.saturating_mul(PREPARED_TO_QUEUE));
    let lanes = start_workers(pipeline, &assembled.routes, assembled.lanes, (&jobs, &waiting), &events)?;
    let settles =
        pipeline.remembers_plugins() && assembled.store.is_durable() && !assembled.plugins.now.is_empty();
    let swapper = Swapper {
        pipeline: Arc::new(pipeline.clone()),
        sandbox: Arc::clone(&sandbox),
        guards: assembled.guards,
        events: events.clone(),
        shelf: assembled.shelf,
        catalog: Arc::clone(&pages.catalog),
        observed: Arc::clone(&ends.observed),
        ends: ends.clone(),
        running: Arc::clone(&assembled.topology),
        plugins: assembled.plugins.clone(),
        list: assembled.list,
        lagging: None,
        unfit: BTreeMap::new(),
        merger: assembled.merger,
    };
    let asked = pages.catalog.begins(pipeline, &assembled.plugins);
    let shelf = swapper.shelf.clone();
    let swapping = tokio::spawn(swapper.run(asked, reading_on, read_until.clone()));
    let exact = assembled.claims.is_some() || assembled.transacted.is_some();
    let committer = Committer {
        lost: vec![0; assembled.sources.len()],
        sinks: assembled.sinks,
        sources: assembled.sources,
        routes: Arc::clone(&assembled.routes),
        store: assembled.store,
        transacted: assembled.transacted,
        events: events.clone(),
        ends: ends.clone(),
        looked_ahead: None,
    };
    let committer = tokio::spawn(committer.run(commits));
    let forwarding = forward_stop(stopped, reading_until, events);
    let (drawn, draw_until) = watch::channel(false);
    let drawing = std::io::stderr()
        .is_terminal()
        .then(|| tokio::spawn(progress::draw(name.clone(), Arc::clone(&ends.observed), draw_until)));
    pages.health.well(&name);

    let coordinate = Coordinate {
        coordinator: assembled.coordinator,
        collector: assembled.collector,
        events: inbox,
        jobs: job_sender,
        waiting,
        lanes,
        commits: commit_sender,
        credits,
        exact,
        ends_with_leaving: assembled.member.is_some(),
        members,
        bounds: Bounds {
            epoch_interval: pipeline.epoch.interval,
            epoch_bytes_max: pipeline.epoch.bytes_max,
            lane_queue_bytes_max: pipeline.limits.queue_bytes_max,
            jobs_at_once: JOBS_PER_WORKER * preparing(),
            small_steps,
            shutdown_timeout: pipeline.shutdown_timeout,
            idle_timeout: pipeline.idle_timeout,
        },
        observed: Arc::clone(&ends.observed),
        editions: assembled.editions,
        settles,
    };
    let ended =
        tokio::task::spawn_blocking(move || coordinate.run()).await.context("the coordinator panicked")?;
    drawn.send_replace(true);
    if let Some(drawing) = drawing {
        let _ = drawing.await;
    }
    forwarding.abort();
    swapping.abort();
    let ended = match ended {
        Ok(ended) => Ok(ended),
        Err(halt @ (Halt::Fenced(_) | Halt::Overgrown(_))) => Err(halt),
        Err(Halt::Failed(text)) if text == PIPE_CLOSED => {
            // As behind `| head`: whoever reads has seen enough. What is not committed is read again.
            tracing::info!(pipeline = %name, "{PIPE_CLOSED}: stopped");
            return Ok(Ok(Ended::Stopped));
        }
        Err(Halt::Replaced(text)) => {
            return Err(RunFailure { exit: Exit::Replaced, text: format!("{name}: {text}") }.into());
        }
        Err(Halt::Failed(text)) => {
            return Err(RunFailure { exit: Exit::Failed, text: format!("{name}: {text}") }.into());
        }
    };
    let committer = committer.await.context("the committer panicked")?;
    member_tasks.shutdown().await;
    let timeout = pipeline.shutdown_timeout;
    let closed = match &ended {
        Ok(_) => tokio::time::timeout(timeout, committer.close()).await,
        Err(_) => tokio::time::timeout(timeout, committer.abandon()).await.map(Ok),
    };
    closed
        .unwrap_or_else(|_| {
            Err(Halt::Failed(format!("the sinks could not be closed within {} s", timeout.as_secs())))
        })
        .map_err(|halt| RunFailure { exit: Exit::Outside, text: format!("{name}: {halt}") })?;
    if ended.is_ok()
        && let Some(noted) = shelf.noted()
        && let Err(error) = shelf.note(&Plugins { settled: true, ..noted })
    {
        tracing::warn!(pipeline = %name, %error, "can't note that the run has ended in order");
    }
    Ok(ended)
}

/// Keeps copies of what runs: a restart must have them, whatever becomes of the plugin folder meanwhile.
fn keep_copies(pipeline: &Pipeline, assembled: &assemble::Assembled) {
    let shelf = &assembled.shelf;
    let keep = || -> std::io::Result<()> {
        for stage in pipeline.stages.iter().filter_map(Stage::plugin) {
            let Some(plugin) = assembled.plugins.of(&stage.name) else { continue };
            if shelf.find(plugin).is_none()
                && let Some(file) = crate::plugins::file_of(pipeline, stage, shelf, plugin)
            {
                shelf.keep(plugin, &crate::plugins::read(&file)?.1)?;
            }
        }
        shelf.note(&assembled.plugins)
    };
    if let Err(error) = keep() {
        tracing::warn!(
            pipeline = %pipeline.name, %error,
            "no copies of the plugins are kept: a restart needs the very files that run now"
        );
    }
}

async fn start_readers(
    sources: &[SharedSource],
    inputs: &[assemble::Input],
    reading: &Reading,
    credit_bytes: usize,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<BTreeMap<PartitionId, Arc<Credit>>> {
    let mut credits = BTreeMap::new();
    for input in inputs {
        let mut source = sources[usize::from(input.id.source)].lock().await;
        let reader = source
            .open(input.id.partition, input.start)
            .await
            .map_err(|e| RunFailure { exit: Exit::Outside, text: e.to_string() })?;
        let credit = Arc::new(Credit::new(credit_bytes));
        credits.insert(input.id, Arc::clone(&credit));
        reading.ends.observed.assigned(input.id, &input.name, input.start, input.extent);
        let task = ReaderTask {
            id: input.id,
            name: input.name.clone(),
            reader,
            credit,
            stop: stop.clone(),
            reading: reading.clone(),
        };
        tokio::spawn(task.run());
    }
    Ok(credits)
}

/// How many batches wait for each worker, so that it never waits for the coordinator.
const JOBS_PER_WORKER: usize = 64;
/// How much larger than what may be on its way to the lanes results of the prefix may be before only those batches are
/// worked on that nothing goes on without.
const PREPARED_TO_QUEUE: usize = 4;

/// How many workers run the prefix. More threads than processors would only take turns at it; every lane has its own
/// thread all the same.
fn preparing() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn start_workers(
    pipeline: &Pipeline,
    routes: &Arc<wasmill_engine::output::Routes>,
    lanes: Vec<wasmill_engine::lane::Lane>,
    (jobs, waiting): (&crossbeam_channel::Receiver<workers::Job>, &Waiting),
    events: &crossbeam_channel::Sender<Event>,
) -> anyhow::Result<Vec<crossbeam_channel::Sender<workers::LaneWork>>> {
    let mut senders = Vec::new();
    let mut lanes = lanes.into_iter();
    let preparing = preparing();
    // An exchange's partitions have a lane each, however many workers there are.
    for number in 0..pipeline.workers.max(lanes.len()) {
        let lane = lanes.next().map(|lane| {
            let (sender, receiver) = unbounded();
            senders.push(sender);
            (number, lane, receiver)
        });
        let prepares = number < preparing;
        if lane.is_none() && !prepares {
            break;
        }
        let worker = Worker {
            prefixes: Prefixes::new(routes),
            lane,
            jobs: if prepares { jobs.clone() } else { never() },
            waiting: waiting.clone(),
            events: events.clone(),
        };
        std::thread::Builder::new()
            .name(format!("wasmill-worker-{number}"))
            .spawn(move || worker.run())
            .with_context(|| format!("can't start worker {number} of {}", pipeline.workers))?;
    }
    Ok(senders)
}

/// Tells readers and coordinator once the process is told to stop.
fn forward_stop(
    mut stopped: watch::Receiver<bool>,
    reading: watch::Sender<bool>,
    events: crossbeam_channel::Sender<Event>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if stopped.wait_for(|stop| *stop).await.is_ok() {
            reading.send_replace(true);
            let _ = events.send(Event::Stop);
        }
        // Readers go on as long as this sender lives.
        std::future::pending::<()>().await;
    })
}

fn summary(name: &str, ended: Ended, seen: &Snapshot) -> Value {
    let c = seen.counts;
    let seconds = seen.elapsed.as_secs_f64();
    let how = match ended {
        Ended::Finished => "finished",
        Ended::Stopped => "stopped",
    };
    let mut text = format!(
        "{name}: {how}. {} messages in {seconds:.1} s ({}/s): {} written",
        grouped(c.read),
        grouped((c.read as f64 / seconds.max(0.001)) as u64),
        grouped(c.written),
    );
    for (n, what) in [
        (c.fired, "windows fired"),
        (c.dropped, "dropped by plugins"),
        (c.late, "late"),
        (c.clamped, "clamped"),
        (c.dead, "dead letters"),
    ] {
        if n > 0 {
            text.push_str(&format!(", {} {what}", grouped(n)));
        }
    }
    if c.read == 0 {
        text.push_str("; nothing new was there to read (--reset starts anew)");
    }
    json!({
        "pipeline": name,
        "ended": how,
        "read": c.read,
        "written": c.written,
        "windows_fired": c.fired,
        "dropped": c.dropped,
        "late": c.late,
        "clamped": c.clamped,
        "dead_letters": c.dead,
        "seconds": (seconds * 1_000.0).round() / 1_000.0,
        "text": text,
    })
}
