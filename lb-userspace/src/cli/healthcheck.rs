//! `lb healthcheck`.

use super::{Exit, Failure, Global, global, output};
use crate::client::Query;
use crate::wire::ErrorBody;
use clap::Args;
use hyper::Method;
use serde::Serialize;

/// Ask the daemon whether it is ready, exit code 8 when it is not
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
            false => format!("not ready: {}", words(&body)),
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

/// Why the daemon is not ready: plain text of its own, or a refusal.
fn words(body: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) => error.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}
