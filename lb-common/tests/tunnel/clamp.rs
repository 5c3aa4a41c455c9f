//! The MSS that an origin offers.

use lb_common::datapath::checksum;
use lb_common::packet::Packet;
use lb_common::testing::build::{Checksum, PacketBuilder};
use lb_common::testing::check::see;
use lb_common::testing::tunnels::{MemoryLocals, VIPS, ip};
use lb_common::testing::{Frame, tunnels};
use lb_common::tunnel::clamp;
use proptest::prelude::*;

const SYN: u8 = 2;
const ACK: u8 = 16;
const MTU: u32 = 1500;

fn answer(v6: bool, flags: u8, options: &[u8]) -> PacketBuilder {
    let index = usize::from(v6);
    let client = if v6 { "2001:db8:c::7" } else { "198.51.100.7" };
    PacketBuilder::tcp((ip(VIPS[index]), 80).into(), (ip(client), 40_000).into(), flags).tcp_options(options)
}

fn mss(value: u16) -> Vec<u8> {
    let [high, low] = value.to_be_bytes();
    vec![2, 4, high, low]
}

/// The frame as the kernel program would leave it.
fn clamped(frame: &Frame, locals: &MemoryLocals, mtu: u32) -> Frame {
    let mut after = frame.clone();
    if let Some(found) = clamp(frame, locals, mtu) {
        after.write(found.at, found.value.to_ne_bytes()).unwrap();
        let field: u16 = after.read(found.checksum).unwrap();
        let delta = checksum::difference(found.from.into(), found.to.into());
        after
            .write(found.checksum, checksum::adjust(field, delta))
            .unwrap();
    }
    after
}

fn with_overhead(overhead: u32) -> MemoryLocals {
    let locals = MemoryLocals::standard();
    for vip in VIPS {
        locals.learn(ip(vip), overhead);
    }
    locals
}

#[test]
fn connections_through_tunnels_get_less_room() {
    for (v6, headers) in [(false, 40), (true, 60)] {
        for overhead in [20, 40, 28, 48] {
            let wanted = (MTU - overhead - headers) as u16;
            for flags in [SYN, SYN | ACK] {
                let frame = answer(v6, flags, &mss(1460)).frame();
                let after = clamped(&frame, &with_overhead(overhead), MTU);
                assert_eq!(after, answer(v6, flags, &mss(wanted)).frame(), "{overhead} {v6}");
                assert_eq!(see(&after).flags, flags);
            }
        }
    }
}

#[test]
fn nothing_else_is_touched() {
    for v6 in [false, true] {
        let answer = |flags, options: &[u8]| answer(v6, flags, options);
        for (name, builder, locals, mtu) in [
            ("no SYN", answer(ACK, &mss(1460)), with_overhead(20), MTU),
            ("no tunnel", answer(SYN, &mss(1460)), with_overhead(0), MTU),
            ("small enough", answer(SYN, &mss(536)), with_overhead(20), MTU),
            ("no option", answer(SYN, &[]), with_overhead(20), MTU),
            (
                "the end comes first",
                answer(SYN, &[0, 2, 4, 5, 180, 0, 0, 0]),
                with_overhead(20),
                MTU,
            ),
            (
                "an option of no length",
                answer(SYN, &[3, 0, 2, 4, 5, 180, 0, 0]),
                with_overhead(20),
                MTU,
            ),
            (
                "an MSS of another length",
                answer(SYN, &[2, 6, 5, 180, 0, 0, 0, 0]),
                with_overhead(20),
                MTU,
            ),
            (
                "an MSS that is cut off",
                answer(SYN, &[1, 1, 2, 4]),
                with_overhead(20),
                MTU,
            ),
            (
                "an MTU with no room",
                answer(SYN, &mss(1460)),
                with_overhead(20),
                50,
            ),
            (
                "an MTU of less than the tunnel",
                answer(SYN, &mss(1460)),
                with_overhead(20),
                10,
            ),
            (
                "a fragment",
                answer(SYN, &mss(1460)).fragment(0, true),
                with_overhead(20),
                MTU,
            ),
        ] {
            let frame = builder.frame();
            assert_eq!(clamp(&frame, &locals, mtu), None, "{name}");
        }
        let stranger = answer(SYN, &mss(1460));
        let elsewhere = stranger.clone().ends(
            (ip(tunnels::ENDS[usize::from(v6)]), 80).into(),
            stranger.destination(),
        );
        assert_eq!(clamp(&elsewhere.frame(), &with_overhead(20), MTU), None);
        let datagram = tunnels::inner(v6).frame();
        assert_eq!(clamp(&datagram, &with_overhead(20), MTU), None);
    }
}

#[test]
fn tags_are_looked_through() {
    let frame = answer(false, SYN, &mss(1460)).tags(&[0x0064, 0x0065]).frame();
    let after = clamped(&frame, &with_overhead(20), MTU);
    assert_eq!(
        after,
        answer(false, SYN, &mss(1440)).tags(&[0x0064, 0x0065]).frame()
    );
}

#[test]
fn a_frame_that_ends_anywhere_does_no_harm() {
    let frame = answer(true, SYN, &[1, 1, 1, 1, 2, 4, 5, 180]).frame();
    for length in 0..frame.0.len() {
        let mut cut = frame.clone();
        cut.0.truncate(length);
        assert_eq!(clamp(&cut, &with_overhead(20), MTU), None, "{length}");
    }
}

proptest! {
    /// Wherever the option stands, also at an odd place, the checksum is right afterwards.
    #[test]
    fn the_checksum_stays_right(before in 0usize..8, value: u16, overhead in 1u32..60, v6: bool, window: u8) {
        let mut options = vec![1; before];
        options.extend(mss(value));
        options.extend([3, 3, window]);
        options.resize(16, 0);
        let frame = answer(v6, SYN, &options).frame();
        let after = clamped(&frame, &with_overhead(overhead), MTU);
        let headers = if v6 { 60 } else { 40 };
        let limit = (MTU - overhead - headers) as u16;
        options[before + 2..before + 4].copy_from_slice(&value.min(limit).to_be_bytes());
        prop_assert_eq!(&after, &answer(v6, SYN, &options).frame());
    }

    #[test]
    fn options_that_lie_do_no_harm(options: [u8; 40], offset: u8) {
        let mut frame = answer(false, SYN, &options).checksum(Checksum::Wrong).frame();
        frame.0[14 + 20 + 12] = offset;
        if let Some(found) = clamp(&frame, &with_overhead(20), MTU) {
            prop_assert!((14 + 20 + 20 + 2..14 + 20 + 60 - 1).contains(&found.at));
        }
    }
}
