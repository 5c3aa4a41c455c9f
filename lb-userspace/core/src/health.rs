//! Health: what monitors have found out about origins, and what follows for pools and load balancers.

use core::time::Duration;

/// Result of one attempt to probe an origin: what was answered, or why it failed.
pub type Observation = Result<Success, FailureReason>;

/// An attempt that an origin has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Success {
    /// Round-trip time: what of the attempt counts, says its kind of monitor.
    pub rtt: Duration,
    /// Status code of the deciding answer, of monitors that speak HTTP.
    pub response_code: Option<u16>,
}

impl From<Duration> for Success {
    /// Without a status code.
    fn from(rtt: Duration) -> Self {
        Self {
            rtt,
            response_code: None,
        }
    }
}

/// Why an attempt failed, in Cloudflare's words (`Display`, the API's `failure_reason`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FailureReason {
    /// Refused.
    ConnectionFailed,
    /// No answer to the connect within the timeout: the only reasons that are retried are the timeouts.
    TcpTimeout,
    /// Connected, but the HTTP answer did not come in time.
    HttpTimeout,
    /// An echo was not answered in time.
    PingTimeout,
    /// The expected answer to a datagram did not come in time.
    UdpTimeout,
    /// Connected, but the mail server did not speak in time.
    SmtpTimeout,
    /// A datagram was answered by "port unreachable".
    PortUnreachable,
    ConnectionReset,
    NetworkUnreachable,
    NoRouteToHost,
    /// The status code (of HTTP or SMTP) is not one of the expected ones.
    ResponseCodeMismatch(u16),
    ResponseBodyMismatch,
    HttpInvalidResponse,
    /// What answers does not speak SMTP.
    SmtpInvalidResponse,
    TlsUntrustedCertificate,
    TlsNameMismatch,
    /// The two sides have no version or cipher in common.
    TlsProtocol,
    /// The server does not serve the name that it was asked for (SNI).
    TlsUnrecognizedName,
    TlsHandshakeFailure,
    /// The origin's host name does not exist, or has no address.
    DnsUnknownHost,
    /// The origin's host name could not be looked up; says why.
    DnsFailure(String),
    /// The monitor cannot be run as it is configured; says why.
    MonitorConfig(String),
    /// The node had no file descriptor or no memory for the attempt, which says nothing of the origin; carries the system's
    /// words.
    NoResources(String),
    /// The probe could not be made on this node (no privilege, no socket); carries the system's words.
    Other(String),
}

impl FailureReason {
    /// The status code that was not one of those that are expected.
    #[must_use]
    pub fn response_code(&self) -> Option<u16> {
        match self {
            Self::ResponseCodeMismatch(code) => Some(*code),
            _ => None,
        }
    }

    /// Whether the attempt ran into its timeout: only then the run goes on with the next attempt.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::TcpTimeout | Self::HttpTimeout | Self::PingTimeout | Self::UdpTimeout | Self::SmtpTimeout
        )
    }
}

/// Health of an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OriginHealth {
    Healthy,
    Unhealthy,
    /// Monitored, and no run has ended yet: gets no traffic.
    Unknown,
    Disabled,
}

/// Health of a pool or load balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupHealth {
    /// Everything in it is healthy.
    Healthy,
    /// Something in it is unhealthy, but it serves.
    Degraded,
    /// A pool with fewer healthy origins than `minimum_origins`; a load balancer with no usable pool.
    Critical,
    Unknown,
    Disabled,
}
