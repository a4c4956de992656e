//! Fakes for tests: servers in this process with a small catalog, a key/value store that blocks, and the agent's own parts.
#![allow(clippy::disallowed_methods, reason = "tests start tasks")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_proto::catalog::catalog_server::{Catalog, CatalogServer};
use causeway_proto::catalog::{self, Check, Node, Service, ServiceHealth, ServiceNode, StringList, Weights};
use causeway_proto::door::Door;
use causeway_proto::event::events_server::{Events, EventsServer};
use causeway_proto::event::{FireReply, FireRequest};
use causeway_proto::health::health_server::{Health, HealthServer};
use causeway_proto::health::{self};
use causeway_proto::kv::kv_server::{Kv, KvServer};
use causeway_proto::kv::{self, Entry, Verb};
use causeway_proto::member::{Member, MemberStatus, Members};
use causeway_proto::meta::{AnswerMeta, Meta};
use causeway_proto::rejection::{NO_PATH, Reason};
use causeway_proto::session::sessions_server::{Sessions, SessionsServer};
use causeway_proto::session::{self, Session, SessionsReply};
use causeway_proto::status::status_server::StatusServer;
use causeway_proto::status::{self};
use causeway_proto::txn::txn_server::{Txn, TxnServer};
use causeway_proto::txn::{self};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::access::Access;
use super::figures::Figures;
use super::kept::Kept;
use super::naming::Naming;
use super::ports::{
    BodyLimits, CachedReads, CachedService, Context, Info, Local, LocalMembers, LocalRegistry, PortError, Setting,
};
use crate::registry::definition::{self, CheckDefinition, ServiceDefinition};

pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn ext_node() -> Node {
    Node {
        name: "ext".into(),
        address: "192.0.2.1".into(),
        meta: map(&[("a", "b")]),
        create_index: 60,
        modify_index: 60,
        ..Node::default()
    }
}

pub(crate) fn ext_service() -> Service {
    Service {
        id: "e1".into(),
        name: "exts".into(),
        tags: vec!["t".into()],
        address: "192.0.2.9".into(),
        port: 5,
        meta: map(&[("m", "1")]),
        weights: Some(Weights { passing: 1, warning: 1 }),
        create_index: 60,
        modify_index: 60,
        ..Service::default()
    }
}

pub(crate) fn ext_check() -> Check {
    Check {
        node: "ext".into(),
        id: "service:e1".into(),
        name: "chk".into(),
        status: "passing".into(),
        service_id: "e1".into(),
        service_name: "exts".into(),
        service_tags: vec!["t".into()],
        r#type: "tcp".into(),
        definition: Some(catalog::CheckDefinition { tcp: "a:1".into(), interval_ms: 5000, ..Default::default() }),
        create_index: 60,
        modify_index: 60,
        ..Check::default()
    }
}

/// The servers: what they were asked, and the key/value store.
#[derive(Clone)]
pub(crate) struct Servers {
    pub(crate) seen: Arc<Mutex<Vec<Meta>>>,
    pub(crate) registered: Arc<Mutex<Vec<catalog::RegisterRequest>>>,
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
    index: watch::Sender<u64>,
    /// Reads that wait for a change.
    pub(crate) blocked: Arc<AtomicUsize>,
}

/// Counts a blocked read for as long as its future lives.
struct Blocked(Arc<AtomicUsize>);

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Servers {
    pub(crate) fn new() -> Self {
        Self {
            seen: Arc::default(),
            registered: Arc::default(),
            entries: Arc::default(),
            index: watch::channel(60).0,
            blocked: Arc::default(),
        }
    }

    pub(crate) fn door(&self) -> Door {
        let routes = tonic::service::Routes::new(CatalogServer::new(self.clone()))
            .add_service(HealthServer::new(self.clone()))
            .add_service(KvServer::new(self.clone()).max_decoding_message_size(1 << 30))
            .add_service(SessionsServer::new(self.clone()))
            .add_service(TxnServer::new(self.clone()))
            .add_service(EventsServer::new(self.clone()))
            .add_service(StatusServer::new(self.clone()));
        Door::new(routes)
    }

    /// Notes the call; other datacenters are not there.
    fn note<T>(&self, request: &Request<T>) -> Result<Meta, Status> {
        let meta = Meta::read(request.metadata().as_ref());
        self.seen.lock().unwrap().push(meta.clone());
        match meta.datacenter.as_deref() {
            None => Ok(meta),
            Some("mute") => Err(Reason::NoLeader.status("No cluster leader")),
            Some(_) => Err(Reason::NoPath.status(NO_PATH)),
        }
    }

    async fn settled(&self, meta: &Meta) {
        let mut index = self.index.subscribe();
        if meta.min_index > 0 {
            self.blocked.fetch_add(1, Ordering::SeqCst);
            let _blocked = Blocked(Arc::clone(&self.blocked));
            let _ = tokio::time::timeout(meta.wait_time(0.0), index.wait_for(|i| *i > meta.min_index)).await;
        }
    }

    fn answer<T>(&self, message: T) -> Response<T> {
        AnswerMeta { index: *self.index.borrow(), known_leader: true, ..AnswerMeta::default() }.response(message)
    }
}

#[tonic::async_trait]
impl Catalog for Servers {
    async fn summary(
        &self,
        _: tonic::Request<causeway_proto::catalog::SummaryRequest>,
    ) -> Result<tonic::Response<causeway_proto::catalog::SummaryReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("only gateways ask this"))
    }

    async fn register(&self, r: Request<catalog::RegisterRequest>) -> Result<Response<catalog::WriteReply>, Status> {
        self.note(&r)?;
        self.registered.lock().unwrap().push(r.into_inner());
        Ok(self.answer(catalog::WriteReply { index: 61 }))
    }
    async fn deregister(
        &self,
        r: Request<catalog::DeregisterRequest>,
    ) -> Result<Response<catalog::WriteReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(catalog::WriteReply { index: 61 }))
    }
    async fn list_nodes(&self, r: Request<catalog::ListNodesRequest>) -> Result<Response<catalog::NodesReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(catalog::NodesReply { nodes: vec![ext_node()] }))
    }
    async fn list_services(
        &self,
        r: Request<catalog::ListServicesRequest>,
    ) -> Result<Response<catalog::ServicesReply>, Status> {
        self.note(&r)?;
        let list = |values: &[&str]| StringList { values: values.iter().map(|v| (*v).to_owned()).collect() };
        let services = BTreeMap::from([("consul".to_owned(), list(&[])), ("exts".to_owned(), list(&["t"]))]);
        Ok(self.answer(catalog::ServicesReply { services }))
    }
    async fn service_nodes(
        &self,
        r: Request<catalog::ServiceNodesRequest>,
    ) -> Result<Response<catalog::ServiceNodesReply>, Status> {
        self.note(&r)?;
        let found = r.get_ref().service == "exts" && r.get_ref().tags.iter().all(|t| t == "t");
        let entry = ServiceNode { node: Some(ext_node()), service: Some(ext_service()) };
        Ok(self.answer(catalog::ServiceNodesReply { instances: found.then_some(entry).into_iter().collect() }))
    }
    async fn node_services(
        &self,
        r: Request<catalog::NodeServicesRequest>,
    ) -> Result<Response<catalog::NodeServicesReply>, Status> {
        self.note(&r)?;
        let reply = if r.get_ref().node == "ext" {
            catalog::NodeServicesReply { node: Some(ext_node()), services: vec![ext_service()] }
        } else {
            catalog::NodeServicesReply::default()
        };
        Ok(self.answer(reply))
    }
    async fn inventory(
        &self,
        r: Request<catalog::InventoryRequest>,
    ) -> Result<Response<catalog::InventoryReply>, Status> {
        self.note(&r)?;
        let found = ["", "ext"].contains(&r.get_ref().node.as_str());
        let node =
            || catalog::NodeInventory { node: Some(ext_node()), services: vec![ext_service()], checks: Vec::new() };
        Ok(self.answer(catalog::InventoryReply { nodes: found.then(node).into_iter().collect() }))
    }
    async fn datacenters(
        &self,
        r: Request<catalog::DatacentersRequest>,
    ) -> Result<Response<catalog::DatacentersReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(catalog::DatacentersReply { datacenters: vec!["dc1".into(), "dc3".into(), "dc2".into()] }))
    }
}

#[tonic::async_trait]
impl Health for Servers {
    async fn service_health(
        &self,
        r: Request<health::ServiceHealthRequest>,
    ) -> Result<Response<health::ServiceHealthReply>, Status> {
        let meta = self.note(&r)?;
        self.settled(&meta).await;
        let entry = ServiceHealth { node: Some(ext_node()), service: Some(ext_service()), checks: vec![ext_check()] };
        let found = r.get_ref().service == "exts";
        let many = if r.get_ref().service == "many" { 200 } else { usize::from(found) };
        Ok(self.answer(health::ServiceHealthReply { instances: vec![entry; many] }))
    }
    async fn node_checks(
        &self,
        r: Request<health::NodeChecksRequest>,
    ) -> Result<Response<health::ChecksReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(health::ChecksReply { checks: vec![ext_check()] }))
    }
    async fn service_checks(
        &self,
        r: Request<health::ServiceChecksRequest>,
    ) -> Result<Response<health::ChecksReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(health::ChecksReply { checks: vec![ext_check()] }))
    }
    async fn checks_in_state(
        &self,
        r: Request<health::ChecksInStateRequest>,
    ) -> Result<Response<health::ChecksReply>, Status> {
        self.note(&r)?;
        let any = r.get_ref().state == "any";
        Ok(self.answer(health::ChecksReply { checks: any.then(ext_check).into_iter().collect() }))
    }
}

#[tonic::async_trait]
impl Kv for Servers {
    async fn apply(&self, r: Request<kv::ApplyRequest>) -> Result<Response<kv::ApplyReply>, Status> {
        self.note(&r)?;
        let request = r.into_inner();
        let mut entries = self.entries.lock().unwrap();
        let known = entries.get(&request.key).map_or(0, |e| e.modify_index);
        let index = *self.index.borrow() + 1;
        let done = match request.verb() {
            Verb::Cas | Verb::DeleteCas => known == request.index,
            Verb::Lock | Verb::Unlock => {
                return Err(Reason::Refused.status(format!("invalid session {:?}", request.session)));
            }
            _ => true,
        };
        if done {
            match request.verb() {
                Verb::DeleteTree => entries.retain(|key, _| !key.starts_with(&request.key)),
                Verb::Delete | Verb::DeleteCas => {
                    entries.remove(&request.key);
                }
                _ => {
                    let entry = Entry {
                        key: request.key.clone(),
                        value: request.value,
                        flags: request.flags,
                        create_index: entries.get(&request.key).map_or(index, |e| e.create_index),
                        modify_index: index,
                        ..Entry::default()
                    };
                    entries.insert(request.key, entry);
                }
            }
            self.index.send_replace(index);
        }
        Ok(self.answer(kv::ApplyReply { done, index }))
    }
    async fn get(&self, r: Request<kv::GetRequest>) -> Result<Response<kv::GetReply>, Status> {
        let meta = self.note(&r)?;
        self.settled(&meta).await;
        let entry = self.entries.lock().unwrap().get(&r.get_ref().key).cloned();
        Ok(self.answer(kv::GetReply { entry }))
    }
    async fn list(&self, r: Request<kv::ListRequest>) -> Result<Response<kv::ListReply>, Status> {
        self.note(&r)?;
        let entries = self.entries.lock().unwrap();
        let entries = entries.values().filter(|e| e.key.starts_with(&r.get_ref().prefix)).cloned().collect();
        Ok(self.answer(kv::ListReply { entries }))
    }
    async fn keys(&self, r: Request<kv::KeysRequest>) -> Result<Response<kv::KeysReply>, Status> {
        self.note(&r)?;
        let entries = self.entries.lock().unwrap();
        let keys = entries.keys().filter(|key| key.starts_with(&r.get_ref().prefix)).cloned().collect();
        Ok(self.answer(kv::KeysReply { keys }))
    }
}

pub(crate) const SESSION: &str = "a108edd5-0ebc-9ae5-40ef-28bbb287887c";

fn one_session() -> SessionsReply {
    SessionsReply {
        sessions: vec![Session {
            id: SESSION.into(),
            name: "s".into(),
            node: "s1".into(),
            lock_delay_ms: 15_000,
            behavior: "release".into(),
            ttl_ms: 10_000,
            node_checks: vec!["serfHealth".into()],
            create_index: 68,
            modify_index: 68,
            ..Session::default()
        }],
    }
}

#[tonic::async_trait]
impl Sessions for Servers {
    async fn create(&self, r: Request<session::CreateRequest>) -> Result<Response<session::CreateReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(session::CreateReply { id: SESSION.into() }))
    }
    async fn destroy(&self, r: Request<session::DestroyRequest>) -> Result<Response<session::DestroyReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(session::DestroyReply {}))
    }
    async fn renew(&self, r: Request<session::RenewRequest>) -> Result<Response<SessionsReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(if r.get_ref().id == SESSION { one_session() } else { SessionsReply::default() }))
    }
    async fn get(&self, r: Request<session::GetRequest>) -> Result<Response<SessionsReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(if r.get_ref().id == SESSION { one_session() } else { SessionsReply::default() }))
    }
    async fn list(&self, r: Request<session::ListRequest>) -> Result<Response<SessionsReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(one_session()))
    }
}

#[tonic::async_trait]
impl Txn for Servers {
    async fn apply(&self, r: Request<txn::TxnRequest>) -> Result<Response<txn::TxnReply>, Status> {
        self.note(&r)?;
        let entry = Entry { key: "t1".into(), create_index: 77, modify_index: 77, ..Entry::default() };
        let results = vec![
            txn::Result { result: Some(txn::result::Result::Kv(entry.clone())) },
            txn::Result { result: Some(txn::result::Result::Kv(Entry { value: b"v".to_vec(), ..entry })) },
        ];
        Ok(self.answer(txn::TxnReply { results, errors: Vec::new(), index: 77 }))
    }
    async fn read(&self, r: Request<txn::TxnRequest>) -> Result<Response<txn::TxnReply>, Status> {
        self.note(&r)?;
        let errors = vec![txn::OpError { op_index: 0, what: "unknown KV verb \"bogus\"".into() }];
        Ok(self.answer(txn::TxnReply { results: Vec::new(), errors, index: 0 }))
    }
}

#[tonic::async_trait]
impl causeway_proto::status::status_server::Status for Servers {
    async fn leader(&self, r: Request<status::LeaderRequest>) -> Result<Response<status::LeaderReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(status::LeaderReply { address: "127.0.0.1:18300".into() }))
    }
    async fn exports(&self, r: Request<status::ExportsRequest>) -> Result<Response<status::ExportsReply>, Status> {
        self.note(&r)?;
        let rule = status::ExportRule {
            site: "dc2".into(),
            services: vec!["web".into()],
            kv: vec![String::new()],
            operations: vec!["read".into()],
            ..status::ExportRule::default()
        };
        Ok(self.answer(status::ExportsReply { datacenter: "dc1".into(), open: false, rules: vec![rule] }))
    }
    async fn replication(
        &self,
        r: Request<status::ReplicationRequest>,
    ) -> Result<Response<status::ReplicationReply>, Status> {
        self.note(&r)?;
        let copy = |state: &str, index| status::Replication {
            from: "dc2".into(),
            source: "a/".into(),
            target: "b/".into(),
            state: state.into(),
            index,
            lag_ms: 1500,
            ..status::Replication::default()
        };
        let copies = vec![copy("in-sync", 7), copy("", 0)];
        Ok(self.answer(status::ReplicationReply { datacenter: "dc1".into(), copies }))
    }
    async fn peers(&self, r: Request<status::PeersRequest>) -> Result<Response<status::PeersReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(status::PeersReply { addresses: vec!["127.0.0.1:18300".into()] }))
    }
    async fn raft_configuration(
        &self,
        r: Request<status::RaftConfigurationRequest>,
    ) -> Result<Response<status::RaftConfigurationReply>, Status> {
        self.note(&r)?;
        let server = status::RaftServer {
            id: "88133ad3".into(),
            node: "s1".into(),
            address: "127.0.0.1:18300".into(),
            leader: true,
            voter: true,
        };
        Ok(self.answer(status::RaftConfigurationReply { servers: vec![server], index: 0 }))
    }
    async fn stats(&self, _: Request<status::StatsRequest>) -> Result<Response<status::StatsReply>, Status> {
        Ok(self.answer(status::StatsReply {
            raft: map(&[("state", "Leader")]),
            store: BTreeMap::new(),
            last_contact_us: 0,
        }))
    }
}

#[tonic::async_trait]
impl Events for Servers {
    async fn fire(&self, r: Request<FireRequest>) -> Result<Response<FireReply>, Status> {
        self.note(&r)?;
        Ok(self.answer(FireReply {}))
    }
}

/// A registry that keeps what it is given and shows it, without checking it.
pub(crate) struct FakeRegistry {
    local: watch::Sender<Arc<Local>>,
}

impl FakeRegistry {
    fn new() -> Self {
        Self { local: watch::channel(Arc::default()).0 }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Local)) {
        self.local.send_modify(|local| change(Arc::make_mut(local)));
    }

    fn put_check(local: &mut Local, id: &str, service: Option<&ServiceDefinition>, d: &CheckDefinition) {
        let check = Check {
            node: "s1".into(),
            id: id.to_owned(),
            name: match service {
                Some(service) if d.name.is_empty() => format!("Service '{}' check", service.name),
                _ => d.name.clone(),
            },
            status: d.status.unwrap_or_default().as_str().into(),
            service_id: service.map(|s| s.id.clone()).unwrap_or_default(),
            service_name: service.map(|s| s.name.clone()).unwrap_or_default(),
            r#type: d.kind.type_name().into(),
            ..Check::default()
        };
        local.checks.insert(id.to_owned(), Arc::new(check));
    }
}

impl LocalRegistry for FakeRegistry {
    fn snapshot(&self) -> Arc<Local> {
        Arc::clone(&self.local.borrow())
    }
    fn changed(&self) -> BoxFuture<'static, ()> {
        let mut local = self.local.subscribe();
        Box::pin(async move {
            let _ = local.changed().await;
        })
    }
    fn add_service(&self, mut d: ServiceDefinition, _: bool) -> BoxFuture<'_, Result<(), PortError>> {
        if d.id.is_empty() {
            d.id.clone_from(&d.name);
        }
        let service = Service {
            id: d.id.clone(),
            name: d.name.clone(),
            tags: d.tags.clone(),
            address: d.address.clone(),
            port: d.port,
            tagged_addresses: d.tagged_addresses.clone(),
            meta: d.meta.clone(),
            enable_tag_override: d.enable_tag_override,
            ..Service::default()
        };
        self.change(|local| {
            local.services.insert(d.id.clone(), Arc::new(service));
            for check in &d.checks {
                Self::put_check(local, &format!("service:{}", d.id), Some(&d), check);
            }
        });
        Box::pin(async { Ok(()) })
    }
    fn remove_service(&self, id: String) -> BoxFuture<'_, Result<(), PortError>> {
        self.change(|local| {
            local.services.remove(&id);
            local.checks.retain(|_, check| check.service_id != id);
        });
        Box::pin(async { Ok(()) })
    }
    fn add_check(&self, d: CheckDefinition) -> BoxFuture<'_, Result<(), PortError>> {
        let missing = !d.service_id.is_empty() && !self.snapshot().services.contains_key(&d.service_id);
        if !missing {
            let id = if d.id.is_empty() { d.name.clone() } else { d.id.clone() };
            self.change(|local| Self::put_check(local, &id, None, &d));
        }
        Box::pin(async move {
            if missing {
                Err(PortError::Failed(format!("ServiceID {:?} does not exist", d.service_id)))
            } else {
                Ok(())
            }
        })
    }
    fn remove_check(&self, id: String) -> BoxFuture<'_, Result<(), PortError>> {
        self.change(|local| {
            local.checks.remove(&id);
        });
        Box::pin(async { Ok(()) })
    }
    fn update_ttl(
        &self,
        id: String,
        status: definition::Status,
        output: String,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        let mut found = false;
        self.change(|local| {
            if let Some(check) = local.checks.get_mut(&id) {
                found = true;
                let check = Arc::make_mut(check);
                check.status = status.as_str().into();
                check.output = output;
            }
        });
        Box::pin(async move {
            if found { Ok(()) } else { Err(PortError::Failed(format!("CheckID {id:?} does not have associated TTL"))) }
        })
    }
    fn node_maintenance(&self, reason: Option<String>) -> BoxFuture<'_, Result<(), PortError>> {
        self.change(|local| match reason {
            Some(_) => Self::put_check(local, "_node_maintenance", None, &CheckDefinition::default()),
            None => {
                local.checks.remove("_node_maintenance");
            }
        });
        Box::pin(async { Ok(()) })
    }
    fn service_maintenance(&self, _: String, _: Option<String>) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async { Ok(()) })
    }
}

struct FakeMembers;

impl LocalMembers for FakeMembers {
    fn members(&self) -> Members {
        Arc::new(vec![Member {
            name: "s1".into(),
            addr: ([127, 0, 0, 1], 18301).into(),
            tags: map(&[("role", "consul"), ("dc", "dc1"), ("port", "18300"), ("build", "1.8.7:")]),
            status: MemberStatus::Alive,
        }])
    }
    fn join(&self, addresses: Vec<String>, _: Duration) -> BoxFuture<'_, Result<usize, PortError>> {
        let address = addresses.concat();
        Box::pin(async move { Err(PortError::Failed(format!("Failed to join {address}: connection refused"))) })
    }
    fn force_leave(&self, _: String, _: bool) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async { Ok(()) })
    }
    fn coordinate(&self) -> Option<causeway_proto::coordinate::Coordinate> {
        Some(causeway_proto::vivaldi::unknown())
    }
    fn stats(&self) -> BTreeMap<String, String> {
        map(&[("members", "1")])
    }
}

struct FakeViews;

impl CachedReads for FakeViews {
    fn service<'a>(
        &'a self,
        _: Option<&'a str>,
        name: &'a str,
        _: Option<&'a str>,
        _: Duration,
    ) -> BoxFuture<'a, Result<CachedService, Status>> {
        let entry = ServiceHealth { node: Some(ext_node()), service: Some(ext_service()), checks: vec![ext_check()] };
        let age = (name == "old").then_some(Duration::from_secs(7));
        Box::pin(async move {
            let down = age.map(|_| Reason::Unreachable);
            Ok(CachedService { instances: vec![Arc::new(entry)], index: 60, age, down, hit: true })
        })
    }
}

/// A context around fakes.
pub(crate) fn context(servers: &Servers) -> (Context, Arc<FakeRegistry>) {
    let registry = Arc::new(FakeRegistry::new());
    let info = Info {
        node_name: "s1".into(),
        node_id: "88133ad3-f8d9-e86f-d3f8-ea3a36ae09aa".into(),
        datacenter: "dc1".into(),
        server: true,
        version: "1.8.7".into(),
        debug_config: vec![("DNSPort".into(), Setting::Int(8600)), ("ACLToken".into(), Setting::Text("hidden".into()))],
        ..Info::default()
    };
    let context = Context {
        door: servers.door(),
        memory: None,
        acls: None,
        tokens: None,
        registry: registry.clone(),
        members: Arc::new(FakeMembers),
        views: Some(Arc::new(FakeViews)),
        events: crate::events::tests::agent(&crate::events::tests::Echo::new()),
        failover: None,
        federation: None,
        info: Arc::new(info),
        reload: Arc::new(|| Box::pin(async { Ok(()) })),
        leave: Arc::new(|| Box::pin(async { Ok(()) })),
        metrics: Some(Arc::new(Figures::new(Arc::new(|| "# TYPE a gauge\na 1\n".to_owned()), Naming::default(), 0))),
        prometheus: true,
        translate_wan_addrs: false,
        reads: super::ports::Reads::default(),
        any_character: false,
        response_headers: Vec::new(),
        access: Access::default(),
        monitor: None,
        kept: Kept::default(),
        body_limits: BodyLimits::default(),
    };
    (context, registry)
}
