//! Whether a file may be loaded: what it is, what it exports, what it asks for.

use std::path::{Path, PathBuf};

use wasmparser::Parser;

use crate::contract::{self, CONTRACT_VERSION, EXPORTS, FREE, Role, TYPES, Width};
use crate::engines::PASSIVE_ELEMENTS_MAX;
use crate::grants::{Grant, Grants};
use crate::imports::empty_world;
use crate::limits::Limits;
use crate::outline::{self, NAMES_MAX, Outline};
use crate::text::tame;

/// The most bytes of self-test cases that a plugin may carry.
pub const CASES_BYTES_MAX: usize = 1 << 20;

/// How many names of a file an error tells.
const NAMES_SHOWN_MAX: usize = 16;
/// The longest name of a function: the host copies some of them at each trap.
const NAME_BYTES_MAX: usize = 64 << 10;

/// Why a plugin was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The file can't be read.
    #[error("can't read the plugin {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// The file, or something in it, is larger than its limit.
    #[error("plugin {plugin}: {what} is {found}, above the limit of {limit}: {hint}")]
    TooLarge {
        /// The plugin.
        plugin: String,
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: usize,
        /// How large it may be.
        limit: usize,
        /// What to do.
        hint: &'static str,
    },
    /// The file is no component.
    #[error("plugin {plugin} is no WebAssembly component: {hint}")]
    NotAComponent {
        /// The plugin.
        plugin: String,
        /// What it is instead, and what to do.
        hint: String,
    },
    /// It was built for another version of the contract.
    #[error(
        "plugin {plugin} speaks version {found} of the plugin contract, this wasmill version {CONTRACT_VERSION} (`{name}`): build it with the matching SDK, or use a wasmill that speaks {found}"
    )]
    Contract {
        /// The plugin.
        plugin: String,
        /// The import or export that says so.
        name: String,
        /// Its version.
        found: String,
    },
    /// It exports nothing that a stage could call.
    #[error(
        "plugin {plugin} exports no interface that wasmill calls; it exports {exports}, and wasmill calls wasmill:plugin/transform, filter, aggregate (each also as -typed)"
    )]
    NoExport {
        /// The plugin.
        plugin: String,
        /// What it exports.
        exports: String,
    },
    /// It imports what its stage doesn't grant.
    #[error("plugin {plugin} imports `{grant}`, which its stage isn't granted: add `grants: [{}]`", grant.example())]
    NotGranted {
        /// The plugin.
        plugin: String,
        /// The missing grant.
        grant: Grant,
    },
    /// It imports what wasmill doesn't have.
    #[error("plugin {plugin} imports `{import}`, which wasmill doesn't have: {hint}")]
    UnknownImport {
        /// The plugin.
        plugin: String,
        /// The import.
        import: String,
        /// What to do.
        hint: &'static str,
    },
    /// An import or export has another type than the contract's.
    #[error("plugin {plugin}: {what}; build it from the contract's WIT {CONTRACT_VERSION}")]
    Signature {
        /// The plugin.
        plugin: String,
        /// Which, and how it differs.
        what: String,
    },
    /// The compiler refused it.
    #[error("plugin {plugin} can't be compiled: {cause}")]
    Compile {
        /// The plugin.
        plugin: String,
        /// Why not.
        cause: String,
    },
    /// The compiler took too long.
    #[error(
        "plugin {plugin} was not compiled within {limit_ms} ms: make it smaller, or raise `limits.compile_time` (compile_ms_max)"
    )]
    CompileTime {
        /// The plugin.
        plugin: String,
        /// The limit.
        limit_ms: u64,
    },
    /// The compiler took too much memory.
    #[error(
        "plugin {plugin} can't be compiled within {limit_bytes} bytes of memory: make it smaller, or raise `limits.compile_memory`"
    )]
    CompileMemory {
        /// The plugin.
        plugin: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Its aggregate could not describe itself.
    #[error("plugin {plugin}: its aggregate failed to describe itself: it {cause}")]
    Describe {
        /// The plugin.
        plugin: String,
        /// Why not.
        cause: String,
    },
}

/// What admission found out.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub exports: Vec<(String, Role, Width)>,
    pub outline: Outline,
}

/// Reads a plugin's file, up to the limit.
pub(crate) fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>, AdmissionError> {
    crate::file::read_file(path, limits.file_bytes_max)
        .map_err(|cause| AdmissionError::Read { path: path.to_owned(), cause })
}

/// Checks what can be checked before compiling: form, sizes, exports. Imports are [`check_imports`]'s.
pub(crate) fn check_form(plugin: &str, bytes: &[u8], limits: &Limits) -> Result<Admitted, AdmissionError> {
    let too_large = |what, found, limit, hint| {
        Err(AdmissionError::TooLarge { plugin: plugin.to_owned(), what, found, limit, hint })
    };
    if bytes.len() > limits.file_bytes_max {
        let hint = "strip debug information, or raise file_bytes_max";
        return too_large("the file's size in bytes", bytes.len(), limits.file_bytes_max, hint);
    }
    let not_a_component = |hint: String| AdmissionError::NotAComponent { plugin: plugin.to_owned(), hint };
    if !Parser::is_component(bytes) {
        return Err(not_a_component(what_it_is(bytes).to_owned()));
    }
    let outline = outline::read(bytes).map_err(|e| {
        not_a_component(format!("{e}; it may be cut short or damaged: build or copy it again"))
    })?;
    if outline.functions > limits.functions_max {
        let hint = "split the plugin, or raise functions_max";
        return too_large("the number of functions", outline.functions, limits.functions_max, hint);
    }
    if outline.longest_function_bytes > limits.function_bytes_max {
        let (found, limit) = (outline.longest_function_bytes, limits.function_bytes_max);
        return too_large(
            "its longest function in bytes",
            found,
            limit,
            "split it, or raise function_bytes_max",
        );
    }
    if outline.names_left_out > 0 {
        let found = NAMES_MAX + outline.names_left_out;
        let hint = "is it a plugin? One has some dozens";
        return too_large("the number of its imports, or of its exports,", found, NAMES_MAX, hint);
    }
    if outline.passive_elements > PASSIVE_ELEMENTS_MAX {
        let (found, hint) =
            (outline.passive_elements, "put the functions of its passive and declared segments into a table");
        return too_large("the number of passive elements", found, PASSIVE_ELEMENTS_MAX, hint);
    }
    if outline.longest_name_bytes > NAME_BYTES_MAX {
        let (found, hint) = (outline.longest_name_bytes, "strip its names, or shorten them");
        return too_large("the longest name of a function in bytes", found, NAME_BYTES_MAX, hint);
    }
    let cases_bytes = outline.cases.iter().map(Vec::len).sum();
    if cases_bytes > CASES_BYTES_MAX {
        let hint = "leave some of its cases out, and run them by `wasmill test`";
        return too_large("its sections `wasmill:cases` in bytes", cases_bytes, CASES_BYTES_MAX, hint);
    }
    let mut exports = Vec::new();
    for name in &outline.exports {
        let Some((interface, version)) = contract::split(name) else { continue };
        check_version(plugin, name, version)?;
        if let Some((_, role, width)) = EXPORTS.iter().find(|(known, ..)| *known == interface) {
            exports.push((name.clone(), *role, *width));
        }
    }
    // Migration alone is nothing that a stage could call.
    if exports.iter().all(|(_, role, _)| *role == Role::Migrate) {
        let exports = match outline.exports.as_slice() {
            [] => "nothing".to_owned(),
            names => {
                let shown = names.iter().take(NAMES_SHOWN_MAX).map(|n| format!("`{}`", tame(n, 128)));
                let mut text = shown.collect::<Vec<_>>().join(", ");
                let others = names.len().saturating_sub(NAMES_SHOWN_MAX);
                if others > 0 {
                    text.push_str(&format!(" and {others} others"));
                }
                text
            }
        };
        return Err(AdmissionError::NoExport { plugin: plugin.to_owned(), exports });
    }
    Ok(Admitted { exports, outline })
}

fn check_version(plugin: &str, name: &str, version: &str) -> Result<(), AdmissionError> {
    if version == CONTRACT_VERSION {
        return Ok(());
    }
    Err(AdmissionError::Contract {
        plugin: plugin.to_owned(),
        name: tame(name, 128),
        found: tame(version, 64),
    })
}

/// What an import asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Grant(Grant),
    Unknown(&'static str),
    Version(String),
}

/// What an import asks for.
pub(crate) fn need(import: &str) -> Need {
    if let Some((interface, version)) = contract::split(import) {
        if version != CONTRACT_VERSION {
            return Need::Version(version.to_owned());
        }
        if FREE.contains(&interface) || TYPES.contains(&interface) {
            return Need::Nothing;
        }
        return match Grant::ALL.into_iter().find(|g| g.name() == interface) {
            Some(grant) => Need::Grant(grant),
            None => Need::Unknown("build it from the contract's WIT of this version"),
        };
    }
    if import.starts_with("wasi:") {
        return match empty_world::has(import) {
            true => Need::Nothing,
            false => Need::Unknown(
                "of WASI a plugin gets the command-line interfaces of 0.2, with nothing behind them",
            ),
        };
    }
    Need::Unknown("a plugin may import the contract's interfaces and those of WASI 0.2")
}

/// Checks that every import is there and granted.
pub(crate) fn check_imports(plugin: &str, outline: &Outline, grants: &Grants) -> Result<(), AdmissionError> {
    for import in &outline.imports {
        match need(import) {
            Need::Nothing => {}
            Need::Grant(grant) if grants.has(grant) => {}
            Need::Grant(grant) => {
                return Err(AdmissionError::NotGranted { plugin: plugin.to_owned(), grant });
            }
            Need::Version(version) => check_version(plugin, import, &version)?,
            Need::Unknown(hint) => {
                let import = tame(import, 128);
                return Err(AdmissionError::UnknownImport { plugin: plugin.to_owned(), import, hint });
            }
        }
    }
    Ok(())
}

fn what_it_is(bytes: &[u8]) -> &'static str {
    let text = bytes.iter().position(|b| !b.is_ascii_whitespace()).map_or(&[][..], |at| &bytes[at..]);
    if bytes.is_empty() {
        "the file is empty"
    } else if Parser::is_core_wasm(bytes) {
        "this is a core module; pack it into a component (`wasmill-pack`, or `wasm-tools component new`)"
    } else if bytes.starts_with(b"\0asm") || b"\0asm".starts_with(bytes) {
        "the file ends within its header, or is of an unknown version of WebAssembly: build or copy it again"
    } else if text.starts_with(b"(") || text.starts_with(b";;") {
        "this is WebAssembly text; turn it into a binary first (`wasm-tools parse`)"
    } else if bytes.starts_with(b"\x7fELF") {
        "this is machine code, as a native build or a compile cache holds it; give the .wasm file"
    } else {
        "it doesn't begin as WebAssembly does; is it the right file?"
    }
}
