//! Method by policy by caller, for every row of the method table; and what is left of answers.
#![allow(clippy::disallowed_methods, reason = "tests")]

use std::collections::BTreeMap;

use causeway_proto::acl;
use causeway_proto::catalog::{
    self, Check, ListServicesRequest, Node, NodeServicesReply, NodesReply, RegisterRequest, Service,
    ServiceNodesRequest, ServicesReply,
};
use causeway_proto::command::{Command, command};
use causeway_proto::config;
use causeway_proto::coordinate;
use causeway_proto::event;
use causeway_proto::health::{self, ChecksReply};
use causeway_proto::keyring;
use causeway_proto::kv;
use causeway_proto::method::{Kind, TABLE};
use causeway_proto::operator;
use causeway_proto::query::{self, ExecuteReply, PreparedQuery, ServiceQuery};
use causeway_proto::rejection::Reason;
use causeway_proto::session;
use causeway_proto::snapshot;
use causeway_proto::status;
use causeway_proto::txn::{self, op};
use causeway_proto::view::{NamesChange, SubscribeRequest, TopicKind, ViewEvent, view_event::Change};
use prost::Message;

use super::gate::{ABSENT, Admitted, Filter, body, enter, leave};
use super::policy::{Family, Policy, Rights, Rule};
use crate::store::Store;

/// Node `n1` runs `web` and `db`, node `n2` only `db`.
fn store() -> Store {
    let store = Store::new();
    for (index, (node, service)) in [("n1", "web"), ("n1", "db"), ("n2", "db")].into_iter().enumerate() {
        let register = RegisterRequest {
            node: Some(Node { name: node.into(), address: "10.0.0.1".into(), ..Node::default() }),
            service: Some(Service { id: service.into(), name: service.into(), ..Service::default() }),
            ..RegisterRequest::default()
        };
        store.apply(index as u64 + 1, &Command { call: None, command: Some(command::Command::Register(register)) });
    }
    store
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|t| (*t).to_owned()).collect()
}

/// The policies, in the order of the table's columns, each granted to dc2 alone.
fn policies() -> Vec<(&'static str, Policy)> {
    let rule = |services: &[&str], kv: &[&str], write, methods: &[Family]| Rule {
        site: "dc2".into(),
        services: texts(services),
        kv: texts(kv),
        sessions: false,
        read: true,
        write,
        methods: methods.to_vec(),
    };
    let of = |rule| Policy { rules: Some(vec![rule]) };
    vec![
        ("nothing configured", Policy::default()),
        ("closed", Policy { rules: Some(Vec::new()) }),
        ("web, read", of(rule(&["web"], &[], false, &[]))),
        ("all services, read", of(rule(&["*"], &[], false, &[]))),
        ("all services, write", of(rule(&["*"], &[], true, &[]))),
        ("shared/, read", of(rule(&[], &["shared/"], false, &[]))),
        ("shared/, write", of(rule(&[], &["shared/"], true, &[]))),
        ("sessions, write", of(Rule { sessions: true, ..rule(&[], &[], true, &[]) })),
        ("all by health", of(rule(&["*"], &["", "shared/"], true, &[Family::Health]))),
    ]
}

fn txn_kv(verb: &str, key: &str) -> txn::TxnRequest {
    let entry = Some(kv::Entry { key: key.into(), ..kv::Entry::default() });
    txn::TxnRequest { ops: vec![txn::Op { op: Some(op::Op::Kv(txn::KvOp { verb: verb.into(), entry })) }] }
}

fn txn_service(verb: &str) -> txn::TxnRequest {
    let of = txn::ServiceOp { verb: verb.into(), node: "n1".into(), service: Some(Service::default()) };
    txn::TxnRequest { ops: vec![txn::Op { op: Some(op::Op::Service(of)) }] }
}

fn remote(service: &str) -> query::ExecuteRemoteRequest {
    let service = Some(ServiceQuery { service: service.into(), ..ServiceQuery::default() });
    query::ExecuteRemoteRequest { query: Some(PreparedQuery { service, ..PreparedQuery::default() }), limit: 0 }
}

fn view(kind: TopicKind, key: &str) -> SubscribeRequest {
    SubscribeRequest { kind: kind.into(), key: key.into() }
}

/// Method, request, and what comes of it under each policy: `p` passes untouched, `f` passes with a filter on the answer, `b` asks for
/// what does not exist instead, `d` is denied.
fn rows() -> Vec<(&'static str, bytes::Bytes, &'static str)> {
    let service_nodes = |s: &str| body(&ServiceNodesRequest { service: s.into(), ..ServiceNodesRequest::default() });
    let health = |s: &str| body(&health::ServiceHealthRequest { service: s.into(), ..Default::default() });
    let checks = |s: &str| body(&health::ServiceChecksRequest { service: s.into(), ..Default::default() });
    let put = |key: &str, verb: kv::Verb| {
        body(&kv::ApplyRequest { key: key.into(), verb: verb.into(), ..kv::ApplyRequest::default() })
    };
    let get = |key: &str| body(&kv::GetRequest { key: key.into() });
    let list = |prefix: &str| body(&kv::ListRequest { prefix: prefix.into() });
    let keys = |prefix: &str| body(&kv::KeysRequest { prefix: prefix.into(), separator: "/".into() });
    vec![
        ("acl.v1.Acl/Delete", body(&acl::DeleteRequest::default()), "pdddddddd"),
        ("acl.v1.Acl/Get", body(&acl::GetRequest::default()), "pdddddddd"),
        ("acl.v1.Acl/List", body(&acl::ListRequest::default()), "pdddddddd"),
        // Who shows a token may be told what it is.
        ("acl.v1.Acl/Own", body(&acl::OwnRequest {}), "ppppppppp"),
        ("acl.v1.Acl/Replication", body(&acl::ReplicationRequest {}), "pdddddddd"),
        ("acl.v1.Acl/Resolve", body(&acl::ResolveRequest {}), "ppppppppp"),
        ("acl.v1.Acl/Set", body(&acl::SetRequest::default()), "pdddddddd"),
        ("catalog.v1.Catalog/Deregister", body(&catalog::DeregisterRequest::default()), "pdddpdddd"),
        ("catalog.v1.Catalog/Inventory", body(&catalog::InventoryRequest::default()), "pffffffff"),
        ("catalog.v1.Catalog/ListNodes", body(&catalog::ListNodesRequest::default()), "pffffffff"),
        ("catalog.v1.Catalog/ListServices", body(&ListServicesRequest::default()), "pffffffff"),
        ("catalog.v1.Catalog/NodeServices", body(&catalog::NodeServicesRequest { node: "n1".into() }), "pffffffff"),
        ("catalog.v1.Catalog/Register", body(&RegisterRequest::default()), "pdddpdddd"),
        ("catalog.v1.Catalog/ServiceNodes", service_nodes("web"), "pbpppbbbb"),
        ("catalog.v1.Catalog/ServiceNodes", service_nodes("db"), "pbbppbbbb"),
        ("coordinate.v1.Coordinates/ListNodes", body(&coordinate::ListNodesRequest {}), "pddppdddd"),
        ("coordinate.v1.Coordinates/Node", body(&coordinate::NodeRequest { node: "n1".into() }), "pddppdddd"),
        ("coordinate.v1.Coordinates/Update", body(&coordinate::UpdateRequest::default()), "pdddpdddd"),
        ("event.v1.Events/Fire", body(&event::FireRequest::default()), "pdddpdddd"),
        ("health.v1.Health/ChecksInState", body(&health::ChecksInStateRequest::default()), "pffffffff"),
        ("health.v1.Health/NodeChecks", body(&health::NodeChecksRequest { node: "n1".into() }), "pffffffff"),
        ("health.v1.Health/ServiceChecks", checks("web"), "pbpppbbbp"),
        ("health.v1.Health/ServiceChecks", checks("db"), "pbbppbbbp"),
        ("health.v1.Health/ServiceHealth", health("WEB"), "pbpppbbbp"),
        ("health.v1.Health/ServiceHealth", health("db"), "pbbppbbbp"),
        ("keyring.v1.Keyrings/Operate", body(&keyring::OperateRequest::default()), "pdddddddd"),
        ("kv.v1.Kv/Apply", put("shared/a", kv::Verb::Set), "pdddddpdd"),
        ("kv.v1.Kv/Apply", put("shared/", kv::Verb::DeleteTree), "pdddddpdd"),
        ("kv.v1.Kv/Apply", put("", kv::Verb::DeleteTree), "pdddddddd"),
        ("kv.v1.Kv/Apply", put("other", kv::Verb::Lock), "pdddddddd"),
        ("kv.v1.Kv/Get", get("shared/a"), "pddddppdd"),
        ("kv.v1.Kv/Get", get("share"), "pdddddddd"),
        ("kv.v1.Kv/Keys", keys("shared/"), "pddddppdd"),
        ("kv.v1.Kv/Keys", keys(""), "pdddddddd"),
        ("kv.v1.Kv/List", list("shared/a/"), "pddddppdd"),
        // Part of it is exported: a list that says nothing of the rest would be taken for the whole.
        ("kv.v1.Kv/List", list("sh"), "pdddddddd"),
        ("config.v1.Config/Apply", body(&config::ApplyRequest::default()), "pdddpdddd"),
        ("config.v1.Config/List", body(&config::ListRequest::default()), "pdppppppd"),
        ("operator.v1.Operator/GetAutopilot", body(&operator::GetAutopilotRequest {}), "pdppppppd"),
        ("operator.v1.Operator/Health", body(&operator::HealthRequest {}), "pdppppppd"),
        ("operator.v1.Operator/RemovePeer", body(&operator::RemovePeerRequest::default()), "pdddddddd"),
        ("operator.v1.Operator/SetAutopilot", body(&operator::SetAutopilotRequest::default()), "pdddddddd"),
        ("operator.v1.Operator/TransferLeader", body(&operator::TransferLeaderRequest::default()), "pdddddddd"),
        ("operator.v1.Operator/Usage", body(&operator::UsageRequest {}), "pdppppppd"),
        ("query.v1.Queries/Apply", body(&query::ApplyRequest::default()), "pdddpdddd"),
        ("query.v1.Queries/Execute", body(&query::ExecuteRequest::default()), "pffffffff"),
        ("query.v1.Queries/ExecuteRemote", body(&remote("web")), "pbpppbbbb"),
        ("query.v1.Queries/ExecuteRemote", body(&remote("db")), "pbbppbbbb"),
        ("query.v1.Queries/Explain", body(&query::ExecuteRequest::default()), "pffffffff"),
        ("query.v1.Queries/Get", body(&query::GetRequest::default()), "pffffffff"),
        ("query.v1.Queries/List", body(&query::ListRequest {}), "pffffffff"),
        ("session.v1.Sessions/Create", body(&session::CreateRequest::default()), "pddddddpd"),
        ("session.v1.Sessions/Destroy", body(&session::DestroyRequest::default()), "pddddddpd"),
        ("session.v1.Sessions/Get", body(&session::GetRequest::default()), "pddddddpd"),
        ("session.v1.Sessions/List", body(&session::ListRequest::default()), "pddddddpd"),
        ("session.v1.Sessions/Renew", body(&session::RenewRequest::default()), "pddddddpd"),
        ("snapshot.v1.Snapshots/Restore", body(&snapshot::RestoreRequest::default()), "pdddddddd"),
        ("snapshot.v1.Snapshots/Save", body(&snapshot::SaveRequest {}), "pdddddddd"),
        // To whom anything is granted by every method; and what is granted to itself everyone may know.
        ("status.v1.Status/Exports", body(&status::ExportsRequest {}), "ppppppppp"),
        ("status.v1.Status/Leader", body(&status::LeaderRequest {}), "pdppppppd"),
        ("status.v1.Status/Peers", body(&status::PeersRequest {}), "pdppppppd"),
        ("status.v1.Status/RaftConfiguration", body(&status::RaftConfigurationRequest {}), "pdppppppd"),
        ("status.v1.Status/Replication", body(&status::ReplicationRequest {}), "pdppppppd"),
        ("txn.v1.Txn/Apply", body(&txn_kv("set", "shared/a")), "pdddddpdd"),
        ("txn.v1.Txn/Apply", body(&txn_kv("get", "shared/a")), "pddddppdd"),
        ("txn.v1.Txn/Apply", body(&txn_kv("set", "other")), "pdddddddd"),
        ("txn.v1.Txn/Apply", body(&txn_service("set")), "pdddpdddd"),
        ("txn.v1.Txn/Read", body(&txn_kv("get-tree", "shared/")), "pddddppdd"),
        ("txn.v1.Txn/Read", body(&txn_service("get")), "pddppdddd"),
        ("view.v1.Views/Subscribe", body(&view(TopicKind::ServiceHealth, "web")), "pbpppbbbb"),
        ("view.v1.Views/Subscribe", body(&view(TopicKind::ServiceHealth, "db")), "pbbppbbbb"),
        ("view.v1.Views/Subscribe", body(&view(TopicKind::ServiceNames, "")), "pffffffff"),
        ("view.v1.Views/Subscribe", body(&view(TopicKind::Node, "N1")), "pbpppbbbb"),
        ("view.v1.Views/Subscribe", body(&view(TopicKind::Node, "n2")), "pbbppbbbb"),
    ]
}

fn outcome(path: &str, rights: &Rights, request: &bytes::Bytes, store: &Store) -> char {
    match enter(path, rights, request, &store.state()) {
        Ok(Admitted { filter, .. }) if filter != Filter::Whole => 'f',
        Ok(Admitted { body, .. }) if body == *request => 'p',
        Ok(Admitted { body, .. }) => {
            assert!(String::from_utf8_lossy(&body).contains(ABSENT), "{path}: rewritten, but not to what is absent");
            'b'
        }
        Err(status) => {
            assert_eq!(Reason::of(&status), Reason::Denied, "{path}: {status:?}");
            assert!(status.message().starts_with("Permission denied"), "Consul's words first: {}", status.message());
            'd'
        }
    }
}

#[test]
fn every_method_by_every_policy_and_caller() {
    let store = store();
    let policies = policies();
    for (method, request, wanted) in rows() {
        let path = format!("/causeway.{method}");
        assert_eq!(wanted.len(), policies.len(), "{method}");
        let closed = wanted.chars().nth(1).unwrap();
        for ((name, policy), wanted) in policies.iter().zip(wanted.chars()) {
            // dc9 has no grant; where it takes part in asking, in whatever place, nothing more than its own rights is left.
            let stranger = if policy.rules.is_some() { closed } else { 'p' };
            for (from, wanted) in [
                ("dc2", wanted),
                ("dc1,dc2", wanted),
                ("dc9", stranger),
                ("dc2,dc9", stranger),
                ("dc9,dc2", stranger),
                ("dc1,dc9", stranger),
            ] {
                let got = outcome(&path, &policy.rights(from, "dc1"), &request, &store);
                assert_eq!(got, wanted, "{method} under {name:?} for {from}");
            }
        }
    }
}

/// A new method of the table without a row above fails here; one that the gate does not know is denied to all.
#[test]
fn no_method_is_forgotten() {
    let store = store();
    let covered: Vec<String> = rows().iter().map(|(method, ..)| format!("/causeway.{method}")).collect();
    let open = Policy::default().rights("dc2", "dc1");
    for row in TABLE {
        if row.crosses {
            assert!(covered.iter().any(|path| path == row.path), "{} crosses and is in no row", row.path);
        } else {
            assert!(enter(row.path, &open, &body(&status::StatsRequest {}), &store.state()).is_err(), "{}", row.path);
        }
        assert!(!row.crosses || !matches!(row.kind, Kind::Servers | Kind::Gateways), "{}", row.path);
    }
    for path in ["/causeway.kv.v1.Kv/New", "/other.v1.X/Y", "", "/causeway.v1."] {
        assert!(enter(path, &open, &body(&status::StatsRequest {}), &store.state()).is_err(), "{path}");
    }
}

#[test]
fn events_alone_can_be_granted() {
    let rule = |services: &[&str], write: bool, methods: &[Family]| Rule {
        site: "dc2".into(),
        services: texts(services),
        read: !write,
        write,
        methods: methods.to_vec(),
        ..Rule::default()
    };
    let store = store();
    let fire = body(&event::FireRequest::default());
    for (rule, wanted) in [
        (rule(&["*"], true, &[Family::Event]), 'p'),
        (rule(&["*"], false, &[Family::Event]), 'd'),
        (rule(&["*"], true, &[Family::Kv]), 'd'),
        (rule(&["web"], true, &[Family::Event]), 'd'),
    ] {
        let rights = Policy { rules: Some(vec![rule.clone()]) }.rights("dc2", "dc1");
        assert_eq!(outcome("/causeway.event.v1.Events/Fire", &rights, &fire, &store), wanted, "{rule:?}");
        assert_eq!(
            outcome("/causeway.catalog.v1.Catalog/Register", &rights, &body(&RegisterRequest::default()), &store),
            'd'
        );
    }
}

#[test]
fn what_cannot_be_read_is_refused_and_no_panic() {
    let rights = Policy { rules: Some(Vec::new()) }.rights("dc2", "dc1");
    let store = store();
    for bytes in [&b""[..], b"\0", b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x02\xff\xff"] {
        for path in ["/causeway.kv.v1.Kv/Get", "/causeway.txn.v1.Txn/Apply", "/causeway.view.v1.Views/Subscribe"] {
            let refused = enter(path, &rights, &bytes::Bytes::copy_from_slice(bytes), &store.state());
            assert!(refused.is_err(), "{path} {bytes:?}");
        }
    }
}

fn web() -> Rights {
    let rule = Rule { site: "dc2".into(), services: texts(&["web"]), read: true, ..Rule::default() };
    Policy { rules: Some(vec![rule]) }.rights("dc2", "dc1")
}

fn left<M: Message + Default>(filter: Filter, family: Family, answer: &impl Message) -> Result<M, tonic::Status> {
    let admitted = Admitted { body: bytes::Bytes::new(), filter, family, node: None };
    let bytes = leave(&admitted, &web(), answer.encode_to_vec().into(), &store().state())?;
    Ok(M::decode(bytes).unwrap())
}

#[test]
fn answers_lose_what_is_not_exported() {
    let node = |name: &str| Node { name: name.into(), ..Node::default() };
    let nodes = NodesReply { nodes: vec![node("n1"), node("n2"), node("n3")] };
    let left_nodes: NodesReply = left(Filter::Nodes, Family::Catalog, &nodes).unwrap();
    assert_eq!(left_nodes.nodes, [node("n1")]);

    let list = BTreeMap::from(["web", "db"].map(|name| (name.to_owned(), catalog::StringList::default())));
    let services = ServicesReply { services: list.into_iter().collect() };
    let services: ServicesReply = left(Filter::Services, Family::Catalog, &services).unwrap();
    assert_eq!(services.services.keys().collect::<Vec<_>>(), ["web"]);

    let on = |names: &[&str]| NodeServicesReply {
        node: Some(node("n1")),
        services: names.iter().map(|n| Service { name: (*n).into(), ..Service::default() }).collect(),
    };
    let of: NodeServicesReply = left(Filter::NodeServices, Family::Catalog, &on(&["db", "web"])).unwrap();
    assert_eq!((of.node.is_some(), of.services.len()), (true, 1));
    let of: NodeServicesReply = left(Filter::NodeServices, Family::Catalog, &on(&["db"])).unwrap();
    assert_eq!(of, NodeServicesReply::default(), "as if there were no such node");

    let check =
        |node: &str, service: &str| Check { node: node.into(), service_name: service.into(), ..Check::default() };
    let all = ChecksReply { checks: vec![check("n1", ""), check("n2", ""), check("n1", "web"), check("n1", "db")] };
    let checks: ChecksReply = left(Filter::Checks, Family::Health, &all).unwrap();
    assert_eq!(checks.checks, [check("n1", ""), check("n1", "web")]);

    let on = |name: &str, services: &[&str]| catalog::NodeInventory {
        node: Some(node(name)),
        services: services.iter().map(|n| Service { name: (*n).into(), ..Service::default() }).collect(),
        checks: services.iter().chain(&[""]).map(|service| check(name, service)).collect(),
    };
    let all = catalog::InventoryReply { nodes: vec![on("n1", &["db", "web"]), on("n2", &["db"]), on("n3", &[])] };
    let all: catalog::InventoryReply = left(Filter::Inventory, Family::Catalog, &all).unwrap();
    assert_eq!(all.nodes, [on("n1", &["web"])]);

    let names = NamesChange { upsert: texts(&["db", "web"]), remove: texts(&["old"]) };
    let event = ViewEvent { index: 3, reset: true, complete: true, change: Some(Change::Names(names)) };
    let event: ViewEvent = left(Filter::Names, Family::View, &event).unwrap();
    let want = NamesChange { upsert: texts(&["web"]), remove: Vec::new() };
    assert_eq!((event.reset, event.change), (true, Some(Change::Names(want))));

    let about = |service: &str| ExecuteReply { service: service.into(), ..ExecuteReply::default() };
    assert!(left::<ExecuteReply>(Filter::Execute, Family::Query, &about("web")).is_ok());
    let refused = left::<ExecuteReply>(Filter::Execute, Family::Query, &about("db")).unwrap_err();
    assert_eq!((Reason::of(&refused), refused.message()), (Reason::NotFound, "Query not found"));

    let query = |service: &str| PreparedQuery {
        name: service.into(),
        service: Some(ServiceQuery { service: service.into(), ..ServiceQuery::default() }),
        ..PreparedQuery::default()
    };
    let queries = query::QueriesReply { queries: vec![query("db"), query("web")] };
    let queries: query::QueriesReply = left(Filter::Queries, Family::Query, &queries).unwrap();
    assert_eq!(queries.queries, [query("web")]);
    let explained = query::ExplainReply { query: Some(query("db")) };
    assert!(left::<query::ExplainReply>(Filter::Explain, Family::Query, &explained).is_err());
}
