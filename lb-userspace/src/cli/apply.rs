//! `lb apply`, `lb confirm` and `lb rollback`: another configuration in force, and the way back.

use super::{Exit, Failure, Global, global, output};
use crate::client::{Query, parse};
use crate::wire::{ApplyBody, Deployed, RollbackBody};
use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Deploy a configuration file: validate it, bring it into force, and put it in the daemon's file
///
/// The daemon's own file (`lb run -c`) is replaced as a whole, with the same owner and mode; what it held stays as a
/// revision, see `lb revisions` and `lb rollback`. It is refused, and nothing changed, when FILE is invalid (exit code 3),
/// when the daemon's file has changed since it was loaded (6), or when it cannot be replaced. Objects of the API stay.
///
/// With --confirm the configuration goes back after that time unless `lb confirm` comes before. Until then the daemon's file
/// is not touched, so that it goes back too when the daemon ends, however it ends.
#[derive(Args, Debug)]
pub(super) struct Apply {
    /// The file; `-` for stdin
    file: PathBuf,
    /// Go back after this time unless `lb confirm` comes before, such as 60s or 5m
    #[arg(long, value_name = "TIME", value_parser = time)]
    confirm: Option<Duration>,
    /// Also when the daemon's file has changed since it was loaded
    #[arg(long)]
    force: bool,
}

/// Keep what `--confirm` would take back
#[derive(Args, Debug)]
pub(super) struct Confirm {}

/// Go back to a revision: its file, its objects, and what was set by hand at its time
///
/// Without a number: to what was before the deployment that waits for its confirmation, else to the revision before the one
/// in force, whatever that has changed: a file, or one origin that was drained. Going back makes a revision of its own, so it
/// can be taken back, too. `lb diff revision:N` shows what it would change.
///
/// What was before a deployment that waits comes back without touching what was changed since, by the API or by hand.
#[derive(Args, Debug)]
pub(super) struct Rollback {
    /// Number of the revision (`lb revisions`)
    revision: Option<u64>,
    /// Also when the daemon's file has changed since it was loaded
    #[arg(long)]
    force: bool,
}

impl Apply {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let (text, file) = read(&self.file)?;
        let body = ApplyBody {
            text,
            file,
            force: self.force,
            confirm: self.confirm.map(|time| time.as_secs_f64()),
        };
        deploy(global, &Query::new("/api/v1/apply"), &body)
    }
}

impl Confirm {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let body = ask(global, Method::POST, &Query::new("/api/v1/confirm"), &())?;
        if global.json {
            return output::print_answer(&body);
        }
        let deployed: Deployed = parse(&body)?;
        let words = format!("revision {} stays: {} holds it", deployed.revision, deployed.file);
        global.say(&words);
        Ok(())
    }
}

impl Rollback {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let body = RollbackBody {
            revision: self.revision,
            force: self.force,
        };
        deploy(global, &Query::new("/api/v1/rollback"), &body)
    }
}

/// Asks for something to come into force, and tells how that went.
pub(super) fn deploy(global: &Global, query: &Query, body: &impl Serialize) -> Result<(), Failure> {
    let body = ask(global, Method::POST, query, body)?;
    if global.json {
        return output::print_answer(&body);
    }
    let deployed: Deployed = parse(&body)?;
    for warning in &deployed.warnings {
        global.say(&format!("warning: {warning}"));
    }
    global.say(&told(&deployed));
    Ok(())
}

fn told(deployed: &Deployed) -> String {
    let Deployed {
        revision,
        changed,
        file,
        confirm_by,
        ..
    } = deployed;
    match (changed, confirm_by) {
        (false, _) => format!("revision {revision} is in force already"),
        (true, None) if file.is_empty() => format!("revision {revision} is in force"),
        (true, None) => format!("revision {revision} is in force; {file} holds it"),
        (true, Some(time)) => {
            format!("revision {revision} is in force until {time}: `lb confirm` keeps it")
        }
    }
}

/// Sends JSON, and gives the answer as it came.
pub(super) fn ask(
    global: &Global,
    method: Method,
    query: &Query,
    body: &impl Serialize,
) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(body)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write JSON: {error}")))?;
    global::wait(global.client()?.send_json(method, query, body))
}

/// The text of a file, and what messages call it.
pub(super) fn read(path: &Path) -> Result<(String, String), Failure> {
    let name = match path.as_os_str() == "-" {
        true => "stdin".to_owned(),
        false => path.display().to_string(),
    };
    let text = match path.as_os_str() == "-" {
        true => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        false => std::fs::read_to_string(path),
    };
    match text {
        Ok(text) => Ok((text, name)),
        Err(error) => Err(Failure::new(
            Exit::Configuration,
            format!("{name} cannot be read: {error}"),
        )),
    }
}

/// A time such as `60s`, `5m`, `1h` or `90` (seconds).
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let factor = match unit {
        "m" => 60.0,
        "h" => 3600.0,
        _ => 1.0,
    };
    match number.parse::<f64>().map(|number| number * factor) {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("must be more than 0 and at most 24h".to_owned()),
        Err(_) => Err("not a time such as 60s, 5m or 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("60s", 60.0), ("1.5", 1.5), ("5m", 300.0), ("24h", 86_400.0)] {
            assert_eq!(time(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for wrong in ["", "s", "0", "-1s", "25h", "1d", "5 m", "NaN", "inf"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
