//! `lb doctor`.

use super::run::interface;
use super::table::{Align, Table};
use super::{Exit, Failure, Global, global, output};
use crate::config;
use crate::net::doctor::{self, Check, Status};
use crate::wire::DoctorCheck;
use clap::Args;
use std::path::PathBuf;

/// Show what on this machine will not work, or not well, and how to mend it
#[derive(Args, Debug)]
#[command(name = "doctor")]
pub(super) struct DoctorArgs {
    /// Interfaces to look at [default: those of the configuration file]
    #[arg(value_name = "IF", value_parser = interface)]
    interfaces: Vec<String>,
    /// Configuration file, for its interfaces and addresses
    #[arg(short, long, value_name = "FILE", env = "LB_CONFIG")]
    config: Option<PathBuf>,
    /// Show what is well too
    #[arg(long)]
    all: bool,
}

impl DoctorArgs {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let (mut interfaces, mut vips) = (self.interfaces, Vec::new());
        if let Some(path) = &self.config {
            let loaded = config::load(path)
                .map_err(|refused| Failure::new(Exit::Configuration, refused.render(false)))?;
            vips = loaded
                .config
                .applications
                .into_iter()
                .flat_map(|application| application.addresses)
                .collect();
            if interfaces.is_empty() {
                interfaces = loaded.config.datapath.interfaces;
            }
        }
        let checks = global::wait(async { Ok::<_, Failure>(doctor::checks(&interfaces, &vips).await) })?;
        let failed = checks.iter().any(|check| check.status == Status::Fail);
        if global.json {
            output::print_json(&checks.iter().map(row).collect::<Vec<_>>())?;
        } else {
            let shown = checks
                .iter()
                .filter(|check| self.all || check.status != Status::Ok)
                .map(row);
            let columns = ["STATUS", "CHECK", "FOUND", "REMEDY"].map(|title| (title, Align::Left));
            let mut table = Table::new(&columns);
            for DoctorCheck {
                check,
                status,
                detail,
                remedy,
            } in shown
            {
                table.row([status, check, detail, remedy.unwrap_or_default()]);
            }
            match table.is_empty() {
                true => global.say("all is well"),
                false => output::print(&table.render(false))?,
            }
        }
        if failed {
            Err(Failure::silent(Exit::Privilege))
        } else {
            Ok(())
        }
    }
}

fn row(check: &Check) -> DoctorCheck {
    let status = match check.status {
        Status::Ok => "ok",
        Status::Warn => "warning",
        Status::Fail => "failed",
    };
    DoctorCheck {
        check: check.name.clone(),
        status: status.to_owned(),
        detail: check.detail.clone(),
        remedy: check.remedy.clone(),
    }
}
