#![allow(
    dead_code,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "tests touch the world; each file uses a part of this"
)]
//! Sites for tests: a gateway each, on a runtime of its own that can be killed, with a toy server behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_certs::material::{Files, Material};
use causeway_certs::tls::issue_for_dev;
use causeway_gateway::{Config, Congestion, Gateway, Limits, World};
use causeway_proto::catalog::SummaryReply;
use causeway_proto::door::{Door, Request, Response};
use causeway_proto::federation::v1::{SiteState, SiteStatus};
use causeway_proto::listen::{Peer, Role};
use causeway_proto::member::Members;
use causeway_proto::meta;
use causeway_proto::rejection::Reason;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

pub const GET: &str = "/causeway.kv.v1.Kv/Get";
pub const APPLY: &str = "/causeway.kv.v1.Kv/Apply";
pub const SUBSCRIBE: &str = "/causeway.view.v1.Views/Subscribe";
pub const SUMMARY: &str = "/causeway.catalog.v1.Catalog/Summary";
/// The toy server never answers this one.
pub const NEVER: &str = "/causeway.kv.v1.Kv/List";

/// The machine for one test that starts very many gateways: two of these side by side would measure each other.
pub async fn crowd() -> tokio::sync::MutexGuard<'static, ()> {
    static CROWD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    CROWD.lock().await
}

/// A directory that goes when the test ends.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("causeway-gw-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority and certificates for some datacenters.
pub struct Federation {
    pub dir: Dir,
    gateways: BTreeMap<String, Files>,
    servers: BTreeMap<String, Files>,
}

impl Federation {
    pub fn new(datacenters: &[&str]) -> Self {
        let dir = Dir::new();
        let issued = issue_for_dev(&dir.0, "consul", datacenters).unwrap();
        let gateways = issued.iter().map(|f| (f.datacenter.clone(), f.gateway.clone())).collect();
        let servers = issued.into_iter().map(|f| (f.datacenter, f.server)).collect();
        Self { dir, gateways, servers }
    }

    pub fn material(&self, datacenter: &str) -> Arc<Material> {
        Material::load(self.gateways[datacenter].clone(), "consul").unwrap()
    }

    /// Of the wrong role.
    pub fn server_material(&self, datacenter: &str) -> Arc<Material> {
        Material::load(self.servers[datacenter].clone(), "consul").unwrap()
    }

    /// dc2, which can be dialled through an emulator or a proxy only: it says no address of its own.
    pub async fn hub(&self) -> Site {
        self.site("dc2").with(|c| c.advertise = vec!["127.0.0.1:1".into()]).start().await
    }

    pub fn site(&self, datacenter: &str) -> Plan {
        Plan::new(datacenter, self.material(datacenter))
    }
}

/// How a site is to be started.
#[derive(Clone)]
pub struct Plan {
    pub config: Config,
    pub material: Arc<Material>,
    /// The servers of the site, where several gateways have the same.
    pub toy: Option<Arc<Toy>>,
}

impl Plan {
    pub fn new(datacenter: &str, material: Arc<Material>) -> Self {
        let config = Config {
            node_name: format!("gw-{datacenter}"),
            datacenter: datacenter.to_owned(),
            domain: "consul".to_owned(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            advertise: Vec::new(),
            peers: Vec::new(),
            data_dir: None,
            limits: Limits::default(),
            congestion: Congestion::Bbr,
            proxy: None,
            relay: true,
            qlog_dir: None,
        };
        Self { config, material, toy: None }
    }

    pub fn dials(mut self, peers: &[SocketAddr]) -> Self {
        self.config.peers = peers.iter().map(ToString::to_string).collect();
        self
    }

    /// Cannot be dialled.
    pub fn outbound_only(mut self) -> Self {
        self.config.listen = None;
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    pub async fn start(&self) -> Site {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let own = || Arc::new(Toy { datacenter: self.config.datacenter.clone(), ..Toy::default() });
        let toy = self.toy.clone().unwrap_or_else(own);
        let (members, watch) = watch::channel(Members::default());
        let world = World { material: Arc::clone(&self.material), servers: door(&toy), members: watch };
        let config = self.config.clone();
        let gateway = runtime
            .spawn(async move { Gateway::start(config, world, CancellationToken::new()).await })
            .await
            .unwrap()
            .unwrap();
        let mut plan = self.clone();
        if let Some(listen) = &mut plan.config.listen {
            *listen = gateway.local_addr();
        }
        Site { gateway: Some(gateway), runtime: Some(runtime), toy, members, plan }
    }
}

/// A running site.
pub struct Site {
    pub gateway: Option<Gateway>,
    runtime: Option<Runtime>,
    pub toy: Arc<Toy>,
    pub members: watch::Sender<Members>,
    /// To start it again, at the same address.
    pub plan: Plan,
}

impl Site {
    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    pub fn addr(&self) -> SocketAddr {
        self.gateway().local_addr()
    }

    pub fn door(&self) -> Door {
        self.gateway().door()
    }

    /// As `kill -9` does: nothing more is sent.
    pub async fn kill(mut self) -> Plan {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(1))).await.unwrap();
        drop(self.gateway.take());
        self.plan.clone()
    }

    /// Politely.
    pub async fn stop(mut self) -> Plan {
        self.gateway.take().unwrap().stop().await;
        self.plan.clone()
    }

    /// By what it reaches a datacenter; `""`: by nothing.
    pub fn path(&self, datacenter: &str) -> String {
        let sites = self.gateway().sites();
        let sites = sites.borrow();
        let of = |s: &&SiteStatus| s.site.as_ref().is_some_and(|s| s.datacenter == datacenter);
        sites.iter().find(of).map_or_else(String::new, |s| s.path.clone())
    }

    pub async fn state(&self, datacenter: &str, wanted: Option<SiteState>, within: Duration) -> Vec<SiteStatus> {
        let mut sites = self.gateway().sites();
        let found = tokio::time::timeout(
            within,
            sites.wait_for(|sites| {
                let state = sites
                    .iter()
                    .find(|s| s.site.as_ref().is_some_and(|s| s.datacenter == datacenter))
                    .map(SiteStatus::state);
                state == wanted
            }),
        )
        .await
        .map(|r| r.unwrap().as_ref().clone());
        found.unwrap_or_else(|_| {
            panic!(
                "{} never saw {datacenter} {wanted:?}: {:#?}",
                self.plan.config.datacenter,
                self.gateway().sites().borrow()
            )
        })
    }

    pub async fn linked(&self, datacenter: &str) -> Vec<SiteStatus> {
        self.state(datacenter, Some(SiteState::Linked), Duration::from_secs(10)).await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.gateway.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the toy server saw.
#[derive(Default)]
pub struct Toy {
    pub datacenter: String,
    pub begun: AtomicUsize,
    /// Calls that were dropped before they were answered to the end.
    pub dropped: AtomicUsize,
    pub last_peer: std::sync::Mutex<Option<Peer>>,
    pub last_headers: std::sync::Mutex<HeaderMap>,
    /// Writes that came, repeated ones too.
    pub arrivals: AtomicUsize,
    /// What they did, by their names, as the servers' log keeps them.
    pub effects: std::sync::Mutex<BTreeMap<u128, String>>,
    /// Milliseconds from a write's effect to its answer.
    pub slow_ms: std::sync::atomic::AtomicU64,
    /// Writes are not answered any more.
    pub mute: std::sync::atomic::AtomicBool,
    /// What its catalogue looks like.
    pub catalogue: watch::Sender<SummaryReply>,
}

/// An answer of one message.
fn unary(message: &impl prost::Message) -> Response {
    let mut data = vec![0];
    data.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    message.encode(&mut data).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = vec![Ok::<_, tonic::Status>(Frame::data(data.into())), Ok(Frame::trailers(trailers))];
    let mut response = http::Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

struct Guard(Arc<Toy>, bool);
impl Drop for Guard {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

pub fn door(toy: &Arc<Toy>) -> Door {
    let toy = Arc::clone(toy);
    Door::from_fn(move |request: Request| {
        let toy = Arc::clone(&toy);
        async move { Ok(toy_answer(toy, request).await) }
    })
}

async fn toy_answer(toy: Arc<Toy>, request: Request) -> Response {
    if request.uri().path() == SUMMARY {
        // The gateway's own question, which no test counts.
        let asked = meta::Meta::read(request.headers());
        let mut changed = toy.catalogue.subscribe();
        let summary = *changed.wait_for(|summary| summary.index > asked.min_index).await.unwrap();
        return unary(&summary);
    }
    toy.begun.fetch_add(1, Ordering::SeqCst);
    let mut guard = Guard(Arc::clone(&toy), false);
    *toy.last_peer.lock().unwrap() = request.extensions().get::<Peer>().cloned();
    *toy.last_headers.lock().unwrap() = request.headers().clone();
    let path = request.uri().path().to_owned();
    let named = meta::CallId::of(request.headers()).map(|call| call.id);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = match path.as_str() {
        NEVER => std::future::pending().await,
        // Numbers, one every few milliseconds, forever.
        SUBSCRIBE => {
            let ticks = futures::stream::unfold((0_u32, guard), |(n, guard)| async move {
                tokio::time::sleep(Duration::from_millis(if n < 3 { 0 } else { 5 })).await;
                Some((Ok::<_, tonic::Status>(Frame::data(Bytes::copy_from_slice(&n.to_be_bytes()))), (n + 1, guard)))
            });
            Body::new(StreamBody::new(ticks))
        }
        _ => {
            let data = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            let data = match data {
                Ok(data) => data,
                Err(status) => return status.into_http(),
            };
            if path == APPLY {
                toy.arrivals.fetch_add(1, Ordering::SeqCst);
                let mut effects = toy.effects.lock().unwrap();
                // One without a name is done each time.
                let id = named.unwrap_or(effects.len() as u128);
                effects.entry(id).or_insert_with(|| String::from_utf8_lossy(&data).into_owned());
            }
            if path == APPLY {
                tokio::time::sleep(Duration::from_millis(toy.slow_ms.load(Ordering::SeqCst))).await;
            }
            if path == APPLY && toy.mute.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            guard.1 = true;
            let frames = vec![Ok::<_, tonic::Status>(Frame::data(data)), Ok(Frame::trailers(trailers))];
            Body::new(StreamBody::new(futures::stream::iter(frames)))
        }
    };
    let mut response = http::Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("x-answered-by", HeaderValue::from_str(&toy.datacenter).unwrap());
    response
}

pub fn request(path: &str, datacenter: &str, body: impl Into<Bytes>) -> Request {
    let body = Body::new(http_body_util::Full::new(body.into()).map_err(|never| match never {}));
    let mut request = http::Request::post(path).body(body).unwrap();
    request.headers_mut().insert(meta::DATACENTER, HeaderValue::from_str(datacenter).unwrap());
    request
}

/// What came back: who answered, the body, or the reason of the refusal and its text.
pub type Answer = Result<(String, Bytes), (Reason, String)>;

pub async fn ask(door: &Door, path: &str, datacenter: &str, body: impl Into<Bytes>) -> Answer {
    read(door.call(request(path, datacenter, body)).await.unwrap()).await
}

pub async fn read(response: Response) -> Answer {
    let refused = |headers: &HeaderMap| {
        tonic::Status::from_header_map(headers)
            .filter(|s| s.code() != tonic::Code::Ok)
            .map(|s| (Reason::of(&s), s.message().to_owned()))
    };
    if let Some(refusal) = refused(response.headers()) {
        return Err(refusal);
    }
    let by = response.headers().get("x-answered-by").map_or("", |v| v.to_str().unwrap()).to_owned();
    let collected = response.into_body().collect().await.unwrap();
    if let Some(refusal) = collected.trailers().and_then(refused) {
        return Err(refusal);
    }
    assert!(collected.trailers().is_some_and(|t| t.contains_key("grpc-status")), "no trailers came");
    Ok((by, collected.to_bytes()))
}

/// Asks until there is an answer; how long that took.
pub async fn answered(site: &Site, datacenter: &str, within: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        match ask(&site.door(), GET, datacenter, "x").await {
            Ok(_) => return begun.elapsed(),
            Err(why) => assert!(begun.elapsed() < within, "{datacenter} from {}: {why:?}", site.plan.config.datacenter),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until it is so.
pub async fn until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !so() {
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn gateway_of(toy: &Toy, datacenter: &str) -> bool {
    toy.last_peer.lock().unwrap().as_ref().is_some_and(|p| p.verified && p.is(Role::Gateway, datacenter))
}

/// dc1 can only dial out and dials dc2; both have the link.
pub async fn linked_pair() -> (Federation, Site, Site) {
    let federation = Federation::new(&["dc1", "dc2"]);
    let two = federation.site("dc2").start().await;
    let one = federation.site("dc1").outbound_only().dials(&[two.addr()]).start().await;
    one.linked("dc2").await;
    two.linked("dc1").await;
    (federation, one, two)
}
