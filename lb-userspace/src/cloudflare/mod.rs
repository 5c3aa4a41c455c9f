//! The shapes of Cloudflare's API: what its clients send, and what they want to read.
//!
//! Strict clients refuse an answer with a missing field, so every documented field is there with its default. Keys beyond
//! Cloudflare's are lb's own, with the names and meanings that they have in the configuration file; they are left out
//! where nobody has set them.

mod analytics;
mod application;
mod body;
mod envelope;
mod failure;
mod health;
mod load_balancer;
mod monitor;
mod monitor_group;
mod number;
mod pool;
mod regions;
mod search;

pub use analytics::{Analytics, AnalyticsMetrics, AnalyticsQuery, AnalyticsRow, CurrentTraffic};
pub use application::{Application, Dns, EdgeIps, OriginDns, OriginPort, PROTOCOLS, Protocol};
pub use body::{Object, merge, read};
pub use envelope::{Envelope, Message, ResultInfo, Source};
pub use failure::{Failure, Reason};
pub use health::{OriginHealth, PoolHealth, PopHealth, Preview, PreviewStarted, PreviewedPool};
pub use load_balancer::{
    AdaptiveRouting, ExactPolicy, LoadBalancer, LocationStrategy, Match, Overrides, PoolSet, RandomSteering,
    SessionAffinityAttributes, Topology,
};
pub use monitor::{ExactTimes, Monitor};
pub use monitor_group::{Member, MonitorGroup};
pub use number::Number;
pub use pool::{FilterOptions, LoadShedding, NotificationFilter, Origin, OriginHeader, OriginSteering, Pool};
pub use regions::{Country, REGIONS, Region, Regions, Subdivision, regions};
pub use search::{Reference, Resource, Resources, Usage};
