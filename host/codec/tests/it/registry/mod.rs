//! The client of a schema registry: against a real one, and against one that says what a test has it say.

pub mod stub;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};
use serde_json::{Value, json};
use stub::{Answer, Asked, Stub};
use wasmill_codec::registry::{
    Fetched, Reference, Registered, Registry, RegistrySettings, SchemaKind, put_wire, wire,
};
use wasmill_codec::secret::Secret;
use wasmill_codec::{Ahead, CodecError};
use wasmill_engine::input::{RawBatch, RawRecord};
use wasmill_engine::position::PartitionId;

use crate::apicurio::{Apicurio, free_port, shared};

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn registry(url: &str) -> Registry {
    Registry::new(&RegistrySettings::new(url)).expect("good settings")
}

fn settings(json: Value) -> RegistrySettings {
    serde_json::from_value(json).expect("settings")
}

#[track_caller]
fn wrong<T: std::fmt::Debug>(result: Result<T, CodecError>) -> String {
    match result {
        Err(CodecError::Wrong(text)) => text,
        other => panic!("expected Wrong: {other:?}"),
    }
}

#[track_caller]
fn away<T: std::fmt::Debug>(result: Result<T, CodecError>) -> String {
    match result {
        Err(e @ CodecError::Away { .. }) => e.to_string(),
        other => panic!("expected Away: {other:?}"),
    }
}

fn avro(field: &str) -> Registered {
    let text = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"{field}","type":"int"}}]}}"#);
    Registered::new(SchemaKind::Avro, text)
}

/// A batch of values in the wire format, each with the id's digits as its body.
fn batch(ids: &[u32]) -> RawBatch {
    let mut batch = RawBatch::new(PartitionId { source: 0, partition: 0 });
    for id in ids {
        let start = batch.data.len();
        put_wire(*id, &mut batch.data);
        batch.data.extend_from_slice(id.to_string().as_bytes());
        batch.records.push(RawRecord { value: start..batch.data.len(), ..RawRecord::default() });
    }
    batch
}

#[test]
fn the_wire_format() {
    let mut value = Vec::new();
    put_wire(0x0102_0304, &mut value);
    assert_eq!(value, [0, 1, 2, 3, 4]);
    assert_eq!(wire(&value), Ok((0x0102_0304, &b""[..])));
    assert_eq!(wire(b"\0\xff\xff\xff\xffbody"), Ok((u32::MAX, &b"body"[..])));
    for (value, start) in [
        (&b""[..], "an empty value: expected the wire format of a schema registry: a zero byte"),
        (b"\0", "a value of 1 bytes: expected the wire format"),
        (b"\0\0\0\x01", "a value of 4 bytes: expected the wire format"),
        (b"{\"a\":1}", "the value begins with `{`, as JSON does: expected the wire format"),
        (b"\x01\0\0\0\x01", "the value begins with the byte 0x01: expected the wire format"),
    ] {
        let why = wire(value).expect_err("no wire format");
        assert!(why.starts_with(start), "{why}");
    }
}

#[test]
fn settings_that_are_wrong_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    };
    let empty = file("empty", "");
    let old = file("old.pem", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n");
    for (settings_json, expected) in [
        (json!({ "url": "" }), "registry: `url` has no URL"),
        (json!({ "url": [] }), "registry: `url` has no URL"),
        (json!({ "url": "registry:8081" }), "registry: `url` begins with registry:// : expected one such as"),
        (json!({ "url": "http://" }), "registry: `url` is no URL (empty host)"),
        (json!({ "url": "http://r/?a=b" }), "registry: `url` has `?` or `#` in it"),
        (json!({ "url": "http://r", "timeout": "0" }), "registry: `timeout` of 0"),
        (json!({ "url": "http://r", "password": "p" }), "registry: `password` without `user`: set both"),
        (json!({ "url": "http://r", "user": "u", "token": "t" }), "registry: `token` beside `user`"),
        (json!({ "url": "http://u:p@r", "token": "t" }), "registry: `token` beside a user in `url`"),
        (json!({ "url": "http://u:p@r", "user": "t" }), "registry: `user` beside a user in `url`"),
        (
            json!({ "url": "http://r", "ca_file": "/nowhere/ca" }),
            "registry: `ca_file`: cannot read /nowhere/ca: no such file",
        ),
        (json!({ "url": "http://r", "ca_file": empty }), "holds no certificates in PEM"),
        (
            json!({ "url": "http://r", "cert_file": empty }),
            "registry: `cert_file` without `key_file`: set both",
        ),
        (
            json!({ "url": "http://r", "key_file": empty }),
            "registry: `key_file` without `cert_file`: set both",
        ),
        (json!({ "url": "http://r", "cert_file": empty, "key_file": empty }), "holds no private key in PEM"),
        (
            json!({ "url": "http://r", "cert_file": empty, "key_file": old }),
            "`openssl pkcs8 -topk8 -nocrypt -in ",
        ),
    ] {
        let text = wrong(Registry::new(&settings(settings_json)));
        assert!(text.contains(expected), "{text}");
    }
    for bad in [json!({}), json!({ "url": 1 }), json!({ "url": "http://r", "usr": "u" })] {
        assert!(serde_json::from_value::<RegistrySettings>(bad).is_err());
    }
}

#[test]
fn secrets_are_not_shown() {
    let settings = settings(json!({
        "url": ["http://alice:hidden1@127.0.0.1:1/path", "http://127.0.0.1:2, http://127.0.0.1:3"],
    }));
    let with_user = RegistrySettings {
        user: Some("bob".into()),
        password: Some(Secret::new("hidden2")),
        token: Some(Secret::new("hidden3")),
        ..settings.clone()
    };
    let registry = Registry::new(&settings).expect("good settings");
    let error = run(registry.by_id(1)).expect_err("nobody is there");
    let shown = format!(
        "{with_user:?} {registry:?} {error:?} {error} {}",
        serde_json::to_string(&with_user).expect("JSON")
    );
    assert!(
        !shown.contains("hidden") || shown.matches("hidden").count() == shown.matches("(hidden)").count(),
        "{shown}"
    );
    let text = error.to_string();
    assert!(text.contains("http://127.0.0.1:1/path, http://127.0.0.1:2, http://127.0.0.1:3"), "{text}");
}

#[test]
fn a_schema_is_registered_once_and_found_again() {
    let server = shared();
    let registry = registry(&server.url());
    run(async {
        assert_eq!(registry.latest("once/ünd-value").await, Ok(None));
        assert_eq!(registry.id_of("once/ünd-value", &avro("a")).await, Ok(None));
        assert_eq!(registry.by_id(1_000_000).await, Ok(None));
        let id = registry.register("once/ünd-value", &avro("a")).await.expect("an id");
        assert_eq!(registry.register("once/ünd-value", &avro("a")).await, Ok(id));
        assert_eq!(registry.id_of("once/ünd-value", &avro("a")).await, Ok(Some(id)));
        assert_eq!(registry.id_of("once/ünd-value", &avro("b")).await, Ok(None));
        assert_eq!(registry.by_id(id).await, Ok(Some(avro("a"))));
        let next = registry.register("once/ünd-value", &avro("b")).await.expect("an id");
        assert_ne!(next, id);
        assert_eq!(registry.latest("once/ünd-value").await, Ok(Some((next, avro("b")))));
        assert_eq!(registry.by_id(id).await, Ok(Some(avro("a"))), "an id's meaning doesn't change");
    });
}

#[test]
fn what_is_written_has_a_schema_as_the_settings_say() {
    let server = shared();
    let url = server.url();
    let registering = registry(&url);
    let looking = Registry::new(&settings(json!({ "url": url, "register": false }))).expect("settings");
    let elsewhere = Registry::new(&settings(json!({ "url": url, "subject": "there" }))).expect("settings");
    run(async {
        let text = wrong(registering.for_writing("topic", SchemaKind::Avro, None).await);
        assert!(text.contains("it has no subject `topic-value`: register a schema under it"), "{text}");
        let text = wrong(looking.for_writing("topic", SchemaKind::Avro, Some(&avro("a"))).await);
        assert!(text.contains("subject `topic-value` doesn't have the schema of `schema_file`"), "{text}");
        let (id, _) =
            registering.for_writing("topic", SchemaKind::Avro, Some(&avro("a"))).await.expect("an id");
        for file in [None, Some(&avro("a"))] {
            assert_eq!(looking.for_writing("topic", SchemaKind::Avro, file).await, Ok((id, avro("a"))));
        }
        let text = wrong(looking.for_writing("topic", SchemaKind::Json, None).await);
        assert!(text.contains("is of the type AVRO, not JSON"), "{text}");
        elsewhere.for_writing("topic", SchemaKind::Avro, Some(&avro("there"))).await.expect("an id");
        assert!(registering.latest("there").await.expect("an answer").is_some());
    });
}

#[test]
fn a_schema_that_is_incompatible_or_none_is_refused_in_words() {
    let server = shared();
    let registry = registry(&server.url());
    run(async {
        registry.register("strict", &avro("a")).await.expect("an id");
        server.compatible_backward("strict");
        let text = wrong(registry.register("strict", &avro("b")).await);
        for part in [
            "the schema is incompatible with what subject `strict` has, saying: ",
            // Apicurio's words for the field.
            "b at /fields/0",
            "; compared with version 1, the latest",
            "; change the schema so that it is compatible, set another `subject`, or",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let none = Registered::new(SchemaKind::Avro, r#"{"type":"rec"#);
        let text = wrong(registry.register("none", &none).await);
        assert!(
            text.contains("it takes the schema under subject `none` for no valid AVRO schema, saying: "),
            "{text}"
        );
    });
}

fn proto(text: &str) -> Registered {
    Registered::new(SchemaKind::Protobuf, format!("syntax = \"proto3\"; package p; {text}"))
}

#[test]
fn references_come_with_a_schema_each_behind_its_own() {
    let server = shared();
    let registry = registry(&server.url());
    let reference = |name: &str, subject: &str, of: &Registered, direct| Reference {
        name: name.into(),
        subject: subject.into(),
        version: 1,
        text: of.text.clone(),
        direct,
    };
    run(async {
        let a = proto("message A { int32 a = 1; }");
        let b = proto("import \"a.proto\"; message B { A a = 1; }");
        let b = Registered { references: vec![reference("a.proto", "ref-a", &a, true)], ..b };
        let c = proto("import \"b.proto\"; message C { B b = 1; }");
        let direct = reference("b.proto", "ref-b", &b, true);
        let c = Registered { references: vec![direct.clone()], ..c };
        registry.register("ref-a", &a).await.expect("an id");
        registry.register("ref-b", &b).await.expect("an id");
        let id = registry.register("ref-c", &c).await.expect("an id");
        let expected =
            Registered { references: vec![reference("a.proto", "ref-a", &a, false), direct], ..c.clone() };
        assert_eq!(registry.by_id(id).await, Ok(Some(expected.clone())));
        assert_eq!(registry.latest("ref-c").await, Ok(Some((id, expected.clone()))));
        // As it was read it is the same schema still: what its references refer to isn't sent.
        assert_eq!(registry.id_of("ref-c", &expected).await, Ok(Some(id)));

        let inner = Registered::new(
            SchemaKind::Avro,
            r#"{"type":"record","name":"Inner","namespace":"n","fields":[]}"#,
        );
        registry.register("inner", &inner).await.expect("an id");
        let outer = Registered {
            kind: SchemaKind::Avro,
            text:
                r#"{"type":"record","name":"Outer","namespace":"n","fields":[{"name":"i","type":"n.Inner"}]}"#
                    .into(),
            references: vec![reference("n.Inner", "inner", &inner, true)],
        };
        let id = registry.register("outer", &outer).await.expect("an id");
        assert_eq!(registry.by_id(id).await, Ok(Some(outer)));
    });
}

#[test]
fn a_registry_that_is_down_is_waited_for() {
    let port = free_port();
    let server = Apicurio::start(port);
    let registry = registry(&server.url());
    let fetched = Fetched::new(registry.clone(), |schema| Ok(schema.text.clone()));
    run(async {
        let first = registry.register("s", &avro("a")).await.expect("an id");
        let second = registry.register("s", &avro("b")).await.expect("an id");
        fetched.bring(&batch(&[first])).await.expect("it is there");
        drop(server);
        let text = away(fetched.bring(&batch(&[first, second])).await);
        assert!(
            text.starts_with(&format!("schema registry {registry}: reading schema {second}: ")),
            "{text}"
        );
        // What was fetched is kept; what wasn't is no dead letter, but not known yet.
        assert_eq!(fetched.get(first), Some(Ok(Arc::new(avro("a").text))));
        assert_eq!(fetched.get(second), None);
        fetched.bring(&batch(&[first])).await.expect("it needs no registry");

        let _again = Apicurio::start(port);
        assert_eq!(registry.register("s", &avro("a")).await, Ok(first));
        assert_eq!(registry.register("s", &avro("b")).await, Ok(second));
        fetched.bring(&batch(&[first, second])).await.expect("it is back");
        assert_eq!(fetched.get(second), Some(Ok(Arc::new(avro("b").text))));
    });
}

fn schema_7(_: &Asked) -> Answer {
    (200, r#"{"schema":"\"int\""}"#.into())
}

#[test]
fn failures_say_whether_to_ask_again_and_what_to_do() {
    for (status, body, expected) in [
        (500, "down", Err("it answered 500 Internal Server Error, saying: down")),
        (503, r#"{"error_code":50003,"message":"no leader"}"#, Err("saying: no leader")),
        (429, "", Err("it answered 429 Too Many Requests")),
        (401, "", Ok("it answered 401 Unauthorized: set the right `user` and `password`, or `token`")),
        (403, "no", Ok("saying: no: the user, token or certificate must be allowed to do that")),
        (404, "<html>", Ok("set `url` to where its API is, of Apicurio with the path /apis/ccompat/v7")),
        (
            404,
            r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#,
            Ok("nothing of a schema registry is there"),
        ),
        (405, "", Ok("set `url` to where a schema registry's API is")),
        (
            302,
            "",
            Ok("it answered 302 Found to http://elsewhere/: set `url` to where the registry is; redirects"),
        ),
        (400, r#"{"error_code":40001,"message":"what"}"#, Ok("it answered 400 Bad Request, saying: what")),
        (200, "<html>", Ok("the answer is none of a schema registry's")),
        (200, r#"{"schema":1}"#, Ok("the answer is none of a schema registry's")),
        (
            200,
            r#"{"schema":"x","schemaType":"XML"}"#,
            Ok("schema 7 is of the type XML: expected AVRO, JSON or PROTOBUF"),
        ),
    ] {
        let stub = Stub::start(move |_| (status, body.to_owned()));
        let result = run(registry(&stub.url()).by_id(7));
        let (text, expected) = match expected {
            Ok(expected) => (wrong(result), expected),
            Err(expected) => (away(result), expected),
        };
        assert!(text.contains(expected), "{text}");
        assert!(text.starts_with(&format!("schema registry {}", stub.url())), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    let unused = format!("http://127.0.0.1:{}", free_port());
    let text = away(run(registry(&unused).by_id(7)));
    assert!(text.contains("reading schema 7: Connection refused"), "{text}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let patient = Registry::new(&settings(json!({ "url": url, "timeout": "50ms" }))).expect("settings");
    assert!(away(run(patient.by_id(7))).ends_with("reading schema 7: no answer in time"));
}

#[test]
fn of_several_urls_the_one_that_answers_is_asked() {
    let (down, up) = (Stub::start(|_| (503, String::new())), Stub::start(schema_7));
    let unused = format!("http://127.0.0.1:{}", free_port());
    let three = registry(&format!("{unused}, {}, {}", down.url(), up.url()));
    run(async {
        for _ in 0..3 {
            assert!(three.by_id(7).await.expect("an answer").is_some());
        }
    });
    assert_eq!((down.count(), up.count()), (1, 3), "what answered last is asked first");
    let none = registry(&format!("{unused},{}", down.url()));
    let text = away(run(none.by_id(7)));
    assert!(text.contains(&format!("{unused}: Connection refused")), "{text}");
    assert!(text.contains(&format!("; {}: it answered 503", down.url())), "{text}");
}

#[test]
fn who_asks_is_told() {
    let stub = Stub::start(schema_7);
    let at = |user: &str| format!("http://{user}127.0.0.1:{}", stub.port);
    for (json, expected) in [
        (json!({ "url": at("") }), None),
        (json!({ "url": at(""), "user": "alice", "password": "s:e" }), Some("Basic YWxpY2U6czpl")),
        (json!({ "url": at("alice:s%3Ae@") }), Some("Basic YWxpY2U6czpl")),
        (json!({ "url": at(""), "token": "t" }), Some("Bearer t")),
    ] {
        let registry = Registry::new(&settings(json)).expect("settings");
        assert!(run(registry.by_id(7)).is_ok());
        let asked = stub.asked.lock().expect("the log").pop().expect("a request");
        assert_eq!(asked.authorization.as_deref(), expected);
        assert_eq!(asked.what, "GET /schemas/ids/7");
    }
}

/// A certificate for 127.0.0.1, and its key.
fn certificate(folder: &Path, name: &str) -> (String, String) {
    let path = |ending: &str| folder.join(format!("{name}.{ending}")).to_string_lossy().into_owned();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-out", &path("pem"), "-keyout", &path("key")])
        .output()
        .expect("openssl: this test needs it");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (path("pem"), path("key"))
}

#[test]
fn a_registry_with_tls_is_trusted_by_a_file_and_asks_for_a_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, server_key) = certificate(folder.path(), "server");
    let (own, own_key) = certificate(folder.path(), "own");
    let acceptor = |asks: bool| {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("TLS");
        acceptor.set_certificate_chain_file(&server).expect("a certificate");
        acceptor.set_private_key_file(&server_key, SslFiletype::PEM).expect("a key");
        if asks {
            acceptor.set_ca_file(&own).expect("a certificate");
            acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        acceptor.build()
    };
    let by_id = |json: Value| run(Registry::new(&settings(json)).expect("settings").by_id(7));
    let plain = Stub::secure(acceptor(false), schema_7);
    let url = format!("https://127.0.0.1:{}", plain.port);
    let text = wrong(by_id(json!({ "url": url })));
    assert!(
        text.contains("the certificate is not trusted: name a file with its issuer's as `ca_file`"),
        "{text}"
    );
    let text = wrong(by_id(json!({ "url": url, "ca_file": own })));
    assert!(text.contains("the certificate is not trusted"), "{text}");
    assert!(by_id(json!({ "url": url, "ca_file": server })).is_ok());

    let asking = Stub::secure(acceptor(true), schema_7);
    let url = format!("https://127.0.0.1:{}", asking.port);
    let text = wrong(by_id(json!({ "url": url, "ca_file": server })));
    assert!(text.contains("set `cert_file` and `key_file` to a certificate that it trusts"), "{text}");
    assert!(by_id(json!({ "url": url, "ca_file": server, "cert_file": own, "key_file": own_key })).is_ok());
    let text =
        wrong(Registry::new(&settings(json!({ "url": url, "cert_file": own_key, "key_file": own_key }))));
    assert!(text.contains("are no certificate and its key, in PEM"), "{text}");

    let http = Stub::start(schema_7);
    let text = wrong(by_id(json!({ "url": format!("https://127.0.0.1:{}", http.port) })));
    assert!(text.contains("it speaks no TLS there: set `url` to http://"), "{text}");
}

#[test]
fn why_a_schema_is_incompatible_is_asked_for() {
    // As Confluent's own registry answers.
    let stub = Stub::start(|asked| {
        match asked.what.as_str() {
        "POST /subjects/s/versions" => (409, r#"{"error_code":409,"message":"Schema being registered is incompatible"}"#.into()),
        "POST /compatibility/subjects/s/versions/latest?verbose=true" => (200, r#"{"is_compatible":true}"#.into()),
        "POST /compatibility/subjects/s/versions?verbose=true" => (
            200,
            json!({ "is_compatible": false, "messages": [
                "{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'b' at path '/fields/0' in the new schema has no default value'}",
                "{oldSchemaVersion: 1}\n{compatibility: 'BACKWARD_TRANSITIVE'}",
            ] }).to_string(),
        ),
        other => panic!("{other}"),
    }
    });
    let text = wrong(run(registry(&stub.url()).register("s", &avro("b"))));
    assert!(
        text.contains(
            "saying: Schema being registered is incompatible; compared with all versions: {errorType:"
        ),
        "{text}"
    );
    assert!(text.contains("The field 'b' at path '/fields/0' in the new schema has no default value'}; {oldSchemaVersion: 1} {comp"), "{text}");
    let sent = &stub.asked.lock().expect("the log")[0].body;
    let sent: Value = serde_json::from_str(sent).expect("JSON");
    assert_eq!(sent, json!({ "schema": avro("b").text, "schemaType": "AVRO" }));
}

/// Schemas whose text is their number as text; of 404 and above there are none.
fn numbers(asked: &Asked) -> Answer {
    let id: u32 = asked.what.rsplit('/').next().and_then(|id| id.parse().ok()).expect("an id");
    match id {
        0..404 => (200, json!({ "schema": id.to_string() }).to_string()),
        _ => (404, r#"{"error_code":40403,"message":"Schema not found"}"#.into()),
    }
}

#[test]
fn each_schema_is_fetched_once_side_by_side() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // Nobody is answered before eight ask.
    let barrier = Barrier::new(8);
    let counted = (Arc::clone(&open), Arc::clone(&most));
    let stub = Stub::start(move |asked| {
        let now = counted.0.fetch_add(1, Ordering::SeqCst) + 1;
        counted.1.fetch_max(now, Ordering::SeqCst);
        barrier.wait();
        counted.0.fetch_sub(1, Ordering::SeqCst);
        numbers(asked)
    });
    let fetched = Arc::new(Fetched::new(registry(&stub.url()), |schema| {
        let number: u32 = schema.text.parse().map_err(|_| "no number".to_owned())?;
        if number == 13 { Err("unlucky".to_owned()) } else { Ok(number * 2) }
    }));
    let ids: Vec<u32> = (0..24).collect();
    let twice: Vec<u32> = ids.iter().chain(&ids).copied().collect();
    run(async {
        assert_eq!(fetched.get(3), None);
        let (twice, ids) = (batch(&twice), batch(&ids));
        let (one, other) = tokio::join!(fetched.bring(&twice), fetched.bring(&ids));
        one.and(other).expect("they are there");
    });
    for id in ids {
        let expected = if id == 13 { Err("schema 13: unlucky".to_owned()) } else { Ok(Arc::new(id * 2)) };
        assert_eq!(fetched.get(id), Some(expected.clone()));
        assert_eq!(fetched.get(id), Some(expected), "the thread's own");
    }
    assert_eq!(stub.count(), 24);
    assert_eq!(most.load(Ordering::SeqCst), 8);
    run(fetched.bring(&batch(&[13, 5, 5, 1]))).expect("they are there");
    assert_eq!(stub.count(), 24);
}

#[test]
fn threads_and_sources_don_t_mix_their_schemas() {
    let stub = Stub::start(numbers);
    let doubled = Fetched::new(registry(&stub.url()), |s| Ok(format!("{0}{0}", s.text)));
    let plain = Fetched::new(registry(&stub.url()), |s| Ok(s.text.clone()));
    run(async {
        doubled.bring(&batch(&[1, 2])).await.expect("they are there");
        plain.bring(&batch(&[1])).await.expect("it is there");
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    assert_eq!(doubled.with(1, |s| s.as_ref().map_or(0, |s| s.len())), Some(2));
                    assert_eq!(doubled.get(2), Some(Ok(Arc::new("22".to_owned()))));
                    assert_eq!(plain.get(1), Some(Ok(Arc::new("1".to_owned()))));
                    assert_eq!(plain.get(2), None);
                }
            });
        }
    });
}

#[test]
fn a_schema_that_was_unknown_is_asked_for_again_but_not_at_once() {
    let known = Arc::new(AtomicUsize::new(0));
    let knows = Arc::clone(&known);
    let stub = Stub::start(move |asked| match knows.load(Ordering::SeqCst) {
        0 => (404, r#"{"error_code":40403,"message":"Schema not found"}"#.into()),
        _ => numbers(asked),
    });
    let fetched = Fetched::new(registry(&stub.url()), |schema| Ok(schema.text.clone()));
    run(async {
        for _ in 0..10 {
            fetched.bring(&batch(&[7, 7])).await.expect("unknown is no failure");
            let why = fetched.get(7).expect("brought").expect_err("unknown");
            assert_eq!(
                why,
                format!(
                    "the schema registry {} has no schema with the id 7: register it there, then replay the message",
                    stub.url()
                )
            );
        }
        assert_eq!(stub.count(), 1);
        known.store(1, Ordering::SeqCst);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(11)).await;
        tokio::time::resume();
        fetched.bring(&batch(&[7])).await.expect("it is there");
        assert_eq!(fetched.get(7), Some(Ok(Arc::new("7".to_owned()))));
        assert_eq!(stub.count(), 2);
    });
}

#[test]
fn what_is_not_in_the_wire_format_is_passed_over() {
    let stub = Stub::start(numbers);
    let fetched = Fetched::new(registry(&stub.url()), |schema| Ok(schema.text.clone()));
    let mut batch = batch(&[1]);
    let start = batch.data.len();
    batch.data.extend_from_slice(b"{}\0\0\0\x02");
    let of = |value| RawRecord { value, ..RawRecord::default() };
    batch.records.push(of(start..start + 2));
    batch.records.push(of(start + 2..start + 6));
    batch.records.push(RawRecord { rejected: Some("too long".into()), ..of(0..5) });
    batch.records.push(RawRecord { tombstone: true, ..of(0..0) });
    run(fetched.bring(&batch)).expect("the decoder's to tell");
    assert_eq!(stub.count(), 1);
}

#[test]
fn a_schema_whose_references_are_broken_fails_alone() {
    let refers = |name: &str, version: u32| json!([{ "name": name, "subject": name, "version": version }]);
    let stub = Stub::start(move |asked| {
        let path: Vec<&str> = asked.what.trim_start_matches("GET /").split(['/', '?']).collect();
        match path[..] {
            ["schemas", "ids", "1"] => (200, json!({ "schema": "1" }).to_string()),
            ["schemas", "ids", "2"] => {
                (200, json!({ "schema": "2", "references": refers("gone", 3) }).to_string())
            }
            ["schemas", "ids", "3"] => {
                (200, json!({ "schema": "3", "references": refers("n0", 1) }).to_string())
            }
            // Of a circle each is had once.
            ["schemas", "ids", "4"] => {
                (200, json!({ "schema": "4", "references": refers("self", 1) }).to_string())
            }
            ["subjects", "self", ..] => {
                (200, json!({ "schema": "s", "references": refers("self", 1) }).to_string())
            }
            ["subjects", name, ..] if name != "gone" => {
                let next: u32 = name[1..].parse().expect("a number");
                (
                    200,
                    json!({ "schema": name, "references": refers(&format!("n{}", next + 1), 1) }).to_string(),
                )
            }
            _ => (404, r#"{"error_code":40402,"message":"no"}"#.into()),
        }
    });
    let fetched = Fetched::new(registry(&stub.url()), |s| Ok((s.text.clone(), s.references.len())));
    run(fetched.bring(&batch(&[1, 2, 3, 4]))).expect("the others go on");
    assert_eq!(fetched.get(1), Some(Ok(Arc::new(("1".to_owned(), 0)))));
    let why = |id| fetched.get(id).expect("brought").expect_err("broken");
    assert!(
        why(2).ends_with(
            "schema 2: it refers to `gone`, version 3 of subject `gone`, which the registry doesn't have"
        ),
        "{}",
        why(2)
    );
    assert!(why(3).ends_with("schema 3: its references are more than 32 deep"), "{}", why(3));
    assert_eq!(fetched.get(4), Some(Ok(Arc::new(("4".to_owned(), 1)))));
}
