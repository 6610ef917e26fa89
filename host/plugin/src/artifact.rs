//! Compiled components as bytes. The one place with unsafe code.
#![allow(unsafe_code, reason = "wasmtime can't check compiled code; its origin is checked here instead")]

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::Authentic;
use crate::compiler::Compiled;

/// Makes a component of an authenticated cache entry.
pub(crate) fn of_cache(engine: &Engine, entry: &Authentic) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` asks for bytes that `Component::serialize` or
    // `Engine::precompile_component` gave. An `Authentic` exists only where the cache's secret key, readable by this
    // user alone, authenticated exactly these bytes; it authenticates nothing but what those two returned. wasmtime
    // itself refuses another version's or configuration's.
    unsafe { Component::deserialize(engine, entry.bytes()) }
}

/// Makes a component of what this process's own compiler gave.
pub(crate) fn of_compiler(engine: &Engine, compiled: &Compiled) -> wasmtime::Result<Component> {
    // SAFETY: as above. A `Compiled` exists only where a process that this one started, of its own program, wrote
    // exactly these bytes to a pipe that nobody else holds, and then said that all went well: they are what
    // `Engine::precompile_component` gave it. A process that was ended at a bound has not said so.
    unsafe { Component::deserialize(engine, compiled.bytes()) }
}
