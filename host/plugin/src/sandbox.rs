//! The sandbox: one a process, with everything that plugins share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmill_engine::guest::{GuestInfo, PluginRef};
use wasmtime::component::Component;

use crate::admission::{self, AdmissionError, Admitted};
use crate::artifact;
use crate::cache::Cache;
use crate::compiler::{CompileFailure, Compiler, Compilers, STACK_BYTES};
use crate::context::Shared;
use crate::contract;
use crate::counters::{Counter, Counters, Usage};
use crate::engines::{Engines, Mode};
use crate::grants::{Grant, Grants};
use crate::guest;
use crate::imports::empty_world;
use crate::instances::Instances;
use crate::limits::Limits;
use crate::plugin::{Loaded, LoadedRef, Prepared};
use crate::text::tame;

/// A page of a linear memory.
const PAGE_BYTES: usize = 64 << 10;

/// What a pipeline spec says under a stage's `config`: values as JSON.
pub type StageConfig = BTreeMap<String, String>;

/// How a sandbox is made.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// What bounds every plugin.
    pub limits: Limits,
    /// Where compiled plugins are kept; none: they are compiled at each start.
    pub cache: Option<PathBuf>,
    /// The command by which this program compiles plugins in a process of its own, where their compiling can hurt
    /// nobody; none: they are compiled in this process.
    pub compiler: Option<Compiler>,
    /// The wall clock in milliseconds since 1970, for plugins that are granted it.
    pub wall_clock_ms: fn() -> i64,
}

impl Default for SandboxOptions {
    /// The default limits, no cache, no compiler of its own, the system's clock.
    fn default() -> Self {
        Self { limits: Limits::default(), cache: None, compiler: None, wall_clock_ms: system_clock_ms }
    }
}

impl SandboxOptions {
    /// Where the operating system keeps this user's caches; none where it can't be known.
    #[must_use]
    pub fn user_cache() -> Option<PathBuf> {
        let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = if cfg!(windows) {
            from("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            from("HOME").map(|home| home.join("Library/Caches"))
        } else {
            from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")))
        };
        base.map(|base| base.join("wasmill"))
    }
}

fn system_clock_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't start the sandbox for plugins: {0}; are instances_max, memory_bytes_max and stack_bytes_max in this machine's bounds?"
)]
pub struct SandboxError(String);

/// The sandbox of a process. Dropping it stops its ticks once its plugins are gone too.
pub struct Sandbox {
    host: Arc<Host>,
    /// What bounds the plugins that are loaded by this one.
    limits: Limits,
}

/// What all plugins of a sandbox share.
pub(crate) struct Host {
    engines: Engines,
    limits: Limits,
    cache: Option<Cache>,
    compilers: Option<Compilers>,
    counters: Counters,
    wall_clock_ms: fn() -> i64,
    /// What was loaded; some of it may be gone.
    loaded: Mutex<Vec<Weak<Loaded>>>,
}

impl Sandbox {
    /// Makes a sandbox. A cache that can't be opened is done without, with a warning.
    ///
    /// # Errors
    /// When the machine can't hold what the limits ask for.
    pub fn new(options: SandboxOptions) -> Result<Self, SandboxError> {
        let SandboxOptions { limits, cache, compiler, wall_clock_ms } = options;
        let engines = Engines::new(&limits).map_err(|e| SandboxError(format!("{e:#}")))?;
        let cache = cache.and_then(|directory| {
            let opened = Cache::open(&directory, limits.cache_bytes_max);
            opened
                .inspect_err(|e| {
                    tracing::warn!(path = %directory.display(), error = %e, "no compile cache; plugins are compiled at each start");
                })
                .ok()
        });
        let (counters, loaded) = (Counters::default(), Mutex::default());
        let compilers = compiler.map(Compilers::new);
        let host =
            Host { engines, limits: limits.clone(), cache, compilers, counters, wall_clock_ms, loaded };
        Ok(Self { host: Arc::new(host), limits })
    }

    /// The same sandbox, whose plugins are loaded within other limits. What is the process's stays as it is: no
    /// instance has more memory than the sandbox was made with.
    #[must_use]
    pub fn within(&self, limits: Limits) -> Self {
        let memory_bytes_max = limits.memory_bytes_max.min(self.host.limits.memory_bytes_max);
        Self { host: Arc::clone(&self.host), limits: Limits { memory_bytes_max, ..limits } }
    }

    /// Admits and loads a plugin from its file. Its name is the file's, without the ending.
    ///
    /// # Errors
    /// Why it was not admitted, and what to do.
    pub fn load(
        &self,
        path: &Path,
        grants: &Grants,
        config: StageConfig,
    ) -> Result<PluginRef, AdmissionError> {
        let bytes = admission::read_file(path, &self.host.limits)?;
        self.load_bytes(&name_of(path), &bytes, grants, config)
    }

    /// Admits and loads a plugin from memory.
    ///
    /// # Errors
    /// As [`Sandbox::load`].
    pub fn load_bytes(
        &self,
        name: &str,
        bytes: &[u8],
        grants: &Grants,
        config: StageConfig,
    ) -> Result<PluginRef, AdmissionError> {
        let admitted = admission::check_form(name, bytes, &self.host.limits)?;
        admission::check_imports(name, &admitted.outline, grants)?;
        self.load_admitted(name, bytes, admitted, grants, config)
    }

    fn load_admitted(
        &self,
        name: &str,
        bytes: &[u8],
        admitted: Admitted,
        grants: &Grants,
        config: StageConfig,
    ) -> Result<PluginRef, AdmissionError> {
        let Admitted { exports, outline } = admitted;
        let host = &self.host;
        let imports = |interface: &str| outline.imports.contains(&contract::full_name(interface));
        let info = GuestInfo {
            name: name.to_owned(),
            digest: digest(bytes),
            version: outline.version.clone(),
            kinds: contract::kinds(exports.iter().map(|(_, role, _)| *role)),
            needs_facts: imports("clock")
                || imports("random")
                || outline.imports.iter().any(|i| empty_world::needs_facts(i)),
            needs_state: imports("state"),
            has_secrets: !grants.behind.secrets.is_empty(),
            aggregate: None,
        };
        // The same plugin, loaded for another stage: its instances serve both.
        let same = |l: &&Arc<Loaded>| {
            let alike = l.info.name == info.name && l.shared.limits == self.limits;
            alike && l.grants.is_same(grants) && l.shared.config == config
        };
        let others = host.loaded_of(&info.digest);
        if let Some(loaded) = others.iter().find(same) {
            return Ok(Arc::new(LoadedRef(Arc::clone(loaded))));
        }
        let wasm = others.first().map_or_else(|| bytes.into(), |other| Arc::clone(&other.wasm));
        let (component, of_verdicts) = host.compile_both(name, &info.digest, &wasm)?;
        let starts_with = component.resources_required().and_then(|r| r.max_initial_memory_size);
        // It is told in pages.
        let starts_with = starts_with.map(|pages| usize::try_from(pages).unwrap_or(usize::MAX));
        if let Some(found) = starts_with.map(|pages| pages.saturating_mul(PAGE_BYTES))
            && found > self.limits.memory_bytes_max
        {
            let (limit, plugin) = (self.limits.memory_bytes_max, name.to_owned());
            let (what, hint) = ("the memory that it starts with, in bytes,", "raise `limits.memory`");
            return Err(AdmissionError::TooLarge { plugin, what, found, limit, hint });
        }
        let prepared = |component| {
            Prepared::new(component, grants, &exports).map_err(|what| AdmissionError::Signature {
                plugin: name.to_owned(),
                what: tame(&what, 2_048),
            })
        };
        let (production, verdict) = (prepared(&component)?, prepared(&of_verdicts)?);
        let clock = (host.wall_clock_ms, grants.has(Grant::WallClock));
        let counters = host.counters.of(name);
        let behind = Arc::clone(&grants.behind);
        let (limits, seconds) = (self.limits.clone(), host.engines.seconds());
        let shared = Shared::new(name, limits, config, counters, clock, behind, seconds);
        let mut loaded = Loaded {
            host: Arc::clone(host),
            info,
            shared: Arc::new(shared),
            grants: grants.clone(),
            wasm,
            production,
            verdict,
            instances: Instances::default(),
            cases: outline.cases,
        };
        if loaded.info.kinds.aggregate {
            let describe = guest::describe(&loaded);
            loaded.info.aggregate =
                Some(describe.map_err(|e| AdmissionError::Describe {
                    plugin: name.to_owned(),
                    cause: e.to_string(),
                })?);
        }
        let loaded = Arc::new(loaded);
        host.loaded().push(Arc::downgrade(&loaded));
        Ok(Arc::new(LoadedRef(loaded)))
    }

    /// Loads a plugin that is loaded once more, with other grants or another config.
    ///
    /// # Errors
    /// As [`Sandbox::load`]; also when the plugin isn't loaded any more.
    pub fn load_again(
        &self,
        plugin: &GuestInfo,
        grants: &Grants,
        config: StageConfig,
    ) -> Result<PluginRef, AdmissionError> {
        let Some(loaded) = self.host.loaded_of(&plugin.digest).into_iter().next() else {
            let cause = std::io::Error::other("it was unloaded meanwhile");
            return Err(AdmissionError::Read { path: PathBuf::from(&plugin.name), cause });
        };
        self.load_bytes(&plugin.name, &loaded.wasm, grants, config)
    }

    /// The self-test cases that a loaded plugin carries, as its author wrote them: the text of each section.
    #[must_use]
    pub fn cases(&self, plugin: &GuestInfo) -> Vec<Vec<u8>> {
        self.host.loaded_of(&plugin.digest).first().map(|l| l.cases.clone()).unwrap_or_default()
    }

    /// Whether [`Sandbox::note`] was told this, by this process or an earlier one with the same compile cache.
    #[must_use]
    pub fn has_note(&self, what: &str) -> bool {
        self.host.cache.as_ref().is_some_and(|cache| cache.has_note(what))
    }

    /// Remembers something of a plugin that takes its time to find out, as that its cases passed. A hint: where
    /// there is no cache, or no room in it, it is found out again.
    pub fn note(&self, what: &str) {
        if let Some(Err(error)) = self.host.cache.as_ref().map(|cache| cache.note(what)) {
            tracing::warn!(%error, "could not write to the compile cache");
        }
    }

    /// The counters that plugins keep of their own. A count stands once the call that made it succeeded.
    #[must_use]
    pub fn counters(&self) -> Vec<Counter> {
        self.host.counters.snapshot()
    }

    /// What each plugin uses and has used up, by its name.
    #[must_use]
    pub fn usage(&self) -> Vec<Usage> {
        self.host.counters.usage()
    }

    /// The limits within which plugins are loaded.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Host {
    fn loaded(&self) -> MutexGuard<'_, Vec<Weak<Loaded>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is loaded of a file with this digest.
    fn loaded_of(&self, digest: &str) -> Vec<Arc<Loaded>> {
        let mut all = self.loaded();
        all.retain(|l| l.strong_count() > 0);
        let alive: Vec<Arc<Loaded>> = all.iter().filter_map(Weak::upgrade).collect();
        // The last to go may be one of these: it isn't dropped under the lock.
        drop(all);
        alive.into_iter().filter(|l| l.info.digest == digest).collect()
    }

    /// A component compiled for production and for verdicts; side by side, for a compiler has one thread.
    fn compile_both(
        &self,
        plugin: &str,
        digest: &str,
        wasm: &Arc<[u8]>,
    ) -> Result<(Component, Component), AdmissionError> {
        // In this process a compiler can't be stopped: where one ran out of time, no other is begun.
        if self.compilers.is_none() {
            let production = self.compile(Mode::Production, plugin, digest, wasm)?;
            return Ok((production, self.compile(Mode::Verdict, plugin, digest, wasm)?));
        }
        std::thread::scope(|threads| {
            let verdict = threads.spawn(|| self.compile(Mode::Verdict, plugin, digest, wasm));
            let production = self.compile(Mode::Production, plugin, digest, wasm)?;
            let verdict = verdict.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((production, verdict))
        })
    }

    /// A component compiled for this mode: one that is loaded already, from the cache, or by the compiler.
    fn compile(
        &self,
        mode: Mode,
        plugin: &str,
        digest: &str,
        wasm: &Arc<[u8]>,
    ) -> Result<Component, AdmissionError> {
        if let Some(loaded) = self.loaded_of(digest).first() {
            return Ok(loaded.prepared(mode).pre.component().clone());
        }
        let engine = self.engines.get(mode);
        let entry = entry_name(engine, digest);
        if let Some(cached) = self.cache.as_ref().and_then(|cache| cache.get(&entry)) {
            match artifact::of_cache(engine, &cached) {
                Ok(component) => return Ok(component),
                Err(error) => {
                    tracing::warn!(plugin, %error, "compile cache entry doesn't fit; compiling again");
                }
            }
        }
        let put = |bytes: &[u8]| {
            if let Some(Err(error)) = self.cache.as_ref().map(|cache| cache.put(&entry, bytes)) {
                tracing::warn!(plugin, %error, "could not keep a compiled plugin; it will be compiled again");
            }
        };
        let Some(compilers) = &self.compilers else {
            let component = self.compile_in_time(engine, plugin, wasm)?;
            if self.cache.is_some()
                && let Ok(bytes) = component.serialize()
            {
                put(&bytes);
            }
            return Ok(component);
        };
        let plugin = || plugin.to_owned();
        let compiled = compilers.compile(mode, wasm, &self.limits).map_err(|failure| match failure {
            CompileFailure::Time => {
                AdmissionError::CompileTime { plugin: plugin(), limit_ms: self.limits.compile_ms_max }
            }
            CompileFailure::Memory => {
                AdmissionError::CompileMemory { plugin: plugin(), limit_bytes: self.limits.compile_bytes_max }
            }
            CompileFailure::Refused(cause) => AdmissionError::Compile { plugin: plugin(), cause },
        })?;
        let component = artifact::of_compiler(engine, &compiled).map_err(|e| AdmissionError::Compile {
            plugin: plugin(),
            cause: tame(&format!("{e:#}"), 2_048),
        })?;
        put(compiled.bytes());
        Ok(component)
    }

    /// Compiles on a thread of its own, where there is no process for it. The compiler can't be stopped: past the
    /// limit the thread runs on to its end, and its result is dropped. Its memory is bounded only by the sizes that
    /// admission checks.
    fn compile_in_time(
        &self,
        engine: &wasmtime::Engine,
        plugin: &str,
        wasm: &Arc<[u8]>,
    ) -> Result<Component, AdmissionError> {
        let (send, receive) = mpsc::channel();
        let (engine, wasm) = (engine.clone(), Arc::clone(wasm));
        let compile_error = |cause| AdmissionError::Compile { plugin: plugin.to_owned(), cause };
        std::thread::Builder::new()
            .name("wasmill-compile".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Nobody receives once the time is up.
                drop(send.send(Component::from_binary(&engine, &wasm)));
            })
            .map_err(|e| compile_error(e.to_string()))?;
        let limit_ms = self.limits.compile_ms_max;
        match receive.recv_timeout(Duration::from_millis(limit_ms)) {
            Ok(compiled) => compiled.map_err(|e| compile_error(tame(&format!("{e:#}"), 2_048))),
            Err(RecvTimeoutError::Timeout) => {
                Err(AdmissionError::CompileTime { plugin: plugin.to_owned(), limit_ms })
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(compile_error("the compiler panicked; please report this plugin".to_owned()))
            }
        }
    }
}

/// A cache entry's name: the plugin's digest, and wasmtime's version, target and configuration.
fn entry_name(engine: &wasmtime::Engine, digest: &str) -> String {
    struct Blake(blake3::Hasher);
    impl std::hash::Hasher for Blake {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Blake(blake3::Hasher::new());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
    hasher.0.update(digest.as_bytes());
    hasher.0.finalize().to_hex().to_string()
}

/// A plugin's digest: SHA-256 in hexadecimal, as `sha256sum` prints it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A plugin's name: its file's, without the ending, and without the version behind an `@`.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    match stem.split('@').next() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "plugin".to_owned(),
    }
}
