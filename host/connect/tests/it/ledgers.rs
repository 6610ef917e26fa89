//! What the processes of a pipeline agree on, over every source that is shared, on real servers.

use wasmill_connect::kafka::KafkaSourceSpec;
use wasmill_connect::nats::NatsSourceSpec;
use wasmill_connect::redis_streams::RedisSourceSpec;
use wasmill_connect::table::SourceSpec;
use wasmill_connect::{Ledger, Notes};

use crate::servers::RedisServer;
use crate::support::broker::Broker;
use crate::support::nats::NatsServer;

/// A process's ledger of a pipeline.
fn ledger(spec: &SourceSpec, pipeline: &str) -> Box<dyn Ledger> {
    spec.ledger(pipeline).expect("a good spec").expect("it is shared")
}

fn texts(read: Notes) -> Vec<String> {
    read.notes.into_iter().map(|note| String::from_utf8(note).expect("UTF-8")).collect()
}

/// Bytes that no compression makes shorter, so many.
fn bytes(count: usize) -> Vec<u8> {
    let next = |x: &u64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(1_u64), next).take(count).map(|x| (x >> 56) as u8).collect()
}

async fn keeps_to_the_contract(spec: &SourceSpec) {
    let name = spec.name();
    let (mut one, mut other) = (ledger(spec, "orders"), ledger(spec, "orders"));
    assert!(texts(one.read().await.expect(name)).is_empty(), "{name}: there is nothing yet");
    assert_eq!(one.fetch("a").await.expect(name), None, "{name}");

    one.add(b"first").await.expect(name);
    other.add("zweitens, \u{fc}ber\0".as_bytes()).await.expect(name);
    let both = ["first", "zweitens, \u{fc}ber\0"];
    assert_eq!(texts(one.read().await.expect(name)), both, "{name}");
    assert_eq!(texts(other.read().await.expect(name)), both, "{name}");
    assert!(texts(one.read().await.expect(name)).is_empty(), "{name}: each is read once");

    // Whoever adds, all see one order.
    let add = async |ledger: &mut Box<dyn Ledger>, who: &str| {
        for n in 0..10 {
            ledger.add(format!("{who} {n}").as_bytes()).await.expect(name);
        }
    };
    tokio::join!(add(&mut one, "one"), add(&mut other, "other"));
    let seen = texts(one.read().await.expect(name));
    assert_eq!(seen.len(), 20, "{name}");
    for who in ["one", "other"] {
        let own: Vec<&String> = seen.iter().filter(|note| note.starts_with(who)).collect();
        let due: Vec<String> = (0..10).map(|n| format!("{who} {n}")).collect();
        assert!(own.iter().zip(&due).all(|(seen, due)| *seen == due), "{name}: {seen:?}");
    }
    assert_eq!(texts(other.read().await.expect(name)), seen, "{name}");
    let late = texts(ledger(spec, "orders").read().await.expect(name));
    assert_eq!(late.len(), 22, "{name}: who comes later sees all");
    assert_eq!(late[2..], seen[..], "{name}");

    for count in [1, 300_000, 3_000_000] {
        let (file, named) = (bytes(count), format!("file-of-{count}"));
        one.keep(&named, &file).await.expect(name);
        // As where two processes are shown the same.
        tokio::try_join!(one.keep(&named, &file), other.keep(&named, &file)).expect(name);
        for ledger in [&mut ledger(spec, "orders"), &mut other] {
            let found = ledger.fetch(&named).await.expect(name);
            assert!(found.as_ref() == Some(&file), "{name}: {named} has {:?} bytes", found.map(|f| f.len()));
        }
    }
    assert_eq!(other.fetch("file-of-2").await.expect(name), None, "{name}");

    let mut others = ledger(spec, "payments");
    assert!(texts(others.read().await.expect(name)).is_empty(), "{name}: another pipeline agrees on its own");
    assert_eq!(others.fetch("file-of-1").await.expect(name), None, "{name}");
    others.keep("file-of-1", b"theirs").await.expect(name);
    others.add(b"theirs").await.expect(name);

    // What nobody needs any more goes, and may come again.
    let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<String>>();
    one.forget(&named(&["file-of-1", "file-of-3000000", "file-of-2"])).await.expect(name);
    one.forget(&[]).await.expect(name);
    for (file, is_there) in [("file-of-1", false), ("file-of-300000", true), ("file-of-3000000", false)] {
        assert_eq!(other.fetch(file).await.expect(name).is_some(), is_there, "{name}: {file}");
    }
    one.keep("file-of-1", &bytes(1)).await.expect(name);
    assert_eq!(other.fetch("file-of-1").await.expect(name), Some(bytes(1)), "{name}");

    // A list that is forgotten begins anew, also for who has read the old one, and it is this pipeline's alone.
    one.reset().await.expect(name);
    let mut fresh = ledger(spec, "orders");
    assert!(texts(fresh.read().await.expect(name)).is_empty(), "{name}");
    assert_eq!(fresh.fetch("file-of-300000").await.expect(name), None, "{name}");
    fresh.reset().await.expect(name);
    fresh.add(b"anew").await.expect(name);
    fresh.keep("file-of-1", &bytes(1)).await.expect(name);
    for (ledger, has_read) in [(&mut one, true), (&mut other, true), (&mut fresh, false)] {
        let read = ledger.read().await.expect(name);
        assert_eq!(read.is_anew, has_read, "{name}");
        assert_eq!(texts(read), ["anew"], "{name}");
        assert_eq!(ledger.fetch("file-of-1").await.expect(name), Some(bytes(1)), "{name}");
    }
    assert_eq!(texts(others.read().await.expect(name)), ["theirs"], "{name}");
    assert_eq!(others.fetch("file-of-1").await.expect(name).as_deref(), Some(&b"theirs"[..]), "{name}");
}

fn on_a_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

fn run(spec: &SourceSpec) {
    on_a_runtime(keeps_to_the_contract(spec));
}

#[test]
fn processes_agree_by_a_kafka_topic() {
    let broker = Broker::start();
    broker.create_topic("orders-in", 2, &[]);
    run(&SourceSpec::Kafka(KafkaSourceSpec::new(broker.address(), "orders-in", "orders")));
}

#[test]
fn processes_agree_by_a_nats_stream() {
    let nats = NatsServer::start();
    run(&SourceSpec::Nats(nats.source_fixture("ORDERS", &[b"{}".to_vec()])));
}

#[test]
fn processes_agree_by_a_redis_stream() {
    let Some(redis) = RedisServer::start("a ledger") else { return };
    run(&SourceSpec::Redis(RedisSourceSpec::new(redis.url(), "orders", "processes")));
}

#[test]
fn a_source_that_is_not_shared_has_no_ledger() {
    for name in SourceSpec::NAMES {
        let Ok(spec) = serde_json::from_value::<SourceSpec>(serde_json::json!(name)) else { continue };
        let has_one = spec.ledger("orders").expect("a good spec").is_some();
        assert_eq!(has_one, spec.traits().shared, "{name}");
    }
}

#[test]
fn a_nats_user_who_may_not_read_it_is_told_so() {
    let denied = "\"$JS.API.STREAM.MSG.GET.WASMILL-AGREED\"";
    let config = format!(
        "authorization {{ users: [
           {{ user: all, password: p }}
           {{ user: some, password: p, permissions: {{ publish: {{ deny: [{denied}] }} }} }}
         ] }}"
    );
    let nats = NatsServer::start_with(&config, "all:p@");
    let all = SourceSpec::Nats(nats.source_fixture("ORDERS", &[b"{}".to_vec()]));
    let url = format!("nats://some:p@{}", nats.address());
    let some = SourceSpec::Nats(NatsSourceSpec::new(url, "ORDERS", "contract"));
    on_a_runtime(async {
        ledger(&all, "orders").add(b"first").await.expect("allowed");
        let refused = ledger(&some, "orders").read().await.expect_err("not allowed").to_string();
        for words in ["ermissions", "allow this user", "WASMILL-AGREED"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
    });
}
