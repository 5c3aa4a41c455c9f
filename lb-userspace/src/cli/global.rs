//! Flags that every command has, and what follows from them.

use super::{Exit, Failure, output};
use crate::api::Token;
use crate::client::{Client, Target};
use crate::config;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the daemon is, and how much is said.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The daemon's unix socket [default: `api.socket` of the configuration file, else /run/lb/lb.sock]
    #[arg(long, global = true, value_name = "PATH", env = "LB_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The daemon's HTTP address instead of its socket, such as http://127.0.0.1:7600
    #[arg(long, global = true, value_name = "URL", env = "LB_URL")]
    pub url: Option<String>,
    /// File with the token that --url requires
    #[arg(long, global = true, value_name = "FILE", env = "LB_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Seconds to wait for the daemon's answer
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub timeout: Duration,
    /// Say less: errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

impl Global {
    /// A socket named by a flag goes before an URL from the environment.
    pub(super) fn settle(&mut self, matches: &ArgMatches) {
        let from_flag = |name| deepest_source(matches, name) == Some(ValueSource::CommandLine);
        if from_flag("socket") && !from_flag("url") {
            self.url = None;
        }
    }

    /// The client for the daemon that the flags name.
    ///
    /// # Errors
    /// An URL or a token file that cannot be used.
    pub fn client(&self) -> Result<Client, Failure> {
        let target = match (&self.url, &self.socket) {
            (Some(url), _) => Target::from_url(url).map_err(|message| Failure::new(Exit::Usage, message))?,
            (None, Some(path)) => Target::Socket(path.clone()),
            (None, None) => Target::Socket(
                config::socket_in(&default_config()).unwrap_or_else(|| PathBuf::from(config::DEFAULT_SOCKET)),
            ),
        };
        let token = match (&self.token_file, &target) {
            (Some(path), Target::Tcp(_)) => {
                Some(Token::read(path).map_err(|message| Failure::new(Exit::Failed, message))?)
            }
            // The socket needs none, and one from the environment may not be readable.
            (Some(_), Target::Socket(_)) | (None, _) => None,
        };
        Ok(Client {
            target,
            token,
            timeout: self.timeout,
        })
    }

    /// Words for people, unless they asked for silence.
    pub(super) fn say(&self, text: &str) {
        if !self.quiet {
            output::complain(text);
        }
    }
}

/// Where the configuration file is when the command has no `-c`.
fn default_config() -> PathBuf {
    std::env::var_os("LB_CONFIG").map_or_else(|| Path::new(config::DEFAULT_PATH).to_owned(), PathBuf::from)
}

/// Where the value of a global flag came from: it is known to the subcommand at which it was given.
fn deepest_source(matches: &ArgMatches, name: &str) -> Option<ValueSource> {
    let below = matches
        .subcommand()
        .and_then(|(_, matches)| deepest_source(matches, name));
    below.max(
        matches
            .try_contains_id(name)
            .is_ok()
            .then(|| matches.value_source(name))
            .flatten(),
    )
}

/// Seconds with fractions, more than none.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("must be more than 0 and at most 86400 seconds".to_owned()),
        Err(_) => Err("not a number of seconds".to_owned()),
    }
}

/// Runs a client's request to its end.
pub(super) fn wait<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start the runtime: {error}")))?;
    runtime.block_on(future)
}
