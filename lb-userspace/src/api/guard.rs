//! Who may ask: on TCP a bearer token. On a loopback address without one every local user may look at what is no secret, and
//! no web page.

use super::Token;
use super::cloudflare;
use super::error::ApiError;
use crate::wire::ErrorCode;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// What a listener asks of its clients.
#[derive(Clone, Debug)]
pub(super) enum Guard {
    /// The socket's file mode has already decided.
    Trusted,
    /// A loopback address without a token: every local user, but no web page in a local browser. They look, and change
    /// nothing.
    Local,
    Bearer(Arc<Token>),
}

/// Marks a request of somebody who may not see secrets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Onlooker;

/// Lets a request through or answers it.
pub(super) async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    // A liveness probe tells nothing, and kubelets have no token.
    let probe = request.method() == Method::GET && matches!(request.uri().path(), "/healthz" | "/readyz");
    let verdict = match &guard {
        Guard::Trusted => Ok(()),
        Guard::Local => {
            request.extensions_mut().insert(Onlooker);
            no_web_page(request.headers()).and_then(|()| no_change(request.method()))
        }
        Guard::Bearer(_) if probe => Ok(()),
        Guard::Bearer(token) => bearer(token, request.headers()),
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let status = match refusal.0.code {
                ErrorCode::Unauthorized => 401,
                _ => 403,
            };
            cloudflare::unauthorized(request.uri().path(), status, &refusal.0.message)
                .unwrap_or_else(|| refusal.into_response())
        }
    }
}

fn bearer(token: &Token, headers: &HeaderMap) -> Result<(), ApiError> {
    let unauthorized = |message| Err(ApiError::new(ErrorCode::Unauthorized, message));
    // The pair by which older clients of Cloudflare's API say who they are: the address is anybody's.
    if let (Some(_), Some(key)) = (headers.get("x-auth-email"), headers.get("x-auth-key")) {
        return match token.matches(key.as_bytes()) {
            true => Ok(()),
            false => unauthorized("the key is not the right one"),
        };
    }
    let Some(shown) = headers.get(header::AUTHORIZATION) else {
        return unauthorized("a token is required: send `Authorization: Bearer TOKEN` (lb --token-file F)");
    };
    let shown = shown.as_bytes();
    match shown.split_at_checked(7) {
        Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") && token.matches(shown) => Ok(()),
        Some(_) | None => unauthorized("the token is not the right one"),
    }
}

/// Who may change something may send everybody's traffic anywhere: that is not for every user of this machine.
fn no_change(method: &Method) -> Result<(), ApiError> {
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(ApiError::new(
            ErrorCode::Forbidden,
            "without a token nothing is changed over TCP: configure `api.token_file` and show the token, or use the \
             unix socket (`api.socket`)",
        )),
    }
}

/// A page can make a browser send requests here, under a name that it has resolve to a loopback address: such requests
/// carry that name as their host.
fn no_web_page(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(host) = headers.get(header::HOST) {
        let authority = host
            .to_str()
            .ok()
            .and_then(|host| host.parse::<axum::http::uri::Authority>().ok());
        let known = authority.is_some_and(|authority| {
            let host = authority.host().trim_matches(['[', ']']);
            host == "localhost" || host.parse::<IpAddr>().is_ok()
        });
        if !known {
            return Err(ApiError::new(
                ErrorCode::Forbidden,
                "the request names an unknown host: use the address, or configure `api.token_file`",
            ));
        }
    }
    Ok(())
}
