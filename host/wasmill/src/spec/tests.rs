use super::*;

const GOOD: &str = "\
name: flight-delays
source: { file: { path: flights.jsonl.gz } }
time: { field: timestamp }
workers: 2
batch_size: 256
plugin_dir: plugins
data_dir: data
stages:
  - transform: enrich
  - transform: { plugin: enrich, name: e2, grants: [metrics, wall-clock], config: { threshold: 3, tags: [a, b] } }
  - filter: drop-ignored
    limits: { memory: 128MiB, log_lines: 5, host_wait: 2s }
  - key_by: payload.carrier
    on_null: drop
  - window: { tumbling: 1h, allowed_lateness: 30h, late: { output: late } }
    aggregate: delay-stats
    name: delays
sinks:
  - file: { path: out }
  - file: { path: late }
    output: late
dead_letter: { file: { path: out/dead-letters } }
delivery: exactly_once
epoch: { interval: 100ms, bytes: 1MiB }
limits: { message: 2MiB, deadline: 2s, fuel: 5 }
http: 127.0.0.1:9464
shutdown_timeout: 5s
";

fn parse(text: &str, environment: &Environment) -> Result<Pipeline, String> {
    Pipeline::parse(Path::new("pipelines/p.yaml"), text, environment).map_err(|p| p.to_string())
}

fn good(environment: &Environment) -> Pipeline {
    parse(GOOD, environment).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn kafkas_security_is_read_and_its_files_start_from_the_specs_folder() {
    let spec = "\
name: secure
source:
  kafka:
    brokers: b:9093
    topic: i
    group: g
    security:
      tls: { ca_file: ca.pem, certificate_file: /abs/c.pem, key_file: '${KEY}', key_password: '${KEY_PASSWORD}' }
      sasl: { mechanism: scram_sha_256, username: u, password_file: ../password }
stages: [{ filter: drop-ignored }]
sink: { kafka: { brokers: b:9093, topic: o, security: { tls: {}, sasl: { mechanism: plain, username: u, password: \"${PASSWORD}\" } } } }
";
    let environment = Environment::of([
        ("KEY", "own.key"),
        ("KEY_PASSWORD", "hunter1"),
        ("PASSWORD", "hunter2"),
        ("WASMILL_SINK__KAFKA__SECURITY__TLS__CA_FILE", "by-environment.pem"),
    ]);
    let p = parse(spec, &environment).unwrap_or_else(|e| panic!("{e}"));
    let source = p.sources[0].kafka().expect("kafka").security.clone().expect("security");
    let (tls, sasl) = (source.tls.expect("TLS"), source.sasl.expect("a user"));
    assert_eq!(tls.ca_file.as_deref(), Some(Path::new("pipelines/ca.pem")));
    assert_eq!(tls.certificate_file.as_deref(), Some(Path::new("/abs/c.pem")));
    assert_eq!(tls.key_file.as_deref(), Some(Path::new("pipelines/own.key")));
    assert_eq!(tls.key_password.expect("a password").reveal(), "hunter1");
    assert_eq!(sasl.password_file.as_deref(), Some(Path::new("pipelines/../password")));
    let sink = p.sinks[0].connector.in_transactions().expect("kafka").security.clone().expect("security");
    assert_eq!(sink.sasl.expect("a user").password.expect("a password").reveal(), "hunter2");
    assert_eq!(sink.tls.and_then(|t| t.ca_file).as_deref(), Some(Path::new("by-environment.pem")));
    assert!(!format!("{p:?}").contains("hunter"));
    for (wrong, part) in [
        (spec.replace("mechanism: plain", "mechanism: SCRAM"), "scram_sha_256"),
        (spec.replace("key_password", "key_pasword"), "did you mean `key_password`?"),
        (spec.replace(", username: u, password: ", ", password: "), "username"),
    ] {
        let shown = parse(&wrong, &environment).map(drop).expect_err("a mistake");
        assert!(shown.contains(part) && !shown.contains("hunter"), "{part}: {shown}");
    }
}

#[test]
fn every_key_arrives_in_its_place() {
    let p = good(&Environment::default());
    assert_eq!(p.name, "flight-delays");
    assert_eq!((p.workers, p.batch_size), (2, 256));
    assert_eq!(p.time, FieldPath::Timestamp);
    assert_eq!(p.plugin_dir, Path::new("pipelines/plugins"));
    assert_eq!(p.data_dir.as_deref(), Some(Path::new("pipelines/data")));
    assert_eq!(p.delivery, Delivery::ExactlyOnce);
    assert_eq!(p.epoch, EpochBounds { interval: Duration::from_millis(100), bytes_max: 1 << 20 });
    assert_eq!(p.limits.message_bytes_max, 2 << 20);
    assert_eq!((p.limits.plugin.deadline, p.limits.plugin.fuel), (Duration::from_secs(2), 5));
    assert_eq!(p.limits.queue_bytes_max, Limits::default().queue_bytes_max);
    assert_eq!(p.http.map(|h| h.port()), Some(9464));
    assert_eq!(p.shutdown_timeout, Duration::from_secs(5));
    let outputs: Vec<Option<&str>> = p.sinks.iter().map(|s| s.output.as_deref()).collect();
    assert_eq!(outputs, [None, Some("late")]);
    assert!(p.dead_letter.is_some());

    let kinds: Vec<&str> = p.stages.iter().map(Stage::kind).collect();
    assert_eq!(kinds, ["transform", "transform", "filter", "key_by", "aggregate"]);
    let Stage::Transform(second) = &p.stages[1] else { panic!("{:?}", p.stages[1]) };
    assert_eq!((second.name.as_str(), second.plugin.as_str()), ("e2", "enrich"));
    assert_eq!(second.file, Path::new("pipelines/plugins/enrich.wasm"));
    assert_eq!(second.grants, [Grant::Metrics, Grant::WallClock]);
    assert_eq!(second.config["threshold"], 3);
    assert_eq!(second.config["tags"], serde_json::json!(["a", "b"]));
    // What a stage says nothing of is the pipeline's.
    assert_eq!(second.limits, p.limits.plugin);
    let Stage::Filter(limited) = &p.stages[2] else { panic!("{:?}", p.stages[2]) };
    let expected = PluginLimits {
        memory_bytes_max: 128 << 20,
        log_lines_per_second_max: 5,
        host_wait: Duration::from_secs(2),
        ..p.limits.plugin
    };
    assert_eq!(limited.limits, expected);
    assert_eq!(p.limits.instance_bytes_max, 128 << 20);
    let Stage::Aggregate(aggregate) = &p.stages[4] else { panic!("{:?}", p.stages[4]) };
    assert_eq!(aggregate.name, "delays");
    assert_eq!(aggregate.order, Order::Log);
    let window = aggregate.window.as_ref().expect("a window");
    assert_eq!(window.kind, WindowKind::Tumbling { size: Duration::from_secs(3600) });
    assert_eq!(window.allowed_lateness, Duration::from_secs(30 * 3600));
    assert_eq!(window.late, Late::Output("late".to_owned()));
    assert!(p.is_stateful());
    assert_eq!(p.exchange(), Some(3));
}

#[test]
fn a_short_spec_takes_the_documented_defaults() {
    let text = "name: p\nsource: { stdin: {} }\nsink: { stdout: {} }\nstages: [{ key_by: type }, { aggregate: count }]\n";
    let p = parse(text, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(p.batch_size, 256);
    assert_eq!(p.delivery, Delivery::AtLeastOnce);
    assert_eq!(p.epoch.interval, Duration::from_millis(200));
    assert_eq!(p.limits, Limits::default());
    assert_eq!((p.data_dir.is_none(), p.http, p.dead_letter.is_none()), (true, None, true));
    assert_eq!(p.shutdown_timeout, Duration::from_secs(30));
    let Stage::Aggregate(running) = &p.stages[1] else { panic!("{:?}", p.stages[1]) };
    assert_eq!((running.window.is_none(), running.order), (true, Order::Arrival));
}

#[test]
fn the_environment_is_stronger_than_the_file_and_its_long_names_than_its_short_ones() {
    let p = good(&Environment::of([
        ("WORKER_COUNT", "4"),
        ("WASMILL_WORKERS", "8"),
        ("BATCH_SIZE", "16"),
        ("PLUGIN_DIR", "elsewhere"),
        ("DATA_DIR", ""),
        ("WASMILL_EPOCH__INTERVAL", "1s"),
        ("WASMILL_STAGES__1__TRANSFORM__CONFIG__THRESHOLD", "9"),
        ("WASMILL_STAGES__0__TRANSFORM", "other"),
        ("WASMILL_STAGES__3__KEY_BY", "[type, payload.x]"),
    ]));
    assert_eq!((p.workers, p.batch_size), (8, 16));
    assert_eq!(p.epoch.interval, Duration::from_secs(1));
    assert_eq!(p.plugin_dir, Path::new("elsewhere"), "relative to the current folder");
    assert_eq!(p.data_dir.as_deref(), Some(Path::new("pipelines/data")), "an empty variable says nothing");
    assert_eq!(p.stages[1].plugin().expect("a plugin").config["threshold"], 9);
    assert_eq!(p.stages[0].plugin().expect("a plugin").plugin, "other");
    let Stage::KeyBy(key) = &p.stages[3] else { panic!("{:?}", p.stages[3]) };
    assert!(key.is_compound());
}

const KAFKA: &str = "name: p
source: { kafka: { brokers: b:9092, topic: t, group: g } }
stages: [{ key_by: type }, { aggregate: count }]
sink: { stdout: {} }
";

#[test]
fn a_broker_has_defaults_of_its_own() {
    let p = parse(KAFKA, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.idle_timeout, p.epoch.interval), (Some(Duration::from_secs(30)), Duration::from_millis(5)));
    assert_eq!((p.kept(), p.sharing()), (Kept::Memory, Sharing::Alone));

    let files = KAFKA.replace("stdout: {}", "file: { path: out }");
    let text = format!("{files}time: {{ idle_timeout: off }}\n");
    let p = parse(&text, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.idle_timeout, p.epoch.interval), (None, Duration::from_millis(200)));

    let text = format!("{KAFKA}time: {{ idle_timeout: 5s }}\nepoch: {{ interval: 1s }}\n");
    let p = parse(&text, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.idle_timeout, p.epoch.interval), (Some(Duration::from_secs(5)), Duration::from_secs(1)));
}

#[test]
fn what_is_exact_and_writes_to_kafka_is_committed_by_its_transactions() {
    let (stateless, counts) = ("[]", "[{ key_by: type }, { aggregate: count }]");
    let (here, elsewhere) = ("b:9092", "b:9092,c:9092");
    let file = "{ file: { path: x } }";
    let kafka = |brokers: &str| format!("{{ kafka: {{ brokers: '{brokers}', topic: t, group: g }} }}");
    for (source, stages, kept, sharing, reason) in [
        (kafka(here), stateless, Kept::Source, Sharing::Source, ""),
        (kafka(here), counts, Kept::Changelog, Sharing::Alone, "exchange is in memory"),
        (kafka(elsewhere), stateless, Kept::Changelog, Sharing::Alone, "another cluster"),
        (file.to_owned(), stateless, Kept::Changelog, Sharing::Alone, "no group"),
    ] {
        let text = format!(
            "name: p\nsource: {source}\nstages: {stages}\nsink: {{ kafka: {{ brokers: b:9092, topic: o }} }}\ndelivery: exactly_once\n"
        );
        let p = parse(&text, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((p.kept(), p.sharing()), (kept, sharing), "{text}");
        assert!(p.alone_because().join("; ").contains(reason), "{text}{:?}", p.alone_because());
        assert_eq!(p.epoch.interval, Duration::from_millis(100));
        assert!(p.sink_traits(&p.sinks[0].connector).transactional);
        // Who runs alone takes over from who was there; others have each its own id.
        assert_eq!(p.transactional_id() == "p-0", sharing == Sharing::Alone, "{}", p.transactional_id());
        let p = parse(&text, &Environment::of([("WASMILL_SLOT", "s3")])).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(p.transactional_id(), "p-s3");
    }
    // One transaction holds what goes to one cluster, with the same settings.
    for other in [
        "{ kafka: { brokers: c:9092, topic: o } }",
        "{ kafka: { brokers: b:9092, topic: o, properties: { acks: 1 } } }",
    ] {
        let text = format!(
            "name: p\nsource: {}\nsinks: [{{ kafka: {{ brokers: b:9092, topic: o }} }}, {other}]\ndelivery: exactly_once\n",
            kafka(here)
        );
        let p = parse(&text, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
        let transactional: Vec<bool> =
            p.sinks.iter().map(|s| p.sink_traits(&s.connector).transactional).collect();
        assert_eq!(transactional, [true, false], "{text}");
    }
}

#[test]
fn state_says_who_may_share_a_pipeline_and_where_its_positions_are() {
    let stages = "[{ key_by: type }, { aggregate: count }]";
    let redis = "state: { redis: { url: 'redis://:pw@h:1' } }\n";
    let disk = "data_dir: d\n";
    for (source, stage, state, kept, sharing, reason) in [
        ("kafka", "[]", "", Kept::Source, Sharing::Source, ""),
        ("kafka", "[{ transform: a }, { key_by: id }]", disk, Kept::Source, Sharing::Source, ""),
        ("kafka", stages, "", Kept::Memory, Sharing::Alone, "keep it in Redis"),
        ("kafka", stages, disk, Kept::Disk, Sharing::Alone, "keep it in Redis"),
        ("kafka", stages, redis, Kept::Redis, Sharing::Store, ""),
        (
            "kafka",
            "[{ key_by: type }, { aggregate: c, order: log }]",
            redis,
            Kept::Redis,
            Sharing::Alone,
            "`order: arrival`",
        ),
        (
            "kafka",
            "[{ key_by: type }, { aggregate: c, window: { tumbling: 1h } }]",
            redis,
            Kept::Redis,
            Sharing::Alone,
            "a running aggregate",
        ),
        (
            "kafka",
            "[{ key_by: type }, { transform: { plugin: s, grants: [state] } }]",
            redis,
            Kept::Redis,
            Sharing::Alone,
            "`s` has state of its own",
        ),
        ("stdin", stages, redis, Kept::Redis, Sharing::Alone, "the source `stdin`"),
        ("stdin", "[]", disk, Kept::Disk, Sharing::Alone, "the source `stdin`"),
    ] {
        let mut text = KAFKA.replace(stages, stage);
        text.push_str(state);
        if source == "stdin" {
            text = text.replace("{ kafka: { brokers: b:9092, topic: t, group: g } }", source);
        }
        let p = parse(&text, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((p.kept(), p.sharing()), (kept, sharing), "{text}");
        let reasons = p.alone_because().join("; ");
        assert!(reasons.contains(reason) && reasons.is_empty() == reason.is_empty(), "{text}{reasons}");
        assert!(!format!("{p:?}").contains("pw@"), "{p:?}");
    }
}

#[test]
fn variables_are_put_into_texts_and_numbers() {
    let text = GOOD
        .replace("workers: 2", "workers: ${N:-3}")
        .replace("name: flight-delays", "name: \"flights-${CITY}\"")
        .replace("data_dir: data", "data_dir: cost$$");
    let p = parse(&text, &Environment::of([("CITY", "nyc")])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((p.name.as_str(), p.workers), ("flights-nyc", 3));
    assert_eq!(p.data_dir.as_deref(), Some(Path::new("pipelines/cost$")));
}

#[test]
fn a_wrong_variable_is_named_with_its_value() {
    for (name, value, parts) in [
        ("WORKER_COUNT", "many", ["WORKER_COUNT=many", "a whole number"]),
        ("WASMILL_WORKERS", "0", ["WASMILL_WORKERS=0", "1 to 1024"]),
        ("WASMILL_WORKER", "3", ["WASMILL_WORKER=3", "did you mean `workers`?"]),
        ("WASMILL_EPOCH__INTERVALL", "3s", ["WASMILL_EPOCH__INTERVALL=3s", "did you mean `interval`?"]),
        ("WASMILL_EPOCH__INTERVAL", "3", ["WASMILL_EPOCH__INTERVAL=3", "lacks a unit"]),
        ("WASMILL_STAGES__9__FILTER", "x", ["WASMILL_STAGES__9__FILTER=x", "expected a number below 5"]),
        ("WASMILL_NAME__X", "x", ["WASMILL_NAME__X=x", "single value"]),
        ("WASMILL_EPOCH____X", "x", ["WASMILL_EPOCH____X=x", "names no key"]),
        ("SHUTDOWN_TIMEOUT", "soon", ["SHUTDOWN_TIMEOUT=soon", "is no duration"]),
        ("WASMILL_HTTP", "everywhere", ["WASMILL_HTTP=everywhere", "IP:PORT"]),
    ] {
        let shown = parse(GOOD, &Environment::of([(name, value)])).expect_err(name);
        for part in parts {
            assert!(shown.contains(part), "{name}={value}: no {part:?} in\n{shown}");
        }
    }
}

#[test]
fn windows_of_every_kind_stand_one_behind_the_other() {
    let text = "\
name: p
source: stdin
stages:
  - key_by: type
  - window: { sliding: { size: 1m, every: 7s }, emit: update }
    aggregate: { plugin: c, name: one }
  - window: { sliding: { size: 5s }, emit: { every: 10s } }
    aggregate: { plugin: c, name: two }
  - window: { session: { gap: 1ms }, emit: close }
    aggregate: { plugin: c, name: three }
  - aggregate: { plugin: c, name: four }
sink: stdout
";
    let pipeline = parse(text, &Environment::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut told = Vec::new();
    for stage in &pipeline.stages[1..] {
        let Stage::Aggregate(a) = stage else { panic!("{stage:?}") };
        assert_eq!(a.order, Order::Log, "one window makes all go by the log");
        told.extend(a.window.as_ref().map(|w| {
            w.kind.windows().expect("times that windows can have");
            format!("{}; {}", w.kind, w.emit)
        }));
    }
    assert_eq!(
        told,
        [
            "sliding windows of 1m every 7s; after each message and when they close",
            "sliding windows of 5s that end at each message or begin behind it; every 10s of stream time and when they close",
            "sessions with a gap of 1ms; when they close",
        ]
    );
}

#[test]
fn an_unset_variable_is_named_with_the_nearest_set_one() {
    let text = GOOD.replace("workers: 2", "workers: ${MY_WORKER}");
    let shown = parse(&text, &Environment::of([("MY_WORKERS", "1")])).expect_err("unset");
    assert!(shown.contains("`MY_WORKER` is not set"), "{shown}");
    assert!(shown.contains("`MY_WORKERS` is set: did you mean that?"), "{shown}");
}

/// Each wrong pipeline beside what is shown for it. `UPDATE_GOLDEN=1` writes the texts anew: read the
/// difference before you commit it.
#[test]
fn every_wrong_pipeline_is_shown_as_its_golden_text_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/pipelines-bad");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("tests/pipelines-bad")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 25, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(&case).expect("a case");
        let name = case.file_name().expect("a name");
        let shown = match Pipeline::parse(Path::new(name), &text, &Environment::default()) {
            Ok(_) => "accepted\n".to_owned(),
            Err(problems) => format!("{problems}\n"),
        };
        let golden = case.with_extension("txt");
        if update {
            std::fs::write(&golden, &shown).expect("write");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if shown != expected || shown == "accepted\n" {
            wrong.push(format!("{}\n--- expected\n{expected}--- shown\n{shown}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_published_schema_is_the_one_of_the_types() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pipeline.schema.json");
    let text = schema::text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).expect("write");
    }
    let published = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == published,
        "docs/pipeline.schema.json is old: `wasmill schema > docs/pipeline.schema.json`"
    );
}
