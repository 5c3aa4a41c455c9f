//! Objects of lb: the one that this tree has built, and earlier ones.

use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, ProgramArray};
use aya::{EbpfLoader, VerifierLogLevel};
use lb_common::abi::{AccessKey, AccessRule, Flow4, Flow6, FlowKey4, FlowKey6, PortSpan, Slot, maps};
use lb_common::datapath::Stage;
use lb_userspace::datapath::object::{self, Loaded, MapSizes, load};
use lb_userspace::datapath::pins::Pins;
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
    Earlier(Vec<u8>),
}

impl Object {
    /// Reads an earlier one: the object itself, or a binary of `lb`, in which it is embedded.
    ///
    /// # Errors
    /// It cannot be read, or there is none in it.
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
        Ok(Self::Earlier(object.to_vec()))
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
            Self::Earlier(bytes) => {
                load_earlier(bytes, sizes, pins.folder()).context("load the object to compare with")
            }
        }
    }
}

/// As [`load`] does with its own; stages that the object does not have stay out.
fn load_earlier(bytes: &[u8], sizes: &MapSizes, pins: &Path) -> Result<Loaded> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for name in maps::PINNED {
        if let Some(entries) = sizes.entries(name) {
            loader.map_max_entries(name, entries.max(1));
        }
        loader.map_pin_path(name, pins.join(name));
    }
    let mut ebpf = loader.load(bytes).context("create its maps")?;
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
    for (name, key, value) in LAYOUT {
        let map = MapData::from_pin(pins.join(name)).with_context(|| format!("its map {name}"))?;
        let info = map.info()?;
        ensure!(
            (info.key_size(), info.value_size()) == (key as u32, value as u32),
            "its map {name} is laid out in another way than this tree's, which fills it: they cannot be compared"
        );
    }
    Ok(Loaded { ebpf, stages })
}

/// Sizes of the entries of maps that are filled many at a time, where nobody else notices that they differ.
const LAYOUT: [(&str, usize, usize); 7] = [
    (maps::FLOWS4, size_of::<FlowKey4>(), size_of::<Flow4>()),
    (maps::FLOWS6, size_of::<FlowKey6>(), size_of::<Flow6>()),
    (maps::TENTATIVE4, size_of::<FlowKey4>(), size_of::<Flow4>()),
    (maps::TENTATIVE6, size_of::<FlowKey6>(), size_of::<Flow6>()),
    (maps::SLOTS, size_of::<u32>(), size_of::<Slot>()),
    (maps::SPANS, size_of::<u32>(), size_of::<PortSpan>()),
    // The length of the prefix comes first.
    (
        maps::ACCESS,
        size_of::<u32>() + size_of::<AccessKey>(),
        size_of::<AccessRule>(),
    ),
];

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
        let Object::Earlier(bytes) = Object::read(file.path()).unwrap() else {
            panic!("not an earlier one")
        };
        assert_eq!(bytes, object::OBJECT);
    }
}
