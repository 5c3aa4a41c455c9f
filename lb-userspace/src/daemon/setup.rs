//! What has to be there before the datapath is: privileges, interfaces, sizes, secrets.

use crate::cli::{Exit, Failure};
use crate::datapath::kernel::Datapath;
use crate::datapath::migrate::Refusal;
use crate::datapath::object::MapSizes;
use crate::datapath::pins::Pins;
use crate::net::doctor::{self, Status};
use crate::net::interface::{self, Interface};
use anyhow::{Context, Result};
use lb_common::abi::{HashKey, SettingsFlags};
use lb_core::engine::{Engine, Environment, Kept};
use lb_core::image::Capacity;
use lb_core::model::{Application, Config};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use tracing::{debug, warn};

/// Sizes of new maps at least: 1,000 applications on four addresses, 10,000 origins, each twice, and tables for them,
/// also when each application has a load balancer of its own with two pools of five origins.
const FLOOR: Capacity = Capacity {
    applications: 16_384,
    vips: 24_576,
    pools: 8_192,
    origins: 32_768,
    hops: 16_384,
    snat_addresses: 4_096,
    slots: 1 << 23,
    application_rows: 8_192,
    spans: 8_192,
    // Tries take memory for what they hold, not for what they could.
    access_prefixes: 1 << 22,
    country_rules: 16_384,
    country_prefixes: 1 << 22,
    clients: 65_536,
    // 100 load balancers with all the countries there are, for both families, however many applications each has.
    routes: 1 << 17,
    // 32 bytes each.
    buckets: 1 << 18,
};

/// The sizes of new maps for a configuration, with room to grow.
pub fn sizes(config: &Config) -> MapSizes {
    let needed = Engine::required_capacity(config);
    let twice = |needed: u32, floor: u32| needed.saturating_mul(2).max(floor);
    MapSizes {
        capacity: Capacity {
            applications: twice(needed.applications, FLOOR.applications),
            vips: twice(needed.vips, FLOOR.vips),
            pools: twice(needed.pools, FLOOR.pools),
            origins: twice(needed.origins, FLOOR.origins),
            hops: twice(needed.hops, FLOOR.hops),
            snat_addresses: twice(needed.snat_addresses, FLOOR.snat_addresses),
            slots: twice(needed.slots, FLOOR.slots),
            application_rows: twice(needed.application_rows, FLOOR.application_rows),
            spans: twice(needed.spans, FLOOR.spans),
            access_prefixes: twice(needed.access_prefixes, FLOOR.access_prefixes),
            country_rules: twice(needed.country_rules, FLOOR.country_rules),
            country_prefixes: twice(needed.country_prefixes, FLOOR.country_prefixes),
            clients: twice(needed.clients, FLOOR.clients),
            routes: twice(needed.routes, FLOOR.routes),
            buckets: twice(needed.buckets, FLOOR.buckets),
        },
        max_flows: config.datapath.max_flows,
    }
}

/// Refuses to start where it cannot work, and says all that is missing at once; warns of what will not work well.
/// `interfaces` are those that have to be there.
///
/// # Errors
/// Exit 7 with every missing thing and its remedy.
pub async fn check_machine(config: &Config, interfaces: &[String]) -> Result<(), Failure> {
    let vips: Vec<IpAddr> = config.applications.iter().flat_map(addresses).collect();
    let missing = tell(doctor::checks(interfaces, &vips).await);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(Exit::Privilege, missing.join("\n")))
    }
}

/// Warns of what will not work well on an interface that has come later.
///
/// # Errors
/// When lb cannot work on it.
pub fn check_interface(name: &str) -> Result<()> {
    let missing = tell(doctor::of_interface(name));
    anyhow::ensure!(missing.is_empty(), "{}", missing.join("; "));
    Ok(())
}

/// Logs what was found, and returns what is missing.
fn tell(checks: Vec<doctor::Check>) -> Vec<String> {
    let mut missing = Vec::new();
    for check in checks {
        let remedy = check
            .remedy
            .as_deref()
            .map_or(String::new(), |remedy| format!(" ({remedy})"));
        match check.status {
            Status::Ok => debug!(check = check.name, "{}", check.detail),
            Status::Warn => warn!(check = check.name, "{}{remedy}", check.detail),
            Status::Fail => missing.push(format!("{}: {}{remedy}", check.name, check.detail)),
        }
    }
    missing
}

fn addresses(application: &Application) -> impl Iterator<Item = IpAddr> + '_ {
    application.addresses.iter().copied()
}

/// Takes all the open files that this process may have: each probe of an origin that does not answer holds one.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        debug!(%error, "the limit on open files stays at {:?}", limit.current);
    }
}

/// Looks the interfaces up.
///
/// # Errors
/// Exit 7, naming the first that is not there.
pub fn interfaces(names: &[String]) -> Result<Vec<Interface>, Failure> {
    names
        .iter()
        .map(|name| {
            interface::by_name(name).map_err(|error| Failure::new(Exit::Privilege, format!("{error:#}")))
        })
        .collect()
}

/// What the packet path has to know of the interfaces.
pub fn flags(interfaces: &[Interface]) -> SettingsFlags {
    let mut flags = 0;
    if interfaces.iter().any(interface::needs_partial_checksums) {
        flags |= SettingsFlags::PARTIAL_CHECKSUMS;
    }
    if interfaces.iter().any(interface::is_veth) {
        flags |= SettingsFlags::NO_XDP_TX;
    }
    SettingsFlags(flags)
}

/// Why a datapath could not be opened: exit 6 when there are maps that this version cannot take over.
pub fn cannot_open(error: anyhow::Error) -> Failure {
    match error.downcast_ref::<Refusal>() {
        Some(_) => Failure::new(Exit::Conflict, format!("{error:#}")),
        None => error.into(),
    }
}

/// What an engine has to know of the machine and the maps.
///
/// # Errors
/// When they cannot be read.
pub fn environment(datapath: &Datapath, flags: SettingsFlags) -> Result<Environment> {
    let adopted = datapath.adopted()?;
    let hash_key = datapath.hash_key()?.map_or_else(new_hash_key, Ok)?;
    Ok(Environment {
        hz: datapath.clock.hz,
        hash_key,
        snat_ports: crate::net::ports::snat_ports()?,
        flags,
        capacity: datapath.sizes.capacity,
        max_flows: datapath.sizes.max_flows,
        adopted,
        kept: Kept::default(),
        assume_healthy: false,
        seed: hash_key.k0 ^ u64::from(std::process::id()),
    })
}

/// A new secret for the flow hash.
///
/// # Errors
/// When the system has no randomness.
fn new_hash_key() -> Result<HashKey> {
    Ok(bytemuck::cast(random()?.to_ne_bytes()))
}

/// Random bits.
///
/// # Errors
/// When the system has none.
pub fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(u128::from_ne_bytes(bytes))
}

/// Makes this process the only one that manages a node, as long as it is held.
#[derive(Debug)]
pub struct Lock {
    _files: Vec<File>,
}

/// Opens a node's pin folder and makes this process the only one that manages it.
///
/// # Errors
/// Exit 6 when another daemon holds it.
pub fn claim(node: &str) -> Result<(Pins, Lock), Failure> {
    loop {
        let pins = Pins::open(node)?;
        let lock = lock(&pins)?;
        // `lb detach` may have removed the folder between the two.
        if pins.folder().is_dir() {
            return Ok((pins, lock));
        }
    }
}

/// Locks a node's pin folder.
///
/// # Errors
/// Exit 6 when another process holds it.
pub fn lock(pins: &Pins) -> Result<Lock, Failure> {
    let mut files = Vec::new();
    // Versions with the first layout locked the folder of their layout only.
    for folder in pins.layouts() {
        let file = File::open(&folder).with_context(|| format!("open {}", folder.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::new(
                Exit::Conflict,
                format!(
                    "another lb manages this node already (it holds {}): stop it first, or take over with \
                     `lb run --take-over`",
                    folder.display()
                ),
            )
        })?;
        files.push(file);
    }
    Ok(Lock { _files: files })
}

/// Whether nobody manages a node.
///
/// # Errors
/// When that cannot be found out.
pub fn is_free(pins: &Pins) -> Result<bool, Failure> {
    match lock(pins) {
        Ok(_) => Ok(true),
        Err(failure) if failure.exit == Exit::Conflict => Ok(false),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests;
