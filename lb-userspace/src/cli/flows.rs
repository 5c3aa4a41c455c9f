//! `lb flows`.

use super::table::{Align, Table};
use super::{Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::{Flows, Flushed};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Serialize;

/// List, count or flush the flows that the datapath remembers
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = false)]
pub(super) struct FlowsArgs {
    /// Only flows of this application
    #[arg(long, global = true, value_name = "A")]
    application: Option<String>,
    /// Only flows to this origin: its name, or POOL/ORIGIN
    #[arg(long, global = true, value_name = "O")]
    origin: Option<String>,
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print the number of flows
    Count,
    /// Forget flows: the next packet of each is handled as the first of a new one
    Flush {
        /// Forget every flow, when neither --application nor --origin is given
        #[arg(long)]
        all: bool,
    },
}

#[derive(Serialize)]
struct Count {
    total: u64,
}

impl FlowsArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self.action {
            None => self.list(global),
            Some(Action::Count) => self.count(global),
            Some(Action::Flush { all }) => self.flush(global, all),
        }
    }

    fn query(&self) -> Query {
        Query::new("/api/v1/flows")
            .with_some("application", self.application.as_deref())
            .with_some("origin", self.origin.as_deref())
    }

    fn list(&self, global: &Global) -> Result<(), Failure> {
        let query = self.query().with("limit", &self.limit.to_string());
        let body = global::wait(global.client()?.call(Method::GET, &query))?;
        if global.json {
            return output::print_answer(&body);
        }
        let flows: Flows = parse(&body)?;
        output::print(&text(&flows))?;
        if (flows.flows.len() as u64) < flows.total {
            global.say(&format!(
                "{} of {} flows; --limit N shows more",
                flows.flows.len(),
                flows.total
            ));
        }
        Ok(())
    }

    fn count(&self, global: &Global) -> Result<(), Failure> {
        let query = self.query().with("limit", "0");
        let flows: Flows = global::wait(global.client()?.fetch(Method::GET, &query))?;
        match global.json {
            true => output::print_json(&Count { total: flows.total }),
            false => output::print(&format!("{}\n", flows.total)),
        }
    }

    fn flush(&self, global: &Global, all: bool) -> Result<(), Failure> {
        let query = self.query().with_some("all", all.then_some("true"));
        let body = global::wait(global.client()?.call(Method::DELETE, &query))?;
        if global.json {
            return output::print_answer(&body);
        }
        let Flushed { flushed } = parse(&body)?;
        global.say(&format!("{flushed} flows forgotten"));
        Ok(())
    }
}

fn text(flows: &Flows) -> String {
    let mut table = Table::new(&[
        ("PROTOCOL", Align::Left),
        ("CLIENT", Align::Left),
        ("VIP", Align::Left),
        ("SNAT", Align::Left),
        ("ORIGIN ADDRESS", Align::Left),
        ("APPLICATION", Align::Left),
        ("ORIGIN", Align::Left),
        ("STATE", Align::Left),
        ("IDLE", Align::Right),
    ]);
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    for flow in &flows.flows {
        table.row([
            flow.protocol.clone(),
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.snat.map_or_else(|| "-".to_owned(), |snat| snat.to_string()),
            flow.origin_address.to_string(),
            name(&flow.application),
            match &flow.pool {
                Some(pool) => format!("{pool}/{}", name(&flow.origin)),
                None => name(&flow.origin),
            },
            flow.state.clone(),
            format!("{} s", flow.idle_seconds),
        ]);
    }
    table.render(false)
}
