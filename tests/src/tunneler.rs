//! A node's end of tunnels, in plain code: what is routed to its device goes to an origin, encapsulated. Stands in for
//! lb where a test is about the origin's end.

use crate::check::{SOON, wait_until};
use crate::netns::Netns;
use crate::raw::{FrameSocket, tun};
use lb_common::testing::tunnels::{Tunnel, ip};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The device to which routes to VIPs lead.
pub const DEVICE: &str = "tunnel0";

/// How long it sleeps when nothing is to be sent.
const LOOK: Duration = Duration::from_micros(200);

/// Where a tunnel leads: link addresses and addresses of both ends.
#[derive(Clone, Debug)]
pub struct Way {
    pub interface: &'static str,
    pub link: ([u8; 6], [u8; 6]),
    pub from: String,
    pub to: String,
}

/// A tunnel, until it is dropped.
pub struct Tunneler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    too_large: AtomicU64,
}

impl Tunneler {
    /// Makes the device in `namespace`, and carries what comes to it.
    ///
    /// # Panics
    /// The device cannot be made.
    #[must_use]
    pub fn start(namespace: &Netns, tunnel: Tunnel, way: Way) -> Self {
        let (mut device, socket) = namespace.enter(|| {
            (
                // A process that is being started may hold the device of the one before for a moment.
                wait_until(SOON, "a TUN device can be made", || tun(DEVICE).ok()),
                FrameSocket::open(way.interface).expect("root can open a packet socket"),
            )
        });
        namespace.ip(&format!("link set dev {DEVICE} up"));
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let ends: (IpAddr, IpAddr) = (ip(&way.from), ip(&way.to));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !state.stop.load(Ordering::Relaxed) {
                let length = match device.read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(LOOK);
                        continue;
                    }
                    Err(_) => return,
                };
                let frame = tunnel.carry(ends.0, ends.1, &buffer[..length]);
                let (source, destination) = way.link;
                match socket.send(&frame.link(source, destination).frame()) {
                    Ok(()) => &state.sent,
                    Err(_) => &state.too_large,
                }
                .fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Packets that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Packets that did not fit into the interface's frames with the outer header.
    #[must_use]
    pub fn too_large(&self) -> u64 {
        self.shared.too_large.load(Ordering::Relaxed)
    }
}

impl Drop for Tunneler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
