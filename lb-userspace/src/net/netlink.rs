//! Questions to the kernel's routing netlink (rtnetlink(7)), answered before the call returns.
//!
//! The kernel answers from memory and never waits for the network, so that blocking is a matter of microseconds.

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use std::io;

/// The kernel fills up to 32 KiB of a dump into one datagram.
const DATAGRAM: usize = 64 * 1024;
/// `NLM_F_DUMP_INTR`: the table has changed while it was dumped.
const DUMP_INTERRUPTED: u16 = 0x10;
const DUMP_ATTEMPTS: usize = 5;
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// A netlink socket for requests.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a received datagram holds.
type Messages = Vec<NetlinkMessage<RouteNetlinkMessage>>;

impl Netlink {
    /// A socket in the network namespace of the calling thread; it stays there.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// All entries of a table.
    pub(super) fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(request.clone(), NLM_F_DUMP)?;
            let mut entries = Vec::new();
            let mut interrupted = false;
            'dump: loop {
                for message in self.receive()? {
                    interrupted |= message.header.flags & DUMP_INTERRUPTED != 0;
                    match message.payload {
                        NetlinkPayload::InnerMessage(entry) => entries.push(entry),
                        NetlinkPayload::Done(_) => break 'dump,
                        NetlinkPayload::Error(error) => return Err(error.to_io()),
                        _ => {}
                    }
                }
            }
            if !interrupted {
                return Ok(entries);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the table changes faster than it can be read",
        ))
    }

    /// One entry. An error is the kernel's errno.
    pub(super) fn get(&mut self, request: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(request, 0)?;
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(entry) => return Ok(entry),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// A change. An error is the kernel's errno.
    pub(super) fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_ACK | flags)?;
        loop {
            for message in self.receive()? {
                if let NetlinkPayload::Error(error) = message.payload {
                    return if error.code.is_none() {
                        Ok(())
                    } else {
                        Err(error.to_io())
                    };
                }
            }
        }
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// The next datagram without the rests of answers that were given up.
    fn receive(&mut self) -> io::Result<Messages> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut messages = parse(&self.buffer);
        messages.retain(|message| message.header.sequence_number == self.sequence);
        Ok(messages)
    }
}

/// A socket that hears of every change in the given groups. It does not block.
pub(super) fn subscribe(groups: &[MulticastGroup]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for &group in groups {
        socket.add_membership(group as u32)?;
    }
    // A burst, such as a whole table of routes, should not overflow it; if one does, everything is read again.
    // Beyond the sysctl net.core.rmem_max with CAP_NET_ADMIN, which lb has.
    let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// The next notifications; `WouldBlock` when there are none, `ENOBUFS` when some were lost.
pub(super) fn notifications(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<Vec<RouteNetlinkMessage>> {
    buffer.clear();
    buffer.reserve(DATAGRAM);
    socket.recv(buffer, 0)?;
    let messages = parse(buffer).into_iter();
    Ok(messages
        .filter_map(|message| match message.payload {
            NetlinkPayload::InnerMessage(inner) => Some(inner),
            _ => None,
        })
        .collect())
}

/// All messages of a datagram. One that cannot be decoded (a newer kernel, an odd link type) is left out.
fn parse(mut datagram: &[u8]) -> Messages {
    let mut messages = Vec::new();
    while let Some(length) = datagram
        .first_chunk()
        .map(|&bytes| u32::from_ne_bytes(bytes) as usize)
    {
        let Some(message) = datagram.get(..length).filter(|_| length >= 16) else {
            break;
        };
        match NetlinkMessage::deserialize(message) {
            Ok(message) => messages.push(message),
            Err(error) => tracing::debug!(%error, "a netlink message could not be decoded"),
        }
        // NLMSG_ALIGN
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}
