//! Allocates without bound at a payload with `"boom": true`; marks the others.

use wasmill_sdk::prelude::*;

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    boom: bool,
}

fn process(message: &mut Message) -> Result<Verdict> {
    let payload: Payload = message.json()?;
    let mut hoard = Vec::new();
    while std::hint::black_box(payload.boom) {
        hoard.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
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
