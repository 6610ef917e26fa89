//! Processes of one pipeline have one list of plugins: what one is shown or told, all do, whatever is in their folders.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use wasmill_tests::http::{free_address, get};
use wasmill_tests::stamps::{component, put, stamp};

use crate::broker::Broker;
use crate::world::{
    FOR_EVER, Feeder, Found, Host, PARTITIONS, PATIENCE, World, read_all, shared_broker, tail,
};

/// A process with a plugin folder and a data folder of its own.
struct Process {
    number: usize,
    host: Option<Host>,
}

/// Processes that stamp the messages of one topic.
struct Processes<'a> {
    world: &'a World,
    all: Vec<Process>,
}

impl<'a> Processes<'a> {
    fn new(world: &'a World, broker: &Broker) -> Self {
        broker.create_topic(&stamped(world), PARTITIONS as i32, &[FOR_EVER]);
        Self { world, all: Vec::new() }
    }

    /// One more, with this version in its folder.
    fn start(&mut self, version: u32) -> usize {
        let number = self.all.len();
        self.all.push(Process { number, host: None });
        self.show(number, version);
        self.start_again(number);
        number
    }

    fn start_again(&mut self, number: usize) {
        let (name, address) = (&self.world.name, &self.world.address);
        let (input, output, stamped) = (self.world.input(), self.world.output(), stamped(self.world));
        let spec = format!(
            "\
name: {name}
source:
  kafka:
    brokers: {address}
    topic: {input}
    group: {name}
    properties: {{ session.timeout.ms: 2000, heartbeat.interval.ms: 500 }}
stages: [{{ transform: stamps }}]
sinks:
  - kafka: {{ brokers: {address}, topic: {output} }}
  - kafka: {{ brokers: {address}, topic: {stamped} }}
    output: stamped
plugin_dir: plugins/{number}
data_dir: data/{number}
workers: 2
"
        );
        self.world.place.file(&format!("{number}.yaml"), spec);
        let http = free_address();
        let running =
            self.world.place.wasmill(["run", &format!("{number}.yaml")]).env("WASMILL_HTTP", http).start();
        self.all[number].host = Some(Host { running, http });
    }

    /// Puts a version into one's folder.
    fn show(&self, number: usize, version: u32) {
        std::fs::create_dir_all(self.world.place.path(format!("plugins/{number}"))).expect("a folder");
        put(&self.world.place, &format!("{number}/stamps"), &component(version));
    }

    /// Has a process find a note that a version was rolled back, of a pipeline of the same name that was before.
    fn note_rolled_back(&self, number: usize, version: u32) {
        let name = &self.world.name;
        self.world.place.file("noted.wasm", component(version));
        let sum = std::process::Command::new("sha256sum").arg(self.world.place.path("noted.wasm")).output();
        let sum = String::from_utf8(sum.expect("sha256sum runs").stdout).expect("UTF-8");
        let digest = sum.split(' ').next().unwrap_or_default();
        assert_eq!(digest.len(), 64, "{sum}");
        let note = serde_json::json!({ "pipeline": name, "plugins": {
            "now": [],
            "refused": [{ "stage": "stamps", "plugin": "stamps", "digest": digest }],
        } });
        self.world.place.file(&format!("data/{number}/.plugins/{name}.json"), note.to_string());
    }

    /// Tells one what to do.
    #[track_caller]
    fn tell(&self, number: usize, words: &[&str]) {
        let spec = format!("{number}.yaml");
        let words = [&["plugin", words[0], &spec], &words[1..]].concat();
        let http = self.all[number].host.as_ref().expect("it runs").http;
        self.world.place.wasmill(&words).env("WASMILL_HTTP", http).run().exits(0);
    }

    /// Waits until all that run have a version.
    #[track_caller]
    fn until_all_run(&mut self, version: u32) {
        let name = &self.world.name;
        for Process { number, host } in &mut self.all {
            let Some(host) = host else { continue };
            let (http, log) = (host.http, host.running.log());
            let wanted = version.to_string();
            let runs = || {
                let page = get(http, &format!("/plugins/{name}"))?;
                let page: serde_json::Value = serde_json::from_str(&page.body).ok()?;
                Some(page["plugins"]["now"][0]["version"] == wanted.as_str())
            };
            let what =
                format!("version {version} to run in process {number}; it says:\n{}", tail(&log.text()));
            host.running.until(&what, || runs() == Some(true));
        }
    }

    /// Waits until all that was sent has come out; answers it. What nobody had read yet would be a later version's, and
    /// what a killed process had half written out would come again, some of it by a later version.
    #[track_caller]
    fn until_done(&mut self, sent: usize) -> Vec<Found> {
        let since = Instant::now();
        loop {
            let found = read_all(&self.world.address, &self.world.output());
            let ids: HashSet<&str> = found.iter().map(Found::id).collect();
            if ids.len() == sent {
                return found;
            }
            let running = self.all.iter_mut().find_map(|process| process.host.as_mut());
            let running = &mut running.expect("one runs").running;
            let log = running.log();
            assert!(running.is_running(), "{}", tail(&log.text()));
            assert!(since.elapsed() < PATIENCE, "{} of {sent} are out:\n{}", ids.len(), tail(&log.text()));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn kill(&mut self, number: usize) {
        self.all[number].host.take().expect("it runs").kill();
    }
}

fn stamped(world: &World) -> String {
    format!("{}-stamped", world.name)
}

/// The versions along each partition of the input, in the order of its messages' first appearances; what is repeated
/// must be the same.
fn along(found: &[Found]) -> Vec<Vec<String>> {
    let mut by: BTreeMap<(u32, u64), String> = BTreeMap::new();
    for one in found {
        let version = one.value["metadata"]["by"].as_str().expect("a version").to_owned();
        by.entry(one.place()).or_insert(version);
    }
    let of = |partition| {
        let mut along: Vec<String> =
            by.range((partition, 0)..(partition + 1, 0)).map(|(_, v)| v.clone()).collect();
        along.dedup();
        along
    };
    (0..PARTITIONS).map(of).collect()
}

#[test]
fn what_one_process_is_shown_or_told_all_do_and_none_goes_back() {
    let broker = shared_broker();
    let world = World::new(&broker, &[]);
    let mut feeder = Feeder::new(&world);
    let mut processes = Processes::new(&world, &broker);
    // What a machine noted before there was a list is of no account beside it.
    processes.note_rolled_back(0, 2);
    for _ in 0..3 {
        processes.start(1);
    }
    let mut feed = |processes: &mut Processes<'_>, version: u32| {
        processes.until_all_run(version);
        feeder.feed_over(2_000, Duration::from_millis(400));
        processes.until_done(feeder.sent.all().count())
    };
    feed(&mut processes, 1);
    // One is shown a new version, and the others have it of the list.
    processes.show(0, 2);
    feed(&mut processes, 2);
    // One is told, and the others go back as well.
    processes.tell(1, &["rollback", "stamps"]);
    feed(&mut processes, 1);
    processes.tell(2, &["promote", "stamps@2"]);
    feed(&mut processes, 2);
    processes.show(2, 3);
    feed(&mut processes, 3);
    // Who comes has the list's, though its folder has what was before.
    processes.kill(1);
    let late = processes.start(1);
    feed(&mut processes, 3);
    // Who comes back also, and who gets partitions of one that was killed does them with nothing earlier.
    processes.kill(0);
    processes.kill(2);
    processes.show(late, 4);
    feed(&mut processes, 4);
    processes.start_again(0);
    let found = feed(&mut processes, 4);
    let due: Vec<String> = [1, 2, 1, 2, 3, 4].map(stamp).to_vec();
    for (partition, along) in along(&found).into_iter().enumerate() {
        // The feed pauses between two versions, so each of them has messages of each partition.
        assert_eq!(along, due, "partition {partition}");
    }
}
