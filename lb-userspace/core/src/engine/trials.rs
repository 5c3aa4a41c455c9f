//! Probes that decide about nothing: what a monitor would ask of an origin, whether or not it watches it.

use super::served::Served;
use super::{Engine, ProbeRequest, TargetId, Via};
use crate::model::{Config, Monitor, Origin};
use core::net::IpAddr;
use std::sync::Arc;

/// Makes requests for origins of one configuration.
pub struct Trials<'c>(Served<'c>);

impl<'c> Trials<'c> {
    #[must_use]
    pub fn new(config: &'c Config) -> Self {
        Self(Served::new(config))
    }

    /// What the monitor asks of an address of an origin of that pool.
    #[must_use]
    pub fn request(
        &self,
        pool: &str,
        origin: &Origin,
        address: IpAddr,
        monitor: &Arc<Monitor>,
    ) -> ProbeRequest {
        let asked = self.0.asked(pool, monitor, origin, address);
        ProbeRequest {
            // Of nobody.
            target: TargetId(u64::MAX),
            attempt: 0,
            monitor: Arc::clone(monitor),
            address,
            port: asked.port,
            host: origin.host.clone(),
            host_name: origin.address.name().map(str::to_owned),
            via: asked.vip.map(|vip| Via {
                vip,
                forwarding: origin.forwarding,
                exit: None,
            }),
        }
    }
}

impl Engine {
    /// A request with how its packets leave, where the origin's address cannot say it.
    #[must_use]
    pub fn routed(&self, request: ProbeRequest) -> ProbeRequest {
        self.state.with_exit(request)
    }
}
