//! What a stage allows its plugin beyond what every plugin has.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// An import that must be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// State of a message's key.
    State,
    /// Counters of the plugin's own.
    Metrics,
    /// The wall clock. Results that use it can't be replayed.
    WallClock,
}

impl Grant {
    /// Every grant there is.
    pub const ALL: [Self; 3] = [Self::State, Self::Metrics, Self::WallClock];

    /// Its name in a pipeline spec, which is also the import's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Metrics => "metrics",
            Self::WallClock => "wall-clock",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no grant; there are `state`, `metrics` and `wall-clock`")]
pub struct UnknownGrant(pub String);

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(name: &str) -> Result<Self, UnknownGrant> {
        Self::ALL.into_iter().find(|g| g.name() == name).ok_or_else(|| UnknownGrant(name.to_owned()))
    }
}

/// The grants of one stage. None by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(BTreeSet<Grant>);

impl Grants {
    /// No grant.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Every grant.
    #[must_use]
    pub fn all() -> Self {
        Grant::ALL.into_iter().collect()
    }

    /// These and those.
    #[must_use]
    pub fn union(&self, others: &Self) -> Self {
        Self(self.0.union(&others.0).copied().collect())
    }

    /// Whether a grant is among them.
    #[must_use]
    pub fn has(&self, grant: Grant) -> bool {
        self.0.contains(&grant)
    }
}

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}
