//! Host names of origins: the addresses that each has, and what is wrong with it.
//!
//! A lookup that fails, or whose answer has nothing that an origin could have, changes nothing: what was known before
//! stays in use. Answers are sets: in which order a server lists addresses, and which of too many, moves no flow. An
//! address that an answer no longer has gets new flows until those that come instead of it have been probed: else there
//! would be nobody for that long.

use super::{Command, Engine, Report, State};
use crate::health::{FailureReason, OriginHealth};
use crate::model::{AddressFlaw, Config, Host};
use crate::time::Timestamp;
use crate::view::NameView;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

/// Addresses that one name may have; those that are known already before others.
pub const MAX_ADDRESSES: usize = 64;
/// Refused addresses that are shown of one name.
const MAX_REFUSED: usize = 8;
/// Tables follow names at most this often: with many names something changes all the time.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long an address that has gone waits for its successors to be probed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a lookup has found, family by family. An empty list: there are none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub v4: Result<Vec<Ipv4Addr>, LookupFailure>,
    pub v6: Result<Vec<Ipv6Addr>, LookupFailure>,
}

/// Why a lookup gave no address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LookupFailure {
    /// There is no such name.
    UnknownHost,
    /// The name has no address.
    NoAddress,
    /// All its addresses are such as no origin can have: the first one, and why.
    Refused(IpAddr, String),
    /// No server said anything; carries what went wrong.
    Failed(String),
}

impl LookupFailure {
    /// The same as the reason why an origin without an address is unhealthy.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::UnknownHost | Self::NoAddress => FailureReason::DnsUnknownHost,
            Self::Refused(..) | Self::Failed(_) => FailureReason::DnsFailure(self.to_string()),
        }
    }
}

impl fmt::Display for LookupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownHost => f.write_str("there is no such host"),
            Self::NoAddress => f.write_str("the name has no address"),
            Self::Refused(address, why) => write!(f, "{address} is {why} and cannot be an origin"),
            Self::Failed(words) => f.write_str(words),
        }
    }
}

/// The addresses of a name that outlive the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameRecord {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// All host names of the configuration.
#[derive(Clone, Debug)]
pub struct Names {
    names: BTreeMap<String, Name>,
    /// Of a former daemon, used up as names are asked for.
    records: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Whether the plan is behind.
    stale: bool,
    /// Whether there was no room for the last addresses.
    short: bool,
    followed: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Name {
    /// None of them is one that no origin can have.
    addresses: BTreeSet<IpAddr>,
    /// Gone, and not replaced yet.
    leaving: BTreeSet<IpAddr>,
    leaves_by: Timestamp,
    /// Those that are in the plan.
    planned: BTreeSet<IpAddr>,
    answered: Option<Timestamp>,
    failure: Option<LookupFailure>,
    refused: Vec<(IpAddr, String)>,
    left_out: usize,
}

/// Addresses that no origin with a host name can have, whatever an answer says.
struct Barred<'a> {
    vips: BTreeSet<IpAddr>,
    own: Option<&'a BTreeSet<IpAddr>>,
}

impl<'a> Barred<'a> {
    fn new(config: &Config, own: Option<&'a BTreeSet<IpAddr>>) -> Self {
        let applications = config.applications.iter();
        Self {
            vips: applications
                .flat_map(|application| application.addresses.iter().copied())
                .collect(),
            own,
        }
    }

    fn flaw(&self, address: IpAddr) -> Option<String> {
        if let Some(flaw) = AddressFlaw::of(address) {
            return Some(flaw.to_string());
        }
        if self.vips.contains(&address) {
            return Some("the address of an application".to_owned());
        }
        let own = self.own.is_some_and(|own| own.contains(&address));
        own.then(|| "an address of this node".to_owned())
    }
}

impl Names {
    pub fn new(records: Vec<NameRecord>) -> Self {
        let record = |record: NameRecord| {
            let addresses = record.addresses.into_iter().take(MAX_ADDRESSES);
            (record.name, addresses.collect())
        };
        Self {
            names: BTreeMap::new(),
            records: records.into_iter().map(record).collect(),
            stale: false,
            short: false,
            followed: None,
        }
    }

    /// Makes the names be those of a configuration.
    pub fn follow(&mut self, config: &Config, own: Option<&BTreeSet<IpAddr>>) {
        let barred = Barred::new(config, own);
        let mut former = core::mem::take(&mut self.names);
        for name in config.host_names() {
            let mut known = former.remove(name).unwrap_or_else(|| Name {
                addresses: self.records.remove(name).unwrap_or_default(),
                ..Name::default()
            });
            known.addresses.retain(|address| barred.flaw(*address).is_none());
            known.leaving.retain(|address| barred.flaw(*address).is_none());
            known.planned = known.addresses.union(&known.leaving).copied().collect();
            self.names.insert(name.to_owned(), known);
        }
    }

    /// The names, in order.
    pub fn all(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// The addresses of a host, in order, those included that are still to be replaced; none when nothing is known.
    pub fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let known = self.names.get(name);
                known.map_or_else(Vec::new, |known| {
                    known.addresses.union(&known.leaving).copied().collect()
                })
            }
        }
    }

    /// Why a name has no address; `None` also as long as nobody has looked.
    pub fn failure(&self, name: &str) -> Option<&LookupFailure> {
        self.names.get(name)?.failure.as_ref()
    }

    pub fn views(&self) -> Vec<NameView> {
        let view = |(name, known): (&String, &Name)| NameView {
            name: name.clone(),
            addresses: known.addresses.iter().copied().collect(),
            answered: known.answered,
            failure: known.failure.clone(),
            refused: known.refused.clone(),
            left_out: known.left_out,
        };
        self.names.iter().map(view).collect()
    }

    /// What a next daemon may go on with.
    pub fn records(&self) -> Vec<NameRecord> {
        let record = |(name, known): (&String, &Name)| NameRecord {
            name: name.clone(),
            addresses: known.addresses.union(&known.leaving).copied().collect(),
        };
        let known = self.names.iter().filter(|(_, known)| !known.addresses.is_empty());
        known.map(record).collect()
    }

    /// When the plan is to follow.
    pub fn deadline(&self) -> Option<Timestamp> {
        let followed = self.followed;
        let deadline = followed.map_or(Timestamp::default(), |followed| followed.after(INTERVAL));
        let leaving = self.names.values().filter(|known| !known.leaving.is_empty());
        let leaves = leaving.map(|known| known.leaves_by).min();
        self.stale.then_some(deadline).into_iter().chain(leaves).min()
    }

    /// Takes an answer in; the name's addresses before, if it is known.
    fn take(&mut self, name: &str, answer: Answer, barred: &Barred<'_>, now: Timestamp) -> Option<Name> {
        let known = self.names.get_mut(name)?;
        let before = known.clone();
        match judge(&known.addresses, answer, barred) {
            Ok(judged) => {
                known.addresses = judged.addresses;
                if known.addresses != before.addresses {
                    known.leaving = known.planned.difference(&known.addresses).copied().collect();
                    known.leaves_by = now.after(PATIENCE);
                }
                known.refused = judged.refused;
                known.left_out = judged.left_out;
                known.failure = judged.failure;
                known.answered = Some(now);
            }
            Err(failure) => known.failure = Some(failure),
        }
        self.stale |= known.addresses != before.addresses || self.short;
        Some(before)
    }
}

/// What an answer means.
struct Judged {
    addresses: BTreeSet<IpAddr>,
    refused: Vec<(IpAddr, String)>,
    left_out: usize,
    /// Of one family.
    failure: Option<LookupFailure>,
}

fn judge(known: &BTreeSet<IpAddr>, answer: Answer, barred: &Barred<'_>) -> Result<Judged, LookupFailure> {
    let mut families = [
        answer
            .v4
            .map(|list| list.into_iter().map(IpAddr::from).collect::<BTreeSet<_>>()),
        answer.v6.map(|list| list.into_iter().map(IpAddr::from).collect()),
    ];
    let mut refused = Vec::new();
    for family in families.iter_mut().flatten() {
        family.retain(|address| match barred.flaw(*address) {
            None => true,
            Some(why) => {
                refused.push((*address, why));
                false
            }
        });
    }
    let found = families.iter().flatten().any(|family| !family.is_empty());
    let failure = families.iter().find_map(|family| match family {
        // Some servers deny the name when they mean the family.
        Err(LookupFailure::UnknownHost) if found => None,
        Err(failure) => Some(failure.clone()),
        Ok(_) => None,
    });
    if !found {
        let refused = refused.into_iter().next();
        let refused = refused.map(|(address, why)| LookupFailure::Refused(address, why));
        return Err(refused.or(failure).unwrap_or(LookupFailure::NoAddress));
    }
    let mut addresses = BTreeSet::new();
    for (family, is_v4) in families.into_iter().zip([true, false]) {
        match family {
            Ok(family) => addresses.extend(family),
            Err(LookupFailure::UnknownHost) => {}
            // Of this family nothing new is known.
            Err(_) => addresses.extend(known.iter().filter(|address| address.is_ipv4() == is_v4)),
        }
    }
    let left_out = addresses.len().saturating_sub(MAX_ADDRESSES);
    if left_out > 0 {
        let stay = addresses.intersection(known).copied();
        let come = addresses.difference(known).copied();
        addresses = stay.chain(come).take(MAX_ADDRESSES).collect();
    }
    refused.truncate(MAX_REFUSED);
    Ok(Judged {
        addresses,
        refused,
        left_out,
        failure,
    })
}

impl Engine {
    /// Lets the plan follow the addresses of host names.
    pub(super) fn follow_names(&mut self, now: Timestamp, commands: &mut Vec<Command>) {
        let Some(config) = self.state.config.clone() else {
            return;
        };
        let former = self.state.clone();
        let mut follow = Vec::new();
        match self.state.configure(&self.setup, config, now, &mut follow) {
            Ok(()) => commands.append(&mut follow),
            Err(refusal) => {
                self.state = former;
                self.state.names_followed(now, true);
                commands.push(Command::Report(Report::Refused(format!(
                    "host names have other addresses, and the origins stay where they are: {refusal}"
                ))));
            }
        }
    }
}

impl State {
    /// Takes in what a lookup has found. Tables follow at the next tick.
    pub(super) fn resolved(
        &mut self,
        name: &str,
        answer: Answer,
        now: Timestamp,
        commands: &mut Vec<Command>,
    ) {
        let Some(config) = self.config.clone() else { return };
        let barred = Barred::new(&config, self.own.as_ref());
        let Some(before) = self.names.take(name, answer, &barred, now) else {
            return;
        };
        let Some(known) = self.names.names.get(name) else {
            return;
        };
        self.view_is_due = true;
        if known.failure != before.failure {
            commands.push(Command::Report(Report::Lookup {
                name: name.to_owned(),
                failure: known.failure.clone(),
                addresses: known.addresses.len(),
            }));
        }
        let same = (&known.addresses, &known.refused, known.left_out)
            == (&before.addresses, &before.refused, before.left_out);
        if !same {
            self.records_are_due = true;
            commands.push(Command::Report(Report::Addresses {
                name: name.to_owned(),
                added: known.addresses.difference(&before.addresses).copied().collect(),
                removed: before.addresses.difference(&known.addresses).copied().collect(),
                refused: known.refused.clone(),
                left_out: known.left_out,
            }));
        }
    }

    /// Lets go of addresses that are replaced, or have waited long enough.
    pub(super) fn let_go(&mut self, now: Timestamp) {
        let waits = |known: &Name| !known.leaving.is_empty();
        if !self.names.names.values().any(waits) {
            return;
        }
        // Of a name, the addresses that nobody knows anything of.
        let mut unproven: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
        for (pool, facts) in self.plan.pools.iter().zip(&self.facts) {
            for (origin, facts) in pool.origins.iter().zip(&facts.origins) {
                let unreached =
                    facts.health == OriginHealth::Healthy && self.records.problem(origin.id).is_some();
                if let Some(name) = &origin.host_name
                    && (facts.health == OriginHealth::Unknown || unreached)
                {
                    unproven.entry(name).or_default().insert(origin.address);
                }
            }
        }
        for (name, known) in self.names.names.iter_mut().filter(|(_, known)| waits(known)) {
            let unproven = unproven.get(name.as_str());
            let proven = unproven.is_none_or(|unproven| unproven.is_disjoint(&known.addresses));
            if proven && !self.names.stale || known.leaves_by <= now {
                known.leaving.clear();
                self.names.stale = true;
            }
        }
    }

    /// Notes that the plan has followed the names, or that it could not.
    pub(super) fn names_followed(&mut self, now: Timestamp, short: bool) {
        self.names.stale = false;
        self.names.short = short;
        self.names.followed = Some(now);
    }

    /// Asks for the addresses of all host names.
    pub(super) fn watch_names(&mut self, commands: &mut Vec<Command>) {
        let names = self.names.all();
        if names != self.watched_names {
            self.watched_names.clone_from(&names);
            commands.push(Command::WatchNames(names));
        }
    }
}
