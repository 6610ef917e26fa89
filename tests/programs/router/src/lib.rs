//! Makes every kind of edit, by the message's type.

use wasmill_sdk::prelude::*;

fn route(message: &mut Message) -> Result<Verdict> {
    match message.kind() {
        "keep" => {}
        "drop" => return Ok(Drop),
        "fail" => {
            // What was changed and emitted before a failure leaves no trace.
            message.set_payload("never seen");
            message.emit().set_id("never seen");
            fail!("asked to: {}", String::from_utf8_lossy(message.payload()));
        }
        "alert" => message.route("alerts"),
        "payload" => message.set_payload(message.payload().to_ascii_uppercase()),
        "json" => message.set_json(&json!({ "was": message.json::<serde_json::Value>()? }))?,
        "key" => message.set_key(message.id()),
        "no_key" => message.remove_key(),
        "timestamp" => {
            let Some(time) = message.timestamp() else { fail!("no timestamp to move") };
            message.set_timestamp(time + message.json::<i64>()?)?;
        }
        "type" => message.set_kind(&format!("was {}", message.kind())),
        "id" => message.set_id(&format!("{}-again", message.id())),
        "metadata" => {
            message.set_metadata("text", "new");
            message.set_metadata("number", 7);
            message.set_metadata_json("list", &[1, 2])?;
            message.remove_metadata("old");
        }
        "copy" => {
            message.emit().set_id("copy").set_metadata("copied", true);
            message.set_metadata("original", true);
        }
        "split" => {
            let id = message.id();
            for (i, part) in message.json::<Vec<serde_json::Value>>()?.iter().enumerate() {
                message.emit_empty().set_id(&format!("{id}-{i}")).set_json(part)?;
            }
            return Ok(Drop);
        }
        "tee" => {
            message.emit().set_kind("teed").set_key("k").route("copies");
            message
                .emit_empty()
                .remove_key()
                .set_timestamp(5)?
                .set_payload("[]")
                .set_metadata_json("n", &1)?;
        }
        other => fail!("no rule for type {other:?}"),
    }
    Ok(Keep)
}
transform!(route);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{TestMessage, message, transform, transform_all};

    fn came(kind: &str) -> TestMessage {
        message(kind).id("m").key("a").timestamp(1000).payload("[1,\"b\"]").metadata("old", "o")
    }

    #[test]
    fn one_change_changes_one_field() {
        type Change = fn(TestMessage) -> TestMessage;
        let fields: [(&str, Change); 7] = [
            ("keep", |m| m),
            ("payload", |m| m.payload("[1,\"B\"]")),
            ("json", |m| m.payload("{\"was\":[1,\"b\"]}")),
            ("key", |m| m.key("m")),
            ("no_key", |m| TestMessage { key: None, ..m }),
            ("id", |m| m.id("m-again")),
            ("alert", |m| TestMessage { output: Some("alerts".to_owned()), ..m }),
        ];
        for (kind, change) in fields {
            assert_eq!(transform(route, &came(kind)).kept(), &change(came(kind)), "{kind}");
        }
        assert_eq!(transform(route, &came("type")).kept().kind, "was type");
        assert_eq!(transform(route, &came("timestamp").payload("-1000")).kept().timestamp, Some(0));
    }

    #[test]
    fn metadata_is_text_or_json() {
        let kept = transform(route, &came("metadata"));
        let expected =
            came("metadata").metadata("text", "new").metadata("number", "7").metadata("list", vec![1, 2]);
        assert_eq!(kept.kept().metadata, expected.metadata[1..]);
    }

    #[test]
    fn what_fails_leaves_nothing_but_its_reason() {
        let failed = transform(route, &came("fail"));
        assert_eq!(failed.failed(), "asked to: [1,\"b\"]");
        assert_eq!((failed.message, failed.emitted.len()), (None, 0));
        assert_eq!(transform(route, &came("?")).failed(), "no rule for type \"?\"");
        let early = transform(route, &came("timestamp").payload("-1001"));
        assert_eq!(early.failed(), "timestamp -1 ms lies outside 1970 to the year 9999");
    }

    #[test]
    fn emitted_messages_start_from_the_message_as_it_came() {
        let outcomes = transform_all(route, &["copy", "split", "tee", "keep"].map(came));
        let [copy, split, tee, keep] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        assert_eq!(copy.kept().text("original"), Some("true"));
        assert_eq!(copy.emitted, [came("copy").id("copy").metadata("copied", "true")]);
        assert!(split.is_dropped());
        let part = |id, payload| TestMessage { metadata: vec![], ..came("split") }.id(id).payload(payload);
        assert_eq!(split.emitted, [part("m-0", "1"), part("m-1", "\"b\"")]);
        assert_eq!(tee.kept(), &came("tee"));
        assert_eq!(tee.emitted[0].output.as_deref(), Some("copies"));
        assert_eq!(
            tee.emitted[1],
            TestMessage { key: None, metadata: vec![], ..came("tee") }
                .timestamp(5)
                .payload("[]")
                .metadata("n", 1)
        );
        assert_eq!((keep.kept(), keep.emitted.len()), (&came("keep"), 0));
    }
}
