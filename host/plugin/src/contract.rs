//! The contract's names: which interfaces there are, in which widths and version.

use wasmill_engine::guest::Kinds;

/// The version of the contract that this wasmill speaks.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// The package of every interface of the contract.
const PACKAGE: &str = "wasmill:plugin/";

/// How a plugin takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// As packed bytes.
    Frames,
    /// As records.
    Typed,
}

/// An interface that the host calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Transform,
    Filter,
    Aggregate,
    Scan,
    Migrate,
}

/// Every interface that a plugin may export.
pub(crate) const EXPORTS: [(&str, Role, Width); 9] = [
    ("transform", Role::Transform, Width::Frames),
    ("filter", Role::Filter, Width::Frames),
    ("aggregate", Role::Aggregate, Width::Frames),
    ("scan", Role::Scan, Width::Frames),
    ("migrate", Role::Migrate, Width::Frames),
    ("transform-typed", Role::Transform, Width::Typed),
    ("filter-typed", Role::Filter, Width::Typed),
    ("aggregate-typed", Role::Aggregate, Width::Typed),
    ("scan-typed", Role::Scan, Width::Typed),
];

/// Imports that hold functions and are always there.
pub(crate) const FREE: [&str; 4] = ["log", "config", "clock", "random"];
/// Imports that hold types alone.
pub(crate) const TYPES: [&str; 3] = ["types", "aggregate-types", "aggregate-typed"];

/// The full name of one of the contract's interfaces.
pub(crate) fn full_name(interface: &str) -> String {
    format!("{PACKAGE}{interface}@{CONTRACT_VERSION}")
}

/// Splits `wasmill:plugin/transform@0.1.0` into interface and version; none for names of others.
pub(crate) fn split(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(PACKAGE)?;
    Some(rest.split_once('@').unwrap_or((rest, "no version")))
}

/// The kinds of a plugin that exports these roles.
pub(crate) fn kinds(roles: impl IntoIterator<Item = Role>) -> Kinds {
    let mut kinds = Kinds::default();
    for role in roles {
        match role {
            Role::Transform => kinds.transform = true,
            Role::Filter => kinds.filter = true,
            Role::Aggregate => kinds.aggregate = true,
            Role::Scan => kinds.scan = true,
            Role::Migrate => kinds.migrate = true,
        }
    }
    kinds
}
