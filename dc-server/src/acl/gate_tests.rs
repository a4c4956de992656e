//! What each method needs, tried.

use causeway_proto::access::{DefaultPolicy, Ruleset};
use causeway_proto::catalog::{Node, Service, ServiceNode};
use causeway_proto::command::{Command, command};
use causeway_proto::kv::{Entry as KvEntry, GetRequest as KvGet, ListReply};
use causeway_proto::method;
use causeway_proto::view::{NamesChange, NodeChange, ServiceHealthChange};

use super::*;
use crate::store::Store;

fn who(rules: &str) -> Authorizer {
    Authorizer::new(&Ruleset::parse(rules).unwrap(), DefaultPolicy::Deny)
}

fn node(name: &str) -> Node {
    Node { name: name.into(), address: "127.0.0.1".into(), ..Node::default() }
}

fn service(id: &str, name: &str) -> Service {
    Service { id: id.into(), name: name.into(), ..Service::default() }
}

/// Node `n` with service `web` (ID `w`), and a check of the node.
fn state() -> std::sync::Arc<State> {
    let store = Store::new();
    let check = Check { node: "n".into(), id: "c".into(), status: "passing".into(), ..Check::default() };
    let register = RegisterRequest {
        node: Some(node("n")),
        service: Some(service("w", "web")),
        checks: vec![check],
        skip_node_update: false,
    };
    store.apply(2, &Command { call: None, command: Some(command::Command::Register(register)) });
    store.state()
}

fn enter_with(need: Need, rules: &str, request: &impl Message) -> Result<Entry, String> {
    enter(need, &who(rules), &body(request), &state(), false).map_err(|status| status.message().to_owned())
}

/// The table is the gate: a method that is not in it would be refused, and one that is in it must be one that there is.
#[test]
fn every_method_has_its_row() {
    let methods: Vec<_> = method::TABLE.iter().map(|row| row.path).collect();
    let rows: Vec<_> = TABLE.iter().map(|(path, _)| *path).collect();
    assert_eq!(methods, rows);
    assert_eq!(need("/causeway.kv.v1.Kv/New"), None);
    assert_eq!(need("/causeway.kv.v1.Kv/Get"), Some(Need::KvGet));
}

/// What is open to everybody, to be looked at when it changes.
#[test]
fn few_methods_need_nothing() {
    let open: Vec<_> = TABLE.iter().filter(|(_, need)| *need == Need::Open).map(|(path, _)| *path).collect();
    let between = |path: &&&str| !path.contains(".raft.") && !path.contains(".federation.");
    let open: Vec<_> = open.iter().filter(between).map(|path| path.rsplit('.').next().unwrap()).collect();
    assert_eq!(
        open,
        [
            "Acl/Bootstrap",
            "Acl/Own",
            "Acl/Replication",
            "Acl/Resolve",
            "Catalog/Datacenters",
            "Catalog/Summary",
            "Coordinates/Datacenters",
            "Signing/Sign",
            "Status/Exports",
            "Status/Leader",
            "Status/Peers",
            "Status/RaftConfiguration",
            "Status/Stats",
        ]
    );
}

/// Nobody without rules gets further than to a filtered answer, whatever the method and the request.
#[test]
fn without_rules_nothing_is_written_and_nothing_seen_whole() {
    let nobody = who("");
    for (path, need) in TABLE {
        if *need == Need::Open {
            continue;
        }
        // A request of each kind that names something where it names anything.
        let requests = [
            body(&kv::ApplyRequest { key: "a".into(), verb: kv::Verb::Set.into(), ..Default::default() }),
            Bytes::from_static(&[0, 0, 0, 0, 0]),
        ];
        for request in requests {
            let entry = enter(*need, &nobody, &request, &state(), true);
            let method = method::find(path).unwrap();
            let named = !matches!(
                need,
                Need::CoordinateUpdate
                    | Need::SessionCreate
                    | Need::SessionDestroy
                    | Need::SessionRenew
                    | Need::QueryApply
                    | Need::Txn
            );
            match entry {
                Ok(Entry::Whole) if named => panic!("{path} is open"),
                Ok(Entry::Part(_)) if named && method.kind == method::Kind::Write => panic!("{path} is written"),
                _ => {}
            }
        }
    }
}

#[test]
fn keys() {
    let read = "key \"a\" { policy = \"read\" }";
    let get = KvGet { key: "a".into() };
    assert_eq!(enter_with(Need::KvGet, read, &get), Ok(Entry::Whole));
    assert_eq!(enter_with(Need::KvGet, "", &get), Err(DENIED.into()));
    let apply = |verb: kv::Verb| kv::ApplyRequest { key: "a".into(), verb: verb.into(), ..Default::default() };
    for verb in [kv::Verb::Set, kv::Verb::Cas, kv::Verb::Lock, kv::Verb::Unlock, kv::Verb::Delete, kv::Verb::DeleteCas]
    {
        assert_eq!(enter_with(Need::KvApply, read, &apply(verb)), Err(DENIED.into()));
        assert_eq!(enter_with(Need::KvApply, "key \"a\" { policy = \"write\" }", &apply(verb)), Ok(Entry::Whole));
    }
    let tree = apply(kv::Verb::DeleteTree);
    assert_eq!(enter_with(Need::KvApply, "key \"a\" { policy = \"write\" }", &tree), Err(DENIED.into()));
    assert_eq!(enter_with(Need::KvApply, "key_prefix \"a\" { policy = \"write\" }", &tree), Ok(Entry::Whole));
    // Lists need no more than to be filtered, but where the configuration wants `list`.
    let list = body(&kv::ListRequest { prefix: "a".into() });
    let reads = who("key_prefix \"a\" { policy = \"read\" }");
    assert_eq!(enter(Need::KvList, &reads, &list, &state(), false).unwrap(), Entry::Part(Sees::Entries));
    assert!(enter(Need::KvList, &reads, &list, &state(), true).is_err());
    let lists = who("key_prefix \"a\" { policy = \"list\" }");
    assert!(enter(Need::KvList, &lists, &list, &state(), true).is_ok());
    let entry = |key: &str| KvEntry { key: key.into(), ..KvEntry::default() };
    let answer = ListReply { entries: vec![entry("a"), entry("b")] }.encode_to_vec();
    let (seen, less) = leave(Sees::Entries, &reads, answer.into()).unwrap();
    assert_eq!((ListReply::decode(seen).unwrap().entries.len(), less), (1, true));
}

#[test]
fn registrations() {
    let of = |n: Node, s: Option<Service>, checks: Vec<Check>| RegisterRequest {
        node: Some(n),
        service: s,
        checks,
        skip_node_update: false,
    };
    let check = |id: &str, service: &str| Check { id: id.into(), service_id: service.into(), ..Check::default() };
    let (web, both) = (
        "service \"web\" { policy = \"write\" }",
        "service_prefix \"\" { policy = \"write\" } node_prefix \"\" { policy = \"write\" }",
    );
    let moved = Node { address: "1.1.1.1".into(), ..node("n") };
    for (request, rules, allowed) in [
        (of(node("n"), Some(service("w", "web")), vec![]), web, true),
        (of(node("new"), Some(service("w", "web")), vec![]), web, false),
        (of(moved.clone(), Some(service("w", "web")), vec![]), web, false),
        (of(moved, Some(service("w", "web")), vec![]), both, true),
        (of(node("n"), Some(service("w2", "db")), vec![]), web, false),
        // Another service's ID is not taken over.
        (of(node("n"), Some(service("w", "db")), vec![]), "service \"db\" { policy = \"write\" }", false),
        (of(node("n"), Some(service("w", "web")), vec![check("x", "w")]), web, true),
        (of(node("n"), Some(service("w", "web")), vec![check("x", "")]), web, false),
        (of(node("n"), None, vec![check("x", "w")]), web, true),
        (of(node("n"), None, vec![check("x", "gone")]), both, false),
        (of(node("n"), None, vec![check("x", "")]), "node \"n\" { policy = \"write\" }", true),
    ] {
        assert_eq!(enter_with(Need::Register, rules, &request).is_ok(), allowed, "{rules} {request:?}");
    }
    let off = |service: &str, check: &str| DeregisterRequest {
        node: "n".into(),
        service_id: service.into(),
        check_id: check.into(),
    };
    assert_eq!(enter_with(Need::Deregister, web, &off("w", "")), Ok(Entry::Whole));
    assert_eq!(enter_with(Need::Deregister, web, &off("x", "")), Err("Unknown service 'x'".into()));
    assert_eq!(enter_with(Need::Deregister, web, &off("", "c")), Err(DENIED.into()));
    assert_eq!(enter_with(Need::Deregister, web, &off("", "")), Err(DENIED.into()));
    assert_eq!(enter_with(Need::Deregister, "node \"n\" { policy = \"write\" }", &off("", "")), Ok(Entry::Whole));
}

#[test]
fn transactions_say_which_operation_is_refused() {
    use causeway_proto::txn::{KvOp, Op};
    let kv = |verb: &str, key: &str| Op {
        op: Some(op::Op::Kv(KvOp {
            verb: verb.into(),
            entry: Some(KvEntry { key: key.into(), ..KvEntry::default() }),
        })),
    };
    let rules = "key_prefix \"a\" { policy = \"write\" } key \"r\" { policy = \"read\" }";
    let ops = vec![kv("set", "a"), kv("set", "r"), kv("get", "x"), kv("check-index", "x"), kv("delete-tree", "")];
    let Ok(Entry::Answer(answer)) = enter_with(Need::Txn, rules, &TxnRequest { ops }) else { panic!() };
    let reply: TxnReply = message(&answer).unwrap();
    let refused: Vec<_> = reply.errors.iter().map(|e| (e.op_index, e.what.as_str())).collect();
    assert_eq!(refused, [(1, DENIED), (3, DENIED), (4, DENIED)]);
    let fine = vec![kv("set", "a/b"), kv("check-index", "r")];
    assert_eq!(enter_with(Need::Txn, rules, &TxnRequest { ops: fine }), Ok(Entry::Part(Sees::Txn)));
}

#[test]
fn answers_lose_what_may_not_be_seen_and_say_so() {
    let rules = who("node_prefix \"\" { policy = \"read\" } service \"web\" { policy = \"read\" }");
    let instance = |name: &str| ServiceNode { node: Some(node("n")), service: Some(service(name, name)) };
    let all = ServiceNodesReply { instances: vec![instance("web"), instance("db")] }.encode_to_vec();
    let (seen, less) = leave(Sees::ServiceNodes, &rules, all.clone().into()).unwrap();
    let seen = ServiceNodesReply::decode(seen).unwrap();
    assert_eq!((seen.instances.len(), less), (1, true));
    let (same, less) = leave(Sees::ServiceNodes, &rules, seen.encode_to_vec().into()).unwrap();
    assert_eq!((same.as_ref(), less), (seen.encode_to_vec().as_slice(), false));
    // A service alone is not enough: its node must be seen, too.
    let (none, less) = leave(Sees::ServiceNodes, &who("service \"web\" { policy = \"read\" }"), all.into()).unwrap();
    assert_eq!((none.len(), less), (0, true));
    let event = |change| ViewEvent { change: Some(change), ..ViewEvent::default() };
    let names = NamesChange { upsert: vec!["web".into(), "db".into()], remove: vec!["db".into()] };
    let (seen, less) = leave(Sees::View, &rules, event(Change::Names(names)).encode_to_vec().into()).unwrap();
    let Some(Change::Names(seen)) = ViewEvent::decode(seen).unwrap().change else { panic!() };
    assert_eq!((seen.upsert, seen.remove, less), (vec!["web".to_owned()], vec![], true));
    let of_node = event(Change::Node(NodeChange { node: Some(node("n")) })).encode_to_vec();
    let (seen, _) = leave(Sees::View, &who(""), of_node.into()).unwrap();
    let Some(Change::Node(seen)) = ViewEvent::decode(seen).unwrap().change else { panic!() };
    assert_eq!(seen.node, None);
    let health = ServiceHealthChange {
        upsert: vec![causeway_proto::catalog::ServiceHealth {
            node: Some(node("n")),
            service: Some(service("d", "db")),
            ..Default::default()
        }],
        remove: vec![],
    };
    let (seen, less) = leave(Sees::View, &rules, event(Change::ServiceHealth(health)).encode_to_vec().into()).unwrap();
    let Some(Change::ServiceHealth(seen)) = ViewEvent::decode(seen).unwrap().change else { panic!() };
    assert!(seen.upsert.is_empty() && less);
}

#[test]
fn secrets_are_for_who_may_write() {
    use causeway_proto::acl::{Item, Token};
    let token = Token { accessor_id: "a".into(), secret_id: "secret".into(), ..Token::default() };
    let all = ItemsReply { items: vec![Item { item: Some(Of::Token(token)) }], redacted: false };
    let entry = enter_with(Need::Acl(Access::Read), "acl = \"read\"", &kv::GetRequest::default());
    assert_eq!(entry, Ok(Entry::Part(Sees::Tokens)));
    assert_eq!(refine("/causeway.acl.v1.Acl/Get", entry.unwrap()), Entry::Part(Sees::Token));
    let (seen, _) = leave(Sees::Tokens, &who("acl = \"read\""), all.encode_to_vec().into()).unwrap();
    let seen = ItemsReply::decode(seen).unwrap();
    assert!(seen.redacted && matches!(&seen.items[0].item, Some(Of::Token(t)) if t.secret_id == HIDDEN));
    assert!(enter_with(Need::Acl(Access::Write), "acl = \"read\"", &kv::GetRequest::default()).is_err());
    assert!(enter_with(Need::Acl(Access::Read), "operator = \"write\"", &kv::GetRequest::default()).is_err());
}
