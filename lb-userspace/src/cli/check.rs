//! `lb check`, and loading a configuration for the other verbs.

use super::{Exit, Failure, Global, output};
use crate::config::{self, Loaded};
use crate::wire::CheckReport;
use clap::Args;
use std::path::{Path, PathBuf};

/// Validate a configuration file: every error with its place; exit code 3
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
}

/// `-c FILE`.
#[derive(Args, Debug)]
pub(super) struct ConfigFile {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", env = "LB_CONFIG", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

impl Check {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        if global.json {
            let result = config::load(&self.file.config);
            let report = match &result {
                Ok(loaded) => CheckReport::valid(&loaded.warnings),
                Err(refused) => CheckReport::invalid(refused),
            };
            output::print_json(&report)?;
            return if report.valid {
                Ok(())
            } else {
                Err(Failure::silent(Exit::Configuration))
            };
        }
        let loaded = load_and_show(&self.file.config, global, true)?;
        global.say(&summary(&self.file.config, &loaded));
        Ok(())
    }
}

/// Loads a file; shows its warnings, or all errors before failing with [`Exit::Configuration`].
///
/// The lines themselves, which may hold secrets, are shown to a terminal only: what a daemon says ends in a log.
pub(super) fn load(path: &Path, global: &Global) -> Result<Loaded, Failure> {
    load_and_show(path, global, output::stderr_is_terminal())
}

fn load_and_show(path: &Path, global: &Global, lines: bool) -> Result<Loaded, Failure> {
    let color = output::stderr_has_color();
    match config::load(path) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                global.say(&match lines {
                    true => warning.render(color),
                    false => warning.to_string(),
                });
            }
            Ok(loaded)
        }
        Err(refused) => {
            output::complain(&match lines {
                true => refused.render(color),
                false => refused.to_string(),
            });
            let count = refused.errors.len();
            let errors = if count == 1 {
                "1 error".to_owned()
            } else {
                format!("{count} errors")
            };
            Err(Failure::new(
                Exit::Configuration,
                format!("{}: {errors}", path.display()),
            ))
        }
    }
}

fn summary(path: &Path, loaded: &Loaded) -> String {
    let config = &loaded.config;
    let origins: usize = config.pools.iter().map(|pool| pool.origins.len()).sum();
    let counted = [
        (config.applications.len(), "application"),
        (config.load_balancers.len(), "load balancer"),
        (config.pools.len(), "pool"),
        (origins, "origin"),
        (config.monitors.len(), "monitor"),
        (loaded.warnings.len(), "warning"),
    ];
    let parts: Vec<String> = counted
        .into_iter()
        .map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }))
        .collect();
    format!("{}: ok ({})", path.display(), parts.join(", "))
}
