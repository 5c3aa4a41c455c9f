//! The node's interfaces: those of the configuration are attached when they are there, also when they come later or are
//! made anew, and left when they are not wanted any more.

use super::node::Node;
use super::setup;
use crate::net::addresses;
use crate::net::interface::{self, Interface};
use crate::wire::{InterfaceStatus, UnattachedInterface};
use anyhow::{Context, Result};
use lb_common::abi::SettingsFlags;
use lb_core::engine::Event;
use lb_core::model::Config;
use std::collections::BTreeMap;
use tracing::{info, warn};

/// The interfaces that the configuration names.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// Those that are there, as they were when one of them last changed.
    present: Vec<Interface>,
    /// Those that the program does not run on.
    unattached: Vec<Unattached>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Unattached {
    name: String,
    why: String,
    /// The interface is there and refused the program: it may take it later, and nobody would say so.
    refused: bool,
}

impl Interfaces {
    /// Looks for the interfaces of a configuration.
    ///
    /// # Errors
    /// When netlink fails.
    pub fn find(config: &Config) -> Result<Self> {
        let names = &config.datapath.interfaces;
        let present = interface::present(names).context("look for the interfaces")?;
        let missing = names
            .iter()
            .filter(|name| present.iter().all(|there| there.name != **name));
        let missing = missing.map(|name| Unattached {
            name: name.clone(),
            why: "there is no such interface (yet)".to_owned(),
            refused: false,
        });
        Ok(Self {
            unattached: missing.collect(),
            present,
        })
    }

    /// Names and indices of those that are there.
    pub fn named(&self) -> Vec<(String, u32)> {
        let named = self
            .present
            .iter()
            .map(|interface| (interface.name.clone(), interface.index));
        named.collect()
    }

    /// Names of those that are there.
    pub fn names(&self) -> Vec<String> {
        self.named().into_iter().map(|(name, _)| name).collect()
    }

    /// The MTU of those that are there, by index.
    pub fn mtus(&self) -> BTreeMap<u32, u32> {
        let mtus = self.present.iter();
        mtus.map(|interface| (interface.index, interface.mtu)).collect()
    }

    /// What those that are there need of the packet path.
    pub fn flags(&self) -> SettingsFlags {
        setup::flags(&self.present)
    }

    /// Whether one of them may take the program another time.
    pub fn is_refused(&self) -> bool {
        self.unattached.iter().any(|unattached| unattached.refused)
    }

    /// Warns of those that the program does not run on, unless it was so before.
    pub fn warn_of_unattached(&self, former: Option<&Self>) {
        let told =
            |unattached: &&Unattached| former.is_some_and(|former| former.unattached.contains(unattached));
        for Unattached { name, why, .. } in self.unattached.iter().filter(|one| !told(one)) {
            warn!(interface = name, "not attached: {why}; lb attaches when it can");
        }
        if self.present.is_empty() && former.is_none_or(|former| !former.present.is_empty()) {
            let there = interface::all().unwrap_or_default();
            let there: Vec<String> = there.into_iter().map(|interface| interface.name).collect();
            warn!(
                "no interface of the configuration is there, only {}: nothing is forwarded",
                there.join(", ")
            );
        }
    }
}

impl Node {
    /// Attaches to the interfaces of a configuration that is not in force yet, beside those of the one that is.
    pub(super) fn attach(&mut self, config: &Config) -> Result<()> {
        let found = Interfaces::find(config)?;
        self.set_flags(SettingsFlags(self.flags.0 | found.flags().0));
        self.datapath.attach(&found.named(), config.datapath.mode)
    }

    /// Attaches where an interface has come or was made anew, and leaves where one is gone or not wanted any more.
    pub(super) fn follow_interfaces(&mut self) {
        for name in self.datapath.forget_dead() {
            info!(
                interface = name,
                "the interface has gone, and the program with it"
            );
            self.record_interface(&name, format!("interface `{name}` has gone"));
        }
        let mut found = match Interfaces::find(&self.config) {
            Ok(found) => found,
            Err(error) => return warn!(error = %format!("{error:#}"), "the interfaces are not followed"),
        };
        let flags = found.flags();
        // Before and after: too many cost a little, one too few costs packets.
        self.set_flags(SettingsFlags(self.flags.0 | flags.0));
        for (name, index) in found.named() {
            if let Err(error) = self.attach_one(&name, index) {
                found.unattached.push(Unattached {
                    why: format!("{error:#}"),
                    name,
                    refused: true,
                });
            }
        }
        let keep: Vec<u32> = found.named().into_iter().map(|(_, index)| index).collect();
        self.leave(&keep);
        self.set_flags(flags);
        self.tell(Event::Interfaces(found.mtus()));
        self.paths.set_attached(self.attached());
        found.warn_of_unattached(Some(&self.interfaces));
        self.interfaces = found;
    }

    fn attach_one(&mut self, name: &str, index: u32) -> Result<()> {
        if let Some(attachment) = self
            .datapath
            .attachments
            .iter_mut()
            .find(|attachment| attachment.ifindex == index)
        {
            name.clone_into(&mut attachment.name);
            return Ok(());
        }
        setup::check_interface(name)?;
        let mode = self.config.datapath.mode;
        self.datapath.attach(&[(name.to_owned(), index)], mode)?;
        self.record_interface(name, format!("interface `{name}` is attached"));
        Ok(())
    }

    /// Indices of the interfaces that the program runs on.
    fn attached(&self) -> Vec<u32> {
        let attachments = self.datapath.attachments.iter();
        attachments.map(|attachment| attachment.ifindex).collect()
    }

    /// Tells the engine which addresses are the node's own.
    pub(super) fn follow_addresses(&mut self) {
        match addresses::own() {
            Ok(own) => self.tell(Event::Addresses(own)),
            Err(error) => warn!(error = %format!("{error:#}"), "the node's addresses are not followed"),
        }
    }

    pub(super) fn set_flags(&mut self, flags: SettingsFlags) {
        if self.flags != flags {
            self.flags = flags;
            self.tell(Event::Flags(flags));
        }
    }

    /// Leaves the interfaces that are not among `keep`.
    pub(super) fn leave(&mut self, keep: &[u32]) {
        if let Err(error) = self.datapath.detach_others(keep) {
            warn!(error = %format!("{error:#}"), "an interface could not be left");
        }
    }

    /// The interfaces that the program runs on, for the status.
    pub(super) fn interface_status(&mut self) -> Vec<InterfaceStatus> {
        let program_id = self.datapath.program_id().unwrap_or_default();
        let is_up = |index| {
            let mut present = self.interfaces.present.iter();
            present.any(|interface| interface.index == index && interface.up)
        };
        let attachments = self.datapath.attachments.iter();
        attachments
            .map(|attachment| InterfaceStatus {
                name: attachment.name.clone(),
                mode: attachment.mode.name().to_owned(),
                program_id,
                up: is_up(attachment.ifindex),
            })
            .collect()
    }

    /// The interfaces of the configuration that the program does not run on.
    pub(super) fn unattached(&self) -> Vec<UnattachedInterface> {
        let unattached = self.interfaces.unattached.iter();
        unattached
            .map(|unattached| UnattachedInterface {
                name: unattached.name.clone(),
                problem: unattached.why.clone(),
            })
            .collect()
    }
}
