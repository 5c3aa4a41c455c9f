//! The checks on made-up machines.

use super::*;

fn interface() -> Interface {
    Interface {
        index: 2,
        name: "eth0".to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        driver: "ixgbe".to_owned(),
        kind: None,
        up: true,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        loopback: false,
    }
}

fn complaints(interface: &Interface, offloads: Offloads, vlans: &[String]) -> Vec<(String, Status)> {
    let checks = interface_checks(interface, offloads, vlans);
    assert!(
        checks
            .iter()
            .all(|check| (check.status == Status::Ok) == check.remedy.is_none())
    );
    let bad = checks.into_iter().filter(|check| check.status != Status::Ok);
    bad.map(|check| (check.name, check.status)).collect()
}

#[test]
fn kernels_since_5_18_are_new_enough() {
    for (release, status) in [
        ("6.18.44-fc-v657", Status::Ok),
        ("5.18.0", Status::Ok),
        ("5.17.15-generic", Status::Fail),
        ("5.15.0", Status::Fail),
        ("4.19", Status::Fail),
        ("10.0-rc1", Status::Ok),
        ("plan9", Status::Fail),
    ] {
        assert_eq!(kernel(release).status, status, "{release}");
    }
}

#[test]
fn missing_capabilities_are_named() {
    let status = |bits: &[u32]| {
        let set: u64 = bits.iter().map(|bit| 1 << bit).sum();
        format!("Name:\tlb\nCapPrm:\tffffffffffffffff\nCapEff:\t{set:016x}\n")
    };
    let whole = "         0          0 4294967295\n";
    let part = "         0       1000          1\n";
    for (bits, map, expected, words) in [
        (&[12, 13, 38, 39][..], whole, Status::Ok, ""),
        (&[12, 13, 21], whole, Status::Ok, ""),
        (&[12, 38, 39], whole, Status::Warn, "CAP_NET_RAW"),
        (&[12, 13, 39], whole, Status::Fail, "CAP_PERFMON missing"),
        (&[21, 13], whole, Status::Fail, "CAP_NET_ADMIN missing"),
        (
            &[],
            whole,
            Status::Fail,
            "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN missing",
        ),
        (&[12, 13, 21, 38, 39], part, Status::Fail, "user namespace"),
    ] {
        let check = privileges(Capabilities::read(&status(bits), map));
        assert_eq!(check.status, expected, "{bits:?}");
        assert!(check.detail.contains(words), "{check:?}");
    }
}

#[test]
fn a_good_interface_has_nothing_to_complain_about() {
    assert_eq!(complaints(&interface(), Offloads::default(), &[]), []);
    assert_eq!(
        complaints(
            &interface(),
            Offloads {
                rx_vlan: true,
                lro: false
            },
            &[]
        ),
        []
    );
}

#[test]
fn what_is_wrong_with_an_interface_is_named() {
    let check = |change: fn(&mut Interface), name: &str, status| {
        let mut changed = interface();
        change(&mut changed);
        assert_eq!(
            complaints(&changed, Offloads::default(), &[]),
            [(name.to_owned(), status)]
        );
    };
    check(|i| i.up = false, "eth0 link", Status::Warn);
    check(|i| i.mac = [0; 6], "eth0 link", Status::Fail);
    check(|i| i.driver = "e1000".to_owned(), "eth0 driver", Status::Warn);
    check(|i| i.driver = "veth".to_owned(), "eth0 peer", Status::Warn);
    check(|i| i.mtu = 9000, "eth0 MTU", Status::Warn);
    check(
        |i| i.addresses = vec!["fe80::1".parse().unwrap()],
        "eth0 addresses",
        Status::Warn,
    );
    let offloads = Offloads {
        lro: true,
        rx_vlan: true,
    };
    let names: Vec<_> = complaints(&interface(), offloads, &["eth0.7".to_owned()]);
    assert_eq!(
        names,
        ["eth0 LRO", "eth0 VLANs"].map(|name| (name.to_owned(), Status::Warn))
    );
}

#[test]
fn a_vip_must_be_the_nodes_own_or_be_routed_to_it() {
    let vip = "203.0.113.10".parse().unwrap();
    for (owned, reach, status) in [
        (true, Reach::Elsewhere, Status::Ok),
        (false, Reach::Local, Status::Ok),
        (false, Reach::OnLink, Status::Warn),
        (false, Reach::Elsewhere, Status::Warn),
    ] {
        assert_eq!(
            vip_check(vip, owned, &reach, &["eth0"]).status,
            status,
            "{owned} {reach:?}"
        );
    }
}

#[test]
fn bpffs_and_jit_are_looked_at() {
    let root = Capabilities {
        effective: u64::MAX,
        initial_namespace: true,
    };
    let nobody = Capabilities {
        effective: 0,
        initial_namespace: true,
    };
    assert_eq!(bpffs(true, true, nobody).status, Status::Ok);
    assert_eq!(bpffs(false, true, root).status, Status::Ok);
    assert_eq!(bpffs(false, true, nobody).status, Status::Fail);
    assert_eq!(bpffs(false, false, root).status, Status::Fail);
    assert_eq!(jit(Some("0\n")).status, Status::Warn);
    assert_eq!(jit(Some("1\n")).status, Status::Ok);
    assert_eq!(jit(None).status, Status::Ok);
}

#[tokio::test]
async fn this_machine_is_looked_at_without_failing() {
    let interfaces = ["lo".to_owned(), "no-such-if".to_owned()];
    let vips = ["127.0.0.1".parse().unwrap(), "203.0.113.10".parse().unwrap()];
    let checks = checks(&interfaces, &vips).await;
    let status = |name: &str| {
        checks
            .iter()
            .find(|check| check.name == name)
            .map(|check| check.status)
    };
    assert_eq!(status("lo link"), Some(Status::Fail));
    assert_eq!(status("no-such-if"), Some(Status::Fail));
    assert_eq!(status("VIP 127.0.0.1"), Some(Status::Ok));
    assert_eq!(status("VIP 203.0.113.10"), Some(Status::Warn));
}
