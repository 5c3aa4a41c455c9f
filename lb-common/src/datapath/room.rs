//! How long a packet may be on the path that its flow takes.

use super::family::Family;
use super::parse::{IPV4_LEN, IPV6_LEN, UDP_LEN};
use super::tables::Tables;
use crate::abi::{FlowCore, Forwarding, Origin, OriginId, Settings};

/// Seconds for which a path's MTU is believed: then it may have grown (RFC 1191 section 6.3, RFC 8201 section 4).
pub const PATH_MTU_SECONDS: u32 = 600;

/// No packet is longer, nor one that it is put into.
const UNLIMITED: u32 = u16::MAX as u32;

/// Nobody is made to send shorter TCP segments than this allows, whatever was learned.
const MIN_OPEN: u32 = 576;

/// The longest packets that fit, as they come: the outer header that they get is taken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Through the interface by which they leave. Longer ones are lost for certain.
    pub exit: u32,
    /// Through the whole path, as far as is known; never more than `exit`.
    pub path: u32,
}

/// Whether a packet fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    Whole,
    /// The path carries less than every path has to. What goes there must be fragmented on its way.
    InPieces,
    /// Its sender must send packets of at most so many bytes.
    TooLong {
        mtu: u32,
    },
    /// Nor can its sender send shorter ones.
    Never,
}

/// Bytes that an origin's packets grow by.
#[inline(always)]
pub fn overhead(origin: &Origin) -> u32 {
    if !origin.forwarding.is_tunnel() {
        return 0;
    }
    let ip = if origin.address.v4().is_some() {
        IPV4_LEN
    } else {
        IPV6_LEN
    };
    let udp = if origin.forwarding == Forwarding::DSR_GUE {
        UDP_LEN
    } else {
        0
    };
    (ip + udp) as u32
}

impl Room {
    /// Towards the client of a flow.
    #[inline(always)]
    pub fn to_client<T: Tables>(tables: &T, core: &FlowCore) -> Self {
        let exit = match tables.interface(core.client_ifindex) {
            Some(interface) => known(interface.mtu),
            None => UNLIMITED,
        };
        Self { exit, path: exit }
    }

    /// Towards an origin, whose record is `origin` and whose hop carries packets of `mtu` bytes.
    #[inline(always)]
    pub fn to_origin<T: Tables>(
        tables: &T,
        settings: &Settings,
        now: u32,
        id: OriginId,
        origin: &Origin,
        mtu: u16,
    ) -> Self {
        let overhead = overhead(origin);
        let exit = known(mtu.into()).saturating_sub(overhead);
        let mut path = exit;
        // Only of tunnels: the errors that other packets cause go to their senders.
        if overhead != 0
            && let Some(learned) = tables.path_mtu(id)
            && learned.mtu != 0
            && is_fresh(now.wrapping_sub(learned.seen), settings)
        {
            path = smaller(exit, learned.mtu.saturating_sub(overhead));
        }
        Self { exit, path }
    }

    /// Whether a packet of `length` bytes fits.
    #[inline(always)]
    pub fn fit<F: Family>(self, length: u32) -> Fit {
        if length <= self.path {
            return Fit::Whole;
        }
        if length <= F::MIN_MTU && length <= self.exit {
            return Fit::InPieces;
        }
        // What was learned may be a lie: nobody is asked for less than every path carries.
        let floor = smaller(F::MIN_MTU, self.exit);
        let mtu = if self.path < floor { floor } else { self.path };
        // The interface itself may carry less. Senders of IPv6 cannot be told so (RFC 8201 section 4).
        if F::HEADER_LEN == IPV6_LEN && mtu < F::MIN_MTU {
            return if length > F::MIN_MTU {
                Fit::TooLong { mtu: F::MIN_MTU }
            } else {
                Fit::Never
            };
        }
        Fit::TooLong { mtu }
    }
}

/// The longest packets that a new connection should make: what its path carries both ways, as far as that passes through
/// this node.
#[inline(always)]
pub fn of_connection(to_origin: Room, to_client: Room, forwarding: Forwarding) -> u32 {
    let most = if forwarding.is_direct() {
        to_origin.path
    } else {
        smaller(to_origin.path, to_client.path)
    };
    if most < MIN_OPEN { MIN_OPEN } else { most }
}

/// Whether what is so many jiffies old is still believed.
#[inline(always)]
fn is_fresh(age: u32, settings: &Settings) -> bool {
    // Another CPU's clock may be a jiffy ahead.
    age <= settings.second.wrapping_mul(PATH_MTU_SECONDS) || age > u32::MAX / 2
}

/// An MTU; 0 stands for none that is known.
#[inline(always)]
fn known(mtu: u32) -> u32 {
    if mtu == 0 { UNLIMITED } else { mtu }
}

#[inline(always)]
fn smaller(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}
