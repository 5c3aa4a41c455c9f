//! The resolver against a name server in this process.

use super::*;
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use lb_core::engine::LookupFailure;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;
use tokio::time::Instant;

const NAME: &str = "origins.example.com";

/// What the server says of every name.
#[derive(Clone, Debug)]
enum Zone {
    Addresses {
        v4: Vec<Ipv4Addr>,
        v6: Vec<Ipv6Addr>,
        ttl: u32,
    },
    Code(ResponseCode),
    /// Of A the address, of AAAA a failure.
    Half(Ipv4Addr),
    Silence,
}

/// A server, and how often it was asked for A records.
struct Server {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (zone, asked) = (Arc::new(Mutex::new(zone)), Arc::new(Mutex::new(Vec::new())));
        let shared = (Arc::clone(&zone), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let zone = shared.0.lock().unwrap().clone();
                let query = &question.queries[0];
                if query.query_type() == RecordType::A {
                    let asked = (query.name().to_string(), Instant::now());
                    shared.1.lock().unwrap().push(asked);
                }
                if let Some(answer) = answer(&question, zone) {
                    socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        Self {
            address,
            zone,
            asked,
            task: task.abort_handle(),
        }
    }

    fn say(&self, zone: Zone) {
        *self.zone.lock().unwrap() = zone;
    }

    fn asked(&self) -> Vec<(String, Instant)> {
        self.asked.lock().unwrap().clone()
    }

    fn dns(&self, min_ttl: u64) -> Dns {
        Dns {
            servers: vec![self.address],
            min_ttl: Duration::from_secs(min_ttl),
            max_ttl: Duration::from_secs(3600),
        }
    }
}

fn answer(question: &Message, zone: Zone) -> Option<Message> {
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    answer.metadata.recursion_desired = true;
    let is_v4 = query.query_type() == RecordType::A;
    let mut add = |ttl, data| {
        let record = Record::from_rdata(query.name().clone(), ttl, data);
        answer.add_answer(record);
    };
    match zone {
        Zone::Silence => return None,
        Zone::Addresses { v4, ttl, .. } if is_v4 => {
            v4.into_iter().for_each(|address| add(ttl, RData::A(A(address))))
        }
        Zone::Addresses { v6, ttl, .. } => v6
            .into_iter()
            .for_each(|address| add(ttl, RData::AAAA(AAAA(address)))),
        Zone::Half(address) if is_v4 => add(60, RData::A(A(address))),
        Zone::Half(_) => answer.metadata.response_code = ResponseCode::ServFail,
        Zone::Code(code) => answer.metadata.response_code = code,
    }
    answer.add_query(query);
    Some(answer)
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

fn addresses(list: &[u8], ttl: u32) -> Zone {
    Zone::Addresses {
        v4: list.iter().copied().map(v4).collect(),
        v6: Vec::new(),
        ttl,
    }
}

/// The next answer.
async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> (String, Answer) {
    let event = tokio::time::timeout(Duration::from_secs(15), events.recv()).await;
    match event.expect("an answer in time").expect("a resolver") {
        Event::Resolved { name, answer } => (name, answer),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_families_are_asked_for_and_the_shortest_ttl_counts() {
    let zone = Zone::Addresses {
        v4: vec![v4(2), v4(1)],
        v6: vec![v6(1)],
        ttl: 7,
    };
    let server = Server::start(zone).await;
    let found = Client::new(&server.dns(1)).look_up(NAME).await;
    let mut found4 = found.answer.v4.unwrap();
    found4.sort_unstable();
    assert_eq!((found4, found.answer.v6), (vec![v4(1), v4(2)], Ok(vec![v6(1)])));
    assert_eq!(found.ttl, Some(Duration::from_secs(7)));
    let asked: Vec<_> = server.asked().into_iter().map(|(name, _)| name).collect();
    assert_eq!(asked, [format!("{NAME}.")], "no search list, and once");
}

#[tokio::test]
async fn what_goes_wrong_has_its_reason() {
    let server = Server::start(Zone::Silence).await;
    let client = Client::new(&server.dns(1));
    for (zone, expected) in [
        (
            Zone::Code(ResponseCode::NXDomain),
            Err(LookupFailure::UnknownHost),
        ),
        (addresses(&[], 60), Ok(Vec::new())),
    ] {
        server.say(zone);
        let answer = client.look_up(NAME).await.answer;
        assert_eq!(answer.v4, expected);
    }
    for (zone, words) in [
        (Zone::Code(ResponseCode::ServFail), "A: "),
        (Zone::Code(ResponseCode::Refused), "A: "),
        (Zone::Silence, "A: no name server answers"),
    ] {
        server.say(zone.clone());
        match client.look_up(NAME).await.answer.v4 {
            Err(LookupFailure::Failed(why)) => assert!(why.starts_with(words), "{zone:?}: {why}"),
            other => panic!("{zone:?}: {other:?}"),
        }
    }
    server.say(Zone::Half(v4(1)));
    let answer = client.look_up(NAME).await.answer;
    assert_eq!(answer.v4, Ok(vec![v4(1)]));
    assert!(matches!(answer.v6, Err(LookupFailure::Failed(_))), "{answer:?}");
}

#[tokio::test]
async fn a_name_is_looked_up_again_when_its_ttl_ends() {
    let server = Server::start(addresses(&[1], 2)).await;
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut resolver = Resolver::new(&server.dns(1), sender);
    resolver.watch(vec![NAME.to_owned()]);
    assert_eq!(next(&mut events).await.1.v4, Ok(vec![v4(1)]));
    server.say(addresses(&[2], 3600));
    // The same names again are no reason to ask again.
    resolver.watch(vec![NAME.to_owned()]);
    assert_eq!(next(&mut events).await.1.v4, Ok(vec![v4(2)]));
    let asked = server.asked();
    let between = asked[1].1 - asked[0].1;
    assert_eq!(asked.len(), 2);
    assert!(
        between >= Duration::from_secs(2) && between < Duration::from_secs(5),
        "{between:?}"
    );
    // Other settings hold at once.
    let other = Server::start(addresses(&[3], 60)).await;
    resolver.configure(&other.dns(1));
    assert_eq!(next(&mut events).await.1.v4, Ok(vec![v4(3)]));
    resolver.watch(Vec::new());
    assert!(resolver.names.is_empty());
}

#[tokio::test]
async fn after_a_failure_it_is_tried_again_soon() {
    let server = Server::start(Zone::Code(ResponseCode::ServFail)).await;
    let (sender, mut events) = mpsc::unbounded_channel();
    // However long answers may hold.
    let mut resolver = Resolver::new(&server.dns(600), sender);
    resolver.watch(vec![NAME.to_owned()]);
    assert!(next(&mut events).await.1.v4.is_err());
    server.say(addresses(&[1], 60));
    assert_eq!(next(&mut events).await.1.v4, Ok(vec![v4(1)]));
}

#[tokio::test]
async fn many_names_are_looked_up_a_few_at_a_time() {
    let server = Server::start(addresses(&[1], 60)).await;
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut resolver = Resolver::new(&server.dns(1), sender);
    let names: Vec<String> = (0..100)
        .map(|number| format!("host-{number}.example.com"))
        .collect();
    resolver.watch(names.clone());
    let mut answered = Vec::new();
    for _ in &names {
        let (name, answer) = next(&mut events).await;
        assert_eq!(answer.v4, Ok(vec![v4(1)]), "{name}");
        answered.push(name);
    }
    answered.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(answered, names);
}

#[test]
fn pauses_keep_their_bounds() {
    let dns = Dns {
        servers: Vec::new(),
        min_ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(100),
    };
    let found = |ttl: Option<u64>| Found {
        answer: Answer {
            v4: Ok(vec![v4(1)]),
            v6: Ok(Vec::new()),
        },
        ttl: ttl.map(Duration::from_secs),
    };
    for (ttl, failures, seconds) in [
        (Some(0), 0, 5),
        (Some(60), 0, 60),
        (Some(604_800), 0, 100),
        (None, 1, 1),
        (None, 2, 2),
        (None, 4, 8),
        (None, 40, 30),
        (Some(5), 40, 5),
    ] {
        assert_eq!(
            pause(&dns, &found(ttl), failures),
            Duration::from_secs(seconds),
            "{ttl:?} {failures}"
        );
    }
    for _ in 0..100 {
        let pause = jittered(Duration::from_secs(100));
        assert!((100..=110).contains(&pause.as_secs()), "{pause:?}");
    }
}
