//! How messages are written in bytes.

pub mod json;
pub mod rfc3339;
