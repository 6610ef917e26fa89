//! Real servers as local processes, for tests.
#![allow(dead_code, reason = "each test needs a part of it")]

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

include!("../support/port.rs");

/// A redis-server of a test's own, on a free port, with an append-only file that is synced at each write.
pub struct RedisServer {
    pub port: u16,
    directory: tempfile::TempDir,
    child: Child,
    tls: bool,
}

impl RedisServer {
    /// Starts one. None, and a word about it, where there is no redis-server.
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, false)
    }

    /// Starts one that speaks TLS alone, with a certificate for 127.0.0.1 by a CA of its own: [`Self::ca_file`].
    pub fn start_with_tls(test: &str) -> Option<Self> {
        Self::start_with(test, true)
    }

    fn start_with(test: &str, tls: bool) -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            let said = writeln!(std::io::stderr(), "not run: {test} over Redis: there is no redis-server");
            said.expect("stderr");
            return None;
        }
        let mut directory = tempfile::tempdir().expect("a directory");
        if tls {
            make_certificates(directory.path());
        }
        for _ in 0..5 {
            let port = free_port();
            let child = spawn(port, directory.path(), tls);
            let mut server = Self { port, directory, child, tls };
            if server.answers() {
                return Some(server);
            }
            // Somebody else took the port.
            server.child.kill().ok();
            server.child.wait().expect("an end");
            directory = std::mem::replace(&mut server.directory, tempfile::tempdir().expect("a directory"));
        }
        panic!("redis-server does not start: see {}", directory.keep().join("log").display());
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificate of the CA that vouches for it.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn client(&self) -> redis::Client {
        if !self.tls {
            return redis::Client::open(self.url()).expect("an address");
        }
        let root_cert = Some(std::fs::read(self.ca_file()).expect("a certificate"));
        let trusted = redis::TlsCertificates { client_tls: None, root_cert };
        redis::Client::build_with_tls(self.url(), trusted).expect("an address")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
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

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("an end");
    }

    /// Starts it again with what it has on its disk.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, self.directory.path(), self.tls);
        assert!(self.answers(), "it does not come back");
    }

    /// Cuts bytes off the end of its append-only file, after `kill`: as a kill in the middle of a write does.
    pub fn tear(&self, bytes: u64) {
        let files = std::fs::read_dir(self.directory.path().join("appendonlydir")).expect("its files");
        let paths = files.map(|file| file.expect("a file").path());
        let last = paths.filter(|p| p.to_string_lossy().ends_with(".incr.aof")).max().expect("a file");
        let file = std::fs::OpenOptions::new().write(true).open(last).expect("a file");
        let length = file.metadata().expect("a length").len();
        file.set_len(length.checked_sub(bytes).expect("so many bytes")).expect("cut");
    }

    /// Says something to it as an operator would.
    pub fn say(&self, words: &[&str]) {
        let mut connection = self.client().get_connection().expect("a connection");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).exec(&mut connection).expect("an answer");
    }

    /// A connection as any client has it.
    pub fn connection(&self) -> redis::Connection {
        self.client().get_connection().expect("a connection")
    }

    fn answers(&mut self) -> bool {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && self.client().get_connection().is_ok_and(|mut c| redis::cmd("PING").exec(&mut c).is_ok())
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(port: u16, directory: &Path, tls: bool) -> Child {
    let mut command = Command::new("redis-server");
    let port = port.to_string();
    if tls {
        command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
        command.args(["--tls-cert-file", "server.pem", "--tls-key-file", "server.key"]);
        command.args(["--tls-ca-cert-file", "ca.pem"]);
    } else {
        command.args(["--port", &port]);
    }
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    command.args(["--logfile", "log", "--dir"]).arg(directory).current_dir(directory);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server")
}

/// A CA and a certificate that it gave to 127.0.0.1.
fn make_certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let out = command.args(arguments.split(' ')).current_dir(directory).output().expect("openssl");
        assert!(out.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&out.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca");
    let name = "-subj /CN=server -addext subjectAltName=IP:127.0.0.1";
    openssl(&format!("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr {name}"));
    let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2";
    openssl(&format!("x509 -req -in server.csr -out server.pem {by}"));
}
