//! Calls of the kernel that no crate in use wraps: the only unsafe code of `net` and `probe`.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::io;
use std::mem;
use tokio::io::unix::AsyncFd;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// Makes a socket report every ICMP error about what it has sent, also the soft ones such as "host unreachable"
/// (`IP_RECVERR`, ip(7)).
///
/// # Errors
/// When the option is refused.
pub(crate) fn report_icmp_errors(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    let (level, option) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    switch_on(socket, level, option)
}

/// Leaves the choice of a port to connect(), which may use one that other connections of the address have
/// (`IP_BIND_ADDRESS_NO_PORT`, ip(7)). IPv6 sockets take it too.
///
/// # Errors
/// When the option is refused.
pub(crate) fn bind_without_port(socket: &impl AsFd) -> io::Result<()> {
    switch_on(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

fn switch_on(socket: &impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: both callers' options take an int, `on` is one and outlives the call, and the descriptor is borrowed for
    // it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sockets that own one descriptor from their making to their end.
pub(crate) trait Owner: AsRawFd {}
impl Owner for socket2::Socket {}
impl Owner for rtnetlink::sys::Socket {}

/// Hands a socket that does not block to the runtime of the calling task.
///
/// # Errors
/// When epoll refuses.
pub(crate) fn register<T: Owner>(socket: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `Owner` keeps its descriptor open as long as it lives, and it is moved into the `AsyncFd`, where
    // nobody in this crate replaces it.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// A socket for ARP packets that receives none.
///
/// # Errors
/// Without CAP_NET_RAW.
pub(crate) fn arp_socket() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::PACKET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        None,
    )?;
    Ok(socket)
}

/// Sends an ARP packet to a link address on an interface.
///
/// # Errors
/// `ENETDOWN` when the interface is down, `ENXIO` when it is gone.
pub(crate) fn send_arp(socket: impl AsFd, ifindex: u32, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
    // SAFETY: all fields of sockaddr_ll are integers or arrays of them, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
    address.sll_ifindex = ifindex as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&to);
    // SAFETY: packet and address are read only, outlive the call, and are as long as it is told.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            mem::size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The name of an interface's driver (`ethtool -i`).
///
/// # Errors
/// `EOPNOTSUPP` for interfaces without ethtool support, `ENODEV` when there is no such interface.
pub(crate) fn driver(interface: &str) -> io::Result<String> {
    // struct ethtool_drvinfo: the command, then `driver[32]`, then fields that are of no interest here.
    const SIZE: usize = 196;
    let mut info = [0; SIZE];
    info[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
    ethtool(interface, &mut info)?;
    let name = info[4..36].split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Offloads that change what XDP sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Offloads {
    /// Large receive offload merges packets before XDP would see them.
    pub(crate) lro: bool,
    /// The VLAN tag is taken out of the frame before XDP sees it.
    pub(crate) rx_vlan: bool,
}

/// The offloads of an interface (`ethtool -k`).
///
/// # Errors
/// `EOPNOTSUPP` for interfaces without ethtool support, `ENODEV` when there is no such interface.
pub(crate) fn offloads(interface: &str) -> io::Result<Offloads> {
    // struct ethtool_value: the command and the value.
    let mut value = [0; 8];
    value[..4].copy_from_slice(&ETHTOOL_GFLAGS.to_ne_bytes());
    ethtool(interface, &mut value)?;
    let [_, _, _, _, flags @ ..] = value;
    let flags = u32::from_ne_bytes(flags);
    Ok(Offloads {
        lro: flags & ETH_FLAG_LRO != 0,
        rx_vlan: flags & ETH_FLAG_RXVLAN != 0,
    })
}

/// One ethtool command. `data` starts with the command and is as long as the command's structure.
fn ethtool(interface: &str, data: &mut [u8]) -> io::Result<()> {
    // SAFETY: all fields of ifreq are integers, arrays of them or pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: `request` has a terminated name (checked above, the rest is zero) and points at `data`, which both
    // callers have made as long as the structure of their command and which is borrowed exclusively.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
