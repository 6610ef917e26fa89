//! Logs: to stderr, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Stop};

/// What is logged where nobody says. NATS's client tells each step of its own.
const DEFAULT: &str = "info,async_nats=warn";

/// Starts logging. `filter` is `--log`; without it RUST_LOG counts. `by_environment`: there is no pipeline
/// file.
///
/// # Errors
/// When the filter is none.
pub fn start(filter: Option<&str>, by_environment: bool) -> Result<(), Stop> {
    let variable = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty());
    let (text, from) = match (filter, &variable) {
        (Some(text), _) => (text, "--log"),
        (None, Some(text)) => (text.as_str(), "RUST_LOG"),
        (None, None) => (DEFAULT, "the default"),
    };
    let filter = EnvFilter::try_new(text).map_err(|e| {
        let expected = "expected a level such as `debug`, or `info,wasmill_engine=debug`";
        Stop::error(Exit::Usage, format!("{from}: `{text}` is no log filter ({e}); {expected}"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start, as in tests, keeps the first one's settings.
    let _ = if for_people(by_environment) {
        builder.with_target(false).with_ansi(crate::report::colours_on_stderr()).try_init()
    } else {
        builder.json().flatten_event(true).with_target(true).try_init()
    };
    Ok(())
}

/// ENVIRONMENT decides where it is set. Else a terminal is for people and anything else for machines; but
/// where the environment says all there is, it says `development` by being silent.
fn for_people(by_environment: bool) -> bool {
    match std::env::var("ENVIRONMENT") {
        Ok(environment) if !environment.is_empty() => environment == "development",
        _ => by_environment || std::io::stderr().is_terminal(),
    }
}
