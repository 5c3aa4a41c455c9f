//! What an origin's own settings have to be so that it serves VIPs: which to change, and putting them back.

use super::Options;
use crate::net::addresses::{lend_to_loopback, take_from_loopback};
use crate::net::interface::Interface;
use anyhow::{Context, Result};
use lb_common::tunnel::Roles;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

const FOLDER: &str = "/run/lb";
const SYSCTLS: &str = "/proc/sys";

/// Something that was changed on this machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A kernel parameter; its key is its path below /proc/sys.
    Sysctl {
        key: String,
        before: String,
        after: String,
    },
    /// An address that the loopback interface was given.
    Address(IpAddr),
}

/// All that was changed, in a file: an agent that dies leaves it to the next one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    pub interface: String,
    mac: [u8; 6],
    changes: Vec<Change>,
    #[serde(skip)]
    path: PathBuf,
}

/// Which addresses matter to the programs, and for what. Where the options do not say, tunnels end at the interface's
/// own addresses, and the VIPs are the other addresses of loopback and dummy interfaces, where they stand on origins: an
/// address of another network is none that strangers' packets should reach.
#[must_use]
pub fn locals(options: &Options, interfaces: &[Interface]) -> BTreeMap<IpAddr, Roles> {
    let ends: BTreeSet<IpAddr> = if options.addresses.is_empty() {
        let own = interfaces
            .iter()
            .filter(|interface| interface.name == options.interface);
        own.flat_map(|interface| interface.addresses.iter().copied())
            .collect()
    } else {
        options.addresses.iter().copied().collect()
    };
    let vips: BTreeSet<IpAddr> = if options.vips.is_empty() {
        let all = interfaces
            .iter()
            .filter(|interface| interface.loopback || interface.kind.as_deref() == Some("dummy"))
            .flat_map(|interface| interface.addresses.iter().copied());
        all.filter(|address| !ends.contains(address) && is_global(*address))
            .collect()
    } else {
        options.vips.iter().copied().collect()
    };
    let mut locals: BTreeMap<IpAddr, Roles> = BTreeMap::new();
    for (addresses, role) in [(ends, Roles::TUNNEL), (vips, Roles::VIP)] {
        for address in addresses {
            let roles = locals.entry(address).or_default();
            *roles = roles.and(role);
        }
    }
    locals
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// The kernel parameters that have to change, given what they are: key, before, after.
#[must_use]
pub fn sysctls(interface: &str, read: impl Fn(&str) -> Option<String>) -> Vec<(String, String, String)> {
    let of = |interface: &str, what: &str| format!("net/ipv4/conf/{interface}/{what}");
    let number = |key: &str| read(key).and_then(|text| text.trim().parse::<u32>().ok());
    // The kernel goes by the larger of what is set for all interfaces and for the one.
    let in_force = |what: &str| {
        let (all, own) = (number(&of("all", what)), number(&of(interface, what)));
        own.map(|own| (own, own.max(all.unwrap_or(0))))
    };
    let mut changes = Vec::new();
    // Answers to "who has the VIP?" would take it from the nodes: only the interface's own addresses are answered for,
    // and given as the sender's.
    for (what, wanted) in [("arp_ignore", 1), ("arp_announce", 2)] {
        if let Some((own, force)) = in_force(what)
            && force < wanted
        {
            changes.push((of(interface, what), own.to_string(), wanted.to_string()));
        }
    }
    // Clients' packets come from the nodes' side whatever the route to the clients is. Strict is 1, loose is 2.
    if let Some((own, 1)) = in_force("rp_filter") {
        changes.push((of(interface, "rp_filter"), own.to_string(), "2".to_owned()));
    }
    changes
}

/// The present value of a kernel parameter.
#[must_use]
pub fn sysctl(key: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(SYSCTLS).join(key)).ok()?;
    Some(text.trim().to_owned())
}

fn set_sysctl(key: &str, value: &str) -> Result<()> {
    fs::write(Path::new(SYSCTLS).join(key), value)
        .with_context(|| format!("set {} = {value}", key.replace('/', ".")))
}

impl State {
    /// What a former agent changed for this interface; nothing when there was none.
    #[must_use]
    pub fn load(interface: &Interface, netns: u64) -> Self {
        let path = Path::new(FOLDER).join(format!("origin-agent-{}-{netns}.json", interface.index));
        let new = Self {
            interface: interface.name.clone(),
            mac: interface.mac,
            changes: Vec::new(),
            path: path.clone(),
        };
        let Ok(text) = fs::read(&path) else { return new };
        match serde_json::from_slice::<Self>(&text) {
            // Numbers are used again: an interface, or a namespace, may have had them before.
            Ok(state) if state.interface == new.interface && state.mac == new.mac => Self { path, ..state },
            Ok(_) => new,
            Err(error) => {
                warn!(file = %path.display(), %error, "what a former agent changed cannot be read");
                new
            }
        }
    }

    /// Whether something is to be put back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Changes kernel parameters and gives VIPs to the loopback interface, as the options say.
    ///
    /// # Errors
    /// The kernel refuses a change. Those before it are remembered.
    pub fn prepare(&mut self, options: &Options) -> Result<()> {
        if options.keep_sysctls {
            for (key, before, after) in sysctls(&self.interface, sysctl) {
                warn!(
                    "{} is {before} and should be {after}: left as it is",
                    key.replace('/', ".")
                );
            }
        } else {
            for (key, before, after) in sysctls(&self.interface, sysctl) {
                info!("{} = {after} (was {before})", key.replace('/', "."));
                let change = Change::Sysctl {
                    key: key.clone(),
                    before,
                    after: after.clone(),
                };
                self.remember(change)?;
                set_sysctl(&key, &after)?;
            }
        }
        // Only now that nobody is told whose they are.
        if options.add_vips {
            for &vip in &options.vips {
                if self.changes.contains(&Change::Address(vip)) {
                    // Added by a former agent; the next line makes it good should it have gone since.
                    lend_to_loopback(vip)?;
                } else if lend_to_loopback(vip)? {
                    info!("added {vip} to the loopback interface");
                    self.remember(Change::Address(vip))?;
                }
            }
        }
        Ok(())
    }

    /// Puts everything back, newest first, and forgets it. What somebody else has changed since is left alone.
    pub fn undo(&mut self) {
        for change in std::mem::take(&mut self.changes).into_iter().rev() {
            let result = match &change {
                Change::Sysctl { key, before, after } => match sysctl(key) {
                    Some(now) if now == *after => set_sysctl(key, before),
                    Some(_) | None => Ok(()),
                },
                Change::Address(address) => take_from_loopback(*address).map(|_| ()),
            };
            match result {
                Ok(()) => info!("put back: {change}"),
                Err(error) => warn!("cannot put back: {error:#}"),
            }
        }
        // Never written is as good.
        let _ = fs::remove_file(&self.path);
    }

    fn remember(&mut self, change: Change) -> Result<()> {
        self.changes.push(change);
        let text = serde_json::to_vec(self).context("write down what was changed")?;
        let whole = self.path.with_extension("new");
        fs::create_dir_all(FOLDER)
            .and_then(|()| fs::write(&whole, text))
            .and_then(|()| fs::rename(&whole, &self.path))
            .with_context(|| format!("write {}", self.path.display()))
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sysctl { key, before, .. } => write!(f, "{} = {before}", key.replace('/', ".")),
            Self::Address(address) => write!(f, "{address} is not on the loopback interface any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn options() -> Options {
        Options {
            interface: "eth0".to_owned(),
            vips: Vec::new(),
            addresses: Vec::new(),
            nodes: Vec::new(),
            gue_port: 6080,
            clamp_mtu: None,
            add_vips: false,
            keep_sysctls: false,
        }
    }

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            index: 2,
            name: name.to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            driver: String::new(),
            kind: None,
            up: true,
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            loopback: false,
        }
    }

    #[test]
    fn without_words_the_interfaces_addresses_end_tunnels_and_those_of_no_network_are_vips() {
        let loopback = interface("lo", &["127.0.0.1", "::1", "203.0.113.10", "2001:db8::10"]);
        let dummy = interface("vips", &["203.0.113.11"]);
        let interfaces = [
            Interface {
                loopback: true,
                ..loopback
            },
            Interface {
                kind: Some("dummy".to_owned()),
                ..dummy
            },
            interface("eth0", &["10.0.2.11", "fe80::1"]),
            interface("eth1", &["10.0.3.11", "169.254.1.1", "fe80::2"]),
        ];
        let wanted = [
            ("10.0.2.11", Roles::TUNNEL),
            ("203.0.113.10", Roles::VIP),
            ("203.0.113.11", Roles::VIP),
            ("2001:db8::10", Roles::VIP),
            ("fe80::1", Roles::TUNNEL),
        ];
        let wanted: BTreeMap<_, _> = wanted.map(|(address, roles)| (ip(address), roles)).into();
        assert_eq!(locals(&options(), &interfaces), wanted);
    }

    #[test]
    fn what_is_named_counts_alone() {
        let interfaces = [interface("eth0", &["10.0.2.11", "203.0.113.9"])];
        let options = Options {
            vips: vec![ip("203.0.113.10"), ip("203.0.113.9")],
            addresses: vec![ip("203.0.113.9")],
            ..options()
        };
        let wanted = [
            ("203.0.113.9", Roles::TUNNEL.and(Roles::VIP)),
            ("203.0.113.10", Roles::VIP),
        ];
        let wanted: BTreeMap<_, _> = wanted.map(|(address, roles)| (ip(address), roles)).into();
        assert_eq!(locals(&options, &interfaces), wanted);
    }

    #[test]
    fn parameters_change_only_where_they_must() {
        let key = |what: &str| format!("net/ipv4/conf/eth0/{what}");
        for (all, own, wanted) in [
            // arp_ignore, arp_announce, rp_filter
            (
                [0, 0, 0],
                [0, 0, 0],
                vec![("arp_ignore", 0, 1), ("arp_announce", 0, 2)],
            ),
            ([0, 0, 1], [1, 2, 0], vec![("rp_filter", 0, 2)]),
            ([0, 0, 0], [1, 2, 1], vec![("rp_filter", 1, 2)]),
            ([1, 2, 2], [0, 0, 1], vec![]),
            ([0, 1, 0], [2, 1, 2], vec![("arp_announce", 1, 2)]),
        ] {
            let read = |wanted: &str| {
                ["all", "eth0"]
                    .iter()
                    .zip([all, own])
                    .flat_map(|(interface, values)| {
                        ["arp_ignore", "arp_announce", "rp_filter"]
                            .iter()
                            .zip(values)
                            .map(move |(what, value)| {
                                (format!("net/ipv4/conf/{interface}/{what}"), value.to_string())
                            })
                    })
                    .find_map(|(key, value)| (key == wanted).then_some(format!("{value}\n")))
            };
            let wanted: Vec<_> = wanted
                .into_iter()
                .map(|(what, before, after): (&str, u32, u32)| {
                    (key(what), before.to_string(), after.to_string())
                })
                .collect();
            assert_eq!(sysctls("eth0", read), wanted, "{all:?} {own:?}");
        }
        assert_eq!(sysctls("eth0", |_| None), []);
    }

    #[test]
    fn the_state_of_another_interface_of_that_number_is_not_ours() {
        let mut state = State::load(&interface("eth0", &[]), 0);
        assert!(state.is_empty());
        state.changes.push(Change::Address(Ipv4Addr::LOCALHOST.into()));
        let text = serde_json::to_string(&state).unwrap();
        let read: State = serde_json::from_str(&text).unwrap();
        assert_eq!((read.changes, read.mac), (state.changes, state.mac));
    }
}
