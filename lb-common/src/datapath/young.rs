//! Packets of flows that are not established, or not any more, and those of no flow.

use super::family::{Family, V4, V6};
use super::known::{Context, follow};
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::scratch::Scratch;
use super::tables::{Memory, Tables};
use super::verdict::{DropReason, Pass};
use super::{Stage, Step, drop, pass};
use crate::abi::SettingsFlags;
use crate::packet::Packet;

/// Follows a flow that has not proven itself; without one, the packet may open one.
#[inline(always)]
pub fn young<P: Packet, T: Tables>(_packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => find::<V4, T>(tables, scratch),
        ETHERTYPE_IPV6 => find::<V6, T>(tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn find<F: Family, T: Tables>(tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let context = Context::of(settings, &scratch.opening);
    let served = scratch.opening.served != 0;
    let segment = F::draft(scratch).subject.segment;
    let arriving = F::draft(scratch).subject.arriving;
    if follow::<F, T>(tables, Memory::Tentative, scratch, &context, &segment, &arriving) {
        Step::Go(Stage::Send)
    } else if served || settings.flags.has(SettingsFlags::RANGES) {
        Step::Go(Stage::Admit)
    } else {
        pass(Pass::NotOurs)
    }
}
