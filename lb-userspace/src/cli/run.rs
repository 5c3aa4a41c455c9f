//! `lb run`.

use super::check::{self, ConfigFile};
use super::{Exit, Failure, Global, log};
use crate::{config, daemon};
use clap::Args;

/// Run the daemon in the foreground: attach, monitor, steer, serve the API
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// Interface to attach to, instead of `datapath.interfaces`; may be repeated
    #[arg(short, long = "interface", value_name = "IF", value_parser = interface)]
    interfaces: Vec<String>,
    /// Take over from the daemon that runs this node, without losing a packet: a hot upgrade
    ///
    /// Everything that can be found out is found out before the running daemon is asked to leave. Without a running daemon
    /// this is an ordinary start.
    #[arg(long)]
    take_over: bool,
}

impl Run {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        log::start(global)?;
        let loaded = check::load(&self.file.config, global)?;
        if self.interfaces.is_empty() && loaded.config.datapath.interfaces.is_empty() {
            let message = "no interface to attach to: give --interface IF or set `datapath.interfaces`";
            return Err(Failure::new(Exit::Usage, message));
        }
        daemon::run(self.file.config, loaded, self.interfaces, self.take_over)
    }
}

/// The name of an interface, as far as it can be told without asking the kernel.
pub(super) fn interface(text: &str) -> Result<String, String> {
    config::check_interface(text).map(|()| text.to_owned())
}
