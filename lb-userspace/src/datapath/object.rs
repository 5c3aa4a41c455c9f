//! The embedded program: loading it with maps of the wanted sizes, new or pinned.

use anyhow::{Context, Result};
use aya::maps::{MapData, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use lb_common::abi::maps::{self, STAGE_KNOWN, STAGE_OPEN};
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

impl MapSizes {
    /// Entries of a pinned map; `None` for a name that is not one.
    #[must_use]
    pub fn entries(&self, name: &str) -> Option<u32> {
        let Capacity {
            applications,
            pools,
            origins,
            hops,
            snat_addresses,
            slots,
            application_rows,
        } = self.capacity;
        Some(match name {
            maps::SETTINGS => 1,
            // Two entries a flow: one for each direction.
            maps::FLOWS4 | maps::FLOWS6 => self.max_flows.saturating_mul(2),
            maps::APPLICATIONS => applications,
            maps::POOLS => pools,
            maps::ORIGINS | maps::ORIGIN_TRAFFIC => origins,
            maps::HOPS => hops,
            maps::SNAT_ADDRESSES => snat_addresses,
            maps::SLOTS => slots,
            maps::VERDICTS => maps::VERDICT_ROWS,
            maps::APPLICATION_TRAFFIC => application_rows,
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
    for (index, name) in [STAGE_KNOWN, STAGE_OPEN] {
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
