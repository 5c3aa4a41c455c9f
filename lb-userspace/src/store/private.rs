//! Files for the daemon's own user: headers of monitors hold secrets.

use anyhow::{Context, Result};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;

/// What the store's own files begin with.
const OWN: [&str; 4] = ["lb.redb", "objects.json", "health.json", "history.redb"];

/// Makes the folder, and has nobody else read what former versions left in it.
///
/// # Errors
/// When it cannot be made.
pub(super) fn folder(path: &Path) -> Result<()> {
    if !path.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER)
            .create(path)
            .with_context(|| format!("make the state folder {}", path.display()))?;
        return Ok(());
    }
    // What cannot be mended must not keep the daemon from starting.
    if let Err(error) = mend(path) {
        tracing::warn!(%error, folder = %path.display(), "others may be able to read the state folder");
    }
    Ok(())
}

fn mend(path: &Path) -> io::Result<()> {
    let mut is_shared = false;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let own = OWN
            .iter()
            .any(|own| name.as_encoded_bytes().starts_with(own.as_bytes()));
        match own && entry.file_type()?.is_file() {
            true => restrict(&entry.path(), FILE)?,
            false => is_shared = true,
        }
    }
    // A folder with other things in it is not lb's alone.
    match is_shared {
        true => Ok(()),
        false => restrict(path, FOLDER),
    }
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(path)?.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}

/// Makes a file, or empties the one that is there.
///
/// # Errors
/// When it cannot be written.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = open(OpenOptions::new().write(true).truncate(true), path)?;
    file.set_permissions(Permissions::from_mode(FILE))?;
    Ok(file)
}

/// Makes an empty file where there is none.
///
/// # Errors
/// When it cannot be made.
pub(super) fn reserve(path: &Path) -> io::Result<()> {
    open(OpenOptions::new().append(true), path).map(drop)
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.create(true).mode(FILE).open(path)
}

#[cfg(test)]
mod tests {
    use super::super::{History, Store, backup, open};
    use super::*;
    use lb_core::engine::Kept;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_reads_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("var/state");
        for _ in 0..2 {
            drop(open(&state));
            backup::write(&state, []).unwrap();
            Store::open(&state).unwrap().save(&Kept::default()).unwrap();
            drop(History::open(&state).unwrap());
            assert_eq!(mode(&state), 0o700);
            for name in ["lb.redb", "objects.json", "health.json", "history.redb"] {
                assert_eq!(mode(&state.join(name)), 0o600, "{name}");
                // What a former version left is mended by the next start.
                fs::set_permissions(state.join(name), Permissions::from_mode(0o644)).unwrap();
            }
            let aside = state.join("lb.redb.damaged-1");
            fs::write(&aside, "").unwrap();
            fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
            drop(open(&state));
            for name in ["lb.redb", "objects.json", "history.redb", "lb.redb.damaged-1"] {
                assert_eq!(mode(&state.join(name)), 0o600, "{name}");
            }
            assert_eq!(mode(&state), 0o700);
        }
        // A folder that others use as well stays as it is; lb's files in it do not.
        fs::write(state.join("theirs"), "").unwrap();
        for path in [state.clone(), state.join("lb.redb")] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        drop(open(&state));
        assert_eq!((mode(&state), mode(&state.join("lb.redb"))), (0o755, 0o600));
    }
}
