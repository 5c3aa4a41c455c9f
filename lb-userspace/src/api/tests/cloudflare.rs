//! Cloudflare's API as its clients meet it, as far as no daemon is needed.

use super::*;

/// One request by hand: status and body.
pub(super) async fn by_hand(
    address: std::net::SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
) -> (u16, serde_json::Value) {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let answer = raw(address, &request).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    let body = serde_json::from_str(&body.unwrap_or_default()).unwrap_or_default();
    (status.unwrap_or_default(), body)
}

#[tokio::test]
async fn clients_of_cloudflares_api_get_its_envelope_whatever_happens() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], Some("secret"));
    let address = served.tcp[0];
    let account = "0123456789abcdef0123456789abcdef";
    let pools = format!("/client/v4/accounts/{account}/load_balancers/pools");
    let own = "Authorization: Bearer secret\r\n";
    let rows = [
        (pools.as_str(), own, 200, 0),
        (&pools, "", 401, 10000),
        (&pools, "Authorization: Bearer wrong\r\n", 401, 10000),
        (
            &pools,
            "X-Auth-Email: a@example.com\r\nX-Auth-Key: secret\r\n",
            200,
            0,
        ),
        (
            &pools,
            "X-Auth-Email: a@example.com\r\nX-Auth-Key: wrong\r\n",
            401,
            10000,
        ),
        // One without the other says nothing.
        (&pools, "X-Auth-Key: secret\r\n", 401, 10000),
        ("/client/v4/accounts/x/load_balancers/pools", own, 404, 7003),
        ("/client/v4/nothing", own, 404, 7003),
        ("/client/v4/", own, 404, 7003),
        ("/client/v4", own, 404, 7003),
        (&format!("{pools}/{account}"), own, 404, 1001),
        (&format!("{pools}/x"), own, 404, 1001),
        (&format!("{pools}?page=0"), own, 400, 1002),
    ];
    for (path, headers, status, code) in rows {
        let (answered, body) = by_hand(address, "GET", path, headers).await;
        assert_eq!(answered, status, "{path} {headers}: {body}");
        assert_eq!(body["success"], status == 200, "{path}: {body}");
        assert_eq!(
            body["errors"][0]["code"].as_u64().unwrap_or(0),
            code,
            "{path}: {body}"
        );
        assert!(
            body["messages"].is_array() && body.get("result").is_some(),
            "{path}: {body}"
        );
    }
    let post = |body: &str| format!("{own}Content-Length: {}\r\n\r\n{body}", body.len());
    for (body, status, code) in [("{", 400, 6007), ("[]", 400, 6007), ("", 400, 6007)] {
        let request = format!(
            "POST {pools} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}",
            post(body)
        );
        let answer = raw(address, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(&format!("\"code\":{code}")),
            "{body}: {answer}"
        );
    }
    // A body that is too long is refused before it is read.
    let request = format!(
        "POST {pools} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{own}Content-Length: 99999999\r\n\r\n"
    );
    let answer = raw(address, &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("\"code\":6008"),
        "{answer}"
    );
    let (status, body) = by_hand(address, "PATCH", "/client/v4/user/load_balancers/search", own).await;
    assert!(status == 404 || status == 405, "{status} {body}");
    assert_eq!(body["success"], false);
}

#[tokio::test]
async fn of_all_pools_at_once_hardly_anything_is_changed() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], Some("secret"));
    let pools = "/client/v4/accounts/0123456789abcdef0123456789abcdef/load_balancers/pools";
    let patch = async |body: &str| {
        let request = format!(
            "PATCH {pools} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \
             secret\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        raw(served.tcp[0], &request).await
    };
    let answer = patch(r#"{"enabled": false, "notification_email": ""}"#).await;
    assert!(
        answer.starts_with("HTTP/1.1 400")
            && answer.contains("enabled: of all pools at once `notification_email` alone can be changed")
            && answer.contains("\"pointer\":\"/enabled\""),
        "{answer}"
    );
    assert!(
        patch(r#"{"notification_email": ""}"#)
            .await
            .starts_with("HTTP/1.1 200")
    );
}
