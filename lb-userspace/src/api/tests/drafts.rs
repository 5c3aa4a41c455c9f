//! Drafts, revisions and deployments as clients meet them.

use super::*;
use crate::wire::{Deployed, Revisions, Text};

/// A fake daemon's answers.
pub fn versioned(request: VersionRequest) {
    match request {
        VersionRequest::Revisions { reply } => drop(reply.send(Ok(Revisions::default()))),
        VersionRequest::Text { of, reply } => drop(reply.send(Ok(Text {
            text: format!("{of:?}"),
        }))),
        VersionRequest::Deploy { deployment, reply } => drop(reply.send(Ok(Deployed {
            revision: 3,
            changed: deployment.force,
            file: format!("{:?}", deployment.source),
            confirm_by: deployment.confirm.map(|time| format!("{time:?}")),
            warnings: Vec::new(),
        }))),
        VersionRequest::RollBack { revision, reply, .. } => {
            let message = format!("there is no revision {revision:?}");
            drop(reply.send(Err(ErrorDetail::new(ErrorCode::NotFound, message))));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn deployments_reach_the_daemon() {
    let served = serve(Daemon::Ready, &[], None);
    let client = served.client();
    let post = async |path: &str, body: &'static str| {
        let answer = client
            .send_json(Method::POST, &Query::new(path), body.as_bytes())
            .await;
        answer.map(|body| serde_json::from_slice::<Deployed>(&body).unwrap())
    };
    let applied = post(
        "/api/v1/apply",
        r#"{"text": "x = 1", "file": "f", "confirm": 1.5}"#,
    )
    .await
    .unwrap();
    assert_eq!(applied.file, r#"Text { text: "x = 1", file: "f" }"#);
    assert_eq!(
        (applied.changed, applied.confirm_by.as_deref()),
        (false, Some("1.5s"))
    );
    let deployed = post("/api/v1/drafts/a/deploy", r#"{"force": true}"#)
        .await
        .unwrap();
    assert_eq!((deployed.changed, deployed.file.as_str()), (true, "Draft(\"a\")"));
    for (path, body, exit, words) in [
        (
            "/api/v1/apply",
            r#"{"file": "f"}"#,
            Exit::Usage,
            "missing field `text`",
        ),
        ("/api/v1/apply", "x", Exit::Usage, "the body is not understood"),
        (
            "/api/v1/drafts/a/deploy",
            r#"{"forc": true}"#,
            Exit::Usage,
            "unknown field `forc`",
        ),
        (
            "/api/v1/drafts/a/deploy",
            r#"{"confirm": 0}"#,
            Exit::Usage,
            "at most 86400 seconds",
        ),
        (
            "/api/v1/rollback",
            r#"{"revision": 9}"#,
            Exit::NotFound,
            "no revision Some(9)",
        ),
        ("/api/v1/rollback", "", Exit::NotFound, "no revision None"),
    ] {
        let failure = post(path, body).await.unwrap_err();
        let message = failure.message;
        assert_eq!(failure.exit, exit, "{message}");
        assert!(message.contains(words), "{path} {body}: {message}");
    }
    let (exit, message) = refused(&client, Method::GET, Query::new("/api/v1/revisions/x")).await;
    assert_eq!(exit, Exit::Usage, "{message}");
}

#[tokio::test]
async fn files_are_for_those_who_may_read_them() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], None);
    let text: Text = served
        .client()
        .fetch(Method::GET, &Query::new("/api/v1/drafts/a/text"))
        .await
        .unwrap();
    assert_eq!(text.text, "Draft(\"a\")");
    // Every user of the machine: nothing at all.
    let local = client(Target::Tcp(served.tcp[0].to_string()));
    for path in [
        "/api/v1/revisions",
        "/api/v1/drafts/a/text",
        "/api/v1/revisions/1/text",
    ] {
        let (exit, _) = refused(&local, Method::GET, Query::new(path)).await;
        assert_eq!(exit, Exit::NotFound, "{path}");
    }
    let (exit, _) = refused(&local, Method::POST, Query::new("/api/v1/rollback")).await;
    assert_eq!(exit, Exit::Privilege);
    // With the token all but the texts.
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], Some("secret-secret-secret"));
    let mut remote = client(Target::Tcp(served.tcp[0].to_string()));
    let (exit, _) = refused(&remote, Method::GET, Query::new("/api/v1/revisions")).await;
    assert_eq!(exit, Exit::Privilege);
    remote.token = Some(Token::read(&served.directory.path().join("token")).unwrap());
    let _: Revisions = remote
        .fetch(Method::GET, &Query::new("/api/v1/revisions"))
        .await
        .unwrap();
    let (exit, _) = refused(&remote, Method::GET, Query::new("/api/v1/revisions/1/text")).await;
    assert_eq!(exit, Exit::NotFound);
}
