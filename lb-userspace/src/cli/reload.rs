//! `lb reload`.

use super::{Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::Reloaded;
use clap::Args;
use hyper::Method;

/// Have the daemon read its configuration file again; an invalid file changes nothing
#[derive(Args, Debug)]
pub(super) struct Reload {}

impl Reload {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let body = global::wait(client.call(Method::POST, &Query::new("/api/v1/reload")))?;
        if global.json {
            return output::print_answer(&body);
        }
        let reloaded: Reloaded = parse(&body)?;
        for warning in &reloaded.warnings {
            global.say(&format!("warning: {warning}"));
        }
        global.say(&format!("configuration {} is live", reloaded.generation));
        Ok(())
    }
}
