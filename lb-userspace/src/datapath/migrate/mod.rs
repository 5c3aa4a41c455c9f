//! Flows of another layout of the maps: a new version takes them over from the program of an old one.
//!
//! 1. New maps are made beside the old ones, which are only read, and filled with the whole configuration. Numbers of
//!    origins and applications stay what they were, because flows name them.
//! 2. All flows are copied, while the old program goes on.
//! 3. The new program takes the old one's place on each interface. It drops what belongs to no flow it knows instead of
//!    refusing it (`SettingsFlags::MIGRATING`).
//! 4. Flows that the old program has changed since 2 are copied, and the old maps go.
//!
//! A daemon that dies on the way leaves both; the next one starts anew before 3, and with 3 after that.

mod merge;
pub mod v1;

use self::merge::{Merger, Scope};
use super::clock::Clock;
use super::object::MapSizes;
use super::pins::Pins;
use super::sys;
use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use bytemuck::Pod;
use lb_common::abi::{
    Application, ApplicationKey, Filter, Flow4, Flow6, FlowKey4, FlowKey6, HashKey, Origin, OriginId,
    Settings, maps,
};
use lb_common::datapath::Memory;
use lb_core::engine::Adopted;
use lb_core::image::Capacity;
use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Is told of an entry, and where it belongs.
pub type Visit<'a, K, V> = dyn FnMut(Memory, &K, &V) + 'a;

/// Old maps in the words of the present layout.
trait Layout {
    fn found(&self) -> Result<Found>;
    /// Visits the entries of flows that have not timed out at jiffy `now`.
    fn flows4(&self, now: u32, visit: &mut Visit<'_, FlowKey4, Flow4>) -> Result<()>;
    fn flows6(&self, now: u32, visit: &mut Visit<'_, FlowKey6, Flow6>) -> Result<()>;
}

/// What flows depend on.
#[derive(Clone, Debug, Default)]
struct Found {
    generation: u32,
    hash_key: HashKey,
    origins: Vec<(OriginId, Origin)>,
    applications: Vec<(ApplicationKey, Application)>,
}

/// Old maps of a node.
#[derive(Debug)]
pub struct Former {
    pins: Pins,
    version: u32,
    found: Found,
    /// When flows were copied last, in jiffies.
    copied: Option<u32>,
}

/// Why maps cannot be taken over.
#[derive(Debug)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Entries, two for a flow.
    pub entries: u64,
    /// Those of established flows.
    pub established: u64,
}

impl Former {
    /// Finds maps of another layout than the present one; `None` when there are none.
    ///
    /// # Errors
    /// When this version cannot read them.
    pub fn find(pins: &Pins) -> Result<Option<Self>> {
        let used = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
        let others = pins.all_layouts().into_iter();
        let mut others = others.filter(|other| other.folder() != pins.folder() && used(other.folder()));
        let Some(other) = others.next() else {
            return Ok(None);
        };
        if let Some(another) = others.next() {
            bail!(Refusal(format!(
                "maps of several other layouts are in use, in {} and {}: run `lb detach` first (their flows end)",
                other.folder().display(),
                another.folder().display()
            )));
        }
        let refuse = || {
            Refusal(format!(
                "maps of another layout are in use in {}, which this version cannot take over: run the version that made \
                 them, or `lb detach` (their flows end)",
                other.folder().display()
            ))
        };
        let version = other.version().with_context(refuse)?;
        let found = layout(version, other.folder())
            .and_then(|layout| layout.found())
            .with_context(refuse)?;
        Ok(Some(Self {
            pins: other,
            version,
            found,
            copied: None,
        }))
    }

    /// The number of the old layout.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The old folder, with its links.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The secret that flows were hashed with.
    #[must_use]
    pub fn hash_key(&self) -> HashKey {
        self.found.hash_key
    }

    /// What an engine goes on from; `None` when nothing was configured.
    #[must_use]
    pub fn adopted(&self) -> Option<Adopted> {
        (self.found.generation != 0).then(|| Adopted {
            settings: Settings {
                generation: self.found.generation,
                hash_key: self.found.hash_key,
                ..Settings::default()
            },
            origins: self.found.origins.clone(),
            applications: self.found.applications.clone(),
            ..Adopted::default()
        })
    }

    /// Sizes of new maps that have a row for every number that flows name.
    #[must_use]
    pub fn fit(&self, sizes: MapSizes) -> MapSizes {
        let Found {
            origins,
            applications,
            ..
        } = &self.found;
        let above =
            |numbers: &mut dyn Iterator<Item = u32>| numbers.max().map_or(0, |last| last.saturating_add(1));
        let Capacity {
            origins: origin_rows,
            application_rows,
            ..
        } = sizes.capacity;
        MapSizes {
            capacity: Capacity {
                origins: origin_rows.max(above(&mut origins.iter().map(|(id, _)| id.0))),
                application_rows: application_rows
                    .max(above(&mut applications.iter().map(|(_, record)| record.id))),
                ..sizes.capacity
            },
            ..sizes
        }
    }

    /// Whether tables for so many flows of each family hold those there are.
    ///
    /// # Errors
    /// When they do not.
    pub fn check_room(&self, clock: &Clock, max_flows: u32) -> Result<()> {
        let layout = layout(self.version, self.pins.folder())?;
        let room = u64::from(max_flows).saturating_mul(2);
        let (mut v4, mut v6) = (0, 0);
        layout.flows4(clock.now(), &mut |memory, _, _| {
            v4 += u64::from(memory == Memory::Established);
        })?;
        layout.flows6(clock.now(), &mut |memory, _, _| {
            v6 += u64::from(memory == Memory::Established);
        })?;
        let most = v4.max(v6);
        if most > room {
            bail!(Refusal(format!(
                "there are {} established flows, and room for {max_flows} (datapath.max_flows)",
                most.div_ceil(2)
            )));
        }
        Ok(())
    }

    /// Copies flows into the maps in `to`: all of them the first time, and later those that have changed since. `fresh`
    /// maps have not been used yet.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn copy(&mut self, to: &Pins, clock: &Clock, fresh: bool) -> Result<Copied> {
        let now = clock.now();
        let scope = match self.copied {
            // Clocks of CPUs differ by a jiffy.
            Some(copied) => Scope::Since(copied.wrapping_sub(2)),
            None if fresh => Scope::Fresh,
            None => Scope::All,
        };
        let layout = layout(self.version, self.pins.folder())?;
        let take = |name: &str| open(to.folder(), name);
        // Nobody knows for which addresses they are.
        let mut addresses: Array<_, u64> = take(maps::ADDRESSES)?.try_into()?;
        for word in 0..Filter::WORDS / 2 {
            addresses
                .set(word, u64::MAX, 0)
                .context("open the filter of addresses")?;
        }
        let mut merger = Merger::new(&take, maps::FLOWS4, maps::TENTATIVE4, scope)?;
        layout.flows4(now, &mut |memory, key, flow| merger.take(memory, key, flow))?;
        let v4 = merger.finish()?;
        let mut merger = Merger::new(&take, maps::FLOWS6, maps::TENTATIVE6, scope)?;
        layout.flows6(now, &mut |memory, key, flow| merger.take(memory, key, flow))?;
        let v6 = merger.finish()?;
        merge::count(&take, [&v4.loads, &v6.loads])?;
        self.copied = Some(now);
        Ok(Copied {
            entries: v4.copied.entries + v6.copied.entries,
            established: v4.copied.established + v6.copied.established,
        })
    }
}

/// The reader of a layout.
fn layout<'a>(version: u32, folder: &'a Path) -> Result<Box<dyn Layout + 'a>> {
    match version {
        1 => Ok(Box::new(v1::V1(folder))),
        other => bail!("layout {other} is not known"),
    }
}

fn open(folder: &Path, name: &str) -> Result<Map> {
    let path = folder.join(name);
    let data = MapData::from_pin(&path).with_context(|| format!("open the pinned map {}", path.display()))?;
    Ok(Map::from_map_data(data)?)
}

/// A pinned map whose keys and values have these sizes.
fn sized<K: Pod, V: Pod>(folder: &Path, name: &str) -> Result<MapData> {
    let path: PathBuf = folder.join(name);
    let data = MapData::from_pin(&path).with_context(|| format!("open the pinned map {}", path.display()))?;
    let info = data.info()?;
    let sizes = (info.key_size() as usize, info.value_size() as usize);
    ensure!(
        sizes == (size_of::<K>(), size_of::<V>()),
        "{} has keys of {} and values of {} bytes",
        path.display(),
        sizes.0,
        sizes.1
    );
    Ok(data)
}

/// Visits all entries of a hash, or all rows of an array.
fn entries<K: Pod, V: Pod>(folder: &Path, name: &str, visit: impl FnMut(&K, &V)) -> Result<()> {
    let data = sized::<K, V>(folder, name)?;
    sys::for_each(data.fd().as_fd(), visit).with_context(|| format!("read the map {name}"))
}

/// The first row of an array.
fn value<V: Pod>(folder: &Path, name: &str) -> Result<V> {
    let mut first = V::zeroed();
    entries::<u32, V>(folder, name, |row, value| {
        if *row == 0 {
            first = *value;
        }
    })?;
    Ok(first)
}
