//! `lb completions`.

use super::{Failure, output};
use clap::Args;
use clap_complete::Shell;

/// Print completions for a shell
#[derive(Args, Debug)]
#[command(after_help = "Example: lb completions bash > /etc/bash_completion.d/lb")]
pub(super) struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self, mut command: clap::Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "lb", &mut script);
        output::print_bytes(&script)
    }
}
