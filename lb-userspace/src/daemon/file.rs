//! Writing the configuration file: as a whole, and only over what is known to be there.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A new text beside the file, which takes its place in one step. It goes when it is not put there.
#[derive(Debug)]
pub struct Staged {
    /// The file itself, where the path is a symbolic link.
    path: PathBuf,
    new: PathBuf,
}

/// Why the file does not hold the new text.
#[derive(Debug)]
pub enum Unwritten {
    /// Somebody has changed it.
    Changed,
    Failed(anyhow::Error),
}

impl Staged {
    /// Writes the text beside the file, for the same owner and with the same mode.
    ///
    /// # Errors
    /// Why the file cannot be replaced.
    pub fn new(path: &Path, text: &str) -> Result<Self> {
        let path = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        if is_mount_point(&path) {
            bail!(
                "{} is a mount point, which cannot be replaced: mount its folder instead",
                path.display()
            );
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} is no file", path.display());
        };
        let new = folder.join(format!(".{}.lb-new", name.to_string_lossy()));
        let write = || -> Result<()> {
            let former = fs::metadata(&path)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(text.as_bytes())?;
            // A file of somebody else's stays theirs.
            std::os::unix::fs::fchown(&file, Some(former.uid()), Some(former.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(former.mode() & 0o7777))?;
            file.sync_all()?;
            Ok(())
        };
        let written = write();
        let staged = Self { path, new };
        written.with_context(|| format!("write {}", staged.new.display()))?;
        Ok(staged)
    }

    /// Replaces the file, if it still holds `instead_of`.
    ///
    /// # Errors
    /// Why it does not hold the new text.
    pub fn put(self, instead_of: &str) -> Result<(), Unwritten> {
        match fs::read(&self.path) {
            Ok(text) if text == instead_of.as_bytes() => {}
            Ok(_) => return Err(Unwritten::Changed),
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("read {}", self.path.display()));
                return Err(Unwritten::Failed(error));
            }
        }
        let replace = || -> Result<()> {
            fs::rename(&self.new, &self.path)?;
            let folder = self.path.parent().unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()?;
            Ok(())
        };
        replace()
            .with_context(|| format!("replace {}", self.path.display()))
            .map_err(Unwritten::Failed)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It has taken the file's place, or is of no use any more.
        let _ = fs::remove_file(&self.new);
    }
}

/// Whether something is mounted exactly there, as containers do with single files.
fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.any(|place| Path::new(place) == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_mode_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("real.toml"), folder.path().join("lb.toml"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.toml", &link).unwrap();
        let staged = Staged::new(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "old");
        staged.put("old").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        // Somebody was faster.
        let staged = Staged::new(&link, "newer").unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(matches!(staged.put("new"), Err(Unwritten::Changed)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "nothing is left over"
        );
        assert!(Staged::new(&folder.path().join("none"), "").is_err());
    }
}
