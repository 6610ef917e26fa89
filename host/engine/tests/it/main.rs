//! Keys, and built-in aggregates against references.

mod builtins;
mod keys;
