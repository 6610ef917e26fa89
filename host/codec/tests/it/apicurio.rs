//! A real schema registry: Apicurio, by `scripts/registry.sh`.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to start, Maven's fetching included.
const PATIENCE: Duration = Duration::from_secs(300);

/// A registry that runs; ended when it is dropped.
pub struct Apicurio {
    child: Child,
    folder: TempDir,
    pub port: u16,
}

/// A registry that the tests which do it no harm share, as long as one of them runs.
pub fn shared() -> Arc<Apicurio> {
    static SHARED: Mutex<Weak<Apicurio>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let registry = Arc::new(Apicurio::start(free_port()));
        *shared = Arc::downgrade(&registry);
        registry
    })
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

impl Apicurio {
    /// An empty one, ready.
    pub fn start(port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/registry.sh");
        let child = Command::new(script)
            .arg("start")
            .arg(folder.path())
            .arg(port.to_string())
            .env("MANAGEMENT_PORT", free_port().to_string())
            .stdin(Stdio::null())
            // Of its own, so that what the script runs ends with it.
            .process_group(0)
            .spawn()
            .expect("scripts/registry.sh");
        let mut registry = Self { child, folder, port };
        let since = Instant::now();
        while !registry.answers() {
            let log =
                || std::fs::read_to_string(registry.folder.path().join("registry.log")).unwrap_or_default();
            if let Some(status) = registry.child.try_wait().expect("a child's status") {
                panic!("scripts/registry.sh ended with {status}, so this test can't run; its log: {}", log());
            }
            assert!(since.elapsed() < PATIENCE, "the registry doesn't start; its log: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        registry
    }

    /// Where Confluent's API is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// Asks for something below the API; answers the whole answer.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(
            stream,
            "{method} /apis/ccompat/v7{path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn answers(&self) -> bool {
        self.ask("GET", "/subjects", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Has new schemas of a subject read what older ones wrote.
    pub fn compatible_backward(&self, subject: &str) {
        let path = format!("/config/{subject}");
        let answer = self.ask("PUT", &path, r#"{"compatibility":"BACKWARD"}"#).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Apicurio {
    fn drop(&mut self) {
        // The script has become the registry, or is still fetching it.
        let _ = Command::new("kill").args(["--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}
