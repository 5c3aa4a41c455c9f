//! Sockets of the API, and serving them.

use super::connections::{Clients, Impatient, Place};
use super::guard::Guard;
use super::routes::guarded;
use super::{Handle, Token};
use crate::cli::{Exit, Failure};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lb_core::model::Api;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at a time on each listener: more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// Of them one client may have so many on TCP: further ones are closed at once.
const MAX_PER_CLIENT: usize = 64;

/// From so many connections on each ends after the answer instead of waiting for the client's next request.
const CROWDED: usize = MAX_CONNECTIONS / 2;

/// How long an answer may wait for a client on TCP to take some of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long requests that are being answered may go on when the daemon stops.
const DRAIN: Duration = Duration::from_secs(2);

/// The bound sockets. The socket file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    unix: UnixListener,
    file: SocketFile,
    tcp: Vec<(TcpListener, Guard)>,
}

/// TCP listeners, bound while another daemon has the rest of the addresses.
#[derive(Debug)]
pub struct Listeners(Vec<(SocketAddr, Guard, Option<TcpListener>)>);

impl Listeners {
    /// Binds the listeners that the configuration asks for, but not those that a daemon which is to leave still has: it
    /// listens on `held`; `None`: it does not say where. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_beside(api: &Api, held: Option<&[SocketAddr]>) -> Result<Self, Failure> {
        let token = token(api)?;
        let mut listeners = Vec::new();
        for &address in &api.listen {
            let guard = match &token {
                Some(token) => Guard::Bearer(Arc::clone(token)),
                None if address.ip().is_loopback() => Guard::Local,
                None => return Err(no_token(address)),
            };
            let listener = match listen(address) {
                Ok(listener) => Some(listener),
                Err(error)
                    if error.kind() == ErrorKind::AddrInUse
                        && held.is_none_or(|held| held.iter().any(|held| overlap(*held, address))) =>
                {
                    None
                }
                Err(error) => return Err(cannot_listen(address, &error)),
            };
            listeners.push((address, guard, listener));
        }
        Ok(Self(listeners))
    }
}

impl Server {
    /// Binds everything that the configuration asks for. Needs a tokio runtime.
    ///
    /// # Errors
    /// Which address cannot be used and why: another daemon answers on the socket ([`Exit::Conflict`]), no privilege
    /// ([`Exit::Privilege`]), an address that is in use, a token file that cannot be read.
    pub fn bind(api: &Api) -> Result<Self, Failure> {
        let (unix, file) = bind_unix(&api.socket)?;
        let Listeners(listeners) = Listeners::bind_beside(api, Some(&[]))?;
        let bound = |(_, guard, listener): (_, Guard, Option<TcpListener>)| Some((listener?, guard));
        Ok(Self {
            unix,
            file,
            tcp: listeners.into_iter().filter_map(bound).collect(),
        })
    }

    /// Binds what a daemon that has left had. Without a listener on TCP it goes on: by now nobody else runs the node.
    ///
    /// # Errors
    /// As [`Self::bind`], for the socket.
    pub fn succeed(api: &Api, Listeners(listeners): Listeners) -> Result<Self, Failure> {
        let (unix, file) = bind_unix(&api.socket)?;
        let mut tcp = Vec::new();
        for (address, guard, listener) in listeners {
            match listener.map_or_else(|| listen(address), Ok) {
                Ok(listener) => tcp.push((listener, guard)),
                Err(error) => tracing::error!("{}: going on without", cannot_listen(address, &error)),
            }
        }
        Ok(Self { unix, file, tcp })
    }

    /// Addresses of the TCP listeners, in the order of the configuration.
    #[must_use]
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.tcp
            .iter()
            .filter_map(|(listener, _)| listener.local_addr().ok())
            .collect()
    }

    /// Serves until `stop` is cancelled, then lets running requests end. Cancels `closed` once another process may have the
    /// addresses.
    pub async fn serve(self, handle: Handle, stop: CancellationToken, closed: CancellationToken) {
        let (listeners, tasks) = (TaskTracker::new(), TaskTracker::new());
        let unix = (Listener::Unix(self.unix), Guard::Trusted);
        let tcp = self
            .tcp
            .into_iter()
            .map(|(listener, guard)| (Listener::Tcp(listener), guard));
        for (listener, guard) in std::iter::once(unix).chain(tcp) {
            let router = guarded(handle.clone(), guard);
            listeners.spawn(accept(listener, router, stop.clone(), tasks.clone()));
        }
        stop.cancelled().await;
        listeners.close();
        listeners.wait().await;
        drop(self.file);
        closed.cancel();
        tasks.close();
        let _ = tokio::time::timeout(DRAIN, tasks.wait()).await;
    }
}

/// The token that clients on TCP must show.
fn token(api: &Api) -> Result<Option<Arc<Token>>, Failure> {
    match &api.token_file {
        Some(path) if !api.listen.is_empty() => {
            let token = Token::read(path).map_err(|message| Failure::new(Exit::Failed, message))?;
            Ok(Some(Arc::new(token)))
        }
        Some(_) | None => Ok(None),
    }
}

fn no_token(address: SocketAddr) -> Failure {
    let message = format!("the API does not listen on {address} without `api.token_file`");
    Failure::new(Exit::Configuration, message)
}

/// Either kind of socket.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

async fn accept(listener: Listener, router: Router, stop: CancellationToken, tasks: TaskTracker) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let clients = Clients::default();
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => return,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept(&clients) => accepted,
        };
        match accepted {
            Ok(Some((stream, place))) => {
                let keep_alive = slots.available_permits() >= MAX_CONNECTIONS - CROWDED;
                let (router, stop) = (router.clone(), stop.clone());
                tasks.spawn(async move {
                    connection(stream, router, keep_alive, stop).await;
                    drop((slot, place));
                });
            }
            Ok(None) => {}
            Err(error) => {
                // Out of descriptors, or a client that left early: neither gets better by trying at once.
                tracing::warn!(%error, "API: cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Listener {
    /// The next connection; `None`: its client has enough of them.
    async fn accept(&self, clients: &Clients) -> std::io::Result<Option<(Box<dyn Stream>, Option<Place>)>> {
        Ok(match self {
            // Who may open it is let do everything.
            Self::Unix(listener) => Some((Box::new(listener.accept().await?.0), None)),
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let place = clients.enter(peer.ip(), MAX_PER_CLIENT);
                if place.is_none() {
                    tracing::debug!(client = %peer.ip(), "API: too many connections of one client");
                }
                place.map(|place| {
                    let stream: Box<dyn Stream> = Box::new(Impatient::new(stream, WRITE_TIMEOUT));
                    (stream, Some(place))
                })
            }
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connection(stream: Box<dyn Stream>, router: Router, keep_alive: bool, stop: CancellationToken) {
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(keep_alive)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "API: connection ended");
    }
}

/// A socket file that this process made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A daemon that started since may have put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::AddrInUse => Exit::Conflict,
        ErrorKind::PermissionDenied => Exit::Privilege,
        _ => Exit::Failed,
    };
    Failure::new(
        exit,
        format!("the API cannot listen on {address} (`api.listen`): {error}"),
    )
}

/// Whether a listener on the one address keeps others from the other one.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (any || one.ip() == other.ip())
}

/// Binds the socket with mode 0600. Between bind and listen nobody can connect, so there is no moment with another mode.
fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), Failure> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .map_err(|error| unix_failure(path, &format!("cannot create {}", directory.display()), &error))?;
    }
    remove_stale(path)?;
    let bind = || {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let file = fs::symlink_metadata(path)?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok((
            listener,
            SocketFile {
                path: path.to_owned(),
                identity: (file.dev(), file.ino()),
            },
        ))
    };
    bind().map_err(|error| unix_failure(path, "cannot bind", &error))
}

/// Removes the file of a daemon that is gone; refuses when one answers or when the file is something else.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unix_failure(path, "cannot look at the file", &error)),
    };
    let conflict = |message: String| Err(Failure::new(Exit::Conflict, message));
    if !file.file_type().is_socket() {
        return conflict(format!(
            "{} exists and is not a socket: set `api.socket` to another path",
            path.display()
        ));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| unix_failure(path, "cannot remove the stale file", &error))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unix_failure(path, "cannot find out who uses the socket", &error)),
        Ok(_) => conflict(format!(
            "another daemon answers on {}: stop it, or set `node.name` and `api.socket` to run two",
            path.display()
        )),
    }
}

fn unix_failure(path: &Path, action: &str, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Exit::Privilege,
        ErrorKind::AddrInUse => Exit::Conflict,
        _ => Exit::Failed,
    };
    Failure::new(
        exit,
        format!("socket {} (`api.socket`): {action}: {error}", path.display()),
    )
}
