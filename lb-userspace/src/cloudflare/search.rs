//! Who refers to whom, and how much there is.

use serde::Serialize;
use utoipa::ToSchema;

/// An object that refers to another one, or that another one refers to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Reference {
    /// `referrer`: it refers to the object asked for; `referral`: that one refers to it.
    pub reference_type: &'static str,
    pub resource_id: String,
    pub resource_name: String,
    /// `load_balancer`, `pool`, `monitor`, `monitor_group` or `application`.
    pub resource_type: &'static str,
}

/// `GET search`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Resources {
    pub resources: Vec<Resource>,
}

/// An object that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Resource {
    pub reference_type: &'static str,
    pub references: Vec<Reference>,
    pub resource_id: String,
    pub resource_name: String,
    pub resource_type: &'static str,
}

/// `GET usage`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, ToSchema)]
pub struct Usage {
    pub load_balancers: usize,
    pub monitors: usize,
    pub origins: usize,
    pub pools: usize,
    pub max_origins_per_pool: usize,
    /// Seconds.
    pub minimum_monitor_interval: f64,
}
