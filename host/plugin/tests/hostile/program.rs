//! Hostile programs as files: `tests/hostile/NN-name.wat`, where NN is a number of docs/sandbox.md.
//!
//! A file begins with what it does, in comments, and then says in comments of the form `;; key: value` what must become
//! of it:
//!
//! | key | says |
//! |---|---|
//! | `refused` | it is not admitted; the text is in the error |
//! | `batch`, `verdict` | the kind of a call's error in production and in a verdict, or `answers` |
//! | `stage` | the kind of error with which the engine refuses its answers; none: its answers are good |
//! | `says` | a text that is in each of these errors |
//! | `uses` | what it imports: of `log`, `random`, `metrics`, `state`, `wall-clock`, `wasi` |
//! | `grants` | what its stage grants |
//! | `limit` | a bound other than the tests' usual ones, by its name in `Limits`, and its value |
//!
//! What follows is a component; or the insides of the core module of a transform, which then has an import for all
//! that it uses, and `$keep`, `$ok`, `$err` and `$answer` to answer with. In both, a line `$INCLUDE name` stands for a piece
//! that programs share, and `$REPEAT n text` for n times the text, with `#` for 0, 1, 2, ….
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};

use super::pieces::{
    ANSWERS, ENV, FACE, Imports, LIFT, LOG, METRICS, RANDOM, STATE, TYPED_FACE, TYPED_LIFT, TYPES,
    WALL_CLOCK, WASI, binary, transform_of,
};

/// One hostile program, and what must become of it.
#[derive(Debug, Default)]
pub struct Program {
    /// Its file's name, without the ending.
    pub name: String,
    /// What the error says with which it isn't admitted.
    pub refused: Option<String>,
    /// The kind of a call's error in production, or `answers`.
    pub batch: String,
    /// The same of a verdict.
    pub verdict: String,
    /// The kind of error with which a stage refuses what it answers.
    pub stage: Option<String>,
    /// What is in every error.
    pub says: String,
    /// What its stage grants.
    pub grants: Vec<String>,
    /// Bounds other than the usual ones.
    pub limits: Vec<(String, u64)>,
    /// The component.
    pub component: Vec<u8>,
}

/// Where the programs are.
pub fn folder() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = above.into_iter().find(|folder| folder.join("wit").is_dir());
    root.expect("the repository has a folder wit").join("tests/hostile")
}

/// One program by its name.
pub fn named(name: &str) -> Program {
    let path = folder().join(format!("{name}.wat"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse(name, &text)
}

/// The programs of the table, by number.
pub fn all() -> Vec<Program> {
    let files = std::fs::read_dir(folder()).unwrap_or_else(|e| panic!("{e}")).flatten();
    let names = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".wat")?.to_owned()));
    let mut names: Vec<String> = names.filter(|name| number(name).is_some()).collect();
    names.sort();
    names.iter().map(|name| named(name)).collect()
}

/// A program's number in the table.
pub fn number(name: &str) -> Option<u32> {
    name.split_once('-')?.0.parse().ok()
}

fn parse(name: &str, text: &str) -> Program {
    let wrong =
        |what: &str| -> ! { panic!("{name}.wat: {what}; hostile/program.rs says what a file may say") };
    let mut program = Program { name: name.to_owned(), ..Program::default() };
    let mut uses = Vec::new();
    let comments = text.lines().map_while(|line| line.strip_prefix(";;"));
    for (key, value) in comments.filter_map(|comment| comment.trim().split_once(": ")) {
        let words = || value.split_whitespace().map(str::to_owned);
        match key {
            "refused" => program.refused = Some(value.to_owned()),
            "batch" => program.batch = value.to_owned(),
            "verdict" => program.verdict = value.to_owned(),
            "stage" => program.stage = Some(value.to_owned()),
            "says" => program.says = value.to_owned(),
            "uses" => uses.extend(words().map(|name| imports(&name).unwrap_or_else(|| wrong(&name)))),
            "grants" => program.grants.extend(words()),
            "limit" => {
                let number =
                    value.split_once(' ').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
                program.limits.push(number.unwrap_or_else(|| wrong("a limit is a name and a number")));
            }
            // A sentence with a colon in it.
            _ if key.contains(' ') => {}
            _ => wrong(&format!("the key `{key}`")),
        }
    }
    if number(name).is_some()
        && program.refused.is_none() == (program.batch.is_empty() || program.verdict.is_empty())
    {
        wrong("either `refused`, or both `batch` and `verdict`");
    }
    let source = expanded(text);
    let is_whole = source.lines().find(|l| !l.starts_with(";;")).is_some_and(|l| l.starts_with("(component"));
    program.component = binary(&if is_whole { source } else { transform_of(&uses, &source) });
    program
}

fn imports(name: &str) -> Option<&'static Imports> {
    Some(match name {
        "log" => &LOG,
        "random" => &RANDOM,
        "metrics" => &METRICS,
        "state" => &STATE,
        "wall-clock" => &WALL_CLOCK,
        "wasi" => &WASI,
        _ => return None,
    })
}

/// The text with pieces and repetitions in their places.
fn expanded(text: &str) -> String {
    let mut expanded = String::new();
    for line in text.lines() {
        match line.trim_start().split_once(' ') {
            Some(("$INCLUDE", name)) => expanded.push_str(&piece(name.trim_end_matches(')'))),
            Some(("$REPEAT", rest)) => {
                let (times, text) = rest.split_once(' ').expect("$REPEAT n text");
                for i in 0..times.parse().expect("$REPEAT n text") {
                    let i: u32 = i;
                    expanded.push_str(&text.replace('#', &i.to_string()));
                    expanded.push('\n');
                }
                continue;
            }
            _ => expanded.push_str(line),
        }
        // The parentheses that close what a piece stands in.
        let closing = line.len() - line.trim_end_matches(')').len();
        if line.trim_start().starts_with("$INCLUDE") {
            expanded.push_str(&")".repeat(closing));
        }
        expanded.push('\n');
    }
    expanded
}

fn piece(name: &str) -> String {
    match name {
        "env" => ENV.to_owned(),
        "answers" => ANSWERS.to_owned(),
        "types" => TYPES.to_owned(),
        "lift" => LIFT.to_owned(),
        "face" => FACE.to_owned(),
        "typed-lift" => TYPED_LIFT.to_owned(),
        "typed-face" => TYPED_FACE.to_owned(),
        _ => match imports(name) {
            Some(Imports { declared, lowered, .. }) => format!("{declared}\n{lowered}"),
            None => panic!("there is no piece `{name}` to include"),
        },
    }
}
