//! The agent that runs on origins: it takes tunnels' headers off what nodes send (`dsr_ipip`, `dsr_gue`), and keeps
//! clients from sending more than fits into a tunnel.

mod host;
pub mod kernel;

use crate::cli::{Exit, Failure};
use crate::datapath::pins::network_namespace;
use crate::net::addresses::AddressWatch;
use crate::net::doctor::{self, Status};
use crate::net::interface::{self, Interface};
use crate::wire::{AgentAddress, AgentStatus, Ordered};
use anyhow::{Context, Result};
use host::State;
use kernel::{Egress, Folder, Programs, Settings};
use lb_common::tunnel::Roles;
use lb_core::model::Prefix;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// Addresses that there is always room for.
const FEWEST_ADDRESSES: usize = 1024;

/// What the agent is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The interface by which tunnels' packets arrive, and answers leave.
    pub interface: String,
    /// What tunnels may carry packets to; none: every address of loopback and dummy interfaces at which no tunnel ends.
    pub vips: Vec<IpAddr>,
    /// Where tunnels end; none: the interface's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that tunnels may come from; none: any.
    pub nodes: Vec<Prefix>,
    pub gue_port: u16,
    /// Largest packet on the way from the nodes. `None`: what the interface carries; 0: the MSS is not clamped.
    pub clamp_mtu: Option<u32>,
    /// Give the VIPs to the loopback interface.
    pub add_vips: bool,
    /// Leave kernel parameters as they are.
    pub keep_sysctls: bool,
}

/// Runs the agent until it is told to stop; calls `ready` when origins are served.
///
/// # Errors
/// Exit 7 without privilege or interface, exit 6 when another agent has it.
pub fn run(options: &Options, ready: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let interface = find(&options.interface)?;
        let mut agent = Agent::start(options, interface)?;
        let ended = match ready() {
            Ok(()) => agent.serve(options).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        info!("stopping");
        agent.stop()?;
        ended
    })
}

/// Removes what an agent that died has left on an interface.
///
/// # Errors
/// Exit 5 when there is nothing, exit 6 when an agent runs there.
pub fn detach(name: &str) -> Result<(), Failure> {
    let interface =
        interface::by_name(name).map_err(|error| Failure::new(Exit::Privilege, format!("{error:#}")))?;
    let folder = Folder::of(interface.index)?;
    let mut state = State::load(&interface, network_namespace()?);
    if !folder.exists() && state.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no agent has been on {name}"),
        ));
    }
    if folder.exists() {
        let _lock = claim(&folder, name)?;
        folder.remove(Some(name))?;
    }
    state.undo();
    Ok(())
}

/// The agents of this network namespace, whether they run or have left their programs.
///
/// # Errors
/// Exit 7 without the privilege to look.
pub fn status() -> Result<Vec<AgentStatus>, Failure> {
    let privilege =
        |error: anyhow::Error| Failure::new(Exit::Privilege, format!("{error:#} (run it as root)"));
    let folders = Folder::all().map_err(privilege)?;
    let interfaces = interface::all()?;
    let mut agents = Vec::new();
    for folder in folders {
        let Some(interface) = interfaces
            .iter()
            .find(|interface| interface.index == folder.ifindex)
        else {
            continue;
        };
        let addresses = folder.locals().map_err(privilege)?;
        agents.push(AgentStatus {
            interface: interface.name.clone(),
            mode: folder.mode().map(|mode| mode.name().to_owned()),
            running: folder.lock()?.is_none(),
            addresses: addresses
                .into_iter()
                .map(|(address, local)| AgentAddress {
                    address,
                    tunnel: local.roles.has(Roles::TUNNEL),
                    vip: local.roles.has(Roles::VIP),
                    overhead: local.overhead,
                })
                .collect(),
            packets: Ordered(
                folder
                    .counts()
                    .map_err(privilege)?
                    .into_iter()
                    .map(|(name, count)| (name.to_owned(), count))
                    .collect(),
            ),
        });
    }
    agents.sort_by(|a, b| a.interface.cmp(&b.interface));
    Ok(agents)
}

/// The interface, on a machine where an agent can run.
fn find(name: &str) -> Result<Interface, Failure> {
    let mut missing = Vec::new();
    for check in doctor::agent_checks(name) {
        let remedy = check
            .remedy
            .as_deref()
            .map_or(String::new(), |remedy| format!(" ({remedy})"));
        match check.status {
            Status::Ok => {}
            Status::Warn => warn!(check = check.name, "{}{remedy}", check.detail),
            Status::Fail => missing.push(format!("{}: {}{remedy}", check.name, check.detail)),
        }
    }
    if !missing.is_empty() {
        return Err(Failure::new(Exit::Privilege, missing.join("\n")));
    }
    interface::by_name(name).map_err(|error| Failure::new(Exit::Privilege, format!("{error:#}")))
}

fn claim(folder: &Folder, interface: &str) -> Result<File, Failure> {
    let lock = folder.lock()?;
    lock.ok_or_else(|| {
        Failure::new(
            Exit::Conflict,
            format!("another agent runs on {interface}: stop it first"),
        )
    })
}

/// An agent at work.
struct Agent {
    interface: Interface,
    folder: Folder,
    state: State,
    programs: Programs,
    locals: BTreeMap<IpAddr, Roles>,
    watch: AddressWatch,
    _lock: File,
}

impl Agent {
    /// Prepares the machine and attaches the programs. A start that fails leaves nothing that was not there before.
    fn start(options: &Options, interface: Interface) -> Result<Self, Failure> {
        let folder = Folder::of(interface.index)?;
        let adopted = folder.mode().is_some();
        let lock = loop {
            folder.make()?;
            let lock = claim(&folder, &interface.name)?;
            // An agent that stopped may have removed the folder between the two.
            if folder.exists() {
                break lock;
            }
        };
        let mut state = State::load(&interface, network_namespace()?);
        let attached = match Self::attach(options, &interface, &folder, &mut state) {
            Ok(attached) => attached,
            Err(error) => {
                if !adopted {
                    if let Err(error) = folder.remove(Some(&interface.name)) {
                        warn!(error = %format!("{error:#}"), "what was made so far could not be removed");
                    }
                    state.undo();
                }
                return Err(error.into());
            }
        };
        let (programs, locals, watch) = attached;
        Ok(Self {
            interface,
            folder,
            state,
            programs,
            locals,
            watch,
            _lock: lock,
        })
    }

    fn attach(
        options: &Options,
        interface: &Interface,
        folder: &Folder,
        state: &mut State,
    ) -> Result<(Programs, BTreeMap<IpAddr, Roles>, AddressWatch)> {
        state.prepare(options)?;
        // Before the addresses are read, so that no change is missed.
        let watch = AddressWatch::start()?;
        let locals = host::locals(options, &interface::all()?);
        let settings = Settings {
            gue_port: options.gue_port,
            path_mtu: options.clamp_mtu.unwrap_or(interface.mtu),
            addresses: (locals.len() * 4).max(FEWEST_ADDRESSES) as u32,
            nodes: nodes(options),
        };
        let mut programs = Programs::load(&settings, Some(folder))?;
        programs.set_locals(&locals)?;
        programs
            .attach_clamping(folder, interface, Egress::Tcx)
            .or_else(|error| {
                info!(error = %format!("{error:#}"), "no TCX (Linux 6.6): using a filter of clsact");
                programs.attach_clamping(folder, interface, Egress::Filter)
            })
            .with_context(|| format!("attach the program that clamps the MSS to {}", interface.name))?;
        let mode = programs.attach_decapsulating(folder, interface)?;
        info!(interface = interface.name, mode = mode.name(), "attached");
        say(&locals);
        Ok((programs, locals, watch))
    }

    /// Follows the machine's addresses until a signal says to stop.
    async fn serve(&mut self, options: &Options) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("receive SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("receive SIGINT")?;
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                changed = self.watch.changed() => {
                    changed.context("watch for changes of addresses")?;
                    if let Err(error) = self.refresh(options) {
                        warn!(error = %format!("{error:#}"), "a change of addresses could not be followed");
                    }
                }
            }
        }
    }

    fn refresh(&mut self, options: &Options) -> Result<()> {
        let locals = host::locals(options, &interface::all()?);
        if locals != self.locals {
            self.programs.set_locals(&locals)?;
            say(&locals);
            self.locals = locals;
        }
        Ok(())
    }

    /// Detaches and puts everything back.
    fn stop(mut self) -> Result<()> {
        let detached = self.folder.remove(Some(&self.interface.name));
        self.state.undo();
        detached
    }
}

/// The prefixes that tunnels may come from.
fn nodes(options: &Options) -> Vec<Prefix> {
    if options.nodes.is_empty() {
        warn!(
            "tunnels may come from anywhere: whoever can send to this machine can send packets to its VIPs from any \
             address (name the nodes with --node PREFIX)"
        );
        let anywhere = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        return anywhere
            .into_iter()
            .filter_map(|any| Prefix::new(any, 0))
            .collect();
    }
    options.nodes.clone()
}

fn say(locals: &BTreeMap<IpAddr, Roles>) {
    let with = |role| {
        let with = locals.iter().filter(|(_, roles)| roles.has(role));
        with.map(|(address, _)| address.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (ends, vips) = (with(Roles::TUNNEL), with(Roles::VIP));
    info!("tunnels end at {ends}; they may carry packets to {vips}");
    if ends.is_empty() {
        warn!("the interface has no address at which tunnels could end: give it one, or --address");
    }
    if vips.is_empty() {
        warn!("no address of this machine is a VIP yet: add them, or give --vip and --add-vips");
    }
}
