//! `lb attach` and `lb detach`.

use super::check::{self, ConfigFile};
use super::run::interface;
use super::{Failure, Global, log};
use crate::daemon;
use clap::Args;
use std::path::PathBuf;

/// Attach without a daemon: pin, fill the tables once and exit; forwarding goes on
///
/// There are no monitors: every enabled origin counts as up. `lb run` takes it over later.
#[derive(Args, Debug)]
pub(super) struct Attach {
    /// Interface to attach to
    #[arg(value_name = "IF", value_parser = interface)]
    interface: String,
    #[command(flatten)]
    file: ConfigFile,
}

impl Attach {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        log::start(global)?;
        let loaded = check::load(&self.file.config, global)?;
        daemon::attach(loaded, self.interface)
    }
}

/// Remove programs, pins and everything else that lb added
#[derive(Args, Debug)]
pub(super) struct Detach {
    /// Only this interface; default: all that lb attached to in this network namespace
    #[arg(value_name = "IF", value_parser = interface)]
    interface: Option<String>,
    /// Configuration file of the node that is meant; default: every node of this network namespace
    // Not from LB_CONFIG: removing lb must not fail because a file that nobody named is invalid.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Detach {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        log::start(global)?;
        let loaded = self.config.map(|path| check::load(&path, global)).transpose()?;
        daemon::detach(self.interface, loaded)
    }
}
