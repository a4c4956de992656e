//! How the catalog follows gossip: members against what is registered. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_proto::catalog::{Check, DeregisterRequest, Node, RegisterRequest, Service, Weights};
use causeway_proto::command::{Command, command};
use causeway_proto::member::{Member, MemberStatus, tag};

/// The check by which gossip speaks of a node. Consul's identifier; clients know it.
pub const SERF_HEALTH: &str = "serfHealth";
const SERF_NAME: &str = "Serf Health Status";
const ALIVE: &str = "Agent alive and reachable";
const FAILED: &str = "Agent not live or unreachable";
/// The service that servers are registered as.
const CONSUL: &str = "consul";

/// What the catalog says of one node, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// The node.
    pub node: Node,
    /// Status of its [`SERF_HEALTH`] check, where it has one.
    pub serf: Option<String>,
    /// Its service `consul`.
    pub server: Option<Service>,
}

/// What is to be written so that the catalog says of this member what gossip does; `None`: it does already.
///
/// `own`: name of this node, which is never removed by itself.
pub fn member(member: &Member, known: Option<&Known>, own: &str) -> Option<Command> {
    match member.status {
        MemberStatus::Alive => alive(member, known),
        MemberStatus::Failed => failed(member, known?),
        MemberStatus::Left if member.name != own => known.map(|known| deregister(&known.node.name)),
        MemberStatus::Left | MemberStatus::Leaving => None,
    }
}

/// Nodes that were members once and of which gossip knows nothing any more. Nodes that were registered by the catalog API alone
/// have no [`SERF_HEALTH`] check and are left alone.
pub fn vanished<'a>(members: &[Member], known: impl IntoIterator<Item = &'a Known>, own: &str) -> Vec<Command> {
    known
        .into_iter()
        .filter(|k| k.serf.is_some() && k.node.name != own)
        .filter(|k| !members.iter().any(|m| m.name.eq_ignore_ascii_case(&k.node.name)))
        .map(|k| deregister(&k.node.name))
        .collect()
}

fn alive(member: &Member, known: Option<&Known>) -> Option<Command> {
    let address = member.ip().to_string();
    let server = server(member);
    if let Some(known) = known
        && known.node.address == address
        && known.node.id == member.id()
        && known.serf.as_deref() == Some("passing")
        && same_server(known.server.as_ref(), server.as_ref())
    {
        return None;
    }
    // What the node's own agent registered of it stays; only a node that is new to the catalog gets what gossip can tell.
    let (tagged_addresses, meta) = match known {
        Some(known) if known.node.address == address => (known.node.tagged_addresses.clone(), known.node.meta.clone()),
        Some(known) => (tagged(member.ip()), known.node.meta.clone()),
        None => (
            tagged(member.ip()),
            BTreeMap::from([("consul-network-segment".to_owned(), String::new())]).into_iter().collect(),
        ),
    };
    let node = Node {
        id: member.id().to_owned(),
        name: member.name.clone(),
        address,
        tagged_addresses,
        meta,
        ..Node::default()
    };
    // The agent may register itself between this look and the write: what it says of its node is written over only where gossip
    // knows better, or it would not hear of it before its next comparison, a minute later.
    let moved = known.is_some_and(|k| k.node.address != node.address || k.node.id != node.id);
    Some(register(node, server, serf(&member.name, "passing", ALIVE), !moved))
}

fn failed(member: &Member, known: &Known) -> Option<Command> {
    if known.serf.as_deref() == Some("critical") {
        return None;
    }
    Some(register(known.node.clone(), None, serf(&member.name, "critical", FAILED), true))
}

fn server(member: &Member) -> Option<Service> {
    let port = i32::from(member.rpc_addr()?.port());
    Some(Service {
        id: CONSUL.into(),
        name: CONSUL.into(),
        port,
        meta: [("build".to_owned(), member.tag(tag::BUILD).to_owned())]
            .into_iter()
            .filter(|(_, v)| !v.is_empty())
            .collect(),
        weights: Some(Weights { passing: 1, warning: 1 }),
        ..Service::default()
    })
}

fn same_server(known: Option<&Service>, wanted: Option<&Service>) -> bool {
    match (known, wanted) {
        (_, None) => true,
        (Some(known), Some(wanted)) => known.port == wanted.port && known.meta == wanted.meta,
        (None, Some(_)) => false,
    }
}

fn tagged<M: FromIterator<(String, String)>>(ip: IpAddr) -> M {
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    ["lan".to_owned(), format!("lan_{family}"), "wan".to_owned(), format!("wan_{family}")]
        .into_iter()
        .map(|name| (name, ip.to_string()))
        .collect()
}

fn serf(node: &str, status: &str, output: &str) -> Check {
    Check {
        node: node.to_owned(),
        id: SERF_HEALTH.into(),
        name: SERF_NAME.into(),
        status: status.into(),
        output: output.into(),
        ..Check::default()
    }
}

fn register(node: Node, service: Option<Service>, check: Check, skip_node_update: bool) -> Command {
    let request = RegisterRequest { node: Some(node), service, checks: vec![check], skip_node_update };
    Command { call: None, command: Some(command::Command::Register(request)) }
}

fn deregister(node: &str) -> Command {
    let request = DeregisterRequest { node: node.to_owned(), ..DeregisterRequest::default() };
    Command { call: None, command: Some(command::Command::Deregister(request)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, status: MemberStatus, server: bool) -> Member {
        let mut tags = BTreeMap::from([(tag::ID.to_owned(), format!("id-{name}"))]);
        if server {
            tags.extend([(tag::ROLE.to_owned(), "consul".to_owned()), (tag::PORT.to_owned(), "8300".to_owned())]);
        }
        Member { name: name.into(), addr: "10.0.0.1:8301".parse().unwrap(), tags, status }
    }

    /// What the catalog says after a command.
    fn after(command: Command, known: Option<Known>) -> Option<Known> {
        match command.command.unwrap() {
            command::Command::Register(r) => {
                let mut known = known.unwrap_or_default();
                if !r.skip_node_update || known.node.name.is_empty() {
                    known.node = r.node.unwrap();
                }
                known.serf = Some(r.checks[0].status.clone());
                known.server = r.service.or(known.server);
                Some(known)
            }
            command::Command::Deregister(_) => None,
            _ => panic!("unexpected"),
        }
    }

    #[test]
    fn every_status_settles_after_one_write() {
        use MemberStatus::{Alive, Failed, Leaving, Left};
        for server in [false, true] {
            for first in [Alive, Failed, Left, Leaving] {
                for second in [Alive, Failed, Left, Leaving] {
                    let mut known = None;
                    for status in [first, second] {
                        let m = node("a", status, server);
                        if let Some(command) = member(&m, known.as_ref(), "own") {
                            known = after(command, known);
                            assert_eq!(member(&m, known.as_ref(), "own"), None, "{first:?} {second:?} at {status:?}");
                        }
                    }
                    match second {
                        Alive => assert_eq!(known.unwrap().serf.as_deref(), Some("passing")),
                        Left => assert!(known.is_none()),
                        Failed => assert!(known.is_none_or(|k| k.serf.as_deref() == Some("critical"))),
                        Leaving => {}
                    }
                }
            }
        }
    }

    #[test]
    fn a_server_is_a_service_and_a_new_port_is_written() {
        let m = node("a", MemberStatus::Alive, true);
        let known = after(member(&m, None, "own").unwrap(), None);
        assert_eq!(known.as_ref().unwrap().server.as_ref().unwrap().port, 8300);
        let mut moved = m;
        moved.tags.insert(tag::PORT.into(), "8400".into());
        assert!(member(&moved, known.as_ref(), "own").is_some());
        moved.addr = "10.0.0.2:8301".parse().unwrap();
        let known = after(member(&moved, known.as_ref(), "own").unwrap(), known).unwrap();
        assert_eq!(known.node.address, "10.0.0.2");
        assert_eq!(known.node.tagged_addresses["lan"], "10.0.0.2");
    }

    #[test]
    fn what_the_agent_registers_meanwhile_stays() {
        let a = node("a", MemberStatus::Alive, false);
        let meant = member(&a, None, "own").unwrap();
        // It was new when the leader looked; before the leader's write came its own.
        let mut own = after(member(&a, None, "own").unwrap(), None).unwrap();
        own.node.meta.insert("env".into(), "prod".into());
        own.serf = None;
        let known = after(meant, Some(own)).unwrap();
        assert_eq!((known.node.meta["env"].as_str(), known.serf.as_deref()), ("prod", Some("passing")));
        // Somewhere else than the catalog says: gossip knows better, and the rest of what the agent said stays.
        let mut moved = a;
        moved.addr = "10.0.0.2:8301".parse().unwrap();
        let known = after(member(&moved, Some(&known), "own").unwrap(), Some(known)).unwrap();
        assert_eq!((known.node.address.as_str(), known.node.meta["env"].as_str()), ("10.0.0.2", "prod"));
    }

    #[test]
    fn what_the_agent_registered_stays() {
        let m = node("a", MemberStatus::Alive, false);
        let mut known = after(member(&m, None, "own").unwrap(), None).unwrap();
        known.node.meta.insert("rack".into(), "7".into());
        known.serf = Some("critical".into());
        let known = after(member(&m, Some(&known), "own").unwrap(), Some(known)).unwrap();
        assert_eq!(known.node.meta["rack"], "7");
    }

    #[test]
    fn own_node_and_nodes_of_the_catalog_api_are_left_alone() {
        let own =
            Known { node: Node { name: "own".into(), ..Node::default() }, serf: Some("passing".into()), server: None };
        let external = Known { node: Node { name: "ext".into(), ..Node::default() }, serf: None, server: None };
        let gone = Known {
            node: Node { name: "gone".into(), ..Node::default() },
            serf: Some("critical".into()),
            server: None,
        };
        let commands = vanished(&[node("a", MemberStatus::Alive, false)], [&own, &external, &gone], "own");
        assert_eq!(commands, [deregister("gone")]);
        assert_eq!(member(&node("own", MemberStatus::Left, true), Some(&own), "own"), None);
    }
}
