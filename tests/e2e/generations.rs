//! Configurations follow one another while packets flow: each packet is handled by one of them, and comes to one origin.

use lb_tests::check::{SOON, wait_until};
use lb_tests::config::{Pool, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::gate::number;
use lb_tests::lab::{Lab, VIP4};
use lb_tests::traffic::{FIRST_ORIGIN_PORT, FIRST_PORT, LAP, MAX_NUMBERED, STRIDE, Tally, Traffic, place};
use lb_tests::{gate, needs_root};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Applications, each on a port of its own.
const APPLICATIONS: u32 = 20;
/// Packets that are on their way at most, full speed otherwise: the ring of a veth holds 256, and drops what it has no room
/// for; the kernel sends in batches of 64.
const WINDOW: u32 = 128;
/// Packets that one call makes at most.
const TURN: u32 = 1 << 16;
/// How long the last packets may take.
const STALL: Duration = Duration::from_secs(5);

/// The configuration of a generation: application and origin port, pool and origin change together.
fn configuration(lab: &Lab, generation: u32) -> String {
    let mut text = String::new();
    for (origin, host) in (0..LAP).zip(&lab.origins) {
        let name = format!("at-{origin}");
        let pool: Pool = pool(&name)
            .unmonitored()
            .line("forwarding = \"dnat\"")
            .origin(host, VIP4, 0, 1.0);
        text += &pool.to_string();
    }
    // The same names lead elsewhere: what changes is what stands behind them.
    for number in 0..APPLICATIONS {
        let (name, origin) = (format!("a{number}"), place(number, generation));
        let port = u32::from(FIRST_ORIGIN_PORT) + 8 * number + origin;
        text += &balancer(&name, &[&format!("at-{origin}")], None);
        let protocol = format!("udp/{}", u32::from(FIRST_PORT) + number);
        text += &application(&name, &protocol, VIP4, &name);
        text += &format!("origin_port = {port}\n");
    }
    text
}

/// Sends numbered packets until it is told to stop, and returns how many there were.
fn flow(traffic: &mut Traffic, stop: &AtomicBool) -> u64 {
    while !stop.load(Ordering::Relaxed) && traffic.made() + u64::from(TURN) <= MAX_NUMBERED {
        traffic.send(TURN);
    }
    let sent = traffic.made();
    let deadline = Instant::now() + STALL;
    // What has not come by then is lost.
    while traffic.tally().arrived < sent && Instant::now() < deadline {
        thread::yield_now();
    }
    sent
}

#[test]
fn each_packet_of_a_thousand_generations_is_handled_by_one_of_them() {
    needs_root!();
    let _alone = gate::alone();
    let lab = Lab::routed(LAP as usize);
    let mut lb = Daemon::start(&lab, &configuration(&lab, 0));
    lb.wait("all applications are there", |status| {
        (0..APPLICATIONS).all(|number| status.application(&format!("a{number}")).is_object())
    });
    let mut traffic = Traffic::new(&lab);
    traffic.order_numbered(&lab, VIP4, APPLICATIONS, WINDOW);
    let mut conductor = traffic.conduct();
    conductor.say(0, 0);
    let generations = number("LB_TEST_GENERATIONS", 1_000) as u32;
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let (sent, traffic) = thread::scope(|scope| {
        let stop = &stop;
        let client = &lab.client;
        let flowing = scope.spawn(move || {
            let sent = client.enter(|| flow(&mut traffic, stop));
            (sent, traffic)
        });
        for generation in 1..=generations {
            // Before the file is there: lb watches it.
            conductor.say(generation - 1, generation);
            lb.write_config(&configuration(&lab, generation));
            lb.lb_ok(&["reload"]);
            conductor.say(generation, generation);
            assert!(
                !flowing.is_finished(),
                "{MAX_NUMBERED} packets were sent before generation {generation}"
            );
        }
        stop.store(true, Ordering::Relaxed);
        flowing.join().unwrap()
    });
    report(traffic, sent, generations, started.elapsed(), &lb);
}

/// The judge is not blind: what does not come, comes twice, or comes elsewhere, shows.
#[test]
fn packets_that_are_lost_doubled_or_misdirected_are_noticed() {
    needs_root!();
    let lab = Lab::routed(LAP as usize);
    let mut lb = Daemon::start(&lab, &configuration(&lab, 0));
    lb.wait("all applications are there", |status| {
        (0..APPLICATIONS).all(|number| status.application(&format!("a{number}")).is_object())
    });
    let mut traffic = Traffic::new(&lab);
    let count = 100 * APPLICATIONS;
    let all = u64::from(count);
    for (in_force, newest, misdirected) in [
        (0, 0, 0),
        // Packets go where generation 0 wants them, which is right only while that may be in force.
        (0, 1, 0),
        (1, 1, 100),
        (STRIDE, STRIDE, all),
    ] {
        traffic.order_numbered(&lab, VIP4, APPLICATIONS, 0);
        traffic.conduct().say(in_force, newest);
        lab.client.enter(|| traffic.send(count));
        wait_until(SOON, "all have arrived", || {
            (traffic.tally().arrived >= all).then_some(())
        });
        assert_eq!(traffic.tally().misdirected, misdirected, "{in_force} to {newest}");
        assert_eq!(traffic.lost(all), 0);
        assert_eq!(traffic.lost(all + 640), 640);
    }
    // The later rounds had the numbers of the first.
    assert_eq!(traffic.tally().twice, all);
}

fn report(mut traffic: Traffic, sent: u64, generations: u32, took: Duration, lb: &Daemon) {
    let tally: Tally = traffic.tally();
    let lost = traffic.lost(sent);
    let seconds = took.as_secs_f64();
    println!(
        "{generations} generations in {seconds:.1} s, one in {STRIDE} of them of all {APPLICATIONS} applications: {sent} packets \
         sent ({:.0} a second), {} arrived, {lost} lost, {} twice, {} misdirected; {} were handled by a generation that \
         came into force meanwhile, {} met more than one change",
        sent as f64 / seconds,
        tally.arrived,
        tally.twice,
        tally.misdirected,
        tally.newer,
        tally.slow,
    );
    assert!(sent > u64::from(generations), "packets flow");
    assert_eq!(
        (lost, tally.twice, tally.misdirected),
        (0, 0, 0),
        "{tally:x?}; drops {}",
        lb.status().json()["drops"]
    );
    assert_eq!(tally.arrived, sent);
}
