//! Balancers that are not lb, as an adapter describes them.

use crate::adapter::{Adapter, Bytes, Entry};
use crate::cases::{Case, Effect};
use crate::counters::Counters;
use crate::subject::Subject;
use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::{MapData, MapInfo, MapType, ProgramArray};
use aya::programs::ProgramFd;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_obj::ProgramSection;
use lb_userspace::datapath::object;
use lb_userspace::datapath::pins::Pins;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
/// Each CPU's part of a value begins at a multiple of so many bytes.
const PER_CPU_ALIGNMENT: usize = 8;

/// An object and its adapter.
pub struct Foreign {
    bytes: Vec<u8>,
    /// Those whose names the kernel takes: not the sections of global variables.
    maps: Vec<String>,
    /// Whether its programs take frames in several buffers.
    frags: bool,
    adapter: Rc<Adapter>,
}

impl Foreign {
    /// Reads both.
    ///
    /// # Errors
    /// One cannot be read, or the adapter names what the object does not have.
    pub fn read(object: &Path, adapter: &Path) -> Result<Self> {
        let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
        let foreign = Self::new(bytes, Adapter::read(adapter)?);
        foreign.with_context(|| format!("{} with the adapter {}", object.display(), adapter.display()))
    }

    fn new(bytes: Vec<u8>, adapter: Adapter) -> Result<Self> {
        let object =
            aya_obj::Object::parse(&bytes).map_err(|error| anyhow!("it is no BPF object: {error}"))?;
        let maps: Vec<String> = object
            .maps
            .into_keys()
            .filter(|name| !name.contains('.'))
            .collect();
        let called = adapter
            .programs
            .iter()
            .map(|call| ("programs", call.program.as_str()));
        let mut frags = Vec::new();
        for (field, name) in [("entry", adapter.entry.as_str())].into_iter().chain(called) {
            let section = object.programs.get(name).map(|program| &program.section);
            match section {
                Some(ProgramSection::Xdp { frags: own, .. }) => frags.push(*own),
                Some(_) => {
                    bail!("`{field}` names `{name}`, which is no XDP program; name one in a section `xdp`")
                }
                None => {
                    let mut names: Vec<&str> = object.programs.keys().map(String::as_str).collect();
                    names.sort_unstable();
                    bail!(
                        "`{field}` names `{name}`, which the object does not have; name one of its programs: {}",
                        names.join(", ")
                    )
                }
            }
        }
        let of_entries = adapter.entries.iter().map(|entry| ("entries", &entry.map));
        let of_programs = adapter.programs.iter().map(|call| ("programs", &call.map));
        let of_sizes = adapter.sizes.keys().map(|name| ("sizes", name));
        for (field, name) in of_entries.chain(of_programs).chain(of_sizes) {
            if !maps.contains(name) {
                let mut names: Vec<&str> = maps.iter().map(String::as_str).collect();
                names.sort_unstable();
                bail!(
                    "`{field}` names the map `{name}`, which the object does not have; name one of its maps: {}",
                    names.join(", ")
                );
            }
        }
        let first = frags[0];
        ensure!(
            frags.iter().all(|own| *own == first),
            "`programs` mixes sections `xdp` and `xdp.frags`: the kernel lets none call the other; take those of one kind"
        );
        Ok(Self {
            maps,
            frags: first,
            adapter: Rc::new(adapter),
            bytes,
        })
    }

    /// Whether it can do a case.
    pub fn serves(&self, case: &Case) -> bool {
        self.adapter.served(&case.name()).is_some()
    }

    /// Loads its programs and fills its maps.
    ///
    /// # Errors
    /// The kernel refuses something, or an entry does not fit into its map.
    pub fn load(&self, pins: &Pins) -> Result<Loaded> {
        let adapter = &self.adapter;
        let mut globals = Vec::new();
        for (name, value) in &adapter.globals {
            globals.push((name.as_str(), value.write(0, 1)?));
        }
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        for (name, value) in &globals {
            loader.override_global(name, value.as_slice(), true);
        }
        for (name, &entries) in &adapter.sizes {
            loader.map_max_entries(name, entries);
        }
        for name in &self.maps {
            loader.map_pin_path(name, pin(pins, name));
        }
        let mut ebpf = loader.load(&self.bytes).context(
            "create the maps of the object to compare with, with the adapter's `globals` and `sizes`",
        )?;
        let mut arrays = Vec::new();
        for call in &adapter.programs {
            let program = loaded(&mut ebpf, &call.program)?;
            let array = MapData::from_pin(pin(pins, &call.map))?;
            let array = aya::maps::Map::from_map_data(array)?;
            let mut array = ProgramArray::try_from(array)
                .with_context(|| format!("`programs` names the map `{}`: it holds no programs", call.map))?;
            array.set(call.index, &program, 0).with_context(|| {
                format!(
                    "`programs`: put `{}` at {} of `{}`",
                    call.program, call.index, call.map
                )
            })?;
            arrays.push(array);
        }
        for entry in &adapter.entries {
            write(entry, &pin(pins, &entry.map))?;
        }
        let entry = loaded(&mut ebpf, &adapter.entry)?;
        Ok(Loaded {
            entry,
            frags: self.frags,
            adapter: Rc::clone(adapter),
            _arrays: arrays,
            _ebpf: ebpf,
        })
    }
}

/// lb's maps may have the same names.
fn pin(pins: &Pins, name: &str) -> PathBuf {
    pins.map(&format!("foreign-{name}"))
}

/// A program, which is loaded when it is not.
fn loaded(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program = object::program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("load its `{name}`"))?;
    }
    Ok(program.fd()?.try_clone()?)
}

/// Writes an entry, or all that follow its rule.
fn write(entry: &Entry, pin: &Path) -> Result<()> {
    let map = MapData::from_pin(pin)?;
    let info = map.info()?;
    let parts = parts(&info)?;
    for n in 0..entry.repeat {
        let key = fitting(entry, "key", &entry.key, n, info.key_size())?;
        let value = fitting(entry, "value", &entry.value, n, info.value_size())?;
        let value = match parts {
            None => value,
            Some(parts) => {
                let mut part = value;
                part.resize(part.len().next_multiple_of(PER_CPU_ALIGNMENT), 0);
                part.repeat(parts)
            }
        };
        update(&map, &key, &value).with_context(|| {
            format!(
                "the kernel takes no entry `{}` of the map `{}`, which has room for {} (`sizes` gives it more)",
                entry.key.text(),
                entry.map,
                info.max_entries()
            )
        })?;
    }
    Ok(())
}

/// Of a map with values of each CPU, how many a value has.
fn parts(info: &MapInfo) -> Result<Option<usize>> {
    Ok(match info.map_type()? {
        MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash => {
            Some(nr_cpus().map_err(|(_, error)| error)?)
        }
        _ => None,
    })
}

fn fitting(entry: &Entry, field: &str, bytes: &Bytes, n: u32, size: u32) -> Result<Vec<u8>> {
    let written = bytes.write(n, entry.repeat)?;
    ensure!(
        written.len() == size as usize,
        "`{field}` = `{}` of an entry of `{}` has {} bytes: those of that map have {size}; add or remove pieces (`zero 4` fills)",
        bytes.text(),
        entry.map,
        written.len()
    );
    Ok(written)
}

/// The element commands' part of `union bpf_attr`.
#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Writes an entry whose size only the map knows; both have been compared with it.
fn update(map: &MapData, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut element = Element {
        map: map.fd().as_fd().as_raw_fd() as u32,
        reserved: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the attribute is a prefix of `union bpf_attr`; key and value outlive the call and are as long as the map's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_ELEM,
            &raw mut element,
            size_of::<Element>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// One that is ready.
pub struct Loaded {
    entry: ProgramFd,
    frags: bool,
    adapter: Rc<Adapter>,
    // The kernel empties maps of programs when their last descriptor goes.
    _arrays: Vec<ProgramArray<MapData>>,
    _ebpf: Ebpf,
}

impl Subject for Loaded {
    fn entry(&self) -> Result<ProgramFd> {
        Ok(self.entry.try_clone()?)
    }

    fn takes_frags(&self) -> bool {
        self.frags
    }

    fn effect(&self, case: &Case) -> Effect {
        let served = self.adapter.served(&case.name());
        served.map_or_else(
            || case.effect(),
            |served| Effect {
                action: served.action.0,
                growth: served.growth,
                counts_hop: served.takes_ttl,
            },
        )
    }

    /// Where they leave by stands in its maps.
    fn leave_by(&mut self, _: u32) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    fn needless(&self) -> Result<u64> {
        Ok(0)
    }

    fn amiss(&self, _: &Case, _: &[u32]) -> Result<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// lb's own object stands for any.
    fn refusal(adapter: &str) -> String {
        let adapter = format!("{adapter}\ncases = [{{ names = [\"tcp v4 in\"], action = \"TX\" }}]");
        let adapter = toml::from_str(&adapter).unwrap();
        match Foreign::new(object::OBJECT.to_vec(), adapter) {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn an_adapter_names_what_the_object_has() {
        assert_eq!(refusal("entry = \"lb_send\""), "");
        let words = refusal("entry = \"lb_unknown\"");
        assert!(words.starts_with("`entry` names `lb_unknown`, which the object does not have"));
        assert!(words.contains("lb_send"), "{words}");
        let words = refusal("entry = \"lb_send\"\nsizes.FLOWS5 = 1");
        assert!(words.starts_with("`sizes` names the map `FLOWS5`"));
        assert!(words.contains("FLOWS4"), "{words}");
    }
}
