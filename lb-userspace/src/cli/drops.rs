//! `lb drops`.

use super::table::{Align, Table};
use super::{Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::Drops;
use clap::Args;
use hyper::Method;

/// Show how many packets were dropped, by reason
#[derive(Args, Debug)]
#[command(name = "drops")]
pub(super) struct DropsArgs {
    /// Show reasons that never occurred too
    #[arg(long)]
    all: bool,
}

impl DropsArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let body = global::wait(global.client()?.call(Method::GET, &Query::new("/api/v1/drops")))?;
        if global.json {
            return output::print_answer(&body);
        }
        let drops: Drops = parse(&body)?;
        let mut table = Table::new(&[("REASON", Align::Left), ("PACKETS", Align::Right)]);
        for (reason, count) in drops.drops.0.iter().filter(|(_, count)| self.all || *count > 0) {
            table.row([reason.clone(), count.to_string()]);
        }
        match table.is_empty() {
            true => {
                global.say("no packet was dropped");
                Ok(())
            }
            false => output::print(&table.render(false)),
        }
    }
}
