//! The filter of addresses that packets may be for: nothing that was ever ours is let go by it.

use aya::maps::{Array, HashMap};
use lb_common::abi::{ApplicationKey, Filter, Flow4, FlowKey4, SettingsFlags, VipKey, maps};
use lb_common::testing::modes;
use lb_common::testing::scenario::{CLIENT_SIDE, ORIGIN_SIDE, app, at};
use lb_common::testing::{PacketBuilder, Scenario};
use lb_core::image::TableOp;
use lb_tests::needs_root;
use lb_tests::prog::{Action, Kernel, namespace, small};
use lb_userspace::datapath::writer::Writer;
use std::net::SocketAddr;

const VIP: &str = "203.0.113.10:80";
const CLIENT: &str = "198.51.100.7:1000";

/// A configuration without `dnat`: with it, a packet for any address may be ours.
fn configuration() -> Scenario {
    let mut scenario = Scenario::standard();
    scenario.tables.settings.flags.0 &= !SettingsFlags::DNAT;
    scenario
}

/// A kernel whose filter is empty, as after a start on the maps of a version that had none.
fn without_filter(scenario: &Scenario) -> Kernel {
    let mut kernel = Kernel::new(&small()).unwrap();
    kernel.write(&scenario.tables).unwrap();
    empty(&kernel);
    kernel
}

fn empty(kernel: &Kernel) {
    let mut words: Array<_, u64> = kernel.map(maps::ADDRESSES).unwrap().try_into().unwrap();
    for word in 0..Filter::WORDS {
        words.set(word, 0, 0).unwrap();
    }
}

fn receive(kernel: &mut Kernel, flags: u8) -> Action {
    let packet = PacketBuilder::tcp(at(CLIENT), at(VIP), flags);
    kernel.receive(CLIENT_SIDE, &packet.frame()).unwrap().0
}

/// Makes established flows of those that have not proven themselves: only they outlive their application.
fn establish(kernel: &Kernel) {
    let [from, mut to] = [maps::TENTATIVE4, maps::FLOWS4]
        .map(|name| HashMap::<_, FlowKey4, Flow4>::try_from(kernel.map(name).unwrap()).unwrap());
    let flows: Vec<_> = from.iter().map(Result::unwrap).collect();
    assert_eq!(flows.len(), 2, "both directions");
    for (key, flow) in flows {
        to.insert(key, flow, 0).unwrap();
    }
}

const SYN: u8 = 2;
const ACK: u8 = 16;

#[test]
fn a_writer_lets_in_what_the_maps_name() {
    needs_root!();
    namespace().enter(|| {
        let scenario = configuration();
        let mut kernel = without_filter(&scenario);
        assert_eq!(receive(&mut kernel, SYN), Action::PASS, "nobody is known");
        let mut writer = Writer::new(|name| kernel.map(name)).unwrap();
        assert_eq!(receive(&mut kernel, SYN), Action::REDIRECT);
        // What somebody else has written over is put right.
        empty(&kernel);
        assert_eq!(writer.repair(&[]).unwrap(), 1);
        assert_eq!(writer.repair(&[]).unwrap(), 0);
        assert_eq!(receive(&mut kernel, ACK), Action::REDIRECT);
    });
}

#[test]
fn flows_of_an_address_that_is_gone_go_on() {
    needs_root!();
    namespace().enter(|| {
        let scenario = configuration();
        let mut kernel = Kernel::new(&small()).unwrap();
        kernel.write(&scenario.tables).unwrap();
        assert_eq!(receive(&mut kernel, SYN), Action::REDIRECT);
        establish(&kernel);
        let mut writer = Writer::new(|name| kernel.map(name)).unwrap();
        let tables = &scenario.tables;
        let remove = |key: &ApplicationKey| TableOp::RemoveApplication { key: *key };
        let applications: Vec<_> = tables.applications.keys().map(remove).collect();
        let vips: Vec<_> = tables
            .vips
            .keys()
            .map(|key: &VipKey| TableOp::RemoveVip { key: *key })
            .collect();
        writer.apply(&applications).unwrap();
        writer.apply(&vips).unwrap();
        assert_eq!(receive(&mut kernel, ACK), Action::REDIRECT);
        // A new version finds them by the flows alone.
        empty(&kernel);
        assert_eq!(receive(&mut kernel, ACK), Action::PASS);
        let _writer = Writer::new(|name| kernel.map(name)).unwrap();
        assert_eq!(receive(&mut kernel, ACK), Action::REDIRECT);
    });
}

/// Answers come to the client's own address: they find their flow also when no origin is reached in that way any more.
#[test]
fn flows_of_dnat_go_on_without_its_origins() {
    needs_root!();
    namespace().enter(|| {
        let scenario = configuration();
        let mut kernel = Kernel::new(&small()).unwrap();
        kernel.write(&scenario.tables).unwrap();
        let mut writer = Writer::new(|name| kernel.map(name)).unwrap();
        let mut settings = scenario.tables.settings;
        settings.flags.0 |= SettingsFlags::DNAT;
        writer.apply(&[TableOp::Settings(settings)]).unwrap();
        let port = modes::port(app::DNAT);
        let (client, vip) = (at(CLIENT), SocketAddr::from(([203, 0, 113, 10], port)));
        let origin = at("10.0.2.11:8080");
        let mut send = |interface, source, destination, flags| {
            let packet = PacketBuilder::tcp(source, destination, flags);
            kernel.receive(interface, &packet.frame()).unwrap().0
        };
        assert_eq!(send(CLIENT_SIDE, client, vip, SYN), Action::REDIRECT);
        assert_eq!(send(ORIGIN_SIDE, origin, client, SYN | ACK), Action::REDIRECT);
        assert_eq!(send(CLIENT_SIDE, client, vip, ACK), Action::REDIRECT);
        // The last one goes, and then another daemon comes.
        writer
            .apply(&[TableOp::Settings(scenario.tables.settings)])
            .unwrap();
        assert_eq!(send(ORIGIN_SIDE, origin, client, ACK), Action::REDIRECT);
    });
}
