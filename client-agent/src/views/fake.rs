//! A catalog in memory that serves views, for tests.
#![allow(clippy::disallowed_methods, reason = "a test's clock and tasks")]
#![cfg_attr(fuzzing, allow(dead_code, reason = "the doors of fuzz/ use a part of it"))]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_proto::catalog::catalog_server::{Catalog, CatalogServer};
use causeway_proto::catalog::*;
use causeway_proto::door::Door;
use causeway_proto::meta::Meta;
use causeway_proto::rejection::Reason;
use causeway_proto::view::view_event::Change;
use causeway_proto::view::views_server::{Views as ViewsService, ViewsServer};
use causeway_proto::view::{
    Heartbeat, NamesChange, NodeChange, ServiceHealthChange, SubscribeRequest, TopicKind, ViewEvent,
};
use tonic::{Request, Response, Status};

#[derive(Default)]
pub(crate) struct World {
    /// By datacenter, then node and service id.
    pub(crate) instances: BTreeMap<String, BTreeMap<(String, String), ServiceHealth>>,
    pub(crate) refuse: BTreeMap<String, Reason>,
    pub(crate) mute: bool,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) version: Arc<tokio::sync::watch::Sender<u64>>,
    /// Raised to break every stream.
    pub(crate) breaks: Arc<tokio::sync::watch::Sender<u64>>,
    pub(crate) streams: Arc<AtomicUsize>,
}

pub(crate) fn instance(node: &str, address: &str, id: &str, name: &str, port: i32) -> ServiceHealth {
    ServiceHealth {
        node: Some(Node { name: node.into(), address: address.into(), ..Node::default() }),
        service: Some(Service { id: id.into(), name: name.into(), port, ..Service::default() }),
        checks: vec![],
    }
}

pub(crate) fn check(status: &str) -> Check {
    Check { status: status.into(), ..Check::default() }
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            world: Arc::default(),
            version: Arc::new(tokio::sync::watch::Sender::new(1)),
            breaks: Arc::new(tokio::sync::watch::Sender::new(0)),
            streams: Arc::default(),
        }
    }

    pub(crate) fn door(&self) -> Door {
        Door::new(
            tonic::service::Routes::new(ViewsServer::new(self.clone())).add_service(CatalogServer::new(self.clone())),
        )
    }

    pub(crate) fn put(&self, dc: &str, instance: ServiceHealth) {
        let key = (instance.node.as_ref().unwrap().name.clone(), instance.service.as_ref().unwrap().id.clone());
        self.world.lock().unwrap().instances.entry(dc.into()).or_default().insert(key, instance);
        self.version.send_modify(|v| *v += 1);
    }

    pub(crate) fn remove(&self, dc: &str, node: &str, id: &str) {
        self.world.lock().unwrap().instances.get_mut(dc).unwrap().remove(&(node.to_owned(), id.to_owned()));
        self.version.send_modify(|v| *v += 1);
    }

    pub(crate) fn refuse(&self, dc: &str, reason: Option<Reason>) {
        let mut world = self.world.lock().unwrap();
        match reason {
            Some(reason) => world.refuse.insert(dc.into(), reason),
            None => world.refuse.remove(dc),
        };
        drop(world);
        self.breaks.send_modify(|b| *b += 1);
    }

    fn change(&self, dc: &str, kind: TopicKind, key: &str) -> Change {
        let world = self.world.lock().unwrap();
        let all: Vec<&ServiceHealth> = world.instances.get(dc).into_iter().flat_map(|i| i.values()).collect();
        let name = |i: &ServiceHealth| i.service.as_ref().unwrap().name.clone();
        match kind {
            TopicKind::ServiceHealth => {
                let upsert = all.into_iter().filter(|i| name(i) == key).cloned().collect();
                Change::ServiceHealth(ServiceHealthChange { upsert, remove: vec![] })
            }
            TopicKind::Node => {
                let node = all.iter().filter_map(|i| i.node.as_ref()).find(|n| n.name.eq_ignore_ascii_case(key));
                Change::Node(NodeChange { node: node.cloned() })
            }
            _ => Change::Names(NamesChange { upsert: all.into_iter().map(name).collect(), remove: vec![] }),
        }
    }
}

type Events = Pin<Box<dyn futures::Stream<Item = Result<ViewEvent, Status>> + Send>>;

#[tonic::async_trait]
impl ViewsService for Fake {
    type SubscribeStream = Events;

    /// Sends the whole topic anew with each change, as a snapshot.
    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Events>, Status> {
        let meta = Meta::read(request.metadata().as_ref());
        let dc = meta.datacenter.unwrap_or_else(|| "dc1".into());
        self.streams.fetch_add(1, Ordering::SeqCst);
        let reason = self.world.lock().unwrap().refuse.get(&dc).copied();
        if let Some(reason) = reason {
            return Err(reason.status("refused by the test"));
        }
        let request = request.into_inner();
        let (fake, kind) = (self.clone(), request.kind());
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let mut version = self.version.subscribe();
        let mut breaks = self.breaks.subscribe();
        breaks.mark_unchanged();
        tokio::spawn(async move {
            version.mark_changed();
            let mut beat = tokio::time::interval(Duration::from_millis(500));
            loop {
                let event = tokio::select! {
                    biased;
                    _ = breaks.changed() => return,
                    () = sender.closed() => return,
                    _ = version.changed() => ViewEvent {
                        index: *version.borrow_and_update(),
                        reset: true,
                        complete: true,
                        change: Some(fake.change(&dc, kind, &request.key)),
                    },
                    _ = beat.tick() => ViewEvent {
                        change: Some(Change::Heartbeat(Heartbeat::default())),
                        ..ViewEvent::default()
                    },
                };
                if fake.world.lock().unwrap().mute {
                    continue;
                }
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Catalog for Fake {
    async fn summary(
        &self,
        _: tonic::Request<causeway_proto::catalog::SummaryRequest>,
    ) -> Result<tonic::Response<causeway_proto::catalog::SummaryReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("only gateways ask this"))
    }

    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Result<Response<NodesReply>, Status> {
        let world = self.world.lock().unwrap();
        let nodes = world.instances.get("dc1").into_iter().flat_map(|i| i.values()).filter_map(|i| i.node.clone());
        Ok(Response::new(NodesReply { nodes: nodes.collect() }))
    }
    async fn service_nodes(
        &self,
        request: Request<ServiceNodesRequest>,
    ) -> Result<Response<ServiceNodesReply>, Status> {
        let name = request.into_inner().service;
        let world = self.world.lock().unwrap();
        let all = world.instances.get("dc1").into_iter().flat_map(|i| i.values());
        let of = all.filter(|i| i.service.as_ref().unwrap().name == name);
        let instances = of.map(|i| ServiceNode { node: i.node.clone(), service: i.service.clone() }).collect();
        Ok(Response::new(ServiceNodesReply { instances }))
    }
    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<WriteReply>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn deregister(&self, _: Request<DeregisterRequest>) -> Result<Response<WriteReply>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn list_services(&self, _: Request<ListServicesRequest>) -> Result<Response<ServicesReply>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn inventory(&self, _: Request<InventoryRequest>) -> Result<Response<InventoryReply>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn node_services(&self, _: Request<NodeServicesRequest>) -> Result<Response<NodeServicesReply>, Status> {
        Err(Status::unimplemented("test"))
    }
    async fn datacenters(&self, _: Request<DatacentersRequest>) -> Result<Response<DatacentersReply>, Status> {
        Err(Status::unimplemented("test"))
    }
}
