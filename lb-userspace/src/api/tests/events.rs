//! Events as clients read them.

use super::*;
use crate::wire::EventQuery;
use tokio::sync::broadcast;

/// One event after the number that is asked for, and two that come.
pub(super) fn feed(query: &EventQuery) -> EventFeed {
    let report = lb_core::engine::Report::Configured { generation: 4 };
    let since = query.since.unwrap_or_default();
    let event = Event::of_report(since + 1, SystemTime::UNIX_EPOCH, &report).expect("an event");
    let (later, live) = broadcast::channel(4);
    let other = Event::new(since + 2, SystemTime::UNIX_EPOCH, "store", "other".to_owned());
    let wanted = Event {
        sequence: since + 3,
        ..event.clone()
    };
    for event in [other, wanted] {
        later.send(Arc::new(event)).expect("somebody listens");
    }
    EventFeed {
        events: Events {
            next: event.sequence,
            events: vec![event],
        },
        live,
    }
}

#[tokio::test]
async fn a_stream_of_events_tells_what_was_and_then_what_comes() {
    let served = serve(Daemon::Ready, &[], None);
    let query = Query::new("/api/v1/events")
        .with("follow", "true")
        .with("kind", "configured");
    let mut text = Vec::new();
    // It ends because the daemon that tells has ended.
    let take = |bytes: &[u8]| {
        text.extend(bytes);
        Ok(std::ops::ControlFlow::Continue(()))
    };
    served.client().stream(&query, take).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<Event>(line).unwrap().sequence)
        .collect();
    assert_eq!(numbers, [1, 3]);
}
