//! The embedded program: loading it with maps of the wanted sizes, new or pinned.

use anyhow::{Context, Result};
use aya::maps::{MapData, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use lb_common::abi::{Filter, FlowFilter, maps};
use lb_common::datapath::Stage;
use lb_core::image::Capacity;
use std::path::Path;

/// The object that build.rs made of lb-ebpf.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.bpf.o"));

/// Sizes of all maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSizes {
    pub capacity: Capacity,
    /// Flows remembered for each address family.
    pub max_flows: u32,
}

/// Least entries of the memory for flows that are not established: the kernel hands them to the CPUs in batches of 128.
const MIN_TENTATIVE: u32 = 16_384;
/// Datagrams in fragments that are on their way at a time.
const FRAGMENTS: u32 = 16_384;
/// Interfaces of one node.
const INTERFACES: u32 = 4_096;

impl MapSizes {
    /// Entries of a pinned map; `None` for a name that is not one.
    #[must_use]
    pub fn entries(&self, name: &str) -> Option<u32> {
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
        } = self.capacity;
        Some(match name {
            maps::SETTINGS => 1,
            // Two entries a flow: one for each direction.
            maps::FLOWS4 | maps::FLOWS6 => self.max_flows.saturating_mul(2),
            maps::FLOW_FILTER => FlowFilter::entries(self.max_flows),
            // A fraction of the established flows, and enough that the kernel's lists for each CPU do not starve.
            maps::TENTATIVE4 | maps::TENTATIVE6 => (self.max_flows / 2).max(MIN_TENTATIVE),
            maps::APPLICATIONS => applications,
            // Beside applications' addresses, those by which origins answer; two generations.
            maps::VIPS => vips,
            maps::ADDRESSES => Filter::WORDS,
            maps::POOLS => pools,
            maps::ORIGINS | maps::ORIGIN_TRAFFIC | maps::LOADS | maps::SWEPT | maps::PATH_MTUS => origins,
            maps::HOPS => hops,
            maps::SNAT_ADDRESSES => snat_addresses,
            maps::SLOTS => slots,
            maps::VERDICTS => maps::VERDICT_ROWS,
            maps::APPLICATION_TRAFFIC | maps::TIMEOUTS | maps::RATES => application_rows,
            maps::BUCKETS | maps::SETTLED => buckets,
            maps::SPANS => spans,
            maps::ACCESS => access_prefixes,
            maps::COUNTRY_RULES => country_rules,
            maps::COUNTRIES => country_prefixes,
            maps::ROUTES => routes,
            maps::SOURCE_RATES | maps::AFFINITY => clients,
            maps::FRAGMENTS => FRAGMENTS,
            maps::FRAGMENT_COUNT | maps::SWEPT_AT => 1,
            maps::INTERFACES => INTERFACES,
            _ => return None,
        })
    }
}

/// The loaded programs and their maps.
pub struct Loaded {
    pub ebpf: Ebpf,
    /// The map of the stages. The kernel empties it when its last descriptor and pin go.
    pub stages: ProgramArray<MapData>,
}

/// Loads the programs and joins them. With `pins`, maps are taken from that folder, or made and pinned there.
///
/// # Errors
/// When the kernel refuses a map or a program; the message carries what the verifier said last.
pub fn load(sizes: &MapSizes, pins: Option<&Path>) -> Result<Loaded> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for name in maps::PINNED {
        if let Some(entries) = sizes.entries(name) {
            loader.map_max_entries(name, entries.max(1));
        }
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    let mut ebpf = loader
        .load(OBJECT)
        .context("create the maps of the kernel program")?;
    let stages = ebpf
        .take_map(maps::STAGES)
        .context("the object has no map for its stages")?;
    let mut stages = ProgramArray::try_from(stages)?;
    let own = Stage::ALL.iter().map(|stage| (stage.index(), stage.program()));
    for (index, name) in own.chain([maps::REPORT]) {
        let program = program(&mut ebpf, name)?;
        program
            .load()
            .with_context(|| format!("load the kernel program `{name}`"))?;
        stages
            .set(index, program.fd()?, 0)
            .with_context(|| format!("make `{name}` a stage"))?;
    }
    Ok(Loaded { ebpf, stages })
}

/// A program of the object, by its name.
///
/// # Errors
/// When the object has no XDP program of that name.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no program `{name}`"))?;
    Ok(program.try_into()?)
}
