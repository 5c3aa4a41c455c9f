//! Ranges of ports: which application a port belongs to that has no record of its own.

use super::tables::Tables;
use crate::abi::{Application, ApplicationKey, Origin, Port, Protocol, VipKey};
use crate::packet::Packet;

/// Steps of the search: there are no more than 65,536 ports, and so no more ranges.
const STEPS: u32 = 17;

/// The application whose range holds the port of `key`.
#[inline(always)]
pub fn find<P: Packet, T: Tables>(packet: &P, tables: &T, key: &ApplicationKey) -> Option<Application> {
    let vip = tables.vip(&VipKey {
        address: key.address,
        parity: key.parity,
        reserved: [0; 3],
    })?;
    let spans = if key.protocol == Protocol::TCP {
        vip.tcp
    } else {
        vip.udp
    };
    let port = key.port.host();
    // Ranges that are known to begin at or below the port.
    let mut found: u32 = 0;
    let mut step = STEPS;
    while step > 0 {
        step -= 1;
        let next = found.wrapping_add(1 << step);
        if next <= spans.count {
            let span = tables.span(spans.base.wrapping_add(next).wrapping_sub(1))?;
            if span.first <= port {
                found = next;
            }
        }
        found = packet.opaque(found as usize) as u32;
    }
    if found == 0 {
        return None;
    }
    let span = tables.span(spans.base.wrapping_add(found).wrapping_sub(1))?;
    if port > span.last {
        return None;
    }
    let first = ApplicationKey {
        port: Port::new(span.first),
        ..*key
    };
    tables.application(&first)
}

/// The port at `origin` of packets that come to `port` of `application`: of a range, as far from its first port at the
/// origin as from its first port here.
#[inline(always)]
pub fn origin_port(application: &Application, origin: &Origin, port: Port) -> Port {
    if application.first_port.0 != 0 {
        let offset = port.host().wrapping_sub(application.first_port.host());
        Port::new(application.origin_port.host().wrapping_add(offset))
    } else if origin.port.0 != 0 {
        origin.port
    } else {
        application.origin_port
    }
}
