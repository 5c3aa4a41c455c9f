//! `lb version`.

use super::{Failure, Global, output};
use crate::wire::{API_VERSION, Version};
use clap::Args;
use lb_common::abi::ABI_VERSION;

/// Print the version
#[derive(Args, Debug)]
#[command(name = "version")]
pub(super) struct VersionArgs {}

impl VersionArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        match global.json {
            true => output::print_json(&Version {
                version: version.to_owned(),
                abi_version: ABI_VERSION,
                api_version: API_VERSION,
            }),
            false => output::print(&format!(
                "lb {version} (map layout {ABI_VERSION}, API {API_VERSION})\n"
            )),
        }
    }
}
