//! Refusals: what Cloudflare's clients get instead of a result.

use super::{Envelope, Message, Source};
use crate::config::Kind;
use serde_json::Value;

/// Why a request is refused: HTTP status, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub status: u16,
    /// At least one.
    pub reasons: Vec<Reason>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// Cloudflare's number for the kind of mistake.
    pub code: u16,
    /// Field, value, rule and remedy.
    pub message: String,
    /// Where in the body (RFC 6901).
    pub pointer: Option<String>,
}

impl Reason {
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            pointer: None,
        }
    }

    /// A mistake in a field of an object; Spectrum has numbers of its own.
    #[must_use]
    pub fn field(kind: Kind, pointer: &str, message: impl Into<String>) -> Self {
        let starts = |prefix: &str| pointer.starts_with(prefix);
        let code = match kind {
            Kind::Application if starts("/origin_direct") => 11002,
            Kind::Application if starts("/origin_dns") || starts("/origin_port") => 11001,
            Kind::Application if starts("/dns/type") => 11004,
            Kind::Application if starts("/edge_ips") => 11033,
            Kind::Application if starts("/virtual_network_id") => 11041,
            Kind::Application if starts("/protocol") => 13002,
            Kind::Application => 11000,
            Kind::Monitor | Kind::MonitorGroup | Kind::Pool | Kind::LoadBalancer => 1002,
        };
        Self {
            code,
            message: message.into(),
            pointer: Some(pointer.to_owned()).filter(|pointer| !pointer.is_empty()),
        }
    }
}

impl Failure {
    #[must_use]
    pub fn new(status: u16, code: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            reasons: vec![Reason::new(code, message)],
        }
    }

    /// A body that breaks rules. Never 409 or 5xx, which clients would try again.
    #[must_use]
    pub fn invalid(reasons: Vec<Reason>) -> Self {
        Self { status: 400, reasons }
    }

    #[must_use]
    pub fn not_found(kind: Kind, id: &str) -> Self {
        Self::new(
            404,
            1001,
            format!("there is no {} with the id `{id}`", kind.noun()),
        )
    }

    /// The object stands in the configuration file; `file` is the place.
    #[must_use]
    pub fn read_only(kind: Kind, name: &str, file: &str) -> Self {
        let noun = kind.noun();
        Self::new(
            403,
            1003,
            format!(
                "the {noun} `{name}` is declared in {file} and can only be changed there: edit the file, and it is read again \
                 when it is saved"
            ),
        )
    }

    /// Something is wrong with the node, not with the request.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, 10002, message)
    }

    /// As clients read it. Validation errors end as Cloudflare's do.
    #[must_use]
    pub fn envelope(&self) -> Envelope<Value> {
        let errors = self.reasons.iter().map(|reason| Message {
            code: reason.code,
            message: match reason.code {
                1002 => format!("{}: validation failed", reason.message),
                _ => reason.message.clone(),
            },
            source: reason.pointer.clone().map(|pointer| Source { pointer }),
        });
        Envelope {
            success: false,
            errors: errors.collect(),
            messages: Vec::new(),
            result: None,
            result_info: None,
        }
    }
}
