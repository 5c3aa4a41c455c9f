//! The origin's end of a tunnel, in memory: known packets, hostile ones, and the MSS that is offered through it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod clamp;
mod probe;

use lb_common::packet::Packet;
use lb_common::testing::Frame;
use lb_common::testing::check::hex;
use lb_common::testing::tunnels::{self, GUE_PORT, MemoryLocals, Tunnel, ip};
use lb_common::tunnel::{Outcome, Work, process};
use proptest::prelude::*;

#[test]
fn each_packet_meets_its_fate() {
    let rows = tunnels::all();
    assert!(rows.len() > 300, "{}", rows.len());
    for row in rows {
        let locals = MemoryLocals::standard();
        let mut frame = row.frame.clone();
        let outcome = process(&mut frame, &locals, &mut Work::default(), GUE_PORT);
        assert_eq!(outcome, row.outcome, "{}", row.name);
        assert_eq!(
            locals.outcomes.borrow().iter().collect::<Vec<_>>(),
            [(&outcome, &1)],
            "{}",
            row.name
        );
        match &row.left {
            Some(left) => assert_eq!(hex(&frame.0), hex(&left.0), "{}", row.name),
            None => assert!(!outcome.passes(), "{}", row.name),
        }
        let addresses = locals.addresses.borrow();
        let learnt = addresses.iter().filter(|(_, local)| local.overhead != 0);
        let learnt: Vec<_> = learnt
            .map(|(address, local)| ((*address).into(), local.overhead))
            .collect();
        assert_eq!(
            learnt,
            row.overhead.into_iter().collect::<Vec<_>>(),
            "{}",
            row.name
        );
    }
}

#[test]
fn the_largest_overhead_is_remembered() {
    let locals = MemoryLocals::standard();
    let vip = ip(tunnels::VIPS[0]);
    for (outer, tunnel, wanted) in [(0, Tunnel::Gue, 28), (1, Tunnel::Gue, 48), (0, Tunnel::Ipip, 48)] {
        let inner = tunnels::packet(&tunnels::inner(false).frame());
        let (from, to) = (ip(tunnels::NODES[outer]), ip(tunnels::ENDS[outer]));
        let mut frame = tunnel.carry(from, to, &inner).frame();
        assert_eq!(
            process(&mut frame, &locals, &mut Work::default(), GUE_PORT),
            tunnel.outcome()
        );
        assert_eq!(locals.addresses.borrow()[&vip.into()].overhead, wanted);
    }
}

#[test]
fn every_outcome_has_a_row_of_its_own() {
    use lb_common::tunnel::maps::CLAMPED_ROW;
    for (index, outcome) in Outcome::ALL.iter().enumerate() {
        assert_eq!(outcome.row() as usize, index);
        assert!(outcome.row() < CLAMPED_ROW);
    }
}

/// Whatever happens, a packet comes out whole or untouched.
fn keeps_the_rules(frame: &Frame) {
    let mut after = frame.clone();
    match process(
        &mut after,
        &MemoryLocals::standard(),
        &mut Work::default(),
        GUE_PORT,
    ) {
        Outcome::Ipip | Outcome::Gue => {
            let gone = frame.0.len() - after.0.len();
            assert!((20..=60 + 12 + 2048).contains(&gone), "{gone} bytes gone");
            // All behind the inner header's first words, which congestion may change, is as it came.
            let same = after.0.len().min(frame.0.len()) - (14 + 8 + 12);
            assert_eq!(after.0[after.0.len() - same..], frame.0[frame.0.len() - same..]);
            assert_eq!(after.0[..12], frame.0[..12], "link addresses");
        }
        Outcome::Congestion => {}
        Outcome::Resize => panic!("frames in memory can always be moved"),
        _ => assert_eq!(after, *frame),
    }
}

#[test]
fn packets_that_end_anywhere_do_no_harm() {
    for row in tunnels::all() {
        for length in 0..row.frame.0.len() {
            let mut cut = row.frame.clone();
            cut.0.truncate(length);
            keeps_the_rules(&cut);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A byte anywhere in the headers may lie.
    #[test]
    fn packets_that_lie_do_no_harm(pick: prop::sample::Index, lies: Vec<(prop::sample::Index, u8)>) {
        let rows = tunnels::all();
        let mut frame = pick.get(&rows).frame.clone();
        let headers = frame.0.len().min(120);
        for (at, byte) in lies.iter().take(4) {
            frame.0[at.index(headers)] = *byte;
        }
        keeps_the_rules(&frame);
    }

    #[test]
    fn noise_does_no_harm(noise: Vec<u8>, six: bool) {
        let mut frame = Frame(noise);
        let ether_type: u16 = if six { 0x86dd } else { 0x0800 };
        let _ = frame.write(12, ether_type.to_be());
        keeps_the_rules(&frame);
    }
}
