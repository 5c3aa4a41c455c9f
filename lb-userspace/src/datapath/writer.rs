//! Executes the engine's map steps, in order, without a thought.

use super::access::AccessMaps;
use super::buckets::Relocations;
use super::filter::AddressFilter;
use super::shortcuts::Shortcuts;
use super::slots::Slots;
use super::sys;
use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lb_common::abi::{
    Application, ApplicationKey, Bucket, BucketRun, Filter, Hop, Interface, Ip, Load, Origin, PathMtu, Pool,
    Route, RouteKey, Settings, SettingsFlags, Timeouts, Traffic, Vip, VipKey, maps,
};
use lb_core::image::TableOp;
use std::io;
use std::os::fd::AsFd;

/// The configuration maps, for writing.
pub struct Writer {
    settings: Array<MapData, Settings>,
    applications: HashMap<MapData, ApplicationKey, Application>,
    timeouts: Array<MapData, Timeouts>,
    pools: Array<MapData, Pool>,
    origins: Array<MapData, Origin>,
    hops: Array<MapData, Hop>,
    snat_addresses: Array<MapData, Ip>,
    loads: Array<MapData, Load>,
    swept: Array<MapData, Load>,
    path_mtus: Array<MapData, PathMtu>,
    traffic: PerCpuArray<MapData, Traffic>,
    slots: Slots,
    spans: MapData,
    buckets: MapData,
    settled: MapData,
    relocations: Relocations,
    vips: HashMap<MapData, VipKey, Vip>,
    routes: HashMap<MapData, RouteKey, Route>,
    interfaces: HashMap<MapData, u32, Interface>,
    access: AccessMaps,
    addresses: AddressFilter,
    shortcuts: Shortcuts,
}

/// Rows written by one system call.
const ROWS_PER_CALL: usize = 16_384;

impl Writer {
    /// Takes the maps by name from `take`.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn new(mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let mut array = |name: &str| match take(name)? {
            Map::Array(data) => Ok(data),
            other => anyhow::bail!("the map {name} is no array: {other:?}"),
        };
        let (slots, spans) = (array(maps::SLOTS)?, array(maps::SPANS)?);
        let (buckets, settled) = (array(maps::BUCKETS)?, array(maps::SETTLED)?);
        Ok(Self {
            settings: take(maps::SETTINGS)?.try_into()?,
            applications: take(maps::APPLICATIONS)?.try_into()?,
            timeouts: take(maps::TIMEOUTS)?.try_into()?,
            pools: take(maps::POOLS)?.try_into()?,
            origins: take(maps::ORIGINS)?.try_into()?,
            hops: take(maps::HOPS)?.try_into()?,
            snat_addresses: take(maps::SNAT_ADDRESSES)?.try_into()?,
            loads: take(maps::LOADS)?.try_into()?,
            swept: take(maps::SWEPT)?.try_into()?,
            path_mtus: take(maps::PATH_MTUS)?.try_into()?,
            traffic: take(maps::ORIGIN_TRAFFIC)?.try_into()?,
            slots: Slots::new(slots)?,
            spans,
            buckets,
            settled,
            relocations: Relocations::default(),
            vips: take(maps::VIPS)?.try_into()?,
            routes: take(maps::ROUTES)?.try_into()?,
            interfaces: take(maps::INTERFACES)?.try_into()?,
            addresses: AddressFilter::new(&mut take)?,
            shortcuts: Shortcuts::new(&mut take)?,
            access: AccessMaps::new(take)?,
        })
    }

    /// Writes what others sweep who share these.
    #[must_use]
    pub fn sharing(mut self, relocations: &Relocations) -> Self {
        self.relocations = relocations.clone();
        self
    }

    /// Executes the steps in order.
    ///
    /// # Errors
    /// The first step that the kernel refused; those before it are done.
    pub fn apply(&mut self, steps: &[TableOp]) -> Result<()> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &TableOp) -> Result<()> {
        if let TableOp::Application {
            key: ApplicationKey { address, .. },
            ..
        }
        | TableOp::Vip {
            key: VipKey { address, .. },
            ..
        }
        | TableOp::SnatAddress { address, .. } = step
        {
            self.addresses.add(Filter::Ours, *address)?;
        }
        if let TableOp::Application { key, record } = step
            && record.buckets != BucketRun::NONE
        {
            self.addresses.add(Filter::Untracked, key.address)?;
        }
        match step {
            TableOp::Application { key, record } => self.shortcuts.set(key, record)?,
            TableOp::RemoveApplication { key } => self.shortcuts.remove(key)?,
            _ => {}
        }
        if let TableOp::Settings(settings) = step
            && settings.flags.has(SettingsFlags::DNAT)
        {
            // Answers come to the clients' own addresses, also when the last such origin is gone.
            self.addresses.open()?;
        }
        match step {
            TableOp::Origin { id, record } => self
                .origins
                .set(id.0, record, 0)
                .with_context(|| format!("write origin {}", id.0)),
            TableOp::ForgetOrigin { id } => self
                .forget(id.0)
                .with_context(|| format!("forget origin {}", id.0)),
            TableOp::Hop { id, record } => self
                .hops
                .set(id.0, record, 0)
                .with_context(|| format!("write next hop {}", id.0)),
            TableOp::Interface {
                index,
                record: Some(record),
            } => self
                .interfaces
                .insert(index, record, 0)
                .with_context(|| format!("write interface {index}")),
            TableOp::Interface { index, record: None } => {
                gone(self.interfaces.remove(index)).with_context(|| format!("remove interface {index}"))
            }
            TableOp::Timeouts { application, record } => self
                .timeouts
                .set(*application, record, 0)
                .with_context(|| format!("write the timeouts of application {application}")),
            TableOp::SnatAddress { index, address } => self
                .snat_addresses
                .set(*index, address, 0)
                .with_context(|| format!("write source address {index}")),
            TableOp::Slots { base, owners } => self
                .slots
                .write(*base, owners)
                .with_context(|| format!("write slots from {base}")),
            TableOp::Spans { base, spans } => update_rows(&self.spans, *base, spans)
                .with_context(|| format!("write ranges of ports from {base}")),
            TableOp::Pool { row, record } => self
                .pools
                .set(row.0, record, 0)
                .with_context(|| format!("write pool row {}", row.0)),
            TableOp::Application { key, record } => self
                .applications
                .insert(key, record, 0)
                .context("write an application"),
            TableOp::RemoveApplication { key } => {
                gone(self.applications.remove(key)).context("remove an application")
            }
            TableOp::Vip { key, record } => self.vips.insert(key, record, 0).context("write an address"),
            TableOp::RemoveVip { key } => gone(self.vips.remove(key)).context("remove an address"),
            TableOp::Route { key, record } => self
                .routes
                .insert(key, record, 0)
                .context("write the pools of a country"),
            TableOp::RemoveRoute { key } => {
                gone(self.routes.remove(key)).context("remove the pools of a country")
            }
            TableOp::AccessList { list, rules } => self
                .access
                .write(*list, rules)
                .with_context(|| format!("write access list {}", list.0)),
            TableOp::RemoveAccessList { list, rules } => self
                .access
                .remove(*list, rules)
                .with_context(|| format!("remove access list {}", list.0)),
            TableOp::Countries { table, former } => self
                .access
                .set_countries(table, former.as_deref())
                .context("write the countries of addresses"),
            TableOp::Settings(settings) => self.settings.set(0, settings, 0).context("write the settings"),
            TableOp::Buckets { base, count } => self
                .empty_buckets(*base, *count)
                .with_context(|| format!("empty buckets from {base}")),
            TableOp::Unsettle { base, count } => {
                let live = self.settings.get(&0, 0).context("read the settings")?.generation;
                let rows = [&self.buckets, &self.settled];
                (self.relocations).unsettle(rows, *base, *count, Some(live))
            }
            TableOp::Grace => {
                sys::wait_for_packets();
                Ok(())
            }
        }
    }

    /// Writes those of the steps whose rows hold something else, and returns how many did: what another program, or a
    /// defect, has changed.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn repair(&mut self, image: &[TableOp]) -> Result<usize> {
        let mut repaired = usize::from(self.addresses.repair()?) + usize::from(self.shortcuts.repair()?);
        for step in image {
            if !self.holds(step)? {
                self.step(step)?;
                repaired += 1;
            }
        }
        Ok(repaired)
    }

    fn forget(&mut self, origin: u32) -> Result<()> {
        self.origins.set(origin, Origin::default(), 0)?;
        self.loads.set(origin, Load::default(), 0)?;
        self.swept.set(origin, Load::default(), 0)?;
        self.path_mtus.set(origin, PathMtu::default(), 0)?;
        let nothing =
            PerCpuValues::try_from(vec![Traffic::default(); nr_cpus().map_err(|(_, error)| error)?])?;
        self.traffic.set(origin, nothing, 0)?;
        Ok(())
    }

    /// Nobody owns the buckets, and each may have entries that no sweep has looked for.
    fn empty_buckets(&self, base: u32, count: u32) -> Result<()> {
        let count = count as usize;
        update_rows(&self.settled, base, &vec![0u32; count])?;
        update_rows(&self.buckets, base, &vec![Bucket::default(); count])?;
        Ok(())
    }

    fn holds(&self, step: &TableOp) -> Result<bool> {
        Ok(match step {
            TableOp::Origin { id, record } => self.origins.get(&id.0, 0)? == *record,
            TableOp::Hop { id, record } => self.hops.get(&id.0, 0)? == *record,
            TableOp::Interface { index, record } => self.interfaces.get(index, 0).ok() == *record,
            TableOp::Timeouts { application, record } => self.timeouts.get(application, 0)? == *record,
            TableOp::SnatAddress { index, address } => self.snat_addresses.get(index, 0)? == *address,
            TableOp::Pool { row, record } => self.pools.get(&row.0, 0)? == *record,
            TableOp::Application { key, record } => {
                self.applications.get(key, 0).is_ok_and(|found| found == *record)
            }
            TableOp::RemoveApplication { key } => self.applications.get(key, 0).is_err(),
            TableOp::Vip { key, record } => self.vips.get(key, 0).is_ok_and(|found| found == *record),
            TableOp::RemoveVip { key } => self.vips.get(key, 0).is_err(),
            TableOp::Route { key, record } => self.routes.get(key, 0).is_ok_and(|found| found == *record),
            TableOp::RemoveRoute { key } => self.routes.get(key, 0).is_err(),
            TableOp::Settings(settings) => self.settings.get(&0, 0)? == *settings,
            TableOp::AccessList { list, rules } => self.access.holds(*list, rules)?,
            // Slots are many and nobody writes them but this daemon, into runs that are not live.
            TableOp::ForgetOrigin { .. }
            | TableOp::Slots { .. }
            | TableOp::Buckets { .. }
            | TableOp::Unsettle { .. }
            | TableOp::Spans { .. }
            | TableOp::RemoveAccessList { .. }
            | TableOp::Countries { .. }
            | TableOp::Grace => true,
        })
    }
}

/// What is not there need not be removed.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}

/// Writes rows from `base` on.
pub(super) fn update_rows<V: bytemuck::Pod>(map: &MapData, base: u32, rows: &[V]) -> io::Result<()> {
    let mut first = base;
    for chunk in rows.chunks(ROWS_PER_CALL) {
        sys::update_rows(map.fd().as_fd(), first, chunk)?;
        first = first.saturating_add(chunk.len() as u32);
    }
    Ok(())
}
