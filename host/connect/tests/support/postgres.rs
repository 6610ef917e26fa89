//! A real PostgreSQL server for tests: `#[path = "…/postgres.rs"] mod postgres;`.

#![allow(dead_code, reason = "each test that includes it uses its own part")]

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

include!("port.rs");

/// A cluster of its own, on a free port, with fsync. It is stopped when dropped.
pub struct PostgresServer {
    directory: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

/// Where Debian has the server's programs, the newest last; elsewhere they are in the PATH.
fn program(name: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

fn number(arguments: &[&str]) -> u32 {
    let out = Command::new("id").args(arguments).output().expect("id");
    let text = String::from_utf8(out.stdout).expect("text");
    text.trim().parse().expect("the user postgres: install PostgreSQL")
}

/// Its programs refuse to be run by root.
fn as_user(command: &mut Command) -> &mut Command {
    if number(&["-u"]) == 0 {
        command.uid(number(&["-u", "postgres"])).gid(number(&["-g", "postgres"]));
    }
    command
}

impl PostgresServer {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        if number(&["-u"]) == 0 {
            let (user, group) = (number(&["-u", "postgres"]), number(&["-g", "postgres"]));
            chown(directory.path(), Some(user), Some(group)).expect("its own directory");
        }
        let data = directory.path().join("data");
        let mut initdb = Command::new(program("initdb"));
        initdb
            .args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data);
        let out =
            as_user(&mut initdb).current_dir(directory.path()).output().expect("initdb: install PostgreSQL");
        assert!(out.status.success(), "initdb: {}", String::from_utf8_lossy(&out.stderr));
        // A port that was free may be another's by the time it is used: then another one is tried.
        let begin = |directory: &Path| {
            let port = free_port();
            (port, spawn(directory, port))
        };
        let (port, child) = begin(directory.path());
        let mut server = Self { directory, port, child };
        for _ in 0..3 {
            if server.answers() {
                return server;
            }
            server.child.kill().ok();
            server.child.wait().expect("an end");
            (server.port, server.child) = begin(server.directory.path());
        }
        panic!("the server is not up: {}", server.log());
    }

    /// What it says.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The address of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// psql, which is not ours, as an operator uses it; answers what it prints, without its frame.
    #[track_caller]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let out = self.try_psql(database, sql);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "psql {sql}: {said}");
        String::from_utf8(out.stdout).expect("UTF-8").trim_end().to_owned()
    }

    pub fn try_psql(&self, database: &str, sql: &str) -> std::process::Output {
        let mut command = Command::new(program("psql"));
        // It never asks for a password.
        command.args(["-w", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"]).arg(self.url(database));
        command.args(["-c", sql]).output().expect("psql")
    }

    /// From now on it takes nobody without this password, and over TLS alone. Answers the file with the certificate
    /// of the CA that vouches for it, as 127.0.0.1.
    pub fn secure(&self, password: &str) -> PathBuf {
        self.psql("postgres", &format!("ALTER USER postgres PASSWORD '{password}'"));
        let directory = self.directory.path();
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            let command = as_user(command.args(arguments.split(' ')).current_dir(directory));
            let out = command.output().expect("openssl");
            assert!(out.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&out.stderr));
        };
        openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca");
        let name = "-subj /CN=server -addext subjectAltName=IP:127.0.0.1";
        openssl(&format!("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr {name}"));
        let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2";
        openssl(&format!("x509 -req -in server.csr -out server.pem {by}"));
        let data = directory.join("data");
        let settings = "ssl = on\nssl_cert_file = '../server.pem'\nssl_key_file = '../server.key'\n";
        std::fs::write(data.join("postgresql.auto.conf"), settings).expect("settings");
        std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 scram-sha-256\n")
            .expect("settings");
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
        let since = Instant::now();
        while self.try_psql("postgres", "SELECT 1").status.success() {
            assert!(since.elapsed() < Duration::from_secs(10), "it takes anybody still: {}", self.log());
            std::thread::sleep(Duration::from_millis(30));
        }
        directory.join("ca.pem")
    }

    /// kill -9 of the server's first process; the others end when they notice.
    pub fn kill(&mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("an end");
    }

    /// Starts it again, after `kill`, with the data that it had.
    pub fn restart(&mut self) {
        let since = Instant::now();
        loop {
            self.child = spawn(self.directory.path(), self.port);
            if self.answers() {
                return;
            }
            self.child.kill().ok();
            self.child.wait().expect("an end");
            // Those that were left from before must be gone first.
            assert!(since.elapsed() < Duration::from_secs(30), "it does not come back: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn answers(&mut self) -> bool {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(30) {
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            if self.try_psql("postgres", "SELECT 1").status.success() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        false
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // At once, with its children.
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-QUIT", &pid]).status().ok();
        self.child.wait().ok();
    }
}

fn spawn(directory: &Path, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("log")).expect("a log");
    let mut command = Command::new(program("postgres"));
    command.arg("-D").arg(directory.join("data")).args(["-p", &port.to_string(), "-k"]).arg(directory);
    command.args([
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "shared_buffers=64MB",
        "-c",
        "max_connections=40",
    ]);
    command.stdout(Stdio::null()).stderr(log).current_dir(directory);
    as_user(&mut command).spawn().expect("postgres")
}
