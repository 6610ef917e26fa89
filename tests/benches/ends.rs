//! The sinks of NATS, Redis and PostgreSQL beside bare loops with the same clients, by turns.

use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use wasmill_tests::Place;

use crate::clock::Times;
use crate::nats::NatsServer;
use crate::postgres::PostgresServer;
use crate::report::{Report, Row, Target};
use crate::servers::RedisServer;

/// What a run writes.
const MESSAGES: usize = 400_000;
const RUNS: usize = 3;
const PADDING: usize = 64;
/// How many messages to NATS are without their answer at once, and entries to Redis in a pipeline.
const AT_ONCE: usize = 4_096;
/// The rows of one transaction.
const ROWS: usize = 10_000;
const DATABASE: &str = "postgres";

/// A message as the generator makes it.
fn message(nth: usize) -> String {
    let pad = "x".repeat(PADDING);
    let time = 1_704_067_200_000_u64 + 10 * nth as u64;
    format!(
        r#"{{"id":"0-{nth}","type":"reading","payload":{{"key":"k{}","value":{},"pad":"{pad}"}},"timestamp":{time},"metadata":{{}}}}"#,
        nth % 100,
        nth % 1_000
    )
}

/// Runs a pipeline from the generator into a sink to its end; messages a second, from its readiness on.
fn wasmill(run: usize, sink: &str, more: &str) -> f64 {
    let place = Place::new();
    place.file(
        "pipeline.yaml",
        format!(
            "name: bench-{run}\nsource: {{ generator: {{ count: {MESSAGES}, padding: {PADDING}B }} }}\nstages: []\nsink: {{ {sink} }}\nhttp: off\n{more}"
        ),
    );
    let mut running = place.pipeline().start();
    let log = running.log();
    running.until("running", || log.says("ready_in_ms"));
    let begun = Instant::now();
    running.wait().exits(0);
    MESSAGES as f64 / begun.elapsed().as_secs_f64()
}

fn rate(begun: Instant) -> f64 {
    MESSAGES as f64 / begun.elapsed().as_secs_f64()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap_or_else(|e| panic!("a runtime: {e}")).block_on(work)
}

/// Measures all three.
pub fn measure(report: &mut Report) {
    nats(report);
    redis(report);
    postgres(report);
}

fn compare(
    report: &mut Report,
    what: &str,
    mut bare: impl FnMut(usize) -> f64,
    mut ours: impl FnMut(usize) -> f64,
) -> Times {
    let (mut bares, mut all) = (Times::default(), Times::default());
    for run in 0..RUNS {
        bares.push(bare(run));
        all.push(ours(run));
    }
    report.push(Row::figure(what, "a bare loop with the same client", &bares, "messages/s", None));
    let aim = Some(Target::Aim((bares.max() / 2.0).round()));
    report.push(Row::figure(what, "generator → wasmill, exactly once", &all, "messages/s", aim));
    all
}

const EXACT: &str = "data_dir: data\ndelivery: exactly_once\n";

fn nats(report: &mut Report) {
    let server = NatsServer::start();
    for run in 0..RUNS {
        server.create(&format!("BARE{run}"), &[&format!("bare.{run}")]);
        server.create(&format!("OURS{run}"), &[&format!("ours.{run}")]);
    }
    let url = server.url();
    let bare = |run| {
        block_on(async {
            let client = async_nats::connect(&url).await.unwrap_or_else(|e| panic!("{e}"));
            let stream = async_nats::jetstream::new(client);
            let begun = Instant::now();
            let mut waiting = std::collections::VecDeque::new();
            for nth in 0..MESSAGES {
                let ack = stream.publish(format!("bare.{run}"), message(nth).into()).await;
                waiting.push_back(ack.unwrap_or_else(|e| panic!("{e}")));
                if waiting.len() >= AT_ONCE
                    && let Some(ack) = waiting.pop_front()
                {
                    ack.await.unwrap_or_else(|e| panic!("{e}"));
                }
            }
            for ack in waiting {
                ack.await.unwrap_or_else(|e| panic!("{e}"));
            }
            rate(begun)
        })
    };
    let ours = |run| wasmill(run, &format!("nats: {{ url: \"{url}\", subject: ours.{run} }}"), EXACT);
    compare(report, "→ NATS JetStream", bare, ours);
}

fn redis(report: &mut Report) {
    let Some(server) = RedisServer::start("the Redis figures") else { return };
    let bare = |run| {
        let mut connection = server.connection();
        let begun = Instant::now();
        for first in (0..MESSAGES).step_by(AT_ONCE) {
            let mut pipe = redis::pipe();
            for nth in first..(first + AT_ONCE).min(MESSAGES) {
                pipe.cmd("XADD")
                    .arg(format!("bare-{run}"))
                    .arg("*")
                    .arg("message")
                    .arg(message(nth))
                    .ignore();
            }
            pipe.exec(&mut connection).unwrap_or_else(|e| panic!("{e}"));
        }
        let rate = rate(begun);
        server.say(&["DEL", &format!("bare-{run}")]);
        rate
    };
    let url = server.url();
    let ours = |run| {
        let rate = wasmill(run, &format!("redis: {{ url: \"{url}\", stream: ours-{run} }}"), EXACT);
        server.say(&["DEL", &format!("ours-{run}")]);
        rate
    };
    compare(report, "→ Redis Streams", bare, ours);
}

fn postgres(report: &mut Report) {
    let server = PostgresServer::start();
    let table = |name: &str| {
        server.psql(
            DATABASE,
            &format!("CREATE TABLE {name} (id text PRIMARY KEY, kind text, key text, value int, at timestamptz, payload jsonb)"),
        );
    };
    let url = server.url(DATABASE);
    let bare = |run| {
        let name = format!("bare{run}");
        table(&name);
        block_on(async {
            let (mut client, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap_or_else(|e| panic!("{e}"));
            tokio::spawn(connection);
            let begun = Instant::now();
            for first in (0..MESSAGES).step_by(ROWS) {
                let mut rows = String::new();
                for nth in first..first + ROWS {
                    let (key, value, pad) = (nth % 100, nth % 1_000, "x".repeat(PADDING));
                    rows.push_str(&format!(
                        "0-{nth}\treading\tk{key}\t{value}\t2024-01-01 00:00:00+00\t{{\"key\":\"k{key}\",\"value\":{value},\"pad\":\"{pad}\"}}\n"
                    ));
                }
                let transaction = client.transaction().await.unwrap_or_else(|e| panic!("{e}"));
                let copy = transaction.copy_in(&format!("COPY {name} FROM STDIN")).await;
                let mut copy = std::pin::pin!(copy.unwrap_or_else(|e| panic!("{e}")));
                copy.send(bytes::Bytes::from(rows)).await.unwrap_or_else(|e| panic!("{e}"));
                copy.finish().await.unwrap_or_else(|e| panic!("{e}"));
                transaction.commit().await.unwrap_or_else(|e| panic!("{e}"));
            }
            rate(begun)
        })
    };
    let ours = |run| {
        let name = format!("ours{run}");
        table(&name);
        let columns =
            "{ id: id, kind: type, key: payload.key, value: payload.value, at: timestamp, payload: payload }";
        let sink = format!("postgres: {{ url: \"{url}\", table: {name}, columns: {columns} }}");
        wasmill(
            run,
            &sink,
            &format!("delivery: exactly_once\nepoch: {{ interval: {:?} }}\n", Duration::from_millis(200)),
        )
    };
    let all = compare(report, "→ PostgreSQL, a table with a primary key", bare, ours);
    let how = "rows a second into one indexed table";
    report.push(Row::figure(
        "→ PostgreSQL, a table with a primary key",
        how,
        &all,
        "rows/s",
        Some(Target::Aim(50_000.0)),
    ));
}
