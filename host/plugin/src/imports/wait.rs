//! What the host takes of the clock while a guest waits for it.

use std::time::{Duration, Instant};

use super::Cx;
use crate::context::Ctx;
use crate::engines::TICK_MS;

/// Makes a call of the host's that may take long. That time is not the guest's: where it was long, the guest
/// has as much of its deadline as it had before. How long it waits in all has a bound of its own.
pub(super) fn outside<T>(cx: &mut Cx<'_>, call: impl FnOnce(&mut Ctx) -> T) -> wasmtime::Result<T> {
    let since = Instant::now();
    let answer = call(cx.data_mut());
    let took = since.elapsed();
    cx.data_mut().charge_wait(took)?;
    if took >= Duration::from_millis(TICK_MS) {
        let data = cx.data_mut();
        data.waited = data.waited.saturating_add(took);
        let own = data.began.elapsed().saturating_sub(data.waited);
        let left = ticks_left(data.deadline_ticks, own);
        cx.set_epoch_deadline(left);
    }
    Ok(answer)
}

/// What a guest has left that took this long itself; none stops it where it goes on.
fn ticks_left(deadline_ticks: u64, own: Duration) -> u64 {
    let own_ticks = u64::try_from(own.as_millis()).unwrap_or(u64::MAX) / TICK_MS;
    deadline_ticks.saturating_sub(own_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_left_what_it_did_not_use_itself() {
        for (own_ms, left) in [(0, 101), (9, 101), (10, 100), (999, 2), (1_000, 1), (1_010, 0), (5_000, 0)] {
            assert_eq!(ticks_left(101, Duration::from_millis(own_ms)), left, "{own_ms}");
        }
    }
}
