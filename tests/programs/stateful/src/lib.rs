//! Uses the state of a message's key in every way there is.
//!
//! In bulk, each message learns how many of its key came so far (`count`) and which message came last
//! in an earlier batch (`last_batch`, which depends on where batches are cut: a test's matter only).
//! By its type a message then acts on state alone: `set` (the payload under `value`), `set_for` (for
//! a second), `get`, `delete`, `bad` (adds to what is no number).

use std::time::Duration;

use wasmill_sdk::prelude::*;

fn process(batch: &mut Batch) -> Result<()> {
    let counts = batch.state_increment("count", 1)?;
    let before = batch.state_get("last_batch")?;
    let mut ids = Vec::with_capacity(batch.len());
    batch.each(counts.into_iter().zip(before), |message, (count, before)| {
        ids.push(Some(message.id().to_owned()));
        message.set_metadata("count", count);
        if let Some(before) = before {
            message.set_metadata("last_batch", String::from_utf8_lossy(&before));
        }
        act(message)
    })?;
    batch.state_change("last_batch", ids)
}
transform_batch!(process);

fn act(message: &mut Message) -> Result<Verdict> {
    let state = message.state();
    match message.kind() {
        "set" => state.set("value", message.payload())?,
        "set_for" => state.set_for("value", message.payload(), Duration::from_secs(1))?,
        "delete" => state.delete("value")?,
        "bad" => {
            state.set("word", "x")?;
            state.increment("word", 1)?;
        }
        _ => {}
    }
    if let Some(value) = state.get("value")? {
        message.set_metadata("value", String::from_utf8_lossy(&value));
    }
    Ok(Keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{Host, Outcome, message, transform_batch};

    fn texts<'a>(outcomes: &'a [Outcome], name: &str) -> Vec<Option<&'a str>> {
        outcomes.iter().map(|o| o.kept().text(name)).collect()
    }

    #[test]
    fn a_key_sees_its_own_state_alone() {
        let host = Host::new();
        let set = |key, id, value| message("set").key(key).id(id).payload(value);
        let get = |key, id| message("get").key(key).id(id);
        let batch = [set("a", "1", "x"), get("b", "2"), get("a", "3"), message("delete").key("a").id("4")];
        let first = transform_batch(process, &batch);
        assert_eq!(texts(&first, "count"), [Some("1"), Some("1"), Some("2"), Some("3")]);
        assert_eq!(texts(&first, "value"), [Some("x"), None, Some("x"), None]);
        assert_eq!(texts(&first, "last_batch"), [None; 4]);
        let second = transform_batch(process, &[get("a", "5"), get("b", "6"), get("c", "7")]);
        assert_eq!(texts(&second, "last_batch"), [Some("4"), Some("2"), None]);
        assert_eq!(texts(&second, "count"), [Some("4"), Some("2"), Some("1")]);
        assert_eq!(host.state(Some("c"), "count").as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn adding_to_a_word_fails_that_message_alone() {
        let _host = Host::new();
        let outcomes = transform_batch(process, &[message("bad"), message("get")]);
        assert_eq!(outcomes[0].failed(), r#"state "word": "x" is no number"#);
        assert_eq!(outcomes[1].kept().text("count"), Some("2"));
    }
}
