//! The composition root: everything that does I/O, around one engine that decides.

mod analytics;
mod comparison;
mod deployment;
mod drafts;
mod drains;
mod events;
mod file;
mod file_part;
mod interfaces;
mod marks;
mod node;
mod notices;
mod objects;
mod oneshot;
mod preview;
mod records;
mod reload;
mod requests;
mod setup;
mod sweeps;
mod takeover;
mod tracer;
mod unwritten;
mod watch;
mod ways;

pub use oneshot::{attach, detach};
pub use setup::sizes;

use crate::cli::{Exit, Failure};
use crate::config::Loaded;
use node::Node;
use std::path::PathBuf;

/// Runs the daemon until it is told to stop. `interfaces`, when there are some, replace those of the file. With
/// `take_over`, a daemon that runs the node already is asked to leave first.
///
/// # Errors
/// When a privilege, a kernel feature or an interface is missing, another daemon runs the same node, or the kernel
/// refuses the program.
pub fn run(
    config_path: PathBuf,
    loaded: Loaded,
    interfaces: Vec<String>,
    take_over: bool,
) -> Result<(), Failure> {
    setup::raise_file_limit();
    runtime()?.block_on(async {
        let mut node = Node::start(config_path, loaded, interfaces, take_over).await?;
        node.run().await?;
        node.stop().await
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("start the runtime: {error}")))
}
