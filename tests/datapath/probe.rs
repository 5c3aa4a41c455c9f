//! The programs for probes in the kernel do what the code in memory does.

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use lb_common::abi::Forwarding;
use lb_common::testing::Frame;
use lb_common::testing::build::PacketBuilder;
use lb_common::testing::check::hex;
use lb_common::testing::probes::{DIRECT, LOCAL, echo, found, leave, question, unreachable, way};
use lb_common::testing::tunnels::{NODES, ip};
use lb_common::tunnel::probe::{Probe, maps};
use lb_tests::needs_root;
use lb_userspace::datapath::ways::{MARK, OBJECT, Ways};
use object::{Object, ObjectSymbol};
use std::net::IpAddr;

/// Instructions that the verifier may walk.
const BUDGET: [(&str, u32); 2] = [(maps::OUTGOING, 60_000), (maps::INCOMING, 60_000)];
/// `struct __sk_buff`, as long as this kernel's or shorter, in words; and where the mark is.
const CONTEXT: usize = 48;
const MARK_WORD: usize = 2;
/// `TC_ACT_UNSPEC` and `TC_ACT_REDIRECT`.
const GO_ON: i32 = -1;
const REDIRECT: i32 = 7;

/// Runs a program on a frame of a socket with that mark; returns what it says and leaves.
fn run(ways: &mut Ways, name: &str, mark: u32, frame: &Frame) -> (i32, Frame, u32) {
    let (mut context, mut after) = ([0_u32; CONTEXT], [0_u32; CONTEXT]);
    context[MARK_WORD] = mark;
    let mut output = vec![0; 4096];
    let options = TestRunOptions {
        data_in: Some(&frame.0),
        data_out: Some(&mut output),
        ctx_in: Some(bytemuck::bytes_of(&context)),
        ctx_out: Some(bytemuck::bytes_of_mut(&mut after)),
        ..TestRunOptions::new()
    };
    let program: &mut SchedClassifier = ways.program(name).unwrap();
    let result = program.test_run(options).unwrap();
    output.truncate(result.data_size_out as usize);
    (result.return_value as i32, Frame(output), after[MARK_WORD])
}

#[test]
fn questions_leave_by_every_way_as_in_memory() {
    needs_root!();
    let mut ways = Ways::load(1000).unwrap();
    for forwarding in DIRECT {
        for (origin_v6, vip_v6) in [(false, false), (true, true), (false, true), (true, false)] {
            for kind in 0..3 {
                let mut probe = way(forwarding, origin_v6, vip_v6);
                if origin_v6 != vip_v6 {
                    probe.ifindex = 1;
                }
                let mark = ways.mark(&probe).unwrap();
                let frame = question(probe.target, kind, 80, b"odd");
                let (verdict, left, mark_after) = run(&mut ways, maps::OUTGOING, mark, &frame);
                let name = format!("{forwarding:?} {origin_v6} {vip_v6} {kind}");
                let wanted = leave(&frame, &found(&frame, &probe, true).unwrap());
                assert_eq!(hex(&left.0), hex(&wanted.0), "{name}");
                let action = if probe.ifindex == 0 { GO_ON } else { REDIRECT };
                assert_eq!((verdict, mark_after), (action, 0), "{name}");
            }
        }
    }
}

#[test]
fn what_has_no_way_leaves_as_it_is() {
    needs_root!();
    let mut ways = Ways::load(1000).unwrap();
    let probe = way(Forwarding::DSR_GUE, false, false);
    let mark = ways.mark(&probe).unwrap();
    let ours = question(probe.target, 0, 80, b"");
    let elsewhere = question(ip("192.0.2.99").into(), 0, 80, b"");
    for (mark, frame) in [
        (0, &ours),
        (mark + 1, &ours),
        (mark ^ 0x0001_0000, &ours),
        (mark & 0xffff, &ours),
        (mark, &elsewhere),
    ] {
        let (verdict, left, after) = run(&mut ways, maps::OUTGOING, mark, frame);
        assert_eq!((verdict, after), (GO_ON, mark), "{mark:x}");
        assert_eq!(hex(&left.0), hex(&frame.0), "{mark:x}");
    }
    assert_eq!(mark & 0xffff_0000, MARK);
}

#[test]
fn answers_find_back_to_their_sockets() {
    needs_root!();
    let mut ways = Ways::load(1000).unwrap();
    for v6 in [false, true] {
        for kind in 0..3 {
            let probe: Probe = way(Forwarding::DSR_IPIP, v6, v6);
            let (node, name) = (ip(NODES[usize::from(v6)]), format!("{v6} {kind}"));
            let answer = |from: IpAddr| match kind {
                0 => PacketBuilder::tcp((from, 80).into(), (node, LOCAL).into(), 0x12)
                    .payload(b"!")
                    .frame(),
                1 => PacketBuilder::udp((from, 80).into(), (node, LOCAL).into())
                    .payload(b"!")
                    .frame(),
                _ => echo(from, node, false, b"!"),
            };
            let (vip, origin) = (probe.vip.into(), probe.origin.into());
            let unasked = run(&mut ways, maps::INCOMING, 0, &answer(vip)).1;
            assert_eq!(hex(&unasked.0), hex(&answer(vip).0), "{name}: nobody has asked");
            let mark = ways.mark(&probe).unwrap();
            let asked = run(
                &mut ways,
                maps::OUTGOING,
                mark,
                &question(probe.target, kind, 80, b"?"),
            );
            assert_eq!(asked.0, GO_ON);
            let (verdict, left, _) = run(&mut ways, maps::INCOMING, 0, &answer(vip));
            assert_eq!(verdict, GO_ON);
            assert_eq!(hex(&left.0), hex(&answer(origin).0), "{name}");
            // An error is an answer too. What it quotes of the transport header stays as it is.
            let quoted = question(probe.vip, kind, 80, b"?");
            let (_, left, _) = run(&mut ways, maps::INCOMING, 0, &unreachable(vip, node, &quoted));
            let transport = if v6 { 54 } else { 34 };
            let mut wanted = question(probe.origin, kind, 80, b"?");
            wanted
                .0
                .splice(transport.., quoted.0[transport..].iter().copied());
            assert_eq!(hex(&left.0), hex(&unreachable(origin, node, &wanted).0), "{name}");
            let stranger = answer(ip(if v6 { "2001:db8::99" } else { "192.0.2.99" }));
            assert_eq!(run(&mut ways, maps::INCOMING, 0, &stranger).1, stranger);
        }
    }
}

#[test]
fn nothing_in_the_object_for_probes_panics() {
    let file = object::File::parse(OBJECT).unwrap();
    let names: Vec<&str> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    for (name, _) in BUDGET {
        assert!(names.contains(&name), "no symbol {name} in {names:?}");
    }
    let reachable: Vec<_> = names.iter().filter(|name| name.contains("panicking")).collect();
    assert!(reachable.is_empty(), "reachable panics: {reachable:?}");
}

#[test]
fn the_verifier_takes_the_programs_for_probes_with_room_to_spare() {
    needs_root!();
    let mut ways = Ways::load(1000).unwrap();
    for (name, budget) in BUDGET {
        let info = ways.program(name).unwrap().info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{name}: {verified} instructions verified, {} bytes of machine code",
            info.size_jitted()
        );
        assert!(
            verified <= budget,
            "{name}: {verified} instructions verified, more than {budget}"
        );
    }
}
