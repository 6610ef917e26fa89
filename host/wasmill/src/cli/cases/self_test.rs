//! The cases that a plugin carries, run before it is taken in.

use wasmill_engine::guest::PluginRef;
use wasmill_plugin::{Grants, Limits, Sandbox, StageConfig};

use super::format::{Case, parse_embedded};
use super::judge;
use crate::cli::sandbox;

/// The most cases that a plugin may carry, and messages in all of them: they are run before a pipeline starts.
const CASES_MAX: usize = 256;
const MESSAGES_MAX: usize = 4_096;

/// What is wrong with a plugin's own cases.
#[derive(Debug, PartialEq, Eq)]
pub struct SelfTestFailure {
    /// Which case, in one line.
    pub title: String,
    /// What is wrong: the difference between what was expected and what came.
    pub difference: String,
}

/// Runs the cases that a plugin carries, with the grants of its stage, and the stage's config where a case has
/// none of its own. What passed once, with the same grants, config and limits, is not run again while the compile
/// cache remembers it.
///
/// # Errors
/// The first case that fails, or why they can't be run.
pub fn self_test(
    sandbox: &Sandbox,
    plugin: &PluginRef,
    grants: &Grants,
    config: &StageConfig,
) -> Result<(), SelfTestFailure> {
    let info = plugin.info();
    let texts = sandbox.cases(info);
    if texts.is_empty() {
        return Ok(());
    }
    let version = env!("CARGO_PKG_VERSION");
    // How many instances there may be changes no answer; the other limits may.
    let limits = Limits { instances_max: 0, ..sandbox.limits().clone() };
    let note =
        format!("cases passed: {version} {} {} {grants:?} {config:?} {limits:?}", info.digest, info.name);
    if sandbox.has_note(&note) {
        return Ok(());
    }
    for case in read(&info.name, &texts)? {
        let failed = |difference: String| {
            let title = format!("the plugin `{}` fails its own test case `{}`", info.name, case.name);
            SelfTestFailure { title, difference }
        };
        let plugin = match &case.config {
            None => plugin.clone(),
            Some(own) => {
                sandbox.load_again(info, grants, sandbox::config(own)).map_err(|e| failed(e.to_string()))?
            }
        };
        let differences = judge::judge(&plugin, &case);
        if !differences.is_empty() {
            return Err(failed(differences.join("\n")));
        }
    }
    sandbox.note(&note);
    Ok(())
}

fn read(plugin: &str, texts: &[Vec<u8>]) -> Result<Vec<Case>, SelfTestFailure> {
    let wrong = |difference: String| {
        let title = format!("the plugin `{plugin}` carries test cases that can't be read");
        SelfTestFailure { title, difference }
    };
    let mut cases = Vec::new();
    for text in texts {
        let text = std::str::from_utf8(text).map_err(|e| wrong(format!("they are no UTF-8: {e}")))?;
        let name = format!("{plugin}: the section {}", wasmill_plugin::CASES_SECTION);
        cases.extend(parse_embedded(&name, text).map_err(|p| wrong(p.render(false)))?);
    }
    bounded(&cases).map_err(wrong)?;
    Ok(cases)
}

/// Whether a plugin may carry so many.
///
/// # Errors
/// How many there are, and may be.
pub fn bounded(cases: &[Case]) -> Result<(), String> {
    let (count, messages) = (cases.len(), cases.iter().map(|c| c.input.len()).sum::<usize>());
    if count > CASES_MAX || messages > MESSAGES_MAX {
        return Err(format!(
            "there are {count} with {messages} messages; a plugin may carry {CASES_MAX} with {MESSAGES_MAX}"
        ));
    }
    Ok(())
}
