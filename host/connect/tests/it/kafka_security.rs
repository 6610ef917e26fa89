//! The Kafka connector on a real broker that asks who connects: users by PLAIN and SCRAM, TLS with a CA of its own,
//! certificates of clients; and what is told where the two don't come together. One broker serves the whole file.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use wasmill_connect::kafka::{
    Changelog, ExchangeMember, ExchangeSource, ExchangeTopic, KafkaSinkSpec, KafkaSourceSpec, Replayed,
    Transactions, delete_own_topics,
};
use wasmill_connect::table::{SinkConnector, SourceConnector};
use wasmill_connect::{ConnectorError, Polled, Reader, Source};
use wasmill_engine::output::{EncodedBatch, EncodedRecord};
use wasmill_engine::position::PartitionId;
use wasmill_engine::state::{Change, Checkpoint};

use crate::support::broker::{self, Broker};
use crate::support::certificates::{Authority, Pair};

/// How long anything may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const USERS: [(&str, &str); 1] = [("alice", "alice-secret")];
const KEY_PASSWORD: &str = "of-the-key";
/// The broker's listeners: users over TLS, users without, clients' certificates.
const SASL_SSL: usize = 0;
const SCRAM: usize = 1;
const MUTUAL: usize = 2;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// A broker, and what its clients have.
struct World {
    broker: Broker,
    directory: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        let ours = Authority::new("our CA");
        let stranger = Authority::new("another CA");
        ours.certificate_to(&file("ca.pem"));
        stranger.certificate_to(&file("other-ca.pem"));
        let client: Pair = ours.issue("a client", None);
        client.certificate_to(&file("client.pem"));
        client.key_to(&file("client.key"), None);
        client.key_to(&file("client-encrypted.key"), Some(KEY_PASSWORD));
        let other = stranger.issue("a stranger", None);
        other.certificate_to(&file("other.pem"));
        other.key_to(&file("other.key"), None);
        let of_broker = ours.issue("the broker", Some("127.0.0.1"));
        let broker = Broker::start_secured(&USERS, |tls| {
            ours.certificate_to(&tls.join("ca.pem"));
            of_broker.both_to(&tls.join("broker.pem"));
        });
        Self { broker, directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn at(&self, listener: usize) -> String {
        format!("127.0.0.1:{}", self.broker.secured_port(listener))
    }

    fn source(&self, brokers: &str, topic: &str, security: &Value) -> KafkaSourceSpec {
        let spec = json!({ "brokers": brokers, "topic": topic, "group": topic, "security": security });
        serde_json::from_value(spec).expect("a spec")
    }

    fn sink(&self, brokers: &str, topic: &str, security: &Value) -> KafkaSinkSpec {
        let spec = json!({ "brokers": brokers, "topic": topic, "security": security });
        serde_json::from_value(spec).expect("a spec")
    }

    fn tls(&self) -> Value {
        json!({ "ca_file": self.file("ca.pem") })
    }
}

/// A way to connect: its name, the listener, the spec's settings, and another client's for the same.
struct Way {
    name: &'static str,
    listener: usize,
    security: Value,
    other: Other,
}

/// A client that is not ours.
enum Other {
    /// kcat with these arguments. One with an old librdkafka knows a SCRAM that brokers refuse since CVE-2024-56128.
    Kcat(Vec<String>),
    /// Kafka's own, with a file of settings.
    Java(PathBuf),
}

impl Other {
    fn produce(&self, at: &str, topic: &str, lines: &[String]) {
        let text = lines.join("\n") + "\n";
        match self {
            Self::Kcat(settings) => {
                let own = ["-P", "-t", topic, "-p", "0"].map(str::to_owned);
                broker::kcat(at, &[settings, &own[..]].concat(), &text);
            }
            Self::Java(file) => {
                let settings = file.to_str().expect("UTF-8");
                let own = ["--topic", topic, "--producer.config", settings];
                broker::java_client("org.apache.kafka.tools.ConsoleProducer", at, &own, &text);
            }
        }
    }

    fn consume(&self, at: &str, topic: &str, count: usize) -> Vec<String> {
        let read = match self {
            Self::Kcat(settings) => {
                let own = ["-C", "-e", "-q", "-t", topic, "-o", "beginning"].map(str::to_owned);
                broker::kcat(at, &[settings, &own[..]].concat(), "")
            }
            Self::Java(file) => {
                let (settings, count) = (file.to_str().expect("UTF-8"), count.to_string());
                let from = ["--topic", topic, "--consumer.config", settings, "--from-beginning"];
                let own = [&from[..], &["--max-messages", &count]].concat();
                broker::java_client("org.apache.kafka.tools.consumer.ConsoleConsumer", at, &own, "")
            }
        };
        read.lines().map(str::to_owned).collect()
    }
}

fn ways(world: &World) -> Vec<Way> {
    let path = |name: &str| world.file(name).display().to_string();
    let user =
        |mechanism: &str| json!({ "mechanism": mechanism, "username": "alice", "password": USERS[0].1 });
    let kcat = |settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(name, value)| ["-X".to_owned(), format!("{name}={value}")]);
        Other::Kcat(settings.flatten().collect())
    };
    let ca = path("ca.pem");
    let java = |protocol: &str, mechanism: &str, module: &str| {
        let login = format!("org.apache.kafka.common.security.{module}");
        let properties = format!(
            "security.protocol={protocol}\nsasl.mechanism={mechanism}\nssl.truststore.type=PEM\nssl.truststore.location={ca}\nsasl.jaas.config={login} required username=\"alice\" password=\"{}\";\n",
            USERS[0].1
        );
        let file = world.file(&format!("{protocol}-{mechanism}.properties"));
        std::fs::write(&file, properties).expect("a file");
        Other::Java(file)
    };
    let scram = "scram.ScramLoginModule";
    std::fs::write(world.file("password"), format!("{}\n", USERS[0].1)).expect("a file");
    let of_file =
        json!({ "mechanism": "scram_sha_512", "username": "alice", "password_file": world.file("password") });
    let certificate = json!({
        "ca_file": world.file("ca.pem"),
        "certificate_file": world.file("client.pem"),
        "key_file": world.file("client-encrypted.key"),
        "key_password": KEY_PASSWORD,
    });
    vec![
        Way {
            name: "plain",
            listener: SASL_SSL,
            security: json!({ "tls": world.tls(), "sasl": user("plain") }),
            other: kcat(&[
                ("security.protocol", "sasl_ssl"),
                ("sasl.mechanism", "PLAIN"),
                ("sasl.username", "alice"),
                ("sasl.password", USERS[0].1),
                ("ssl.ca.location", &ca),
            ]),
        },
        Way {
            name: "scram-256",
            listener: SASL_SSL,
            security: json!({ "tls": world.tls(), "sasl": user("scram_sha_256") }),
            other: java("SASL_SSL", "SCRAM-SHA-256", scram),
        },
        Way {
            name: "scram-512",
            listener: SASL_SSL,
            security: json!({ "tls": world.tls(), "sasl": of_file }),
            other: java("SASL_SSL", "SCRAM-SHA-512", scram),
        },
        Way {
            name: "scram-without-tls",
            listener: SCRAM,
            security: json!({ "sasl": user("scram_sha_256") }),
            other: java("SASL_PLAINTEXT", "SCRAM-SHA-256", scram),
        },
        Way {
            name: "certificates",
            listener: MUTUAL,
            security: json!({ "tls": certificate }),
            other: kcat(&[
                ("security.protocol", "ssl"),
                ("ssl.ca.location", &ca),
                ("ssl.certificate.location", &path("client.pem")),
                ("ssl.key.location", &path("client.key")),
            ]),
        },
    ]
}

fn batch(texts: impl IntoIterator<Item = String>) -> EncodedBatch {
    let mut batch = EncodedBatch::default();
    for text in texts {
        let start = batch.data.len();
        batch.data.extend_from_slice(text.as_bytes());
        batch.records.push(EncodedRecord { value: start..batch.data.len(), ..EncodedRecord::default() });
    }
    batch
}

async fn values(reader: &mut dyn Reader, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        match patiently("records", reader.poll(1000, 1 << 20)).await.expect("records") {
            Polled::Records(batch) => found.extend(
                batch
                    .records
                    .iter()
                    .map(|r| String::from_utf8_lossy(&batch.data[r.value.clone()]).into_owned()),
            ),
            Polled::End => panic!("a topic has no end"),
        }
    }
    found
}

/// Takes all partitions as the host does: again and again while the other end is away.
async fn take_all(source: &mut dyn Source) {
    let taken = async {
        loop {
            match source.take_all().await {
                Ok(partitions) => return partitions,
                Err(ConnectorError::Disconnected { .. }) => {
                    tokio::time::sleep(Duration::from_millis(100)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(patiently("partitions", taken).await.len(), 1);
}

/// Asks again while the brokers say that they are not ready.
macro_rules! insist {
    ($call:expr) => {
        patiently(stringify!($call), async {
            loop {
                match $call.await {
                    Err(ConnectorError::Disconnected { .. }) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    answer => break answer.unwrap_or_else(|e| panic!("{}: {e}", stringify!($call))),
                }
            }
        })
        .await
    };
}

fn texts(of: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{of} {i}")).collect()
}

/// Our sink, our source, and a client that is not ours at the other end of each.
fn round_trip(world: &World, way: &Way) {
    let topic = format!("trip-{}", way.name);
    world.broker.create_topic(&topic, 1, &[]);
    let at = world.at(way.listener);
    let ours = texts("ours", 50);
    let theirs = texts("theirs", 50);
    block_on(async {
        let mut sink = world.sink(&at, &topic, &way.security).sink().expect("a sink");
        insist!(sink.recover(None));
        sink.write(&batch(ours.clone())).await.expect("written");
        patiently("flush", sink.flush()).await.expect("flushed");
        sink.close(true).await.expect("closed");
    });
    way.other.produce(&at, &topic, &theirs);
    let all: Vec<String> = ours.into_iter().chain(theirs).collect();
    assert_eq!(way.other.consume(&at, &topic, all.len()), all, "{}", way.name);

    let spec = world.source(&at, &topic, &way.security);
    block_on(async {
        let mut source = spec.source().expect("a source");
        take_all(&mut *source).await;
        let mut reader = source.open(0, 0).await.expect("a reader");
        assert_eq!(values(&mut *reader, all.len()).await, all, "{}", way.name);
        drop(reader);
        source.commit(&[(0, 100)]).await.expect("committed");
        source.close().await.expect("closed");
    });
    spec.reset().expect("the offsets are forgotten");
}

/// All that is exactly once: transactions, their offsets, the changelog, the exchange.
fn exactly_once(world: &World, way: &Way) {
    let (input, output) = (format!("in-{}", way.name), format!("out-{}", way.name));
    for topic in [&input, &output] {
        world.broker.create_topic(topic, 1, &[]);
    }
    let at = world.at(way.listener);
    let (source, sink) = (world.source(&at, &input, &way.security), world.sink(&at, &output, &way.security));
    let exchange = ExchangeTopic { topic: format!("x-{}", way.name), partitions: 1, key_groups: 1 };
    block_on(async {
        let transactions = Transactions::new(&sink, way.name).expect("transactions");
        let mut out = transactions.sink(&sink).expect("a sink");
        insist!(exchange.make(&transactions));
        let mut through = exchange.sink(&transactions);
        insist!(transactions.init());
        let changelog = insist!(Changelog::open(&transactions, way.name, 1));
        let mut read = source.source().expect("a source");
        take_all(&mut *read).await;
        let position = |offset| wasmill_engine::position::Position {
            incarnation: input.clone(),
            offset,
            index: 0,
            stream_time: 0,
            progress: wasmill_engine::position::Progress::Live,
        };
        let offsets = read.offsets(&[(0, position(7))]).expect("offsets").expect("some");
        let change = Change { key: b"k".to_vec(), value: Some(b"v".to_vec()), share: None };
        let checkpoint = Checkpoint {
            epoch: 1,
            generation: 0,
            shape: "shape".to_owned(),
            stream_time: 0,
            positions: Vec::new(),
            sinks: Vec::new(),
            counts: Default::default(),
            ..Checkpoint::default()
        };
        for (name, commits) in [("given up", false), ("committed", true)] {
            transactions.begin().await.expect("begun");
            out.write(&batch(texts(name, 3))).await.expect("written");
            through.write(&batch(texts(name, 3))).await.expect("written");
            changelog.write(0, &[&change], &checkpoint).await.expect("written");
            if commits {
                insist!(transactions.send_offsets(&std::sync::Arc::new(
                    read.offsets(&[(0, position(7))]).expect("offsets").expect("some")
                )));
            }
            insist!(transactions.flush());
            if commits { insist!(transactions.commit()) } else { insist!(transactions.abort()) }
        }
        drop(offsets);
        read.close().await.expect("closed");

        let mut of_output = world.source(&at, &output, &way.security).source().expect("a source");
        take_all(&mut *of_output).await;
        let mut reader = of_output.open(0, 0).await.expect("a reader");
        assert_eq!(values(&mut *reader, 3).await, texts("committed", 3), "{}", way.name);
        drop(reader);
        of_output.close().await.expect("closed");

        let mut member = insist!(ExchangeMember::join(exchange.clone(), &sink, None));
        let of = vec![(PartitionId { source: 0, partition: 0 }, input.clone())];
        let owned = insist!(member.settle(of.clone()));
        assert_eq!(owned, [0], "{}", way.name);
        let member = std::sync::Arc::new(tokio::sync::Mutex::new(member));
        insist!(ExchangeSource::new(&member, owned.clone()));

        let replayed = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            changelog.replay(0, 0, |said, _| {
                found.push(match said {
                    Replayed::Entry(key, value) => (key.to_vec(), value.map(<[u8]>::to_vec)),
                    Replayed::Checkpoint(checkpoint) => (checkpoint.shape.into_bytes(), None),
                });
                Ok(())
            })?;
            Ok::<_, ConnectorError>(found)
        });
        let replayed = replayed.await.expect("no panic").expect("replayed");
        assert_eq!(replayed, [(b"k".to_vec(), Some(b"v".to_vec())), (b"shape".to_vec(), None)]);
        transactions.close().await.expect("closed");
    });
    let own = [Changelog::topic_of(way.name)];
    delete_own_topics(&sink, &own).expect("deleted");
    delete_own_topics(&sink, &own).expect("nothing to delete");
}

/// What is told where a client isn't let in: by a source, by a sink and by transactions alike.
fn refused(world: &World, brokers: &str, security: Option<&Value>, is_fatal: bool, part: &str) {
    let told = |error: ConnectorError| {
        let text = error.to_string();
        assert!(text.contains(part) && text.contains(brokers), "{part}: {text}");
        assert!(!text.contains("secret"), "a password: {text}");
        assert_eq!(matches!(error, ConnectorError::Fatal(_)), is_fatal, "{error:?}");
    };
    let none = Value::Null;
    let security = security.unwrap_or(&none);
    let (source, sink) = (world.source(brokers, "any", security), world.sink(brokers, "any", security));
    block_on(async {
        let mut source = source.source().expect("a source");
        let mut to = sink.sink().expect("a sink");
        let transactions = Transactions::new(&sink, "any").expect("transactions");
        let also = transactions.sink(&sink).expect("a sink");
        let (a, b, c) = tokio::join!(source.partitions(), to.recover(None), transactions.init());
        drop(also);
        told(a.expect_err("refused"));
        told(b.expect_err("refused"));
        told(c.expect_err("refused"));
    });
}

/// librdkafka's own settings, as they were written before there was `security`.
fn by_properties(world: &World) {
    world.broker.create_topic("properties", 1, &[]);
    let properties = json!({
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": world.file("ca.pem"),
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "alice",
        "sasl.password": USERS[0].1,
    });
    let at = world.at(SASL_SSL);
    let spec = json!({ "brokers": at, "topic": "properties", "properties": properties });
    let to: KafkaSinkSpec = serde_json::from_value(spec).expect("a spec");
    let spec = json!({ "brokers": at, "topic": "properties", "group": "p", "properties": properties });
    let from: KafkaSourceSpec = serde_json::from_value(spec).expect("a spec");
    block_on(async {
        let mut sink = to.sink().expect("a sink");
        insist!(sink.recover(None));
        sink.write(&batch(texts("by", 10))).await.expect("written");
        patiently("flush", sink.flush()).await.expect("flushed");
        sink.close(true).await.expect("closed");
        let transactions = Transactions::new(&to, "properties").expect("transactions");
        insist!(transactions.init());
        let mut source = from.source().expect("a source");
        take_all(&mut *source).await;
        let mut reader = source.open(0, 0).await.expect("a reader");
        assert_eq!(values(&mut *reader, 10).await, texts("by", 10));
    });
}

type Refused<'a> = (&'a str, String, Option<Value>, bool, &'a str);

fn refusals(world: &World) -> Vec<Refused<'static>> {
    let user = |mechanism: &str, name: &str, password: &str| json!({ "mechanism": mechanism, "username": name, "password": password });
    let (tls, alice) = (world.tls(), user("scram_sha_256", "alice", "alice-secret"));
    let by = |tls: &Value, sasl: &Value| Some(json!({ "tls": tls, "sasl": sasl }));
    let at = |listener| world.at(listener);
    let user_wrong = "the brokers refuse this user or its password: see `security.sasl.username` and `security.sasl.password`";
    let own_certificate =
        "want a certificate of this client that they trust: see `security.tls.certificate_file`";
    let unknown_ca = "is not by a CA that is trusted";
    let strange = json!({ "ca_file": world.file("ca.pem"), "certificate_file": world.file("other.pem"), "key_file": world.file("other.key") });
    let localhost = format!("localhost:{}", world.broker.secured_port(SASL_SSL));
    vec![
        ("plain", at(SASL_SSL), by(&tls, &user("plain", "alice", "a wrong secret")), true, user_wrong),
        ("256", at(SASL_SSL), by(&tls, &user("scram_sha_256", "alice", "a wrong secret")), true, user_wrong),
        ("512", at(SASL_SSL), by(&tls, &user("scram_sha_512", "alice", "a wrong secret")), true, user_wrong),
        ("user", at(SASL_SSL), by(&tls, &user("scram_sha_512", "bob", "alice-secret")), true, user_wrong),
        (
            "mechanism",
            at(SCRAM),
            Some(json!({ "sasl": user("plain", "alice", "alice-secret") })),
            true,
            "the brokers don't offer this mechanism: see `security.sasl.mechanism`",
        ),
        ("CA", at(SASL_SSL), by(&json!({ "ca_file": world.file("other-ca.pem") }), &alice), true, unknown_ca),
        ("no CA", at(MUTUAL), Some(json!({ "tls": {} })), true, unknown_ca),
        ("host", localhost, by(&tls, &alice), true, "is for 127.0.0.1, not for localhost: use in `brokers`"),
        ("no certificate", at(MUTUAL), Some(json!({ "tls": tls })), true, own_certificate),
        ("strange certificate", at(MUTUAL), Some(json!({ "tls": strange })), true, own_certificate),
        (
            "no users",
            world.broker.address(),
            Some(json!({ "sasl": alice })),
            true,
            "takes no user: leave `security.sasl` out",
        ),
        ("nothing", at(SASL_SSL), None, false, "may be one for TLS or SASL: set `security`"),
        ("nobody", at(SCRAM), None, false, "may be one for TLS or SASL: set `security`"),
        (
            "users alone",
            at(SASL_SSL),
            Some(json!({ "sasl": alice })),
            false,
            "may be one for TLS or SASL: set `security`",
        ),
        (
            "TLS in vain",
            world.broker.address(),
            Some(json!({ "tls": tls })),
            false,
            "may be one without TLS: leave `security.tls` out",
        ),
    ]
}

/// A password that was right once: it is waited for until it is right again.
fn changed_meanwhile(world: &World) {
    let file = world.file("changing");
    let sasl = json!({ "mechanism": "plain", "username": "alice", "password_file": file });
    let security = json!({ "tls": world.tls(), "sasl": sasl });
    world.broker.create_topic("changed", 1, &[]);
    let mut source = world.source(&world.at(SASL_SSL), "changed", &security).source().expect("a source");
    block_on(async {
        for (password, part) in [
            (Some("alice-secret"), None),
            (Some("a wrong one"), Some("refuse this user or its password")),
            (None, Some("can't be read")),
            (Some(""), Some("holds no password")),
            (Some("alice-secret"), None),
        ] {
            match password {
                Some(password) => std::fs::write(&file, password).expect("a file"),
                None => std::fs::remove_file(&file).expect("a file"),
            }
            match (patiently("partitions", source.partitions()).await, part) {
                (Ok(found), None) => assert_eq!(found.len(), 1),
                (Err(error @ ConnectorError::Disconnected { .. }), Some(part)) => {
                    assert!(error.to_string().contains(part), "{part}: {error}");
                }
                (answer, _) => panic!("{part:?}: {answer:?}"),
            }
        }
    });
}

#[test]
fn the_connector_on_a_broker_that_asks_who_connects() {
    let world = World::start();
    let (ways, refusals) = (ways(&world), refusals(&world));
    std::thread::scope(|scope| {
        let named = |name: String| std::thread::Builder::new().name(name);
        for way in &ways {
            let run = || {
                round_trip(&world, way);
                exactly_once(&world, way);
            };
            named(way.name.to_owned()).spawn_scoped(scope, run).expect("a thread");
        }
        for (name, brokers, security, is_fatal, part) in &refusals {
            let run = || refused(&world, brokers, security.as_ref(), *is_fatal, part);
            named(format!("refused: {name}")).spawn_scoped(scope, run).expect("a thread");
        }
        scope.spawn(|| changed_meanwhile(&world));
        scope.spawn(|| by_properties(&world));
    });
}

#[test]
fn files_that_do_not_fit_are_told_before_anything_connects() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    let ca = Authority::new("a CA");
    ca.certificate_to(&file("ca.pem"));
    let (one, other) = (ca.issue("one", None), ca.issue("other", None));
    one.certificate_to(&file("one.pem"));
    one.key_to(&file("one.key"), Some("right"));
    other.key_to(&file("other.key"), None);
    std::fs::write(file("text"), "no certificate").expect("a file");
    let own = |key: &Path, password: Option<&str>| json!({ "certificate_file": file("one.pem"), "key_file": key, "key_password": password });
    let sasl = |password: &str| json!({ "sasl": { "mechanism": "plain", "username": "u", "password_file": file(password) } });
    for (security, part) in [
        (json!({ "tls": { "ca_file": file("none") } }), "security.tls.ca_file: "),
        (json!({ "tls": { "ca_file": file("text") } }), "holds no certificate in PEM"),
        (json!({ "tls": own(&file("text"), None) }), "security.tls.key_file: "),
        (json!({ "tls": own(&file("other.key"), None) }), "is not the key of the first certificate"),
        (json!({ "tls": own(&file("one.key"), None) }), "security.tls.key_password: it is missing"),
        (json!({ "tls": own(&file("one.key"), Some("wrong")) }), "security.tls.key_password: it is wrong"),
        (sasl("none"), "security.sasl.password_file: "),
    ] {
        let spec = json!({ "brokers": "127.0.0.1:1", "topic": "t", "group": "g", "security": security });
        let spec: KafkaSourceSpec = serde_json::from_value(spec).expect("a spec");
        let mut source = spec.source().expect("nothing is read yet");
        let error = block_on(source.partitions()).expect_err(part);
        assert!(matches!(&error, ConnectorError::Fatal(text) if text.contains(part)), "{part}: {error}");
    }
}
