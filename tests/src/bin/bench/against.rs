//! Objects of lb: the one that this tree has built, and earlier ones.

use crate::cases::Build;
use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::ProgramArray;
use aya::{EbpfLoader, VerifierLogLevel};
use lb_common::abi::maps;
use lb_common::datapath::Stage;
use lb_userspace::datapath::object::{self, Loaded, MapSizes, load};
use lb_userspace::datapath::pins::Pins;
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

/// Offset and values of fields of an ELF header (System V ABI, 64 bits, little endian).
const ELF: &[u8] = b"\x7fELF\x02\x01\x01";
const MACHINE_AT: usize = 18;
const EM_BPF: u16 = 247;
const SECTIONS_AT: usize = 40;
const SECTION_SIZE_AT: usize = 58;

/// lb's kernel program.
pub enum Object {
    /// Of this tree.
    Own,
    Earlier(Earlier),
}

/// One whose maps are laid out as this tree's, so that the same programs fill them.
pub struct Earlier {
    bytes: Vec<u8>,
    /// Pinned maps of this tree that it does not have.
    missing: Vec<&'static str>,
}

impl Object {
    /// Reads an earlier one: the object itself, or a binary of `lb`, in which it is embedded.
    ///
    /// # Errors
    /// It cannot be read, there is none in it, or its maps are laid out in another way than this tree's.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let found = objects(&bytes).find(|object| {
            let name = Stage::Known.program().as_bytes();
            let first = [b"\0", name, b"\0"].concat();
            holds(object, &first) && holds(object, maps::STAGES.as_bytes())
        });
        let object = found.with_context(|| {
            format!(
                "{} is neither an object of lb's kernel program nor a binary of lb",
                path.display()
            )
        })?;
        let earlier = Earlier::new(object).with_context(|| format!("{}", path.display()))?;
        Ok(Self::Earlier(earlier))
    }

    /// Whose it is, and how it remembers flows.
    pub fn build(&self) -> Build {
        match self {
            Self::Own => Build::Present,
            Self::Earlier(earlier) if earlier.missing.contains(&maps::BUCKETS) => Build::Tracking,
            Self::Earlier(_) => Build::Earlier,
        }
    }

    /// What it lacks, and what follows from that, in words.
    pub fn lacks(&self) -> Option<String> {
        let Self::Earlier(Earlier { missing, .. }) = self else {
            return None;
        };
        if missing.is_empty() {
            return None;
        }
        let tracking = if self.build() == Build::Tracking {
            ". Its TCP flows that origins answer directly have entries, and are measured with them"
        } else {
            ""
        };
        let names = missing.join(", ");
        Some(format!(
            "the object to compare with has no {names}: maps of these names are made and filled, and it does not look in them{tracking}"
        ))
    }

    /// Writes this tree's object to a file, to compare later ones with.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn export(path: &Path) -> Result<()> {
        std::fs::write(path, object::OBJECT).with_context(|| format!("write {}", path.display()))
    }

    /// Loads all its programs with maps that are pinned in a folder.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub fn load(&self, sizes: &MapSizes, pins: &Pins) -> Result<Loaded> {
        match self {
            Self::Own => load(sizes, Some(pins.folder())),
            Self::Earlier(earlier) => earlier
                .load(sizes, pins)
                .context("load the object to compare with"),
        }
    }
}

impl Earlier {
    /// Checks that what fills this tree's maps can fill its own.
    fn new(object: &[u8]) -> Result<Self> {
        let (own, its) = (layouts(object::OBJECT)?, layouts(object)?);
        let mut missing = Vec::new();
        for name in maps::PINNED {
            let own = own
                .get(name)
                .with_context(|| format!("this tree has no map {name}"))?;
            match its.get(name) {
                Some(its) => ensure!(
                    its == own,
                    "its map {name} is laid out in another way than this tree's, which fills it: {its} there, {own} here. \
                     They cannot be compared: take an object of a later commit"
                ),
                None => missing.push(name),
            }
        }
        let bytes = object.to_vec();
        Ok(Self { bytes, missing })
    }

    /// As [`load`] does with its own; stages that the object does not have stay out, and maps that it does not have are made
    /// as this tree's, so that everybody finds them.
    fn load(&self, sizes: &MapSizes, pins: &Pins) -> Result<Loaded> {
        let mut ebpf = loader(sizes, pins).load(&self.bytes).context("create its maps")?;
        if !self.missing.is_empty() {
            // Those that are pinned already stay; of the others only the pins are needed.
            loader(sizes, pins)
                .load(object::OBJECT)
                .context("create the maps that it does not have")?;
        }
        let stages = ebpf.take_map(maps::STAGES).context("it has no map of stages")?;
        let mut stages = ProgramArray::try_from(stages)?;
        let own = Stage::ALL.iter().map(|stage| (stage.index(), stage.program()));
        let mut loaded = 0;
        for (index, name) in own.chain([maps::REPORT]) {
            let Ok(program) = object::program(&mut ebpf, name) else {
                continue;
            };
            program.load().with_context(|| format!("load its `{name}`"))?;
            stages.set(index, program.fd()?, 0)?;
            loaded += 1;
        }
        ensure!(loaded > 0, "it has none of the stages");
        Ok(Loaded { ebpf, stages })
    }
}

/// One that pins what lb pins.
fn loader(sizes: &MapSizes, pins: &Pins) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for name in maps::PINNED {
        if let Some(entries) = sizes.entries(name) {
            loader.map_max_entries(name, entries.max(1));
        }
        loader.map_pin_path(name, pins.map(name));
    }
    loader
}

/// Kind of a map, and bytes of its entries.
#[derive(PartialEq, Eq, Debug)]
struct Layout {
    /// `enum bpf_map_type` (include/uapi/linux/bpf.h).
    kind: u32,
    key: u32,
    value: u32,
}

impl Display for Layout {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { kind, key, value } = self;
        write!(f, "type {kind}, keys of {key} bytes, values of {value}")
    }
}

/// Those of all maps of an object.
fn layouts(object: &[u8]) -> Result<HashMap<String, Layout>> {
    let object = aya_obj::Object::parse(object).map_err(|error| anyhow!("read an object: {error}"))?;
    let layout = |map: aya_obj::Map| Layout {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
    };
    let maps = object.maps.into_iter();
    Ok(maps.map(|(name, map)| (name, layout(map))).collect())
}

/// BPF objects in a file, each up to the end of its table of sections, which stands last.
fn objects(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts = bytes.windows(ELF.len()).enumerate();
    let starts = starts.filter(|(_, window)| *window == ELF);
    starts.filter_map(|(at, _)| {
        let rest = &bytes[at..];
        let half = |at: usize| Some(u16::from_le_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u64::from_le_bytes(rest.get(at..at + 8)?.try_into().ok()?));
        if half(MACHINE_AT)? != EM_BPF {
            return None;
        }
        let sections = usize::from(half(SECTION_SIZE_AT)?) * usize::from(half(SECTION_SIZE_AT + 2)?);
        let end = usize::try_from(word(SECTIONS_AT)?).ok()?.checked_add(sections)?;
        rest.get(..end)
    })
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_where_it_is_embedded() {
        let mut binary = vec![0x90; 1000];
        // Of another machine, as a binary's own header.
        binary.extend_from_slice(ELF);
        binary.extend_from_slice(&[0; 100]);
        binary.extend_from_slice(object::OBJECT);
        binary.extend_from_slice(&[7; 50]);
        let found: Vec<&[u8]> = objects(&binary).collect();
        assert_eq!(found, [object::OBJECT]);
    }

    #[test]
    fn what_holds_no_object_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\x7fELF\x02\x01\x01 nothing").unwrap();
        assert!(Object::read(file.path()).is_err());
        Object::export(file.path()).unwrap();
        let object = Object::read(file.path()).unwrap();
        assert_eq!((object.build(), object.lacks()), (Build::Earlier, None));
        let Object::Earlier(earlier) = object else {
            panic!("not an earlier one")
        };
        assert_eq!(earlier.bytes, object::OBJECT);
    }

    #[test]
    fn what_an_object_lacks_is_said() {
        let without = |missing| {
            Object::Earlier(Earlier {
                bytes: Vec::new(),
                missing,
            })
        };
        let filter = without(vec![maps::FLOW_FILTER]);
        assert_eq!(filter.build(), Build::Earlier);
        assert!(filter.lacks().unwrap().contains("has no FLOW_FILTER:"));
        let buckets = without(vec![maps::BUCKETS, maps::SETTLED]);
        assert_eq!(buckets.build(), Build::Tracking);
        assert!(buckets.lacks().unwrap().contains("have entries"));
    }

    #[test]
    fn all_that_is_pinned_has_a_layout() {
        let layouts = layouts(object::OBJECT).unwrap();
        for name in maps::PINNED {
            assert!(layouts[name].key > 0 && layouts[name].value > 0, "{name}");
        }
    }
}
