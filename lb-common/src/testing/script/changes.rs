//! What changes underneath the packets of a script: the configuration, its tables, time and memory.

use super::{Bytes, Player};
use crate::abi::{
    AccessKey, AccessList, AccessRule, AddressRole, ApplicationFlags, ApplicationKey, Forwarding, Ip, Ip4,
    OriginFlags, OriginState, Parity, Port, PortSpan, Rate, RouteKey, SettingsFlags, Slot, Spans, Tag,
    TunnelSource, Vip, VipKey,
};

/// Number of the access list that scripts fill.
const LIST: AccessList = AccessList(7);

impl Player {
    /// The configuration that the script begins with. What a running node never changes in a record is chosen here.
    pub(super) fn prepare(&mut self, bytes: &mut Bytes) -> Option<()> {
        let count = bytes.byte()? % 32;
        for _ in 0..count {
            match bytes.byte()? % 10 {
                kind @ 0..8 => self.set(kind, bytes)?,
                _ => self.set_limits(bytes)?,
            }
        }
        self.settle();
        Some(())
    }

    /// One thing in the configuration of which no outcome depends on the time.
    pub(super) fn set(&mut self, kind: u8, bytes: &mut Bytes) -> Option<()> {
        match kind {
            0..=2 => self.set_forwarding(bytes),
            3 => self.set_hop(bytes),
            4 => self.set_flags(bytes),
            5 => self.set_tunnel_source(bytes),
            6 => self.set_range(bytes),
            7 => self.set_echo(bytes),
            _ => self.repoint(bytes),
        }
    }

    /// A change as userspace makes it.
    pub(super) fn change(&mut self, bytes: &mut Bytes) -> Option<()> {
        match bytes.byte()? % 8 {
            0 | 1 => {
                let state = OriginState(bytes.byte()? % 5);
                self.origin(bytes)?.state = state;
            }
            2 => {
                let choice = bytes.byte()?;
                let hops = self.host.scenario.tables.hops.values_mut();
                hops.into_iter().nth(usize::from(choice >> 1) % 3)?.resolved = u16::from(choice & 1);
            }
            3 => self.turn_generation(),
            4 => self.host.scenario.tables.settings.snat_ports.count = bytes.pick(&[1, 2, 8, 4096, 0])?,
            5 => self.repoint(bytes)?,
            6 => self.set_limits(bytes)?,
            _ => self.set_hop(bytes)?,
        }
        self.settle();
        Some(())
    }

    fn origin(&mut self, bytes: &mut Bytes) -> Option<&mut crate::abi::Origin> {
        let origins = &mut self.host.scenario.tables.origins;
        let index = usize::from(bytes.byte()?) % origins.len().max(1);
        origins.values_mut().nth(index)
    }

    fn set_forwarding(&mut self, bytes: &mut Bytes) -> Option<()> {
        let choice = bytes.byte()?;
        let (port, max) = (bytes.pick(&[6080, 53, 0])?, bytes.pick(&[0, 0, 1, 2])?);
        let origin = self.origin(bytes)?;
        let forwarding = Forwarding(choice % 5);
        // What leaves as it came may be in the tables of the other family too, where nothing else may be.
        if forwarding.is_direct() || !origin.forwarding.is_direct() {
            origin.forwarding = forwarding;
        }
        origin.flags = OriginFlags(u16::from(choice >> 7) * OriginFlags::RESET_WHEN_DOWN);
        origin.gue_port = Port::new(port);
        origin.max_flows = max;
        Some(())
    }

    fn set_hop(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (index, mtu) = (
            usize::from(bytes.byte()?),
            bytes.pick(&[1500u16, 1280, 1400, 576, 9000])?,
        );
        let tags = bytes.pick(&[
            [[0; 4], [0; 4]],
            [[0x81, 0, 0, 0x64], [0; 4]],
            [[0x88, 0xa8, 0, 0x64], [0x81, 0, 0x21, 0x23]],
        ])?;
        let hops = &mut self.host.scenario.tables.hops;
        let count = hops.len().max(1);
        let hop = hops.values_mut().nth(index % count)?;
        hop.mtu = mtu;
        hop.tags = tags.map(|tag| Tag(u32::from_ne_bytes(tag)));
        Some(())
    }

    fn set_flags(&mut self, bytes: &mut Bytes) -> Option<()> {
        let chosen = SettingsFlags::PARTIAL_CHECKSUMS | SettingsFlags::NO_XDP_TX | SettingsFlags::MIGRATING;
        let settings = &mut self.host.scenario.tables.settings;
        let byte = u32::from(bytes.byte()?);
        settings.flags.0 = settings.flags.0 & !chosen | byte & chosen;
        settings.max_direct = byte >> 6;
        Some(())
    }

    fn set_tunnel_source(&mut self, bytes: &mut Bytes) -> Option<()> {
        let mask = u32::from(bytes.byte()?).to_be();
        self.host.scenario.tables.settings.tunnel_source = TunnelSource {
            prefix6: crate::abi::Ip6([0x2001_0db8_u32.to_be(), 0, 0, 0]),
            prefix4: Ip4::from(core::net::Ipv4Addr::new(100, 64, 0, 0)).0,
            mask4: mask,
            mask6: mask,
            reserved: 0,
        };
        Some(())
    }

    /// Makes a range of an application with a single port.
    fn set_range(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (choice, length) = (usize::from(bytes.byte()?), u16::from(bytes.byte()?));
        let tables = &mut self.host.scenario.tables;
        let count = tables.applications.len().max(1);
        let (key, application) = tables.applications.iter_mut().nth(choice % count)?;
        let first = key.port.host();
        let last = first.saturating_add(length);
        application.first_port = key.port;
        // Ranges of one address are disjoint: one of each protocol here.
        let index = tables.spans.keys().next_back().map_or(0, |last| last + 1);
        let vip = VipKey {
            address: key.address,
            parity: key.parity,
            ..VipKey::default()
        };
        let row: &mut Vip = tables.vips.entry(vip).or_default();
        let spans = if key.protocol == crate::abi::Protocol::TCP {
            &mut row.tcp
        } else {
            &mut row.udp
        };
        *spans = Spans {
            base: index,
            count: 1,
        };
        let span = PortSpan {
            first,
            last,
            ..PortSpan::default()
        };
        tables.spans.insert(index, span);
        tables.settings.flags.0 |= SettingsFlags::RANGES;
        Some(())
    }

    fn set_echo(&mut self, bytes: &mut Bytes) -> Option<()> {
        let choice = bytes.byte()?;
        let tables = &mut self.host.scenario.tables;
        let addresses: Vec<(Ip, Parity)> = tables
            .applications
            .keys()
            .map(|key| (key.address, key.parity))
            .collect();
        let (address, parity) = *addresses.get(usize::from(choice >> 1) % addresses.len().max(1))?;
        let key = VipKey {
            address,
            parity,
            ..VipKey::default()
        };
        tables.vips.entry(key).or_default().echo = u32::from(choice & 1);
        Some(())
    }

    /// Who may open flows, how many, and where they stay.
    fn set_limits(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (choice, what) = (usize::from(bytes.byte()?), bytes.byte()?);
        let tables = &mut self.host.scenario.tables;
        let count = tables.applications.len().max(1);
        let application = tables.applications.values_mut().nth(choice % count)?;
        let rate = Rate(bytes.pick(&[0, 1 << 32, 250 << 32, 1 << 60, u64::MAX])?);
        match what % 7 {
            0 => application.rate = rate,
            1 => application.source_rate = rate,
            2 => application.affinity_ttl = bytes.pick(&[0, 1, 1_000, u32::MAX])?,
            3 => application.affinity_epoch = application.affinity_epoch.wrapping_add(1),
            4 => application.access = bytes.pick(&[LIST, AccessList::NONE])?,
            5 => application.flags.0 ^= ApplicationFlags::ROUTES,
            _ => {
                let length = 32 + u32::from(bytes.byte()? % 129);
                let address = bytes.pick(&[
                    Ip::from(Ip4::from(core::net::Ipv4Addr::new(198, 51, 100, 1))),
                    Ip([0; 4]),
                ])?;
                let key = AccessKey {
                    list: LIST.0.to_be(),
                    address,
                };
                let rule = bytes.pick(&[AccessRule::ALLOW, AccessRule::DENY, AccessRule::NEUTRAL])?;
                tables.access.insert((length, key), rule);
            }
        }
        Some(())
    }

    /// Gives slots of tables to another origin, as steering does.
    fn repoint(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (index, every) = (usize::from(bytes.byte()?), 1 + usize::from(bytes.byte()? % 4));
        let (kind, which) = (usize::from(bytes.byte()? % 4), usize::from(bytes.byte()?));
        let tables = &mut self.host.scenario.tables;
        let count = tables.origins.len().max(1);
        let (id, origin) = tables.origins.iter().nth(index % count)?;
        let v4 = origin.address.v4().is_some();
        // Only what leaves as it came can serve the other family.
        if v4 != (kind % 2 == 0) && !origin.forwarding.is_direct() {
            return Some(());
        }
        let pools = tables.pools.len().max(1);
        let table = tables.pools.values().nth(which % pools)?.tables[kind];
        let slot = Slot {
            owner: id.0,
            alternate: id.0,
        };
        for index in (table.base..table.base + table.size).step_by(every) {
            tables.slots.insert(index, slot);
        }
        Some(())
    }

    /// The live tables come to stand in the other copy.
    fn turn_generation(&mut self) {
        let tables = &mut self.host.scenario.tables;
        let after = Parity::of(tables.settings.generation).other();
        tables.settings.generation = tables.settings.generation.wrapping_add(1).max(1);
        // 0 would mean that nothing was written; the parity is what counts.
        if Parity::of(tables.settings.generation) != after {
            tables.settings.generation += 1;
        }
        let applications = std::mem::take(&mut tables.applications).into_iter();
        tables.applications = applications
            .map(|(key, row)| (ApplicationKey { parity: after, ..key }, row))
            .collect();
        let routes = std::mem::take(&mut tables.routes).into_iter();
        tables.routes = routes
            .map(|(key, row)| (RouteKey { parity: after, ..key }, row))
            .collect();
        let vips = std::mem::take(&mut tables.vips).into_iter();
        tables.vips = vips
            .map(|(key, row)| (VipKey { parity: after, ..key }, row))
            .collect();
        let pools = std::mem::take(&mut tables.pools).into_iter();
        tables.pools = pools.map(|(row, pool)| (row ^ 1, pool)).collect();
    }

    /// What follows from the rest, as the compiler of tables would have it.
    pub(super) fn settle(&mut self) {
        let tables = &mut self.host.scenario.tables;
        let hops = tables.hops.values().map(|hop| u32::from(hop.mtu));
        let all = hops.chain(tables.interfaces.values().map(|interface| interface.mtu));
        tables.settings.smallest_mtu = all.min().unwrap_or(0);
        let origins = tables.origins.values();
        for origin in origins.filter(|origin| origin.forwarding == Forwarding::DNAT) {
            tables.settings.flags.0 |= SettingsFlags::DNAT;
            let key = VipKey {
                address: origin.address,
                parity: Parity::of(tables.settings.generation),
                ..VipKey::default()
            };
            let answers = Vip {
                role: AddressRole::ORIGIN,
                ..Vip::default()
            };
            tables.vips.entry(key).or_insert(answers);
        }
    }

    pub(super) fn pass_time(&mut self, bytes: &mut Bytes) -> Option<()> {
        // Timeouts of the scenario are of the order of 200,000 jiffies.
        let by = match bytes.byte()? {
            exponent @ 0..32 => 1 << exponent,
            _ => u32::from(bytes.word()?) << 4,
        };
        self.host.now = self.host.now.wrapping_add(by);
        Some(())
    }

    /// The kernel evicts tentative flows, and the daemon sweeps established ones.
    pub(super) fn forget(&mut self, bytes: &mut Bytes) -> Option<()> {
        let (choice, every) = (bytes.byte()?, 1 + usize::from(bytes.byte()? % 4));
        let tables = &self.host.scenario.tables;
        let mut number = 0;
        let mut keep = || {
            number += 1;
            number % every != 0
        };
        match choice % 5 {
            0 => tables.tentative4.borrow_mut().retain(|_, _| keep()),
            1 => tables.tentative6.borrow_mut().retain(|_, _| keep()),
            2 => tables.begin_filter(),
            3 => tables.end_filter(),
            _ => {
                tables.fragments.borrow_mut().retain(|_, _| keep());
                tables.affinity.borrow_mut().retain(|_, _| keep());
                tables.source_rates.borrow_mut().retain(|_, _| keep());
            }
        }
        Some(())
    }
}
