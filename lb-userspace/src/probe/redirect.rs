//! Where an HTTP monitor asks, and where a redirect sends it.
//!
//! A monitor tests one origin, so a redirect is followed only to where that origin (or an address that the redirect
//! itself spells out) answers; probes never ask a name server. A redirect to any other host is not followed: its own
//! status code is then what the origin has answered.

use hyper::Uri;
use hyper::http::uri::Scheme;
use std::net::{IpAddr, SocketAddr};

/// Where one request of an attempt goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) connect: SocketAddr,
    pub(super) tls: bool,
    /// The `Host` header: a name or address, with the port when it is not the protocol's own.
    pub(super) host: String,
    /// Path and query.
    pub(super) path: String,
}

impl Target {
    /// The first request of an attempt.
    pub(super) fn first(connect: SocketAddr, tls: bool, host: Option<&str>, path: &str) -> Self {
        let host = match host {
            Some(host) => host.to_owned(),
            None => authority(&literal(connect.ip()), connect.port(), tls),
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Self {
            connect,
            tls,
            host,
            path,
        }
    }

    /// The host without its port and without the brackets of an IPv6 address: what a certificate must be valid for.
    pub(super) fn host_name(&self) -> &str {
        host_name(&self.host)
    }

    /// Where a `Location` header sends the attempt; `None`: nowhere it may go.
    pub(super) fn redirect(&self, location: &str) -> Option<Self> {
        // RFC 9110 section 10.2.2: Location may be relative (RFC 3986 section 4.2), and carry a fragment.
        let location = location.split('#').next().unwrap_or_default();
        if let Some(rest) = location.strip_prefix("//") {
            return self.absolute(self.tls, rest);
        }
        match location.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => match scheme.to_ascii_lowercase().as_str() {
                "http" => self.absolute(false, rest),
                "https" => self.absolute(true, rest),
                _ => None,
            },
            _ => Some(Self {
                path: join(&self.path, location),
                ..self.clone()
            }),
        }
    }

    fn absolute(&self, tls: bool, rest: &str) -> Option<Self> {
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        let uri: Uri = format!("{scheme}://{rest}").parse().ok()?;
        let name = host_name(uri.host()?);
        let same_host = name.eq_ignore_ascii_case(self.host_name());
        let address = match name.parse() {
            _ if same_host => self.connect.ip(),
            Ok(address) => address,
            Err(_) => return None,
        };
        let port = match uri.port_u16() {
            Some(port) => port,
            // The public URL of an origin behind a load balancer does not tell the port that it listens on.
            None if same_host && tls == self.tls => self.connect.port(),
            None => default_port(tls),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let host = uri.authority()?.as_str().rsplit('@').next()?.to_owned();
        Some(Self {
            connect: SocketAddr::new(address, port),
            tls,
            host,
            path,
        })
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

pub(super) fn authority(host: &str, port: u16, tls: bool) -> String {
    if port == default_port(tls) {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        // More than one colon: an IPv6 address that someone wrote without brackets.
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or(host),
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// A relative reference against the path it came from. Dot segments are left to the server.
fn join(base: &str, reference: &str) -> String {
    let base = base.split('?').next().unwrap_or_default();
    if reference.is_empty() {
        base.to_owned()
    } else if reference.starts_with('/') {
        reference.to_owned()
    } else if reference.starts_with('?') {
        format!("{base}{reference}")
    } else {
        let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{directory}/{reference}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(connect: &str, tls: bool, host: &str, path: &str) -> Target {
        Target {
            connect: connect.parse().unwrap(),
            tls,
            host: host.to_owned(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn without_a_host_header_the_address_is_the_host() {
        for (connect, tls, host) in [
            ("192.0.2.1:80", false, "192.0.2.1"),
            ("192.0.2.1:443", false, "192.0.2.1:443"),
            ("192.0.2.1:443", true, "192.0.2.1"),
            ("[2001:db8::1]:8080", false, "[2001:db8::1]:8080"),
        ] {
            let first = Target::first(connect.parse().unwrap(), tls, None, "health");
            assert_eq!((first.host.as_str(), first.path.as_str()), (host, "/health"));
        }
        let first = Target::first(
            "192.0.2.1:80".parse().unwrap(),
            false,
            Some("example.com:81"),
            "/",
        );
        assert_eq!(
            (first.host.as_str(), first.host_name()),
            ("example.com:81", "example.com")
        );
        assert_eq!(host_name("[2001:db8::1]:8080"), "2001:db8::1");
        assert_eq!(host_name("2001:db8::1"), "2001:db8::1");
    }

    #[test]
    fn redirects_stay_with_the_origin_or_go_to_a_literal_address() {
        let base = target("192.0.2.1:8080", false, "example.com", "/a/b?c");
        let at = |path: &str| Some(target("192.0.2.1:8080", false, "example.com", path));
        for (location, next) in [
            ("/x", at("/x")),
            ("x?y", at("/a/x?y")),
            ("?y", at("/a/b?y")),
            ("", at("/a/b")),
            ("/x#fragment", at("/x")),
            (
                "/login?next=http://elsewhere.example/",
                at("/login?next=http://elsewhere.example/"),
            ),
            (
                "http://EXAMPLE.com/x",
                Some(target("192.0.2.1:8080", false, "EXAMPLE.com", "/x")),
            ),
            (
                "//example.com",
                Some(target("192.0.2.1:8080", false, "example.com", "/")),
            ),
            (
                "http://example.com:81/x",
                Some(target("192.0.2.1:81", false, "example.com:81", "/x")),
            ),
            (
                "https://example.com/x",
                Some(target("192.0.2.1:443", true, "example.com", "/x")),
            ),
            (
                "http://192.0.2.9/x",
                Some(target("192.0.2.9:80", false, "192.0.2.9", "/x")),
            ),
            (
                "https://[2001:db8::9]:8443/",
                Some(target("[2001:db8::9]:8443", true, "[2001:db8::9]:8443", "/")),
            ),
            ("http://other.example/", None),
            ("ftp://example.com/", None),
            ("http://", None),
        ] {
            assert_eq!(base.redirect(location), next, "{location}");
        }
    }
}
