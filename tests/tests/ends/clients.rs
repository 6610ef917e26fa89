//! Clients that are not ours: `tests/clients/client.py`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use wasmill_tests::home;

/// The Python that has the clients' libraries.
fn python() -> &'static PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let script = home::root().join("scripts/clients.sh");
        let out = Command::new(script).stderr(Stdio::inherit()).output().expect("scripts/clients.sh");
        assert!(out.status.success(), "scripts/clients.sh failed");
        PathBuf::from(String::from_utf8(out.stdout).expect("UTF-8").trim())
    })
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg(home::root().join("tests/clients/client.py")).args(arguments);
    command
}

/// Runs a client to its end; answers what it says.
#[track_caller]
pub fn client(arguments: &[&str]) -> String {
    let out = command(arguments).output().expect("python");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "client.py {arguments:?}: {said}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// What a client reads, a message a line.
#[track_caller]
pub fn messages(arguments: &[&str]) -> Vec<Value> {
    client(arguments).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A client that goes on beside the test; killed when dropped.
pub struct Feeding(Child);

impl Feeding {
    /// Starts one.
    pub fn start(arguments: &[&str]) -> Self {
        Self(command(arguments).stderr(Stdio::null()).spawn().expect("python"))
    }

    /// Waits until it has stored everything.
    #[track_caller]
    pub fn finish(mut self) {
        assert!(self.0.wait().expect("its end").success(), "the feeder failed");
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
