//! Tells when interfaces come, go, or change.

use super::netlink::{notifications, subscribe};
use super::routing::Link;
use super::sys;
use anyhow::Context as _;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::Socket;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// An interface that is being made is told of in several messages; the last one counts.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// A watch on the interfaces of the network namespace it was made in.
pub struct LinkWatch {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    /// What is known of each interface: the kernel repeats itself.
    known: BTreeMap<u32, Link>,
    /// When the change that was heard of is to be told, while there is one.
    due: Option<Instant>,
}

impl LinkWatch {
    /// Starts listening; what happens from now on is told by [`Self::changed`]. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn new() -> anyhow::Result<Self> {
        let socket = subscribe(&[MulticastGroup::Link]).context("subscribe to changes of interfaces")?;
        Ok(Self {
            socket: sys::register(socket).context("watch a netlink socket")?,
            buffer: Vec::new(),
            known: BTreeMap::new(),
            due: None,
        })
    }

    /// Waits until an interface has come, gone, or changed its name, state or address. May be dropped and called again
    /// at any time.
    pub async fn changed(&mut self) {
        loop {
            let ready = match self.due {
                None => self.socket.readable().await,
                // What has been heard is kept in `due`, because this future may be dropped at any await.
                Some(due) => match timeout_at(due, self.socket.readable()).await {
                    Ok(ready) => ready,
                    Err(_) => {
                        self.due = None;
                        return;
                    }
                },
            };
            let Ok(mut ready) = ready else {
                return std::future::pending().await;
            };
            match ready.try_io(|socket| notifications(socket.get_ref(), &mut self.buffer)) {
                Ok(Ok(messages)) => {
                    for message in &messages {
                        if learn(&mut self.known, message) {
                            self.due.get_or_insert(Instant::now() + DEBOUNCE);
                        }
                    }
                }
                // ENOBUFS: some were lost.
                Ok(Err(_)) => {
                    self.due.get_or_insert(Instant::now() + DEBOUNCE);
                }
                Err(_would_block) => {}
            }
        }
    }
}

/// Takes a notification; whether it is news.
fn learn(known: &mut BTreeMap<u32, Link>, message: &RouteNetlinkMessage) -> bool {
    match message {
        // Bridges tell of their ports in the same words: a port that is let go of is no interface that is gone.
        RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family != AddressFamily::Unspec =>
        {
            false
        }
        RouteNetlinkMessage::NewLink(message) => {
            let link = Link::read(message);
            let before = known.insert(message.header.index, link.clone());
            before != Some(link)
        }
        RouteNetlinkMessage::DelLink(message) => {
            known.remove(&message.header.index);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    fn message(family: AddressFamily, name: &str) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 7;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        message
    }

    #[test]
    fn only_changes_are_news() {
        let mut known = BTreeMap::new();
        let mut is_news = |message: &RouteNetlinkMessage| learn(&mut known, message);
        let new = |name| RouteNetlinkMessage::NewLink(message(AddressFamily::Unspec, name));
        assert!(is_news(&new("eth0")));
        assert!(!is_news(&new("eth0")), "the kernel repeats itself");
        assert!(is_news(&new("lan0")), "it was renamed");
        let left = RouteNetlinkMessage::DelLink(message(AddressFamily::Bridge, "lan0"));
        assert!(!is_news(&left), "it has left a bridge");
        let gone = RouteNetlinkMessage::DelLink(message(AddressFamily::Unspec, "lan0"));
        assert!(is_news(&gone));
        assert!(is_news(&new("lan0")), "it was made anew under the same number");
    }
}
