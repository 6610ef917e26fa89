//! Bytes from a stranger: they can neither panic a reader, nor make it allocate beyond what they are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use proptest::prelude::*;
use wasmill_frame::{
    Blobs, BlobsWriter, Edit, Edits, EditsWriter, Frame, FrameBuf, Groups, GroupsWriter, Meta, MetaKind,
    MetaWriter, Parts,
};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

// Only a global allocator sees every allocation.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED_BYTES.try_with(|n| n.set(n.get() + layout.size()));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads bytes as each layout, all of every view; gives which of them took the bytes.
fn read_all(bytes: &[u8], messages: usize) -> [bool; 5] {
    let before = ALLOCATED_BYTES.get();
    let mut seen = 0usize;
    let frame = Frame::parse(bytes);
    for m in frame.iter().flat_map(|f| f.iter()) {
        let parts = m.parts();
        seen += parts.id.len() + parts.kind.len() + parts.payload.len();
        seen += parts.key.map_or(0, <[u8]>::len) + m.kind_bytes().len() + usize::from(m.payload_is_json());
        seen += m.metadata().entries().map(|e| e.name.len() + e.value.len()).sum::<usize>();
        seen += m.metadata().get("a").map_or(0, |e| e.value.len());
    }
    let edits = Edits::parse(bytes, messages);
    for (index, edit) in edits.iter().flat_map(|e| e.iter()) {
        assert!(index < messages, "an edit about message {index} of {messages}");
        if let Edit::Payload(v) = edit {
            seen += v.len();
        }
    }
    let groups = Groups::parse(bytes, messages);
    for group in groups.iter().flat_map(|g| g.iter()) {
        seen += group.accumulator.len();
        assert!(group.indices().all(|i| i < messages));
    }
    let blobs = Blobs::parse(bytes);
    let meant = blobs.iter().flat_map(|b| b.iter()).map(|(_, blob)| blob.len()).sum::<usize>();
    assert!(meant <= bytes.len(), "blobs that mean {meant} bytes in {}", bytes.len());
    seen += meant;
    let meta = Meta::parse(bytes);
    for entry in meta.iter().flat_map(|m| m.entries()) {
        seen += entry.name.len() + entry.value.len();
    }
    std::hint::black_box(seen);
    let allocated = ALLOCATED_BYTES.get() - before;
    assert!(allocated <= bytes.len(), "{allocated} bytes allocated to read {}", bytes.len());
    [frame.is_ok(), edits.is_ok(), groups.is_ok(), blobs.is_ok(), meta.is_ok()]
}

const MESSAGES: usize = 3;

/// One of each layout, with something of everything in it.
fn samples() -> Vec<(&'static str, usize, Vec<u8>)> {
    let mut metadata = MetaWriter::new();
    metadata.push(MetaKind::Text, b"a", "ä".as_bytes());
    metadata.push(MetaKind::Json, b"n", b"7");
    metadata.push(MetaKind::Timestamp, b"", b"2013-01-01T10:17:00Z");
    let mut frame = FrameBuf::with_capacity(1, 0);
    for (i, key) in [None, Some(&b"k"[..]), Some(b"")].into_iter().enumerate() {
        frame.push(&Parts {
            id: "id",
            kind: "type",
            key,
            payload: b"{}",
            timestamp: i as i64,
            metadata: metadata.as_bytes(),
            payload_is_json: i == 0,
        });
    }
    let mut edits = EditsWriter::new(MESSAGES);
    for (index, edit) in every_edit() {
        edits.push(index, edit);
    }
    let mut groups = GroupsWriter::new();
    groups.push(b"first", [0, 2]);
    groups.push(b"", [1]);
    let mut blobs = BlobsWriter::new();
    blobs.push(0, b"one");
    blobs.push(7, b"");
    vec![
        ("frame", 0, frame.as_bytes().to_vec()),
        ("edits", 1, edits.finish()),
        ("groups", 2, groups.finish()),
        ("blobs", 3, blobs.finish()),
        ("metadata", 4, metadata.as_bytes().to_vec()),
    ]
}

fn every_edit() -> Vec<(usize, Edit<'static>)> {
    vec![
        (0, Edit::Payload(b"[1]")),
        (0, Edit::Key(Some(b"k"))),
        (0, Edit::Timestamp(5)),
        (0, Edit::Kind("t")),
        (0, Edit::SetMetadata { name: "n", value: "ä".as_bytes(), json: false }),
        (0, Edit::SetMetadata { name: "n", value: b"7", json: true }),
        (0, Edit::RemoveMetadata("n")),
        (0, Edit::Id("i")),
        (0, Edit::Emit { copy: true }),
        (0, Edit::Key(None)),
        (0, Edit::Output("alerts")),
        (1, Edit::Emit { copy: false }),
        (1, Edit::Payload(b"")),
        (2, Edit::Drop),
        (2, Edit::Fail("why")),
    ]
}

#[test]
fn each_layout_is_read_as_itself_alone() {
    for (name, which, bytes) in samples() {
        let mut expected = [false; 5];
        expected[which] = true;
        assert_eq!(read_all(&bytes, MESSAGES), expected, "{name}");
    }
}

#[test]
fn edits_come_back_as_they_were_written() {
    let (_, _, bytes) = samples().swap_remove(1);
    let read: Vec<_> = Edits::parse(&bytes, MESSAGES).expect("edits").iter().collect();
    assert_eq!(read, every_edit());
}

#[test]
fn one_wrong_byte_is_refused_or_stays_in_bounds() {
    for (name, _, good) in samples() {
        let mut refused = 0;
        for at in 0..good.len() {
            for wrong in (0..=255).filter(|b| *b != good[at]) {
                let mut bytes = good.clone();
                bytes[at] = wrong;
                let read = read_all(&bytes, MESSAGES);
                refused += usize::from(read == [false; 5]);
                // Magic, version and the reserved bytes can't be wrong unseen.
                let opens = at < 8 && name != "metadata";
                assert!(!opens || read == [false; 5], "{name}: byte {at} = {wrong} was taken");
            }
        }
        assert!(refused > good.len(), "{name}: {refused} refused");
    }
}

#[test]
fn what_is_cut_short_is_refused_or_stays_in_bounds() {
    for (name, _, good) in samples() {
        for length in 0..good.len() {
            let read = read_all(&good[..length], MESSAGES);
            assert!(length >= 16 || name == "metadata" || read[..4] == [false; 4], "{name}, {length} bytes");
        }
    }
}

#[test]
fn what_claims_to_be_huge_costs_nothing() {
    for magic in [b"WMF1", b"WME1", b"WMG1", b"WML1"] {
        for counts in [[u32::MAX, 0], [u32::MAX, u32::MAX], [0, u32::MAX], [1 << 31, 1 << 31]] {
            let mut bytes = magic.to_vec();
            bytes.extend_from_slice(&[1, 0, 0, 0]);
            bytes.extend(counts.iter().flat_map(|c: &u32| c.to_le_bytes()));
            assert_eq!(read_all(&bytes, MESSAGES)[..4], [false; 4], "{bytes:?}");
        }
    }
}

#[test]
fn blobs_have_no_more_bytes_together_than_their_arena() {
    let blobs = |spans: &[(u32, u32)]| {
        let mut bytes = b"WML1\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&u32::to_le_bytes(spans.len() as u32));
        bytes.extend_from_slice(&[0; 4]);
        for (offset, length) in spans {
            bytes.extend([0, *offset, *length].iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes.extend_from_slice(b"0123456789");
        Blobs::parse(&bytes).map(|blobs| blobs.iter().map(|(_, blob)| blob.to_vec()).collect::<Vec<_>>())
    };
    // Gaps, any order and shared bytes are as ever.
    assert_eq!(
        blobs(&[(7, 2), (0, 3), (1, 3), (10, 0)]),
        Ok(vec![b"78".into(), b"012".into(), b"123".into(), b"".into()])
    );
    assert!(blobs(&[(0, 10), (10, 0), (0, 0)]).is_ok());
    let error = blobs(&[(0, 10), (3, 0), (9, 1)]).expect_err("11 bytes of 10");
    assert_eq!((error.what, error.at), ("blobs with more bytes together than their arena", 16 + 2 * 12 + 4));
    assert!(blobs(&[(0, 10); 1_000]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), messages in 0..9usize) {
        read_all(&bytes, messages);
    }

    #[test]
    fn several_wrong_bytes_do_no_harm(
        which in 0..5usize,
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        more in prop::collection::vec(any::<u8>(), 0..20),
        messages in 0..5usize,
    ) {
        let (_, _, mut bytes) = samples().swap_remove(which);
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(more);
        read_all(&bytes, messages);
    }

    #[test]
    fn groups_and_blobs_come_back(
        groups in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(0..50usize, 0..6)), 0..9),
    ) {
        let (mut group_writer, mut blob_writer) = (GroupsWriter::new(), BlobsWriter::new());
        for (i, (accumulator, indices)) in groups.iter().enumerate() {
            group_writer.push(accumulator, indices.iter().copied());
            blob_writer.push(i as u32, accumulator);
        }
        let (group_bytes, blob_bytes) = (group_writer.finish(), blob_writer.finish());
        let read = Groups::parse(&group_bytes, 50).expect("groups");
        let read: Vec<_> = read.iter().map(|g| (g.accumulator.to_vec(), g.indices().collect::<Vec<_>>())).collect();
        prop_assert_eq!(&read, &groups);
        for ((tag, bytes), (i, (accumulator, _))) in Blobs::parse(&blob_bytes).expect("blobs").iter().zip(groups.iter().enumerate()) {
            prop_assert_eq!((tag as usize, bytes), (i, accumulator.as_slice()));
        }
    }

    #[test]
    fn edits_go_back_to_a_mark(values in prop::collection::vec(".{0,9}", 1..9), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(values.len());
        let write = |values: &[String]| {
            let mut edits = EditsWriter::with_capacity(MESSAGES, 64);
            for v in values {
                let edit = Edit::SetMetadata { name: "n", value: b"", json: false };
                let done: Result<(), ()> = edits.push_with(1, edit, |bytes| {
                    bytes.extend_from_slice(v.as_bytes());
                    Ok(())
                });
                done.expect("written");
            }
            edits
        };
        let mut edits = write(&values[..cut]);
        let mark = edits.mark();
        edits.append(&write(&values[cut..]));
        prop_assert_eq!(edits.clone().finish(), write(&values).finish());
        prop_assert_eq!(edits.push_with(1, Edit::Payload(b"x"), |b| { b.push(1); Err(3) }), Err(3));
        prop_assert_eq!(edits.clone().finish(), write(&values).finish());
        edits.rewind(mark);
        prop_assert_eq!(edits.finish(), write(&values[..cut]).finish());
    }
}
