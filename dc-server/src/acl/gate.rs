//! What each method needs of the caller's token, and what of an answer it may see. Pure.
//!
//! [`TABLE`] names every method; a test fails for one without a row, and at run time such a method is refused. Where Consul refuses
//! with `Permission denied`, so do we; where it leaves out what may not be seen, the answer says so in a header
//! ([`causeway_proto::meta::FILTERED`]).

use bytes::Bytes;
use causeway_proto::access::{Access, Authorizer, DENIED};
use causeway_proto::acl::item::Item as Of;
use causeway_proto::acl::{ItemReply, ItemsReply};
use causeway_proto::catalog::{
    Check, DeregisterRequest, InventoryReply, NodeServicesReply, NodesReply, RegisterRequest, ServiceNodesReply,
    ServicesReply,
};
use causeway_proto::config::{ApplyRequest as ConfigApply, EntriesReply, ListRequest as ConfigList};
use causeway_proto::coordinate::{NodeRequest, NodesReply as CoordinatesReply, UpdateRequest};
use causeway_proto::event::FireRequest;
use causeway_proto::health::{ChecksReply, ServiceHealthReply};
use causeway_proto::keyring::{OperateRequest, Verb as KeyVerb};
use causeway_proto::kv;
use causeway_proto::query::{
    ApplyRequest as QueryApply, ExecuteReply, ExecuteRequest, ExplainReply, GetRequest, PreparedQuery, QueriesReply,
};
use causeway_proto::rejection::Reason;
use causeway_proto::session::{self, SessionsReply};
use causeway_proto::txn::{OpError, Result as Done, TxnReply, TxnRequest, op, result};
use causeway_proto::view::ViewEvent;
use causeway_proto::view::view_event::Change;
use prost::Message;
use tonic::Status;

use crate::exports::gate::{body, message};
use crate::store::State;
use crate::store::query::is_template;

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it is Consul's rule, too, or it answers about the token itself, or certificates guard it.
    Open,
    /// A key to be written.
    KvApply,
    /// A key to be read.
    KvGet,
    /// A prefix to be listed; what may not be read is left out.
    KvList,
    /// The same.
    KvKeys,
    /// Each operation's own.
    Txn,
    /// The node and the services to be written.
    Register,
    /// The same.
    Deregister,
    /// A known token; the answer is filtered.
    Sees(Sees),
    /// The node to be read.
    CoordinateOf,
    /// The node to be written.
    CoordinateUpdate,
    /// The session's node to be written.
    SessionCreate,
    /// The same.
    SessionDestroy,
    /// The same.
    SessionRenew,
    /// The query's name to be written.
    QueryApply,
    /// The query's name to be read, where it has one.
    QueryGet,
    /// What the entry is about to be written.
    ConfigApply,
    /// What the entry is about to be read.
    ConfigList,
    /// Events of this name to be written.
    Event,
    /// Keys of gossip to be read or written.
    Keyring,
    /// The servers.
    Operator(Access),
    /// Everything: the access control to be written.
    Snapshot,
    /// The access control.
    Acl(Access),
}

/// What of an answer is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after the replies")]
pub enum Sees {
    Nodes,
    Services,
    ServiceNodes,
    NodeServices,
    Inventory,
    Checks,
    Health,
    Coordinates,
    Sessions,
    Entries,
    Keys,
    Queries,
    Execute,
    Explain,
    Configs,
    Txn,
    View,
    /// Secrets are for who may write.
    Tokens,
    /// The same, of one.
    Token,
}

/// Every method, by path.
pub const TABLE: &[(&str, Need)] = &[
    // Whoever comes first; the store lets it be done once.
    ("/causeway.acl.v1.Acl/Bootstrap", Need::Open),
    ("/causeway.acl.v1.Acl/Delete", Need::Acl(Access::Write)),
    ("/causeway.acl.v1.Acl/Get", Need::Acl(Access::Read)),
    ("/causeway.acl.v1.Acl/List", Need::Acl(Access::Read)),
    ("/causeway.acl.v1.Acl/Own", Need::Open),
    ("/causeway.acl.v1.Acl/Replication", Need::Open),
    ("/causeway.acl.v1.Acl/Resolve", Need::Open),
    ("/causeway.acl.v1.Acl/Set", Need::Acl(Access::Write)),
    ("/causeway.catalog.v1.Catalog/Datacenters", Need::Open),
    ("/causeway.catalog.v1.Catalog/Deregister", Need::Deregister),
    ("/causeway.catalog.v1.Catalog/Inventory", Need::Sees(Sees::Inventory)),
    ("/causeway.catalog.v1.Catalog/ListNodes", Need::Sees(Sees::Nodes)),
    ("/causeway.catalog.v1.Catalog/ListServices", Need::Sees(Sees::Services)),
    ("/causeway.catalog.v1.Catalog/NodeServices", Need::Sees(Sees::NodeServices)),
    ("/causeway.catalog.v1.Catalog/Register", Need::Register),
    ("/causeway.catalog.v1.Catalog/ServiceNodes", Need::Sees(Sees::ServiceNodes)),
    // Counts, for this site's gateways, which have no token.
    ("/causeway.catalog.v1.Catalog/Summary", Need::Open),
    ("/causeway.config.v1.Config/Apply", Need::ConfigApply),
    ("/causeway.config.v1.Config/List", Need::ConfigList),
    ("/causeway.coordinate.v1.Coordinates/Datacenters", Need::Open),
    ("/causeway.coordinate.v1.Coordinates/ListNodes", Need::Sees(Sees::Coordinates)),
    ("/causeway.coordinate.v1.Coordinates/Node", Need::CoordinateOf),
    ("/causeway.coordinate.v1.Coordinates/Update", Need::CoordinateUpdate),
    ("/causeway.event.v1.Events/Fire", Need::Event),
    ("/causeway.federation.v1.Directory/Sites", Need::Open),
    ("/causeway.federation.v1.Gossip/Echo", Need::Open),
    ("/causeway.federation.v1.Gossip/Exchange", Need::Open),
    ("/causeway.health.v1.Health/ChecksInState", Need::Sees(Sees::Checks)),
    ("/causeway.health.v1.Health/NodeChecks", Need::Sees(Sees::Checks)),
    ("/causeway.health.v1.Health/ServiceChecks", Need::Sees(Sees::Checks)),
    ("/causeway.health.v1.Health/ServiceHealth", Need::Sees(Sees::Health)),
    ("/causeway.keyring.v1.Keyrings/Operate", Need::Keyring),
    ("/causeway.kv.v1.Kv/Apply", Need::KvApply),
    ("/causeway.kv.v1.Kv/Get", Need::KvGet),
    ("/causeway.kv.v1.Kv/Keys", Need::KvKeys),
    ("/causeway.kv.v1.Kv/List", Need::KvList),
    ("/causeway.operator.v1.Operator/GetAutopilot", Need::Operator(Access::Read)),
    ("/causeway.operator.v1.Operator/Health", Need::Operator(Access::Read)),
    ("/causeway.operator.v1.Operator/RemovePeer", Need::Operator(Access::Write)),
    ("/causeway.operator.v1.Operator/SetAutopilot", Need::Operator(Access::Write)),
    ("/causeway.operator.v1.Operator/TransferLeader", Need::Operator(Access::Write)),
    ("/causeway.operator.v1.Operator/Usage", Need::Operator(Access::Read)),
    ("/causeway.query.v1.Queries/Apply", Need::QueryApply),
    ("/causeway.query.v1.Queries/Execute", Need::Sees(Sees::Execute)),
    ("/causeway.query.v1.Queries/ExecuteRemote", Need::Sees(Sees::Execute)),
    ("/causeway.query.v1.Queries/Explain", Need::Sees(Sees::Explain)),
    ("/causeway.query.v1.Queries/Get", Need::QueryGet),
    ("/causeway.query.v1.Queries/List", Need::Sees(Sees::Queries)),
    ("/causeway.raft.v1.Raft/Append", Need::Open),
    ("/causeway.raft.v1.Raft/Snapshot", Need::Open),
    ("/causeway.raft.v1.Raft/Transfer", Need::Open),
    ("/causeway.raft.v1.Raft/Vote", Need::Open),
    ("/causeway.session.v1.Sessions/Create", Need::SessionCreate),
    ("/causeway.session.v1.Sessions/Destroy", Need::SessionDestroy),
    ("/causeway.session.v1.Sessions/Get", Need::Sees(Sees::Sessions)),
    ("/causeway.session.v1.Sessions/List", Need::Sees(Sees::Sessions)),
    ("/causeway.session.v1.Sessions/Renew", Need::SessionRenew),
    // By the one port that callers without a certificate reach, too: the key of gossip is what guards it.
    ("/causeway.signing.v1.Signing/Sign", Need::Open),
    ("/causeway.snapshot.v1.Snapshots/Restore", Need::Snapshot),
    ("/causeway.snapshot.v1.Snapshots/Save", Need::Snapshot),
    // Another site is told what concerns itself; over HTTP it needs operator:read.
    ("/causeway.status.v1.Status/Exports", Need::Open),
    ("/causeway.status.v1.Status/Leader", Need::Open),
    ("/causeway.status.v1.Status/Peers", Need::Open),
    // Servers ask each other before there is a leader who would know of any token; over HTTP it needs operator:read.
    ("/causeway.status.v1.Status/RaftConfiguration", Need::Open),
    ("/causeway.status.v1.Status/Replication", Need::Operator(Access::Read)),
    ("/causeway.status.v1.Status/Stats", Need::Open),
    ("/causeway.txn.v1.Txn/Apply", Need::Txn),
    ("/causeway.txn.v1.Txn/Read", Need::Txn),
    ("/causeway.view.v1.Views/Subscribe", Need::Sees(Sees::View)),
];

/// What a method needs; `None`: it is not in the table, and so refused to everybody.
pub fn need(path: &str) -> Option<Need> {
    TABLE.binary_search_by(|(row, _)| (*row).cmp(path)).ok().map(|at| TABLE[at].1)
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It is done; all of the answer is seen.
    Whole,
    /// It is done; of the answer this is seen.
    Part(Sees),
    /// It is not done; this is the answer, one message with its prefix.
    Answer(Bytes),
}

fn denied() -> Status {
    Reason::Denied.status(DENIED)
}

fn allow(allowed: bool) -> Result<Entry, Status> {
    if allowed { Ok(Entry::Whole) } else { Err(denied()) }
}

/// Whether a request may be done.
pub fn enter(need: Need, who: &Authorizer, request: &Bytes, state: &State, lists: bool) -> Result<Entry, Status> {
    use Access::{List, Read, Write};
    match need {
        Need::Open => Ok(Entry::Whole),
        Need::Sees(sees) => Ok(Entry::Part(sees)),
        Need::KvApply => {
            let asked: kv::ApplyRequest = message(request)?;
            allow(match asked.verb() {
                kv::Verb::DeleteTree => who.key_tree(&asked.key),
                _ => who.key(&asked.key, Write),
            })
        }
        Need::KvGet => allow(who.key(&message::<kv::GetRequest>(request)?.key, Read)),
        Need::KvList => {
            allow(!lists || who.key(&message::<kv::ListRequest>(request)?.prefix, List))?;
            Ok(Entry::Part(Sees::Entries))
        }
        Need::KvKeys => {
            allow(!lists || who.key(&message::<kv::KeysRequest>(request)?.prefix, List))?;
            Ok(Entry::Part(Sees::Keys))
        }
        Need::Txn => {
            let asked: TxnRequest = message(request)?;
            let refused = asked.ops.iter().enumerate().filter(|(_, op)| !may_op(who, op, state));
            let error = |at| OpError { op_index: u32::try_from(at).unwrap_or(u32::MAX), what: DENIED.to_owned() };
            let errors: Vec<OpError> = refused.map(|(at, _)| error(at)).collect();
            if errors.is_empty() {
                return Ok(Entry::Part(Sees::Txn));
            }
            Ok(Entry::Answer(body(&TxnReply { errors, ..TxnReply::default() })))
        }
        Need::Register => register(who, &message(request)?, state),
        Need::Deregister => deregister(who, &message(request)?, state),
        Need::CoordinateOf => {
            allow(who.node(&message::<NodeRequest>(request)?.node, Read))?;
            Ok(Entry::Part(Sees::Coordinates))
        }
        Need::CoordinateUpdate => {
            let asked: UpdateRequest = message(request)?;
            allow(asked.update.is_none_or(|update| who.node(&update.node, Write)))
        }
        Need::SessionCreate => {
            let asked: session::CreateRequest = message(request)?;
            allow(asked.session.is_none_or(|session| who.session(&session.node, Write)))
        }
        Need::SessionDestroy => allow(may_session(who, &message::<session::DestroyRequest>(request)?.id, state)),
        Need::SessionRenew => allow(may_session(who, &message::<session::RenewRequest>(request)?.id, state)),
        Need::QueryApply => {
            let asked: QueryApply = message(request)?;
            let query = asked.query.unwrap_or_default();
            let old = state.query(&query.id).0;
            let may = |query: &PreparedQuery| query_name(query).is_none_or(|name| who.query(name, Write));
            allow(may(&query) && old.is_none_or(|old| may(&old)))
        }
        Need::QueryGet => {
            let asked: GetRequest = message(request)?;
            let query = state.query(&asked.id).0;
            allow(query.is_none_or(|query| query_name(&query).is_none_or(|name| who.query(name, Read))))?;
            // Who knows the ID of a query without a name may see it.
            Ok(Entry::Part(Sees::Queries))
        }
        Need::ConfigApply => {
            let entry = message::<ConfigApply>(request)?.entry.unwrap_or_default();
            allow(may_config(who, &entry.kind, &entry.name, Write))
        }
        Need::ConfigList => {
            let asked: ConfigList = message(request)?;
            let one = !asked.kind.is_empty() && !asked.name.is_empty();
            allow(!one || may_config(who, &asked.kind, &asked.name, Read))?;
            Ok(Entry::Part(Sees::Configs))
        }
        Need::Event => {
            let event = message::<FireRequest>(request)?.event.unwrap_or_default();
            allow(who.event(&event.name, Write))
        }
        Need::Keyring => {
            let asked: OperateRequest = message(request)?;
            match asked.verb() {
                KeyVerb::List if who.keyring(Read) => Ok(Entry::Whole),
                KeyVerb::List => Err(Reason::Refused.status("Reading keyring denied by ACLs")),
                _ if who.keyring(Write) => Ok(Entry::Whole),
                _ => Err(Reason::Refused.status("Modifying keyring denied due to ACLs")),
            }
        }
        Need::Operator(access) => allow(who.operator(access)),
        Need::Snapshot => allow(who.snapshot()),
        Need::Acl(access) => {
            allow(who.acl(access))?;
            // What it is about is looked at by the handler; here only secrets.
            Ok(if who.acl(Write) { Entry::Whole } else { Entry::Part(Sees::Tokens) })
        }
    }
}

/// What of an answer to `Acl/Get` is seen is another message than of `Acl/List`.
pub fn refine(path: &str, entry: Entry) -> Entry {
    match (path.rsplit('/').next(), entry) {
        (Some("Get"), Entry::Part(Sees::Tokens)) => Entry::Part(Sees::Token),
        (_, entry) => entry,
    }
}

/// A node's registration as it is: whoever changes nothing of the node need not be allowed to.
fn register(who: &Authorizer, asked: &RegisterRequest, state: &State) -> Result<Entry, Status> {
    use Access::Write;
    let node = asked.node.clone().unwrap_or_default();
    let known = state.node(&node.name);
    let same = known.as_ref().is_some_and(|row| {
        let old = row.node();
        asked.skip_node_update
            || (&old.address, &old.tagged_addresses, &old.meta) == (&node.address, &node.tagged_addresses, &node.meta)
                && (node.id.is_empty() || node.id == old.id)
    });
    if !same && !who.node(&node.name, Write) {
        return Err(denied());
    }
    let registered = |id: &str| known.as_ref().and_then(|row| row.services().find(|s| s.id == id).cloned());
    let mut own = None;
    if let Some(service) = &asked.service {
        let id = if service.id.is_empty() { service.name.as_str() } else { service.id.as_str() };
        own = Some(id);
        let other = registered(id);
        let may = who.service(&service.name, Write) && other.is_none_or(|other| who.service(&other.name, Write));
        if !may {
            return Err(denied());
        }
    }
    for check in &asked.checks {
        if !check.node.is_empty() && !check.node.eq_ignore_ascii_case(&node.name) {
            let text = format!(
                "Node '{}' for check '{}' doesn't match register request node '{}'",
                check.node, check.id, node.name
            );
            return Err(Reason::Refused.status(text));
        }
        if check.service_id.is_empty() {
            allow(who.node(&node.name, Write))?;
        } else if own != Some(check.service_id.as_str()) {
            let Some(service) = registered(&check.service_id) else {
                let text = format!("Unknown service '{}' for check '{}'", check.service_id, check.id);
                return Err(Reason::Refused.status(text));
            };
            allow(who.service(&service.name, Write))?;
        }
    }
    Ok(Entry::Whole)
}

fn deregister(who: &Authorizer, asked: &DeregisterRequest, state: &State) -> Result<Entry, Status> {
    use Access::Write;
    if who.node(&asked.node, Write) {
        return Ok(Entry::Whole);
    }
    let row = state.node(&asked.node);
    if !asked.service_id.is_empty() {
        let found = row.as_ref().and_then(|row| row.services().find(|s| s.id == asked.service_id).cloned());
        let Some(service) = found else {
            return Err(Reason::Refused.status(format!("Unknown service '{}'", asked.service_id)));
        };
        return allow(who.service(&service.name, Write));
    }
    if !asked.check_id.is_empty() {
        let found = row.as_ref().and_then(|row| row.checks().find(|c| c.id == asked.check_id).cloned());
        let Some(check) = found else {
            return Err(Reason::Refused.status(format!("Unknown check '{}'", asked.check_id)));
        };
        return allow(!check.service_name.is_empty() && who.service(&check.service_name, Write));
    }
    Err(denied())
}

fn may_session(who: &Authorizer, id: &str, state: &State) -> bool {
    // One that is not there is nobody's; the handler says so.
    state.session(id).0.is_none_or(|session| who.session(&session.node, Access::Write))
}

/// The name that rules are about; `None`: whoever knows the ID may do what it likes.
fn query_name(query: &PreparedQuery) -> Option<&str> {
    (!query.name.is_empty() || is_template(query)).then_some(query.name.as_str())
}

fn may_config(who: &Authorizer, kind: &str, name: &str, access: Access) -> bool {
    match kind {
        "proxy-defaults" | "mesh" | "exported-services" => access == Access::Read || who.operator(access),
        _ => who.service(name, access),
    }
}

fn may_op(who: &Authorizer, op: &causeway_proto::txn::Op, state: &State) -> bool {
    use Access::{Read, Write};
    let reads = |verb: &str| verb.starts_with("get");
    match &op.op {
        Some(op::Op::Kv(op)) => {
            let key = op.entry.as_ref().map_or("", |entry| entry.key.as_str());
            match op.verb.as_str() {
                // Left out of the answer.
                "get" | "get-tree" => true,
                "check-session" | "check-index" | "check-not-exists" => who.key(key, Read),
                "delete-tree" => who.key_tree(key),
                _ => who.key(key, Write),
            }
        }
        Some(op::Op::Node(op)) => reads(&op.verb) || op.node.as_ref().is_none_or(|node| who.node(&node.name, Write)),
        Some(op::Op::Service(op)) => {
            let service = op.service.clone().unwrap_or_default();
            let id = if service.id.is_empty() { &service.name } else { &service.id };
            let row = state.node(&op.node);
            let old = row.and_then(|row| row.services().find(|s| s.id == *id).map(|s| s.name.clone()));
            let named = service.name.is_empty() || who.service(&service.name, Write);
            let owned = match &old {
                Some(old) => who.service(old, Write),
                // Nothing of that name is there, and none is said: nothing can be done to it.
                None => !service.name.is_empty() || who.service(id, Write),
            };
            reads(&op.verb) || named && owned
        }
        Some(op::Op::Check(op)) => {
            let check = op.check.clone().unwrap_or_default();
            let row = state.node(&check.node);
            let service =
                |id: &str| row.as_ref().and_then(|row| row.services().find(|s| s.id == id).map(|s| s.name.clone()));
            let old = row.as_ref().and_then(|row| row.checks().find(|c| c.id == check.id).cloned());
            let may = |check: &Check, service: Option<String>| match service {
                Some(name) => who.service(&name, Write),
                None if !check.service_name.is_empty() => who.service(&check.service_name, Write),
                None => who.node(&check.node, Write),
            };
            reads(&op.verb)
                || may(&check, service(&check.service_id)) && old.is_none_or(|old| may(&old, service(&old.service_id)))
        }
        Some(op::Op::Session(op)) => reads(&op.verb) || may_session(who, &op.id, state),
        None => true,
    }
}

/// What of an answer is seen. `answer`: the bytes of one of its messages, without prefix. Whether something was left out, beside it.
pub fn leave(sees: Sees, who: &Authorizer, answer: Bytes) -> Result<(Bytes, bool), Status> {
    use Access::Read;
    let node = |name: &str| who.node(name, Read);
    let service = |name: &str| who.service(name, Read);
    let check = |check: &Check| node(&check.node) && (check.service_name.is_empty() || service(&check.service_name));
    let of_node = |of: &Option<causeway_proto::catalog::Node>| of.as_ref().is_some_and(|of| node(&of.name));
    let of_service = |of: &Option<causeway_proto::catalog::Service>| of.as_ref().is_some_and(|of| service(&of.name));
    Ok(match sees {
        Sees::Nodes => edit(answer, |reply: &mut NodesReply| retain(&mut reply.nodes, |n| node(&n.name)))?,
        Sees::Services => edit(answer, |reply: &mut ServicesReply| {
            let before = reply.services.len();
            reply.services.retain(|name, _| service(name));
            reply.services.len() != before
        })?,
        Sees::ServiceNodes => edit(answer, |reply: &mut ServiceNodesReply| {
            retain(&mut reply.instances, |i| of_node(&i.node) && of_service(&i.service))
        })?,
        Sees::NodeServices => edit(answer, |reply: &mut NodeServicesReply| {
            if reply.node.is_some() && !of_node(&reply.node) {
                *reply = NodeServicesReply::default();
                return true;
            }
            retain(&mut reply.services, |s| service(&s.name))
        })?,
        Sees::Inventory => edit(answer, |reply: &mut InventoryReply| {
            let mut left = retain(&mut reply.nodes, |n| of_node(&n.node));
            for row in &mut reply.nodes {
                left |= retain(&mut row.services, |s| service(&s.name));
                left |= retain(&mut row.checks, check);
            }
            left
        })?,
        Sees::Checks => edit(answer, |reply: &mut ChecksReply| retain(&mut reply.checks, check))?,
        Sees::Health => edit(answer, |reply: &mut ServiceHealthReply| {
            retain(&mut reply.instances, |i| of_node(&i.node) && of_service(&i.service))
        })?,
        Sees::Coordinates => edit(answer, |reply: &mut CoordinatesReply| retain(&mut reply.nodes, |n| node(&n.node)))?,
        Sees::Sessions => {
            edit(answer, |reply: &mut SessionsReply| retain(&mut reply.sessions, |s| who.session(&s.node, Read)))?
        }
        Sees::Entries => {
            edit(answer, |reply: &mut kv::ListReply| retain(&mut reply.entries, |e| who.key(&e.key, Read)))?
        }
        Sees::Keys => edit(answer, |reply: &mut kv::KeysReply| retain(&mut reply.keys, |key| who.key(key, Read)))?,
        Sees::Queries => edit(answer, |reply: &mut QueriesReply| {
            let left = retain(&mut reply.queries, |q| query_name(q).is_none_or(|name| who.query(name, Read)));
            reply.queries.iter_mut().for_each(|query| redact(who, query));
            left
        })?,
        Sees::Execute => edit(answer, |reply: &mut ExecuteReply| {
            retain(&mut reply.instances, |i| of_node(&i.node) && of_service(&i.service))
        })?,
        Sees::Explain => {
            let mut reply: ExplainReply = decode(answer)?;
            let query = reply.query.as_mut();
            if let Some(query) = query {
                if !query_name(query).is_none_or(|name| who.query(name, Read)) {
                    return Err(denied());
                }
                redact(who, query);
            }
            (reply.encode_to_vec().into(), false)
        }
        Sees::Configs => edit(answer, |reply: &mut EntriesReply| {
            retain(&mut reply.entries, |e| may_config(who, &e.kind, &e.name, Read))
        })?,
        Sees::Txn => edit(answer, |reply: &mut TxnReply| {
            retain(&mut reply.results, |Done { result }| match result {
                Some(result::Result::Kv(entry)) => who.key(&entry.key, Read),
                Some(result::Result::Node(of)) => node(&of.name),
                Some(result::Result::Service(of)) => service(&of.name),
                Some(result::Result::Check(of)) => check(of),
                None => true,
            })
        })?,
        Sees::View => edit(answer, |event: &mut ViewEvent| match &mut event.change {
            Some(Change::ServiceHealth(change)) => {
                let left = retain(&mut change.upsert, |i| of_node(&i.node) && of_service(&i.service));
                retain(&mut change.remove, |key| node(&key.node)) | left
            }
            Some(Change::Names(names)) => {
                let left = retain(&mut names.upsert, |name| service(name));
                retain(&mut names.remove, |name| service(name)) | left
            }
            Some(Change::Node(change)) if change.node.is_some() && !of_node(&change.node) => {
                change.node = None;
                true
            }
            Some(Change::Node(_) | Change::Heartbeat(_)) | None => false,
        })?,
        Sees::Tokens => edit(answer, |reply: &mut ItemsReply| {
            reply.redacted = true;
            reply.items.iter_mut().for_each(hide);
            false
        })?,
        Sees::Token => edit(answer, |reply: &mut ItemReply| {
            reply.item.iter_mut().for_each(hide);
            false
        })?,
    })
}

/// Consul's mark for what is not shown.
pub const HIDDEN: &str = "<hidden>";

fn hide(item: &mut causeway_proto::acl::Item) {
    if let Some(Of::Token(token)) = &mut item.item {
        HIDDEN.clone_into(&mut token.secret_id);
    }
}

/// The token that a query captured is for who may change the access control.
fn redact(who: &Authorizer, query: &mut PreparedQuery) {
    if !query.token.is_empty() && !who.acl(Access::Write) {
        HIDDEN.clone_into(&mut query.token);
    }
}

fn decode<M: Message + Default>(answer: Bytes) -> Result<M, Status> {
    M::decode(answer).map_err(|_| Reason::Internal.status("an answer of our own cannot be read"))
}

/// Changes a message; `change` says whether something was left out.
fn edit<M: Message + Default>(answer: Bytes, change: impl FnOnce(&mut M) -> bool) -> Result<(Bytes, bool), Status> {
    let mut reply: M = decode(answer)?;
    let left = change(&mut reply);
    Ok((reply.encode_to_vec().into(), left))
}

/// Keeps what may be seen; whether something else was there.
fn retain<T>(list: &mut Vec<T>, seen: impl Fn(&T) -> bool) -> bool {
    let before = list.len();
    list.retain(seen);
    list.len() != before
}

/// The token that a prepared query carries: it is executed with that one, whoever asks.
pub fn captured(path: &str, request: &Bytes, state: &State) -> Option<String> {
    if !path.ends_with("Queries/Execute") {
        return None;
    }
    let asked: ExecuteRequest = message(request).ok()?;
    let query = state.resolve_query(&asked.id_or_name)?;
    Some(query.token.clone()).filter(|token| !token.is_empty())
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
