//! What a site's rights mean for each method: what of a request is let through, and what of its answer. Pure.
//!
//! What is not exported answers as if it were not there where Consul with an ACL does so (services, nodes, checks, lists of them), and
//! "Permission denied" where Consul does (keys, sessions, writes). Neither depends on whether it exists. A list of keys is given
//! whole or not at all: who copies a prefix must not take keys that it may not see for deleted.

use bytes::{BufMut, Bytes, BytesMut};
use causeway_proto::catalog::{InventoryReply, NodeServicesReply, NodesReply, ServiceNodesRequest, ServicesReply};
use causeway_proto::health::{ChecksReply, ServiceChecksRequest, ServiceHealthRequest};
use causeway_proto::kv;
use causeway_proto::query::{ExecuteRemoteRequest, ExecuteReply, ExplainReply, PreparedQuery, QueriesReply};
use causeway_proto::rejection::Reason;
use causeway_proto::txn::{TxnRequest, op};
use causeway_proto::view::view_event::Change;
use causeway_proto::view::{SubscribeRequest, TopicKind, ViewEvent};
use prost::Message;
use tonic::Status;

use super::policy::{Family, Op, Rights};
use crate::store::State;

/// A name that no service and no node has: it is asked for instead of one that is not exported.
pub const ABSENT: &str = "\u{1}not exported";
/// Consul's text.
const DENIED: &str = "Permission denied";
/// Bytes before a message: whether it is compressed, its length.
const PREFIX: usize = 5;

/// How a method is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Every service must be granted: it concerns the catalog as a whole.
    Catalog(Op),
    /// A list of nodes, of services, the services of a node, checks: what is not exported is left out.
    Filtered(Filter),
    /// About the service that the request names in its first field.
    ServiceNodes,
    ServiceHealth,
    ServiceChecks,
    KvApply,
    KvGet,
    KvList,
    KvKeys,
    ExecuteRemote,
    Sessions(Op),
    /// Every service must be granted, to be written: an event may set off anything on any node.
    Event,
    Status,
    /// The whole state, and the servers themselves: everything must be granted.
    Everything,
    Open,
    Txn,
    View,
}

/// What is left out of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Nothing.
    Whole,
    /// Nodes without an exported service.
    Nodes,
    /// Nodes without an exported service, and on the others services that are not exported and their checks.
    Inventory,
    /// Services that are not exported.
    Services,
    /// The node, or its services that are not exported.
    NodeServices,
    /// Checks of what is not exported.
    Checks,
    /// Prepared queries for what is not exported.
    Queries,
    /// The answer, where it is about a service that is not exported.
    Execute,
    /// The same.
    Explain,
    /// Names of services, in a view.
    Names,
}

/// The rule of a method; a method without one is refused to every other site.
fn rule(path: &str) -> Option<(Family, Rule)> {
    let (service, name) = path.strip_prefix("/causeway.")?.split_once(".v1.")?;
    let family = Family::parse(service)?;
    let rule = match (family, name) {
        // Whoever shows a token may be told what it is.
        (Family::Acl, "Acl/Resolve" | "Acl/Own") => Rule::Open,
        (Family::Acl, "Acl/Delete" | "Acl/Get" | "Acl/List" | "Acl/Replication" | "Acl/Set") => Rule::Everything,
        (Family::Catalog, "Catalog/Register" | "Catalog/Deregister") => Rule::Catalog(Op::Write),
        (Family::Catalog, "Catalog/Inventory") => Rule::Filtered(Filter::Inventory),
        (Family::Catalog, "Catalog/ListNodes") => Rule::Filtered(Filter::Nodes),
        (Family::Catalog, "Catalog/ListServices") => Rule::Filtered(Filter::Services),
        (Family::Catalog, "Catalog/NodeServices") => Rule::Filtered(Filter::NodeServices),
        (Family::Catalog, "Catalog/ServiceNodes") => Rule::ServiceNodes,
        // They hold for the whole federation.
        (Family::Config, "Config/Apply") => Rule::Catalog(Op::Write),
        (Family::Config, "Config/List") => Rule::Status,
        (Family::Coordinate, "Coordinates/ListNodes" | "Coordinates/Node") => Rule::Catalog(Op::Read),
        (Family::Coordinate, "Coordinates/Update") => Rule::Catalog(Op::Write),
        (Family::Event, "Events/Fire") => Rule::Event,
        (Family::Keyring, "Keyrings/Operate") => Rule::Everything,
        (Family::Health, "Health/ChecksInState" | "Health/NodeChecks") => Rule::Filtered(Filter::Checks),
        (Family::Health, "Health/ServiceHealth") => Rule::ServiceHealth,
        (Family::Health, "Health/ServiceChecks") => Rule::ServiceChecks,
        (Family::Kv, "Kv/Apply") => Rule::KvApply,
        (Family::Kv, "Kv/Get") => Rule::KvGet,
        (Family::Kv, "Kv/List") => Rule::KvList,
        (Family::Kv, "Kv/Keys") => Rule::KvKeys,
        (Family::Operator, "Operator/GetAutopilot" | "Operator/Health" | "Operator/Usage") => Rule::Status,
        (Family::Operator, "Operator/RemovePeer" | "Operator/SetAutopilot" | "Operator/TransferLeader") => {
            Rule::Everything
        }
        (Family::Query, "Queries/Apply") => Rule::Catalog(Op::Write),
        (Family::Query, "Queries/Execute") => Rule::Filtered(Filter::Execute),
        (Family::Query, "Queries/ExecuteRemote") => Rule::ExecuteRemote,
        (Family::Query, "Queries/Explain") => Rule::Filtered(Filter::Explain),
        (Family::Query, "Queries/Get" | "Queries/List") => Rule::Filtered(Filter::Queries),
        (Family::Session, "Sessions/Create" | "Sessions/Destroy" | "Sessions/Renew") => Rule::Sessions(Op::Write),
        (Family::Session, "Sessions/Get" | "Sessions/List") => Rule::Sessions(Op::Read),
        (Family::Snapshot, "Snapshots/Restore" | "Snapshots/Save") => Rule::Everything,
        // What it says of the asker only is for everybody.
        (Family::Status, "Status/Exports") => Rule::Open,
        (Family::Status, "Status/Leader" | "Status/Peers" | "Status/RaftConfiguration" | "Status/Replication") => {
            Rule::Status
        }
        (Family::Txn, "Txn/Apply" | "Txn/Read") => Rule::Txn,
        (Family::View, "Views/Subscribe") => Rule::View,
        _ => return None,
    };
    Some((family, rule))
}

/// A request that may go in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The request's body; other than it came where it asks for what is not exported.
    pub body: Bytes,
    /// What is left out of the answer.
    pub filter: Filter,
    /// The family, for the filter.
    pub family: Family,
    /// For a view of a node: its name, which may come to be exported or cease to be.
    pub node: Option<String>,
}

fn denied(what: &str) -> Status {
    Reason::Denied.status(format!("{DENIED}: {what} is not exported to the datacenter that asks"))
}

/// The one message of a body.
pub(crate) fn message<M: Message + Default>(body: &Bytes) -> Result<M, Status> {
    let unreadable = || Reason::Invalid.status("the request cannot be read");
    if body.first() != Some(&0) {
        return Err(unreadable());
    }
    M::decode(body.get(PREFIX..).ok_or_else(unreadable)?).map_err(|_| unreadable())
}

/// A body of one message.
pub fn body(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    // Fails only where there is too little room.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Whether a node has a service that is exported.
pub fn sees_node(state: &State, rights: &Rights, family: Family, name: &str) -> bool {
    rights.services(family, Op::Read)
        || state.node(name).is_some_and(|row| row.services().any(|s| rights.service(family, Op::Read, &s.name)))
}

/// Whether a request may go in, and how.
pub fn enter(path: &str, rights: &Rights, request: &Bytes, state: &State) -> Result<Admitted, Status> {
    let Some((family, rule)) = rule(path) else { return Err(denied("this method")) };
    let (mut filter, mut changed, mut node) = (Filter::Whole, None, None);
    if !rights.is_everything() {
        match rule {
            Rule::Open => {}
            Rule::Everything => {
                return Err(denied(match family {
                    Family::Operator => "changing the servers",
                    Family::Keyring => "the keyring of gossip",
                    Family::Acl => "the access control",
                    _ => "the whole state",
                }));
            }
            Rule::Status if rights.any(family, Op::Read) => {}
            Rule::Status => return Err(denied("what servers say of themselves")),
            Rule::Catalog(op) if rights.services(family, op) => {}
            Rule::Catalog(_) => return Err(denied("changing the catalog or its queries")),
            Rule::Sessions(op) if rights.sessions(family, op) => {}
            Rule::Sessions(_) => return Err(denied("what this does with sessions")),
            Rule::Event if rights.services(family, Op::Write) => {}
            Rule::Event => return Err(denied("firing events")),
            Rule::Filtered(what) => filter = what,
            Rule::ServiceNodes => {
                let asked: ServiceNodesRequest = message(request)?;
                if !asked.service.is_empty() && !rights.service(family, Op::Read, &asked.service) {
                    changed = Some(body(&ServiceNodesRequest { service: ABSENT.to_owned(), ..asked }));
                }
            }
            Rule::ServiceHealth => {
                let asked: ServiceHealthRequest = message(request)?;
                if !asked.service.is_empty() && !rights.service(family, Op::Read, &asked.service) {
                    changed = Some(body(&ServiceHealthRequest { service: ABSENT.to_owned(), ..asked }));
                }
            }
            Rule::ServiceChecks => {
                let asked: ServiceChecksRequest = message(request)?;
                if !asked.service.is_empty() && !rights.service(family, Op::Read, &asked.service) {
                    changed = Some(body(&ServiceChecksRequest { service: ABSENT.to_owned(), ..asked }));
                }
            }
            Rule::KvApply => may_key(rights, family, Op::Write, &message::<kv::ApplyRequest>(request)?.key)?,
            Rule::KvGet => may_key(rights, family, Op::Read, &message::<kv::GetRequest>(request)?.key)?,
            Rule::KvList => may_key(rights, family, Op::Read, &message::<kv::ListRequest>(request)?.prefix)?,
            Rule::KvKeys => may_key(rights, family, Op::Read, &message::<kv::KeysRequest>(request)?.prefix)?,
            Rule::ExecuteRemote => {
                let mut asked: ExecuteRemoteRequest = message(request)?;
                if let Some(service) = asked.query.as_mut().and_then(|q| q.service.as_mut())
                    && !rights.service(family, Op::Read, &service.service)
                {
                    ABSENT.clone_into(&mut service.service);
                    changed = Some(body(&asked));
                }
            }
            Rule::Txn => message::<TxnRequest>(request)?.ops.iter().try_for_each(|op| may_op(rights, family, op))?,
            Rule::View => {
                let asked: SubscribeRequest = message(request)?;
                let seen = match asked.kind() {
                    TopicKind::ServiceHealth => rights.service(family, Op::Read, &asked.key),
                    TopicKind::Node => {
                        node = Some(asked.key.clone());
                        sees_node(state, rights, family, &asked.key)
                    }
                    TopicKind::ServiceNames => {
                        filter = Filter::Names;
                        true
                    }
                    TopicKind::Unspecified => return Err(denied("this kind of view")),
                };
                if !seen && !asked.key.is_empty() {
                    changed = Some(body(&SubscribeRequest { key: ABSENT.to_owned(), ..asked }));
                }
            }
        }
    }
    Ok(Admitted { body: changed.unwrap_or_else(|| request.clone()), filter, family, node })
}

fn may_key(rights: &Rights, family: Family, op: Op, key: &str) -> Result<(), Status> {
    let verb = if op == Op::Read { "reading" } else { "writing" };
    if rights.key(family, op, key) { Ok(()) } else { Err(denied(&format!("{verb} {key:?}"))) }
}

/// One operation of a transaction. Those on the catalog and on sessions name no service, so that they need all of it.
fn may_op(rights: &Rights, family: Family, op: &causeway_proto::txn::Op) -> Result<(), Status> {
    let of = |verb: &str| if verb.starts_with("get") || verb.starts_with("check-") { Op::Read } else { Op::Write };
    let catalog = |verb: &str| {
        if rights.services(family, of(verb)) { Ok(()) } else { Err(denied("the catalog in transactions")) }
    };
    match &op.op {
        Some(op::Op::Kv(op)) => {
            may_key(rights, family, of(&op.verb), op.entry.as_ref().map_or("", |entry| entry.key.as_str()))
        }
        Some(op::Op::Node(op)) => catalog(&op.verb),
        Some(op::Op::Service(op)) => catalog(&op.verb),
        Some(op::Op::Check(op)) => catalog(&op.verb),
        Some(op::Op::Session(op)) if rights.sessions(family, of(&op.verb)) => Ok(()),
        Some(op::Op::Session(_)) => Err(denied("sessions in transactions")),
        None => Ok(()),
    }
}

fn query_is_seen(query: &PreparedQuery, rights: &Rights) -> bool {
    query.service.as_ref().is_some_and(|s| rights.service(Family::Query, Op::Read, &s.service))
}

/// What of an answer goes out. `answer`: the bytes of one of its messages, without
/// prefix.
pub fn leave(admitted: &Admitted, rights: &Rights, answer: Bytes, state: &State) -> Result<Bytes, Status> {
    let unreadable = |_| Reason::Internal.status("an answer of our own cannot be read");
    let family = admitted.family;
    let sees = |name: &str| rights.service(family, Op::Read, name);
    Ok(match admitted.filter {
        Filter::Whole => answer,
        Filter::Nodes => {
            let mut reply = NodesReply::decode(answer).map_err(unreadable)?;
            reply.nodes.retain(|node| sees_node(state, rights, family, &node.name));
            reply.encode_to_vec().into()
        }
        Filter::Inventory => {
            let mut reply = InventoryReply::decode(answer).map_err(unreadable)?;
            for node in &mut reply.nodes {
                node.services.retain(|service| sees(&service.name));
                node.checks.retain(|check| check.service_name.is_empty() || sees(&check.service_name));
            }
            let all = rights.services(family, Op::Read);
            reply.nodes.retain(|node| all || !node.services.is_empty());
            reply.encode_to_vec().into()
        }
        Filter::Services => {
            let mut reply = ServicesReply::decode(answer).map_err(unreadable)?;
            reply.services.retain(|name, _| sees(name));
            reply.encode_to_vec().into()
        }
        Filter::NodeServices => {
            let mut reply = NodeServicesReply::decode(answer).map_err(unreadable)?;
            reply.services.retain(|service| sees(&service.name));
            if reply.services.is_empty() && !rights.services(family, Op::Read) {
                reply.node = None;
            }
            reply.encode_to_vec().into()
        }
        Filter::Checks => {
            let mut reply = ChecksReply::decode(answer).map_err(unreadable)?;
            reply.checks.retain(|check| match check.service_name.as_str() {
                "" => sees_node(state, rights, family, &check.node),
                name => sees(name),
            });
            reply.encode_to_vec().into()
        }
        Filter::Queries => {
            let mut reply = QueriesReply::decode(answer).map_err(unreadable)?;
            reply.queries.retain(|query| query_is_seen(query, rights));
            reply.encode_to_vec().into()
        }
        Filter::Execute => {
            let reply = ExecuteReply::decode(answer.clone()).map_err(unreadable)?;
            if !sees(&reply.service) {
                return Err(Reason::NotFound.status("Query not found"));
            }
            answer
        }
        Filter::Explain => {
            let reply = ExplainReply::decode(answer.clone()).map_err(unreadable)?;
            if !reply.query.as_ref().is_some_and(|query| query_is_seen(query, rights)) {
                return Err(Reason::NotFound.status("Query not found"));
            }
            answer
        }
        Filter::Names => {
            let mut event = ViewEvent::decode(answer).map_err(unreadable)?;
            if let Some(Change::Names(names)) = &mut event.change {
                names.upsert.retain(|name| sees(name));
                names.remove.retain(|name| sees(name));
            }
            event.encode_to_vec().into()
        }
    })
}
