//! Addresses of this machine, and others that packets leave to: hearing of changes, lending some to the loopback
//! interface, looking what stands in the way.

use super::netlink::{Netlink, notifications, subscribe};
use super::routing::{Route, own_address, route_request};
use super::sys;
use anyhow::Context as _;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::route::{RouteAttribute, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::sys::Socket;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use tokio::io::unix::AsyncFd;

/// The loopback interface's index, in every network namespace.
const LOOPBACK: u32 = 1;
/// `IFA_PROTO` of what lb adds, shown by `ip address` as `proto 0x6c`: the number that it gives its neighbour entries.
const PROTOCOL: u8 = 108;

/// Tells when addresses of this network namespace have changed.
pub struct AddressWatch {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl AddressWatch {
    /// Starts watching. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn start() -> anyhow::Result<Self> {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let socket = subscribe(&groups).context("subscribe to changes of addresses")?;
        let socket = sys::register(socket).context("watch for changes of addresses")?;
        Ok(Self {
            socket,
            buffer: Vec::new(),
        })
    }

    /// Returns when some have changed since it was last called.
    ///
    /// # Errors
    /// The socket cannot be waited for.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut heard = false;
            // A burst counts once. Notifications that were lost (ENOBUFS) are changes too.
            while ready
                .try_io(|socket| match notifications(socket.get_ref(), &mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                })
                .is_ok()
            {
                heard = true;
            }
            if heard {
                return Ok(());
            }
        }
    }
}

/// All addresses that the interfaces of this network namespace have.
///
/// # Errors
/// When netlink fails.
pub fn own() -> anyhow::Result<BTreeSet<IpAddr>> {
    let mut netlink = Netlink::open().context("open a netlink socket")?;
    let entries = netlink
        .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
        .context("list the addresses of network interfaces")?;
    let addresses = entries.iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewAddress(address) => own_address(address),
        _ => None,
    });
    Ok(addresses.collect())
}

/// Adds an address to the loopback interface, for this host alone; false: it is there already.
///
/// # Errors
/// The kernel refuses.
pub fn lend_to_loopback(address: IpAddr) -> anyhow::Result<bool> {
    let mut netlink = Netlink::open().context("open a netlink socket")?;
    let request = RouteNetlinkMessage::NewAddress(message(address));
    match netlink.change(request, NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("add {address} to the loopback interface")),
    }
}

/// Removes an address from the loopback interface; false: it is not there.
///
/// # Errors
/// The kernel refuses.
pub fn take_from_loopback(address: IpAddr) -> anyhow::Result<bool> {
    let mut netlink = Netlink::open().context("open a netlink socket")?;
    match netlink.change(RouteNetlinkMessage::DelAddress(message(address)), 0) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {address} from the loopback interface")),
    }
}

/// Whether packets to `address` can be had to leave by an interface without being asked for on its link: what stands in
/// the way, for the operator.
///
/// # Errors
/// What stands in the way.
pub fn check_route(address: IpAddr, ifindex: u32, interface: &str) -> Result<(), String> {
    let mut netlink = Netlink::open().map_err(|error| format!("open a netlink socket: {error}"))?;
    let mut ask = |by: Option<u32>| {
        let mut request = route_request(address);
        if let RouteNetlinkMessage::GetRoute(message) = &mut request {
            message.attributes.extend(by.map(RouteAttribute::Oif));
        }
        netlink.get(request)
    };
    let plain = ask(None);
    if let Ok(RouteNetlinkMessage::NewRoute(message)) = &plain
        && message.header.kind == RouteType::Local
    {
        return Err(format!(
            "{address} is an address of this node, which keeps packets to it to itself"
        ));
    }
    match Route::read(address, ask(Some(ifindex))) {
        Route::Via { gateway: Some(_), .. } => {}
        Route::Via { gateway: None, .. } => {
            return Err(format!(
                "{address} is on the link of {interface}, where nobody can be asked for it"
            ));
        }
        Route::Unusable(why) => return Err(format!("by {interface}: {why}")),
    }
    let elsewhere =
        !matches!(Route::read(address, plain), Route::Via { ifindex: index, .. } if index == ifindex);
    if elsewhere && address.is_ipv4() && is_strict(interface) {
        return Err(format!(
            "answers from {address} would be dropped, as the route to it is another:              sysctl -w net.ipv4.conf.{interface}.rp_filter=2"
        ));
    }
    Ok(())
}

/// Whether the kernel drops what comes in by an interface from an address to which the route is another.
fn is_strict(interface: &str) -> bool {
    let value = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    value("all").max(value(interface)) == Some(1)
}

fn message(address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    let (family, bits) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.family = family;
    message.header.prefix_len = bits;
    message.header.index = LOOPBACK;
    message.header.scope = AddressScope::Universe;
    // It is shared by all origins: nobody asks whether somebody else has it.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    message
}
