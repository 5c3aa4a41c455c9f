//! `lb man`.

use super::{Exit, Failure};
use clap::Args;
use std::path::PathBuf;

/// Write the manual pages into a directory
#[derive(Args, Debug)]
pub(super) struct Man {
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub fn run(self, command: clap::Command) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(command, &self.directory))
            .map_err(|error| {
                let message = format!(
                    "cannot write manual pages into {}: {error}",
                    self.directory.display()
                );
                Failure::new(Exit::Failed, message)
            })
    }
}
