//! `lb attach` and `lb detach`: the datapath without a daemon.

use super::objects::Objects;
use super::{node, runtime, setup};
use crate::cli::{Exit, Failure};
use crate::config::Loaded;
use crate::datapath::attach as links;
use crate::datapath::kernel::Datapath;
use crate::datapath::pins::{Pins, network_namespace};
use crate::datapath::ways;
use crate::net::addresses;
use crate::net::interface;
use crate::net::paths::PathWatcher;
use crate::resolve;
use lb_core::engine::{Command, Engine, Environment, Event, Kept, Path, Report};
use lb_core::model::Config;
use lb_core::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

/// How long neighbours may take to answer. What is not resolved by then is left out until a daemon comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The engine makes tables no more often than this.
const TICK: Duration = Duration::from_millis(50);

/// Attaches to `interface` and fills the tables once: every enabled origin counts as up. Interfaces that were attached
/// before stay.
///
/// # Errors
/// As [`super::run`].
pub fn attach(loaded: Loaded, interface: String) -> Result<(), Failure> {
    runtime()?.block_on(fill(loaded, interface))
}

async fn fill(loaded: Loaded, interface: String) -> Result<(), Failure> {
    let mut objects = Objects::new(&loaded);
    let mut config = loaded.config;
    config.datapath.interfaces = vec![interface];
    setup::check_machine(&config, &config.datapath.interfaces).await?;
    let mut interfaces = setup::interfaces(&config.datapath.interfaces)?;
    let named: Vec<(String, u32)> = interfaces
        .iter()
        .map(|interface| (interface.name.clone(), interface.index))
        .collect();
    let (pins, _lock) = setup::claim(&config.node.name)?;
    objects.open(&config.node.state_dir);
    let whole = objects.configuration(&config);
    config = Config {
        datapath: config.datapath,
        ..whole
    };
    let mut datapath = Datapath::open(pins, setup::sizes(&config))?;
    if datapath.is_migrating() {
        let message =
            "maps of another layout are in use: `lb run` takes their flows over, `lb detach` ends them";
        return Err(Failure::new(Exit::Conflict, message));
    }
    let netns = network_namespace()?;
    let attached: Vec<u32> = datapath
        .pins()
        .links()
        .iter()
        .filter(|pin| pin.netns == netns)
        .map(|pin| pin.ifindex)
        .collect();
    let others = interface::all()?;
    interfaces.extend(others.into_iter().filter(|other| attached.contains(&other.index)));
    let kept = Kept {
        names: resolve::once(&config).await,
        ..Kept::default()
    };
    let environment = Environment {
        assume_healthy: true,
        kept,
        ..setup::environment(&datapath, setup::flags(&interfaces))?
    };
    let mut engine = Engine::new(environment, Timestamp::default());
    let indexes = interfaces.iter().map(|interface| interface.index).collect();
    let (paths, mut changes) = PathWatcher::start(indexes).await?;
    // All interfaces that run the program get the new one: their stages change together.
    let mut all = named;
    for other in &interfaces {
        if !all.iter().any(|(_, index)| *index == other.index) {
            all.push((other.name.clone(), other.index));
        }
    }
    datapath.attach(&all, config.datapath.mode)?;
    let mtus = interfaces
        .iter()
        .map(|interface| (interface.index, interface.mtu));
    for event in [
        Event::Interfaces(mtus.collect()),
        Event::Addresses(addresses::own()?),
    ] {
        execute(engine.handle(event, Timestamp::default()), &mut datapath, &paths)?;
    }
    execute(
        engine.handle(Event::Configure(Arc::new(config)), Timestamp::default()),
        &mut datapath,
        &paths,
    )?;
    datapath.keep();
    let deadline = Instant::now() + PATIENCE;
    let mut now = Timestamp::default();
    while let Ok(Some(found)) = timeout_at(deadline, changes.recv()).await {
        let unresolved: Vec<String> = found
            .iter()
            .filter(|(_, path)| matches!(path, Path::Via { neighbour: None, .. }))
            .map(|(address, _)| address.to_string())
            .collect();
        // Tables follow at the next tick.
        now = now.after(TICK);
        for event in [Event::Paths(found), Event::Tick] {
            execute(engine.handle(event, now), &mut datapath, &paths)?;
        }
        if unresolved.is_empty() {
            info!("attached; forwarding goes on without a daemon");
            return Ok(());
        }
    }
    warn!(
        "some neighbours do not answer: their origins get no traffic until `lb run` or another `lb attach`"
    );
    Ok(())
}

fn execute(commands: Vec<Command>, datapath: &mut Datapath, paths: &PathWatcher) -> Result<(), Failure> {
    for command in commands {
        match command {
            Command::Apply(steps) => datapath.writer.apply(&steps)?,
            Command::WatchPaths(addresses) => paths.watch(addresses),
            Command::Report(Report::Refused(why)) => return Err(Failure::new(Exit::Failed, why)),
            // Names were looked up before, and without a daemon nobody does it again, nor removes what remembers sessions.
            Command::Probe(_)
            | Command::Publish(_)
            | Command::Persist(_)
            | Command::WatchNames(_)
            | Command::Shed(_)
            | Command::Report(_) => {}
        }
    }
    Ok(())
}

/// Removes programs, pins and neighbour entries: of one interface, or of this whole network namespace.
///
/// # Errors
/// Exit 5 when a named interface has no program of lb, exit 6 when a daemon manages it.
pub fn detach(wanted: Option<String>, config: Option<Loaded>) -> Result<(), Failure> {
    let netns = network_namespace()?;
    let index = match &wanted {
        Some(name) => Some(
            setup::interfaces(std::slice::from_ref(name))?
                .first()
                .map_or(0, |found| found.index),
        ),
        None => None,
    };
    if let Err(error) = Pins::readable() {
        return Err(Failure::new(
            Exit::Privilege,
            format!("{error:#} (run it as root)"),
        ));
    }
    let nodes = match config {
        Some(loaded) => Pins::of(&loaded.config.node.name).all_layouts(),
        None => Pins::all(),
    };
    let all = interface::all()?;
    let mut detached = 0;
    for node in nodes {
        let ours = |node: &Pins| {
            node.links()
                .into_iter()
                .filter(|pin| pin.netns == netns)
                .collect::<Vec<_>>()
        };
        let links: Vec<_> = ours(&node)
            .into_iter()
            .filter(|pin| index.is_none_or(|index| index == pin.ifindex))
            .collect();
        // Maps without a link are left by a daemon that died while it started: nobody else can tell whose they are.
        let abandoned = node.folder().is_dir() && node.links().is_empty() && index.is_none();
        if links.is_empty() && !abandoned {
            continue;
        }
        let lock = match setup::lock(&node) {
            Ok(lock) => lock,
            // It is starting, somewhere else.
            Err(_) if links.is_empty() => continue,
            Err(failure) => return Err(failure),
        };
        for pin in &links {
            links::remove(pin)?;
            detached += 1;
            let name = all.iter().find(|interface| interface.index == pin.ifindex);
            if let Some(interface) = name {
                ways::release(&interface.name);
            }
        }
        if node.links().is_empty() {
            drop(lock);
            node.remove().map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format!("remove the pins in {}: {error}", node.folder().display()),
                )
            })?;
        }
    }
    if let (Some(name), 0) = (&wanted, detached) {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no program of lb is attached to {name}"),
        ));
    }
    // The kernel keeps neighbours resolved for whoever still forwards here.
    let forwards = |node: &Pins| node.links().iter().any(|pin| pin.netns == netns);
    if !Pins::all().iter().any(forwards) {
        node::release_neighbours();
    }
    info!(interfaces = detached, "detached");
    Ok(())
}
