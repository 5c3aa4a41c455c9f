//! What was set by hand, as a status tells it.

use crate::api::by_hand;
use crate::config::Kind;
use crate::objects::{Catalog, Subject};
use crate::wire::Status;

/// Notes in a status what was set by hand.
pub(super) fn mark_overridden(status: &mut Status, catalog: &Catalog) {
    for (subject, value) in catalog.overrides().iter() {
        let place = match subject {
            Subject::Object(Kind::Pool, name) => {
                let mut pools = status.pools.iter_mut();
                pools
                    .find(|pool| pool.name == *name)
                    .map(|pool| &mut pool.overridden)
            }
            Subject::Object(Kind::LoadBalancer, name) => {
                let mut balancers = status.load_balancers.iter_mut();
                let found = balancers.find(|balancer| balancer.name == *name);
                found.map(|balancer| &mut balancer.overridden)
            }
            Subject::Object(Kind::Application, name) => {
                let mut applications = status.applications.iter_mut();
                let found = applications.find(|application| application.name == *name);
                found.map(|application| &mut application.overridden)
            }
            Subject::Object(Kind::Monitor | Kind::MonitorGroup, _) => None,
            Subject::Origin { pool, origin } => {
                let pools = status.pools.iter_mut().filter(|found| found.name == *pool);
                // Each address of a name is one.
                for found in pools.flat_map(|pool| &mut pool.origins) {
                    if found.name == *origin {
                        found.overridden = Some(by_hand(value));
                    }
                }
                None
            }
        };
        if let Some(place) = place {
            *place = Some(by_hand(value));
        }
    }
}
