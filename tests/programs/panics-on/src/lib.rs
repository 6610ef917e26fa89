//! Panics at a payload with `"boom": true`; marks the others.

use wasmill_sdk::prelude::*;

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    boom: bool,
}

fn process(message: &mut Message) -> Result<Verdict> {
    let payload: Payload = message.json()?;
    assert!(!payload.boom, "boom in message {}", message.id());
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

    #[test]
    #[should_panic(expected = "boom in message m1")]
    fn boom_panics() {
        let _ = transform(process, &message("any").id("m1").json(json!({ "boom": true })));
    }
}
