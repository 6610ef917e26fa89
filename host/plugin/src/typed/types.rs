//! The contract's types as Rust's. What goes to a guest borrows from the frame.

use wasmtime::component::{ComponentType, Lift, Lower};

/// What a guest answers, or why it refused the whole call.
pub(crate) type Answered<T> = (Result<T, String>,);

/// Parameters and results of the frames width.
pub(crate) type Bytes<'a> = (&'a [u8],);
pub(crate) type TwoBytes<'a> = (&'a [u8], &'a [u8]);
pub(crate) type Versioned<'a> = (u32, &'a [u8]);
pub(crate) type Answer = Answered<Vec<u8>>;
pub(crate) type ScanAnswer = Answered<(Vec<u8>, Vec<u8>)>;

/// Parameters and results of the typed width.
pub(crate) type Messages<'a> = (&'a [MessageRef<'a>],);
pub(crate) type Grouped<'a> = (&'a [MessageRef<'a>], &'a [GroupRef<'a>]);
pub(crate) type Pairs<'a> = (&'a [PairRef<'a>],);
pub(crate) type ByteLists<'a> = (&'a [&'a [u8]],);
pub(crate) type Outcomes = Answered<Vec<Outcome>>;
pub(crate) type Verdicts = Answered<Vec<Verdict>>;
pub(crate) type FoldedAnswer = Answered<Folded>;
pub(crate) type ScannedAnswer = Answered<Scanned>;
pub(crate) type Accumulators = Answered<Vec<Vec<u8>>>;
pub(crate) type Texts = Answered<Vec<String>>;

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Description {
    pub commutative: bool,
    #[component(name = "state-version")]
    pub state_version: u32,
    pub initial: Vec<u8>,
}

#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(crate) struct EntryRef<'a> {
    pub name: &'a str,
    pub value: &'a str,
    pub json: bool,
}

#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub(crate) struct MessageRef<'a> {
    pub id: &'a str,
    #[component(name = "type")]
    pub kind: &'a str,
    pub key: Option<&'a [u8]>,
    pub payload: &'a [u8],
    pub timestamp: Option<i64>,
    pub metadata: Vec<EntryRef<'a>>,
}

#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(crate) struct PairRef<'a> {
    pub left: &'a [u8],
    pub right: &'a [u8],
}

#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
pub(crate) struct GroupRef<'a> {
    pub accumulator: &'a [u8],
    pub messages: Vec<u32>,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Entry {
    pub name: String,
    pub value: String,
    pub json: bool,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Message {
    pub id: String,
    #[component(name = "type")]
    pub kind: String,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub timestamp: Option<i64>,
    pub metadata: Vec<Entry>,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Routed {
    pub message: Message,
    pub output: Option<String>,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(variant)]
pub(crate) enum Outcome {
    #[component(name = "keep")]
    Keep,
    #[component(name = "drop")]
    Drop,
    #[component(name = "replace")]
    Replace(Message),
    #[component(name = "several")]
    Several(Vec<Routed>),
    #[component(name = "fail")]
    Fail(String),
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(variant)]
pub(crate) enum Verdict {
    #[component(name = "keep")]
    Keep,
    #[component(name = "drop")]
    Drop,
    #[component(name = "fail")]
    Fail(String),
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Failed {
    pub message: u32,
    pub reason: String,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Folded {
    pub accumulators: Vec<Vec<u8>>,
    pub failed: Vec<Failed>,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Scanned {
    pub outcomes: Vec<Outcome>,
    pub folded: Folded,
}
