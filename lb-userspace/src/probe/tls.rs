//! The TLS side of `https` monitors.

use super::socket_failure;
use lb_core::health::FailureReason;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The system's trusted certificates; Mozilla's when the system has none (a minimal container).
pub(super) fn roots() -> RootCertStore {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "a trusted certificate could not be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// One client that verifies certificates and one that does not.
pub(super) struct Clients {
    verifying: Client,
    insecure: Client,
}

impl Clients {
    pub(super) fn new(roots: RootCertStore) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifying = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let insecure = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Self {
            verifying: Client::new(verifying),
            insecure: Client::new(insecure),
        })
    }

    pub(super) fn client(&self, allow_insecure: bool) -> &Client {
        if allow_insecure {
            &self.insecure
        } else {
            &self.verifying
        }
    }
}

/// Opens TLS sessions.
pub(super) struct Client(TlsConnector);

impl Client {
    fn new(mut config: ClientConfig) -> Self {
        // A resumed session does not present its certificate again: an expired one would go unnoticed.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// A session with the host of that name or address. An address is verified but not sent (RFC 6066 section 3).
    pub(super) async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, FailureReason> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            FailureReason::Other(format!("{host:?} is no name that a certificate could have"))
        })?;
        self.0
            .connect(name, stream)
            .await
            .map_err(|error| tls_failure(&error))
    }
}

fn tls_failure(error: &io::Error) -> FailureReason {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => FailureReason::TlsNameMismatch,
        Some(Error::InvalidCertificate(_)) => FailureReason::TlsUntrustedCertificate,
        Some(Error::AlertReceived(AlertDescription::UnrecognisedName)) => FailureReason::TlsUnrecognizedName,
        Some(
            Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity)
            | Error::PeerIncompatible(_),
        ) => FailureReason::TlsProtocol,
        Some(_) => FailureReason::TlsHandshakeFailure,
        None if error.kind() == io::ErrorKind::UnexpectedEof => FailureReason::TlsHandshakeFailure,
        None => socket_failure(error),
    }
}

/// Accepts every certificate, for `allow_insecure`. Signatures are still verified: whoever answers holds the key of
/// the certificate that it shows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, get, request};
    use super::super::{Probes, attempt};
    use super::*;
    use lb_core::health::Observation;
    use lb_core::model::{MonitorKind, Probe};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use std::net::SocketAddr;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// A server with a certificate for `names`, and that certificate.
    async fn server(names: &[&str]) -> (SocketAddr, CertificateDer<'static>) {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let signed = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
        let certificate = signed.cert.der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    testing::read_head(&mut stream).await;
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        (address, certificate)
    }

    async fn check(
        to: SocketAddr,
        trusted: Option<&CertificateDer<'static>>,
        host: Option<&str>,
        allow_insecure: bool,
    ) -> Result<(), FailureReason> {
        let mut roots = RootCertStore::empty();
        if let Some(certificate) = trusted {
            roots.add(certificate.clone()).unwrap();
        }
        let headers = host
            .map(|host| ("Host".to_owned(), host.to_owned()))
            .into_iter()
            .collect();
        let probe = Probe {
            headers,
            expected_body: "OK".to_owned(),
            ..get()
        };
        let kind = MonitorKind::Https {
            probe,
            allow_insecure,
        };
        let observation: Observation = attempt(&request(kind, to), &Probes::with_roots(roots).unwrap()).await;
        observation.map(|_| ())
    }

    #[tokio::test]
    async fn certificates_are_verified_against_the_host_header_or_the_address() {
        let (address, certificate) = server(&["origin.example", "127.0.0.1"]).await;
        let trusted = Some(&certificate);
        assert_eq!(
            check(address, trusted, Some("origin.example:8443"), false).await,
            Ok(())
        );
        assert_eq!(check(address, trusted, None, false).await, Ok(()));
        let mismatch = check(address, trusted, Some("other.example"), false).await;
        assert_eq!(mismatch, Err(FailureReason::TlsNameMismatch));
        assert_eq!(check(address, trusted, Some("other.example"), true).await, Ok(()));
    }

    #[tokio::test]
    async fn the_name_is_sent_as_sni_and_an_address_is_not() {
        for (origin, monitor, sni) in [
            (None, Some("monitor.example:8443"), Some("monitor.example")),
            (
                Some("origin.example"),
                Some("monitor.example"),
                Some("origin.example"),
            ),
            (None, None, None),
        ] {
            let (address, _) = server(&["any.example"]).await;
            let (listener, server) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), address);
            let headers = monitor.map(|host| ("Host".to_owned(), host.to_owned()));
            let probe = Probe {
                headers: headers.into_iter().collect(),
                ..get()
            };
            let allow_insecure = true;
            let kind = MonitorKind::Https {
                probe,
                allow_insecure,
            };
            let mut request = request(kind, listener.local_addr().unwrap());
            request.host = origin.map(str::to_owned);
            let probes = Probes::with_roots(RootCertStore::empty()).unwrap();
            let (observation, seen) = tokio::join!(attempt(&request, &probes), async {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut server = TcpStream::connect(server).await.unwrap();
                client.readable().await.unwrap();
                let mut hello = [0; 4096];
                let length = client.peek(&mut hello).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                hello[..length].to_vec()
            });
            observation.unwrap();
            let mut acceptor = rustls::server::Acceptor::default();
            acceptor.read_tls(&mut &seen[..]).unwrap();
            let accepted = acceptor.accept().unwrap().expect("a whole hello");
            assert_eq!(accepted.client_hello().server_name(), sni);
        }
    }

    #[test]
    fn what_tls_complains_of_has_cloudflares_reasons() {
        use AlertDescription as Alert;
        for (error, reason) in [
            (
                Error::AlertReceived(Alert::UnrecognisedName),
                FailureReason::TlsUnrecognizedName,
            ),
            (
                Error::AlertReceived(Alert::ProtocolVersion),
                FailureReason::TlsProtocol,
            ),
            (
                Error::AlertReceived(Alert::HandshakeFailure),
                FailureReason::TlsHandshakeFailure,
            ),
            (
                Error::InvalidCertificate(CertificateError::Expired),
                FailureReason::TlsUntrustedCertificate,
            ),
            (
                Error::InvalidCertificate(CertificateError::NotValidForName),
                FailureReason::TlsNameMismatch,
            ),
        ] {
            assert_eq!(tls_failure(&io::Error::other(error.clone())), reason, "{error}");
        }
    }

    #[tokio::test]
    async fn a_self_signed_certificate_is_untrusted_unless_that_is_allowed() {
        let (address, _) = server(&["origin.example"]).await;
        let (_, other) = server(&["origin.example"]).await;
        for trusted in [None, Some(&other)] {
            let untrusted = check(address, trusted, Some("origin.example"), false).await;
            assert_eq!(untrusted, Err(FailureReason::TlsUntrustedCertificate));
            assert_eq!(
                check(address, trusted, Some("origin.example"), true).await,
                Ok(())
            );
            assert_eq!(check(address, trusted, None, true).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_port_that_does_not_speak_tls_fails_the_handshake() {
        let kind = || MonitorKind::Https {
            probe: get(),
            allow_insecure: true,
        };
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (observation, ()) = tokio::join!(testing::probe(kind(), address), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.readable().await.unwrap();
                let _ = stream.try_read(&mut [0; 4096]);
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            assert_eq!(observation, Err(FailureReason::TlsHandshakeFailure));
        }
        let (full, _keep) = testing::full_listener();
        assert_eq!(testing::probe(kind(), full).await, Err(FailureReason::TcpTimeout));
    }

    #[test]
    fn the_system_or_the_binary_has_trusted_certificates() {
        assert!(!roots().is_empty());
    }
}
