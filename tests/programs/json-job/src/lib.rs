//! The benchmark's transform with work in it: parses the payload as JSON and writes it again.

use wasmill_sdk::prelude::*;

fn process(message: &mut Message) -> Result<Verdict> {
    let value: serde_json::Value = message.json()?;
    message.set_json(&value)?;
    Ok(Keep)
}
transform!(process);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{message, transform};

    #[test]
    fn the_payload_comes_back_without_spaces() {
        let spaced = message("any").payload(r#"{ "b": [1, 2.50], "a": null }"#);
        assert_eq!(transform(process, &spaced).kept().payload, br#"{"b":[1,2.5],"a":null}"#);
        let broken = transform(process, &message("any").payload("{"));
        assert_eq!(broken.failed(), "payload: EOF while parsing an object at line 1 column 1");
    }
}
