//! Builds the kernel programs (`lb-ebpf`) and embeds them: one `cargo build` makes everything.

mod bpf_build;

use anyhow::{Context, Result};
use bpf_build::Machine;
use std::env;
use std::path::{Path, PathBuf};

/// The binaries of `lb-ebpf`.
const OBJECTS: [&str; 3] = ["lb", "lb-agent", "lb-probe"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=LB_BPF_TOOLCHAIN");
    for watched in ["build.rs", "bpf_build.rs"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    for watched in ["src", "Cargo.toml"] {
        println!("cargo:rerun-if-changed=../lb-ebpf/{watched}");
        println!("cargo:rerun-if-changed=../lb-common/{watched}");
    }
    let machine = Machine {
        arch: env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH")?,
        little_endian: env::var("CARGO_CFG_TARGET_ENDIAN").context("CARGO_CFG_TARGET_ENDIAN")? == "little",
    };
    let root = Path::new("..").canonicalize().context("find the workspace")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set by cargo")?);
    let objects = bpf_build::build("lb-ebpf", &machine, &root, &out)?;
    for name in OBJECTS {
        let object = objects.join(name);
        // Included from here.
        std::fs::copy(&object, out.join(format!("{name}.bpf.o")))
            .with_context(|| format!("copy {}", object.display()))?;
    }
    Ok(())
}
