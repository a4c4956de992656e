use std::sync::Mutex;

use causeway_proto::catalog::catalog_server::{Catalog, CatalogServer};
use causeway_proto::catalog::*;
use causeway_proto::health::health_server::{Health, HealthServer};
use causeway_proto::health::{
    ChecksInStateRequest, ChecksReply, NodeChecksRequest, ServiceChecksRequest, ServiceHealthReply,
    ServiceHealthRequest,
};
use tokio::time::sleep;
use tonic::{Request, Response};

use super::*;
use crate::checks::Policy;
use crate::registry::{CheckDefinition, ServiceDefinition, Source, Status as CheckStatus};

/// A catalog of one node.
#[derive(Default)]
struct Inner {
    node: Option<Node>,
    services: BTreeMap<String, Service>,
    checks: BTreeMap<String, Check>,
    broken: bool,
    refused: Option<String>,
    writes: usize,
    tokens: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Inner>>);

type Answer<T> = Result<Response<T>, Status>;

impl Fake {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn up(&self) -> Result<std::sync::MutexGuard<'_, Inner>, Status> {
        let inner = self.inner();
        if inner.broken { Err(Reason::NoLeader.status("No cluster leader")) } else { Ok(inner) }
    }

    fn door(&self) -> Door {
        let routes = tonic::service::Routes::new(CatalogServer::new(self.clone()));
        Door::new(routes.add_service(HealthServer::new(self.clone())))
    }
}

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("not used here"))
}

#[tonic::async_trait]
impl Catalog for Fake {
    async fn summary(
        &self,
        _: tonic::Request<causeway_proto::catalog::SummaryRequest>,
    ) -> Result<tonic::Response<causeway_proto::catalog::SummaryReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("only gateways ask this"))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Answer<WriteReply> {
        let token = Meta::read(request.metadata().as_ref()).token.unwrap_or_default();
        let request = request.into_inner();
        let mut inner = self.up()?;
        inner.tokens.push(token);
        if let Some(service) = &request.service
            && inner.refused.as_ref() == Some(&service.id)
        {
            return Err(Reason::Denied.status("Permission denied"));
        }
        inner.writes += 1;
        if !request.skip_node_update {
            inner.node = request.node;
        }
        assert!(inner.node.is_some(), "the node comes first");
        inner.services.extend(request.service.map(|s| (s.id.clone(), s)));
        for check in request.checks {
            assert!(check.service_id.is_empty() || inner.services.contains_key(&check.service_id));
            inner.checks.insert(check.id.clone(), check);
        }
        Ok(Response::new(WriteReply { index: 1 }))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Answer<WriteReply> {
        let request = request.into_inner();
        let mut inner = self.up()?;
        inner.writes += 1;
        assert!(!(request.service_id.is_empty() && request.check_id.is_empty()), "that would remove the node");
        inner.services.remove(&request.service_id);
        inner.checks.remove(&request.check_id);
        inner.checks.retain(|_, c| request.service_id.is_empty() || c.service_id != request.service_id);
        Ok(Response::new(WriteReply { index: 1 }))
    }

    async fn node_services(&self, _: Request<NodeServicesRequest>) -> Answer<NodeServicesReply> {
        let inner = self.up()?;
        let services = inner.services.values().cloned().collect();
        Ok(Response::new(NodeServicesReply { node: inner.node.clone(), services }))
    }

    async fn inventory(&self, _: Request<InventoryRequest>) -> Answer<InventoryReply> {
        unused()
    }

    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<NodesReply> {
        unused()
    }

    async fn list_services(&self, _: Request<ListServicesRequest>) -> Answer<ServicesReply> {
        unused()
    }

    async fn service_nodes(&self, _: Request<ServiceNodesRequest>) -> Answer<ServiceNodesReply> {
        unused()
    }

    async fn datacenters(&self, _: Request<DatacentersRequest>) -> Answer<DatacentersReply> {
        unused()
    }
}

#[tonic::async_trait]
impl Health for Fake {
    async fn node_checks(&self, _: Request<NodeChecksRequest>) -> Answer<ChecksReply> {
        Ok(Response::new(ChecksReply { checks: self.up()?.checks.values().cloned().collect() }))
    }

    async fn service_health(&self, _: Request<ServiceHealthRequest>) -> Answer<ServiceHealthReply> {
        unused()
    }

    async fn service_checks(&self, _: Request<ServiceChecksRequest>) -> Answer<ChecksReply> {
        unused()
    }

    async fn checks_in_state(&self, _: Request<ChecksInStateRequest>) -> Answer<ChecksReply> {
        unused()
    }
}

struct Bench {
    fake: Fake,
    registry: Registry,
    sync: Sync,
    stop: CancellationToken,
}

fn info() -> NodeInfo {
    NodeInfo {
        id: "u".into(),
        name: "n1".into(),
        address: "10.0.0.1".into(),
        token: "agent".into(),
        ..NodeInfo::default()
    }
}

fn bench(fake: Fake) -> Bench {
    let registry = Registry::open(None, "n1", Policy::default()).unwrap();
    let stop = CancellationToken::new();
    let sync = Sync::start(fake.door(), registry.clone(), info(), Settings::default(), stop.clone());
    Bench { fake, registry, sync, stop }
}

impl Bench {
    /// Waits until the catalog is so; says how long that took.
    async fn until(&self, what: &str, is: impl Fn(&Inner) -> bool) -> Duration {
        let start = Instant::now();
        while !is(&self.fake.inner()) {
            assert!(start.elapsed() < Duration::from_secs(20), "never came: {what}");
            sleep(Duration::from_millis(1)).await;
        }
        start.elapsed()
    }
}

fn web(id: &str) -> ServiceDefinition {
    let check = CheckDefinition { ttl: Duration::from_secs(600), ..CheckDefinition::default() };
    let check = CheckDefinition { name: "c".into(), ..check };
    ServiceDefinition { id: id.into(), name: "web".into(), checks: vec![check], ..ServiceDefinition::default() }
}

#[tokio::test]
async fn registrations_and_health_reach_the_catalog() {
    let bench = bench(Fake::default());
    bench
        .registry
        .add_service(ServiceDefinition { token: "own".into(), ..web("w") }, Source::Api, false)
        .await
        .unwrap();
    bench.until("the service", |i| i.services.contains_key("w") && i.checks.contains_key("service:w")).await;
    bench.registry.update_ttl("service:w", CheckStatus::Passing, "ok").unwrap();
    let took = bench.until("its health", |i| i.checks["service:w"].status == "passing").await;
    assert!(took < Duration::from_millis(500), "a change of health took {took:?}");
    bench.registry.remove_service("w").await.unwrap();
    bench.until("its end", |i| i.services.is_empty() && i.checks.is_empty()).await;
    let tokens = bench.fake.inner().tokens.clone();
    assert!(tokens.contains(&"agent".to_owned()) && tokens.contains(&"own".to_owned()), "{tokens:?}");
    bench.stop.cancel();
}

#[tokio::test]
async fn an_outage_is_outlived() {
    let fake = Fake::default();
    fake.inner().broken = true;
    let bench = bench(fake);
    for i in 0..50 {
        bench.registry.add_service(web(&format!("w{i}")), Source::Api, false).await.unwrap();
    }
    assert!(!bench.sync.in_sync());
    bench.fake.inner().broken = false;
    bench.until("all of them", |i| i.services.len() == 50 && i.checks.len() == 50).await;
    let start = Instant::now();
    while !bench.sync.in_sync() {
        assert!(start.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_catalog_is_compared_again_and_again() {
    let bench = bench(Fake::default());
    bench.registry.add_service(web("w"), Source::Api, false).await.unwrap();
    while !bench.sync.in_sync() {
        sleep(Duration::from_millis(1)).await;
    }
    {
        let mut inner = bench.fake.inner();
        inner.services.clear();
        inner.checks.clear();
        inner.services.insert("stray".into(), Service { id: "stray".into(), ..Service::default() });
        inner.services.insert("consul".into(), Service { id: "consul".into(), ..Service::default() });
        inner.checks.insert("serfHealth".into(), Check { id: "serfHealth".into(), ..Check::default() });
    }
    sleep(Duration::from_secs(125)).await;
    let inner = bench.fake.inner();
    assert_eq!(inner.services.keys().collect::<Vec<_>>(), ["consul", "w"]);
    assert_eq!(inner.checks.keys().collect::<Vec<_>>(), ["serfHealth", "service:w"]);
}

#[tokio::test(start_paused = true)]
async fn output_alone_waits_and_goes_in_time() {
    let bench = bench(Fake::default());
    bench.registry.add_service(web("w"), Source::Api, false).await.unwrap();
    bench.registry.update_ttl("service:w", CheckStatus::Passing, "1").unwrap();
    while !bench.sync.in_sync() {
        sleep(Duration::from_millis(1)).await;
    }
    let writes = bench.fake.inner().writes;
    for i in 0..100 {
        bench.registry.update_ttl("service:w", CheckStatus::Passing, &format!("out {i}")).unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(bench.fake.inner().writes, writes, "not within half of five minutes");
    sleep(Duration::from_secs(360)).await;
    assert_eq!(bench.fake.inner().checks["service:w"].output, "out 99");
}

#[tokio::test(start_paused = true)]
async fn a_change_after_a_quiet_time_goes_at_once_and_what_follows_it_together() {
    let bench = bench(Fake::default());
    while !bench.sync.in_sync() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(1)).await;
    bench.registry.add_service(web("w"), Source::Api, false).await.unwrap();
    let took = bench.until("the first", |i| i.services.contains_key("w")).await;
    assert!(took < pace::DEBOUNCE / 2, "{took:?}");
    bench.registry.add_service(web("x"), Source::Api, false).await.unwrap();
    let took = bench.until("the next", |i| i.services.contains_key("x")).await;
    assert!(took >= pace::DEBOUNCE / 2, "what follows at once waits for what may follow it: {took:?}");
}

#[tokio::test]
async fn a_refused_service_does_not_hold_up_the_others() {
    let fake = Fake::default();
    fake.inner().refused = Some("bad".into());
    let bench = bench(fake);
    bench.registry.add_service(web("bad"), Source::Api, false).await.unwrap();
    bench.registry.add_service(web("good"), Source::Api, false).await.unwrap();
    bench.until("the good one", |i| i.services.contains_key("good")).await;
    bench.registry.add_service(web("good2"), Source::Api, false).await.unwrap();
    bench.until("another", |i| i.services.contains_key("good2")).await;
    assert!(!bench.fake.inner().services.contains_key("bad"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_everything_back() {
    let fake = Fake::default();
    let bench = bench(fake);
    let pause = bench.sync.pause();
    bench.registry.add_service(web("w"), Source::Api, false).await.unwrap();
    sleep(Duration::from_secs(300)).await;
    assert!(bench.fake.inner().services.is_empty());
    drop(pause);
    bench.until("the service", |i| i.services.contains_key("w")).await;
}
