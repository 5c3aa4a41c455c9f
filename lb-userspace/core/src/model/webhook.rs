//! Who is told of problems.

use core::time::Duration;
use std::path::PathBuf;

/// `[webhooks.NAME]`: an address that is told of changes of health by HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    pub name: String,
    /// Default true. A disabled one is told nothing, and what waits for it is forgotten.
    pub enabled: bool,
    pub url: WebhookUrl,
    /// Any certificate will do.
    pub allow_insecure: bool,
    /// Holds the key that signs what is sent.
    pub secret_file: Option<PathBuf>,
    /// Names of pools; empty: all of them.
    pub pools: Vec<String>,
    /// `event_source`: what kinds of subjects; default pools and origins.
    pub sources: EventSources,
    /// `new_health`: that something is unhealthy, and that it is healthy again; default both.
    pub tells: Tells,
    /// Whether it is told that a pool is disabled or enabled.
    pub pool_enablement: bool,
    /// For one attempt; default [`Webhook::TIMEOUT`].
    pub timeout: Duration,
    /// Notices that may wait; default [`Webhook::MAX_PENDING`].
    pub max_pending: u32,
    /// After so long a notice is not tried again; default [`Webhook::GIVE_UP_AFTER`].
    pub give_up_after: Duration,
}

impl Webhook {
    pub const TIMEOUT: Duration = Duration::from_secs(10);
    pub const MAX_PENDING: u32 = 1_000;
    pub const GIVE_UP_AFTER: Duration = Duration::from_secs(86_400);
}

/// Where a webhook is. Paths are often secret, so output shows [`WebhookUrl::endpoint`].
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    pub tls: bool,
    /// A name or an address, an IPv6 one without brackets.
    pub host: String,
    pub port: u16,
    /// With the query.
    pub path: String,
}

impl WebhookUrl {
    /// `HOST:PORT` as it stands in an URL.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// What may be shown: without path and query.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }
}

impl core::fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/...", self.endpoint())
    }
}

/// Whose changes are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventSources {
    pub pool: bool,
    pub origin: bool,
    pub load_balancer: bool,
}

impl Default for EventSources {
    fn default() -> Self {
        Self {
            pool: true,
            origin: true,
            load_balancer: false,
        }
    }
}

/// Which way a change must go to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tells {
    pub healthy: bool,
    pub unhealthy: bool,
}

impl Default for Tells {
    fn default() -> Self {
        Self {
            healthy: true,
            unhealthy: true,
        }
    }
}

/// `notification_filter` of a pool: what of its changes is told to anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NotificationFilter {
    pub pool: FilterOptions,
    pub origin: FilterOptions,
}

/// Of the pool, or of its origins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FilterOptions {
    pub disable: bool,
    /// `true`: only that it is healthy again; `false`: only that it is unhealthy; `None`: both.
    pub healthy: Option<bool>,
}

impl FilterOptions {
    /// Whether a change to that health is told.
    #[must_use]
    pub fn passes(&self, healthy: bool) -> bool {
        !self.disable && self.healthy.is_none_or(|only| only == healthy)
    }
}
