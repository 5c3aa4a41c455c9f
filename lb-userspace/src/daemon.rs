//! (being written)

use crate::cli::{Exit, Failure};
use crate::config::Loaded;
use std::path::PathBuf;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Always, for now.
pub fn run(_config_path: PathBuf, _config: Loaded, _interfaces: Vec<String>) -> Result<(), Failure> {
    Err(Failure::new(Exit::Failed, "the daemon is not available"))
}

/// Attaches once, without a daemon.
///
/// # Errors
/// Always, for now.
pub fn attach(_config: Loaded, _interface: String) -> Result<(), Failure> {
    Err(Failure::new(Exit::Failed, "attaching is not available"))
}

/// Removes what lb added.
///
/// # Errors
/// Always, for now.
pub fn detach(_interface: Option<String>, _config: Option<Loaded>) -> Result<(), Failure> {
    Err(Failure::new(Exit::Failed, "detaching is not available"))
}
