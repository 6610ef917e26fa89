//! A real NATS server for tests: `#[path = "…/nats.rs"] mod nats;`.

#![allow(dead_code, reason = "each test that includes it uses its own part")]

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt as _;
use wasmill_connect::nats::{NatsSinkSpec, NatsSourceSpec};

/// How long a server may take to come up; the first one of a machine is built before.
const UP_MAX: Duration = Duration::from_secs(20);

/// A server of its own with JetStream, on a free port, in a temporary folder. It is killed when dropped.
pub struct NatsServer {
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    runtime: tokio::runtime::Runtime,
    /// What clients put before the address: `user:password@`.
    login: String,
}

include!("port.rs");

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|above| above.join("scripts/nats.sh"))
        .find(|path| path.exists())
        .expect("scripts/nats.sh")
}

impl NatsServer {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::start_with("", "")
    }

    /// Starts one with further settings, and what clients put before the address to log in.
    pub fn start_with(config: &str, login: &str) -> Self {
        let out = Command::new(script()).arg("server").output().expect("scripts/nats.sh");
        assert!(out.status.success(), "no nats-server: {}", String::from_utf8_lossy(&out.stderr));
        let mut said = String::new();
        for _ in 0..3 {
            let directory = tempfile::tempdir().expect("a directory");
            let at = directory.path().display().to_string();
            std::fs::write(directory.path().join("nats.conf"), config.replace("DIR", &at)).expect("a file");
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let login = login.to_owned();
            let mut server = Self { directory, port: free_port(), child: None, runtime, login };
            match server.try_run() {
                Ok(()) => return server,
                Err(log) => said = log,
            }
        }
        panic!("nats-server is not up: {said}");
    }

    /// Its folder.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it, after `kill`, with the data that it had.
    pub fn run(&mut self) {
        self.try_run().unwrap_or_else(|log| panic!("nats-server is not up: {log}"));
    }

    fn try_run(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "it runs already");
        let log = File::create(self.directory.path().join("log")).expect("a log");
        let child = Command::new(script())
            .args(["start".as_ref(), self.directory.path().join("data").as_os_str()])
            .arg(self.port.to_string())
            .env("NATS_CONFIG", self.directory.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("scripts/nats.sh");
        self.child = Some(child);
        let until = Instant::now() + UP_MAX;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().expect("a status"));
            if ended.is_some() || Instant::now() > until {
                self.kill();
                return Err(std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("nats://{}{}", self.login, self.address())
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

    /// Does something with a client of its own, whatever thread this is on.
    pub fn with<T: Send, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(jetstream::Context) -> F + Send,
    ) -> T {
        std::thread::scope(|scope| {
            let run = || {
                self.runtime.block_on(async {
                    let mut options = async_nats::ConnectOptions::new();
                    let login = self.login.trim_end_matches('@').split_once(':');
                    if let Some((user, password)) = login {
                        options = options.user_and_password(user.to_owned(), password.to_owned());
                    }
                    let client = options.connect(self.address()).await.expect("a connection");
                    work(jetstream::new(client)).await
                })
            };
            scope.spawn(run).join().expect("no panic")
        })
    }

    /// Makes a stream.
    pub fn create_stream(&self, config: stream::Config) {
        self.with(|js| async move {
            js.create_stream(config).await.expect("a stream");
        });
    }

    /// Makes a stream of subjects, with the defaults.
    pub fn create(&self, name: &str, subjects: &[&str]) {
        self.create_stream(stream::Config {
            name: name.to_owned(),
            subjects: subjects.iter().map(|&s| s.to_owned()).collect(),
            ..stream::Config::default()
        });
    }

    /// Publishes messages, and waits until the stream has them.
    pub fn publish(&self, messages: impl IntoIterator<Item = (String, String)>) {
        let messages: Vec<_> = messages.into_iter().collect();
        self.with(|js| async move {
            let mut acks = Vec::new();
            for (subject, value) in messages {
                acks.push(js.publish(subject, value.into()).await.expect("a publish"));
                if acks.len() == 1000 {
                    for ack in acks.drain(..) {
                        ack.await.expect("an ack");
                    }
                }
            }
            for ack in acks {
                ack.await.expect("an ack");
            }
        });
    }

    /// All messages of a stream, as text, with their ids.
    pub fn messages(&self, stream: &str) -> Vec<(String, Option<String>)> {
        let stream = stream.to_owned();
        self.with(|js| async move {
            let stream = js.get_stream(&stream).await.expect("the stream");
            let config = pull::Config {
                ack_policy: AckPolicy::None,
                deliver_policy: DeliverPolicy::All,
                ..pull::Config::default()
            };
            let consumer = stream.create_consumer(config).await.expect("a consumer");
            let mut left = consumer.cached_info().num_pending;
            let mut seen = Vec::new();
            let mut messages = consumer.messages().await.expect("messages");
            while left > 0 {
                let message = messages.next().await.expect("a message").expect("a message");
                left -= 1;
                let id = message.headers.as_ref().and_then(|h| h.get("Nats-Msg-Id"));
                let id = id.map(|id| id.as_str().to_owned());
                seen.push((String::from_utf8(message.payload.to_vec()).expect("UTF-8"), id));
            }
            seen
        })
    }

    /// For the contract: a source over a fresh stream of that name that has these messages.
    pub fn source_fixture(&self, name: &str, messages: &[Vec<u8>]) -> NatsSourceSpec {
        self.create(name, &[&format!("{name}.in")]);
        let subject = format!("{name}.in");
        let text = |m: &Vec<u8>| String::from_utf8(m.clone()).expect("UTF-8");
        self.publish(messages.iter().map(|m| (subject.clone(), text(m))));
        NatsSourceSpec::new(self.url(), name, "contract")
    }

    /// For the contract: a sink to a fresh stream of that name; [`Self::messages`] reads back what is there.
    pub fn sink_fixture(&self, name: &str) -> NatsSinkSpec {
        self.create(name, &[&format!("{name}.out")]);
        NatsSinkSpec::new(self.url(), format!("{name}.out"))
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
