//! Real servers in an origin's namespace. Each says which origin it is, listens on IPv4 and IPv6, and ends when dropped.

use crate::check::{SOON, wait_until};
use crate::dns;
use crate::gate;
use crate::lab::Host;
use crate::netns::Netns;
use crate::process::Process;
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub const HTTP_PORT: u16 = 80;
pub const HTTPS_PORT: u16 = 443;
pub const DNS_PORT: u16 = 53;
pub const IPERF_PORT: u16 = 5201;
pub const SMTP_PORT: u16 = 25;
pub const ECHO_PORT: u16 = 7;

/// A server that is one process.
pub struct Server(Process);

impl Server {
    /// Kills it: its port refuses at once.
    pub fn kill(mut self) {
        self.0.kill();
    }

    fn start(host: &Host, title: &str, port: u16, command: &mut Command) -> Self {
        let local = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        Self::start_on(host, title, &local.map(|ip| (ip, port).into()), command)
    }

    /// Starts it, and waits until it listens on all these.
    fn start_on(host: &Host, title: &str, sockets: &[SocketAddr], command: &mut Command) -> Self {
        let log = host.folder.join(format!("{title}.log"));
        let mut process = Process::start(
            &host.namespace,
            &format!("{title} of {}", host.name),
            command,
            &log,
        );
        wait_until(SOON, &format!("{title} of {} listens", host.name), || {
            assert!(
                process.ended().is_none(),
                "{title} of {} ended: {}",
                host.name,
                process.log_tail()
            );
            let connect = |socket: &SocketAddr| TcpStream::connect(socket).is_ok();
            host.namespace.enter(|| sockets.iter().all(connect)).then_some(())
        });
        Self(process)
    }
}

/// nginx: `/` answers with the origin's name (also in the header `X-Origin`), `/source` with the client's address as the
/// origin sees it, `/files/` is [`files`], and what is PUT
/// to `/upload/` lands in [`uploads`].
#[must_use]
pub fn nginx(host: &Host) -> Server {
    let folder = host.folder.join("nginx");
    for part in ["files", "upload", "tmp"] {
        fs::create_dir_all(folder.join(part)).expect("a folder can be made in the lab's own");
    }
    let (name, prefix) = (&host.name, folder.display());
    let config = format!(
        r#"user root;
daemon off;
# One process: one pid to kill.
master_process off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {prefix}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {prefix}/tmp/body;
    proxy_temp_path {prefix}/tmp/proxy;
    fastcgi_temp_path {prefix}/tmp/fastcgi;
    uwsgi_temp_path {prefix}/tmp/uwsgi;
    scgi_temp_path {prefix}/tmp/scgi;
    sendfile on;
    keepalive_requests 100000000;
    keepalive_timeout 3600;
    default_type text/plain;
    server {{
        listen {HTTP_PORT} backlog=8192;
        listen [::]:{HTTP_PORT} backlog=8192 ipv6only=on;
        add_header X-Origin {name};
        location / {{ return 200 "{name}\n"; }}
        location /source {{ return 200 "$remote_addr\n"; }}
        location /files/ {{ alias {prefix}/files/; }}
        location /upload/ {{ alias {prefix}/upload/; dav_methods PUT; client_body_in_file_only off; }}
    }}
}}
"#
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config).expect("the configuration can be written");
    let mut command = Command::new("nginx");
    command
        .args(["-e", "stderr", "-p"])
        .arg(&folder)
        .arg("-c")
        .arg(&path);
    Server::start(host, "nginx", HTTP_PORT, &mut command)
}

/// A web server on port 443 with a certificate that nobody trusts.
#[must_use]
pub fn https(host: &Host) -> Server {
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|file| host.folder.join(file));
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=origin.example",
        "-keyout",
    ])
    .arg(&key)
    .arg("-out")
    .arg(&certificate);
    let made = make.output().expect("openssl can be run");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-accept", "443", "-www", "-quiet", "-key"])
        .arg(&key)
        .arg("-cert")
        .arg(&certificate);
    Server::start(host, "openssl", HTTPS_PORT, &mut command)
}

/// The folder that nginx of `host` serves as `/files/`.
#[must_use]
pub fn files(host: &Host) -> PathBuf {
    host.folder.join("nginx/files")
}

/// The folder that takes what is PUT to `/upload/`.
#[must_use]
pub fn uploads(host: &Host) -> PathBuf {
    host.folder.join("nginx/upload")
}

/// dnsmasq: `origin.test TXT` is the origin's name, `origin.test A` its address.
#[must_use]
pub fn dnsmasq(host: &Host) -> Server {
    let mut command = Command::new("dnsmasq");
    command.args([
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--keep-in-foreground",
        "--user=root",
    ]);
    command
        .args(["--log-facility=-", "--cache-size=0"])
        .arg(format!("--port={DNS_PORT}"));
    command.arg(format!(
        "--pid-file={}",
        host.folder.join("dnsmasq.pid").display()
    ));
    command.arg(format!("--address=/{}/{}", dns::NAME, host.v4));
    command.arg(format!("--txt-record={},{}", dns::NAME, host.name));
    Server::start(host, "dnsmasq", DNS_PORT, &mut command)
}

/// A name server whose names change.
pub struct NameServer {
    server: Server,
    hosts: PathBuf,
}

/// How long answers of [`name_server`] hold, in seconds.
pub const NAME_TTL: u32 = 1;

/// dnsmasq without a name; what it knows nothing of does not exist.
#[must_use]
pub fn name_server(host: &Host) -> NameServer {
    let hosts = host.folder.join("names");
    fs::write(&hosts, "").expect("a file can be made in the lab's own folder");
    let mut command = Command::new("dnsmasq");
    command.args([
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--keep-in-foreground",
        "--user=root",
        "--log-facility=-",
        "--local=/test/",
    ]);
    command
        .arg(format!("--port={DNS_PORT}"))
        .arg(format!("--local-ttl={NAME_TTL}"))
        .arg(format!("--addn-hosts={}", hosts.display()));
    let pid = host.folder.join("names.pid");
    command.arg(format!("--pid-file={}", pid.display()));
    NameServer {
        server: Server::start(host, "dnsmasq of names", DNS_PORT, &mut command),
        hosts,
    }
}

impl NameServer {
    /// From now on `name` has exactly these addresses, and no other name has any.
    pub fn say(&self, name: &str, addresses: &[IpAddr]) {
        let line = |address: &IpAddr| format!("{address} {name}\n");
        let text: String = addresses.iter().map(line).collect();
        fs::write(&self.hosts, text).expect("a file in the lab's own folder can be written");
        self.server.0.signal(Signal::HUP);
    }

    /// Kills it: its port refuses at once.
    pub fn kill(self) {
        self.server.kill();
    }
}

/// A mail server, which keeps nothing.
#[must_use]
pub fn smtp(host: &Host) -> Server {
    let mut command = Command::new(gate::python());
    command.args([
        "-m",
        "aiosmtpd",
        "--nosetuid",
        "--class",
        "aiosmtpd.handlers.Sink",
    ]);
    // One address is all that it listens on.
    let socket = SocketAddr::from((host.v4, SMTP_PORT));
    command.arg("--listen").arg(socket.to_string());
    Server::start_on(host, "aiosmtpd", &[socket], &mut command)
}

/// An iperf3 server.
#[must_use]
pub fn iperf3(host: &Host) -> Server {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--port", &IPERF_PORT.to_string()]);
    Server::start(host, "iperf3", IPERF_PORT, &mut command)
}

/// An echo server of our own: TCP connections are told the origin's name and then get every line back with the name
/// before it; datagrams get the name.
pub struct EchoServer {
    state: Arc<EchoState>,
    threads: Vec<JoinHandle<()>>,
}

struct EchoState {
    name: String,
    stop: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// How often the echo server looks whether it should stop.
const LOOK: Duration = Duration::from_millis(5);

/// Starts an echo server on [`ECHO_PORT`] of an origin.
#[must_use]
pub fn echo(host: &Host) -> EchoServer {
    EchoServer::start(&host.namespace, &host.name, ECHO_PORT)
}

impl EchoServer {
    /// Starts one that calls itself `name`.
    ///
    /// # Panics
    /// The port is taken.
    #[must_use]
    pub fn start(namespace: &Netns, name: &str, port: u16) -> Self {
        // Takes IPv4 as well.
        Self::start_at(namespace, name, (Ipv6Addr::UNSPECIFIED, port).into())
    }

    /// Starts one on one address: datagrams are answered from there.
    ///
    /// # Panics
    /// The port is taken.
    #[must_use]
    pub fn start_at(namespace: &Netns, name: &str, at: SocketAddr) -> Self {
        let state = Arc::new(EchoState {
            name: name.to_owned(),
            stop: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let (listener, socket) = namespace.enter(|| {
            (
                TcpListener::bind(at).expect("the echo port is free"),
                UdpSocket::bind(at).expect("the echo port is free"),
            )
        });
        listener
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        socket
            .set_read_timeout(Some(LOOK))
            .expect("a socket can have a timeout");
        let (tcp, udp) = (Arc::clone(&state), Arc::clone(&state));
        let threads = vec![
            thread::spawn(move || tcp.accept(&listener)),
            thread::spawn(move || udp.answer(&socket)),
        ];
        Self { state, threads }
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.open().len()
    }
}

impl EchoState {
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while !self.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, client)) => {
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_nodelay(true);
                    if let Ok(kept) = stream.try_clone() {
                        self.open().push(kept);
                        let this = Arc::clone(&self);
                        thread::spawn(move || {
                            let _ = this.serve(stream);
                            this.open()
                                .retain(|open| open.peer_addr().is_ok_and(|peer| peer != client));
                        });
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK),
                Err(_) => {}
            }
        }
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        writeln!(stream, "{}", self.name)?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while lines.read_line(&mut line)? != 0 {
            stream.write_all(format!("{} {line}", self.name).as_bytes())?;
            line.clear();
        }
        Ok(())
    }

    fn answer(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(self.name.as_bytes(), client);
            }
        }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for stream in self.state.open().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_all_served, assert_share};
    use crate::flows::{EchoFlow, connect_from};
    use crate::lab::Lab;
    use crate::{http, load, needs_root};

    /// Servers and clients must be beyond doubt before lb stands between them.
    #[test]
    fn every_server_says_who_it_is_to_every_client() {
        needs_root!();
        let lab = Lab::routed(2);
        lab.forward_without_lb();
        let [a, b] = &lab.origins[..] else {
            panic!("two origins were asked for")
        };
        let _servers = (nginx(a), dnsmasq(a), nginx(b), echo(b), iperf3(b));
        for ip in [IpAddr::from(a.v4), a.v6.into()] {
            let web = load::run(&lab.client, 300, 4, load::http((ip, HTTP_PORT).into()));
            assert_all_served(&web);
            assert_share(&web, "a", 1.0, 0.0);
            let names = load::run(&lab.client, 300, 4, load::dns((ip, DNS_PORT).into()));
            assert_all_served(&names);
            assert_share(&names, "a", 1.0, 0.0);
        }
        for ip in [IpAddr::from(b.v4), b.v6.into()] {
            let mut flow = lab
                .client
                .enter(|| EchoFlow::open((ip, ECHO_PORT).into()))
                .unwrap();
            flow.ping().unwrap();
            flow.ping().unwrap();
            assert_eq!(flow.origin(), "b");
            let stream = lab
                .client
                .enter(|| connect_from((lab.client_address(ip), 12_345).into(), (ip, HTTP_PORT).into()))
                .unwrap();
            assert_eq!(stream.local_addr().unwrap().port(), 12_345);
            assert_eq!(http::get_over(stream, "/").unwrap().body, "b\n");
        }
    }

    #[test]
    fn a_killed_server_refuses_at_once() {
        needs_root!();
        let lab = Lab::routed(1);
        lab.forward_without_lb();
        let a = &lab.origins[0];
        let server = nginx(a);
        let target = SocketAddr::from((a.v4, HTTP_PORT));
        assert!(lab.client_reaches(target));
        server.kill();
        let report = load::run(&lab.client, 5, 1, load::http(target));
        assert_eq!(report.failures().len(), 5, "{}", report.explain_failures());
        assert!(
            report
                .samples()
                .iter()
                .all(|sample| sample.took < Duration::from_secs(1))
        );
    }
}
