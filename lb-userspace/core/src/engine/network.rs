//! The network around the node: how origins are reached, the interfaces that run the program, and the node's own
//! addresses.

use super::{Command, Path, Report, Setup, State};
use crate::image::TableOp;
use core::net::IpAddr;
use lb_common::abi::{Interface, OriginId};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    pub(super) fn set_paths(
        &mut self,
        setup: &Setup,
        paths: BTreeMap<IpAddr, Path>,
        commands: &mut Vec<Command>,
    ) {
        // Without a configuration no address was asked for, so this says nothing of those that are missing.
        let Some(config) = self.config.clone() else { return };
        if self.paths.as_ref() == Some(&paths) {
            return;
        }
        self.paths = Some(paths);
        let mut ops = Vec::new();
        let mut late = Vec::new();
        self.update_records(&config, &mut ops, &mut late);
        self.lower_mtu(&mut ops);
        if self.records.roles() != self.roles {
            match self.advance(setup, &config, false, Vec::new()) {
                Ok(generation) => ops.extend(generation.into_iter().flatten()),
                // Only fragments that come before their first one are worse off.
                Err(full) => commands.push(Command::Report(Report::Refused(format!(
                    "paths have changed, and the tables could not follow: {full}"
                )))),
            }
        }
        ops.append(&mut late);
        self.settle(setup, &mut ops);
        if !ops.is_empty() {
            commands.push(Command::Apply(ops));
        }
        self.publish(commands);
    }

    pub(super) fn set_interfaces(
        &mut self,
        setup: &Setup,
        mtus: &BTreeMap<u32, u32>,
        ops: &mut Vec<TableOp>,
    ) {
        let record = |mtu| Interface { mtu, reserved: 0 };
        let wanted = mtus.iter().map(|(&index, &mtu)| (index, record(mtu)));
        let former = core::mem::replace(&mut self.interfaces, wanted.collect());
        for (&index, &record) in &self.interfaces {
            if former.get(&index) != Some(&record) {
                let record = Some(record);
                ops.push(TableOp::Interface { index, record });
            }
        }
        for &index in former.keys().filter(|index| !self.interfaces.contains_key(index)) {
            ops.push(TableOp::Interface { index, record: None });
        }
        self.lower_mtu(ops);
        self.update_settings(setup, ops);
    }

    pub(super) fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        let before = self.own.replace(addresses);
        let Some(config) = &self.config else { return };
        let owns = |own: &Option<BTreeSet<IpAddr>>, vip| own.as_ref().is_none_or(|own| own.contains(vip));
        let mut vips = config
            .applications
            .iter()
            .flat_map(|application| &application.addresses);
        self.stale_vips |= vips.any(|vip| owns(&before, vip) != owns(&self.own, vip));
    }

    /// Asks for the paths of all origins, those included that are gone and may still have flows.
    pub(super) fn watch(&mut self, commands: &mut Vec<Command>) {
        let retired = self
            .numbers
            .origins
            .retired()
            .filter_map(|id| self.records.address(OriginId(id)));
        let mut addresses: Vec<IpAddr> = self
            .plan
            .origins()
            .map(|(_, origin)| origin.address)
            .chain(retired)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses != self.watched {
            self.watched.clone_from(&addresses);
            commands.push(Command::WatchPaths(addresses));
        }
    }
}
