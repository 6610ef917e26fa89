//! WASI 0.2 for plugins of other toolchains: a world with nothing in it, the same on every machine.
//!
//! No files, environment, arguments or sockets; input is at its end; what is written to stdout and
//! stderr goes to the log. Time stands still, but for waiting: whoever waits for an instant finds that
//! it has come. Random numbers are drawn from the first message of the call, so that a replay repeats
//! them; unlike `wasmill:plugin/random` they depend on how the messages are cut into batches.
//!
//! Functions that take a handle which this world never gives out can't be called: they trap.

use wasmtime::StoreContextMut;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, Val,
};

use super::Cx;
use crate::context::{Ctx, Severity, splitmix, stop};
use crate::text::ERROR_BYTES_MAX;

/// The interfaces of WASI 0.2 that are there.
const INTERFACES: [&str; 27] = [
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "filesystem/preopens",
    "filesystem/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/insecure",
    "random/insecure-seed",
    "random/random",
    "sockets/instance-network",
    "sockets/ip-name-lookup",
    "sockets/network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
];

/// Functions that need no handle and are refused: they answer `access-denied`.
const DENIED: [&str; 3] = ["create-tcp-socket", "create-udp-socket", "resolve-addresses"];

/// Kinds of handles that exist in name alone.
const NEVER: [&str; 10] = [
    "error",
    "descriptor",
    "directory-entry-stream",
    "incoming-datagram-stream",
    "outgoing-datagram-stream",
    "resolve-address-stream",
    "tcp-socket",
    "terminal-input",
    "terminal-output",
    "udp-socket",
];

/// The most random bytes that one call may give.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// The longest line of output that is kept together.
const LINE_BYTES_MAX: usize = 4 << 10;
/// What an output stream says it can take.
const WRITE_BYTES_MAX: u64 = 64 << 10;

/// Whether an import is one of this world's interfaces.
pub(crate) fn has(import: &str) -> bool {
    interface(import).is_some()
}

/// Whether an import draws on facts of the messages.
pub(crate) fn needs_facts(import: &str) -> bool {
    interface(import).is_some_and(|i| i.starts_with("random/"))
}

fn interface(import: &str) -> Option<&str> {
    let (name, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    (version.starts_with("0.2.") && INTERFACES.contains(&name)).then_some(name)
}

/// What changes in a world where nothing happens.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// The monotonic clock, in nanoseconds.
    now_ns: u64,
    seed: u64,
    drawn: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The end of what this call wrote to stderr.
    words: String,
}

impl World {
    /// Begins a call.
    pub fn begin(&mut self, seed: u64) {
        (self.seed, self.drawn) = (seed, 0);
        self.words.clear();
    }

    /// What this call wrote to stderr: where a runtime says why it gave up.
    pub fn last_words(&self) -> Option<String> {
        let rest = String::from_utf8_lossy(&self.stderr);
        let words = format!("{}{rest}", self.words);
        let words = words.trim();
        (!words.is_empty()).then(|| words.to_owned())
    }

    fn random(&mut self) -> u64 {
        self.drawn += 1;
        splitmix(self.seed, self.drawn)
    }

    fn random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        if count > RANDOM_BYTES_MAX {
            return Err(stop(format!(
                "asked for {count} random bytes; a call gives up to {RANDOM_BYTES_MAX}"
            )));
        }
        let mut bytes = Vec::with_capacity(count as usize + 8);
        while bytes.len() < count as usize {
            bytes.extend_from_slice(&self.random().to_le_bytes());
        }
        bytes.truncate(count as usize);
        Ok(bytes)
    }
}

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Writes to stdout or stderr: whole lines go to the log.
fn write(cx: &mut Ctx, stream: u32, bytes: &[u8]) {
    let severity = if stream == STDERR { Severity::Warn } else { Severity::Info };
    for part in bytes.split_inclusive(|b| *b == b'\n') {
        let world = &mut cx.world;
        let line = if stream == STDERR { &mut world.stderr } else { &mut world.stdout };
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        if !part.ends_with(b"\n") {
            continue;
        }
        let line = String::from_utf8_lossy(&std::mem::take(line)).trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        if stream == STDERR {
            world.words.push_str(&line);
            world.words.push('\n');
            let excess = world.words.len().saturating_sub(ERROR_BYTES_MAX);
            let cut = (excess..=world.words.len()).find(|at| world.words.is_char_boundary(*at));
            world.words.drain(..cut.unwrap_or(0));
        }
        cx.shared.log(severity, &line);
    }
}

struct Network;
struct InputStream;
struct OutputStream;
struct Pollable;
struct Descriptor;
struct Never;

#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "part of the type; nothing here fails")]
    Failed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

struct IoError;

#[derive(ComponentType, Lower)]
#[component(record)]
struct DateTime {
    seconds: u64,
    nanoseconds: u32,
}

/// Adds what this component imports of WASI.
pub(super) fn add(linker: &mut Linker<Ctx>, component: &Component) -> wasmtime::Result<()> {
    let engine = component.engine();
    for (import, item) in component.component_type().imports(engine) {
        let (Some(interface), ComponentItem::ComponentInstance(instance)) = (interface(import), item.ty)
        else {
            continue;
        };
        let mut into = linker.instance(import)?;
        for (name, item) in instance.exports(engine) {
            match item.ty {
                ComponentItem::Resource(_) => into.resource(name, resource(name), |_, _| Ok(()))?,
                ComponentItem::ComponentFunc(_) => function(&mut into, interface, name)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn resource(name: &str) -> ResourceType {
    match name {
        "network" => ResourceType::host::<Network>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "error" => ResourceType::host::<IoError>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        "terminal-input" | "terminal-output" => ResourceType::host::<Never>(),
        other => {
            ResourceType::host_dynamic(NEVER.iter().position(|n| *n == other).unwrap_or(NEVER.len()) as u32)
        }
    }
}

/// Whether a function takes a handle that is never given out.
fn is_out_of_reach(function: &str) -> bool {
    let of = function.strip_prefix("[method]").and_then(|f| f.split_once('.')).map(|(of, _)| of);
    of.is_some_and(|of| NEVER.contains(&of))
        || matches!(function, "filesystem-error-code" | "network-error-code")
}

/// Defines a function that counts as a call to the host.
fn define<P, R>(
    into: &mut LinkerInstance<'_, Ctx>,
    name: &str,
    function: impl Fn(&mut Ctx, P) -> wasmtime::Result<R> + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    P: wasmtime::component::ComponentNamedList + Lift + 'static,
    R: wasmtime::component::ComponentNamedList + Lower + 'static,
{
    into.func_wrap(name, move |mut cx: Cx<'_>, params: P| {
        cx.data_mut().enter()?;
        function(cx.data_mut(), params)
    })
}

fn function(into: &mut LinkerInstance<'_, Ctx>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match interface.split('/').next() {
        _ if is_out_of_reach(name) => into
            .func_new(name, |_, _, _, _| Err(stop("used a handle that a plugin is never given".to_owned()))),
        _ if DENIED.contains(&name) => {
            into.func_new(name, |mut cx: StoreContextMut<'_, Ctx>, _, _, results| {
                cx.data_mut().enter()?;
                if let Some(result) = results.first_mut() {
                    *result = Val::Result(Err(Some(Box::new(Val::Enum("access-denied".into())))));
                }
                Ok(())
            })
        }
        Some("cli") => command_line(into, name),
        Some("clocks") => clocks(into, interface, name),
        Some("filesystem") if name == "get-directories" => {
            define(into, name, |_, (): ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))
        }
        Some("io") => io(into, name),
        Some("random") => random(into, name),
        Some("sockets") if name == "instance-network" => {
            define(into, name, |_, (): ()| Ok((Resource::<Network>::new_own(0),)))
        }
        _ => missing(interface, name),
    }
}

fn missing(interface: &str, name: &str) -> wasmtime::Result<()> {
    Err(stop(format!("`wasi:{interface}` has no `{name}` here")))
}

fn command_line(into: &mut LinkerInstance<'_, Ctx>, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-environment" => define(into, name, |_, (): ()| Ok((Vec::<(String, String)>::new(),))),
        "get-arguments" => define(into, name, |_, (): ()| Ok((Vec::<String>::new(),))),
        "initial-cwd" => define(into, name, |_, (): ()| Ok((None::<String>,))),
        "exit" => define(into, name, |_, (_,): (Result<(), ()>,)| -> wasmtime::Result<()> {
            Err(stop("called exit".to_owned()))
        }),
        "exit-with-code" => define(into, name, |_, (code,): (u8,)| -> wasmtime::Result<()> {
            Err(stop(format!("called exit with code {code}")))
        }),
        "get-stdin" => define(into, name, |_, (): ()| Ok((Resource::<InputStream>::new_own(0),))),
        "get-stdout" => define(into, name, |_, (): ()| Ok((Resource::<OutputStream>::new_own(STDOUT),))),
        "get-stderr" => define(into, name, |_, (): ()| Ok((Resource::<OutputStream>::new_own(STDERR),))),
        "get-terminal-stdin" | "get-terminal-stdout" | "get-terminal-stderr" => {
            define(into, name, |_, (): ()| Ok((None::<Resource<Never>>,)))
        }
        _ => missing("cli", name),
    }
}

fn clocks(into: &mut LinkerInstance<'_, Ctx>, interface: &str, name: &str) -> wasmtime::Result<()> {
    let pollable = || Ok((Resource::<Pollable>::new_own(0),));
    match (interface, name) {
        ("clocks/wall-clock", "now") => define(into, name, |cx, (): ()| {
            let ms = if cx.shared.sees_wall_clock { (cx.shared.wall_clock_ms)().max(0) as u64 } else { 0 };
            let nanoseconds = (ms % 1_000) as u32 * 1_000_000;
            Ok((DateTime { seconds: ms / 1_000, nanoseconds },))
        }),
        ("clocks/wall-clock", "resolution") => {
            define(into, name, |_, (): ()| Ok((DateTime { seconds: 0, nanoseconds: 1_000_000 },)))
        }
        (_, "now") => define(into, name, |cx, (): ()| Ok((cx.world.now_ns,))),
        (_, "resolution") => define(into, name, |_, (): ()| Ok((1_u64,))),
        (_, "subscribe-instant") => define(into, name, move |cx, (at,): (u64,)| {
            cx.world.now_ns = cx.world.now_ns.max(at);
            pollable()
        }),
        (_, "subscribe-duration") => define(into, name, move |cx, (ns,): (u64,)| {
            cx.world.now_ns = cx.world.now_ns.saturating_add(ns);
            pollable()
        }),
        _ => missing(interface, name),
    }
}

fn random(into: &mut LinkerInstance<'_, Ctx>, name: &str) -> wasmtime::Result<()> {
    match name {
        "get-random-bytes" | "get-insecure-random-bytes" => {
            define(into, name, |cx, (count,): (u64,)| Ok((cx.world.random_bytes(count)?,)))
        }
        "get-random-u64" | "get-insecure-random-u64" => {
            define(into, name, |cx, (): ()| Ok((cx.world.random(),)))
        }
        // Seeds hash maps, once an instance: the same for all, so that no answer depends on which one gave it.
        "insecure-seed" => define(into, name, |_, (): ()| Ok(((0x77_61_73_6d_u64, 0x69_6c_6c_u64),))),
        _ => missing("random", name),
    }
}

type Input = (Resource<InputStream>, u64);
type Output = Resource<OutputStream>;
type Written = Result<(), StreamError>;

fn io(into: &mut LinkerInstance<'_, Ctx>, name: &str) -> wasmtime::Result<()> {
    match name {
        "poll" => define(into, name, |_, (pollables,): (Vec<Resource<Pollable>>,)| {
            Ok(((0..pollables.len() as u32).collect::<Vec<u32>>(),))
        }),
        "[method]pollable.ready" => define(into, name, |_, (_,): (Resource<Pollable>,)| Ok((true,))),
        "[method]pollable.block" => define(into, name, |_, (_,): (Resource<Pollable>,)| Ok(())),
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            define(into, name, |_, (_, _): Input| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)))
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            define(into, name, |_, (_, _): Input| Ok((Err::<u64, _>(StreamError::Closed),)))
        }
        "[method]input-stream.subscribe" => {
            define(into, name, |_, (_,): (Resource<InputStream>,)| Ok((Resource::<Pollable>::new_own(0),)))
        }
        "[method]output-stream.subscribe" => {
            define(into, name, |_, (_,): (Output,)| Ok((Resource::<Pollable>::new_own(0),)))
        }
        "[method]output-stream.check-write" => {
            define(into, name, |_, (_,): (Output,)| Ok((Ok::<_, StreamError>(WRITE_BYTES_MAX),)))
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            define(into, name, |cx, (stream, bytes): (Output, Vec<u8>)| {
                // As WASI has it: who writes more than `check-write` told is stopped.
                if bytes.len() as u64 > WRITE_BYTES_MAX {
                    let wrote = bytes.len();
                    return Err(stop(format!(
                        "wrote {wrote} bytes at once to a stream that takes up to {WRITE_BYTES_MAX}"
                    )));
                }
                write(cx, stream.rep(), &bytes);
                Ok((Written::Ok(()),))
            })
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            define(into, name, |_, (_,): (Output,)| Ok((Written::Ok(()),)))
        }
        "[method]output-stream.write-zeroes" | "[method]output-stream.blocking-write-zeroes-and-flush" => {
            define(into, name, |_, (_, _): (Output, u64)| Ok((Written::Ok(()),)))
        }
        "[method]output-stream.splice" | "[method]output-stream.blocking-splice" => {
            define(into, name, |_, (_, _, _): (Output, Resource<InputStream>, u64)| {
                Ok((Err::<u64, _>(StreamError::Closed),))
            })
        }
        _ => missing("io", name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_line_world_of_0_2_is_there() {
        for (import, there) in [
            ("wasi:cli/environment@0.2.0", true),
            ("wasi:io/streams@0.2.9", true),
            ("wasi:io/streams@0.3.0", false),
            ("wasi:io/streams", false),
            ("wasi:http/outgoing-handler@0.2.0", false),
            ("wasmill:plugin/log@0.1.0", false),
        ] {
            assert_eq!(has(import), there, "{import}");
        }
    }

    #[test]
    fn random_bytes_repeat_and_are_bounded() {
        let mut world = World::default();
        world.begin(7);
        let first = world.random_bytes(13).expect("in bounds");
        assert_eq!(first.len(), 13);
        assert_ne!(first, world.random_bytes(13).expect("in bounds"));
        world.begin(7);
        assert_eq!(first, world.random_bytes(13).expect("in bounds"));
        assert!(world.random_bytes(u64::MAX).is_err());
    }
}
