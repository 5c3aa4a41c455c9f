//! The running datapath of one node: programs, maps, links, and the way to take them over from a former daemon.

use super::access::AccessMaps;
use super::attach::{self, Attachment};
use super::buckets::Relocations;
use super::clock::Clock;
use super::flows::FlowTables;
use super::held;
use super::migrate::Former;
use super::object::{self, Loaded, MapSizes};
use super::pins::{self, Pins};
use super::reader::Reader;
use super::sys;
use super::trace;
use super::writer::Writer;
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, ProgramArray};
use lb_common::abi::{
    Application, ApplicationKey, HashKey, Hop, HopId, Interface, Ip, Origin, OriginId, Parity, Pool, PoolId,
    Route, RouteKey, Settings, Steering, Table, Vip, VipKey, maps,
};
use lb_common::datapath::Stage;
use lb_core::engine::Adopted;
use lb_core::image::Capacity;
use lb_core::model::AttachMode;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::time::Instant;
use tracing::{info, warn};

/// The datapath of one node.
pub struct Datapath {
    ebpf: Ebpf,
    /// Until they are pinned.
    stages: Option<ProgramArray<MapData>>,
    /// The kernel empties the map when nobody has it.
    kept_stages: Option<MapData>,
    pins: Pins,
    netns: u64,
    pub clock: Clock,
    relocations: Relocations,
    pub writer: Writer,
    pub reader: Reader,
    pub sizes: MapSizes,
    pub attachments: Vec<Attachment>,
    /// The kernel's number of the map of settings.
    identity: u32,
    /// Maps of another layout, while they are being taken over.
    former: Option<Former>,
    /// Whether everything was made by this process and nothing relies on it yet: then it goes when this goes.
    provisional: bool,
}

impl Drop for Datapath {
    fn drop(&mut self) {
        if self.provisional
            && let Err(error) = self.remove()
        {
            warn!(error = %format!("{error:#}"), "what was made so far could not be removed: run `lb detach`");
        }
    }
}

impl Datapath {
    /// Loads the programs on the maps that a former daemon pinned in a node's folder, or on new ones of the wanted sizes.
    /// What runs there goes on, and maps of another layout are only read.
    ///
    /// # Errors
    /// Without privilege, when the kernel refuses, or when there are maps of another layout that cannot be taken over.
    pub fn open(pins: Pins, wanted: MapSizes) -> Result<Self> {
        let netns = pins::network_namespace()?;
        let former = Former::find(&pins)?;
        if former.is_some() && pins.map(maps::SETTINGS).exists() && settings(&pins)?.generation == 0 {
            // Left by a daemon that died before anybody relied on it.
            pins.clear().context("remove unused pins")?;
        }
        let wanted = former.as_ref().map_or(wanted, |former| former.fit(wanted));
        let sizes = existing(&pins, wanted)?;
        let provisional = !pins.map(maps::SETTINGS).exists();
        let loaded = object::load(&sizes, Some(pins.folder())).inspect_err(|_| {
            if provisional {
                // The error that is told is the one that matters.
                let _ = pins.remove();
            }
        })?;
        let Loaded { mut ebpf, stages } = loaded;
        let clock = Clock::measure(&mut ebpf).context("measure the kernel's tick rate")?;
        let take = |name: &str| open_map(&pins, name);
        let relocations = Relocations::default();
        let writer = Writer::new(take)?.sharing(&relocations);
        let reader = Reader::new(take)?;
        let datapath = Self {
            ebpf,
            stages: Some(stages),
            kept_stages: None,
            netns,
            clock,
            relocations,
            writer,
            reader,
            sizes,
            attachments: Vec::new(),
            provisional,
            identity: identity(&pins)?,
            former,
            pins,
        };
        if let Some(former) = &datapath.former {
            former.check_room(&datapath.clock, sizes.max_flows)?;
        }
        Ok(datapath)
    }

    /// Whether flows of another layout have to be taken over.
    #[must_use]
    pub fn is_migrating(&self) -> bool {
        self.former.is_some()
    }

    /// Copies flows of another layout: all of them the first time, and later those that have changed since.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn copy_flows(&mut self) -> Result<()> {
        let Some(former) = &mut self.former else {
            return Ok(());
        };
        let started = Instant::now();
        let copied = former.copy(&self.pins, &self.clock, self.provisional)?;
        info!(
            layout = former.version(),
            entries = copied.entries,
            established = copied.established,
            milliseconds = started.elapsed().as_millis() as u64,
            "flows were copied"
        );
        Ok(())
    }

    /// Ends the taking over of another layout, once no interface runs its program: copies what it did last, and removes it.
    ///
    /// # Errors
    /// When a map cannot be read or written, or a pin not be removed.
    pub fn finish_migration(&mut self) -> Result<()> {
        sys::wait_for_packets();
        self.copy_flows()?;
        if let Some(former) = self.former.take() {
            for pin in former.pins().links() {
                attach::remove(&pin)?;
            }
            former
                .pins()
                .remove()
                .context("remove the pins of the old layout")?;
            info!(layout = former.version(), "the old layout is gone");
        }
        Ok(())
    }

    /// What a former daemon left in the maps; `None` when they are new.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn adopted(&self) -> Result<Option<Adopted>> {
        match (adopted(&self.pins)?, &self.former) {
            (None, Some(former)) => Ok(former.adopted()),
            (adopted, _) => Ok(adopted),
        }
    }

    /// The secret that flows are hashed with; `None`: there is none yet.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn hash_key(&self) -> Result<Option<HashKey>> {
        let settings = self.settings()?;
        match &self.former {
            _ if settings.generation != 0 => Ok(Some(settings.hash_key)),
            Some(former) => Ok(former.adopted().map(|_| former.hash_key())),
            None => Ok(None),
        }
    }

    /// Whether the maps that this process has open are still those that are pinned.
    ///
    /// # Errors
    /// When there are none, or they cannot be looked at.
    pub fn is_current(&self) -> Result<bool> {
        Ok(identity(&self.pins)? == self.identity)
    }

    /// Reads again what is kept of the maps' contents: another daemon has written them until now.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn renew_writer(&mut self) -> Result<()> {
        self.writer = Writer::new(|name: &str| open_map(&self.pins, name))?.sharing(&self.relocations);
        Ok(())
    }

    /// Attaches the program to the interfaces, given by name and index, in the place of a former one where there is one.
    ///
    /// # Errors
    /// The first interface that refuses.
    pub fn attach(&mut self, interfaces: &[(String, u32)], mode: AttachMode) -> Result<()> {
        if self.stages.is_some() {
            // A program of another version may have run until now, or still does.
            self.flow_tables()?.distrust(&self.clock)?;
        }
        self.pin_stages()?;
        for (name, ifindex) in interfaces {
            let former = self.former.as_ref().map(Former::pins);
            let attachment = attach::attach(
                &mut self.ebpf,
                &self.pins,
                former,
                self.netns,
                (name, *ifindex),
                mode,
            )?;
            self.attachments.retain(|old| old.ifindex != *ifindex);
            self.attachments.push(attachment);
        }
        self.retire_stages()
    }

    /// Forgets the attachments whose interface has gone, also when another one has its number by now, and returns their
    /// names.
    pub fn forget_dead(&mut self) -> Vec<String> {
        let (pins, netns) = (&self.pins, self.netns);
        let mut dead = Vec::new();
        self.attachments.retain(|attachment| {
            let path = pins.link(attachment.mode, attachment.ifindex, netns);
            let alive = sys::pinned_link(&path).is_ok_and(|link| link.ifindex == attachment.ifindex);
            if !alive {
                dead.push(attachment.name.clone());
                // The pin of a link that leads nowhere.
                let _ = fs::remove_file(&path);
            }
            alive
        });
        dead
    }

    /// Detaches from the interfaces of this network namespace that are not among `keep`.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach_others(&mut self, keep: &[u32]) -> Result<()> {
        for pin in self.pins.links() {
            if pin.netns == self.netns && !keep.contains(&pin.ifindex) {
                info!(
                    ifindex = pin.ifindex,
                    "detaching: the interface has gone, or is not in the configuration any more"
                );
                attach::remove(&pin)?;
            }
        }
        self.attachments
            .retain(|attachment| keep.contains(&attachment.ifindex));
        Ok(())
    }

    /// Keeps programs, maps and links when this process ends.
    pub fn keep(&mut self) {
        self.provisional = false;
    }

    /// Detaches from everything and removes all pins.
    ///
    /// # Errors
    /// The first pin that could not be removed.
    pub fn remove(&mut self) -> Result<()> {
        for pin in self.pins.links() {
            attach::remove(&pin)?;
        }
        self.pins.remove().context("remove the pins")
    }

    /// Id of the program that is attached; bpftool and ip show it.
    #[must_use]
    pub fn program_id(&mut self) -> Option<u32> {
        object::program(&mut self.ebpf, Stage::Known.program())
            .ok()?
            .info()
            .ok()
            .map(|info| info.id())
    }

    /// Whether some interface of this network namespace runs the program still.
    #[must_use]
    pub fn is_attached(&mut self) -> bool {
        let Some(program) = self.program_id() else {
            return false;
        };
        let links = self.pins.links().into_iter();
        let mut own = links.filter(|pin| pin.netns == self.netns);
        own.any(|pin| sys::pinned_link(&pin.path).is_ok_and(|link| link.program == program))
    }

    /// Where programs and maps are pinned.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The flow tables, by handles of their own: reading a million flows takes too long for the event loop.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn flow_tables(&self) -> Result<FlowTables> {
        Ok(FlowTables::new(|name| self.open_map(name))?.sharing(&self.relocations))
    }

    /// A further handle to a pinned map.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_map(&self, name: &str) -> Result<Map> {
        open_map(&self.pins, name)
    }

    /// What holding frames needs; see [`super::held`].
    ///
    /// # Errors
    /// When it is in use already, or a map cannot be opened.
    pub fn holding(&mut self) -> Result<held::Parts> {
        let held = self
            .ebpf
            .take_map(maps::HELD)
            .context("frames are held already")?;
        let program = object::program(&mut self.ebpf, Stage::Known.program())?.fd()?;
        Ok(held::Parts {
            held: held.try_into()?,
            program: program.as_fd().try_clone_to_owned()?,
            fragments: self.open_map(maps::FRAGMENTS)?.try_into()?,
            clock: self.clock,
        })
    }

    /// Where reports of traced packets come from.
    ///
    /// # Errors
    /// When it is in use already.
    pub fn tracing(&mut self) -> Result<trace::Source> {
        trace::Source::take(&mut self.ebpf)
    }

    /// The settings in force.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn settings(&self) -> Result<Settings> {
        settings(&self.pins)
    }

    /// Pins this program's stages beside those of the program it replaces, so that both work until the links are moved.
    fn pin_stages(&mut self) -> Result<()> {
        let Some(stages) = self.stages.take() else {
            return Ok(());
        };
        let path = self.pins.map(NEW_STAGES);
        // Left by a daemon that died between the two steps.
        let _ = fs::remove_file(&path);
        stages
            .pin(&path)
            .with_context(|| format!("pin {}", path.display()))?;
        // Frames that are held go through the program again, also when another one has replaced it.
        self.kept_stages = Some(MapData::from_pin(&path)?);
        Ok(())
    }

    /// Lets go of the replaced program's stages, once no packet is inside it.
    fn retire_stages(&self) -> Result<()> {
        let new = self.pins.map(NEW_STAGES);
        if new.exists() {
            sys::wait_for_packets();
            fs::rename(&new, self.pins.map(maps::STAGES)).context("rename the pinned stages")?;
        }
        Ok(())
    }
}

const NEW_STAGES: &str = "STAGES_NEW";

fn open_map(pins: &Pins, name: &str) -> Result<Map> {
    let path = pins.map(name);
    let data = MapData::from_pin(&path).with_context(|| format!("open the pinned map {}", path.display()))?;
    Ok(Map::from_map_data(data)?)
}

/// The kernel's number of the map of settings that is pinned.
fn identity(pins: &Pins) -> Result<u32> {
    let path = pins.map(maps::SETTINGS);
    let data = MapData::from_pin(&path).with_context(|| format!("open the pinned map {}", path.display()))?;
    Ok(data.info()?.id())
}

fn settings(pins: &Pins) -> Result<Settings> {
    let settings: Array<_, Settings> = open_map(pins, maps::SETTINGS)?.try_into()?;
    Ok(settings.get(&0, 0)?)
}

/// The sizes of pinned maps where there are some, else the wanted ones.
fn existing(pins: &Pins, wanted: MapSizes) -> Result<MapSizes> {
    let size = |name: &str, wanted: u32| -> Result<u32> {
        let path = pins.map(name);
        if !path.exists() {
            return Ok(wanted);
        }
        let data =
            MapData::from_pin(&path).with_context(|| format!("open the pinned map {}", path.display()))?;
        Ok(data.info()?.max_entries())
    };
    let Capacity {
        applications,
        vips,
        pools,
        origins,
        hops,
        snat_addresses,
        slots,
        application_rows,
        spans,
        access_prefixes,
        country_rules,
        country_prefixes,
        clients,
        routes,
        buckets,
    } = wanted.capacity;
    let max_flows = size(maps::FLOWS4, wanted.max_flows.saturating_mul(2))? / 2;
    if max_flows != wanted.max_flows {
        warn!(
            configured = wanted.max_flows,
            in_force = max_flows,
            "datapath.max_flows takes effect when the maps are made anew: after `lb detach`"
        );
    }
    Ok(MapSizes {
        capacity: Capacity {
            applications: size(maps::APPLICATIONS, applications)?,
            vips: size(maps::VIPS, vips)?,
            pools: size(maps::POOLS, pools)?,
            origins: size(maps::ORIGINS, origins)?,
            hops: size(maps::HOPS, hops)?,
            snat_addresses: size(maps::SNAT_ADDRESSES, snat_addresses)?,
            slots: size(maps::SLOTS, slots)?,
            application_rows: size(maps::APPLICATION_TRAFFIC, application_rows)?,
            spans: size(maps::SPANS, spans)?,
            access_prefixes: size(maps::ACCESS, access_prefixes)?,
            country_rules: size(maps::COUNTRY_RULES, country_rules)?,
            country_prefixes: size(maps::COUNTRIES, country_prefixes)?,
            clients: size(maps::AFFINITY, clients)?,
            routes: size(maps::ROUTES, routes)?,
            buckets: size(maps::BUCKETS, buckets)?,
        },
        max_flows,
    })
}

/// What a former daemon left in the maps; `None` when they are new.
fn adopted(pins: &Pins) -> Result<Option<Adopted>> {
    let settings = settings(pins)?;
    if settings.generation == 0 {
        return Ok(None);
    }
    let live = Parity::of(settings.generation);
    let all: HashMap<_, ApplicationKey, Application> = open_map(pins, maps::APPLICATIONS)?.try_into()?;
    let mut applications = Vec::new();
    let mut stale_applications = Vec::new();
    for entry in all.iter() {
        let (key, record) = entry?;
        if key.parity == live {
            applications.push((key, record));
        } else {
            stale_applications.push(key);
        }
    }
    let all: HashMap<_, VipKey, Vip> = open_map(pins, maps::VIPS)?.try_into()?;
    let all: Vec<(VipKey, Vip)> = all.iter().collect::<Result<_, _>>()?;
    let (vips, stale_vips): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| key.parity == live);
    let all: HashMap<_, RouteKey, Route> = open_map(pins, maps::ROUTES)?.try_into()?;
    let all: Vec<(RouteKey, Route)> = all.iter().collect::<Result<_, _>>()?;
    let (routes, stale_routes): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| key.parity == live);
    let pools: Array<_, Pool> = open_map(pins, maps::POOLS)?.try_into()?;
    let mut tables = BTreeSet::new();
    for id in 0..pools.len() / 2 {
        let pool = pools.get(&PoolId(id).row(live).0, 0)?;
        tables.extend(pool.tables.iter().map(|table| (table.base, table.size)));
    }
    let lists = applications.iter().map(|(_, application)| application.pools);
    for list in lists.chain(routes.iter().map(|(_, route)| route.pools)) {
        let size = if list.steering == Steering::ORDERED {
            list.extent
        } else {
            list.extent.saturating_add(1)
        };
        tables.insert((list.base, size));
    }
    let tables = tables
        .into_iter()
        .filter(|&(_, size)| size > 0)
        .map(|(base, size)| Table { base, size });
    let origins: Array<_, Origin> = open_map(pins, maps::ORIGINS)?.try_into()?;
    let access = AccessMaps::new(|name| open_map(pins, name))?;
    let interfaces: HashMap<_, u32, Interface> = open_map(pins, maps::INTERFACES)?.try_into()?;
    let hops: Array<_, Hop> = open_map(pins, maps::HOPS)?.try_into()?;
    let snat_addresses: Array<_, Ip> = open_map(pins, maps::SNAT_ADDRESSES)?.try_into()?;
    Ok(Some(Adopted {
        settings,
        origins: rows(&origins)?
            .into_iter()
            .map(|(id, row)| (OriginId(id), row))
            .collect(),
        applications,
        tables: tables.collect(),
        stale_applications,
        vips,
        stale_vips: stale_vips.into_iter().map(|(key, _)| key).collect(),
        routes,
        stale_routes: stale_routes.into_iter().map(|(key, _)| key).collect(),
        hops: rows(&hops)?
            .into_iter()
            .map(|(id, row)| (HopId(id), row))
            .collect(),
        access: access.prefixes()?,
        country_rules: access.countries()?,
        interfaces: interfaces.iter().collect::<Result<_, _>>()?,
        snat_addresses: snat_addresses.iter().collect::<Result<_, _>>()?,
    }))
}

/// The rows of an array that are not empty.
fn rows<V: aya::Pod + Default + PartialEq>(array: &Array<MapData, V>) -> Result<Vec<(u32, V)>> {
    let mut rows = Vec::new();
    for id in 0..array.len() {
        let row = array.get(&id, 0)?;
        if row != V::default() {
            rows.push((id, row));
        }
    }
    Ok(rows)
}
