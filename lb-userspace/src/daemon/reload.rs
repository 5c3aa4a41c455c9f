//! Another configuration for a running node: all of it, or nothing.

use super::node::Node;
use super::objects::NewFile;
use crate::config::{self, ConfigErrors, Diagnostic, Loaded, Source};
use lb_core::engine::{Event, Report};
use lb_core::model::{Api, Config};
use std::sync::Arc;
use tracing::{error, info, warn};

/// Why a reload changed nothing.
pub enum ReloadError {
    Invalid(ConfigErrors),
    Refused(String),
}

/// What of a configuration does nothing yet when it comes into force.
fn take_effect_later(config: &Config, running: &Config, source: &Arc<Source>) -> Vec<Diagnostic> {
    let mut later = Vec::new();
    let same_but_addresses = Api {
        edge_ips: running.api.edge_ips.clone(),
        ..config.api.clone()
    };
    if same_but_addresses != running.api {
        let message = "changes of [api] take effect at the next start".to_owned();
        later.push(Diagnostic::warning(source, "api", message, "restart the daemon"));
    }
    let (new, old) = (config.datapath.max_flows, running.datapath.max_flows);
    if new != old {
        let message = format!("{new} instead of {old} takes effect when the maps are made anew");
        let help = "`lb detach` and start the daemon, when flows may be lost";
        later.push(Diagnostic::warning(source, "datapath.max_flows", message, help));
    }
    later
}

impl Node {
    /// Reads the configuration file again and brings it into force, all or nothing.
    ///
    /// # Errors
    /// What is wrong with the file, or why it cannot be put into force.
    fn read_again(&mut self) -> Result<Loaded, ReloadError> {
        if let Some(file) = &mut self.file {
            file.settle();
        }
        let mut loaded = config::reload(&self.config_path).map_err(ReloadError::Invalid)?;
        let mut stored = self.objects.catalog().stored();
        if let Some(unconfirmed) = &self.unconfirmed {
            // It is over, and what it has taken away is back where the file has it.
            stored = stored.and(&unconfirmed.returning);
        }
        let (whole, file) = self
            .objects
            .with_file(&loaded, &stored)
            .map_err(ReloadError::Invalid)?;
        let (config, later) = self.force(whole, file).map_err(ReloadError::Refused)?;
        loaded.config = config;
        loaded.warnings.extend(later);
        Ok(loaded)
    }

    /// Brings another file into force, all or nothing; returns the configuration as it is then, and what of it takes effect
    /// later.
    ///
    /// # Errors
    /// Why it cannot be put into force.
    pub(super) fn force(
        &mut self,
        mut config: Config,
        file: NewFile,
    ) -> Result<(Config, Vec<Diagnostic>), String> {
        if !self.overrides.is_empty() {
            config.datapath.interfaces.clone_from(&self.overrides);
        }
        let running = &self.config;
        if config.node.name != running.node.name {
            return Err(format!(
                "node.name = \"{}\" cannot replace \"{}\" in a running daemon: restart it",
                config.node.name, running.node.name
            ));
        }
        if config.node.state_dir != running.node.state_dir {
            return Err(format!(
                "node.state_dir = \"{}\" cannot replace \"{}\" in a running daemon, which keeps objects, revisions and history \
                 there: stop it, move the folder, start it",
                config.node.state_dir.display(),
                running.node.state_dir.display()
            ));
        }
        let later = take_effect_later(&config, running, &file.file.source);
        let elsewhere = config.datapath.interfaces != running.datapath.interfaces
            || config.datapath.mode != running.datapath.mode;
        if elsewhere && let Err(error) = self.attach(&config) {
            self.follow_interfaces();
            return Err(format!("{error:#}"));
        }
        let whole = Arc::new(config.clone());
        self.refusal = None;
        self.tell(Event::Configure(Arc::clone(&whole)));
        self.drains.seen.clear();
        if let Some(why) = self.refusal.take() {
            if elsewhere {
                self.follow_interfaces();
            }
            return Err(why);
        }
        self.journal.limit(config.history);
        self.resolver.configure(&config.dns);
        self.config = whole;
        self.configure_webhooks();
        self.objects.replace_file(file);
        if elsewhere {
            self.follow_interfaces();
        }
        Ok((config, later))
    }

    /// Reads the configuration again and tells the operator how that went, whoever asked for it.
    ///
    /// # Errors
    /// As [`Self::read_again`].
    pub(super) async fn reload(&mut self, cause: &str) -> Result<Loaded, ReloadError> {
        info!(cause, "reading the configuration again");
        self.journal.cause = Some(format!("{}: {cause}", self.config_path.display()));
        let former = self.objects.catalog();
        let result = self.read_again();
        self.journal.cause = None;
        match &result {
            Ok(loaded) => {
                self.note_reload(cause, &former);
                for warning in &loaded.warnings {
                    warn!("{warning}");
                }
            }
            Err(ReloadError::Invalid(errors)) => {
                // Without the lines themselves, which may hold secrets: `lb check` shows them.
                error!("the old configuration stays:\n{errors}");
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
