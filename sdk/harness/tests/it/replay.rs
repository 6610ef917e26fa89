//! Dead letters: one poison message in a batch, at each stage, makes one letter; put through again it goes on from
//! there, once, whatever crashes; and it moves no stream time.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use wasmill_connect::codec::json::JsonDecoder;
use wasmill_connect::codec::rfc3339;
use wasmill_engine::guest::CallError;
use wasmill_engine::input::Decoder;
use wasmill_engine::lane::KeyedSpec;
use wasmill_engine::output::Takes;
use wasmill_engine::replay::ReplayDecoder;
use wasmill_engine::stage::{StageKind, StageSpec};
use wasmill_engine::topology::{Order, Topology};
use wasmill_engine::window::{Emit, Late, Windows};
use wasmill_engine::{RunningSpec, WindowSpec};
use wasmill_frame::{Edit, MetaKind};
use wasmill_harness::logs::{Sent, line, list_of_ids, payloads, random_logs, topology, virtual_log};
use wasmill_harness::native;
use wasmill_harness::parts::{Output, sink};
use wasmill_harness::simulator::{Chaos, Outcome, Scenario, Seeded, run};

/// How many seeds each test of chaos runs; `make test-long` asks for more.
fn seeds() -> u64 {
    std::env::var("WASMILL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(800)
}

fn parse_time(text: &str) -> Result<i64, String> {
    text.parse().or_else(|_| rfc3339::parse(text))
}

/// As it is, with a source of dead letters.
fn replaying(topology: Topology) -> Topology {
    let letters = ReplayDecoder { envelope: Arc::new(JsonDecoder), parse_time };
    let decoders: Vec<Arc<dyn Decoder>> = vec![Arc::new(JsonDecoder), Arc::new(letters)];
    Topology { decoders, ..topology }
}

fn scenario(topology: Topology, logs: Vec<Vec<String>>) -> Scenario {
    Scenario { topology, sinks: vec![sink(Takes::Main), sink(Takes::DeadLetters)], logs }
}

fn lines(outputs: &[Output]) -> Vec<String> {
    outputs.iter().map(|output| output.line.clone()).collect()
}

fn json(outputs: &[Output]) -> Vec<Value> {
    // A number that is none for serde_json is one for wasmill, which keeps its text.
    let line = |output: &Output| serde_json::from_str(&output.line.replace("1e400", "1e40")).unwrap();
    outputs.iter().map(line).collect()
}

/// A stage that leaves its name in the message's trail, and fails on `NAME-trap` and `NAME-error` unless it is mended.
fn stage(name: &'static str, kind: StageKind, mended: bool) -> Arc<StageSpec> {
    let plugin = native::transform(name, move |index, message, edits, _| {
        let poison = message.kind().strip_prefix(name).filter(|_| !mended);
        match poison {
            Some("-trap") => return Err(CallError::Trap(format!("{name} panics"))),
            Some("-error") => {
                edits.push(index, Edit::Fail("asked to"));
                return Ok(());
            }
            Some("-bytes") => edits.push(index, Edit::Payload(b"\xff")),
            _ => {}
        }
        if kind == StageKind::Transform {
            let trail =
                message.metadata().get("trail").map(|e| String::from_utf8_lossy(e.value).into_owned());
            let trail = trail.unwrap_or_default() + name + " ";
            edits.push(index, Edit::SetMetadata { name: "trail", value: trail.as_bytes(), json: false });
        }
        Ok(())
    });
    Arc::new(StageSpec { name: name.to_owned(), kind, plugin })
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Behind {
    Nothing,
    Running,
    Window,
}

/// one ▸ two ▸ sieve (▸ key_by ▸ running or window ▸ after).
fn pipeline(behind: Behind, mended: bool) -> Topology {
    let transform = |name| stage(name, StageKind::Transform, mended);
    let trap_on = (!mended).then_some("trap the fold");
    let keyed = match behind {
        Behind::Nothing => Vec::new(),
        Behind::Running => vec![
            KeyedSpec::Running(RunningSpec {
                name: "fold".into(),
                aggregate: list_of_ids(true, trap_on).into(),
                compound_key: false,
                shared: false,
            }),
            KeyedSpec::Stage(transform("after")),
        ],
        Behind::Window => vec![
            KeyedSpec::Stage(transform("before")),
            KeyedSpec::Window(WindowSpec {
                name: "fold".into(),
                aggregate: list_of_ids(false, trap_on).into(),
                window: Windows::tumbling(1_000).unwrap(),
                allowed_lateness_ms: 0,
                late: Late::DeadLetter,
                emit: Emit::Close,
                compound_key: false,
            }),
            KeyedSpec::Stage(transform("after")),
        ],
    };
    let base = topology(keyed, Order::Log);
    let key = base.key.clone().filter(|_| behind != Behind::Nothing);
    let prefix = vec![transform("one"), transform("two"), stage("sieve", StageKind::Filter, mended)];
    replaying(Topology { key, prefix, ..base })
}

/// 1,000 messages, the 500th of which is `poison`.
fn thousand(poison: &str) -> Vec<String> {
    let good = |n: usize| {
        format!(
            r#"{{"id":"m{n}","type":"t","timestamp":{},"payload":{{"k":"k{}","n":1.10}}}}"#,
            2_000 + n,
            n % 7
        )
    };
    (0..1_000).map(|n| if n == 500 { poison.to_owned() } else { good(n) }).collect()
}

fn of_type(kind: &str) -> String {
    format!(
        r#"{{"id":"poison","type":"{kind}","timestamp":2500,"payload":{{"k":"k3","n":1.10,"big":1e400}},"metadata":{{"m":1.0}},"extra":0.10}}"#
    )
}

/// What is left without the poison message: what the others make.
fn without_poison(outputs: &[Output]) -> Vec<Value> {
    let mut all: Vec<Value> = json(outputs)
        .into_iter()
        .filter(|o| o["id"] != "poison" && o["id"] != "log-0:500")
        .map(|mut o| {
            // A list that it is in tells the others all the same.
            for place in ["/payload/value", "/metadata/scan"] {
                if let Some(Value::String(list)) = o.pointer_mut(place) {
                    *list = list.replace("poison@2500,", "");
                }
            }
            o
        })
        .collect();
    all.sort_by_key(Value::to_string);
    all
}

#[test]
fn one_poison_message_in_a_thousand_makes_one_letter_and_goes_on_from_there() {
    use Behind::{Nothing, Running, Window};
    let record = |text: &str| text.to_owned();
    // (stages, poison, its letter's stage, kind, the trail of the message once it is through, in main's output)
    let cases: Vec<(Behind, String, &str, &str, Option<&str>)> = vec![
        (Nothing, record(r#"{"id":"poison","type":"#), "source", "decode", None),
        (Nothing, of_type("one-trap"), "one", "trap", Some("one two ")),
        (Nothing, of_type("one-error"), "one", "error", Some("one two ")),
        (Nothing, of_type("two-trap"), "two", "trap", Some("one two ")),
        (Nothing, of_type("two-error"), "two", "error", Some("one two ")),
        (Nothing, of_type("sieve-trap"), "sieve", "trap", Some("one two ")),
        (Nothing, of_type("sieve-error"), "sieve", "error", Some("one two ")),
        (Nothing, of_type("two-bytes"), "sink", "encode", None),
        (
            Running,
            record(r#"{"id":"poison","type":"t","timestamp":2500,"payload":{}}"#),
            "key_by",
            "key",
            None,
        ),
        (Running, of_type("one-trap"), "one", "trap", Some("one two after ")),
        (Running, of_type("sieve-error"), "sieve", "error", Some("one two after ")),
        (Running, of_type("poison"), "fold", "error", None),
        (
            Running,
            of_type("t").replace("k3\"", "k3\",\"x\":\"trap the fold\""),
            "fold",
            "trap",
            Some("one two after "),
        ),
        (Running, of_type("after-trap"), "after", "trap", Some("one two after ")),
        (Running, of_type("after-error"), "after", "error", Some("one two after ")),
        (Window, of_type("before-trap"), "before", "trap", None),
        (Window, of_type("t").replace("k3\"", "k3\",\"x\":\"trap the fold\""), "fold", "trap", None),
        (Window, of_type("poison"), "fold", "error", None),
        (Window, of_type("t").replace("2500", "1"), "fold", "late", None),
    ];
    for (behind, poison, at, kind, trail) in cases {
        let case = format!("{behind:?}, {poison}");
        let log = thousand(&poison);
        let good: Vec<String> =
            log.iter().enumerate().filter(|(n, _)| *n != 500).map(|(_, l)| l.clone()).collect();
        let alone = run(&scenario(pipeline(behind, false), vec![good, Vec::new()]), Chaos::CALM, 1);
        let broken = run(&scenario(pipeline(behind, false), vec![log, Vec::new()]), Chaos::CALM, 1);
        let letters = json(&broken.committed[1]);
        assert_eq!(letters.len(), 1, "{case}");
        let letter = &letters[0]["payload"];
        assert_eq!((&letter["stage"], &letter["kind"]), (&at.into(), &kind.into()), "{case}: {letter}");
        assert_eq!((&letter["source"], &letter["offset"]), (&0.into(), &500.into()), "{case}");
        let is_before_lanes = !["fold", "after", "before"].contains(&at);
        let original = letter.pointer("/original/value").and_then(Value::as_str);
        let told = poison.replace("1e400", "1e40");
        assert_eq!(original, is_before_lanes.then_some(told.as_str()), "{case}");
        if kind != "decode" {
            let raw = &broken.committed[1][0].line;
            assert!(kind == "key" || kind == "encode" || raw.contains(r#""n":1.10"#), "{case}: {raw}");
            assert!(
                !poison.contains("1e400") || kind == "encode" || raw.contains(r#""big":1e400"#),
                "{case}: {raw}"
            );
        }
        assert_eq!(without_poison(&broken.committed[0]), without_poison(&alone.committed[0]), "{case}");

        // Put through again by a mended pipeline, while the others flow once more.
        let good: Vec<String> = thousand("").into_iter().filter(|l| !l.is_empty()).collect();
        let again = scenario(pipeline(behind, true), vec![good, lines(&broken.committed[1])]);
        let through = run(&again, Chaos::CALM, 1);
        assert_eq!(through.check(), Ok(()), "{case}");
        let found: Vec<Value> =
            json(&through.committed[0]).into_iter().filter(|o| o["id"] == "poison").collect();
        let dead: Vec<Value> = json(&through.committed[1]);
        match trail {
            Some(trail) => {
                assert_eq!((found.len(), dead.len()), (1, 0), "{case}: {dead:?}");
                assert_eq!(found[0]["metadata"]["trail"], trail, "{case}: each stage once");
                let line = through.committed[0].iter().find(|o| o.line.contains("\"poison\"")).unwrap();
                for exact in [r#""n":1.10"#, r#""big":1e400"#, r#""m":1.0"#, r#""extra":0.10"#] {
                    assert!(line.line.contains(exact), "{case}: {exact} in {}", line.line);
                }
            }
            None if behind == Window && kind != "error" => {
                // Into the window that was open, or, where that had closed, a letter that says so.
                let lists: Vec<String> =
                    payloads(&through.committed[0]).iter().map(|p| p["value"].to_string()).collect();
                let times = lists.iter().filter(|list| list.contains("poison@")).count();
                let late = dead.iter().filter(|l| l["payload"]["kind"] == "late").count();
                assert_eq!((times + late, dead.len()), (1, late), "{case}: {dead:?}");
            }
            // It fails again, in the same way; a letter tells the record from where it was first.
            None => {
                assert_eq!((found.len(), dead.len()), (0, 1), "{case}");
                let again = &dead[0]["payload"];
                assert_eq!((&again["stage"], &again["kind"]), (&at.into(), &kind.into()), "{case}");
                if is_before_lanes {
                    assert_eq!(again["original"], letter["original"], "{case}");
                    assert_eq!((&again["source"], &again["offset"]), (&0.into(), &500.into()), "{case}");
                    assert_eq!(again["replay"]["offset"], 0, "{case}");
                }
            }
        }
    }
}

/// What [`virtual_log`] calls poison is mended; the other odd ones are as in law one.
fn mended(keyed: Vec<KeyedSpec>, order: Order) -> Topology {
    let base = topology(keyed, order);
    let pass = native::transform("odd", |_, _, _, _| Ok(()));
    let odd = Arc::new(StageSpec { name: "odd".into(), kind: StageKind::Transform, plugin: pass });
    replaying(Topology { prefix: vec![base.prefix[0].clone(), odd], ..base })
}

/// Letters of messages that a broken stage could not process, by their ids, with their times.
fn letters(random: &mut Seeded) -> (Vec<String>, BTreeMap<String, i64>) {
    let mut logs = random_logs(random, 0);
    let mut times = BTreeMap::new();
    for sent in logs.iter_mut().flatten() {
        sent.number += 1_000_000;
        sent.kind = "trap";
        times.insert(format!("m{}", sent.number), sent.time);
    }
    let lines_of = |log: &Vec<Sent>| log.iter().map(line).collect::<Vec<_>>();
    let logs: Vec<Vec<String>> = logs.iter().map(lines_of).collect();
    let broken = topology(Vec::new(), Order::Log);
    let outcome = run(&scenario(Topology { key: None, ..broken }, logs), Chaos::CALM, 1);
    assert_eq!(outcome.committed[1].len(), times.len());
    (lines(&outcome.committed[1]), times)
}

/// Logs of messages that all pass, and a log of letters.
fn whole(logs: &[Vec<Sent>], letters: Vec<String>) -> Vec<Vec<String>> {
    logs.iter().map(|log| log.iter().map(line).collect()).chain([letters]).collect()
}

fn plain_logs(random: &mut Seeded) -> Vec<Vec<Sent>> {
    random_logs(random, 0)
}

#[test]
fn letters_meet_the_windows_as_they_are_once_and_move_no_time() {
    let (mut crashes, mut in_windows, mut late_in_all) = (0, 0, 0);
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xD10);
        let logs = plain_logs(&mut random);
        let (letters, times) = letters(&mut random);
        let size = [1, 7, 20, 100][random.below(4)];
        let lateness = [0, 1, 15, 1_000][random.below(4)];
        let window = KeyedSpec::Window(WindowSpec {
            name: "w".into(),
            aggregate: list_of_ids(false, None).into(),
            window: Windows::tumbling(size).unwrap(),
            allowed_lateness_ms: lateness,
            late: Late::DeadLetter,
            emit: Emit::Close,
            compound_key: false,
        });
        let scenario = scenario(mended(vec![window], Order::Log), whole(&logs, letters));
        let outcome = run(&scenario, Chaos::WILD, seed);
        crashes += outcome.crashes;
        // No output left twice with one id and other bytes, none was left over: a crash repeats where letters were.
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");

        let mut windows: BTreeMap<(i64, String), String> = BTreeMap::new();
        let mut late = Vec::new();
        for p in virtual_log(&logs) {
            let start = p.time / size * size;
            if start + size + lateness <= p.order.0 {
                late.push(p.id);
            } else {
                *windows.entry((start, p.key)).or_default() += &format!("{}@{},", p.id, p.time);
            }
        }
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        let mut others: BTreeMap<(i64, String), String> = BTreeMap::new();
        for payload in payloads(&outcome.committed[0]) {
            let start = payload["start"].as_i64().unwrap();
            let mut rest = String::new();
            for entry in payload["value"].as_str().unwrap().split_terminator(',') {
                let (id, time) = entry.split_once('@').unwrap();
                if let Some(sent) = times.get(id) {
                    assert_eq!((time.parse(), start), (Ok(*sent), sent / size * size), "seed {seed}: {id}");
                    *found.entry(id.to_owned()).or_default() += 1;
                    in_windows += 1;
                } else {
                    rest += &format!("{entry},");
                }
            }
            if !rest.is_empty() {
                let key = (start, payload["key"].as_str().unwrap().to_owned());
                assert_eq!(others.insert(key, rest), None, "seed {seed}: a window fired twice");
            }
        }
        assert_eq!(
            others, windows,
            "seed {seed}: the windows of the others are as they were without letters"
        );
        let mut others_late = Vec::new();
        for letter in payloads(&outcome.committed[1]) {
            assert_eq!(
                (&letter["kind"], &letter["stage"]),
                (&"late".into(), &"w".into()),
                "seed {seed}: {letter}"
            );
            let id = letter["message"]["id"].as_str().unwrap().to_owned();
            if times.contains_key(&id) {
                *found.entry(id).or_default() += 1;
                late_in_all += 1;
            } else {
                others_late.push(id);
            }
        }
        late.sort();
        others_late.sort();
        assert_eq!(others_late, late, "seed {seed}: late");
        let once: BTreeMap<String, u32> = times.keys().map(|id| (id.clone(), 1)).collect();
        assert_eq!(found, once, "seed {seed}: each letter once");
    }
    assert!(crashes as u64 > seeds() / 3, "the simulator hardly crashed: {crashes}");
    assert!(in_windows > 0 && late_in_all > 0, "{in_windows} in windows, {late_in_all} late");
}

/// The ids of what is in the lists that a running aggregate told last, by key.
fn told_last(outcome: &Outcome) -> BTreeMap<String, Vec<String>> {
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for output in json(&outcome.committed[0]) {
        let list = output["metadata"]["scan"].as_str().unwrap().to_owned();
        let before = last.insert(output["payload"]["k"].as_str().unwrap().to_owned(), list.clone());
        assert!(list.starts_with(&before.unwrap_or_default()), "{list}");
    }
    let ids =
        |list: &String| list.split_terminator(',').map(|e| e.split('@').next().unwrap().to_owned()).collect();
    last.iter().map(|(key, list)| (key.clone(), ids(list))).collect()
}

#[test]
fn letters_are_folded_once_into_running_totals() {
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xE20);
        let logs = plain_logs(&mut random);
        let (letters, times) = letters(&mut random);
        let order = [Order::Log, Order::Arrival][random.below(2)];
        let running = KeyedSpec::Running(RunningSpec {
            name: "r".into(),
            aggregate: list_of_ids(true, None).into(),
            compound_key: false,
            shared: false,
        });
        let outcome = run(&scenario(mended(vec![running], order), whole(&logs, letters)), Chaos::WILD, seed);
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");
        let told = told_last(&outcome);
        let mut all: Vec<String> = told.values().flatten().cloned().collect();
        all.sort();
        let sent = logs.iter().flatten().map(|s| format!("m{}", s.number));
        let mut expected: Vec<String> = sent.chain(times.keys().cloned()).collect();
        expected.sort();
        assert_eq!(all, expected, "seed {seed}");
        if order == Order::Log {
            let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for p in virtual_log(&logs) {
                others.entry(p.key).or_default().push(p.id);
            }
            for (key, ids) in others {
                let found: Vec<&String> = told[&key].iter().filter(|id| !times.contains_key(*id)).collect();
                assert_eq!(found, ids.iter().collect::<Vec<_>>(), "seed {seed}: the order of the others");
            }
        }
    }
}

#[test]
fn letters_go_once_through_a_pipeline_without_state() {
    for seed in 0..seeds() {
        let mut random = Seeded::new(seed ^ 0xF30);
        let logs = plain_logs(&mut random);
        let (letters, times) = letters(&mut random);
        let base = mended(Vec::new(), Order::Log);
        let outcome =
            run(&scenario(Topology { key: None, ..base }, whole(&logs, letters)), Chaos::WILD, seed);
        assert_eq!(outcome.check(), Ok(()), "seed {seed}");
        let sent = logs.iter().flatten().map(|s| format!("m{}", s.number));
        let mut expected: Vec<String> = sent.chain(times.keys().cloned()).collect();
        expected.sort();
        assert_eq!(wasmill_harness::logs::ids(&outcome.committed[0]), expected, "seed {seed}");
        assert!(outcome.committed[1].is_empty(), "seed {seed}");
    }
}

#[test]
fn what_cant_enter_is_a_letter_again_and_says_why() {
    let message = r#""message":{"id":"7","type":"t","timestamp":5,"payload":{"k":"a"},"metadata":{}}"#;
    let letter = |rest: &str| {
        format!(
            r#"{{"id":"7","type":"wasmill.dead_letter","payload":{{"reason":"why","kind":"error",{rest}}},"timestamp":5,"metadata":{{}}}}"#
        )
    };
    let cases = [
        (letter(&format!(r#""stage":"gone",{message}"#)), "no stage `gone` any more"),
        (letter(r#""stage":"fold","key":"a","start":0,"end":10"#), "of a window of the stage `fold`"),
        (letter(&format!(r#""stage":"after","key":"a","start":0,"end":10,{message}"#)), "of a window"),
        (letter(r#""stage":"sink","sink":"0:kafka","output":"x""#), "sink's other end refused"),
        (letter(&format!(r#""stage":"sink","sink":7,{message}"#)), "no sink 7"),
        (letter(r#""stage":"one","cut":true,"original":{"value":"x"}"#), "cut to what its own topic takes"),
        (letter(r#""stage":"source","source":4,"original":{"value":"x"}"#), "no source 4"),
        (letter(r#""stage":"source","source":0,"original":{"value":"x","cut":true}"#), "not whole here"),
        (letter(r#""stage":"source","source":0"#), "neither a message nor the record"),
        (letter(r#""stage":"one","message":{"type":"t"}"#), "its `message` can't be read: it has no `id`"),
        (letter(r#""stage":"one""#), "no message that could be put through"),
        (r#"{"id":"7","type":"t","payload":{"k":"a"}}"#.to_owned(), "it is no dead letter"),
        ("{".to_owned(), "broken JSON"),
    ];
    for (line, reason) in cases {
        let topology = pipeline(Behind::Running, true);
        let outcome = run(&scenario(topology, vec![Vec::new(), vec![line.clone()]]), Chaos::CALM, 1);
        let dead = payloads(&outcome.committed[1]);
        assert_eq!((outcome.committed[0].len(), dead.len()), (0, 1), "{line}");
        assert_eq!(dead[0]["kind"], "replay", "{line}");
        assert!(dead[0]["reason"].as_str().unwrap().contains(reason), "{line}: {}", dead[0]["reason"]);
        let before: Value = serde_json::from_str(&line).unwrap_or_default();
        if before["type"] == "wasmill.dead_letter" {
            for field in ["stage", "message", "original", "start", "cut", "source"] {
                assert_eq!(dead[0][field], before["payload"][field], "{line}: {field}");
            }
        } else {
            assert_eq!(dead[0]["original"]["value"], line.as_str());
        }
    }
}

#[test]
fn bytes_headers_and_forms_come_back_as_they_were() {
    // What a plugin made of a message: text that is no JSON, and a time of its own in the form that it came in.
    let odd = |mended: bool| {
        let plugin = native::transform("odd", move |index, message, edits, _| {
            if message.metadata().entries().any(|e| e.kind == MetaKind::Timestamp) {
                edits.push(index, Edit::Timestamp(7));
            }
            edits.push(index, Edit::Payload(b"not json"));
            edits.push(index, Edit::Key(Some(b"\xff\xfe")));
            Ok(())
        });
        let odd = Arc::new(StageSpec { name: "odd".into(), kind: StageKind::Transform, plugin });
        let base = topology(Vec::new(), Order::Log);
        let fails = stage("two", StageKind::Filter, mended);
        replaying(Topology { prefix: vec![odd, fails], key: None, ..base })
    };
    let line = r#"{"id":1e2,"type":"two-error","timestamp":"1970-01-01T00:00:00.005Z","payload":1,"metadata":{},"key":1.0}"#;
    let broken = run(&scenario(odd(false), vec![vec![line.to_owned()], Vec::new()]), Chaos::CALM, 1);
    let whole = run(&scenario(odd(true), vec![vec![line.to_owned()], Vec::new()]), Chaos::CALM, 1);
    let letters = lines(&broken.committed[1]);
    assert_eq!(letters.len(), 1);
    let again = run(&scenario(odd(true), vec![Vec::new(), letters]), Chaos::CALM, 1);
    assert_eq!(lines(&again.committed[0]), lines(&whole.committed[0]));
    assert!(lines(&again.committed[0])[0].contains("1970-01-01T00:00:00.007Z"), "{:?}", again.committed[0]);
}
