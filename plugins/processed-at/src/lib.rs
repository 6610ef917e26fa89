//! Writes when a message was processed, by the wall clock, into its metadata.
//!
//! It needs the grant `wall-clock`; what it writes is no part of a replay.

use wasmill_sdk::prelude::*;

fn processed_at(message: &mut Message) -> Result<Verdict> {
    message.set_metadata("processed_at", rfc3339(host::wall_clock()));
    Ok(Keep)
}
transform!(processed_at);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{Host, message, transform};

    #[test]
    fn the_time_is_rfc_3339() {
        let _host = Host::new().wall_clock(1_357_035_420_007);
        let kept = transform(processed_at, &message("any").metadata("other", "stays"));
        assert_eq!(kept.kept().text("processed_at"), Some("2013-01-01T10:17:00.007Z"));
        assert_eq!(kept.kept().text("other"), Some("stays"));
    }
}
