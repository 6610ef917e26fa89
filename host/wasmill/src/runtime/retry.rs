//! Asking again for as long as the other end is away, with what shows that it is.

use std::sync::Arc;
use std::time::Duration;

use wasmill_connect::ConnectorError;
use wasmill_engine::state::StoreError;

use super::coordinate::Halt;
use super::health::Health;
use super::observe::Observed;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubling waits with jitter, so that many clients of one server don't come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait now.
    pub fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries += 1;
        // Any cheap spread will do: no result depends on it.
        let spread =
            u64::from(std::process::id()).wrapping_mul(u64::from(self.tries).wrapping_mul(0x9E37_79B9));
        full.mul_f64(0.5 + (spread % 1_000) as f64 / 2_000.0)
    }

    /// Whether it has failed since it last went well.
    pub fn is_waiting(&self) -> bool {
        self.tries > 0
    }

    /// It went well again; says whether it had failed before.
    pub fn end(&mut self) -> bool {
        std::mem::take(&mut self.tries) > 0
    }
}

/// Where it shows that an end of a pipeline is away.
#[derive(Clone)]
pub(super) struct Ends {
    pub health: Arc<Health>,
    pub observed: Arc<Observed>,
}

impl Ends {
    /// Something failed at an end: what stops the run if it can't be waited for, else nothing, once it is
    /// told and waited for.
    pub async fn wait(&self, end: &str, backoff: &mut Backoff, error: ConnectorError) -> Result<(), Halt> {
        self.wait_if_away(end, backoff, error).await.map_err(Halt::from)
    }

    /// Waits for an end that is away; answers any other error.
    pub async fn wait_if_away(
        &self,
        end: &str,
        backoff: &mut Backoff,
        error: ConnectorError,
    ) -> Result<(), ConnectorError> {
        let ConnectorError::Disconnected { what, cause } = error else { return Err(error) };
        tokio::time::sleep(self.away(end, backoff, &what, &cause)).await;
        Ok(())
    }

    /// An end is away: tells it; answers when to ask again.
    pub fn away(&self, end: &str, backoff: &mut Backoff, what: &str, cause: &str) -> Duration {
        self.health.ill(end, &format!("{what}: {cause}"));
        self.observed.away();
        let wait = backoff.next();
        tracing::warn!(%end, %what, %cause, again_in_ms = wait.as_millis() as u64, "it is away: nothing is lost, and it is asked again");
        wait
    }

    /// An end is there.
    pub fn well(&self, end: &str, backoff: &mut Backoff) {
        if backoff.end() {
            tracing::info!(%end, "it is back");
        }
        self.health.well(end);
    }
}

impl From<ConnectorError> for Halt {
    fn from(error: ConnectorError) -> Self {
        match error {
            // Where nobody does the transaction again: from what is committed.
            ConnectorError::Outdated(text) | ConnectorError::Aborted(text) => Self::Fenced(text),
            ConnectorError::Fenced(text) => Self::Replaced(text),
            ConnectorError::Fatal(text) => Self::Failed(text),
            away @ ConnectorError::Disconnected { .. } => Self::Failed(away.to_string()),
        }
    }
}

/// Asks an end until it answers, or fails otherwise than by being away: `answered!(ends, "its name", a future)`,
/// which is made anew for each try. A macro, for the compiler can't show that the future of an async closure
/// may change its thread.
macro_rules! answered {
    ($ends:expr, $end:expr, $ask:expr) => {{
        let mut backoff = $crate::runtime::retry::Backoff::new();
        loop {
            // What asking held, as a lock, is let go of before anything is waited for.
            let answered = $ask.await;
            match answered {
                Ok(answer) => {
                    $ends.well($end, &mut backoff);
                    break Ok(answer);
                }
                Err(error) => {
                    if let Err(error) = $ends.wait_if_away($end, &mut backoff, error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
pub(super) use answered;

/// As `answered!`, where an error stops the run.
macro_rules! insist {
    ($ends:expr, $end:expr, $ask:expr) => {
        $crate::runtime::retry::answered!($ends, $end, $ask).map_err($crate::runtime::coordinate::Halt::from)
    };
}
pub(super) use insist;

/// A call of a store, off the threads that wait for the network.
pub(super) async fn off_the_network<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ConnectorError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(StoreError::Away { what, cause })) => Err(ConnectorError::Disconnected { what, cause }),
        // Another process has what this one would have changed.
        Ok(Err(e @ StoreError::Fenced { .. })) => Err(ConnectorError::Outdated(e.to_string())),
        Ok(Err(e)) => Err(ConnectorError::Fatal(e.to_string())),
        Err(e) => Err(ConnectorError::Fatal(format!("the store's thread panicked: {e}"))),
    }
}
