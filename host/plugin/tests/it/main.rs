//! The sandbox: what is admitted, what a plugin may touch and use up, and what other toolchains build. `hostile` and
//! `compiler` stand apart: the one measures this process's memory and has its log, the other is a program of its own.

mod admission;
mod budgets;
mod capabilities;
#[path = "../common/mod.rs"]
mod common;
mod granted;
mod instances;
mod programs;
