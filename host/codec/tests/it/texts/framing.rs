//! The same records, whatever the pieces in which a stream comes.

use proptest::prelude::*;
use serde_json::json;

use super::support::*;

/// Rows with quotes, newlines in them, marks, long ones and empty ones.
fn rows() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "a",
        ",",
        "\"",
        "\"\"",
        "\n",
        "\r\n",
        "\n\n",
        "b,c\n",
        "\"x\ny\"",
        "\"q\"\"z\",",
        "\u{feff}",
        "é",
        "\r",
        "long long long text",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

fn lengths() -> impl Strategy<Value = Vec<u8>> {
    let records = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12);
    (records, 0usize..12).prop_map(|(records, cut)| {
        let mut stream = join(&*writing(json!("raw")).framing, &records);
        stream.truncate(stream.len().saturating_sub(cut));
        stream
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (1usize..60, 1usize..30, 1usize..6, 1usize..60).prop_map(|(piece_bytes, max, messages_max, bytes_max)| {
        Limits { piece_bytes, max, messages_max, bytes_max }
    })
}

/// Pieces, limits and a resumption change nothing.
fn same_however_it_comes(
    settings: serde_json::Value,
    stream: &[u8],
    limits: Limits,
) -> Result<(), TestCaseError> {
    let framing = reading(settings).framing;
    let at_once =
        Limits { piece_bytes: stream.len().max(1), messages_max: 1 << 20, bytes_max: 1 << 20, ..limits };
    let all = cut(&*framing, stream, 0, at_once);
    prop_assert_eq!(&cut(&*framing, stream, 0, limits), &all);
    for (at, record) in all.iter().enumerate() {
        let rest = cut(&*framing, stream, record.2, limits);
        let lineless = |cuts: &[Cut]| {
            cuts.iter()
                .cloned()
                .map(|mut c| {
                    c.1 = None;
                    c
                })
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(lineless(&rest), lineless(&all[at + 1..]));
    }
    Ok(())
}

proptest! {
    #[test]
    fn rows_are_cut_the_same(stream in rows(), limits in limits(), header in any::<bool>()) {
        same_however_it_comes(json!({ "csv": { "columns": ["a"], "header": header } }), &stream, limits)?;
    }

    #[test]
    fn rows_are_cut_as_the_plainest_code_does(stream in rows()) {
        let framing = reading(json!({ "csv": { "columns": ["a"], "header": false } })).framing;
        let mut expected = Vec::new();
        let (mut row, mut quoted, mut field_start) = (Vec::new(), false, true);
        let body = stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&stream);
        let mut bytes = body.iter().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\n' if !quoted => {
                    expected.push(std::mem::take(&mut row));
                    field_start = true;
                    continue;
                }
                b'"' if quoted && bytes.peek() == Some(&&b'"') => {
                    row.push(*byte);
                    bytes.next();
                }
                b'"' if quoted => quoted = false,
                b'"' if field_start => quoted = true,
                _ => {}
            }
            row.push(*byte);
            field_start = *byte == b',' && !quoted;
        }
        expected.push(row);
        for row in &mut expected {
            if row.last() == Some(&b'\r') { row.pop(); }
        }
        expected.retain(|row| !row.is_empty());
        let found: Vec<_> = cut(&*framing, &stream, 0, PLAIN).into_iter().map(|c| c.3).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn lengths_are_cut_the_same(stream in lengths(), limits in limits()) {
        same_however_it_comes(json!("raw"), &stream, limits)?;
    }

    #[test]
    fn lines_of_text_are_cut_the_same(stream in rows(), limits in limits()) {
        same_however_it_comes(json!("text"), &stream, limits)?;
    }

    #[test]
    fn bytes_of_any_kind_come_back(records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..12)) {
        let stream = join(&*writing(json!("raw")).framing, &records);
        let back: Vec<_> = cut(&*reading(json!("raw")).framing, &stream, 0, PLAIN).into_iter().map(|c| (c.3, c.4)).collect();
        prop_assert_eq!(back, records.into_iter().map(|r| (r, None)).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_cut_off_or_too_long_is_told() {
    let limits = Limits { max: 5, ..PLAIN };
    let raw = reading(json!("raw")).framing;
    let stream = b"\0\0\0\x06sixbyt\0\0\0\x02ok\0\0\0\x09cut";
    let cuts = cut(&*raw, stream, 0, limits);
    let told: Vec<_> = cuts.iter().map(|c| (c.0, c.4.as_deref())).collect();
    assert_eq!(
        told,
        [
            (0, Some("a record of 6 bytes is above message_bytes_max of 5")),
            (10, None),
            (16, Some("a record is cut off: the stream ends after 7 of its 13 bytes")),
        ]
    );
    let cuts = cut(&*raw, b"\0\0", 0, limits);
    assert_eq!(cuts[0].4.as_deref(), Some("a record is cut off: the stream ends after 2 of its bytes"));

    let csv = reading(json!("csv")).framing;
    let cuts = cut(&*csv, b"a\n123456\n\"1\n2\"\nx", 0, limits);
    let told: Vec<_> = cuts.iter().map(|c| (c.1, c.3.as_slice(), c.4.as_deref())).collect();
    assert_eq!(
        told,
        [
            (Some(2), &b"123456"[..], Some("row of 6 bytes is above message_bytes_max of 5")),
            (Some(3), b"\"1\n2\"", None),
            (Some(5), b"x", None),
        ]
    );
    assert_eq!(cuts[0].5.as_deref(), Some(&b"a"[..]));
}

#[test]
fn what_is_far_above_the_limit_is_not_held() {
    for (settings, head) in [(json!("raw"), &[0xff, 0xff, 0xff, 0xff][..]), (json!("csv"), b"a\n\"")] {
        let framing = reading(settings).framing;
        let mut cutter = framing.cutter(wasmill_codec::framing::Place::START, 1000);
        let mut batch = batch(&[]);
        cutter.feed(head.to_vec());
        for _ in 0..1000 {
            cutter.take(&mut batch, 10, 1 << 20);
            cutter.feed(vec![b'x'; 10_000]);
        }
        cutter.take(&mut batch, 10, 1 << 20);
        assert!(batch.records.is_empty());
        cutter.end(&mut batch);
        assert!(batch.records[0].rejected.is_some());
        // The length stands before it.
        assert!(batch.records[0].value.len() <= 256 && batch.data.len() <= 256 + 4);
    }
}

#[test]
fn what_a_stream_can_not_hold_is_refused() {
    let text = writing(json!("text")).framing;
    for (value, reason) in [
        (&b""[..], "the message's text is empty"),
        (b"a\nb", "the message's text has a newline, at byte 1"),
        (b"a\r", "the message's text ends with a carriage return"),
    ] {
        let why = text.check(value).expect_err("refused");
        assert!(why.starts_with(reason), "{why}");
    }
}
