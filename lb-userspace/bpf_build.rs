//! Builds the kernel programs of a package of this workspace. Included by this package's build script, and by what builds the programs
//! of the benchmark: they must come from the same compiler with the same flags.
//!
//! cargo is called directly, with a toolchain that has the sources of `core`: the BPF target has no prebuilt one.
//! `LB_BPF_TOOLCHAIN` names a rustup toolchain, or the prefix of an installed compiler such as `/usr`.

use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine that will run the program.
pub struct Machine {
    pub arch: String,
    pub little_endian: bool,
}

/// Builds the binaries of `package` and returns the folder that they are in, by their names.
///
/// # Errors
/// No compiler fits, or a program does not build.
pub fn build(package: &str, machine: &Machine, root: &Path, out: &Path) -> Result<PathBuf> {
    let own = env::var("LB_BPF_TOOLCHAIN").ok();
    let candidates = own.as_deref().into_iter().chain(["nightly", "stable", "/usr"]);
    let Some(toolchain) = candidates.map(Toolchain::named).find(Toolchain::has_core_sources) else {
        bail!(
            "no Rust toolchain with the sources of `core` was found (they build the kernel program): \
             run `cargo xtask setup`, or add the rust-src component to a rustup toolchain"
        );
    };
    let target = if machine.little_endian {
        "bpfel-unknown-none"
    } else {
        "bpfeb-unknown-none"
    };
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", machine.arch),
        // 32-bit instructions and jumps: kernel 5.12 and later.
        "-Ctarget-cpu=v3".into(),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Small copies as instructions, not as calls to a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
        // The object must not depend on where it was built.
        format!("--remap-path-prefix={}=lb", root.display()),
    ];
    let target_dir = out.join("bpf");
    let mut command = toolchain.command("cargo");
    command
        .args([
            "build",
            "--package",
            package,
            "--bins",
            "--profile",
            "bpf",
            "-Zbuild-std=core",
            "--target",
            target,
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // -Z flags are unstable, but the compiler need not be.
        .env("RUSTC_BOOTSTRAP", "1");
    // cargo sets these for build scripts; they would override the toolchain chosen above.
    for inherited in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "CARGO",
        "RUSTFLAGS",
        // Incremental builds inline less, and the stack has 512 bytes.
        "CARGO_INCREMENTAL",
    ] {
        command.env_remove(inherited);
    }
    if let Toolchain::Prefix(prefix) = toolchain {
        command.env("RUSTC", prefix.join("bin/rustc"));
    }
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "a kernel program of {package} does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(target_dir.join(target).join("bpf"))
}

/// Where the kernel program's compiler comes from.
enum Toolchain {
    Rustup(String),
    /// `bin/cargo` and `bin/rustc` under this prefix.
    Prefix(PathBuf),
}

impl Toolchain {
    fn named(name: &str) -> Self {
        if name.starts_with('/') {
            Self::Prefix(name.into())
        } else {
            Self::Rustup(name.into())
        }
    }

    fn command(&self, program: &str) -> Command {
        match self {
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, program]);
                command
            }
            Self::Prefix(prefix) => Command::new(prefix.join("bin").join(program)),
        }
    }

    fn has_core_sources(&self) -> bool {
        let output = self.command("rustc").args(["--print", "sysroot"]).output();
        output.is_ok_and(|output| {
            let sysroot = String::from_utf8_lossy(&output.stdout);
            output.status.success()
                && Path::new(sysroot.trim())
                    .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                    .exists()
        })
    }
}
