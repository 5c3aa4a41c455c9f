//! What the API has acknowledged outlives every crash.

use lb_tests::check::{SOON, wait_until};
use lb_tests::daemon::Daemon;
use lb_tests::gate::number;
use lb_tests::lab::Lab;
use lb_tests::needs_root;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use std::{io, thread};

const MONITORS: &str = "/client/v4/accounts/0123456789abcdef0123456789abcdef/load_balancers/monitors";
const WRITERS: usize = 4;

/// A connection to the API that stays open.
pub struct Api(BufReader<UnixStream>);

impl Api {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Status and result.
    pub fn ask(&mut self, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap_or(0);
            } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            } else if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice::<Value>(&body)?["result"].clone()))
    }
}

/// What a writer knows of one of its monitors, which it tells by the description.
#[derive(Debug)]
struct Known {
    id: Option<String>,
    /// The version that is there for sure; `None`: it is not.
    acknowledged: Option<usize>,
    /// A version that was asked for without an answer.
    in_flight: Option<Option<usize>>,
}

/// One of the clients.
struct Writer {
    number: usize,
    state: u64,
    monitors: BTreeMap<usize, Known>,
}

impl Writer {
    fn random(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.state >> 33) as usize % below
    }

    fn description(&self, monitor: usize, version: usize) -> String {
        format!("{}/{monitor}/{version}", self.number)
    }

    /// Changes something; whether it was acknowledged.
    fn write(&mut self, api: &mut Api) -> io::Result<()> {
        let there: Vec<usize> = self
            .monitors
            .iter()
            .filter(|(_, known)| known.acknowledged.is_some())
            .map(|(monitor, _)| *monitor)
            .collect();
        let chosen = match there.len() {
            0 => None,
            count => there.get(self.random(count * 2)).copied(),
        };
        let (monitor, wanted) = match chosen {
            // Now and then one goes.
            Some(monitor) if self.random(3) == 0 => (monitor, None),
            Some(monitor) => {
                let version = self.monitors[&monitor]
                    .acknowledged
                    .map_or(1, |version| version + 1);
                (monitor, Some(version))
            }
            None => (self.monitors.len(), Some(1)),
        };
        let known = self.monitors.entry(monitor).or_insert(Known {
            id: None,
            acknowledged: None,
            in_flight: None,
        });
        known.in_flight = Some(wanted);
        let id = known.id.clone();
        let body =
            wanted.map(|version| json!({"type": "tcp", "description": self.description(monitor, version)}));
        let (status, result) = match (&id, body) {
            (None, Some(body)) => api.ask("POST", MONITORS, &body)?,
            (Some(id), Some(body)) => api.ask("PATCH", &format!("{MONITORS}/{id}"), &body)?,
            (Some(id), None) => api.ask("DELETE", &format!("{MONITORS}/{id}"), &json!({}))?,
            (None, None) => unreachable!("only what is there goes"),
        };
        // A daemon that is killed may still get the answer "stopping" out.
        if status != 200 {
            return Err(io::Error::other(format!("{status}")));
        }
        let known = self.monitors.get_mut(&monitor).expect("it was put there");
        known.id = result["id"].as_str().map(str::to_owned);
        (known.acknowledged, known.in_flight) = (wanted, None);
        if wanted.is_none() {
            known.id = None;
        }
        Ok(())
    }

    /// Compares what is there with what must be, and takes note of what became of what was in flight.
    fn verify(&mut self, there: &BTreeMap<(usize, usize), (usize, String)>) {
        for (monitor, known) in &mut self.monitors {
            let found = there.get(&(self.number, *monitor));
            let version = found.map(|(version, _)| *version);
            assert!(
                version == known.acknowledged || known.in_flight == Some(version),
                "monitor {}/{monitor} has version {version:?} after a crash: {known:?}",
                self.number
            );
            (known.acknowledged, known.in_flight) = (version, None);
            known.id = found.map(|(_, id)| id.clone());
        }
        let mine = there.keys().filter(|(writer, _)| *writer == self.number);
        for (_, monitor) in mine {
            assert!(
                self.monitors.contains_key(monitor),
                "nobody has asked for {monitor}"
            );
        }
    }
}

/// All monitors: writer and number, and then version and id.
fn listed(socket: &Path) -> BTreeMap<(usize, usize), (usize, String)> {
    let (status, list) = Api::connect(socket)
        .unwrap()
        .ask("GET", MONITORS, &json!({}))
        .unwrap();
    assert_eq!(status, 200);
    let mut there = BTreeMap::new();
    for monitor in list.as_array().unwrap() {
        let parts: Vec<usize> = monitor["description"]
            .as_str()
            .unwrap()
            .split('/')
            .map(|part| part.parse().unwrap())
            .collect();
        let id = monitor["id"].as_str().unwrap().to_owned();
        let before = there.insert((parts[0], parts[1]), (parts[2], id));
        assert!(before.is_none(), "{parts:?} is there twice");
    }
    there
}

#[test]
fn every_acknowledged_write_and_no_other_outlives_kill_9() {
    needs_root!();
    let lab = Lab::routed(1);
    let config = "[pools.eu.origins.a]\naddress = \"10.0.2.11\"\nport = 80\n";
    let mut lb = Daemon::start(&lab, config);
    let wanted = number("LB_TEST_API_WRITES", 1000);
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    println!("seed {seed}");
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer {
            number,
            state: seed.wrapping_add(number as u64 * 0x9e37_79b9),
            monitors: BTreeMap::new(),
        })
        .collect();
    let done = AtomicUsize::new(0);
    let (mut kills, mut state) = (0, seed);
    while done.load(Ordering::Relaxed) < wanted {
        let (socket, over): (PathBuf, AtomicBool) = (lb.socket(), AtomicBool::new(false));
        let begun = done.load(Ordering::Relaxed);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // A crash in the middle of some write, after another number of them each time.
        let until = begun + 20 + (state >> 33) as usize % (wanted / 8).max(1);
        thread::scope(|scope| {
            for writer in &mut writers {
                let (socket, over, done) = (&socket, &over, &done);
                scope.spawn(move || {
                    let mut api = Api::connect(socket).unwrap();
                    while !over.load(Ordering::Relaxed) && writer.write(&mut api).is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            wait_until(SOON.saturating_mul(6), "writes are made", || {
                (done.load(Ordering::Relaxed) >= until.min(wanted)).then_some(())
            });
            lb.kill();
            over.store(true, Ordering::Relaxed);
        });
        kills += 1;
        lb.run();
        let there = listed(&lb.socket());
        for writer in &mut writers {
            writer.verify(&there);
        }
        let status = lb.status();
        assert!(
            status.json()["node"].get("store_problem").is_none(),
            "{}",
            status.json()["node"]
        );
    }
    println!(
        "{} writes, {kills} crashes, {} monitors at the end",
        done.load(Ordering::Relaxed),
        listed(&lb.socket()).len()
    );
}
