//! How a command ends.

use std::fmt;
use std::process::ExitCode;

/// Exit codes: a contract with scripts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is invalid.
    Configuration = 3,
    /// The daemon is unreachable.
    Unreachable = 4,
    NotFound = 5,
    Conflict = 6,
    /// A privilege or a kernel feature is missing.
    Privilege = 7,
    /// It works, but not as it should (`status --exit-code`, `healthcheck`).
    Degraded = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub exit: Exit,
    /// Words for people, possibly several lines; empty when everything has been said.
    pub message: String,
}

impl Failure {
    /// A failure with words: what failed, why, and what to do.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// An end without words.
    #[must_use]
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error without a kind of its own; its whole chain of causes becomes the message.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self::new(Exit::Failed, format!("{error:#}")),
        }
    }
}
