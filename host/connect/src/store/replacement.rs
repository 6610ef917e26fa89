//! New contents for a store, put in as a whole.

use wasmill_engine::state::{Checkpoint, Epoch, StoreError};

/// New contents for a store. Until [`Replacement::finish`] the store has what it had; dropped before, or
/// lost in a crash, they count for nothing.
pub trait Replacement {
    /// The reset generation that the store will be of.
    fn generation(&self) -> u64;

    /// Adds an entry. A key that is given again has the later value.
    ///
    /// # Errors
    /// When it can't be written.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Puts everything in the place of what the store had, in one step, with the commit that it is of and
    /// what was foretold for the one behind it.
    ///
    /// # Errors
    /// When it can't be written, or the store has changed meanwhile; then nothing has changed.
    fn finish(
        self: Box<Self>,
        checkpoint: &Checkpoint,
        foretold: Option<&(Epoch, Vec<u8>)>,
    ) -> Result<(), StoreError>;
}
