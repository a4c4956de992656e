//! Events without gossip: ring, index, filters, what is kept of what is heard, and the door for other sites.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_proto::event::events_client::EventsClient;
use causeway_proto::event::{Event as Message, FireRequest};
use causeway_proto::rejection::Reason;
use futures::future::BoxFuture;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::ring::{KEPT, index};
use super::*;

fn event(id: u128, name: &str) -> Event {
    Event { id, name: name.into(), version: VERSION, ..Event::default() }
}

#[test]
fn uuids() {
    let id = 0x4325_3f6d_d639_1de5_3e2c_513c_d5fc_5d48_u128;
    assert_eq!(uuid(id), "43253f6d-d639-1de5-3e2c-513cd5fc5d48");
    assert_eq!(parse_uuid("43253f6d-d639-1de5-3e2c-513cd5fc5d48"), Some(id));
    assert_eq!(uuid(1), "00000000-0000-0000-0000-000000000001");
    for bad in [
        "",
        "43253f6d",
        "43253f6dd-639-1de5-3e2c-513cd5fc5d48",
        "+3253f6d-d639-1de5-3e2c-513cd5fc5d48",
        "g3253f6d-d639-1de5-3e2c-513cd5fc5d48",
    ] {
        assert_eq!(parse_uuid(bad), None, "{bad}");
    }
}

/// Two replies of the real Consul 1.8.7: the ids that it chose and the indexes that it made of them.
#[test]
fn the_index_is_consuls() {
    for (id, wanted) in [
        ("9f8b43e1-cc52-e21a-8f05-c20eeadfcbaf", 1_193_033_815_443_712_437),
        ("43253f6d-d639-1de5-3e2c-513cd5fc5d48", 9_009_853_823_766_053_037),
    ] {
        assert_eq!(index(&event(parse_uuid(id).unwrap(), "x")), wanted, "{id}");
    }
}

#[test]
fn the_ring_keeps_the_latest() {
    let mut ring = Ring::default();
    assert_eq!(ring.list(""), (Vec::new(), 1));
    for id in 1..=300 {
        ring.push(Arc::new(event(id, if id % 2 == 0 { "even" } else { "odd" })));
    }
    let (all, last) = ring.list("");
    assert_eq!((all.len(), all[0].id, last), (KEPT, 45, 300));
    let (odd, last) = ring.list("odd");
    assert_eq!((odd.len(), odd[0].id, last), (KEPT / 2, 45, 299));
    assert_eq!(ring.list("od"), (Vec::new(), 1));
}

fn filters(node: &str, service: &str, tag: &str) -> Result<Filters, FilterError> {
    Filters::of(&Event {
        node_filter: node.into(),
        service_filter: service.into(),
        tag_filter: tag.into(),
        ..event(1, "x")
    })
}

#[test]
fn filters_are_of_node_and_service() {
    let tags = [vec!["v1".to_owned(), "blue".to_owned()], vec!["v2".to_owned()]];
    let services = [("web-1", tags[0].as_slice()), ("db", tags[1].as_slice())];
    for (node, service, tag, wanted) in [
        ("", "", "", true),
        ("s", "", "", true),
        ("^s1$", "", "", true),
        ("^s$", "", "", false),
        ("", "web", "", true),
        // The id, as in Consul, not the name.
        ("", "^web-1$", "", true),
        ("", "^web$", "", false),
        ("", "web", "blu", true),
        ("", "web", "^v[0-9]$", true),
        ("", "web", "v2", false),
        ("", ".", "v2", true),
        ("zzz", "web", "v1", false),
        ("", "cache", "", false),
    ] {
        let filters = filters(node, service, tag).unwrap();
        assert_eq!(filters.take("s1", services), wanted, "{node:?} {service:?} {tag:?}");
    }
    assert!(!filters("", "web", "").unwrap().take("s1", []));
}

/// The texts are what the real Consul 1.8.7 said to the same.
#[test]
fn bad_filters_are_named() {
    for (node, service, tag, wanted) in [
        ("", "", "blu", "Cannot provide tag filter without service filter"),
        ("(", "", "", "Invalid node filter: error parsing regexp: missing closing ): `(`"),
        ("", "[", "", "Invalid service filter: error parsing regexp: missing closing ]: `[`"),
        ("", "a", "*", "Invalid tag filter: error parsing regexp: missing argument to repetition operator: `*`"),
    ] {
        assert_eq!(filters(node, service, tag).unwrap_err().to_string(), wanted);
    }
    assert!(filters("(a{1000}){1000}", "", "").is_err(), "one that would fill memory");
}

/// Gossip's stand-in: all that is fired is heard.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) heard: broadcast::Sender<Arc<Event>>,
    pub(crate) fired: Mutex<Vec<Event>>,
}

impl Echo {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { heard: broadcast::Sender::new(16), fired: Mutex::default() })
    }
}

impl Air for Echo {
    fn fire(&self, event: Event) -> BoxFuture<'_, Result<(), FireError>> {
        Box::pin(async move {
            if event.payload.len() > 400 {
                return Err(FireError::TooLarge);
            }
            let ltime = {
                let mut fired = self.fired.lock().unwrap();
                fired.push(event.clone());
                fired.len() as u64
            };
            let _ = self.heard.send(Arc::new(Event { ltime, ..event }));
            Ok(())
        })
    }
}

/// An agent on node `s1` with one service.
pub(crate) fn agent(echo: &Arc<Echo>) -> Events {
    let tags = vec!["v1".to_owned()];
    let meant: driver::Services = Arc::new(move |filters| filters.take("s1", [("web-1", tags.as_slice())]));
    Events::start_with(echo.clone(), echo.heard.subscribe(), meant, CancellationToken::new())
}

async fn names(events: &Events, count: usize) -> Vec<String> {
    let mut ring = events.watch();
    let full = ring.wait_for(|ring| ring.list("").0.len() >= count);
    let full = tokio::time::timeout(Duration::from_secs(10), full).await.expect("in time").unwrap();
    full.list("").0.iter().map(|e| e.name.clone()).collect()
}

#[tokio::test]
async fn only_what_is_meant_for_the_node_is_kept() {
    let echo = Echo::new();
    let events = agent(&echo);
    let mut calls = events.calls();
    for (id, name, node, service, version) in [
        (1, "all", "", "", 1),
        (2, "another's", "s2", "", 1),
        (3, "node", "^s", "", 1),
        (4, "unreadable", "(", "", 1),
        (5, "service", "", "web", 1),
        (6, "no such service", "", "db", 1),
        (7, "from the future", "", "", 2),
        (8, INTERNAL, "", "", 1),
        (10, INTERNAL, "s2", "", 1),
        (9, "last", "", "", 1),
    ] {
        let event = Event { node_filter: node.into(), service_filter: service.into(), version, ..event(id, name) };
        echo.heard.send(Arc::new(event)).unwrap();
    }
    assert_eq!(names(&events, 4).await, ["all", "node", "service", "last"]);
    assert_eq!(calls.try_recv().unwrap().id, 8, "for whoever executes");
    assert!(calls.try_recv().is_err(), "another node's");
}

#[tokio::test]
async fn another_site_fires_by_the_door() {
    let echo = Echo::new();
    let events = agent(&echo);
    let mut client = EventsClient::new(events.door());
    let message = to_message(&event(7, "far"));
    client.fire(FireRequest { event: Some(message.clone()) }).await.unwrap();
    assert_eq!(names(&events, 1).await, ["far"]);
    assert_eq!(echo.fired.lock().unwrap()[0], event(7, "far"), "the same id there as here");
    for (bad, reason) in [
        (None, Reason::Invalid),
        (Some(Message { id: "x".into(), ..message.clone() }), Reason::Invalid),
        (Some(Message { name: String::new(), ..message.clone() }), Reason::Refused),
        (Some(Message { version: 256, ..message.clone() }), Reason::Invalid),
        (Some(Message { tag_filter: "t".into(), ..message.clone() }), Reason::Refused),
        (Some(Message { payload: vec![0; 500], ..message.clone() }), Reason::Refused),
    ] {
        let refused = client.fire(FireRequest { event: bad.clone() }).await.unwrap_err();
        assert_eq!(Reason::of(&refused), reason, "{bad:?}");
    }
    assert_eq!(echo.fired.lock().unwrap().len(), 1);
}
