//! What the API answers when it refuses, and the words for failed probes.

use super::Problem;
use lb_core::health::FailureReason;
use serde::{Deserialize, Serialize};

/// Body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What is wrong, and with what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorDetail {
    pub code: ErrorCode,
    pub message: String,
    /// The parameter or configuration field that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Everything that is wrong with a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Kinds of refusals; each has one HTTP status and one exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    InvalidRequest,
    ConfigurationInvalid,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    TooLarge,
    /// The daemon cannot answer now: it starts, stops or is too busy.
    Unavailable,
    /// A privilege or a kernel feature is missing.
    Unsupported,
    Internal,
    /// A code of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ErrorDetail {
    /// A refusal without a field.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            problems: Vec::new(),
        }
    }

    /// The same refusal, naming a parameter or field.
    #[must_use]
    pub fn of_field(self, field: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..self
        }
    }

    /// The same refusal with all that is wrong with a configuration.
    #[must_use]
    pub fn with_problems(self, problems: Vec<Problem>) -> Self {
        Self { problems, ..self }
    }
}

/// Why a probe failed, in Cloudflare's words, and in ours behind a colon where those say too little.
pub(crate) fn failure_reason(reason: &FailureReason) -> String {
    let words = match reason {
        FailureReason::ConnectionFailed => "TCP connection failed",
        FailureReason::TcpTimeout => "TCP Timeout",
        FailureReason::HttpTimeout => "HTTP timeout occurred",
        FailureReason::PingTimeout => "Other Failure: ping timeout",
        FailureReason::UdpTimeout => "Other Failure: UDP timeout",
        FailureReason::SmtpTimeout => "Other Failure: SMTP timeout",
        FailureReason::PortUnreachable => "Other Failure: UDP port unreachable",
        FailureReason::ConnectionReset => "Connection Reset by Peer",
        FailureReason::NetworkUnreachable => "Network Unreachable",
        FailureReason::NoRouteToHost => "No route to host error",
        FailureReason::ResponseCodeMismatch(code) => return format!("Response code mismatch error: {code}"),
        FailureReason::ResponseBodyMismatch => "Response body mismatch error",
        FailureReason::HttpInvalidResponse => "HTTP Invalid Response",
        FailureReason::SmtpInvalidResponse => "Other Failure: not an SMTP answer",
        FailureReason::TlsUntrustedCertificate => "TLS untrusted certificate error",
        FailureReason::TlsNameMismatch => "TLS name mismatch error",
        FailureReason::TlsProtocol => "TLS protocol error",
        FailureReason::TlsUnrecognizedName => "TLS unrecognized name error",
        FailureReason::TlsHandshakeFailure => "TLS Handshake Failure",
        FailureReason::DnsUnknownHost => "DNS Unknown Host",
        FailureReason::DnsFailure(words) => return format!("DNS Internal: {words}"),
        FailureReason::MonitorConfig(words) => return format!("Monitor Config Error: {words}"),
        FailureReason::Other(words) => return format!("Other Failure: {words}"),
    };
    words.to_owned()
}
