//! Another configuration for a running node: all of it, or nothing.

use super::node::Node;
use super::setup;
use crate::config::{self, ConfigErrors, Loaded};
use crate::net::paths::PathWatcher;
use anyhow::{Result, bail};
use lb_core::engine::{Event, Report};
use lb_core::model::Config;
use std::sync::Arc;
use tracing::{error, info, warn};

/// Why a reload changed nothing.
pub enum ReloadError {
    Invalid(ConfigErrors),
    Refused(String),
}

impl Node {
    /// Reads the configuration file again and brings it into force, all or nothing.
    ///
    /// # Errors
    /// What is wrong with the file, or why it cannot be put into force.
    async fn read_again(&mut self) -> Result<Loaded, ReloadError> {
        if let Some(file) = &mut self.file {
            file.settle();
        }
        let mut loaded = config::load(&self.config_path).map_err(ReloadError::Invalid)?;
        let config = &mut loaded.config;
        if !self.overrides.is_empty() {
            config.datapath.interfaces.clone_from(&self.overrides);
        }
        let running = &self.config;
        if config.node.name != running.node.name {
            return Err(ReloadError::Refused(format!(
                "node.name = \"{}\" cannot replace \"{}\" in a running daemon: restart it",
                config.node.name, running.node.name
            )));
        }
        if config.api != running.api {
            warn!("changes of [api] take effect at the next start");
        }
        if config.datapath.max_flows != running.datapath.max_flows {
            warn!("datapath.max_flows takes effect when the maps are made anew: after `lb detach`");
        }
        let elsewhere = config.datapath.interfaces != running.datapath.interfaces
            || config.datapath.mode != running.datapath.mode;
        let before: Vec<u32> = self
            .datapath
            .attachments
            .iter()
            .map(|attachment| attachment.ifindex)
            .collect();
        if elsewhere && let Err(error) = self.attach(config) {
            self.leave(&before);
            return Err(ReloadError::Refused(format!("{error:#}")));
        }
        let config = Arc::new(config.clone());
        self.refusal = None;
        self.tell(Event::Configure(config.clone()));
        self.drains.seen.clear();
        if let Some(why) = self.refusal.take() {
            self.leave(&before);
            return Err(ReloadError::Refused(why));
        }
        self.config = config;
        if elsewhere && let Err(error) = self.move_over().await {
            return Err(ReloadError::Refused(format!(
                "the configuration is in force, but not on its interfaces alone: {error:#}"
            )));
        }
        Ok(loaded)
    }

    /// Attaches to the interfaces of a configuration that is not in force yet, beside those of the one that is.
    pub(super) fn attach(&mut self, config: &Config) -> Result<()> {
        let interfaces = setup::interfaces(&config.datapath.interfaces)?;
        if setup::flags(&interfaces) != self.flags {
            bail!(
                "the interfaces are of another kind (veth or virtio, or no longer): the program is set up for that \
                 when the daemon starts; restart it, forwarding goes on meanwhile"
            );
        }
        let named: Vec<(String, u32)> = interfaces
            .iter()
            .map(|interface| (interface.name.clone(), interface.index))
            .collect();
        self.datapath.attach(&named, config.datapath.mode)
    }

    /// Leaves the interfaces that are not among `keep`.
    pub(super) fn leave(&mut self, keep: &[u32]) {
        if let Err(error) = self.datapath.detach_others(keep) {
            warn!(error = %format!("{error:#}"), "an interface could not be left");
        }
    }

    /// Leaves the interfaces that the configuration in force no longer names, and follows paths through the others.
    pub(super) async fn move_over(&mut self) -> Result<()> {
        let interfaces = setup::interfaces(&self.config.datapath.interfaces)?;
        let indexes: Vec<u32> = interfaces.iter().map(|interface| interface.index).collect();
        self.datapath.detach_others(&indexes)?;
        let (paths, changes) = PathWatcher::start(indexes).await?;
        self.paths = paths;
        self.path_changes = changes;
        self.paths.watch(self.watched.clone());
        Ok(())
    }

    /// Reads the configuration again and tells the operator how that went, whoever asked for it.
    ///
    /// # Errors
    /// As [`Self::read_again`].
    pub(super) async fn reload(&mut self, cause: &str) -> Result<Loaded, ReloadError> {
        info!(cause, "reading the configuration again");
        let result = self.read_again().await;
        match &result {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    warn!("{}", warning.render(false).trim_end());
                }
            }
            Err(ReloadError::Invalid(errors)) => {
                error!(
                    "the old configuration stays:\n{}",
                    errors.render(false).trim_end()
                );
                self.report(Report::Refused(format!(
                    "{} is invalid ({} errors): the old configuration stays",
                    self.config_path.display(),
                    errors.errors.len()
                )));
            }
            Err(ReloadError::Refused(why)) => error!("the old configuration stays: {why}"),
        }
        result
    }
}
