//! The benchmark's transform: drops type `ignore`, else adds one metadata entry.

use wasmill_sdk::prelude::*;

fn process(message: &mut Message) -> Result<Verdict> {
    if message.kind() == "ignore" {
        return Ok(Drop);
    }
    message.set_metadata("processed", "true");
    Ok(Keep)
}
transform!(process);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{message, transform};

    #[test]
    fn ignored_goes_and_others_are_marked() {
        assert!(transform(process, &message("ignore")).is_dropped());
        assert_eq!(transform(process, &message("click")).kept().text("processed"), Some("true"));
    }
}
