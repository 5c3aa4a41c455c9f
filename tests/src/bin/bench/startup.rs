//! How long the real daemon takes to be in charge of what another one has left.

use crate::cases::Build;
use crate::control::{Figure, Samples};
use crate::frame::entries;
use crate::layout::Shape;
use crate::modes::Mode;
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::abi::{Application, ApplicationKey, Flow4, FlowKey4, Origin, OriginId, Protocol, maps};
use lb_common::datapath::family::V4;
use lb_tests::config::{application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::gate::{self, lb_binary};
use lb_tests::lab::{Lab, VIP4};
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::datapath::clock::Clock;
use lb_userspace::datapath::sys;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

/// Flows written at a time.
const CHUNK: u32 = 1 << 14;

/// Lets one daemon after the other take over so many flows, and start after a crash, and counts the flows after each.
///
/// # Errors
/// The kernel refuses something, or flows are lost.
pub fn measure(flows: u32, times: u32, samples: &mut Samples) -> Result<()> {
    // Otherwise a lab would wait for another's end.
    let _alone = gate::alone();
    let lab = Lab::routed(1);
    let text = format!(
        "{}{}{}",
        pool("web").unmonitored().origin(&lab.origins[0], VIP4, 80, 1.0),
        balancer("web", &["web"], None),
        application("web", "tcp/443", VIP4, "web")
    );
    let room = format!("max_flows = {}", flows.max(1 << 20) + (1 << 16));
    let mut daemon = Daemon::start_with(&lab, &room, &text);
    fill(&daemon, flows)?;
    for _ in 0..times {
        let started = Instant::now();
        daemon.take_over(&lb_binary());
        samples.add(Figure::TakeOver(flows), started.elapsed().as_secs_f64());
        check(&daemon, flows)?;
        daemon.kill();
        let started = Instant::now();
        daemon.run();
        samples.add(Figure::Restart(flows), started.elapsed().as_secs_f64());
        check(&daemon, flows)?;
    }
    Ok(())
}

/// A map of the daemon's.
fn open(daemon: &Daemon, name: &str) -> Result<MapData> {
    let folders = std::fs::read_dir(daemon.pins()).context("the daemon has pinned nothing")?;
    let folders: Vec<PathBuf> = folders.flatten().map(|entry| entry.path()).collect();
    let mut pins = folders.iter().map(|folder| folder.join(name));
    let pin = pins
        .find(|pin| pin.exists())
        .with_context(|| format!("{name} is not pinned"))?;
    Ok(MapData::from_pin(pin)?)
}

/// Adds flows of its only application to its only origin.
fn fill(daemon: &Daemon, flows: u32) -> Result<()> {
    if flows == 0 {
        return Ok(());
    }
    let origins: Array<_, Origin> = Map::Array(open(daemon, maps::ORIGINS)?).try_into()?;
    let known = (1..origins.len()).find(|row| origins.get(row, 0).is_ok_and(|origin| origin.identity != 0));
    let origin = OriginId(known.context("the daemon has no origin")?);
    let applications: HashMap<_, ApplicationKey, Application> =
        Map::HashMap(open(daemon, maps::APPLICATIONS)?).try_into()?;
    let application = applications
        .iter()
        .next()
        .context("the daemon has no application")??
        .1
        .id;
    let clock: Clock = namespace().enter(|| Kernel::new(&small()).map(|kernel| kernel.clock))?;
    let table = open(daemon, maps::FLOWS4)?;
    let shape = Shape::usual(flows);
    for first in (0..flows).step_by(CHUNK as usize) {
        let (mut keys, mut values): (Vec<FlowKey4>, Vec<Flow4>) = (Vec::new(), Vec::new());
        for flow in first..flows.min(first + CHUNK) {
            let both = entries::<V4>(
                (Build::Present, shape),
                Mode::Nat,
                Protocol::TCP,
                flow,
                clock.now(),
            );
            for (key, mut value) in both.origin.into_iter().chain(both.client) {
                value.core.origin = origin;
                value.core.application = application;
                keys.push(key);
                values.push(value);
            }
        }
        sys::update_all(table.fd().as_fd(), &keys, &values).context("fill the flow table")?;
    }
    check(daemon, flows)
}

/// All flows are there, with both entries.
fn check(daemon: &Daemon, flows: u32) -> Result<()> {
    let table = open(daemon, maps::FLOWS4)?;
    let mut count = 0;
    sys::for_each(table.fd().as_fd(), |_: &FlowKey4, _: &Flow4| count += 1)?;
    ensure!(count == 2 * flows, "{count} entries of {flows} flows");
    Ok(())
}
