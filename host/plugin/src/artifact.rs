//! Compiled components as bytes. The one place with unsafe code.
#![allow(unsafe_code, reason = "wasmtime can't check compiled code; its origin is checked here instead")]

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::Authentic;

/// Makes a component of an authenticated cache entry.
pub(crate) fn deserialize(engine: &Engine, entry: &Authentic) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` asks for bytes that `Component::serialize` gave. An `Authentic`
    // exists only where the cache's secret key, readable by this user alone, authenticated exactly these
    // bytes; it authenticates nothing but what `serialize` returned. wasmtime itself refuses another
    // version's or configuration's.
    unsafe { Component::deserialize(engine, entry.bytes()) }
}
