//! What the API has acknowledged outlives every crash.

use lb_tests::check::{SOON, wait_until};
use lb_tests::daemon::Daemon;
use lb_tests::gate::number;
use lb_tests::lab::Lab;
use lb_tests::needs_root;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use std::{io, thread};

const BASE: &str = "/client/v4/accounts/0123456789abcdef0123456789abcdef/load_balancers";
const ZONE: &str = "/client/v4/zones/0123456789abcdef0123456789abcdef";
const WRITERS: usize = 4;
/// Objects of each kind that a writer has at a time.
const MOST: usize = 4;

/// What objects are, each with those that it refers to before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Monitor,
    Group,
    Pool,
    Balancer,
    Application,
}

const KINDS: [Kind; 5] = [
    Kind::Monitor,
    Kind::Group,
    Kind::Pool,
    Kind::Balancer,
    Kind::Application,
];

impl Kind {
    fn path(self) -> String {
        match self {
            Self::Monitor => format!("{BASE}/monitors"),
            Self::Group => format!("{BASE}/monitor_groups"),
            Self::Pool => format!("{BASE}/pools"),
            Self::Balancer => format!("{ZONE}/load_balancers"),
            Self::Application => format!("{ZONE}/spectrum/apps"),
        }
    }

    /// The kinds of which an object of this one needs one.
    fn needs(self) -> &'static [Kind] {
        match self {
            Self::Monitor => &[],
            Self::Group => &[Self::Monitor],
            Self::Pool => &[Self::Monitor, Self::Group],
            Self::Balancer => &[Self::Pool],
            Self::Application => &[Self::Balancer],
        }
    }
}

/// Writer, kind and number: what an object is told by, whatever its id is.
type Key = (usize, Kind, usize);

fn name((writer, kind, number): Key) -> String {
    format!("{kind:?}-{writer}-{number}").to_lowercase()
}

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
        let (status, mut answer) = self.exchange(method, path, body)?;
        Ok((status, answer["result"].take()))
    }

    /// Status and the whole answer.
    pub fn exchange(&mut self, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
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
        Ok((status, serde_json::from_slice(&body)?))
    }
}

/// What a writer knows of one of its objects.
#[derive(Debug)]
struct Known {
    id: Option<String>,
    /// The version that is there for sure; `None`: it is not.
    acknowledged: Option<usize>,
    /// A version that was asked for without an answer.
    in_flight: Option<Option<usize>>,
    /// The object that it refers to.
    target: Option<(Kind, usize)>,
}

/// One of the clients.
struct Writer {
    number: usize,
    state: u64,
    objects: BTreeMap<(Kind, usize), Known>,
    /// Writes by method.
    done: BTreeMap<(Kind, &'static str), usize>,
}

impl Writer {
    fn random(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.state >> 33) as usize % below
    }

    /// The numbers of the objects of a kind that are there.
    fn there(&self, kind: Kind) -> Vec<usize> {
        let there = self
            .objects
            .iter()
            .filter(|((other, _), known)| *other == kind && known.acknowledged.is_some());
        there.map(|((_, number), _)| *number).collect()
    }

    /// The fields by which a version is told.
    fn version(&self, (kind, number): (Kind, usize), version: usize) -> Value {
        match kind {
            Kind::Application => json!({"limits": {"new_flows_per_second": version}}),
            _ => json!({"description": format!("{}/{number}/{version}", self.number)}),
        }
    }

    /// A whole object.
    fn body(&self, (kind, number): (Kind, usize), version: usize, target: Option<(Kind, usize)>) -> Value {
        let id = target.and_then(|target| self.objects.get(&target)?.id.clone());
        let own = name((self.number, kind, number));
        let mut body = match kind {
            Kind::Monitor => json!({"type": "tcp"}),
            Kind::Group => json!({"members": [{"monitor_id": id}]}),
            Kind::Pool => {
                let origins = json!([{"name": "a", "address": "10.0.2.11", "port": 80}]);
                match target {
                    Some((Kind::Group, _)) => json!({"name": own, "origins": origins, "monitor_group": id}),
                    _ => json!({"name": own, "origins": origins, "monitor": id}),
                }
            }
            Kind::Balancer => json!({"name": own, "default_pools": [id], "fallback_pool": id}),
            Kind::Application => {
                let balancer = target.map(|(kind, number)| name((self.number, kind, number)));
                json!({
                    "protocol": format!("tcp/{}", 10_000 + self.number * 10_000 + number),
                    "dns": {"name": own, "type": "ADDRESS"},
                    "edge_ips": {"type": "static", "ips": ["203.0.113.10"]},
                    "origin_dns": {"name": balancer},
                })
            }
        };
        let fields = body.as_object_mut().expect("it is one");
        fields.extend(
            self.version((kind, number), version)
                .as_object()
                .cloned()
                .unwrap_or_default(),
        );
        body
    }

    /// Something that is there, or else what it must refer to and is not.
    fn create(&mut self, mut kind: Kind) -> ((Kind, usize), Option<(Kind, usize)>) {
        loop {
            let needs = kind.needs();
            let number = self.objects.keys().filter(|(other, _)| *other == kind).count();
            if needs.is_empty() {
                return ((kind, number), None);
            }
            let needed = needs[self.random(needs.len())];
            let there = self.there(needed);
            match there.len() {
                0 => kind = needed,
                count => {
                    let target = there[self.random(count)];
                    return ((kind, number), Some((needed, target)));
                }
            }
        }
    }

    /// Changes something; whether it was acknowledged or refused.
    fn write(&mut self, api: &mut Api) -> io::Result<bool> {
        let kind = KINDS[self.random(KINDS.len())];
        let there = self.there(kind);
        let is_new = there.is_empty() || (there.len() < MOST && self.random(2) == 0);
        let (object, method, wanted) = match is_new {
            true => {
                let (object, target) = self.create(kind);
                let unknown = Known {
                    id: None,
                    acknowledged: None,
                    in_flight: None,
                    target,
                };
                self.objects.insert(object, unknown);
                (object, "POST", Some(1))
            }
            false => {
                let object = (kind, there[self.random(there.len())]);
                let next = self.objects[&object].acknowledged.map(|version| version + 1);
                match self.random(4) {
                    0 | 1 => (object, "DELETE", None),
                    2 => (object, "PUT", next),
                    _ => (object, "PATCH", next),
                }
            }
        };
        let body = match (wanted, method) {
            (None, _) => json!({}),
            (Some(version), "PATCH") => self.version(object, version),
            (Some(version), _) => self.body(object, version, self.objects[&object].target),
        };
        let known = self.objects.get_mut(&object).expect("it was put there");
        known.in_flight = Some(wanted);
        let path = match &known.id {
            Some(id) => format!("{}/{id}", object.0.path()),
            None => object.0.path(),
        };
        let (status, result) = api.ask(method, &path, &body)?;
        let known = self.objects.get_mut(&object).expect("it was put there");
        match (status, method) {
            (200, _) => {
                known.id = wanted.and(result["id"].as_str().map(str::to_owned));
                (known.acknowledged, known.in_flight) = (wanted, None);
                *self.done.entry((object.0, method)).or_default() += 1;
                Ok(true)
            }
            // Others refer to it.
            (412, "DELETE") => {
                known.in_flight = None;
                Ok(false)
            }
            // A daemon that is killed may still get the answer "stopping" out.
            (503, _) => Err(io::Error::other("it stops")),
            (status, _) => panic!("{method} {path} {body}: {status}"),
        }
    }

    /// Compares what is there with what must be, and takes note of what became of what was in flight.
    fn verify(&mut self, there: &BTreeMap<Key, (usize, String)>) {
        for ((kind, number), known) in &mut self.objects {
            let found = there.get(&(self.number, *kind, *number));
            let version = found.map(|(version, _)| *version);
            assert!(
                version == known.acknowledged || known.in_flight == Some(version),
                "{} has version {version:?} after a crash: {known:?}",
                name((self.number, *kind, *number))
            );
            (known.acknowledged, known.in_flight) = (version, None);
            known.id = found.map(|(_, id)| id.clone());
        }
        let mine = there.keys().filter(|(writer, _, _)| *writer == self.number);
        for (_, kind, number) in mine {
            let known = self.objects.contains_key(&(*kind, *number));
            assert!(known, "nobody has asked for {kind:?} {number}");
        }
    }
}

/// All objects, with version and id. Whatever one refers to is there.
fn listed(socket: &Path) -> BTreeMap<Key, (usize, String)> {
    let mut api = Api::connect(socket).unwrap();
    let mut there = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for kind in KINDS {
        let path = format!("{}?per_page=100", kind.path());
        let (status, list) = api.ask("GET", &path, &json!({})).unwrap();
        assert_eq!(status, 200);
        for object in list.as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (key, version) = match kind {
                Kind::Application => {
                    let name = text(&object["dns"]["name"]);
                    let parts: Vec<&str> = name.split('-').collect();
                    let version = object["limits"]["new_flows_per_second"].as_u64().unwrap();
                    let number = |part: &str| part.parse().unwrap();
                    ((number(parts[1]), kind, number(parts[2])), version as usize)
                }
                _ => {
                    let description = text(&object["description"]);
                    let parts: Vec<usize> = description
                        .split('/')
                        .filter_map(|part| part.parse().ok())
                        .collect();
                    // The file's pool has none.
                    let [writer, number, version] = parts[..] else {
                        continue;
                    };
                    ((writer, kind, number), version)
                }
            };
            let refers: Vec<String> = match kind {
                Kind::Monitor => Vec::new(),
                Kind::Group => vec![text(&object["members"][0]["monitor_id"])],
                Kind::Pool => vec![text(&object["monitor"]), text(&object["monitor_group"])],
                Kind::Balancer => vec![text(&object["default_pools"][0]), text(&object["fallback_pool"])],
                Kind::Application => vec![text(&object["origin_dns"]["name"])],
            };
            for other in refers.iter().filter(|other| !other.is_empty()) {
                assert!(
                    ids.contains(other),
                    "{object} refers to {other}, which is not there"
                );
            }
            let id = text(&object["id"]);
            ids.insert(id.clone());
            ids.insert(text(&object["name"]));
            let before = there.insert(key, (version, id));
            assert!(before.is_none(), "{key:?} is there twice");
        }
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
            objects: BTreeMap::new(),
            done: BTreeMap::new(),
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
                    while !over.load(Ordering::Relaxed) {
                        match writer.write(&mut api) {
                            Ok(acknowledged) => {
                                done.fetch_add(usize::from(acknowledged), Ordering::Relaxed);
                            }
                            Err(_) => break,
                        }
                    }
                });
            }
            wait_until(SOON.saturating_mul(20), "writes are made", || {
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
    let mut made: BTreeMap<(Kind, &str), usize> = BTreeMap::new();
    for (way, count) in writers.iter().flat_map(|writer| &writer.done) {
        *made.entry(*way).or_default() += count;
    }
    println!(
        "{} writes, {kills} crashes: {made:?}",
        done.load(Ordering::Relaxed)
    );
    for kind in KINDS.into_iter().filter(|_| wanted >= 500) {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            assert!(made.contains_key(&(kind, method)), "no {method} of a {kind:?}");
        }
    }
}
