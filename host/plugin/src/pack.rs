//! Core modules into components.

/// Why a core module can't be packed.
#[derive(Debug, thiserror::Error)]
#[error("can't pack this core module into a component: {0}; build it with the contract's bindings")]
pub struct PackError(String);

/// Packs a core module, built with the contract's bindings, into a component.
///
/// # Errors
/// When the bytes are no core module, or it carries no description of its imports and exports.
pub fn pack(module: &[u8]) -> Result<Vec<u8>, PackError> {
    let fail = |e: &dyn std::fmt::Display| PackError(e.to_string());
    wit_component::ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|e| fail(&format!("{e:#}")))
}
