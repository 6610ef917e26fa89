use std::path::Path;
use std::time::Duration;

use super::*;
use crate::spec::{Grant, Kept, Order, Sharing, Stage, StateSpec, WindowKind};

fn found(name: &str, role: Role) -> Found {
    Found { name: name.to_owned(), roles: vec![role], wall_clock: name == "processed-at" }
}

/// The seed's logic, in no particular order.
fn seed() -> Vec<Found> {
    vec![
        found("count-types", Role::Aggregate),
        found("drop-ignored", Role::Filter),
        found("processed-at", Role::Transform),
    ]
}

fn build(environment: &Environment, plugins: &[Found]) -> Result<Pipeline, String> {
    let variables = Variables::read(environment).map_err(|p| p.to_string())?;
    variables.pipeline(plugins).map_err(|p| p.to_string())
}

fn with(variables: &[(&str, &str)]) -> Environment {
    let mut environment = Environment::default();
    variables.iter().for_each(|(name, value)| environment.set(name, (*value).to_owned()));
    environment
}

fn value(environment: &Environment, name: &str) -> Option<String> {
    let variables = Variables::read(environment).unwrap_or_else(|p| panic!("{p}"));
    variables.setting(name).map(|s| s.value.clone())
}

/// Each variable: its default, a good value, what that is read as, a bad value, what is expected.
#[test]
fn each_variable_has_a_default_and_takes_good_values_and_refuses_bad_ones() {
    let long = "t".repeat(250);
    type Case<'a> = (&'a str, Option<&'a str>, &'a str, &'a str, &'a str, &'a str);
    #[rustfmt::skip]
    let cases: Vec<Case> = vec![
        ("BROKER_TYPE", Some("kafka"), "Kafka", "kafka", "kafak", "did you mean `kafka`?"),
        ("KAFKA_BROKERS", Some("localhost:9092"), "a:9092,b:9093", "a:9092,b:9093", "kafka://a:9092", "HOST:PORT"),
        ("KAFKA_BROKERS", Some("localhost:9092"), "[::1]:9092", "[::1]:9092", "a:0", "HOST:PORT"),
        ("KAFKA_TOPIC", Some("input-topic"), "input-events", "input-events", "in put", "a topic's name"),
        ("KAFKA_GROUP_ID", Some("stream-processor"), "my group", "my group", "a\tb", "without control characters"),
        ("KAFKA_OUTPUT_TOPIC", Some("output-topic"), "processed-events", "processed-events", &long, "at most 249"),
        ("KAFKA_DLQ_TOPIC", None, "dead", "dead", "..", "a topic's name"),
        ("NATS_URL", Some("nats://localhost:4222"), "tls://h:1", "tls://h:1", "http://h", "nats://HOST:PORT"),
        ("NATS_STREAM", Some("events"), "EVENTS", "EVENTS", "a.b", "a name without"),
        ("NATS_CONSUMER", Some("processor"), "p-1", "p-1", "a b", "a name without"),
        ("KAFKA_TLS", None, "Yes", "true", "maybe", "expected true, 1, yes, on"),
        ("KAFKA_CA_FILE", None, "/c", "/c", "a\nb", "control"),
        ("KAFKA_CERTIFICATE_FILE", None, "/c", "/c", "a\nb", "control"),
        ("KAFKA_KEY_FILE", None, "/k", "/k", "a\nb", "control"),
        ("KAFKA_KEY_PASSWORD", None, "p,w=} x", "p,w=} x", "\nb", "control"),
        ("KAFKA_SASL_MECHANISM", None, "SCRAM_SHA_256", "scram_sha_256", "scram", "expected one of plain, scram_sha_256, scram_sha_512"),
        ("KAFKA_SASL_USERNAME", None, "u", "u", "a\nb", "control"),
        ("KAFKA_SASL_PASSWORD", None, "p,w=} x", "p,w=} x", "\nb", "control"),
        ("KAFKA_SASL_PASSWORD_FILE", None, "/p", "/p", "a\nb", "control"),
        ("NATS_DLQ_SUBJECT", None, "dead.x", "dead.x", "dead.>", "a subject without"),
        ("NATS_CREDENTIALS_FILE", None, "/c", "/c", "a\nb", "control"),
        ("NATS_CA_FILE", None, "/c", "/c", "a\nb", "control"),
        ("REDIS_DLQ_STREAM", None, "dead", "dead", "a\nb", "control"),
        ("NATS_OUTPUT_SUBJECT", Some("processed"), "out.events", "out.events", "out.*", "a subject without"),
        ("REDIS_URL", Some("redis://localhost:6379"), "rediss://u:p@h:1/2", "rediss://u:p@h:1/2", "localhost:6379", "redis://HOST:PORT"),
        ("REDIS_CA_FILE", None, "/ca.pem", "/ca.pem", "a\nb", "without control characters"),
        ("REDIS_STREAM", Some("events"), "s", "s", "a\nb", "without control characters"),
        ("REDIS_GROUP", Some("stream-processor"), "g", "g", "a\nb", "without control characters"),
        ("REDIS_OUTPUT_STREAM", Some("processed"), "o", "o", "a\nb", "without control characters"),
        ("USE_DISTRIBUTED_STATE", Some("false"), "Yes", "true", "maybe", "expected true, 1, yes, on"),
        ("WORKER_COUNT", Some("10"), "4", "4", "ten", "a whole number from 1 to 1024"),
        ("WORKER_COUNT", Some("10"), "1024", "1024", "0", "a whole number from 1 to 1024"),
        ("BATCH_SIZE", Some("100"), "1", "1", "65537", "a whole number from 1 to 65536"),
        ("AGGREGATE_MODE", Some("running"), "window", "window", "windows", "did you mean `window`?"),
        ("WINDOW_SIZE_SECONDS", Some("60"), "5", "5", "-1", "a whole number from 1"),
        ("WINDOW_SIZE_SECONDS", Some("60"), "3600", "3600", "1.5", "a whole number from 1"),
        ("PLUGIN_DIR", Some("./plugins"), "/plugins", "/plugins", "a\nb", "without control characters"),
        ("DATA_DIR", None, "/data", "/data", "a\nb", "without control characters"),
        ("SHUTDOWN_TIMEOUT", Some("30s"), "5s", "5s", "a\nb", "without control characters"),
        ("ENVIRONMENT", Some("development"), "production", "production", "a\nb", "without control characters"),
    ];
    for variable in &VARIABLES {
        assert!(cases.iter().any(|c| c.0 == variable.name), "no case for {}", variable.name);
    }
    for (name, default, good, read, bad, expected) in cases {
        assert_eq!(value(&Environment::default(), name).as_deref(), default, "the default of {name}");
        assert_eq!(value(&with(&[(name, "")]), name).as_deref(), default, "{name} set to nothing");
        // A user goes with a mechanism.
        let beside = [("KAFKA_SASL_MECHANISM", "plain"), ("KAFKA_SASL_USERNAME", "u")];
        let beside = beside.into_iter().filter(|(n, _)| name.starts_with("KAFKA_SASL_") && *n != name);
        let set: Vec<_> = beside.chain([(name, good)]).collect();
        assert_eq!(value(&with(&set), name).as_deref(), Some(read), "{name}={good}");
        let shown = Variables::read(&with(&[(name, bad)])).map(|_| ()).expect_err(name).to_string();
        let quoted = bad.split(['\t', '\n']).next().unwrap_or_default();
        for part in [name, quoted, expected] {
            assert!(shown.contains(part), "{name}={bad}: no {part:?} in\n{shown}");
        }
    }
}

#[test]
fn booleans_are_read_in_any_case() {
    for (text, read) in [
        ("true", "true"),
        ("TRUE", "true"),
        ("1", "true"),
        ("yes", "true"),
        ("On", "true"),
        ("false", "false"),
        ("False", "false"),
        ("0", "false"),
        ("NO", "false"),
        ("off", "false"),
    ] {
        let environment = with(&[("USE_DISTRIBUTED_STATE", text)]);
        assert_eq!(value(&environment, "USE_DISTRIBUTED_STATE").as_deref(), Some(read), "{text}");
    }
}

#[test]
fn all_wrong_variables_are_told_at_once() {
    let environment = with(&[("WORKER_COUNT", "ten"), ("BATCH_SIZE", "0"), ("BROKER_TYPE", "rabbit")]);
    let shown = Variables::read(&environment).map(|_| ()).expect_err("three mistakes").to_string();
    for part in
        ["WORKER_COUNT=ten", "BATCH_SIZE=0", "BROKER_TYPE=rabbit", "expected one of kafka, nats, redis"]
    {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
}

#[test]
fn nats_and_redis_have_their_own_variables() {
    let settings = |broker: &str, more: &[(&str, &str)]| {
        let environment = with(&[&[("BROKER_TYPE", broker)], more].concat());
        let p = build(&environment, &[]).unwrap_or_else(|e| panic!("{e}"));
        let json = |spec: &crate::spec::SinkSpec| serde_json::to_value(spec).expect("settings");
        let source = serde_json::to_value(&p.sources[0]).expect("settings");
        (p.name, source, json(&p.sinks[0].connector), p.dead_letter.as_ref().map(json))
    };
    let (name, source, sink, dead) = settings("nats", &[]);
    assert_eq!((name.as_str(), dead), ("processor", None));
    assert_eq!(source["nats"]["url"], "nats://localhost:4222");
    assert_eq!(
        (&source["nats"]["stream"], &source["nats"]["consumer"]),
        (&"events".into(), &"processor".into())
    );
    assert_eq!(sink["nats"]["subject"], "processed");
    let more = [("NATS_CREDENTIALS_FILE", "/c"), ("NATS_DLQ_SUBJECT", "dead"), ("NATS_CONSUMER", "mine")];
    let (name, source, sink, dead) = settings("nats", &more);
    assert_eq!((name.as_str(), &source["nats"]["consumer"]), ("mine", &"mine".into()));
    for end in [&source, &sink, &dead.expect("dead letters")] {
        assert_eq!(end["nats"]["credentials_file"], "/c");
    }
    let (name, source, sink, dead) = settings("redis", &[("REDIS_DLQ_STREAM", "dead")]);
    assert_eq!(name, "stream-processor");
    assert_eq!(
        (&source["redis"]["stream"], &source["redis"]["group"]),
        (&"events".into(), &"stream-processor".into())
    );
    assert_eq!(sink["redis"]["stream"], "processed");
    assert_eq!(dead.expect("dead letters")["redis"]["stream"], "dead");
    let wrong = with(&[("BROKER_TYPE", "nats"), ("NATS_URL", "localhost")]);
    let shown = Variables::read(&wrong).map(|_| ()).expect_err("a wrong URL").to_string();
    assert!(shown.contains("NATS_URL=localhost"), "{shown}");
}

#[test]
fn no_mistake_shows_a_password() {
    for url in ["redis://:hunter2@", "redis://u:hunter2@h h", "http://u:hunter2@h"] {
        let environment = with(&[("REDIS_URL", url), ("USE_DISTRIBUTED_STATE", "true")]);
        let shown = build(&environment, &seed()).expect_err(url);
        assert!(shown.contains("REDIS_URL") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn the_seeds_service_comes_of_nothing() {
    let p = build(&Environment::default(), &seed()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.name.as_str(), p.workers, p.batch_size), ("stream-processor", 10, 100));
    assert_eq!(p.plugin_dir, Path::new("./plugins"));
    assert_eq!(p.http.map(|h| h.to_string()).as_deref(), Some(HTTP_DEFAULT));
    let kinds: Vec<(&str, Option<&str>)> =
        p.stages.iter().map(|s| (s.kind(), s.plugin().map(|p| p.name.as_str()))).collect();
    assert_eq!(
        kinds,
        [
            ("transform", Some("processed-at")),
            ("filter", Some("drop-ignored")),
            ("key_by", None),
            ("aggregate", Some("count-types")),
        ]
    );
    let first = p.stages[0].plugin().expect("a plugin");
    assert_eq!(first.grants, [Grant::WallClock]);
    assert_eq!(first.file, Path::new("./plugins/processed-at.wasm"));
    assert!(p.stages[1].plugin().expect("a plugin").grants.is_empty());
    let Stage::Aggregate(count) = &p.stages[3] else { panic!("{:?}", p.stages[3]) };
    assert_eq!((count.window.is_none(), count.order), (true, Order::Arrival));
    assert_eq!((p.sources[0].name(), p.sinks[0].connector.name()), ("kafka", "kafka"));
    assert!(p.dead_letter.is_none() && p.data_dir.is_none());
    assert_eq!((p.state.clone(), p.kept(), p.sharing()), (StateSpec::Local, Kept::Memory, Sharing::Alone));
    assert_eq!(p.epoch.interval, Duration::from_millis(5), "a broker to a sink that shows at once");
    assert_eq!(p.idle_timeout, Some(Duration::from_secs(30)));
    let settings = serde_json::to_value(&p.sources[0]).expect("settings");
    assert_eq!(settings["kafka"]["brokers"], "localhost:9092");
    assert_eq!(settings["kafka"]["topic"], "input-topic");
    assert_eq!(settings["kafka"]["group"], "stream-processor");
    let settings = serde_json::to_value(&p.sinks[0].connector).expect("settings");
    assert_eq!(
        (settings["kafka"]["topic"].as_str(), settings["kafka"]["key"].as_str()),
        (Some("output-topic"), Some("id"))
    );
}

#[test]
fn each_variable_changes_what_it_names() {
    let environment = with(&[
        ("KAFKA_BROKERS", "a:1,b:2"),
        ("KAFKA_TOPIC", "123"),
        ("KAFKA_GROUP_ID", "The group/№1"),
        ("KAFKA_OUTPUT_TOPIC", "null"),
        ("KAFKA_DLQ_TOPIC", "dead"),
        ("WORKER_COUNT", "2"),
        ("BATCH_SIZE", "7"),
        ("PLUGIN_DIR", "/p"),
        ("DATA_DIR", "/d"),
        ("SHUTDOWN_TIMEOUT", "5s"),
        ("USE_DISTRIBUTED_STATE", "on"),
        ("REDIS_URL", "rediss://:hunter2@h:1/0"),
        ("REDIS_CA_FILE", "/ca.pem"),
        ("WASMILL_HTTP", "off"),
        ("WASMILL_EPOCH__INTERVAL", "1s"),
        ("WASMILL_TIME__IDLE_TIMEOUT", "off"),
    ]);
    let p = build(&environment, &seed()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.name.as_str(), p.workers, p.batch_size), ("The-group--1", 2, 7));
    assert_eq!((p.plugin_dir.as_path(), p.data_dir.as_deref()), (Path::new("/p"), Some(Path::new("/d"))));
    assert_eq!((p.http, p.idle_timeout), (None, None));
    assert_eq!((p.shutdown_timeout, p.epoch.interval), (Duration::from_secs(5), Duration::from_secs(1)));
    let StateSpec::Redis { url, ca_file } = &p.state else { panic!("{:?}", p.state) };
    assert_eq!(url.reveal(), "rediss://:hunter2@h:1/0");
    assert_eq!(ca_file.as_deref(), Some(Path::new("/ca.pem")));
    assert!(!format!("{p:?}").contains("hunter2"));
    assert_eq!((p.kept(), p.sharing()), (Kept::Redis, Sharing::Store));
    let source = serde_json::to_value(&p.sources[0]).expect("settings");
    assert_eq!((&source["kafka"]["brokers"], &source["kafka"]["topic"]), (&"a:1,b:2".into(), &"123".into()));
    assert_eq!(source["kafka"]["group"], "The group/№1");
    let sink = serde_json::to_value(&p.sinks[0].connector).expect("settings");
    assert_eq!(sink["kafka"]["topic"], "null");
    let dead =
        serde_json::to_value(p.dead_letter.as_ref().expect("a sink of dead letters")).expect("settings");
    assert_eq!(dead["kafka"]["topic"], "dead");
    let named = build(&with(&[("WASMILL_NAME", "mine")]), &seed()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(named.name, "mine");
}

#[test]
fn any_setting_of_librdkafka_is_passed_to_the_ends_that_have_it() {
    let environment = with(&[
        ("KAFKA_DLQ_TOPIC", "dead"),
        ("KAFKA_PROP_SECURITY_PROTOCOL", "sasl_ssl"),
        ("KAFKA_PROP_SASL_PASSWORD", "hunter2,with=signs"),
        ("KAFKA_PROP_SESSION_TIMEOUT_MS", "6000"),
        ("KAFKA_PROP_LINGER_MS", "7"),
        ("KAFKA_PROP_COMPRESSION_TYPE", ""),
    ]);
    let p = build(&environment, &seed()).unwrap_or_else(|e| panic!("{e}"));
    let source = serde_json::to_value(&p.sources[0]).expect("settings");
    let sinks = [&p.sinks[0].connector, p.dead_letter.as_ref().expect("dead letters")];
    let both = serde_json::json!({ "security.protocol": "sasl_ssl", "sasl.password": "hunter2,with=signs" });
    let with = |name: &str, value: &str| {
        let mut all = both.clone();
        all[name] = value.into();
        all
    };
    assert_eq!(source["kafka"]["properties"], with("session.timeout.ms", "6000"));
    for sink in sinks {
        let sink = serde_json::to_value(sink).expect("settings");
        assert_eq!(sink["kafka"]["properties"], with("linger.ms", "7"));
    }
    let wrong = self::with(&[("KAFKA_PROP_SASL_PASWORD", "hunter2"), ("KAFKA_PROP_Q", "1")]);
    let shown = build(&wrong, &seed()).expect_err("two typos");
    for part in
        ["KAFKA_PROP_SASL_PASWORD", "did you mean `KAFKA_PROP_SASL_PASSWORD`?", "`KAFKA_PROP_Q` names no"]
    {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn kafka_is_secured_by_variables() {
    let settings = |more: &[(&str, &str)]| {
        let environment = with(&[&[("KAFKA_DLQ_TOPIC", "dead")], more].concat());
        let p = build(&environment, &seed()).unwrap_or_else(|e| panic!("{e}"));
        assert!(!format!("{p:?}").contains("hunter"));
        let mut ends = vec![serde_json::to_value(&p.sources[0]).expect("settings")];
        ends.push(serde_json::to_value(&p.sinks[0].connector).expect("settings"));
        ends.push(serde_json::to_value(p.dead_letter.as_ref().expect("dead letters")).expect("settings"));
        let all: Vec<serde_json::Value> = ends.iter().map(|end| end["kafka"]["security"].clone()).collect();
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        all[0].clone()
    };
    assert_eq!(settings(&[]), serde_json::Value::Null);
    assert_eq!(settings(&[("KAFKA_TLS", "false")]), serde_json::Value::Null);
    assert_eq!(settings(&[("KAFKA_TLS", "yes")]), serde_json::json!({ "tls": {} }));
    let user = [
        ("KAFKA_SASL_MECHANISM", "scram_sha_512"),
        ("KAFKA_SASL_USERNAME", "me"),
        ("KAFKA_SASL_PASSWORD", "hunter2"),
    ];
    let sasl = serde_json::json!({ "mechanism": "scram_sha_512", "username": "me", "password": "(hidden)" });
    assert_eq!(settings(&user), serde_json::json!({ "sasl": sasl }));
    let tls = [
        ("KAFKA_CA_FILE", "ca"),
        ("KAFKA_CERTIFICATE_FILE", "c"),
        ("KAFKA_KEY_FILE", "k"),
        ("KAFKA_KEY_PASSWORD", "hunter3"),
    ];
    let shown = serde_json::json!({ "ca_file": "ca", "certificate_file": "c", "key_file": "k", "key_password": "(hidden)" });
    assert_eq!(settings(&[&tls[..], &user].concat()), serde_json::json!({ "tls": shown, "sasl": sasl }));
    for (set, parts) in [
        (&[("KAFKA_TLS", "false"), tls[0]][..], ["`KAFKA_TLS`", "`KAFKA_CA_FILE` is set"]),
        (&user[1..], ["`KAFKA_SASL_USERNAME` is set", "`KAFKA_SASL_MECHANISM` is not"]),
        (&user[2..], ["`KAFKA_SASL_PASSWORD` is set", "`KAFKA_SASL_MECHANISM` is not"]),
        (&user[..1], ["`KAFKA_SASL_MECHANISM` is set", "`KAFKA_SASL_USERNAME` is not"]),
        (
            &[("KAFKA_SASL_PASSWORD", "a\nhunter2")],
            ["`KAFKA_SASL_PASSWORD` can't be `…`", "control characters"],
        ),
    ] {
        let shown = build(&with(set), &seed()).expect_err("a mistake").to_string();
        assert!(parts.iter().all(|part| shown.contains(part)), "{parts:?} in\n{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn the_window_mode_has_windows_of_the_given_seconds() {
    let environment =
        with(&[("AGGREGATE_MODE", "window"), ("WINDOW_SIZE_SECONDS", "90"), ("USE_DISTRIBUTED_STATE", "1")]);
    let p = build(&environment, &seed()).unwrap_or_else(|e| panic!("{e}"));
    let Stage::Aggregate(count) = &p.stages[3] else { panic!("{:?}", p.stages[3]) };
    assert_eq!(
        count.window.as_ref().map(|w| w.kind),
        Some(WindowKind::Tumbling { size: Duration::from_secs(90) })
    );
    assert_eq!(count.order, Order::Log);
    assert_eq!(p.sharing(), Sharing::Alone);
    assert!(p.alone_because()[0].contains("windows of the stage `count-types`"), "{:?}", p.alone_because());
}

#[test]
fn without_an_aggregate_nothing_is_kept_but_positions() {
    let plugins = [found("b", Role::Transform), found("a", Role::Transform), found("c", Role::Filter)];
    let p = build(&with(&[("DATA_DIR", "/d")]), &plugins).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<&str> = p.stages.iter().filter_map(|s| Some(s.plugin()?.name.as_str())).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!((p.kept(), p.sharing()), (Kept::Source, Sharing::Source));
}

#[test]
fn two_aggregates_are_one_too_many_and_one_component_may_be_two_stages() {
    let plugins = [found("one", Role::Aggregate), found("two", Role::Aggregate)];
    let shown = build(&Environment::default(), &plugins).expect_err("two aggregates");
    assert!(shown.contains("`one` and `two`") && shown.contains("PLUGIN_DIR"), "{shown}");
    let both =
        Found { name: "both".to_owned(), roles: vec![Role::Transform, Role::Filter], wall_clock: false };
    let p = build(&Environment::default(), &[both]).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<&str> = p.stages.iter().filter_map(|s| Some(s.plugin()?.name.as_str())).collect();
    assert_eq!(names, ["both", "both-filter"]);
}

#[test]
fn a_long_variable_that_leads_nowhere_is_shown() {
    let shown = build(&with(&[("WASMILL_WORKER", "3")]), &seed()).expect_err("no such key");
    assert!(shown.contains("WASMILL_WORKER=3") && shown.contains("did you mean `workers`?"), "{shown}");
}

/// The documentation and the example name every variable with its default.
#[test]
fn the_documentation_lists_every_variable_with_its_default() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).expect(file);
    let documentation = read("docs/configuration.md");
    let example = read(".env.example");
    for v in &VARIABLES {
        let default = v.default.map_or_else(|| "unset".to_owned(), |d| format!("`{d}`"));
        let row = format!("| `{}` | {default} | {} |", v.name, v.means);
        assert!(documentation.contains(&row), "docs/configuration.md has no row\n{row}");
        assert!(
            example.lines().any(|l| l.trim_start_matches('#').starts_with(&format!("{}=", v.name))),
            "{}",
            v.name
        );
    }
}
