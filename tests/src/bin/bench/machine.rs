//! The engine over real maps, without a daemon around it: the network answers at once, and time is what we say it is.

use crate::control::{Figure, Samples};
use anyhow::{Context, Result, bail, ensure};
use lb_common::abi::{HashKey, Mac, OriginState, PortRange, SettingsFlags, Tag};
use lb_core::engine::{
    Command, Engine, Environment, Event, HealthRecord, Kept, Path, ProbeRequest, Report, TargetId,
};
use lb_core::health::FailureReason;
use lb_core::image::TableOp;
use lb_core::model::{Config, Host};
use lb_core::time::Timestamp;
use lb_tests::netns::Netns;
use lb_tests::prog::{Kernel, namespace};
use lb_userspace::config::{HostDefaults, parse};
use lb_userspace::daemon::sizes;
use lb_userspace::datapath::object::MapSizes;
use lb_userspace::datapath::writer::Writer;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Applications and origins of the large configuration.
const APPLICATIONS: u32 = 1_000;
const ORIGINS: u32 = 10_000;
/// No flow is opened here: the tables of flows need no room.
const MAX_FLOWS: u32 = 65_536;
/// Ticks in a row, each of which has something to do.
const TICKS: u32 = 100_000;
const ANSWERED_AFTER: Duration = Duration::from_millis(1);

/// The monitor of all pools: one failure makes a verdict.
const MONITOR: &str = "[monitors.tcp]\ntype = 'tcp'\ninterval = 5\ntimeout = 1\nretries = 0\n";

/// A node.
struct Machine {
    engine: Engine,
    writer: Writer,
    now: Timestamp,
    /// Attempts that are to be answered.
    asked: BTreeMap<TargetId, ProbeRequest>,
    _kernel: Kernel,
}

/// What an event led to.
#[derive(Default)]
struct Effects {
    /// The steps that were applied.
    steps: Vec<TableOp>,
    /// Until the engine had said which, and until they were applied.
    compiled: Duration,
    applied: Duration,
}

impl Machine {
    /// Loads the program with maps for a configuration. Must be called, and used, in a namespace.
    fn new(config: &Config) -> Result<Self> {
        let sizes = MapSizes {
            max_flows: MAX_FLOWS,
            ..sizes(config)
        };
        let kernel = Kernel::new(&sizes)?;
        let writer = Writer::new(|name| kernel.map(name))?;
        let environment = Environment {
            hz: kernel.clock.hz,
            hash_key: HashKey { k0: 1, k1: 2 },
            snat_ports: PortRange::default(),
            flags: SettingsFlags(0),
            capacity: sizes.capacity,
            max_flows: MAX_FLOWS,
            adopted: None,
            kept: Kept {
                health: healthy(config),
                ..Kept::default()
            },
            assume_healthy: false,
            seed: 0,
        };
        Ok(Self {
            engine: Engine::new(environment, Timestamp::default()),
            writer,
            now: Timestamp::default(),
            asked: BTreeMap::new(),
            _kernel: kernel,
        })
    }

    /// Handles an event, and applies what the engine says. Only that is timed.
    fn handle(&mut self, event: Event) -> Result<Effects> {
        let started = Instant::now();
        let commands = self.engine.handle(event, self.now);
        let mut effects = Effects {
            compiled: started.elapsed(),
            ..Effects::default()
        };
        let mut paths = None;
        for command in commands {
            match command {
                Command::Apply(steps) => {
                    let started = Instant::now();
                    self.writer.apply(&steps)?;
                    effects.applied += started.elapsed();
                    effects.steps.extend(steps);
                }
                Command::Probe(request) => {
                    self.asked.insert(request.target, request);
                }
                Command::WatchPaths(addresses) => paths = Some(addresses),
                Command::Report(Report::Refused(why)) => bail!("the engine refuses it: {why}"),
                _ => {}
            }
        }
        if let Some(addresses) = paths {
            let reached = addresses.into_iter().map(|address| (address, path(address)));
            self.handle(Event::Paths(reached.collect()))?;
        }
        Ok(effects)
    }

    fn observe(&mut self, request: &ProbeRequest, up: bool) -> Result<Effects> {
        self.asked.remove(&request.target);
        let observation = if up {
            Ok(ANSWERED_AFTER.into())
        } else {
            Err(FailureReason::ConnectionFailed)
        };
        self.handle(Event::Observed {
            target: request.target,
            attempt: request.attempt,
            observation,
        })
    }

    /// Does what is due at this moment, and returns it.
    fn settle(&mut self) -> Result<Effects> {
        let mut all = Effects::default();
        for _ in 0..TICKS {
            if self.engine.next_deadline().is_none_or(|due| due > self.now) {
                return Ok(all);
            }
            let effects = self.handle(Event::Tick)?;
            all.steps.extend(effects.steps);
            all.compiled += effects.compiled;
            all.applied += effects.applied;
        }
        bail!("the engine asks for one tick after the other")
    }

    /// Lets time pass, with all attempts answered as they come.
    fn run(&mut self, time: Duration) -> Result<()> {
        let end = self.now.after(time);
        for _ in 0..TICKS {
            while let Some((_, request)) = self.asked.pop_first() {
                self.observe(&request, true)?;
            }
            match self.engine.next_deadline() {
                Some(due) if due <= end => self.now = due.max(self.now),
                Some(_) | None => {
                    self.now = end;
                    return Ok(());
                }
            }
            self.settle()?;
        }
        bail!("the engine asks for one tick after the other")
    }

    /// Lets time pass until the next attempt at some origin, and returns it, unanswered.
    fn next_attempt(&mut self) -> Result<ProbeRequest> {
        for _ in 0..TICKS {
            if let Some((_, request)) = self.asked.pop_first() {
                return Ok(request);
            }
            let due = self.engine.next_deadline().context("nothing is ever due")?;
            self.now = due.max(self.now);
            self.settle()?;
        }
        bail!("no origin is asked any more")
    }
}

/// All origins were healthy just now: their tables are full from the beginning.
fn healthy(config: &Config) -> Vec<HealthRecord> {
    let records = config.pools.iter().flat_map(|pool| {
        pool.origins.iter().filter_map(|origin| {
            let Host::Address(address) = origin.address else {
                return None;
            };
            Some(HealthRecord {
                pool: pool.name.clone(),
                origin: origin.name.clone(),
                address,
                monitor: pool.monitor.clone()?,
                healthy: true,
                failure_reason: None,
                latency: None,
                age: Duration::ZERO,
            })
        })
    });
    records.collect()
}

/// Each address is a neighbour.
fn path(address: IpAddr) -> Path {
    Path::Via {
        ifindex: 1,
        tags: [Tag::NONE; 2],
        next_hop: address,
        neighbour: Some(Mac::from([2, 0, 0, 0, 0, 1])),
        interface_mac: Mac::from([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        sources: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
    }
}

fn parsed(text: &str) -> Result<Config> {
    let defaults = HostDefaults {
        node_name: "bench".to_owned(),
    };
    match parse(text, "bench.toml", &defaults) {
        Ok(parsed) => Ok(parsed.config),
        Err(problems) => bail!("the configuration is wrong: {problems:?}"),
    }
}

/// A namespace's name says whose it is.
fn alone<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace: Netns = namespace();
    namespace.enter(work)
}

fn origin(text: &mut String, pool: u32, number: u32) {
    let address = Ipv4Addr::from_bits(0x0a00_0001 + number);
    // Nothing fails that writes to a string.
    let _ = writeln!(
        text,
        "[pools.p{pool}.origins.o{number}]\naddress = '{address}'\nport = 80"
    );
}

fn application(text: &mut String, number: u32) {
    let (high, low) = (number / 250, number % 250 + 1);
    let _ = writeln!(
        text,
        "[load_balancers.b{number}]\ndefault_pools = ['p{number}']\nfallback_pool = 'p{number}'\n\
         [applications.a{number}]\nprotocol = 'tcp/443'\nload_balancer = 'b{number}'\n\
         addresses = ['203.0.{high}.{low}', '2001:db8::{high}:{low}']"
    );
}

/// One application of so many origins.
fn wide(origins: u32) -> String {
    let mut text = format!("{MONITOR}[pools.p0]\nmonitor = 'tcp'\n");
    for number in 0..origins {
        origin(&mut text, 0, number);
    }
    application(&mut text, 0);
    text
}

/// Many applications, each on an address of either family and with a pool of its own.
fn large(origins: u32) -> String {
    let mut text = MONITOR.to_owned();
    for number in 0..APPLICATIONS {
        let _ = writeln!(text, "[pools.p{number}]\nmonitor = 'tcp'");
        for index in (number..origins).step_by(APPLICATIONS as usize) {
            origin(&mut text, number, index);
        }
        application(&mut text, number);
    }
    text
}

/// Has some of the origins of a pool fail, one after the other.
///
/// # Errors
/// The kernel refuses something, or a failure has not the effect that it should have.
pub fn fail_origins(origins: u32, changes: u32, samples: &mut Samples) -> Result<()> {
    alone(|| {
        let config = parsed(&wide(origins))?;
        let mut machine = Machine::new(&config)?;
        machine.handle(Event::Configure(Arc::new(config)))?;
        machine.run(Duration::from_secs(6))?;
        for _ in 0..changes {
            let request = machine.next_attempt()?;
            let first = machine.observe(&request, false)?;
            let down = |step: &TableOp| matches!(step, TableOp::Origin { record, .. } if record.state == OriginState::DOWN);
            ensure!(
                matches!(first.steps.as_slice(), [step] if down(step)),
                "an origin's failure is not one write: {:?}",
                first.steps
            );
            let avoided = first.compiled + first.applied;
            // What is due anyway is no part of it.
            let pause = machine.engine.next_deadline().context("nothing is due")?;
            machine.now = machine.now.max(pause);
            let mut rebuilt = avoided;
            let mut made = false;
            for _ in 0..TICKS {
                let effects = machine.handle(Event::Tick)?;
                let tables =
                    |step: &TableOp| matches!(step, TableOp::Slots { owners, .. } if owners.len() > 1);
                made = effects.steps.iter().any(tables);
                if made {
                    samples.add(Figure::Rewritten(origins), milliseconds(effects.applied));
                    rebuilt += effects.compiled + effects.applied;
                    break;
                }
                let due = machine.engine.next_deadline().context("nothing is due")?;
                machine.now = machine.now.max(due);
            }
            ensure!(made, "no table follows an origin's failure");
            samples.add(Figure::Avoided(origins), milliseconds(avoided));
            samples.add(Figure::Rebuilt(origins), milliseconds(rebuilt));
        }
        Ok(())
    })
}

/// Brings a large configuration from text into empty maps, and then another one.
///
/// # Errors
/// The kernel refuses something.
pub fn configure(samples: &mut Samples) -> Result<()> {
    let (text, more) = (large(ORIGINS), large(ORIGINS + 1));
    alone(|| {
        let started = Instant::now();
        let config = parsed(&text)?;
        let parsing = started.elapsed();
        ensure!(config.applications.len() == APPLICATIONS as usize);
        let mut machine = Machine::new(&config)?;
        let effects = machine.handle(Event::Configure(Arc::new(config)))?;
        ensure!(
            effects.steps.len() > (ORIGINS + 2 * APPLICATIONS) as usize,
            "{} steps only",
            effects.steps.len()
        );
        for (figure, time) in [
            (Figure::Parsed, parsing),
            (Figure::Compiled, effects.compiled),
            (Figure::Written, effects.applied),
            (Figure::Configured, parsing + effects.compiled + effects.applied),
        ] {
            samples.add(figure, milliseconds(time));
        }
        machine.run(Duration::from_secs(6))?;
        let started = Instant::now();
        let config = parsed(&more)?;
        let parsing = started.elapsed();
        let effects = machine.handle(Event::Configure(Arc::new(config)))?;
        let origins = effects
            .steps
            .iter()
            .filter(|step| matches!(step, TableOp::Origin { .. }));
        ensure!(origins.count() > 0, "no origin came");
        let time = parsing + effects.compiled + effects.applied;
        samples.add(Figure::Reconfigured, milliseconds(time));
        Ok(())
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
