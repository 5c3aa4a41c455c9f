//! `lb explain`.

use super::table::{Align, Table};
use super::{Exit, Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::Explain;
use clap::{Args, ValueEnum};
use hyper::Method;
use std::net::SocketAddr;

/// Show where a flow would go, step by step, by the code that forwards packets
#[derive(Args, Debug)]
#[command(
    name = "explain",
    after_help = "Example: lb explain tcp 198.51.100.7:40000 203.0.113.10:80"
)]
pub(super) struct ExplainArgs {
    protocol: Protocol,
    /// Where the flow comes from
    #[arg(value_name = "CLIENT:PORT")]
    client: SocketAddr,
    /// Address and port of an application
    #[arg(value_name = "VIP:PORT")]
    vip: SocketAddr,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Protocol {
    Tcp,
    Udp,
}

impl ExplainArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        if self.client.is_ipv4() != self.vip.is_ipv4() {
            let message = format!(
                "{} and {} are not of the same address family",
                self.client, self.vip
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let query = Query::new("/api/v1/explain")
            .with("protocol", protocol)
            .with("client", &self.client.to_string())
            .with("vip", &self.vip.to_string());
        let body = global::wait(global.client()?.call(Method::GET, &query))?;
        if global.json {
            return output::print_answer(&body);
        }
        output::print(&text(&parse(&body)?))
    }
}

fn text(explain: &Explain) -> String {
    let mut steps = Table::new(&[("STEP", Align::Left), ("DETAIL", Align::Left)]);
    for step in &explain.steps {
        steps.row([step.step.clone(), step.detail.clone()]);
    }
    let mut result = vec![explain.verdict.clone()];
    let named = [
        ("application", &explain.application),
        ("pool", &explain.pool),
        ("origin", &explain.origin),
    ];
    result.extend(
        named
            .into_iter()
            .filter_map(|(noun, name)| name.as_ref().map(|name| format!("{noun} {name}"))),
    );
    match (explain.address, explain.port) {
        (Some(address), Some(port)) => result.push(SocketAddr::new(address, port).to_string()),
        (Some(address), None) => result.push(address.to_string()),
        (None, _) => {}
    }
    format!("{}\n{}\n", steps.render(false), result.join(", "))
}
