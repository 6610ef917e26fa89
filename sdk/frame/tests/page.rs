//! The example bytes on docs/frames.md are what this crate writes and reads.

use wasmill_frame::{
    Blobs, BlobsWriter, Edit, Edits, EditsWriter, Frame, FrameBuf, Groups, GroupsWriter, MetaKind,
    MetaWriter, Parts,
};

const PAGE: &str = include_str!("../../../docs/frames.md");

/// The bytes of the hexdump under a heading.
fn dump(heading: &str) -> Vec<u8> {
    let start = PAGE.find(&format!("### {heading}\n")).expect("the heading");
    let block = PAGE[start..].split("```").nth(1).expect("a block under the heading");
    let mut bytes = Vec::new();
    for line in block.lines().skip(1) {
        let (at, rest) = line.split_once("  ").expect("an offset and bytes");
        assert_eq!(usize::from_str_radix(at, 16), Ok(bytes.len()), "{line}");
        let hex = rest.split('|').next().unwrap_or_default();
        bytes.extend(hex.split_whitespace().map(|b| u8::from_str_radix(b, 16).expect("a byte")));
    }
    bytes
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = line.iter().map(|b| format!("{b:02x}")).collect();
        let ascii: String =
            line.iter().map(|b| if (32..127).contains(b) { char::from(*b) } else { '.' }).collect();
        text.push_str(&format!("{:04x}  {:<47}  |{ascii}|\n", 16 * i, hex.join(" ")));
    }
    text
}

fn check(heading: &str, written: &[u8]) {
    assert!(dump(heading) == written, "{heading} should be:\n{}", shown(written));
}

#[test]
fn the_frame_of_the_page() {
    let mut metadata = MetaWriter::new();
    metadata.push(MetaKind::Text, b"src", b"web");
    let mut frame = FrameBuf::with_capacity(2, 0);
    let common = Parts {
        id: "m1",
        kind: "click",
        key: Some(b"u7"),
        payload: br#"{"n":1}"#,
        timestamp: 1000,
        metadata: metadata.as_bytes(),
        payload_is_json: true,
    };
    frame.push(&common);
    frame.push(&Parts {
        id: "m2",
        kind: "ignore",
        key: None,
        payload: b"",
        timestamp: wasmill_frame::TIMESTAMP_NONE,
        metadata: b"",
        payload_is_json: false,
    });
    check("A frame of two messages", frame.as_bytes());
    let bytes = dump("A frame of two messages");
    assert_eq!(Frame::parse(&bytes).map(|f| f.get(0).parts()), Ok(common));
}

#[test]
fn the_edits_of_the_page() {
    let mut edits = EditsWriter::new(2);
    edits.push(0, Edit::SetMetadata { name: "processed", value: b"true", json: false });
    edits.push(1, Edit::Drop);
    let bytes = edits.finish();
    check("The answer to it: edits", &bytes);
    assert_eq!(Edits::parse(&bytes, 2).map(|e| e.len()), Ok(2));
}

#[test]
fn the_groups_and_blobs_of_the_page() {
    let mut groups = GroupsWriter::new();
    groups.push(b"A0", [0]);
    groups.push(b"B0", [0, 1]);
    let bytes = groups.finish();
    check("Groups over it", &bytes);
    assert_eq!(Groups::parse(&bytes, 2).map(|g| g.len()), Ok(2));

    let mut blobs = BlobsWriter::new();
    blobs.push(0, b"A1");
    blobs.push(0, b"B1");
    blobs.push(2, b"no carrier");
    let bytes = blobs.finish();
    check("The answer to them: blobs", &bytes);
    assert_eq!(Blobs::parse(&bytes).map(|b| b.len()), Ok(3));
}
