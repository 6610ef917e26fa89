//! What a plugin may touch where it is named: secrets, tables, HTTP. Granted, not granted, another name, bounds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use wasmill_engine::guest::{CallError, Trial};
use wasmill_frame::{Blobs, BlobsWriter, Edit, Edits, EditsWriter};
use wasmill_plugin::{
    Grant, Grants, HttpGrant, HttpMethod, HttpRequest, HttpResponse, LookupBuilder, Outgoing, Secrets,
    StageConfig,
};

use crate::common::*;

fn called(component: &[u8], grants: &Grants, trial: Trial) -> Result<Vec<u8>, CallError> {
    let plugin = small_sandbox().load_bytes("guest", component, grants, StageConfig::new());
    let mut guest = plugin.unwrap_or_else(|e| panic!("{e}")).guest();
    guest.transform(frame(3, 10).as_bytes(), &mut facts(3), trial)
}

fn refused(component: &[u8], grants: &Grants) -> String {
    called(component, grants, Trial::Batch).expect_err("refused").to_string()
}

/// Bytes as a data segment's text.
fn data(at: usize, bytes: impl AsRef<[u8]>) -> String {
    let escaped: String = bytes.as_ref().iter().map(|b| format!("\\{b:02x}")).collect();
    format!("(data (i32.const {at}) \"{escaped}\")")
}

fn secrets(values: &[(&str, &str)]) -> Grants {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    Grants::none().with_secrets(Secrets::new(values))
}

/// What stands at 720 as a `result<list<u8>, string>`, as the whole answer.
const ANSWER: &str = "(if (i32.load8_u (i32.const 720))
       (then (return (call $err (i32.load (i32.const 724)) (i32.load (i32.const 728))))))
     (call $ok (i32.load (i32.const 724)) (i32.load (i32.const 728)))";

#[test]
fn what_is_not_granted_is_refused_at_start_with_what_to_write() {
    for (imports, grant, example) in [
        (&SECRETS, Grant::Secrets, "`grants: [{ secrets: [NAME] }]`"),
        (&LOOKUP, Grant::Lookup, "`grants: [{ lookup: [NAME] }]`"),
        (&HTTP, Grant::Http, "`grants: [{ http: { allow: [\"https://HOST\"] } }]`"),
    ] {
        let component = transform_importing(imports, "", "(call $keep (local.get $p))");
        let others: Grants = Grant::ALL.into_iter().filter(|g| *g != grant).collect();
        let error = small_sandbox().load_bytes("guest", &component, &others, StageConfig::new());
        let Err(error) = error else { panic!("{grant} was loaded") };
        let told = format!("imports `{grant}`, which its stage isn't granted: add {example}");
        assert!(error.to_string().contains(&told), "{error}");
        called(&component, &Grants::all(), Trial::Batch).expect("loaded and called");
    }
}

#[test]
fn a_secret_is_had_by_its_granted_name_alone() {
    let ask = |name: &str| {
        let body =
            format!("(call $secret (i32.const 2048) (i32.const {}) (i32.const 720)) {ANSWER}", name.len());
        transform_importing(&SECRETS, &data(2048, name), &body)
    };
    let grants = secrets(&[("api-key", "hunter2"), ("other", "\u{0}\u{1}")]);
    for trial in [Trial::Batch, Trial::Verdict] {
        assert_eq!(called(&ask("api-key"), &grants, trial).expect("granted"), b"hunter2");
        assert_eq!(called(&ask("other"), &grants, trial).expect("granted"), b"\0\x01");
    }
    assert_eq!(refused(&ask("api-kex"), &grants), "the secret \"api-kex\" is not granted");
    assert_eq!(refused(&ask("api-key"), &Grants::all()), "the secret \"api-key\" is not granted");
}

#[test]
fn a_secret_stands_in_no_text_of_the_guest_s() {
    let grants = secrets(&[("api-key", "no such")]);
    // The texts at 128: "panic: no such airport at src/lib.rs:7".
    let panics = transform_importing(
        &LOG,
        "",
        "(call $write (i32.const 0) (i32.const 128) (i32.const 38)) unreachable",
    );
    assert_eq!(refused(&panics, &grants), "trapped: panic: *** airport at src/lib.rs:7");
    let refuses = transform_importing(&SECRETS, "", "(call $err (i32.const 128) (i32.const 38))");
    assert_eq!(refused(&refuses, &grants), "panic: *** airport at src/lib.rs:7");
    // The payload is the plugin's own matter; a reason is not.
    let mut edits = EditsWriter::new(3);
    edits.push(0, Edit::Payload(b"no such"));
    edits.push(1, Edit::Fail("there is no such thing"));
    edits.push(2, Edit::Fail("nothing else"));
    let edits = edits.finish();
    let body = format!("(call $ok (i32.const 2048) (i32.const {}))", edits.len());
    let fails = transform_importing(&SECRETS, &data(2048, &edits), &body);
    let answer = called(&fails, &grants, Trial::Batch).expect("edits");
    let shown: Vec<_> = Edits::parse(&answer, 3).expect("edits").iter().collect();
    let expected = [
        (0, Edit::Payload(b"no such")),
        (1, Edit::Fail("there is *** thing")),
        (2, Edit::Fail("nothing else")),
    ];
    assert_eq!(shown, expected);
}

fn carriers() -> Grants {
    let mut table = LookupBuilder::new(1 << 20);
    table.push("UA", br#"{"name":"United"}"#).expect("room");
    table.push("XL", &[b'7'; 40 << 10]).expect("room");
    Grants::none().with_lookups([("carriers".to_owned(), Arc::new(table.finish()))])
}

#[test]
fn a_table_answers_its_rows_and_nothing_for_other_keys() {
    let ask = |table: &str, key: &str| {
        let items = [data(2048, table), data(2304, key)].concat();
        let body = format!(
            "(call $row (i32.const 2048) (i32.const {}) (i32.const 2304) (i32.const {}) (i32.const 720))
             (if (i32.load8_u (i32.const 720))
               (then (return (call $err (i32.load (i32.const 724)) (i32.load (i32.const 728))))))
             (if (i32.eqz (i32.load8_u (i32.const 724))) (then (return (call $ok (i32.const 288) (i32.const 1)))))
             (call $ok (i32.load (i32.const 728)) (i32.load (i32.const 732)))",
            table.len(),
            key.len()
        );
        transform_importing(&LOOKUP, &items, &body)
    };
    for trial in [Trial::Batch, Trial::Verdict] {
        let row = called(&ask("carriers", "UA"), &carriers(), trial).expect("a row");
        assert_eq!(row, br#"{"name":"United"}"#);
        // "n", for none.
        assert_eq!(called(&ask("carriers", "ua"), &carriers(), trial).expect("none"), b"n");
    }
    let told = "the table \"carrier\" is not granted; granted: `carriers`";
    assert_eq!(refused(&ask("carrier", "UA"), &carriers()), told);
    let told = "the table \"carriers\" is not granted; granted: none";
    assert_eq!(refused(&ask("carriers", "UA"), &Grants::all()), told);
}

#[test]
fn many_rows_come_in_one_call_as_far_as_it_may_carry() {
    let asking = |keys: &[&str]| {
        let mut blobs = BlobsWriter::new();
        keys.iter().for_each(|key| blobs.push(0, key.as_bytes()));
        blobs.finish()
    };
    let ask = |blobs: Vec<u8>| {
        let body = format!(
            "(call $rows (i32.const 2048) (i32.const 8) (i32.const 2304) (i32.const {}) (i32.const 720)) {ANSWER}",
            blobs.len()
        );
        transform_importing(&LOOKUP, &[data(2048, "carriers"), data(2304, &blobs)].concat(), &body)
    };
    let answer = called(&ask(asking(&["UA", "ua", "UA"])), &carriers(), Trial::Batch).expect("rows");
    let rows: Vec<(u32, &[u8])> = Blobs::parse(&answer).expect("blobs").iter().collect();
    let united = &br#"{"name":"United"}"#[..];
    assert_eq!(rows, [(1, united), (0, &b""[..]), (1, united)]);
    let told = "the rows of one call are above 65536 bytes; ask for fewer keys at once";
    assert_eq!(refused(&ask(asking(&["XL", "XL"])), &carriers()), told);
    let mut sharing = asking(&["UA", "ua"]);
    // The first key's length, behind header, tag and offset: it is all four bytes.
    sharing[24] = 4;
    let told = "keys: blobs with more bytes together than their arena at byte 32";
    assert_eq!(refused(&ask(sharing), &carriers()), told);
}

/// Answers with the URL that was asked, and remembers how it was asked.
#[derive(Default)]
struct Echo {
    asked: Mutex<Vec<(HttpRequest, usize, Duration)>>,
    takes: Duration,
}

impl Outgoing for Echo {
    fn send(
        &self,
        requests: Vec<HttpRequest>,
        bytes_max: usize,
        within: Duration,
    ) -> Vec<Result<HttpResponse, String>> {
        std::thread::sleep(self.takes);
        let mut asked = self.asked.lock().expect("lock");
        let answer = |request: HttpRequest| {
            let body = request.url.clone().into_bytes();
            asked.push((request, bytes_max, within));
            Ok(HttpResponse { status: 200, headers: vec![("a".to_owned(), "b".to_owned())], body })
        };
        requests.into_iter().map(answer).collect()
    }
}

fn http(client: &Arc<Echo>) -> Grants {
    http_at(1_000_000, client)
}

fn http_at(rate_per_second: u32, client: &Arc<Echo>) -> Grants {
    let client = Arc::clone(client) as Arc<dyn Outgoing>;
    let allow = vec!["https://api.example.com".parse().expect("an origin")];
    let methods = vec![HttpMethod::Get, HttpMethod::Post];
    Grants::none().with_http(HttpGrant { allow, methods, rate_per_second, client })
}

/// Calls `$send` with this, whose header's name is `x-id`.
fn send(method: &str, url: &str, value: &str) -> (String, String) {
    let header: Vec<u8> =
        [3000, 4, 3100, value.len()].into_iter().flat_map(|n| (n as u32).to_le_bytes()).collect();
    let items = [
        data(2048, method),
        data(2304, url),
        data(2900, header),
        data(3000, "x-id"),
        data(3100, value),
        data(3200, "body"),
    ];
    let call = format!(
        "(call $send (i32.const 2048) (i32.const {}) (i32.const 2304) (i32.const {}) (i32.const 2900) (i32.const 1)
           (i32.const 3200) (i32.const 4) (i32.const 720))",
        method.len(),
        url.len()
    );
    (items.concat(), call)
}

/// Sends once, and answers with the body that came or the reason.
fn sends(method: &str, url: &str, value: &str) -> Vec<u8> {
    let (items, call) = send(method, url, value);
    let body = format!(
        "{call}
         (if (i32.load8_u (i32.const 720))
           (then (return (call $err (i32.load (i32.const 724)) (i32.load (i32.const 728))))))
         (if (i32.ne (i32.load16_u (i32.const 724)) (i32.const 200)) (then unreachable))
         (call $ok (i32.load (i32.const 736)) (i32.load (i32.const 740)))"
    );
    transform_importing(&HTTP, &items, &body)
}

#[test]
fn a_request_goes_out_as_it_is_where_it_is_granted() {
    let client = Arc::new(Echo::default());
    for trial in [Trial::Batch, Trial::Verdict] {
        let component = sends("POST", "https://api.example.com/a?b", "7");
        let answer = called(&component, &http(&client), trial).expect("an answer");
        assert_eq!(answer, b"https://api.example.com/a?b");
    }
    let asked = client.asked.lock().expect("lock");
    assert_eq!(asked.len(), 2);
    let (request, bytes_max, within) = &asked[0];
    let expected = HttpRequest {
        method: HttpMethod::Post,
        url: "https://api.example.com/a?b".to_owned(),
        headers: vec![("x-id".to_owned(), "7".to_owned())],
        body: b"body".to_vec(),
    };
    assert_eq!(*request, expected);
    assert_eq!((*bytes_max, *within), (64 << 10, host_wait()));
}

#[test]
fn what_the_grant_has_not_never_goes_out() {
    let client = Arc::new(Echo::default());
    for (method, url, value, told) in [
        ("PUT", "https://api.example.com/", "7", "the method \"PUT\" is not granted; granted: GET, POST"),
        (
            "GET",
            "https://other.example.com/",
            "7",
            "https://other.example.com is not granted; granted: https://api.example.com",
        ),
        ("GET", "http://169.254.169.254/latest", "7", "http://169.254.169.254 is not granted"),
        (
            "GET",
            "https://api.example.com/",
            "7\r\nhost: evil",
            "the value of the header `x-id` has a line's end",
        ),
    ] {
        let error = refused(&sends(method, url, value), &http(&client));
        assert!(error.starts_with(told), "{error}");
    }
    let error = refused(&sends("GET", "https://api.example.com/", "7"), &Grants::all());
    assert_eq!(error, "no origin is granted");
    assert!(client.asked.lock().expect("lock").is_empty());
}

/// How long all requests of a call may take together.
fn host_wait() -> Duration {
    Duration::from_millis(small_limits().host_wait_ms_max)
}

#[test]
fn what_a_server_takes_is_not_the_guest_s_time_and_the_guest_s_own_stays_bounded() {
    let takes = 3 * Duration::from_millis(small_limits().deadline_ms);
    let client = Arc::new(Echo { takes, ..Echo::default() });
    let (items, call) = send("GET", "https://api.example.com/", "7");
    let waits = transform_importing(
        &HTTP,
        &items,
        &format!("{call} {call} (call $ok (i32.const 288) (i32.const 1))"),
    );
    let spins = transform_importing(&HTTP, &items, &format!("{call} (loop $on (br $on)) unreachable"));
    assert_eq!(called(&waits, &http(&client), Trial::Batch).expect("it waited, and goes on"), b"n");
    let error = called(&spins, &http(&client), Trial::Batch).expect_err("it goes on for ever");
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    // Of the time that all its requests may take, the second of a call has what the first left.
    let asked = client.asked.lock().expect("lock");
    let within: Vec<Duration> = asked.iter().map(|(_, _, within)| *within).collect();
    let whole = host_wait();
    assert_eq!((within[0], within[2]), (whole, whole), "each call of the plugin begins anew");
    assert!(within[1] <= whole - takes, "{within:?}");
}

#[test]
fn a_call_sends_no_more_than_its_bound_and_none_of_what_is_beyond() {
    let client = Arc::new(Echo::default());
    let (items, call) = send("GET", "https://api.example.com/", "7");
    let items = format!("{items} (global $left (mut i32) (i32.const 61))");
    let body = format!(
        "(loop $on {call}
           (global.set $left (i32.sub (global.get $left) (i32.const 1)))
           (br_if $on (global.get $left)))
         {ANSWER}"
    );
    let many = transform_importing(&HTTP, &items, &body);
    let limits = wasmill_plugin::Limits { deadline_ms: 60_000, ..small_limits() };
    let grants = http_at(2, &client);
    let call = |trial| {
        let plugin = sandbox(limits.clone()).load_bytes("guest", &many, &grants, StageConfig::new());
        plugin.expect("loaded").guest().transform(frame(1, 1).as_bytes(), &mut facts(1), trial)
    };
    // Of a batch no message is to blame, and half of it may do; a message alone is told.
    let error = call(Trial::Batch).expect_err("one too many");
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    let error = call(Trial::Verdict).expect_err("one too many").to_string();
    assert!(error.starts_with("more than 60 requests in one call of the plugin"), "{error}");
    assert!(error.contains("`rate_per_second`") && error.contains("`limits.host_wait`"), "{error}");
    assert_eq!(client.asked.lock().expect("lock").len(), 2 * 60);
}

#[test]
fn a_verdict_that_waits_for_a_server_alone_is_told_that_there_is_no_answer() {
    let client = Arc::new(Echo { takes: Duration::from_millis(20), ..Echo::default() });
    let (items, call) = send("GET", "https://api.example.com/", "7");
    let twice = transform_importing(&HTTP, &items, &format!("{call} {call} {ANSWER}"));
    let limits = wasmill_plugin::Limits { host_wait_ms_max: 10, ..small_limits() };
    let grants = http(&client);
    let call = |trial| {
        let plugin = sandbox(limits.clone()).load_bytes("guest", &twice, &grants, StageConfig::new());
        plugin.expect("loaded").guest().transform(frame(1, 1).as_bytes(), &mut facts(1), trial)
    };
    let error = call(Trial::Batch).expect_err("it waits too long");
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    // As with a server that is away: what becomes of it the stage's settings say, and the process goes on.
    let error = call(Trial::Verdict).expect_err("it waits too long");
    assert!(matches!(&error, CallError::Refused(told) if told.contains("all of the 10 ms")), "{error}");
}
