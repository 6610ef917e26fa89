//! A pipeline's dead letters in their order, and what became of each.

use std::collections::{BTreeMap, HashMap};

use wasmill_connect::scan::{Part, Scan, Scanned};
use wasmill_connect::table::{SinkSpec, SourceSpec};
use wasmill_connect::{ConnectorError, kafka, scan};
use wasmill_engine::condition::Condition;
use wasmill_engine::input::RawBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::FrameBuf;

use super::letter::{Letter, as_message};
use crate::cli::exit::{Exit, Stop};
use crate::cli::state::positions;
use crate::report::{Diagnostic, Problems, Span};
use crate::spec::Pipeline;

/// How many copies are kept track of at once, at most: about 100 MB.
const COPIES_MAX: usize = 2_000_000;

/// What became of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It was not copied.
    Waiting,
    /// It is in the replay log, and the pipeline has not committed beyond it.
    Replayed,
    /// It is in the replay log; how far the pipeline is there can't be known now.
    Copied,
    /// The pipeline has committed beyond its copy.
    Cleared,
    /// The replay log has lost what was first in it, and may have had it.
    Unknown,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Replayed => "replayed",
            Self::Copied => "copied",
            Self::Cleared => "cleared",
            Self::Unknown => "unknown",
        }
    }
}

/// How far the pipeline is in its replay log.
#[derive(Debug)]
enum Progress {
    /// What it reads next of each partition; none of those that it has committed nothing of.
    Known(BTreeMap<u32, u64>),
    /// Why that can't be known.
    Unknown(String),
}

/// Which letters are in the replay log, and how far the pipeline is there.
#[derive(Debug)]
pub(super) struct Replayed {
    copies: HashMap<u128, (u32, u64)>,
    progress: Progress,
    /// What was first of each partition when that was looked at.
    first: BTreeMap<u32, u64>,
    pub forgets: bool,
}

impl Replayed {
    /// Of a pipeline that replays nothing.
    pub fn nothing() -> Self {
        Self {
            copies: HashMap::new(),
            progress: Progress::Known(BTreeMap::new()),
            first: BTreeMap::new(),
            forgets: false,
        }
    }

    /// Looks through a pipeline's replay log, and asks how far the pipeline is there; changes nothing.
    pub async fn look(pipeline: &Pipeline) -> Result<Self, Stop> {
        let Some(spec) = replay_of(pipeline) else { return Ok(Self::nothing()) };
        let mut scan = scan::of_source(spec).await.map_err(away)?;
        let mut replayed = Self::in_log(pipeline, &mut *scan).await?;
        replayed.progress = progress(pipeline, spec, scan.parts()).await;
        Ok(replayed)
    }

    /// What a scan of a pipeline's replay log finds; how far the pipeline is there is left open.
    pub async fn in_log(pipeline: &Pipeline, scan: &mut dyn Scan) -> Result<Self, Stop> {
        let mut copies = HashMap::new();
        while let Some(found) = scan.next().await.map_err(away)? {
            match found {
                Scanned::Noted(noted) => {
                    copies.extend(noted.into_iter().map(|n| (n.digest, (0, n.offset))));
                }
                Scanned::Records(batch) => {
                    // What is no letter was put there by somebody else, and the pipeline will say so.
                    let letters = batch.records.iter().filter_map(|r| Letter::read(&batch, r).ok());
                    let place = |l: Letter<'_>| (l.digest, (l.part, l.offset));
                    copies.extend(letters.map(place));
                }
            }
            if copies.len() > COPIES_MAX {
                return Err(Stop::error(
                    Exit::Outside,
                    format!(
                        "the replay log of `{}` has more than {COPIES_MAX} letters, too many to be told apart: give `replay` another, empty one once all of them are cleared",
                        pipeline.name
                    ),
                ));
            }
        }
        let progress = Progress::Unknown("not asked for".to_owned());
        let first = scan.parts().iter().map(|part| (part.number, part.begin)).collect();
        Ok(Self { copies, progress, first, forgets: scan.forgets() })
    }

    /// Where a letter's copy is.
    pub fn place(&self, digest: u128) -> Option<(u32, u64)> {
        self.copies.get(&digest).copied()
    }

    /// Notes one that is copied now.
    pub fn add(&mut self, digest: u128) {
        self.copies.insert(digest, (u32::MAX, u64::MAX));
    }

    pub fn state(&self, digest: u128) -> State {
        let Some((part, offset)) = self.place(digest) else {
            return if self.forgets { State::Unknown } else { State::Waiting };
        };
        match &self.progress {
            Progress::Known(next) if next.get(&part).is_some_and(|next| *next > offset) => State::Cleared,
            // A reader removes what it has committed, and nothing else.
            _ if !self.forgets && self.first.get(&part).is_some_and(|first| offset < *first) => {
                State::Cleared
            }
            Progress::Known(_) => State::Replayed,
            Progress::Unknown(_) => State::Copied,
        }
    }

    /// Why it isn't known how far the pipeline is.
    pub fn unknown(&self) -> Option<&str> {
        match &self.progress {
            Progress::Known(_) => None,
            Progress::Unknown(why) => Some(why),
        }
    }
}

/// The source that a pipeline reads letters from again.
pub(super) fn replay_of(pipeline: &Pipeline) -> Option<&SourceSpec> {
    pipeline.sources.get(pipeline.replay()?)
}

async fn progress(pipeline: &Pipeline, spec: &SourceSpec, parts: &[Part]) -> Progress {
    if let SourceSpec::Kafka(spec) = spec {
        return match kafka::committed(spec).await {
            Ok(told) => {
                Progress::Known(told.into_iter().filter_map(|(n, offset)| Some((n, offset?))).collect())
            }
            Err(e) => Progress::Unknown(e.to_string()),
        };
    }
    let source = pipeline.replay().and_then(|number| u16::try_from(number).ok()).unwrap_or(u16::MAX);
    match positions(pipeline) {
        Ok(None) => Progress::Known(BTreeMap::new()),
        Ok(Some(all)) => {
            let of_part = |part: &Part| {
                let position = all.get(&PartitionId { source, partition: part.number }.to_string())?;
                // A position of another log says nothing of this one.
                let same = part.incarnation.as_ref().is_none_or(|now| *now == position.incarnation);
                same.then_some((part.number, position.offset))
            };
            Progress::Known(parts.iter().filter_map(of_part).collect())
        }
        Err(why) => Progress::Unknown(why),
    }
}

/// That something outside can't be used.
pub(super) fn away(error: ConnectorError) -> Stop {
    Stop::error(Exit::Outside, error)
}

/// The sink that a pipeline's dead letters go to.
pub(super) fn sink_of(pipeline: &Pipeline) -> Result<&SinkSpec, Stop> {
    pipeline.dead_letter.as_ref().ok_or_else(|| {
        let file = pipeline.file.display();
        Stop::error(
            Exit::Usage,
            format!(
                "`{}` has no `dead_letter`: each dead letter goes whole into its log, at level ERROR, and can't be read back. To keep them, add to {file}:\n\n  dead_letter: {{ file: {{ path: dead-letters }} }}\n",
                pipeline.name
            ),
        )
    })
}

/// Reads a `--where`.
pub(super) fn condition(text: Option<&str>) -> Result<Option<Condition>, Stop> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|wrong: wasmill_engine::condition::NotACondition| {
        let mut problems = Problems::in_file(std::path::Path::new("--where"), text, |source| {
            let span = Span::new(source, wrong.at, text.len());
            Diagnostic::at(span, "this `--where` is no condition", wrong.to_string())
        });
        if let Some(problem) = problems.diagnostics.first_mut() {
            problem.help.push(
                "such as `payload.kind == 'trap' && payload.stage == 'enrich'`, over the letter as a message"
                    .to_owned(),
            );
        }
        Stop::problems(Exit::Usage, &problems)
    })
}

/// The letters of a pipeline that a condition holds for.
pub(super) struct Letters {
    scan: Box<dyn Scan>,
    condition: Option<Condition>,
    frame: FrameBuf,
    /// How many records were no dead letters, and why the first was none.
    pub others: u64,
    pub first_other: Option<String>,
}

impl Letters {
    pub async fn open(pipeline: &Pipeline, chosen: Option<&str>) -> Result<Self, Stop> {
        let spec = sink_of(pipeline)?;
        let condition = condition(chosen)?;
        let scan = scan::of_sink(spec).await.map_err(away)?;
        Ok(Self { scan, condition, frame: FrameBuf::default(), others: 0, first_other: None })
    }

    /// Where they stand, in words.
    pub fn place(&self, part: u32, offset: u64) -> String {
        let name = self.scan.parts().iter().find(|p| p.number == part).map_or("?", |p| p.name.as_str());
        format!("{name}, offset {offset}")
    }

    pub async fn batch(&mut self) -> Result<Option<RawBatch>, Stop> {
        loop {
            match self.scan.next().await.map_err(away)? {
                None => return Ok(None),
                Some(Scanned::Records(batch)) => return Ok(Some(batch)),
                Some(Scanned::Noted(_)) => {}
            }
        }
    }

    /// The letters of a batch that are chosen.
    pub fn chosen<'b>(&mut self, batch: &'b RawBatch) -> Result<Vec<Letter<'b>>, Stop> {
        let mut chosen = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            match Letter::read(batch, record) {
                Ok(letter) => {
                    if self.holds(&letter)? {
                        chosen.push(letter);
                    }
                }
                Err(why) => {
                    let place = self.place(batch.partition.partition, record.offset);
                    self.others += 1;
                    self.first_other.get_or_insert_with(|| format!("{place}: {why}"));
                }
            }
        }
        Ok(chosen)
    }

    fn holds(&mut self, letter: &Letter<'_>) -> Result<bool, Stop> {
        let Some(condition) = &self.condition else { return Ok(true) };
        let asked =
            as_message(letter.value, &mut self.frame).and_then(|()| condition.holds(self.frame.get(0)));
        asked.map_err(|why| {
            let place = self.place(letter.part, letter.offset);
            Stop::error(Exit::Failed, format!("--where: the letter at {place} can't be asked: {why}"))
        })
    }

    /// What people should know beside the letters, a line each.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(first) = &self.first_other {
            remarks.push(match self.others {
                1 => format!("one record is no dead letter and is passed over: {first}"),
                n => format!("{n} records are no dead letters and are passed over; the first, {first}"),
            });
        }
        remarks.extend(self.scan.unread());
        remarks
    }
}
