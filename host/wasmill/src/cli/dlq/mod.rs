//! `wasmill dlq`: looks through dead letters, and has them replayed.

mod args;
mod letter;
mod letters;
mod replay;
mod show;
mod trial;

use std::collections::BTreeSet;
use std::io::Write as _;

use serde_json::json;
use serde_json::value::RawValue;

pub use args::DlqCommand;

use super::exit::{Exit, Stop};
use super::{load, print, print_json};
use crate::spec::Pipeline;
use letter::ID_DIGITS;
use letters::{Letters, Replayed, State};

/// The shortest beginning of an id that is taken.
const ID_DIGITS_MIN: usize = 4;

/// Does what was asked for.
///
/// # Errors
/// When the spec is wrong or has no dead letters that can be read, or something outside can't be used.
pub fn run(command: &DlqCommand) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Stop::error(Exit::Failed, format!("can't start: {e}")))?;
    runtime.block_on(async {
        match command {
            DlqCommand::List(args) => list(args).await,
            DlqCommand::Show(args) => show(args).await,
            DlqCommand::Stats(args) => stats(args).await,
            DlqCommand::Replay(args) => replay::run(args).await,
        }
    })
}

/// What goes beside the answer, which is on stdout.
fn remark(lines: &[String]) {
    for line in lines {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// What people should know of letters and of where they are replayed.
fn remarks(letters: &Letters, replayed: &Replayed) -> Vec<String> {
    let mut remarks = letters.remarks();
    if let Some(why) = replayed.unknown() {
        remarks.push(format!("which of the copied letters are cleared is {}", lower(why)));
    }
    remarks
}

/// "not known …" as it is, and any other cause behind those words.
fn lower(why: &str) -> String {
    if why.starts_with("not known") { why.to_owned() } else { format!("not known: {why}") }
}

async fn list(args: &args::List) -> Result<(), Stop> {
    let common = &args.common;
    let pipeline = load::pipeline(common.pipeline.as_deref(), &common.shown.overrides)?;
    let mut letters = Letters::open(&pipeline, common.chosen.as_deref()).await?;
    let replayed = Replayed::look(&pipeline).await?;
    let mut shown = 0;
    while let Some(batch) = letters.batch().await? {
        let mut text = String::new();
        for letter in letters.chosen(&batch)? {
            if shown == args.limit {
                print(&text)?;
                remark(&[format!("there are more than {shown}: raise --limit, or choose by --where")]);
                remark(&remarks(&letters, &replayed));
                return Ok(());
            }
            let state = replayed.state(letter.digest);
            if common.shown.json {
                let place = letters.place(letter.part, letter.offset);
                // A line each, so that a long list is neither held here nor where it is read.
                text.push_str(&show::listed_json(&letter, state, &place).to_string());
                text.push('\n');
            } else {
                if shown == 0 {
                    text.push_str(&show::heading());
                }
                text.push_str(&show::listed(&letter, state));
            }
            shown += 1;
        }
        print(&text)?;
    }
    if shown == 0 && !common.shown.json {
        print(&format!("{}: {}\n", pipeline.name, none(common.chosen.as_deref())))?;
    }
    remark(&remarks(&letters, &replayed));
    Ok(())
}

fn none(chosen: Option<&str>) -> String {
    match chosen {
        None => show::letters(0),
        Some(_) => format!("{} for which that holds", show::letters(0)),
    }
}

async fn stats(args: &args::Stats) -> Result<(), Stop> {
    let common = &args.common;
    let pipeline = load::pipeline(common.pipeline.as_deref(), &common.shown.overrides)?;
    let mut letters = Letters::open(&pipeline, common.chosen.as_deref()).await?;
    let replayed = Replayed::look(&pipeline).await?;
    let mut sums = show::Sums::default();
    while let Some(batch) = letters.batch().await? {
        for letter in letters.chosen(&batch)? {
            sums.add(&letter, replayed.state(letter.digest));
        }
    }
    let remarks = remarks(&letters, &replayed);
    if common.shown.json {
        print_json(&json!({ "pipeline": pipeline.name, "stats": sums, "no_letters": letters.others }))?;
    } else {
        print(&sums.show(&pipeline.name))?;
    }
    remark(&remarks);
    Ok(())
}

async fn show(args: &args::Show) -> Result<(), Stop> {
    let pipeline = load::pipeline(args.pipeline(), &args.shown.overrides)?;
    let wanted = args.id().to_lowercase();
    if wanted.len() < ID_DIGITS_MIN || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Stop::error(
            Exit::Usage,
            format!(
                "`{}` is no id of a dead letter: expected {ID_DIGITS_MIN} or more of the digits that `wasmill dlq list` shows",
                args.id()
            ),
        ));
    }
    let mut letters = Letters::open(&pipeline, None).await?;
    let mut found: BTreeSet<u128> = BTreeSet::new();
    let mut text = String::new();
    let replayed = Replayed::look(&pipeline).await?;
    while let Some(batch) = letters.batch().await? {
        for letter in letters.chosen(&batch)? {
            // One that stands there twice, as an at-least-once sink may have it, is shown once.
            if !letter.id().starts_with(&wanted) || !found.insert(letter.digest) || found.len() > 1 {
                continue;
            }
            let place = letters.place(letter.part, letter.offset);
            let state = replayed.state(letter.digest);
            text = if args.shown.json {
                whole_json(&letter, state, &place)?
            } else {
                show::whole(
                    &letter,
                    &in_words(&replayed, letter.digest),
                    &place,
                    letter.obstacle(&pipeline).as_deref(),
                )
            };
        }
    }
    match found.len() {
        0 => Err(Stop::error(
            Exit::Usage,
            format!(
                "`{}` has no dead letter whose id begins with {wanted}: see `wasmill dlq list`",
                pipeline.name
            ),
        )),
        1 => print(&text),
        n => {
            let some: Vec<String> = found.iter().take(3).map(|d| format!("{d:032x}")).collect();
            let text = format!(
                "{n} dead letters have ids that begin with {wanted}: give more digits, as of {}",
                some.join(", ")
            );
            Err(Stop::error(Exit::Usage, text))
        }
    }
}

fn in_words(replayed: &Replayed, digest: u128) -> String {
    let state = replayed.state(digest);
    let copied = match replayed.place(digest) {
        Some((part, offset)) => format!(": copied to partition {part}, offset {offset}"),
        None => String::new(),
    };
    let why = match (state, replayed.unknown()) {
        (State::Copied, Some(why)) => format!("; whether it is cleared is {}", lower(why)),
        (State::Unknown, _) => {
            ": the replay topic has lost its first records, and may have had it".to_owned()
        }
        _ => String::new(),
    };
    format!("{}{copied}{why}", state.name())
}

/// The letter to the letter, beside what is known of it.
fn whole_json(letter: &letter::Letter<'_>, state: State, place: &str) -> Result<String, Stop> {
    let value: &RawValue = serde_json::from_slice(letter.value).map_err(|e| Stop::error(Exit::Failed, e))?;
    #[derive(serde::Serialize)]
    struct Whole<'a> {
        id: String,
        state: &'a str,
        place: &'a str,
        letter: &'a RawValue,
    }
    let whole = Whole { id: letter.id(), state: state.name(), place, letter: value };
    let text = serde_json::to_string(&whole).map_err(|e| Stop::error(Exit::Failed, e))?;
    Ok(format!("{text}\n"))
}

/// A letter's id as lists show it.
fn short(id: &str) -> &str {
    &id[..ID_DIGITS.min(id.len())]
}

/// What a pipeline that replays needs, in words.
fn no_replay(pipeline: &Pipeline) -> Stop {
    let file = pipeline.file.display();
    Stop::error(
        Exit::Usage,
        format!(
            "`{}` has no `replay`, where it would read dead letters again. Add to {file}, and start it again:\n\n  replay: {{ log: {{ path: replay }} }}\n\nor, in several processes, a topic of its own:\n\n  replay: {{ kafka: {{ brokers: …, topic: {0}-replay, group: {0}-replay }} }}\n",
            pipeline.name
        ),
    )
}
