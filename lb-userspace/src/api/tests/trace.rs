//! Packets that are traced, as they come through the API.

use super::*;
use crate::datapath::trace::Traced;
use crate::wire::{TraceLine, TraceNames, TraceQuery, pcapng_blocks as blocks, trace_row_of};
use bytemuck::Zeroable;
use lb_common::abi::{self, Report, ReportKind, TraceKinds};
use lb_common::testing::PacketBuilder;
use std::ops::ControlFlow;

/// Two packets, with something missing between them, and the end.
pub(super) fn traced(query: &TraceQuery) -> Tracing {
    assert_eq!(query.vip, Some(("203.0.113.0".parse().unwrap(), 24)));
    assert_eq!(
        (query.port, query.reason),
        (Some(80), trace_row_of("no_next_hop"))
    );
    assert_eq!(query.kinds, TraceKinds::REFUSED | TraceKinds::PASSED);
    let ends = ["198.51.100.7:40000", "203.0.113.10:80"].map(|end| end.parse().unwrap());
    let frame = PacketBuilder::tcp(ends[0], ends[1], 2).frame().0;
    let report = Report {
        time: 1_500_000_000,
        length: frame.len() as u32,
        ifindex: 7,
        kind: ReportKind::DROP,
        row: query.reason.unwrap(),
        application: abi::Tracing::ANY,
        ..Report::zeroed()
    };
    let packet = TraceItem::Packet(Arc::new(Traced { report, frame }));
    let (sender, items) = mpsc::channel(3);
    for item in [packet.clone(), TraceItem::Lost(5), packet] {
        sender.try_send(item).unwrap();
    }
    let names = TraceNames {
        interfaces: [(7, "eth0".to_owned())].into(),
        start: SystemTime::UNIX_EPOCH,
    };
    Tracing { items, names }
}

async fn streamed(client: &Client, query: &Query) -> Vec<u8> {
    let mut bytes = Vec::new();
    let take = |piece: &[u8]| {
        bytes.extend(piece);
        Ok(ControlFlow::Continue(()))
    };
    client.stream(query, take).await.unwrap();
    bytes
}

#[tokio::test]
async fn traced_packets_come_as_lines_and_as_a_capture_until_the_trace_ends() {
    let served = serve(Daemon::Ready, &[], None);
    let ask = |path| {
        Query::new(path)
            .with("vip", "203.0.113.0/24")
            .with("port", "80")
            .with("reason", "no_next_hop")
            .with("kinds", "refused,passed")
    };
    let lines = streamed(&served.client(), &ask("/api/v1/trace")).await;
    let lines: Vec<TraceLine> = lines
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let [
        TraceLine::Packet(one),
        TraceLine::Lost { lost: 5 },
        TraceLine::Packet(other),
    ] = &lines[..]
    else {
        panic!("{lines:?}");
    };
    assert_eq!(one, other);
    assert_eq!(
        one.to_string(),
        "00:00:01.500 eth0 tcp 198.51.100.7:40000 > 203.0.113.10:80 S, 54 bytes: drop no_next_hop"
    );

    let capture = streamed(&served.client(), &ask("/api/v1/capture").with("snap", "20")).await;
    let comments = capture
        .windows(35)
        .filter(|bytes| bytes.starts_with(b"verdict=drop reason=no_next_hop"));
    assert_eq!(comments.count(), 2);
    // Section and interface, and each packet with 20 bytes of its frame.
    let kinds: Vec<u32> = blocks(&capture).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 6]);
    let (_, packet) = &blocks(&capture)[3];
    assert_eq!(packet[12..20], [20, 0, 0, 0, 54, 0, 0, 0]);
}

#[tokio::test]
async fn a_trace_of_what_is_not_is_refused() {
    let served = serve(Daemon::Ready, &[], None);
    let ask = |name, value| Query::new("/api/v1/trace").with(name, value);
    let prefix = "not an address or a prefix such as 198.51.100.0/24";
    for (query, message) in [
        (
            ask("client", "10.0.0.0/33"),
            format!("`client` is \"10.0.0.0/33\", {prefix}"),
        ),
        (
            ask("vip", "10.0.0.0/"),
            format!("`vip` is \"10.0.0.0/\", {prefix}"),
        ),
        (ask("port", "65536"), "`port` is \"65536\", not a port".to_owned()),
        (
            ask("reason", "bad_luck"),
            "`reason` is \"bad_luck\": the reasons are those that `lb drops --all` lists".to_owned(),
        ),
        (
            ask("kinds", "dropped"),
            "`kinds` names \"dropped\", not forwarded, refused or passed".to_owned(),
        ),
        (ask("snap", "8192"), "`snap` is 8192, not 1 to 8191".to_owned()),
    ] {
        let refusal = refused(&served.client(), Method::GET, query).await;
        assert_eq!(refusal, (Exit::Usage, message));
    }
}

/// What others send is not for every user of a machine.
#[tokio::test]
async fn packets_are_shown_to_the_operator_only() {
    let paths = ["/api/v1/trace", "/api/v1/capture"];
    let query = |path| Query::new(path).with("snap", "0");
    let open = serve(Daemon::Ready, &["127.0.0.1:0"], None);
    let guarded = serve(Daemon::Ready, &["127.0.0.1:0"], Some("secret"));
    for path in paths {
        let anybody = client(Target::Tcp(open.tcp[0].to_string()));
        assert_eq!(
            refused(&anybody, Method::GET, query(path)).await.0,
            Exit::NotFound
        );
        let mut somebody = client(Target::Tcp(guarded.tcp[0].to_string()));
        assert_eq!(
            refused(&somebody, Method::GET, query(path)).await.0,
            Exit::Privilege
        );
        // It is asked what makes no sense: an answer at once, and only from what is there.
        somebody.token = Some(Token::new("secret").unwrap());
        assert_eq!(refused(&somebody, Method::GET, query(path)).await.0, Exit::Usage);
        assert_eq!(
            refused(&open.client(), Method::GET, query(path)).await.0,
            Exit::Usage
        );
    }
}
