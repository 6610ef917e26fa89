//! Stamps each message with its version, and sends a copy of what it stamped to an output of its own. Tests make
//! versions of it by writing another number over the one here.

use wasmill_sdk::prelude::*;

/// The digits are written over in the built component.
static VERSION: &str = "version-000000";

fn process(message: &mut Message) -> Result<Verdict> {
    message.set_metadata("by", VERSION);
    message.emit().set_metadata("by", VERSION).route("stamped");
    Ok(Keep)
}
transform!(process);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{message, transform};

    #[test]
    fn a_message_says_by_which_version_it_was_done() {
        assert_eq!(transform(process, &message("any")).kept().text("by"), Some(VERSION));
    }
}
