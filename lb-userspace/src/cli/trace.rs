//! `lb trace`.

use super::{Exit, Failure, Global, global, output};
use crate::client::Query;
use crate::wire::TraceLine;
use clap::Args;
use std::ops::ControlFlow;
use std::time::Duration;

/// Show what becomes of packets, one line each, until it is interrupted
///
/// The kernel program reports no more packets a second than --rate says, and stops reporting soon after nobody looks any
/// more. Packets that are none of lb's business are shown with --all only.
#[derive(Args, Debug)]
pub(super) struct Trace {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    end: End,
}

/// When it ends by itself.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct End {
    /// End after so many packets
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = global::seconds)]
    duration: Option<Duration>,
}

impl End {
    /// Waits for what `work` does, for the end of the time, or for an interrupt.
    pub async fn limit(self, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let over = async {
            match self.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(()),
            () = over => Ok(()),
            ended = work => ended,
        }
    }
}

/// Which packets: those that meet all conditions.
#[derive(Args, Clone, Debug)]
pub(super) struct Which {
    /// Only packets of this application
    #[arg(long, value_name = "A")]
    application: Option<String>,
    /// Only packets from or to an address of this prefix, before or after translation: a client's, or an origin's
    #[arg(long, value_name = "CIDR")]
    client: Option<String>,
    /// The same once more: packets of this client and this VIP
    #[arg(long, value_name = "CIDR")]
    vip: Option<String>,
    /// Only TCP and UDP packets from or to this port, before or after translation
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only packets whose verdict has this reason, as `lb drops --all` lists them
    #[arg(long, value_name = "REASON", conflicts_with = "drops_only")]
    reason: Option<String>,
    /// Only packets that do not go on: dropped, or answered by the node
    #[arg(long, conflicts_with = "all")]
    drops_only: bool,
    /// Also packets that are left to the kernel
    #[arg(long)]
    all: bool,
    /// Packets a second at most, on each CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

impl Which {
    /// The question that asks for them.
    pub fn query(&self, path: &str) -> Query {
        let number = |number: u32| number.to_string();
        let kinds = match (self.drops_only, self.all || self.reason.is_some()) {
            (true, _) => "refused",
            (false, true) => "forwarded,refused,passed",
            (false, false) => "forwarded,refused",
        };
        Query::new(path)
            .with("kinds", kinds)
            .with_some("application", self.application.as_deref())
            .with_some("client", self.client.as_deref())
            .with_some("vip", self.vip.as_deref())
            .with_some("port", self.port.map(u32::from).map(number).as_deref())
            .with_some("reason", self.reason.as_deref())
            .with_some("limit", self.rate.map(number).as_deref())
    }
}

impl Trace {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let query = self.which.query("/api/v1/trace");
        let (mut left, mut lines) = (self.end.count, Lines::default());
        let show = |bytes: &[u8]| {
            let mut text = String::new();
            let mut enough = ControlFlow::Continue(());
            for line in lines.take(bytes) {
                match understand(&line)? {
                    TraceLine::Lost { .. } if global.json => {
                        text.push_str(&line);
                        text.push('\n');
                    }
                    TraceLine::Lost { lost } => {
                        // Where they are missing, also when the terminal shows both.
                        output::print(&std::mem::take(&mut text))?;
                        global.say(&format!("{lost} packets are missing here: there were too many"));
                    }
                    TraceLine::Packet(row) => {
                        if global.json {
                            text.push_str(&line);
                        } else {
                            text.push_str(&row.to_string());
                        }
                        text.push('\n');
                        left = left.map(|left| left - 1);
                        if left == Some(0) {
                            enough = ControlFlow::Break(());
                            break;
                        }
                    }
                }
            }
            output::print(&text)?;
            Ok(enough)
        };
        global::wait(self.end.limit(client.stream(&query, show)))
    }
}

fn understand(line: &str) -> Result<TraceLine, Failure> {
    serde_json::from_str(line).map_err(|error| {
        let message =
            format!("the answer is not understood: {error}\nis the daemon of the same version (lb version)?");
        Failure::new(Exit::Failed, message)
    })
}

/// Whole lines of what comes piece by piece.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend(bytes);
        let end = self
            .0
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let rest = self.0.split_off(end);
        let whole = std::mem::replace(&mut self.0, rest);
        String::from_utf8_lossy(&whole)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn lines_are_put_together() {
        let mut lines = Lines::default();
        let mut take = |text: &str| lines.take(text.as_bytes()).join("|");
        assert_eq!(take("a"), "");
        assert_eq!(take("b\ncd\ne"), "ab|cd");
        assert_eq!(take(""), "");
        assert_eq!(take("f\n"), "ef");
    }
}
