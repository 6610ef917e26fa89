//! State in Redis: what only a store that several processes reach can suffer. The store contract is in
//! `stores.rs`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmill_connect::store::{Merge, RedisAddress, RedisStore, check_url};
use wasmill_engine::position::{PartitionId, Position, Progress};
use wasmill_engine::state::{
    Change, Checkpoint, Delta, Share, StateKind, StateStore, StoreError, group_prefix, running_key,
};

use crate::servers::RedisServer;

fn partition(partition: u32) -> PartitionId {
    PartitionId { source: 0, partition }
}

fn position(offset: u64) -> Position {
    Position { incarnation: "topic id".into(), offset, index: 0, stream_time: 7, progress: Progress::Live }
}

fn checkpoint(epoch: u64, positions: &[(u32, u64)]) -> Checkpoint {
    Checkpoint {
        epoch,
        generation: 0,
        shape: "shape".into(),
        stream_time: 0,
        positions: positions.iter().map(|(p, offset)| (partition(*p), position(*offset))).collect(),
        sinks: Vec::new(),
        counts: BTreeMap::from([("read".into(), positions.iter().map(|(_, offset)| offset).sum())]),
        ..Checkpoint::default()
    }
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).expect("text").parse().expect("a number")
}

/// Counts: stored and shared are numbers, merged is their sum.
fn counting() -> Merge {
    Arc::new(|_, stored, share| Ok((number(stored) + number(share)).to_string().into_bytes()))
}

fn key(name: &str) -> Vec<u8> {
    running_key(0, 3, name.as_bytes())
}

fn shares(of: &[(&str, u64)]) -> Delta {
    let share = |n: u64| Some(Share::Accumulator(n.to_string().into_bytes()));
    // A value that is wrong on purpose: where a share is, it must not be used.
    let change =
        |(name, n): &(&str, u64)| Change { key: key(name), value: Some(b"wrong".to_vec()), share: share(*n) };
    Delta { changes: of.iter().map(change).collect() }
}

fn plain(name: &str, value: &str) -> Delta {
    Delta { changes: vec![Change { key: name.into(), value: Some(value.into()), share: None }] }
}

fn total(store: &RedisStore, name: &str) -> u64 {
    store.get(&key(name)).expect("a value").map_or(0, |value| number(&value))
}

fn shared(server: &RedisServer) -> RedisStore {
    RedisStore::open_shared(server.url(), "p", counting()).expect("a store")
}

#[test]
fn a_process_that_was_replaced_writes_nothing() {
    let Some(server) = RedisServer::start("a replaced process") else { return };
    let old = RedisStore::open_alone(server.url(), "p").expect("a store");
    old.commit(&plain("a", "1"), &checkpoint(1, &[])).expect("a commit");
    let new = RedisStore::open_alone(server.url(), "p").expect("a store");
    let error = old.commit(&plain("a", "2"), &checkpoint(2, &[])).expect_err("fenced");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    assert!(error.to_string().contains("the state of pipeline `p` in redis://127.0.0.1"), "{error}");
    assert!(matches!(old.foretell(2, b"x"), Err(StoreError::Fenced { .. })));
    assert_eq!(new.foretold().expect("none"), None);
    assert_eq!(new.checkpoint().expect("one"), Some(checkpoint(1, &[])));
    assert_eq!(new.get(b"a").expect("a"), Some(b"1".to_vec()));
    new.commit(&plain("a", "3"), &checkpoint(2, &[])).expect("a commit");
    assert_eq!(old.get(b"a").expect("a"), Some(b"3".to_vec()));
}

#[test]
fn a_commit_that_a_kill_tore_does_not_come_up_later() {
    for torn_by in ["alone", "shared"] {
        let Some(mut server) = RedisServer::start("a torn commit of state") else { return };
        let open = |server: &RedisServer| match torn_by {
            "alone" => RedisStore::open_alone(server.url(), "p").expect("a store"),
            _ => {
                let store = shared(server);
                store.claim(&[partition(0)]).expect("a claim");
                store
            }
        };
        let change = |names: &[(&str, u64)]| match torn_by {
            "alone" => {
                let change = |(name, n): &(&str, u64)| Change {
                    key: key(name),
                    value: Some(n.to_string().into_bytes()),
                    share: None,
                };
                Delta { changes: names.iter().map(change).collect() }
            }
            _ => shares(names),
        };
        let store = open(&server);
        store.commit(&change(&[("a", 1)]), &checkpoint(1, &[(0, 1)])).expect("a commit");
        store.commit(&change(&[("a", 5), ("b", 5)]), &checkpoint(2, &[(0, 11)])).expect("a commit");
        drop(store);
        server.kill();
        // The transaction's end, and a part of its last command.
        server.tear(40);
        server.restart();
        let store = open(&server);
        let found = |store: &RedisStore| (total(store, "a"), total(store, "b"));
        assert_eq!(found(&store), (1, 0), "{torn_by}: it is not whole");
        // Less than before: epochs end elsewhere in a run that begins again.
        store.commit(&change(&[("c", 1)]), &checkpoint(2, &[(0, 2)])).expect("a commit");
        let committed = store.checkpoint().expect("one").expect("one").counts;
        for restart in 0..2 {
            drop(open(&server));
            server.kill();
            server.restart();
            let store = open(&server);
            assert_eq!(found(&store), (1, 0), "{torn_by}: after restart {restart}");
            let counts = store.checkpoint().expect("one").expect("one").counts;
            assert_eq!(counts, committed, "{torn_by}: after restart {restart}");
        }
    }
}

#[test]
fn a_store_that_lives_on_sees_to_a_server_that_came_back() {
    let Some(mut server) = RedisServer::start("a server that came back") else { return };
    let lives = RedisStore::open_alone(server.url(), "p").expect("a store");
    lives.commit(&plain("a", "1"), &checkpoint(1, &[])).expect("a commit");
    let other = RedisStore::open_alone(server.url(), "q").expect("a store");
    other.commit(&plain("b", "torn"), &checkpoint(1, &[])).expect("a commit");
    drop(other);
    server.kill();
    server.tear(40);
    server.restart();
    let error = lives.commit(&plain("a", "2"), &checkpoint(2, &[])).expect_err("its connection broke");
    assert!(matches!(error, StoreError::Away { .. }), "{error}");
    lives.commit(&plain("a", "2"), &checkpoint(2, &[])).expect("a commit");
    server.kill();
    server.restart();
    let other = RedisStore::open_alone(server.url(), "q").expect("a store");
    assert_eq!((other.get(b"b").expect("b"), other.checkpoint().expect("none")), (None, None));
}

#[test]
fn pipelines_in_one_redis_do_not_meet() {
    let Some(server) = RedisServer::start("two pipelines") else { return };
    let one = RedisStore::open_alone(server.url(), "one").expect("a store");
    let two = RedisStore::open_alone(server.url(), "two").expect("a store");
    one.commit(&plain("a", "1"), &checkpoint(1, &[])).expect("a commit");
    two.commit(&plain("a", "2"), &checkpoint(1, &[])).expect("a commit");
    two.reset().expect("a reset");
    assert_eq!(one.get(b"a").expect("a"), Some(b"1".to_vec()));
    assert_eq!((one.generation().expect("0"), two.generation().expect("1")), (0, 1));
}

#[test]
fn processes_that_share_add_up() {
    let Some(server) = RedisServer::start("sharing") else { return };
    let (one, two) = (shared(&server), shared(&server));
    assert_eq!(one.checkpoint().expect("none"), None);
    assert_eq!(one.claim(&[partition(0)]).expect("a claim"), []);
    assert_eq!(two.claim(&[partition(1)]).expect("a claim"), []);
    one.commit(&shares(&[("a", 5), ("b", 1)]), &checkpoint(1, &[(0, 6)])).expect("a commit");
    assert_eq!(one.merged(), [(key("a"), b"5".to_vec()), (key("b"), b"1".to_vec())]);
    assert_eq!(one.merged(), []);
    // Its epochs are numbered for itself, and what it takes "a" for is old.
    two.commit(&shares(&[("a", 2)]), &checkpoint(1, &[(1, 2)])).expect("a commit");
    assert_eq!(two.merged(), [(key("a"), b"7".to_vec())]);
    one.commit(&shares(&[("a", 1)]), &checkpoint(2, &[(0, 7)])).expect("a commit");
    assert_eq!(one.merged(), [(key("a"), b"8".to_vec())]);
    assert_eq!((total(&one, "a"), total(&one, "b")), (8, 1));

    // One that is added doesn't disturb what is claimed.
    assert_eq!(one.claim(&[partition(3)]).expect("a claim"), []);
    one.commit(&shares(&[("b", 1)]), &checkpoint(3, &[(0, 7), (3, 0)])).expect("a commit");
    assert_eq!(total(&one, "b"), 2);

    // Whoever takes both partitions over goes on where each was; the counts are everybody's.
    let three = shared(&server);
    let claimed = three.claim(&[partition(0), partition(1), partition(2)]).expect("a claim");
    assert_eq!(claimed, [(partition(0), position(7)), (partition(1), position(2))]);
    let found = three.checkpoint().expect("read").expect("a checkpoint");
    assert_eq!((found.positions, found.epoch, found.shape.as_str()), (claimed, 3, "shape"));
    assert_eq!(found.counts, BTreeMap::from([("read".into(), 9)]));
    let zombie = one.commit(&shares(&[("a", 100)]), &checkpoint(3, &[(0, 107)])).expect_err("fenced");
    assert!(matches!(zombie, StoreError::Fenced { .. }), "{zombie}");
    assert!(zombie.to_string().contains("partition 0/0"), "{zombie}");
    // One lost partition of two is enough.
    let four = shared(&server);
    four.claim(&[partition(2)]).expect("a claim");
    let torn = three.commit(&shares(&[("a", 100)]), &checkpoint(3, &[(0, 8), (2, 1)])).expect_err("fenced");
    assert!(torn.to_string().contains("partition 0/2"), "{torn}");
    assert_eq!(total(&one, "a"), 8);

    let other = Checkpoint { shape: "another".into(), ..checkpoint(9, &[(2, 1)]) };
    let error = four.commit(&shares(&[("a", 1)]), &other).expect_err("another shape").to_string();
    assert!(error.contains("runs other stages"), "{error}");
    four.reset().expect("a reset");
    let error = three.commit(&shares(&[("a", 1)]), &checkpoint(3, &[(0, 8)])).expect_err("reset").to_string();
    assert!(error.contains("it was reset meanwhile"), "{error}");
    assert_eq!(total(&one, "a"), 0);
}

/// SplitMix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A process of the simulation below: which partitions it believes to have, and from where.
struct Process {
    store: RedisStore,
    at: BTreeMap<u32, u64>,
    epoch: u64,
}

impl Process {
    /// Begins again from what is stored, as a process that was fenced does.
    fn claim(&mut self, server: &RedisServer, partitions: &[u32]) {
        self.store = shared(server);
        let ids: Vec<PartitionId> = partitions.iter().map(|p| partition(*p)).collect();
        let claimed = self.store.claim(&ids).expect("a claim");
        self.at = partitions.iter().map(|p| (*p, 0)).collect();
        self.at.extend(claimed.into_iter().map(|(id, p)| (id.partition, p.offset)));
        // As a run's begin does: its counts go on from there.
        self.store.checkpoint().expect("a checkpoint");
        self.epoch = 0;
    }
}

#[test]
fn totals_are_exact_whatever_kills_and_takes_over() {
    const PARTITIONS: u32 = 4;
    const MESSAGES: u64 = 60;
    let names = ["a", "b", "c"];
    // The key of a message is a function of its place.
    let name_of =
        |partition: u32, offset: u64| names[((u64::from(partition) * 31 + offset * 7) % 5 % 3) as usize];
    let Some(server) = RedisServer::start("random interleavings") else { return };
    let mut fenced_in_all = 0;
    for seed in 0..25u64 {
        server.say(&["FLUSHALL"]);
        let mut chance = seed;
        let mut processes: Vec<Process> =
            (0..2).map(|_| Process { store: shared(&server), at: BTreeMap::new(), epoch: 0 }).collect();
        for step in 0.. {
            assert!(step < 10_000, "seed {seed}: no end");
            let n = (random(&mut chance) % 2) as usize;
            match random(&mut chance) % 10 {
                // A rebalance, of which the other one learns by being fenced.
                0 => {
                    let some: Vec<u32> =
                        (0..PARTITIONS).filter(|_| random(&mut chance).is_multiple_of(2)).collect();
                    processes[n].claim(&server, &some);
                }
                // A process dies, and another one begins in its place.
                1 => {
                    let had: Vec<u32> = processes[n].at.keys().copied().collect();
                    processes[n].claim(&server, &had);
                }
                _ => {
                    let process = &mut processes[n];
                    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
                    let mut next = process.at.clone();
                    for (partition, offset) in &mut next {
                        for _ in 0..random(&mut chance) % 6 {
                            if *offset < MESSAGES {
                                *sums.entry(name_of(*partition, *offset)).or_default() += 1;
                                *offset += 1;
                            }
                        }
                    }
                    process.epoch += 1;
                    let sums: Vec<(&str, u64)> = sums.into_iter().collect();
                    let positions: Vec<(u32, u64)> = next.iter().map(|(p, o)| (*p, *o)).collect();
                    match process.store.commit(&shares(&sums), &checkpoint(process.epoch, &positions)) {
                        Ok(()) => {
                            process.at = next;
                            for (key, value) in process.store.merged() {
                                assert_eq!(process.store.get(&key).expect("a value"), Some(value));
                            }
                        }
                        Err(StoreError::Fenced { .. }) => {
                            fenced_in_all += 1;
                            let had: Vec<u32> = process.at.keys().copied().collect();
                            process.claim(&server, &had);
                        }
                        Err(e) => panic!("seed {seed}: {e}"),
                    }
                }
            }
            let reader = shared(&server);
            if step % 16 == 0 && names.iter().map(|n| total(&reader, n)).sum::<u64>() == MESSAGES * 4 {
                break;
            }
        }
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            for offset in 0..MESSAGES {
                *expected.entry(name_of(partition, offset)).or_default() += 1;
            }
        }
        for (name, count) in expected {
            assert_eq!(total(&processes[0].store, name), count, "seed {seed}: {name}");
        }
    }
    assert!(fenced_in_all > 25, "hardly anybody was fenced: {fenced_in_all}");
}

#[test]
fn two_at_the_same_key_at_the_same_time_lose_nothing() {
    let Some(server) = RedisServer::start("contention") else { return };
    std::thread::scope(|scope| {
        for n in 0..3u32 {
            let server = &server;
            scope.spawn(move || {
                let store = shared(server);
                store.claim(&[partition(n)]).expect("a claim");
                for epoch in 1..=200 {
                    let delta = shares(&[("hot", 3), ("warm", 1)]);
                    store.commit(&delta, &checkpoint(epoch, &[(n, epoch * 4)])).expect("a commit");
                }
            });
        }
    });
    let store = shared(&server);
    assert_eq!((total(&store, "hot"), total(&store, "warm")), (1_800, 600));
}

/// A way to Redis that can lose an answer: the question arrives, then the connection is cut.
struct Proxy {
    port: u16,
    cuts: Arc<AtomicBool>,
}

impl Proxy {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let cuts = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&cuts);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a client");
                let server = TcpStream::connect(("127.0.0.1", server)).expect("the server");
                let (mut up, mut down) = (client.try_clone().expect("a clone"), client);
                let (mut to, mut from) = (server.try_clone().expect("a clone"), server);
                std::thread::spawn(move || std::io::copy(&mut up, &mut to).map(drop));
                let cut = Arc::clone(&cut);
                std::thread::spawn(move || {
                    let mut answer = [0; 4096];
                    while let Ok(bytes @ 1..) = from.read(&mut answer) {
                        if cut.swap(false, Ordering::SeqCst) || down.write_all(&answer[..bytes]).is_err() {
                            break;
                        }
                    }
                    down.shutdown(Shutdown::Both).ok();
                    from.shutdown(Shutdown::Both).ok();
                });
            }
        });
        Self { port, cuts }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

#[test]
fn a_commit_whose_answer_was_lost_counts_once() {
    let Some(server) = RedisServer::start("a lost answer") else { return };
    let proxy = Proxy::to(server.port);
    let store = RedisStore::open_shared(proxy.url(), "p", counting()).expect("a store");
    let other = shared(&server);
    store.claim(&[partition(0)]).expect("a claim");
    other.claim(&[partition(1)]).expect("a claim");
    store.commit(&shares(&[("a", 1)]), &checkpoint(1, &[(0, 1)])).expect("a commit");

    proxy.cuts.store(true, Ordering::SeqCst);
    let second = (shares(&[("a", 10)]), checkpoint(2, &[(0, 2)]));
    let error = store.commit(&second.0, &second.1).expect_err("no answer");
    assert!(matches!(error, StoreError::Away { .. }), "{error}");
    assert_eq!(total(&other, "a"), 11, "the script has run");
    // Somebody else goes on meanwhile: what is told then is the value as it is now.
    other.commit(&shares(&[("a", 100)]), &checkpoint(1, &[(1, 1)])).expect("a commit");
    store.commit(&second.0, &second.1).expect("known again");
    assert_eq!(store.merged(), [(key("a"), b"111".to_vec())]);
    store.commit(&shares(&[("a", 1_000)]), &checkpoint(3, &[(0, 3)])).expect("a commit");
    assert_eq!(total(&other, "a"), 1_111);
    store.claim(&[partition(0)]).expect("a claim");
    let counts = store.checkpoint().expect("read").expect("one").counts;
    assert_eq!(counts, BTreeMap::from([("read".into(), 4)]));

    let alone = RedisStore::open_alone(proxy.url(), "alone").expect("a store");
    alone.commit(&plain("a", "1"), &checkpoint(1, &[])).expect("a commit");
    proxy.cuts.store(true, Ordering::SeqCst);
    let error = alone.commit(&plain("a", "2"), &checkpoint(2, &[])).expect_err("no answer");
    assert!(matches!(error, StoreError::Away { .. }), "{error}");
    alone.commit(&plain("a", "2"), &checkpoint(2, &[])).expect("known again");
    alone.commit(&plain("a", "3"), &checkpoint(3, &[])).expect("a commit");
    // A question that got lost was no commit: the next one is made from what is stored.
    proxy.cuts.store(true, Ordering::SeqCst);
    alone.commit(&plain("a", "4"), &checkpoint(4, &[])).expect_err("no answer");
    let error = alone.commit(&plain("a", "5"), &checkpoint(5, &[])).expect_err("4 is in");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}

#[test]
fn a_killed_server_has_every_commit_that_it_answered() {
    let Some(mut server) = RedisServer::start("kill -9 of the server") else { return };
    let store = shared(&server);
    store.claim(&[partition(0)]).expect("a claim");
    let mut epoch = 0;
    for round in 0..5u64 {
        for _ in 0..20 {
            epoch += 1;
            store.commit(&shares(&[("a", 1)]), &checkpoint(epoch, &[(0, epoch)])).expect("a commit");
        }
        server.kill();
        epoch += 1;
        let next = (shares(&[("a", 1)]), checkpoint(epoch, &[(0, epoch)]));
        for _ in 0..2 {
            let error = store.commit(&next.0, &next.1).expect_err("away");
            assert!(matches!(error, StoreError::Away { .. }), "{error}");
        }
        assert!(matches!(store.checkpoint(), Err(StoreError::Away { .. })));
        server.restart();
        store.commit(&next.0, &next.1).expect("a commit");
        assert_eq!(total(&store, "a"), (round + 1) * 21);
    }
}

#[test]
fn what_redis_refuses_is_told_without_the_password() {
    let Some(server) = RedisServer::start("refusals") else { return };
    let store = RedisStore::open_alone(server.url(), "p").expect("a store");
    server.say(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = store.commit(&plain("a", "1"), &checkpoint(1, &[])).expect_err("full");
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(error.to_string().contains("`maxmemory`: give it more"), "{error}");
    server.say(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(store.checkpoint().expect("none"), None);
    store.commit(&plain("a", "1"), &checkpoint(1, &[])).expect("a commit");

    let error =
        RedisStore::open_shared(server.url(), "p", counting()).err().expect("another use").to_string();
    assert!(error.contains("written for use alone and is opened for use shared"), "{error}");
    server.say(&["HSET", "wasmill:{p}:meta", "format", "2"]);
    let error = RedisStore::open_alone(server.url(), "p").err().expect("another format");
    assert!(matches!(&error, StoreError::Format { found, expected: 1, .. } if found == "2"), "{error}");
    assert_eq!(RedisStore::reset_at(server.url(), "p").expect("a reset"), 1);
    assert!(RedisStore::open_shared(server.url(), "p", counting()).is_ok());
    server.say(&["SET", "wasmill:{odd}:state", "a text"]);
    let odd = RedisStore::open_alone(server.url(), "odd").expect("a store");
    let error = odd.commit(&plain("a", "1"), &checkpoint(1, &[])).expect_err("a text").to_string();
    assert!(error.contains("something else is stored under this pipeline's keys"), "{error}");

    server.say(&["CONFIG", "SET", "requirepass", "geheim"]);
    for url in [server.url(), format!("redis://:falsch@127.0.0.1:{}/3", server.port)] {
        let error = RedisStore::open_alone(&url, "p").err().expect("refused");
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert!(error.to_string().contains("give the right user and password"), "{error}");
        assert!(!error.to_string().contains("falsch"), "{error}");
    }
    let url = format!("redis://:geheim@127.0.0.1:{}", server.port);
    let name = RedisStore::open_alone(&url, "q").expect("a store").name();
    assert_eq!(name, format!("redis://127.0.0.1:{} (alone)", server.port));
}

#[test]
fn addresses_are_checked_and_shown_without_their_password() {
    assert_eq!(check_url("redis://user:geheim@host:1/2"), Ok("redis://host:1/2".into()));
    assert_eq!(check_url("rediss://:geheim@host"), Ok("rediss://host:6379".into()));
    for wrong in
        ["", "host:6379", "http://:geheim@host", "redis://:geheim@host:port", "redis://:geheim@host/x"]
    {
        let error = check_url(wrong).expect_err(wrong);
        assert!(error.contains("expected redis://") && !error.contains("geheim"), "{error}");
    }
    let away = RedisStore::open_alone("redis://:geheim@127.0.0.1:1", "p").err().expect("nobody is there");
    assert!(matches!(away, StoreError::Away { .. }), "{away}");
    assert!(away.to_string().contains("127.0.0.1:1") && !away.to_string().contains("geheim"), "{away}");
}

#[test]
fn a_scan_visits_all_in_order() {
    let Some(server) = RedisServer::start("scans") else { return };
    let store = RedisStore::open_alone(server.url(), "p").expect("a store");
    let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    // Stages and groups whose bytes mean something in a pattern.
    for (stage, group) in [(0, 0), (0, 7), (0, 42), (42, 63), (42, 0x5B5D), (0x5C2A, 1)] {
        for n in 0..1_500u32 {
            expected.insert(running_key(stage, group, &n.to_le_bytes()), n.to_string().into_bytes());
        }
    }
    let changes = expected.iter().map(|(key, value)| Change {
        key: key.clone(),
        value: Some(value.clone()),
        share: None,
    });
    store.commit(&Delta { changes: changes.collect() }, &checkpoint(1, &[])).expect("a commit");
    let found = |prefix: &[u8]| {
        let mut found = Vec::new();
        store.scan(prefix, &mut |key, value| found.push((key.to_vec(), value.to_vec()))).expect("a scan");
        found
    };
    let under = |prefix: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = expected.iter().filter(|(key, _)| key.starts_with(prefix));
        all.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    for _ in 0..2 {
        for (stage, group) in [(0, 0), (0, 7), (0, 8), (0, 42), (42, 63), (42, 0x5B5D), (0x5C2A, 1), (0, 7)] {
            let prefix = group_prefix(StateKind::Running, stage, group);
            assert_eq!(found(&prefix), under(&prefix), "stage {stage}, group {group}");
        }
    }
    for prefix in [b"".as_slice(), b"r", b"r\0*", b"r\\", b"w"] {
        assert_eq!(found(prefix), under(prefix));
    }
    // A later commit is seen.
    let prefix = group_prefix(StateKind::Running, 0, 0);
    let gone = Change { key: running_key(0, 0, &7u32.to_le_bytes()), value: None, share: None };
    found(&prefix);
    store.commit(&Delta { changes: vec![gone] }, &checkpoint(2, &[])).expect("a commit");
    assert_eq!(found(&prefix).len(), 1_499);
}

#[test]
fn an_encrypted_server_is_trusted_for_the_certificate_that_is_named() {
    let Some(server) = RedisServer::start_with_tls("TLS") else { return };
    let at = |ca_file| RedisAddress { url: server.url(), ca_file };
    let told = |ca_file| RedisStore::open_alone(at(ca_file), "p").err().expect("no trust");
    let error = told(None);
    assert!(matches!(error, StoreError::Io { .. }), "waiting won't help: {error}");
    let error = error.to_string();
    assert!(error.contains("rediss://127.0.0.1") && error.contains("REDIS_CA_FILE"), "{error}");

    let store = RedisStore::open_alone(at(Some(server.ca_file())), "p").expect("a store");
    store.commit(&plain("a", "1"), &checkpoint(1, &[])).expect("a commit");
    assert_eq!(store.get(b"a").expect("a"), Some(b"1".to_vec()));
    assert_eq!(RedisStore::reset_at(at(Some(server.ca_file())), "p").expect("a reset"), 1);

    let missing = told(Some("/nowhere/ca.pem".into())).to_string();
    assert!(missing.contains("/nowhere/ca.pem") && missing.contains("no such file"), "{missing}");
    let key = server.ca_file().with_file_name("server.key");
    let wrong = told(Some(key)).to_string();
    assert!(wrong.contains("server.key") && wrong.contains("PEM"), "{wrong}");
}
