//! Drops messages of type `ignore`.

use wasmill_sdk::prelude::*;

fn keep(message: &Message) -> Result<bool> {
    Ok(message.kind() != "ignore")
}
filter!(keep);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{filter, message};

    #[test]
    fn only_the_type_ignore_goes() {
        for (kind, passes) in [("ignore", false), ("Ignore", true), ("ignored", true), ("", true)] {
            assert_eq!(filter(keep, &message(kind)), Ok(passes), "{kind:?}");
        }
    }
}
