//! Where programs, maps and links are pinned, so that they outlive the daemon.
//!
//! `/sys/fs/bpf/lb/NODE/vABI/` holds the maps by name, the stages, and a file for each link:
//! `link-MODE-IFINDEX-NETNS`, where NETNS is the inode of the network namespace the interface lives in.

use anyhow::{Context, Result};
use lb_common::abi::ABI_VERSION;
use rustix::fs::{FsWord, statfs};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const BPFFS: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC (include/uapi/linux/magic.h).
const BPFFS_MAGIC: FsWord = 0xcafe_4a11_u32 as FsWord;

/// How a link is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Native,
    Generic,
}

impl Mode {
    /// The word used in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The folder of one node.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
}

/// A pinned link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkPin {
    pub mode: Mode,
    pub ifindex: u32,
    pub netns: u64,
    pub path: PathBuf,
}

impl Pins {
    /// The folder of `node`, made when it is missing; the BPF file system is mounted when it is not.
    ///
    /// # Errors
    /// Without the privilege to mount or to write there.
    pub fn open(node: &str) -> Result<Self> {
        mount()?;
        let pins = Self::of(node);
        fs::create_dir_all(&pins.folder)
            .with_context(|| format!("make the pin folder {}", pins.folder.display()))?;
        Ok(pins)
    }

    /// The folder of `node`, whether it is there or not.
    #[must_use]
    pub fn of(node: &str) -> Self {
        Self {
            folder: root().join(encode(node)).join(format!("v{ABI_VERSION}")),
        }
    }

    /// The number of the layout; `None` for a folder that is not named as lb names them.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        let name = self.folder.file_name()?.to_str()?;
        name.strip_prefix('v')?.parse().ok()
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folders of this node that are there, of whatever layout.
    #[must_use]
    pub fn layouts(&self) -> Vec<PathBuf> {
        let Some(Ok(entries)) = self.folder.parent().map(fs::read_dir) else {
            return Vec::new();
        };
        let mut folders: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|folder| folder.is_dir())
            .collect();
        folders.sort();
        folders
    }

    /// Where the map or program array `name` is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a link is pinned.
    #[must_use]
    pub fn link(&self, mode: Mode, ifindex: u32, netns: u64) -> PathBuf {
        self.folder
            .join(format!("link-{}-{ifindex}-{netns}", mode.name()))
    }

    /// All pinned links of the node.
    #[must_use]
    pub fn links(&self) -> Vec<LinkPin> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| parse(&entry.path()))
            .collect()
    }

    /// Removes all pins in the folder.
    ///
    /// # Errors
    /// The first file that could not be removed.
    pub fn clear(&self) -> io::Result<()> {
        // bpffs has no recursive removal of its own, and nothing but files in this folder.
        for entry in fs::read_dir(&self.folder)?.flatten() {
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }

    /// Removes the folder and all pins in it.
    ///
    /// # Errors
    /// The first file that could not be removed.
    pub fn remove(&self) -> io::Result<()> {
        self.clear()?;
        fs::remove_dir(&self.folder)?;
        // The node's folder, and the root, go with their last entry.
        for folder in self.folder.ancestors().skip(1).take(2) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Whether pins could be seen if there were any.
    ///
    /// # Errors
    /// Without the privilege to look.
    pub fn readable() -> Result<()> {
        match fs::read_dir(root()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(error).with_context(|| format!("look for pins in {}", root().display()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The folders of all nodes on this machine, of any layout.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let Ok(nodes) = fs::read_dir(root()) else {
            return Vec::new();
        };
        let nodes = nodes.flatten().map(|node| Self {
            folder: node.path().join(format!("v{ABI_VERSION}")),
        });
        nodes.flat_map(|node| node.all_layouts()).collect()
    }

    /// The folders of the same node, of any layout.
    #[must_use]
    pub fn all_layouts(&self) -> Vec<Self> {
        let folders = self.layouts().into_iter();
        folders.map(|folder| Self { folder }).collect()
    }
}

fn root() -> PathBuf {
    Path::new(BPFFS).join("lb")
}

/// bpffs refuses names with dots, which host names have.
fn encode(node: &str) -> String {
    node.replace('%', "%25").replace('.', "%2e").replace('/', "%2f")
}

fn parse(path: &Path) -> Option<LinkPin> {
    let mut parts = path.file_name()?.to_str()?.strip_prefix("link-")?.split('-');
    let mode = match parts.next()? {
        "native" => Mode::Native,
        "generic" => Mode::Generic,
        _ => return None,
    };
    let ifindex = parts.next()?.parse().ok()?;
    let netns = parts.next()?.parse().ok()?;
    Some(LinkPin {
        mode,
        ifindex,
        netns,
        path: path.to_owned(),
    })
}

/// The inode of this process's network namespace: tells namespaces apart.
///
/// # Errors
/// When /proc is not there.
pub fn network_namespace() -> Result<u64> {
    let metadata =
        fs::metadata("/proc/thread-self/ns/net").context("read this process's network namespace")?;
    Ok(metadata.ino())
}

/// Mounts the BPF file system when it is not.
///
/// # Errors
/// Without the privilege to.
pub fn mount() -> Result<()> {
    if statfs(BPFFS).is_ok_and(|stat| stat.f_type == BPFFS_MAGIC) {
        return Ok(());
    }
    rustix::mount::mount("bpf", BPFFS, "bpf", rustix::mount::MountFlags::empty(), None)
        .with_context(|| format!("mount the BPF file system at {BPFFS} (mount -t bpf bpf {BPFFS})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_pins_are_read_back() {
        let pins = Pins::of("edge.example.com");
        assert!(!pins.folder().to_string_lossy().contains('.'));
        let path = pins.link(Mode::Native, 7, 4_026_531_840);
        let pin = LinkPin {
            mode: Mode::Native,
            ifindex: 7,
            netns: 4_026_531_840,
            path: path.clone(),
        };
        assert_eq!(parse(&path), Some(pin));
        assert_eq!(parse(&pins.map("FLOWS4")), None);
    }
}
