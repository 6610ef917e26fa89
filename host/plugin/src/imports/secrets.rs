//! Secrets by name.

use wasmtime::component::Linker;

use super::Cx;
use crate::context::Ctx;
use crate::contract::full_name;
use crate::text::tame;

/// Adds the `secrets` import.
pub(super) fn add(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut secrets = linker.instance(&full_name("secrets"))?;
    secrets.func_wrap("get", |mut cx: Cx<'_>, (name,): (String,)| {
        cx.data_mut().enter()?;
        let value = cx.data().shared.behind.secrets.get(&name).map(<[u8]>::to_vec);
        Ok((value.ok_or_else(|| format!("the secret {:?} is not granted", tame(&name, 128))),))
    })
}
