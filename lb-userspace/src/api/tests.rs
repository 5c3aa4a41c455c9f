//! The API as clients meet it: a fake daemon behind real sockets, asked through the real client.

mod cloudflare;
mod connections;
mod drafts;
mod events;
mod onlooker;
mod trace;

use super::*;
use crate::cli::{Exit, Failure};
use crate::client::{Client, Query, Target};
use crate::objects::Catalog;
use crate::wire::{
    Drops, ErrorCode, ErrorDetail, Event, Events, Explain, FlowFilter, Flows, Flushed, HandedOver,
    HealthHistory, InterfaceStatus, Ordered, Problem, Reloaded, Status,
};
use hyper::{Method, StatusCode};
use lb_core::model::Api;
use lb_core::view::View;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A served API and the directory its socket lives in.
struct Served {
    directory: TempDir,
    tcp: Vec<std::net::SocketAddr>,
    stop: CancellationToken,
    closed: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// How the fake daemon behaves.
#[derive(Clone, Copy, PartialEq)]
enum Daemon {
    Ready,
    Detached,
    /// Drops every request.
    Broken,
}

impl Served {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("lb.sock")
    }

    fn client(&self) -> Client {
        client(Target::Socket(self.socket()))
    }
}

fn client(target: Target) -> Client {
    Client {
        target,
        token: None,
        timeout: Duration::from_secs(5),
    }
}

fn api(directory: &Path, listen: &[&str], token: Option<&str>) -> Api {
    let token_file = token.map(|token| {
        let path = directory.join("token");
        std::fs::write(&path, token).unwrap();
        path
    });
    let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
    Api {
        socket: directory.join("lb.sock"),
        listen,
        token_file,
        edge_ips: Vec::new(),
    }
}

fn serve(daemon: Daemon, listen: &[&str], token: Option<&str>) -> Served {
    serve_objects(daemon, listen, token, Arc::default())
}

fn serve_objects(daemon: Daemon, listen: &[&str], token: Option<&str>, catalog: Arc<Catalog>) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::bind(&api(directory.path(), listen, token)).unwrap();
    let (_, view) = watch::channel(Arc::new(View::default()));
    let (requests, inbox) = mpsc::channel(8);
    tokio::spawn(fake(daemon, inbox));
    let stop = CancellationToken::new();
    let tcp = server.tcp_addresses();
    let closed = CancellationToken::new();
    let (_, catalog) = watch::channel(catalog);
    let handle = Handle {
        view,
        catalog,
        requests,
    };
    let task = tokio::spawn(server.serve(handle, stop.clone(), closed.clone()));
    Served {
        directory,
        tcp,
        stop,
        closed,
        task,
    }
}

async fn fake(daemon: Daemon, mut inbox: mpsc::Receiver<Request>) {
    while let Some(request) = inbox.recv().await {
        if daemon == Daemon::Broken {
            continue;
        }
        answer(daemon, request);
    }
}

fn answer(daemon: Daemon, request: Request) {
    match request {
        Request::Status { reply } => {
            let view = View {
                node: "edge-1".to_owned(),
                generation: 4,
                ..View::default()
            };
            let interfaces = match daemon {
                Daemon::Ready => {
                    vec![InterfaceStatus {
                        name: "eth0".to_owned(),
                        mode: "native".to_owned(),
                        program_id: 1,
                        up: true,
                    }]
                }
                Daemon::Detached | Daemon::Broken => Vec::new(),
            };
            let status = Status::new(
                &view,
                &crate::wire::Counters::default(),
                crate::wire::NodeStatus::default(),
                interfaces,
            );
            drop(reply.send(Ok(status)));
        }
        Request::Ready { reply } => drop(reply.send(Ok(match daemon {
            Daemon::Ready => Standing::Ready,
            Daemon::Detached | Daemon::Broken => Standing::Detached,
        }))),
        Request::Trace { query, reply } => drop(reply.send(Ok(trace::traced(&query)))),
        Request::Reload { reply } => drop(reply.send(match daemon {
            Daemon::Ready => Ok(Reloaded {
                generation: 5,
                warnings: Vec::new(),
            }),
            Daemon::Detached | Daemon::Broken => {
                let problem = Problem {
                    message: "weight 2 is outside 0 to 1".to_owned(),
                    field: "pools.eu.origins.a.weight".to_owned(),
                    file: "/etc/lb/lb.toml".to_owned(),
                    line: Some(3),
                    column: Some(10),
                    help: None,
                };
                Err(ErrorDetail::new(ErrorCode::ConfigurationInvalid, "1 error").with_problems(vec![problem]))
            }
        })),
        Request::Explain { query, reply } => drop(reply.send(Ok(Explain {
            verdict: format!("{} {} {}", query.protocol, query.client, query.vip),
            ..Explain::default()
        }))),
        Request::Flows { filter, limit, reply } => drop(reply.send(match filter.application.as_deref() {
            Some("none") => Err(ErrorDetail::new(
                ErrorCode::NotFound,
                "there is no application `none`",
            )),
            _ => Ok(Flows {
                flows: Vec::new(),
                total: limit as u64,
            }),
        })),
        Request::FlushFlows { filter, reply } => {
            assert_eq!(filter.origin.as_deref(), Some("eu/a b"));
            drop(reply.send(Ok(Flushed { flushed: 7 })));
        }
        Request::Drops { reply } => {
            let drops = Ordered(vec![("z".to_owned(), 1), ("a".to_owned(), 2)]);
            drop(reply.send(Ok(Drops {
                drops,
                verdicts: Ordered::default(),
            })));
        }
        // The daemon's own tests answer these.
        Request::Change { .. }
        | Request::Preview { .. }
        | Request::PreviewResult { .. }
        | Request::Minutes { .. }
        | Request::Present { .. }
        | Request::MonitorTest { .. }
        | Request::Objects { .. } => {}
        Request::Version(request) => drafts::versioned(request),
        Request::HandOver { reply } => drop(reply.send(Ok(HandedOver { pid: 7 }))),
        Request::Events { query, reply } => drop(reply.send(Ok(events::feed(&query)))),
        Request::HealthHistory { query, reply } => {
            drop(reply.send(Ok(HealthHistory::new(&query, &[], &[]))));
        }
    }
}

/// Exit code and message of a refusal.
async fn refused(client: &Client, method: Method, query: Query) -> (Exit, String) {
    let Failure { exit, message } = client.call(method, &query).await.unwrap_err();
    (exit, message)
}

#[tokio::test]
async fn every_request_reaches_the_daemon_and_its_answer_comes_back() {
    let served = serve(Daemon::Ready, &[], None);
    let client = served.client();
    let get = |path: &str| Query::new(path);
    let status: Status = client.fetch(Method::GET, &get("/api/v1/status")).await.unwrap();
    assert_eq!((status.node.name.as_str(), status.node.generation), ("edge-1", 4));
    let reloaded: Reloaded = client.fetch(Method::POST, &get("/api/v1/reload")).await.unwrap();
    assert_eq!(reloaded.generation, 5);
    let query = get("/api/v1/explain")
        .with("protocol", "udp")
        .with("client", "[2001:db8::1]:5")
        .with("vip", "[2001:db8::2]:53");
    let explain: Explain = client.fetch(Method::GET, &query).await.unwrap();
    assert_eq!(explain.verdict, "udp [2001:db8::1]:5 [2001:db8::2]:53");
    let flows: Flows = client
        .fetch(Method::GET, &get("/api/v1/flows").with("limit", "3"))
        .await
        .unwrap();
    assert_eq!(flows.total, 3);
    let flushed: Flushed = client
        .fetch(Method::DELETE, &get("/api/v1/flows").with("origin", "eu/a b"))
        .await
        .unwrap();
    assert_eq!(flushed.flushed, 7);
    let drops: Drops = client.fetch(Method::GET, &get("/api/v1/drops")).await.unwrap();
    assert_eq!(drops.drops.0, [("z".to_owned(), 1), ("a".to_owned(), 2)]);
    let events: Events = client
        .fetch(Method::GET, &get("/api/v1/events").with("since", "9"))
        .await
        .unwrap();
    assert_eq!(
        (events.next, events.events[0].message.as_str()),
        (10, "configuration 4 is live")
    );
}

#[tokio::test]
async fn liveness_and_readiness_differ() {
    for (daemon, ready) in [
        (Daemon::Ready, 200),
        (Daemon::Detached, 503),
        (Daemon::Broken, 503),
    ] {
        let served = serve(daemon, &[], None);
        let status = async |path| {
            served
                .client()
                .exchange(Method::GET, &Query::new(path))
                .await
                .unwrap()
                .0
        };
        assert_eq!(status("/healthz").await, StatusCode::OK);
        assert_eq!(status("/readyz").await.as_u16(), ready);
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_the_parameter() {
    let served = serve(Daemon::Ready, &[], None);
    let client = served.client();
    let explain = || Query::new("/api/v1/explain");
    let rows = [
        (explain(), "`protocol` is missing: tcp or udp"),
        (
            explain().with("protocol", "sctp"),
            "`protocol` is \"sctp\", not tcp or udp",
        ),
        (
            explain().with("protocol", "tcp").with("client", "10.0.0.1"),
            "`client` is \"10.0.0.1\", not ADDRESS:PORT",
        ),
        (
            explain()
                .with("protocol", "tcp")
                .with("client", "10.0.0.1:1")
                .with("vip", "[::1]:1"),
            "`client` and `vip` are not of the same address family",
        ),
        (
            Query::new("/api/v1/flows").with("aplication", "web"),
            "unknown or repeated parameter `aplication`",
        ),
        (
            Query::new("/api/v1/flows").with("limit", "-1"),
            "`limit` is \"-1\", not a number",
        ),
        (
            Query::new("/api/v1/flows").with("limit", "1000001"),
            "`limit` is 1000001; 1000000 is the most",
        ),
        (
            Query::new("/api/v1/events").with("since", "x"),
            "`since` is \"x\", not the number of an event",
        ),
        (
            Query::new("/api/v1/events").with("from", "noon"),
            "`from` is \"noon\", not a time such as 2026-11-22T14:56:19Z",
        ),
        (
            Query::new("/api/v1/events").with("limit", "0"),
            "`limit` is 0, not 1 to 1000000",
        ),
        (
            Query::new("/api/v1/health/history").with("since", "2099-01-01T00:00:00Z"),
            "`since` is not before `until`",
        ),
    ];
    for (query, message) in rows {
        assert_eq!(
            refused(&client, Method::GET, query).await,
            (Exit::Usage, message.to_owned())
        );
    }
    let (exit, message) = refused(&client, Method::DELETE, Query::new("/api/v1/flows")).await;
    assert!(exit == Exit::Usage && message.contains("all=true"), "{message}");
    let (exit, _) = refused(&client, Method::GET, Query::new("/api/v2/status")).await;
    assert_eq!(exit, Exit::NotFound);
    let (exit, _) = refused(&client, Method::DELETE, Query::new("/api/v1/status")).await;
    assert_eq!(exit, Exit::Failed);
    let (exit, message) = refused(
        &client,
        Method::GET,
        Query::new("/api/v1/flows").with("application", "none"),
    )
    .await;
    assert_eq!(
        (exit, message.as_str()),
        (Exit::NotFound, "there is no application `none`")
    );
}

#[tokio::test]
async fn a_refused_reload_carries_every_problem() {
    let served = serve(Daemon::Detached, &[], None);
    let (exit, message) = refused(&served.client(), Method::POST, Query::new("/api/v1/reload")).await;
    assert_eq!(exit, Exit::Configuration);
    assert_eq!(
        message,
        "1 error\n/etc/lb/lb.toml:3:10: pools.eu.origins.a.weight: weight 2 is outside 0 to 1"
    );
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_an_error() {
    let served = serve(Daemon::Broken, &[], None);
    let (exit, message) = refused(&served.client(), Method::GET, Query::new("/api/v1/status")).await;
    assert_eq!(
        (exit, message.as_str()),
        (Exit::Unreachable, "the daemon dropped the request")
    );
}

#[tokio::test]
async fn the_socket_is_private_and_goes_away_with_the_server() {
    let served = serve(Daemon::Ready, &[], None);
    let mode = std::fs::metadata(served.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let conflict = Server::bind(&api(served.directory.path(), &[], None)).unwrap_err();
    assert_eq!(conflict.exit, Exit::Conflict, "{conflict}");
    assert!(
        served
            .client()
            .call(Method::GET, &Query::new("/healthz"))
            .await
            .is_ok()
    );
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(!served.directory.path().join("lb.sock").exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_other_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Server::bind(&api(directory.path(), &[], None)).unwrap());
    std::fs::write(&path, "precious").unwrap();
    let conflict = Server::bind(&api(directory.path(), &[], None)).unwrap_err();
    assert_eq!(conflict.exit, Exit::Conflict);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn nobody_listening_is_said_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let (exit, message) = refused(
        &client(Target::Socket(directory.path().join("none"))),
        Method::GET,
        Query::new("/healthz"),
    )
    .await;
    assert!(
        exit == Exit::Unreachable && message.contains("does not exist") && message.contains("lb run"),
        "{message}"
    );
    let (exit, message) = refused(
        &client(Target::Tcp("127.0.0.1:1".to_owned())),
        Method::GET,
        Query::new("/"),
    )
    .await;
    assert!(
        exit == Exit::Unreachable && message.contains("api.listen"),
        "{message}"
    );
}

#[tokio::test]
async fn tcp_requires_the_token_where_one_is_configured() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], Some("secret\n"));
    let mut client = client(Target::Tcp(served.tcp[0].to_string()));
    let status = || Query::new("/api/v1/status");
    let (exit, message) = refused(&client, Method::GET, status()).await;
    assert!(
        exit == Exit::Privilege && message.contains("--token-file"),
        "{message}"
    );
    client.token = Some(Token::new("wrong").unwrap());
    assert_eq!(
        refused(&client, Method::POST, Query::new("/api/v1/reload"))
            .await
            .0,
        Exit::Privilege
    );
    assert_eq!(
        client.exchange(Method::GET, &status()).await.unwrap().0,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        client
            .exchange(Method::GET, &Query::new("/readyz"))
            .await
            .unwrap()
            .0,
        StatusCode::OK
    );
    client.token = Some(Token::new("secret").unwrap());
    assert!(client.call(Method::GET, &status()).await.is_ok());
    // The socket's mode is enough.
    assert!(served.client().call(Method::GET, &status()).await.is_ok());
    // A daemon is told to leave by its own machine only.
    let hand_over = || Query::new("/api/v1/handover");
    assert_eq!(
        refused(&client, Method::POST, hand_over()).await.0,
        Exit::NotFound
    );
    let answer: HandedOver = served.client().fetch(Method::POST, &hand_over()).await.unwrap();
    assert_eq!(answer.pid, 7);
}

/// Who takes over binds the addresses as soon as they are free, while requests are still being answered.
#[tokio::test]
async fn the_addresses_are_free_before_the_last_request_is_answered() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], None);
    let address = served.tcp[0].to_string();
    // A request whose head never ends.
    let mut hanging = tokio::net::UnixStream::connect(served.socket()).await.unwrap();
    hanging.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    // It has arrived when a later one is answered.
    assert!(
        served
            .client()
            .call(Method::GET, &Query::new("/healthz"))
            .await
            .is_ok()
    );
    served.stop.cancel();
    served.closed.cancelled().await;
    assert!(!served.socket().exists());
    let again = Server::bind(&api(served.directory.path(), &[&address], None)).unwrap();
    assert_eq!(again.tcp_addresses()[0].to_string(), address);
    let socket = served.socket();
    served.task.await.unwrap();
    assert!(socket.exists(), "the new socket stays");
}

#[tokio::test]
async fn what_a_leaving_daemon_has_is_bound_when_it_has_left_and_the_rest_before() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], None);
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = stranger.local_addr().unwrap();
    let listen = [served.tcp[0].to_string(), busy.to_string()];
    let api = api(
        served.directory.path(),
        &listen.each_ref().map(String::as_str),
        None,
    );
    let failure = Listeners::bind_beside(&api, Some(&served.tcp)).unwrap_err();
    assert_eq!(failure.exit, Exit::Conflict);
    assert!(failure.message.contains(&listen[1]), "{failure}");
    drop(stranger);
    let failure = Listeners::bind_beside(&api, Some(&[])).unwrap_err();
    assert!(failure.message.contains(&listen[0]), "{failure}");
    let listeners = Listeners::bind_beside(&api, Some(&served.tcp)).unwrap();
    assert!(std::net::TcpListener::bind(busy).is_err(), "it is bound already");
    // Of a daemon that does not say where it listens everything may be its own.
    assert!(Listeners::bind_beside(&api, None).is_ok());
    served.stop.cancel();
    served.closed.cancelled().await;
    let server = Server::succeed(&api, listeners).unwrap();
    assert_eq!(server.tcp_addresses(), [served.tcp[0], busy]);
}

#[tokio::test]
async fn a_node_that_nobody_else_runs_does_without_a_listener() {
    let directory = tempfile::tempdir().unwrap();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = stranger.local_addr().unwrap().to_string();
    let api = api(directory.path(), &[&busy], None);
    let listeners = Listeners::bind_beside(&api, None).unwrap();
    let server = Server::succeed(&api, listeners).unwrap();
    assert_eq!(server.tcp_addresses(), []);
    assert!(api.socket.exists());
}

#[test]
fn a_public_address_without_a_token_is_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let failure = Server::bind(&api(directory.path(), &["0.0.0.0:0"], None)).unwrap_err();
    assert_eq!(failure.exit, Exit::Configuration);
    let failure = Server::bind(&api(directory.path(), &["127.0.0.1:0"], Some(" "))).unwrap_err();
    assert!(failure.message.contains("is empty"), "{failure}");
}

/// What the server answers to these bytes, up to the end of the connection.
async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn web_pages_and_garbage_get_nothing() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], None);
    let address = served.tcp[0];
    let rows = [
        (
            "GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            "403",
        ),
        (
            "POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n",
            "403",
        ),
        (
            "GET /api/v1/status HTTP/1.1\r\nHost: localhost:7600\r\nConnection: close\r\n\r\n",
            "200",
        ),
        (
            "GET /api/v1/explain?%zz=%f HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            "400",
        ),
        ("GARBAGE\r\n\r\n", "400"),
    ];
    for (request, status) in rows {
        let answer = raw(address, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
    }
}

#[test]
fn an_empty_filter_means_every_flow() {
    assert!(FlowFilter::default().is_empty());
}
