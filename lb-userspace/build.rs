//! Builds the kernel program (`lb-ebpf`) and embeds it: one `cargo build` makes everything.
//!
//! cargo is called directly, with a toolchain that has the sources of `core`: the BPF target has no prebuilt one.
//! `LB_BPF_TOOLCHAIN` names a rustup toolchain, or the prefix of an installed compiler such as `/usr`.

use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

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

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=LB_BPF_TOOLCHAIN");
    println!("cargo:rerun-if-changed=build.rs");
    for watched in ["src", "Cargo.toml"] {
        println!("cargo:rerun-if-changed=../lb-ebpf/{watched}");
        println!("cargo:rerun-if-changed=../lb-common/{watched}");
    }
    let own = env::var("LB_BPF_TOOLCHAIN").ok();
    let candidates = own.as_deref().into_iter().chain(["nightly", "stable", "/usr"]);
    let Some(toolchain) = candidates.map(Toolchain::named).find(Toolchain::has_core_sources) else {
        bail!(
            "no Rust toolchain with the sources of `core` was found (they build the kernel program): \
             run `cargo xtask setup`, or add the rust-src component to a rustup toolchain"
        );
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set by cargo")?);
    let object = build(&toolchain, &out)?;
    // One name for all: the program is included from here.
    std::fs::copy(&object, out.join("lb.bpf.o")).with_context(|| format!("copy {}", object.display()))?;
    Ok(())
}

fn build(toolchain: &Toolchain, out: &Path) -> Result<PathBuf> {
    let little = env::var("CARGO_CFG_TARGET_ENDIAN").context("CARGO_CFG_TARGET_ENDIAN")? == "little";
    let target = if little {
        "bpfel-unknown-none"
    } else {
        "bpfeb-unknown-none"
    };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH")?;
    let root = Path::new("..").canonicalize().context("find the workspace")?;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
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
            "lb-ebpf",
            "--bins",
            "--profile",
            "bpf",
            "-Zbuild-std=core",
            "--target",
            target,
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(&root)
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
    ] {
        command.env_remove(inherited);
    }
    if let Toolchain::Prefix(prefix) = toolchain {
        command.env("RUSTC", prefix.join("bin/rustc"));
    }
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "the kernel program does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(target_dir.join(target).join("bpf").join("lb"))
}
