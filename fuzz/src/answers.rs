//! Answers of a plugin, whatever they say: the engine checks them, and does as they say.
//!
//! What the fuzzer makes is cut into answers, each behind its length in two bytes; a plugin that is asked more often
//! begins again with the first.

use std::sync::Arc;

use libfuzzer_sys::Corpus;
use wasmill_engine::batch::Batch;
use wasmill_engine::guest::{
    AggregateInfo, AnswerBounds, CallContext, CallError, Guest, GuestInfo, Kinds, Plugin, PluginRef, Trial,
};
use wasmill_engine::lane::{KeyedSpec, Lane, LaneBounds, LaneInput};
use wasmill_engine::output::{EncodedBatch, Encoder, Outbox, OutputId, Routes, SinkRoute, Takes, When};
use wasmill_engine::position::PartitionId;
use wasmill_engine::stage::{Origins, Stage, StageKind, StageSpec};
use wasmill_engine::state::{Checkpoint, Delta, Epoch, StateStore, StoreError, VisitEntry};
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_engine::{RunningSpec, WindowSpec};
use wasmill_frame::{Frame, Message, MetaKind, MetaWriter, Parts};

/// Which calls of a plugin are answered.
pub enum Called {
    /// `transform` or `filter`.
    Stage(StageKind),
    /// `scan`, of a running aggregate.
    Running,
    /// `fold`, `merge` and `finish`, of sessions.
    Sessions,
}

impl Called {
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "transform" => Self::Stage(StageKind::Transform),
            "filter" => Self::Stage(StageKind::Filter),
            "running" => Self::Running,
            "sessions" => Self::Sessions,
            _ => return None,
        })
    }

    pub fn try_bytes(&self, data: &[u8]) -> Corpus {
        let answers = cut(data);
        if answers.is_empty() {
            return Corpus::Reject;
        }
        let plugin: PluginRef = Arc::new(Scripted { info: info(matches!(self, Self::Running)), answers });
        let routes =
            Arc::new(Routes::new(vec![route(Takes::DeadLetters), route(Takes::Main)], Default::default()));
        match self {
            Self::Stage(kind) => {
                let mut stage = Stage::new(&Arc::new(StageSpec { name: "fuzz".into(), kind: *kind, plugin }));
                let (mut batch, mut out) = (batch(), Outbox::new(&routes));
                let came = batch.len() as u64;
                stage.run(&mut batch, Origins::Source, &routes, &mut out);
                Frame::parse(batch.frame.as_bytes()).expect("what goes on is a frame");
                assert_eq!(batch.frame.len(), batch.rows.len());
                assert!(out.dead <= came, "no more dead letters than messages");
            }
            Self::Running => {
                let (name, aggregate) = ("fuzz".into(), plugin.into());
                run(
                    &KeyedSpec::Running(RunningSpec { name, aggregate, compound_key: false, shared: false }),
                    &routes,
                );
            }
            Self::Sessions => run(
                &KeyedSpec::Window(WindowSpec {
                    name: "fuzz".into(),
                    aggregate: plugin.into(),
                    window: Windows::session(10).expect("a gap"),
                    allowed_lateness_ms: 0,
                    late: Late::Drop,
                    emit: Emit::Close,
                    compound_key: false,
                }),
                &routes,
            ),
        }
        Corpus::Keep
    }
}

fn cut(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        answers.push(rest[..length].to_vec());
        data = &rest[length..];
    }
    answers
}

/// Messages of two keys, some with metadata; times that make one session of two.
fn batch() -> Batch {
    let mut batch = Batch::with_capacity(PartitionId { source: 0, partition: 0 }, 0, 4, 256);
    let mut metadata = MetaWriter::new();
    metadata.push(MetaKind::Text, b"a", b"1");
    metadata.push(MetaKind::Json, b"b", b"[2]");
    for (offset, (key, timestamp)) in
        [("x", 1_000), ("y", 1_004), ("x", 1_018), ("x", 1_009)].into_iter().enumerate()
    {
        let parts = Parts {
            id: "id",
            kind: "kind",
            key: Some(key.as_bytes()),
            payload: b"{\"n\":1}",
            timestamp,
            metadata: if offset % 2 == 0 { metadata.as_bytes() } else { b"" },
            payload_is_json: true,
        };
        batch.push(&parts, offset as u64);
    }
    batch.rows.iter_mut().for_each(|row| row.stamp = 1_000);
    batch
}

/// Runs a lane over the messages twice, and fires what is open.
fn run(spec: &KeyedSpec, routes: &Arc<Routes>) {
    let store: Arc<dyn StateStore> = Arc::new(Empty);
    let lane = Lane::new(std::slice::from_ref(spec), routes, &store, 16, (0, 1), LaneBounds::NONE);
    let mut lane = lane.expect("a lane over nothing");
    for (epoch, stream_time) in [(1, 1_000), (2, 100_000)] {
        lane.process(LaneInput { batches: vec![batch()], stream_time, settled: stream_time });
        let done = lane.barrier(epoch);
        assert!(done.counts.dead <= 16, "{:?}", done.counts);
        lane.committed(epoch, &[]);
    }
}

fn route(takes: Takes) -> SinkRoute {
    struct All;
    impl Encoder for All {
        fn encode(&self, m: Message<'_>, _: &OutputId<'_>, out: &mut EncodedBatch) -> Result<(), String> {
            out.data.extend_from_slice(m.payload());
            Ok(())
        }
    }
    SinkRoute { takes, encoder: Arc::new(All), when: When::Always }
}

fn info(scan: bool) -> GuestInfo {
    let kinds = Kinds { transform: true, filter: true, aggregate: true, scan, migrate: false };
    let aggregate = AggregateInfo { commutative: false, state_version: 1, initial: vec![0] };
    GuestInfo { name: "fuzz".into(), kinds, aggregate: Some(aggregate), ..GuestInfo::default() }
}

struct Scripted {
    info: GuestInfo,
    answers: Vec<Vec<u8>>,
}

impl Plugin for Scripted {
    fn info(&self) -> &GuestInfo {
        &self.info
    }
    fn guest(&self) -> Box<dyn Guest> {
        Box::new(Answering { answers: self.answers.clone(), next: 0 })
    }
    fn bounds(&self) -> AnswerBounds {
        AnswerBounds { outputs_max: 20, copies_bytes_max: 1 << 12, ..AnswerBounds::default() }
    }
}

struct Answering {
    answers: Vec<Vec<u8>>,
    next: usize,
}

impl Answering {
    fn answer(&mut self) -> Result<Vec<u8>, CallError> {
        let at = self.next % self.answers.len();
        self.next += 1;
        Ok(self.answers[at].clone())
    }
}

type Answer = Result<Vec<u8>, CallError>;

impl Guest for Answering {
    fn transform(&mut self, _: &[u8], _: &mut CallContext, _: Trial) -> Answer {
        self.answer()
    }
    fn filter(&mut self, _: &[u8], _: &mut CallContext, _: Trial) -> Answer {
        self.answer()
    }
    fn fold(&mut self, _: &[u8], _: &[u8], _: &mut CallContext, _: Trial) -> Answer {
        self.answer()
    }
    fn scan(
        &mut self,
        _: &[u8],
        _: &[u8],
        _: &mut CallContext,
        _: Trial,
    ) -> Result<(Vec<u8>, Vec<u8>), CallError> {
        Ok((self.answer()?, self.answer()?))
    }
    fn merge(&mut self, _: &[u8], _: &mut CallContext, _: Trial) -> Answer {
        self.answer()
    }
    fn finish(&mut self, _: &[u8], _: &mut CallContext, _: Trial) -> Answer {
        self.answer()
    }
    fn migrate(&mut self, _: u32, _: &[u8], _: &mut CallContext, _: Trial) -> Answer {
        self.answer()
    }
}

/// A store that stays empty.
struct Empty;

impl StateStore for Empty {
    fn name(&self) -> String {
        "nothing".to_owned()
    }
    fn is_durable(&self) -> bool {
        false
    }
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(None)
    }
    fn generation(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }
    fn entries(&self, _: &[u8], _: Option<&[u8]>, _: &mut VisitEntry<'_>) -> Result<(), StoreError> {
        Ok(())
    }
    fn commit(&self, _: &Delta, _: &Checkpoint) -> Result<(), StoreError> {
        Ok(())
    }
    fn foretell(&self, _: Epoch, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
    fn foretold(&self) -> Result<Option<(Epoch, Vec<u8>)>, StoreError> {
        Ok(None)
    }
    fn reset(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
