//! Monitor groups: several monitors that decide about an origin together.

use crate::vote::Role;

/// `[monitor_groups.NAME]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MonitorGroup {
    pub name: String,
    /// In the order of the file.
    pub members: Vec<Member>,
}

/// An element of `members`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Name of a monitor, which no other member names.
    pub monitor: String,
    /// Default true. A disabled member does not probe.
    pub enabled: bool,
    /// Default false. Its results are shown and reported, and change nothing.
    pub monitoring_only: bool,
    /// Default false. When it fails the origin is unhealthy.
    pub must_be_healthy: bool,
}

impl Member {
    /// What its results count for. Of both flags the careful one holds: what only watches takes nobody down.
    #[must_use]
    pub fn role(&self) -> Role {
        match (self.monitoring_only, self.must_be_healthy) {
            (true, _) => Role::Observer,
            (false, true) => Role::Veto,
            (false, false) => Role::Voter,
        }
    }
}
