//! Measures what the README promises of speed, and prints one Markdown table:
//! `cargo run --release -p wasmill-tests --bin bench`.
//!
//! Ratios compare two things in one process, run by turns, in CPU time of the thread; so they say the same
//! on a busy machine. Times are of this machine. A ratio or a start above its target ends with exit code 1;
//! a throughput below it is told, for it depends on the machine.

#[path = "../../host/connect/tests/support/broker.rs"]
mod broker;
mod built_ins;
mod calls;
mod clock;
mod codecs;
mod contender;
mod copy;
mod ends;
mod hostile;
mod kafka;
mod keys;
mod merge;
mod native;
#[path = "../../host/connect/tests/support/nats.rs"]
mod nats;
mod paced;
#[path = "../../host/plugin/tests/common/pieces.rs"]
mod pieces;
#[path = "../../host/connect/tests/support/postgres.rs"]
mod postgres;
#[path = "../../host/plugin/tests/hostile/program.rs"]
mod program;
mod report;
mod sandbox;
#[path = "../../host/connect/tests/servers/mod.rs"]
mod servers;
mod stream;
mod swaps;
mod untimed;
mod whole;
mod windows;

use report::Report;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, address, input, output] = arguments.as_slice()
        && command == "copy"
    {
        copy::run(address, input, output);
    }
    let mut report = Report::default();
    // `bench kafka` and the like measure that part alone.
    let asked = |part: &str| arguments.first().is_none_or(|only| only == part);
    if asked("plugins") {
        calls::measure(&mut report);
    }
    if asked("sandbox") {
        sandbox::measure(&mut report);
    }
    if asked("codecs") {
        codecs::measure(&mut report);
    }
    if asked("built-ins") {
        built_ins::measure(&mut report);
    }
    if asked("windows") {
        windows::measure(&mut report);
    }
    if asked("merge") {
        merge::measure(&mut report);
    }
    if asked("keys") {
        keys::measure(&mut report);
    }
    if asked("pipeline") {
        whole::measure(&mut report);
    }
    if asked("kafka") {
        kafka::measure(&mut report);
    }
    if asked("ends") {
        ends::measure(&mut report);
    }
    if asked("hostile") {
        hostile::measure(&mut report);
    }
    if asked("swaps") {
        swaps::measure(&mut report);
    }
    if asked("exchange") {
        kafka::exchange(&mut report);
    }
    if asked("restart") {
        kafka::restart(&mut report);
    }
    print!("{}", report.markdown());
    report.exit_code()
}
