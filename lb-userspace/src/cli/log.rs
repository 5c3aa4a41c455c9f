//! Logs of the daemon, on stderr.

use super::{Exit, Failure, Global, output};
use tracing_subscriber::EnvFilter;

/// Starts logging: LB_LOG in the syntax of `tracing` filters, else by -q and -v.
///
/// # Errors
/// LB_LOG is not a filter.
pub(super) fn start(global: &Global) -> Result<(), Failure> {
    let filter = match std::env::var("LB_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            let message =
                format!("LB_LOG={text} is not a log filter: {error}\nwrite a level, such as LB_LOG=debug");
            Failure::new(Exit::Usage, message)
        })?,
        Ok(_) | Err(_) => EnvFilter::new(match (global.quiet, global.verbose) {
            (true, _) => "error",
            // Libraries are not what people ask about.
            (false, 0) => "info",
            (false, 1) => "info,lb_userspace=debug,lb=debug",
            (false, _) => "trace",
        }),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::stderr_has_color())
        .finish();
    // Somebody else's subscriber (a test's) is as good.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}
