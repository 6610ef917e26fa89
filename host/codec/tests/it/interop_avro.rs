//! Avro's container files, to and from fastavro: `tests/clients/avro_files.py`.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use wasmill_codec::framing::{Framing as _, Length, Place};
use wasmill_codec::{CodecSpec, Takes};
use wasmill_engine::input::RawBatch;
use wasmill_engine::output::EncodedBatch;
use wasmill_engine::position::PartitionId;
use wasmill_frame::FrameBuf;

use crate::clients;

fn python(arguments: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut run = Command::new(clients::python());
    let run =
        run.arg(root.join("tests/clients/avro_files.py")).args(arguments).output().expect("python runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

#[test]
fn every_type_goes_to_fastavro_and_back() {
    let directory = std::env::temp_dir().join(format!("wasmill-interop-avro-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = |name: &str| directory.join(name).display().to_string();
    for compression in ["null", "deflate"] {
        let (theirs, ours, schema) = (path("theirs.avro"), path("ours.avro"), path("schema.avsc"));
        python(&["write", &theirs, &schema, compression]);
        let spec = json!({ "avro": { "schema_file": schema, "compression": compression } });
        let spec: CodecSpec = serde_json::from_value(spec).expect("settings");
        let (reading, writing) =
            (now(spec.reading("x")).expect("settings"), now(spec.writing("x")).expect("settings"));

        let mut cutter = reading.framing.cutter(Place::START, 1 << 20);
        cutter.feed(std::fs::read(&theirs).expect("a file"));
        let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
        cutter.take(&mut batch, usize::MAX, usize::MAX);
        assert_eq!(batch.records.len(), 3000);
        let mut frame = FrameBuf::default();
        for record in &batch.records {
            reading.decoder.decode(record, &batch, &mut frame).expect("a message");
        }
        let payload: serde_json::Value = serde_json::from_slice(frame.get(7).payload()).expect("JSON");
        assert_eq!(payload["u"]["tus"], "2013-01-31T23:59:59.123456Z");
        assert_eq!(payload["id"], "00000000-0000-0000-0000-000000000007");
        assert!(std::str::from_utf8(frame.get(7).payload()).expect("UTF-8").contains("\"dec\":-0.0007,"));

        let mut joiner = writing.framing.joiner();
        let mut file = joiner.head();
        for at in 0..frame.len() {
            let mut into = EncodedBatch::default();
            let record = writing.writer.write(frame.get(at), Takes::default(), &mut into).expect("a record");
            joiner.push(&into.data[record.value], &mut file);
        }
        joiner.finish(&mut file);
        std::fs::write(&ours, file).expect("a file");
        python(&["check", &ours]);
    }
    std::fs::remove_dir_all(&directory).expect("no more needed");
}

#[test]
fn bare_datums_of_fastavro_are_read_and_written_again() {
    let directory = std::env::temp_dir().join(format!("wasmill-interop-datums-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let [datums, schema] = ["datums", "schema.avsc"].map(|name| directory.join(name).display().to_string());
    python(&["datums", &datums, &schema]);
    let spec: CodecSpec =
        serde_json::from_value(json!({ "avro": { "schema_file": schema } })).expect("settings");
    let (reading, writing) =
        (now(spec.reading("x")).expect("settings"), now(spec.writing("x")).expect("settings"));
    let mut cutter = Length.cutter(Place::START, 1 << 20);
    cutter.feed(std::fs::read(&datums).expect("a file"));
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    cutter.take(&mut batch, usize::MAX, usize::MAX);
    assert_eq!(batch.records.len(), 100);
    let mut frame = FrameBuf::default();
    for (at, record) in batch.records.iter().enumerate() {
        reading.decoder.decode(record, &batch, &mut frame).expect("a message");
        let mut into = EncodedBatch::default();
        let written = writing.writer.write(frame.get(at), Takes::default(), &mut into).expect("a record");
        assert_eq!(into.data[written.value], batch.data[record.value.clone()], "datum {at}");
    }
    let payload = |at: usize| std::str::from_utf8(frame.get(at).payload()).expect("UTF-8");
    assert_eq!(
        payload(1),
        r#"{"ns":"2013-01-31T23:59:59.123456790Z","lns":"1969-12-31T23:59:59.999999999","dec":-0.001,"id":"00000000-0000-0000-0000-000000000001","bin":"00000000-0000-0001-0000-000000000000","took":"P1M2DT3.004S","more":0.001}"#
    );
    assert!(
        payload(2).contains(r#""took":"P2M2DT3.004S","more":{"ns":"2013-01-31T23:59:59.123456791Z""#),
        "{}",
        payload(2)
    );
    std::fs::remove_dir_all(&directory).expect("no more needed");
}
