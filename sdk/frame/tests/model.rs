//! Frames agree with what a plain list of messages would do, whatever is done to them.

use proptest::prelude::*;
use wasmill_frame::{Frame, FrameBuf, MetaKind, MetaWriter, Parts, TIMESTAMP_MAX_MS, TIMESTAMP_NONE};

/// A message, as a list would hold it.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    id: String,
    kind: String,
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
    payload_is_json: bool,
    timestamp: i64,
    metadata: Vec<(MetaKind, String, Vec<u8>)>,
}

impl Model {
    fn push_to(&self, frame: &mut FrameBuf) {
        let mut metadata = MetaWriter::new();
        for (kind, name, value) in &self.metadata {
            metadata.push(*kind, name.as_bytes(), value);
        }
        frame.push(&Parts {
            id: &self.id,
            kind: &self.kind,
            key: self.key.as_deref(),
            payload: &self.payload,
            timestamp: self.timestamp,
            metadata: metadata.as_bytes(),
            payload_is_json: self.payload_is_json,
        });
    }

    fn set_metadata(&mut self, kind: MetaKind, name: &str, value: &[u8]) {
        let same = |e: &(MetaKind, String, Vec<u8>)| e.0.is_metadata() && e.1 == name;
        let entry = (kind, name.to_owned(), value.to_vec());
        match self.metadata.iter().position(same) {
            Some(at) => {
                self.metadata[at] = entry;
                let mut place = 0;
                self.metadata.retain(|e| {
                    place += 1;
                    place - 1 <= at || !same(e)
                });
            }
            None => self.metadata.push(entry),
        }
    }

    fn set_timestamp(&mut self, timestamp: i64, text: Option<&str>) {
        self.timestamp = timestamp;
        self.metadata.retain(|e| e.0 != MetaKind::Timestamp);
        if let Some(text) = text {
            self.metadata.push((MetaKind::Timestamp, String::new(), text.as_bytes().to_vec()));
        }
    }
}

fn read(frame: Frame<'_>) -> Vec<Model> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    frame
        .iter()
        .map(|m| Model {
            id: m.id().to_owned(),
            kind: m.kind().to_owned(),
            key: m.key().map(<[u8]>::to_vec),
            payload: m.payload().to_vec(),
            payload_is_json: m.payload_is_json(),
            timestamp: m.timestamp(),
            metadata: m.metadata().entries().map(|e| (e.kind, text(e.name), e.value.to_vec())).collect(),
        })
        .collect()
}

#[derive(Debug, Clone)]
enum Change {
    Push(Model),
    Id(usize, String),
    Kind(usize, String),
    Key(usize, Option<Vec<u8>>),
    Payload(usize, Vec<u8>, bool),
    Timestamp(usize, i64, Option<String>),
    SetMetadata(usize, bool, String, String),
    RemoveMetadata(usize, String),
    ClearMetadata(usize),
    CopyBehind(usize),
    Arrange(Vec<usize>),
    Clear,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..12)
}

fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![Just(TIMESTAMP_NONE), Just(0), Just(TIMESTAMP_MAX_MS), 0..TIMESTAMP_MAX_MS]
}

/// Few names, so that they meet.
fn name() -> impl Strategy<Value = String> {
    "[ab]{0,1}"
}

fn entry() -> impl Strategy<Value = (MetaKind, String, Vec<u8>)> {
    let kind = prop_oneof![
        Just(MetaKind::Text),
        Just(MetaKind::Json),
        Just(MetaKind::Field),
        Just(MetaKind::Timestamp)
    ];
    (kind, name(), ".{0,6}").prop_map(|(kind, name, value)| (kind, name, value.into_bytes()))
}

fn model() -> impl Strategy<Value = Model> {
    let metadata = prop::collection::vec(entry(), 0..4);
    (".{0,5}", ".{0,5}", prop::option::of(bytes()), bytes(), any::<bool>(), timestamp(), metadata).prop_map(
        |(id, kind, key, payload, payload_is_json, timestamp, metadata)| Model {
            id,
            kind,
            key,
            payload,
            payload_is_json,
            timestamp,
            metadata,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let at = || any::<prop::sample::Index>().prop_map(|i| i.index(1 << 16));
    prop_oneof![
        6 => model().prop_map(Change::Push),
        1 => (at(), ".{0,5}").prop_map(|(i, v)| Change::Id(i, v)),
        1 => (at(), ".{0,5}").prop_map(|(i, v)| Change::Kind(i, v)),
        1 => (at(), prop::option::of(bytes())).prop_map(|(i, v)| Change::Key(i, v)),
        1 => (at(), bytes(), any::<bool>()).prop_map(|(i, v, json)| Change::Payload(i, v, json)),
        1 => (at(), timestamp(), prop::option::of(".{0,4}")).prop_map(|(i, v, t)| Change::Timestamp(i, v, t)),
        3 => (at(), any::<bool>(), name(), ".{0,6}").prop_map(|(i, j, n, v)| Change::SetMetadata(i, j, n, v)),
        2 => (at(), name()).prop_map(|(i, n)| Change::RemoveMetadata(i, n)),
        1 => at().prop_map(Change::ClearMetadata),
        2 => at().prop_map(Change::CopyBehind),
        1 => prop::collection::vec(at(), 0..6).prop_map(Change::Arrange),
        1 => Just(Change::Clear),
    ]
}

fn apply(change: Change, frame: &mut FrameBuf, model: &mut Vec<Model>) {
    let n = model.len();
    let place = |i: usize| i % n.max(1);
    match change {
        Change::Push(m) => {
            m.push_to(frame);
            model.push(m);
        }
        Change::Arrange(order) => {
            let order: Vec<_> = if n == 0 { vec![] } else { order.into_iter().map(place).collect() };
            frame.arrange(&order);
            *model = order.iter().map(|i| model[*i].clone()).collect();
        }
        Change::Clear => {
            frame.clear();
            model.clear();
        }
        // The others are about a message.
        _ if n == 0 => {}
        Change::Id(i, v) => {
            frame.set_id(place(i), &v);
            model[place(i)].id = v;
        }
        Change::Kind(i, v) => {
            frame.set_kind(place(i), &v);
            model[place(i)].kind = v;
        }
        Change::Key(i, v) => {
            frame.set_key(place(i), v.as_deref());
            model[place(i)].key = v;
        }
        Change::Payload(i, v, json) => {
            frame.set_payload(place(i), &v, json);
            model[place(i)].payload = v;
            model[place(i)].payload_is_json = json;
        }
        Change::Timestamp(i, v, text) => {
            frame.set_timestamp(place(i), v, text.as_deref());
            model[place(i)].set_timestamp(v, text.as_deref());
        }
        Change::SetMetadata(i, json, name, value) => {
            let kind = if json { MetaKind::Json } else { MetaKind::Text };
            frame.set_metadata(place(i), kind, &name, value.as_bytes());
            model[place(i)].set_metadata(kind, &name, value.as_bytes());
        }
        Change::RemoveMetadata(i, name) => {
            frame.remove_metadata(place(i), &name);
            model[place(i)].metadata.retain(|e| !(e.0.is_metadata() && e.1 == name));
        }
        Change::ClearMetadata(i) => {
            frame.clear_metadata(place(i));
            model[place(i)].metadata.clear();
        }
        Change::CopyBehind(i) => {
            let record = frame.record(place(i));
            frame.push_record(&record);
            model.push(model[place(i)].clone());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_frame_is_a_list_of_messages(changes in prop::collection::vec(change(), 0..40), room in 0..4usize) {
        let mut frame = FrameBuf::with_capacity(room, 0);
        let mut model = Vec::new();
        for change in changes {
            let shown = format!("{change:?}");
            apply(change, &mut frame, &mut model);
            prop_assert_eq!(read(frame.view()), model.clone(), "after {}", shown);
        }
        let guest = Frame::parse(frame.as_bytes());
        prop_assert_eq!(guest.map(read), Ok(model.clone()), "what the host wrote, the guest reads");
        prop_assert_eq!(read(Frame::open(frame.as_bytes()).expect("opened")), model.clone());
        let mut other = FrameBuf::with_capacity(room, 0);
        frame.view().iter().for_each(|message| other.push_message(&message));
        prop_assert_eq!(Frame::parse(other.as_bytes()).map(read), Ok(model), "message by message");
    }
}
