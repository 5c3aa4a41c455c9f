//! The records that all generations share: origins, next hops and source addresses. Each write takes effect on the next
//! packet, so nothing is ever written that another record's meaning depends on: hops and source addresses come before
//! the origins that name them, and a row gets a new meaning only after nobody names it any more and a grace period.

use super::hops::{Hops, Via};
use super::sources::Sources;
use super::{Adopted, Path};
use crate::image::{Capacity, TableOp};
use crate::model;
use crate::steering::Family;
use core::net::IpAddr;
use lb_common::abi::{AddressRole, Forwarding, HopId, Ip, Origin, OriginFlags, OriginId, OriginState, Port};
use std::collections::{BTreeMap, BTreeSet};

/// How the watched addresses are reached; `None`: nobody has said so yet.
pub type Paths = Option<BTreeMap<IpAddr, Path>>;

/// An origin's record as the configuration and health want it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub id: OriginId,
    pub identity: u64,
    pub address: IpAddr,
    pub port: Option<u16>,
    pub state: OriginState,
    pub flags: OriginFlags,
    /// 0: any number.
    pub max_flows: u32,
    pub forwarding: model::Forwarding,
}

/// `forwarding` as a record holds it: the mode, and the UDP port of `dsr_gue`.
pub fn forwarding(forwarding: model::Forwarding) -> (Forwarding, Port) {
    match forwarding {
        model::Forwarding::Nat => (Forwarding::NAT, Port::default()),
        model::Forwarding::Dnat => (Forwarding::DNAT, Port::default()),
        model::Forwarding::DsrL2 => (Forwarding::DSR_L2, Port::default()),
        model::Forwarding::DsrIpip => (Forwarding::DSR_IPIP, Port::default()),
        model::Forwarding::DsrGue { port } => (Forwarding::DSR_GUE, Port::new(port)),
    }
}

#[derive(Clone, Debug)]
pub struct Records {
    origins: BTreeMap<OriginId, Origin>,
    problems: BTreeMap<OriginId, String>,
    hops: Hops,
    sources: Sources,
}

impl Records {
    pub fn new(capacity: &Capacity, adopted: Option<&Adopted>) -> Self {
        let mut records = Self {
            origins: BTreeMap::new(),
            problems: BTreeMap::new(),
            hops: Hops::new(capacity.hops),
            sources: Sources::new(capacity.snat_addresses),
        };
        if let Some(adopted) = adopted {
            records.origins = adopted
                .origins
                .iter()
                .filter(|(id, _)| *id != OriginId::NONE)
                .copied()
                .collect();
            records.hops.adopt(&adopted.hops, records.origins.values());
            records
                .sources
                .adopt(&adopted.snat_addresses, records.origins.values());
        }
        records
    }

    /// Why packets cannot reach the origin.
    pub fn problem(&self, id: OriginId) -> Option<&String> {
        self.problems.get(&id)
    }

    /// The state that the record of the origin with this identity has.
    pub fn state_of(&self, id: OriginId, identity: u64) -> Option<OriginState> {
        let record = self.origins.get(&id);
        record
            .filter(|record| record.identity == identity)
            .map(|record| record.state)
    }

    /// The identity that the origin's record has.
    pub fn identity(&self, id: OriginId) -> Option<u64> {
        self.origins.get(&id).map(|record| record.identity)
    }

    /// The address that the origin's record has.
    pub fn address(&self, id: OriginId) -> Option<IpAddr> {
        self.origins.get(&id).map(|record| record.address.into())
    }

    /// Changes nothing but an origin's state.
    pub fn set_state(&mut self, id: OriginId, state: OriginState, ops: &mut Vec<TableOp>) {
        if let Some(flags) = self.origins.get(&id).map(|record| record.flags) {
            self.set_health(id, state, flags, ops);
        }
    }

    /// Changes nothing but what follows from an origin's health.
    pub fn set_health(
        &mut self,
        id: OriginId,
        state: OriginState,
        flags: OriginFlags,
        ops: &mut Vec<TableOp>,
    ) {
        if let Some(record) = self.origins.get_mut(&id)
            && (record.state, record.flags) != (state, flags)
        {
            (record.state, record.flags) = (state, flags);
            ops.push(TableOp::Origin { id, record: *record });
        }
    }

    /// Brings the records of `wanted` origins, and of `retired` ones, in line with how they are reached. A change of state
    /// that ends an origin's service goes to `late`.
    pub fn update(
        &mut self,
        wanted: &[Wanted],
        retired: &[(OriginId, OriginState)],
        paths: &Paths,
        datapath: &model::Datapath,
        ops: &mut Vec<TableOp>,
        late: &mut Vec<TableOp>,
    ) {
        let pass = Pass {
            wanted,
            retired,
            paths,
            datapath,
        };
        let mut ending = BTreeMap::new();
        if self.pass(&pass, ops, &mut ending) == Room::Short {
            // The first pass has let go of rows that nobody names any more.
            let _ = self.pass(&pass, ops, &mut ending);
        }
        late.extend(ending.into_keys().filter_map(|id| {
            let record = *self.origins.get(&id)?;
            Some(TableOp::Origin { id, record })
        }));
    }

    /// Forgets an origin that no flow means any more.
    pub fn clear(&mut self, id: OriginId, ops: &mut Vec<TableOp>) {
        if self.origins.remove(&id).is_some() {
            ops.push(TableOp::ForgetOrigin { id });
        }
    }

    /// The smallest MTU of the next hops.
    pub fn smallest_mtu(&self) -> Option<u32> {
        self.hops.smallest_mtu()
    }

    /// Whether packets reach an origin, also one that is gone and may still have flows, that way.
    pub fn forwards_by(&self, forwarding: Forwarding) -> bool {
        self.origins
            .values()
            .any(|record| record.identity != 0 && record.forwarding == forwarding)
    }

    /// Addresses that answers of origins come to or from, also of origins that are gone and may still have flows.
    pub fn roles(&self) -> BTreeMap<Ip, AddressRole> {
        let mut roles = BTreeMap::new();
        let mut runs = BTreeSet::new();
        for record in self.origins.values().filter(|record| record.identity != 0) {
            match record.forwarding {
                Forwarding::NAT => {
                    runs.insert((record.snat_base, record.snat_count));
                }
                Forwarding::DNAT => {
                    roles.insert(record.address, AddressRole::ORIGIN);
                }
                _ => {}
            }
        }
        for (base, count) in runs {
            let run = self.sources.addresses.range(base..base.saturating_add(count));
            roles.extend(run.map(|(_, address)| (*address, AddressRole::SOURCE)));
        }
        roles
    }

    /// Everything that the rows should hold.
    pub fn image(&self, ops: &mut Vec<TableOp>) {
        ops.extend(self.hops.records.iter().map(|(id, record)| TableOp::Hop {
            id: *id,
            record: *record,
        }));
        let addresses = self.sources.addresses.iter();
        ops.extend(addresses.map(|(index, address)| TableOp::SnatAddress {
            index: *index,
            address: *address,
        }));
        ops.extend(self.origins.iter().map(|(id, record)| TableOp::Origin {
            id: *id,
            record: *record,
        }));
    }

    fn pass(&mut self, pass: &Pass<'_>, ops: &mut Vec<TableOp>, ending: &mut Ending) -> Room {
        let mut room = Room::Enough;
        self.problems.clear();
        for origin in pass.wanted {
            let known = self
                .origins
                .get(&origin.id)
                .filter(|record| record.identity == origin.identity)
                .copied();
            let (mode, gue_port) = forwarding(origin.forwarding);
            let reach = self.reach(origin.address, mode, known.as_ref(), pass, ops);
            if reach.room == Room::Short {
                room = Room::Short;
            }
            if let Some(problem) = reach.problem {
                self.problems.insert(origin.id, problem);
            }
            let record = Origin {
                address: origin.address.into(),
                identity: origin.identity,
                snat_base: reach.sources.0,
                snat_count: reach.sources.1,
                hop: reach.hop,
                port: origin.port.map_or(Port::default(), Port::new),
                state: origin.state,
                flags: origin.flags,
                max_flows: origin.max_flows,
                forwarding: mode,
                gue_port,
            };
            self.write(origin.id, record, ops, ending);
        }
        for (id, state) in pass.retired {
            let Some(known) = self.origins.get(id).copied() else {
                continue;
            };
            let reach = self.reach(known.address.into(), known.forwarding, Some(&known), pass, ops);
            // Tracked flows keep the source address they have, and nobody new comes.
            self.write(
                *id,
                Origin {
                    hop: reach.hop,
                    state: *state,
                    ..known
                },
                ops,
                ending,
            );
        }
        // While the paths are not known, adopted records keep hops of which only the number is known.
        if pass.paths.is_some() {
            let named: BTreeSet<HopId> = self.origins.values().map(|record| record.hop).collect();
            self.hops.retain(&named);
        }
        room
    }

    /// Writes a record, but not yet that it ends the origin's service.
    fn write(&mut self, id: OriginId, record: Origin, ops: &mut Vec<TableOp>, ending: &mut Ending) {
        let former = self.origins.insert(id, record).unwrap_or_default();
        let ends = former.identity == record.identity && serves(former.state) && !serves(record.state);
        if ends {
            ending.insert(id, former.state);
        }
        let held = ending.get(&id);
        let in_state = |record: Origin| Origin {
            state: held.copied().unwrap_or(record.state),
            ..record
        };
        let (former, record) = (in_state(former), in_state(record));
        if former != record {
            ops.push(TableOp::Origin { id, record });
        }
    }

    fn reach(
        &mut self,
        address: IpAddr,
        forwarding: Forwarding,
        known: Option<&Origin>,
        pass: &Pass<'_>,
        ops: &mut Vec<TableOp>,
    ) -> Reach {
        let sources = known.map_or((0, 0), |record| (record.snat_base, record.snat_count));
        let unreachable = |problem: String| Reach {
            hop: HopId::UNRESOLVED,
            sources,
            problem: Some(problem),
            room: Room::Enough,
        };
        let full = |problem: &str| Reach {
            room: Room::Short,
            ..unreachable(problem.to_owned())
        };
        let Some(paths) = pass.paths else {
            return match known {
                Some(record) => Reach {
                    hop: record.hop,
                    sources,
                    problem: None,
                    room: Room::Enough,
                },
                None => unreachable("how it is reached is not known yet".to_owned()),
            };
        };
        let via = match paths.get(&address) {
            None => return unreachable("no route to it through an attached interface".to_owned()),
            Some(Path::Unusable(why)) => return unreachable(why.clone()),
            Some(Path::Via {
                ifindex,
                tags,
                next_hop,
                neighbour,
                interface_mac,
                mtu,
                sources,
            }) => Via {
                ifindex: *ifindex,
                tags: *tags,
                next_hop: *next_hop,
                neighbour: *neighbour,
                interface: *interface_mac,
                mtu: *mtu,
                sources,
            },
        };
        if forwarding == Forwarding::DSR_L2 && via.next_hop != address {
            // The router would send a packet to the VIP back to where VIPs lead: here.
            return unreachable(format!(
                "dsr_l2 needs it on a network of this node, and the way there leads through {}: use dsr_ipip or dsr_gue",
                via.next_hop
            ));
        }
        let family = Family::of(address);
        let prefix = match family {
            Family::V4 => pass.datapath.tunnel_source.v4,
            Family::V6 => pass.datapath.tunnel_source.v6,
        };
        let needs_source = forwarding == Forwarding::NAT || forwarding.is_tunnel() && prefix.is_none();
        let of_family = |source: &&IpAddr| Family::of(**source) == family;
        let mut list: Vec<Ip> = pass
            .datapath
            .snat_addresses
            .iter()
            .filter(of_family)
            .map(|source| Ip::from(*source))
            .collect();
        if list.is_empty() {
            list.extend(via.sources.iter().find(of_family).map(|first| Ip::from(*first)));
        }
        if list.is_empty() && needs_source {
            return unreachable(format!(
                "interface {} has no address of its family to send from: set datapath.snat_addresses",
                via.ifindex
            ));
        }
        let sources = match needs_source {
            true => self.sources.place(&list, &self.origins, ops),
            false => Some((0, 0)),
        };
        let Some(sources) = sources else {
            return full("the table of source addresses is full");
        };
        let Some(hop) = self.hops.place(&via, ops) else {
            return full("the table of next hops is full");
        };
        let problem = via.neighbour.is_none().then(|| {
            format!(
                "neighbour {} on interface {} does not answer",
                via.next_hop, via.ifindex
            )
        });
        Reach {
            hop,
            sources,
            problem,
            room: Room::Enough,
        }
    }
}

/// Origins whose service ends, with the state that they keep until then.
type Ending = BTreeMap<OriginId, OriginState>;

/// Whether an origin in that state gets new flows, in some role.
fn serves(state: OriginState) -> bool {
    matches!(state, OriginState::UP | OriginState::DOWN)
}

/// What an update goes by.
struct Pass<'a> {
    wanted: &'a [Wanted],
    retired: &'a [(OriginId, OriginState)],
    paths: &'a Paths,
    datapath: &'a model::Datapath,
}

/// Whether every row that was wanted could be had.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Enough,
    Short,
}

struct Reach {
    hop: HopId,
    /// Base and count.
    sources: (u32, u32),
    problem: Option<String>,
    room: Room,
}
