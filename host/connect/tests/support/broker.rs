//! A real Kafka broker for tests: `#[path = "…/broker.rs"] mod broker;`.

#![allow(dead_code, reason = "each test that includes it uses its own part")]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;

/// How long a broker may take to come up.
const UP_MAX: Duration = Duration::from_secs(60);

/// A broker of its own, on free ports, in a temporary folder. It is killed when dropped.
pub struct Broker {
    directory: tempfile::TempDir,
    port: u16,
    controller_port: u16,
    /// The port that a proxy passes on to, and the proxy's own.
    proxied: Option<(u16, u16)>,
    /// The ports that ask who connects, and the users that they know.
    secured: Option<([u16; 3], String)>,
    child: Option<Child>,
}

include!("port.rs");

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// Runs kcat, which is not ours, on the broker at an address; answers what it says. What only reads is asked
/// again where a busy broker let no connection in: kcat gives up at the first.
#[track_caller]
pub fn kcat<A: AsRef<OsStr>>(address: &str, arguments: &[A], input: &str) -> String {
    let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    let reads = arguments.iter().any(|a| *a == "-C" || *a == "-L");
    let mut left = if reads { 5 } else { 1 };
    loop {
        let mut child = Command::new("kcat")
            .args(["-b", address, "-X", "enable.idempotence=false"])
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kcat is installed");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("kcat reads");
        let out = child.wait_with_output().expect("its end");
        if out.status.success() {
            return String::from_utf8(out.stdout).expect("UTF-8");
        }
        let said = String::from_utf8_lossy(&out.stderr);
        left -= 1;
        let is_away = said.contains("All broker connections are down");
        assert!(left > 0 && is_away, "kcat {arguments:?}: {said}");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

/// Runs one of Kafka's own clients on the broker at an address; answers what it prints.
#[track_caller]
pub fn java_client(class: &str, address: &str, arguments: &[&str], input: &str) -> String {
    let root = script().parent().and_then(Path::parent).expect("the repository").to_owned();
    let jars = std::env::var_os("KAFKA_LIB").map_or_else(|| root.join("target/kafka/lib"), PathBuf::from);
    let mut child = Command::new("java")
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(jars.join("*"))
        .args([class, "--bootstrap-server", address])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("java is installed");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("it reads");
    let out = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("ERROR"), "{class} {arguments:?}: {said}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|above| above.join("scripts/kafka.sh"))
        .find(|path| path.exists())
        .expect("scripts/kafka.sh")
}

impl Broker {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::until_it_runs(Self::on_free_ports)
    }

    /// Starts one with a port more, for a proxy that `proxy` starts: it is given that port and answers its own.
    pub fn start_behind(mut proxy: impl FnMut(u16) -> u16) -> Self {
        Self::until_it_runs(|| {
            let port = free_port();
            let mut broker = Self::on_free_ports();
            broker.proxied = Some((port, proxy(port)));
            broker
        })
    }

    /// Starts one that also asks who connects: see `SECURED` in scripts/kafka.sh. `make_tls` puts its key and
    /// certificates into the folder that it is given; `users` are names with their passwords.
    pub fn start_secured(users: &[(&str, &str)], make_tls: impl Fn(&Path)) -> Self {
        let users: Vec<String> = users.iter().map(|(name, password)| format!("{name}:{password}")).collect();
        Self::until_it_runs(|| {
            let mut broker = Self::on_free_ports();
            let tls = broker.directory.path().join("tls");
            std::fs::create_dir(&tls).expect("a folder");
            make_tls(&tls);
            broker.secured = Some(([free_port(), free_port(), free_port()], users.join(" ")));
            broker
        })
    }

    /// The port of one of the listeners that ask who connects, in their order.
    pub fn secured_port(&self, listener: usize) -> u16 {
        self.secured.as_ref().expect("it is secured").0[listener]
    }

    /// A port that was free may be another's by the time it is used: then others are tried.
    fn until_it_runs(mut make: impl FnMut() -> Self) -> Self {
        let mut said = String::new();
        for _ in 0..3 {
            let mut broker = make();
            match broker.try_run() {
                Ok(()) => return broker,
                Err(log) => {
                    eprintln!("a broker did not come up, and another one is tried: {log}");
                    said = log;
                }
            }
        }
        panic!("the broker is not up: {said}");
    }

    fn on_free_ports() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self {
            directory,
            port: free_port(),
            controller_port: free_port(),
            proxied: None,
            secured: None,
            child: None,
        }
    }

    /// `host:port` of the proxy before it.
    pub fn proxied_address(&self) -> String {
        format!("127.0.0.1:{}", self.proxied.expect("a proxy").1)
    }

    /// Starts it, after `kill`, with the data that it had.
    pub fn run(&mut self) {
        self.try_run().unwrap_or_else(|log| panic!("the broker is not up: {log}"));
    }

    fn try_run(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "it runs already");
        let log = File::create(self.directory.path().join("broker.log")).expect("a log");
        let (secured, users) = self.secured.clone().map_or_else(Default::default, |(ports, users)| {
            (ports.map(|port| port.to_string()).join(":"), users)
        });
        let child = Command::new(script())
            .args(["start".as_ref(), self.directory.path().as_os_str()])
            .arg(self.port.to_string())
            .env("CONTROLLER_PORT", self.controller_port.to_string())
            .env("PROXIED", self.proxied.map_or_else(String::new, |(to, told)| format!("{to}:{told}")))
            .env("SECURED", secured)
            .env("SECURED_USERS", users)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("scripts/kafka.sh");
        self.child = Some(child);
        let until = Instant::now() + UP_MAX;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().expect("a status"));
            if ended.is_some() || Instant::now() > until {
                self.kill();
                return Err(self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // It listens before it answers.
        while self.admin().inner().fetch_metadata(None, Duration::from_secs(5)).is_err() {
            if Instant::now() > until {
                self.kill();
                return Err(format!("it does not answer: {}", self.log()));
            }
        }
        Ok(())
    }

    /// `host:port`, for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("broker.log")).unwrap_or_default()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.address()).create().expect("an admin client")
    }

    /// Creates a topic with settings such as `("max.message.bytes", "10000")`.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let topic = settings
            .iter()
            .fold(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), |t, (k, v)| t.set(k, v));
        let made = block_on(self.admin().create_topics([&topic], &AdminOptions::new())).expect("an answer");
        made[0].as_ref().unwrap_or_else(|e| panic!("topic {name}: {e:?}"));
        self.until_it_has(name, partitions);
    }

    /// A broker knows what became of a topic a moment later; 0 partitions: it is gone.
    fn until_it_has(&self, name: &str, partitions: i32) {
        let admin = self.admin();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let known = admin.inner().fetch_metadata(Some(name), Duration::from_secs(5)).expect("metadata");
            let found = known.topics().iter().find(|t| t.name() == name).expect("the topic");
            let there = found.error().is_none() && found.partitions().iter().all(|p| p.leader() >= 0);
            let count = if there { found.partitions().len() } else { 0 };
            if count == usize::try_from(partitions).expect("a count") {
                return;
            }
            assert!(Instant::now() < until, "topic {name} has not {partitions} partitions");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Deletes a topic, and waits until it is gone.
    pub fn delete_topic(&self, name: &str) {
        let gone = block_on(self.admin().delete_topics(&[name], &AdminOptions::new())).expect("an answer");
        gone[0].as_ref().unwrap_or_else(|e| panic!("topic {name}: {e:?}"));
        self.until_it_has(name, 0);
    }

    /// Gives a topic more partitions: so many in all.
    pub fn grow_topic(&self, name: &str, partitions: i32) {
        let wanted = NewPartitions::new(name, usize::try_from(partitions).expect("a count"));
        let made =
            block_on(self.admin().create_partitions([&wanted], &AdminOptions::new())).expect("an answer");
        made[0].as_ref().unwrap_or_else(|e| panic!("topic {name}: {e:?}"));
        self.until_it_has(name, partitions);
    }

    /// Sets a topic's setting, beside those that it is asked to keep for ever.
    pub fn set(&self, topic: &str, (name, value): (&str, &str)) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        // Those that are not named are taken away.
        let config = if name == "retention.ms" { config } else { config.set("retention.ms", "-1") };
        let config = match topic.ends_with("-changelog") && name != "cleanup.policy" {
            true => config.set("cleanup.policy", "compact"),
            false => config,
        };
        let done = block_on(self.admin().alter_configs([&config], &AdminOptions::new())).expect("an answer");
        done[0].as_ref().unwrap_or_else(|e| panic!("topic {topic}: {e:?}"));
    }

    /// Deletes the records of a partition before an offset.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset)).expect("an offset");
        block_on(self.admin().delete_records(&list, &AdminOptions::new())).expect("an answer");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().expect("its end");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
