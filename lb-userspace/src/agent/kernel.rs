//! The agent's kernel programs: loading, attaching by pinned links, detaching, and what their maps hold.
//!
//! `/sys/fs/bpf/lb-agent/IFINDEX-NETNS/` holds the maps by name and a file for each link, so that origins go on being
//! served when an agent dies. The next one takes the links over, with maps of its own.

use crate::datapath::pins::{self, Mode};
use crate::datapath::sys;
use crate::net::interface::Interface;
use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use lb_common::abi::Ip;
use lb_common::tunnel::{Local, Outcome, Roles, maps};
use lb_core::model::Prefix;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// The object that build.rs made of lb-ebpf's agent.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-agent.bpf.o"));

/// The maps that are pinned, for `lb origin-agent status`.
const PINNED: [&str; 2] = [maps::LOCALS, maps::OUTCOMES];
const ROOT: &str = "/sys/fs/bpf/lb-agent";
const CLAMP_LINK: &str = "link-clamp";
const MODES: [Mode; 2] = [Mode::Native, Mode::Generic];

/// What the programs are told when they are loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// UDP port that carries GUE.
    pub gue_port: u16,
    /// Largest packet on the way from the nodes; 0: the MSS is not clamped.
    pub path_mtu: u32,
    /// Addresses that there is room for.
    pub addresses: u32,
    /// Prefixes that tunnels may come from.
    pub nodes: Vec<Prefix>,
}

/// Where an agent's maps and links are pinned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    pub ifindex: u32,
    path: PathBuf,
}

impl Folder {
    /// The folder of an interface in this network namespace, whether it is there or not.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn of(ifindex: u32) -> Result<Self> {
        let path = Path::new(ROOT).join(format!("{ifindex}-{}", pins::network_namespace()?));
        Ok(Self { ifindex, path })
    }

    /// The folders of this network namespace.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn all() -> Result<Vec<Self>> {
        let entries = match fs::read_dir(ROOT) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("look for agents in {ROOT}"))?,
        };
        let netns = pins::network_namespace()?.to_string();
        let ours = |path: PathBuf| {
            let (ifindex, rest) = path.file_name()?.to_str()?.split_once('-')?;
            let ifindex = ifindex.parse().ok().filter(|_| rest == netns)?;
            Some(Self { ifindex, path })
        };
        Ok(entries.flatten().filter_map(|entry| ours(entry.path())).collect())
    }

    /// Makes it when it is not there.
    ///
    /// # Errors
    /// Without the privilege to.
    pub fn make(&self) -> Result<()> {
        pins::mount()?;
        fs::create_dir_all(&self.path).with_context(|| format!("make {}", self.path.display()))
    }

    /// Whether an agent has been here.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes this process the one that has it, until the file is closed; `None`: another process has it.
    ///
    /// # Errors
    /// It is not there.
    pub fn lock(&self) -> Result<Option<File>> {
        let file = File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        Ok(locked.is_ok().then_some(file))
    }

    fn link(&self, mode: Mode) -> PathBuf {
        self.path.join(format!("link-{}", mode.name()))
    }

    /// How the program that decapsulates is attached, if it is.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        MODES.into_iter().find(|mode| self.link(*mode).exists())
    }

    fn map(&self, name: &str) -> Result<Map> {
        let path = self.path.join(name);
        let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Map::from_map_data(data)?)
    }

    /// The addresses that the programs know.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn locals(&self) -> Result<BTreeMap<IpAddr, Local>> {
        let map: HashMap<MapData, Ip, Local> = self.map(maps::LOCALS)?.try_into()?;
        map.iter()
            .map(|entry| entry.map(|(ip, local)| (ip.into(), local)))
            .collect::<Result<_, _>>()
            .context("read the addresses")
    }

    /// Packets by what became of them.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>> {
        let map: PerCpuArray<MapData, u64> = self.map(maps::OUTCOMES)?.try_into()?;
        let rows = Outcome::ALL.iter().map(|outcome| (outcome.name(), outcome.row()));
        rows.chain([("clamped", maps::CLAMPED_ROW)])
            .map(|(name, row)| Ok((name, map.get(&row, 0)?.iter().sum())))
            .collect()
    }

    /// Detaches both programs from the interface and removes all pins. `name` is what it is called now; `None`: it has
    /// gone, and the links with it.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn remove(&self, name: Option<&str>) -> Result<()> {
        if let Some(name) = name {
            release_filter(name);
        }
        for entry in fs::read_dir(&self.path)
            .with_context(|| format!("look into {}", self.path.display()))?
            .flatten()
        {
            self.unpin(&entry.path())?;
        }
        fs::remove_dir(&self.path).with_context(|| format!("remove {}", self.path.display()))?;
        // Goes with its last entry.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }

    fn unpin(&self, path: &Path) -> Result<()> {
        let is_link = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("link-"));
        if is_link {
            // A link whose interface has gone is detached already.
            let _ = sys::detach_pinned_link(path);
        }
        fs::remove_file(path).with_context(|| format!("remove the pin {}", path.display()))
    }
}

/// The loaded programs.
pub struct Programs {
    ebpf: Ebpf,
    locals: HashMap<MapData, Ip, Local>,
}

/// How the program that clamps is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Egress {
    /// By a link (Linux 6.6 and later).
    Tcx,
    /// As a filter of the `clsact` queueing discipline.
    Filter,
}

impl Programs {
    /// Loads the programs with new maps; those of a former agent lose their pins.
    ///
    /// # Errors
    /// When the kernel refuses a map or a program; the message carries what the verifier said last.
    pub fn load(settings: &Settings, folder: Option<&Folder>) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries(maps::LOCALS, settings.addresses)
            .map_max_entries(maps::NODES, settings.nodes.len().max(1) as u32)
            .override_global(maps::GUE_PORT, &settings.gue_port, true)
            .override_global(maps::PATH_MTU, &settings.path_mtu, true);
        for name in PINNED {
            if let Some(folder) = folder {
                let path = folder.path.join(name);
                // Not there is as good.
                let _ = fs::remove_file(&path);
                loader.map_pin_path(name, path);
            }
        }
        let mut ebpf = loader
            .load(OBJECT)
            .context("create the maps of the agent's programs")?;
        let nodes = ebpf
            .map_mut(maps::NODES)
            .context("the object has no map for nodes")?;
        let mut nodes: LpmTrie<_, Ip, u32> = nodes.try_into()?;
        for prefix in &settings.nodes {
            let mapped = if prefix.address().is_ipv4() { 96 } else { 0 };
            let key = Key::new(mapped + u32::from(prefix.length()), prefix.address().into());
            nodes
                .insert(&key, 1, 0)
                .with_context(|| format!("let tunnels come from {prefix}"))?;
        }
        xdp(&mut ebpf)?
            .load()
            .with_context(|| format!("load the kernel program `{}`", maps::DECAPSULATE))?;
        classifier(&mut ebpf)?
            .load()
            .with_context(|| format!("load the kernel program `{}`", maps::CLAMP))?;
        let locals = ebpf
            .take_map(maps::LOCALS)
            .context("the object has no map for addresses")?;
        Ok(Self {
            ebpf,
            locals: locals.try_into()?,
        })
    }

    /// Makes these the addresses that the programs know. What they have learnt of those that stay is kept.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn set_locals(&mut self, wanted: &BTreeMap<IpAddr, Roles>) -> Result<()> {
        let known: Vec<Ip> = self.locals.keys().collect::<Result<_, _>>()?;
        for address in known {
            if !wanted.contains_key(&address.into()) {
                self.locals.remove(&address)?;
            }
        }
        for (address, roles) in wanted {
            let key = Ip::from(*address);
            let overhead = self.locals.get(&key, 0).map_or(0, |local| local.overhead);
            let local = Local {
                roles: *roles,
                overhead,
            };
            self.locals
                .insert(key, local, 0)
                .with_context(|| format!("{} addresses are more than there is room for", wanted.len()))?;
        }
        Ok(())
    }

    /// The program that decapsulates, for tests.
    ///
    /// # Errors
    /// The object has none.
    pub fn decapsulating(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.ebpf)
    }

    /// The program that clamps, for tests.
    ///
    /// # Errors
    /// The object has none.
    pub fn clamping(&mut self) -> Result<&mut SchedClassifier> {
        classifier(&mut self.ebpf)
    }

    /// Everything that was loaded.
    #[must_use]
    pub fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    /// Attaches the program that decapsulates, in the place of a former agent's where there is one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_decapsulating(&mut self, folder: &Folder, interface: &Interface) -> Result<Mode> {
        let program = xdp(&mut self.ebpf)?;
        if let Some(mode) = folder.mode() {
            let path = folder.link(mode);
            let replaced = PinnedLink::from_pin(&path)
                .and_then(|link| XdpLink::try_from(FdLink::from(link)))
                .map_err(anyhow::Error::from)
                .and_then(|link| Ok(program.attach_to_link(link)?));
            match replaced {
                Ok(_) => return Ok(mode),
                // The interface was deleted and another one has its number.
                Err(error) => info!(%error, "the pinned link is dead: attaching anew"),
            }
            folder.unpin(&path)?;
        }
        let mut attach = |mode| -> Result<()> {
            let flags = match mode {
                Mode::Native => XdpMode::Driver,
                Mode::Generic => XdpMode::Skb,
            };
            let id = program.attach_to_if_index(interface.index, flags)?;
            let link: FdLink = program.take_link(id)?.try_into()?;
            link.pin(folder.link(mode)).context("pin the link")?;
            Ok(())
        };
        let name = &interface.name;
        match attach(Mode::Native) {
            Ok(()) => Ok(Mode::Native),
            Err(error) => {
                warn!(
                    interface = name,
                    error = %format!("{error:#}"),
                    "the driver does not run XDP programs: falling back to generic mode, which is slower"
                );
                attach(Mode::Generic).map(|()| Mode::Generic).with_context(|| {
                    format!(
                        "attach the program to {name} (is another XDP program attached? \
                         `ip link show dev {name}` tells; `ip link set dev {name} xdp off` removes it)"
                    )
                })
            }
        }
    }

    /// Attaches the program that clamps, in the place of a former agent's where there is one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_clamping(&mut self, folder: &Folder, interface: &Interface, egress: Egress) -> Result<()> {
        let program = classifier(&mut self.ebpf)?;
        let path = folder.path.join(CLAMP_LINK);
        let name = &interface.name;
        if path.exists() {
            let replaced = PinnedLink::from_pin(&path)
                .and_then(|link| SchedClassifierLink::try_from(FdLink::from(link)))
                .map_err(anyhow::Error::from)
                .and_then(|link| Ok(program.attach_to_link(link)?));
            match replaced {
                Ok(_) => return Ok(()),
                Err(error) => info!(%error, "the pinned link is dead: attaching anew"),
            }
            folder.unpin(&path)?;
        }
        release_filter(name);
        match egress {
            Egress::Tcx => {
                let options = TcAttachOptions::TcxOrder(LinkOrder::default());
                let id = program.attach_with_options(name, TcAttachType::Egress, options)?;
                let link: FdLink = program.take_link(id)?.try_into()?;
                link.pin(&path).context("pin the link")?;
            }
            Egress::Filter => {
                // There already is as good. It stays when we go: others may have come to use it.
                let _ = tc::qdisc_add_clsact(name);
                let options = TcAttachOptions::Netlink(NlOptions::default());
                let id = program.attach_with_options(name, TcAttachType::Egress, options)?;
                // It outlives this process, as a pinned link does.
                std::mem::forget(program.take_link(id)?);
            }
        }
        Ok(())
    }
}

/// Removes the filter that an agent has left; there is none where the kernel has links for it.
fn release_filter(interface: &str) {
    let _ = tc::qdisc_detach_program(interface, TcAttachType::Egress, maps::CLAMP);
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(maps::DECAPSULATE);
    Ok(program
        .context("the object has no program that decapsulates")?
        .try_into()?)
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = ebpf.program_mut(maps::CLAMP);
    Ok(program
        .context("the object has no program that clamps")?
        .try_into()?)
}
