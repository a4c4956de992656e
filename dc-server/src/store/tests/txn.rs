use causeway_proto::kv::Entry;
use causeway_proto::txn::{self, CheckOp, KvOp, NodeOp, ServiceOp, SessionOp, TxnReply, TxnRequest, op, result};

use super::*;

fn kv_op(verb: &str, key: &str, index: u64, session: &str) -> txn::Op {
    let entry = Entry {
        key: key.into(),
        value: b"v".to_vec(),
        modify_index: index,
        session: session.into(),
        ..Entry::default()
    };
    txn::Op { op: Some(op::Op::Kv(KvOp { verb: verb.into(), entry: Some(entry) })) }
}

fn node_op(verb: &str, name: &str, modify_index: u64) -> txn::Op {
    let node = Some(Node { modify_index, ..node(name) });
    txn::Op { op: Some(op::Op::Node(NodeOp { verb: verb.into(), node })) }
}

fn service_op(verb: &str, node: &str, id: &str, modify_index: u64) -> txn::Op {
    let service = Some(Service { modify_index, ..service(id, id, &[]) });
    txn::Op { op: Some(op::Op::Service(ServiceOp { verb: verb.into(), node: node.into(), service })) }
}

fn check_op(verb: &str, node: &str, id: &str, modify_index: u64) -> txn::Op {
    let check = Some(Check { node: node.into(), modify_index, ..check(id, "", "passing") });
    txn::Op { op: Some(op::Op::Check(CheckOp { verb: verb.into(), check })) }
}

fn apply(log: &mut Log, ops: Vec<txn::Op>) -> TxnReply {
    let before = log.state();
    let applied = log.apply(command::Command::Txn(TxnRequest { ops }));
    let reply = applied.outcome.txn.unwrap();
    assert_eq!(applied.outcome.done, reply.errors.is_empty());
    assert_eq!(applied.outcome.error, "");
    if !reply.errors.is_empty() {
        let mut after = log.state().as_ref().clone();
        after.index = before.index;
        assert_eq!(bytes(&after), bytes(&before), "all or nothing");
        assert!(reply.results.is_empty());
    }
    reply
}

fn setup() -> Log {
    let mut log = Log::new();
    log.ok(register(node("n"), Some(service("s", "s", &[])), vec![check("c", "", "passing")]));
    log.kv(kv(Verb::Set, "l", "v"));
    log
}

#[test]
fn errors_read_as_consuls() {
    let id = uuid(9);
    let table = [
        (kv_op("cas", "k", 3, ""), "failed to set key \"k\", index is stale"),
        (kv_op("lock", "k", 0, &id), "invalid session \"00000009-0000-4000-8000-000000000000\""),
        (kv_op("lock", "k", 0, ""), "missing session"),
        (kv_op("unlock", "l", 0, &id), "failed to unlock key \"l\", lock isn't held, or is held by another session"),
        (kv_op("get", "k", 0, ""), "key \"k\" doesn't exist"),
        (kv_op("check-index", "k", 3, ""), "failed to check index, key \"k\" doesn't exist"),
        (kv_op("check-index", "l", 3, ""), "failed index check for key \"l\", current modify index 2 != 3"),
        (kv_op("check-session", "k", 0, &id), "failed to check session, key \"k\" doesn't exist"),
        (
            kv_op("check-session", "l", 0, &id),
            "failed session check for key \"l\", current session \"\" != \"00000009-0000-4000-8000-000000000000\"",
        ),
        (kv_op("check-not-exists", "l", 0, ""), "key \"l\" exists"),
        (kv_op("delete-cas", "l", 3, ""), "failed to delete key \"l\", index is stale"),
        (kv_op("bogus", "l", 0, ""), "unknown KV verb \"bogus\""),
        (kv_op("set", "", 0, ""), "Must provide key"),
        (node_op("get", "n7", 0), "node \"n7\" doesn't exist"),
        (node_op("cas", "n7", 3), "failed to set node \"n7\", index is stale"),
        (node_op("delete-cas", "n7", 3), "failed to delete node \"n7\", index is stale"),
        (node_op("bogus", "n7", 0), "unknown Node verb \"bogus\""),
        (node_op("set", "", 0), "Must provide node"),
        (service_op("get", "n", "i7", 0), "service \"i7\" on node \"n\" doesn't exist"),
        (service_op("cas", "n", "i7", 3), "failed to set service \"i7\" on node \"n\", index is stale"),
        (service_op("delete-cas", "n", "i7", 3), "failed to delete service \"i7\" on node \"n\", index is stale"),
        (service_op("bogus", "n", "i7", 0), "unknown Service verb \"bogus\""),
        (service_op("set", "nx", "i7", 0), "Missing node registration"),
        (check_op("get", "n", "c7", 0), "check \"c7\" on node \"n\" doesn't exist"),
        (check_op("cas", "n", "c7", 3), "failed to set check \"c7\" on node \"n\", index is stale"),
        (check_op("delete-cas", "n", "c7", 3), "failed to delete check \"c7\" on node \"n\", index is stale"),
        (check_op("bogus", "n", "c7", 0), "unknown Check verb \"bogus\""),
        (check_op("set", "nx", "c7", 0), "Missing node registration"),
    ];
    for (op, text) in table {
        let mut log = setup();
        // Behind an operation that would do, so that going back is seen.
        let reply = apply(&mut log, vec![kv_op("set", "first", 0, ""), op]);
        let errors: Vec<_> = reply.errors.iter().map(|e| (e.op_index, e.what.as_str())).collect();
        assert_eq!(errors, [(1, text)]);
    }
}

#[test]
fn every_error_is_named() {
    let reply =
        apply(&mut setup(), vec![kv_op("get", "gone", 0, ""), kv_op("bogus", "a", 0, ""), kv_op("set", "ok", 0, "")]);
    assert_eq!(reply.errors.iter().map(|e| e.op_index).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn results() {
    let mut log = setup();
    log.ok(command::Command::SessionCreate(session(&uuid(1), "n")));
    let reply = apply(
        &mut log,
        vec![
            kv_op("set", "k", 0, "ignored"),
            kv_op("get", "k", 0, ""),
            kv_op("get-tree", "k", 0, ""),
            kv_op("get-or-empty", "none", 0, ""),
            kv_op("check-not-exists", "none", 0, ""),
            kv_op("lock", "m", 0, &uuid(1)),
            kv_op("check-session", "m", 0, &uuid(1)),
            kv_op("unlock", "m", 0, &uuid(1)),
            kv_op("delete", "l", 0, ""),
            kv_op("delete-tree", "m", 0, ""),
        ],
    );
    assert_eq!(reply.errors, []);
    let seen: Vec<_> = reply
        .results
        .iter()
        .map(|r| match r.result.as_ref() {
            Some(result::Result::Kv(e)) => (e.key.as_str(), e.value.len(), e.lock_index, e.session.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    let id = uuid(1);
    assert_eq!(
        seen,
        [
            ("k", 0, 0, ""),
            ("k", 1, 0, ""),
            ("k", 1, 0, ""),
            ("none", 0, 0, ""),
            ("m", 0, 1, id.as_str()),
            ("m", 0, 1, id.as_str()),
            ("m", 0, 1, ""),
        ]
    );
    assert!(log.state().kv_get("l").0.is_none() && log.state().kv_get("m").0.is_none());
}

#[test]
fn the_catalog_in_a_transaction() {
    let mut log = setup();
    let reply = apply(
        &mut log,
        vec![
            node_op("set", "n8", 0),
            service_op("set", "n8", "s8", 0),
            check_op("set", "n8", "c8", 0),
            service_op("get", "n8", "s8", 0),
            node_op("cas", "n", 1),
        ],
    );
    assert_eq!((reply.errors.len(), reply.results.len()), (0, 5));
    assert_eq!(log.state().service_health("s8", &[], &any()).0[0].checks.len(), 1);
    let index = log.index;
    let reply = apply(
        &mut log,
        vec![
            check_op("delete-cas", "n8", "c8", index),
            service_op("delete", "n8", "s8", 0),
            node_op("delete-cas", "n8", index),
            node_op("delete", "n", 0),
        ],
    );
    assert_eq!((reply.errors.len(), reply.results.len()), (0, 0));
    assert!(log.state().nodes(&any()).0.is_empty());
}

#[test]
fn a_session_ends_in_a_transaction() {
    let mut log = setup();
    log.ok(command::Command::SessionCreate(session(&uuid(1), "n")));
    let delete = |id: &str| txn::Op { op: Some(op::Op::Session(SessionOp { verb: "delete".into(), id: id.into() })) };
    assert_eq!(apply(&mut log, vec![delete(&uuid(1))]).errors, []);
    assert!(log.state().session(&uuid(1)).0.is_none());
    assert_eq!(apply(&mut log, vec![delete("zz")]).errors.len(), 1);
}

#[test]
fn reading_only() {
    let log = setup();
    let before = bytes(&log.state());
    let read = |ops| log.state().txn_read(&TxnRequest { ops });
    assert_eq!(read(vec![kv_op("get", "l", 0, ""), node_op("get", "n", 0)]).results.len(), 2);
    assert_eq!(read(vec![kv_op("bogus", "l", 0, "")]).errors[0].what, "unknown KV verb \"bogus\"");
    for op in [kv_op("set", "l", 0, ""), node_op("delete", "n", 0), service_op("cas", "n", "s", 0)] {
        assert!(read(vec![op]).errors[0].what.contains("writes"));
    }
    assert_eq!(bytes(&log.state()), before);
}
