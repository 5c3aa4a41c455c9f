//! Taking over from the daemon that runs the node: `lb run --take-over`.
//!
//! What can go wrong is tried while the other daemon still runs: the program is loaded on the maps there are, an engine is
//! given the configuration, and the API's listeners are bound, but for those that the other one has. Only then is the other one asked to leave, and what it leaves is adopted.

use super::setup::{self, Lock};
use crate::cli::{Exit, Failure};
use crate::client::{Client, Query, Target};
use crate::datapath::pins::Pins;
use crate::store::Row;
use crate::wire::{HandedOver, Status, StoredObjects};
use hyper::Method;
use lb_core::engine::{Command, Engine, Environment, Event, Report};
use lb_core::model::Config;
use lb_core::time::Timestamp;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tracing::info;

/// How long a daemon may take to answer; it may be busy with a large configuration.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether the other one has gone.
const LOOK: Duration = Duration::from_millis(2);

/// The daemon that runs the node now.
pub struct Former {
    client: Client,
    name: String,
    listen: Option<Vec<SocketAddr>>,
}

impl Former {
    /// Finds the daemon of a node; `None` when none runs.
    ///
    /// # Errors
    /// Exit 6 when there is one that does not answer, or the one that answers runs another node.
    pub async fn find(config: &Config) -> Result<Option<Self>, Failure> {
        let (node, socket) = (&config.node.name, &config.api.socket);
        let Ok(stream) = UnixStream::connect(socket).await else {
            return match setup::is_free(&Pins::of(node))? {
                true => Ok(None),
                false => Err(conflict(format!(
                    "another lb manages node `{node}`, but none answers on {}: has it another `api.socket`? \
                     Nothing was changed",
                    socket.display()
                ))),
            };
        };
        let name = describe(&stream, socket);
        drop(stream);
        let client = Client {
            target: Target::Socket(socket.clone()),
            token: None,
            timeout: PATIENCE,
        };
        let status = client
            .fetch::<Status>(Method::GET, &Query::new("/api/v1/status"))
            .await;
        match status {
            Ok(status) if status.node.name == *node => Ok(Some(Self {
                client,
                name,
                listen: status.node.listen,
            })),
            Ok(status) => Err(conflict(format!(
                "{name} runs node `{}`, not `{node}`: nothing was changed",
                status.node.name
            ))),
            Err(failure) => Err(conflict(format!(
                "{name} does not answer ({failure})\nNothing was changed, and forwarding goes on. If it hangs, end it and \
                 start again"
            ))),
        }
    }

    /// The objects that were made through its API; none of a version that knew no objects.
    ///
    /// # Errors
    /// Exit 6 when it does not tell.
    pub async fn objects(&self) -> Result<Vec<Row>, Failure> {
        let query = Query::new("/api/v1/objects");
        match self.client.fetch::<StoredObjects>(Method::GET, &query).await {
            Ok(answer) => Ok(answer
                .objects
                .into_iter()
                .map(|(key, value)| Row {
                    key,
                    value: value.into_bytes(),
                })
                .collect()),
            Err(failure) if failure.exit == Exit::NotFound => Ok(Vec::new()),
            Err(failure) => Err(conflict(format!(
                "{} does not tell its objects: {failure}\nNothing was changed",
                self.name
            ))),
        }
    }

    /// Where its API listens on TCP; `None`: it does not say.
    #[must_use]
    pub fn listen(&self) -> Option<&[SocketAddr]> {
        self.listen.as_deref()
    }

    /// Has it leave; returns when it is gone, with the node's lock.
    ///
    /// # Errors
    /// Exit 6 when it refuses, cannot do that, or stays.
    pub async fn hand_over(self, node: &str) -> Result<(Pins, Lock), Failure> {
        let name = &self.name;
        let answer = self
            .client
            .fetch::<HandedOver>(Method::POST, &Query::new("/api/v1/handover"))
            .await;
        if let Err(failure) = answer {
            return Err(conflict(match failure.exit {
                Exit::NotFound => format!(
                    "{name} is of a version that cannot hand over: stop it and start this one; forwarding goes on \
                     meanwhile, unless its `datapath.on_exit` says `detach`. Nothing was changed"
                ),
                _ => format!("{name} does not hand over: {failure}"),
            }));
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match setup::claim(node) {
                Ok(claimed) => {
                    info!("{name} has handed over");
                    return Ok(claimed);
                }
                Err(failure) if failure.exit != Exit::Conflict || Instant::now() > deadline => {
                    return Err(failure);
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }
}

/// What is known of who listens at the other end.
fn describe(stream: &UnixStream, socket: &Path) -> String {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let pid = pid.map_or_else(String::new, |pid| format!(", process {pid}"));
    format!("the daemon on {}{pid}", socket.display())
}

fn conflict(message: String) -> Failure {
    Failure::new(Exit::Conflict, message)
}

/// Why a datapath could not be opened beside the one that runs: exit 6 as at any start, else exit 7, since the kernel
/// refuses the program or the memory.
pub fn cannot_open(error: anyhow::Error) -> Failure {
    let Failure { exit, message } = setup::cannot_open(error);
    let exit = match exit {
        Exit::Failed => Exit::Privilege,
        other => other,
    };
    unchanged(Failure::new(exit, message))
}

/// What failed before the other daemon was asked to leave.
pub fn unchanged(Failure { exit, message }: Failure) -> Failure {
    Failure::new(exit, format!("{message}\nNothing was changed"))
}

/// Gives an engine the configuration to see whether it can be brought into the maps.
///
/// # Errors
/// Exit 6 and why not.
pub fn rehearse(environment: Environment, config: &Arc<Config>) -> Result<(), Failure> {
    let mut engine = Engine::new(environment, Timestamp::default());
    for command in engine.handle(Event::Configure(Arc::clone(config)), Timestamp::default()) {
        if let Command::Report(Report::Refused(why)) = command {
            return Err(conflict(format!("{why}\nNothing was changed")));
        }
    }
    Ok(())
}
