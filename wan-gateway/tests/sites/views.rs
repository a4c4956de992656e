//! Views of another site: many subscribers, one stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Federation, Plan, until};
use crate::wan::Wan;
use causeway_gateway::{Gateway, World};
use causeway_proto::door::Door;
use causeway_proto::federation::v1::SiteState;
use causeway_proto::member::Members;
use causeway_proto::meta::Meta;
use causeway_proto::rejection::Reason;
use causeway_proto::view::view_event::Change;
use causeway_proto::view::views_client::ViewsClient;
use causeway_proto::view::views_server::{Views, ViewsServer};
use causeway_proto::view::{Heartbeat, NamesChange, SubscribeRequest, TopicKind, ViewEvent};
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const SOON: Duration = Duration::from_secs(10);

/// A server whose only topic is a growing list of names.
#[derive(Clone)]
struct Names {
    /// How many names there are: `n0`, `n1` and so on.
    count: Arc<watch::Sender<usize>>,
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    padding: usize,
}

struct Open(Arc<AtomicUsize>);
impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Views for Names {
    type SubscribeStream = BoxStream<'static, Result<ViewEvent, Status>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        if request.get_ref().key == "forbidden" {
            return Err(Reason::Denied.status("not for you"));
        }
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        let (open, count, padding) = (Open(Arc::clone(&self.open)), self.count.subscribe(), self.padding);
        let stream = futures::stream::unfold((None, count, open), move |(given, mut count, open)| async move {
            let beat = Duration::from_millis(500);
            let changed = match given {
                None => true,
                Some(given) => tokio::time::timeout(beat, count.wait_for(|n| *n > given)).await.is_ok(),
            };
            let now = *count.borrow_and_update();
            let event = |reset, change| ViewEvent { index: now as u64, reset, complete: true, change: Some(change) };
            let event = if changed {
                let name = |n| format!("n{n}{}", "-".repeat(padding));
                let upsert = (given.unwrap_or(0)..now).map(name).collect();
                event(given.is_none(), Change::Names(NamesChange { upsert, remove: vec![] }))
            } else {
                event(false, Change::Heartbeat(Heartbeat::default()))
            };
            Some((Ok(event), (Some(now), count, open)))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

struct Pair {
    _federation: Federation,
    near: Gateway,
    far: Option<Gateway>,
    names: Names,
    wan: Wan,
}

/// dc1 dials dc2 over a network that we hold in our hands.
async fn pair(padding: usize) -> Pair {
    let federation = Federation::new(&["dc1", "dc2"]);
    let names = Names { count: Arc::new(watch::Sender::new(3)), opened: Arc::default(), open: Arc::default(), padding };
    let start = async |plan: Plan, servers: Door| {
        let world = World { material: plan.material, servers, members: watch::channel(Members::default()).1 };
        Gateway::start(plan.config, world, CancellationToken::new()).await.unwrap()
    };
    let far = start(federation.site("dc2"), Door::new(ViewsServer::new(names.clone()))).await;
    let wan = Wan::to(far.local_addr()).await;
    let plan = federation.site("dc1").outbound_only().dials(&[wan.addr]);
    let near = start(plan, Door::closed(Status::unimplemented("nobody asks dc1"))).await;
    let pair = Pair { _federation: federation, near, far: Some(far), names, wan };
    pair.state(SiteState::Linked).await;
    pair
}

impl Pair {
    async fn state(&self, wanted: SiteState) {
        let mut sites = self.near.sites();
        let of = |sites: &Arc<Vec<causeway_proto::federation::v1::SiteStatus>>| {
            sites.iter().any(|s| s.site.as_ref().is_some_and(|s| s.datacenter == "dc2") && s.state() == wanted)
        };
        tokio::time::timeout(SOON, sites.wait_for(of)).await.expect("the state of dc2").unwrap();
    }

    async fn subscribe(&self, key: &str, token: Option<&str>) -> Result<View, Status> {
        let meta = Meta { datacenter: Some("dc2".into()), token: token.map(str::to_owned), ..Meta::default() };
        let ask = SubscribeRequest { kind: TopicKind::ServiceNames.into(), key: key.to_owned() };
        let mut client = ViewsClient::new(self.near.door());
        let stream = client.subscribe(meta.request(ask)).await?.into_inner();
        Ok(View { stream, seen: BTreeSet::new(), resets: 0 })
    }

    fn grow(&self, by: usize) -> usize {
        self.names.count.send_modify(|n| *n += by);
        *self.names.count.borrow()
    }
}

struct View {
    stream: Streaming<ViewEvent>,
    seen: BTreeSet<String>,
    resets: usize,
}

impl View {
    async fn read(&mut self) -> Result<(), Status> {
        let event = tokio::time::timeout(SOON, self.stream.message()).await.expect("an event or an end")?;
        let event = event.expect("a view has no end without a status");
        if event.reset {
            self.seen.clear();
            self.resets += 1;
        }
        if let Some(Change::Names(names)) = event.change {
            self.seen.extend(names.upsert);
        }
        Ok(())
    }

    async fn until(&mut self, count: usize) {
        while self.seen.len() != count {
            self.read().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_subscribers_cost_one_stream() {
    let pair = pair(0).await;
    let mut views = Vec::new();
    for _ in 0..20 {
        views.push(pair.subscribe("", None).await.unwrap());
    }
    for view in &mut views {
        view.until(3).await;
    }
    let now = pair.grow(2);
    for view in &mut views {
        view.until(now).await;
        assert_eq!(view.resets, 1);
    }
    // Who comes later is served from memory, whatever the far site does meanwhile.
    let mut late = pair.subscribe("", None).await.unwrap();
    late.until(now).await;
    assert_eq!(pair.names.opened.load(Ordering::SeqCst), 1, "streams at the far site for 21 subscribers");
    // Another topic and another token are streams of their own.
    let other = pair.subscribe("x", None).await.unwrap();
    let token = pair.subscribe("", Some("t")).await.unwrap();
    until("three streams", SOON, || pair.names.open.load(Ordering::SeqCst) == 3).await;
    // What is refused is refused to everybody, in the far site's words, and is not kept.
    for _ in 0..2 {
        let refused = pair.subscribe("forbidden", None).await.err().unwrap();
        assert_eq!((Reason::of(&refused), refused.message()), (Reason::Denied, "not for you"));
    }
    drop((other, token));
    until("one stream", SOON, || pair.names.open.load(Ordering::SeqCst) == 1).await;
    views.truncate(1);
    drop(late);
    pair.grow(1);
    views[0].until(now + 1).await;
    drop(views);
    until("no stream without subscribers", SOON, || pair.names.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(pair.names.opened.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_costs_nothing_and_misses_nothing() {
    // Each change is 1 kB: some hundred of them are more than is kept beside a snapshot.
    let pair = pair(1000).await;
    let mut slow = pair.subscribe("", None).await.unwrap();
    let mut quick = pair.subscribe("", None).await.unwrap();
    slow.until(3).await;
    let mut now = 3;
    for _ in 0..400 {
        now = pair.grow(1);
        quick.until(now).await;
    }
    slow.until(now).await;
    assert!(
        quick.resets > 1 && slow.resets > 1,
        "a long log is replaced by a snapshot: {} {}",
        quick.resets,
        slow.resets
    );
    until("one stream", SOON, || pair.names.open.load(Ordering::SeqCst) == 1).await;
}

/// A gateway that is stopped says so first: its views move to another gateway of the site, and nobody need notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_moves_before_its_gateway_stops() {
    let federation = Federation::new(&["dc1", "dc2"]);
    let names =
        Names { count: Arc::new(watch::Sender::new(3)), opened: Arc::default(), open: Arc::default(), padding: 0 };
    let start = async |plan: Plan, servers: Door| {
        let world = World { material: plan.material, servers, members: watch::channel(Members::default()).1 };
        Gateway::start(plan.config, world, CancellationToken::new()).await.unwrap()
    };
    let far = |name: &'static str| federation.site("dc2").with(move |c| c.node_name = name.to_owned());
    let door = || Door::new(ViewsServer::new(names.clone()));
    let one = start(far("one"), door()).await;
    let near = federation.site("dc1").dials(&[one.local_addr()]);
    let near = start(near, Door::closed(Status::unimplemented("nobody asks dc1"))).await;
    let gateways = || {
        let sites = near.sites().borrow().clone();
        let site = sites.iter().find(|s| s.site.as_ref().is_some_and(|s| s.datacenter == "dc2")).cloned();
        let up = site.unwrap_or_default().links.into_iter().filter(|l| l.state == "up");
        up.map(|l| l.gateway).collect::<BTreeSet<String>>()
    };
    until("a link to one", SOON, || gateways().contains("one")).await;
    let meta = Meta { datacenter: Some("dc2".into()), ..Meta::default() };
    let ask = SubscribeRequest { kind: TopicKind::ServiceNames.into(), key: String::new() };
    let stream = ViewsClient::new(near.door()).subscribe(meta.request(ask)).await.unwrap().into_inner();
    let mut view = View { stream, seen: BTreeSet::new(), resets: 0 };
    view.until(3).await;
    let two = start(far("two").dials(&[near.local_addr()]), door()).await;
    until("a link to two", SOON, || gateways().contains("two")).await;
    let begun = Instant::now();
    one.stop().await;
    let took = begun.elapsed();
    assert_eq!(names.opened.load(Ordering::SeqCst), 2, "the view is open at the other gateway already");
    names.count.send_modify(|n| *n += 1);
    view.until(4).await;
    println!("a gateway that carried a view stopped within {took:?}");
    assert!(took < Duration::from_secs(2), "it waited for the view: {took:?}");
    drop((view, two));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_link_ends_views_and_refuses_at_once() {
    let mut pair = pair(0).await;
    let mut views = [pair.subscribe("", None).await.unwrap(), pair.subscribe("", None).await.unwrap()];
    for view in &mut views {
        view.until(3).await;
    }
    pair.far.take().unwrap().stop().await;
    for view in &mut views {
        let ended = loop {
            if let Err(status) = view.read().await {
                break status;
            }
        };
        assert!(matches!(Reason::of(&ended), Reason::Unreachable | Reason::Draining), "{ended:?}");
    }
    pair.state(SiteState::Unreachable).await;
    let mut best = SOON;
    for _ in 0..20 {
        let begun = Instant::now();
        let refused = pair.subscribe("", None).await.err().unwrap();
        best = best.min(begun.elapsed());
        assert_eq!(Reason::of(&refused), Reason::Unreachable);
        let text = refused.message();
        assert!(text.starts_with("Remote DC has no server currently reachable: no link to dc2 for "), "{text}");
    }
    println!("F3: a view of a site that is known to be cut off is refused within {best:?}");
    assert!(best < Duration::from_millis(5), "{best:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_takes_one_way_and_no_more() {
    let pair = pair(0).await;
    let one_way = Duration::from_millis(40);
    pair.wan.delay(one_way, Duration::ZERO);
    let mut view = pair.subscribe("", None).await.unwrap();
    view.until(3).await;
    let mut took = Vec::new();
    for _ in 0..25 {
        let begun = Instant::now();
        let now = pair.grow(1);
        view.until(now).await;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!(
        "row 13, gateways only: one way {one_way:?}, a change seen after {median:?}, worst {:?}",
        took[took.len() - 1]
    );
    assert!(median < one_way + Duration::from_millis(20), "{took:?}");
}
