//! How fast the ends are: `cargo run --release -p wasmill-connect --example speed`.

use std::time::Instant;

use wasmill_connect::codec::json::{JsonDecoder, JsonEncoder};
use wasmill_connect::file::{FileSinkSpec, FileSourceSpec};
use wasmill_connect::generator::GeneratorSourceSpec;
use wasmill_connect::store::DiskStore;
use wasmill_connect::table::{SinkConnector, SourceConnector};
use wasmill_connect::units::HumanSize;
use wasmill_connect::{Polled, Reader, Source};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId};
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::{Change, Checkpoint, Delta, StateStore};
use wasmill_frame::FrameBuf;

const MESSAGES: u64 = 1_000_000;
const BATCH: usize = 1000;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(run())
}

async fn read(source: &mut dyn Source) -> Fallible<Vec<RawBatch>> {
    source.partitions().await?;
    let mut reader: Box<dyn Reader> = source.open(0, 0).await?;
    let mut batches = Vec::new();
    while let Polled::Records(batch) = reader.poll(BATCH, 1 << 20).await? {
        batches.push(batch);
    }
    Ok(batches)
}

fn tell(what: &str, since: Instant, bytes: u64) {
    let s = since.elapsed().as_secs_f64();
    let (ns, mb) = (s * 1e9 / MESSAGES as f64, bytes as f64 / s / 1e6);
    println!("{what:<24} {ns:>6.0} ns a message   {:>5.2} M a second   {mb:>6.0} MB/s", 1e3 / ns);
}

async fn run() -> Fallible<()> {
    let directory = std::env::temp_dir().join(format!("wasmill-speed-{}", std::process::id()));
    let spec = GeneratorSourceSpec { count: Some(MESSAGES), padding: HumanSize(128), ..Default::default() };
    let start = Instant::now();
    let batches = read(&mut *spec.source()?).await?;
    let bytes: usize = batches.iter().flat_map(|b| &b.records).map(|r| r.value.len()).sum();
    tell("generator", start, bytes as u64);
    println!("({} bytes a message)", bytes as u64 / MESSAGES);

    let start = Instant::now();
    let mut frames = Vec::new();
    for batch in &batches {
        let mut frame = FrameBuf::with_capacity(BATCH, batch.data.len());
        for r in &batch.records {
            JsonDecoder.decode(r, &batch.data, &mut frame)?;
        }
        frames.push(frame);
    }
    tell("decode", start, bytes as u64);

    let start = Instant::now();
    let id = OutputId::Message {
        partition: PartitionId { source: 0, partition: 0 },
        offset: 0,
        index: 0,
        emit: 0,
        left_at: "",
    };
    let mut encoded = Vec::new();
    for frame in &frames {
        let mut batch = EncodedBatch::default();
        for message in frame.view().iter() {
            JsonEncoder.encode(message, &id, &mut batch)?;
        }
        encoded.push(batch);
    }
    tell("encode", start, bytes as u64);

    let start = Instant::now();
    let mut sink = FileSinkSpec::new(&directory).sink()?;
    sink.recover(None).await?;
    for batch in &encoded {
        sink.write(batch).await?;
    }
    sink.flush().await?;
    sink.publish().await?;
    sink.close(true).await?;
    tell("file sink, one flush", start, bytes as u64);

    let pattern = format!("{}/part-000001.jsonl", directory.display());
    let mut source = FileSourceSpec::new(pattern).source()?;
    source.partitions().await?;
    let mut reader = source.open(0, 0).await?;
    let (start, mut lines) = (Instant::now(), 0);
    while let Polled::Records(batch) = reader.poll(BATCH, 1 << 20).await? {
        lines += batch.records.len();
    }
    let s = start.elapsed().as_secs_f64();
    println!(
        "file source {:>19.0} ns a message   {:>5.2} M a second",
        s * 1e9 / lines as f64,
        lines as f64 / s / 1e6
    );

    let store = DiskStore::open(&directory.join("state"))?;
    let start = Instant::now();
    for epoch in 1..=50u64 {
        let changes = (0..1000u64).map(|i| {
            let key = ((epoch * 1000 + i) % 20_000).to_be_bytes().to_vec();
            Change { key, value: Some(vec![0; 100]), share: None }
        });
        let checkpoint = Checkpoint {
            epoch,
            generation: 0,
            shape: String::new(),
            stream_time: 0,
            positions: Vec::new(),
            sinks: Vec::new(),
            counts: Default::default(),
        };
        store.commit(&Delta { changes: changes.collect() }, &checkpoint)?;
    }
    println!(
        "disk store               {:>6.1} ms a commit of 1000 entries of 100 bytes",
        start.elapsed().as_secs_f64() * 20.0
    );
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
