//! Pieces of configuration files, written as a user would.

use crate::lab::Host;
use std::fmt;
use std::net::IpAddr;

/// The monitor `tcp`: quick, and two failures make a verdict.
pub const MONITOR: &str = r#"
[monitors.tcp]
type = "tcp"
interval = 0.2
timeout = 0.2
retries = 0
consecutive_down = 2
consecutive_up = 1
"#;

/// A pool, watched by the monitor `tcp` unless said otherwise.
#[derive(Clone)]
pub struct Pool {
    name: String,
    lines: Vec<String>,
    monitor: bool,
    origins: Vec<PoolOrigin>,
}

#[derive(Clone)]
struct PoolOrigin {
    name: String,
    address: IpAddr,
    port: u16,
    weight: f64,
    enabled: bool,
    lines: Vec<String>,
}

/// An empty pool.
#[must_use]
pub fn pool(name: &str) -> Pool {
    Pool {
        name: name.to_owned(),
        lines: Vec::new(),
        monitor: true,
        origins: Vec::new(),
    }
}

impl Pool {
    /// Adds an origin, reached by the family of `like`; port 0: the application's own.
    #[must_use]
    pub fn origin(mut self, host: &Host, like: impl Into<IpAddr>, port: u16, weight: f64) -> Self {
        self.origins.push(PoolOrigin {
            name: host.name.clone(),
            address: host.address(like.into()),
            port,
            weight,
            enabled: true,
            lines: Vec::new(),
        });
        self
    }

    /// Disables the origin added last.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        if let Some(last) = self.origins.last_mut() {
            last.enabled = false;
        }
        self
    }

    /// Adds a line to the origin added last, such as `forwarding = "dnat"`.
    #[must_use]
    pub fn origin_line(mut self, line: &str) -> Self {
        if let Some(last) = self.origins.last_mut() {
            last.lines.push(line.to_owned());
        }
        self
    }

    /// Nobody watches it: enabled origins count as up.
    #[must_use]
    pub fn unmonitored(mut self) -> Self {
        self.monitor = false;
        self
    }

    /// Adds a line, such as `minimum_origins = 2`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n[pools.{}]", self.name)?;
        if self.monitor {
            writeln!(f, "monitor = \"tcp\"")?;
        }
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        for origin in &self.origins {
            writeln!(f, "[pools.{}.origins.{}]", self.name, origin.name)?;
            writeln!(f, "address = \"{}\"\nport = {}", origin.address, origin.port)?;
            writeln!(f, "weight = {:?}\nenabled = {}", origin.weight, origin.enabled)?;
            for line in &origin.lines {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

/// A load balancer with the steering policy `off`.
#[must_use]
pub fn balancer(name: &str, pools: &[&str], fallback: Option<&str>) -> String {
    let fallback = fallback.map_or_else(String::new, |pool| format!("fallback_pool = \"{pool}\"\n"));
    format!("\n[load_balancers.{name}]\ndefault_pools = {pools:?}\n{fallback}")
}

/// An application on one VIP, leading to a load balancer.
#[must_use]
pub fn application(name: &str, protocol: &str, vip: impl Into<IpAddr>, load_balancer: &str) -> String {
    let vip = vip.into();
    format!(
        "\n[applications.{name}]\nprotocol = \"{protocol}\"\naddresses = [\"{vip}\"]\nload_balancer = \"{load_balancer}\"\n"
    )
}
