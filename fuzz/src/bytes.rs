//! Bytes of a plugin's that the host reads beside its answers.

use std::hint::black_box;

use libfuzzer_sys::Corpus;
use serde_json::Value;
use wasmill_frame::{Blobs, Edits, EditsWriter, Frame, FrameBuf, Groups, Meta};

use crate::{outline, schema, text};

/// How many messages the frames have that edits and groups are about.
const MESSAGES: usize = 3;

/// What is read.
pub enum Read {
    Layouts,
    Words,
    Outline,
    Schemas,
}

impl Read {
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "layouts" => Self::Layouts,
            "words" => Self::Words,
            "outline" => Self::Outline,
            "schemas" => Self::Schemas,
            _ => return None,
        })
    }

    pub fn try_bytes(&self, data: &[u8]) -> Corpus {
        match self {
            Self::Layouts => layouts(data),
            Self::Words => words(data),
            Self::Outline => read_outline(data),
            Self::Schemas => schemas(data),
        }
        Corpus::Keep
    }
}

/// What parses can be read to its end, and written again.
fn layouts(data: &[u8]) {
    if let Ok(frame) = Frame::parse(data) {
        let mut copy = FrameBuf::default();
        for message in frame.iter() {
            black_box(message.metadata().entries().count());
            copy.push(&message.parts());
        }
        let copied = Frame::parse(copy.as_bytes()).expect("a frame that was copied is one");
        assert_eq!(copied.len(), frame.len());
        for (one, other) in frame.iter().zip(copied.iter()) {
            assert_eq!((one.id(), one.key(), one.payload()), (other.id(), other.key(), other.payload()));
        }
    }
    // Metadata alone.
    if let Ok(meta) = Meta::parse(data) {
        black_box(meta.entries().map(|e| e.name.len() + e.value.len()).sum::<usize>());
    }
    if let Ok(groups) = Groups::parse(data, MESSAGES) {
        for group in groups.iter() {
            assert!(group.indices().all(|index| index < MESSAGES));
        }
    }
    if let Ok(blobs) = Blobs::parse(data) {
        assert_eq!(blobs.iter().count(), blobs.len());
    }
    if let Ok(edits) = Edits::parse(data, MESSAGES) {
        let mut copy = EditsWriter::new(MESSAGES);
        for (index, edit) in edits.iter() {
            assert!(index < MESSAGES);
            copy.push(index, edit);
        }
        let copy = copy.finish();
        let copied = Edits::parse(&copy, MESSAGES).expect("edits that were copied are edits");
        assert!(copied.iter().eq(edits.iter()), "they say the same");
    }
}

/// A text in an error or the log keeps its bound and its line.
fn words(data: &[u8]) {
    let Some((&bytes_max, said)) = data.split_first() else { return };
    let said = String::from_utf8_lossy(said);
    for bytes_max in [usize::from(bytes_max) + 16, text::ERROR_BYTES_MAX] {
        let tamed = text::tame(&said, bytes_max);
        assert!(tamed.len() <= bytes_max, "{} bytes of {bytes_max}", tamed.len());
        assert!(!tamed.chars().any(char::is_control), "{tamed:?}");
    }
}

fn read_outline(data: &[u8]) {
    let Ok(outline) = outline::read(data) else { return };
    assert!(outline.functions <= data.len() && outline.longest_function_bytes <= data.len());
    assert!(outline.version.iter().all(|version| version.len() <= 64));
    black_box((&outline.imports, &outline.exports, &outline.producers));
    let declared = [outline.declared.input, outline.declared.output];
    let [takes, makes] = declared.map(|text| serde_json::from_slice::<Value>(&text?).ok());
    if let (Some(takes), Some(makes)) = (takes, makes) {
        compare(&makes, &takes);
    }
}

/// Two schemas, with a line between them.
fn schemas(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let mut next = || serde_json::from_slice::<Value>(lines.next()?).ok();
    if let (Some(given), Some(taken)) = (next(), next()) {
        compare(&given, &taken);
    }
}

fn compare(given: &Value, taken: &Value) {
    black_box(format!("{:?}", schema::differences(given, taken)));
    let whole = schema::Schema::new(given);
    black_box(whole.told());
    for path in [&["a".to_owned()][..], &["a".to_owned(), "b".to_owned()]] {
        if let Ok(Some(field)) = whole.field(path) {
            black_box(field.told());
        }
    }
}
