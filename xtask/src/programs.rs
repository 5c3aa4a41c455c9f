//! The kernel programs of tests and benchmark (`tests/bpf`), which are no part of the product.

#[path = "../../lb-userspace/bpf_build.rs"]
mod bpf_build;

use crate::workspace::{root, target_dir};
use anyhow::Result;
use bpf_build::Machine;
use std::env;
use std::path::PathBuf;

/// Builds them and returns the folder that they are in, by their names.
///
/// # Errors
/// No compiler fits, or a program does not build.
pub fn build() -> Result<PathBuf> {
    eprint!("build kernel programs … ");
    let machine = Machine {
        arch: env::consts::ARCH.into(),
        little_endian: cfg!(target_endian = "little"),
    };
    let objects = bpf_build::build("lb-bench-ebpf", &machine, &root(), &target_dir().join("bench"))?;
    eprintln!("ok");
    Ok(objects)
}
