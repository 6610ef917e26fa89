//! `wasmill dlq replay`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;
use wasmill_connect::scan::{self, Copier, Copies};

use super::letter::Letter;
use super::letters::{Letters, Replayed, State, away, replay_of, sink_of};
use super::trial::{Trial, Verdict};
use super::{args, no_replay, remark, short, show};
use crate::cli::exit::Stop;
use crate::cli::{load, print, print_json};
use crate::runtime::failpoint;
use crate::spec::Pipeline;

/// How many letters are copied at once, and how many bytes.
const BATCH_LETTERS_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How many different reasons are told each.
const REASONS_MAX: usize = 100;

/// What became of the chosen letters.
#[derive(Default)]
struct Tally {
    copied: u64,
    there: u64,
    forgotten: u64,
    /// What can't be replayed, by why, with an id.
    obstacles: Told,
    /// What the plugin doesn't take.
    refused: Told,
    /// What the plugin has nothing to do with.
    elsewhere: u64,
}

/// Reasons, how often each came, and the first letter of it.
#[derive(Default)]
struct Told(BTreeMap<String, (u64, String)>);

impl Told {
    fn add(&mut self, why: String, letter: &Letter<'_>) {
        let why = match self.0.contains_key(&why) || self.0.len() < REASONS_MAX {
            true => why,
            false => "other reasons".to_owned(),
        };
        self.0.entry(why).or_insert_with(|| (0, letter.id())).0 += 1;
    }

    fn sum(&self) -> u64 {
        self.0.values().map(|(n, _)| n).sum()
    }

    fn show(&self, to: &mut String) {
        for (why, (n, id)) in &self.0 {
            // Writing to memory can't fail.
            let _ = writeln!(to, "  {n:>9}  {} (as {})", show::escaped(why), short(id));
        }
    }

    fn json(&self) -> serde_json::Value {
        self.0.iter().map(|(why, (n, id))| json!({ "why": why, "letters": n, "first": id })).collect()
    }
}

/// Copies chosen letters to where the pipeline reads them again.
pub(super) async fn run(args: &args::Replay) -> Result<(), Stop> {
    let common = &args.common;
    let pipeline = load::pipeline(common.pipeline.as_deref(), &common.shown.overrides)?;
    sink_of(&pipeline)?;
    let Some(spec) = replay_of(&pipeline) else { return Err(no_replay(&pipeline)) };
    let mut trial = args.plugin.as_deref().map(|file| Trial::open(&pipeline, file)).transpose()?;
    if let Some(trial) = trial.as_ref().filter(|_| !args.dry_run) {
        trial.check_in_place()?;
    }
    let mut letters = Letters::open(&pipeline, common.chosen.as_deref()).await?;
    // First of all the place of who writes: what is there then is all that others have copied.
    let mut copier = match args.dry_run {
        true => None,
        false => Some(scan::copier(spec, &format!("{}-replay", pipeline.name)).await.map_err(away)?),
    };
    let there = match &mut copier {
        Some(copier) => copier.scan().await,
        None => scan::of_source(spec).await,
    };
    let mut there = there.map_err(away)?;
    // How far the pipeline is doesn't matter here, and asking could be in its way when it starts.
    let mut replayed = Replayed::in_log(&pipeline, &mut *there).await?;
    let mut tally = Tally::default();
    let done = copy(args, &pipeline, &mut letters, &mut replayed, &mut trial, &mut copier, &mut tally).await;
    if let Some(copier) = &mut copier {
        copier.close().await.map_err(away)?;
    }
    done.map_err(|stop| interrupted(stop, &tally))?;
    if common.shown.json {
        print_json(&json!({
            "pipeline": pipeline.name,
            "dry_run": args.dry_run,
            "copied": tally.copied,
            "there_already": tally.there,
            "not_known": tally.forgotten,
            "not_possible": tally.obstacles.json(),
            "not_taken_by_plugin": tally.refused.json(),
            "of_other_stages": tally.elsewhere,
        }))?;
    } else {
        print(&told(args, &pipeline, &tally))?;
    }
    remark(&letters.remarks());
    Ok(())
}

async fn copy(
    args: &args::Replay,
    pipeline: &Pipeline,
    letters: &mut Letters,
    replayed: &mut Replayed,
    trial: &mut Option<Trial>,
    copier: &mut Option<Box<dyn Copier>>,
    tally: &mut Tally,
) -> Result<(), Stop> {
    let limit = args.limit.unwrap_or(u64::MAX);
    let mut copies = Copies::default();
    'all: while let Some(batch) = letters.batch().await? {
        for letter in letters.chosen(&batch)? {
            if tally.copied + copies.records.len() as u64 >= limit {
                break 'all;
            }
            match replayed.state(letter.digest) {
                State::Waiting => {}
                State::Unknown if args.forgotten => {}
                State::Unknown => {
                    tally.forgotten += 1;
                    continue;
                }
                State::Replayed | State::Copied | State::Cleared => {
                    tally.there += 1;
                    continue;
                }
            }
            if let Some(why) = letter.obstacle(pipeline) {
                tally.obstacles.add(why, &letter);
                continue;
            }
            match trial.as_mut().map(|trial| trial.play(&letter)) {
                None | Some(Verdict::Taken) => {}
                Some(Verdict::Refused(why)) => {
                    tally.refused.add(why, &letter);
                    continue;
                }
                Some(Verdict::Elsewhere) => {
                    tally.elsewhere += 1;
                    continue;
                }
            }
            copies.push(letter.value, letter.key, letter.digest);
            replayed.add(letter.digest);
            if copies.records.len() >= BATCH_LETTERS_MAX || copies.data.len() >= BATCH_BYTES_MAX {
                append(copier, std::mem::take(&mut copies), tally).await?;
            }
        }
    }
    append(copier, copies, tally).await
}

async fn append(copier: &mut Option<Box<dyn Copier>>, copies: Copies, tally: &mut Tally) -> Result<(), Stop> {
    let count = copies.records.len() as u64;
    if let Some(copier) = copier.as_mut().filter(|_| count > 0) {
        copier.append(copies).await.map_err(away)?;
        failpoint::reached("dlq-copied");
    }
    tally.copied += count;
    Ok(())
}

/// What stopped it, with how far it came.
fn interrupted(stop: Stop, tally: &Tally) -> Stop {
    if tally.copied == 0 {
        return stop;
    }
    let shown = format!(
        "{}\n{} were copied before that; run the same command again, and it goes on behind them",
        stop.shown.trim_end(),
        tally.copied
    );
    Stop { exit: stop.exit, shown }
}

fn told(args: &args::Replay, pipeline: &Pipeline, tally: &Tally) -> String {
    let Tally { copied, there, forgotten, obstacles, refused, elsewhere } = tally;
    let all = copied + there + forgotten + obstacles.sum() + refused.sum() + elsewhere;
    let mut text = match (args.dry_run, all) {
        (_, 0) => return format!("{}: {}\n", pipeline.name, super::none(args.common.chosen.as_deref())),
        (true, _) => {
            format!("{}: {} would be copied to be replayed\n", pipeline.name, show::letters(*copied))
        }
        (false, _) => format!("{}: {} copied to be replayed\n", pipeline.name, show::letters(*copied)),
    };
    if *there > 0 {
        let _ = writeln!(text, "  {there} more were there already: nothing is copied twice");
    }
    if *forgotten > 0 {
        let _ = writeln!(
            text,
            "  {forgotten} more may have been: the replay topic has lost its first records, and with them which letters it had; --forgotten copies these too"
        );
    }
    if *elsewhere > 0 {
        let _ = writeln!(text, "  {elsewhere} more failed elsewhere than in this plugin, and were left");
    }
    if refused.sum() > 0 {
        let _ = writeln!(text, "{} more the plugin doesn't take either:", refused.sum());
        refused.show(&mut text);
    }
    if obstacles.sum() > 0 {
        let _ = writeln!(text, "{} more can't be replayed:", obstacles.sum());
        obstacles.show(&mut text);
    }
    text
}
