//! `lb healthcheck`.

use super::{Exit, Failure, Global, global, output};
use crate::client::Query;
use clap::Args;
use hyper::Method;
use serde::Serialize;

/// Ask the daemon whether it is ready, for container and service managers; exit code 8 when it is not
#[derive(Args, Debug)]
pub(super) struct Healthcheck {}

#[derive(Serialize)]
struct Answer {
    ready: bool,
    message: String,
}

impl Healthcheck {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let exchange = async {
            match tokio::time::timeout(
                client.timeout,
                client.exchange(Method::GET, &Query::new("/readyz")),
            )
            .await
            {
                Ok(answer) => answer,
                Err(_) => Err(Failure::new(
                    Exit::Unreachable,
                    "the daemon did not answer in time",
                )),
            }
        };
        let (status, body) = global::wait(exchange)?;
        let message = match status.is_success() {
            true => "ready".to_owned(),
            false => format!("not ready: {}", String::from_utf8_lossy(&body).trim()),
        };
        if global.json {
            output::print_json(&Answer {
                ready: status.is_success(),
                message,
            })?;
        } else {
            global.say(&message);
        }
        if status.is_success() {
            Ok(())
        } else {
            Err(Failure::silent(Exit::Degraded))
        }
    }
}
