//! Measures what the README promises of speed, and prints one Markdown table:
//! `cargo run --release -p wasmill-tests --bin bench`.
//!
//! Ratios compare two things in one process, run by turns, in CPU time of the thread; so they say the same
//! on a busy machine. Times are of this machine. A ratio or a start above its target ends with exit code 1;
//! a throughput below it is told, for it depends on the machine.

mod calls;
mod clock;
mod native;
mod report;
mod untimed;
mod whole;

use report::Report;

fn main() -> std::process::ExitCode {
    let mut report = Report::default();
    calls::measure(&mut report);
    whole::measure(&mut report);
    print!("{}", report.markdown());
    report.exit_code()
}
