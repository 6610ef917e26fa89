//! Brings state into another number of key groups.

use std::ops::ControlFlow;

use wasmill_connect::store::Replacement;
use wasmill_engine::shape;
use wasmill_engine::state::{Checkpoint, StateView};
use wasmill_engine::stored_key::rehashed;
use wasmill_engine::topology::Topology;

use super::StateError;

/// Writes what a view shows into a replacement, each entry in its key group of `shape_now`. Answers the
/// number of entries. Positions, outputs' ids and what was foretold stay: they don't depend on key groups.
///
/// # Errors
/// When the store fails, or more than the number of key groups differs; the store is then as it was.
pub fn rehash(
    view: &dyn StateView,
    mut to: Box<dyn Replacement>,
    shape_now: &str,
) -> Result<u64, StateError> {
    let checkpoint = view.checkpoint()?.ok_or(StateError::Nothing)?;
    if !shape::is_rehash(&checkpoint.shape, shape_now) {
        return Err(StateError::Unknown(shape::refusal(&checkpoint.shape, shape_now)));
    }
    let groups = shape::key_groups(shape_now).unwrap_or(Topology::KEY_GROUPS);
    let (mut entries, mut failed) = (0, None);
    view.entries(b"", None, &mut |key, value| {
        let moved = rehashed(key, groups).map_err(|unknown| {
            StateError::Unknown(format!(
                "an entry can't be moved, for {unknown}: take the wasmill that wrote it; nothing was changed"
            ))
        });
        let put = moved.and_then(|key| Ok(to.put(&key, value)?));
        entries += 1;
        failed = put.err();
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(e) = failed {
        return Err(e);
    }
    let foretold = view.foretold()?;
    to.finish(&Checkpoint { shape: shape_now.to_owned(), ..checkpoint }, foretold.as_ref())?;
    Ok(entries)
}
