//! How origins and clients are reached, kept current: the datapath itself never asks the kernel for a route.
//!
//! The watcher asks the kernel for the route of every watched address, hears of every change through netlink, and
//! has the kernel keep the neighbours on the way resolved: it marks their entries as *managed* (`NTF_EXT_MANAGED`,
//! Linux 5.16), because XDP traffic does not count as use of an entry, which the kernel would soon forget.

use super::netlink::{Netlink, notifications, subscribe};
use super::routing::{Hop, Neighbour, Route, Tables, family, route_request};
use super::solicit::{self, Known, Solicitor};
use super::sys;
use anyhow::Context as _;
use lb_core::engine::Path;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::RouteProtocol;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::sys::Socket;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Changes come in bursts (a link going up moves addresses, routes and neighbours); the burst is waited for.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Everything is read again this often: path MTUs expire and routing rules change without a notification.
const REFRESH: Duration = Duration::from_secs(10);
/// How often the kernel is asked again to resolve a neighbour that does not answer. It gives up after three
/// seconds and would itself try again only every `interval_probe_time_ms`, 5 s.
const POKE: Duration = Duration::from_secs(1);
/// `NDA_PROTOCOL` of the neighbour entries that lb makes, so that it knows them after a crash too. Shown by
/// `ip neigh` as `proto 108`; not assigned to any routing daemon.
const PROTOCOL: u8 = 108;

const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// Watches the paths to a set of addresses. When it is dropped it stops watching; managed neighbour entries stay, as
/// forwarding may go on without the daemon, until [`PathWatcher::release`] or [`release_neighbours`].
pub struct PathWatcher {
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Watch(BTreeSet<IpAddr>),
    Attached(BTreeSet<u32>),
    Release(oneshot::Sender<io::Result<()>>),
}

impl PathWatcher {
    /// Starts watching in the network namespace of the calling thread, for a node whose program is attached to the
    /// interfaces with these indices. Paths come through the receiver, all of them each time that one has changed;
    /// only the newest is kept for a receiver that is busy. Must be called in a tokio runtime, and does its work in
    /// a thread of its own.
    ///
    /// # Errors
    /// When the kernel refuses netlink sockets or a thread.
    // Async although nothing is awaited: callers keep compiling when the start has something to wait for.
    pub async fn start(attached: Vec<u32>) -> anyhow::Result<(Self, mpsc::Receiver<BTreeMap<IpAddr, Path>>)> {
        let netlink = Netlink::open().context("open a netlink socket")?;
        let changes = subscribe(GROUPS).context("subscribe to changes of links, routes and neighbours")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the watcher of routes")?;
        let (commands, orders) = mpsc::unbounded_channel();
        let (paths, receiver) = mpsc::channel(1);
        let now = Instant::now();
        let watch = Watch {
            netlink,
            attached: attached.into_iter().collect(),
            addresses: None,
            tables: Tables::default(),
            routes: BTreeMap::new(),
            managed: BTreeMap::new(),
            sent: None,
            pending: None,
            dirty: None,
            refreshed: now,
            rested: now,
            warned_full: false,
            solicitor: Solicitor::open()
                .inspect_err(|error| {
                    tracing::warn!(%error, "neighbours that move without a word are noticed late");
                })
                .ok(),
        };
        std::thread::Builder::new()
            .name("lb-paths".to_owned())
            .spawn(move || runtime.block_on(watch.run(changes, orders, paths)))
            .context("start the thread that watches routes")?;
        Ok((Self { commands }, receiver))
    }

    /// Watches exactly these addresses from now on. Neighbours that are not needed any more are released.
    pub fn watch(&self, addresses: Vec<IpAddr>) {
        // The thread ends only after this sender is gone, or when nobody receives paths any more.
        let _ = self
            .commands
            .send(Command::Watch(addresses.into_iter().collect()));
    }

    /// The program runs on exactly these interfaces from now on.
    pub fn set_attached(&self, attached: Vec<u32>) {
        let _ = self
            .commands
            .send(Command::Attached(attached.into_iter().collect()));
    }

    /// Takes everything back that was changed in the kernel's neighbour tables: entries that lb has made are
    /// deleted, the others are no longer managed. Nothing is watched until the next [`PathWatcher::watch`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn release(&self) -> anyhow::Result<()> {
        let (reply, released) = oneshot::channel();
        let _ = self.commands.send(Command::Release(reply));
        released
            .await
            .context("the watcher of routes has ended")?
            .context("release neighbours")
    }
}

/// Deletes all neighbour entries of this network namespace that lb has made, also those of a daemon that is gone;
/// returns how many. For `lb detach`.
///
/// # Errors
/// When the kernel refuses.
pub fn release_neighbours() -> anyhow::Result<usize> {
    let mut netlink = Netlink::open().context("open a netlink socket")?;
    let mut tables = Tables::default();
    read_neighbours(&mut netlink, &mut tables).context("read the neighbour tables")?;
    let mut released = 0;
    for (&hop, neighbour) in tables
        .neighbours
        .iter()
        .filter(|(_, neighbour)| is_ours(neighbour))
    {
        release(&mut netlink, hop, neighbour, true).with_context(|| format!("delete neighbour {}", hop.1))?;
        released += 1;
    }
    Ok(released)
}

/// What has to be done again after a change. The later includes the earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Dirty {
    /// A neighbour on the way has another MAC address.
    Neighbours,
    /// Anything else.
    Everything,
}

struct Watch {
    netlink: Netlink,
    attached: BTreeSet<u32>,
    /// `None`: nobody has asked yet, or everything was released.
    addresses: Option<BTreeSet<IpAddr>>,
    tables: Tables,
    routes: BTreeMap<IpAddr, Route>,
    /// The neighbours that are managed on behalf of lb, and whether lb has made the entry.
    managed: BTreeMap<Hop, bool>,
    sent: Option<BTreeMap<IpAddr, Path>>,
    pending: Option<BTreeMap<IpAddr, Path>>,
    /// What has to be done, and when.
    dirty: Option<(Dirty, Instant)>,
    refreshed: Instant,
    /// Not before this is anything computed again, so that a storm of changes does not take a whole core.
    rested: Instant,
    /// Whether the operator has been told that the neighbour table is full.
    warned_full: bool,
    /// `None`: without the privilege.
    solicitor: Option<Solicitor>,
}

impl Watch {
    async fn run(
        mut self,
        changes: Socket,
        mut orders: mpsc::UnboundedReceiver<Command>,
        paths: mpsc::Sender<BTreeMap<IpAddr, Path>>,
    ) {
        let changes = match sys::register(changes) {
            Ok(changes) => changes,
            Err(error) => return tracing::error!(%error, "changes of routes cannot be watched"),
        };
        let mut buffer = Vec::new();
        let mut poke = tokio::time::interval(POKE);
        poke.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(solicit::LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.dirty.map(|(_, due)| due);
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Command::Watch(addresses)) => {
                        self.addresses = Some(addresses);
                        self.dirty = Some((Dirty::Everything, Instant::now()));
                    }
                    Some(Command::Attached(attached)) => {
                        self.attached = attached;
                        self.dirty = Some((Dirty::Everything, Instant::now()));
                    }
                    Some(Command::Release(reply)) => {
                        // Whoever does not wait for the answer does not want it.
                        let _ = reply.send(self.release());
                    }
                },
                ready = changes.readable() => match ready {
                    Ok(mut ready) => {
                        // A part of the notifications each time, so that a flood does not starve the rest.
                        for _ in 0..64 {
                            match ready.try_io(|socket| notifications(socket.get_ref(), &mut buffer)) {
                                Ok(Ok(messages)) => messages.iter().for_each(|message| self.hear(message)),
                                // ENOBUFS: some were lost.
                                Ok(Err(_)) => self.mark(Dirty::Everything),
                                Err(_would_block) => break,
                            }
                        }
                    }
                    Err(error) => return tracing::error!(%error, "changes of routes cannot be watched"),
                },
                () = sleep_until(due), if due.is_some() => self.recompute(),
                _ = poke.tick() => self.poke(),
                _ = look.tick() => self.look(),
                permit = paths.reserve(), if self.pending.is_some() => match (permit, self.pending.take()) {
                    (Ok(permit), Some(pending)) => permit.send(pending),
                    _ => return,
                },
            }
        }
    }

    /// Takes a notification.
    fn hear(&mut self, message: &RouteNetlinkMessage) {
        let neighbour = match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour) => {
                neighbour
            }
            _ => return self.mark(Dirty::Everything),
        };
        // Neighbour entries change their state all the time; only the MAC address is of interest here.
        let Some((hop, _)) = Neighbour::read(neighbour) else {
            return;
        };
        let before = self.tables.mac(hop);
        self.tables.learn(message);
        let gone = matches!(message, RouteNetlinkMessage::DelNeighbour(_)) && self.managed.contains_key(&hop);
        if gone || before != self.tables.mac(hop) {
            self.mark(Dirty::Neighbours);
        }
    }

    fn mark(&mut self, dirty: Dirty) {
        let due = self.rested.max(Instant::now() + DEBOUNCE);
        let (was, due) = self.dirty.unwrap_or((dirty, due));
        self.dirty = Some((was.max(dirty), due));
    }

    fn recompute(&mut self) {
        let Some((dirty, _)) = self.dirty.take() else {
            return;
        };
        let Some(addresses) = self.addresses.clone() else {
            return;
        };
        let started = Instant::now();
        if dirty == Dirty::Everything
            && let Err(error) = self.read(&addresses)
        {
            tracing::warn!(%error, "the kernel's routes and neighbours cannot be read");
            self.dirty = Some((Dirty::Everything, Instant::now() + POKE));
            return;
        }
        self.manage();
        let path = |(&to, route)| (to, self.tables.path(to, route, &self.attached));
        let paths: BTreeMap<_, _> = self.routes.iter().map(path).collect();
        if self.sent.as_ref() != Some(&paths) {
            self.sent = Some(paths.clone());
            self.pending = Some(paths);
        }
        // A third of one core at most, however fast the routes change; the first change after a quiet time does not wait.
        self.rested = Instant::now() + started.elapsed() * 2;
    }

    /// Reads all tables, and asks for the route of every address.
    fn read(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        let mut tables = Tables::default();
        for request in [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        ] {
            self.netlink
                .dump(request)?
                .iter()
                .for_each(|entry| tables.learn(entry));
        }
        read_neighbours(&mut self.netlink, &mut tables)?;
        self.tables = tables;
        self.routes = addresses
            .iter()
            .map(|&to| (to, Route::read(to, self.netlink.get(route_request(to)))))
            .collect();
        self.refreshed = Instant::now();
        Ok(())
    }

    /// Neighbours on the way to watched addresses.
    fn hops(&self) -> BTreeSet<Hop> {
        let hops = self.routes.iter().filter_map(|(&to, route)| route.hop(to));
        hops.filter(|(ifindex, _)| {
            // Not where lb would not send, and not while the entry would be dropped at once.
            let link = self.tables.links.get(ifindex);
            let exit = self.tables.exit(*ifindex, &self.attached);
            exit.is_some() && link.is_some_and(|link| link.up && !link.loopback)
        })
        .collect()
    }

    /// Has the kernel keep the neighbours on the way resolved, and lets go of those that are not needed any more.
    fn manage(&mut self) {
        let hops = self.hops();
        for &hop in &hops {
            match self.tables.neighbours.get(&hop) {
                Some(neighbour) if neighbour.fixed => {}
                Some(neighbour) if neighbour.managed => {
                    if is_ours(neighbour) {
                        self.managed.entry(hop).or_insert(true);
                    }
                }
                Some(_) => self.ask(hop, false),
                None => self.ask(hop, true),
            }
        }
        let unneeded: Vec<_> = self
            .managed
            .keys()
            .filter(|hop| !hops.contains(hop))
            .copied()
            .collect();
        for hop in unneeded {
            if let Err(error) = self.let_go(hop) {
                tracing::debug!(%error, "a neighbour entry cannot be released");
            }
        }
    }

    /// Asks neighbours whether they are still there.
    fn look(&mut self) {
        let hops = self.hops();
        let Some(solicitor) = &mut self.solicitor else {
            return;
        };
        if self.addresses.is_none() {
            return solicitor.rest();
        }
        let known = hops.into_iter().filter_map(|hop| {
            let neighbour = self.tables.neighbours.get(&hop)?;
            let own = self.tables.addresses.get(&hop.0).into_iter().flatten();
            let known = Known {
                mac: neighbour.mac.filter(|_| !neighbour.fixed)?,
                own_mac: self.tables.links.get(&hop.0)?.mac?,
                own: own.copied().find_map(|own| match own {
                    IpAddr::V4(own) => Some(own),
                    IpAddr::V6(_) => None,
                }),
            };
            Some((hop, known))
        });
        solicitor.look(&mut self.netlink, &known.collect());
    }

    /// Asks the kernel again for neighbours that did not answer, and sees to the regular refresh.
    fn poke(&mut self) {
        if self.addresses.is_none() {
            return;
        }
        if self.refreshed.elapsed() >= REFRESH {
            self.mark(Dirty::Everything);
        }
        for hop in self.hops() {
            match self.tables.neighbours.get(&hop) {
                Some(neighbour) if neighbour.fixed || neighbour.mac.is_some() => {}
                known => self.ask(hop, known.is_none()),
            }
        }
    }

    /// Has the kernel resolve a neighbour now, and manage it. Kernels before 5.16 only do the former.
    fn ask(&mut self, hop: Hop, create: bool) {
        // EXCL: an entry that somebody has made in the meantime is not touched before it has been looked at, as
        // NTF_USE would take the word "permanent" away from it (`__neigh_update`).
        let flags = if create { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
        match self.netlink.change(use_neighbour(hop, true, create), flags) {
            Ok(()) => {
                self.managed.entry(hop).or_insert(create);
            }
            Err(error) => {
                tracing::debug!(%error, neighbour = %hop.1, "the kernel does not resolve a neighbour");
                match error.raw_os_error() {
                    // It exists by now, or exists no more.
                    Some(libc::EEXIST | libc::ENOENT) => self.mark(Dirty::Everything),
                    Some(libc::ENOBUFS) if !self.warned_full => {
                        self.warned_full = true;
                        let family = if hop.1.is_ipv4() { "ipv4" } else { "ipv6" };
                        tracing::warn!(
                            "the kernel's neighbour table is full, so that some addresses stay unreachable: raise \
                             the sysctl net.{family}.neigh.default.gc_thresh3"
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    fn let_go(&mut self, hop: Hop) -> io::Result<()> {
        let made = self.managed.remove(&hop).unwrap_or(false);
        match self.tables.neighbours.get(&hop) {
            Some(neighbour) => release(&mut self.netlink, hop, neighbour, made),
            None => Ok(()),
        }
    }

    fn release(&mut self) -> io::Result<()> {
        self.addresses = None;
        self.routes.clear();
        self.sent = None;
        self.pending = None;
        self.dirty = None;
        self.tables.neighbours.clear();
        read_neighbours(&mut self.netlink, &mut self.tables)?;
        let hops: Vec<_> = self.managed.keys().copied().collect();
        hops.into_iter()
            .map(|hop| self.let_go(hop))
            .fold(Ok(()), Result::and)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn read_neighbours(netlink: &mut Netlink, tables: &mut Tables) -> io::Result<()> {
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    netlink
        .dump(request)?
        .iter()
        .for_each(|entry| tables.learn(entry));
    Ok(())
}

fn is_ours(neighbour: &Neighbour) -> bool {
    neighbour.protocol == PROTOCOL && !neighbour.fixed
}

/// Deletes an entry that lb has made; takes the mark off another one. What somebody has fixed since stays as it is.
fn release(netlink: &mut Netlink, hop: Hop, neighbour: &Neighbour, made: bool) -> io::Result<()> {
    let outcome = match (neighbour.fixed, made && is_ours(neighbour), neighbour.managed) {
        (true, ..) | (_, false, false) => Ok(()),
        (_, true, _) => netlink.change(RouteNetlinkMessage::DelNeighbour(neighbour_message(hop)), 0),
        (_, false, true) => netlink.change(use_neighbour(hop, false, false), 0),
    };
    match outcome.as_ref().map_err(io::Error::raw_os_error) {
        // It has gone by itself, perhaps with its interface.
        Err(Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        _ => outcome,
    }
}

/// `RTM_NEWNEIGH` that tells the kernel that the neighbour is being used, and whether it is to be kept resolved from
/// now on.
fn use_neighbour(hop: Hop, managed: bool, made: bool) -> RouteNetlinkMessage {
    let mut message = neighbour_message(hop);
    message.header.flags = NeighbourFlags::Use;
    if managed {
        message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    if made {
        message
            .attributes
            .push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    }
    RouteNetlinkMessage::NewNeighbour(message)
}

fn neighbour_message((ifindex, address): Hop) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}
