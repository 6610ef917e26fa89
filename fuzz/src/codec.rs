//! Codecs: what the fuzzer makes is read as a record of a log, and as a stream of bytes that comes in pieces; what is
//! decoded is encoded again. What is decoded must be a whole message.

use libfuzzer_sys::Corpus;
use wasmill_codec::framing::Place;
use wasmill_codec::{CodecSpec, Reading, Takes, Writing};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::FrameBuf;

/// The longest record that a cutter hands on whole.
const MESSAGE_BYTES_MAX: usize = 1 << 12;

/// A codec, with what it reads and writes by.
pub struct Codec(Reading, Option<Writing>);

impl Codec {
    /// The codec with its settings, as a pipeline spec has it in JSON.
    pub fn new(spec: &str) -> Self {
        let spec: CodecSpec = serde_json::from_str(spec).expect("a codec with its settings");
        let reading = futures_executor::block_on(spec.reading("fuzz")).expect("a codec that can be read by");
        Self(reading, futures_executor::block_on(spec.writing("fuzz")).ok())
    }

    pub fn try_bytes(&self, data: &[u8]) -> Corpus {
        try_bytes(self, data)
    }
}

fn try_bytes(Codec(reading, writing): &Codec, data: &[u8]) -> Corpus {
    let Some((&piece, bytes)) = data.split_first() else { return Corpus::Reject };
    let batch = RawBatch::of_value(bytes);
    for record in &batch.records {
        decode(reading, writing.as_ref(), record, &batch);
    }
    let mut cutter = reading.framing.cutter(Place::START, MESSAGE_BYTES_MAX);
    let mut pieces = bytes.chunks(usize::from(piece) + 1);
    let mut next = 0;
    loop {
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        cutter.take(&mut batch, 7, 1 << 12);
        let mut ends = false;
        if batch.records.is_empty() {
            match pieces.next() {
                Some(piece) => cutter.feed(piece.to_vec()),
                None => {
                    cutter.end(&mut batch);
                    ends = true;
                }
            }
        }
        for record in &batch.records {
            assert!(record.offset >= next && record.next > record.offset, "offsets rise");
            next = record.next;
            if record.rejected.is_none() {
                decode(reading, writing.as_ref(), record, &batch);
            }
        }
        if ends {
            break;
        }
    }
    Corpus::Keep
}

fn decode(reading: &Reading, writing: Option<&Writing>, record: &RawRecord, batch: &RawBatch) {
    let mut frame = FrameBuf::default();
    match reading.decoder.decode(record, batch, &mut frame) {
        Ok(()) => {
            assert_eq!(frame.len(), 1, "a record is one message");
            let message = frame.get(0);
            if message.payload_is_json() {
                let json: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(message.payload());
                assert!(json.is_ok(), "what is called JSON is JSON: {json:?}");
            }
            let mut out = EncodedBatch::default();
            if let Some(writing) = writing
                && writing.writer.write(message, Takes { headers: true, tombstones: true }, &mut out).is_err()
            {
                assert!(out.data.is_empty(), "what is refused leaves nothing");
            }
        }
        Err(reason) => {
            assert!(frame.is_empty(), "what is refused leaves nothing: {reason}");
            assert!(!reason.is_empty() && reason.len() < 4096, "a reason is short");
        }
    }
}
