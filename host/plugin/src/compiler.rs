//! Compiles a plugin in a process of its own, so that what makes the compiler eat time or memory costs that
//! process and not the host.
//!
//! The host starts its own program again, as [`Compiler`] names it; that calls [`compile_for_parent`]. The task and
//! the plugin go to its stdin, compiled code comes from its stdout.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::Engine;

use crate::engines::{self, Mode};
use crate::limits::Limits;
use crate::text::tame;

/// The first word of a task.
const MAGIC: &str = "wasmill-compile-1";
/// The longest first line of a task.
const TASK_BYTES_MAX: u64 = 256;
/// How much of what the compiler says is kept.
const SAID_BYTES_MAX: u64 = 16 << 10;
/// The compiler's stack.
pub(crate) const STACK_BYTES: usize = 8 << 20;
/// How far behind everything else the compiler stands for a processor, as `nice` counts.
#[cfg(unix)]
const NICENESS: i32 = 10;
/// How many times its processor time it is waited for: it stands behind everything else.
const WAITS: u64 = 5;
/// What a dynamic linker may need to find the program's libraries: all of the environment that goes along.
const ENVIRONMENT: [&str; 3] = ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"];

/// The command that calls [`compile_for_parent`]. It must be this very program: its compiled code is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What this process's own compiler gave. Nothing else makes one.
pub(crate) struct Compiled(Vec<u8>);

impl Compiled {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Why there is no compiled code.
pub(crate) enum CompileFailure {
    /// It took too long.
    Time,
    /// It took too much memory.
    Memory,
    /// The compiler refused it, or could not be run.
    Refused(String),
}

/// The compilers of a sandbox: as many at once as the machine has processors.
pub(crate) struct Compilers {
    command: Compiler,
    free: Mutex<usize>,
    freed: Condvar,
}

impl Compilers {
    pub fn new(command: Compiler) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { command, free: Mutex::new(processors), freed: Condvar::new() }
    }

    /// Compiles a plugin once there is a processor for it.
    pub fn compile(&self, mode: Mode, wasm: &[u8], limits: &Limits) -> Result<Compiled, CompileFailure> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let compiled = run(&self.command, mode, wasm, limits);
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
        compiled
    }
}

/// What a compiler is told in the first line of its stdin.
#[derive(Debug, PartialEq, Eq)]
struct Task {
    mode: Mode,
    stack_bytes_max: usize,
    file_bytes_max: usize,
    processor_seconds_max: u64,
    memory_bytes_max: u64,
}

impl Task {
    fn new(mode: Mode, limits: &Limits) -> Self {
        Self {
            mode,
            stack_bytes_max: limits.stack_bytes_max,
            file_bytes_max: limits.file_bytes_max,
            processor_seconds_max: limits.compile_ms_max.div_ceil(1_000),
            memory_bytes_max: limits.compile_bytes_max,
        }
    }

    fn line(&self) -> String {
        let Self { mode, stack_bytes_max, file_bytes_max, processor_seconds_max, memory_bytes_max } = self;
        let mode = mode.name();
        format!(
            "{MAGIC} {mode} {stack_bytes_max} {file_bytes_max} {processor_seconds_max} {memory_bytes_max}\n"
        )
    }

    fn of(line: &str) -> Option<Self> {
        let mut words = line.strip_suffix('\n')?.strip_prefix(MAGIC)?.strip_prefix(' ')?.split(' ');
        let task = Self {
            mode: Mode::of(words.next()?)?,
            stack_bytes_max: words.next()?.parse().ok()?,
            file_bytes_max: words.next()?.parse().ok()?,
            processor_seconds_max: words.next()?.parse().ok()?,
            memory_bytes_max: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(task)
    }
}

fn run(command: &Compiler, mode: Mode, wasm: &[u8], limits: &Limits) -> Result<Compiled, CompileFailure> {
    let cannot = |e: io::Error| {
        CompileFailure::Refused(format!("can't run the compiler {}: {e}", command.program.display()))
    };
    let mut child = start(command).map_err(cannot)?;
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
        (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take())
    else {
        return Err(cannot(io::Error::other("it has no pipes")));
    };
    let task = Task::new(mode, limits).line();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            // One that has ended before it read everything has said why.
            drop(stdin.write_all(task.as_bytes()).and_then(|()| stdin.write_all(wasm)));
        });
        let said = threads.spawn(move || {
            let mut said = Vec::new();
            drop(stderr.take(SAID_BYTES_MAX).read_to_end(&mut said));
            said
        });
        let (send, received) = mpsc::channel();
        threads.spawn(move || {
            let mut compiled = Vec::new();
            let read = stdout.read_to_end(&mut compiled);
            // Nobody receives once the time is up.
            drop(send.send(read.map(|_| compiled)));
        });
        let compiled =
            match received.recv_timeout(Duration::from_millis(limits.compile_ms_max.saturating_mul(WAITS))) {
                Ok(compiled) => compiled.map_err(cannot)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(CompileFailure::Time);
                }
            };
        let status = child.0.wait().map_err(cannot)?;
        let said = said.join().unwrap_or_default();
        if status.success() { Ok(Compiled(compiled)) } else { Err(failure(status, &said)) }
    })
}

/// A process that ends with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // One that has ended already can't be killed, which is as well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(command: &Compiler) -> io::Result<Owned> {
    let mut child = Command::new(&command.program);
    child.args(&command.arguments).env_clear();
    child.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A signal from the terminal is the host's to handle.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut child, 0);
    child.spawn().map(Owned)
}

/// What the end of a compiler means.
fn failure(status: ExitStatus, said: &[u8]) -> CompileFailure {
    let said = String::from_utf8_lossy(said);
    // The standard library's last words.
    if said.contains("memory allocation of") {
        return CompileFailure::Memory;
    }
    #[cfg(unix)]
    {
        use rustix::process::Signal;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        if signal == Some(Signal::XCPU.as_raw()) {
            return CompileFailure::Time;
        }
        if signal == Some(Signal::KILL.as_raw()) {
            let why = "the compiler was killed from outside, as by a system that is out of memory";
            return CompileFailure::Refused(why.to_owned());
        }
    }
    let said = tame(said.trim(), 2_048);
    CompileFailure::Refused(match status.code() {
        Some(_) if !said.is_empty() => said,
        _ => format!("the compiler ended with {status}; please report this plugin. {said}").trim().to_owned(),
    })
}

/// Compiles what comes by stdin for the process that started this one as its [`Compiler`].
///
/// # Errors
/// Why there is no compiled code, for the parent.
pub fn compile_for_parent() -> Result<(), String> {
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    io::BufRead::read_until(&mut (&mut stdin).take(TASK_BYTES_MAX), b'\n', &mut line)
        .map_err(|e| format!("can't read the task: {e}"))?;
    let task = std::str::from_utf8(&line).ok().and_then(Task::of);
    let task = task.ok_or("this is no task: wasmill itself calls this command, to compile a plugin")?;
    bound(&task)?;
    let mut wasm = Vec::new();
    stdin
        .take(task.file_bytes_max as u64)
        .read_to_end(&mut wasm)
        .map_err(|e| format!("can't read the plugin: {e}"))?;
    let compiled = on_a_stack_of_its_own(move || {
        let limits = Limits { stack_bytes_max: task.stack_bytes_max, ..Limits::default() };
        let engine = Engine::new(&engines::code_config(task.mode, &limits)).map_err(|e| format!("{e:#}"))?;
        engine.precompile_component(&wasm).map_err(|e| format!("{e:#}"))
    })?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&compiled).and_then(|()| stdout.flush()).map_err(|e| format!("can't answer: {e}"))
}

/// Runs the compiler where its stack is as large in every process.
fn on_a_stack_of_its_own<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let thread = std::thread::Builder::new().name("wasmill-compile".into()).stack_size(STACK_BYTES);
    let running = thread.spawn(work).map_err(|e| e.to_string())?;
    running.join().unwrap_or_else(|_| Err("the compiler panicked; please report this plugin".to_owned()))
}

/// Bounds this process before it has read a byte of the plugin.
#[cfg(unix)]
fn bound(task: &Task) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
    let seconds = task.processor_seconds_max;
    for (what, resource, current, maximum) in [
        ("processor time", Resource::Cpu, seconds, seconds.saturating_add(1)),
        ("memory", Resource::As, task.memory_bytes_max, task.memory_bytes_max),
        ("core files", Resource::Core, 0, 0),
        ("files", Resource::Fsize, 0, 0),
    ] {
        // What this process was started with may be less.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limits = Rlimit { current: Some(current.min(most)), maximum: Some(maximum.min(most)) };
        setrlimit(resource, limits).map_err(|e| format!("can't bound the compiler's {what}: {e}"))?;
    }
    setpriority_process(None, NICENESS).map_err(|e| format!("can't lower the compiler's priority: {e}"))
}

/// Where there are no such bounds, the parent's time limit is the only one.
#[cfg(not(unix))]
fn bound(_: &Task) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_arrives_as_it_was_sent_and_nothing_else_is_one() {
        let limits = Limits { compile_ms_max: 1_001, ..Limits::default() };
        for mode in [Mode::Production, Mode::Verdict] {
            let task = Task::new(mode, &limits);
            assert_eq!(task.processor_seconds_max, 2);
            let line = task.line();
            assert!(line.len() < TASK_BYTES_MAX as usize);
            assert_eq!(Task::of(&line), Some(task));
            for end in 0..line.len() {
                assert_eq!(Task::of(&line[..end]), None, "cut at {end}");
            }
            assert_eq!(Task::of(&line.replace('\n', " 1\n")), None);
        }
    }

    #[test]
    fn its_code_is_for_the_engines_of_a_sandbox() {
        let limits = Limits { memory_bytes_max: 1 << 20, instances_max: 2, ..Limits::default() };
        let wasm = wat::parse_str("(component)").expect("a component");
        for mode in [Mode::Production, Mode::Verdict] {
            let compiler = Engine::new(&engines::code_config(mode, &limits)).expect("an engine");
            let compiled = Compiled(compiler.precompile_component(&wasm).expect("compiled"));
            let engines = engines::Engines::new(&limits).expect("engines");
            crate::artifact::of_compiler(engines.get(mode), &compiled).expect("it fits");
            let other = if mode == Mode::Production { Mode::Verdict } else { Mode::Production };
            assert!(crate::artifact::of_compiler(engines.get(other), &compiled).is_err(), "the other mode's");
        }
    }
}
