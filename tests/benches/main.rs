//! Measures what the README promises of speed, and prints one Markdown table:
//! `cargo run --release -p wasmill-tests --bin bench`.
//!
//! Ratios compare two things in one process, run by turns, in CPU time of the thread; so they say the same
//! on a busy machine. Times are of this machine. A ratio or a start above its target ends with exit code 1;
//! a throughput below it is told, for it depends on the machine.

#[path = "../../host/connect/tests/support/broker.rs"]
mod broker;
mod calls;
mod clock;
mod copy;
mod kafka;
mod native;
mod report;
mod untimed;
mod whole;

use report::Report;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, address, input, output] = arguments.as_slice()
        && command == "copy"
    {
        copy::run(address, input, output);
    }
    let mut report = Report::default();
    // `bench kafka` measures that part alone.
    if arguments.first().is_none_or(|part| part != "kafka") {
        calls::measure(&mut report);
        whole::measure(&mut report);
    }
    kafka::measure(&mut report);
    print!("{}", report.markdown());
    report.exit_code()
}
