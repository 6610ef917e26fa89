//! Rows, positions and state in PostgreSQL, against a real server. The store contract is in `stores.rs`.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmill_connect::codec::json::{self, JsonDecoder};
use wasmill_connect::postgres::{PostgresAddress, PostgresSinkSpec, PostgresStore};
use wasmill_connect::store::SharedPositions;
use wasmill_connect::table::SinkConnector;
use wasmill_connect::{ConnectorError, Sink, SinkTraits, Writer};
use wasmill_engine::input::{Decoder, RawBatch};
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId};
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::state::{Change, Checkpoint, Delta, StateStore, StoreError};
use wasmill_frame::FrameBuf;

use crate::support::postgres::PostgresServer;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

fn spec(server: &PostgresServer, database: &str, settings: Value) -> PostgresSinkSpec {
    let mut spec = json!({ "url": server.url(database) });
    spec.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
    serde_json::from_value(spec).expect("a spec")
}

fn at(server: &PostgresServer, database: &str) -> PostgresAddress {
    PostgresAddress::new(server.url(database))
}

fn partition(partition: u32) -> PartitionId {
    PartitionId { source: 0, partition }
}

fn checkpoint(epoch: u64, positions: &[(u32, u64)]) -> Checkpoint {
    let position = |offset| Position {
        incarnation: "topic id".into(),
        offset,
        index: 0,
        stream_time: 7,
        progress: Progress::Live,
    };
    Checkpoint {
        epoch,
        generation: 0,
        shape: "shape".into(),
        stream_time: i64::MIN,
        positions: positions.iter().map(|(p, offset)| (partition(*p), position(*offset))).collect(),
        sinks: Vec::new(),
        counts: BTreeMap::from([("read".into(), positions.iter().map(|(_, offset)| offset).sum())]),
        ..Checkpoint::default()
    }
}

fn state(key: &str, value: &str) -> Delta {
    Delta { changes: vec![Change { key: key.into(), value: Some(value.into()), share: None }] }
}

fn encode_into(encoder: &dyn Encoder, message: &Value, batch: &mut EncodedBatch) -> Result<(), String> {
    let line = message.to_string();
    let mut frame = FrameBuf::default();
    let raw = RawBatch::of_value(line.as_bytes());
    JsonDecoder.decode(&raw.records[0], &raw, &mut frame).expect("a message");
    let offset = batch.records.len() as u64;
    let id = OutputId::Message { partition: partition(0), offset, index: 0, emit: 0, left_at: "" };
    encoder.encode(frame.get(0), &id, batch)
}

/// Messages with these payloads.
fn batch(sink: &dyn Sink, payloads: &[Value]) -> EncodedBatch {
    let (encoder, mut batch) = (sink.encoder(&json::writing()), EncodedBatch::default());
    for (i, payload) in payloads.iter().enumerate() {
        let message = json!({"id": i.to_string(), "type": "t", "payload": payload});
        encode_into(&*encoder, &message, &mut batch).expect("a row");
    }
    batch
}

async fn put(sink: &mut dyn Sink, payloads: &[Value]) -> Result<(), ConnectorError> {
    let rows = batch(sink, payloads);
    sink.write(&rows).await?;
    sink.flush().await.map(drop)
}

/// A sink of a store, recovered.
fn sink_of(store: &Arc<PostgresStore>, spec: &PostgresSinkSpec) -> Box<dyn Sink> {
    let mut sink = store.sink(spec).expect("a sink");
    block_on(sink.recover(None)).expect("recovered");
    sink
}

/// Asks again for as long as the server is away.
fn patiently<T>(what: &str, mut ask: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let since = Instant::now();
    loop {
        match ask() {
            Err(StoreError::Away { what: tried, cause }) => {
                assert!(since.elapsed() < Duration::from_secs(30), "{what}: {tried}: {cause}");
                std::thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

#[test]
fn values_are_what_psql_shows_or_are_told() {
    let server = PostgresServer::start();
    server.psql("postgres", "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN small AS int CHECK (VALUE < 100); CREATE DOMAIN smaller AS small");
    let long = "x".repeat(60);
    let cases: Vec<(&str, Value, Result<&str, &str>)> = vec![
        ("bool", json!(true), Ok("true")),
        ("bool", json!("true"), Err("column `v` (boolean): \"true\" is neither true nor false")),
        ("int2", json!(-32768), Ok("-32768")),
        ("int2", json!(32768), Err("column `v` (smallint): 32768 is out of range")),
        ("int4", json!(2147483647), Ok("2147483647")),
        ("int4", json!(2147483648u64), Err("(integer): 2147483648 is out of range")),
        ("int4", json!(5.0), Ok("5")),
        ("int4", json!(5.5), Err("(integer): 5.5 is no integer")),
        ("int4", json!("5"), Err("(integer): \"5\" is no integer")),
        ("int4", json!({"a": 1}), Err("{\"a\":1} is no integer")),
        ("int8", json!(i64::MIN), Ok("-9223372036854775808")),
        ("int8", json!(u64::MAX), Err("(bigint): 18446744073709551615 is out of range")),
        ("float4", json!(1.5), Ok("1.5")),
        ("float4", json!(1e39), Err("(real): 1e+39 is out of range")),
        ("float8", json!(-1.25e-300), Ok("-1.25e-300")),
        ("float8", json!("x"), Err("(double precision): \"x\" is no number")),
        ("numeric", json!(0), Ok("0")),
        ("numeric", json!("12345678901234567890.123456789"), Ok("12345678901234567890.123456789")),
        ("numeric", json!(-0.00012), Ok("-0.00012")),
        ("numeric(5,2)", json!(123.455), Ok("123.46")),
        ("numeric(5,2)", json!(1234.5), Err("(numeric(5,2)): 1234.5 is out of range")),
        ("numeric", json!("much"), Err("is no number")),
        ("text", json!("a\tü\"\\'"), Ok("a\tü\"\\'")),
        ("text", json!(""), Ok("")),
        ("text", json!(12.50), Ok("12.5")),
        ("text", json!({"a": [1, 2]}), Ok("{\"a\":[1,2]}")),
        ("text", json!("a\0b"), Err("U+0000")),
        ("varchar(3)", json!("äöü"), Ok("äöü")),
        (
            "varchar(3)",
            json!("äöüx"),
            Err("(character varying(3)): \"äöüx\" is too long: 4 characters, of 3"),
        ),
        ("varchar(3)", json!("ab   "), Ok("ab ")),
        ("char(4)", json!("ab"), Ok("ab")),
        (
            "char(4)",
            json!(long),
            Err("(character(4)): \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… is too long"),
        ),
        ("json", json!({"b": 1, "a": [null]}), Ok("{\"b\":1,\"a\":[null]}")),
        ("jsonb", json!({"b": 1, "a": [null]}), Ok("{\"a\": [null], \"b\": 1}")),
        ("jsonb", json!("text"), Ok("\"text\"")),
        ("uuid", json!("7D444840-9dc0-11d1-b245-5ffdce74fad2"), Ok("7d444840-9dc0-11d1-b245-5ffdce74fad2")),
        ("uuid", json!("7d44"), Err("(uuid): \"7d44\" is no UUID")),
        ("bytea", json!("\\xDEADbeef"), Ok("\\xdeadbeef")),
        ("bytea", json!("3q2+7w=="), Ok("\\xdeadbeef")),
        ("bytea", json!("\\xDEA"), Err("(bytea): \"\\\\xDEA\" is neither base64 nor hex")),
        ("date", json!("1969-02-28"), Ok("1969-02-28")),
        ("date", json!(86_400_000), Ok("1970-01-02")),
        ("date", json!("2013-02-29"), Err("(date): \"2013-02-29\" is not a date")),
        ("timestamp", json!("2013-01-31T23:59:59.123456"), Ok("2013-01-31 23:59:59.123456")),
        ("timestamp", json!("2013-02-01T01:59:59+02:00"), Ok("2013-01-31 23:59:59")),
        ("timestamp", json!("soon"), Err("(timestamp without time zone): \"soon\" is not a time")),
        ("timestamptz", json!(1_359_676_799_999i64), Ok("2013-01-31 23:59:59.999+00")),
        ("timestamptz", json!("1900-01-01T00:00:00Z"), Ok("1900-01-01 00:00:00+00")),
        ("timestamptz", json!("2013-01-31T23:59:59"), Err("is not a time with its offset")),
        ("timestamptz", json!(i64::MAX), Err("is out of range")),
        ("text[]", json!(["a", null, "b,\"c"]), Ok("{a,NULL,\"b,\\\"c\"}")),
        ("int4[]", json!([]), Ok("{}")),
        (
            "int4[]",
            json!([1, "x"]),
            Err("(integer[]): [1,\"x\"] has an element, number 1, that is no integer"),
        ),
        ("float8[]", json!(1), Err("(double precision[]): 1 is no array")),
        ("mood", json!("ok"), Ok("ok")),
        ("mood", json!("angry"), Err("invalid input value for enum mood: \"angry\"")),
        ("inet", json!("10.0.0.1/8"), Ok("10.0.0.1/8")),
        ("smaller", json!(99), Ok("99")),
        ("smaller", json!(100), Err("violates check constraint")),
        (
            "int NOT NULL",
            json!(null),
            Err("column `v` (integer): it takes no NULL, and the message has nothing"),
        ),
        ("int", json!(null), Ok("NULL")),
    ];
    let tables: String =
        cases.iter().enumerate().map(|(i, (of, ..))| format!("CREATE TABLE t{i} (v {of});")).collect();
    server.psql("postgres", &tables);
    let mut told = Vec::new();
    for (number, (of, value, _)) in cases.iter().enumerate() {
        let settings =
            json!({"table": format!("t{number}"), "columns": {"v": "payload.a.v"}, "tls": "disable"});
        let mut sink = spec(&server, "postgres", settings).sink().expect("a sink");
        told.push(block_on(async {
            sink.recover(None).await.unwrap_or_else(|e| panic!("{of}: {e}"));
            let mut rows = EncodedBatch::default();
            let message = json!({"id": "1", "type": "t", "payload": {"a": {"v": value}}});
            encode_into(&*sink.encoder(&json::writing()), &message, &mut rows)?;
            sink.write(&rows).await.expect("written");
            sink.flush().await.unwrap_or_else(|e| panic!("{of} {value}: {e}"));
            match sink.refused().pop() {
                Some(refused) => Err(refused.reason),
                None => Ok(()),
            }
        }));
    }
    let each = (0..cases.len()).map(|i| format!("SELECT '{i}:' || coalesce(v::text, 'NULL') FROM t{i};"));
    let all: String = each.collect();
    let shown = server.psql("postgres", &format!("SET timezone = 'UTC'; SET bytea_output = hex; {all}"));
    let shown: BTreeMap<usize, &str> = shown
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(i, v)| (i.parse().expect("a number"), v))
        .collect();
    for (number, ((of, value, expected), told)) in cases.into_iter().zip(told).enumerate() {
        let shown = told.map(|()| shown[&number]);
        match (&shown, expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(*shown, expected, "{of} {value}"),
            (Err(told), Err(expected)) => assert!(told.contains(expected), "{of} {value}: {told}"),
            _ => panic!("{of} {value}: {shown:?}, expected {expected:?}"),
        }
    }

    // The parts of an envelope, and what columns of their names get by themselves.
    server.psql("postgres", "CREATE TABLE envelope (id int8, type text, key bytea, timestamp timestamptz, payload jsonb, metadata json, n int DEFAULT 7)");
    let mut sink = spec(&server, "postgres", json!({"table": "envelope"})).sink().expect("a sink");
    block_on(async {
        sink.recover(None).await.expect("recovered");
        let mut rows = EncodedBatch::default();
        let message = json!({"id": "42", "type": "seen", "payload": [1], "timestamp": 1000, "metadata": {"a": "x", "b": 1}});
        encode_into(&*sink.encoder(&json::writing()), &message, &mut rows).expect("a row");
        let not_json = json!({"id": "abc", "type": "t", "payload": 1});
        let error =
            encode_into(&*sink.encoder(&json::writing()), &not_json, &mut rows).expect_err("no number");
        assert_eq!(error, "column `id` (bigint): \"abc\" is no integer");
        sink.write(&rows).await.expect("written");
        sink.flush().await.expect("flushed");
    });
    let shown = server.psql("postgres", "SET timezone = 'UTC'; SELECT * FROM envelope");
    assert_eq!(shown, "42|seen||1970-01-01 00:00:01+00|[1]|{\"a\":\"x\",\"b\":1}|7");

    what_can_not_be_is_told_at_the_start(&server);
}

fn what_can_not_be_is_told_at_the_start(server: &PostgresServer) {
    server.psql(
        "postgres",
        "CREATE TABLE t (id int PRIMARY KEY, must text NOT NULL, twice int GENERATED ALWAYS AS (id * 2) STORED, moods mood[], p point[]);
         CREATE VIEW seen AS SELECT 1 AS id; CREATE TABLE plain (a int, b int); CREATE UNIQUE INDEX ON plain (a) WHERE b > 0;
         CREATE ROLE reader LOGIN; GRANT SELECT ON plain TO reader; CREATE ROLE guest LOGIN",
    );
    let url = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", server.port);
    let cases = [
        (json!({"table": "nowhere"}), "table `nowhere` (postgres://127.0.0.1"),
        (json!({"table": "nowhere"}), "it does not exist"),
        (json!({"table": "seen"}), "it is no table, but a view"),
        (json!({"table": "plain"}), "it has no column that is named id, type, key"),
        (
            json!({"table": "t"}),
            "column `must` (text) takes no NULL, has no default, and gets nothing of the messages",
        ),
        (
            json!({"table": "t", "columns": {"id": "id", "must": "type", "moos": "payload"}}),
            "it has no column `moos`: it has id, must, twice, moods, p; correct `columns`",
        ),
        (
            json!({"table": "t", "columns": {"id": "id", "must": "type", "twice": "payload"}}),
            "column `twice` (integer) is generated from others",
        ),
        (
            json!({"table": "t", "columns": {"id": "id", "must": "type", "moods": "payload"}}),
            "column `moods` has the type mood[], which wasmill can't write",
        ),
        (
            json!({"table": "plain", "columns": {"a": "id"}, "mode": "upsert", "key": ["a"]}),
            "it has no unique index over exactly (\"a\"), by which an upsert knows a row; run: CREATE UNIQUE INDEX ON \"plain\" (\"a\");",
        ),
        (
            json!({"table": "t", "columns": {"id": "id", "must": "type"}, "mode": "upsert", "key": ["id", "must"]}),
            "it has no unique index over exactly (\"id\", \"must\")",
        ),
        (
            json!({"table": "plain", "columns": {"a": "id"}, "url": url("reader", "postgres")}),
            "the user may not write to it; run: GRANT INSERT ON \"plain\" TO \"reader\";",
        ),
        (
            json!({"table": "plain", "columns": {"a": "id"}, "url": url("nobody", "postgres")}),
            "role \"nobody\" does not exist (SQLSTATE 28000); give the right user and password",
        ),
        (
            json!({"table": "plain", "columns": {"a": "id"}, "url": url("postgres", "nothing")}),
            "database \"nothing\" does not exist (SQLSTATE 3D000); create the database",
        ),
        (
            json!({"table": "plain", "columns": {"a": "id"}, "tls": "require"}),
            "turn `ssl` on at the server, or set `tls: disable`",
        ),
        (
            json!({"table": "plain", "columns": {"a": "id"}, "password_file": "/no/such/file"}),
            "its `password_file` /no/such/file can't be read",
        ),
    ];
    for (settings, part) in cases {
        let mut sink = spec(server, "postgres", settings.clone()).sink().expect("a sink");
        let error = block_on(sink.recover(None)).expect_err(part);
        assert!(
            matches!(&error, ConnectorError::Fatal(text) if text.contains(part)),
            "{settings}: {error:?}"
        );
    }
    let nobody = PostgresSinkSpec::new("postgres://u:secret@127.0.0.1:1/d", "t");
    let error = block_on(nobody.sink().expect("a sink").recover(None)).expect_err("away");
    assert!(matches!(error, ConnectorError::Disconnected { .. }), "{error:?}");
    assert!(!format!("{nobody:?} {error:?}").contains("secret"));
    for (settings, part) in [
        (json!({"url": "http://x", "table": "t"}), "url: this is no address of a PostgreSQL database"),
        (json!({"url": "postgres://u:secret@h:port/x", "table": "t"}), "url: this is no address"),
        (json!({"url": "postgres://h/x", "table": "t"}), "url: it names no user"),
        (json!({"table": "a.b.c"}), "table: expected a table's name"),
        (json!({"table": "t", "mode": "upsert"}), "key: `mode: upsert` needs"),
        (json!({"table": "t", "key": ["a"]}), "key: it is for `mode: upsert`"),
        (
            json!({"table": "t", "columns": {"a": "paylod.x"}}),
            "columns: a: `paylod.x` is no place in a message",
        ),
        (
            json!({"table": "t", "columns": {"a": "id"}, "mode": "upsert", "key": ["b"]}),
            "key: `b` is not among `columns`",
        ),
        (json!({"table": "t", "cert_file": "x"}), "cert_file and key_file belong together"),
    ] {
        let error = spec(server, "postgres", settings.clone()).sink().err().expect(part).to_string();
        assert!(error.contains(part) && !error.contains("secret"), "{settings}: {error}");
    }
    // wasmill's own tables where they may not be made.
    let guest = PostgresAddress::new(url("guest", "postgres"));
    let error = PostgresStore::open_alone(&guest, "p").err().expect("not allowed").to_string();
    assert!(
        error.contains("CREATE SCHEMA IF NOT EXISTS \"wasmill\";\nCREATE TABLE IF NOT EXISTS"),
        "{error}"
    );

    // What may lose what it says is committed is no place for a pipeline that must be exact.
    server.psql("postgres", "CREATE DATABASE loose");
    server.psql("postgres", "ALTER DATABASE loose SET synchronous_commit = off");
    server.psql("loose", "CREATE TABLE t (id text)");
    let mut sink = spec(server, "loose", json!({"table": "t"})).sink().expect("a sink");
    block_on(sink.recover(None)).expect("at least once");
    sink.identify(Writer { exact: true, ..Writer::default() });
    let error = block_on(sink.recover(None)).expect_err("not exact").to_string();
    assert!(error.contains("its setting synchronous_commit is off"), "{error}");
}

#[test]
fn passwords_and_certificates_are_checked() {
    let server = PostgresServer::start();
    server.psql("postgres", "CREATE TABLE t (id text)");
    let ca = server.secure("let me in");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("password");
    std::fs::write(&file, "let me in\n").expect("a file");
    let with = format!("postgres://postgres:let%20me%20in@127.0.0.1:{}/postgres", server.port);
    let by_name = with.replace("127.0.0.1", "localhost");
    for (settings, expected) in [
        (json!({"url": with, "ca_file": ca}), Ok(())),
        (json!({"url": with, "tls": "require"}), Ok(())),
        (json!({"url": with}), Ok(())),
        (json!({"password_file": file, "ca_file": ca}), Ok(())),
        (json!({"url": with, "tls": "disable"}), Err("no pg_hba.conf entry")),
        (json!({"url": with, "tls": "verify"}), Err("the server's certificate is not trusted: name a file")),
        (json!({"url": by_name, "ca_file": ca}), Err("the server's certificate is not trusted")),
        (json!({}), Err("give the password in the address, or in a file named as `password_file`")),
        (
            json!({"url": with.replace("%20in", "%20out")}),
            Err("password authentication failed for user \"postgres\" (SQLSTATE 28P01); give the right user"),
        ),
    ] {
        let settings = [settings, json!({"table": "t"})];
        let mut all = serde_json::Map::new();
        settings.into_iter().for_each(|some| all.extend(some.as_object().expect("an object").clone()));
        let mut sink = spec(&server, "postgres", all.into()).sink().expect("a sink");
        match (block_on(sink.recover(None)), expected) {
            (Ok(()), Ok(())) => {}
            (Err(ConnectorError::Fatal(text)), Err(part)) => {
                assert!(text.contains(part) && !text.contains("let me"), "{part}: {text}");
            }
            (other, expected) => panic!("{other:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn rows_that_are_refused_leave_the_others_and_upserts_take_their_place() {
    let server = PostgresServer::start();
    let show = |sql: &str| server.psql("postgres", sql);
    show(
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);
         CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n >= 0), parent int REFERENCES parent);
         CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN IF NEW.n = 13 THEN RAISE EXCEPTION 'unlucky'; END IF; RETURN NEW; END$$;
         CREATE TRIGGER unlucky BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION unlucky();
         CREATE TABLE dead (id text, payload jsonb)",
    );
    let store = Arc::new(PostgresStore::open_alone(&at(&server, "postgres"), "p").expect("a store"));
    let columns = json!({"id": "payload.id", "n": "payload.n", "parent": "payload.parent"});
    let mut sink =
        sink_of(&store, &spec(&server, "postgres", json!({"table": "public.t", "columns": columns})));
    let mut dead = sink_of(&store, &spec(&server, "postgres", json!({"table": "dead"})));
    assert_eq!(sink.traits(), SinkTraits { transactional: true, refuses_repeats: true, by_token: false });
    let mut rows: Vec<Value> = (0..2000).map(|id| json!({"id": id, "n": 1})).collect();
    rows[0] = json!({"id": 0, "n": -1});
    rows[500] = json!({"id": 499, "n": 5});
    rows[501] = json!({"id": 501, "n": 1, "parent": 9});
    rows[1000] = json!({"id": 1000, "n": 13});
    rows[1999] = json!({"id": 1998, "n": null});
    block_on(put(&mut *sink, &rows)).expect("flushed");
    let refused = sink.refused();
    assert_eq!(refused.iter().map(|r| r.nth).collect::<Vec<_>>(), [0, 500, 501, 1000, 1999]);
    for (refused, part) in refused.iter().zip([
        "table `public.t`: the table refuses the row: new row for relation \"t\" violates check constraint \"t_n_check\"",
        "a row with this key is there already by constraint `t_pkey`: use `mode: upsert`",
        "write the row that constraint `t_parent_fkey` refers to first",
        "unlucky (SQLSTATE P0001)",
        "a row with this key is there already",
    ]) {
        assert!(refused.reason.contains(part), "{}", refused.reason);
    }
    let told: Value = serde_json::from_slice(&refused[2].value).expect("JSON");
    assert_eq!(told, json!({"id": 501, "n": 1, "parent": 9}));
    assert_eq!(sink.refused(), []);
    // Two tables in one transaction: nothing of either is seen before the commit.
    block_on(put(&mut *dead, &[json!("one")])).expect("flushed");
    assert_eq!(show("SELECT count(*) FROM t"), "0");
    store.commit(&Delta::default(), &checkpoint(1, &[])).expect("a commit");
    assert_eq!(show("SELECT count(*), sum(n) FROM t"), "1995|1995");
    assert_eq!(show("SELECT * FROM dead"), "0|\"one\"");

    // A run that ends before its commit leaves nothing.
    block_on(put(&mut *sink, &[json!({"id": 5000})])).expect("flushed");
    block_on(sink.recover(None)).expect("recovered");
    store.commit(&Delta::default(), &checkpoint(2, &[])).expect("a commit");
    assert_eq!(show("SELECT count(*) FROM t"), "1995");

    show("CREATE TABLE u (a text, b int, n int, mood text DEFAULT 'ok', UNIQUE (b, a))");
    let columns = json!({"a": "payload.a", "b": "payload.b", "n": "payload.n"});
    let settings = json!({"table": "u", "columns": columns, "mode": "upsert", "key": ["a", "b"]});
    let upsert = spec(&server, "postgres", settings);
    assert!(upsert.sink().expect("a sink").traits().refuses_repeats);
    let mut sink = sink_of(&store, &upsert);
    let row = |a: &str, b: i32, n: i32| json!({"a": a, "b": b, "n": n});
    block_on(put(&mut *sink, &[row("x", 1, 1), row("y", 1, 2), row("x", 1, 3), row("x", 2, 4)]))
        .expect("flushed");
    // A second time in the same transaction.
    block_on(put(&mut *sink, &[row("y", 1, 5)])).expect("flushed");
    store.commit(&Delta::default(), &checkpoint(3, &[])).expect("a commit");
    block_on(put(&mut *sink, &[row("x", 2, 6), row("z", 0, 7)])).expect("flushed");
    store.commit(&Delta::default(), &checkpoint(4, &[])).expect("a commit");
    assert_eq!(show("SELECT a, b, n, mood FROM u ORDER BY 1, 2"), "x|1|3|ok\nx|2|6|ok\ny|1|5|ok\nz|0|7|ok");
    let mut rows = EncodedBatch::default();
    let no_key = json!({"id": "1", "type": "t", "payload": {"a": "x"}});
    let error = encode_into(&*sink.encoder(&json::writing()), &no_key, &mut rows).expect_err("no key");
    assert!(error.contains("column `b` (integer): it is a part of the key"), "{error}");

    // A table that is changed under way: its rows' bytes would mean something else.
    show("ALTER TABLE u ALTER n TYPE real");
    let error = block_on(put(&mut *sink, &[row("x", 1, 1)])).expect_err("changed");
    assert!(
        matches!(&error, ConnectorError::Outdated(text) if text.contains("its columns were changed")),
        "{error:?}"
    );
    block_on(sink.recover(None)).expect("recovered");
    block_on(put(&mut *sink, &[row("x", 1, 1)])).expect("flushed");
    store.commit(&Delta::default(), &checkpoint(5, &[])).expect("a commit");

    // A sink alone commits with each flush, and what it is refused is told all the same.
    show("CREATE TABLE alone (id int PRIMARY KEY)");
    let alone = spec(&server, "postgres", json!({"table": "alone", "columns": {"id": "payload"}}));
    let mut sink = alone.sink().expect("a sink");
    assert_eq!(sink.traits(), SinkTraits { transactional: false, refuses_repeats: false, by_token: false });
    block_on(sink.recover(None)).expect("recovered");
    block_on(put(&mut *sink, &[json!(1), json!(2), json!(1)])).expect("flushed");
    assert_eq!(sink.refused().iter().map(|r| r.nth).collect::<Vec<_>>(), [2]);
    assert_eq!(show("SELECT count(*) FROM alone"), "2");
}

/// A constraint that sleeps at COMMIT for a row of one second's n.
fn sleeping(server: &PostgresServer) {
    server.psql(
        "postgres",
        "CREATE TABLE t (id int PRIMARY KEY, wait real);
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN IF NEW.wait > 0 AND NOT EXISTS (SELECT FROM pg_class WHERE relname = 'awake')
             THEN PERFORM pg_sleep(NEW.wait); END IF; RETURN NULL; END$$;
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION slow()",
    );
}

const COMMITTING: &str = "FROM pg_stat_activity WHERE starts_with(application_name, 'wasmill w:') AND query = 'COMMIT' AND state = 'active'";

fn until(server: &PostgresServer, sql: &str, expected: &str) {
    let since = Instant::now();
    while server.psql("postgres", sql) != expected {
        assert!(since.elapsed() < Duration::from_secs(20), "{sql} does not become {expected}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn rows_and_positions_are_committed_together_whatever_breaks() {
    let mut server = PostgresServer::start();
    sleeping(&server);
    let columns = json!({"id": "payload.id", "wait": "payload.wait"});
    let spec = spec(&server, "postgres", json!({"table": "t", "columns": columns}));
    let store = Arc::new(PostgresStore::open_alone(&at(&server, "postgres"), "p").expect("a store"));
    let mut sink = sink_of(&store, &spec);
    let stored = |server: &PostgresServer| {
        server.psql("postgres", "SELECT (SELECT count(*) FROM t), epoch, encode(value, 'escape') FROM wasmill.pipelines JOIN wasmill.state USING (pipeline)")
    };

    // The server is ended before the commit: the rows are written again.
    block_on(put(&mut *sink, &[json!({"id": 1})])).expect("flushed");
    server.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, 'wasmill w:')");
    patiently("a commit", || store.commit(&state("k", "1"), &checkpoint(1, &[(0, 1)]))).expect("a commit");
    assert_eq!(stored(&server), "1|1|1");

    // It is ended in the middle of the COMMIT, which fails: all is done again.
    block_on(put(&mut *sink, &[json!({"id": 2, "wait": 5.0})])).expect("flushed");
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| store.commit(&state("k", "2"), &checkpoint(2, &[(0, 2)])));
        until(&server, &format!("SELECT count(*) {COMMITTING}"), "1");
        server.psql(
            "postgres",
            &format!("CREATE TABLE awake (); SELECT pg_terminate_backend(pid) {COMMITTING}"),
        );
        let error = committing.join().expect("no panic").expect_err("ended");
        assert!(matches!(error, StoreError::Away { .. }), "{error}");
    });
    assert_eq!(stored(&server), "1|1|1");
    patiently("a commit", || store.commit(&state("k", "2"), &checkpoint(2, &[(0, 2)]))).expect("a commit");
    assert_eq!(stored(&server), "2|2|2");
    server.psql("postgres", "DROP TABLE awake");

    // It commits, and the answer is lost: asked again, the store knows. The proxy drops what comes back.
    let proxy = Proxy::start(server.port);
    let through = PostgresAddress::new(format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port));
    let before = Arc::clone(&store);
    let store = Arc::new(PostgresStore::open_alone(&through, "p").expect("a store"));
    let mut sink = sink_of(&store, &PostgresSinkSpec { url: through.url.clone(), ..spec.clone() });
    block_on(put(&mut *sink, &[json!({"id": 3, "wait": 0.5})])).expect("flushed");
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| store.commit(&state("k", "3"), &checkpoint(3, &[(0, 3)])));
        until(&server, &format!("SELECT count(*) {COMMITTING}"), "1");
        proxy.cut();
        let error = committing.join().expect("no panic").expect_err("cut off");
        assert!(matches!(error, StoreError::Away { .. }), "{error}");
    });
    // The server hasn't noticed, and commits; or it is ended by who comes back, and it is done again.
    patiently("a commit", || store.commit(&state("k", "3"), &checkpoint(3, &[(0, 3)]))).expect("a commit");
    assert_eq!(stored(&server), "3|3|3");
    block_on(put(&mut *sink, &[json!({"id": 4, "wait": 0.3})])).expect("flushed");
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| store.commit(&state("k", "4"), &checkpoint(4, &[(0, 4)])));
        until(&server, &format!("SELECT count(*) {COMMITTING}"), "1");
        proxy.cut();
        committing.join().expect("no panic").expect_err("cut off");
    });
    until(&server, "SELECT count(*) FROM t", "4");
    let xmin = server.psql("postgres", "SELECT xmin FROM t WHERE id = 4");
    patiently("a commit", || store.commit(&state("k", "4"), &checkpoint(4, &[(0, 4)]))).expect("it is known");
    assert_eq!(stored(&server), "4|4|4");
    assert_eq!(server.psql("postgres", "SELECT xmin FROM t WHERE id = 4"), xmin, "it was done twice");
    // Whoever had it before has lost it.
    let error =
        patiently("a zombie", || before.commit(&state("k", "9"), &checkpoint(9, &[]))).expect_err("fenced");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");

    // kill -9 of the server with rows flushed, and in the middle of a COMMIT.
    for (id, wait) in [(5, 0.0), (6, 5.0)] {
        block_on(put(&mut *sink, &[json!({"id": id, "wait": wait})])).expect("flushed");
        let value = id.to_string();
        let commit = || store.commit(&state("k", &value), &checkpoint(id, &[(0, id)]));
        if wait > 0.0 {
            std::thread::scope(|scope| {
                let committing = scope.spawn(commit);
                until(&server, &format!("SELECT count(*) {COMMITTING}"), "1");
                server.psql("postgres", "CREATE TABLE awake ()");
                server.kill();
                let error = committing.join().expect("no panic").expect_err("killed");
                assert!(matches!(error, StoreError::Away { .. }), "{error}");
            });
        } else {
            server.kill();
            assert!(matches!(commit(), Err(StoreError::Away { .. })));
        }
        let error = block_on(put(&mut *sink, &[])).err();
        assert!(matches!(error, None | Some(ConnectorError::Disconnected { .. })), "{error:?}");
        server.restart();
        patiently("a commit", commit).expect("a commit");
        assert_eq!(stored(&server), format!("{id}|{id}|{id}"));
    }
    assert_eq!(server.psql("postgres", "SELECT string_agg(id::text, ',' ORDER BY id) FROM t"), "1,2,3,4,5,6");
    let checkpoint = store.checkpoint().expect("read").expect("one");
    assert_eq!(checkpoint.positions[0].1.offset, 6);

    // A sink alone knows as well what became of its rows.
    let alone = PostgresSinkSpec { url: through.url.clone(), ..spec.clone() };
    server.psql("postgres", "DROP TABLE awake");
    let mut sink = alone.sink().expect("a sink");
    block_on(sink.recover(None)).expect("recovered");
    let rows = batch(&*sink, &[json!({"id": 7, "wait": 0.3})]);
    block_on(sink.write(&rows)).expect("written");
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| block_on(sink.flush()));
        until(&server, &format!("SELECT count(*) {COMMITTING}"), "1");
        proxy.cut();
        let error = flushing.join().expect("no panic").expect_err("cut off");
        assert!(matches!(error, ConnectorError::Disconnected { .. }), "{error}");
    });
    until(&server, "SELECT count(*) FROM t", "7");
    block_on(sink.flush()).expect("it is known");
    assert_eq!(sink.refused(), []);
}

/// Passes bytes on, until it is told to drop all connections that there are.
struct Proxy {
    port: u16,
    pairs: Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let pairs = Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = Arc::clone(&pairs);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                kept.lock().expect("no panic").push(client.try_clone().expect("a clone"));
                let pass = |mut from: TcpStream, to: TcpStream| {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut &to);
                        to
                    })
                };
                // The server's side stays open when the client's is cut, as when a network breaks.
                let (to_server, from_server) = (server.try_clone(), server);
                let _kept = pass(client.try_clone().expect("a clone"), to_server.expect("a clone"));
                let gone = pass(from_server, client);
                std::thread::spawn(move || gone.join().expect("no panic").shutdown(Shutdown::Both));
            }
        });
        Self { port, pairs }
    }

    fn cut(&self) {
        for client in self.pairs.lock().expect("no panic").drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_process_that_was_replaced_writes_nothing() {
    let server = PostgresServer::start();
    server.psql("postgres", "CREATE TABLE t (id int PRIMARY KEY, who text)");
    let columns = json!({"id": "payload.id", "who": "payload.who"});
    let spec =
        spec(&server, "postgres", json!({"table": "t", "columns": columns, "mode": "upsert", "key": ["id"]}));
    let row = |id: u64, who: &str| [json!({"id": id, "who": who})];
    let alone = || Arc::new(PostgresStore::open_alone(&at(&server, "postgres"), "alone").expect("a store"));
    let old = alone();
    let mut old_sink = sink_of(&old, &spec);
    block_on(put(&mut *old_sink, &row(1, "old"))).expect("flushed");
    old.commit(&state("a", "1"), &checkpoint(1, &[])).expect("a commit");
    // Its transaction is open, and holds the lock of a row that is to be written again.
    block_on(put(&mut *old_sink, &row(1, "zombie"))).expect("flushed");
    let new = alone();
    let mut new_sink = sink_of(&new, &spec);
    let since = Instant::now();
    block_on(put(&mut *new_sink, &row(1, "new"))).expect("flushed");
    assert!(since.elapsed() < Duration::from_secs(30), "it waited for the zombie");
    // Neither does the zombie wait for what the new one has locked.
    let error =
        patiently("a zombie", || old.commit(&state("a", "2"), &checkpoint(2, &[]))).expect_err("fenced");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let error = block_on(put(&mut *old_sink, &row(1, "zombie"))).expect_err("replaced");
    assert!(
        matches!(&error, ConnectorError::Outdated(text) if text.contains("its owner is another one")),
        "{error:?}"
    );
    assert!(since.elapsed() < Duration::from_secs(30), "they waited for each other");
    new.commit(&state("a", "3"), &checkpoint(2, &[])).expect("a commit");
    let error =
        patiently("a zombie", || old.commit(&state("a", "2"), &checkpoint(2, &[]))).expect_err("fenced");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    assert!(error.to_string().contains("the state of pipeline `alone` in postgres://127.0.0.1"), "{error}");
    assert!(matches!(old.foretell(3, b"x"), Err(StoreError::Fenced { .. })));
    assert_eq!(new.get(b"a").expect("a"), Some(b"3".to_vec()));
    assert_eq!(server.psql("postgres", "SELECT who FROM t"), "new");
    let view = new.view().expect("a view").expect("one");
    new.commit(&state("a", "4"), &checkpoint(3, &[])).expect("a commit");
    assert_eq!(view.get(b"a").expect("a"), Some(b"3".to_vec()), "the view has moved");
    assert_eq!(view.checkpoint().expect("read").expect("one").epoch, 2);

    // Shared: each partition by itself.
    let shared =
        || Arc::new(PostgresStore::open_shared(&at(&server, "postgres"), "shared").expect("a store"));
    let (one, two) = (shared(), shared());
    let error = one.commit(&Delta::default(), &checkpoint(1, &[(0, 1)])).expect_err("not claimed");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    assert_eq!(one.claim(&[partition(0), partition(1)]).expect("claimed"), []);
    assert_eq!(one.checkpoint().expect("none"), None);
    let (mut of_one, mut of_two) = (sink_of(&one, &spec), sink_of(&two, &spec));
    block_on(put(&mut *of_one, &row(10, "one"))).expect("flushed");
    one.commit(&Delta::default(), &checkpoint(1, &[(0, 5), (1, 6)])).expect("a commit");
    let claimed = two.claim(&[partition(1), partition(2)]).expect("claimed");
    assert_eq!(claimed, checkpoint(1, &[(1, 6)]).positions);
    let found = two.checkpoint().expect("read").expect("one");
    assert_eq!((found.epoch, found.positions, &found.counts["read"]), (1, claimed, &11));
    // The one that lost a partition commits nothing of an epoch with it, and goes on with the other.
    block_on(put(&mut *of_one, &row(11, "zombie"))).expect("flushed");
    let error = one.commit(&Delta::default(), &checkpoint(2, &[(0, 7), (1, 8)])).expect_err("lost");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    assert!(error.to_string().contains("partition 0/1 of"), "{error}");
    block_on(put(&mut *of_one, &row(12, "one"))).expect("flushed");
    let mut next = checkpoint(2, &[(0, 7)]);
    next.counts.insert("read".into(), 13);
    one.commit(&Delta::default(), &next).expect("a commit");
    block_on(put(&mut *of_two, &row(13, "two"))).expect("flushed");
    let mut next = checkpoint(2, &[(1, 9), (2, 1)]);
    next.counts.insert("read".into(), 15);
    two.commit(&Delta::default(), &next).expect("a commit");
    assert_eq!(two.checkpoint().expect("read").expect("one").counts["read"], 17);
    assert_eq!(
        server.psql("postgres", "SELECT string_agg(id || who, ',' ORDER BY id) FROM t WHERE id >= 10"),
        "10one,12one,13two"
    );
    let error = two.commit(&state("a", "1"), &checkpoint(3, &[(1, 10)])).expect_err("no state");
    assert!(error.to_string().contains("has no state in PostgreSQL"), "{error}");
    let other = Checkpoint { shape: "other".into(), ..checkpoint(3, &[(1, 10)]) };
    let error = two.commit(&Delta::default(), &other).expect_err("another shape");
    assert!(error.to_string().contains("runs other stages"), "{error}");
    let error = PostgresStore::open_alone(&at(&server, "postgres"), "shared").err().expect("use").to_string();
    assert!(error.contains("written for use shared and is opened for use alone"), "{error}");
    let view = one.view().expect("a view").expect("one");
    assert_eq!(
        view.checkpoint().expect("read").expect("one").positions,
        checkpoint(1, &[(0, 7), (1, 9), (2, 1)]).positions
    );
    assert_eq!(PostgresStore::reset_at(&at(&server, "postgres"), "shared").expect("reset"), 1);
    let error = two.commit(&Delta::default(), &checkpoint(3, &[(1, 10)])).expect_err("reset");
    assert!(error.to_string().contains("it was reset meanwhile"), "{error}");

    // Two databases are no one transaction.
    server.psql("postgres", "CREATE DATABASE other");
    let elsewhere = PostgresSinkSpec { url: server.url("other"), ..spec };
    let error = new.sink(&elsewhere).err().expect("another").to_string();
    assert!(error.contains("one transaction can't hold both"), "{error}");
}

/// Rows a second into a table of six columns with a primary key, beside a bare loop of COPY.
#[test]
fn it_writes_what_bare_copies_write() {
    const EPOCHS: u64 = 5;
    const ROWS: u64 = 10_000;
    let server = PostgresServer::start();
    for table in ["t", "bare"] {
        server.psql("postgres", &format!("CREATE TABLE {table} (id int8 PRIMARY KEY, carrier text, origin text, delay int, at timestamptz, raw jsonb)"));
    }
    let columns = json!({"id": "id", "carrier": "payload.carrier", "origin": "payload.origin", "delay": "payload.delay", "at": "timestamp", "raw": "payload"});
    let spec = spec(&server, "postgres", json!({"table": "t", "columns": columns}));
    let store = Arc::new(PostgresStore::open_alone(&at(&server, "postgres"), "p").expect("a store"));
    let mut sink = sink_of(&store, &spec);
    let encoder = sink.encoder(&json::writing());
    let message = |id: u64| {
        let carrier = ["AA", "UA", "DL"][(id % 3) as usize];
        let line = json!({"id": id.to_string(), "type": "flight", "timestamp": 1_359_676_799_000u64 + id,
            "payload": {"carrier": carrier, "origin": "JFK", "delay": id % 100, "dest": "LAX", "flight": id, "tail": "N14228"}});
        let line = line.to_string();
        let mut frame = FrameBuf::default();
        let batch = RawBatch::of_value(line.as_bytes());
        JsonDecoder.decode(&batch.records[0], &batch, &mut frame).expect("a message");
        frame
    };
    let frames: Vec<FrameBuf> = (0..EPOCHS * ROWS).map(message).collect();
    let mut batches = Vec::new();
    for some in frames.chunks(ROWS as usize) {
        let mut batch = EncodedBatch::default();
        for (offset, frame) in (0..).zip(some) {
            let id = OutputId::Message { partition: partition(0), offset, index: 0, emit: 0, left_at: "" };
            encoder.encode(frame.get(0), &id, &mut batch).expect("a row");
        }
        batches.push(batch);
    }
    for (epoch, batch) in (1..).zip(&batches) {
        block_on(async {
            sink.write(batch).await.expect("written");
            sink.flush().await.expect("flushed");
        });
        store.commit(&Delta::default(), &checkpoint(epoch, &[(0, epoch)])).expect("a commit");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls)
            .await
            .expect("a connection");
        tokio::spawn(connection);
        for batch in &batches {
            let into = client.copy_in("COPY bare (at, carrier, delay, id, origin, raw) FROM STDIN BINARY");
            let into = into.await.expect("a copy");
            let mut into = std::pin::pin!(into);
            let rows = [b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0", batch.data.as_slice(), &[0xFF, 0xFF]].concat();
            futures_util::SinkExt::send(&mut into, bytes::Bytes::from(rows)).await.expect("sent");
            into.finish().await.expect("copied");
        }
    });
    assert_eq!(
        server.psql("postgres", "SELECT count(*) FROM (SELECT * FROM t EXCEPT SELECT * FROM bare) d"),
        "0"
    );
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), (EPOCHS * ROWS).to_string());
}
