//! Loops for ever at a payload with `"boom": true`; marks the others.

use wasmill_sdk::prelude::*;

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    boom: bool,
}

fn process(message: &mut Message) -> Result<Verdict> {
    let payload: Payload = message.json()?;
    // Behind a black box, or the compiler might reason a loop without effect away.
    while std::hint::black_box(payload.boom) {}
    message.set_metadata("survived", true);
    Ok(Keep)
}
transform!(process);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{message, transform};

    #[test]
    fn the_others_survive() {
        assert_eq!(transform(process, &message("any")).kept().text("survived"), Some("true"));
    }
}
