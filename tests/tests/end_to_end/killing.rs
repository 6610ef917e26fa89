//! kill -9 at random moments, then on to the end.

use wasmill_tests::process::{Ended, Wasmill};
use wasmill_tests::random::Random;

/// How a pipeline is killed and resumed.
pub struct Killing<'a> {
    /// How often.
    pub kills: usize,
    /// How old a run gets before it is killed, in milliseconds.
    pub age_ms: (u64, u64),
    /// How many messages a second the file source gives until the last run.
    pub rate: u64,
    /// The worker counts of the runs.
    pub workers: &'a [u32],
    /// The batch sizes of the runs.
    pub batch_sizes: &'a [u32],
}

/// Starts the pipeline again and again and kills it; the last run goes to its end. Answers how many
/// runs were killed before they had ended, and the last one.
pub fn kill_and_resume(
    killing: &Killing<'_>,
    random: &mut Random,
    pipeline: impl Fn() -> Wasmill,
) -> (usize, Ended) {
    let mut killed = 0;
    let varied = |random: &mut Random| {
        pipeline()
            .env("WORKER_COUNT", random.one_of(killing.workers))
            .env("BATCH_SIZE", random.one_of(killing.batch_sizes))
            .env("WASMILL_EPOCH__INTERVAL", "10ms")
    };
    for _ in 0..killing.kills {
        let running = varied(random).env("WASMILL_SOURCE__FILE__RATE", killing.rate).start();
        std::thread::sleep(random.millis(killing.age_ms.0, killing.age_ms.1));
        let (was_killed, ended) = running.kill();
        killed += usize::from(was_killed);
        if !was_killed {
            ended.exits(0);
        }
    }
    (killed, varied(random).run())
}
