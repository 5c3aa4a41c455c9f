//! Who may ask: on TCP a bearer token, or on a loopback address without one, no web page.

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
    /// A loopback address without a token: every local user, but no web page in a local browser.
    Local,
    Bearer(Arc<Token>),
}

/// Lets a request through or answers it.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    // A liveness probe tells nothing, and kubelets have no token.
    let probe = request.method() == Method::GET && matches!(request.uri().path(), "/healthz" | "/readyz");
    let verdict = match &guard {
        Guard::Trusted => Ok(()),
        Guard::Local => no_web_page(request.method(), request.headers()),
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

/// A page can make a browser send requests here, under a name that it has resolve to a loopback address: such requests
/// carry that name as their host, and those that change something carry an origin.
fn no_web_page(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let forbidden = |message| Err(ApiError::new(ErrorCode::Forbidden, message));
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
            return forbidden(
                "the request names an unknown host: use the address, or configure `api.token_file`",
            );
        }
    }
    if method != Method::GET && headers.contains_key(header::ORIGIN) {
        return forbidden("web pages may not change anything here: configure `api.token_file`");
    }
    Ok(())
}
