//! Makes much of little, and little of much: of a payload `{"to": n}` a text of n bytes, of one that is larger than it
//! asks for its length; of `{"to": n, "of": k}` k messages that are `{"to": n}`.

use wasmill_sdk::prelude::*;

/// A payload that is larger asks for nothing.
const ASKS_BYTES_MAX: usize = 100;

#[derive(Deserialize)]
struct Payload {
    to: usize,
    #[serde(default)]
    of: usize,
}

fn swell(message: &mut Message) -> Result<Verdict> {
    if message.payload().len() > ASKS_BYTES_MAX {
        message.set_json(&json!(message.payload().len()))?;
        return Ok(Keep);
    }
    match message.json()? {
        Payload { to, of: 0 } => {
            let mut text = vec![b'x'; to];
            if let [first, .., last] = text.as_mut_slice() {
                (*first, *last) = (b'"', b'"');
            }
            message.set_payload(text);
        }
        Payload { to, of } => {
            message.set_json(&json!({ "to": to }))?;
            for _ in 1..of {
                message.emit().set_json(&json!({ "to": to }))?;
            }
        }
    }
    Ok(Keep)
}
transform!(swell);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{message, transform};

    #[test]
    fn it_swells_and_shrinks() {
        let much = transform(swell, &message("any").payload(r#"{"to":200}"#));
        assert_eq!(much.kept().payload.len(), 200);
        assert_eq!(transform(swell, much.kept()).kept(), &message("any").payload("200"));
        let several = transform(swell, &message("any").payload(r#"{"to":200,"of":3}"#));
        assert_eq!((several.emitted.len(), several.kept()), (2, &message("any").payload(r#"{"to":200}"#)));
    }
}
