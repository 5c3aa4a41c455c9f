//! `lb origin-agent`.

use super::run::interface;
use super::table::{Align, Table};
use super::{Exit, Failure, Global, log, output};
use crate::agent::{self, Options};
use clap::{Args, Subcommand};
use lb_core::model::Prefix;
use std::net::IpAddr;

/// On an origin: take the tunnels' headers off what nodes send with dsr_ipip and dsr_gue
#[derive(Args, Debug)]
#[command(name = "origin-agent")]
pub(super) struct OriginAgent {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Run(Run),
    Status(Status),
    Detach(Detach),
}

impl OriginAgent {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self.verb {
            Verb::Run(verb) => verb.run(global),
            Verb::Status(verb) => verb.run(global),
            Verb::Detach(verb) => verb.run(global),
        }
    }
}

/// Run the agent in the foreground; prints "ready" when packets are taken
///
/// While it runs, `net.ipv4.conf.IF.arp_ignore` is 1 and `arp_announce` is 2, so that the origin does not claim the
/// VIPs on its network, and a strict `rp_filter` is a loose one, because clients' packets come from the nodes' side.
/// All of it, and the addresses of --add-vips, is put back at the end. When the agent is killed, its programs go on;
/// the next one takes them over.
#[derive(Args, Debug)]
struct Run {
    /// Interface by which nodes reach this origin
    #[arg(short, long, value_name = "IF", value_parser = interface)]
    interface: String,
    /// Address that tunnels may carry packets to; may be repeated [default: the addresses of loopback and dummy
    /// interfaces at which no tunnel ends]
    #[arg(long = "vip", value_name = "ADDRESS", value_parser = unicast)]
    vips: Vec<IpAddr>,
    /// Address at which tunnels end; may be repeated [default: those of the interface]
    #[arg(long = "address", value_name = "ADDRESS", value_parser = unicast)]
    addresses: Vec<IpAddr>,
    /// Address or prefix of nodes, from which tunnels may come; may be repeated [default: any, with a warning]
    #[arg(long = "node", value_name = "PREFIX", value_parser = prefix)]
    nodes: Vec<Prefix>,
    /// UDP port of GUE
    #[arg(long, value_name = "PORT", default_value_t = lb_common::tunnel::GUE_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: u16,
    /// Largest packet on the way from the nodes, to which the MSS of connections is clamped; 0: not at all [default:
    /// the interface's MTU]
    #[arg(long, value_name = "BYTES", value_parser = mtu)]
    clamp_mtu: Option<u32>,
    /// Give the VIPs to the loopback interface while the agent runs
    #[arg(long, requires = "vips")]
    add_vips: bool,
    /// Leave kernel parameters as they are, and only say what they should be
    #[arg(long)]
    keep_sysctls: bool,
}

impl Run {
    fn run(self, global: &Global) -> Result<(), Failure> {
        log::start(global)?;
        let options = Options {
            interface: self.interface,
            vips: self.vips,
            addresses: self.addresses,
            nodes: self.nodes,
            gue_port: self.gue_port,
            clamp_mtu: self.clamp_mtu,
            add_vips: self.add_vips,
            keep_sysctls: self.keep_sysctls,
        };
        agent::run(&options, || output::print("ready\n"))
    }
}

/// Show the agents of this machine: addresses, and packets by what became of them
#[derive(Args, Debug)]
struct Status {
    /// Show counters that are zero too
    #[arg(long)]
    all: bool,
}

impl Status {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let agents = agent::status()?;
        if global.json {
            return output::print_json(&agents);
        }
        if agents.is_empty() {
            return Err(Failure::new(Exit::NotFound, "no agent runs here"));
        }
        let mut text = String::new();
        for agent in &agents {
            let state = if agent.running {
                "running"
            } else {
                "not running: its programs go on (lb origin-agent detach removes them)"
            };
            let mode = agent.mode.as_deref().unwrap_or("not attached");
            text += &format!("{} ({mode}), {state}\n\n", agent.interface);
            let mut table = Table::new(&[
                ("ADDRESS", Align::Left),
                ("ROLE", Align::Left),
                ("TUNNEL BYTES", Align::Right),
            ]);
            for address in &agent.addresses {
                let role = match (address.tunnel, address.vip) {
                    (true, true) => "tunnel end, VIP",
                    (true, false) => "tunnel end",
                    (false, _) => "VIP",
                };
                let overhead = match address.overhead {
                    0 => "-".to_owned(),
                    bytes => bytes.to_string(),
                };
                table.row([address.address.to_string(), role.to_owned(), overhead]);
            }
            text += &table.render(false);
            let mut table = Table::new(&[("OUTCOME", Align::Left), ("PACKETS", Align::Right)]);
            for (name, count) in agent.packets.0.iter().filter(|(_, count)| self.all || *count > 0) {
                table.row([name.clone(), count.to_string()]);
            }
            if !table.is_empty() {
                text += "\n";
                text += &table.render(false);
            }
        }
        output::print(&text)
    }
}

/// Remove what an agent that was killed has left on an interface, and put its changes back
#[derive(Args, Debug)]
struct Detach {
    #[arg(value_name = "IF", value_parser = interface)]
    interface: String,
}

impl Detach {
    fn run(self, global: &Global) -> Result<(), Failure> {
        log::start(global)?;
        agent::detach(&self.interface)
    }
}

/// A prefix, or an address alone.
fn prefix(text: &str) -> Result<Prefix, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let length = if address.is_ipv4() { 32 } else { 128 };
        return Prefix::new(address, length).ok_or_else(|| "not a prefix".to_owned());
    }
    text.parse::<Prefix>().map_err(|error| error.to_string())
}

/// An address of one machine.
fn unicast(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "not an IP address".to_owned())?;
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err("must be the address of one machine on a network".to_owned());
    }
    Ok(address)
}

/// The smallest packet that every IPv4 host takes (RFC 791).
const LEAST_MTU: u32 = 576;

fn mtu(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(mtu) if mtu == 0 || (LEAST_MTU..=65_535).contains(&mtu) => Ok(mtu),
        Ok(_) | Err(_) => Err(format!("must be 0, or between {LEAST_MTU} and 65535")),
    }
}
