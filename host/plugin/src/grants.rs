//! What a stage allows its plugin beyond what every plugin has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::lookup::Lookup;
use crate::outgoing::HttpGrant;
use crate::secrets::Secrets;

/// An import that must be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// State of a message's key.
    State,
    /// Counters of the plugin's own.
    Metrics,
    /// The wall clock. Results that use it can't be replayed.
    WallClock,
    /// Secrets, by name.
    Secrets,
    /// Outgoing HTTP. Results that use it can't be replayed.
    Http,
    /// Tables of the pipeline's, by name.
    Lookup,
}

impl Grant {
    /// Every grant there is.
    pub const ALL: [Self; 6] =
        [Self::State, Self::Metrics, Self::WallClock, Self::Secrets, Self::Http, Self::Lookup];

    /// Its name in a pipeline spec, which is also the import's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Metrics => "metrics",
            Self::WallClock => "wall-clock",
            Self::Secrets => "secrets",
            Self::Http => "http",
            Self::Lookup => "lookup",
        }
    }

    /// How a spec writes it, in its shortest form.
    #[must_use]
    pub fn example(self) -> &'static str {
        match self {
            Self::State | Self::Metrics | Self::WallClock => self.name(),
            Self::Secrets => "{ secrets: [NAME] }",
            Self::Http => "{ http: { allow: [\"https://HOST\"] } }",
            Self::Lookup => "{ lookup: [NAME] }",
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
#[error("`{0}` is no grant; there are `state`, `metrics`, `wall-clock`, `secrets`, `http` and `lookup`")]
pub struct UnknownGrant(pub String);

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(name: &str) -> Result<Self, UnknownGrant> {
        Self::ALL.into_iter().find(|g| g.name() == name).ok_or_else(|| UnknownGrant(name.to_owned()))
    }
}

/// The grants of one stage, with what stands behind them. None by default.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    names: BTreeSet<Grant>,
    pub(crate) behind: Arc<Behind>,
}

/// What stands behind the grants that have more to them than their name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behind {
    pub secrets: Arc<Secrets>,
    pub http: Option<HttpGrant>,
    pub lookups: BTreeMap<String, Arc<Lookup>>,
}

impl Grants {
    /// No grant.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Every grant, with no secret, origin or table behind it: enough to load any plugin.
    #[must_use]
    pub fn all() -> Self {
        Grant::ALL.into_iter().collect()
    }

    /// These and those; where both have something behind their names, what is behind these.
    #[must_use]
    pub fn union(&self, others: &Self) -> Self {
        let behind = if self.has_behind() { &self.behind } else { &others.behind };
        Self { names: self.names.union(&others.names).copied().collect(), behind: Arc::clone(behind) }
    }

    /// Whether something stands behind a name.
    fn has_behind(&self) -> bool {
        [Grant::Secrets, Grant::Http, Grant::Lookup].iter().any(|grant| self.names.contains(grant))
    }

    /// Whether a plugin that has these may do for one that has those: the same names, with the same behind them.
    pub(crate) fn is_same(&self, others: &Self) -> bool {
        self.names == others.names && (!self.has_behind() || Arc::ptr_eq(&self.behind, &others.behind))
    }

    /// Whether a grant is among them.
    #[must_use]
    pub fn has(&self, grant: Grant) -> bool {
        self.names.contains(&grant)
    }

    /// Grants these secrets.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.names.insert(Grant::Secrets);
        Arc::make_mut(&mut self.behind).secrets = Arc::new(secrets);
        self
    }

    /// Grants outgoing HTTP.
    #[must_use]
    pub fn with_http(mut self, http: HttpGrant) -> Self {
        self.names.insert(Grant::Http);
        Arc::make_mut(&mut self.behind).http = Some(http);
        self
    }

    /// Grants these tables, by name.
    #[must_use]
    pub fn with_lookups(mut self, lookups: impl IntoIterator<Item = (String, Arc<Lookup>)>) -> Self {
        self.names.insert(Grant::Lookup);
        Arc::make_mut(&mut self.behind).lookups = lookups.into_iter().collect();
        self
    }
}

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        Self { names: grants.into_iter().collect(), behind: Arc::default() }
    }
}
