//! Ports that lb may use as source ports towards origins.

use anyhow::{Context as _, bail};
use lb_common::abi::PortRange;
use std::fs;

const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const FIRST_UNPRIVILEGED: u16 = 1024;
/// With fewer ports, flows of one origin address and port would soon run out of them.
const FEWEST: u16 = 1024;

/// The source ports for SNAT: the larger of the two ranges beside the kernel's own ephemeral ports, so that no reply
/// to lb is ever taken for a reply to the node's own connections or the other way round.
///
/// `ip_local_reserved_ports` does not count: it keeps ports inside the ephemeral range from being assigned, and lb
/// does not touch that range. A *listening* socket of the node in the range is safe too: lb takes only packets of
/// flows that it knows.
///
/// # Errors
/// When the ephemeral range cannot be read, or leaves fewer than 1024 ports; says what to do.
pub fn snat_ports() -> anyhow::Result<PortRange> {
    let text = fs::read_to_string(LOCAL_RANGE).with_context(|| format!("read {LOCAL_RANGE}"))?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) => beside(low, high),
        _ => bail!("{LOCAL_RANGE} holds {text:?} and not two ports"),
    }
}

/// The larger range beside `low..=high`.
fn beside(low: u16, high: u16) -> anyhow::Result<PortRange> {
    let below = PortRange {
        first: FIRST_UNPRIVILEGED,
        count: low.saturating_sub(FIRST_UNPRIVILEGED),
    };
    let above = PortRange {
        first: high.saturating_add(1).max(FIRST_UNPRIVILEGED),
        count: u16::MAX - high.max(FIRST_UNPRIVILEGED - 1),
    };
    let larger = if above.count > below.count { above } else { below };
    if larger.count < FEWEST {
        bail!(
            "the kernel's ephemeral ports {low}-{high} leave only {} ports in a row for lb, which needs {FEWEST}: \
             narrow them, for example with `sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"`",
            larger.count
        );
    }
    Ok(larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_side_of_the_ephemeral_range_is_taken() {
        for (low, high, first, count) in [
            (32768, 60999, 1024, 31744),
            (1024, 32767, 32768, 32768),
            (1024, 60999, 61000, 4536),
            (40000, 65535, 1024, 38976),
            (100, 200, 1024, 64512),
            (1, 1023, 1024, 64512),
        ] {
            assert_eq!(
                beside(low, high).unwrap(),
                PortRange { first, count },
                "{low}-{high}"
            );
        }
    }

    #[test]
    fn too_few_ports_are_an_error_that_tells_the_remedy() {
        for (low, high) in [(1024, 65535), (1024, 65000), (2000, 65535)] {
            let error = beside(low, high).unwrap_err().to_string();
            assert!(error.contains("ip_local_port_range"), "{error}");
        }
    }

    #[test]
    fn this_machine_has_ports() {
        let ports = snat_ports().unwrap();
        assert!(ports.first >= FIRST_UNPRIVILEGED && ports.count >= FEWEST);
    }
}
