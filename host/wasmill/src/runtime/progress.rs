//! The progress line on a terminal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wasmill_connect::codec::rfc3339;

use super::observe::Observed;

const EVERY: Duration = Duration::from_millis(250);
/// How long a partition may be quiet before the line names it.
const QUIET: Duration = Duration::from_secs(2);

/// Draws the line until told to stop.
pub(super) async fn draw(
    pipeline: String,
    observed: Arc<Observed>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {msg}") {
        line.set_style(style);
    }
    line.set_prefix(pipeline);
    let mut last = (Instant::now(), 0u64);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = observed.snapshot();
        let seconds = last.0.elapsed().as_secs_f64().max(0.001);
        let rate = (now.read - last.1) as f64 / seconds;
        last = (Instant::now(), now.read);
        let mut text = format!("{} messages/s", grouped(rate as u64));
        let lag = now.read.saturating_sub(now.counts.read);
        text.push_str(&format!(" · {} read · {} not committed", grouped(now.read), grouped(lag)));
        if let Some(done) = now.done {
            text.push_str(&format!(" · {:.0} %", done * 100.0));
        }
        if let Some(time) = now.stream_time {
            text.push_str(&format!(" · stream time {}", rfc3339::format(time)));
        }
        if let Some((name, quiet)) = now.waiting_for.filter(|(_, quiet)| *quiet > QUIET) {
            text.push_str(&format!(" · {name} holds stream time, quiet for {} s", quiet.as_secs()));
        }
        if !now.breakers.is_empty() {
            text.push_str(&format!(" · breaker open: {}", now.breakers.join(", ")));
        }
        line.set_message(text);
        line.tick();
    }
    line.finish_and_clear();
}

/// A number with its thousands apart.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
