//! The demo: two pools and a fallback pool, web and DNS, origins that die and come back, and where the traffic goes.
//!
//! `cargo xtask demo` builds and starts it. Everything happens in network namespaces, which go when it ends: by itself,
//! by Ctrl-C, or by a panic.

use lb_tests::check::{SOON, interrupt, is_interrupted, wait_until};
use lb_tests::config::{MONITOR, application, balancer, pool};
use lb_tests::daemon::Daemon;
use lb_tests::lab::{Host, Lab, VIP4};
use lb_tests::load::{self, Load, Report};
use lb_tests::servers::{self, DNS_PORT, HTTP_PORT, Server};
use lb_tests::status::Status;
use std::collections::BTreeMap;
use std::panic;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Origins by name: pool, weight.
const ORIGINS: [(&str, &str, f64); 5] = [
    ("a", "eu", 1.0),
    ("b", "eu", 0.5),
    ("c", "us", 1.0),
    ("d", "us", 0.5),
    ("e", "sorry", 1.0),
];
/// Web requests, and DNS queries, a second.
const RATE: u32 = 300;
/// Requests of each kind that make a table.
const WATCHED: usize = 600;
/// A new flow that goes astray later than this after the verdict counts as misrouted.
const BOUND: Duration = Duration::from_millis(100);
/// Exit codes as `lb` has them, and the shell's for an interrupt.
const NO_PRIVILEGE: u8 = 7;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: the demo needs root: it makes network namespaces and loads a BPF program");
        return ExitCode::from(NO_PRIVILEGE);
    }
    catch_signals();
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // An interrupt unwinds like a panic, so that everything is cleaned up, but is none.
        if !is_interrupted() {
            tell(panic);
        }
    }));
    match panic::catch_unwind(|| Demo::start().play()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if is_interrupted() => {
            println!("\ninterrupted; everything is cleaned up");
            ExitCode::from(INTERRUPTED)
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Lets SIGINT and SIGTERM end the wait that is under way, which unwinds and cleans up.
fn catch_signals() {
    extern "C" fn note(_: libc::c_int) {
        interrupt();
    }
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is safe at any point of any thread.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Dropped from top to bottom: who asks, who balances, who serves, and the namespaces.
struct Demo {
    web: Load,
    names: Load,
    lb: Daemon,
    running: BTreeMap<String, (Server, Server)>,
    begun: Instant,
    number: usize,
    lab: Lab,
}

fn configuration(lab: &Lab) -> String {
    let mut text = MONITOR.to_owned();
    for (suffix, port) in [("", HTTP_PORT), ("-dns", DNS_PORT)] {
        for wanted in ["eu", "us", "sorry"] {
            let members = ORIGINS
                .iter()
                .zip(&lab.origins)
                .filter(|((_, pool, _), _)| *pool == wanted);
            let empty = pool(&format!("{wanted}{suffix}"));
            let full = members.fold(empty, |pool, ((_, _, weight), host)| {
                pool.origin(host, VIP4, port, *weight)
            });
            text += &full.to_string();
        }
    }
    text += &balancer("web", &["eu", "us"], Some("sorry"));
    text += &balancer("names", &["eu-dns", "us-dns"], Some("sorry-dns"));
    text += &application("web", &format!("tcp/{HTTP_PORT}"), VIP4, "web");
    text + &application("names", &format!("udp/{DNS_PORT}"), VIP4, "names")
}

impl Demo {
    fn start() -> Self {
        let begun = Instant::now();
        println!("A client, a node that runs lb, and five origins, each in a network namespace of its own.");
        println!("Pools: eu (a, b), us (c, d), and the fallback pool sorry (e); weights 1.0 and 0.5.");
        println!(
            "Every origin serves HTTP (nginx) and DNS (dnsmasq); each is probed every 0.2 s, two failures count."
        );
        let lab = Lab::routed(ORIGINS.len());
        let running = lab
            .origins
            .iter()
            .map(|host| (host.name.clone(), serve(host)))
            .collect();
        let mut lb = Daemon::start(&lab, &configuration(&lab));
        lb.wait_healthy(&["eu", "us", "sorry", "eu-dns", "us-dns", "sorry-dns"]);
        println!(
            "The client asks {VIP4} for {RATE} web pages and {RATE} names a second, each from a new port."
        );
        let web = Load::start(&lab.client, RATE, load::http((VIP4, HTTP_PORT).into()));
        let names = Load::start(&lab.client, RATE, load::dns((VIP4, DNS_PORT).into()));
        Self {
            lab,
            lb,
            web,
            names,
            running,
            begun,
            number: 0,
        }
    }

    fn play(mut self) {
        self.step("All origins are healthy: eu serves.", "eu", |_| {}, |_| true);
        println!("\n$ lb status\n{}", indent(&self.lb.lb_ok(&["status"])));
        self.step(
            "The servers of a are killed: b takes over.",
            "eu",
            |demo| demo.kill("a"),
            |status| status.health("eu", "a") == "unhealthy" && status.health("eu-dns", "a") == "unhealthy",
        );
        self.step(
            "The servers of b are killed: all of eu is gone, and us takes over.",
            "us",
            |demo| demo.kill("b"),
            |_| true,
        );
        self.step(
            "The servers of c and d are killed: nobody is left but the fallback pool.",
            "sorry",
            |demo| ["c", "d"].into_iter().for_each(|name| demo.kill(name)),
            |_| true,
        );
        self.step(
            "All servers are started again: traffic fails back to eu.",
            "eu",
            |demo| {
                ["a", "b", "c", "d"]
                    .into_iter()
                    .for_each(|name| demo.revive(name))
            },
            |status| {
                ["eu", "us", "eu-dns", "us-dns"]
                    .iter()
                    .all(|pool| status.is_all_healthy(pool))
            },
        );
        let took = self.begun.elapsed().as_secs_f64();
        drop(self);
        println!("\nDone in {took:.0} s; everything is cleaned up.");
    }

    fn kill(&mut self, name: &str) {
        if let Some((web, names)) = self.running.remove(name) {
            web.kill();
            names.kill();
        }
    }

    fn revive(&mut self, name: &str) {
        let host = self
            .lab
            .origins
            .iter()
            .find(|host| host.name == name)
            .expect("every name is a host");
        self.running.insert(name.to_owned(), serve(host));
    }

    /// Does something, waits until lb has seen it and `pool` serves, and shows where the traffic goes then.
    fn step(&mut self, title: &str, pool: &str, act: impl FnOnce(&mut Self), seen: impl Fn(&Status) -> bool) {
        self.number += 1;
        println!("\n{}. {title}", self.number);
        let from = Instant::now();
        act(self);
        let acted = Instant::now();
        let dns_pool = format!("{pool}-dns");
        let status = self.lb.wait(&format!("{pool} serves"), |status| {
            let serves = |application, pool| status.pool_in_use(application) == Some(pool);
            seen(status) && serves("web", pool) && serves("names", &dns_pool)
        });
        let verdict = Instant::now();
        let settled = verdict + BOUND;
        wait_until(SOON, "enough was asked", || {
            let enough = |load: &Load| load.so_far().since(settled).total() >= WATCHED;
            (enough(&self.web) && enough(&self.names)).then_some(())
        });
        let (web, names) = (self.web.so_far().since(from), self.names.so_far().since(from));
        println!(
            "   lb knew after {:.2} s; until then {} of {} requests and {} of {} queries failed",
            (verdict - acted).as_secs_f64(),
            web.before(settled).failures().len(),
            web.before(settled).total(),
            names.before(settled).failures().len(),
            names.before(settled).total(),
        );
        self.show(pool, &status, &web.since(settled), &names.since(settled));
    }

    fn show(&self, serving: &str, status: &Status, web: &Report, names: &Report) {
        println!("   origin      health       requests   share    queries   share");
        for (origin, pool, _) in ORIGINS {
            let count = |report: &Report| report.counts().get(origin).copied().unwrap_or(0);
            println!(
                "   {:<11} {:<11} {:>9} {:>5.1} % {:>10} {:>5.1} %",
                format!("{pool}/{origin}"),
                status.health(pool, origin),
                count(web),
                web.share(origin) * 100.0,
                count(names),
                names.share(origin) * 100.0,
            );
        }
        let right = |origin: &str| {
            ORIGINS.iter().any(|(name, pool, _)| {
                *name == origin && *pool == serving && status.health(pool, origin) != "unhealthy"
            })
        };
        let misrouted = |report: &Report| -> usize {
            let counts = report.counts();
            counts
                .iter()
                .filter(|(origin, _)| !right(origin))
                .map(|(_, count)| count)
                .sum()
        };
        println!(
            "   lost since: {} requests, {} queries; misrouted: {} requests, {} queries",
            web.failures().len(),
            names.failures().len(),
            misrouted(web),
            misrouted(names)
        );
    }
}

fn serve(host: &Host) -> (Server, Server) {
    (servers::nginx(host), servers::dnsmasq(host))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
