//! One attempt to deliver one notice.

use super::signature;
use crate::probe::Probes;
use crate::store::StoredNotice;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use lb_core::model::{Webhook, WebhookUrl};
use std::path::Path;
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// Delivers a notice: it has arrived when the answer's status is 2xx. Redirects are not followed.
///
/// # Errors
/// Why it has not, in words without path and secret.
pub(super) async fn send(
    webhook: &Webhook,
    probes: &Probes,
    notice: &StoredNotice,
    attempt: u32,
) -> Result<(), String> {
    let exchange = async {
        let request = request(webhook, notice, attempt).await?;
        let stream = connect(&webhook.url).await?;
        match webhook.url.tls {
            false => post(stream, request).await,
            true => {
                let session = probes
                    .tls_session(&webhook.url.host, stream, webhook.allow_insecure)
                    .await;
                let session = session.map_err(|reason| crate::wire::failure_reason(&reason))?;
                post(session, request).await
            }
        }
    };
    match tokio::time::timeout(webhook.timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", webhook.timeout.as_secs_f64())),
    }
}

async fn connect(url: &WebhookUrl) -> Result<TcpStream, String> {
    let addresses = lookup_host((url.host.as_str(), url.port));
    let addresses = addresses
        .await
        .map_err(|error| format!("cannot find {}: {error}", url.host))?;
    let mut failure = format!("{} has no address", url.host);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(failure)
}

async fn request(
    webhook: &Webhook,
    notice: &StoredNotice,
    attempt: u32,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::post(webhook.url.path.as_str())
        .header(HOST, webhook.url.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")))
        .header("X-Lb-Delivery", notice.id)
        .header("X-Lb-Attempt", attempt);
    if let Some(path) = &webhook.secret_file {
        let secret = secret(path).await?;
        let value = signature::header(&secret, SystemTime::now(), notice.body.as_bytes());
        let mut value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        request = request.header(signature::HEADER, value);
    }
    let body = Full::new(Bytes::copy_from_slice(notice.body.as_bytes()));
    request
        .body(body)
        .map_err(|error| format!("cannot be asked: {error}"))
}

/// Read each time: a new secret takes effect at once.
async fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = tokio::fs::read(path).await;
    let bytes = bytes.map_err(|error| format!("cannot read secret_file {}: {error}", path.display()))?;
    match bytes.trim_ascii() {
        [] => Err(format!("secret_file {} is empty", path.display())),
        secret => Ok(secret.to_vec()),
    }
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(), String> {
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("the answer is {status}")),
        }
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        // What has come is read first.
        biased;
        result = &mut exchange => result,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(broken(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Notifier, NotifyNews, Told};
    use super::*;
    use lb_core::model::{EventSources, Tells};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const REFUSED: &str = "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n";
    const TAKEN: &str = "HTTP/1.1 204 No\r\n\r\n";

    fn webhook(port: u16) -> Webhook {
        Webhook {
            name: "ops".into(),
            enabled: true,
            url: WebhookUrl {
                tls: false,
                host: "localhost".into(),
                port,
                path: "/SECRET?x".into(),
            },
            allow_insecure: false,
            secret_file: None,
            pools: Vec::new(),
            sources: EventSources::default(),
            tells: Tells::default(),
            pool_enablement: false,
            timeout: Duration::from_secs(5),
            max_pending: 10,
            give_up_after: Webhook::GIVE_UP_AFTER,
        }
    }

    fn notice(id: u64) -> Arc<StoredNotice> {
        let created = crate::wire::micros(SystemTime::now());
        let (webhook, body) = ("ops".to_owned(), format!("{{\"number\":{id}}}"));
        Arc::new(StoredNotice {
            webhook,
            id,
            created,
            body,
        })
    }

    /// Answers each request with the next of these; gives what was asked.
    async fn receiver(
        answers: &'static [&'static str],
    ) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                sender.send(String::from_utf8(request).unwrap()).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (port, asked)
    }

    #[tokio::test]
    async fn a_notice_is_sent_again_until_it_is_taken_and_the_next_one_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let secret_file = folder.path().join("secret");
        std::fs::write(&secret_file, "key\n").unwrap();
        let (port, mut asked) = receiver(&[REFUSED, TAKEN, TAKEN]).await;
        let mut notifier = Notifier::new(Arc::new(Probes::new().unwrap()));
        let signed = Webhook {
            secret_file: Some(secret_file),
            ..webhook(port)
        };
        assert_eq!(notifier.configure(std::slice::from_ref(&signed)), []);
        assert!(notifier.push(notice(7)) && notifier.push(notice(8)));
        let mut told = Vec::new();
        for _ in 0..3 {
            let news = notifier.news().await;
            assert!(notifier.settle(&news));
            told.push(news.what);
        }
        let failed = Told::Failed {
            why: "the answer is 500 Internal Server Error".into(),
            first: true,
        };
        let taken = |id, recovered| Told::Delivered { id, recovered };
        assert_eq!(told, [failed, taken(7, true), taken(8, false)]);
        let (first, second, third) = (
            asked.recv().await.unwrap(),
            asked.recv().await.unwrap(),
            asked.recv().await.unwrap(),
        );
        assert!(first.starts_with("POST /SECRET?x HTTP/1.1\r\n"), "{first}");
        for (request, wanted) in [
            (&first, "x-lb-attempt: 1"),
            (&second, "x-lb-attempt: 2"),
            (&second, "x-lb-delivery: 7"),
            (&third, "x-lb-delivery: 8"),
            (&third, "x-lb-signature: t="),
        ] {
            assert!(request.to_lowercase().contains(wanted), "{wanted}: {request}");
        }
        assert!(!third.contains("key"));
        let [status] = notifier.status().try_into().unwrap();
        assert_eq!(
            (
                status.delivered_total,
                status.failed_attempts_total,
                status.pending
            ),
            (2, 1, 0)
        );
        assert!(!format!("{status:?}{signed:?}").contains("SECRET"));
    }

    #[tokio::test]
    async fn what_waits_follows_a_changed_webhook_and_a_removed_one_gives_it_back() {
        let mut notifier = Notifier::new(Arc::new(Probes::new().unwrap()));
        let nobody = Webhook {
            // A secret that cannot be read is a failure, and not a notice without signature.
            secret_file: Some("/nonexistent/secret".into()),
            ..webhook(9)
        };
        notifier.configure(&[nobody]);
        assert!(notifier.push(notice(7)));
        let NotifyNews { what, .. } = notifier.news().await;
        assert!(
            matches!(&what, Told::Failed { why, .. } if why.contains("secret_file")),
            "{what:?}"
        );
        let (port, mut asked) = receiver(&[TAKEN]).await;
        assert_eq!(notifier.configure(&[webhook(port)]), []);
        assert!(asked.recv().await.unwrap().ends_with("{\"number\":7}"));
        let mut delivered = false;
        while !delivered {
            let news = notifier.news().await;
            delivered = matches!(news.what, Told::Delivered { id: 7, .. });
        }
        assert!(notifier.push(notice(8)));
        assert!(!notifier.push(Arc::new(StoredNotice {
            webhook: "other".into(),
            ..StoredNotice::clone(&notice(9))
        })));
        let mut left = notifier.configure(&[]);
        left.retain(|(_, id)| *id == 8);
        assert_eq!(left, [("ops".to_owned(), 8)]);
    }
}
