//! The history of health: what has changed from one snapshot to the next, which of it begins and ends a problem, and for how
//! long each state held.
//!
//! "Unknown" does not take the place of what is known as long as results are to come: a restart or another monitor is no
//! change of health, and what follows it is compared with what was known before. Where nobody looks any more it does.

mod standings;
mod timeline;

pub use standings::{Change, Known, Problem, Standings, StateChange};
pub use timeline::{Mark, Period, Times, periods};

use crate::health::{GroupHealth, OriginHealth};

/// What has a health of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    Pool(String),
    Origin { pool: String, origin: String },
    LoadBalancer(String),
}

impl Subject {
    /// What events call it: `POOL/ORIGIN`, or the name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Pool(name) | Self::LoadBalancer(name) => name.clone(),
            Self::Origin { pool, origin } => format!("{pool}/{origin}"),
        }
    }

    /// The pool that it is, or belongs to.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::Pool(name) | Self::Origin { pool: name, .. } => Some(name),
            Self::LoadBalancer(_) => None,
        }
    }
}

/// Health of any subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Health {
    Healthy,
    /// Of a pool or load balancer: something in it is unhealthy, and it serves.
    Degraded,
    /// Of a pool or load balancer: it does not serve.
    Critical,
    /// Of an origin.
    Unhealthy,
    Unknown,
    Disabled,
}

impl Health {
    pub const ALL: [Self; 6] = [
        Self::Healthy,
        Self::Degraded,
        Self::Critical,
        Self::Unhealthy,
        Self::Unknown,
        Self::Disabled,
    ];

    /// The word used in the API and in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
            Self::Disabled => "disabled",
        }
    }

    /// The health that a word names.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.name() == word)
    }

    /// Whether it does not serve although it should.
    #[must_use]
    pub const fn is_problem(self) -> bool {
        matches!(self, Self::Critical | Self::Unhealthy)
    }

    /// Whether it serves as far as its monitors know.
    #[must_use]
    pub const fn serves(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

impl From<OriginHealth> for Health {
    fn from(health: OriginHealth) -> Self {
        match health {
            OriginHealth::Healthy => Self::Healthy,
            OriginHealth::Unhealthy => Self::Unhealthy,
            OriginHealth::Unknown => Self::Unknown,
            OriginHealth::Disabled => Self::Disabled,
        }
    }
}

impl From<GroupHealth> for Health {
    fn from(health: GroupHealth) -> Self {
        match health {
            GroupHealth::Healthy => Self::Healthy,
            GroupHealth::Degraded => Self::Degraded,
            GroupHealth::Critical => Self::Critical,
            GroupHealth::Unknown => Self::Unknown,
            GroupHealth::Disabled => Self::Disabled,
        }
    }
}
