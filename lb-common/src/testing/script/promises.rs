//! What holds for every packet and all memory, whatever came before.

use super::Player;
use crate::abi::{FlowSide, OriginId};
use crate::datapath::{DropReason, Reply, Verdict};
use crate::testing::Frame;
use crate::testing::build::{pseudo_header, sum};
use crate::testing::check::{Seen, dissect, hex, is_valid};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most that a frame may grow: an IPv6 header and GUE's, and two tags.
const MAX_GROWTH: usize = 40 + 8 + 8;

const RST: u8 = 4;

impl Player {
    /// Looks at one packet's fate.
    pub(super) fn check(&self, before: &Frame, verdict: Verdict, after: &Frame) {
        let what = || format!("{verdict:?}\nin  {}\nout {}", hex(&before.0), hex(&after.0));
        match verdict {
            Verdict::Pass(_) | Verdict::Hold(_) => assert_eq!(before, after, "touched: {}", what()),
            Verdict::Drop(reason) => assert_ne!(reason, DropReason::Internal, "{}", what()),
            // What a ping carries comes back as it came, its checksum included.
            Verdict::Reply(Reply::Echo, _) => assert_eq!(is_valid(before), is_valid(after), "{}", what()),
            Verdict::Reply(..) => assert!(is_valid(after), "an invalid answer: {}", what()),
            Verdict::Forward(_) => {
                assert!(after.0.len() <= before.0.len() + MAX_GROWTH, "{}", what());
                let (sound, inner) = match self.tunnel(after) {
                    Some(tunnel) => (tunnel.sound, tunnel.inner),
                    None => (true, after.clone()),
                };
                if let Some((seen, true)) = dissect(before) {
                    let left = dissect(&inner).filter(|(_, valid)| *valid && sound);
                    let (left, _) = left.unwrap_or_else(|| panic!("spoiled: {}", what()));
                    carried(&seen, &left, &what);
                }
            }
        }
        self.check_memory();
    }

    /// What a frame carries that was forwarded by a tunnel: one goes to an origin at whose end there is one.
    fn tunnel(&self, frame: &Frame) -> Option<Tunnel> {
        let tunnel = tunnel(frame)?;
        let mut origins = self.host.scenario.tables.origins.values();
        let ends = |origin: &crate::abi::Origin| {
            IpAddr::from(origin.address) == tunnel.to && origin.forwarding.is_tunnel()
        };
        origins.any(ends).then_some(tunnel)
    }

    /// The packet inside a tunnel's, as a frame; `None` when it is no tunnel's.
    pub(super) fn inner(&self, frame: &Frame) -> Option<Frame> {
        self.tunnel(frame).map(|tunnel| tunnel.inner)
    }

    /// Flows are bounded by the packets that may have opened them, and counted exactly.
    fn check_memory(&self) {
        let tables = &self.host.scenario.tables;
        let secret = tables.settings.hash_key;
        assert_eq!(
            tables.hidden(secret),
            0,
            "established flows that the filter denies"
        );
        let (flows4, flows6) = (tables.flows4.borrow(), tables.flows6.borrow());
        let tentative = tables.tentative4.borrow().len() + tables.tentative6.borrow().len();
        let all = flows4.len() + flows6.len() + tentative;
        assert!(
            all <= 2 * self.packets,
            "{all} entries after {} packets",
            self.packets
        );
        let mut counted = BTreeMap::<u32, u32>::new();
        let cores = (flows4.values().map(|flow| flow.core)).chain(flows6.values().map(|flow| flow.core));
        for core in cores.filter(|core| core.side == FlowSide::CLIENT) {
            *counted.entry(core.origin.0).or_default() += 1;
            if core.forwarding.is_direct() {
                *counted.entry(OriginId::DIRECT.0).or_default() += 1;
            }
        }
        let loads = tables.loads.borrow();
        for (origin, load) in loads.iter() {
            let flows = counted.remove(origin).unwrap_or_default() + self.preset.get(origin).unwrap_or(&0);
            assert_eq!(load.established, flows, "flows of origin {origin}");
        }
        assert!(counted.is_empty(), "not counted: {counted:?}");
    }
}

/// What forwarding leaves as it is.
fn carried(before: &Seen, after: &Seen, what: &dyn Fn() -> String) {
    assert_eq!(after.protocol, before.protocol, "{}", what());
    if after.flags & RST > before.flags & RST {
        // The end of its connection went in its place.
        return assert!(after.payload.is_empty(), "{}", what());
    }
    // What goes to an origin as it came has not been routed.
    let as_it_came = (after.source, after.destination) == (before.source, before.destination);
    let hops = u8::from(!as_it_came);
    assert_eq!(after.ttl, before.ttl.wrapping_sub(hops), "hops: {}", what());
    // An error quotes addresses and ports, which are translated.
    if matches!(before.protocol, 6 | 17) {
        assert_eq!(after.payload, before.payload, "{}", what());
        let numbers = |seen: &Seen| (seen.flags, seen.sequence, seen.acknowledgment);
        assert_eq!(numbers(after), numbers(before), "{}", what());
    }
}

/// What a tunnel's packet carries.
struct Tunnel {
    to: IpAddr,
    /// Whether the outer headers are right.
    sound: bool,
    /// The packet inside, as a frame.
    inner: Frame,
}

fn tunnel(Frame(frame): &Frame) -> Option<Tunnel> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    let ip = frame.get(at + 2..)?;
    let word = |at: usize| Some(u16::from_be_bytes(*ip.get(at..)?.first_chunk()?));
    let v6 = *ip.first()? >> 4 == 6;
    let (mut valid, start, next, total, ends): (_, _, _, _, (IpAddr, IpAddr)) = if v6 {
        let end = |at: usize| Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?).into());
        let total = 40 + usize::from(word(4)?);
        (total <= ip.len(), 40, *ip.get(6)?, total, (end(8)?, end(24)?))
    } else {
        let end = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?).into());
        let total = usize::from(word(2)?);
        // Ours has no options, and is whole; routers may cut it when nobody could make it smaller.
        let valid = sum(&[ip.get(..20)?]) == 0xffff && total <= ip.len() && word(6)? & 0xbfff == 0;
        (
            valid && *ip.first()? == 0x45,
            20,
            *ip.get(9)?,
            total,
            (end(12)?, end(16)?),
        )
    };
    let start = match next {
        4 | 41 => start,
        17 => {
            let length = usize::from(word(start + 4)?);
            let segment = ip.get(start..start + length)?;
            valid &= start + length == total;
            valid &= match word(start + 6)? {
                0 => true,
                _ => sum(&[&pseudo_header(ends.0, ends.1, 17, length), segment]) == 0xffff,
            };
            start + 8
        }
        _ => return None,
    };
    let packet = ip.get(start..total.min(ip.len()))?;
    let kind = match packet.first()? >> 4 {
        4 => [0x08, 0x00],
        6 => [0x86, 0xdd],
        _ => return None,
    };
    Some(Tunnel {
        to: ends.1,
        sound: valid,
        inner: Frame([&[0; 12], &kind[..], packet].concat()),
    })
}
