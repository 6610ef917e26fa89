//! Built-in aggregates against references that share no code with them: lists of values, big integers.
#![allow(clippy::unwrap_used)]

mod any_order;
mod exact_sums;
mod model;
mod semantics;
