//! What every user of the machine may do at a loopback address without a token: look, and not at secrets.

use super::cloudflare::by_hand;
use super::*;
use crate::config::Source;
use crate::objects::FileObjects;

const FILE: &str = r#"
[monitors.m]
type = "http"
header = { Authorization = ["Bearer topsecret"], Host = ["a.example"] }
"#;

const BASE: &str = "/client/v4/accounts/0123456789abcdef0123456789abcdef/load_balancers";

fn with_a_secret(token: Option<&str>) -> Served {
    let file = FileObjects::new(&Source::new("lb.toml", FILE), 0);
    let catalog = Catalog::new(Arc::new(file), Vec::new());
    serve_objects(Daemon::Ready, &["127.0.0.1:0"], token, Arc::new(catalog))
}

#[tokio::test]
async fn without_a_token_nothing_is_changed_over_tcp() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], None);
    let monitors = format!("{BASE}/monitors");
    let rows = [
        ("POST", monitors.clone()),
        ("PUT", format!("{monitors}/{}", "a".repeat(32))),
        ("PATCH", format!("{BASE}/pools")),
        ("DELETE", format!("{monitors}/{}", "a".repeat(32))),
        ("POST", format!("{monitors}/{}/preview", "a".repeat(32))),
        ("POST", "/api/v1/reload".to_owned()),
        ("DELETE", "/api/v1/flows?all=true".to_owned()),
    ];
    for (method, path) in rows {
        let (status, body) = by_hand(served.tcp[0], method, &path, "").await;
        assert_eq!(status, 403, "{method} {path}: {body}");
        let text = body.to_string();
        assert!(
            text.contains("api.token_file") && text.contains("unix socket"),
            "{text}"
        );
        assert_eq!(
            body.get("success").is_some(),
            path.starts_with("/client"),
            "{body}"
        );
    }
    assert_eq!(by_hand(served.tcp[0], "GET", &monitors, "").await.0, 200);
    // Where the file's mode has decided, or a token is shown, it goes on to the daemon.
    let reload = || Query::new("/api/v1/reload");
    assert!(served.client().call(Method::POST, &reload()).await.is_ok());
    let guarded = serve(Daemon::Ready, &["127.0.0.1:0"], Some("secret"));
    let mut client = client(Target::Tcp(guarded.tcp[0].to_string()));
    client.token = Some(Token::new("secret").unwrap());
    assert!(client.call(Method::POST, &reload()).await.is_ok());
}

#[tokio::test]
async fn headers_of_monitors_are_for_those_who_may_write() {
    for (token, headers, shown) in [
        (None, "", ""),
        (
            Some("secret"),
            "Authorization: Bearer secret\r\n",
            "Bearer topsecret",
        ),
    ] {
        let served = with_a_secret(token);
        let path = format!("{BASE}/monitors");
        let (status, list) = by_hand(served.tcp[0], "GET", &path, headers).await;
        assert_eq!(status, 200, "{list}");
        let listed = &list["result"][0];
        let one = format!("{path}/{}", listed["id"].as_str().unwrap());
        let (_, single) = by_hand(served.tcp[0], "GET", &one, headers).await;
        for monitor in [listed, &single["result"]] {
            assert_eq!(monitor["header"]["Authorization"][0], shown, "{monitor}");
        }
        for path in ["/api/v1/monitors", "/api/v1/monitors/m"] {
            let (_, body) = by_hand(served.tcp[0], "GET", path, headers).await;
            assert_eq!(
                body.to_string().contains("topsecret"),
                !shown.is_empty(),
                "{path}: {body}"
            );
        }
        for path in ["/api/v1/status", &format!("{BASE}/search?query=")] {
            let (_, body) = by_hand(served.tcp[0], "GET", path, headers).await;
            assert!(!body.to_string().contains("topsecret"), "{path}: {body}");
        }
    }
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_not_to_be_tried_again() {
    let served = serve(Daemon::Broken, &["127.0.0.1:0"], Some("secret"));
    let ask = async |method: &str| {
        let request = format!(
            "{method} {BASE}/monitors HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \
             secret\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        raw(served.tcp[0], &request).await
    };
    let answer = ask("POST").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("x-should-retry: false\r\n"),
        "{answer}"
    );
    assert!(answer.contains("may have been made or not"), "{answer}");
    assert!(!ask("GET").await.contains("x-should-retry"));
}
