//! Places at which a test may have the process die: `TEST_FAILPOINT=NAME` or `NAME:NTH`, the NTH time that
//! it comes there; several with commas between. Nothing else reads the variable, and nobody sets it in
//! production.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable.
const VARIABLE: &str = "TEST_FAILPOINT";
/// As the variable: transactions go on with a producer that is in doubt.
pub(super) const UNGUARDED: &str = "unguarded";

/// What a test asked for.
struct Asked {
    name: String,
    nth: u64,
    come: AtomicU64,
}

fn asked(name: &str) -> Option<&'static Asked> {
    static ASKED: OnceLock<Vec<Asked>> = OnceLock::new();
    let all = ASKED.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let one = |text: &str| {
            let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
            Asked { name: name.to_owned(), nth: nth.parse().unwrap_or(1), come: AtomicU64::new(0) }
        };
        text.split(',').filter(|text| !text.is_empty()).map(one).collect()
    });
    all.iter().find(|asked| asked.name == name)
}

/// Whether a test asked for this.
pub(super) fn is_asked(name: &str) -> bool {
    asked(name).is_some()
}

/// Dies here, as by `kill -9`, if a test asked for it.
pub(crate) fn reached(name: &str) {
    let Some(asked) = asked(name) else { return };
    if asked.come.fetch_add(1, Ordering::SeqCst) + 1 == asked.nth {
        eprintln!("failpoint {name}: the process ends here");
        // No destructor runs, and nothing is flushed.
        std::process::abort();
    }
}
