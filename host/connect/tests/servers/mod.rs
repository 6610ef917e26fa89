//! Real servers as local processes, for tests.
#![allow(dead_code, reason = "each test needs a part of it")]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A redis-server of a test's own, on a free port, with an append-only file that is synced at each write.
pub struct RedisServer {
    pub port: u16,
    directory: tempfile::TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts one. None, and a word about it, where there is no redis-server.
    pub fn start(test: &str) -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            let said = writeln!(std::io::stderr(), "not run: {test} over Redis: there is no redis-server");
            said.expect("stderr");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("an address").port();
            drop(listener);
            let mut child = spawn(port, directory.path());
            if answers(port, &mut child) {
                return Some(Self { port, directory, child });
            }
            // Somebody else took the port.
            child.kill().ok();
            child.wait().expect("an end");
        }
        panic!("redis-server does not start: see {}", directory.keep().join("log").display());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("an end");
    }

    /// Starts it again with what it has on its disk.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, self.directory.path());
        assert!(answers(self.port, &mut self.child), "it does not come back");
    }

    /// Says something to it as an operator would.
    pub fn say(&self, words: &[&str]) {
        let client = redis::Client::open(self.url()).expect("an address");
        let mut connection = client.get_connection().expect("a connection");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).exec(&mut connection).expect("an answer");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(port: u16, directory: &std::path::Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--logfile", "log", "--dir"]);
    command.arg(directory).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server")
}

fn answers(port: u16, child: &mut Child) -> bool {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(10) {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).expect("an address");
        if TcpStream::connect(("127.0.0.1", port)).is_ok()
            && client.get_connection().is_ok_and(|mut c| redis::cmd("PING").exec(&mut c).is_ok())
        {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
