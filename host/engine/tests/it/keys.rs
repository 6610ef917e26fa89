//! Where keys come from, and who owns them.
#![allow(clippy::unwrap_used)]

use wasmill_engine::key::{Found, KeySpec, OnNull, Path, groups_of, key_group, lane_of};
use wasmill_frame::{FrameBuf, MetaKind, MetaWriter, Parts};

fn message(payload: &str) -> FrameBuf {
    let mut metadata = MetaWriter::new();
    metadata.push(MetaKind::Text, b"region", b"EU");
    metadata.push(MetaKind::Json, b"shard", b"7");
    let mut frame = FrameBuf::default();
    frame.push(&Parts {
        id: "m1",
        kind: "order",
        key: Some(b"broker key"),
        payload: payload.as_bytes(),
        timestamp: 5,
        metadata: metadata.as_bytes(),
        payload_is_json: true,
    });
    frame
}

#[test]
fn a_key_is_what_stands_at_its_path() {
    let payload = r#"{"a":{"b":["x",{"c":"d\u00e9j\u00e0"}]},"n":1.50,"t":true,"z":null,"o":{},"q":"\"quoted\"","a.b":1}"#;
    type Case = (&'static [&'static str], Result<Option<&'static str>, &'static str>);
    let cases: &[Case] = &[
        (&["id"], Ok(Some("m1"))),
        (&["type"], Ok(Some("order"))),
        (&["key"], Ok(Some("broker key"))),
        (&["metadata.region"], Ok(Some("EU"))),
        (&["metadata.shard"], Ok(Some("7"))),
        (&["metadata.none"], Ok(None)),
        (&["payload.a.b.0"], Ok(Some("x"))),
        (&["payload.a.b.1.c"], Ok(Some("déjà"))),
        (&["payload.a.b.7"], Ok(None)),
        (&["payload.n"], Ok(Some("1.50"))),
        (&["payload.t"], Ok(Some("true"))),
        (&["payload.z"], Ok(None)),
        (&["payload.n.deeper"], Ok(None)),
        (&["payload.missing"], Ok(None)),
        (&["payload.q"], Ok(Some("\"quoted\""))),
        (&["payload.o"], Err("the key at `payload.o` is an object or an array, not a text or a number")),
        (&["type", "payload.n"], Ok(Some(r#"["order",1.50]"#))),
        (&["payload.q", "id"], Ok(Some(r#"["\"quoted\"","m1"]"#))),
        (&["type", "payload.z"], Ok(None)),
    ];
    let frame = message(payload);
    for (paths, expected) in cases {
        let spec = KeySpec {
            paths: paths.iter().map(|p| p.parse().unwrap()).collect(),
            on_null: OnNull::DeadLetter,
        };
        let mut key = b"left over".to_vec();
        let found =
            spec.extract(frame.get(0), &mut key).map(|has| has.then(|| String::from_utf8(key).unwrap()));
        let expected = expected.map(|e| e.map(str::to_owned)).map_err(str::to_owned);
        assert_eq!(found, expected, "{paths:?}");
    }
}

#[test]
fn a_payload_that_is_not_json_has_no_fields() {
    let frame = message("{\"a\":");
    let path: Path = "payload.a".parse().unwrap();
    assert!(path.find(frame.get(0)).unwrap_err().starts_with("the payload is not JSON"));
    assert_eq!(
        "type".parse::<Path>().unwrap().find(frame.get(0)),
        Ok(Found::Text(b"order".as_slice().into()))
    );
}

#[test]
fn a_path_that_is_no_place_is_refused() {
    for text in ["", "carrier", "payload.", "payload..a", "metadata", "metadata.", "id.x"] {
        let error = text.parse::<Path>().unwrap_err();
        assert!(error.contains("no place in a message"), "{text}: {error}");
    }
}

#[test]
fn key_groups_are_part_of_the_stored_format() {
    // By another implementation of XXH3. Changing one of these numbers loses every stored state: they may never change.
    for (key, group) in [("", 66), ("AA", 44), ("k1", 69), ("déjà", 53)] {
        assert_eq!(key_group(key.as_bytes(), 128), group, "{key:?}");
    }
}

#[test]
fn lanes_own_all_groups_in_ranges_of_equal_size() {
    for lanes in 1..=128usize {
        let owners: Vec<usize> = (0..128).map(|g| lane_of(g, 128, lanes)).collect();
        assert!(owners.is_sorted() && owners[0] == 0 && owners[127] == lanes - 1, "{lanes}");
        for lane in 0..lanes {
            let owned: Vec<u16> = (0..128).filter(|g| lane_of(*g, 128, lanes) == lane).collect();
            assert_eq!(groups_of(lane, 128, lanes).collect::<Vec<_>>(), owned, "lane {lane} of {lanes}");
        }
        let sizes: Vec<usize> = (0..lanes).map(|l| owners.iter().filter(|o| **o == l).count()).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(most - least <= 1, "{lanes}: {sizes:?}");
    }
}
