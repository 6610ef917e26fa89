//! Tables that the pipeline spec names.

use wasmill_frame::{Blobs, BlobsWriter};
use wasmtime::component::Linker;

use super::Cx;
use crate::context::Ctx;
use crate::contract::full_name;
use crate::lookup::Lookup;
use crate::text::tame;

/// Adds the `lookup` import. Its reasons don't name the key: SDKs put it in front.
pub(super) fn add(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut lookup = linker.instance(&full_name("lookup"))?;
    lookup.func_wrap("get", |mut cx: Cx<'_>, (table, key): (String, String)| {
        cx.data_mut().enter()?;
        Ok((self::table(cx.data(), &table).map(|t| t.get(&key).map(<[u8]>::to_vec)),))
    })?;
    lookup.func_wrap("get-many", |mut cx: Cx<'_>, (table, keys): (String, Vec<u8>)| {
        cx.data_mut().enter()?;
        Ok((get_many(cx.data(), &table, &keys),))
    })
}

fn table<'c>(cx: &'c Ctx, name: &str) -> Result<&'c Lookup, String> {
    let tables = &cx.shared.behind.lookups;
    tables.get(name).map(|table| &**table).ok_or_else(|| {
        let granted: Vec<String> = tables.keys().map(|name| format!("`{name}`")).collect();
        let granted = if granted.is_empty() { "none".to_owned() } else { granted.join(", ") };
        format!("the table {:?} is not granted; granted: {granted}", tame(name, 128))
    })
}

fn get_many(cx: &Ctx, name: &str, keys: &[u8]) -> Result<Vec<u8>, String> {
    let table = table(cx, name)?;
    let bytes_max = cx.shared.limits.answer_bytes_max;
    let keys = Blobs::parse(keys).map_err(|e| format!("keys: {e}"))?;
    let (mut rows, mut bytes) = (BlobsWriter::new(), 0_usize);
    for (_, key) in keys.iter() {
        let key = std::str::from_utf8(key).map_err(|_| "a key is not UTF-8")?;
        let row = table.get(key);
        bytes = bytes.saturating_add(row.map_or(0, <[u8]>::len));
        if bytes > bytes_max {
            return Err(format!(
                "the rows of one call are above {bytes_max} bytes; ask for fewer keys at once"
            ));
        }
        match row {
            Some(row) => rows.push(1, row),
            None => rows.push(0, b""),
        }
    }
    Ok(rows.finish())
}
