//! Builds the kernel program (`lb-ebpf`) and embeds it: one `cargo build` makes everything.

mod bpf_build;

use anyhow::{Context, Result};
use bpf_build::Machine;
use std::env;
use std::path::{Path, PathBuf};

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
    let object = bpf_build::build("lb-ebpf", "lb", &machine, &root, &out)?;
    // One name for all: the program is included from here.
    std::fs::copy(&object, out.join("lb.bpf.o")).with_context(|| format!("copy {}", object.display()))?;
    Ok(())
}
