//! Transactions: all of it or nothing. Verbs, results and texts are Consul's.

use causeway_proto::catalog::{Check, Node, Service};
use causeway_proto::kv::Entry;
use causeway_proto::txn::{
    self, CheckOp, KvOp, NodeOp, OpError, ServiceOp, SessionOp, TxnReply, TxnRequest, op, result,
};

use super::state::{Refusal, State, Writer};

/// Verbs that change nothing, of any family.
const READS: [&str; 6] = ["get", "get-or-empty", "get-tree", "check-index", "check-session", "check-not-exists"];

type Results = Vec<result::Result>;

impl State {
    /// Answers a transaction that only reads. An operation that would write is refused.
    pub fn txn_read(&self, request: &TxnRequest) -> TxnReply {
        let mut errors = Vec::new();
        for (at, op) in request.ops.iter().enumerate() {
            if let Some((family, verb)) = verb(op)
                && writes(family, verb)
            {
                let what = format!("verb {verb:?} writes; send it as a write");
                errors.push(OpError { op_index: position(at), what });
            }
        }
        if !errors.is_empty() {
            return TxnReply { errors, ..TxnReply::default() };
        }
        let mut state = self.clone();
        let index = state.index;
        Writer::new(&mut state, index).txn(request)
    }
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn verb(op: &txn::Op) -> Option<(&'static str, &str)> {
    Some(match op.op.as_ref()? {
        op::Op::Kv(op) => ("KV", op.verb.as_str()),
        op::Op::Node(op) => ("Node", op.verb.as_str()),
        op::Op::Service(op) => ("Service", op.verb.as_str()),
        op::Op::Check(op) => ("Check", op.verb.as_str()),
        op::Op::Session(op) => ("Session", op.verb.as_str()),
    })
}

/// Whether a verb changes anything. Unknown ones do not: they are answered with an error wherever they come.
fn writes(family: &str, verb: &str) -> bool {
    let known = match family {
        "KV" => &["set", "cas", "lock", "unlock", "delete", "delete-tree", "delete-cas"][..],
        "Session" => &["delete"],
        _ => &["set", "cas", "delete", "delete-cas"],
    };
    known.contains(&verb) && !READS.contains(&verb)
}

impl Writer<'_> {
    /// Runs every operation, so that the reply names every one that does not hold; with any error the caller drops the changes.
    pub(super) fn txn(&mut self, request: &TxnRequest) -> TxnReply {
        let mut results = Vec::new();
        let mut errors = Vec::new();
        for (at, op) in request.ops.iter().enumerate() {
            let done = match &op.op {
                Some(op::Op::Kv(op)) => self.txn_kv(op),
                Some(op::Op::Node(op)) => self.txn_node(op),
                Some(op::Op::Service(op)) => self.txn_service(op),
                Some(op::Op::Check(op)) => self.txn_check(op),
                Some(op::Op::Session(op)) => self.txn_session(op),
                None => Err(Refusal::Op("unknown operation type".to_owned())),
            };
            match done {
                Ok(done) => results.extend(done.into_iter().map(|result| txn::Result { result: Some(result) })),
                Err(refusal) => errors.push(OpError { op_index: position(at), what: refusal.to_string() }),
            }
        }
        if !errors.is_empty() {
            results.clear();
        }
        TxnReply { results, errors, index: self.index }
    }

    fn txn_kv(&mut self, op: &KvOp) -> Result<Results, Refusal> {
        let given = op.entry.clone().unwrap_or_default();
        let key = given.key.clone();
        if key.is_empty() && op.verb != "delete-tree" {
            return Err(Refusal::Op("Must provide key".to_owned()));
        }
        let index = given.modify_index;
        // What a request says of locks and indexes is a condition at most, never content.
        let entry = Entry { lock_index: 0, create_index: 0, modify_index: 0, ..given };
        let stale = |what: &str| Refusal::Op(format!("failed to {what} key {key:?}, index is stale"));
        let found = self.state.kv.get(key.as_str()).cloned();
        match op.verb.as_str() {
            "set" => self.kv_set(entry),
            "cas" if self.kv_cas(entry.clone(), index) => {}
            "cas" => return Err(stale("set")),
            "lock" => {
                if !self.kv_lock(entry)? {
                    return Err(Refusal::Op(format!("failed to lock key {key:?}, lock is already held")));
                }
            }
            "unlock" => {
                if !self.kv_unlock(entry)? {
                    let why = "lock isn't held, or is held by another session";
                    return Err(Refusal::Op(format!("failed to unlock key {key:?}, {why}")));
                }
            }
            "get" => {
                let entry = found.ok_or_else(|| Refusal::Op(format!("key {key:?} doesn't exist")))?;
                return Ok(vec![result::Result::Kv(Entry::clone(&entry))]);
            }
            "get-or-empty" => {
                let empty = Entry { key, ..Entry::default() };
                return Ok(vec![result::Result::Kv(found.map_or(empty, |entry| Entry::clone(&entry)))]);
            }
            "get-tree" => {
                let (entries, _) = self.state.kv_list(&key);
                return Ok(entries.iter().map(|entry| result::Result::Kv(Entry::clone(entry))).collect());
            }
            "check-index" => match found {
                None => return Err(Refusal::Op(format!("failed to check index, key {key:?} doesn't exist"))),
                Some(found) if found.modify_index != index => {
                    let current = found.modify_index;
                    let text = format!("failed index check for key {key:?}, current modify index {current} != {index}");
                    return Err(Refusal::Op(text));
                }
                Some(_) => {}
            },
            "check-session" => match found {
                None => return Err(Refusal::Op(format!("failed to check session, key {key:?} doesn't exist"))),
                Some(found) if found.session != entry.session => {
                    let (current, wanted) = (&found.session, &entry.session);
                    let text =
                        format!("failed session check for key {key:?}, current session {current:?} != {wanted:?}");
                    return Err(Refusal::Op(text));
                }
                Some(_) => {}
            },
            "check-not-exists" if found.is_some() => return Err(Refusal::Op(format!("key {key:?} exists"))),
            "check-not-exists" => return Ok(Vec::new()),
            "delete" => {
                self.kv_delete(&key);
                return Ok(Vec::new());
            }
            "delete-cas" if self.kv_delete_cas(&key, index) => return Ok(Vec::new()),
            "delete-cas" => return Err(stale("delete")),
            "delete-tree" => {
                self.kv_delete_tree(&key);
                return Ok(Vec::new());
            }
            _ => return Err(unknown("KV", &op.verb)),
        }
        // Writes and checks answer with the entry, without its value.
        let after = self.state.kv.get(key.as_str()).map(|entry| Entry { value: Vec::new(), ..Entry::clone(entry) });
        Ok(after.map(result::Result::Kv).into_iter().collect())
    }

    fn txn_node(&mut self, op: &NodeOp) -> Result<Results, Refusal> {
        let node = op.node.clone().unwrap_or_default();
        let name = node.name.clone();
        let stale = |what: &str| Refusal::Op(format!("failed to {what} node {name:?}, index is stale"));
        let current = self.state.node(&name).map(|row| row.node.modify_index);
        match op.verb.as_str() {
            "get" => {
                let row = if node.id.is_empty() { self.state.node(&name) } else { self.state.node_or_id(&node.id) };
                let row = row.ok_or_else(|| Refusal::Op(format!("node {name:?} doesn't exist")))?;
                return Ok(vec![result::Result::Node(Node::clone(&row.node))]);
            }
            "set" => self.ensure_node(&node)?,
            "cas" if holds(current, node.modify_index) => self.ensure_node(&node)?,
            "cas" => return Err(stale("set")),
            "delete" => {
                self.delete_node(&name);
                return Ok(Vec::new());
            }
            "delete-cas" if current == Some(node.modify_index) => {
                self.delete_node(&name);
                return Ok(Vec::new());
            }
            "delete-cas" => return Err(stale("delete")),
            _ => return Err(unknown("Node", &op.verb)),
        }
        Ok(self.state.node(&name).map(|row| result::Result::Node(Node::clone(&row.node))).into_iter().collect())
    }

    fn txn_service(&mut self, op: &ServiceOp) -> Result<Results, Refusal> {
        let service = op.service.clone().unwrap_or_default();
        let (node, id) = (&op.node, if service.id.is_empty() { &service.name } else { &service.id }.clone());
        let find = |state: &State| state.node(node).and_then(|row| row.services.get(id.as_str())).cloned();
        let stale =
            |what: &str| Refusal::Op(format!("failed to {what} service {id:?} on node {node:?}, index is stale"));
        let current = find(self.state).map(|service| service.modify_index);
        match op.verb.as_str() {
            "get" if current.is_none() => {
                return Err(Refusal::Op(format!("service {id:?} on node {node:?} doesn't exist")));
            }
            "get" => {}
            "set" => self.ensure_service(node, &service)?,
            "cas" if holds(current, service.modify_index) => self.ensure_service(node, &service)?,
            "cas" => return Err(stale("set")),
            "delete" => {
                self.delete_service(node, &id);
                return Ok(Vec::new());
            }
            "delete-cas" if current == Some(service.modify_index) => {
                self.delete_service(node, &id);
                return Ok(Vec::new());
            }
            "delete-cas" => return Err(stale("delete")),
            _ => return Err(unknown("Service", &op.verb)),
        }
        Ok(find(self.state).map(|service| result::Result::Service(Service::clone(&service))).into_iter().collect())
    }

    fn txn_check(&mut self, op: &CheckOp) -> Result<Results, Refusal> {
        let check = op.check.clone().unwrap_or_default();
        let (node, id) = (&check.node, &check.id);
        let find = |state: &State| state.node(node).and_then(|row| row.checks.get(id.as_str())).cloned();
        let stale = |what: &str| Refusal::Op(format!("failed to {what} check {id:?} on node {node:?}, index is stale"));
        let current = find(self.state).map(|check| check.modify_index);
        match op.verb.as_str() {
            "get" if current.is_none() => {
                return Err(Refusal::Op(format!("check {id:?} on node {node:?} doesn't exist")));
            }
            "get" => {}
            "set" => self.ensure_check(node, &check)?,
            "cas" if holds(current, check.modify_index) => self.ensure_check(node, &check)?,
            "cas" => return Err(stale("set")),
            "delete" => {
                self.delete_check(node, id);
                return Ok(Vec::new());
            }
            "delete-cas" if current == Some(check.modify_index) => {
                self.delete_check(node, id);
                return Ok(Vec::new());
            }
            "delete-cas" => return Err(stale("delete")),
            _ => return Err(unknown("Check", &op.verb)),
        }
        Ok(find(self.state).map(|check| result::Result::Check(Check::clone(&check))).into_iter().collect())
    }

    fn txn_session(&mut self, op: &SessionOp) -> Result<Results, Refusal> {
        match op.verb.as_str() {
            "delete" => self.session_destroy_checked(&op.id).map(|()| Vec::new()),
            _ => Err(unknown("Session", &op.verb)),
        }
    }
}

/// The condition of "cas": index 0 asks that there be none yet.
fn holds(current: Option<u64>, index: u64) -> bool {
    current.unwrap_or(0) == index
}

fn unknown(family: &'static str, verb: &str) -> Refusal {
    Refusal::UnknownVerb { family, verb: verb.to_owned() }
}
