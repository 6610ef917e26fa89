//! `wasmill test`: a plugin's cases, run in the sandbox. Those that a plugin carries are run before it is taken in.

mod format;
mod given;
mod judge;
pub(super) mod play;
mod self_test;

use std::path::Path;

use serde::Serialize;

use super::exit::{Exit, Stop};
use super::{args, print, print_json, sandbox};

pub(super) use format::{Case, Failed, Kind, key, parse_embedded};
pub(super) use self_test::bounded;
pub use self_test::self_test;

/// The greatest file of cases.
pub(super) const CASES_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Serialize)]
struct Tested {
    file: String,
    name: String,
    ok: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<String>,
}

/// Runs the cases of a plugin.
///
/// # Errors
/// When a file of cases is wrong, the plugin is refused, or a case fails.
pub fn run(args: &args::Test) -> Result<(), Stop> {
    let Some(file) = args.file.as_deref().filter(|_| !args.format) else {
        return print(format::HELP);
    };
    let sandbox = sandbox::open(None, 0)?;
    let mut tested = Vec::new();
    for cases_file in &args.cases {
        for case in read(cases_file)? {
            let wrong = |e| Stop::error(Exit::Usage, format!("the case `{}`: {e}", case.name));
            let grants = case.given.to(sandbox::grants(&case.grants)).map_err(wrong)?;
            let config = case.config.as_ref().map(sandbox::config).unwrap_or_default();
            let plugin = sandbox.load(file, &grants, config).map_err(|e| Stop::error(Exit::Plugin, e))?;
            let differences = judge::judge(&plugin, &case);
            let ok = differences.is_empty();
            tested.push(Tested { file: cases_file.display().to_string(), name: case.name, ok, differences });
        }
    }
    let failed = tested.iter().filter(|t| !t.ok).count();
    if args.json {
        print_json(&tested)?;
    } else {
        for t in &tested {
            print(&format!("{} {}\n", if t.ok { "ok    " } else { "FAILED" }, t.name))?;
            for difference in &t.differences {
                let indented: Vec<String> = difference.lines().map(|l| format!("    {l}")).collect();
                print(&format!("{}\n", indented.join("\n")))?;
            }
        }
        print(&format!("{} of {} cases passed\n", tested.len() - failed, tested.len()))?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Stop { exit: Exit::Tests, shown: String::new() }),
    }
}

/// Reads a file of cases.
pub(super) fn read(file: &Path) -> Result<Vec<Case>, Stop> {
    let text = read_text(file, "a file of cases")?;
    format::parse(file, &text).map_err(|p| Stop::problems(Exit::Usage, &p))
}

/// Reads a file up to the bound.
pub(super) fn read_text(file: &Path, what: &str) -> Result<String, Stop> {
    let shown = file.display();
    let size = std::fs::metadata(file)
        .map_err(|e| Stop::error(Exit::Usage, format!("can't read {shown}: {e}")))?
        .len();
    if size > CASES_BYTES_MAX {
        let text = format!("{shown} has {size} bytes; {what} has at most {CASES_BYTES_MAX}");
        return Err(Stop::error(Exit::Usage, text));
    }
    std::fs::read_to_string(file).map_err(|e| Stop::error(Exit::Usage, format!("can't read {shown}: {e}")))
}
