//! A codec by its settings, records by hand.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde_json::Value;
use wasmill_codec::framing::{Framing, Place};
use wasmill_codec::{CodecError, CodecSpec, Reading, Takes, Writing};
use wasmill_engine::input::{Header, RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::{FrameBuf, Message, MetaKind};

/// These codecs wait for nothing.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

pub fn spec(settings: &Value) -> CodecSpec {
    serde_json::from_value(settings.clone()).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

pub fn reading(settings: Value) -> Reading {
    ready(spec(&settings).reading("in")).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

pub fn writing(settings: Value) -> Writing {
    ready(spec(&settings).writing("out")).unwrap_or_else(|e| panic!("{settings}: {e}"))
}

pub fn wrong(settings: Value) -> String {
    let spec = spec(&settings);
    match (ready(spec.reading("in")), ready(spec.writing("out"))) {
        (Err(CodecError::Wrong(text)), _) | (_, Err(CodecError::Wrong(text))) => text,
        _ => panic!("{settings} is taken"),
    }
}

/// A record as a log with headers has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rec {
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub key: Option<Vec<u8>>,
}

pub fn rec(value: impl AsRef<[u8]>) -> Rec {
    Rec { value: value.as_ref().to_vec(), ..Rec::default() }
}

impl Rec {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    pub fn keyed(self, key: &str) -> Self {
        Self { key: Some(key.as_bytes().to_vec()), ..self }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(&found.1).ok()
    }
}

pub fn batch(records: &[Rec]) -> RawBatch {
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    for rec in records {
        let mut add = |bytes: &[u8]| {
            let start = batch.data.len();
            batch.data.extend_from_slice(bytes);
            start..batch.data.len()
        };
        let value = add(&rec.value);
        let headers = rec
            .headers
            .iter()
            .map(|(n, v)| Header { name: add(n.as_bytes()), value: Some(add(v)) })
            .collect();
        let key = rec.key.as_deref().map(&mut add);
        let offset = batch.records.len() as u64;
        batch.records.push(RawRecord {
            offset,
            next: offset + 1,
            value,
            headers,
            key,
            ..RawRecord::default()
        });
    }
    batch
}

pub fn decode(reading: &Reading, rec: &Rec) -> Result<FrameBuf, String> {
    let batch = batch(std::slice::from_ref(rec));
    let mut frame = FrameBuf::default();
    let done = reading.decoder.decode(&batch.records[0], &batch, &mut frame);
    assert_eq!(frame.len(), usize::from(done.is_ok()), "one message, or nothing and a reason");
    done.map(|()| frame)
}

/// Decodes a bad record between two good ones, which must come out as they do alone; answers the reason.
pub fn refused(reading: &Reading, good: &Rec, bad: &Rec) -> String {
    let batch = batch(&[good.clone(), bad.clone(), good.clone()]);
    let mut frame = FrameBuf::default();
    let mut reason = None;
    for (at, record) in batch.records.iter().enumerate() {
        match (at, reading.decoder.decode(record, &batch, &mut frame)) {
            (1, Err(why)) => reason = Some(why),
            (1, Ok(())) => panic!("{bad:?} is taken, as {}", shown(frame.get(1))),
            (_, done) => done.expect("a good one"),
        }
    }
    assert_eq!(frame.len(), 2);
    assert_eq!(frame.get(0).payload(), frame.get(1).payload());
    reason.expect("a reason")
}

pub fn encode(writing: &Writing, frame: &FrameBuf) -> Result<Rec, String> {
    encode_for(writing, frame.get(0), Takes { headers: true, tombstones: true })
}

pub fn encode_for(writing: &Writing, message: Message<'_>, takes: Takes) -> Result<Rec, String> {
    let mut batch = EncodedBatch::default();
    let record = match writing.writer.write(message, takes, &mut batch) {
        Ok(record) => record,
        Err(why) => {
            assert_eq!(batch, EncodedBatch::default(), "a refused message leaves nothing");
            return Err(why);
        }
    };
    let text = |r: std::ops::Range<usize>| batch.data[r].to_vec();
    let header = |h: &Header| {
        let name = String::from_utf8(text(h.name.clone())).expect("UTF-8");
        (name, h.value.clone().map(text).unwrap_or_default())
    };
    Ok(Rec {
        value: text(record.value.clone()),
        headers: record.headers.iter().map(header).collect(),
        key: message.key().map(<[u8]>::to_vec),
    })
}

/// A message as text.
pub fn shown(message: Message<'_>) -> String {
    let metadata: Vec<String> = message
        .metadata()
        .entries()
        .filter(|e| e.kind.is_metadata())
        .map(|e| {
            let (name, value) = (String::from_utf8_lossy(e.name), String::from_utf8_lossy(e.value));
            if e.kind == MetaKind::Json { format!("{name}:{value}") } else { format!("{name}={value}") }
        })
        .collect();
    format!(
        "{} {} {} {}{} [{}]",
        message.id(),
        message.kind(),
        message.timestamp(),
        if message.payload_is_json() { "json " } else { "" },
        String::from_utf8_lossy(message.payload()),
        metadata.join(" ")
    )
}

/// Limits of reading a stream.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub piece_bytes: usize,
    pub max: usize,
    pub messages_max: usize,
    pub bytes_max: usize,
}

pub const PLAIN: Limits = Limits { piece_bytes: 7, max: 1000, messages_max: 3, bytes_max: 100 };

/// A record of a stream: its place, line and next place, its bytes, why it was rejected, what stands before all.
pub type Cut = (u64, Option<u64>, u64, Vec<u8>, Option<String>, Option<Vec<u8>>);

/// What a cutter makes of a stream that comes in pieces.
pub fn cut(framing: &dyn Framing, stream: &[u8], from: u64, limits: Limits) -> Vec<Cut> {
    let place = if framing.resumes() {
        Place { offset: from, line: 1 }
    } else {
        Place { offset: from, ..Place::START }
    };
    let mut cutter = framing.cutter(place, limits.max);
    let fed = if framing.resumes() { &stream[usize::try_from(from).expect("small")..] } else { stream };
    let mut pieces = fed.chunks(limits.piece_bytes).map(<[u8]>::to_vec);
    let (mut all, mut ended, mut next) = (Vec::new(), false, from);
    loop {
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        cutter.take(&mut batch, limits.messages_max, limits.bytes_max);
        if batch.records.is_empty() {
            match pieces.next() {
                Some(piece) => cutter.feed(piece),
                None if ended => return all,
                None => {
                    ended = true;
                    cutter.end(&mut batch);
                }
            }
        }
        assert!(batch.records.len() <= limits.messages_max, "more than was asked for");
        for r in batch.records {
            assert!(r.offset >= next && r.next > r.offset);
            next = r.next;
            let value = batch.data[r.value].to_vec();
            assert!(value.len() <= limits.max.max(256));
            all.push((
                r.offset,
                r.line,
                r.next,
                value,
                r.rejected,
                batch.preamble.as_deref().map(<[u8]>::to_vec),
            ));
        }
        // Empty lines may be behind it already.
        assert!(cutter.next() >= next);
    }
}

pub fn join(framing: &dyn Framing, values: &[Vec<u8>]) -> Vec<u8> {
    let mut joiner = framing.joiner();
    let mut out = joiner.head();
    for value in values {
        framing.check(value).expect("it can stand in a stream");
        joiner.push(value, &mut out);
    }
    joiner.finish(&mut out);
    out
}
