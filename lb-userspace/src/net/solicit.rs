//! Asking neighbours whether they are still where they were.
//!
//! A neighbour that gets another link address usually says so (gratuitous ARP, unsolicited neighbour advertisements), and the
//! kernel hears it. One that does not would be missed for up to a minute: the kernel asks again only when its own traffic
//! makes it, and XDP's does not. So lb asks, in the kernel's place: first the known link address alone, and everybody when
//! that does not answer. The kernel takes the answers as those to its own questions. Nothing is concluded from silence.

use super::netlink::Netlink;
use super::routing::{Hop, family};
use super::sys;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::time::Instant;

/// How often [`Solicitor::look`] wants to be called.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// No neighbour is asked more often.
const PAUSE: Duration = Duration::from_millis(450);
/// Neighbours asked in each look: with more of them, each has to wait for its turn.
const TURN: usize = 16;
/// The kernel counts ages in these (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A neighbour as it is known, and who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub mac: [u8; 6],
    pub own_mac: [u8; 6],
    /// An IPv4 address of the interface; the kernel finds an IPv6 one by itself.
    pub own: Option<Ipv4Addr>,
}

/// Asks neighbours in turns.
pub(super) struct Solicitor {
    arp: OwnedFd,
    ndp: Option<Socket>,
    /// Who is next; those who were asked last stand at the end.
    turns: VecDeque<Hop>,
    asked: BTreeMap<Hop, Instant>,
    /// Those whose answers are awaited.
    awaited: Vec<(Hop, Instant)>,
}

impl Solicitor {
    /// Opens its sockets, in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            arp: sys::arp_socket()?,
            // A machine may have no IPv6.
            ndp: ndp_socket().ok(),
            turns: VecDeque::new(),
            asked: BTreeMap::new(),
            awaited: Vec::new(),
        })
    }

    /// Asks those of these neighbours whose turn it is, and all the world for those who have not answered since the last
    /// look.
    pub(super) fn look(&mut self, netlink: &mut Netlink, hops: &BTreeMap<Hop, Known>) {
        for (hop, when) in std::mem::take(&mut self.awaited) {
            if let Some(known) = hops.get(&hop)
                && !is_confirmed(netlink, hop, when)
            {
                tracing::debug!(neighbour = %hop.1, "a neighbour does not answer: everybody is asked");
                self.ask(hop, known, true);
            }
        }
        self.asked.retain(|hop, _| hops.contains_key(hop));
        self.turns.retain(|hop| hops.contains_key(hop));
        for hop in hops.keys().filter(|hop| !self.asked.contains_key(hop)) {
            if !self.turns.contains(hop) {
                self.turns.push_front(*hop);
            }
        }
        let now = Instant::now();
        for _ in 0..TURN.min(self.turns.len()) {
            let Some(hop) = self.turns.pop_front() else { break };
            let rests = self.asked.get(&hop).is_some_and(|asked| now - *asked < PAUSE);
            if let Some(known) = hops.get(&hop)
                && !rests
            {
                self.ask(hop, known, false);
                self.asked.insert(hop, now);
                self.awaited.push((hop, now));
            }
            self.turns.push_back(hop);
        }
    }

    /// Forgets what it waits for.
    pub(super) fn rest(&mut self) {
        self.awaited.clear();
    }

    /// Sends one question. What cannot be sent is asked the next time.
    fn ask(&self, (ifindex, address): Hop, known: &Known, everybody: bool) {
        let sent = match (address, known.own) {
            (IpAddr::V4(target), Some(own)) => {
                let to = if everybody { [0xff; 6] } else { known.mac };
                sys::send_arp(self.arp.as_fd(), ifindex, to, &arp(known.own_mac, own, target))
            }
            (IpAddr::V6(target), _) => match &self.ndp {
                Some(socket) => {
                    let to = if everybody { solicited(target) } else { target };
                    let to = SocketAddrV6::new(to, 0, 0, scope(to, ifindex));
                    socket
                        .send_to(&solicitation(known.own_mac, target), &SockAddr::from(to))
                        .map(|_| ())
                }
                None => Ok(()),
            },
            (IpAddr::V4(_), None) => Ok(()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, neighbour = %address, "a neighbour cannot be asked");
        }
    }
}

fn ndp_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    // Of others no neighbour takes any notice (RFC 4861 section 7.1.1).
    socket.set_unicast_hops_v6(255)?;
    socket.set_multicast_hops_v6(255)?;
    // Nobody reads what comes: the kernel is the one who has to.
    socket.set_recv_buffer_size(0)?;
    Ok(socket)
}

/// Whether the kernel has heard of a neighbour since then, by an answer or by its own traffic.
fn is_confirmed(netlink: &mut Netlink, (ifindex, address): Hop, since: Instant) -> bool {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    let Ok(RouteNetlinkMessage::NewNeighbour(entry)) =
        netlink.get(RouteNetlinkMessage::GetNeighbour(message))
    else {
        // Somebody else sees to entries that are gone.
        return true;
    };
    let cache = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::CacheInfo(cache) => Some(cache),
        _ => None,
    });
    cache.is_none_or(|cache| TICK * cache.confirmed <= since.elapsed() + TICK)
}

/// An ARP request (RFC 826), without its Ethernet header.
fn arp(own_mac: [u8; 6], own: Ipv4Addr, target: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    // Ethernet, IPv4, their lengths, request.
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&own_mac);
    packet[14..18].copy_from_slice(&own.octets());
    packet[24..].copy_from_slice(&target.octets());
    packet
}

/// A neighbour solicitation (RFC 4861 section 4.3); the kernel fills the checksum.
fn solicitation(own_mac: [u8; 6], target: Ipv6Addr) -> [u8; 32] {
    let mut packet = [0; 32];
    packet[0] = 135;
    packet[8..24].copy_from_slice(&target.octets());
    // The sender's link address, in units of eight bytes.
    packet[24..26].copy_from_slice(&[1, 1]);
    packet[26..].copy_from_slice(&own_mac);
    packet
}

/// The group that an address's owner listens to (RFC 4291 section 2.7.1).
fn solicited(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

/// The interface, for addresses that mean something there only.
fn scope(to: Ipv6Addr, ifindex: u32) -> u32 {
    if to.is_multicast() || to.is_unicast_link_local() {
        ifindex
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_as_the_standards_have_them() {
        let own_mac = [2, 0, 0, 0, 0, 1];
        let [own, target] = ["192.0.2.1", "192.0.2.9"].map(|text| text.parse().unwrap());
        let expected = [
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9,
        ];
        assert_eq!(arp(own_mac, own, target), expected);
        let target: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        assert_eq!(
            solicited(target),
            "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap()
        );
        let packet = solicitation(own_mac, target);
        assert_eq!((packet[0], &packet[8..24]), (135, &target.octets()[..]));
        assert_eq!(packet[24..], [1, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!((scope(target, 3), scope(solicited(target), 3)), (0, 3));
    }
}
