//! Health probes: one attempt, its time or the reason why it failed.
//!
//! This is I/O and nothing else. When to probe, how often to try again and what a failure means for an origin are
//! decided by [`lb_core`]; nothing here remembers anything from one attempt to the next, and nothing here resolves
//! names.

mod body;
mod http;
mod icmp;
mod redirect;
mod smtp;
mod socket;
mod tcp;
#[cfg(test)]
mod testing;
mod tls;
mod udp;
mod way;

pub use way::{LocalPorts, Way};

use anyhow::Context as _;
use lb_core::engine::ProbeRequest;
use lb_core::health::{FailureReason, Observation};
use lb_core::model::{MonitorKind, ProbeSource};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// File descriptors that are left to the rest of the daemon: maps, links, API clients, logs.
const RESERVED_DESCRIPTORS: u64 = 256;

/// How long an attempt may wait for a permit: less than it takes the engine to think that it was lost.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What all attempts share: TLS roots, randomness, and the number of attempts that may run at the same time.
pub struct Probes {
    tls: tls::Clients,
    random: &'static dyn rustls::crypto::SecureRandom,
    permits: Arc<Semaphore>,
    /// How many there are.
    most: usize,
    ports: LocalPorts,
}

/// One step of an attempt, for `lb monitor test`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What was done, such as `connect 192.0.2.1:80`.
    pub what: String,
    /// How long it took.
    pub took: Duration,
}

impl Probes {
    /// Loads the system's trusted certificates (else Mozilla's list, compiled in) once for all attempts.
    ///
    /// # Errors
    /// When the TLS library refuses its own defaults, or the limit on open files cannot be read.
    pub fn new() -> anyhow::Result<Self> {
        Self::with_roots(tls::roots())
    }

    pub(crate) fn with_roots(roots: rustls::RootCertStore) -> anyhow::Result<Self> {
        let most = concurrent_attempts(open_files_limit());
        Ok(Self {
            tls: tls::Clients::new(roots).context("prepare TLS for HTTPS monitors")?,
            random: rustls::crypto::ring::default_provider().secure_random,
            permits: Arc::new(Semaphore::new(most)),
            most,
            ports: LocalPorts::default(),
        })
    }

    /// Waits for its turn: so many attempts may run at the same time as there are file descriptors for. The time in the queue is
    /// not part of the timeout. `None`: it took longer than [`PATIENCE`], and the attempt is not to be made.
    pub async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = self.permits.clone().acquire_owned();
        // The semaphore is never closed.
        timeout(PATIENCE, permit).await.ok()?.ok()
    }

    /// A TLS session for others than probes: certificates are verified as for `https` monitors.
    pub(crate) async fn tls_session(
        &self,
        host: &str,
        stream: tokio::net::TcpStream,
        allow_insecure: bool,
    ) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, FailureReason> {
        self.tls.client(allow_insecure).handshake(host, stream).await
    }

    /// A number that nobody can guess; 0 if the system has none.
    pub(crate) fn random_number(&self) -> u64 {
        let mut bytes = [0; 8];
        let filled = self.random.fill(&mut bytes);
        filled.map_or(0, |()| u64::from_ne_bytes(bytes))
    }

    /// How many attempts are going on, and how many may.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.most - self.permits.available_permits(), self.most)
    }
}

/// Makes one attempt, which takes `monitor.timeout` at most.
///
/// The time in the answer is the time to establish the connection for `tcp`, the time to the head of the deciding
/// answer for `http` and `https`, the round trip for `icmp_ping` and `udp_icmp` (of the echo), and the time to the last
/// answer for `smtp`.
///
/// # Errors
/// Why the attempt failed.
pub async fn attempt(request: &ProbeRequest, context: &Probes) -> Observation {
    attempt_by(request, None, context).await.0
}

/// Like [`attempt`], by a way of its own if there is one, and tells what was done.
pub async fn attempt_by(
    request: &ProbeRequest,
    way: Option<&Way>,
    context: &Probes,
) -> (Observation, Vec<Step>) {
    let mut attempt = Attempt::start(request, way, context);
    let observation = match &request.monitor.kind {
        MonitorKind::Tcp => tcp::attempt(request, &mut attempt).await,
        MonitorKind::Http(probe) => {
            // Certificates matter only behind a redirect to https.
            http::attempt(request, probe, false, context.tls.client(false), &mut attempt).await
        }
        MonitorKind::Https {
            probe,
            allow_insecure,
        } => {
            let tls = context.tls.client(*allow_insecure);
            http::attempt(request, probe, true, tls, &mut attempt).await
        }
        MonitorKind::IcmpPing => icmp::attempt(request, context.random, &mut attempt).await,
        MonitorKind::UdpIcmp(probe) => udp::attempt(request, probe, context.random, &mut attempt).await,
        MonitorKind::Smtp => smtp::attempt(request, &mut attempt).await,
    };
    (observation, attempt.steps)
}

/// The clock of one attempt and what it has done so far.
struct Attempt<'a> {
    started: Instant,
    deadline: Instant,
    steps: Vec<Step>,
    /// The origin, and the way to it when it is not the usual one.
    way: Option<(IpAddr, &'a Way)>,
    /// Where its packets start.
    source: &'a ProbeSource,
    ports: &'a LocalPorts,
}

impl<'a> Attempt<'a> {
    fn start(request: &'a ProbeRequest, way: Option<&'a Way>, context: &'a Probes) -> Self {
        let started = Instant::now();
        Self {
            started,
            deadline: started + request.monitor.timeout,
            steps: Vec::new(),
            way: way.map(|way| (request.address, way)),
            source: &request.monitor.source,
            ports: &context.ports,
        }
    }

    /// The way to this address: what is behind a redirect to somebody else is reached as usual.
    fn way(&self, to: IpAddr) -> Option<&'a Way> {
        self.way.and_then(|(origin, way)| (origin == to).then_some(way))
    }

    /// Runs one step until the deadline of the attempt.
    async fn step<T>(
        &mut self,
        what: String,
        late: FailureReason,
        step: impl Future<Output = Result<T, FailureReason>>,
    ) -> Result<T, FailureReason> {
        let started = Instant::now();
        let outcome = tokio::time::timeout_at(self.deadline, step)
            .await
            .unwrap_or(Err(late));
        self.steps.push(Step {
            what,
            took: started.elapsed(),
        });
        outcome
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The reason for an error of a socket.
fn socket_failure(error: &io::Error) -> FailureReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => FailureReason::ConnectionFailed,
        Some(libc::ETIMEDOUT) => FailureReason::TcpTimeout,
        Some(libc::ECONNRESET | libc::EPIPE) => FailureReason::ConnectionReset,
        // EACCES: a router (ICMPv6 code 1) or a route of this node prohibits it. A local firewall says EPERM.
        Some(libc::EHOSTUNREACH | libc::EACCES) => FailureReason::NoRouteToHost,
        Some(libc::ENETUNREACH) => FailureReason::NetworkUnreachable,
        _ => FailureReason::Other(error.to_string()),
    }
}

/// The soft limit on open files; `None`: there is none.
fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// An attempt holds one socket, and one more for a moment when it follows a redirect.
fn concurrent_attempts(open_files: Option<u64>) -> usize {
    let free = open_files
        .unwrap_or(u64::MAX)
        .saturating_sub(RESERVED_DESCRIPTORS);
    usize::try_from(free / 2).unwrap_or(usize::MAX).clamp(16, 16_384)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::Network;

    #[tokio::test]
    async fn an_attempt_may_run_in_a_task_of_its_own_and_tells_its_steps() {
        let probes = Arc::new(Probes::new().unwrap());
        let request = testing::request(MonitorKind::Tcp, testing::closed_port());
        let task = tokio::spawn(async move { attempt_by(&request, None, &probes).await });
        let (observation, steps) = task.await.unwrap();
        assert_eq!(observation, Err(FailureReason::ConnectionFailed));
        assert!(
            matches!(&steps[..], [step] if step.what.starts_with("connect 127.0.0.1:")),
            "{steps:?}"
        );
    }

    #[test]
    fn what_routers_and_routes_say_is_reported() {
        let Some(network) = Network::new("probe") else {
            return;
        };
        network.run(async |network| {
            network.set_peer("ipv4/ip_forward", "1");
            network.set_peer("ipv6/conf/all/forwarding", "1");
            // Routers answer a sender only so often; four errors in a row are always allowed.
            network.set_peer("ipv4/icmp_ratelimit", "0");
            network.set_peer("ipv6/icmp/ratelimit", "0");
            for (kind, v4, v6) in [
                ("unreachable", "198.51.100.0/25", "2001:db8:1::/48"),
                ("prohibit", "198.51.100.128/25", "2001:db8:2::/48"),
            ] {
                network.peer(&format!("route add {kind} {v4}"));
                network.peer(&format!("-6 route add {kind} {v6}"));
            }
            for command in [
                "route add 198.51.100.0/24 via 10.77.0.2",
                "-6 route add 2001:db8::/32 via fd77::2",
                "route add unreachable 192.0.2.2/32",
                "route add prohibit 192.0.2.3/32",
            ] {
                network.node(command);
            }
            let gone = Err(FailureReason::NoRouteToHost);
            for (address, expected) in [
                ("198.51.100.1", gone.clone()),
                ("198.51.100.129", gone.clone()),
                ("192.0.2.2", gone.clone()),
                ("192.0.2.3", gone.clone()),
                // Linux has no other word for an unreachable route of IPv6 than "no route" (ip6_pkt_discard).
                ("2001:db8:1::1", Err(FailureReason::NetworkUnreachable)),
                ("2001:db8:2::1", gone),
                ("192.0.2.1", Err(FailureReason::NetworkUnreachable)),
                ("2001:db9::1", Err(FailureReason::NetworkUnreachable)),
                ("10.77.0.200", Err(FailureReason::PingTimeout)),
            ] {
                let to = std::net::SocketAddr::new(address.parse().unwrap(), 9);
                let pinged = testing::ping(to.ip()).await;
                assert_eq!(pinged, expected, "ping {address}");
                // On a veth pair a router's answer is there before connect() has returned, and the kernel then
                // keeps it back (sk_err_soft) until the SYN is repeated: a second, longer than this timeout.
                if address.starts_with("192.0.2") || address.starts_with("2001:db9") {
                    assert_eq!(
                        testing::probe(MonitorKind::Tcp, to).await,
                        expected,
                        "connect to {address}"
                    );
                }
            }
            // A host that answers no echo is sent no datagram.
            let silent = MonitorKind::UdpIcmp(lb_core::model::UdpProbe::default());
            let observation = testing::probe(silent, "10.77.0.200:9".parse().unwrap()).await;
            assert_eq!(observation, Err(FailureReason::PingTimeout));
            // A new network namespace forbids ICMP datagram sockets, so that these are raw ones.
            for address in ["10.77.0.2", "fd77::2"] {
                testing::ping(address.parse().unwrap()).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn an_attempt_that_gets_no_turn_is_not_made() {
        let probes = Probes::new().unwrap();
        let (_, most) = probes.load();
        let all = probes.permits.acquire_many(u32::try_from(most).unwrap()).await;
        let started = Instant::now();
        assert!(probes.permit().await.is_none());
        assert!(started.elapsed() >= PATIENCE);
        drop(all);
        let one = probes.permit().await;
        assert!(one.is_some());
        assert_eq!(probes.load(), (1, most));
    }

    #[test]
    fn attempts_are_bounded_by_the_open_files_of_the_process() {
        for (limit, attempts) in [
            (None, 16_384),
            (Some(64), 16),
            (Some(1024), 384),
            (Some(1 << 20), 16_384),
            (Some(8192), 3968),
        ] {
            assert_eq!(concurrent_attempts(limit), attempts, "{limit:?}");
        }
    }

    #[test]
    fn errors_of_sockets_have_cloudflares_reasons() {
        for (error, reason) in [
            (libc::ECONNREFUSED, FailureReason::ConnectionFailed),
            (libc::ETIMEDOUT, FailureReason::TcpTimeout),
            (libc::ECONNRESET, FailureReason::ConnectionReset),
            (libc::EHOSTUNREACH, FailureReason::NoRouteToHost),
            (libc::ENETUNREACH, FailureReason::NetworkUnreachable),
        ] {
            assert_eq!(socket_failure(&io::Error::from_raw_os_error(error)), reason);
        }
        let other = socket_failure(&io::Error::from_raw_os_error(libc::EMFILE));
        assert!(matches!(other, FailureReason::Other(text) if text.contains("open files")));
    }
}
