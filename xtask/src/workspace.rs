//! Where things are: the tree, the target directory, programs in PATH; and who runs us.

use std::env;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Top of the source tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target directory: this program is in `<target>/debug/`, wherever the user put it.
pub fn target_dir() -> PathBuf {
    let own = env::current_exe().ok();
    let found = own.as_deref().and_then(Path::parent).and_then(Path::parent);
    found.map_or_else(|| root().join("target"), Path::to_path_buf)
}

/// The release build of `lb`.
pub fn lb_binary() -> PathBuf {
    target_dir().join("release/lb")
}

/// `cargo` at the top of the tree, building into the same target directory as this program.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("CARGO_TARGET_DIR", target_dir());
    command
}

/// Whether the effective user is root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

/// Whether a missing capability is a failure rather than a skip.
pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// The program of that name in PATH, or where Debian keeps what only root runs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| {
            file.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}
