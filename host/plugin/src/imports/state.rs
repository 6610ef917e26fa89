//! State of a message's key.

use wasmill_frame::{Blobs, BlobsWriter};
use wasmtime::component::Linker;

use super::{Cx, wait};
use crate::context::Ctx;
use crate::contract::full_name;
use crate::text::tame;

/// Adds the `state` import. Its reasons don't name the entry: SDKs put it in front.
pub(super) fn add(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut state = linker.instance(&full_name("state"))?;
    state.func_wrap("get", |mut cx: Cx<'_>, (message, name): (u32, String)| {
        read(&mut cx, |cx| get(cx, message, &name))
    })?;
    state.func_wrap(
        "set",
        |mut cx: Cx<'_>, (message, name, value, ttl_ms): (u32, String, Vec<u8>, Option<u64>)| {
            cx.data_mut().enter()?;
            Ok((set(cx.data_mut(), message, &name, Some(&value), ttl_ms),))
        },
    )?;
    state.func_wrap("delete", |mut cx: Cx<'_>, (message, name): (u32, String)| {
        cx.data_mut().enter()?;
        Ok((set(cx.data_mut(), message, &name, None, None),))
    })?;
    state.func_wrap("increment", |mut cx: Cx<'_>, (message, name, by): (u32, String, i64)| {
        read(&mut cx, |cx| increment(cx, message, &name, by))
    })?;
    state.func_wrap("get-many", |mut cx: Cx<'_>, (names,): (Vec<u8>,)| {
        read(&mut cx, |cx| get_many(cx, &names))
    })?;
    state.func_wrap("change-many", |mut cx: Cx<'_>, (changes,): (Vec<u8>,)| {
        cx.data_mut().enter()?;
        Ok((change_many(cx.data_mut(), &changes),))
    })?;
    state.func_wrap("increment-many", |mut cx: Cx<'_>, (names, by): (Vec<u8>, i64)| {
        read(&mut cx, |cx| increment_many(cx, &names, by))
    })
}

/// Makes a call that may have to wait for the store. That time is not the guest's; how long it waits in all has a
/// bound of its own.
fn read<T>(cx: &mut Cx<'_>, call: impl FnOnce(&mut Ctx) -> T) -> wasmtime::Result<(T,)> {
    cx.data_mut().enter()?;
    Ok((wait::outside(cx, call)?,))
}

const NO_STATE: &str = "this call has no state; state belongs to messages, so it is there in transform, filter, fold and scan alone";

fn get(cx: &mut Ctx, message: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
    cx.charge_entry()?;
    // Before the work: nothing interrupts it.
    charge_key(cx, message, name)?;
    let value = cx.call.state.as_mut().ok_or(NO_STATE)?.get(message, name)?;
    cx.charge_state(value.as_ref().map_or(0, Vec::len))?;
    Ok(value)
}

/// Counts a stored key whole: with each entry the host keeps its message's key once more.
fn charge_key(cx: &mut Ctx, message: u32, name: &str) -> Result<(), String> {
    let bytes = cx.call.state.as_ref().ok_or(NO_STATE)?.stored_bytes(message, name);
    cx.charge_state(bytes)
}

fn set(
    cx: &mut Ctx,
    message: u32,
    name: &str,
    value: Option<&[u8]>,
    ttl_ms: Option<u64>,
) -> Result<(), String> {
    cx.charge_entry()?;
    charge_key(cx, message, name)?;
    cx.charge_state(value.map_or(0, <[u8]>::len))?;
    cx.call.state.as_mut().ok_or(NO_STATE)?.set(message, name, value, ttl_ms)
}

fn increment(cx: &mut Ctx, message: u32, name: &str, by: i64) -> Result<i64, String> {
    let old = match get(cx, message, name)? {
        None => 0,
        Some(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
            .ok_or_else(|| format!("{:?} is no number", tame(&String::from_utf8_lossy(&bytes), 128)))?,
    };
    let sum = old.checked_add(by).ok_or_else(|| format!("{old} + {by} leaves 64 bits"))?;
    set(cx, message, name, Some(sum.to_string().as_bytes()), None)?;
    Ok(sum)
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a name is not UTF-8".to_owned())
}

fn blobs<'a>(bytes: &'a [u8], what: &str) -> Result<Blobs<'a>, String> {
    Blobs::parse(bytes).map_err(|e| format!("{what}: {e}"))
}

fn get_many(cx: &mut Ctx, names: &[u8]) -> Result<Vec<u8>, String> {
    let mut values = BlobsWriter::new();
    for (message, name) in blobs(names, "names")?.iter() {
        match get(cx, message, text(name)?)? {
            Some(value) => values.push(1, &value),
            None => values.push(0, b""),
        }
    }
    Ok(values.finish())
}

fn change_many(cx: &mut Ctx, changes: &[u8]) -> Result<(), String> {
    let changes = blobs(changes, "changes")?;
    if changes.len() % 2 != 0 {
        return Err(format!("{} changes are not two by two, a name and a value", changes.len()));
    }
    let mut changes = changes.iter();
    while let (Some((message, name)), Some((kind, value))) = (changes.next(), changes.next()) {
        let value = match kind {
            0 => None,
            1 => Some(value),
            other => return Err(format!("a change has tag {other}, not 0 to delete or 1 to set")),
        };
        set(cx, message, text(name)?, value, None)?;
    }
    Ok(())
}

fn increment_many(cx: &mut Ctx, names: &[u8], by: i64) -> Result<Vec<i64>, String> {
    blobs(names, "names")?.iter().map(|(message, name)| increment(cx, message, text(name)?, by)).collect()
}
