//! Which flows would get another origin by another configuration.
//!
//! Both configurations are put into force in engines of their own, with every enabled origin up, and what their tables
//! give each flow is compared: by the slots, so the shares are exact. The hash of a flow enters a table of pools and the
//! tables of origins by different bits, and that of a client is another one than that of its flow, so shares of what is
//! entered by different hashes multiply.

use super::layout::{Layout, RouteDesign};
use super::plan::Plan;
use super::routing::PoolListDesign;
use super::{Engine, Environment, Kept, NameRecord, State};
use crate::model::{Config, Forwarding};
use crate::steering::Family;
use crate::time::Timestamp;
use core::net::{IpAddr, SocketAddr};
use lb_common::abi::{Country, HashKey, PoolFlags, PoolId, PortRange, SettingsFlags, Steering, TableKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What becomes of an application's flows of one family.
#[derive(Clone, PartialEq, Debug)]
pub struct Move {
    pub application: String,
    pub family: Family,
    /// Of clients of a country that has pools of its own in either configuration; `None`: of all others.
    pub country: Option<Country>,
    /// The share of flows, 0 to 1, that would get another origin, or nobody instead of somebody, or the reverse. What is
    /// bound to an origin already, by a connection or by affinity, stays with it as long as it is there.
    pub moved: f64,
    /// Of each origin that has a share in either configuration, in the order of the second one; those that are gone last.
    pub shares: Vec<Shift>,
}

/// An origin's share of an application's flows in both configurations.
#[derive(Clone, PartialEq, Debug)]
pub struct Shift {
    /// `POOL/ORIGIN`.
    pub origin: String,
    pub before: Share,
    pub after: Share,
}

/// A share of flows, 0 to 1.
pub type Share = f64;

/// Compares two configurations; told is what becomes of applications that are served in either and of which a share
/// differs. Of host names those addresses count that are known, see [`Engine::known_names`].
///
/// # Errors
/// Why one of them cannot come into force on any machine.
pub fn moves(before: &Arc<Config>, after: &Arc<Config>, names: &[NameRecord]) -> Result<Vec<Move>, String> {
    let (before, after) = (Destinations::of(before, names)?, Destinations::of(after, names)?);
    let mut comparison = Comparison {
        before: &before,
        after: &after,
        tables: BTreeMap::new(),
    };
    let mut moves = Vec::new();
    let gone = before
        .order
        .iter()
        .filter(|key| !after.listeners.contains_key(key));
    for key in after.order.iter().chain(gone) {
        let (old, new) = (before.listener(key), after.listener(key));
        let moved = comparison.moved(old, new);
        let shares = shifts(&before.shares(old), &after.shares(new));
        if moved > 0.0 || shares.iter().any(|shift| shift.before != shift.after) {
            moves.push(Move {
                application: key.0.clone(),
                family: key.1,
                country: key.2,
                moved,
                shares,
            });
        }
    }
    Ok(moves)
}

impl Engine {
    /// The addresses of host names that are in use.
    #[must_use]
    pub fn known_names(&self) -> Vec<NameRecord> {
        self.state.names.records()
    }
}

/// An application by its name, a family of its addresses, and a country of clients.
type Key = (String, Family, Option<Country>);

/// Which hash enters a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Flow,
    Client,
}

/// Rows that are entered by a hash; their number is a power of two, or 0.
#[derive(Clone, Debug)]
struct Entered {
    entry: Entry,
    rows: Vec<u32>,
}

/// What a configuration gives to flows.
struct Destinations {
    /// By kind and pool of the plan; rows are indexes into `origins`.
    tables: BTreeMap<(usize, usize), Entered>,
    origins: Vec<Origin>,
    order: Vec<Key>,
    listeners: BTreeMap<Key, Listener>,
}

struct Origin {
    /// `POOL/ORIGIN`.
    name: String,
    address: IpAddr,
    port: Option<u16>,
    forwarding: Forwarding,
}

/// Where a listener's flows go.
struct Listener {
    /// Rows are indexes into `tables`.
    pools: Entered,
    /// Of tables of origins, by index: their key in [`Destinations::tables`]; `None`: nobody.
    tables: Vec<Option<(usize, usize)>>,
    entrance: Entrance,
}

/// What an application says about all its flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entrance {
    /// Whether the client's hash stands for that of the flow.
    by_client: bool,
    /// At origins that name none.
    port: u16,
}

/// The end of a flow's way.
type End = (SocketAddr, Forwarding);

impl Destinations {
    fn of(config: &Arc<Config>, names: &[NameRecord]) -> Result<Self, String> {
        let mut engine = Engine::new(environment(config, names), Timestamp::default());
        let mut commands = Vec::new();
        engine
            .state
            .configure(
                &engine.setup,
                Arc::clone(config),
                Timestamp::default(),
                &mut commands,
            )
            .map_err(|refusal| refusal.to_string())?;
        let Engine { setup, state } = engine;
        let (listeners, routes) = state.listeners(&setup, config);
        let names: BTreeMap<u32, &str> = state
            .plan
            .applications
            .iter()
            .zip(&config.applications)
            .map(|(planned, application)| (planned.id, application.name.as_str()))
            .collect();
        let (mut origins, mut numbers) = (Vec::new(), BTreeMap::new());
        for (pool, origin) in state.plan.origins() {
            numbers.insert(origin.id.0, u32::try_from(origins.len()).unwrap_or(u32::MAX));
            origins.push(Origin {
                name: format!("{}/{}", pool.name, origin.name),
                address: origin.address,
                port: origin.port,
                forwarding: origin.forwarding,
            });
        }
        let mut destinations = Self {
            tables: BTreeMap::new(),
            origins,
            order: Vec::new(),
            listeners: BTreeMap::new(),
        };
        let mut entrances = Vec::new();
        for design in &listeners {
            let family = Family::of(IpAddr::from(design.address));
            let entrance = Entrance {
                by_client: design.affinity_ttl != 0,
                port: design.origin_port.host(),
            };
            let name = names.get(&design.application).copied().unwrap_or_default();
            let key = (name.to_owned(), family, None);
            // All addresses of a family lead to the same.
            if !destinations.listeners.contains_key(&key) {
                destinations.add(&state, &numbers, key, &design.pools, entrance);
                entrances.push((name, design.routes, family, entrance));
            }
        }
        // Sets of routes are shared: each application that has one gets all of it.
        let mut sets: BTreeMap<(u32, Family), Vec<&RouteDesign>> = BTreeMap::new();
        for design in &routes {
            sets.entry((design.set, design.family)).or_default().push(design);
        }
        for (name, set, family, entrance) in entrances {
            for design in sets.get(&(set, family)).into_iter().flatten() {
                let key = (name.to_owned(), family, Some(design.country));
                destinations.add(&state, &numbers, key, &design.pools, entrance);
            }
        }
        Ok(destinations)
    }

    /// Takes in where some flows go, and the tables of those pools. `numbers`: of origins, by id.
    fn add(
        &mut self,
        state: &State,
        numbers: &BTreeMap<u32, u32>,
        key: Key,
        pools: &PoolListDesign,
        entrance: Entrance,
    ) {
        let listener = Listener::new(pools, &state.plan, key.1, entrance);
        let number = |owner: u32| numbers.get(&owner).copied().unwrap_or(u32::MAX);
        for &(kind, pool) in listener.tables.iter().flatten() {
            self.tables.entry((kind, pool)).or_insert_with(|| {
                let design = &state.designs[pool];
                let rows = design.tables[kind].as_deref().map(Layout::build);
                Entered {
                    entry: match design.flags.has(PoolFlags::BY_CLIENT) {
                        true => Entry::Client,
                        false => Entry::Flow,
                    },
                    rows: rows.into_iter().flatten().map(number).collect(),
                }
            });
        }
        self.order.push(key.clone());
        self.listeners.insert(key, listener);
    }

    /// Where the flows of a key go; those of a country without pools of its own like all others.
    fn listener(&self, key: &Key) -> Option<&Listener> {
        let others = || self.listeners.get(&(key.0.clone(), key.1, None));
        self.listeners.get(key).or_else(others)
    }

    /// The rows of a listener's table; none when nobody is there.
    fn table(&self, listener: Option<&Listener>, index: u32) -> Option<&Entered> {
        let key = (*listener?.tables.get(index as usize)?)?;
        self.tables.get(&key).filter(|table| !table.rows.is_empty())
    }

    fn end(&self, listener: &Listener, row: u32) -> Option<End> {
        let origin = self.origins.get(row as usize)?;
        let port = origin.port.unwrap_or(listener.entrance.port);
        Some((SocketAddr::new(origin.address, port), origin.forwarding))
    }

    /// Each origin's share of a listener's flows, in the order of the configuration.
    fn shares(&self, listener: Option<&Listener>) -> Vec<(&str, Share)> {
        let mut shares: BTreeMap<u32, Share> = BTreeMap::new();
        let pools = listener.map_or(&[][..], |listener| listener.pools.rows.as_slice());
        for (index, count) in counted(pools) {
            let share = count as f64 / pools.len() as f64;
            let Some(table) = self.table(listener, index) else {
                continue;
            };
            for (row, count) in counted(&table.rows) {
                *shares.entry(row).or_default() += share * count as f64 / table.rows.len() as f64;
            }
        }
        let mut named: Vec<(&str, Share)> = Vec::new();
        for (row, share) in shares {
            let Some(origin) = self.origins.get(row as usize) else {
                continue;
            };
            match named.last_mut() {
                // The addresses of a host name stand side by side.
                Some((name, sum)) if *name == origin.name => *sum += share,
                _ => named.push((&origin.name, share)),
            }
        }
        named
    }
}

impl Listener {
    fn new(design: &PoolListDesign, plan: &Plan, family: Family, entrance: Entrance) -> Self {
        let (steered, last_resort) = match family {
            Family::V4 => (TableKind::Steered4, TableKind::LastResort4),
            Family::V6 => (TableKind::Steered6, TableKind::LastResort6),
        };
        let index = |id: u32| plan.pools.iter().position(|pool| pool.id == PoolId(id));
        let mut owners = match design.layout.as_deref() {
            Some(layout) => layout.build(),
            None => vec![PoolId::NONE.0],
        };
        if design.steering == Steering::ORDERED {
            // With every origin up the first one takes everything.
            owners.truncate(1);
        }
        let distinct: BTreeSet<u32> = owners.iter().copied().collect();
        let distinct: Vec<u32> = distinct.into_iter().collect();
        let tables = distinct.iter().map(|&owner| match owner {
            owner if owner == PoolId::NONE.0 => {
                let pool = (design.fallback != PoolId::NONE).then(|| index(design.fallback.0));
                Some((last_resort as usize, pool.flatten()?))
            }
            owner => Some((steered as usize, index(owner)?)),
        });
        let row = |owner: &u32| distinct.binary_search(owner).unwrap_or_default();
        let rows = owners
            .iter()
            .map(|owner| u32::try_from(row(owner)).unwrap_or(u32::MAX));
        Self {
            pools: Entered {
                entry: match design.steering == Steering::WEIGHTED_BY_CLIENT {
                    true => Entry::Client,
                    false => Entry::Flow,
                },
                rows: rows.collect(),
            },
            tables: tables.collect(),
            entrance,
        }
    }

    /// The hash that enters one of the listener's tables.
    fn entry(&self, table: &Entered) -> Entry {
        match self.entrance.by_client {
            true => Entry::Client,
            false => table.entry,
        }
    }
}

/// Two configurations side by side.
struct Comparison<'d> {
    before: &'d Destinations,
    after: &'d Destinations,
    /// Moved shares that are known: many applications lead to the same pools.
    tables: BTreeMap<TablePair, f64>,
}

/// Two tables of origins, and how they are entered.
type TablePair = [((usize, usize), Entrance); 2];

impl Comparison<'_> {
    /// The share of flows that get another origin.
    fn moved(&mut self, before: Option<&Listener>, after: Option<&Listener>) -> f64 {
        let (Some(old), Some(new)) = (before, after) else {
            let served = |destinations: &Destinations, listener: Option<&Listener>| {
                destinations
                    .shares(listener)
                    .iter()
                    .map(|(_, share)| share)
                    .sum::<f64>()
            };
            return served(self.before, before) + served(self.after, after);
        };
        let same = old.entry(&old.pools) == new.entry(&new.pools);
        let mut moved = 0.0;
        for ((a, b), share) in pairs(&old.pools.rows, &new.pools.rows, same) {
            moved += share * self.moved_within(old, a, new, b);
        }
        moved
    }

    fn moved_within(&mut self, old: &Listener, a: u32, new: &Listener, b: u32) -> f64 {
        let (before, after) = (self.before, self.after);
        let (x, y) = match (before.table(Some(old), a), after.table(Some(new), b)) {
            (None, None) => return 0.0,
            (Some(_), None) | (None, Some(_)) => return 1.0,
            (Some(x), Some(y)) => (x, y),
        };
        let key = |listener: &Listener, index: u32| {
            let table = listener.tables.get(index as usize).copied().flatten();
            Some((table?, listener.entrance))
        };
        let known = key(old, a).zip(key(new, b)).map(|(a, b)| [a, b]);
        if let Some(share) = known.and_then(|known| self.tables.get(&known)) {
            return *share;
        }
        let same = old.entry(x) == new.entry(y);
        let moved = pairs(&x.rows, &y.rows, same)
            .into_iter()
            .filter(|((a, b), _)| before.end(old, *a) != after.end(new, *b))
            .map(|(_, share)| share)
            .sum();
        if let Some(known) = known {
            self.tables.insert(known, moved);
        }
        moved
    }
}

/// How often each value occurs.
fn counted(rows: &[u32]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(*row).or_default() += 1;
    }
    counts
}

/// The values that two tables give, and the share of hashes that get each pair; `same`: one hash enters both.
fn pairs(a: &[u32], b: &[u32], same: bool) -> BTreeMap<(u32, u32), f64> {
    let size = a.len().max(b.len());
    let mut pairs: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    if same || a.len().min(b.len()) == 1 {
        let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        // Sizes are powers of two, of which the packet path takes the lower bits.
        for index in 0..size {
            *counts
                .entry((a[index & (a.len() - 1)], b[index & (b.len() - 1)]))
                .or_default() += 1;
        }
        pairs.extend(
            counts
                .into_iter()
                .map(|(pair, count)| (pair, count as f64 / size as f64)),
        );
    } else {
        let (first, second) = (counted(a), counted(b));
        for (x, times) in &first {
            for (y, others) in &second {
                let share = *times as f64 / a.len() as f64 * *others as f64 / b.len() as f64;
                pairs.insert((*x, *y), share);
            }
        }
    }
    pairs
}

fn shifts(before: &[(&str, Share)], after: &[(&str, Share)]) -> Vec<Shift> {
    let old: BTreeMap<&str, Share> = before.iter().copied().collect();
    let new: BTreeMap<&str, Share> = after.iter().copied().collect();
    let gone = before.iter().filter(|(name, _)| !new.contains_key(name));
    after
        .iter()
        .chain(gone)
        .map(|(name, _)| Shift {
            origin: (*name).to_owned(),
            before: old.get(name).copied().unwrap_or_default(),
            after: new.get(name).copied().unwrap_or_default(),
        })
        .collect()
}

/// A machine with room for the configuration, on which everybody is up.
fn environment(config: &Config, names: &[NameRecord]) -> Environment {
    Environment {
        hz: 1000,
        hash_key: HashKey::default(),
        snat_ports: PortRange::default(),
        flags: SettingsFlags::default(),
        capacity: Engine::required_capacity(config),
        max_flows: config.datapath.max_flows,
        adopted: None,
        kept: Kept {
            names: names.to_vec(),
            ..Kept::default()
        },
        assume_healthy: true,
        seed: 0,
    }
}
