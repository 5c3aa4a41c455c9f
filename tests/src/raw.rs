//! Frames made by hand, and packets taken by hand: packet sockets and TUN devices.

use lb_common::testing::Frame;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket that sends whole frames out of one interface.
pub struct FrameSocket {
    socket: OwnedFd,
    ifindex: i32,
}

impl FrameSocket {
    /// Opens one for an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// There is no such interface, or we are not root.
    pub fn open(interface: &str) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: a terminated string that outlives the call.
        let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if ifindex == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: three numbers. Protocol 0: it receives nothing.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the kernel has just opened it for us.
            socket: unsafe { OwnedFd::from_raw_fd(socket) },
            ifindex: ifindex as i32,
        })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// `EMSGSIZE`: it is larger than the interface carries.
    pub fn send(&self, frame: &Frame) -> io::Result<()> {
        // SAFETY: all fields are integers or arrays of them, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = self.ifindex;
        // SAFETY: both pointers are to values of the lengths given, which outlive the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.0.as_ptr().cast(),
                frame.0.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Makes a TUN device of that name in the calling thread's namespace; it goes with the file. What is routed to it is
/// read from the file, a packet at a time, and what is written to it arrives by it. Reading does not block.
///
/// # Errors
/// The kernel refuses.
pub fn tun(name: &str) -> io::Result<File> {
    /// `TUNSETIFF` (include/uapi/linux/if_tun.h).
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all fields of ifreq are integers, arrays of them or pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request outlives the call and is of the kind that the command takes.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: flags of an open descriptor.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
