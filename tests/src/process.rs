//! wasmill as a process: started, signalled, killed, waited for; never longer than a bound.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

use crate::home;

/// How long a run may take before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often a process or a file is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What a process's end of stdout is.
enum Stdout {
    /// Read to its end.
    Read,
    /// A pipe that nobody reads until [`Running::unread_stdout`] is.
    Unread,
}

/// A command that is not started yet. Its environment is clean but for what a test sets.
pub struct Wasmill {
    command: Command,
    stdout: Stdout,
}

impl Wasmill {
    /// The binary under test in a folder.
    pub fn new<A: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(home::binary());
        command
            .args(args)
            .current_dir(folder)
            .env_clear()
            .env("XDG_CACHE_HOME", home::cache())
            .env("NO_COLOR", "1")
            .env("ENVIRONMENT", "development")
            .stdin(Stdio::null());
        Self { command, stdout: Stdout::Read }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.command.env(name, value.to_string());
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl ToString) -> Self {
        self.command.arg(arg.to_string());
        self
    }

    /// A file is its stdin.
    ///
    /// # Panics
    /// When the file can't be opened.
    #[must_use]
    pub fn stdin(mut self, path: PathBuf) -> Self {
        let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.command.stdin(file);
        self
    }

    /// Its stdin is a pipe that stays open until [`Running::end_stdin`].
    #[must_use]
    pub fn stdin_open(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Nobody reads its stdout for now.
    #[must_use]
    pub fn stdout_unread(mut self) -> Self {
        self.stdout = Stdout::Unread;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(mut self) -> Running {
        let child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("wasmill can't be started: {e}"));
        let log = Log::default();
        let stderr = child.stderr.take().map(|pipe| collect(pipe, Some(log.clone())));
        let stdout = match self.stdout {
            Stdout::Read => child.stdout.take().map(|pipe| collect(pipe, None)),
            Stdout::Unread => None,
        };
        Running { child, stdout, stderr, log, peak_bytes: 0, started: Instant::now() }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it doesn't end.
    #[track_caller]
    pub fn run(self) -> Ended {
        self.start().wait()
    }
}

/// What a process has written to stderr so far.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Whether it has this text in it.
    #[must_use]
    pub fn says(&self, part: &str) -> bool {
        self.text().contains(part)
    }
}

/// Reads a pipe on a thread of its own, so that it never fills up.
fn collect(mut pipe: impl Read + Send + 'static, log: Option<Log>) -> Receiver<Vec<u8>> {
    let (to, from) = sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 << 10];
        // A broken pipe ends what can be read; what came before it counts.
        while let Ok(n) = pipe.read(&mut piece) {
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..n]);
            if let Some(log) = &log {
                log.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..n]);
            }
        }
        let _ = to.send(bytes);
    });
    from
}

/// A process that runs; killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: Option<Receiver<Vec<u8>>>,
    stderr: Option<Receiver<Vec<u8>>>,
    log: Log,
    peak_bytes: u64,
    started: Instant,
}

impl Running {
    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long ago it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether it has not ended yet.
    ///
    /// # Panics
    /// When the operating system doesn't say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child's status").is_none()
    }

    /// Sends it a signal; false where it has ended.
    pub fn signal(&mut self, signal: Signal) -> bool {
        self.is_running()
            && rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).is_ok()
    }

    /// Kills it as `kill -9` does; false where it had ended before.
    ///
    /// # Panics
    /// When the operating system refuses.
    pub fn kill(mut self) -> (bool, Ended) {
        let killed = self.is_running();
        if killed {
            self.child.kill().expect("a child can be killed");
        }
        (killed, self.wait())
    }

    /// What it has written to stderr so far.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Its resident memory without files that it maps, in bytes; 0 once it has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")).and_then(|n| n.trim().parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }

    /// Ends its stdin.
    pub fn end_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Its stdout, which nobody has read so far.
    pub fn unread_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until something holds.
    ///
    /// # Panics
    /// When it doesn't come to hold, or the process ends before.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            if !self.is_running() {
                panic!("it ended before {what}:\n{}", self.log.text());
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it doesn't end.
    #[track_caller]
    pub fn wait(self) -> Ended {
        self.wait_at_most(PATIENCE)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it doesn't end in this time.
    #[track_caller]
    pub fn wait_at_most(mut self, patience: Duration) -> Ended {
        let begun = Instant::now();
        while self.is_running() {
            if begun.elapsed() > patience {
                panic!("not ended within {patience:?}:\n{}", self.log.text());
            }
            // The kernel keeps the peak itself: the last look before the end is enough.
            self.peak_bytes = self.peak_bytes.max(self.status_bytes("VmHWM:"));
            std::thread::sleep(LOOK);
        }
        let status = self.child.wait().expect("a child's status");
        let bytes = |from: &mut Option<Receiver<Vec<u8>>>| {
            from.take().and_then(|from| from.recv().ok()).unwrap_or_default()
        };
        let (stdout, stderr) = (bytes(&mut self.stdout), bytes(&mut self.stderr));
        Ended {
            code: status.code(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            peak_bytes: self.peak_bytes,
            lasted: self.started.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nothing running; one that ended has nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// The most memory that it was seen with, in bytes.
    pub peak_bytes: u64,
    /// From its start to its end.
    pub lasted: Duration,
}

impl Ended {
    /// The summary of the one pipeline that `run --json` ran.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn summary(&self) -> serde_json::Value {
        let all: serde_json::Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}:\n{}{}", self.stdout, self.stderr));
        all[0].clone()
    }

    /// Expects an exit code.
    ///
    /// # Panics
    /// When it was another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "exit code\nstdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// Expects texts in what it wrote.
    ///
    /// # Panics
    /// When one is missing.
    #[track_caller]
    pub fn says<S: AsRef<str>>(self, parts: &[S]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        for part in parts {
            let part = part.as_ref();
            assert!(all.contains(part), "no {part:?} in:\n{all}");
        }
        self
    }
}
